/*-------------------------------------------------------------------------
 *
 * standby_rewind.c
 *	  Bring back a replica that has left its source's history, with pg_rewind:
 *	  one that was promoted by mistake, or that had more than the replica that
 *	  was promoted in the source's place.
 *
 * pg_rewind reads the replica's WAL since the two parted, and copies from the
 * source the blocks that changed there since, and all files that are no
 * relations.  So it reads far less than a comparison of all blocks
 * (standby_resync.c), but trusts what it does not read, and it needs the WAL
 * of both sides.  A dry run tells whether it can be used.  What has gone wrong
 * half-way is left to the comparison, or to a new copy.
 *
 * It removes what the source does not have: the markers and the log.  From
 * before it begins until all is done
 *
 *	  the fact "rewinding" says by their inodes which directories are the
 *		  replica's (an object: path to inode), as the markers do otherwise
 *		  (rctl_standby_marked() reads it);
 *	  the data directory's mode has a bit (o+x) with which no PostgreSQL server
 *		  starts, and which lets nobody read anything;
 *	  the log is beside the data directory, if it can be moved there.
 *
 * A tablespace that is made in the meantime would be made at its own place by
 * pg_rewind, which is the source's: a lock on pg_tablespace prevents that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "common/file_perm.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#include "net/pgconn.h"
#include "provider/clone.h"
#include "settings.h"

#define FACT "rewinding"
#define LOGIN_TIMEOUT 10000
#define LOCK_TIMEOUT "10s"
#define TICK_MS 250

/* What a dry run has said. */
typedef struct Forecast
{
	XLogRecPtr	diverged;
	XLogRecPtr	checkpoint;		/* the last one that both have */
	uint32		timeline;		/* of that */
} Forecast;

static const char *
data_directory(const RctlReplica *replica)
{
	return rctl_map_get(replica->facts, "data_directory");
}

/* ---------------------------------------------------------------------
 * What is half done
 * ---------------------------------------------------------------------
 */

bool
rctl_rewinding(const RctlReplica *replica, RctlHost *host, const char *path)
{
	const char *json = rctl_map_get(replica->facts, FACT);
	const char *inode;
	RctlPathInfo info;

	if (json == NULL)
		return false;
	inode = rctl_map_get(rctl_map_from_json(json, FACT), path);
	host->inspect(host, path, &info);
	return inode && info.kind == RCTL_PATH_DIRECTORY && strcmp(info.identity, inode) == 0;
}

static char *
log_path(const RctlReplica *replica)
{
	return psprintf("%s/log", data_directory(replica));
}

static char *
log_aside(const RctlReplica *replica)
{
	return psprintf("%s.log_" INT64_FORMAT, data_directory(replica), replica->id);
}

/* From here on the directories are known without markers, and no server starts there. */
static void
begin(RctlOp *op, RctlHost *host)
{
	RctlMap    *directories = rctl_map_make();
	RctlPathInfo log;
	RctlPathInfo aside;
	ListCell   *cell;

	foreach(cell, rctl_standby_directories(op->replica->facts))
	{
		RctlPathInfo info;

		host->inspect(host, lfirst(cell), &info);
		rctl_map_set(directories, lfirst(cell), info.identity);
	}
	rctl_map_set_json(op->replica->facts, FACT, rctl_map_to_json(directories));
	rctl_op_save(op);
	host->set_mode(host, data_directory(op->replica), pg_dir_create_mode | S_IXOTH);

	host->inspect(host, log_path(op->replica), &log);
	host->inspect(host, log_aside(op->replica), &aside);
	if (log.kind == RCTL_PATH_DIRECTORY && aside.kind == RCTL_PATH_MISSING &&
		aside.ancestor_writable && strcmp(log.device, aside.device) == 0)
		host->rename(host, log_path(op->replica), log_aside(op->replica));
}

void
rctl_rewind_end(RctlOp *op, RctlHost *host, bool done)
{
	List	   *directories = rctl_standby_directories(op->replica->facts);
	RctlPathInfo info;

	if (rctl_map_get(op->replica->facts, FACT) == NULL)
		return;
	if (rctl_rewinding(op->replica, host, linitial(directories)))
	{
		if (!done)
			rctl_resync_make_unstartable(op, host);
		host->inspect(host, log_aside(op->replica), &info);
		if (info.kind == RCTL_PATH_DIRECTORY)
		{
			/* What is there now is a copy of the source's. */
			host->remove_tree(host, log_path(op->replica), false);
			host->rename(host, log_aside(op->replica), log_path(op->replica));
		}
		for (int i = list_length(directories) - 1; i >= 0; i--)
		{
			if (rctl_standby_marked(op, host, list_nth(directories, i), false))
				rctl_standby_mark_directory(op, host, list_nth(directories, i));
		}
		host->set_mode(host, data_directory(op->replica), pg_dir_create_mode);
	}
	rctl_map_set(op->replica->facts, FACT, NULL);
	rctl_op_save(op);
}

