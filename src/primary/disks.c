/*-------------------------------------------------------------------------
 *
 * disks.c
 *	  The file systems of this host that this server and its replicas use.
 *
 * A file system is known by its device number.  Its place in the table is that
 * of its bit in RctlReplicaSample.disks, and stays as long as the monitor runs:
 * one that nobody uses any more keeps it, empty, until another needs it.
 *
 * Nothing is durable; the table is this process's own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "primary/disks.h"
#include "primary/forecast.h"

typedef struct Disk
{
	bool		used;
	uint64		device;
	char		path[RCTL_DISK_LEN];
	bool		wal;
	bool		data;
} Disk;

static Disk table[RCTL_MAX_DISKS];

/* Cuts an absolute path down to where its file system is mounted. */
static void
find_mount_point(char *path, dev_t device)
{
	for (;;)
	{
		char		parent[MAXPGPATH];
		char	   *slash;
		struct stat status;

		strlcpy(parent, path, sizeof(parent));
		slash = strrchr(parent, '/');
		if (slash == NULL || path[1] == '\0')
			return;
		slash[slash == parent ? 1 : 0] = '\0';
		if (stat(parent, &status) != 0 || status.st_dev != device)
			return;
		strlcpy(path, parent, MAXPGPATH);
	}
}

/* The file system of a directory; NULL if it is not there, or the table is full. */
static Disk *
find_disk(const char *directory)
{
	char		path[PATH_MAX];
	struct stat status;
	Disk	   *unused = NULL;

	if (stat(directory, &status) != 0)
		return NULL;
	for (int i = 0; i < RCTL_MAX_DISKS; i++)
	{
		if (table[i].path[0] != '\0' && table[i].device == status.st_dev)
		{
			table[i].used = true;
			return &table[i];
		}
		if (!table[i].used && unused == NULL)
			unused = &table[i];
	}
	if (unused == NULL || realpath(directory, path) == NULL || strlen(path) >= MAXPGPATH)
		return NULL;
	memset(unused, 0, sizeof(Disk));
	unused->used = true;
	unused->device = status.st_dev;
	find_mount_point(path, status.st_dev);
	strlcpy(unused->path, path, RCTL_DISK_LEN);
	return unused;
}

void
rctl_disks_find(void)
{
	DIR		   *dir;
	struct dirent *entry;
	Disk	   *disk;

	for (int i = 0; i < RCTL_MAX_DISKS; i++)
		table[i].used = table[i].wal = table[i].data = false;
	if ((disk = find_disk(DataDir)) != NULL)
		disk->data = true;
	if ((disk = find_disk(XLOGDIR)) != NULL)
		disk->wal = true;
	dir = AllocateDir("pg_tblspc");
	while ((entry = ReadDirExtended(dir, "pg_tblspc", LOG)) != NULL)
	{
		char		path[MAXPGPATH];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "pg_tblspc/%s", entry->d_name);
		if ((disk = find_disk(path)) != NULL)
			disk->data = true;
	}
	FreeDir(dir);
}

uint64
rctl_disks_add(List *directories)
{
	uint64		mask = 0;
	ListCell   *lc;

	foreach(lc, directories)
	{
		Disk	   *disk = find_disk(lfirst(lc));

		if (disk)
			mask |= UINT64CONST(1) << (disk - table);
	}
	return mask;
}

int
rctl_disks_sample(const RctlSamples *before, int64 now, RctlDiskSample *next)
{
	int			count = 0;

	for (int i = 0; i < RCTL_MAX_DISKS; i++)
	{
		const RctlDiskSample *last = i < before->ndisks && before->disks[i].device == table[i].device ?
		&before->disks[i] : NULL;
		struct statvfs status;

		memset(&next[i], 0, sizeof(RctlDiskSample));
		if (!table[i].used)
			continue;
		next[i].device = table[i].device;
		strlcpy(next[i].path, table[i].path, RCTL_DISK_LEN);
		next[i].wal = table[i].wal;
		next[i].data = table[i].data;
		next[i].mono = now;
		if (statvfs(table[i].path, &status) == 0)
		{
			next[i].free_bytes = (uint64) status.f_bavail * status.f_frsize;
			next[i].total_bytes = (uint64) status.f_blocks * status.f_frsize;
		}
		rctl_forecast_disk(&next[i], last);
		count = i + 1;
	}
	return count;
}
