/*-------------------------------------------------------------------------
 *
 * rejoin.h
 *	  Steps of a switchover that a promotion does not have: the other
 *	  replicas follow the promoted one, and this server becomes its standby.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_REJOIN_H
#define REPLICA_CTL_CORE_REJOIN_H

#include "provider/provider.h"

/* The step from which on the promoted server works on the operation. */
#define RCTL_ARRIVE_STEP "arrive"

/*
 * In the operation's state, for the promoted server: what this server will be
 * called there, and its facts as a replica (an object).
 */
#define RCTL_REJOIN_NAME "rejoin_name"
#define RCTL_REJOIN_FACTS "rejoin_facts"

/* The slot that keeps the WAL here that pg_rewind must read. */
#define RCTL_REJOIN_SLOT "replica_ctl_rejoin"

/*
 * What the first of the steps checks, one thing each; replica_explain runs
 * them in a dry run, in which they only look.
 */
extern const RctlStep rctl_rejoin_checks[];

extern void rctl_rejoin_check(RctlOp *op);
extern void rctl_rejoin_prepare(RctlOp *op);
extern void rctl_rejoin_siblings(RctlOp *op);
extern void rctl_rejoin_siblings_verify(RctlOp *op);
extern void rctl_rejoin_demote(RctlOp *op);
extern void rctl_rejoin_arrive(RctlOp *op);

/* Whether these steps made the cleanup record; undoes what it says. */
extern bool rctl_rejoin_is_record(const RctlCleanup *record);
extern void rctl_rejoin_undo(RctlOp *op, const RctlCleanup *record);

#endif							/* REPLICA_CTL_CORE_REJOIN_H */
