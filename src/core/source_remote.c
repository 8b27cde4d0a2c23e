/*-------------------------------------------------------------------------
 *
 * source_remote.c
 *	  Stops writes on a source that is another server, by SQL.
 *
 * Every database in which clients can write gets default_transaction_read_only
 * = on, and the sessions that began before that are ended.  That needs the
 * rights of the databases' owners, pg_signal_backend and pg_read_all_stats,
 * and no superuser: it is what a managed service leaves to its users.
 *
 * A session can overrule the setting.  So the proof that nobody writes is
 * another one: no transaction has been given an XID since the LSN was taken
 * that the replica must have.  Sessions that still write are ended whenever
 * they are seen, and then there is a new LSN.  What is left is the moment
 * between the last look and the promotion; a look after the promotion tells
 * if somebody has used it.
 *
 * What a database was set to is recorded, before anything is changed, in the
 * cleanup record: {"databases": {"app": "", "old": "off"}}, "" for one without
 * the setting.  Only these are touched, and put back only if they still are
 * what we made them.
 *
 * The setting travels in the WAL: the replica has it, too, when it is promoted.
 * So it is taken back there, as soon as the replica accepts that, by the role
 * that has set it on the source.
 *
 * Durable in op->state: source_databases (as in the record), source_began (by
 * the source's clock, when all were read-only), source_xmax, source_tuples.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "core/source_fence.h"
#include "core/timing.h"
#include "net/pgconn.h"
#include "net/wait.h"

#define CONNECT_TIMEOUT_MS 10000
#define QUERY_TIMEOUT_MS 10000
#define CHECK_CONNECT_MS 2000
#define LOOK_AGAIN_MS 20
#define OBSERVATIONS 50

/* How long a promoted replica may take to let itself be made writable. */
#define OPEN_MS 30000
#define OPEN_POLL_MS 50
#define OPEN_MARGIN_MS 2000

#define SETTING "default_transaction_read_only"

/* A proof that takes this long to look for is not one by LSN, see writes_since(). */
#define SLOW_PROOF_MS 1000

/* ---------------------------------------------------------------------
 * Connection
 * ---------------------------------------------------------------------
 */

/* source_conninfo with the password of the mapping, and another server's address if there is one. */
static char *
full_conninfo(const char *conninfo, const char *password, const char *host, const char *port)
{
	PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
	RctlConnParam *params;
	char	   *full;
	int			n = 0;

	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("server option source_conninfo is not a connection string")));
	for (PQconninfoOption *o = options; o->keyword; o++)
		n++;
	params = palloc0(sizeof(RctlConnParam) * (n + 4));
	n = 0;
	for (PQconninfoOption *o = options; o->keyword; o++)
	{
		if (o->val == NULL || strcmp(o->keyword, "password") == 0)
			continue;
		if (host && (strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "hostaddr") == 0 || strcmp(o->keyword, "port") == 0))
			continue;
		params[n].keyword = pstrdup(o->keyword);
		params[n++].value = pstrdup(o->val);
	}
	PQconninfoFree(options);
	params[n].keyword = "password";
	params[n++].value = password;
	params[n].keyword = "host";
	params[n++].value = host;
	params[n].keyword = "port";
	params[n++].value = port;
	full = rctl_conninfo(params);
	return full;
}

static bool
requester_is_superuser(RctlOp *op)
{
	bool		superuser;

	rctl_op_begin(op);
	superuser = superuser_arg(op->requested_by_id);
	rctl_op_commit(op);
	return superuser;
}

/*
 * Logs in as source_conninfo says, there or at another address.  Who is no
 * superuser must not log in somewhere as the user that this server runs as:
 * so there must be a password, and it must have been asked for.
 */
