/*-------------------------------------------------------------------------
 *
 * standby_manage.c
 *	  Drop and attach of a physical standby, and the removal of what an
 *	  operation made.
 *
 * Nothing is deleted that is not known to be ours (standby_place.c), and a
 * server is stopped only if it is the one that runs in the replica's
 * directory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "libpq-fe.h"
#include "pgstat.h"
#include "utils/builtins.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/clone.h"
#include "settings.h"

/*
 * A server that is to be deleted or copied anew owes nobody a clean end, and
 * one that is recovering from a crash may not follow a fast shutdown at all.
 */
#define STOP_FAST_S "20"
#define STOP_IMMEDIATE_S "30"

static bool
is_true(const RctlMap *map, const char *key)
{
	return strcmp(rctl_map_get_default(map, key, "false"), "true") == 0;
}

/* ---------------------------------------------------------------------
 * Servers
 * ---------------------------------------------------------------------
 */

void
rctl_standby_start_server(RctlOp *op, RctlReplica *replica)
{
	RctlHost   *host = rctl_standby_host(op);
	const char *directory = rctl_map_get(replica->facts, "data_directory");
	char	   *warning;

	if (directory == NULL || host->server_pid(host, directory) != 0)
		return;
	if (host->start_server(host, directory, RCTL_LOG_FILE, rctl_map_get(replica->facts, "config_file"),
						   NULL, NULL, &warning) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the server of replica \"%s\" does not start", replica->name),
				 errdetail("Last lines of its log: %s", rctl_standby_log_tail(host, directory)),
				 errhint("Correct the cause; it is tried again.")));
}

static void
watch_stop(void *arg)
{
	RctlOp	   *op = arg;

	rctl_op_alive(op);
}

void
rctl_standby_stop_server(RctlOp *op, RctlHost *host, const char *directory)
{
	static const char *const modes[][2] = {{"fast", STOP_FAST_S}, {"immediate", STOP_IMMEDIATE_S}};
	RctlProcessResult *result = NULL;

	for (int i = 0; i < lengthof(modes); i++)
	{
		const char *argv[] = {
			psprintf("%s/pg_ctl", host->bindir), "stop", "-s", "-w",
			"-D", directory, "-m", modes[i][0], "-t", modes[i][1], NULL
		};
		RctlProcessSpec spec = {.argv = argv};

		if (host->server_pid(host, directory) == 0)
			return;
		rctl_op_progress(op, "stopping", 0, 0);
		if (i == 0 && host->stop_server)
		{
			host->stop_server(host, directory);
			if (host->server_pid(host, directory) == 0)
				return;
		}
		result = host->run(host, &spec, 0, watch_stop, 1000, op);
	}
	if (host->server_pid(host, directory) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("the server in \"%s\" does not stop", directory),
			 errdetail("%s", rctl_last_lines(result->errors, 5)),
			 errhint("Stop it by hand.")));
}

/* The system identifier of a data directory; NULL if it is none. */
static char *
directory_system(RctlHost *host, const char *directory)
{
	static const char label[] = "Database system identifier:";
	const char *argv[] = {psprintf("%s/pg_controldata", host->bindir), "-D", directory, NULL};
	const char *env[] = {"LC_ALL=C", NULL};
	RctlProcessSpec spec = {.argv = argv, .env = env};
	RctlProcessResult *result = host->run(host, &spec, 30000, NULL, 0, NULL);
	char	   *line = strstr(result->output, label);

	if (!result->exited || result->exit_code != 0 || line == NULL)
		return NULL;
	line += strlen(label);
	line += strspn(line, " ");
	return pnstrdup(line, strcspn(line, " \r\n"));
}

bool
rctl_standby_was_promoted(RctlOp *op, RctlHost *host)
{
	const RctlMap *facts = op->replica->facts;
	const char *directory = rctl_map_get(facts, "data_directory");
	RctlPathInfo info;

	if (directory == NULL || !is_true(facts, "configured"))
		return false;
	host->inspect(host, psprintf("%s/PG_VERSION", directory), &info);
	if (info.kind != RCTL_PATH_FILE)
		return false;
	host->inspect(host, psprintf("%s/standby.signal", directory), &info);
	return info.kind == RCTL_PATH_MISSING;
}

/* ---------------------------------------------------------------------
 * Drop
 * ---------------------------------------------------------------------
 */

