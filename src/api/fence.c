/*-------------------------------------------------------------------------
 *
 * fence.c
 *	  SQL functions that fence this server, and say whether it is fenced.
 *
 * Neither raising nor lifting is transactional: a ROLLBACK changes nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "api/api.h"
#include "core/board.h"
#include "primary/fence.h"
#include "primary/lobby.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(rctl_sql_fence);
PG_FUNCTION_INFO_V1(rctl_sql_unfence);
PG_FUNCTION_INFO_V1(rctl_sql_fence_state);
PG_FUNCTION_INFO_V1(rctl_sql_hold_logins);

static void
require_preloaded(void)
{
	if (!rctl_fence_exists())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica_ctl is not loaded"),
				 errhint("Add replica_ctl to shared_preload_libraries and restart the server.")));
}

/* replica_fence(reason text, timeout interval, drain interval) returns pg_lsn; only reason may be NULL */
Datum
rctl_sql_fence(PG_FUNCTION_ARGS)
{
	RctlFenceRequest request = {0};

	require_preloaded();
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("timeout and drain must not be null")));
	if (!PG_ARGISNULL(0))
		request.reason = text_to_cstring(PG_GETARG_TEXT_PP(0));
	request.timeout_ms = rctl_api_interval_ms(PG_GETARG_INTERVAL_P(1), "timeout");
	request.drain_ms = rctl_api_interval_ms(PG_GETARG_INTERVAL_P(2), "drain");
	if (request.timeout_ms == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must be greater than 0"),
				 errhint("Give it the time that commits in flight may take, for example '10s'.")));
	PG_RETURN_LSN(rctl_fence_raise(&request));
}

/* The fence of an operation that a worker runs now is that worker's to lift. */
static void
require_not_running(int64 operation)
{
	RctlBoardEntry *entries = palloc(sizeof(RctlBoardEntry) * rctl_max_operations);
	int			count = rctl_board_read(entries);

	for (int i = 0; i < count; i++)
	{
		if (entries[i].operation == operation)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("the fence belongs to operation " INT64_FORMAT ", which is running", operation),
					 errhint("Stop it with SELECT replica_cancel(" INT64_FORMAT "), which lifts the fence"
							 " unless its replica is a primary already.", operation)));
	}
}

/* replica_unfence() returns void */
Datum
rctl_sql_unfence(PG_FUNCTION_ARGS)
{
	RctlFenceState state;

	require_preloaded();
	rctl_fence_get(&state);
	if (state.phase == RCTL_FENCE_DOWN)
		ereport(NOTICE,
				(errmsg("this server is not fenced")));
	if (state.operation != 0)
		require_not_running(state.operation);
	if (state.phase == RCTL_FENCE_PROMOTED)
		ereport(WARNING,
				(state.promoted_timeline != 0 ?
				 errmsg("replica \"%s\" was promoted in place of this server, and both accept writes now", state.replica) :
				 errmsg("replica \"%s\" may have been promoted in place of this server, which accepts writes now", state.replica),
				 errdetail("From here on each has data that the other one lacks.")));
	(void) rctl_fence_lift(state.operation);
	PG_RETURN_VOID();
}

static const char *
phase_name(RctlFencePhase phase)
{
	static const char *const names[] = {"down", "draining", "up", "promoted"};

	return names[phase];
}

/* One row, whether there is a fence or not. */
Datum
rctl_sql_fence_state(PG_FUNCTION_ARGS)
{
	RctlFenceState state;
	TupleDesc	tupdesc;
	bool		promoted;
	bool		down;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	rctl_fence_get(&state);
	down = state.phase == RCTL_FENCE_DOWN;
	promoted = state.phase == RCTL_FENCE_PROMOTED;
	{
		Datum		values[] = {
			CStringGetTextDatum(phase_name(state.phase)),
			TimestampTzGetDatum(state.since),
			CStringGetTextDatum(state.reason),
			Int64GetDatum(state.operation),
			Int32GetDatum(state.pid),
			LSNGetDatum(state.lsn),
			Int32GetDatum(state.held),
			CStringGetTextDatum(state.replica),
			CStringGetTextDatum(state.endpoint),
			Int32GetDatum((int32) state.promoted_timeline),
			LSNGetDatum(state.promoted_lsn),
		};
		bool		nulls[] = {
			false,
			down,
			state.reason[0] == '\0',
			state.operation == 0,
			state.pid == 0,
			XLogRecPtrIsInvalid(state.lsn),
			false,
			!promoted,
			!promoted || state.endpoint[0] == '\0',
			!promoted || state.promoted_timeline == 0,
			!promoted,
		};

		PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
	}
}

/* replica_ctl.hold_logins(milliseconds integer) returns boolean: for the operation that promotes this server */
Datum
rctl_sql_hold_logins(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(rctl_lobby_open(PG_GETARG_INT32(0)));
}