static PGconn *
login(RctlOp *op, const char *host, const char *port, long timeout_ms)
{
	const char *conninfo = rctl_map_get(op->server_options, "source_conninfo");
	char	   *password;
	bool		trusted;
	PGconn	   *conn;

	password = rctl_op_secret(op, "source_password");
	trusted = requester_is_superuser(op);
	if (password == NULL && !trusted)
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password for the source of replica \"%s\" is missing", op->replica->name),
				 errdetail("Only superusers may log in there without one."),
				 errhint("Set option source_password in the user mapping for server %s.",
						 quote_identifier(op->replica->server))));
	conn = rctl_pg_connect(full_conninfo(conninfo, password, host, port), timeout_ms,
						   psprintf("%sreplica \"%s\"", host ? "" : "source of ", op->replica->name));
	if (!trusted && !PQconnectionUsedPassword(conn))
	{
		rctl_pg_close(conn);
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("the %sreplica \"%s\" did not ask for the password", host ? "" : "source of ", op->replica->name),
				 errdetail("Only superusers may log in there without one."),
				 errhint("Change its pg_hba.conf to an authentication method with a password.")));
	}

	/* It may be we who made it read-only. */
	rctl_pg_clear(rctl_pg_exec(conn, QUERY_TIMEOUT_MS, "SET " SETTING " = off", 0, NULL));
	return conn;
}

PGconn *
rctl_source_connect(RctlOp *op, long timeout_ms)
{
	if (rctl_map_get(op->server_options, "source_conninfo") == NULL)
		return NULL;
	return login(op, NULL, NULL, timeout_ms);
}

/* The worker's connection to its operation's source, in op->context. */
static PGconn *
source_conn(RctlOp *op)
{
	static PGconn *conn = NULL;
	static int64 operation = 0;
	MemoryContext old;

	if (op->dry_run)
		return rctl_source_connect(op, CONNECT_TIMEOUT_MS);
	if (operation != op->id || !rctl_pg_usable(conn))
	{
		old = MemoryContextSwitchTo(op->context);
		conn = NULL;
		conn = rctl_source_connect(op, CONNECT_TIMEOUT_MS);
		operation = op->id;
		MemoryContextSwitchTo(old);
	}
	return conn;
}

static PGresult *
ask(RctlOp *op, const char *sql)
{
	return rctl_pg_exec(source_conn(op), QUERY_TIMEOUT_MS, sql, 0, NULL);
}

static char *
ask_value(RctlOp *op, const char *sql)
{
	return rctl_pg_value(source_conn(op), QUERY_TIMEOUT_MS, sql, 0, NULL);
}

XLogRecPtr
rctl_remote_flushed(RctlOp *op)
{
	return DatumGetLSN(DirectFunctionCall1(pg_lsn_in,
										   CStringGetDatum(ask_value(op, "SELECT pg_current_wal_flush_lsn()"))));
}

/* ---------------------------------------------------------------------
 * Databases
 * ---------------------------------------------------------------------
 */

/* In double quotes, whatever the source's version has reserved. */
static char *
quoted(const char *name)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoChar(&text, '"');
	for (; *name; name++)
	{
		if (*name == '"')
			appendStringInfoChar(&text, '"');
		appendStringInfoChar(&text, *name);
	}
	appendStringInfoChar(&text, '"');
	return text.data;
}

static char *
set_sql(const char *database, const char *value)
{
	if (value[0] == '\0')
		return psprintf("ALTER DATABASE %s RESET " SETTING, quoted(database));
	return psprintf("ALTER DATABASE %s SET " SETTING " = %s", quoted(database), quote_literal_cstr(value));
}

/* Databases that we may alter, with what the setting is; those of the service itself are nobody's. */
#define DATABASES_SQL \
"SELECT datname, coalesce((SELECT substr(c, 31) FROM pg_db_role_setting s, unnest(setconfig) c" \
"  WHERE s.setdatabase = d.oid AND s.setrole = 0 AND starts_with(c, '" SETTING "=')), '')" \
" FROM pg_database d WHERE datallowconn AND pg_has_role(datdba, 'USAGE')"

/* Database names to settings. */
static RctlMap *
read_databases(PGconn *conn)
{
	PGresult   *result = rctl_pg_exec(conn, QUERY_TIMEOUT_MS, DATABASES_SQL, 0, NULL);
	RctlMap    *databases = rctl_map_make();

	for (int i = 0; i < PQntuples(result); i++)
		rctl_map_set(databases, PQgetvalue(result, i, 0), PQgetvalue(result, i, 1));
	rctl_pg_clear(result);
	return databases;
}

