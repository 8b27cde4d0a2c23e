/*-------------------------------------------------------------------------
 *
 * standby_resync.c
 *	  Make the old copy of a replica that is lost equal to its source again,
 *	  by writing only what differs.
 *
 * It is the same as a new copy (clone.h) but for the files that are there
 * already: their blocks are compared.  So what is read is all of both sides,
 * and what is written is what has changed; it does not matter why the replica
 * was lost, or whether its files are damaged.
 *
 * The old copy is no fallback then.  Before the first byte is changed, the
 * file RCTL_RESYNC_FILE says whose half-made copy this is, and pg_control is
 * removed: no server starts there, by whatever means, until all is done.  A
 * resync that is interrupted is done again from its start, by the same
 * operation or by another replica_repair; what is equal already is not
 * written again.
 *
 * rctl_resync_obstacle() tells when a new copy is made instead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "provider/clone.h"

static char *
path_in(const RctlReplica *replica, const char *name)
{
	return psprintf("%s/%s", rctl_map_get(replica->facts, "data_directory"), name);
}

bool
rctl_resync_unfinished(const RctlReplica *replica, RctlHost *host)
{
	RctlPathInfo info;
	const char *directory = rctl_map_get(replica->facts, "data_directory");

	if (directory == NULL)
		return false;
	host->inspect(host, path_in(replica, RCTL_RESYNC_FILE), &info);
	return info.kind == RCTL_PATH_FILE || rctl_rewinding(replica, host, directory);
}

bool
rctl_resync_control(const RctlReplica *replica, ControlFileData *control)
{
	int			fd = OpenTransientFile(path_in(replica, XLOG_CONTROL_FILE), O_RDONLY | PG_BINARY);
	ssize_t		got;

	if (fd < 0)
		return false;
	got = pg_pread(fd, control, sizeof(*control), 0);
	CloseTransientFile(fd);
	return got == sizeof(*control);
}

/* The system identifier in pg_control there; 0 if there is no such file. */
static uint64
control_system(const RctlReplica *replica)
{
	ControlFileData control;

	return rctl_resync_control(replica, &control) ? control.system_identifier : 0;
}

bool
rctl_resync_same_system(const RctlReplica *replica, RctlHost *host)
{
	char	   *version = host->read_file(host, path_in(replica, "PG_VERSION"), 16);

	return control_system(replica) == GetSystemIdentifier() &&
		version != NULL && strtol(version, NULL, 10) == strtol(PG_MAJORVERSION, NULL, 10);
}

bool
rctl_resync_same_tablespaces(RctlOp *op, RctlSource *source)
{
	const char *json = rctl_map_get(op->replica->facts, "tablespaces");
	RctlMap    *have = json ? rctl_map_from_json(json, "tablespaces") : rctl_map_make();
	RctlMap    *there = rctl_source_tablespaces(source);
	ListCell   *cell;

	foreach(cell, there->entries)
	{
		if (rctl_map_get(have, ((RctlMapEntry *) lfirst(cell))->key) == NULL)
			return false;
	}
	return list_length(there->entries) == list_length(have->entries);
}

const char *
rctl_resync_obstacle(RctlOp *op, RctlHost *host, RctlSource *source)
{
	RctlReplica *replica = op->replica;
	const char *directory = rctl_map_get(replica->facts, "data_directory");
	bool		unfinished = rctl_resync_unfinished(replica, host);
	char	   *version;
	ListCell   *cell;

	if (!rctl_clone_possible(replica, host) ||
		strcmp(rctl_map_get_default(replica->facts, "method", ""), "copy") != 0)
		return "its method is not \"copy\"";
	foreach(cell, rctl_standby_directories(replica->facts))
	{
		if (!rctl_standby_marked(op, host, lfirst(cell), false))
			return psprintf("\"%s\" is gone or not its own", (char *) lfirst(cell));
	}
	if (control_system(replica) != GetSystemIdentifier() && !(unfinished && control_system(replica) == 0))
		return psprintf("\"%s\" does not hold a copy of this database system", directory);
	version = host->read_file(host, path_in(replica, "PG_VERSION"), 16);
	if (!unfinished && (version == NULL || strtol(version, NULL, 10) != strtol(PG_MAJORVERSION, NULL, 10)))
		return "its copy is of another major version";
	if (!rctl_resync_same_tablespaces(op, source))
		return "there are other tablespaces now";
	/* The old copy costs nothing, and stays a fallback. */
	if (!unfinished && rctl_clone_shares(rctl_clone_source_directory(source), directory))
		return "the file system makes a new copy without copying";
	return NULL;
}

void
rctl_resync_make_unstartable(RctlOp *op, RctlHost *host)
{
	RctlMap    *note = rctl_map_make();

	rctl_map_setf(note, "system_identifier", UINT64_FORMAT, GetSystemIdentifier());
	rctl_map_setf(note, "replica_id", INT64_FORMAT, op->replica->id);
	rctl_map_setf(note, "operation", INT64_FORMAT, op->id);
	rctl_map_set(note, "meaning", "This copy is being made equal to its source and is of no use until that is done. "
				 "If no operation does it, call replica_repair().");
	host->write_file(host, path_in(op->replica, RCTL_RESYNC_FILE),
					 psprintf("%s\n", rctl_map_to_json(note)), 0600);
	if (host->remove_file(host, path_in(op->replica, XLOG_CONTROL_FILE)))
		fsync_fname(path_in(op->replica, "global"), true);
}

void
rctl_resync(RctlOp *op, RctlHost *host, RctlSource *source)
{
	List	   *directories = rctl_standby_directories(op->replica->facts);
	const char *obstacle;

	if (rctl_standby_marked(op, host, linitial(directories), true) && !rctl_resync_unfinished(op->replica, host))
		return;					/* done by an earlier attempt */

	/* Once more: time may have passed. */
	obstacle = rctl_resync_obstacle(op, host, source);
	if (obstacle)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the copy of replica \"%s\" cannot be made equal again", op->replica->name),
				 errdetail("The reason is that %s.", obstacle),
				 errhint("Repair the replica again.")));
	if (host->server_pid(host, linitial(directories)) != 0)
		rctl_standby_stop_server(op, host, linitial(directories));
	rctl_source_release_slot(source, rctl_map_get(op->replica->facts, "slot"));
	rctl_resync_make_unstartable(op, host);
	rctl_clone(op, host, source, true);
	for (int i = list_length(directories) - 1; i >= 0; i--)
		rctl_standby_mark_directory(op, host, list_nth(directories, i));
	host->remove_file(host, path_in(op->replica, RCTL_RESYNC_FILE));
	fsync_fname(linitial(directories), true);
}
