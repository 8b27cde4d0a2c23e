/*-------------------------------------------------------------------------
 *
 * clone_snapshot.c
 *	  The files of a copy, brought by a command of the user: a snapshot of
 *	  the file system or the volume.
 *
 * The command is run by its arguments, without a shell, while the backup goes
 * on.  When it ends, the replica's data directory is to be at its place.  It
 * is a picture of a running server, so that what belongs to that server is
 * taken out of it: lock files, slots, WAL, and above all symbolic links, that
 * would lead the replica to the files of its source.
 *
 * The picture may be mounted over the directory that we have made.  That it
 * is not the source's directory itself is checked before anything in it is
 * changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "provider/clone.h"

#define TICK_MS 250

const char *const *
rctl_clone_snapshot_command(const char *json)
{
	Jsonb	   *array = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
	const char **argv;
	int			n;

	n = JB_ROOT_IS_ARRAY(array) && !JB_ROOT_IS_SCALAR(array) ? JB_ROOT_COUNT(array) : 0;
	argv = palloc0(sizeof(char *) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&array->root, i);

		if (value->type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("elements of snapshot_command must be strings")));
		argv[i] = pnstrdup(value->val.string.val, value->val.string.len);
	}
	if (n == 0 || !is_absolute_path(argv[0]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshot_command must be an array of a program's absolute path and its arguments"),
				 errhint("For example [\"/usr/local/bin/snapshot\", \"{source}\", \"{target}\"].")));
	return argv;
}

/* The text with {source}, {target} and {operation} replaced. */
static char *
expand(const RctlBackup *backup, const char *text)
{
	StringInfoData result;

	initStringInfo(&result);
	while (*text)
	{
		if (strncmp(text, "{source}", 8) == 0)
		{
			appendStringInfoString(&result, backup->source);
			text	  +=8;
		}
		else if (strncmp(text, "{target}", 8) == 0)
		{
			appendStringInfoString(&result, backup->target);
			text	  +=8;
		}
		else if (strncmp(text, "{operation}", 11) == 0)
		{
			appendStringInfo(&result, INT64_FORMAT, backup->op->id);
			text	  +=11;
		}
		else
			appendStringInfoChar(&result, *text ++);
	}
	return result.data;
}

/* The replica's directory for a tablespace, by oid; NULL if there is none. */
static const char *
tablespace_target(const RctlBackup *backup, const char *oid)
{
	const char *json = rctl_map_get(backup->op->replica->facts, "tablespaces");

	return json ? rctl_map_get(rctl_map_from_json(json, "tablespaces"), oid) : NULL;
}

static const char *const *
arguments(const RctlBackup *backup)
{
	const char *const *command = rctl_clone_snapshot_command(rctl_map_get(backup->op->replica->options, "snapshot_command"));
	List	   *tablespaces = backup->tablespaces->entries;
	bool		told = false;
	const char **argv;
	int			count = 0;
	int			n = 0;

	while (command[count])
		count++;
	argv = palloc0(sizeof(char *) * (count + 1) * (1 + 3 * list_length(tablespaces)) + sizeof(char *));
	for (int i = 0; i < count; i++)
	{
		ListCell   *cell;

		if (strcmp(command[i], "{tablespaces}") != 0)
		{
			argv[n++] = expand(backup, command[i]);
			continue;
		}
		told = true;
		foreach(cell, tablespaces)
		{
			const RctlMapEntry *entry = lfirst(cell);

			argv[n++] = entry->key;
			argv[n++] = entry->value;
			argv[n++] = tablespace_target(backup, entry->key);
		}
	}
	if (tablespaces && !told)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshot_command says nothing of tablespaces, and there are %d", list_length(tablespaces)),
				 errhint("An argument \"{tablespaces}\" becomes, for each, its OID, its directory and the directory for the replica's.")));
	return argv;
}

static void
watch_command(void *arg)
{
	RctlBackup *backup = arg;

	rctl_clone_check_session(backup);
	rctl_op_progress(backup->op, "taking a snapshot", 0, 0);
	rctl_op_alive(backup->op);
}

static void
run_command(RctlBackup *backup)
{
	const char *env[] = {"LC_ALL=C", NULL};
	RctlProcessSpec spec = {.argv = arguments(backup), .env = env};
	RctlProcessResult *result = backup->host->run(backup->host, &spec, 0, watch_command, TICK_MS, backup);
	char	   *lines = rctl_last_lines(result->errors, 10);

	if (result->exited && result->exit_code == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("snapshot_command %s", rctl_process_describe(result)),
			 lines[0] ? errdetail("%s", lines) : errdetail("It said nothing."),
			 errhint("Correct the cause and create the replica again.")));
}

static void
wrong_snapshot(const RctlBackup *backup, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("snapshot_command has not made a copy in \"%s\"", backup->target),
			 errdetail("The reason is that %s.", why),
			 errhint("See docs/cloning.md for what the command is to do.")));
}

