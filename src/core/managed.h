/*-------------------------------------------------------------------------
 *
 * managed.h
 *	  Steps of promotions that a service makes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_MANAGED_H
#define REPLICA_CTL_CORE_MANAGED_H

#include "provider/provider.h"

extern const RctlStep rctl_managed_promotion_steps[];
extern const RctlStep rctl_managed_forced_steps[];
extern const RctlStep rctl_managed_drill_steps[];

/* RctlManagedPromotion.lag, or by SQL; false if it is not known. */
extern bool rctl_managed_lag(RctlOp *op, RctlManagedLag *lag);

/* Whether the service makes the source a replica of the promoted one. */
extern bool rctl_managed_source_follows(const RctlReplica *replica);

#endif							/* REPLICA_CTL_CORE_MANAGED_H */
