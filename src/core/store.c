/*-------------------------------------------------------------------------
 *
 * store.c
 *	  All SQL on the tables of schema replica_ctl.
 *
 * Statements take and give text, with casts in the SQL: the statements can be
 * read, and pasted into psql, as they stand.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "core/board.h"
#include "core/identity.h"
#include "core/rejoin.h"
#include "core/store.h"
#include "net/wait.h"
#include "primary/fence.h"

#define MAX_ARGS 16
#define ARGS(...) (const char *const[]) {__VA_ARGS__}, lengthof(((const char *const[]) {__VA_ARGS__}))
#define NO_ARGS NULL, 0

/* pg_notify refuses payloads of 8000 bytes and more. */
#define NOTIFY_MAX 7900

/* "the row is this server's own", for the parameters $1 to $3. */
#define OWNED "system_identifier = $1 AND timeline_id = $2::int AND home = $3"

/* How many old rows one transaction of the launcher removes. */
#define PRUNE_BATCH 1000

static MemoryContext result_context = NULL;

/* Who called the SQL function whose bracket is open; in a worker, itself. */
static Oid	caller = InvalidOid;

/* The registry that this worker's operation was loaded from, by its table's OID. */
static Oid	registry = InvalidOid;
static bool registry_lost = false;

/* What rctl_store_begin() changed in a session. */
static RctlStoreScope session_scope;

/* ---------------------------------------------------------------------
 * Brackets
 * ---------------------------------------------------------------------
 */

/* The OID of the registry as it is now, locked if lockmode is not NoLock. */
static Oid
find_registry(LOCKMODE lockmode)
{
	return RangeVarGetRelid(makeRangeVar("replica_ctl", "operation", -1), lockmode, true);
}

static void
begin(void)
{
	result_context = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	caller = GetUserId();
}

