/*-------------------------------------------------------------------------
 *
 * rejoin.c
 *	  Steps of a switchover that a promotion does not have.
 *
 * Before writes stop: what would keep this server from becoming a standby is
 * looked for; the slots that it and the other replicas ("siblings") will need
 * are made on the replica that is to be promoted, as a standby can hold slots
 * too; and the siblings are told to follow that replica, through which they
 * go on receiving WAL of this server.  So they pass its promotion without
 * noticing, and get nothing from this server that comes after it: one that
 * did would have diverged.
 *
 * After the promotion: this server's worker starts a program that outlives
 * the server (replica_ctl_rejoin.sh), and is ended with the server.  The rest
 * of the operation belongs to the promoted server (takeover.c), whose copy of
 * the operation's row goes on at step "arrive".
 *
 * Durable in op->state: RCTL_REJOIN_NAME, RCTL_REJOIN_FACTS; "sibling NAME"
 * with what has become of it.  In the directory of the program, next to the
 * data directory: see there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "core/promotion.h"
#include "core/rejoin.h"
#include "core/store.h"
#include "net/pgconn.h"
#include "net/process.h"
#include "net/wait.h"
#include "primary/config.h"
#include "primary/slots.h"
#include "settings.h"

#define QUERY_TIMEOUT_MS 10000
#define POLL_MS 20

/* A sibling whose first attempt comes too early tries again after wal_retrieve_retry_interval. */
#define FOLLOW_TIMEOUT_MS 15000
#define CHECKPOINT_TIMEOUT_MS 3600000
#define STOP_TIMEOUT_S 60

/* How long the program may take to take its lock. */
#define START_TIMEOUT_MS 10000

/* How long the new primary waits for the old one: a rewind reads whole files. */
#define ARRIVE_TIMEOUT_MS 1800000

#define SLOT_RECORD "rejoin_slot"
#define FOLLOW_RECORD "follow"

/* ---------------------------------------------------------------------
 * Small things
 * ---------------------------------------------------------------------
 */

static char *
ask(PGconn *conn, const char *sql, const char *arg)
{
	return rctl_pg_value(conn, QUERY_TIMEOUT_MS, sql, arg ? 1 : 0, arg ? &arg : NULL);
}

static bool
ask_bool(PGconn *conn, const char *sql, const char *arg)
{
	char	   *value = ask(conn, sql, arg);

	return value && value[0] == 't';
}

/* The directory of the program that restarts this server. */
static char *
work_path(const char *file)
{
	return file ? psprintf("%s_rejoin/%s", DataDir, file) : psprintf("%s_rejoin", DataDir);
}

static char *
program_path(const char *program)
{
	char		path[MAXPGPATH];

	strlcpy(path, my_exec_path, sizeof(path));
	get_parent_directory(path);
	return program ? psprintf("%s/%s", path, program) : pstrdup(path);
}

static char *
script_path(void)
{
	char		share[MAXPGPATH];

	get_share_path(my_exec_path, share);
	return psprintf("%s/extension/replica_ctl_rejoin.sh", share);
}

/* Whether the program runs: then it has the lock. */
static bool
program_runs(void)
{
	int			fd = OpenTransientFilePerm(work_path("lock"), O_CREAT | O_RDWR | PG_BINARY, S_IRUSR | S_IWUSR);
	bool		runs;

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", work_path("lock"))));
	runs = flock(fd, LOCK_EX | LOCK_NB) < 0;
	CloseTransientFile(fd);
	return runs;
}

static List *
siblings_of(RctlOp *op)
{
	List	   *siblings;

	rctl_store_begin();
	siblings = rctl_store_siblings(op->replica->id);
	rctl_store_commit();
	return siblings;
}

static char *
sibling_key(const RctlReplica *sibling)
{
	return psprintf("sibling %s", sibling->name);
}

