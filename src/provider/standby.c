/*-------------------------------------------------------------------------
 *
 * standby.c
 *	  The steps that make a physical standby.
 *
 *	  preflight	 decide names, directories, port; refuse what cannot work
 *	  slot		 make the replication slot, so that no WAL is lost from here on
 *	  copy		 pg_basebackup through that slot, or what clone.h says
 *	  configure	 write the configuration files
 *	  start		 start the server as a daemon of its own
 *	  catch_up	 wait until it streams and has replayed what the copy needs
 *
 * Every decision is a fact of the replica before anything is made by it.
 * What a later step or an undo must know beyond that is in the operation's
 * state: the inodes of claimed directories, "copy_end" (the WAL position of
 * the source at the end of the copy), "tablespace <directory>".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/file_perm.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/clone.h"

/* pg_basebackup uses two walsenders. */
#define COPY_WALSENDERS 2

#define COPY_TICK_MS 250

/* A server that starts is asked what it does once in so many looks. */
#define LOOKS_AT_ACTIVITY 50

/* Looks at replication are frequent at first, when a small replica is done any moment. */
#define CATCH_UP_FAST_MS 20
#define CATCH_UP_SLOW_MS 200
#define CATCH_UP_FAST_TRIES 250

/* A replica that has not connected to its source by then never will. */
#define CONNECT_DEADLINE_MS 60000

RctlHost *
rctl_standby_host(RctlOp *op)
{
	return op->replica->provider->host(op);
}

/* ---------------------------------------------------------------------
 * preflight
 * ---------------------------------------------------------------------
 */

static int
to_int(const char *text)
{
	return text ? (int) strtol(text, NULL, 10) : 0;
}

/* Walsenders and slots that are free on the source, and its wal_level. */
static void
check_source(RctlOp *op, RctlSource *source)
{
	const char *slot = rctl_map_get(op->replica->facts, "slot");
	const char *where = source->upstream ? psprintf("replica \"%s\"", source->upstream->name) : "this server";
	RctlRows   *rows = rctl_source_query(source,
										 "SELECT current_setting('wal_level'),"
										 " current_setting('max_wal_senders')::int,"
										 " (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders()),"
										 " current_setting('max_replication_slots')::int,"
										 " (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name <> $1)",
										 1, &slot);
	int			senders = to_int(rctl_cell(rows, 0, 1));
	int			slots = to_int(rctl_cell(rows, 0, 3));

	if (strcmp(rctl_cell(rows, 0, 0), "minimal") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("wal_level of %s must be \"replica\" or \"logical\" for a replica", where),
				 errhint("ALTER SYSTEM SET wal_level = 'replica', then restart the server.")));
	if (senders - to_int(rctl_cell(rows, 0, 2)) < COPY_WALSENDERS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("not enough free walsenders on %s", where),
				 errdetail("A copy needs %d; max_wal_senders is %d and %s are in use.",
						   COPY_WALSENDERS, senders, rctl_cell(rows, 0, 2)),
				 errhint("ALTER SYSTEM SET max_wal_senders = %d, then restart the server.", senders + 10)));
	if (slots - to_int(rctl_cell(rows, 0, 4)) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free replication slot on %s", where),
				 errdetail("max_replication_slots is %d.", slots),
				 errhint("Drop a slot that is not needed, or ALTER SYSTEM SET max_replication_slots = %d and restart the server.",
						 slots + 10)));
}

/* The upstream is a replica of the same server, and streams. */
static void
check_upstream(RctlSource *source)
{
	RctlReplica *upstream = source->upstream;

	if (upstream == NULL)
		return;
	if (upstream->provider->host == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("upstream replica \"%s\" is on server \"%s\", whose replicas no other can follow",
						upstream->name, upstream->server),
				 errhint("Choose an upstream whose server has the foreign-data wrapper replica_local or replica_ssh.")));
	if (strcmp(upstream->state, "streaming") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("upstream replica \"%s\" is not streaming", upstream->name),
				 errdetail("Its state is \"%s\".", upstream->state),
				 errhint("Wait for it with SELECT replica_wait(%s).", quote_literal_cstr(upstream->name))));
}

