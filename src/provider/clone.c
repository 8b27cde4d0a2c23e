/*-------------------------------------------------------------------------
 *
 * clone.c
 *	  Which method makes a copy, and the backup around it.
 *
 * The backup belongs to a session: a libpq session of its own, kept open
 * while the files come.  If it ends for any reason, the server ends the
 * backup, and the copy is worth nothing; so it is looked at all the time, and
 * an operation that fails, is cancelled or killed leaves no backup behind.
 *
 * Nothing here is durable but the fact "method" and what is written to the
 * target, in the order that clone.h tells.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/clone.h"

/* A spread checkpoint takes as long as the server's settings say. */
#define BACKUP_START_TIMEOUT (24 * 3600 * 1000L)
#define BACKUP_STOP_TIMEOUT 60000L

#define LOGIN_TIMEOUT 10000

/* pg_control is written in one go, but need not be read so. */
#define CONTROL_TRIES 50
#define CONTROL_RETRY_MS 20

/* ---------------------------------------------------------------------
 * The method
 * ---------------------------------------------------------------------
 */

const char *
rctl_clone_source_directory(const RctlSource *source)
{
	if (source->upstream == NULL)
		return DataDir;
	/* One with an address is on another host, whatever is at that path here. */
	return rctl_map_get(source->upstream->facts, "address") ? NULL : rctl_map_get(source->upstream->facts, "data_directory");
}

/*
 * Whether a path is on a file system of this machine.  One of another machine
 * works too, if it is asked for, but a network is better used by a stream.
 */
static bool
on_local_file_system(RctlHost *host, const char *path)
{
	static const unsigned long remote[] = {
		0x6969 /* NFS */ , 0xFF534D42 /* CIFS */ , 0xFE534D42 /* SMB2 */ , 0x517B /* SMB */ ,
		0x00C36400 /* Ceph */ , 0x65735546 /* FUSE */ , 0x01021997 /* 9P */ , 0x0BD00BD0 /* Lustre */ ,
		0x5346414F /* AFS */ , 0x7461636F /* OCFS2 */ , 0x01161970 /* GFS2 */ ,
	};
	RctlPathInfo info;
	struct statfs fs;

	host->inspect(host, path, &info);
	if (statfs(info.ancestor, &fs) != 0)
		return false;
	for (int i = 0; i < lengthof(remote); i++)
	{
		if ((unsigned long) fs.f_type == remote[i])
			return false;
	}
	return true;
}

/* NULL, or why files of the source cannot be used. */
static const char *
why_no_files(RctlSource *source)
{
	RctlHost   *host = source->host;
	const char *directory = rctl_clone_source_directory(source);
	struct stat st;

	if (!host->local)
		return "the replica is not on this host";
	if (directory == NULL || stat(directory, &st) != 0)
		return "the data directory to copy is not on this host";
	if (st.st_uid != geteuid())
		return psprintf("the data directory \"%s\" belongs to another user", directory);
	if (access(directory, R_OK | X_OK) != 0)
		return psprintf("the data directory \"%s\" cannot be read", directory);
	if (source->upstream && host->server_pid(host, directory) == 0)
		return psprintf("no server runs in the data directory \"%s\"", directory);
	return NULL;
}

/* NULL, or why we cannot make the backup. */
static const char *
why_no_backup(RctlSource *source)
{
	PGconn	   *conn = rctl_source_login(source, LOGIN_TIMEOUT);
	char	   *right = rctl_pg_value(conn, RCTL_STATEMENT_TIMEOUT,
									  "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_backup_start(text, boolean)', 'EXECUTE')"
									  " AND pg_catalog.has_function_privilege('pg_catalog.pg_backup_stop(boolean)', 'EXECUTE')",
									  0, NULL);

	if (source->upstream == NULL)
		rctl_pg_close(conn);
	return right && right[0] == 't' ? NULL :
		"the role that logs in may not execute pg_backup_start and pg_backup_stop";
}

/* NULL, or why the copying program cannot be used. */
static const char *
why_no_copy(RctlSource *source)
{
	RctlPathInfo info;

	source->host->inspect(source->host, rctl_clone_program(source->host), &info);
	if (info.kind == RCTL_PATH_MISSING)
		return psprintf("the program \"%s\" is not installed", rctl_clone_program(source->host));
	return NULL;
}

