/*-------------------------------------------------------------------------
 *
 * store.c
 *	  All SQL on the tables of schema replica_ctl: brackets and statements.
 *
 * The statements themselves are in store_call.c (what SQL functions read and
 * write), store_launcher.c, store_operation.c (the engine's) and
 * store_replica.c.  They take and give text, with casts in the SQL, so that
 * they can be read, and pasted into psql, as they stand.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "core/board.h"
#include "core/store.h"
#include "core/store_private.h"
#include "net/wait.h"
#include "primary/fence.h"

#define MAX_ARGS 16

/* pg_notify refuses payloads of 8000 bytes and more. */
#define NOTIFY_MAX 7900

/* A user's transaction that has notified, too, may be in the way for ever. */
#define NOTIFY_LOCK_TIMEOUT "200ms"

MemoryContext rctl_result_context = NULL;
Oid			rctl_store_caller = InvalidOid;
pqsigfunc	rctl_store_sigint = SIG_IGN;

/* The registry that this worker's operation was loaded from, by its table's OID. */
static Oid	registry = InvalidOid;
static bool registry_lost = false;

/* Payloads of the events that a worker's transaction has written, in TopMemoryContext. */
static List *unsent = NIL;

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
	/* Events of a transaction that was rolled back have not happened. */
	list_free_deep(unsent);
	unsent = NIL;
	rctl_result_context = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	rctl_store_caller = GetUserId();
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

void
rctl_store_hold_registry(void)
{
	registry = find_registry(RowExclusiveLock);
}

bool
rctl_store_lost(void)
{
	return registry_lost;
}

