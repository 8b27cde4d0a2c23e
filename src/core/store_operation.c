/*-------------------------------------------------------------------------
 *
 * store_operation.c
 *	  What the engine reads and writes of the operation it works on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/board.h"
#include "core/identity.h"
#include "core/store_private.h"

RctlOpRow *
rctl_store_load(int64 operation)
{
	const RctlIdentity *me = rctl_identity();
	RctlOpRow  *row;
	char	   *at;
	MemoryContext old;

	if (rctl_run("SELECT state, kind, requested_by, arguments, scratch, step, attempt, undoing, no_return,"
				 "  cancel_requested, previous_state, sqlstate, message, detail, hint, requested_at, replica_id"
				 " FROM replica_ctl.operation"
				 " WHERE " OWNED " AND operation_id = $4::bigint AND state IN ('queued', 'running')",
				 ARGS(me->system_identifier, me->timeline, me->home, rctl_id_text(operation))) == 0)
		return NULL;

	rctl_store_hold_registry();
	row = MemoryContextAllocZero(rctl_result_context, sizeof(RctlOpRow));
	row->op.context = rctl_result_context;
	row->op.id = operation;
	row->state = rctl_op_state_parse(rctl_get(0, 1));
	row->op.kind = rctl_op_kind_parse(rctl_get(0, 2));
	row->op.requested_by = rctl_get(0, 3);
	row->op.arguments = rctl_get_map(0, 4, "arguments");
	row->op.state = rctl_get_map(0, 5, "scratch");
	row->op.step = rctl_get(0, 6);
	row->op.attempt = (int) rctl_get_int64(0, 7);
	row->undoing = rctl_get_bool(0, 8);
	row->no_return = rctl_get_bool(0, 9);
	row->cancel_requested = rctl_get_bool(0, 10);
	row->previous_state = rctl_get(0, 11);
	row->sqlstate = rctl_get(0, 12);
	row->message = rctl_get(0, 13);
	row->detail = rctl_get(0, 14);
	row->hint = rctl_get(0, 15);
	at = rctl_get(0, 16);
	row->op.requested_at = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(at),
																   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	if (rctl_run(psprintf("SELECT %s FROM replica_ctl.replica WHERE replica_id = $1::bigint", RCTL_REPLICA_COLUMNS),
				 ARGS(rctl_get(0, 17))) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the replica of operation " INT64_FORMAT " is no longer in the registry", operation)));
	row->op.replica = rctl_store_read_replica(0, 1);
	rctl_store_resolve_server(row->op.replica);
	row->op.requested_by_id = get_role_oid(row->op.requested_by, true);

	old = MemoryContextSwitchTo(rctl_result_context);
	row->op.server_options = rctl_map_from_options(GetForeignServer(row->op.replica->serverid)->options);
	MemoryContextSwitchTo(old);
	return row;
}

bool
rctl_store_started(RctlOpRow *row, int steps)
{
	RctlOpState next = rctl_op_next(row->state, RCTL_EVENT_START);

	/*
	 * Cancelled since it was loaded: the state has changed, or there is a
	 * request now.
	 */
	if (rctl_run("UPDATE replica_ctl.operation SET state = $2, steps = $3::int,"
				 " started_at = coalesce(started_at, clock_timestamp())"
				 " WHERE operation_id = $1::bigint AND state IN ('queued', 'running')"
				 " RETURNING cancel_requested, step IS NULL",
				 ARGS(rctl_id_text(row->op.id), rctl_op_state_name(next), psprintf("%d", steps))) == 0)
		return false;
	row->state = next;
	row->cancel_requested = rctl_get_bool(0, 1);
	if (rctl_get_bool(0, 2))
		rctl_store_send_request(row->op.id);
	return true;
}

static void
end_step(RctlOpRow *row, const char *step, const char *outcome)
{
	rctl_run("UPDATE replica_ctl.operation_step SET ended_at = clock_timestamp(), outcome = $4"
			 " WHERE operation_id = $1::bigint AND step = $2 AND attempt = $3::int",
			 ARGS(rctl_id_text(row->op.id), step, psprintf("%d", row->op.attempt), outcome));
}

void
rctl_store_step_done(RctlOpRow *row, const char *step)
{
	end_step(row, step, "done");
	row->op.attempt = 0;
	rctl_store_save(row);
}

void
rctl_store_step(RctlOpRow *row, const char *done, const char *step, int number, bool no_return,
				double progress)
{
	if (done)
		rctl_store_step_done(row, done);
	row->op.attempt++;
	row->no_return |= no_return;
	rctl_run("UPDATE replica_ctl.operation SET step = $2, step_number = $3::int, attempt = $4::int,"
			 " attempts = attempts + 1, no_return = $5::bool, progress = $6::real"
			 " WHERE operation_id = $1::bigint",
			 ARGS(rctl_id_text(row->op.id), step, psprintf("%d", number), psprintf("%d", row->op.attempt),
				  row->no_return ? "t" : "f", psprintf("%.4f", progress)));
	rctl_run("INSERT INTO replica_ctl.operation_step (operation_id, step, attempt, started_at)"
			 " VALUES ($1::bigint, $2, $3::int, clock_timestamp())"
			 " ON CONFLICT (operation_id, step, attempt) DO UPDATE"
			 "  SET started_at = EXCLUDED.started_at, ended_at = NULL, outcome = NULL",
			 ARGS(rctl_id_text(row->op.id), step, psprintf("%d", row->op.attempt)));
	row->op.step = MemoryContextStrdup(row->op.context, step);
}

void
rctl_store_step_failed(RctlOpRow *row)
{
	end_step(row, row->op.step, "failed");
}

