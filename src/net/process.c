/*-------------------------------------------------------------------------
 *
 * process.c
 *	  Start a program by argv, in a process group of its own, and wait for it.
 *
 * Life of a process:
 *
 *	  start		fork and exec.  A close-on-exec pipe tells whether the exec
 *				worked: end of file means yes, a ChildFailure means no.
 *	  wait		feeds stdin, drains stdout and stderr, and watches for the
 *				end: by a pidfd where the kernel has it, else by looking.
 *	  end		SIGTERM to the group, a grace, SIGKILL, reap.
 *
 * Invariants:
 *
 *	- Everything about a process is in one RctlProcess, in a memory context
 *	  of its own below the caller's.  Each descriptor it holds is in fds[] and
 *	  counted by fd.c, so that the context's reset callback can undo a start
 *	  that failed half-way as well as a wait that was interrupted.
 *	- Until the leader is reaped its process id, which is also the id of the
 *	  group, cannot be given to anybody else: it is safe to signal.
 *	- Only our own child is ever reaped (never waitpid(-1)).
 *	- Between fork and exec only async-signal-safe functions are called, on
 *	  memory prepared before the fork; the child leaves by exec or _exit.
 *	- SIGCHLD keeps its default action, as it has in every backend.
 *
 * Nothing here is durable or in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "net/process.h"
#include "net/wait.h"

extern char **environ;

#define TAIL_SIZE		(64 * 1024) /* what is kept of an output stream */
#define DRAIN_LIMIT		(1024 * 1024)	/* what is read of one at a time */
#define GRACE_MS		2000	/* for the leader, from SIGTERM to SIGKILL */
#define STRAGGLER_MS	250		/* for the others, once the leader is gone */
#define KILL_MS			5000	/* for the kernel to finish a SIGKILL */
#define CHECK_MS		1000	/* between two calls of rctl_wait_check */
#define NO_PIDFD_MS		20		/* looking for the end without a pidfd */

#define DEFAULT_PATH	"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Our descriptors; those of the child's side are open during the start only. */
typedef enum ProcessFd
{
	FD_INPUT,
	FD_OUTPUT,
	FD_ERRORS,
	FD_EXEC,
	FD_PIDFD,
	FD_CHILD_INPUT,
	FD_CHILD_OUTPUT,
	FD_CHILD_ERRORS,
	FD_CHILD_EXEC,
} ProcessFd;
#define FD_COUNT (FD_CHILD_EXEC + 1)

struct RctlProcess
{
	MemoryContext context;		/* holds this struct and all below it */
	MemoryContextCallback callback;
	dlist_node	node;			/* in live_processes, while it is not reaped */
	char	   *program;		/* argv[0], for messages */
	pid_t		pid;			/* also the process group; 0 before the fork */
	bool		reaped;
	int			status;			/* of waitpid(), once reaped */
	int			fds[FD_COUNT];	/* -1: closed */
	char	   *input;
	size_t		input_length;
	size_t		input_written;
	bool		stdin_open;		/* after the input */
	long		heartbeat_ms;	/* 0: none */
	TimestampTz next_beat;
	StringInfoData output;
	StringInfoData errors;
};

/* All that the child needs between fork and exec. */
typedef struct ChildPlan
{
	const char *const *argv;
	char	  **env;
	const char *directory;
	pid_t		parent;
	bool		daemon;			/* survives the parent */
	int			input;
	int			output;
	int			errors;
	int			exec;
	long		max_fds;		/* where there is no close_range() */
} ChildPlan;

/* What the child reports if it cannot exec. */
typedef enum ChildStage
{
	STAGE_SETUP,
	STAGE_DIRECTORY,
	STAGE_EXEC,
} ChildStage;

typedef struct ChildFailure
{
	ChildStage	stage;
	int			error;
} ChildFailure;

/* Children of this process that are not reaped yet, for its exit. */
static dlist_head live_processes = DLIST_STATIC_INIT(live_processes);

/* ---- descriptors ---- */

static void
close_fd(RctlProcess *process, ProcessFd which)
{
	if (process->fds[which] < 0)
		return;
	close(process->fds[which]);
	ReleaseExternalFD();
	process->fds[which] = -1;
}

/* Counts a descriptor before it is opened. */
static void
reserve_fd(void)
{
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("too many open files to start a program"),
				 errhint("Raise max_files_per_process.")));
}