/* The error, if the host cannot be used; NULL if it can. */
static ErrorData *
try_reach(RctlHost *host)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *volatile edata = NULL;

	PG_TRY();
	{
		host->reach(host);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(edata->sqlerrcode) != ERRCODE_CONNECTION_EXCEPTION &&
			ERRCODE_TO_CATEGORY(edata->sqlerrcode) != ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION &&
			edata->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
			PG_RE_THROW();
		FlushErrorState();
		pgstat_report_wait_end();
	}
	PG_END_TRY();
	return edata;
}

/*
 * Whether the drop must do without the replica's host, which a forced one
 * does after it has tried as often as any step is.  Then what is there stays
 * there, and an event says how to remove it.
 */
static bool
host_gone(RctlOp *op, RctlHost *host)
{
	const RctlMap *facts = op->replica->facts;
	ErrorData  *edata;
	RctlMap    *detail;

	if (host->reach == NULL)
		return false;
	if (is_true(op->state, "host_gone"))
		return true;
	edata = try_reach(host);
	if (edata == NULL)
		return false;
	if (!is_true(op->arguments, "force"))
		edata->hint = psprintf("Try again when the host can be used; if it is gone for good, SELECT replica_drop(%s, force => true) drops what is on this side.",
							   quote_literal_cstr(op->replica->name));
	else if (op->attempt > rctl_step_retries || edata->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
	{
		List	   *directories = rctl_standby_directories(facts);
		char	   *command = host->removal_command(host, directories);

		detail = rctl_map_make();
		rctl_map_set(detail, "host", rctl_map_get_default(facts, "address", ""));
		rctl_map_set(detail, "data_directory", linitial(directories));
		rctl_map_set(detail, "command", command);
		rctl_map_set(detail, "reason", edata->message);
		rctl_op_event(op, "warning", "left_on_host", detail,
					  "The server and the files of replica \"%s\" stay on %s: %s. To remove them, run there as \"%s\": %s",
					  op->replica->name, host->name, edata->message, host->os_user, command);
		rctl_map_set(op->state, "host_gone", "true");
		return true;
	}
	ReThrowError(edata);
	return false;				/* not reached */
}

/* A forced drop of what was not made here: it must at least be a copy of this server. */
static void
take_over_directories(RctlOp *op, RctlHost *host)
{
	const char *directory = rctl_map_get(op->replica->facts, "data_directory");
	RctlPathInfo info;
	char	   *system;
	ListCell   *cell;

	host->inspect(host, directory, &info);
	if (info.kind == RCTL_PATH_MISSING)
		return;
	system = directory_system(host, directory);
	if (system == NULL || strcmp(system, psprintf(UINT64_FORMAT, GetSystemIdentifier())) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("directory \"%s\" does not hold a copy of this server", directory),
				 errhint("Forget the replica with SELECT replica_detach(%s).",
						 quote_literal_cstr(op->replica->name))));
	foreach(cell, rctl_standby_directories(op->replica->facts))
		rctl_standby_mark_directory(op, host, lfirst(cell));
}

static void
drop_check(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlReplica *replica = op->replica;
	const char *name = quote_literal_cstr(replica->name);
	bool		force = is_true(op->arguments, "force");
	bool		adopted = is_true(replica->facts, "adopted");

	if (!force && rctl_op_fact_taken(op, "upstream", replica->name))
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("other replicas follow replica \"%s\"", replica->name),
				 errhint("Drop those first; SELECT name FROM replica_ctl.replica WHERE facts->>'upstream' = %s shows them.",
						 name)));
	if (!force && rctl_map_get(replica->facts, "data_directory"))
		(void) host_gone(op, host);
	if (!force && rctl_standby_was_promoted(op, host))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was promoted and is a server of its own", replica->name),
				 errdetail("A drop would delete its data."),
				 errhint("Forget it with SELECT replica_detach(%s), or delete it with SELECT replica_drop(%s, force => true).",
						 name, name)));
	if (adopted && !force)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was attached, not made here", replica->name),
				 errdetail("A drop would delete its data."),
				 errhint("Forget it with SELECT replica_detach(%s), or delete it with SELECT replica_drop(%s, force => true).",
						 name, name)));
	if (adopted && rctl_map_get(replica->facts, "data_directory") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the data directory of replica \"%s\" is not known", replica->name),
				 errhint("Forget it with SELECT replica_detach(%s) and delete it on its host.", name)));
	if (adopted && !op->dry_run && !host_gone(op, host))
		take_over_directories(op, host);
}

static void
drop_unsync(RctlOp *op)
{
	const char *name = rctl_map_get(op->replica->facts, "application_name");

	if (name == NULL || !is_true(op->replica->facts, "synchronous"))
		return;
	rctl_standby_synchronous(op, name, false);
	rctl_map_set(op->replica->facts, "synchronous", NULL);
}

