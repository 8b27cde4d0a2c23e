/*-------------------------------------------------------------------------
 *
 * fence_file.c
 *	  The fence's durable half: a small text file in the data directory.
 *
 * The file exists while the fence is up, and a server that finds it at start
 * comes up fenced.  It is replaced as a whole (written aside, fsynced,
 * renamed), so that a reader sees the old one or the new one.
 *
 * A base backup carries every file of the data directory, and its server must
 * not be fenced.  So the file says which cluster it belongs to and under
 * which inode number it was written: a rename keeps that, and so do a restart
 * and moving the data directory within its file system; a copy or a restore,
 * even into the same directory, does not.  A snapshot of the whole file
 * system cannot be told from the original, and is fenced: that errs on the
 * safe side.
 *
 * Lines are "key = value"; in values, backslash and line feed are escaped.
 * Unknown keys are skipped.  A file that makes no sense is reported as
 * damaged, never as absent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "common/file_perm.h"
#include "lib/stringinfo.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "primary/fence_internal.h"

#define FENCE_FILE "replica_ctl.fence"
#define FENCE_FILE_NEW "replica_ctl.fence.new"
#define FENCE_FILE_VERSION 1
#define FENCE_FILE_MAX 8192

static void
append_escaped(StringInfo out, const char *key, const char *value)
{
	appendStringInfo(out, "%s = ", key);
	for (const char *p = value; *p; p++)
	{
		if (*p == '\n')
			appendStringInfoString(out, "\\n");
		else if (*p == '\\')
			appendStringInfoString(out, "\\\\");
		else
			appendStringInfoChar(out, *p);
	}
	appendStringInfoChar(out, '\n');
}

static void
compose(StringInfo out, const RctlFenceState *state, ino_t inode)
{
	appendStringInfoString(out, "# Written by replica_ctl: this server must not accept writes.  It is removed by\n"
						   "# SELECT replica_unfence(); removing it by hand may make this server a second primary.\n");
	appendStringInfo(out, "version = %d\n", FENCE_FILE_VERSION);
	appendStringInfo(out, "system_identifier = " UINT64_FORMAT "\n", GetSystemIdentifier());
	appendStringInfo(out, "timeline = %u\n", state->timeline);
	appendStringInfo(out, "inode = " UINT64_FORMAT "\n", (uint64) inode);
	appendStringInfo(out, "since = " INT64_FORMAT "\n", (int64) state->since);
	appendStringInfo(out, "operation = " INT64_FORMAT "\n", state->operation);
	append_escaped(out, "reason", state->reason);
	if (state->phase == RCTL_FENCE_PROMOTED)
	{
		append_escaped(out, "promoted_replica", state->replica);
		append_escaped(out, "promoted_endpoint", state->endpoint);
		appendStringInfo(out, "promoted_timeline = %u\n", state->promoted_timeline);
		appendStringInfo(out, "promoted_lsn = %X/%X\n", LSN_FORMAT_ARGS(state->promoted_lsn));
	}
	appendStringInfo(out, "phase = %s\n", state->phase == RCTL_FENCE_PROMOTED ? "promoted" : "up");
}

void
rctl_fence_file_write(const RctlFenceState *state)
{
	StringInfoData content;
	struct stat st;
	int			fd;

	fd = OpenTransientFile(FENCE_FILE_NEW, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);
	if (fd < 0 || fstat(fd, &st) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", FENCE_FILE_NEW)));
	initStringInfo(&content);
	compose(&content, state, st.st_ino);

	errno = 0;
	if (write(fd, content.data, content.len) != content.len)
	{
		/* A short write without an error is a full disk. */
		int			save_errno = errno ? errno : ENOSPC;

		CloseTransientFile(fd);
		(void) unlink(FENCE_FILE_NEW);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", FENCE_FILE_NEW)));
	}
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", FENCE_FILE_NEW)));
	pfree(content.data);

	/* Syncs the file, renames it, syncs the directory. */
	(void) durable_rename(FENCE_FILE_NEW, FENCE_FILE, ERROR);
}

static void
copy_unescaped(char *to, size_t size, const char *from)
{
	char	   *end = to + size - 1;

	for (; *from && to < end; from++)
	{
		if (*from == '\\' && from[1] != '\0')
		{
			from++;
			*to++ = *from == 'n' ? '\n' : *from;
		}
		else
			*to++ = *from;
	}
	*to = '\0';
}

