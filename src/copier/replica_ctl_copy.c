/*-------------------------------------------------------------------------
 *
 * replica_ctl_copy.c
 *	  Copies a data directory with its tablespaces; see copier.h.
 *
 *	  replica_ctl_copy [--resync] [--jobs N] [--rate KB] [--verify MODE]
 *		  [--start LSN] --version-directory NAME --status FILE
 *		  --tree OID SOURCE TARGET ...
 *
 * The status file holds one line of fixed length, rewritten in place: phase,
 * bytes done, bytes in total.  At the end stdout gets one line for each
 * counter, "name value", and one for each thing worth knowing, "note text".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "copier/copier.h"

#define MAX_JOBS 64
#define MAX_NOTES 32
#define STATUS_LENGTH 80

typedef struct Note
{
	char	   *kind;
	char	   *text;
} Note;

RctlCopyOptions rctl_copy_options;
RctlCopyCounters rctl_copy_counters;

static pthread_mutex_t note_lock = PTHREAD_MUTEX_INITIALIZER;
static Note notes[MAX_NOTES];	/* protected by note_lock, as is the count */
static int	nnotes;

static pthread_mutex_t fail_lock = PTHREAD_MUTEX_INITIALIZER;

static const char *phase = "copying";
static int	status_file = -1;

/* ---------------------------------------------------------------------
 * For all
 * ---------------------------------------------------------------------
 */

const char *
rctl_copy_sqlstate(int error)
{
	switch (error)
	{
		case ENOSPC:
		case EDQUOT:
			return "53100";
		case EACCES:
		case EPERM:
		case EROFS:
			return "42501";
		case ENOENT:
			return "58P01";
		case EEXIST:
			return "58P02";
		case EMFILE:
		case ENFILE:
			return "53000";
		case ENOMEM:
			return "53200";
		default:
			return "58030";
	}
}

void
rctl_copy_fail(const char *sqlstate, int error, const char *format,...)
{
	char		message[4096];
	va_list		args;

	/* Never unlocked: the first error is the one that is told. */
	pthread_mutex_lock(&fail_lock);
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	fprintf(stderr, "%s %s%s%s\n", sqlstate, message, error ? ": " : "", error ? strerror(error) : "");
	fflush(stderr);
	_exit(1);
}

void *
rctl_copy_alloc(size_t size)
{
	void	   *memory = calloc(1, size);

	if (memory == NULL)
		rctl_copy_fail("53200", 0, "out of memory");
	return memory;
}

char *
rctl_copy_format(const char *format,...)
{
	char	   *text;
	va_list		args;
	int			length;

	va_start(args, format);
	length = vsnprintf(NULL, 0, format, args);
	va_end(args);
	text = rctl_copy_alloc(length + 1);

	va_start(args, format);
	vsnprintf(text, length + 1, format, args);
	va_end(args);
	return text;
}

void
rctl_copy_note(const char *kind, const char *format,...)
{
	char text[	2048];
	va_list		args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	pthread_mutex_lock(&note_lock);
	for (int i = 0; i <= nnotes; i++)
	{
		if (i == MAX_NOTES || (i < nnotes && strcmp(notes[i].kind, kind) == 0))
			break;
		if (i == nnotes)
		{
			notes[nnotes].kind = rctl_copy_format("%s", kind);
			notes[nnotes++].text = rctl_copy_format("%s", text);
			break;
		}
	}
	pthread_mutex_unlock(&note_lock);
}

bool
rctl_copy_without(const char *what)
{
	return rctl_copy_options.without && strstr(rctl_copy_options.without, what) != NULL;
}

/* ---------------------------------------------------------------------
 * Arguments
 * ---------------------------------------------------------------------
 */

static void
bad_argument(const char *argument)
{
	rctl_copy_fail("22023", 0, "invalid argument \"%s\"", argument);
}

static uint64
number(const char *text, uint64 max)
{
	char	   *end;
	uint64		value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0 || end == text ||*end != '\0' || value > max)
		bad_argument(text);
	return value;
}

static RctlCopyVerify
verify_mode(const char *text)
{
	static const char *const names[] = {"off", "auto", "on", "fail"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(text, names[i]) == 0)
			return (RctlCopyVerify) i;
	}
	bad_argument(text);
	return RCTL_VERIFY_OFF;
}