/* Whether it was told to follow the replica that is promoted. */
static bool
was_moved(RctlOp *op, const RctlReplica *sibling)
{
	return strcmp(rctl_map_get_default(op->state, sibling_key(sibling), ""), "moved") == 0;
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

/* What pg_rewind asks of the server that it works on. */
static void
check_rewindable(RctlOp *op)
{
	if (!DataChecksumsEnabled() && !wal_log_hints)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server cannot become a standby of one of its replicas"),
				 errdetail("pg_rewind needs data checksums or wal_log_hints, and both are off."),
				 errhint("ALTER SYSTEM SET wal_log_hints = on, then restart the server.")));
	if (!fullPageWrites)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server cannot become a standby of one of its replicas"),
				 errdetail("pg_rewind needs full_page_writes, which is off."),
				 errhint("ALTER SYSTEM SET full_page_writes = on, then SELECT pg_reload_conf().")));
	if (strcmp(GetConfigOption("recovery_target_timeline", false, false), "latest") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server cannot become a standby of one of its replicas"),
				 errdetail("Its recovery_target_timeline is \"%s\".",
						   GetConfigOption("recovery_target_timeline", false, false)),
				 errhint("ALTER SYSTEM RESET recovery_target_timeline, then restart the server.")));
}

static void
check_programs(RctlOp *op)
{
	static const char *const programs[] = {"pg_rewind", "pg_ctl", "pg_controldata"};
	char	   *command = pstrdup(rctl_restart_command);

	for (int i = 0; i < lengthof(programs); i++)
	{
		if (access(program_path(programs[i]), X_OK) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FILE),
					 errmsg("program \"%s\" not found: %m", program_path(programs[i])),
					 errhint("Install the programs of this server's version of PostgreSQL.")));
	}
	command[strcspn(command, " \t")] = '\0';
	if (command[0] != '\0' && access(command, X_OK) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("program \"%s\" of replica_ctl.restart_command cannot be executed: %m", command),
				 errhint("Correct the setting, then SELECT pg_reload_conf().")));
	if (PostmasterPid == 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server cannot restart itself"),
				 errdetail("It is the first process of its container, which ends with it."),
				 errhint("Run the server under an init process, or promote with source_after => 'read_only'.")));
}

/*
 * A plan is there only until it was carried out.  One that was not, and the
 * marks of how far it had come, must not be taken for this operation's.
 */
static void
make_work_directory(RctlOp *op)
{
	if (access(work_path("plan"), F_OK) == 0)
	{
		char	   *old = psprintf("%s.old_" INT64_FORMAT, work_path(NULL), op->id);

		if (program_runs())
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("the program of an earlier switchover is still at work"),
					 errhint("See \"%s\".", work_path("rejoin.log"))));
		if (rename(work_path(NULL), old) < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not rename directory \"%s\" to \"%s\": %m", work_path(NULL), old)));
		rctl_op_event(op, "warning", "rejoin_unfinished", NULL,
					  "An earlier switchover did not finish its work; its files are in \"%s\"", old);
	}
	if (mkdir(work_path(NULL), S_IRWXU) < 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", work_path(NULL)),
				 errhint("The directory that the data directory is in must be writable.")));
}

/* Operations under way would be torn between the two servers. */
static void
check_no_other_operation(RctlOp *op)
{
	int64		other;

	rctl_store_begin();
	other = rctl_store_any_unfinished(op->id);
	rctl_store_commit();
	if (other != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("operation " INT64_FORMAT " is unfinished", other),
				 errdetail("A switchover hands the whole registry over."),
				 errhint("Wait for it with SELECT replica_operation_wait(" INT64_FORMAT ").", other)));
}

/* A standby with less than its primary has of these does not start. */
static void
check_settings(RctlOp *op)
{
	PGconn	   *conn = rctl_promotion_conn(op);
	static const char *const settings[] = {
		"max_connections", "max_worker_processes", "max_wal_senders",
		"max_prepared_transactions", "max_locks_per_transaction",
	};

	for (int i = 0; i < lengthof(settings); i++)
	{
		char	   *theirs = ask(conn, "SELECT current_setting($1)", settings[i]);
		const char *ours = GetConfigOption(settings[i], false, false);

		if (strtol(theirs, NULL, 10) > strtol(ours, NULL, 10))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("this server cannot become a standby of replica \"%s\"", op->replica->name),
					 errdetail("Its %s is %s, that of the replica is %s.", settings[i], ours, theirs),
					 errhint("ALTER SYSTEM SET %s = %s here, then restart the server.", settings[i], theirs)));
	}
}

