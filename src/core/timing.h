/*-------------------------------------------------------------------------
 *
 * timing.h
 *	  The time-out of a promotion, and the times for its event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_TIMING_H
#define REPLICA_CTL_CORE_TIMING_H

#include "provider/provider.h"

/* A time in op->state; 0 if it was not noted. */
extern void rctl_note_time(RctlOp *op, const char *what);
extern TimestampTz rctl_noted_time(RctlOp *op, const char *what);

/* Milliseconds between two noted times, if both were. */
extern void rctl_set_elapsed(RctlOp *op, RctlMap *detail, const char *key, const char *from, const char *to);

extern long rctl_argument_ms(RctlOp *op, const char *name, const char *otherwise);

/*
 * Milliseconds left of the call's time-out, which runs from the first step and
 * bounds all that can be undone.  Raises an error when none is; waiting_for
 * (or NULL) goes into its detail.
 */
extern long rctl_time_left(RctlOp *op, const char *waiting_for);

#endif							/* REPLICA_CTL_CORE_TIMING_H */