/* Takes a reserved descriptor over. */
static void
keep_fd(RctlProcess *process, ProcessFd which, int fd, const char *what)
{
	if (fd < 0)
	{
		int			save_errno = errno;

		ReleaseExternalFD();
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open %s for program \"%s\": %m", what, process->program)));
	}
	process->fds[which] = fd;
}

/* Our end does not block; the child's does.  Both close on exec. */
static void
open_pipe(RctlProcess *process, ProcessFd read_end, ProcessFd write_end)
{
	ProcessFd	ours = read_end >= FD_CHILD_INPUT ? write_end : read_end;
	int			ends[2] = {-1, -1};

	reserve_fd();
	if (pipe(ends) < 0)
		ends[0] = -1;
	keep_fd(process, read_end, ends[0], "a pipe");
	ReserveExternalFD();
	keep_fd(process, write_end, ends[1], "a pipe");
	if (fcntl(ends[0], F_SETFD, FD_CLOEXEC) < 0 || fcntl(ends[1], F_SETFD, FD_CLOEXEC) < 0 ||
		fcntl(process->fds[ours], F_SETFL, O_NONBLOCK) < 0)
		elog(ERROR, "could not set up a pipe: %m");
}

static void
open_file(RctlProcess *process, ProcessFd which, const char *path, int flags)
{
	reserve_fd();
	keep_fd(process, which, BasicOpenFilePerm(path, flags | O_CLOEXEC | PG_BINARY, 0600),
			psprintf("file \"%s\"", path));
}

static void
open_streams(RctlProcess *process, const RctlProcessSpec *spec)
{
	if (spec->input || spec->stdin_open)
		open_pipe(process, FD_CHILD_INPUT, FD_INPUT);
	else
		open_file(process, FD_CHILD_INPUT, DEVNULL, O_RDONLY);

	if (spec->output_file)
		open_file(process, FD_CHILD_OUTPUT, spec->output_file, O_WRONLY | O_CREAT | O_APPEND);
	else
	{
		open_pipe(process, FD_OUTPUT, FD_CHILD_OUTPUT);
		open_pipe(process, FD_ERRORS, FD_CHILD_ERRORS);
	}
	open_pipe(process, FD_EXEC, FD_CHILD_EXEC);
}

/* ---- environment ---- */

static bool
same_variable(const char *a, const char *b)
{
	size_t		length = strcspn(a, "=");

	return strncmp(a, b, length + 1) == 0;
}

/* Adds an entry, in place of one of the same name. */
static List *
env_add(List *env, const char *entry)
{
	ListCell   *cell;

	foreach(cell, env)
	{
		if (same_variable(lfirst(cell), entry))
		{
			lfirst(cell) = pstrdup(entry);
			return env;
		}
	}
	return lappend(env, pstrdup(entry));
}

static bool
is_inherited(const char *entry)
{
	return same_variable("PATH=", entry) || same_variable("HOME=", entry) ||
		same_variable("LANG=", entry) || same_variable("TZ=", entry) ||
		strncmp(entry, "LC_", 3) == 0;
}

/*
 * An environment from nothing.  What the service manager and the postmaster
 * told this server about itself must not reach another program, least of all
 * another postmaster.
 */
static char **
build_environment(const char *const *additions)
{
	List	   *env = NIL;
	ListCell   *cell;
	char	  **result;
	struct passwd *user = getenv("HOME") ? NULL : getpwuid(geteuid());
	int			n = 0;

	env = env_add(env, "PATH=" DEFAULT_PATH);
	if (user)
		env = env_add(env, psprintf("HOME=%s", user->pw_dir));
	for (char **entry = environ; *entry; entry++)
		if (is_inherited(*entry))
			env = env_add(env, *entry);
	for (; additions && *additions; additions++)
		env = env_add(env, *additions);

	result = palloc(sizeof(char *) * (list_length(env) + 1));
	foreach(cell, env)
		result[n++] = lfirst(cell);
	result[n] = NULL;
	return result;
}

/* ---- the child, between fork and exec ---- */

static void
child_fail(int fd, ChildStage stage)
{
	ChildFailure failure = {stage, errno};
	ssize_t		ignored = write(fd, &failure, sizeof(failure));

	(void) ignored;
	_exit(127);
}