void
rctl_clone_check_options(const RctlMap *options)
{
	const char *method = rctl_map_get_default(options, "method", "");
	const char *command = rctl_map_get(options, "snapshot_command");

	if (command)
		rctl_clone_snapshot_command(command);
	if (strcmp(method, "snapshot") == 0 && command == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("method \"snapshot\" needs the option snapshot_command"),
				 errhint("Give it as an array of the program and its arguments.")));
	if (strcmp(method, "snapshot") != 0 && command)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the option snapshot_command is for method \"snapshot\" only"),
				 errhint("Add \"method\": \"snapshot\" to the options.")));
}

void
rctl_standby_check_method(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlMap    *facts = op->replica->facts;
	const char *wanted = rctl_map_get(op->replica->options, "method");
	RctlSource *source = rctl_source(op, host);
	const char *reason = NULL;

	if (wanted == NULL || strcmp(wanted, "basebackup") != 0)
	{
		reason = why_no_files(source);
		if (reason == NULL && source->upstream)
			rctl_standby_check_apart(host, rctl_map_get(facts, "data_directory"), "data directory",
									 rctl_clone_source_directory(source), "the data directory of its upstream");
		if (reason == NULL && (wanted == NULL || strcmp(wanted, "copy") == 0))
			reason = why_no_copy(source);
		if (reason == NULL)
			reason = why_no_backup(source);
		if (reason == NULL && wanted == NULL && !on_local_file_system(host, rctl_map_get(facts, "data_directory")))
			reason = "the data directory is on a file system of another host";
	}
	if (wanted && reason)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("method \"%s\" cannot be used", wanted),
				 errdetail("The reason is that %s.", reason),
				 errhint("Leave out the option method, or use method \"basebackup\".")));
	rctl_map_set(facts, "method", wanted ? wanted : reason ? "basebackup" : "copy");
	rctl_map_set(op->state, "method_reason", reason);
}

bool
rctl_clone_possible(const RctlReplica *replica, const RctlHost *host)
{
	return host->local && strcmp(rctl_map_get_default(replica->facts, "method", "basebackup"), "basebackup") != 0;
}

/* ---------------------------------------------------------------------
 * The bracket
 * ---------------------------------------------------------------------
 */

static void
watch_start(void *arg)
{
	RctlOp	   *op = arg;

	/* There is nothing to see of a checkpoint that takes its time. */
	rctl_op_progress(op, "waiting for checkpoint", 0, 0);
	rctl_op_alive(op);
}

static void
start_backup(RctlBackup *backup, RctlSource *source)
{
	static const char *const settings[] = {
		"SET idle_session_timeout = 0",
		"SET client_connection_check_interval = 1000",
	};
	RctlOp	   *op = backup->op;
	const char *checkpoint = rctl_map_get_default(op->replica->options, "checkpoint", "fast");
	const char *args[] = {
		psprintf("replica_ctl " INT64_FORMAT, op->id),
		strcmp(checkpoint, "fast") == 0 ? "t" : "f",
	};

	watch_start(op);
	backup->conn = rctl_source_login(source, LOGIN_TIMEOUT);
	for (int i = 0; i < lengthof(settings); i++)
		rctl_pg_exec(backup->conn, RCTL_STATEMENT_TIMEOUT, settings[i], 0, NULL);
	rctl_pg_set_tick(backup->conn, watch_start, op);
	backup->start = rctl_pg_value(backup->conn, BACKUP_START_TIMEOUT,
								  "SELECT pg_catalog.pg_backup_start($1, $2::bool)", 2, args);
	rctl_pg_set_tick(backup->conn, NULL, NULL);
}

void
rctl_clone_check_session(RctlBackup *backup)
{
	/* Something to read, when nothing was asked, is the end of the session. */
	if (PQconsumeInput(backup->conn) && PQstatus(backup->conn) == CONNECTION_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("the session of the backup was ended"),
			 errdetail("The backup ended with it, so that the copy is of no use."),
			 errhint("See the server's log for who ended it.")));
}