static void
store_error(RctlOpRow *row, const RctlError *error)
{
	rctl_run("UPDATE replica_ctl.operation SET sqlstate = $2, message = $3, detail = $4, hint = $5"
			 " WHERE operation_id = $1::bigint",
			 ARGS(rctl_id_text(row->op.id), error->sqlstate, error->message, error->detail, error->hint));
}

void
rctl_store_retry(RctlOpRow *row, const RctlError *error, long delay_ms)
{
	RctlOpState next = rctl_op_next(row->state, RCTL_EVENT_RETRY);

	store_error(row, error);
	rctl_run("UPDATE replica_ctl.operation SET state = $2, attempt = $4::int,"
			 " not_before = clock_timestamp() + $3::bigint * interval '1 millisecond'"
			 " WHERE operation_id = $1::bigint",
			 ARGS(rctl_id_text(row->op.id), rctl_op_state_name(next), psprintf("%ld", delay_ms),
				  psprintf("%d", row->op.attempt)));
	row->state = next;
}

void
rctl_store_undoing(RctlOpRow *row, const RctlError *error)
{
	store_error(row, error);
	rctl_run("UPDATE replica_ctl.operation SET undoing = true, no_return = false, attempt = 0,"
			 " cancel_requested = $2::bool WHERE operation_id = $1::bigint",
			 ARGS(rctl_id_text(row->op.id), row->cancel_requested ? "t" : "f"));
	row->undoing = true;
	row->op.attempt = 0;
}

void
rctl_store_undo_attempt(RctlOpRow *row)
{
	row->op.attempt++;
	rctl_run("UPDATE replica_ctl.operation SET attempt = $2::int"
			 " WHERE operation_id = $1::bigint",
			 ARGS(rctl_id_text(row->op.id), psprintf("%d", row->op.attempt)));
}

void
rctl_store_end(RctlOpRow *row, RctlOpEvent event, const RctlError *error,
			   const char *replica_state, const char *replica_message)
{
	RctlOpState next = rctl_op_next(row->state, event);

	rctl_store_save(row);
	if (error)
		store_error(row, error);
	rctl_run("UPDATE replica_ctl.operation SET state = $2, finished_at = clock_timestamp(),"
			 " sqlstate = CASE WHEN $3::bool THEN sqlstate END, message = CASE WHEN $3::bool THEN message END,"
			 " detail = CASE WHEN $3::bool THEN detail END, hint = CASE WHEN $3::bool THEN hint END"
			 " WHERE operation_id = $1::bigint",
			 ARGS(rctl_id_text(row->op.id), rctl_op_state_name(next),
				  event == RCTL_EVENT_FINISH ? "f" : "t"));
	if (event == RCTL_EVENT_FINISH && row->op.kind == RCTL_OP_CHANGE)
		rctl_run("UPDATE replica_ctl.replica SET options = $2::jsonb WHERE replica_id = $1::bigint",
				 ARGS(rctl_id_text(row->op.replica->id), rctl_map_to_json(row->op.arguments)));
	if (event != RCTL_EVENT_PARK)
		rctl_run("DELETE FROM replica_ctl.cleanup WHERE operation_id = $1::bigint",
				 ARGS(rctl_id_text(row->op.id)));
	rctl_store_settle_replica(rctl_id_text(row->op.replica->id), replica_state, replica_message);
	row->state = next;
}

void
rctl_store_save(RctlOpRow *row)
{
	RctlBoardEntry live;

	rctl_board_self(&live);
	rctl_run("UPDATE replica_ctl.operation SET scratch = $2::jsonb,"
			 " bytes_done = nullif($3::bigint, 0), bytes_total = nullif($4::bigint, 0)"
			 " WHERE operation_id = $1::bigint",
			 ARGS(rctl_id_text(row->op.id), rctl_map_to_json(row->op.state),
				  psprintf(UINT64_FORMAT, live.bytes_done), psprintf(UINT64_FORMAT, live.bytes_total)));
	rctl_run("UPDATE replica_ctl.replica SET facts = $2::jsonb"
			 " WHERE replica_id = $1::bigint AND facts <> $2::jsonb",
			 ARGS(rctl_id_text(row->op.replica->id), rctl_map_to_json(row->op.replica->facts)));
}

int64
rctl_store_cleanup_add(RctlOpRow *row, const char *type, const RctlMap *object, bool always)
{
	if (rctl_run("INSERT INTO replica_ctl.cleanup (operation_id, type, object, always)"
				 " VALUES ($1::bigint, $2, $3::jsonb, $4::bool) ON CONFLICT DO NOTHING RETURNING cleanup_id",
				 ARGS(rctl_id_text(row->op.id), type, rctl_map_to_json(object), always ? "t" : "f")) == 0)
		return 0;
	return rctl_get_int64(0, 1);
}

List *
rctl_store_cleanups(RctlOpRow *row, const char *type, bool only_always)
{
	List	   *records = NIL;
	uint64		rows;

	rows = rctl_run("SELECT cleanup_id, type, object FROM replica_ctl.cleanup"
					" WHERE operation_id = $1::bigint AND type = coalesce($2, type)"
					"  AND (always OR NOT $3::bool)"
					" ORDER BY cleanup_id DESC",
					ARGS(rctl_id_text(row->op.id), type, only_always ? "t" : "f"));
	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(rctl_result_context);
		RctlCleanup *record = palloc(sizeof(RctlCleanup));

		record->id = rctl_get_int64(i, 1);
		record->type = rctl_get(i, 2);
		record->object = rctl_get_map(i, 3, "object");
		records = lappend(records, record);
		MemoryContextSwitchTo(old);
	}
	return records;
}

void
rctl_store_cleanup_forget(int64 cleanup_id)
{
	rctl_run("DELETE FROM replica_ctl.cleanup WHERE cleanup_id = $1::bigint",
			 ARGS(rctl_id_text(cleanup_id)));
}