/* ---------------------------------------------------------------------
 * pg_rewind
 * ---------------------------------------------------------------------
 */

static void
watch_rewind(void *arg)
{
	RctlOp	   *op = arg;

	rctl_op_progress(op, "rewinding", 0, 0);
	rctl_op_alive(op);
}

static RctlProcessResult *
run_rewind(RctlOp *op, RctlHost *host, PGconn *conn, bool dry_run)
{
	char	   *content = rctl_pass_file_content(op);
	char	   *pass_file = content ? psprintf("%s/pgsql_tmp.replica_ctl.rewind." INT64_FORMAT, host->scratch, op->id)
	: rctl_op_secret(op, "passfile");
	RctlMap    *object = rctl_map_make();
	RctlConnParam params[] = {
		{"host", PQhost(conn)},
		{"port", PQport(conn)},
		{"user", PQuser(conn)},
		{"dbname", PQdb(conn)},
		{"passfile", pass_file},
		{"application_name", "replica_ctl"},
		{NULL, NULL}
	};
	const char *argv[] = {
		psprintf("%s/pg_rewind", host->bindir),
		"--target-pgdata", data_directory(op->replica),
		"--source-server", rctl_conninfo(params),
		"--no-ensure-shutdown",
		"--progress",
		dry_run ? "--dry-run" : NULL,
		NULL
	};
	const char *env[] = {"LC_ALL=C", NULL};
	RctlProcessSpec spec = {.argv = argv, .env = env};
	RctlProcessResult *result;

	if (content)
	{
		rctl_map_set(object, "path", pass_file);
		rctl_op_cleanup_add(op, "file", object, true);
		host->write_file(host, pass_file, content, 0600);
	}
	result = host->run(host, &spec, 0, watch_rewind, TICK_MS, op);
	if (content)
		host->remove_file(host, pass_file);
	return result;
}

/* What it has said last, after "error: ". */
static const char *
complaint(const RctlProcessResult *result)
{
	const char *line = rctl_last_lines(result->errors, 1);
	const char *word = strstr(line, "error: ");

	if (line[0] == '\0')
		return rctl_process_describe(result);
	return word ? word + 7 : line;
}

static bool
find_position(const char *text, const char *before, XLogRecPtr *lsn, uint32 *timeline)
{
	const char *found = strstr(text, before);
	uint32		high;
	uint32		low;

	if (found == NULL || sscanf(found + strlen(before), " %X/%X on timeline %u", &high, &low, timeline) != 3)
		return false;
	*lsn = ((uint64) high) << 32 | low;
	return true;
}

/*
 * NULL, or why pg_rewind cannot be used, for "The reason is that %s.".
 * apart: the two have parted, as far as it could tell.
 */
static const char *
foresee(RctlOp *op, RctlHost *host, PGconn *conn, Forecast *forecast, bool *apart)
{
	RctlRows   *rows = rctl_conn_rows(conn,
									  "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user", 0, NULL);
	RctlProcessResult *result;
	uint32		timeline;
	const char *args[1];

	*apart = false;
	/* Others may be given what pg_rewind asks, but not the lock. */
	if (rows->nrows == 0 || rctl_cell(rows, 0, 0)[0] != 't')
		return "the role that logs in is no superuser";
	result = run_rewind(op, host, conn, true);
	*apart = strstr(result->errors, "servers diverged at") != NULL;
	if (strstr(result->errors, "no rewind required"))
	{
		*apart = false;
		return "it has not left the source's history";
	}
	if (!result->exited || result->exit_code != 0)
	{
		*apart = true;
		return psprintf("pg_rewind says \"%s\"", complaint(result));
	}
	if (!find_position(result->errors, "servers diverged at WAL location", &forecast->diverged, &timeline) ||
		!find_position(result->errors, "last common checkpoint at", &forecast->checkpoint, &forecast->timeline))
		return "what pg_rewind says is not understood";
	args[0] = psprintf("%X/%X", LSN_FORMAT_ARGS(forecast->checkpoint));
	rows = rctl_conn_rows(conn,
						  "SELECT EXISTS (SELECT FROM pg_catalog.pg_ls_waldir()"
						  " WHERE substr(name, 9) = substr(pg_catalog.pg_walfile_name($1::pg_lsn), 9))", 1, args);
	if (rctl_cell(rows, 0, 0)[0] != 't')
		return psprintf("this server's WAL from %s on is gone", args[0]);
	return NULL;
}

/*
 * A session on the source in which no tablespace can be made or dropped, and
 * whose control file tells its timeline.
 */