static XLogRecPtr
position(const char *text)
{
	uint32		high;
	uint32		low;

	if (sscanf(text, "%X/%X", &high, &low) != 2)
		bad_argument(text);
	return ((uint64) high) << 32 | low;
}

static void
read_arguments(int argc, char **argv)
{
	RctlCopyOptions *options = &rctl_copy_options;

	options->jobs = 1;
	options->trees = rctl_copy_alloc(sizeof(RctlCopyTree) * argc);
	for (int i = 1; i < argc; i++)
	{
		const char *name = argv[i];
		int			left = argc - i - 1;

		if (strcmp(name, "--resync") == 0)
			options->resync = true;
		else if (strcmp(name, "--tree") == 0 && left >= 3)
		{
			RctlCopyTree *tree = &options->trees[options->ntrees++];

			tree->oid = (unsigned) number(argv[++i], UINT32_MAX);
			tree->source = argv[++i];
			tree->target = argv[++i];
		}
		else if (left < 1)
			bad_argument(name);
		else if (strcmp(name, "--jobs") == 0)
			options->jobs = (int) number(argv[++i], MAX_JOBS);
		else if (strcmp(name, "--rate") == 0)
			options->rate = number(argv[++i], UINT32_MAX) * 1024;
		else if (strcmp(name, "--verify") == 0)
			options->verify = verify_mode(argv[++i]);
		else if (strcmp(name, "--start") == 0)
			options->start = position(argv[++i]);
		else if (strcmp(name, "--version-directory") == 0)
			options->version_directory = argv[++i];
		else if (strcmp(name, "--status") == 0)
			options->status_path = argv[++i];
#ifdef RCTL_TEST
		else if (strcmp(name, "--without") == 0)
			options->without = argv[++i];
#endif
		else
			bad_argument(name);
	}
	if (options->jobs == 0 || options->ntrees == 0 || options->version_directory == NULL || options->status_path == NULL)
		rctl_copy_fail("22023", 0, "arguments are missing");
}

/* ---------------------------------------------------------------------
 * Reports
 * ---------------------------------------------------------------------
 */

static void
report(void)
{
	char		line[STATUS_LENGTH + 1];

	snprintf(line, sizeof(line), "%s " UINT64_FORMAT " " UINT64_FORMAT "%*s", phase,
			 (uint64) rctl_copy_counters.done, (uint64) rctl_copy_counters.total, STATUS_LENGTH, "");
	line[STATUS_LENGTH - 1] = '\n';
	if (pg_pwrite(status_file, line, STATUS_LENGTH, 0) < 0)
		rctl_copy_fail_errno("write", rctl_copy_options.status_path);
}

static void
summary(void)
{
	const RctlCopyCounters *c = &rctl_copy_counters;
	const struct
	{
		const char *name;
		uint64		value;
	}			lines[] = {
		{"files", c->files}, {"bytes", c->done}, {"bytes_read", c->read},
		{"bytes_written", c->written}, {"bytes_cloned", c->cloned},
		{"bytes_offloaded", c->offloaded}, {"vanished", c->vanished}, {"shrunk", c->shrunk},
		{"left_out", c->left_out}, {"removed", c->removed}, {"bad_blocks", c->bad_blocks},
		{"torn_blocks", c->torn_blocks},
	};

	for (int i = 0; i < lengthof(lines); i++)
		printf("%s " UINT64_FORMAT "\n", lines[i].name, lines[i].value);
	for (int i = 0; i < nnotes; i++)
		printf("note %s\n", notes[i].text);
	if (fflush(stdout) != 0)
		rctl_copy_fail(rctl_copy_sqlstate(errno), errno, "could not write the summary");
}

int
main(int argc, char **argv)
{
	umask(0077);
	read_arguments(argc, argv);
	status_file = open(rctl_copy_options.status_path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (status_file < 0)
		rctl_copy_fail_errno("create", rctl_copy_options.status_path);
	phase = "estimating";
	report();
	rctl_copy_open_targets();
	rctl_copy_count_trees();
	phase = rctl_copy_options.resync ? "comparing" : "copying";
	rctl_copy_run(rctl_copy_walk_trees, report);
	phase = "syncing";
	rctl_copy_run(rctl_copy_sync_trees, report);
	summary();
	return 0;
}
