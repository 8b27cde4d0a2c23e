/*-------------------------------------------------------------------------
 *
 * clone_copy.c
 *	  The files of a copy, brought by the program replica_ctl_copy.
 *
 * What it has done is told by an event: so many bytes by which way, and why
 * a faster way was not taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xlog.h"
#include "common/relpath.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "provider/clone.h"
#include "settings.h"

#define TICK_MS 250
#define MIN_JOBS 2
#define MAX_JOBS 4

typedef struct Watch
{
	RctlBackup *backup;
	char	   *status_path;
	MemoryContext context;		/* reset at every look */
} Watch;

char *
rctl_clone_program(const RctlHost *host)
{
	return psprintf("%s/replica_ctl_copy", host->bindir);
}

/* Says how far the program is. */
static void
watch_program(void *arg)
{
	Watch	   *watch = arg;
	RctlHost   *host = watch->backup->host;
	RctlOp	   *op = watch->backup->op;
	MemoryContext old = MemoryContextSwitchTo(watch->context);
	char	   *status;
	char		word[32];
	uint64		done;
	uint64		total;

	rctl_clone_check_session(watch->backup);
	status = host->read_file(host, watch->status_path, 128);
	if (status && sscanf(status, "%31s " UINT64_FORMAT " " UINT64_FORMAT, word, &done, &total) == 3)
	{
		const char *phase = word;

		if (strcmp(word, "estimating") == 0)
			phase = "estimating size";
		else if (strcmp(word, "syncing") == 0)
			phase = "writing to disk";
		rctl_op_progress(op, phase, done, Max(total, done));

		/* What a disk does when it is told to be done cannot be seen. */
		if (phase != word)
			rctl_op_alive(op);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(watch->context);
}

#ifdef RCTL_TEST
/* "copy.without=clone,range" in replica_ctl.test_fault */
static char *
without(void)
{
	const char *found = strstr(rctl_test_fault, "copy.without=");

	return found ? pnstrdup(found + 13, strcspn(found + 13, ";")) : NULL;
}
#endif

/* A comparison waits for two reads at a time: more of them in flight. */
static char *
default_jobs(bool resync)
{
	int			jobs = (int) Max(MIN_JOBS, Min(MAX_JOBS, sysconf(_SC_NPROCESSORS_ONLN)));

	return psprintf("%d", resync ? 2 * jobs : jobs);
}

static const char *const *
arguments(RctlBackup *backup, const char *status_path)
{
	const RctlMap *options = backup->op->replica->options;
	const char *tablespaces = rctl_map_get(backup->op->replica->facts, "tablespaces");
	const char *rate = rctl_map_get(options, "max_rate");
	const char **argv = palloc0(sizeof(char *) * (32 + 4 * list_length(backup->tablespaces->entries)));
	int			n = 0;
	ListCell   *cell;

	argv[n++] = rctl_clone_program(backup->host);
	if (backup->resync)
		argv[n++] = "--resync";
	argv[n++] = "--jobs";
	argv[n++] = rctl_map_get_default(options, "jobs", default_jobs(backup->resync));
	if (rate)
	{
		argv[n++] = "--rate";
		argv[n++] = rate;
	}
	argv[n++] = "--verify";
	argv[n++] = DataChecksumsEnabled() ? rctl_map_get_default(options, "verify_checksums", "auto") : "off";
	argv[n++] = "--start";
	argv[n++] = backup->start;
	argv[n++] = "--version-directory";
	argv[n++] = TABLESPACE_VERSION_DIRECTORY;
	argv[n++] = "--status";
	argv[n++] = status_path;
#ifdef RCTL_TEST
	if (without())
	{
		argv[n++] = "--without";
		argv[n++] = without();
	}
#endif
	argv[n++] = "--tree";
	argv[n++] = "0";
	argv[n++] = backup->source;
	argv[n++] = backup->target;
	foreach(cell, backup->tablespaces->entries)
	{
		const RctlMapEntry *entry = lfirst(cell);

		argv[n++] = "--tree";
		argv[n++] = entry->key;
		argv[n++] = entry->value;
		argv[n++] = rctl_map_get(rctl_map_from_json(tablespaces, "tablespaces"), entry->key);
	}
	return argv;
}

/* The program says an SQLSTATE and what happened. */
static void
program_failed(RctlBackup *backup, const RctlProcessResult *result)
{
	char	   *line = rctl_last_lines(result->errors, 1);
	const char *state = line;
	bool		full;

	if (!result->exited || strspn(line, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 5 || line[5] != ' ')
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("replica_ctl_copy %s", rctl_process_describe(result)),
				 line[0] ? errdetail("%s", line) : errdetail("It said nothing."),
				 errhint("Try again, or use method \"basebackup\".")));
	full = strncmp(state, "53100", 5) == 0;
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4])),
			 full ? errmsg("the disk is full: %s", line + 6) : errmsg("%s", line + 6),
			 full ? errhint("Free some space, or choose another place with the option data_directory.")
			 : errhint("Correct the cause and try again, or use method \"basebackup\".")));
}

