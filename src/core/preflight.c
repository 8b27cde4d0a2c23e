/*-------------------------------------------------------------------------
 *
 * preflight.c
 *	  What stands in the way of an operation.
 *
 * This server is asked by SQL, the replica by libpq, each once; the checks
 * read the answers.  Where a provider has checks of its own (create_checks,
 * drop_checks), which raise errors, each is run by itself and its error
 * becomes a blocked finding, so that one run shows all that is to be mended.
 *
 * An error in a session is caught in a subtransaction, which takes back the
 * user id, the open cursors and all else that the error left behind; it has
 * no XID, as nothing is written.  In a worker there is no transaction around
 * a step, and whatever was open is ended.
 *
 * A replica has ANSWER_MS for all that it is asked, however many addresses and
 * roles are tried: the time is looked at in every wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/managed.h"
#include "core/plan.h"
#include "core/preflight.h"
#include "core/rejoin.h"
#include "core/source_fence.h"
#include "net/pgconn.h"
#include "net/text.h"
#include "net/wait.h"
#include "provider/standby.h"

/* A wait looks at the time once a second at least: 5 seconds in all. */
#define ANSWER_MS 4000
#define CONNECT_MS 2000

/* A service takes longer; in an operation nobody sits before a screen. */
#define SERVICE_ANSWER_MS 15000
#define SERVICE_ANSWER_WORKER_MS 60000

/* The replay rate is measured only where there is enough to replay. */
#define MEASURE_BYTES (1024 * 1024)
#define MEASURE_MS 300

/* Standbys try to connect every wal_retrieve_retry_interval: 5 s by default. */
#define RECONNECT_MS 10000
#define RECONNECT_POLL_MS 200

/* When the replica, or the provider's check, must have answered; 0: none is asked. */
static TimestampTz answer_deadline = 0;
static long answer_limit = 0;
static const char *asked_replica = NULL;
static const char *asked_check = NULL;
static RctlWaitCheck outer_check = NULL;

/* The look that is being taken, for rctl_op_warn(). */
static RctlPreflight *looking = NULL;
static bool warned = false;

typedef void (*Look) (RctlPreflight *p, const void *arg);

/* ---------------------------------------------------------------------
 * Findings
 * ---------------------------------------------------------------------
 */

static RctlFinding *
add_finding(RctlPreflight *p, const char *name, RctlVerdict verdict, const char *message)
{
	RctlFinding *finding = palloc0(sizeof(RctlFinding));

	finding->step = Max(p->step, 1);
	finding->name = name;
	finding->verdict = verdict;
	finding->seconds = RCTL_SECONDS_UNKNOWN;
	finding->message = pstrdup(message);
	p->findings = lappend(p->findings, finding);
	return finding;
}

void
rctl_found_ok(RctlPreflight *p, const char *name, const char *message)
{
	add_finding(p, name, RCTL_VERDICT_OK, message);
}

void
rctl_found_warning(RctlPreflight *p, const char *name, const char *message,
				   const char *detail, const char *hint)
{
	RctlFinding *finding = add_finding(p, name, RCTL_VERDICT_WARNING, message);

	finding->detail = detail ? pstrdup(detail) : NULL;
	finding->hint = hint ? pstrdup(hint) : NULL;
}

void
rctl_found_blocked(RctlPreflight *p, const char *name, int sqlerrcode,
				   const char *message, const char *detail, const char *hint)
{
	RctlFinding *finding = add_finding(p, name, RCTL_VERDICT_BLOCKED, message);

	finding->detail = detail ? pstrdup(detail) : NULL;
	finding->hint = hint ? pstrdup(hint) : NULL;
	finding->sqlerrcode = sqlerrcode;
}

char *
rctl_size_text(uint64 bytes)
{
	static const char *const units[] = {"kB", "MB", "GB", "TB"};
	double		size = bytes / 1024.0;
	int			unit = 0;

	if (bytes < 10 * 1024)
		return psprintf(UINT64_FORMAT " bytes", bytes);
	while (size >= 10 * 1024 && unit < lengthof(units) - 1)
	{
		size /= 1024;
		unit++;
	}
	return psprintf("%.0f %s", size, units[unit]);
}

/* ---------------------------------------------------------------------
 * Guard
 * ---------------------------------------------------------------------
 */