void
rctl_standby_check_programs(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	static const char *const programs[] = {"pg_basebackup", "pg_ctl", "postgres"};
	RctlPathInfo info;

	for (int i = 0; i < lengthof(programs); i++)
	{
		host->inspect(host, psprintf("%s/%s", host->bindir, programs[i]), &info);
		if (info.kind == RCTL_PATH_MISSING)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FILE),
					 errmsg("program \"%s\" not found in \"%s\" on %s", programs[i], host->bindir, host->name),
					 errhint("Install it, or set the server's option bindir.")));
	}
}

/* The server's own slot name must not be somebody else's slot. */
static void
check_slot_name(RctlOp *op, RctlSource *source)
{
	const char *name = rctl_map_get(op->replica->facts, "slot");
	RctlSlot	slot;

	if (rctl_source_slot(source, name, &slot))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replication slot \"%s\" exists already", name),
				 errdetail("No replica of this registry is known to use it."),
				 errhint("If nobody needs it, drop it with SELECT pg_drop_replication_slot(%s).",
						 quote_literal_cstr(name))));
}

void
rctl_standby_check_upstream(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);

	rctl_standby_choose_names(op, host);
	check_upstream(rctl_source(op, host));
}

void
rctl_standby_check_place(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlMap    *facts = op->replica->facts;
	RctlPathInfo info;

	rctl_standby_check_directory(host, rctl_map_get(facts, "data_directory"), "data directory", &info);
	rctl_map_set(facts, "directory_existed", info.kind == RCTL_PATH_DIRECTORY ? "true" : "false");
}

void
rctl_standby_check_tablespaces(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);

	rctl_standby_map_tablespaces(op, host, rctl_source(op, host));
}

void
rctl_standby_check_source(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlSource *source = rctl_source(op, host);

	check_source(op, source);
	check_slot_name(op, source);
	if (rctl_standby_wants_synchronous(op->replica->options))
		rctl_standby_check_synchronous(op);
}

void
rctl_standby_check_login(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlSource *source = rctl_source(op, host);

	rctl_source_find_login(source);
	rctl_source_check_login(source);
}

void
rctl_standby_check_port(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);

	rctl_standby_reserve_port(op, host);
	rctl_standby_set_endpoint(op->replica->facts);
}

void
rctl_standby_preflight(RctlOp *op)
{
	rctl_op_progress(op, "checking", 0, 0);
	for (const RctlStep *check = op->replica->provider->create_checks; check->name; check++)
		check->run(op);
}

/* ---------------------------------------------------------------------
 * slot
 * ---------------------------------------------------------------------
 */

void
rctl_standby_slot(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlSource *source = rctl_source(op, host);
	const char *name = rctl_map_get(op->replica->facts, "slot");
	RctlSlot	slot;
	RctlMap    *object = rctl_map_make();

	if (rctl_map_get(op->state, "slot") == NULL)
		check_slot_name(op, source);
	rctl_map_set(op->state, "slot", name);
	rctl_map_set(object, "name", name);
	rctl_map_set(object, "upstream", rctl_map_get(op->replica->facts, "upstream"));
	rctl_op_cleanup_add(op, "slot", object, false);

	if (rctl_source_slot(source, name, &slot))
	{
		if (slot.reserved && !slot.lost)
			return;
		/* A crash came between the slot and its reservation. */
		rctl_source_drop_slot(source, name);
	}
	rctl_source_create_slot(source, name);
}

/* ---------------------------------------------------------------------
 * copy
 * ---------------------------------------------------------------------
 */

typedef struct CopyWatch
{
	RctlOp	   *op;
	RctlSource *source;
	MemoryContext context;		/* reset at every look */
	const char *application_name;
	uint64		total;			/* as last seen */
	bool		seen;
} CopyWatch;