/* "name value" lines to a map, and the sentences after "note" to one text. */
static RctlMap *
read_summary(char *output, StringInfo notes)
{
	RctlMap    *map = rctl_map_make();
	char	   *line;

	while ((line = strsep(&output, "\n")) != NULL)
	{
		char	   *space = strchr(line, ' ');

		if (space == NULL)
			continue;
		*space++ = '\0';
		if (strcmp(line, "note") != 0)
			rctl_map_set(map, line, space);
		else
			appendStringInfo(notes, "%s%s", notes->len ? " " : "", space);
	}
	return map;
}

static uint64
counter(const RctlMap *map, const char *name)
{
	return strtoull(rctl_map_get_default(map, name, "0"), NULL, 10);
}

static void
tell(RctlBackup *backup, RctlMap *summary, const char *notes, double seconds)
{
	RctlOp	   *op = backup->op;
	uint64		bad = counter(summary, "bad_blocks");

	rctl_map_set(summary, "method", backup->resync ? "resync" : "copy");
	rctl_map_setf(summary, "seconds", "%.3f", seconds);
	if (notes[0])
		rctl_map_set(summary, "notes", notes);
	if (bad > 0)
		rctl_op_event(op, "warning", "bad_checksums", summary,
					  UINT64_FORMAT " blocks that were copied have a wrong checksum: %s", bad, notes);
	if (backup->resync)
		rctl_op_event(op, "info", "resynced", summary,
					  "Made the copy of replica \"%s\" equal again in %.1f s: " UINT64_FORMAT " bytes read, "
					  UINT64_FORMAT " bytes written",
					  op->replica->name, seconds, counter(summary, "bytes_read"),
					  counter(summary, "bytes_written") + counter(summary, "bytes_offloaded"));
	else
		rctl_op_event(op, "info", "copied", summary,
					  "Copied the data of replica \"%s\" in %.1f s: " UINT64_FORMAT " bytes in " UINT64_FORMAT " files%s%s",
					  op->replica->name, seconds, counter(summary, "bytes"), counter(summary, "files"),
					  notes[0] ? ". " : "", notes);
}

void
rctl_clone_copy(RctlBackup *backup)
{
	RctlOp	   *op = backup->op;
	RctlHost   *host = backup->host;
	TimestampTz start = GetCurrentTimestamp();
	RctlMap    *object = rctl_map_make();
	RctlProcessSpec spec = {0};
	RctlProcessResult *result;
	StringInfoData notes;
	Watch		watch = {
		.backup = backup,
		/* The name keeps it out of base backups. */
		.status_path = psprintf("%s/pgsql_tmp.replica_ctl.copy." INT64_FORMAT, host->scratch, op->id),
		.context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl copy", ALLOCSET_SMALL_SIZES),
	};
	RctlMap    *summary;

	rctl_map_set(object, "path", watch.status_path);
	rctl_op_cleanup_add(op, "file", object, true);
	spec.argv = arguments(backup, watch.status_path);
	result = host->run(host, &spec, 0, watch_program, TICK_MS, &watch);
	MemoryContextDelete(watch.context);
	if (!result->exited || result->exit_code != 0)
		program_failed(backup, result);
	initStringInfo(&notes);
	summary = read_summary(result->output, &notes);
	rctl_op_progress(op, "copied", counter(summary, "bytes"), counter(summary, "bytes"));
	tell(backup, summary, notes.data, (GetCurrentTimestamp() - start) / 1000000.0);
}