static void
check_answer(void)
{
	if (outer_check)
		outer_check();
	if (answer_deadline == 0 || GetCurrentTimestamp() < answer_deadline)
		return;
	if (asked_check)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("check \"%s\" of replica \"%s\" got no answer", asked_check, asked_replica),
				 errdetail("It was given up after %ld ms.", answer_limit),
				 errhint("See whether the service can be reached from this host.")));
	else
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to replica \"%s\"", asked_replica),
				 errdetail("It did not answer within %ld ms.", answer_limit),
				 errhint("See whether its server runs and can be reached; SELECT replica_repair(%s) starts one that was stopped.",
						 quote_literal_cstr(asked_replica))));
}

/* After an error in a worker, outside of any transaction but ours. */
static void
end_transaction(void)
{
	HOLD_INTERRUPTS();
	LWLockReleaseAll();
	pgstat_report_wait_end();
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();
}

/*
 * Runs fn; NULL, or the error that it raised.  A cancel is raised on: with the
 * deadline above our own, nothing else has its SQLSTATE.
 */
static ErrorData *
look(RctlPreflight *p, Look fn, const void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	bool		session = rctl_wait_in_transaction;
	ErrorData  *volatile error = NULL;

	answer_limit = asked_check == NULL ? ANSWER_MS : session ? SERVICE_ANSWER_MS : SERVICE_ANSWER_WORKER_MS;
	answer_deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), answer_limit);
	asked_replica = p->op->replica->name;
	looking = p;
	warned = false;
	if (session)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
	}
	PG_TRY();
	{
		fn(p, arg);
		if (session)
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		MemoryContextReset(p->connections);
		if (session)
			RollbackAndReleaseCurrentSubTransaction();
		else
			end_transaction();
	}
	PG_END_TRY();
	answer_deadline = 0;
	looking = NULL;
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		asked_check = NULL;
		ReThrowError(error);
	}
	return error;
}

/* The same, with the finding: an error is blocked, else the message is ok. */
static bool
look_and_report(RctlPreflight *p, const char *name, const char *message, Look fn, const void *arg)
{
	ErrorData  *error = look(p, fn, arg);

	if (error)
		rctl_found_blocked(p, name, error->sqlerrcode, error->message, error->detail, error->hint);
	else if (message && !warned)
		rctl_found_ok(p, name, message);
	return error == NULL;
}