typedef struct FileIdentity
{
	int			version;
	uint64		system_identifier;
	uint64		inode;
} FileIdentity;

/* Takes one line; "phase" is the last one written, so that a truncated file has none. */
static void
parse_line(const char *key, const char *value, FileIdentity *identity, RctlFenceState *state)
{
	uint32		high;
	uint32		low;

	if (strcmp(key, "version") == 0)
		identity->version = (int) strtol(value, NULL, 10);
	else if (strcmp(key, "system_identifier") == 0)
		identity->system_identifier = strtou64(value, NULL, 10);
	else if (strcmp(key, "inode") == 0)
		identity->inode = strtou64(value, NULL, 10);
	else if (strcmp(key, "timeline") == 0)
		state->timeline = (TimeLineID) strtoul(value, NULL, 10);
	else if (strcmp(key, "since") == 0)
		state->since = (TimestampTz) strtoi64(value, NULL, 10);
	else if (strcmp(key, "operation") == 0)
		state->operation = strtoi64(value, NULL, 10);
	else if (strcmp(key, "reason") == 0)
		copy_unescaped(state->reason, sizeof(state->reason), value);
	else if (strcmp(key, "promoted_replica") == 0)
		copy_unescaped(state->replica, sizeof(state->replica), value);
	else if (strcmp(key, "promoted_endpoint") == 0)
		copy_unescaped(state->endpoint, sizeof(state->endpoint), value);
	else if (strcmp(key, "promoted_timeline") == 0)
		state->promoted_timeline = (TimeLineID) strtoul(value, NULL, 10);
	else if (strcmp(key, "promoted_lsn") == 0 && sscanf(value, "%X/%X", &high, &low) == 2)
		state->promoted_lsn = ((uint64) high) << 32 | low;
	else if (strcmp(key, "phase") == 0)
		state->phase = strcmp(value, "promoted") == 0 ? RCTL_FENCE_PROMOTED :
			strcmp(value, "up") == 0 ? RCTL_FENCE_UP : RCTL_FENCE_DOWN;
}

/* Takes the content apart, in place. */
static void
parse(char *content, FileIdentity *identity, RctlFenceState *state)
{
	char	   *line;

	while ((line = strsep(&content, "\n")) != NULL)
	{
		char	   *sign = strstr(line, " = ");

		/* An unfinished last line does not count. */
		if (line[0] == '#' || sign == NULL || content == NULL)
			continue;
		*sign = '\0';
		parse_line(line, sign + strlen(" = "), identity, state);
	}
}

FenceFileStatus
rctl_fence_file_read(RctlFenceState *state)
{
	char	   *content;
	size_t		length;
	struct stat st;
	FileIdentity identity = {0};
	FILE	   *file = AllocateFile(FENCE_FILE, PG_BINARY_R);

	memset(state, 0, sizeof(*state));
	if (file == NULL && errno == ENOENT)
		return FENCE_FILE_ABSENT;
	if (file == NULL || fstat(fileno(file), &st) < 0)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", FENCE_FILE)));
		if (file)
			FreeFile(file);
		return FENCE_FILE_DAMAGED;
	}

	content = palloc(FENCE_FILE_MAX + 1);
	length = fread(content, 1, FENCE_FILE_MAX, file);
	content[length] = '\0';
	FreeFile(file);
	parse(content, &identity, state);
	pfree(content);

	if (identity.system_identifier != 0 && identity.inode != 0 &&
		(identity.system_identifier != GetSystemIdentifier() || identity.inode != (uint64) st.st_ino))
		return FENCE_FILE_FOREIGN;
	if (identity.version != FENCE_FILE_VERSION || identity.system_identifier == 0 || identity.inode == 0 ||
		state->timeline == 0 || state->phase == RCTL_FENCE_DOWN)
		return FENCE_FILE_DAMAGED;
	return FENCE_FILE_VALID;
}

bool
rctl_fence_file_remove(int elevel)
{
	if (unlink(FENCE_FILE) < 0)
	{
		if (errno == ENOENT)
			return true;
		ereport(elevel,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", FENCE_FILE)));
		return false;
	}

	/* The removal must not be undone by a crash. */
	return fsync_fname_ext(".", true, true, elevel) == 0;
}