/* Whether two paths are the same file. */
static bool
same_file(const char *path, const char *other)
{
	struct stat a;
	struct stat b;

	return stat(path, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Raises an error unless there is another directory with a copy of the source. */
static void
check_snapshot(RctlBackup *backup)
{
	static const char *const files[] = {"PG_VERSION", "base", "global", XLOG_CONTROL_FILE};
	RctlPathInfo info;
	ListCell   *cell;

	backup->host->inspect(backup->host, backup->target, &info);
	if (info.kind != RCTL_PATH_DIRECTORY || same_file(backup->source, backup->target))
		wrong_snapshot(backup, "there is no directory of its own");
	if (!info.owned || !info.writable)
		wrong_snapshot(backup, psprintf("the directory does not belong to user \"%s\" or is read-only", backup->host->os_user));
	for (int i = 0; i < lengthof(files); i++)
	{
		char	   *path = psprintf("%s/%s", backup->target, files[i]);
		struct stat st;

		if (lstat(path, &st) != 0 || S_ISLNK(st.st_mode))
			wrong_snapshot(backup, psprintf("there is no \"%s\"", path));
		if (same_file(path, psprintf("%s/%s", backup->source, files[i])))
			wrong_snapshot(backup, psprintf("\"%s\" is the file of the source itself", path));
	}
	foreach(cell, backup->tablespaces->entries)
	{
		const RctlMapEntry *entry = lfirst(cell);
		char	   *path = psprintf("%s/%s", tablespace_target(backup, entry->key), TABLESPACE_VERSION_DIRECTORY);

		backup->host->inspect(backup->host, path, &info);
		if (info.kind != RCTL_PATH_DIRECTORY ||
			same_file(path, psprintf("%s/%s", entry->value, TABLESPACE_VERSION_DIRECTORY)))
			wrong_snapshot(backup, psprintf("there is no copy of tablespace %s, \"%s\"", entry->key, path));
	}
}

/* Symbolic links of the data directory lead to the source's files. */
static void
cut_links(RctlBackup *backup)
{
	DIR		   *dir = AllocateDir(backup->target);
	struct dirent *entry;
	const char *found = NULL;

	while (found == NULL && (entry = ReadDir(dir, backup->target)) != NULL)
	{
		char	   *path = psprintf("%s/%s", backup->target, entry->d_name);
		struct stat st;

		if (strcmp(entry->d_name, "pg_wal") != 0 &&
			lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
			found = path;
	}
	FreeDir(dir);
	if (found)
		wrong_snapshot(backup, psprintf("\"%s\" is a symbolic link to a directory", found));
}

static void
relink_tablespaces(RctlBackup *backup)
{
	char	   *links = psprintf("%s/pg_tblspc", backup->target);
	DIR		   *dir = AllocateDir(links);
	struct dirent *entry;
	List	   *names = NIL;
	ListCell   *cell;

	while ((entry = ReadDir(dir, links)) != NULL)
		names = lappend(names, pstrdup(entry->d_name));
	FreeDir(dir);
	foreach(cell, names)
	{
		const char *oid = lfirst(cell);
		char	   *path = psprintf("%s/%s", links, oid);
		const char *target = tablespace_target(backup, oid);
		struct stat st;

		if (lstat(path, &st) != 0 || !S_ISLNK(st.st_mode))
			continue;
		backup->host->remove_file(backup->host, path);
		if (target == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("tablespace %s was made while the copy began", oid)));
		if (symlink(target, path) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create symbolic link \"%s\": %m", path)));
	}
	fsync_fname(links, true);
}

/* Takes out what belongs to the server that was running there. */
static void
trim(RctlBackup *backup)
{
	static const char *const files[] = {
		"postmaster.pid", "postmaster.opts", "backup_label", "tablespace_map", "backup_manifest", RCTL_MARKER_FILE,
	};
	static const char *const directories[] = {
		"pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans",
	};
	RctlHost   *host = backup->host;
	char	   *wal = psprintf("%s/pg_wal", backup->target);
	RctlPathInfo info;

	/* From here on no server can start in it. */
	host->remove_file(host, psprintf("%s/%s", backup->target, XLOG_CONTROL_FILE));
	for (int i = 0; i < lengthof(files); i++)
		host->remove_file(host, psprintf("%s/%s", backup->target, files[i]));
	for (int i = 0; i < lengthof(directories); i++)
		host->remove_tree(host, psprintf("%s/%s", backup->target, directories[i]), true);
	host->inspect(host, wal, &info);
	if (info.kind == RCTL_PATH_SYMLINK)
		host->remove_file(host, wal);
	else
		host->remove_tree(host, wal, true);
	host->make_directory(host, wal, false);
	host->make_directory(host, psprintf("%s/archive_status", wal), false);
}

void
rctl_clone_snapshot(RctlBackup *backup)
{
	TimestampTz start = GetCurrentTimestamp();
	RctlMap    *detail = rctl_map_make();
	ListCell   *cell;
	int			fd;

	run_command(backup);
	check_snapshot(backup);
	foreach(cell, rctl_standby_directories(backup->op->replica->facts))
		rctl_standby_claim_again(backup->op, backup->host, lfirst(cell));
	cut_links(backup);
	trim(backup);
	relink_tablespaces(backup);
	fd = OpenTransientFile(backup->target, O_RDONLY);
	if (fd < 0 || syncfs(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not sync \"%s\": %m", backup->target)));
	CloseTransientFile(fd);
	rctl_map_set(detail, "method", "snapshot");
	rctl_map_setf(detail, "seconds", "%.3f", (GetCurrentTimestamp() - start) / 1000000.0);
	rctl_op_event(backup->op, "info", "copied", detail, "Took a snapshot for replica \"%s\" in %s s",
				  backup->op->replica->name, rctl_map_get(detail, "seconds"));
}