static void
drop_stop(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	const char *directory = rctl_map_get(op->replica->facts, "data_directory");

	if (directory && !host_gone(op, host))
		rctl_standby_stop_server(op, host, directory);
}

static void
drop_directory(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	const RctlMap *facts = op->replica->facts;
	List	   *directories;

	if (rctl_map_get(facts, "data_directory") == NULL || host_gone(op, host))
		return;
	rctl_op_progress(op, "removing files", 0, 0);
	directories = rctl_standby_directories(facts);
	rctl_rewind_end(op, host, false);
	/* The data directory last: it is what tells that there is something left. */
	for (int i = list_length(directories) - 1; i >= 0; i--)
		rctl_standby_remove_directory(op, host, list_nth(directories, i),
									  i == 0 && is_true(facts, "directory_existed"));
}

/*
 * On this server, or on an upstream that may be gone: then its slots are too.
 * give_up: one that cannot be reached keeps the slot, and an event says so.
 */
static void
drop_slot(RctlOp *op, RctlHost *host, const char *name, const char *upstream, bool give_up)
{
	RctlSource	source = {.op = op, .host = host};
	char	   *reason;

	if (upstream)
	{
		source.upstream = rctl_op_replica(op, upstream);
		if (source.upstream == NULL)
			return;
	}
	if (upstream && give_up)
	{
		source.conn = rctl_standby_try_connect(op, source.upstream, 10000, &reason);
		if (source.conn == NULL)
		{
			rctl_op_event(op, "warning", "slot_left", NULL,
						  "Replication slot \"%s\" stays on replica \"%s\", which could not be reached",
						  name, upstream);
			return;
		}
	}
	rctl_source_drop_slot(&source, name);
}

static void
drop_own_slot(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlMap    *facts = op->replica->facts;
	const char *slot = rctl_map_get(facts, "slot");

	if (slot == NULL)
		return;
	rctl_op_progress(op, "dropping the slot", 0, 0);
	drop_slot(op, host, slot, rctl_map_get(facts, "upstream"), is_true(op->arguments, "force"));
	rctl_map_set(facts, "slot", NULL);
}

const RctlStep rctl_standby_drop_checks[] = {
	{"deletion", drop_check, "nothing depends on it, and its data are ours to delete"},
	{NULL}
};

const RctlStep rctl_standby_drop_steps[] = {
	{"check", drop_check, "check that nobody depends on it"},
	{"unsync", drop_unsync, "take it out of synchronous_standby_names"},
	{"stop", drop_stop, "stop the replica's server", .point_of_no_return = true},
	{"directory", drop_directory, "delete its directories"},
	{"slot", drop_own_slot, "drop its replication slot"},
	{NULL}
};

static void
reset_slot_name(PGconn *conn)
{
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, "ALTER SYSTEM RESET primary_slot_name", 0, NULL);
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, "SELECT pg_catalog.pg_reload_conf()", 0, NULL);
}

/*
 * A standby that names a slot that is gone does not stream.  So one that is
 * detached is told to do without; one that had a slot of its own when it was
 * attached keeps it.
 */
void
rctl_standby_release(RctlOp *op)
{
	RctlMap    *facts = op->replica->facts;
	const char *slot = rctl_map_get(facts, "slot");
	PGconn	   *conn;
	char	   *reason;
	char	   *named;

	drop_unsync(op);
	if (op->kind != RCTL_OP_DETACH || slot == NULL)
		return;
	if (is_true(facts, "slot_found"))
	{
		rctl_map_set(facts, "slot", NULL);
		return;
	}
	conn = rctl_standby_try_connect(op, op->replica, 10000, &reason);
	if (conn == NULL)
	{
		rctl_op_event(op, "warning", "slot_name_left", NULL,
					  "Replica \"%s\" could not be reached; if it is to stream again, reset primary_slot_name there",
					  op->replica->name);
		return;
	}
	named = rctl_pg_value(conn, RCTL_STATEMENT_TIMEOUT,
						  "SELECT current_setting('primary_slot_name')"
						  " WHERE pg_catalog.pg_is_in_recovery()", 0, NULL);
	if (named && strcmp(named, slot) == 0)
		reset_slot_name(conn);
	rctl_pg_close(conn);
}

/* ---------------------------------------------------------------------
 * Removal of what an operation made
 * ---------------------------------------------------------------------
 */