void
rctl_op_warn(RctlOp *op, const char *detail, const char *hint, const char *format,...)
{
	MemoryContext old = CurrentMemoryContext;
	char	   *message;
	va_list		args;

	/* Connections of a check do not outlive it, findings do. */
	if (looking)
		MemoryContextSwitchTo(GetMemoryChunkContext(looking));
	va_start(args, format);
	message = rctl_vpsprintf(format, args);
	va_end(args);
	if (looking)
	{
		rctl_found_warning(looking, asked_check ? asked_check : "service", message, detail, hint);
		warned = true;
	}
	else
		rctl_op_event(op, "warning", "check", NULL, "%s%s%s", message,
					  detail ? ": " : "", detail ? detail : "");
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------------
 * Questions
 * ---------------------------------------------------------------------
 */

/* Those that are compared, and a few that decide what clients can do after a promotion. */
#define SETTINGS_SQL \
	" (SELECT jsonb_object_agg(name, setting) FROM pg_catalog.pg_settings WHERE name IN" \
	"  ('archive_mode', 'autovacuum', 'default_transaction_read_only', 'fsync', 'full_page_writes'," \
	"   'listen_addresses', 'max_connections', 'max_locks_per_transaction', 'max_prepared_transactions'," \
	"   'max_replication_slots', 'max_slot_wal_keep_size', 'max_wal_senders', 'max_wal_size'," \
	"   'max_worker_processes', 'recovery_min_apply_delay', 'shared_buffers', 'shared_preload_libraries'," \
	"   'synchronous_standby_names', 'wal_level', 'wal_log_hints', 'data_checksums', 'replica_ctl.database')) AS settings"

/* Rules of pg_hba.conf as one line of text each, so that two servers can be compared. */
static const char *const hba_sql =
"SELECT jsonb_build_object("
" 'replication', count(*) FILTER (WHERE 'replication' = ANY (database)),"
" 'error', min(format('line %s: %s', line_number, error)) FILTER (WHERE error IS NOT NULL),"
" 'rules', coalesce(jsonb_object_agg(concat_ws(' ', type, array_to_string(database, ','),"
"   array_to_string(user_name, ','), address, netmask, auth_method, array_to_string(options, ',')),"
"  line_number) FILTER (WHERE error IS NULL), '{}'))"
" FROM pg_catalog.pg_hba_file_rules";

/*
 * This server, as far as a promotion is concerned.  $1: the replica's
 * application_name, $2: its slot.  Our own workers' transactions end by
 * themselves.
 */
static const char *const our_sql =
"WITH busy AS (SELECT * FROM pg_catalog.pg_stat_activity"
"  WHERE pid <> pg_backend_pid() AND backend_type NOT LIKE 'replica\\_ctl%'"
"  AND backend_type NOT IN ('walsender', 'autovacuum worker', 'autovacuum launcher')),"
" writer AS (SELECT * FROM busy WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 1),"
" oldest AS (SELECT * FROM busy WHERE xact_start IS NOT NULL AND backend_type = 'client backend'"
"  ORDER BY xact_start LIMIT 1),"
" logical AS (SELECT slot_name FROM pg_catalog.pg_replication_slots"
"  WHERE slot_type = 'logical' AND NOT temporary)"
"SELECT to_jsonb(t) FROM (SELECT"
" pg_catalog.pg_current_wal_flush_lsn() AS flush_lsn,"
" (SELECT state FROM pg_catalog.pg_stat_replication WHERE application_name = $1"
"  AND state IN ('startup', 'catchup', 'streaming') ORDER BY pid DESC LIMIT 1) AS walsender,"
" (SELECT jsonb_object_agg(application_name, greatest(flush_lsn, replay_lsn))"
"  FROM pg_catalog.pg_stat_replication WHERE flush_lsn IS NOT NULL AND application_name <> '') AS standbys,"
" (SELECT wal_status FROM pg_catalog.pg_replication_slots WHERE slot_name = $2) AS slot_status,"
" (SELECT count(*) FROM busy WHERE backend_xid IS NOT NULL) AS writers,"
" (SELECT round(extract(epoch FROM clock_timestamp() - xact_start), 1) FROM writer) AS writer_age,"
" (SELECT pid FROM writer) AS writer_pid,"
" (SELECT format('%s%s', coalesce(usename, backend_type), ' (' || nullif(application_name, '') || ')')"
"  FROM writer) AS writer_name,"
" (SELECT round(extract(epoch FROM clock_timestamp() - xact_start), 1) FROM oldest) AS oldest_age,"
" (SELECT pid FROM oldest) AS oldest_pid,"
" (SELECT count(*) FROM busy WHERE backend_type = 'client backend') AS sessions,"
" (SELECT count(*) FROM pg_catalog.pg_prepared_xacts) AS prepared,"
" (SELECT quote_literal(gid) FROM pg_catalog.pg_prepared_xacts ORDER BY prepared LIMIT 1) AS prepared_gid,"
" (SELECT jsonb_object_agg(slot_name, true) FROM logical) AS logical_slots,"
" (SELECT source = 'command line' FROM pg_catalog.pg_settings WHERE name = 'cluster_name') AS started_by_manager,"
" (SELECT count(*) FROM pg_catalog.pg_subscription WHERE subenabled) AS subscriptions,"
" (SELECT string_agg(quote_ident(subname), ', ') FROM pg_catalog.pg_subscription WHERE subenabled) AS subscription_names,"
" (SELECT count(*) FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready') AS archive_ready,"
" (SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)"
"  FROM pg_catalog.pg_stat_archiver) AS archive_fails,"
" (SELECT last_failed_wal FROM pg_catalog.pg_stat_archiver) AS archive_failed_wal,"
" (SELECT wal_bytes / greatest(extract(epoch FROM clock_timestamp() - stats_reset), 1)"
"  FROM pg_catalog.pg_stat_wal) AS wal_rate,"
SETTINGS_SQL ") t";

/* The replica.  Some of it is hidden from roles without pg_monitor, and then missing. */
static const char *const their_sql =
"SELECT to_jsonb(t) FROM (SELECT"
" pg_catalog.pg_is_in_recovery() AS in_recovery,"
" (SELECT system_identifier FROM pg_catalog.pg_control_system()) AS system_identifier,"
" (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver) AS timeline,"
" (SELECT coalesce(status, 'unknown') FROM pg_catalog.pg_stat_wal_receiver) AS receiver,"
" greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()) AS receive_lsn,"
" pg_catalog.pg_last_wal_replay_lsn() AS replay_lsn,"
" pg_catalog.pg_last_xact_replay_timestamp() AS last_commit,"
" CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_get_wal_replay_pause_state() END AS pause_state,"
" (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders()) AS walsenders,"
" (SELECT jsonb_object_agg(slot_name, true) FROM pg_catalog.pg_replication_slots) AS slots,"
" (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS slots_used,"
" (SELECT count(*) FROM pg_catalog.pg_stat_activity"
"  WHERE backend_type = 'client backend' AND application_name !~ '^replica_ctl') AS sessions,"
" (SELECT string_agg(quote_ident(datname), ', ') FROM pg_catalog.pg_database"
"  WHERE datcollversion <> pg_catalog.pg_database_collation_actual_version(oid)) AS collations,"
" has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')"
"  AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE') AS hba_readable,"
SETTINGS_SQL ") t";

static void
ask_ourselves(RctlPreflight *p, const void *arg)
{
	RctlOp	   *op = p->op;
	const char *args[] = {
		rctl_map_get_default(op->replica->facts, "application_name", ""),
		rctl_map_get_default(op->replica->facts, "slot", ""),
	};
	char	   *hba;

	p->ours = rctl_map_from_json(rctl_own_value(op, our_sql, lengthof(args), args), "answer");
	hba = rctl_own_value(op, hba_sql, 0, NULL);
	rctl_map_set_json(p->ours, "hba", hba);
	rctl_op_begin(op);
	p->siblings = rctl_store_other_replicas(op->replica->id);
	rctl_op_commit(op);
}

static XLogRecPtr
parse_lsn(const char *text)
{
	return text ? DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text))) : InvalidXLogRecPtr;
}