static void
connect_spi(void)
{
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
rctl_store_begin(void)
{
	if (rctl_wait_in_transaction)
	{
		rctl_store_enter_read(&session_scope);
		return;
	}
	begin();
	if (OidIsValid(registry) && find_registry(RowExclusiveLock) != registry)
	{
		registry_lost = true;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension replica_ctl was dropped while the operation ran")));
	}
	connect_spi();
}

void
rctl_store_begin_elsewhere(void)
{
	if (rctl_wait_in_transaction)
	{
		rctl_store_enter_read(&session_scope);
		return;
	}
	begin();
	connect_spi();
}

bool
rctl_store_check_lost(void)
{
	MemoryContext old = CurrentMemoryContext;

	if (OidIsValid(registry) && !registry_lost)
	{
		StartTransactionCommand();
		registry_lost = find_registry(NoLock) != registry;
		CommitTransactionCommand();
		MemoryContextSwitchTo(old);
	}
	return registry_lost;
}

bool
rctl_store_lost(void)
{
	return registry_lost;
}

void
rctl_store_commit(void)
{
	bool		wrote = TransactionIdIsValid(GetTopTransactionIdIfAny());

	if (rctl_wait_in_transaction)
	{
		rctl_store_leave(&session_scope);
		return;
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(result_context);
	pgstat_report_stat(true);
	if (wrote)
		rctl_board_changed();
}

void
rctl_store_commit_unflushed(void)
{
	/*
	 * A source above the one of the worker's own setting, so that it ends
	 * with the transaction.
	 */
	(void) set_config_option("synchronous_commit", "off", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	rctl_store_commit();
}

/* The owner of schema replica_ctl, as whom the registry is written. */
static Oid
registry_owner(void)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACENAME, CStringGetDatum("replica_ctl"));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"replica_ctl\" does not exist"),
				 errhint("Run CREATE EXTENSION replica_ctl.")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
rctl_store_enter_read(RctlStoreScope *scope)
{
	result_context = CurrentMemoryContext;
	GetUserIdAndSecContext(&scope->userid, &scope->sec_context);
	caller = scope->userid;
	SetUserIdAndSecContext(registry_owner(),
						   scope->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
}

void
rctl_store_enter(RctlStoreScope *scope)
{
	rctl_store_enter_read(scope);
	rctl_fence_begin_pass();
}

void
rctl_store_leave(RctlStoreScope *scope)
{
	SPI_finish();
	rctl_fence_end_pass();
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->userid, scope->sec_context);
}

bool
rctl_store_installed(void)
{
	return OidIsValid(get_extension_oid("replica_ctl", true));
}

/* ---------------------------------------------------------------------
 * Statements
 * ---------------------------------------------------------------------
 */

/* Runs one statement; returns the number of rows. */
static uint64
execute(const char *sql, const char *const *args, int nargs, bool read_only)
{
	Oid			types[MAX_ARGS];
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS] = {0};
	int			rc;

	Assert(nargs <= MAX_ARGS);
	for (int i = 0; i < nargs; i++)
	{
		types[i] = TEXTOID;
		nulls[i] = args[i] ? ' ' : 'n';
		values[i] = args[i] ? CStringGetTextDatum(args[i]) : (Datum) 0;
	}
	rc = SPI_execute_with_args(sql, nargs, types, values, nulls, read_only, 0);
	if (rc < 0)
		elog(ERROR, "registry statement failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

static uint64
run(const char *sql, const char *const *args, int nargs)
{
	return execute(sql, args, nargs, false);
}

/* A column (from 1) of a row (from 0) of the last result, in the caller's context; NULL for null. */
static char *
get(uint64 row, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(result_context, value) : NULL;
}

static int64
get_int64(uint64 row, int column)
{
	char	   *value = get(row, column);

	return value ? pg_strtoint64(value) : 0;
}

static bool
get_bool(uint64 row, int column)
{
	char	   *value = get(row, column);

	return value && value[0] == 't';
}

/* A json column as a map, in the caller's context. */
static RctlMap *
get_map(uint64 row, int column, const char *what)
{
	MemoryContext old = MemoryContextSwitchTo(result_context);
	char	   *json = get(row, column);
	RctlMap    *map = json ? rctl_map_from_json(json, what) : rctl_map_make();

	MemoryContextSwitchTo(old);
	return map;
}

static char *
id_text(int64 id)
{
	return psprintf(INT64_FORMAT, id);
}

/* ---------------------------------------------------------------------
 * SQL functions
 * ---------------------------------------------------------------------
 */

bool
rctl_store_add_replica(const char *name, const char *server, const char *options, int64 *id)
{
	const RctlIdentity *me = rctl_identity();

	/*
	 * What a failed creation left in the registry must not be in the way of
	 * the next try.
	 */
	run("DELETE FROM replica_ctl.replica r WHERE name = $1::name AND state = 'failed'"
		" AND facts = '{}' AND NOT EXISTS (SELECT FROM replica_ctl.operation o"
		"  WHERE o.replica_id = r.replica_id AND o.state NOT IN ('failed', 'cancelled'))",
		ARGS(name));
	if (run("INSERT INTO replica_ctl.replica (name, server, state, options, created_by,"
			"  system_identifier, timeline_id, home)"
			" VALUES ($1::name, $2::name, 'creating', $3::jsonb, $4::name, $5, $6::int, $7)"
			" ON CONFLICT (name) DO NOTHING RETURNING replica_id",
			ARGS(name, server, options, GetUserNameFromId(GetSessionUserId(), false),
				 me->system_identifier, me->timeline, me->home)) == 0)
		return false;
	*id = get_int64(0, 1);
	return true;
}

static bool
find_replica(const char *name, const char *lock, RctlReplicaRow *row)
{
	const RctlIdentity *me = rctl_identity();

	if (run(psprintf("SELECT replica_id, server, state, " OWNED
					 " FROM replica_ctl.replica WHERE name = $4::name%s", lock),
			ARGS(me->system_identifier, me->timeline, me->home, name)) == 0)
		return false;
	row->id = get_int64(0, 1);
	row->server = get(0, 2);
	row->state = get(0, 3);
	row->owned = get_bool(0, 4);
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
	if (run("SELECT operation_id FROM replica_ctl.operation"
			" WHERE replica_id = $1::bigint AND state IN ('queued', 'running')",
			ARGS(id_text(replica_id))) == 0)
		return 0;
	return get_int64(0, 1);
}

/*
 * Makes the records that earlier operations could not handle the new one's.
 * Where there was no way back they say how to undo what has to stay.
 */
static void
inherit_cleanups(const char *operation, const char *replica_id)
{
	run("INSERT INTO replica_ctl.cleanup (operation_id, type, object, always)"
		" SELECT $1::bigint, type, object, true"
		" FROM replica_ctl.cleanup JOIN replica_ctl.operation USING (operation_id)"
		" WHERE replica_id = $2::bigint AND state IN ('failed', 'cancelled')"
		"  AND (kind = 'drop' OR NOT no_return) AND operation_id <> $1::bigint"
		" ORDER BY cleanup_id ON CONFLICT DO NOTHING",
		ARGS(operation, replica_id));
	run("DELETE FROM replica_ctl.cleanup c USING replica_ctl.operation o"
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

	run("UPDATE replica_ctl.operation SET state = $2, finished_at = coalesce(finished_at, clock_timestamp())"
		" WHERE replica_id = $1::bigint AND state = 'needs_attention'",
		ARGS(id_text(replica_id),
			 rctl_op_state_name(rctl_op_next(RCTL_STATE_NEEDS_ATTENTION, RCTL_EVENT_SUPERSEDE))));

	/*
	 * One that is invisible to a snapshot of long ago is a serialization
	 * failure, not a violation of the unique index.
	 */
	if (run("INSERT INTO replica_ctl.operation (replica_id, replica, kind, arguments, previous_state,"
			"  requested_by, system_identifier, timeline_id, home)"
			" VALUES ($1::bigint, $2::name, $3, $4::jsonb, $5, $6::name, $7, $8::int, $9)"
			" ON CONFLICT DO NOTHING RETURNING operation_id",
			ARGS(id_text(replica_id), replica, rctl_op_kind_name(kind), arguments, previous_state,
				 GetUserNameFromId(caller, false),
				 me->system_identifier, me->timeline, me->home)) == 0)
		elog(ERROR, "replica \"%s\" has an unfinished operation", replica);
	operation = get(0, 1);
	if (state)
		run("UPDATE replica_ctl.replica SET state = $2, since = clock_timestamp(), message = NULL"
			" WHERE replica_id = $1::bigint",
			ARGS(id_text(replica_id), state));
	if (kind == RCTL_OP_DROP)
		inherit_cleanups(operation, id_text(replica_id));
	return pg_strtoint64(operation);
}

int64
rctl_store_latest(const char *replica, bool read_only)
{
	if (execute("SELECT max(operation_id) FROM replica_ctl.operation WHERE replica = $1::name",
				ARGS(replica), read_only) == 0)
		return 0;
	return get_int64(0, 1);
}

bool
rctl_store_outcome(int64 operation, RctlOutcome *outcome, bool read_only)
{
	if (execute("SELECT o.state, kind, replica, sqlstate, o.message, detail, hint, requested_by, no_return, server"
				" FROM replica_ctl.operation o LEFT JOIN replica_ctl.replica r USING (replica_id)"
				" WHERE operation_id = $1::bigint",
				ARGS(id_text(operation)), read_only) == 0)
		return false;
	outcome->state = rctl_op_state_parse(get(0, 1));
	outcome->kind = get(0, 2);
	outcome->replica = get(0, 3);
	outcome->error.sqlstate = get(0, 4);
	outcome->error.message = get(0, 5);
	outcome->error.detail = get(0, 6);
	outcome->error.hint = get(0, 7);
	outcome->requested_by = get(0, 8);
	outcome->no_return = get_bool(0, 9);
	outcome->server = get(0, 10);
	return true;
}

/* What an operation leaves of its replica's row; state NULL: nothing. */
static void
settle_replica(const char *replica_id, const char *state, const char *message)
{
	if (state == NULL)
	{
		/* With the replica goes what earlier operations could not undo. */
		run("DELETE FROM replica_ctl.cleanup WHERE operation_id IN"
			" (SELECT operation_id FROM replica_ctl.operation WHERE replica_id = $1::bigint)",
			ARGS(replica_id));
		run("DELETE FROM replica_ctl.replica WHERE replica_id = $1::bigint", ARGS(replica_id));
	}
	else
		run("UPDATE replica_ctl.replica SET state = $2, message = $3,"
			" since = CASE state WHEN $2 THEN since ELSE clock_timestamp() END"
			" WHERE replica_id = $1::bigint",
			ARGS(replica_id, state, message));
}

bool
rctl_store_request_cancel(int64 operation)
{
	const char *cancelled = rctl_op_state_name(rctl_op_next(RCTL_STATE_QUEUED, RCTL_EVENT_CANCELLED));
	const char *kind;
	const char *replica;

	/* An undo goes on, and says what it was that failed. */
	if (run("UPDATE replica_ctl.operation SET cancel_requested = cancel_requested OR NOT undoing, not_before = '-infinity',"
			"  state = CASE WHEN started_at IS NULL THEN $2 ELSE state END,"
			"  finished_at = CASE WHEN started_at IS NULL THEN clock_timestamp() END,"
			"  sqlstate = CASE WHEN started_at IS NULL THEN '57014' ELSE sqlstate END,"
			"  message = CASE WHEN started_at IS NULL THEN 'the operation was cancelled' ELSE message END"
			" WHERE operation_id = $1::bigint AND state IN ('queued', 'running') AND NOT no_return"
			" RETURNING state, replica_id, previous_state, kind, replica, requested_by",
			ARGS(id_text(operation), cancelled)) == 0)
		return false;
	if (strcmp(get(0, 1), cancelled) == 0)
	{
		kind = get(0, 4);
		replica = get(0, 5);
		settle_replica(get(0, 2), get(0, 3), NULL);
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

	count = run("UPDATE replica_ctl.replica SET system_identifier = $1, timeline_id = $2::int, home = $3"
				" WHERE NOT (" OWNED ")",
				ARGS(me->system_identifier, me->timeline, me->home));

	/*
	 * It starts with fresh attempts; an undo keeps the error that it ends
	 * with.
	 */
	count += run("UPDATE replica_ctl.operation SET system_identifier = $1, timeline_id = $2::int, home = $3,"
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

static RctlReplica *read_replica(uint64 row, int first);

/* ---------------------------------------------------------------------
 * Launcher
 * ---------------------------------------------------------------------
 */

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
	rows = run("SELECT operation_id,"
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
		double		wait = strtod(get(i, 2), NULL);
		MemoryContext old;
		int64	   *id;

		if (wait > 0 || list_length(due) >= limit)
		{
			*next_ms = wait > 0 ? (long) Min(wait, 60000.0) : -1;
			break;
		}
		old = MemoryContextSwitchTo(result_context);
		id = palloc(sizeof(int64));
		*id = get_int64(i, 1);
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
	count = run("UPDATE replica_ctl.operation SET state = 'needs_attention', finished_at = clock_timestamp(),"
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

	rows = run("SELECT r.replica_id, r.name, r.server, r.state, r.options, r.facts, r.timeline_id, r.home,"
			   "  o.operation_id, coalesce(o.state, 'queued'), o.arguments, o.scratch, o.requested_by"
			   " FROM replica_ctl.replica r LEFT JOIN replica_ctl.operation o ON o.replica_id = r.replica_id"
			   "  AND o.state IN ('queued', 'running') AND o.kind IN ('promote', 'switchover')"
			   " WHERE r.system_identifier = $1 AND r.timeline_id < $2::int AND r.facts->>'slot' = $3"
			   " ORDER BY r.replica_id",
			   ARGS(me->system_identifier, me->timeline, slot));
	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(result_context);
		RctlPromotion *promotion = palloc0(sizeof(RctlPromotion));

		promotion->self = read_replica(i, 1);
		promotion->owner_timeline = get(i, 7);
		promotion->owner_home = get(i, 8);
		promotion->operation = get_int64(i, 9);
		promotion->state = rctl_op_state_parse(get(i, 10));
		promotion->arguments = get_map(i, 11, "arguments");
		promotion->scratch = get_map(i, 12, "scratch");
		promotion->requested_by = get(i, 13);
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
	char	   *id = id_text(promotion->operation);

	run("UPDATE replica_ctl.operation SET state = $2, system_identifier = $3, timeline_id = $4::int, home = $5,"
		"  undoing = false, no_return = true, cancel_requested = false, attempt = 0, not_before = '-infinity',"
		"  sqlstate = NULL, message = NULL, detail = NULL, hint = NULL,"
		"  finished_at = CASE $2 WHEN 'succeeded' THEN clock_timestamp() END"
		" WHERE operation_id = $1::bigint",
		ARGS(id, rctl_op_state_name(state), me->system_identifier, me->timeline, me->home));
	run("DELETE FROM replica_ctl.cleanup WHERE operation_id = $1::bigint", ARGS(id));
	run("UPDATE replica_ctl.operation_step SET ended_at = clock_timestamp(), outcome = 'done'"
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
	run("UPDATE replica_ctl.replica SET state = 'promoted', since = clock_timestamp(), message = NULL,"
		"  system_identifier = $2, timeline_id = $3::int, home = $4"
		" WHERE replica_id = $1::bigint",
		ARGS(id_text(promotion->self->id), me->system_identifier, me->timeline, me->home));
}

void
rctl_store_take_over(const RctlPromotion *promotion, const char *owner_name, const char *owner_facts)
{
	const RctlIdentity *me = rctl_identity();
	const RctlReplica *self = promotion->self;

	run("DELETE FROM replica_ctl.replica WHERE replica_id = $1::bigint", ARGS(id_text(self->id)));
	run("UPDATE replica_ctl.replica SET system_identifier = $1, timeline_id = $2::int, home = $3,"
		"  facts = CASE facts->>'upstream' WHEN $6 THEN facts - 'upstream' ELSE facts END"
		" WHERE system_identifier = $1 AND timeline_id = $4::int AND home = $5",
		ARGS(me->system_identifier, me->timeline, me->home,
			 promotion->owner_timeline, promotion->owner_home, self->name));
	run("INSERT INTO replica_ctl.replica (name, server, state, options, facts, created_by,"
		"  system_identifier, timeline_id, home)"
		" VALUES ($1::name, $2::name, 'streaming', '{}', $3::jsonb, $4::name, $5, $6::int, $7)"
		" RETURNING replica_id",
		ARGS(owner_name, self->server, owner_facts, promotion->requested_by,
			 me->system_identifier, me->timeline, me->home));
	run("UPDATE replica_ctl.operation SET replica_id = $2::bigint, previous_state = 'streaming', step = $3"
		" WHERE operation_id = $1::bigint",
		ARGS(id_text(promotion->operation), get(0, 1), RCTL_ARRIVE_STEP));
	own_operation(promotion, rctl_op_next(started(promotion), RCTL_EVENT_RETRY));
}

void
rctl_store_park(int64 operation, const RctlError *error)
{
	const char *kind;
	const char *replica;

	if (run("UPDATE replica_ctl.operation SET state = 'needs_attention', finished_at = clock_timestamp(),"
			" sqlstate = $2, message = $3, detail = $4, hint = $5"
			" WHERE operation_id = $1::bigint AND state IN ('queued', 'running')"
			" RETURNING kind, replica, replica_id, CASE WHEN no_return THEN 'failed' ELSE coalesce(previous_state, 'failed') END",
			ARGS(id_text(operation), error->sqlstate, error->message, error->detail, error->hint)) == 0)
		return;
	kind = get(0, 1);
	replica = get(0, 2);
	settle_replica(get(0, 3), get(0, 4), error->message);
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

	operations = run("DELETE FROM replica_ctl.operation WHERE operation_id IN ("
					 " SELECT operation_id FROM replica_ctl.operation o"
					 " WHERE state IN ('succeeded', 'failed', 'cancelled')"
					 "  AND finished_at < clock_timestamp() - $1::int * interval '1 second'"
					 "  AND (EXISTS (SELECT FROM replica_ctl.operation l"
					 "    WHERE l.replica = o.replica AND l.replica_id = o.replica_id AND l.operation_id > o.operation_id)"
					 "   OR NOT EXISTS (SELECT FROM replica_ctl.replica r WHERE r.replica_id = o.replica_id))"
					 " LIMIT $2::int)",
					 ARGS(seconds, batch));
	events = run("DELETE FROM replica_ctl.event WHERE event_id IN ("
				 " SELECT event_id FROM replica_ctl.event"
				 " WHERE at < clock_timestamp() - $1::int * interval '1 second'"
				 " ORDER BY at LIMIT $2::int)",
				 ARGS(seconds, batch));
	return operations == PRUNE_BATCH || events == PRUNE_BATCH;
}

/* ---------------------------------------------------------------------
 * Engine
 * ---------------------------------------------------------------------
 */

/* The server of a replica and its provider; raises an error where there is none. */
static void
resolve_server(RctlReplica *replica)
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

static const char *const replica_columns =
"replica_id, name, server, state, options, facts";

/* From a row whose columns from first on are replica_columns. */
static RctlReplica *
read_replica(uint64 row, int first)
{
	RctlReplica *replica = MemoryContextAllocZero(result_context, sizeof(RctlReplica));

	replica->id = get_int64(row, first);
	replica->name = get(row, first + 1);
	replica->server = get(row, first + 2);
	replica->state = get(row, first + 3);
	replica->options = get_map(row, first + 4, "options");
	replica->facts = get_map(row, first + 5, "facts");
	return replica;
}

RctlReplica *
rctl_store_replica(const char *name)
{
	RctlReplica *replica;

	if (run(psprintf("SELECT %s FROM replica_ctl.replica WHERE name = $1::name", replica_columns),
			ARGS(name)) == 0)
		return NULL;
	replica = read_replica(0, 1);
	resolve_server(replica);
	return replica;
}

/* Replicas (with providers) by a condition on their rows. */
static List *
read_replicas(const char *condition, const char *const *args, int nargs)
{
	uint64		rows = run(psprintf("SELECT %s FROM replica_ctl.replica WHERE %s ORDER BY replica_id",
									replica_columns, condition), args, nargs);
	List	   *replicas = NIL;
	ListCell   *lc;

	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(result_context);

		replicas = lappend(replicas, read_replica(i, 1));
		MemoryContextSwitchTo(old);
	}
	foreach(lc, replicas)
		resolve_server(lfirst(lc));
	return replicas;
}

List *
rctl_store_siblings(int64 except_replica)
{
	const RctlIdentity *me = rctl_identity();

	return read_replicas(OWNED " AND state = 'streaming' AND facts->>'upstream' IS NULL"
						 " AND replica_id <> $4::bigint",
						 ARGS(me->system_identifier, me->timeline, me->home, id_text(except_replica)));
}

int64
rctl_store_any_unfinished(int64 except_operation)
{
	const RctlIdentity *me = rctl_identity();

	if (run("SELECT min(operation_id) FROM replica_ctl.operation WHERE " OWNED
			" AND state IN ('queued', 'running') AND operation_id <> $4::bigint",
			ARGS(me->system_identifier, me->timeline, me->home, id_text(except_operation))) == 0)
		return 0;
	return get_int64(0, 1);
}

char *
rctl_store_free_name(const char *wanted, int64 except_replica)
{
	run("SELECT name FROM (SELECT 1 AS n, $1::name AS name UNION ALL"
		"  SELECT n, (left($1, 58) || '_' || n)::name FROM generate_series(2, 1000) n) c"
		" WHERE NOT EXISTS (SELECT FROM replica_ctl.replica r WHERE r.name = c.name AND replica_id <> $2::bigint)"
		" ORDER BY n LIMIT 1",
		ARGS(wanted, id_text(except_replica)));
	return get(0, 1);
}

bool
rctl_store_streams(const char *application_name)
{
	return run("SELECT FROM pg_catalog.pg_stat_replication WHERE application_name = $1 AND state = 'streaming'",
			   ARGS(application_name)) > 0;
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
	run("SELECT count(*) FROM pg_catalog.pg_stat_replication"
		" WHERE sync_state <> 'async' AND application_name <> ALL ($1::text[])",
		ARGS(fact_array(replicas, "application_name")));
	return (int) get_int64(0, 1);
}

char *
rctl_store_foreign_slots(const RctlReplica *replica, List *others)
{
	run("SELECT string_agg(quote_ident(slot_name), ', ' ORDER BY slot_name) FROM pg_catalog.pg_replication_slots"
		" WHERE NOT temporary AND slot_name <> ALL ($1::text[]) AND NOT starts_with(slot_name, 'replica_ctl_')",
		ARGS(fact_array(lappend(list_copy(others), (void *) replica), "slot")));
	return get(0, 1);
}

List *
rctl_store_other_replicas(int64 except_replica)
{
	const RctlIdentity *me = rctl_identity();

	return read_replicas(OWNED " AND state = 'streaming' AND replica_id <> $4::bigint",
						 ARGS(me->system_identifier, me->timeline, me->home, id_text(except_replica)));
}

/* ---------------------------------------------------------------------
 * replica_explain
 * ---------------------------------------------------------------------
 */

RctlReplica *
rctl_store_imagine_replica(const char *name, const char *server, RctlMap *options)
{
	RctlReplica *replica = MemoryContextAllocZero(result_context, sizeof(RctlReplica));
	MemoryContext old = MemoryContextSwitchTo(result_context);

	replica->name = pstrdup(name);
	replica->server = pstrdup(server);
	replica->state = pstrdup("creating");
	replica->options = options;
	replica->facts = rctl_map_make();
	resolve_server(replica);
	MemoryContextSwitchTo(old);
	return replica;
}

RctlOp *
rctl_store_dry_run(RctlOpKind kind, RctlReplica *replica, RctlMap *arguments)
{
	RctlOp	   *op = MemoryContextAllocZero(result_context, sizeof(RctlOp));
	MemoryContext old = MemoryContextSwitchTo(result_context);

	op->dry_run = true;
	op->kind = kind;
	op->requested_by_id = caller;
	op->requested_by = GetUserNameFromId(op->requested_by_id, false);
	op->replica = replica;
	op->arguments = arguments;
	op->state = rctl_map_make();
	op->server_options = rctl_map_from_options(GetForeignServer(replica->serverid)->options);
	op->step = pstrdup("explain");
	op->attempt = 1;
	op->requested_at = GetCurrentTimestamp();
	op->context = result_context;
	op->step_context = result_context;
	MemoryContextSwitchTo(old);
	return op;
}

List *
rctl_store_step_times(const char *kinds)
{
	List	   *times = NIL;
	uint64		rows;

	rows = run("SELECT step, count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)"
			   " FROM (SELECT s.step, extract(epoch FROM s.ended_at - s.started_at) AS seconds,"
			   "   row_number() OVER (PARTITION BY s.step ORDER BY s.started_at DESC) AS age"
			   "  FROM replica_ctl.operation_step s JOIN replica_ctl.operation o USING (operation_id)"
			   "  WHERE o.kind = ANY ($1::text[]) AND s.outcome = 'done') t"
			   " WHERE age <= 20 GROUP BY step",
			   ARGS(kinds));
	for (uint64 i = 0; i < rows; i++)
	{
		RctlStepTime *time = MemoryContextAllocZero(result_context, sizeof(RctlStepTime));
		MemoryContext old = MemoryContextSwitchTo(result_context);

		time->step = get(i, 1);
		time->runs = (int) get_int64(i, 2);
		time->seconds = strtod(get(i, 3), NULL);
		times = lappend(times, time);
		MemoryContextSwitchTo(old);
	}
	return times;
}

double
rctl_store_copy_rate(void)
{
	char	   *rate = NULL;

	if (run("SELECT sum(bytes_total) / nullif(sum(seconds), 0)"
			" FROM (SELECT o.bytes_total, extract(epoch FROM s.ended_at - s.started_at) AS seconds"
			"  FROM replica_ctl.operation_step s JOIN replica_ctl.operation o USING (operation_id)"
			"  WHERE o.kind = 'create' AND s.step = 'copy' AND s.outcome = 'done' AND o.bytes_total > 0"
			"  ORDER BY s.started_at DESC LIMIT 5) t", NO_ARGS) > 0)
		rate = get(0, 1);
	return rate ? strtod(rate, NULL) : 0;
}

void
rctl_store_lock_facts(void)
{
	run("SELECT pg_advisory_xact_lock('replica_ctl.replica'::regclass::int, 0)", NO_ARGS);
}

/* The options of a role's user mapping, or of that of PUBLIC, in the caller's context. */
static RctlMap *
user_mapping(Oid role, Oid server)
{
	Oid			users[] = {role, InvalidOid};	/* InvalidOid: PUBLIC */
	MemoryContext old = MemoryContextSwitchTo(result_context);
	RctlMap    *map = NULL;

	for (int i = 0; i < lengthof(users) && map == NULL; i++)
	{
		HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(users[i]),
											ObjectIdGetDatum(server));
		bool		isnull;
		Datum		options;

		if (!HeapTupleIsValid(tuple))
			continue;
		options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
		if (!isnull)
			map = rctl_map_from_options(untransformRelOptions(options));
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
	rows = run(psprintf("SELECT %s, created_by FROM replica_ctl.replica r"
						" WHERE " OWNED " AND state NOT IN ('creating', 'promoted')"
						"  AND jsonb_typeof(options) = 'object' AND jsonb_typeof(facts) = 'object'"
						"  AND EXISTS (SELECT FROM pg_catalog.pg_foreign_server WHERE srvname = r.server)"
						" ORDER BY replica_id LIMIT %d", replica_columns, limit),
			   ARGS(me->system_identifier, me->timeline, me->home));
	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(result_context);
		RctlMonitored *monitored = palloc(sizeof(RctlMonitored));

		MemoryContextSwitchTo(old);
		monitored->replica = read_replica(i, 1);
		resolve_server(monitored->replica);
		monitored->mapping = user_mapping(get_role_oid(get(i, 7), true), monitored->replica->serverid);
		old = MemoryContextSwitchTo(result_context);
		list = lappend(list, monitored);
		MemoryContextSwitchTo(old);
	}
	return list;
}

bool
rctl_store_slot_owner(const char *slot, char **replica, bool *busy)
{
	const RctlIdentity *me = rctl_identity();

	if (run("SELECT name, EXISTS (SELECT FROM replica_ctl.operation o"
			"  WHERE o.replica_id = r.replica_id AND o.state IN ('queued', 'running', 'needs_attention'))"
			" FROM replica_ctl.replica r"
			" WHERE " OWNED " AND facts->>'slot' = $4 AND NOT facts ? 'upstream'",
			ARGS(me->system_identifier, me->timeline, me->home, slot)) == 0)
		return false;
	*replica = get(0, 1);
	*busy = get_bool(0, 2);
	return true;
}

bool
rctl_store_is_taken(const char *fact, const char *value, int64 except_replica)
{
	return run("SELECT FROM replica_ctl.replica"
			   " WHERE facts->>$1 = $2 AND replica_id <> $3::bigint",
			   ARGS(fact, value, id_text(except_replica))) > 0;
}

RctlOpRow *
rctl_store_load(int64 operation)
{
	const RctlIdentity *me = rctl_identity();
	RctlOpRow  *row;
	char	   *at;
	MemoryContext old;

	if (run("SELECT state, kind, requested_by, arguments, scratch, step, attempt, undoing, no_return,"
			"  cancel_requested, previous_state, sqlstate, message, detail, hint, requested_at, replica_id"
			" FROM replica_ctl.operation"
			" WHERE " OWNED " AND operation_id = $4::bigint AND state IN ('queued', 'running')",
			ARGS(me->system_identifier, me->timeline, me->home, id_text(operation))) == 0)
		return NULL;

	registry = find_registry(RowExclusiveLock);
	row = MemoryContextAllocZero(result_context, sizeof(RctlOpRow));
	row->op.context = result_context;
	row->op.id = operation;
	row->state = rctl_op_state_parse(get(0, 1));
	row->op.kind = rctl_op_kind_parse(get(0, 2));
	row->op.requested_by = get(0, 3);
	row->op.arguments = get_map(0, 4, "arguments");
	row->op.state = get_map(0, 5, "scratch");
	row->op.step = get(0, 6);
	row->op.attempt = (int) get_int64(0, 7);
	row->undoing = get_bool(0, 8);
	row->no_return = get_bool(0, 9);
	row->cancel_requested = get_bool(0, 10);
	row->previous_state = get(0, 11);
	row->sqlstate = get(0, 12);
	row->message = get(0, 13);
	row->detail = get(0, 14);
	row->hint = get(0, 15);
	at = get(0, 16);
	row->op.requested_at = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(at),
																   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	if (run(psprintf("SELECT %s FROM replica_ctl.replica WHERE replica_id = $1::bigint", replica_columns),
			ARGS(get(0, 17))) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the replica of operation " INT64_FORMAT " is no longer in the registry", operation)));
	row->op.replica = read_replica(0, 1);
	resolve_server(row->op.replica);
	row->op.requested_by_id = get_role_oid(row->op.requested_by, true);

	old = MemoryContextSwitchTo(result_context);
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
	if (run("UPDATE replica_ctl.operation SET state = $2, steps = $3::int,"
			" started_at = coalesce(started_at, clock_timestamp())"
			" WHERE operation_id = $1::bigint AND state IN ('queued', 'running')"
			" RETURNING cancel_requested",
			ARGS(id_text(row->op.id), rctl_op_state_name(next), psprintf("%d", steps))) == 0)
		return false;
	row->state = next;
	row->cancel_requested = get_bool(0, 1);
	return true;
}

static void
end_step(RctlOpRow *row, const char *step, const char *outcome)
{
	run("UPDATE replica_ctl.operation_step SET ended_at = clock_timestamp(), outcome = $4"
		" WHERE operation_id = $1::bigint AND step = $2 AND attempt = $3::int",
		ARGS(id_text(row->op.id), step, psprintf("%d", row->op.attempt), outcome));
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
	run("UPDATE replica_ctl.operation SET step = $2, step_number = $3::int, attempt = $4::int,"
		" attempts = attempts + 1, no_return = $5::bool, progress = $6::real"
		" WHERE operation_id = $1::bigint",
		ARGS(id_text(row->op.id), step, psprintf("%d", number), psprintf("%d", row->op.attempt),
			 row->no_return ? "t" : "f", psprintf("%.4f", progress)));
	run("INSERT INTO replica_ctl.operation_step (operation_id, step, attempt, started_at)"
		" VALUES ($1::bigint, $2, $3::int, clock_timestamp())"
		" ON CONFLICT (operation_id, step, attempt) DO UPDATE"
		"  SET started_at = EXCLUDED.started_at, ended_at = NULL, outcome = NULL",
		ARGS(id_text(row->op.id), step, psprintf("%d", row->op.attempt)));
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
	run("UPDATE replica_ctl.operation SET sqlstate = $2, message = $3, detail = $4, hint = $5"
		" WHERE operation_id = $1::bigint",
		ARGS(id_text(row->op.id), error->sqlstate, error->message, error->detail, error->hint));
}

void
rctl_store_retry(RctlOpRow *row, const RctlError *error, long delay_ms)
{
	RctlOpState next = rctl_op_next(row->state, RCTL_EVENT_RETRY);

	store_error(row, error);
	run("UPDATE replica_ctl.operation SET state = $2, attempt = $4::int,"
		" not_before = clock_timestamp() + $3::bigint * interval '1 millisecond'"
		" WHERE operation_id = $1::bigint",
		ARGS(id_text(row->op.id), rctl_op_state_name(next), psprintf("%ld", delay_ms),
			 psprintf("%d", row->op.attempt)));
	row->state = next;
}

void
rctl_store_undoing(RctlOpRow *row, const RctlError *error)
{
	store_error(row, error);
	run("UPDATE replica_ctl.operation SET undoing = true, attempt = 0, cancel_requested = $2::bool"
		" WHERE operation_id = $1::bigint",
		ARGS(id_text(row->op.id), row->cancel_requested ? "t" : "f"));
	row->undoing = true;
	row->op.attempt = 0;
}

void
rctl_store_undo_attempt(RctlOpRow *row)
{
	row->op.attempt++;
	run("UPDATE replica_ctl.operation SET attempt = $2::int"
		" WHERE operation_id = $1::bigint",
		ARGS(id_text(row->op.id), psprintf("%d", row->op.attempt)));
}

void
rctl_store_end(RctlOpRow *row, RctlOpEvent event, const RctlError *error,
			   const char *replica_state, const char *replica_message)
{
	RctlOpState next = rctl_op_next(row->state, event);

	rctl_store_save(row);
	if (error)
		store_error(row, error);
	run("UPDATE replica_ctl.operation SET state = $2, finished_at = clock_timestamp(),"
		" sqlstate = CASE WHEN $3::bool THEN sqlstate END, message = CASE WHEN $3::bool THEN message END,"
		" detail = CASE WHEN $3::bool THEN detail END, hint = CASE WHEN $3::bool THEN hint END"
		" WHERE operation_id = $1::bigint",
		ARGS(id_text(row->op.id), rctl_op_state_name(next),
			 event == RCTL_EVENT_FINISH ? "f" : "t"));
	if (event != RCTL_EVENT_PARK)
		run("DELETE FROM replica_ctl.cleanup WHERE operation_id = $1::bigint",
			ARGS(id_text(row->op.id)));
	settle_replica(id_text(row->op.replica->id), replica_state, replica_message);
	row->state = next;
}

void
rctl_store_save(RctlOpRow *row)
{
	RctlBoardEntry live;

	rctl_board_self(&live);
	run("UPDATE replica_ctl.operation SET scratch = $2::jsonb,"
		" bytes_done = nullif($3::bigint, 0), bytes_total = nullif($4::bigint, 0)"
		" WHERE operation_id = $1::bigint",
		ARGS(id_text(row->op.id), rctl_map_to_json(row->op.state),
			 psprintf(UINT64_FORMAT, live.bytes_done), psprintf(UINT64_FORMAT, live.bytes_total)));
	run("UPDATE replica_ctl.replica SET facts = $2::jsonb"
		" WHERE replica_id = $1::bigint AND facts <> $2::jsonb",
		ARGS(id_text(row->op.replica->id), rctl_map_to_json(row->op.replica->facts)));
}

int64
rctl_store_cleanup_add(RctlOpRow *row, const char *type, const RctlMap *object, bool always)
{
	if (run("INSERT INTO replica_ctl.cleanup (operation_id, type, object, always)"
			" VALUES ($1::bigint, $2, $3::jsonb, $4::bool) ON CONFLICT DO NOTHING RETURNING cleanup_id",
			ARGS(id_text(row->op.id), type, rctl_map_to_json(object), always ? "t" : "f")) == 0)
		return 0;
	return get_int64(0, 1);
}

List *
rctl_store_cleanups(RctlOpRow *row, const char *type, bool only_always)
{
	List	   *records = NIL;
	uint64		rows;

	rows = run("SELECT cleanup_id, type, object FROM replica_ctl.cleanup"
			   " WHERE operation_id = $1::bigint AND type = coalesce($2, type)"
			   "  AND (always OR NOT $3::bool)"
			   " ORDER BY cleanup_id DESC",
			   ARGS(id_text(row->op.id), type, only_always ? "t" : "f"));
	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(result_context);
		RctlCleanup *record = palloc(sizeof(RctlCleanup));

		record->id = get_int64(i, 1);
		record->type = get(i, 2);
		record->object = get_map(i, 3, "object");
		records = lappend(records, record);
		MemoryContextSwitchTo(old);
	}
	return records;
}

void
rctl_store_cleanup_forget(int64 cleanup_id)
{
	run("DELETE FROM replica_ctl.cleanup WHERE cleanup_id = $1::bigint",
		ARGS(id_text(cleanup_id)));
}

/* ---------------------------------------------------------------------
 * Events
 * ---------------------------------------------------------------------
 */

void
rctl_store_event(const char *replica, int64 operation, const char *severity,
				 const char *kind, const char *message, const char *detail, const char *actor)
{
	run("INSERT INTO replica_ctl.event (replica, operation_id, severity, kind, message, detail, actor)"
		" VALUES ($1::name, nullif($2::bigint, 0), $3, $4, $5, $6::jsonb, coalesce($7, current_user)::name)"
		" RETURNING jsonb_build_object('event', event_id, 'at', at, 'replica', replica, 'operation', operation_id,"
		"  'severity', severity, 'kind', kind, 'message', message, 'detail', detail, 'actor', actor)",
		ARGS(replica, id_text(operation), severity, kind, message, detail ? detail : "{}", actor));

	/*
	 * An event that is too long for a notification is sent without its
	 * detail.
	 */
	run("SELECT pg_notify('replica_ctl', CASE WHEN octet_length(e::text) < $2::int THEN e::text"
		"  ELSE (e - 'detail' - 'message')::text END)"
		" FROM (SELECT $1::jsonb AS e) s",
		ARGS(get(0, 1), psprintf("%d", NOTIFY_MAX)));
}