void
rctl_standby_cleanup(RctlOp *op, const RctlCleanup *record)
{
	RctlHost   *host = rctl_standby_host(op);
	const RctlMap *object = record->object;
	const char *path = rctl_map_get(object, "path");
	const char *name = rctl_map_get(object, "name");

	if (strcmp(record->type, "slot") == 0)
		drop_slot(op, host, name, rctl_map_get(object, "upstream"), false);
	else if (strcmp(record->type, "server") == 0)
		rctl_standby_stop_server(op, host, path);
	else if (strcmp(record->type, "directory") == 0)
		rctl_standby_remove_directory(op, host, path, is_true(object, "existed"));
	else if (strcmp(record->type, "file") == 0)
		host->remove_file(host, path);
	else if (strcmp(record->type, "synchronous") == 0)
		rctl_standby_synchronous(op, name, false);
	else if (strcmp(record->type, "aside") == 0)
		rctl_standby_restore_aside(host, path, rctl_map_get(object, "to"));
	else if (strcmp(record->type, "slot_name") == 0)
		reset_slot_name(rctl_standby_connect(op, op->replica, 10000));
	else
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("unknown type of cleanup record: \"%s\"", record->type)));
}

/* ---------------------------------------------------------------------
 * Attach
 * ---------------------------------------------------------------------
 */

/* Where the server of a data directory listens, from its postmaster.pid. */
static void
read_postmaster_file(RctlOp *op, RctlHost *host, const char *directory)
{
	RctlMap    *facts = op->replica->facts;
	char	   *rest = host->read_file(host, psprintf("%s/postmaster.pid", directory), 8192);
	char	   *lines[8] = {0};

	for (int i = 0; i < lengthof(lines) && rest; i++)
		lines[i] = strsep(&rest, "\n");
	if (lines[3] && lines[3][0] && rctl_map_get(op->replica->options, "port") == NULL)
		rctl_map_set(facts, "port", lines[3]);
	if (lines[4])
		rctl_map_set(facts, "socket_directories", lines[4]);
	if (lines[5])
		rctl_map_set(facts, "listen_addresses", lines[5]);
}

/* What the options say, before we can ask the standby itself. */
static void
locate(RctlOp *op, RctlHost *host)
{
	RctlMap    *facts = op->replica->facts;
	const RctlMap *options = op->replica->options;
	const char *given = rctl_map_get(options, "data_directory");

	rctl_map_set(facts, "adopted", "true");
	rctl_map_set(facts, "bindir", host->bindir);
	rctl_map_set(facts, "upstream", rctl_map_get(options, "upstream"));
	rctl_map_set(facts, "host", rctl_map_get_default(options, "host", host->local ? "localhost" : host->address));
	rctl_map_set(facts, "port", rctl_map_get_default(options, "port", "5432"));
	if (rctl_map_get(options, "host"))
		rctl_map_set(facts, "login_host", rctl_map_get(options, "host"));
	if (given)
	{
		char	   *directory = pstrdup(given);

		canonicalize_path(directory);
		if (host->server_pid(host, directory) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("no server runs in data directory \"%s\"", directory),
					 errhint("Start the standby, then attach it.")));
		rctl_map_set(facts, "data_directory", directory);
		read_postmaster_file(op, host, directory);
	}
	rctl_map_set(facts, "login_port", rctl_map_get(facts, "port"));
}

/* application_name as the source sees it. */
static char *
standby_application_name(const char *conninfo, const char *cluster_name)
{
	char	   *name = NULL;
	PQconninfoOption *options = PQconninfoParse(conninfo, NULL);

	for (PQconninfoOption *option = options; option && option->keyword; option++)
	{
		if (strcmp(option->keyword, "application_name") == 0 && option->val)
			name = pstrdup(option->val);
	}
	PQconninfoFree(options);
	if (name == NULL)
		name = pstrdup(cluster_name[0] ? cluster_name : "walreceiver");
	return name;
}

