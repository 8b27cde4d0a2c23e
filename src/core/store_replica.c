/*-------------------------------------------------------------------------
 *
 * store_replica.c
 *	  Replicas of the registry, and questions about them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_user_mapping.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "core/identity.h"
#include "core/store_private.h"

void
rctl_store_resolve_server(RctlReplica *replica)
{
	ForeignServer *server = GetForeignServerByName(replica->server, true);

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" of replica \"%s\" does not exist", replica->server, replica->name),
				 errhint("Create it again with CREATE SERVER, then call SELECT replica_drop(%s).",
						 quote_literal_cstr(replica->name))));
	replica->serverid = server->serverid;
	replica->provider = rctl_provider_by_wrapper(GetForeignDataWrapper(server->fdwid)->fdwname);
	if (replica->provider == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a replica_ctl server", replica->server)));
}

RctlReplica *
rctl_store_read_replica(uint64 row, int first)
{
	RctlReplica *replica = MemoryContextAllocZero(rctl_result_context, sizeof(RctlReplica));

	replica->id = rctl_get_int64(row, first);
	replica->name = rctl_get(row, first + 1);
	replica->server = rctl_get(row, first + 2);
	replica->state = rctl_get(row, first + 3);
	replica->options = rctl_get_map(row, first + 4, "options");
	replica->facts = rctl_get_map(row, first + 5, "facts");
	return replica;
}

RctlReplica *
rctl_store_replica(const char *name)
{
	RctlReplica *replica;

	if (rctl_run(psprintf("SELECT %s FROM replica_ctl.replica WHERE name = $1::name", RCTL_REPLICA_COLUMNS),
				 ARGS(name)) == 0)
		return NULL;
	replica = rctl_store_read_replica(0, 1);
	rctl_store_resolve_server(replica);
	return replica;
}

/* Replicas (with providers) by a condition on their rows. */
static List *
read_replicas(const char *condition, const char *const *args, int nargs)
{
	uint64		rows = rctl_run(psprintf("SELECT %s FROM replica_ctl.replica WHERE %s ORDER BY replica_id",
										 RCTL_REPLICA_COLUMNS, condition), args, nargs);
	List	   *replicas = NIL;
	ListCell   *lc;

	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(rctl_result_context);

		replicas = lappend(replicas, rctl_store_read_replica(i, 1));
		MemoryContextSwitchTo(old);
	}
	foreach(lc, replicas)
		rctl_store_resolve_server(lfirst(lc));
	return replicas;
}

List *
rctl_store_siblings(int64 except_replica)
{
	const RctlIdentity *me = rctl_identity();

	return read_replicas(OWNED " AND state = 'streaming' AND facts->>'upstream' IS NULL"
						 " AND replica_id <> $4::bigint",
						 ARGS(me->system_identifier, me->timeline, me->home, rctl_id_text(except_replica)));
}

List *
rctl_store_own_replicas(void)
{
	const RctlIdentity *me = rctl_identity();

	return read_replicas(OWNED, ARGS(me->system_identifier, me->timeline, me->home));
}

int64
rctl_store_any_unfinished(int64 except_operation)
{
	const RctlIdentity *me = rctl_identity();

	if (rctl_run("SELECT min(operation_id) FROM replica_ctl.operation WHERE " OWNED
				 " AND state IN ('queued', 'running') AND operation_id <> $4::bigint",
				 ARGS(me->system_identifier, me->timeline, me->home, rctl_id_text(except_operation))) == 0)
		return 0;
	return rctl_get_int64(0, 1);
}

char *
rctl_store_free_name(const char *wanted, int64 except_replica)
{
	rctl_run("SELECT name FROM (SELECT 1 AS n, $1::name AS name UNION ALL"
			 "  SELECT n, (left($1, 58) || '_' || n)::name FROM generate_series(2, 1000) n) c"
			 " WHERE NOT EXISTS (SELECT FROM replica_ctl.replica r WHERE r.name = c.name AND replica_id <> $2::bigint)"
			 " ORDER BY n LIMIT 1",
			 ARGS(wanted, rctl_id_text(except_replica)));
	return rctl_get(0, 1);
}

bool
rctl_store_streams(const char *application_name)
{
	return rctl_run("SELECT FROM pg_catalog.pg_stat_replication WHERE application_name = $1 AND state = 'streaming'",
					ARGS(application_name)) > 0;
}

void
rctl_store_end_walsenders(void)
{
	rctl_run("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_replication", NO_ARGS);
}

/* "{a,b}" of a fact of the replicas, for = ANY. */
static char *
fact_array(List *replicas, const char *fact)
{
	StringInfoData array;
	ListCell   *lc;

	initStringInfo(&array);
	appendStringInfoChar(&array, '{');
	foreach(lc, replicas)
	{
		const char *value = rctl_map_get_default(((RctlReplica *) lfirst(lc))->facts, fact, "");

		appendStringInfo(&array, "%s\"", array.len > 1 ? "," : "");
		for (; *value; value++)
		{
			if (*value == '"' || *value == '\\')
				appendStringInfoChar(&array, '\\');
			appendStringInfoChar(&array, *value);
		}
		appendStringInfoChar(&array, '"');
	}
	appendStringInfoChar(&array, '}');
	return array.data;
}