/* Closes every descriptor from 4 on; the exec pipe is 3 by then. */
static void
child_close_fds(long max_fds)
{
#ifdef SYS_close_range
	if (syscall(SYS_close_range, 4U, ~0U, 0U) == 0)
		return;
#endif
	for (int fd = 4; fd < max_fds; fd++)
		close(fd);
}

/*
 * Turns the forked copy of this backend into the program.  Comes with all
 * signals blocked, so that none of the backend's handlers runs here: they
 * would act on the backend's latch and locks.
 */
static void
child_main(const ChildPlan *plan)
{
	struct sigaction action = {.sa_handler = SIG_DFL};
	sigset_t	none;
	int			exec = plan->exec;

	/* A session of its own is also a process group without a terminal. */
	if (setsid() < 0)
		child_fail(exec, STAGE_SETUP);

#ifdef PR_SET_PDEATHSIG
	if (!plan->daemon && prctl(PR_SET_PDEATHSIG, SIGTERM) < 0)
		child_fail(exec, STAGE_SETUP);
#endif
	/* The parent may have died before it was asked for. */
	if (getppid() != plan->parent)
		_exit(127);

	if (dup2(plan->input, 0) < 0 || dup2(plan->output, 1) < 0 || dup2(plan->errors, 2) < 0)
		child_fail(exec, STAGE_SETUP);
	if (exec != 3)
	{
		if (dup2(exec, 3) < 0 || fcntl(3, F_SETFD, FD_CLOEXEC) < 0)
			child_fail(exec, STAGE_SETUP);
		exec = 3;
	}
	child_close_fds(plan->max_fds);

	if (chdir(plan->directory) < 0)
		child_fail(exec, STAGE_DIRECTORY);

	/* An ignored signal would stay ignored (SIGPIPE), a blocked one blocked. */
	for (int sig = 1; sig < NSIG; sig++)
		(void) sigaction(sig, &action, NULL);
	sigemptyset(&none);
	(void) sigprocmask(SIG_SETMASK, &none, NULL);

	execve(plan->argv[0], unconstify(char *const *, plan->argv), plan->env);
	child_fail(exec, STAGE_EXEC);
}

/* ---- end ---- */

/* Reaps the leader if it has ended. */
static bool
try_reap(RctlProcess *process)
{
	pid_t		pid;

	if (process->reaped)
		return true;
	pid = waitpid(process->pid, &process->status, WNOHANG);
	if (pid == 0 || (pid < 0 && errno == EINTR))
		return false;

	/* Its status is lost if somebody made this process ignore SIGCHLD. */
	if (pid < 0)
		process->status = W_EXITCODE(127, 0);
	process->reaped = true;
	dlist_delete(&process->node);
	return true;
}

static void
signal_group(RctlProcess *process, int sig)
{
	(void) kill(-process->pid, sig);

	/* It may not have come to its setsid() yet. */
	if (!process->reaped)
		(void) kill(process->pid, sig);
}

/*
 * Waits until the leader has ended, or if whole_group all others, too; false
 * if they have not in time.  Runs in callbacks: no interrupts, no errors.
 * While a group has members its id is not given to another one, so that it
 * can still be asked for after the leader was reaped.
 */
static bool
await_end(RctlProcess *process, bool whole_group, long timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	long		nap_ms = 1;

	for (;;)
	{
		if (try_reap(process) && (!whole_group || (kill(-process->pid, 0) < 0 && errno == ESRCH)))
			return true;
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), timeout_ms))
			return false;
		if (WaitLatch(NULL, WL_TIMEOUT | WL_POSTMASTER_DEATH, nap_ms,
					  PG_WAIT_EXTENSION) & WL_POSTMASTER_DEATH)
			return false;		/* no time for politeness */
		nap_ms = Min(nap_ms * 2, 20);
	}
}

/*
 * The others get less time than the leader: they have had as long as it took,
 * and those that are dead count as members until init has reaped them, which
 * the first process of a container may never do.
 */
static void
end_group(RctlProcess *process)
{
	signal_group(process, SIGTERM);
	if (await_end(process, false, GRACE_MS) && await_end(process, true, STRAGGLER_MS))
		return;
	signal_group(process, SIGKILL);
	(void) await_end(process, false, KILL_MS);
}