/* What the login is allowed on the replica, and what the replica has free. */
static void
check_replica(RctlOp *op)
{
	PGconn	   *conn = rctl_promotion_conn(op);
	int			nslots = list_length(siblings_of(op)) + 1;
	char	   *slots;
	char	   *senders;

	if (!ask_bool(conn,
				  "SELECT bool_and(pg_catalog.has_function_privilege(f, 'EXECUTE'))"
				  " AND (SELECT rolsuper OR pg_catalog.pg_has_role('pg_checkpoint', 'USAGE')"
				  "  FROM pg_catalog.pg_roles WHERE rolname = current_user)"
				  " FROM unnest(ARRAY['pg_catalog.pg_ls_dir(text, boolean, boolean)',"
				  "  'pg_catalog.pg_stat_file(text, boolean)', 'pg_catalog.pg_read_binary_file(text)',"
				  "  'pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)']) f", NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not run pg_rewind against replica \"%s\"", PQuser(conn), op->replica->name),
				 errhint("Log in as a superuser, or GRANT pg_checkpoint and EXECUTE on pg_ls_dir(text, boolean, boolean),"
						 " pg_stat_file(text, boolean), pg_read_binary_file(text) and"
						 " pg_read_binary_file(text, bigint, bigint, boolean) to the role.")));
	slots = ask(conn, "SELECT current_setting('max_replication_slots')::int - count(*) FROM pg_catalog.pg_replication_slots", NULL);
	senders = ask(conn, "SELECT current_setting('max_wal_senders')::int - count(*) FROM pg_catalog.pg_stat_get_wal_senders()", NULL);
	if (strtol(slots, NULL, 10) < nslots || strtol(senders, NULL, 10) < nslots)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("not enough free replication slots or walsenders on replica \"%s\"", op->replica->name),
				 errdetail("%d of each will be needed; %s slots and %s walsenders are free.", nslots, slots, senders),
				 errhint("Raise max_replication_slots and max_wal_senders there and restart it.")));
}

/* Commits must not wait for ever while the siblings receive through the replica. */
static void
check_synchronous(RctlOp *op)
{
	List	   *siblings;
	int			left;

	if (!SyncRepRequested() || SyncRepStandbyNames == NULL || SyncRepStandbyNames[0] == '\0' || SyncRepConfig == NULL)
		return;
	siblings = siblings_of(op);
	rctl_store_begin();
	left = rctl_store_synchronous_without(siblings);
	rctl_store_commit();
	if (left < SyncRepConfig->num_sync)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("commits would wait for replicas that change their source"),
				 errdetail("synchronous_standby_names is \"%s\"; %d of its standbys will stay connected here.",
						   SyncRepStandbyNames, left),
				 errhint("Take the replicas other than \"%s\" out of synchronous_standby_names first.",
						 op->replica->name)));
}

/* Slots of others do not survive the change of places; nobody shall find out by surprise. */
static void
report_foreign_slots(RctlOp *op)
{
	List	   *siblings = siblings_of(op);
	char	   *names;

	rctl_store_begin();
	names = rctl_store_foreign_slots(op->replica, siblings);
	rctl_store_commit();
	if (names)
		rctl_op_event(op, "warning", "slots_lost", NULL,
					  "Replication slots that are not of replica_ctl will be gone after the switchover: %s", names);
}

/* How this server will follow the replica, and what it will be called there. */
static RctlReplica *
describe_self(RctlOp *op, RctlRejoin *rejoin)
{
	RctlReplica *self = palloc0(sizeof(RctlReplica));

	self->name = pstrdup(rctl_map_get_default(op->state, RCTL_REJOIN_NAME, ""));
	if (self->name[0] == '\0')
	{
		rctl_store_begin();
		self->name = rctl_store_free_name(cluster_name[0] ? cluster_name : "primary", op->replica->id);
		rctl_store_commit();
	}
	self->server = op->replica->server;
	self->serverid = op->replica->serverid;
	self->provider = op->replica->provider;
	self->options = rctl_map_make();
	self->facts = rctl_map_make();
	op->replica->provider->rejoin(op, op->replica, self, work_path("passfile"), rejoin);
	return self;
}