static PGconn *
lock_source(RctlSource *source)
{
	static const char *const statements[] = {
		"SET idle_session_timeout = 0",
		"SET idle_in_transaction_session_timeout = 0",
		"SET lock_timeout = '" LOCK_TIMEOUT "'",
	};
	PGconn	   *conn = rctl_source_login(source, LOGIN_TIMEOUT);
	char	   *behind;

	for (int i = 0; i < lengthof(statements); i++)
		rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, statements[i], 0, NULL);
	behind = rctl_pg_value(conn, RCTL_STATEMENT_TIMEOUT,
						   "SELECT timeline_id <> ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int"
						   " FROM pg_catalog.pg_control_checkpoint()", 0, NULL);
	if (behind && behind[0] == 't')
		rctl_pg_exec(conn, 24 * 3600 * 1000L, "CHECKPOINT", 0, NULL);
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, "BEGIN", 0, NULL);
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, "LOCK TABLE pg_catalog.pg_tablespace IN SHARE MODE", 0, NULL);
	return conn;
}

/* ---------------------------------------------------------------------
 * Whether
 * ---------------------------------------------------------------------
 */

/* What can be seen without asking anybody. */
static const char *
plain_obstacle(RctlOp *op, RctlHost *host, RctlSource *source)
{
	RctlPathInfo info;
	ListCell   *cell;

	if (!host->local || source->upstream)
		return "it does not follow this server on this host";
	if (rctl_resync_unfinished(op->replica, host))
		return "its copy is half made";
	foreach(cell, rctl_standby_directories(op->replica->facts))
	{
		if (!rctl_standby_marked(op, host, lfirst(cell), false))
			return psprintf("\"%s\" is gone or not its own", (char *) lfirst(cell));
	}
	if (!rctl_resync_same_system(op->replica, host))
		return psprintf("\"%s\" does not hold a copy of this database system", data_directory(op->replica));
	host->inspect(host, psprintf("%s/pg_rewind", host->bindir), &info);
	if (info.kind == RCTL_PATH_MISSING)
		return psprintf("there is no program pg_rewind in \"%s\"", host->bindir);
	if (rctl_clone_possible(op->replica, host) &&
		rctl_clone_shares(rctl_clone_source_directory(source), data_directory(op->replica)))
		return "the file system makes a new copy without copying";
	if (!rctl_resync_same_tablespaces(op, source))
		return "there are other tablespaces now";
	return NULL;
}

bool
rctl_rewind_applies(RctlOp *op, RctlHost *host, RctlSource *source)
{
	Forecast	forecast;
	PGconn	   *conn;
	const char *reason;
	bool		apart;

	if (plain_obstacle(op, host, source) != NULL)
		return false;
	conn = rctl_source_login(source, LOGIN_TIMEOUT);
	reason = foresee(op, host, conn, &forecast, &apart);
	rctl_pg_close(conn);
	if (reason && apart)
		rctl_op_event(op, "info", "repair_no_rewind", NULL,
					  "Replica \"%s\" cannot be brought back by pg_rewind: %s", op->replica->name, reason);
	return reason == NULL;
}

/* ---------------------------------------------------------------------
 * How
 * ---------------------------------------------------------------------
 */

/* Where the replica's WAL ended before, by its control file. */
static XLogRecPtr
end_of_wal(RctlHost *host, RctlReplica *replica)
{
	ControlFileData control;

	if (!rctl_resync_control(replica, &control))
		return InvalidXLogRecPtr;
	return Max(control.checkPoint, control.minRecoveryPoint);
}

/* The number of a WAL file's segment; 0 if it is none. */
static XLogSegNo
segment_number(const char *name)
{
	TimeLineID	timeline;
	XLogSegNo	number;

	if (!IsXLogFileName(name))
		return 0;
	XLogFromFileName(name, &timeline, &number, wal_segment_size);
	return number;
}

static bool
has_segment(RctlReplica *replica, XLogSegNo wanted)
{
	char	   *path = psprintf("%s/pg_wal", data_directory(replica));
	DIR		   *dir = AllocateDir(path);
	struct dirent *entry;
	bool		found = false;

	while (!found && (entry = ReadDir(dir, path)) != NULL)
		found = segment_number(entry->d_name) == wanted;
	FreeDir(dir);
	return found;
}

/*
 * NULL, or what keeps the replica from starting: all WAL from where it will
 * replay to where its slot holds it must have come with the copy.
 */