static void
set_locally(const char *setting, const char *value)
{
	/*
	 * A source above the one of the worker's own setting, so that it ends
	 * with the transaction.
	 */
	(void) set_config_option(setting, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* With a lock_timeout, which comes as SIGINT. */
static void
notify(void)
{
	ListCell   *lc;

	StartTransactionCommand();
	connect_spi();
	set_locally("lock_timeout", NOTIFY_LOCK_TIMEOUT);
	set_locally("synchronous_commit", "off");
	foreach(lc, unsent)
		rctl_run("SELECT pg_notify('replica_ctl', $1)", ARGS(lfirst(lc)));
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Sends the events of the transaction that was just committed.  PostgreSQL
 * lets one transaction at a time commit a NOTIFY, and one that waits for a
 * synchronous standby is in that place until the standby answers.  A worker's
 * work must not stop with it: so its notifications are not part of its
 * transactions, and are given up when they cannot be sent.
 */
static void
send_events(void)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool cancelled = false;

	pqsignal(SIGINT, StatementCancelHandler);
	PG_TRY();
	{
		notify();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		cancelled = geterrcode() == ERRCODE_QUERY_CANCELED;
		FlushErrorState();
		AbortCurrentTransaction();
		ereport(LOG,
				(errmsg("could not notify of %d events", list_length(unsent)),
				 errdetail("A transaction that has notified, too, waits at its commit."),
				 errhint("The events are in replica_events.")));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	list_free_deep(unsent);
	unsent = NIL;

	/* A cancel that was meant for the worker. */
	pqsignal(SIGINT, rctl_store_sigint);
	if (cancelled || QueryCancelPending)
	{
		QueryCancelPending = false;
		(void) kill(MyProcPid, SIGINT);
	}
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
	MemoryContextSwitchTo(rctl_result_context);
	pgstat_report_stat(true);
	if (wrote)
		rctl_board_changed();
	if (unsent != NIL)
		send_events();
}

void
rctl_store_commit_unflushed(void)
{
	set_locally("synchronous_commit", "off");
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
	rctl_result_context = CurrentMemoryContext;
	GetUserIdAndSecContext(&scope->userid, &scope->sec_context);
	rctl_store_caller = scope->userid;
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

uint64
rctl_execute(const char *sql, const char *const *args, int nargs, bool read_only)
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

uint64
rctl_run(const char *sql, const char *const *args, int nargs)
{
	return rctl_execute(sql, args, nargs, false);
}

char *
rctl_get(uint64 row, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(rctl_result_context, value) : NULL;
}

int64
rctl_get_int64(uint64 row, int column)
{
	char	   *value = rctl_get(row, column);

	return value ? pg_strtoint64(value) : 0;
}

bool
rctl_get_bool(uint64 row, int column)
{
	char	   *value = rctl_get(row, column);

	return value && value[0] == 't';
}

RctlMap *
rctl_get_map(uint64 row, int column, const char *what)
{
	MemoryContext old = MemoryContextSwitchTo(rctl_result_context);
	char	   *json = rctl_get(row, column);
	RctlMap    *map = json ? rctl_map_from_json(json, what) : rctl_map_make();

	MemoryContextSwitchTo(old);
	return map;
}

char *
rctl_id_text(int64 id)
{
	return psprintf(INT64_FORMAT, id);
}

/* ---------------------------------------------------------------------
 * Replicas and events
 * ---------------------------------------------------------------------
 */

void
rctl_store_settle_replica(const char *replica_id, const char *state, const char *message)
{
	if (state == NULL)
	{
		/* With the replica goes what earlier operations could not undo. */
		rctl_run("DELETE FROM replica_ctl.cleanup WHERE operation_id IN"
				 " (SELECT operation_id FROM replica_ctl.operation WHERE replica_id = $1::bigint)",
				 ARGS(replica_id));
		rctl_run("DELETE FROM replica_ctl.replica WHERE replica_id = $1::bigint", ARGS(replica_id));
	}
	else
		rctl_run("UPDATE replica_ctl.replica SET state = $2, message = $3,"
				 " since = CASE state WHEN $2 THEN since ELSE clock_timestamp() END"
				 " WHERE replica_id = $1::bigint",
				 ARGS(replica_id, state, message));
}

/* An event that is too long for a notification is sent without its detail. */
#define PAYLOAD \
	"(SELECT CASE WHEN octet_length(j::text) < " CppAsString2(NOTIFY_MAX) " THEN j::text" \
	"  ELSE (j - 'detail' - 'message')::text END" \
	" FROM jsonb_build_object('event', event_id, 'at', at, 'replica', replica, 'operation', operation_id," \
	"  'severity', severity, 'kind', kind, 'message', message, 'detail', detail, 'actor', actor) j)"

/* What waits for the webhook, if there is one. */
#define QUEUED \
	"q AS (INSERT INTO replica_ctl.webhook_queue (event_id) SELECT event_id FROM e" \
	"  WHERE current_setting('replica_ctl.webhook_url', true) <> '')"

/* A worker's is sent when its transaction was committed. */
static void
send_event(const char *payload)
{
	MemoryContext old;

	if (MyBgworkerEntry == NULL)
	{
		rctl_run("SELECT pg_notify('replica_ctl', $1)", ARGS(payload));
		return;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	unsent = lappend(unsent, pstrdup(payload));
	MemoryContextSwitchTo(old);
}

void
rctl_store_note_request(const char *replica, int64 operation, const char *severity,
						const char *kind, const char *message, const char *detail, const char *actor)
{
	rctl_run("WITH e AS (INSERT INTO replica_ctl.event (replica, operation_id, severity, kind, message, detail, actor)"
			 " VALUES ($1::name, nullif($2::bigint, 0), $3, $4, $5, $6::jsonb, coalesce($7, current_user)::name)"
			 " RETURNING *), " QUEUED " SELECT " PAYLOAD " FROM e",
			 ARGS(replica, rctl_id_text(operation), severity, kind, message, detail ? detail : "{}", actor));
}

void
rctl_store_send_request(int64 operation)
{
	if (rctl_run("SELECT " PAYLOAD " FROM replica_ctl.event WHERE operation_id = $1::bigint"
				 " AND at >= (SELECT requested_at - interval '1 minute' FROM replica_ctl.operation"
				 "  WHERE operation_id = $1::bigint) ORDER BY event_id LIMIT 1",
				 ARGS(rctl_id_text(operation))) > 0)
		send_event(rctl_get(0, 1));
}

void
rctl_store_event(const char *replica, int64 operation, const char *severity,
				 const char *kind, const char *message, const char *detail, const char *actor)
{
	rctl_store_note_request(replica, operation, severity, kind, message, detail, actor);
	send_event(rctl_get(0, 1));
}

void
rctl_store_event_once(const char *replica, TimestampTz at, const char *severity,
					  const char *kind, const char *message, const char *detail)
{
	if (rctl_run("WITH e AS (INSERT INTO replica_ctl.event (at, replica, severity, kind, message, detail, actor)"
				 " SELECT $1::timestamptz, $2::name, $3, $4, $5, $6::jsonb, current_user"
				 " WHERE NOT EXISTS (SELECT FROM replica_ctl.event e"
				 "  WHERE e.detail->>'id' = $6::jsonb->>'id' AND e.kind = $4 AND e.replica IS NOT DISTINCT FROM $2::name)"
				 " RETURNING *), " QUEUED " SELECT " PAYLOAD " FROM e",
				 ARGS(timestamptz_to_str(at), replica, severity, kind, message, detail)) > 0)
		send_event(rctl_get(0, 1));
}