static void
check_login(RctlOp *op)
{
	RctlRejoin	rejoin = {0};
	RctlReplica *self = describe_self(op, &rejoin);

	rctl_map_set(op->state, RCTL_REJOIN_NAME, self->name);
	rctl_map_set_json(op->state, RCTL_REJOIN_FACTS, rctl_map_to_json(self->facts));
}

const RctlStep rctl_rejoin_checks[] = {
	{"rewind", check_rewindable, "pg_rewind can be used on this server, should it end past the replica"},
	{"restart", check_programs, "this server can restart itself as a standby"},
	{"other operations", check_no_other_operation, "no other operation is unfinished"},
	{"settings here", check_settings, "no setting of the replica is too high for a standby here"},
	{"room for standbys", check_replica, "the replica has slots and walsenders for this server and the other replicas"},
	{"synchronous here", check_synchronous, "no commit waits for a replica that changes its source"},
	{"login there", check_login, "this server can follow the replica"},
	{0}
};

void
rctl_rejoin_check(RctlOp *op)
{
	for (const RctlStep *check = rctl_rejoin_checks; check->name; check++)
		check->run(op);
	make_work_directory(op);
	/* What an earlier switchover may have left. */
	if (rctl_slot_exists(RCTL_REJOIN_SLOT))
		rctl_slot_drop(RCTL_REJOIN_SLOT);
	report_foreign_slots(op);
}

/* ---------------------------------------------------------------------
 * Slots
 * ---------------------------------------------------------------------
 */

static void
record_slot(RctlOp *op, const char *name, bool here)
{
	RctlMap    *object = rctl_map_make();

	rctl_map_set(object, "name", name);
	rctl_map_set(object, "on", here ? "source" : "replica");
	rctl_op_cleanup_add(op, SLOT_RECORD, object, false);
}

/* A slot on the replica, with WAL reserved.  What an earlier attempt has left may be of no use. */
static void
make_slot_there(RctlOp *op, PGconn *conn, const char *name)
{
	record_slot(op, name, false);
	(void) ask(conn,
			   "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots"
			   " WHERE slot_name = $1 AND NOT active AND slot_type = 'physical'"
			   "  AND (restart_lsn IS NULL OR wal_status = 'lost')", name);
	(void) ask(conn,
			   "SELECT (pg_catalog.pg_create_physical_replication_slot($1::name, true)).lsn"
			   " WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1)", name);
	if (!ask_bool(conn,
				  "SELECT slot_type = 'physical' AND restart_lsn IS NOT NULL"
				  " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replication slot \"%s\" of replica \"%s\" cannot be used", name, op->replica->name),
				 errhint("Drop it there with SELECT pg_drop_replication_slot(%s).", quote_literal_cstr(name))));
}

/*
 * The slots on the replica keep the WAL from its last restartpoint on, which
 * its checkpoint after the promotion would remove.  The one here does the
 * same with what pg_rewind must read of ours.
 */
void
rctl_rejoin_prepare(RctlOp *op)
{
	PGconn	   *conn = rctl_promotion_conn(op);
	RctlMap    *self = rctl_map_from_json(rctl_map_get(op->state, RCTL_REJOIN_FACTS), RCTL_REJOIN_FACTS);
	ListCell   *lc;

	make_slot_there(op, conn, rctl_map_get(self, "slot"));
	foreach(lc, siblings_of(op))
	{
		RctlReplica *sibling = lfirst(lc);

		if (rctl_map_get(sibling->facts, "slot"))
			make_slot_there(op, conn, rctl_map_get(sibling->facts, "slot"));
	}
	record_slot(op, RCTL_REJOIN_SLOT, true);
	rctl_slot_create(RCTL_REJOIN_SLOT);
}

/* ---------------------------------------------------------------------
 * Siblings
 * ---------------------------------------------------------------------
 */

/* NULL if it was told, else why it could not be. */
static char *
try_follow(RctlOp *op, RctlReplica *sibling)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *volatile reason = NULL;

	if (sibling->provider->follow == NULL)
		return psprintf("provider \"%s\" cannot change what it follows", sibling->provider->name);
	PG_TRY();
	{
		sibling->provider->follow(op, sibling, op->replica);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		HOLD_INTERRUPTS();
		LWLockReleaseAll();
		pgstat_report_wait_end();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(caller);
		reason = edata->message;
	}
	PG_END_TRY();
	return reason;
}