static const char *
wal_missing(RctlOp *op, RctlHost *host, RctlSource *source)
{
	static const char start[] = "START WAL LOCATION: ";
	char	   *label = host->read_file(host, psprintf("%s/backup_label", data_directory(op->replica)), 8192);
	char	   *line = label ? strstr(label, start) : NULL;
	const char *slot = rctl_map_get(op->replica->facts, "slot");
	RctlRows   *rows = rctl_source_query(source,
										 "SELECT pg_catalog.pg_walfile_name(restart_lsn) FROM pg_catalog.pg_replication_slots"
										 " WHERE slot_name = $1 AND restart_lsn IS NOT NULL", 1, &slot);
	uint32		high;
	uint32		low;
	XLogSegNo	first;
	XLogSegNo	held;

	if (line == NULL || sscanf(line + strlen(start), "%X/%X", &high, &low) != 2)
		return "pg_rewind has left no backup_label";
	if (rows->nrows == 0)
		return "its replication slot is gone";
	XLByteToSeg(((uint64) high) << 32 | low, first, wal_segment_size);
	held = segment_number(rctl_cell(rows, 0, 0));
	for (XLogSegNo i = first; i < held; i++)
	{
		if (!has_segment(op->replica, i))
			return psprintf("WAL from %X/%X on has been removed meanwhile", high, low);
	}
	return NULL;
}

/* The last "123/456 kB" of what it has said. */
static uint64
bytes_copied(const char *errors)
{
	uint64		kb = 0;

	for (const char *at = strstr(errors, " kB ("); at; at = strstr(at + 1, " kB ("))
	{
		const char *first = at;

		while (first > errors && first[-1] != '/' && first[-1] != '\n')
			first--;
		kb = strtoull(first, NULL, 10);
	}
	return kb * 1024;
}

static void
tell(RctlOp *op, const Forecast *forecast, XLogRecPtr end, uint64 copied, TimestampTz start)
{
	RctlMap    *detail = rctl_map_make();
	double		seconds = (GetCurrentTimestamp() - start) / 1000000.0;
	uint64		wal = end > forecast->checkpoint ? end - forecast->checkpoint : 0;

	rctl_map_set(detail, "method", "rewind");
	rctl_map_setf(detail, "diverged_at", "%X/%X", LSN_FORMAT_ARGS(forecast->diverged));
	rctl_map_setf(detail, "bytes_read", UINT64_FORMAT, copied + wal);
	rctl_map_setf(detail, "bytes_written", UINT64_FORMAT, copied);
	rctl_map_setf(detail, "seconds", "%.3f", seconds);
	rctl_op_event(op, "info", "rewound", detail,
				  "Took back what replica \"%s\" had done since %X/%X, by pg_rewind, in %.1f s: "
				  UINT64_FORMAT " bytes read, " UINT64_FORMAT " bytes written",
				  op->replica->name, LSN_FORMAT_ARGS(forecast->diverged), seconds, copied + wal, copied);
}

/* NULL, or what has gone wrong; then the copy is of no use as it is. */
static const char *
rewind_locked(RctlOp *op, RctlHost *host, RctlSource *source, PGconn *conn)
{
	XLogRecPtr	end = end_of_wal(host, op->replica);
	TimestampTz start = GetCurrentTimestamp();
	RctlProcessResult *result;
	Forecast	forecast;
	bool		apart;
	const char *reason;

	/* Once more, as nothing can come between from here on. */
	reason = plain_obstacle(op, host, source);
	if (reason == NULL)
		reason = foresee(op, host, conn, &forecast, &apart);
	if (reason)
		return reason;
	begin(op, host);
	result = run_rewind(op, host, conn, false);
	if (!result->exited || result->exit_code != 0)
		return psprintf("pg_rewind says \"%s\"", complaint(result));
	reason = wal_missing(op, host, source);
	if (reason == NULL)
		tell(op, &forecast, end, bytes_copied(result->errors), start);
	return reason;
}

bool
rctl_rewind(RctlOp *op, RctlHost *host, RctlSource *source)
{
	List	   *directories = rctl_standby_directories(op->replica->facts);
	const char *reason = "it was interrupted";

	if (rctl_map_get(op->replica->facts, FACT) == NULL)
	{
		PGconn	   *conn;

		if (rctl_standby_marked(op, host, linitial(directories), true))
			return true;		/* done by an earlier attempt */
		if (host->server_pid(host, linitial(directories)) != 0)
			rctl_standby_stop_server(op, host, linitial(directories));
		rctl_source_release_slot(source, rctl_map_get(op->replica->facts, "slot"));
		conn = lock_source(source);
		reason = rewind_locked(op, host, source, conn);
		rctl_pg_close(conn);
	}
	if (reason)
		rctl_op_event(op, "warning", "repair_no_rewind", NULL,
					  "Replica \"%s\" was not brought back by pg_rewind: %s", op->replica->name, reason);
	rctl_rewind_end(op, host, reason == NULL);
	return reason == NULL;
}