void
rctl_process_end(RctlProcess *process)
{
	if (process->pid > 0 && !process->reaped)
		end_group(process);
	for (int which = 0; which < FD_COUNT; which++)
		close_fd(process, which);
	if (process->input)
	{
		/* It may have been a secret. */
		explicit_bzero(process->input, process->input_length);
		process->input_length = process->input_written = 0;
	}
}

bool
rctl_process_running(RctlProcess *process)
{
	return !try_reap(process);
}

void
rctl_process_release(RctlProcess *process)
{
	if (!process->reaped)
		dlist_delete(&process->node);
	process->pid = 0;
	rctl_process_end(process);
}

static void
process_context_callback(void *arg)
{
	RctlProcess *process = arg;

	rctl_process_end(process);

	/* Not even SIGKILL ended it in time: the struct goes nevertheless. */
	if (process->pid > 0 && !process->reaped)
		dlist_delete(&process->node);
}

/* Memory contexts are not reset when this process exits (FATAL, SIGTERM). */
static void
end_all_at_exit(int code, Datum arg)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &live_processes)
		rctl_process_end(dlist_container(RctlProcess, node, iter.cur));
}

/* ---- start ---- */

static RctlProcess *
make_process(const RctlProcessSpec *spec)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl process",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	RctlProcess *process = palloc0(sizeof(RctlProcess));

	process->context = context;
	process->program = pstrdup(spec->argv[0]);
	for (int which = 0; which < FD_COUNT; which++)
		process->fds[which] = -1;
	initStringInfo(&process->output);
	initStringInfo(&process->errors);
	if (spec->input)
	{
		process->input = pstrdup(spec->input);
		process->input_length = strlen(spec->input);
	}
	process->stdin_open = spec->stdin_open;
	process->heartbeat_ms = spec->heartbeat_ms;
	process->callback.func = process_context_callback;
	process->callback.arg = process;
	MemoryContextRegisterResetCallback(context, &process->callback);
	MemoryContextSwitchTo(old_context);
	return process;
}

static void
fork_process_group(RctlProcess *process, ChildPlan *plan)
{
	sigset_t	all;
	sigset_t	old;
	pid_t		pid;
	int			save_errno;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (pid == 0)
		child_main(plan);
	save_errno = errno;
	if (pid > 0)
	{
		process->pid = pid;
		dlist_push_tail(&live_processes, &process->node);
	}
	sigprocmask(SIG_SETMASK, &old, NULL);

	errno = save_errno;
	if (pid < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not fork a process for program \"%s\": %m", process->program)));
}

/* Waits for the exec; raises an error if it failed. */
static void
await_exec(RctlProcess *process, const char *directory)
{
	ChildFailure failure;
	ssize_t		size;

	for (;;)
	{
		size = read(process->fds[FD_EXEC], &failure, sizeof(failure));
		if (size >= 0)
			break;
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			(void) rctl_wait(process->fds[FD_EXEC], WL_SOCKET_READABLE, CHECK_MS);
		else if (errno != EINTR)
			elog(ERROR, "could not read from the exec pipe: %m");
	}
	close_fd(process, FD_EXEC);
	if (size == 0)
		return;

	rctl_process_end(process);
	errno = size == sizeof(failure) ? failure.error : EPROTO;
	if (size == sizeof(failure) && failure.stage == STAGE_DIRECTORY)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not change to directory \"%s\" for program \"%s\": %m",
						directory, process->program)));
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not execute program \"%s\": %m", process->program)));
}

RctlProcess *
rctl_process_start(const RctlProcessSpec *spec)
{
	static bool exit_registered = false;
	MemoryContext old_context;
	RctlProcess *process;
	ChildPlan	plan;

	if (!is_absolute_path(spec->argv[0]))
		elog(ERROR, "program \"%s\" is not given by an absolute path", spec->argv[0]);
	if (!exit_registered)
	{
		before_shmem_exit(end_all_at_exit, 0);
		exit_registered = true;
	}

	process = make_process(spec);
	old_context = MemoryContextSwitchTo(process->context);
	open_streams(process, spec);
	plan.argv = spec->argv;
	plan.env = build_environment(spec->env);
	plan.directory = spec->directory ? spec->directory : "/";
	plan.parent = getpid();
	plan.daemon = spec->daemon;
	plan.input = process->fds[FD_CHILD_INPUT];
	plan.output = process->fds[FD_CHILD_OUTPUT];
	plan.errors = process->fds[spec->output_file ? FD_CHILD_OUTPUT : FD_CHILD_ERRORS];
	plan.exec = process->fds[FD_CHILD_EXEC];
	plan.max_fds = sysconf(_SC_OPEN_MAX);
	if (plan.max_fds < 0)
		plan.max_fds = 65536;

	MemoryContextSwitchTo(old_context);

	fork_process_group(process, &plan);
	for (int which = FD_CHILD_INPUT; which < FD_COUNT; which++)
		close_fd(process, which);
	await_exec(process, plan.directory);

#ifdef SYS_pidfd_open
	if (AcquireExternalFD())
	{
		process->fds[FD_PIDFD] = syscall(SYS_pidfd_open, process->pid, 0);
		if (process->fds[FD_PIDFD] < 0)
			ReleaseExternalFD();
	}
#endif
	return process;
}