static bool
is_on(const char *value)
{
	bool		on;

	return value && value[0] != '\0' && parse_bool(value, &on) && on;
}

/*
 * Makes all databases read-only.  On a second attempt what they were before is
 * what the first one has recorded.
 */
static void
make_read_only(RctlOp *op)
{
	const char *recorded = rctl_map_get(op->state, "source_databases");
	RctlMap    *databases = recorded ? rctl_map_from_json(recorded, "databases") : read_databases(source_conn(op));
	RctlMap    *now;
	RctlMap    *object = rctl_map_make();
	ListCell   *lc;

	rctl_map_set_json(op->state, "source_databases", rctl_map_to_json(databases));
	rctl_map_set_json(object, "databases", rctl_map_to_json(databases));
	rctl_op_cleanup_add(op, RCTL_SOURCE_RECORD, object, op->kind == RCTL_OP_DRILL);

	now = read_databases(source_conn(op));
	foreach(lc, databases->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);
		const char *value = rctl_map_get(now, entry->key);

		/* One may have been dropped since. */
		if (value != NULL && !is_on(value))
			(void) ask(op, set_sql(entry->key, "on"));
	}
	rctl_map_set(op->state, "source_began", ask_value(op, "SELECT clock_timestamp()"));
}

/* "ALTER DATABASE ...; ...": what a person has to run in our place. */
static char *
restore_text(const RctlMap *databases)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, databases->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);

		if (!is_on(entry->value))
			appendStringInfo(&text, "%s%s;", text.len > 0 ? " " : "", set_sql(entry->key, entry->value));
	}
	return text.data;
}

static void
restore(PGconn *conn, const RctlMap *databases)
{
	RctlMap    *now = read_databases(conn);
	ListCell   *lc;

	foreach(lc, databases->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);

		/* What is not "on" any more somebody else has changed since. */
		if (!is_on(entry->value) && is_on(rctl_map_get(now, entry->key)))
			rctl_pg_clear(rctl_pg_exec(conn, QUERY_TIMEOUT_MS, set_sql(entry->key, entry->value), 0, NULL));
	}
}

void
rctl_source_undo(RctlOp *op, const RctlCleanup *record)
{
	RctlMap    *databases = rctl_map_from_json(rctl_map_get(record->object, "databases"), "databases");
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		restore(source_conn(op), databases);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		ereport(ERROR,
				(errcode(error->sqlerrcode),
				 errmsg("%s", error->message),
				 errdetail("%s%sThe source stays read-only until this is run there: %s",
						   error->detail ? error->detail : "", error->detail ? " " : "", restore_text(databases)),
				 error->hint ? errhint("%s", error->hint) : 0));
	}
	PG_END_TRY();
}

/* ---------------------------------------------------------------------
 * Sessions
 * ---------------------------------------------------------------------
 */

/* Processes that may write and are not the source's own. */
#define OTHERS \
" pid <> pg_backend_pid() AND backend_type NOT IN" \
" ('walsender', 'walreceiver', 'autovacuum worker', 'autovacuum launcher', 'logical replication launcher')"

#define MAY_END \
" (current_setting('is_superuser') = 'on' OR (usesysid IS NOT NULL" \
"  AND NOT coalesce((SELECT rolsuper FROM pg_roles r WHERE r.oid = usesysid), true)))"

static long
count_writers(RctlOp *op)
{
	return strtol(ask_value(op, "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND" OTHERS),
				  NULL, 10);
}

/* Who writes, for messages; NULL: nobody. */
static char *
name_writers(RctlOp *op)
{
	return ask_value(op, "SELECT string_agg(format('process %s of %s', pid, coalesce(usename, backend_type)), ', ')"
					 " FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND" OTHERS);
}

/*
 * Ends sessions that may not know of the setting (backend_start is the time of
 * the fork, before settings are read) and those that write nevertheless.
 */