int
rctl_store_synchronous_without(List *replicas)
{
	rctl_run("SELECT count(*) FROM pg_catalog.pg_stat_replication"
			 " WHERE sync_state <> 'async' AND application_name <> ALL ($1::text[])",
			 ARGS(fact_array(replicas, "application_name")));
	return (int) rctl_get_int64(0, 1);
}

char *
rctl_store_foreign_slots(const RctlReplica *replica, List *others)
{
	rctl_run("SELECT string_agg(quote_ident(slot_name), ', ' ORDER BY slot_name) FROM pg_catalog.pg_replication_slots"
			 " WHERE NOT temporary AND slot_name <> ALL ($1::text[]) AND NOT starts_with(slot_name, 'replica_ctl_')",
			 ARGS(fact_array(lappend(list_copy(others), (void *) replica), "slot")));
	return rctl_get(0, 1);
}

List *
rctl_store_other_replicas(int64 except_replica)
{
	const RctlIdentity *me = rctl_identity();

	return read_replicas(OWNED " AND state = 'streaming' AND replica_id <> $4::bigint",
						 ARGS(me->system_identifier, me->timeline, me->home, rctl_id_text(except_replica)));
}

/* ---------------------------------------------------------------------
 * replica_explain
 * ---------------------------------------------------------------------
 */

RctlReplica *
rctl_store_imagine_replica(const char *name, const char *server, RctlMap *options)
{
	RctlReplica *replica = MemoryContextAllocZero(rctl_result_context, sizeof(RctlReplica));
	MemoryContext old = MemoryContextSwitchTo(rctl_result_context);

	replica->name = pstrdup(name);
	replica->server = pstrdup(server);
	replica->state = pstrdup("creating");
	replica->options = options;
	replica->facts = rctl_map_make();
	rctl_store_resolve_server(replica);
	MemoryContextSwitchTo(old);
	return replica;
}

RctlOp *
rctl_store_dry_run(RctlOpKind kind, RctlReplica *replica, RctlMap *arguments)
{
	RctlOp	   *op = MemoryContextAllocZero(rctl_result_context, sizeof(RctlOp));
	MemoryContext old = MemoryContextSwitchTo(rctl_result_context);

	op->dry_run = true;
	op->kind = kind;
	op->requested_by_id = rctl_store_caller;
	op->requested_by = GetUserNameFromId(op->requested_by_id, false);
	op->replica = replica;
	op->arguments = arguments;
	op->state = rctl_map_make();
	op->server_options = rctl_map_from_options(GetForeignServer(replica->serverid)->options);
	op->step = pstrdup("explain");
	op->attempt = 1;
	op->requested_at = GetCurrentTimestamp();
	op->context = rctl_result_context;
	op->step_context = rctl_result_context;
	MemoryContextSwitchTo(old);
	return op;
}

List *
rctl_store_step_times(const char *kinds, const char *server)
{
	List	   *times = NIL;
	uint64		rows;

	rows = rctl_run("SELECT step, count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)"
					" FROM (SELECT s.step, extract(epoch FROM s.ended_at - s.started_at) AS seconds,"
					"   row_number() OVER (PARTITION BY s.step ORDER BY s.started_at DESC) AS age"
					"  FROM replica_ctl.operation_step s JOIN replica_ctl.operation o USING (operation_id)"
					"   LEFT JOIN replica_ctl.replica r USING (replica_id)"
					"  WHERE o.kind = ANY ($1::text[]) AND s.outcome = 'done' AND coalesce(r.server, $2::name) = $2::name) t"
					" WHERE age <= 20 GROUP BY step",
					ARGS(kinds, server));
	for (uint64 i = 0; i < rows; i++)
	{
		RctlStepTime *time = MemoryContextAllocZero(rctl_result_context, sizeof(RctlStepTime));
		MemoryContext old = MemoryContextSwitchTo(rctl_result_context);

		time->step = rctl_get(i, 1);
		time->runs = (int) rctl_get_int64(i, 2);
		time->seconds = strtod(rctl_get(i, 3), NULL);
		times = lappend(times, time);
		MemoryContextSwitchTo(old);
	}
	return times;
}

double
rctl_store_copy_rate(void)
{
	char	   *rate = NULL;

	if (rctl_run("SELECT sum(bytes_total) / nullif(sum(seconds), 0)"
				 " FROM (SELECT o.bytes_total, extract(epoch FROM s.ended_at - s.started_at) AS seconds"
				 "  FROM replica_ctl.operation_step s JOIN replica_ctl.operation o USING (operation_id)"
				 "  WHERE o.kind = 'create' AND s.step = 'copy' AND s.outcome = 'done' AND o.bytes_total > 0"
				 "  ORDER BY s.started_at DESC LIMIT 5) t", NO_ARGS) > 0)
		rate = rctl_get(0, 1);
	return rate ? strtod(rate, NULL) : 0;
}

