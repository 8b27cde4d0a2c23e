/*-------------------------------------------------------------------------
 *
 * plan.h
 *	  The steps of an operation: the provider's, framed by the common ones.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_PLAN_H
#define REPLICA_CTL_CORE_PLAN_H

#include "provider/provider.h"

/* What a provider can do is known by its plans: a kind without steps is none. */
typedef struct RctlPlan
{
	const RctlStep *steps;		/* palloc'd, ended by a NULL name; NULL: not
								 * supported */
	int			count;
} RctlPlan;

/* arguments may be NULL: the default plan of the kind. */
extern RctlPlan rctl_plan(const RctlProvider *provider, RctlOpKind kind, const RctlMap *arguments);

/* The index of a step by name; -1 if the plan has none of that name. */
extern int	rctl_plan_find(const RctlPlan *plan, const char *step);

/* How much of the plan is done, from 0 to 1, before the step of this index. */
extern double rctl_plan_progress(const RctlPlan *plan, int step);

#endif							/* REPLICA_CTL_CORE_PLAN_H */
