/*-------------------------------------------------------------------------
 *
 * process.h
 *	  Start a program by argv, in a process group of its own, and wait for it.
 *
 * No shell is ever involved.  The child gets a small environment built from
 * nothing (PATH, HOME, LANG/LC_*, TZ and what the caller adds: never
 * NOTIFY_SOCKET, PGDATA or another PG* variable of this server), no
 * inherited descriptor but 0, 1 and 2, no controlling terminal (so that no
 * program asks a question there), default signal handlers and an empty
 * signal mask.  It is sent SIGTERM by the kernel if this process dies
 * (PR_SET_PDEATHSIG), so that no program outlives a worker that was killed;
 * a daemon that the program itself forks (pg_ctl start) is not affected.
 *
 * A process belongs to the memory context that was current at its start:
 * resetting or deleting that context ends the whole process group (SIGTERM,
 * a short grace, SIGKILL) and reaps it, and so does the exit of this
 * process.  So an error needs no clean-up code.
 *
 * A program that exits may leave others running in its group: that was its
 * will.  If it was ended by a signal, the rest of its group is ended too.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_PROCESS_H
#define REPLICA_CTL_NET_PROCESS_H

#include "lib/stringinfo.h"

#include "net/text.h"

typedef struct RctlProcess RctlProcess;

typedef struct RctlProcessSpec
{
	/* NULL-terminated; argv[0] is an absolute path. */
	const char *const *argv;

	/* More "NAME=value" entries, NULL-terminated; or NULL. */
	const char *const *env;

	/* Written to the child's stdin, which is then closed; NULL: /dev/null. */
	const char *input;

	/*
	 * The child's stdin stays open after the input: until the process is
	 * ended, or this one dies.  heartbeat_ms > 0: an empty line is written to
	 * it so often while the process is waited for, so that the other end of a
	 * connection notices when nobody is there any more.
	 */
	bool		stdin_open;
	long		heartbeat_ms;

	/* stdout and stderr are appended to this file; NULL: captured. */
	const char *output_file;

	/* Working directory; NULL: "/". */
	const char *directory;

	/*
	 * It is not ended when this process dies without a chance to do so, and
	 * can be let go: see rctl_process_release().
	 */
	bool		daemon;
} RctlProcessSpec;

typedef struct RctlProcessResult
{
	bool		exited;			/* else it was ended by a signal */
	int			exit_code;
	int			signal;

	/*
	 * stdout and stderr: at most 64 kB, the last part; valid in the database
	 * encoding; never NULL.
	 */
	char	   *output;
	char	   *errors;
} RctlProcessResult;

/*
 * Called about every interval_ms while a process runs, outside any
 * transaction (it may open and close one of its own).  May ereport(ERROR).
 */
typedef void (*RctlProcessTick) (void *arg);

/* Starts the program.  Raises an error if it cannot be executed (with the errno text). */
extern RctlProcess *rctl_process_start(const RctlProcessSpec *spec);

/*
 * Waits until it has ended, calling tick (may be NULL) about every
 * interval_ms.  timeout_ms <= 0: no bound of its own, the caller's
 * rctl_wait_check (called at least once a second) bounds it.  On timeout ends
 * the process group and raises ERRCODE_QUERY_CANCELED; an error raised by a
 * wait or by tick ends the group as well.  Call it once.  The result is
 * palloc'd in CurrentMemoryContext.
 */
extern RctlProcessResult *rctl_process_wait(RctlProcess *process, long timeout_ms,
											RctlProcessTick tick, long interval_ms, void *arg);

/*
 * For a conversation with a program whose stdin stays open (and that has no
 * heartbeat): all that it writes is kept, for the caller to read and to take
 * out.
 *
 * send: queues text for its stdin; it is written while something waits.
 * listen: waits until there is more of stdout, or for timeout_ms; false if it
 * has ended and there is nothing more to come.
 */
extern void rctl_process_send(RctlProcess *process, const char *text);
extern bool rctl_process_listen(RctlProcess *process, long timeout_ms);
extern StringInfo rctl_process_output(RctlProcess *process);
extern StringInfo rctl_process_errors(RctlProcess *process);

/* Whether it has not ended yet; does not wait. */
extern bool rctl_process_running(RctlProcess *process);

/* Lets a daemon go: from now on it is nobody's, and lives on. */
extern void rctl_process_release(RctlProcess *process);

/*
 * Ends the process group and reaps it; harmless if it has ended.  May take
 * the grace of 2 seconds, without taking interrupts; raises no error.
 */
extern void rctl_process_end(RctlProcess *process);

/* Start and wait. */
extern RctlProcessResult *rctl_process_run(const RctlProcessSpec *spec, long timeout_ms);

/* "exited with code 1" / "was ended by signal 9: Killed", for messages. */
extern const char *rctl_process_describe(const RctlProcessResult *result);

#endif							/* REPLICA_CTL_NET_PROCESS_H */
