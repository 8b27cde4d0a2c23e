/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  The steps of an operation: the provider's, framed by the common ones.
 *
 * Providers bring the steps that touch the place where a replica runs.  What
 * is the same everywhere (promotion, unlinking) is in core/.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "core/managed.h"
#include "core/plan.h"
#include "core/promotion.h"

/* Copies arrays that end with a NULL name (or are NULL) into one. */
static RctlPlan
join_steps(const RctlStep *first, const RctlStep *second)
{
	const RctlStep *parts[] = {first, second};
	RctlPlan	plan = {NULL, 0};
	RctlStep   *steps;
	int			total = 0;

	for (int p = 0; p < lengthof(parts); p++)
	{
		for (const RctlStep *s = parts[p]; s && s->name; s++)
			total++;
	}
	steps = palloc0(sizeof(RctlStep) * (total + 1));
	for (int p = 0; p < lengthof(parts); p++)
	{
		for (const RctlStep *s = parts[p]; s && s->name; s++)
			steps[plan.count++] = *s;
	}
	plan.steps = steps;
	return plan;
}

static RctlPlan
switchover_plan(const RctlProvider *provider)
{
	RctlPlan	none = {NULL, 0};

	if (provider->connect == NULL || provider->rejoin == NULL)
		return none;
	return join_steps(rctl_switchover_steps, NULL);
}

/* Where the provider's service promotes. */
static RctlPlan
managed_plan(const RctlManagedPromotion *managed, RctlOpKind kind, const char *mode)
{
	const RctlPlan none = {NULL, 0};

	switch (kind)
	{
		case RCTL_OP_PROMOTE:
			if (strcmp(mode, "forced") == 0)
				return join_steps(rctl_managed_forced_steps, NULL);
			return join_steps(rctl_managed_promotion_steps, NULL);
		case RCTL_OP_DRILL:
			return join_steps(rctl_managed_drill_steps, NULL);
		case RCTL_OP_SWITCHOVER:
			if (managed->source_follows)
				return join_steps(rctl_managed_promotion_steps, NULL);
			break;
		default:
			break;
	}
	return none;
}

RctlPlan
rctl_plan(const RctlProvider *provider, RctlOpKind kind, const RctlMap *arguments)
{
	const char *mode = arguments ? rctl_map_get_default(arguments, "mode", "planned") : "planned";
	const RctlPlan none = {NULL, 0};
	const RctlStep *own = NULL;

	if (provider->managed &&
		(kind == RCTL_OP_PROMOTE || kind == RCTL_OP_DRILL || kind == RCTL_OP_SWITCHOVER))
		return managed_plan(provider->managed, kind, mode);
	switch (kind)
	{
		case RCTL_OP_CREATE:
			own = provider->create;
			break;
		case RCTL_OP_ATTACH:
			own = provider->attach;
			break;
		case RCTL_OP_DROP:
			own = provider->drop;
			break;
		case RCTL_OP_REPAIR:
			own = provider->repair;
			break;
		case RCTL_OP_CHANGE:
			own = provider->change;
			break;
		case RCTL_OP_DETACH:
			return join_steps(rctl_detach_steps, NULL);
		case RCTL_OP_PROMOTE:
			if (provider->connect == NULL)
				break;
			if (strcmp(mode, "forced") == 0)
				return join_steps(rctl_forced_promotion_steps, NULL);
			if (arguments && strcmp(rctl_map_get_default(arguments, "source_after", ""), "standby") == 0)
				return switchover_plan(provider);
			return join_steps(rctl_planned_promotion_steps, NULL);
		case RCTL_OP_DRILL:
			if (provider->connect)
				return join_steps(rctl_drill_steps, NULL);
			break;
		case RCTL_OP_SWITCHOVER:
			return switchover_plan(provider);
	}
	if (own == NULL)
		return none;
	return join_steps(own, NULL);
}

int
rctl_plan_find(const RctlPlan *plan, const char *step)
{
	for (int i = 0; i < plan->count; i++)
	{
		if (strcmp(plan->steps[i].name, step) == 0)
			return i;
	}
	return -1;
}

double
rctl_plan_progress(const RctlPlan *plan, int step)
{
	int			done = 0;
	int			total = 0;

	for (int i = 0; i < plan->count; i++)
	{
		int			weight = Max(plan->steps[i].weight, 1);

		total += weight;
		if (i < step)
			done += weight;
	}
	return total > 0 ? (double) done / total : 0;
}