static uint64
bytes_behind(XLogRecPtr here, XLogRecPtr there)
{
	return here > there ? here - there : 0;
}

/* Looks at the replica's position twice. */
static void
measure_replay(RctlPreflight *p, PGconn *conn, XLogRecPtr before)
{
	TimestampTz start = GetCurrentTimestamp();
	XLogRecPtr	after;

	rctl_sleep(MEASURE_MS);
	after = parse_lsn(rctl_pg_value(conn, ANSWER_MS, "SELECT pg_catalog.pg_last_wal_replay_lsn()", 0, NULL));
	p->replay_rate = bytes_behind(after, before) * 1000000.0 / Max(GetCurrentTimestamp() - start, 1);
}

static void
ask_replica(RctlPreflight *p, const void *arg)
{
	RctlOp	   *op = p->op;
	MemoryContext old = MemoryContextSwitchTo(p->connections);
	PGconn	   *conn = op->replica->provider->connect(op, op->replica, CONNECT_MS);
	RctlMap    *theirs;
	XLogRecPtr	ours;
	XLogRecPtr	replayed;

	MemoryContextSwitchTo(old);
	theirs = rctl_map_from_json(rctl_pg_value(conn, ANSWER_MS, their_sql, 0, NULL), "answer");
	if (strcmp(rctl_map_get_default(theirs, "hba_readable", "false"), "true") == 0)
		rctl_map_set_json(theirs, "hba", rctl_pg_value(conn, ANSWER_MS, hba_sql, 0, NULL));

	ours = p->ours ? parse_lsn(rctl_map_get(p->ours, "flush_lsn")) : InvalidXLogRecPtr;
	replayed = parse_lsn(rctl_map_get(theirs, "replay_lsn"));
	p->lag_bytes = bytes_behind(ours, replayed);
	p->lost_bytes = bytes_behind(ours, parse_lsn(rctl_map_get(theirs, "receive_lsn")));
	if (op->dry_run && p->lag_bytes > MEASURE_BYTES)
		measure_replay(p, conn, replayed);
	p->theirs = theirs;
	MemoryContextReset(p->connections);
}

static void
ask_space(RctlPreflight *p, const void *arg)
{
	const RctlProvider *provider = p->op->replica->provider;

	p->free_known = provider->free_space != NULL &&
		provider->free_space(p->op, p->op->replica, &p->free_bytes);
}

static void
ask_size(RctlPreflight *p, const void *arg)
{
	char	   *size = rctl_own_value(p->op, "SELECT coalesce(sum(pg_catalog.pg_tablespace_size(oid)), 0)::bigint"
									  " FROM pg_catalog.pg_tablespace", 0, NULL);

	p->data_bytes = strtoull(size, NULL, 10);
}

/* ---------------------------------------------------------------------
 * Checks of the registry
 * ---------------------------------------------------------------------
 */