/* Says how far pg_basebackup is, as the server that it copies sees it. */
static void
watch_copy(void *arg)
{
	CopyWatch  *watch = arg;
	MemoryContext old = MemoryContextSwitchTo(watch->context);
	RctlRows   *rows;

	/*
	 * The connection to an upstream must live on, so that it is made outside
	 * of this context (see rctl_standby_copy).
	 */
	rows = rctl_source_query(watch->source,
							 "SELECT p.phase, coalesce(p.backup_streamed, 0), coalesce(p.backup_total, 0)"
							 " FROM pg_catalog.pg_stat_progress_basebackup p"
							 " JOIN pg_catalog.pg_stat_activity a USING (pid)"
							 " WHERE a.application_name = $1", 1, &watch->application_name);
	if (rows->nrows > 0)
	{
		const char *phase = rctl_cell(rows, 0, 0);
		uint64		done = strtoull(rctl_cell(rows, 0, 1), NULL, 10);

		watch->total = Max(strtoull(rctl_cell(rows, 0, 2), NULL, 10), done);
		watch->seen = true;
		if (strncmp(phase, "waiting for checkpoint", 22) == 0)
		{
			/* A spread one takes its time, and there is nothing to see of it. */
			phase = "waiting for checkpoint";
			rctl_op_alive(watch->op);
		}
		else if (strncmp(phase, "estimating", 10) == 0)
			phase = "estimating size";
		else if (strncmp(phase, "streaming", 9) == 0)
			phase = "copying";
		else if (strncmp(phase, "initializing", 12) == 0)
			phase = "connecting";
		else
			phase = "waiting for WAL";
		rctl_op_progress(watch->op, phase, done, watch->total);
	}
	else if (watch->seen)
	{
		rctl_op_progress(watch->op, "writing to disk", watch->total, watch->total);
		rctl_op_alive(watch->op);
	}
	else
		rctl_op_progress(watch->op, "connecting", 0, 0);
	MemoryContextSwitchTo(old);
	MemoryContextReset(watch->context);
}

/* olddir=newdir, with '=' and '\' escaped as -T wants it */
static char *
mapping_argument(const char *from, const char *to)
{
	const char *parts[] = {from, to};
	StringInfoData argument;

	initStringInfo(&argument);
	for (int i = 0; i < 2; i++)
	{
		if (i > 0)
			appendStringInfoChar(&argument, '=');
		for (const char *c = parts[i]; *c; c++)
		{
			if (*c == '=')
				appendStringInfoChar(&argument, '\\');
			appendStringInfoChar(&argument, *c);
		}
	}
	return argument.data;
}

/* A file for pg_basebackup alone; removed at the end whatever happens. NULL: no password. */
static const char *
temporary_passfile(RctlOp *op, RctlHost *host)
{
	char	   *content = rctl_pass_file_content(op);
	RctlMap    *object;
	char	   *path;

	if (content == NULL)
		return rctl_op_secret(op, "passfile");
	/* The name keeps it out of base backups of this server. */
	path = psprintf("%s/pgsql_tmp.replica_ctl.%s." INT64_FORMAT, host->scratch, "passfile", op->id);
	object = rctl_map_make();
	rctl_map_set(object, "path", path);
	rctl_op_cleanup_add(op, "file", object, true);
	host->write_file(host, path, content, 0600);
	return path;
}

static const char *const *
copy_arguments(RctlOp *op, RctlHost *host, RctlSource *source, const char *application_name,
			   const char *passfile)
{
	const RctlMap *facts = op->replica->facts;
	const RctlMap *options = op->replica->options;
	const char *max_rate = rctl_map_get(options, "max_rate");
	const char **argv = palloc0(sizeof(char *) * (32 + 2 * list_length(op->state->entries)));
	int			n = 0;
	ListCell   *cell;

	argv[n++] = psprintf("%s/pg_basebackup", host->bindir);
	argv[n++] = "-D";
	argv[n++] = rctl_map_get(facts, "data_directory");
	argv[n++] = "-X";
	argv[n++] = "stream";
	argv[n++] = "-S";
	argv[n++] = rctl_map_get(facts, "slot");
	argv[n++] = "-c";
	argv[n++] = rctl_map_get_default(options, "checkpoint", "fast");
	argv[n++] = "-w";

	/*
	 * One that is late to notice that it was given up must not delete what
	 * comes after it.
	 */
	if (!host->local)
		argv[n++] = "--no-clean";
	if (host->sync_trees)
		argv[n++] = "--no-sync";
	if (max_rate)
	{
		argv[n++] = "-r";
		argv[n++] = psprintf("%sk", max_rate);
	}
	foreach(cell, op->state->entries)
	{
		const RctlMapEntry *entry = lfirst(cell);

		if (strncmp(entry->key, "tablespace ", 11) == 0)
		{
			argv[n++] = "-T";
			argv[n++] = mapping_argument(entry->key + 11, entry->value);
		}
	}
	argv[n++] = "-d";
	argv[n++] = rctl_source_conninfo(source, application_name, passfile);
	return argv;
}