/* Whether it streams from the other end of the connection, and has got past an LSN (or NULL). */
static bool
streams_there(PGconn *conn, const RctlReplica *sibling, const char *lsn)
{
	const char *args[] = {rctl_map_get_default(sibling->facts, "application_name", ""), lsn};
	char	   *value = rctl_pg_value(conn, QUERY_TIMEOUT_MS,
									  "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_replication"
									  " WHERE application_name = $1 AND state = 'streaming'"
									  "  AND flush_lsn >= coalesce($2::pg_lsn, '0/0'))", 2, args);

	return value && value[0] == 't';
}

/* Waits until those that were moved stream; returns the names of those that do not. */
static char *
await_siblings(RctlOp *op, PGconn *conn, const char *lsn)
{
	TimestampTz start = GetCurrentTimestamp();
	StringInfoData late;
	ListCell   *lc;

	initStringInfo(&late);
	foreach(lc, siblings_of(op))
	{
		RctlReplica *sibling = lfirst(lc);
		bool		there = false;

		while (was_moved(op, sibling) && !(there = streams_there(conn, sibling, lsn)) &&
			   !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), FOLLOW_TIMEOUT_MS))
			rctl_sleep(POLL_MS);
		if (!there)
			appendStringInfo(&late, "%s\"%s\"", late.len > 0 ? ", " : "", sibling->name);
	}
	return late.len > 0 ? late.data : NULL;
}

/* One that cannot be told stays behind; it does not keep the others from going. */
void
rctl_rejoin_siblings(RctlOp *op)
{
	PGconn	   *conn = rctl_promotion_conn(op);
	ListCell   *lc;

	foreach(lc, siblings_of(op))
	{
		RctlReplica *sibling = lfirst(lc);
		RctlMap    *object = rctl_map_make();
		char	   *reason;

		rctl_map_set(object, "replica", sibling->name);
		rctl_op_cleanup_add(op, FOLLOW_RECORD, object, false);
		reason = try_follow(op, sibling);
		rctl_map_set(op->state, sibling_key(sibling), reason ? reason : "moved");
		if (reason)
			rctl_op_event(op, "warning", "sibling_failed", NULL,
						  "Replica \"%s\" could not be told to follow replica \"%s\": %s",
						  sibling->name, op->replica->name, reason);
		rctl_op_alive(op);
	}
	(void) await_siblings(op, conn, NULL);
}

/*
 * A position after the promotion is on the new timeline, so that whoever has
 * received it is there, too.
 */
void
rctl_rejoin_siblings_verify(RctlOp *op)
{
	PGconn	   *conn = rctl_promotion_conn(op);
	char	   *lsn = ask(conn, "SELECT pg_catalog.pg_current_wal_flush_lsn()", NULL);
	char	   *late = await_siblings(op, conn, lsn);

	if (late)
		rctl_op_event(op, "warning", "siblings_behind", NULL,
					  "Replicas that do not follow the new primary \"%s\": %s", op->replica->name, late);
}

/* ---------------------------------------------------------------------
 * This server becomes a standby
 * ---------------------------------------------------------------------
 */

/* 'it''s' for a shell */
static char *
shell_quote(const char *value)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '\'');
	for (; *value; value++)
	{
		if (*value == '\'')
			appendStringInfoString(&out, "'\\''");
		else
			appendStringInfoChar(&out, *value);
	}
	appendStringInfoChar(&out, '\'');
	return out.data;
}

static void
write_work_file(const char *name, const char *content)
{
	char	   *path = work_path(name);
	char	   *aside = psprintf("%s.new", path);
	int			fd = OpenTransientFilePerm(aside, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY, S_IRUSR | S_IWUSR);

	errno = 0;
	if (fd < 0 || write(fd, content, strlen(content)) != (ssize_t) strlen(content) ||
		CloseTransientFile(fd) != 0)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", aside)));
	}
	(void) durable_rename(aside, path, ERROR);
}

