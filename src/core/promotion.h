/*-------------------------------------------------------------------------
 *
 * promotion.h
 *	  Steps that make a replica a primary, or let it go: the same for every
 *	  provider whose replicas can be reached by libpq.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_PROMOTION_H
#define REPLICA_CTL_CORE_PROMOTION_H

#include "provider/provider.h"

/* Type of the cleanup record of a raised fence; undo lifts it. */
#define RCTL_FENCE_RECORD "fence"

extern const RctlStep rctl_planned_promotion_steps[];
extern const RctlStep rctl_forced_promotion_steps[];
extern const RctlStep rctl_switchover_steps[];	/* with those of rejoin.h */
extern const RctlStep rctl_drill_steps[];
extern const RctlStep rctl_detach_steps[];

/* Step: writes the event of a drill, with the times that its steps have noted. */
extern void rctl_drill_report(RctlOp *op);

/* The worker's connection to its operation's replica; lives as long as the worker works on it. */
extern PGconn *rctl_promotion_conn(RctlOp *op);

#endif							/* REPLICA_CTL_CORE_PROMOTION_H */
