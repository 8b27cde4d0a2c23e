/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  Says when a replication slot becomes dangerous, and drops it if it is
 *	  told to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_WORKER_GUARD_H
#define REPLICA_CTL_WORKER_GUARD_H

#include "primary/forecast.h"

/*
 * Judges each slot, writes an event when it is worse than was said before,
 * and acts by replica_ctl.slot_action.  facts and slots have the same order;
 * what was said is noted in slots.  Called by the monitor after each sample,
 * outside a transaction, in a database that has the extension.
 */
extern void rctl_guard(const RctlSamples *samples, const RctlSlotFact *facts,
					   RctlSlotSample *slots, int nslots, const RctlWalEnd *end);

#endif							/* REPLICA_CTL_WORKER_GUARD_H */