/* Whether pg_basebackup (which speaks English here) has lost its source. */
static bool
connection_lost(const char *errors)
{
	static const char *const signs[] = {
		"connection to server", "server closed the connection", "could not read COPY data",
		"terminating connection", "could not receive data from", "COPY stream ended",
	};

	for (int i = 0; i < lengthof(signs); i++)
	{
		if (strstr(errors, signs[i]) != NULL)
			return true;
	}
	return false;
}

static void
copy_failed(RctlOp *op, const RctlProcessResult *result)
{
	char	   *lines = rctl_last_lines(result->errors, 10);

	if (strstr(result->errors, "No space left on device") || strstr(result->errors, "Disk quota exceeded"))
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("the disk is full: pg_basebackup %s", rctl_process_describe(result)),
				 errdetail("%s", lines),
				 errhint("Free some space, or choose another place with the option data_directory.")));
	ereport(ERROR,
			(errcode(connection_lost(result->errors)
					 ? ERRCODE_CONNECTION_FAILURE : ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("pg_basebackup %s", rctl_process_describe(result)),
			 lines[0] ? errdetail("%s", lines) : errdetail("It said nothing."),
			 errhint("Correct the cause and create the replica again.")));
}

static void
run_copy(RctlOp *op, RctlHost *host, RctlSource *source)
{
	char	   *application_name = psprintf("replica_ctl_" INT64_FORMAT, op->id);
	const char *env[] = {"LC_ALL=C", NULL};
	RctlProcessSpec spec = {
		.argv = copy_arguments(op, host, source, application_name, temporary_passfile(op, host)),
		.env = env,
	};
	RctlProcessResult *result;
	CopyWatch	watch = {
		.op = op,
		.source = source,
		.application_name = application_name,
		.context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl copy", ALLOCSET_SMALL_SIZES),
	};

	result = host->run(host, &spec, 0, watch_copy, COPY_TICK_MS, &watch);
	MemoryContextDelete(watch.context);
	if (!result->exited || result->exit_code != 0)
		copy_failed(op, result);
	if (host->sync_trees)
	{
		rctl_op_progress(op, "writing to disk", watch.total, watch.total);
		host->sync_trees(host, rctl_standby_directories(op->replica->facts));
	}
	rctl_op_progress(op, "copied", watch.total, watch.total);
}

void
rctl_standby_copy(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlMap    *facts = op->replica->facts;
	RctlSource *source = rctl_source(op, host);
	const char *directory = rctl_map_get(facts, "data_directory");
	List	   *directories = rctl_standby_directories(facts);
	ListCell   *cell;

	if (!rctl_standby_marked(op, host, directory, true))
	{
		/* A walsender of an earlier attempt may be about to end. */
		rctl_source_release_slot(source, rctl_map_get(facts, "slot"));
		foreach(cell, directories)
			rctl_standby_claim_directory(op, host, lfirst(cell));
		host->set_mode(host, directory, pg_dir_create_mode);
		if (rctl_clone_possible(op->replica, host))
			rctl_clone(op, host, source, false);
		else
			run_copy(op, host, source);
		/* The data directory's marker comes last: it says that all is there. */
		for (int i = list_length(directories) - 1; i >= 0; i--)
			rctl_standby_mark_directory(op, host, list_nth(directories, i));
	}
	rctl_standby_note_copy_end(op);
}

void
rctl_standby_note_copy_end(RctlOp *op)
{
	if (rctl_map_get(op->state, "copy_end") == NULL)
		rctl_map_set(op->state, "copy_end",
					 rctl_own_value(op, "SELECT pg_catalog.pg_current_wal_flush_lsn()", 0, NULL));

	/*
	 * A password does not stay until the end, when another host might not be
	 * there to remove it from.
	 */
	rctl_op_cleanup_run(op, "file");
}

