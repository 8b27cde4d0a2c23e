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
#include "utils/builtins.h"
#include "utils/guc.h"
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

MemoryContext rctl_result_context = NULL;
Oid			rctl_store_caller = InvalidOid;

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

void
rctl_store_event(const char *replica, int64 operation, const char *severity,
				 const char *kind, const char *message, const char *detail, const char *actor)
{
	rctl_run("INSERT INTO replica_ctl.event (replica, operation_id, severity, kind, message, detail, actor)"
			 " VALUES ($1::name, nullif($2::bigint, 0), $3, $4, $5, $6::jsonb, coalesce($7, current_user)::name)"
			 " RETURNING jsonb_build_object('event', event_id, 'at', at, 'replica', replica, 'operation', operation_id,"
			 "  'severity', severity, 'kind', kind, 'message', message, 'detail', detail, 'actor', actor)",
			 ARGS(replica, rctl_id_text(operation), severity, kind, message, detail ? detail : "{}", actor));

	/*
	 * An event that is too long for a notification is sent without its
	 * detail.
	 */
	rctl_run("SELECT pg_notify('replica_ctl', CASE WHEN octet_length(e::text) < $2::int THEN e::text"
			 "  ELSE (e - 'detail' - 'message')::text END)"
			 " FROM (SELECT $1::jsonb AS e) s",
			 ARGS(rctl_get(0, 1), psprintf("%d", NOTIFY_MAX)));
}