static void
end_sessions(RctlOp *op)
{
	const char *began = rctl_map_get(op->state, "source_began");

	(void) rctl_pg_value(source_conn(op), QUERY_TIMEOUT_MS,
						 "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
						 " WHERE (backend_xid IS NOT NULL"
						 "  OR (backend_type = 'client backend' AND backend_start <= $1::timestamptz)) AND"
						 OTHERS " AND" MAY_END,
						 1, &began);
}

static void
drain(RctlOp *op)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), rctl_argument_ms(op, "drain_ms", "1000"));

	while (count_writers(op) > 0 && GetCurrentTimestamp() < until)
		rctl_sleep(Min(rctl_time_left(op, "waiting for transactions to finish"), LOOK_AGAIN_MS));
}

/* Ends them, again and again, until there are none. */
static void
silence(RctlOp *op)
{
	char	   *writers;

	for (;;)
	{
		end_sessions(op);
		writers = name_writers(op);
		if (writers == NULL)
			break;
		rctl_sleep(Min(rctl_time_left(op, psprintf("still writing to the source: %s", writers)), LOOK_AGAIN_MS));
	}
}

/* ---------------------------------------------------------------------
 * The mark
 * ---------------------------------------------------------------------
 */

/* Tuples written in the databases that we made read-only; all of them, if none. */
#define TUPLES_SQL \
"(SELECT coalesce(sum(tup_inserted + tup_updated + tup_deleted), 0)::text FROM pg_stat_database" \
" WHERE datname = ANY (ARRAY[%s]::text[]))"

static char *
tuples_sql(RctlOp *op)
{
	const char *recorded = rctl_map_get(op->state, "source_databases");
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	if (recorded)
	{
		foreach(lc, rctl_map_from_json(recorded, "databases")->entries)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
							 quote_literal_cstr(((RctlMapEntry *) lfirst(lc))->key));
	}
	return psprintf(TUPLES_SQL, names.data);
}

/*
 * Notes an LSN after all that is committed; false if somebody writes.  Between
 * two looks at which no transaction has an XID there is only one of our own,
 * whose commit flushes the WAL of all before it; and every later one will show
 * by its XID.
 */
static bool
take_mark(RctlOp *op)
{
	char	   *before = ask_value(op, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::numeric + 1"
								   " WHERE pg_snapshot_xmin(pg_current_snapshot()) = pg_snapshot_xmax(pg_current_snapshot())");
	PGresult   *result;
	bool		quiet;

	if (before == NULL)
		return false;
	(void) ask_value(op, "SELECT pg_logical_emit_message(true, 'replica_ctl', 'end of writes')");
	result = ask(op, psprintf("SELECT pg_snapshot_xmin(pg_current_snapshot())::text,"
							  " pg_snapshot_xmax(pg_current_snapshot())::text, pg_current_wal_flush_lsn(), %s",
							  tuples_sql(op)));
	quiet = strcmp(PQgetvalue(result, 0, 0), before) == 0 && strcmp(PQgetvalue(result, 0, 1), before) == 0;
	if (quiet)
	{
		rctl_map_set(op->state, "source_xmax", before);
		rctl_map_set(op->state, "fence_lsn", PQgetvalue(result, 0, 2));
		rctl_map_set(op->state, "source_tuples", PQgetvalue(result, 0, 3));
		rctl_note_time(op, "fence_since");
	}
	rctl_pg_clear(result);
	return quiet;
}

/*
 * Whether a transaction may have written since the mark.  Where the proof that
 * the replica has caught up takes long, XIDs of the source's own housekeeping
 * (statistics, a service's heartbeat in a database of its own) must not make
 * it start again for ever: then tuples count, which are told a second late.
 */
static bool
writes_since(RctlOp *op)
{
	bool		slow = op->replica->provider->managed->poll_ms >= SLOW_PROOF_MS;
	PGresult   *result = ask(op, psprintf("SELECT pg_snapshot_xmax(pg_current_snapshot())::text,"
										  " EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND" OTHERS "),"
										  " %s", tuples_sql(op)));
	bool		advanced = strcmp(PQgetvalue(result, 0, 0), rctl_map_get_default(op->state, "source_xmax", "")) != 0;
	bool		writing = PQgetvalue(result, 0, 1)[0] == 't';
	bool		tuples = strcmp(PQgetvalue(result, 0, 2), rctl_map_get_default(op->state, "source_tuples", "")) != 0;

	rctl_pg_clear(result);
	return writing || (advanced && (tuples || !slow));
}