void
rctl_standby_configure(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);

	rctl_standby_write_configuration(op, host, rctl_source(op, host));
	rctl_map_set(op->replica->facts, "configured", "true");
}

/* ---------------------------------------------------------------------
 * start
 * ---------------------------------------------------------------------
 */

typedef struct StartWatch
{
	RctlOp	   *op;
	RctlHost   *host;
	const char *directory;
	uint32		activity;		/* hash of what it did when we last looked */
	int			looks;
} StartWatch;

/* A server that has much to replay before it accepts connections makes progress. */
static void
watch_start(void *arg)
{
	StartWatch *watch = arg;
	char	   *activity;
	uint32		hash;

	rctl_op_progress(watch->op, "starting", 0, 0);
	if (watch->looks++ % LOOKS_AT_ACTIVITY != 0)
		return;
	activity = watch->host->server_activity(watch->host, watch->directory);
	hash = activity ? string_hash(activity, strlen(activity) + 1) : 0;
	if (activity == NULL || hash != watch->activity)
		rctl_op_alive(watch->op);
	watch->activity = hash;
}

static void
start_failed(RctlOp *op, RctlHost *host, const RctlProcessResult *result)
{
	const char *directory = rctl_map_get(op->replica->facts, "data_directory");

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("replica \"%s\" did not start: its server %s", op->replica->name,
					rctl_process_describe(result)),
			 errdetail("Last lines of its log: %s", rctl_standby_log_tail(host, directory)),
			 errhint("Correct the cause, which is often an option or a setting, and create it again.")));
}

/* A port that was free may have been taken since; one that the user named is not changed. */
static void
check_port(RctlOp *op, RctlHost *host)
{
	const RctlMap *facts = op->replica->facts;

	if (host->free_ports(host, to_int(rctl_map_get(facts, "port")), 1,
						 rctl_map_get_default(facts, "listen_addresses", ""),
						 rctl_map_get_default(facts, "socket_directories", "")) != NIL)
		return;
	rctl_standby_reserve_port(op, host);
	rctl_standby_configure(op);
}

void
rctl_standby_start(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	const RctlMap *facts = op->replica->facts;
	const char *directory = rctl_map_get(facts, "data_directory");
	RctlMap    *object = rctl_map_make();
	RctlProcessResult *result;
	char	   *warning;
	RctlSource *source = rctl_source(op, host);
	StartWatch	watch = {.op = op, .host = host, .directory = directory};

	rctl_map_set(object, "path", directory);
	rctl_op_cleanup_add(op, "server", object, false);
	if (host->server_pid(host, directory) != 0)
	{
		rctl_standby_write_replication(op, host, source);
		return;
	}
	if (op->kind == RCTL_OP_CREATE)
		check_port(op, host);
	rctl_op_progress(op, "starting", 0, 0);
	rctl_standby_write_start(op, host, source, true);
	result = host->start_server(host, directory, RCTL_LOG_FILE, rctl_map_get(facts, "config_file"),
								watch_start, &watch, &warning);
	if (result)
		start_failed(op, host, result);
	rctl_standby_write_start(op, host, source, false);
	if (warning)
		rctl_op_event(op, "warning", "not_a_daemon", NULL,
					  "Replica \"%s\" is not a daemon of its own. %s", op->replica->name, warning);
}

/* ---------------------------------------------------------------------
 * catch_up
 * ---------------------------------------------------------------------
 */

static void
check_alive(RctlOp *op, RctlHost *host)
{
	const char *directory = rctl_map_get(op->replica->facts, "data_directory");

	if (directory == NULL || host->server_pid(host, directory) != 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("replica \"%s\" has stopped", op->replica->name),
			 errdetail("Last lines of its log: %s", rctl_standby_log_tail(host, directory)),
			 errhint("Correct the cause and try again.")));
}

/*
 * Whether it streams and has got there; says how far it is.  A replica with
 * apply_delay has got there when it has the WAL.
 */
