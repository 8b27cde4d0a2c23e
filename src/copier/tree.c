/*-------------------------------------------------------------------------
 *
 * tree.c
 *	  What is copied and what is left out.
 *
 * The same is left out as by pg_basebackup: what a server makes itself when
 * it starts, temporary relations and files, unlogged relations but for their
 * init forks, WAL (the copy streams it through its slot) but for the
 * timelines' histories, and special files.  pg_control is left to the
 * caller, who copies it last: without it no server starts in the target.
 *
 * Files and directories may be made and removed while the walk is on; WAL
 * replay makes up for whatever is seen of that.  A directory is listed at
 * once, so that no list is of two moments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "copier/copier.h"

/* More than that is not flushed for others. */
#define DIRTY_LIMIT_KB (256 * 1024)

typedef enum Kind
{
	DIR_TOP,					/* the data directory */
	DIR_BASE,
	DIR_GLOBAL,
	DIR_DATABASE,
	DIR_LINKS,					/* pg_tblspc */
	DIR_TABLESPACE,
	DIR_VERSION,				/* in that, for one version of PostgreSQL */
	DIR_WAL,
	DIR_EMPTIED,
	DIR_LOG,					/* in a resync, the target keeps its own */
	DIR_OTHER,
} Kind;

typedef enum Action
{
	LEAVE_OUT,
	COPY_FILE,
	COPY_DIRECTORY,
	MAKE_LINK,
} Action;

typedef struct Names
{
	char	  **names;
	int			count;
	int			size;
} Names;

/* A directory that is walked. */
typedef struct Place
{
	Kind		kind;
	const char *source;
	const char *target;
	unsigned   *unlogged;		/* relations with an init fork, sorted */
	int			nunlogged;
	Names		kept;			/* what is to be in the target */
} Place;

static void
add_name(Names *list, const char *name)
{
	if (list->count == list->size)
	{
		list->size = Max(list->size * 2, 64);
		list->names = realloc(list->names, list->size * sizeof(char *));
		if (list->names == NULL)
			rctl_copy_fail("53200", 0, "out of memory");
	}
	list->names[list->count++] = rctl_copy_format("%s", name);
}

