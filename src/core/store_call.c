/*-------------------------------------------------------------------------
 *
 * store_call.c
 *	  What SQL functions read and write: queue, wait, cancel, claim.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "core/identity.h"
#include "core/store_private.h"

bool
rctl_store_add_replica(const char *name, const char *server, const char *options, int64 *id)
{
	const RctlIdentity *me = rctl_identity();

	/*
	 * What a failed creation left in the registry must not be in the way of
	 * the next try.
	 */
	rctl_run("DELETE FROM replica_ctl.replica r WHERE name = $1::name AND state = 'failed'"
			 " AND facts = '{}' AND NOT EXISTS (SELECT FROM replica_ctl.operation o"
			 "  WHERE o.replica_id = r.replica_id AND o.state NOT IN ('failed', 'cancelled'))",
			 ARGS(name));
	if (rctl_run("INSERT INTO replica_ctl.replica (name, server, state, options, created_by,"
				 "  system_identifier, timeline_id, home)"
				 " VALUES ($1::name, $2::name, 'creating', $3::jsonb, $4::name, $5, $6::int, $7)"
				 " ON CONFLICT (name) DO NOTHING RETURNING replica_id",
				 ARGS(name, server, options, GetUserNameFromId(GetSessionUserId(), false),
					  me->system_identifier, me->timeline, me->home)) == 0)
		return false;
	*id = rctl_get_int64(0, 1);
	return true;
}

static bool
find_replica(const char *name, const char *lock, RctlReplicaRow *row)
{
	const RctlIdentity *me = rctl_identity();

	if (rctl_run(psprintf("SELECT replica_id, server, state, " OWNED
						  " FROM replica_ctl.replica WHERE name = $4::name%s", lock),
				 ARGS(me->system_identifier, me->timeline, me->home, name)) == 0)
		return false;
	row->id = rctl_get_int64(0, 1);
	row->server = rctl_get(0, 2);
	row->state = rctl_get(0, 3);
	row->owned = rctl_get_bool(0, 4);
	return true;
}

bool
rctl_store_lock_replica(const char *name, RctlReplicaRow *row)
{
	return find_replica(name, " FOR UPDATE", row);
}

bool
rctl_store_find_replica(const char *name, RctlReplicaRow *row)
{
	return find_replica(name, "", row);
}

int64
rctl_store_unfinished(int64 replica_id)
{
	if (rctl_run("SELECT operation_id FROM replica_ctl.operation"
				 " WHERE replica_id = $1::bigint AND state IN ('queued', 'running')",
				 ARGS(rctl_id_text(replica_id))) == 0)
		return 0;
	return rctl_get_int64(0, 1);
}

/*
 * Makes the records that earlier operations could not handle the new one's.
 * Where there was no way back they say how to undo what has to stay.
 */
static void
inherit_cleanups(const char *operation, const char *replica_id)
{
	rctl_run("INSERT INTO replica_ctl.cleanup (operation_id, type, object, always)"
			 " SELECT $1::bigint, type, object, true"
			 " FROM replica_ctl.cleanup JOIN replica_ctl.operation USING (operation_id)"
			 " WHERE replica_id = $2::bigint AND state IN ('failed', 'cancelled')"
			 "  AND (kind = 'drop' OR NOT no_return) AND operation_id <> $1::bigint"
			 " ORDER BY cleanup_id ON CONFLICT DO NOTHING",
			 ARGS(operation, replica_id));
	rctl_run("DELETE FROM replica_ctl.cleanup c USING replica_ctl.operation o"
			 " WHERE o.operation_id = c.operation_id AND o.replica_id = $2::bigint"
			 "  AND o.state IN ('failed', 'cancelled')"
			 "  AND (o.kind = 'drop' OR NOT o.no_return) AND o.operation_id <> $1::bigint",
			 ARGS(operation, replica_id));
}

int64
rctl_store_enqueue(RctlOpKind kind, int64 replica_id, const char *replica,
				   const char *previous_state, const char *state, const char *arguments)
{
	const RctlIdentity *me = rctl_identity();
	char	   *operation;

	rctl_run("UPDATE replica_ctl.operation SET state = $2, finished_at = coalesce(finished_at, clock_timestamp())"
			 " WHERE replica_id = $1::bigint AND state = 'needs_attention'",
			 ARGS(rctl_id_text(replica_id),
				  rctl_op_state_name(rctl_op_next(RCTL_STATE_NEEDS_ATTENTION, RCTL_EVENT_SUPERSEDE))));

	/*
	 * One that is invisible to a snapshot of long ago is a serialization
	 * failure, not a violation of the unique index.
	 */
	if (rctl_run("INSERT INTO replica_ctl.operation (replica_id, replica, kind, arguments, previous_state,"
				 "  requested_by, system_identifier, timeline_id, home)"
				 " VALUES ($1::bigint, $2::name, $3, $4::jsonb, $5, $6::name, $7, $8::int, $9)"
				 " ON CONFLICT DO NOTHING RETURNING operation_id",
				 ARGS(rctl_id_text(replica_id), replica, rctl_op_kind_name(kind), arguments, previous_state,
					  GetUserNameFromId(rctl_store_caller, false),
					  me->system_identifier, me->timeline, me->home)) == 0)
		elog(ERROR, "replica \"%s\" has an unfinished operation", replica);
	operation = rctl_get(0, 1);
	if (state)
		rctl_run("UPDATE replica_ctl.replica SET state = $2, since = clock_timestamp(), message = NULL"
				 " WHERE replica_id = $1::bigint",
				 ARGS(rctl_id_text(replica_id), state));
	if (kind == RCTL_OP_DROP)
		inherit_cleanups(operation, rctl_id_text(replica_id));
	return pg_strtoint64(operation);
}