/* What the source's symbolic links say, of the tablespaces that the target has directories for. */
static void
find_tablespaces(RctlBackup *backup)
{
	const char *json = rctl_map_get(backup->op->replica->facts, "tablespaces");
	RctlMap    *targets = json ? rctl_map_from_json(json, "tablespaces") : rctl_map_make();
	ListCell   *cell;

	backup->tablespaces = rctl_map_make();
	foreach(cell, targets->entries)
	{
		const char *oid = ((RctlMapEntry *) lfirst(cell))->key;
		char		location[MAXPGPATH];
		ssize_t		length = readlink(psprintf("%s/pg_tblspc/%s", backup->source, oid),
									  location, sizeof(location) - 1);

		if (length <= 0)
			continue;			/* dropped meanwhile */
		location[length] = '\0';
		rctl_map_set(backup->tablespaces, oid, location);
	}
}

/* pg_control of the source, whole. */
static char *
read_control(RctlBackup *backup)
{
	char	   *path = psprintf("%s/%s", backup->source, XLOG_CONTROL_FILE);
	char	   *content = palloc0(PG_CONTROL_FILE_SIZE);
	ControlFileData *control = (ControlFileData *) content;

	for (int i = 0; i < CONTROL_TRIES; i++)
	{
		int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
		ssize_t		got;
		pg_crc32c	crc;

		if (fd < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not open \"%s\": %m", path)));
		got = pg_pread(fd, content, PG_CONTROL_FILE_SIZE, 0);
		CloseTransientFile(fd);
		if (got >= (ssize_t) sizeof(ControlFileData))
		{
			INIT_CRC32C(crc);
			COMP_CRC32C(crc, content, offsetof(ControlFileData, crc));
			FIN_CRC32C(crc);
			if (EQ_CRC32C(crc, control->crc))
			{
				if (control->system_identifier == GetSystemIdentifier())
					return content;
				break;
			}
		}
		rctl_sleep(CONTROL_RETRY_MS);
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("\"%s\" is not that of this database system", path),
			 errhint("Use method \"basebackup\".")));
}

static void
write_control(RctlBackup *backup, const char *content)
{
	char	   *path = psprintf("%s/%s", backup->target, XLOG_CONTROL_FILE);
	char	   *partial = psprintf("%s.partial", path);
	int			fd = OpenTransientFilePerm(partial, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY, pg_file_create_mode);
	bool		written;

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create \"%s\": %m", partial)));
	errno = 0;
	written = pg_pwrite(fd, content, PG_CONTROL_FILE_SIZE, 0) == PG_CONTROL_FILE_SIZE && pg_fsync(fd) == 0;
	if (!written && errno == 0)
		errno = ENOSPC;
	if (!written || CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write \"%s\": %m", partial)));
	durable_rename(partial, path, ERROR);
}

/* Ends the backup, which makes the target a copy that can start. */
static void
stop_backup(RctlBackup *backup)
{
	char	   *control = read_control(backup);
	RctlRows   *rows;

	rctl_op_progress(backup->op, "ending the backup", 0, 0);
	rows = rctl_conn_rows(backup->conn,
						  "SELECT lsn, labelfile FROM pg_catalog.pg_backup_stop(false)", 0, NULL);

	/*
	 * tablespace_map would make the server set its symbolic links to the
	 * source's directories: ours are there, and right.
	 */
	backup->host->write_file(backup->host, psprintf("%s/backup_label", backup->target),
							 rctl_cell(rows, 0, 1), pg_file_create_mode);
	write_control(backup, control);
}

void
rctl_clone(RctlOp *op, RctlHost *host, RctlSource *source, bool resync)
{
	bool		snapshot = strcmp(rctl_map_get_default(op->replica->facts, "method", ""), "snapshot") == 0;
	RctlBackup	backup = {
		.op = op,
		.host = host,
		.source = rctl_clone_source_directory(source),
		.target = rctl_map_get(op->replica->facts, "data_directory"),
		.resync = resync,
	};
	const char *reason = why_no_files(source);

	if (reason)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the data directory cannot be copied"),
				 errdetail("The reason is that %s.", reason),
				 errhint("Make the replica anew with method \"basebackup\".")));
	start_backup(&backup, source);
	find_tablespaces(&backup);
	if (snapshot && !resync)
		rctl_clone_snapshot(&backup);
	else
		rctl_clone_copy(&backup);
	rctl_clone_check_session(&backup);
	stop_backup(&backup);
	if (source->upstream == NULL)
		rctl_pg_close(backup.conn);
}