/* Until nobody writes. */
static void
take_mark_in_silence(RctlOp *op)
{
	for (;;)
	{
		silence(op);
		if (take_mark(op))
			return;
		rctl_sleep(Min(rctl_time_left(op, "transactions begin on the source again and again"), LOOK_AGAIN_MS));
	}
}

void
rctl_remote_stop(RctlOp *op)
{
	make_read_only(op);
	drain(op);
	take_mark_in_silence(op);
}

/* Somebody else has stopped writes, and says so. */
void
rctl_remote_observe(RctlOp *op)
{
	char	   *writers = name_writers(op);

	for (int i = 0; writers == NULL && i < OBSERVATIONS; i++)
	{
		if (take_mark(op))
			return;
		rctl_sleep(LOOK_AGAIN_MS);
		writers = name_writers(op);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the source of replica \"%s\" still takes writes", op->replica->name),
			 errdetail("Server option fence is \"external\", but there are: %s.",
					   writers ? writers : "transactions that begin and end"),
			 errhint("Stop all writes there, then call SELECT replica_promote(%s) again.",
					 quote_literal_cstr(op->replica->name))));
}

bool
rctl_remote_still(RctlOp *op)
{
	if (!writes_since(op))
		return true;
	(void) rctl_time_left(op, "somebody still writes to the source");
	if (rctl_source_fence_kind(op) == RCTL_SOURCE_EXTERNAL)
		rctl_remote_observe(op);
	else
		take_mark_in_silence(op);
	return false;
}

/* ---------------------------------------------------------------------
 * After the promotion
 * ---------------------------------------------------------------------
 */

/* Whether the replica's address is known, so that the role of source_conninfo can log in there. */
static bool
has_address(RctlOp *op)
{
	return rctl_map_get(op->replica->facts, "host") != NULL && rctl_map_get(op->replica->facts, "port") != NULL;
}

/* The replica, as the role that made the source read-only; or as the provider logs in there. */
static PGconn *
replica_conn(RctlOp *op, bool by_provider, long timeout_ms)
{
	PGconn	   *conn;

	if (!by_provider)
		return login(op, rctl_map_get(op->replica->facts, "host"), rctl_map_get(op->replica->facts, "port"), timeout_ms);
	conn = op->replica->provider->connect(op, op->replica, timeout_ms);
	rctl_pg_clear(rctl_pg_exec(conn, QUERY_TIMEOUT_MS, "SET " SETTING " = off", 0, NULL));
	return conn;
}

/* False while it is still in recovery. */
static bool
try_open(RctlOp *op, const RctlMap *databases, bool by_provider)
{
	PGconn	   *conn = replica_conn(op, by_provider, CONNECT_TIMEOUT_MS);
	long		since = TimestampDifferenceMilliseconds(rctl_noted_time(op, "fence_began"), GetCurrentTimestamp());
	bool		ready = rctl_pg_value(conn, QUERY_TIMEOUT_MS, "SELECT 1 WHERE NOT pg_is_in_recovery()", 0, NULL) != NULL;

	if (ready)
	{
		restore(conn, databases);

		/* Who has come since writes were stopped would stay read-only. */
		(void) rctl_pg_value(conn, QUERY_TIMEOUT_MS,
							 psprintf("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
									  " WHERE backend_type = 'client backend' AND" OTHERS " AND" MAY_END
									  " AND backend_start > clock_timestamp() - %ld * interval '1 millisecond'",
									  since + OPEN_MARGIN_MS), 0, NULL);
	}
	rctl_pg_close(conn);
	return ready;
}