int64
rctl_store_latest(const char *replica, bool read_only)
{
	if (rctl_execute("SELECT max(operation_id) FROM replica_ctl.operation WHERE replica = $1::name",
					 ARGS(replica), read_only) == 0)
		return 0;
	return rctl_get_int64(0, 1);
}

bool
rctl_store_outcome(int64 operation, RctlOutcome *outcome, bool read_only)
{
	if (rctl_execute("SELECT o.state, kind, replica, sqlstate, o.message, detail, hint, requested_by, no_return, server"
					 " FROM replica_ctl.operation o LEFT JOIN replica_ctl.replica r USING (replica_id)"
					 " WHERE operation_id = $1::bigint",
					 ARGS(rctl_id_text(operation)), read_only) == 0)
		return false;
	outcome->state = rctl_op_state_parse(rctl_get(0, 1));
	outcome->kind = rctl_get(0, 2);
	outcome->replica = rctl_get(0, 3);
	outcome->error.sqlstate = rctl_get(0, 4);
	outcome->error.message = rctl_get(0, 5);
	outcome->error.detail = rctl_get(0, 6);
	outcome->error.hint = rctl_get(0, 7);
	outcome->requested_by = rctl_get(0, 8);
	outcome->no_return = rctl_get_bool(0, 9);
	outcome->server = rctl_get(0, 10);
	return true;
}

bool
rctl_store_request_cancel(int64 operation)
{
	const char *cancelled = rctl_op_state_name(rctl_op_next(RCTL_STATE_QUEUED, RCTL_EVENT_CANCELLED));
	const char *kind;
	const char *replica;

	/* An undo goes on, and says what it was that failed. */
	if (rctl_run("UPDATE replica_ctl.operation SET cancel_requested = cancel_requested OR NOT undoing, not_before = '-infinity',"
				 "  state = CASE WHEN started_at IS NULL THEN $2 ELSE state END,"
				 "  finished_at = CASE WHEN started_at IS NULL THEN clock_timestamp() END,"
				 "  sqlstate = CASE WHEN started_at IS NULL THEN '57014' ELSE sqlstate END,"
				 "  message = CASE WHEN started_at IS NULL THEN 'the operation was cancelled' ELSE message END"
				 " WHERE operation_id = $1::bigint AND state IN ('queued', 'running') AND NOT no_return"
				 " RETURNING state, replica_id, previous_state, kind, replica, requested_by",
				 ARGS(rctl_id_text(operation), cancelled)) == 0)
		return false;
	if (strcmp(rctl_get(0, 1), cancelled) == 0)
	{
		kind = rctl_get(0, 4);
		replica = rctl_get(0, 5);
		rctl_store_settle_replica(rctl_get(0, 2), rctl_get(0, 3), NULL);
		rctl_store_send_request(operation);
		rctl_store_event(replica, operation, "warning", psprintf("%s_%s", kind, cancelled),
						 psprintf("operation " INT64_FORMAT " (%s of replica \"%s\") was cancelled before it started",
								  operation, kind, replica),
						 NULL, GetUserNameFromId(GetSessionUserId(), false));
	}
	return true;
}

int64
rctl_store_claim(void)
{
	const RctlIdentity *me = rctl_identity();
	int64		count;

	count = rctl_run("UPDATE replica_ctl.replica SET system_identifier = $1, timeline_id = $2::int, home = $3"
					 " WHERE NOT (" OWNED ")",
					 ARGS(me->system_identifier, me->timeline, me->home));

	/*
	 * It starts with fresh attempts; an undo keeps the error that it ends
	 * with.
	 */
	count += rctl_run("UPDATE replica_ctl.operation SET system_identifier = $1, timeline_id = $2::int, home = $3,"
					  "  state = CASE state WHEN 'needs_attention' THEN $4 ELSE state END,"
					  "  finished_at = NULL, not_before = '-infinity', attempt = 0,"
					  "  sqlstate = CASE WHEN undoing THEN sqlstate END,"
					  "  message = CASE WHEN undoing THEN message END,"
					  "  detail = CASE WHEN undoing THEN detail END,"
					  "  hint = CASE WHEN undoing THEN hint END"
					  " WHERE NOT (" OWNED ") AND state IN ('queued', 'running', 'needs_attention')",
					  ARGS(me->system_identifier, me->timeline, me->home,
						   rctl_op_state_name(rctl_op_next(RCTL_STATE_NEEDS_ATTENTION, RCTL_EVENT_CLAIM))));
	return count;
}