/* ---- wait ---- */

/* Writes what the pipe takes. */
static void
feed_input(RctlProcess *process)
{
	while (process->input_written < process->input_length)
	{
		ssize_t		size = write(process->fds[FD_INPUT], process->input + process->input_written,
								 process->input_length - process->input_written);

		if (size > 0)
			process->input_written += size;
		else if (size < 0 && errno == EINTR)
			continue;
		else if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		else
		{
			close_fd(process, FD_INPUT);	/* EPIPE: it does not want to read
											 * more */
			break;
		}
	}
	if (!process->stdin_open)
		close_fd(process, FD_INPUT);
	if (process->input)
		explicit_bzero(process->input, process->input_length);
	process->input_length = process->input_written = 0;
}

/* Queues text for its stdin. */
static void
add_input(RctlProcess *process, const char *text)
{
	size_t		left = process->input_length - process->input_written;
	size_t		added = strlen(text);
	char	   *input;

	if (process->fds[FD_INPUT] < 0)
		return;
	input = MemoryContextAllocHuge(process->context, left + added + 1);
	if (left > 0)
		memcpy(input, process->input + process->input_written, left);
	memcpy(input + left, text, added + 1);
	if (process->input)
	{
		explicit_bzero(process->input, process->input_length);
		pfree(process->input);
	}
	process->input = input;
	process->input_length = left + added;
	process->input_written = 0;
}

/* A line from time to time, but never a second one before the first was taken. */
static void
beat(RctlProcess *process)
{
	TimestampTz now;

	if (process->heartbeat_ms <= 0)
		return;
	now = GetCurrentTimestamp();
	if (now < process->next_beat)
		return;
	process->next_beat = TimestampTzPlusMilliseconds(now, process->heartbeat_ms);
	if (process->input_written == process->input_length)
		add_input(process, "\n");
}

/* Whether its output is taken out by the caller. */
static bool
in_conversation(const RctlProcess *process)
{
	return process->stdin_open && process->heartbeat_ms == 0;
}

/* Reads what there is, within a limit; closes at the end of the file. */
static void
drain(RctlProcess *process, ProcessFd which)
{
	StringInfo	tail = which == FD_OUTPUT ? &process->output : &process->errors;
	size_t		total = 0;

	while (process->fds[which] >= 0 && total < DRAIN_LIMIT)
	{
		char		buffer[8192];
		ssize_t		size = read(process->fds[which], buffer, sizeof(buffer));

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (size <= 0)
		{
			close_fd(process, which);
			return;
		}
		total += size;
		appendBinaryStringInfo(tail, buffer, size);

		/* Twice the tail is kept, so that it is moved once in a while only. */
		if (tail->len > 2 * TAIL_SIZE && !in_conversation(process))
		{
			memmove(tail->data, tail->data + tail->len - TAIL_SIZE, TAIL_SIZE);
			tail->len = TAIL_SIZE;
			tail->data[tail->len] = '\0';
		}
	}
}

static void
wait_once(RctlProcess *process, long timeout_ms)
{
	RctlWaitSocket sockets[] = {
		{process->fds[FD_INPUT], 0},
		{process->fds[FD_OUTPUT], WL_SOCKET_READABLE},
		{process->fds[FD_ERRORS], WL_SOCKET_READABLE},
		{process->fds[FD_PIDFD], WL_SOCKET_READABLE},
	};

	beat(process);
	if (!process->stdin_open || process->input_written < process->input_length)
		sockets[0].events = WL_SOCKET_WRITEABLE;
	timeout_ms = Min(timeout_ms, process->fds[FD_PIDFD] < 0 ? NO_PIDFD_MS : CHECK_MS);
	(void) rctl_wait_many(sockets, lengthof(sockets), timeout_ms);
	if (sockets[0].ready)
		feed_input(process);
	if (sockets[1].ready)
		drain(process, FD_OUTPUT);
	if (sockets[2].ready)
		drain(process, FD_ERRORS);
}