void
rctl_remote_open_promoted(RctlOp *op)
{
	const char *recorded = rctl_map_get(op->state, "source_databases");
	RctlMap    *databases = recorded ? rctl_map_from_json(recorded, "databases") : NULL;
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OPEN_MS);
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error;
	volatile bool open = false;
	volatile bool by_provider = !has_address(op);

	if (databases == NULL || restore_text(databases)[0] == '\0')
		return;
	for (;;)
	{
		error = NULL;
		PG_TRY();
		{
			open = try_open(op, databases, by_provider);
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(context);
			error = CopyErrorData();
			FlushErrorState();
		}
		PG_END_TRY();
		if (open)
			return;
		if (GetCurrentTimestamp() >= until)
			break;
		if (error && op->replica->provider->connect && has_address(op))
			by_provider = !by_provider;
		rctl_op_progress(op, "letting the promoted replica take writes", 0, 0);
		rctl_sleep(OPEN_POLL_MS);
	}
	ereport(ERROR,
			(errcode(error ? error->sqlerrcode : ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("promoted replica \"%s\" is still read-only", op->replica->name),
			 errdetail("%s", error ? error->message : "It is still in recovery."),
			 errhint("Run there: %s", restore_text(databases))));
}

/* It cannot be helped any more, but must be known. */
void
rctl_remote_look_back(RctlOp *op)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool wrote = false;
	char	   *volatile trouble = NULL;

	PG_TRY();
	{
		wrote = writes_since(op);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		trouble = error->message;
	}
	PG_END_TRY();

	if (trouble)
		rctl_op_event(op, "warning", "source_unseen", NULL,
					  "whether the source of replica \"%s\" was written to during the promotion is not known: %s",
					  op->replica->name, trouble);
	else if (wrote)
	{
		RctlMap    *detail = rctl_map_make();

		rctl_map_set(detail, "fence_lsn", rctl_map_get(op->state, "fence_lsn"));
		rctl_map_set(detail, "source_xmax", rctl_map_get(op->state, "source_xmax"));
		rctl_op_event(op, "warning", "source_written", detail,
					  "transactions began on the source of replica \"%s\" after it was read-only: compare the two servers",
					  op->replica->name);
	}
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

#define CHECK_SQL \
"SELECT pg_is_in_recovery()," \
" current_setting('is_superuser') = 'on' OR (pg_has_role('pg_read_all_stats', 'USAGE') AND pg_has_role('pg_signal_backend', 'USAGE'))," \
" (SELECT count(*) FROM pg_database WHERE datallowconn AND pg_has_role(datdba, 'USAGE'))," \
" (SELECT string_agg(quote_ident(datname), ', ') FROM pg_database WHERE datallowconn AND NOT datistemplate" \
"  AND NOT pg_has_role(datdba, 'USAGE') AND has_database_privilege(oid, 'CONNECT'))," \
" (SELECT string_agg(DISTINCT quote_ident(rolname), ', ') FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = setrole," \
"  unnest(setconfig) c WHERE c ~* '^" SETTING "=(of?f?|f|fa|fal|fals|false|n|no|0)$')," \
" (SELECT count(*) FROM pg_prepared_xacts)," \
" (SELECT quote_literal(gid) FROM pg_prepared_xacts ORDER BY prepared LIMIT 1)," \
" (SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND" OTHERS ")," \
" (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND" OTHERS " AND NOT" MAY_END ")," \
" (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND" OTHERS ")"

static const char *
value(PGresult *result, int column)
{
	return PQgetvalue(result, 0, column);
}

static void
check_rights(RctlPreflight *p, PGresult *result, const char *user)
{
	if (value(result, 1)[0] != 't')
		rctl_found_blocked(p, "source rights", ERRCODE_INSUFFICIENT_PRIVILEGE,
						   psprintf("role \"%s\" may not see and end sessions on the source", user), NULL,
						   psprintf("Run GRANT pg_read_all_stats, pg_signal_backend TO %s there.", quoted(user)));
	else if (strcmp(value(result, 2), "0") == 0)
		rctl_found_blocked(p, "source rights", ERRCODE_INSUFFICIENT_PRIVILEGE,
						   psprintf("role \"%s\" owns no database on the source", user),
						   "Only who owns a database may make it read-only.",
						   psprintf("GRANT the owners' roles TO %s there.", quoted(user)));
	else if (value(result, 3)[0] != '\0')
		rctl_found_warning(p, "source rights",
						   psprintf("writes in these databases of the source cannot be stopped: %s", value(result, 3)),
						   psprintf("Role \"%s\" does not own them. Writes there let the promotion fail, not be lost.", user),
						   psprintf("GRANT their owners' roles TO %s there.", quoted(user)));
	else
		rctl_found_ok(p, "source rights", psprintf("role \"%s\" may make %s databases read-only and end sessions",
												   user, value(result, 2)));
}

