/*-------------------------------------------------------------------------
 *
 * store_launcher.c
 *	  What the launcher reads and writes: what is due, whose it is, what is old.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "core/identity.h"
#include "core/rejoin.h"
#include "core/store_private.h"

/* How many old rows one transaction of the launcher removes. */
#define PRUNE_BATCH 1000

/* "{1,2}" */
static char *
id_array(const int64 *ids, int count)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	for (int i = 0; i < count; i++)
		appendStringInfo(&text, "%s" INT64_FORMAT, i > 0 ? "," : "", ids[i]);
	appendStringInfoChar(&text, '}');
	return text.data;
}

List *
rctl_store_due(int limit, const int64 *running, int nrunning, long *next_ms)
{
	const RctlIdentity *me = rctl_identity();
	List	   *due = NIL;
	uint64		rows;

	/*
	 * In the order in which they were asked for, or in which retries are due.
	 * One row more than is wanted tells when the next one is due.
	 */
	rows = rctl_run("SELECT operation_id,"
					"  CASE WHEN not_before > clock_timestamp()"
					"   THEN ceil(extract(epoch FROM not_before - clock_timestamp()) * 1000) ELSE 0 END"
					" FROM replica_ctl.operation"
					" WHERE " OWNED " AND state IN ('queued', 'running')"
					"  AND operation_id <> ALL ($4::bigint[])"
					" ORDER BY not_before > clock_timestamp(), greatest(not_before, requested_at), operation_id"
					" LIMIT $5::int",
					ARGS(me->system_identifier, me->timeline, me->home,
						 id_array(running, nrunning), psprintf("%d", limit + 1)));
	*next_ms = -1;
	for (uint64 i = 0; i < rows; i++)
	{
		double		wait = strtod(rctl_get(i, 2), NULL);
		MemoryContext old;
		int64	   *id;

		if (wait > 0 || list_length(due) >= limit)
		{
			*next_ms = wait > 0 ? (long) Min(wait, 60000.0) : -1;
			break;
		}
		old = MemoryContextSwitchTo(rctl_result_context);
		id = palloc(sizeof(int64));
		*id = rctl_get_int64(i, 1);
		due = lappend(due, id);
		MemoryContextSwitchTo(old);
	}
	return due;
}

int
rctl_store_park_foreign(void)
{
	const RctlIdentity *me = rctl_identity();
	int			count;

	/* What an undo was started for stays: it ends with that if it is claimed. */
	count = rctl_run("UPDATE replica_ctl.operation SET state = 'needs_attention', finished_at = clock_timestamp(),"
					 " sqlstate = CASE WHEN undoing THEN sqlstate ELSE '55000' END,"
					 " message = CASE WHEN undoing THEN message ELSE 'the operation belongs to another server' END,"
					 " detail = CASE WHEN undoing THEN detail ELSE"
					 "  format('It was asked for on the server with system identifier %s, timeline %s."
					 " This one is a copy of it, was promoted, or was moved.', system_identifier, timeline_id) END,"
					 " hint = 'If this server has taken that one''s place, run SELECT replica_claim().'"
					 " WHERE NOT (" OWNED ") AND state IN ('queued', 'running')",
					 ARGS(me->system_identifier, me->timeline, me->home));
	if (count > 0)
		rctl_store_event(NULL, 0, "warning", "parked",
						 psprintf("%d operations of another server need attention", count), NULL, NULL);
	return count;
}

List *
rctl_store_promotions(const char *slot)
{
	const RctlIdentity *me = rctl_identity();
	List	   *promotions = NIL;
	uint64		rows;

	rows = rctl_run("SELECT r.replica_id, r.name, r.server, r.state, r.options, r.facts, r.timeline_id, r.home,"
					"  o.operation_id, coalesce(o.state, 'queued'), o.arguments, o.scratch, o.requested_by"
					" FROM replica_ctl.replica r LEFT JOIN replica_ctl.operation o ON o.replica_id = r.replica_id"
					"  AND o.state IN ('queued', 'running') AND o.kind IN ('promote', 'switchover')"
					" WHERE r.system_identifier = $1 AND r.timeline_id < $2::int AND r.facts->>'slot' = $3"
					" ORDER BY r.replica_id",
					ARGS(me->system_identifier, me->timeline, slot));
	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(rctl_result_context);
		RctlPromotion *promotion = palloc0(sizeof(RctlPromotion));

		promotion->self = rctl_store_read_replica(i, 1);
		promotion->owner_timeline = rctl_get(i, 7);
		promotion->owner_home = rctl_get(i, 8);
		promotion->operation = rctl_get_int64(i, 9);
		promotion->state = rctl_op_state_parse(rctl_get(i, 10));
		promotion->arguments = rctl_get_map(i, 11, "arguments");
		promotion->scratch = rctl_get_map(i, 12, "scratch");
		promotion->requested_by = rctl_get(i, 13);
		promotions = lappend(promotions, promotion);
		MemoryContextSwitchTo(old);
	}
	return promotions;
}

/* The operation is this server's now, and there is nothing left of it that could be undone. */
static void
own_operation(const RctlPromotion *promotion, RctlOpState state)
{
	const RctlIdentity *me = rctl_identity();
	char	   *id = rctl_id_text(promotion->operation);

	rctl_run("UPDATE replica_ctl.operation SET state = $2, system_identifier = $3, timeline_id = $4::int, home = $5,"
			 "  undoing = false, no_return = true, cancel_requested = false, attempt = 0, not_before = '-infinity',"
			 "  sqlstate = NULL, message = NULL, detail = NULL, hint = NULL,"
			 "  finished_at = CASE $2 WHEN 'succeeded' THEN clock_timestamp() END"
			 " WHERE operation_id = $1::bigint",
			 ARGS(id, rctl_op_state_name(state), me->system_identifier, me->timeline, me->home));
	rctl_run("DELETE FROM replica_ctl.cleanup WHERE operation_id = $1::bigint", ARGS(id));
	rctl_run("UPDATE replica_ctl.operation_step SET ended_at = clock_timestamp(), outcome = 'done'"
			 " WHERE operation_id = $1::bigint AND ended_at IS NULL", ARGS(id));
}