static bool
caught_up(RctlOp *op, RctlSource *source, bool *connected)
{
	const char *application_name = rctl_map_get(op->replica->facts, "application_name");
	const char *target = rctl_map_get(op->state, "copy_end");
	bool		delayed = rctl_standby_apply_delay(op->replica->options) > 0;
	const char *args[] = {application_name, target, delayed ? "t" : "f"};
	RctlRows   *rows = rctl_source_query(source,
										 "SELECT state, pos >= $2::pg_lsn,"
										 " pg_catalog.pg_wal_lsn_diff(pos, '0/0')::bigint,"
										 " pg_catalog.pg_wal_lsn_diff($2::pg_lsn, '0/0')::bigint"
										 " FROM (SELECT state, pid, CASE WHEN $3::bool THEN flush_lsn ELSE replay_lsn END AS pos"
										 "  FROM pg_catalog.pg_stat_replication WHERE application_name = $1) s"
										 " ORDER BY pid DESC LIMIT 1", 3, args);

	*connected = rows->nrows > 0;
	if (rows->nrows == 0 || rctl_cell(rows, 0, 2) == NULL)
	{
		rctl_op_progress(op, "connecting", 0, 0);
		return false;
	}
	/* Positions are no amounts of bytes, but their growth is progress. */
	rctl_op_progress(op, "catching up", 0, 0);
	if (rctl_map_get(op->state, "position") == NULL ||
		strcmp(rctl_map_get(op->state, "position"), rctl_cell(rows, 0, 2)) != 0)
	{
		rctl_map_set(op->state, "position", rctl_cell(rows, 0, 2));
		rctl_op_alive(op);
	}
	return strcmp(rctl_cell(rows, 0, 0), "streaming") == 0 &&
		rctl_cell(rows, 0, 1) != NULL && rctl_cell(rows, 0, 1)[0] == 't';
}

static void
never_connected(RctlOp *op, RctlHost *host)
{
	const char *directory = rctl_map_get(op->replica->facts, "data_directory");

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("replica \"%s\" runs but does not stream", op->replica->name),
			 errdetail("It has not connected to its source for %d s. Last lines of its log: %s",
					   CONNECT_DEADLINE_MS / 1000,
					   directory ? rctl_standby_log_tail(host, directory) : "(not known)"),
			 errhint("Look at primary_conninfo there and at pg_hba.conf here.")));
}

static void
make_synchronous(RctlOp *op)
{
	const char *name = rctl_map_get(op->replica->facts, "application_name");
	RctlMap    *object;

	if (!rctl_standby_wants_synchronous(op->replica->options))
		return;
	object = rctl_map_make();
	rctl_map_set(object, "name", name);
	rctl_op_cleanup_add(op, "synchronous", object, false);
	rctl_standby_synchronous(op, name, true);
	rctl_map_set(op->replica->facts, "synchronous", "true");
}

void
rctl_standby_catch_up(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlSource *source = rctl_source(op, host);
	TimestampTz last_seen = GetCurrentTimestamp();
	MemoryContext loop;
	MemoryContext old;
	bool		connected = false;

	if (rctl_map_get(op->state, "copy_end") == NULL)
		rctl_map_set(op->state, "copy_end",
					 rctl_own_value(op, "SELECT pg_catalog.pg_current_wal_flush_lsn()", 0, NULL));

	/*
	 * The connection to an upstream belongs to this context, not to the
	 * loop's.
	 */
	if (source->upstream)
		rctl_source_query(source, "SELECT 1", 0, NULL);

	loop = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl catch up", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(loop);
	for (int i = 0; !caught_up(op, source, &connected); i++)
	{
		check_alive(op, host);
		if (connected)
			last_seen = GetCurrentTimestamp();
		else if (TimestampDifferenceExceeds(last_seen, GetCurrentTimestamp(), CONNECT_DEADLINE_MS))
			never_connected(op, host);
		rctl_sleep(i < CATCH_UP_FAST_TRIES ? CATCH_UP_FAST_MS : CATCH_UP_SLOW_MS);
		MemoryContextReset(loop);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(loop);

	/* It can be promoted only if we can log in. */
	rctl_standby_connect(op, op->replica, 10000);
	make_synchronous(op);
}