void
rctl_store_lock_facts(void)
{
	rctl_run("SELECT pg_advisory_xact_lock('replica_ctl.replica'::regclass::int, 0)", NO_ARGS);
}

/* The options of a role's user mapping, or of that of PUBLIC, in the caller's context; and whose it is. */
static RctlMap *
user_mapping(Oid role, Oid server, Oid *owner)
{
	Oid			users[] = {role, InvalidOid};	/* InvalidOid: PUBLIC */
	MemoryContext old = MemoryContextSwitchTo(rctl_result_context);
	RctlMap    *map = NULL;

	*owner = InvalidOid;
	for (int i = 0; i < lengthof(users) && map == NULL; i++)
	{
		HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(users[i]),
											ObjectIdGetDatum(server));
		bool		isnull;
		Datum		options;

		if (!HeapTupleIsValid(tuple))
			continue;
		options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
		map = isnull ? rctl_map_make() : rctl_map_from_options(untransformRelOptions(options));
		*owner = users[i];
		ReleaseSysCache(tuple);
	}
	if (map == NULL)
		map = rctl_map_make();
	MemoryContextSwitchTo(old);
	return map;
}

List *
rctl_store_monitored(int limit)
{
	const RctlIdentity *me = rctl_identity();
	List	   *list = NIL;
	uint64		rows;

	/* A row that cannot be read must not hide the others. */
	rows = rctl_run(psprintf("SELECT %s, created_by FROM replica_ctl.replica r"
							 " WHERE " OWNED " AND state <> 'promoted' AND (state <> 'creating' OR facts ? 'service')"
							 "  AND jsonb_typeof(options) = 'object' AND jsonb_typeof(facts) = 'object'"
							 "  AND EXISTS (SELECT FROM pg_catalog.pg_foreign_server WHERE srvname = r.server)"
							 " ORDER BY replica_id LIMIT %d", RCTL_REPLICA_COLUMNS, limit),
					ARGS(me->system_identifier, me->timeline, me->home));
	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(rctl_result_context);
		RctlMonitored *monitored = palloc(sizeof(RctlMonitored));

		MemoryContextSwitchTo(old);
		monitored->replica = rctl_store_read_replica(i, 1);
		rctl_store_resolve_server(monitored->replica);
		monitored->mapping = user_mapping(get_role_oid(rctl_get(i, 7), true), monitored->replica->serverid,
										  &monitored->mapping_userid);
		old = MemoryContextSwitchTo(rctl_result_context);
		monitored->server_options = rctl_map_from_options(GetForeignServer(monitored->replica->serverid)->options);
		list = lappend(list, monitored);
		MemoryContextSwitchTo(old);
	}
	return list;
}

bool
rctl_store_slot_owner(const char *slot, char **replica, bool *busy)
{
	const RctlIdentity *me = rctl_identity();

	if (rctl_run("SELECT name, EXISTS (SELECT FROM replica_ctl.operation o"
				 "  WHERE o.replica_id = r.replica_id AND o.state IN ('queued', 'running', 'needs_attention'))"
				 " FROM replica_ctl.replica r"
				 " WHERE " OWNED " AND facts->>'slot' = $4 AND NOT facts ? 'upstream'",
				 ARGS(me->system_identifier, me->timeline, me->home, slot)) == 0)
		return false;
	*replica = rctl_get(0, 1);
	*busy = rctl_get_bool(0, 2);
	return true;
}

List *
rctl_store_slot_owners(void)
{
	const RctlIdentity *me = rctl_identity();
	List	   *list = NIL;
	uint64		rows = rctl_run("SELECT facts->>'slot', name, state IN ('creating', 'dropping') FROM replica_ctl.replica"
								" WHERE " OWNED " AND facts ? 'slot' AND NOT facts ? 'upstream'",
								ARGS(me->system_identifier, me->timeline, me->home));

	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(rctl_result_context);
		RctlSlotOwner *owner = palloc(sizeof(RctlSlotOwner));

		list = lappend(list, owner);
		MemoryContextSwitchTo(old);
		owner->slot = rctl_get(i, 1);
		owner->replica = rctl_get(i, 2);
		owner->busy = rctl_get_bool(i, 3);
	}
	return list;
}

bool
rctl_store_is_taken(const char *fact, const char *value, int64 except_replica)
{
	return rctl_run("SELECT FROM replica_ctl.replica"
					" WHERE facts->>$1 = $2 AND replica_id <> $3::bigint",
					ARGS(fact, value, rctl_id_text(except_replica))) > 0;
}