/* The operation's state when it is being worked on. */
static RctlOpState
started(const RctlPromotion *promotion)
{
	return rctl_op_next(promotion->state, RCTL_EVENT_START);
}

void
rctl_store_stand_alone(const RctlPromotion *promotion)
{
	const RctlIdentity *me = rctl_identity();

	if (promotion->operation != 0)
		own_operation(promotion, rctl_op_next(started(promotion), RCTL_EVENT_FINISH));
	rctl_run("UPDATE replica_ctl.replica SET state = 'promoted', since = clock_timestamp(), message = NULL,"
			 "  system_identifier = $2, timeline_id = $3::int, home = $4"
			 " WHERE replica_id = $1::bigint",
			 ARGS(rctl_id_text(promotion->self->id), me->system_identifier, me->timeline, me->home));
}

void
rctl_store_take_over(const RctlPromotion *promotion, const char *owner_name, const char *owner_facts)
{
	const RctlIdentity *me = rctl_identity();
	const RctlReplica *self = promotion->self;

	rctl_run("DELETE FROM replica_ctl.replica WHERE replica_id = $1::bigint", ARGS(rctl_id_text(self->id)));
	rctl_run("UPDATE replica_ctl.replica SET system_identifier = $1, timeline_id = $2::int, home = $3,"
			 "  facts = CASE facts->>'upstream' WHEN $6 THEN facts - 'upstream' ELSE facts END"
			 " WHERE system_identifier = $1 AND timeline_id = $4::int AND home = $5",
			 ARGS(me->system_identifier, me->timeline, me->home,
				  promotion->owner_timeline, promotion->owner_home, self->name));
	rctl_run("INSERT INTO replica_ctl.replica (name, server, state, options, facts, created_by,"
			 "  system_identifier, timeline_id, home)"
			 " VALUES ($1::name, coalesce((SELECT srvname FROM pg_catalog.pg_foreign_server WHERE srvname = $3::jsonb->>'home_server'),"
			 "  $2::name), 'streaming', '{}', $3::jsonb, $4::name, $5, $6::int, $7)"
			 " RETURNING replica_id",
			 ARGS(owner_name, self->server, owner_facts, promotion->requested_by,
				  me->system_identifier, me->timeline, me->home));
	rctl_run("UPDATE replica_ctl.operation SET replica_id = $2::bigint, previous_state = 'streaming', step = $3"
			 " WHERE operation_id = $1::bigint",
			 ARGS(rctl_id_text(promotion->operation), rctl_get(0, 1), RCTL_ARRIVE_STEP));
	own_operation(promotion, rctl_op_next(started(promotion), RCTL_EVENT_RETRY));
}

void
rctl_store_park(int64 operation, const RctlError *error)
{
	const char *kind;
	const char *replica;

	if (rctl_run("UPDATE replica_ctl.operation SET state = 'needs_attention', finished_at = clock_timestamp(),"
				 " sqlstate = $2, message = $3, detail = $4, hint = $5"
				 " WHERE operation_id = $1::bigint AND state IN ('queued', 'running')"
				 " RETURNING kind, replica, replica_id, CASE WHEN no_return THEN 'failed' ELSE coalesce(previous_state, 'failed') END",
				 ARGS(rctl_id_text(operation), error->sqlstate, error->message, error->detail, error->hint)) == 0)
		return;
	kind = rctl_get(0, 1);
	replica = rctl_get(0, 2);
	rctl_store_settle_replica(rctl_get(0, 3), rctl_get(0, 4), error->message);
	rctl_store_event(replica, operation, "error", psprintf("%s_needs_attention", kind),
					 psprintf("operation " INT64_FORMAT " (%s of replica \"%s\") needs_attention: %s",
							  operation, kind, replica, error->message), NULL, NULL);
}

/* The latest operation of a replica is what replica_wait() looks for. */
bool
rctl_store_prune(int older_than_seconds)
{
	char	   *seconds = psprintf("%d", older_than_seconds);
	char	   *batch = psprintf("%d", PRUNE_BATCH);
	uint64		operations;
	uint64		events;

	operations = rctl_run("DELETE FROM replica_ctl.operation WHERE operation_id IN ("
						  " SELECT operation_id FROM replica_ctl.operation o"
						  " WHERE state IN ('succeeded', 'failed', 'cancelled')"
						  "  AND finished_at < clock_timestamp() - $1::int * interval '1 second'"
						  "  AND (EXISTS (SELECT FROM replica_ctl.operation l"
						  "    WHERE l.replica = o.replica AND l.replica_id = o.replica_id AND l.operation_id > o.operation_id)"
						  "   OR NOT EXISTS (SELECT FROM replica_ctl.replica r WHERE r.replica_id = o.replica_id))"
						  " LIMIT $2::int)",
						  ARGS(seconds, batch));
	events = rctl_run("DELETE FROM replica_ctl.event WHERE event_id IN ("
					  " SELECT event_id FROM replica_ctl.event"
					  " WHERE at < clock_timestamp() - $1::int * interval '1 second'"
					  " ORDER BY at LIMIT $2::int)",
					  ARGS(seconds, batch));
	return operations == PRUNE_BATCH || events == PRUNE_BATCH;
}
