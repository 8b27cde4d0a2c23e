/*-------------------------------------------------------------------------
 *
 * standby_space.c
 *	  Whether there is room for the copy of a data directory.
 *
 * Its parts may be on several file systems: what each of them must have room
 * for is added up.  A file system that will share its blocks with the
 * source's needs next to nothing; that is tried, with two files that have no
 * name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "storage/fd.h"

#include "provider/clone.h"
#include "settings.h"

#define MB (1024 * 1024)

/*
 * Of a copy that shares its blocks: inodes, and the lists of the blocks that
 * are shared.
 */
#define SHARED_PART 1000

/* A file system that is to hold a part of the copy. */
typedef struct Room
{
	const char *device;
	const char *place;
	uint64		needed;
	uint64		free;
	bool		shared;			/* a part of it shares its blocks */
} Room;

#if defined(FICLONE) && defined(O_TMPFILE)
static int
open_nameless(const char *directory)
{
	return OpenTransientFile(directory, O_TMPFILE | O_RDWR | PG_BINARY);
}
#endif

bool
rctl_clone_shares(const char *source, const char *target)
{
	bool		shares = false;

#if defined(FICLONE) && defined(O_TMPFILE)
	static const char content[4096] = "replica_ctl";
	int			in = open_nameless(source);
	int			out = in >= 0 ? open_nameless(target) : -1;

	shares = out >= 0 &&
		pg_pwrite(in, content, sizeof(content), 0) == sizeof(content) &&
		ioctl(out, FICLONE, in) == 0;
	if (out >= 0)
		CloseTransientFile(out);
	if (in >= 0)
		CloseTransientFile(in);
#endif
#ifdef RCTL_TEST
	if (strstr(rctl_test_fault, "copy.without=clone"))
		shares = false;
#endif
	return shares;
}

/* The entry of the file system that a directory is or will be on. */
static Room *
room_of(List **rooms, const RctlPathInfo *info)
{
	ListCell   *cell;
	Room	   *room;

	foreach(cell, *rooms)
	{
		room = lfirst(cell);
		if (strcmp(room->device, info->device) == 0)
			return room;
	}
	room = palloc0(sizeof(Room));
	room->device = info->device;
	room->place = info->ancestor;
	room->free = info->free_bytes;
	*rooms = lappend(*rooms, room);
	return room;
}

/* An estimate that is too low by what is written meanwhile; better than a disk that fills up. */
void
rctl_standby_check_space(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlSource *source = rctl_source(op, host);
	const RctlMap *facts = op->replica->facts;
	const char *method = rctl_map_get_default(facts, "method", "basebackup");
	const char *directory = rctl_map_get(facts, "data_directory");
	const char *json = rctl_map_get(facts, "tablespaces");
	RctlMap    *tablespaces = json ? rctl_map_from_json(json, "tablespaces") : rctl_map_make();
	List	   *rooms = NIL;
	ListCell   *cell;
	RctlMap    *there;
	RctlRows   *rows;

	/* What a snapshot takes, and where, is known to the command alone. */
	if (strcmp(method, "snapshot") == 0)
		return;
	there = rctl_source_tablespaces(source);
	rows = rctl_source_query(source,
							 "SELECT oid, coalesce(pg_catalog.pg_tablespace_size(oid), 0)::bigint"
							 " FROM pg_catalog.pg_tablespace ORDER BY oid", 0, NULL);
	for (int i = 0; i < rows->nrows; i++)
	{
		const char *target = rctl_map_get(tablespaces, rctl_cell(rows, i, 0));
		const char *from = target ? rctl_map_get(there, rctl_cell(rows, i, 0)) : rctl_clone_source_directory(source);
		uint64		bytes = strtoull(rctl_cell(rows, i, 1), NULL, 10);
		RctlPathInfo info;
		Room	   *room;

		host->inspect(host, target ? target : directory, &info);
		room = room_of(&rooms, &info);
		if (strcmp(method, "copy") == 0 && from && rctl_clone_shares(from, info.ancestor))
		{
			room->shared = true;
			bytes /= SHARED_PART;
		}
		room->needed += bytes;
	}
	foreach(cell, rooms)
	{
		const Room *room = lfirst(cell);

		if (room->free < room->needed)
			ereport(ERROR,
					(errcode(ERRCODE_DISK_FULL),
					 errmsg("not enough space for the replica in \"%s\"", room->place),
					 errdetail("It needs " UINT64_FORMAT " MB%s, and " UINT64_FORMAT " MB are free.",
							   room->needed / MB + 1,
							   room->shared ? ", although it will share blocks with what it is copied from" : "",
							   room->free / MB),
					 errhint("Free some, or choose another place with the option data_directory.")));
	}
}