/* The row of an existing replica; what the SQL functions raise when they queue an operation. */
static void
check_registry(RctlPreflight *p, const RctlReplicaRow *row, int64 unfinished)
{
	RctlOpKind	kind = p->op->kind;
	const char *replica = p->op->replica->name;

	if (!row->owned)
		rctl_found_blocked(p, "registry", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   psprintf("replica \"%s\" belongs to another server", replica),
						   "This server is a copy of the one that made it, was promoted, or was moved.",
						   "If this server has taken that one's place, run SELECT replica_claim().");
	else if (strcmp(row->state, "promoted") == 0 && kind != RCTL_OP_DROP && kind != RCTL_OP_DETACH)
		rctl_found_blocked(p, "registry", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   psprintf("replica \"%s\" was promoted and is a server of its own", replica), NULL,
						   psprintf("Remove it from the registry with SELECT replica_detach(%s).", p->name));
	else
		rctl_found_ok(p, "registry",
					  psprintf("replica \"%s\" is this server's own, last settled as %s", replica, row->state));

	if (unfinished != 0)
		rctl_found_blocked(p, "operation", ERRCODE_OBJECT_IN_USE,
						   psprintf("operation " INT64_FORMAT " is running on replica \"%s\"", unfinished, replica), NULL,
						   psprintf("Wait for it with SELECT replica_wait(%s), or stop it with SELECT replica_cancel(" INT64_FORMAT ").",
									p->name, unfinished));
	else
		rctl_found_ok(p, "operation", "no operation is running on it");
}

/* The name of a replica to be. */
static void
check_name(RctlPreflight *p, const RctlReplicaRow *row)
{
	const char *replica = p->op->replica->name;

	if (row == NULL)
		rctl_found_ok(p, "name", psprintf("\"%s\" is free", replica));
	else
		rctl_found_blocked(p, "name", ERRCODE_DUPLICATE_OBJECT,
						   psprintf("replica \"%s\" already exists", replica),
						   psprintf("Its state is \"%s\".", row->state),
						   psprintf("Choose another name, or remove it with SELECT replica_drop(%s).", p->name));
}

/* ---------------------------------------------------------------------
 * Checks of create, attach, drop, detach, repair
 * ---------------------------------------------------------------------
 */

static void
run_check_options(RctlPreflight *p, const void *arg)
{
	RctlOp	   *op = p->op;

	if (op->replica->provider->check_options)
		op->replica->provider->check_options(op->kind, op->replica->name, op->server_options,
											 op->replica->options);
}

static void
run_check(RctlPreflight *p, const void *arg)
{
	MemoryContext old = MemoryContextSwitchTo(p->connections);

	((const RctlStep *) arg)->run(p->op);
	MemoryContextSwitchTo(old);
	MemoryContextReset(p->connections);
}

static void
run_checks(RctlPreflight *p, const RctlStep *checks)
{
	for (; checks && checks->name; checks++)
	{
		asked_check = checks->name;
		(void) look_and_report(p, checks->name, checks->title, run_check, checks);
		asked_check = NULL;
	}
}

static const char *
our_setting(RctlPreflight *p, const char *name)
{
	const char *settings = p->ours ? rctl_map_get(p->ours, "settings") : NULL;

	return settings ? rctl_map_get(rctl_map_from_json(settings, "settings"), name) : NULL;
}

/* WAL that is written while the copy runs must be kept for the replica. */
static void
check_slot_limit(RctlPreflight *p)
{
	const char *text = our_setting(p, "max_slot_wal_keep_size");
	const char *rate = p->ours ? rctl_map_get(p->ours, "wal_rate") : NULL;
	double		limit = text ? strtod(text, NULL) * 1024 * 1024 : -1;
	double		copy_rate = 0;
	double		expected;

	rctl_op_begin(p->op);
	copy_rate = rctl_store_copy_rate();
	rctl_op_commit(p->op);
	if (copy_rate <= 0)
		copy_rate = 100.0 * 1024 * 1024;
	expected = rate ? strtod(rate, NULL) * p->data_bytes / copy_rate : 0;
	if (limit < 0)
		rctl_found_ok(p, "slot limit", "max_slot_wal_keep_size does not limit what its slot keeps");
	else if (limit < 2 * expected || limit < wal_segment_size * 4.0)
		rctl_found_warning(p, "slot limit",
						   psprintf("its slot may lose WAL that it needs: max_slot_wal_keep_size is %s",
									rctl_size_text((uint64) limit)),
						   psprintf("About %s of WAL are written while the copy runs, at the rate so far.",
									rctl_size_text((uint64) expected)),
						   psprintf("Run ALTER SYSTEM SET max_slot_wal_keep_size = '%d MB' and SELECT pg_reload_conf().",
									(int) (Max(4 * expected, 1024.0 * 1024 * 1024) / 1048576)));
	else
		rctl_found_ok(p, "slot limit",
					  psprintf("its slot keeps up to %s of WAL, about %s are written while the copy runs",
							   rctl_size_text((uint64) limit), rctl_size_text((uint64) expected)));
}