/* Facts from the standby itself. */
static void
ask_standby(RctlOp *op, RctlHost *host, PGconn *conn)
{
	RctlMap    *facts = op->replica->facts;
	RctlMap    *tablespaces = rctl_map_make();
	RctlRows   *rows = rctl_conn_rows(conn,
									  "SELECT pg_catalog.pg_is_in_recovery(), current_setting('data_directory'),"
									  " current_setting('config_file'), current_setting('port'),"
									  " current_setting('listen_addresses'), current_setting('unix_socket_directories'),"
									  " current_setting('cluster_name'), current_setting('primary_conninfo'),"
									  " current_setting('primary_slot_name')", 0, NULL);
	const char *directory = rctl_cell(rows, 0, 1);
	const char *config = rctl_cell(rows, 0, 2);

	if (rctl_cell(rows, 0, 0)[0] != 't')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the server that answers is not a standby"),
				 errdetail("It is a copy of this server that accepts writes."),
				 errhint("Make a new replica with replica_create().")));
	rctl_map_set(facts, "port", rctl_cell(rows, 0, 3));
	rctl_map_set(facts, "cluster_name", rctl_cell(rows, 0, 6));
	rctl_map_set(facts, "application_name",
				 standby_application_name(rctl_cell(rows, 0, 7), rctl_cell(rows, 0, 6)));
	rctl_map_set(op->state, "primary_slot_name", rctl_cell(rows, 0, 8));
	rctl_map_setf(facts, "system_identifier", UINT64_FORMAT, GetSystemIdentifier());

	/* Its files are ours to look after only if they are on this host. */
	if (rctl_map_get(facts, "data_directory") == NULL && host->server_pid(host, directory) != 0 &&
		directory_system(host, directory) != NULL)
		rctl_map_set(facts, "data_directory", directory);
	if (rctl_map_get(facts, "data_directory") == NULL)
		return;
	rctl_map_set(facts, "listen_addresses", rctl_cell(rows, 0, 4));
	rctl_map_set(facts, "socket_directories", rctl_cell(rows, 0, 5));
	rctl_map_set(facts, "configured", "true");
	if (strcmp(config, psprintf("%s/postgresql.conf", directory)) != 0)
		rctl_map_set(facts, "config_file", config);
	rows = rctl_conn_rows(conn,
						  "SELECT oid, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace"
						  " WHERE pg_catalog.pg_tablespace_location(oid) LIKE '/%'", 0, NULL);
	for (int i = 0; i < rows->nrows; i++)
		rctl_map_set(tablespaces, rctl_cell(rows, i, 0), rctl_cell(rows, i, 1));
	if (rows->nrows > 0)
		rctl_map_set_json(facts, "tablespaces", rctl_map_to_json(tablespaces));
	if (rctl_map_get(op->replica->options, "host") == NULL)
		rctl_standby_set_endpoint(facts);
}

void
rctl_standby_attach_inspect(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlMap    *facts = op->replica->facts;
	RctlSource *source;
	const char *name;
	RctlRows   *rows;

	rctl_op_progress(op, "looking at the standby", 0, 0);
	locate(op, host);
	ask_standby(op, host, rctl_standby_connect(op, op->replica, 10000));

	source = rctl_source(op, host);
	name = rctl_map_get(facts, "application_name");
	rows = rctl_source_query(source,
							 "SELECT state FROM pg_catalog.pg_stat_replication WHERE application_name = $1",
							 1, &name);
	if (rows->nrows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the standby does not follow %s",
						source->upstream ? psprintf("replica \"%s\"", source->upstream->name) : "this server"),
				 errdetail("There is no session of \"%s\" in pg_stat_replication.", name),
				 errhint("Correct primary_conninfo of the standby, or name the replica that it follows with the option upstream.")));
}

/* The slot that the standby uses; one is made for it if it has none. */
void
rctl_standby_attach_slot(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlMap    *facts = op->replica->facts;
	RctlSource *source = rctl_source(op, host);
	const char *used = rctl_map_get_default(op->state, "primary_slot_name", "");
	const char *slot = rctl_map_get(op->replica->options, "slot");
	RctlSlot	found;
	RctlMap    *object;
	PGconn	   *conn;

	if (used[0] != '\0')
	{
		if (slot && strcmp(slot, used) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the standby uses replication slot \"%s\", not \"%s\"", used, slot),
					 errhint("Leave out the option slot.")));
		rctl_map_set(facts, "slot", used);
		rctl_map_set(facts, "slot_found", "true");
		return;
	}
	if (slot == NULL)
		slot = rctl_standby_slot_name(op->replica);
	rctl_map_set(facts, "slot", slot);
	if (!rctl_source_slot(source, slot, &found))
	{
		object = rctl_map_make();
		rctl_map_set(object, "name", slot);
		rctl_map_set(object, "upstream", rctl_map_get(facts, "upstream"));
		rctl_op_cleanup_add(op, "slot", object, false);
		rctl_source_create_slot(source, slot);
	}
	else if (!found.physical)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("replication slot \"%s\" is not a physical one", slot),
				 errhint("Name another with the option slot, or leave it out.")));

	rctl_op_cleanup_add(op, "slot_name", rctl_map_make(), false);
	conn = rctl_standby_connect(op, op->replica, 10000);
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT,
				 psprintf("ALTER SYSTEM SET primary_slot_name = %s", quote_literal_cstr(slot)), 0, NULL);
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, "SELECT pg_catalog.pg_reload_conf()", 0, NULL);
}