static void
write_plan(RctlOp *op, const RctlRejoin *rejoin)
{
	const char *config = GetConfigOption("config_file", false, false);
	StringInfoData plan;
	StringInfoData slots;
	ListCell   *lc;

	initStringInfo(&slots);
	appendStringInfoString(&slots, RCTL_REJOIN_SLOT);
	foreach(lc, siblings_of(op))
	{
		const char *slot = rctl_map_get(((RctlReplica *) lfirst(lc))->facts, "slot");

		if (slot)
			appendStringInfo(&slots, " %s", slot);
	}
	initStringInfo(&plan);
	appendStringInfo(&plan, "# What replica_ctl_rejoin.sh has to do; see there.\n");
	appendStringInfo(&plan, "new_primary=%s\n",
					 shell_quote(psprintf("replica \"%s\" (%s:%s)", op->replica->name,
										  rctl_map_get_default(op->replica->facts, "host", "?"),
										  rctl_map_get_default(op->replica->facts, "port", "?"))));
	appendStringInfo(&plan, "pgdata=%s\n", shell_quote(DataDir));
	appendStringInfo(&plan, "bindir=%s\n", shell_quote(program_path(NULL)));
	appendStringInfo(&plan, "config_file=%s\n",
					 shell_quote(strcmp(config, psprintf("%s/postgresql.conf", DataDir)) == 0 ? "" : config));
	appendStringInfo(&plan, "source=%s\n", shell_quote(rejoin->rewind_conninfo));
	appendStringInfo(&plan, "slots=%s\n", shell_quote(slots.data));
	appendStringInfo(&plan, "fsync=%s\n", enableFsync ? "on" : "off");
	appendStringInfo(&plan, "stop_timeout=%d\n", STOP_TIMEOUT_S);
	appendStringInfo(&plan, "restart_command=%s\n", shell_quote(rctl_restart_command));
	if (rejoin->pass_file_content)
		write_work_file("passfile", rejoin->pass_file_content);
	write_work_file("plan", plan.data);
}

/* How this server follows the new one: before it stops, as it is ours to write while we live. */
static void
write_replication_settings(RctlOp *op, const RctlRejoin *rejoin, const RctlReplica *self)
{
	rctl_op_begin(op);
	rctl_alter_system("primary_conninfo", rejoin->primary_conninfo);
	rctl_alter_system("primary_slot_name", rctl_map_get(self->facts, "slot"));
	rctl_op_commit(op);
}

/* pg_rewind reads the new primary's control file, which learns of the timeline by a checkpoint. */
static void
checkpoint_there(RctlOp *op)
{
	PGconn	   *conn = rctl_promotion_conn(op);

	if (ask_bool(conn, "SELECT timeline_id >= $1::int FROM pg_catalog.pg_control_checkpoint()",
				 rctl_map_get(op->state, "timeline")))
		return;
	rctl_op_progress(op, "checkpoint of the new primary", 0, 0);
	rctl_pg_exec(conn, CHECKPOINT_TIMEOUT_MS, "CHECKPOINT", 0, NULL);
}

static char *
read_failure(void)
{
	FILE	   *file = AllocateFile(work_path("failed"), PG_BINARY_R);
	char		buffer[1024];
	size_t		length;

	if (file == NULL)
		return NULL;
	length = fread(buffer, 1, sizeof(buffer), file);
	FreeFile(file);
	while (length > 0 && buffer[length - 1] == '\n')
		length--;
	return rctl_valid_text(buffer, length);
}

static void
start_program(void)
{
	char	   *script = script_path();
	char	   *directory = work_path(NULL);
	const char *argv[] = {"/bin/sh", script, directory, NULL};
	RctlProcessSpec spec = {.argv = argv, .daemon = true, .output_file = work_path("rejoin.log")};
	TimestampTz start;

	/*
	 * It is nobody's at once: it ends this process soon, and must not end
	 * with it.
	 */
	rctl_process_release(rctl_process_start(&spec));
	start = GetCurrentTimestamp();
	while (!program_runs() && !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), START_TIMEOUT_MS))
		rctl_sleep(POLL_MS);
}

/*
 * Starts the program, and waits to be ended by it.  If it gives up, this
 * server runs on, fenced.
 */