/*
 * It has the source's databases, read-only as they are, and must be made
 * writable when it is promoted: better to know before that it can be.
 */
static void
check_replica_login(RctlPreflight *p)
{
	RctlOp	   *op = p->op;
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	if (has_address(op))
	{
		PG_TRY();
		{
			rctl_pg_close(replica_conn(op, false, CHECK_CONNECT_MS));
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(context);
			error = CopyErrorData();
			if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
				PG_RE_THROW();
			FlushErrorState();
		}
		PG_END_TRY();
		if (error == NULL)
		{
			rctl_found_ok(p, "replica login", "the role of source_conninfo can log in to the replica");
			return;
		}
	}
	if (p->theirs)
		rctl_found_warning(p, "replica login", "the role of source_conninfo cannot log in to the replica",
						   error ? error->detail : "Its address is not known.",
						   "It is made writable by the provider's own login, when it is promoted.");
	else
		rctl_found_blocked(p, "replica login", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   psprintf("replica \"%s\" could not be made writable when it is promoted", op->replica->name),
						   error ? psprintf("It has the source's read-only databases, and the login there fails: %s",
											error->detail ? error->detail : error->message)
						   : "It has the source's read-only databases, and its address is not known.",
						   "Let the role of source_conninfo log in there from this host; or stop writes on the source yourself, and set server option fence to external.");
}

void
rctl_remote_check(RctlPreflight *p)
{
	PGconn	   *conn = source_conn(p->op);
	PGresult   *result = rctl_pg_exec(conn, QUERY_TIMEOUT_MS, CHECK_SQL, 0, NULL);
	bool		external = rctl_source_fence_kind(p->op) == RCTL_SOURCE_EXTERNAL;

	if (value(result, 0)[0] == 't')
		rctl_found_blocked(p, "source recovery", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   "what source_conninfo names is a standby", NULL,
						   psprintf("Let it name the source: ALTER SERVER %s OPTIONS (SET source_conninfo '...').",
									quote_identifier(p->op->replica->server)));
	else
		rctl_found_ok(p, "source recovery", "the source is a primary");
	if (!external)
		check_rights(p, result, PQuser(conn));
	if (!external && p->op->kind != RCTL_OP_DRILL)
		check_replica_login(p);
	if (!external && value(result, 4)[0] != '\0')
		rctl_found_blocked(p, "source roles", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   psprintf("roles of the source have " SETTING " = off for themselves: %s", value(result, 4)),
						   "That goes before the setting of a database.",
						   "Run ALTER ROLE ... RESET " SETTING " there for each.");
	if (strcmp(value(result, 5), "0") != 0)
		rctl_found_blocked(p, "source prepared transactions", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   psprintf("%s transactions are prepared on the source", value(result, 5)),
						   "They can be committed there while it is read-only, and by nobody here.",
						   psprintf("Run COMMIT PREPARED %s or ROLLBACK PREPARED %s there.", value(result, 6), value(result, 6)));
	else
		rctl_found_ok(p, "source prepared transactions", "no transaction is prepared on the source");
	p->writers = strtol(value(result, 7), NULL, 10);
	if (!external && strcmp(value(result, 8), "0") != 0)
		rctl_found_warning(p, "source sessions",
						   psprintf("%s sessions of superusers on the source cannot be ended", value(result, 8)),
						   "If they write, the promotion is undone.", "End them there.");
	else
		rctl_found_ok(p, "source sessions",
					  psprintf("%s sessions on the source, %d with writes that are not committed%s", value(result, 9),
							   p->writers, external ? "" : "; they would be ended"));
	rctl_pg_clear(result);
}