static void
free_names(Names *list)
{
	for (int i = 0; i < list->count; i++)
		free(list->names[i]);
	free(list->names);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* False if the directory is gone. */
static bool
list_directory(const char *path, Names *list)
{
	DIR		   *dir = opendir(path);
	struct dirent *entry;

	memset(list, 0, sizeof(*list));
	if (dir == NULL)
	{
		if (errno != ENOENT)
			rctl_copy_fail_errno("open directory", path);
		return false;
	}
	while (errno = 0, (entry = readdir(dir)) != NULL)
	{
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			add_name(list, entry->d_name);
	}
	if (errno != 0)
		rctl_copy_fail_errno("read directory", path);
	closedir(dir);
	return true;
}

static int
compare_numbers(const void *a, const void *b)
{
	unsigned	x = *(const unsigned *) a;
	unsigned	y = *(const unsigned *) b;

	return x < y ? -1 : x > y;
}

static void
find_unlogged(Place *place, const Names *list)
{
	unsigned	number;
	bool		init;
	uint32		segment;

	if (place->kind != DIR_DATABASE)
		return;
	place->unlogged = rctl_copy_alloc(sizeof(unsigned) * (list->count + 1));
	for (int i = 0; i < list->count; i++)
	{
		if (rctl_copy_relation_name(list->names[i], &number, &init, &segment) && init)
			place->unlogged[place->nunlogged++] = number;
	}
	qsort(place->unlogged, place->nunlogged, sizeof(unsigned), compare_numbers);
}

static bool
is_number(const char *name)
{
	return name[0] != '\0' && name[strspn(name, "0123456789")] == '\0';
}

static Kind
kind_of(Kind above, const char *name)
{
	switch (above)
	{
		case DIR_TOP:
			if (rctl_copy_emptied(name))
				return DIR_EMPTIED;
			return strcmp(name, "base") == 0 ? DIR_BASE :
				strcmp(name, "global") == 0 ? DIR_GLOBAL :
				strcmp(name, "pg_tblspc") == 0 ? DIR_LINKS :
				strcmp(name, "pg_wal") == 0 ? DIR_WAL :
				strcmp(name, "log") == 0 ? DIR_LOG : DIR_OTHER;
		case DIR_BASE:
		case DIR_VERSION:
			return is_number(name) ? DIR_DATABASE : DIR_OTHER;
		case DIR_LINKS:
			return is_number(name) ? DIR_TABLESPACE : DIR_OTHER;
		case DIR_TABLESPACE:
			return DIR_VERSION;
		case DIR_WAL:
			return DIR_EMPTIED; /* archive_status, summaries */
		default:
			return DIR_OTHER;
	}
}

static Action
decide(const Place *place, const char *name, const struct stat *st)
{
	unsigned	number;
	bool		init;
	uint32		segment;
	size_t		len = strlen(name);

	if (rctl_copy_left_out(name))
		return LEAVE_OUT;
	switch (place->kind)
	{
		case DIR_EMPTIED:
			return LEAVE_OUT;
		case DIR_GLOBAL:
			if (strcmp(name, "pg_control") == 0)
				return LEAVE_OUT;
			break;
		case DIR_DATABASE:
			if (rctl_copy_temporary_name(name))
				return LEAVE_OUT;
			if (rctl_copy_relation_name(name, &number, &init, &segment) && !init &&
				bsearch(&number, place->unlogged, place->nunlogged, sizeof(unsigned), compare_numbers))
				return LEAVE_OUT;
			break;
		case DIR_WAL:
			if (S_ISREG(st->st_mode) && (len < 8 || strcmp(name + len - 8, ".history") != 0))
				return LEAVE_OUT;
			break;
		case DIR_TABLESPACE:
			if (strcmp(name, rctl_copy_options.version_directory) != 0)
				return LEAVE_OUT;
			break;
		default:
			break;
	}
	if (S_ISREG(st->st_mode))
		return COPY_FILE;
	if (S_ISDIR(st->st_mode))
		return COPY_DIRECTORY;
	if (S_ISLNK(st->st_mode))
	{
		Kind		kind = kind_of(place->kind, name);

		if (place->kind == DIR_LINKS && kind == DIR_TABLESPACE)
			return MAKE_LINK;
		if (place->kind == DIR_TOP && (kind == DIR_WAL || kind == DIR_EMPTIED))
			return COPY_DIRECTORY;
	}
	rctl_copy_note("special", "Special files were left out, \"%s/%s\" for one.", place->source, name);
	return LEAVE_OUT;
}

/* ---- the target ---- */

static void
remove_entry(const char *path)
{
	struct stat st;
	Names		list;

	if (lstat(path, &st) != 0)
	{
		if (errno == ENOENT)
			return;
		rctl_copy_fail_errno("stat", path);
	}
	if (!S_ISDIR(st.st_mode))
	{
		if (unlink(path) != 0 && errno != ENOENT)
			rctl_copy_fail_errno("remove", path);
		rctl_copy_counters.removed++;
		return;
	}
	if (!list_directory(path, &list))
		return;
	for (int i = 0; i < list.count; i++)
	{
		char	   *child = rctl_copy_format("%s/%s", path, list.names[i]);

		remove_entry(child);
		free(child);
	}
	free_names(&list);
	if (rmdir(path) != 0 && errno != ENOENT)
		rctl_copy_fail_errno("remove directory", path);
}

/* In a resync: what is not to be there. */
static void
prune(Place *place)
{
	Names		list;

	if (!rctl_copy_options.resync || place->kind == DIR_LOG)
		return;
	qsort(place->kept.names, place->kept.count, sizeof(char *), compare_names);
	if (!list_directory(place->target, &list))
		return;
	for (int i = 0; i < list.count; i++)
	{
		const char *name = list.names[i];
		char	   *path;

		/* It stays a standby, with the log that it has written. */
		if (rctl_copy_own_file(name) ||
			(place->kind == DIR_TOP && (strcmp(name, "log") == 0 || strcmp(name, "standby.signal") == 0)) ||
			(place->kept.count > 0 &&
			 bsearch(&name, place->kept.names, place->kept.count, sizeof(char *), compare_names)))
			continue;
		path = rctl_copy_format("%s/%s", place->target, name);
		remove_entry(path);
		free(path);
	}
	free_names(&list);
}

/* In a resync: whether something of another type is in the way; it is removed then. */
static bool
is_there(const char *path, mode_t type)
{
	struct stat st;

	if (!rctl_copy_options.resync)
		return false;
	if (lstat(path, &st) != 0)
	{
		if (errno != ENOENT)
			rctl_copy_fail_errno("stat", path);
		return false;
	}
	if ((st.st_mode & S_IFMT) == type)
		return true;
	remove_entry(path);
	return false;
}

static void
make_directory(const char *path, mode_t mode)
{
	if (!is_there(path, S_IFDIR) && mkdir(path, 0700) != 0)
		rctl_copy_fail_errno("create directory", path);
	if (chmod(path, mode & 0777) != 0)
		rctl_copy_fail_errno("set permissions of", path);
}

static void
make_link(const char *path, const char *name)
{
	unsigned	oid = (unsigned) strtoul(name, NULL, 10);

	for (int i = 0; i < rctl_copy_options.ntrees; i++)
	{
		const RctlCopyTree *tree = &rctl_copy_options.trees[i];

		if (tree->oid != oid)
			continue;
		if (is_there(path, S_IFLNK) && unlink(path) != 0)
			rctl_copy_fail_errno("remove", path);
		if (symlink(tree->target, path) != 0)
			rctl_copy_fail_errno("create symbolic link", path);
		return;
	}
	rctl_copy_fail("55006", 0, "tablespace %u was made while the copy began", oid);
}

static void
queue_file(const Place *place, const char *name, const char *source, const char *target)
{
	RctlCopyFile *file = rctl_copy_alloc(sizeof(RctlCopyFile));
	unsigned	number;
	bool		init;

	file->source = rctl_copy_format("%s", source);
	file->target = rctl_copy_format("%s", target);
	file->in = file->out = file->out_direct = -1;
	if (place->kind == DIR_DATABASE || place->kind == DIR_GLOBAL)
		file->relation = file->numbered = rctl_copy_relation_name(name, &number, &init, &file->segment);
	rctl_copy_queue(is_there(target, S_IFREG) ? rctl_copy_compare_file : rctl_copy_file, file);
}

/* ---- the walk ---- */

static void walk(Kind kind, const char *source, const char *target, bool count_only);

static void
visit(Place *place, const char *name, bool count_only)
{
	char	   *source = rctl_copy_format("%s/%s", place->source, name);
	char	   *target = rctl_copy_format("%s/%s", place->target, name);
	struct stat st;
	Action		action;

	if (lstat(source, &st) != 0)
	{
		if (errno != ENOENT)
			rctl_copy_fail_errno("stat", source);
		if (!count_only)
			rctl_copy_counters.vanished++;
		action = LEAVE_OUT;
	}
	else if ((action = decide(place, name, &st)) == LEAVE_OUT && !count_only)
		rctl_copy_counters.left_out++;

	if (action != LEAVE_OUT && !count_only)
		add_name(&place->kept, name);
	if (action == COPY_FILE && count_only)
		rctl_copy_counters.total += st.st_size;
	else if (action == COPY_FILE)
		queue_file(place, name, source, target);
	else if (action == COPY_DIRECTORY)
	{
		/* What a link that is to be a directory points to has the mode. */
		if (!count_only)
			make_directory(target, S_ISLNK(st.st_mode) ? 0700 : st.st_mode);
		walk(kind_of(place->kind, name), source, target, count_only);
	}
	else if (action == MAKE_LINK && !count_only)
		make_link(target, name);
	free(source);
	free(target);
}

static void
walk(Kind kind, const char *source, const char *target, bool count_only)
{
	Place		place = {.kind = kind, .source = source, .target = target};
	Names		list;

	if (!list_directory(source, &list))
	{
		/* A database that was dropped, or a whole tablespace. */
		if (!count_only)
			prune(&place);
		return;
	}
	find_unlogged(&place, &list);
	for (int i = 0; i < list.count; i++)
		visit(&place, list.names[i], count_only);
	if (!count_only)
		prune(&place);
	free_names(&list);
	free_names(&place.kept);
	free(place.unlogged);
}

static void
walk_all(bool count_only)
{
	for (int i = 0; i < rctl_copy_options.ntrees; i++)
	{
		const RctlCopyTree *tree = &rctl_copy_options.trees[i];

		walk(tree->oid == 0 ? DIR_TOP : DIR_TABLESPACE, tree->source, tree->target, count_only);
	}
}

void
rctl_copy_count_trees(void)
{
	walk_all(true);
}

void
rctl_copy_walk_trees(void)
{
	walk_all(false);
}

/* ----
 * Making it durable
 *
 * One syncfs() for a file system takes one flush of the disk; fsync() takes
 * one for each file, and there are a thousand in the smallest cluster.  But
 * it writes what others have written, too: not when that is much, nor when
 * the copy is to spare the disk (a rate).  Since Linux 5.8 it tells of errors,
 * of all that came since the descriptor was opened; before that, and where it
 * fails, each file is synced.
 * ----
 */

static int *roots;				/* descriptors of the targets, from before the
								 * copy */

void
rctl_copy_open_targets(void)
{
	roots = rctl_copy_alloc(sizeof(int) * rctl_copy_options.ntrees);
	for (int i = 0; i < rctl_copy_options.ntrees; i++)
	{
		const char *path = rctl_copy_options.trees[i].target;

		roots[i] = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
		if (roots[i] < 0)
			rctl_copy_fail_errno("open directory", path);
	}
}

static bool
syncfs_tells_errors(void)
{
	struct utsname name;
	int			major;
	int			minor;

	return !rctl_copy_without("syncfs") &&
		uname(&name) == 0 && sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
		(major > 5 || (major == 5 && minor >= 8));
}

/* Whether the page cache has no more to write than a disk does in a moment. */
static bool
little_is_dirty(void)
{
	FILE	   *info = fopen("/proc/meminfo", "r");
	char		line[128];
	unsigned long kb = DIRTY_LIMIT_KB;

	if (info == NULL)
		return false;
	while (fgets(line, sizeof(line), info))
	{
		if (sscanf(line, "Dirty: %lu", &kb) == 1)
			break;
	}
	fclose(info);
	return kb < DIRTY_LIMIT_KB;
}

/* False if it cannot be done so. */
static bool
sync_file_systems(void)
{
	if (rctl_copy_options.rate > 0 || !syncfs_tells_errors() || !little_is_dirty())
		return false;
	for (int i = 0; i < rctl_copy_options.ntrees; i++)
	{
		struct stat st;
		struct stat before;
		bool		done = false;

		if (fstat(roots[i], &st) != 0)
			rctl_copy_fail_errno("stat", rctl_copy_options.trees[i].target);
		for (int k = 0; k < i && !done; k++)
			done = fstat(roots[k], &before) == 0 && before.st_dev == st.st_dev;
		if (done || syncfs(roots[i]) == 0)
			continue;
		if (errno == EIO || errno == ENOSPC || errno == EDQUOT)
			rctl_copy_fail_errno("fsync", rctl_copy_options.trees[i].target);
		return false;
	}
	return true;
}

static void
sync_directory(const char *path)
{
	int			fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);

	if (fd < 0)
		rctl_copy_fail_errno("open directory", path);
	if (fsync(fd) != 0)
		rctl_copy_fail_errno("fsync", path);
	close(fd);
}

static void
sync_tree(const char *path)
{
	Names		list;

	if (!list_directory(path, &list))
		return;
	for (int i = 0; i < list.count; i++)
	{
		char	   *child = rctl_copy_format("%s/%s", path, list.names[i]);
		struct stat st;

		if (lstat(child, &st) != 0)
			rctl_copy_fail_errno("stat", child);
		if (S_ISDIR(st.st_mode))
			sync_tree(child);
		else if (S_ISREG(st.st_mode))
		{
			RctlCopyFile *file = rctl_copy_alloc(sizeof(RctlCopyFile));

			file->source = rctl_copy_format("%s", child);
			file->target = child;
			rctl_copy_queue(rctl_copy_sync_file, file);
			child = NULL;
		}
		free(child);
	}
	free_names(&list);
	sync_directory(path);
}

void
rctl_copy_sync_trees(void)
{
	if (sync_file_systems())
		return;
	for (int i = 0; i < rctl_copy_options.ntrees; i++)
		sync_tree(rctl_copy_options.trees[i].target);
}
