/*-------------------------------------------------------------------------
 *
 * inspect.c
 *	  Set-returning functions under the views, and on how the engine works.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "core/board.h"
#include "core/operation.h"
#include "core/plan.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(rctl_sql_board);
PG_FUNCTION_INFO_V1(rctl_sql_operation_edges);
PG_FUNCTION_INFO_V1(rctl_sql_providers);
PG_FUNCTION_INFO_V1(rctl_sql_steps);

/* The operations on the board; none where the library is not preloaded. */
Datum
rctl_sql_board(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlBoardEntry *entries;
	int			count;

	InitMaterializedSRF(fcinfo, 0);
	if (!rctl_board_exists())
		return (Datum) 0;
	entries = palloc(sizeof(RctlBoardEntry) * rctl_max_operations);
	count = rctl_board_read(entries);
	for (int i = 0; i < count; i++)
	{
		RctlBoardEntry *e = &entries[i];
		bool		sized = e->bytes_total > 0 || e->bytes_done > 0;
		Datum		values[] = {
			Int64GetDatum(e->operation),
			Int32GetDatum(e->pid),
			CStringGetTextDatum(e->phase),
			Int64GetDatum((int64) e->bytes_done),
			Int64GetDatum((int64) e->bytes_total),
			Float8GetDatum(e->bytes_per_second),
			Float8GetDatum(e->progress),
		};
		bool		nulls[] = {
			false,
			e->pid == 0,
			e->phase[0] == '\0',
			!sized,
			e->bytes_total == 0,
			e->bytes_per_second == 0,
			e->pid == 0,
		};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
rctl_sql_operation_edges(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < rctl_op_edge_count; i++)
	{
		Datum		values[] = {
			CStringGetTextDatum(rctl_op_state_name(rctl_op_edges[i].from)),
			CStringGetTextDatum(rctl_op_event_name(rctl_op_edges[i].event)),
			CStringGetTextDatum(rctl_op_state_name(rctl_op_edges[i].to)),
		};
		bool		nulls[lengthof(values)] = {0};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static void
put_plan(ReturnSetInfo *rsinfo, const RctlProvider *provider, const char *kind, RctlPlan plan)
{
	for (int i = 0; i < plan.count; i++)
	{
		Datum		values[] = {
			CStringGetTextDatum(provider->name),
			CStringGetTextDatum(kind),
			Int32GetDatum(i + 1),
			CStringGetTextDatum(plan.steps[i].name),
			CStringGetTextDatum(plan.steps[i].title),
			BoolGetDatum(plan.steps[i].point_of_no_return),
		};
		bool		nulls[lengthof(values)] = {0};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

Datum
rctl_sql_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlMap    *forced = rctl_map_make();

	rctl_map_set(forced, "mode", "forced");
	InitMaterializedSRF(fcinfo, 0);
	for (const RctlProvider *const *p = rctl_providers(); *p; p++)
	{
		for (int kind = 0; kind < RCTL_OP_KINDS; kind++)
			put_plan(rsinfo, *p, rctl_op_kind_name(kind), rctl_plan(*p, kind, NULL));
		put_plan(rsinfo, *p, "promote (forced)", rctl_plan(*p, RCTL_OP_PROMOTE, forced));
	}
	return (Datum) 0;
}

/* What each provider can do is what it has plans for. */
Datum
rctl_sql_providers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (const RctlProvider *const *p = rctl_providers(); *p; p++)
	{
		static const RctlOpKind kinds[] = {
			RCTL_OP_CREATE, RCTL_OP_ATTACH, RCTL_OP_DROP, RCTL_OP_REPAIR, RCTL_OP_PROMOTE,
			RCTL_OP_SWITCHOVER, RCTL_OP_DRILL, RCTL_OP_CHANGE,
		};
		Datum		values[lengthof(kinds) + 4];
		bool		nulls[lengthof(values)] = {0};
		int			n = 0;

		values[n++] = CStringGetTextDatum((*p)->name);
		values[n++] = CStringGetTextDatum((*p)->wrapper);
		for (int i = 0; i < lengthof(kinds); i++)
			values[n++] = BoolGetDatum(rctl_plan(*p, kinds[i], NULL).steps != NULL);
		values[n++] = BoolGetDatum((*p)->runs_programs);
		values[n++] = BoolGetDatum((*p)->managed != NULL);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