static void
check_create(RctlPreflight *p)
{
	(void) look_and_report(p, "options", "the options are valid", run_check_options, NULL);
	run_checks(p, p->op->replica->provider->create_checks);
	check_slot_limit(p);
}

/* What a drop or a detach leaves behind or takes with it. */
static void
check_removal(RctlPreflight *p)
{
	RctlOp	   *op = p->op;
	ListCell   *lc;
	StringInfoData children;

	if (op->kind == RCTL_OP_DROP)
	{
		run_checks(p, op->replica->provider->drop_checks);
		rctl_found_ok(p, "data", psprintf("its data would be deleted: about %s, as on this server",
										  rctl_size_text(p->data_bytes)));
	}
	if (p->theirs && strcmp(rctl_map_get_default(p->theirs, "sessions", "0"), "0") != 0)
		rctl_found_warning(p, "sessions",
						   psprintf("%s sessions are connected to the replica", rctl_map_get(p->theirs, "sessions")),
						   op->kind == RCTL_OP_DROP ? "They would be ended." : "They would read data that grow old.",
						   "SELECT * FROM pg_stat_activity on the replica shows whose they are.");

	if (op->kind == RCTL_OP_DROP)
		return;
	initStringInfo(&children);
	foreach(lc, p->siblings)
	{
		RctlReplica *sibling = lfirst(lc);
		const char *upstream = rctl_map_get(sibling->facts, "upstream");

		if (upstream && strcmp(upstream, op->replica->name) == 0)
			appendStringInfo(&children, "%s\"%s\"", children.len > 0 ? ", " : "", sibling->name);
	}
	if (children.len > 0)
		rctl_found_warning(p, "dependents", psprintf("other replicas follow it: %s", children.data), NULL,
						   "Drop or detach those first.");
	else
		rctl_found_ok(p, "dependents", "no replica of this registry follows it");
	rctl_found_ok(p, "standby", "the standby runs on without a slot, as long as this server has the WAL that it needs");
}

static void
check_repair(RctlPreflight *p)
{
	const char *state = rctl_map_get(p->ours, "walsender");
	const char *slot = rctl_map_get(p->ours, "slot_status");

	if (state && strcmp(state, "streaming") == 0)
		rctl_found_warning(p, "streaming", "it is streaming: there is nothing to repair", NULL, NULL);
	else
		rctl_found_ok(p, "streaming", state ? "it is catching up" : "it is not connected to this server");
	if (rctl_map_get(p->op->replica->facts, "upstream") != NULL)
		return;
	if (slot == NULL)
		rctl_found_warning(p, "slot", "its replication slot is gone", NULL,
						   "If WAL that it needs was removed, the repair makes a new copy.");
	else if (strcmp(slot, "lost") == 0)
		rctl_found_warning(p, "slot", "its replication slot has lost WAL",
						   psprintf("A new copy of about %s is made.", rctl_size_text(p->data_bytes)), NULL);
	else
		rctl_found_ok(p, "slot", "its replication slot holds the WAL that it needs");
}

/* ---------------------------------------------------------------------
 * Entry points
 * ---------------------------------------------------------------------
 */

static bool
is_takeover(RctlOpKind kind)
{
	return kind == RCTL_OP_PROMOTE || kind == RCTL_OP_SWITCHOVER || kind == RCTL_OP_DRILL;
}

static RctlPreflight *
make_preflight(RctlOp *op)
{
	RctlPreflight *p = palloc0(sizeof(RctlPreflight));

	p->op = op;
	p->connections = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl preflight",
										   ALLOCSET_SMALL_SIZES);
	p->name = quote_literal_cstr(op->replica->name);
	p->forced = op->kind == RCTL_OP_PROMOTE &&
		strcmp(rctl_map_get_default(op->arguments, "mode", "planned"), "forced") == 0;
	p->follows = op->kind == RCTL_OP_SWITCHOVER ||
		(op->kind == RCTL_OP_PROMOTE && !p->forced &&
		 strcmp(rctl_map_get_default(op->arguments, "source_after", "read_only"), "standby") == 0);
	return p;
}