static char *
tail_text(StringInfo tail)
{
	int			skip = Max(tail->len - TAIL_SIZE, 0);

	return rctl_valid_text(tail->data + skip, tail->len - skip);
}

static void
raise_timeout(RctlProcess *process, long timeout_ms)
{
	char	   *last = rctl_last_lines(tail_text(&process->errors), 10);

	rctl_process_end(process);
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("program \"%s\" did not end within %ld ms", process->program, timeout_ms),
			 *last ? errdetail("Its last messages were: %s", last) : 0));
}

void
rctl_process_send(RctlProcess *process, const char *text)
{
	add_input(process, text);
	if (process->fds[FD_INPUT] >= 0)
		feed_input(process);
}

bool
rctl_process_listen(RctlProcess *process, long timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	int			had = process->output.len;

	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (try_reap(process))
		{
			drain(process, FD_OUTPUT);
			drain(process, FD_ERRORS);
			return process->output.len > had;
		}
		if (process->output.len > had || left <= 0)
			return true;
		wait_once(process, left);
	}
}

StringInfo
rctl_process_output(RctlProcess *process)
{
	return &process->output;
}

StringInfo
rctl_process_errors(RctlProcess *process)
{
	return &process->errors;
}

/* Until the leader has ended and is reaped, or an error is raised. */
static void
wait_until_end(RctlProcess *process, long timeout_ms,
			   RctlProcessTick tick, long interval_ms, void *arg)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz deadline = TimestampTzPlusMilliseconds(start, timeout_ms);
	TimestampTz next_tick = TimestampTzPlusMilliseconds(start, interval_ms);

	while (!try_reap(process))
	{
		TimestampTz now = GetCurrentTimestamp();
		long		wait_ms = CHECK_MS;

		if (timeout_ms > 0)
		{
			if (now >= deadline)
				raise_timeout(process, timeout_ms);
			wait_ms = Min(wait_ms, TimestampDifferenceMilliseconds(now, deadline));
		}
		if (tick)
		{
			if (now >= next_tick)
			{
				tick(arg);
				next_tick = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), interval_ms);
				continue;
			}
			wait_ms = Min(wait_ms, TimestampDifferenceMilliseconds(now, next_tick));
		}
		wait_once(process, wait_ms);
	}
}

RctlProcessResult *
rctl_process_wait(RctlProcess *process, long timeout_ms,
				  RctlProcessTick tick, long interval_ms, void *arg)
{
	RctlProcessResult *result = palloc0(sizeof(RctlProcessResult));

	PG_TRY();
	{
		wait_until_end(process, timeout_ms, tick, interval_ms, arg);
	}
	PG_CATCH();
	{
		rctl_process_end(process);
		PG_RE_THROW();
	}
	PG_END_TRY();

	/*
	 * All that it wrote is in the pipes by now.  They need not be at their
	 * end: a daemon that it left behind may have inherited them.
	 */
	drain(process, FD_OUTPUT);
	drain(process, FD_ERRORS);

	result->exited = WIFEXITED(process->status);
	if (result->exited)
		result->exit_code = WEXITSTATUS(process->status);
	else
	{
		result->signal = WTERMSIG(process->status);
		end_group(process);
	}
	result->output = tail_text(&process->output);
	result->errors = tail_text(&process->errors);
	rctl_process_end(process);
	return result;
}

RctlProcessResult *
rctl_process_run(const RctlProcessSpec *spec, long timeout_ms)
{
	RctlProcess *process = rctl_process_start(spec);
	RctlProcessResult *result = rctl_process_wait(process, timeout_ms, NULL, 0, NULL);

	MemoryContextDelete(process->context);
	return result;
}

const char *
rctl_process_describe(const RctlProcessResult *result)
{
	if (result->exited)
		return psprintf("exited with code %d", result->exit_code);
	return psprintf("was ended by signal %d: %s", result->signal, pg_strsignal(result->signal));
}