void
rctl_rejoin_demote(RctlOp *op)
{
	RctlRejoin	rejoin = {0};
	RctlReplica *self;
	char	   *failure;

	if (!program_runs() && (failure = read_failure()) == NULL)
	{
		self = describe_self(op, &rejoin);
		checkpoint_there(op);
		write_plan(op, &rejoin);
		write_replication_settings(op, &rejoin, self);

		/*
		 * A standby that is out of reach, or was not told to follow the new
		 * primary, must not keep this server from stopping: it waits until
		 * each has all WAL, or for wal_sender_timeout.
		 */
		rctl_store_begin();
		rctl_store_end_walsenders();
		rctl_store_commit();
		start_program();
	}
	while (program_runs())
	{
		rctl_op_progress(op, "waiting to be stopped", 0, 0);
		rctl_op_alive(op);
		rctl_sleep(100);
	}
	failure = read_failure();
	if (failure == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CRASH_SHUTDOWN),
				 errmsg("the program that restarts this server has ended before it was done"),
				 errhint("See \"%s\".", work_path("rejoin.log"))));
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("this server could not be made a standby: %s", failure),
			 errdetail("Replica \"%s\" is the primary now, and this server stays fenced.", op->replica->name),
			 errhint("See \"%s\", and when the cause is gone run as the owner of the server: sh %s %s",
					 work_path("rejoin.log"), script_path(), work_path(NULL))));
}

/* ---------------------------------------------------------------------
 * On the new primary
 * ---------------------------------------------------------------------
 */

void
rctl_rejoin_arrive(RctlOp *op)
{
	const char *name = rctl_map_get_default(op->replica->facts, "application_name", "");
	TimestampTz start = GetCurrentTimestamp();
	bool		streams;

	for (;;)
	{
		rctl_store_begin();
		streams = rctl_store_streams(name);
		rctl_store_commit();
		if (streams)
			break;
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), ARRIVE_TIMEOUT_MS))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the old primary has not come back as a standby"),
					 errdetail("It was waited for as \"%s\" in pg_stat_replication.", name),
					 errhint("See the file rejoin.log in \"%s_rejoin\" on its host. Nothing is left to be done here but SELECT replica_repair(%s) when it runs.",
							 rctl_map_get_default(op->replica->facts, "data_directory", ""),
							 quote_literal_cstr(op->replica->name))));
		rctl_op_progress(op, "waiting for the old primary", 0, 0);
		rctl_op_alive(op);
		rctl_sleep(POLL_MS * 5);
	}
	rctl_op_event(op, "info", "rejoined", NULL,
				  "The old primary streams from this server, as replica \"%s\"", op->replica->name);
}

/* ---------------------------------------------------------------------
 * Undo
 * ---------------------------------------------------------------------
 */

bool
rctl_rejoin_is_record(const RctlCleanup *record)
{
	return strcmp(record->type, SLOT_RECORD) == 0 || strcmp(record->type, FOLLOW_RECORD) == 0;
}

void
rctl_rejoin_undo(RctlOp *op, const RctlCleanup *record)
{
	const char *name = rctl_map_get(record->object, "name");

	if (strcmp(record->type, FOLLOW_RECORD) == 0)
	{
		RctlReplica *sibling = rctl_op_replica(op, rctl_map_get(record->object, "replica"));

		/*
		 * One that could not be told was not moved; of one that is not noted
		 * we do not know.
		 */
		if (sibling && sibling->provider->follow &&
			strcmp(rctl_map_get_default(op->state, sibling_key(sibling), "moved"), "moved") == 0)
			sibling->provider->follow(op, sibling, NULL);
	}
	else if (strcmp(rctl_map_get_default(record->object, "on", ""), "source") == 0)
		rctl_slot_drop(name);
	else
	{
		PGconn	   *conn = rctl_promotion_conn(op);

		/* A sibling that was just told to leave may not have let go yet. */
		for (int i = 0; ask_bool(conn, "SELECT active FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", name) && i < 100; i++)
			rctl_sleep(POLL_MS * 5);
		(void) ask(conn, "SELECT pg_catalog.pg_drop_replication_slot(slot_name)"
				   " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", name);
	}
}