/* ---------------------------------------------------------------------
 * Promotions that a service makes
 * ---------------------------------------------------------------------
 */

static void
look_at_source(RctlPreflight *p, const void *arg)
{
	rctl_source_check(p);
}

static void
look_at_lag(RctlPreflight *p, const void *arg)
{
	MemoryContext old = MemoryContextSwitchTo(p->connections);
	RctlManagedLag lag;
	bool		known = rctl_managed_lag(p->op, &lag);
	const char *by = known && lag.source ? lag.source : "the service";

	MemoryContextSwitchTo(old);
	if (known && lag.bytes_known)
		p->lag_bytes = lag.bytes;
	if (!known || (!lag.bytes_known && !lag.seconds_known))
		rctl_found_warning(p, "replay lag", "how far the replica is behind is not known",
						   "A planned promotion waits until data show that nothing is missing.", NULL);
	else if (lag.bytes_known)
		rctl_found_ok(p, "replay lag", psprintf("%s are not replayed, says %s", rctl_size_text(lag.bytes), by));
	else
		rctl_found_ok(p, "replay lag", psprintf("it is %.0f s behind, says %s%s%s", lag.seconds, by,
												lag.sampled_at ? " of " : "",
												lag.sampled_at ? timestamptz_to_str(lag.sampled_at) : ""));
}

/* What the call asks of the source afterwards. */
static void
check_source_after(RctlPreflight *p)
{
	const char *after = rctl_map_get_default(p->op->arguments, "source_after", "read_only");
	bool		follows = rctl_managed_source_follows(p->op->replica);

	if (p->op->kind == RCTL_OP_DRILL)
		return;
	if (strcmp(after, "standby") == 0 && !follows)
		rctl_found_blocked(p, "source after", ERRCODE_FEATURE_NOT_SUPPORTED,
						   psprintf("the source of replica \"%s\" cannot become a replica of it", p->op->replica->name),
						   "What its service promotes stands alone.",
						   "Leave out source_after, or make a new replica of the promoted one.");
	else if (strcmp(after, "read_write") == 0 && follows)
		rctl_found_blocked(p, "source after", ERRCODE_FEATURE_NOT_SUPPORTED,
						   psprintf("the source of replica \"%s\" becomes a replica of it", p->op->replica->name),
						   NULL, "Leave out source_after.");
}

static void
check_managed_takeover(RctlPreflight *p)
{
	const RctlProvider *provider = p->op->replica->provider;
	const RctlManagedPromotion *managed = provider->managed;
	ErrorData  *unanswered = NULL;

	p->elsewhere = managed->source_is_here == NULL || !managed->source_is_here(p->op);
	p->follows = false;
	if (!p->elsewhere && !look_and_report(p, "this server", NULL, ask_ourselves, NULL))
		return;
	if (provider->connect)
		unanswered = look(p, ask_replica, NULL);
	rctl_readiness_checks(p);
	if (unanswered)
		rctl_found_warning(p, "connection", unanswered->message,
						   "What SQL on the replica would tell is not known.", unanswered->hint);
	check_source_after(p);


	/* The provider's first: they may find out what the source is. */
	run_checks(p, managed->promote_checks);
	(void) look_and_report(p, "source", NULL, look_at_source, NULL);
	if (p->elsewhere || p->theirs == NULL)
	{
		asked_check = "replay lag";
		(void) look_and_report(p, "replay lag", NULL, look_at_lag, NULL);
		asked_check = NULL;
	}
}

static void
check_takeover(RctlPreflight *p)
{
	ErrorData  *unanswered = NULL;

	if (p->op->replica->provider->managed)
	{
		check_managed_takeover(p);
		return;
	}
	if (look_and_report(p, "this server", NULL, ask_ourselves, NULL) &&
		p->op->replica->provider->connect)
		unanswered = look(p, ask_replica, NULL);
	if (p->ours == NULL)
		return;
	(void) look(p, ask_space, NULL);
	rctl_readiness_checks(p);
	if (unanswered)
		rctl_found_blocked(p, "connection", unanswered->sqlerrcode,
						   unanswered->message, unanswered->detail, unanswered->hint);

	/* The second step of a switchover makes these itself. */
	if (p->follows && p->op->dry_run && p->op->replica->provider->rejoin && !unanswered)
	{
		p->step = 2;
		run_checks(p, rctl_rejoin_checks);
	}
}

static void
check_all(RctlPreflight *p, const RctlReplicaRow *row, int64 unfinished)
{
	RctlOpKind	kind = p->op->kind;

	if (kind == RCTL_OP_CREATE || kind == RCTL_OP_ATTACH)
		check_name(p, row);
	else
		check_registry(p, row, unfinished);
	if (is_takeover(kind))
	{
		check_takeover(p);
		return;
	}
	rctl_check_fence(p, "fence");
	if (!look_and_report(p, "this server", NULL, ask_ourselves, NULL) ||
		!look_and_report(p, "this server", NULL, ask_size, NULL))
		return;
	switch (kind)
	{
		case RCTL_OP_CREATE:
			check_create(p);
			break;
		case RCTL_OP_ATTACH:
			(void) look_and_report(p, "options", "the options are valid", run_check_options, NULL);
			break;
		case RCTL_OP_REPAIR:
			check_repair(p);
			break;
		default:
			/* It may well be down: that is why it is removed. */
			if (p->op->replica->provider->connect)
				(void) look(p, ask_replica, NULL);
			check_removal(p);
			break;
	}
}

List *
rctl_preflight_explain(RctlOp *op, const RctlReplicaRow *row, int64 unfinished)
{
	RctlPreflight *p = make_preflight(op);

	Assert(op->dry_run && !rctl_wait_in_transaction);
	PG_TRY();
	{
		rctl_wait_in_transaction = true;
		outer_check = NULL;
		rctl_wait_check = check_answer;
		check_all(p, row, unfinished);
		rctl_forecast(p);
	}
	PG_FINALLY();
	{
		answer_deadline = 0;
		rctl_wait_check = NULL;
		rctl_wait_in_transaction = false;
	}
	PG_END_TRY();
	return p->findings;
}

List *
rctl_preflight_unknown(const char *name)
{
	RctlPreflight p = {0};

	rctl_found_blocked(&p, "registry", ERRCODE_UNDEFINED_OBJECT,
					   psprintf("replica \"%s\" does not exist", name), NULL,
					   "SELECT replica FROM replica_status lists the replicas.");
	return p.findings;
}

static void
write_warnings(RctlPreflight *p)
{
	RctlMap    *detail = rctl_map_make();
	const char *first = NULL;
	int			count = 0;
	ListCell   *lc;

	foreach(lc, p->findings)
	{
		RctlFinding *finding = lfirst(lc);

		if (finding->verdict != RCTL_VERDICT_WARNING)
			continue;
		rctl_map_set(detail, finding->name, finding->message);
		if (first == NULL)
			first = finding->message;
		count++;
	}
	if (count > 0)
		rctl_op_event(p->op, "warning", "check_warnings", detail,
					  "%d of the checks of replica \"%s\" gave a warning, first: %s",
					  count, p->op->replica->name, first);
}

static RctlFinding *
first_blocked(const RctlPreflight *p)
{
	ListCell   *lc;

	foreach(lc, p->findings)
	{
		RctlFinding *finding = lfirst(lc);

		if (finding->verdict == RCTL_VERDICT_BLOCKED)
			return finding;
	}
	return NULL;
}

/*
 * After a restart of this server its standbys come back by themselves: a call
 * that comes at once waits for that, rather than fails.
 */
static bool
is_reconnecting(const RctlFinding *finding)
{
	return finding && strcmp(finding->name, "streaming") == 0 &&
		!TimestampDifferenceExceeds(PgStartTime, GetCurrentTimestamp(), RECONNECT_MS);
}

void
rctl_preflight_require(RctlOp *op)
{
	RctlPreflight *p;
	RctlFinding *blocked;

	for (;;)
	{
		p = make_preflight(op);
		PG_TRY();
		{
			outer_check = rctl_wait_check;
			rctl_wait_check = check_answer;
			check_takeover(p);
		}
		PG_FINALLY();
		{
			answer_deadline = 0;
			rctl_wait_check = outer_check;
		}
		PG_END_TRY();
		blocked = first_blocked(p);
		if (!is_reconnecting(blocked))
			break;
		rctl_op_progress(op, "this server was restarted; waiting until the replica connects", 0, 0);
		rctl_sleep(RECONNECT_POLL_MS);
	}
	if (blocked)
		ereport(ERROR,
				(errcode(blocked->sqlerrcode),
				 errmsg("%s", blocked->message),
				 blocked->detail ? errdetail("%s", blocked->detail) : 0,
				 blocked->hint ? errhint("%s", blocked->hint) : 0));
	write_warnings(p);
}
