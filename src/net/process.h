/*-------------------------------------------------------------------------
 *
 * process.h
 *	  Start a program by argv, in a process group of its own, and wait for it.
 *
 * No shell is ever involved.  The child gets a small environment built from
 * nothing (PATH, HOME, LANG/LC_*, TZ and what the caller adds: never
 * NOTIFY_SOCKET, PGDATA or another PG* variable of this server), no
 * inherited descriptor but 0, 1 and 2, default signal handlers and an empty
 * signal mask.  It is sent SIGTERM by the kernel if this process dies
 * (PR_SET_PDEATHSIG), so that no program outlives a worker that was killed;
 * a daemon that the program itself forks (pg_ctl start) is not affected.
 *
 * A process belongs to the memory context that was current at its start:
 * resetting or deleting that context ends the whole process group (SIGTERM,
 * a short grace, SIGKILL) and reaps it.  So an error needs no clean-up code.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_PROCESS_H
#define REPLICA_CTL_NET_PROCESS_H

#include "lib/stringinfo.h"

typedef struct RctlProcess RctlProcess;

typedef struct RctlProcessSpec
{
	const char *const *argv;	/* NULL-terminated; argv[0] is an absolute path */
	const char *const *env;		/* more "NAME=value" entries, NULL-terminated; or NULL */
	const char *input;			/* written to the child's stdin, then closed; or NULL = /dev/null */
	const char *output_file;	/* stdout and stderr append to this file instead of being captured; or NULL */
	const char *directory;		/* working directory; or NULL = "/" */
} RctlProcessSpec;

typedef struct RctlProcessResult
{
	bool		exited;			/* true: exit_code is valid; false: ended by signal */
	int			exit_code;
	int			signal;
	char	   *output;			/* stdout, at most 64 kB: the last part of it; never NULL */
	char	   *errors;			/* stderr, likewise; never NULL */
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
 * rctl_wait_check bounds it.  On timeout ends the process group and raises
 * ERRCODE_QUERY_CANCELED.  The result is palloc'd in CurrentMemoryContext.
 */
extern RctlProcessResult *rctl_process_wait(RctlProcess *process, long timeout_ms,
											RctlProcessTick tick, long interval_ms, void *arg);

/* Ends the process group and reaps it; harmless if it has ended. */
extern void rctl_process_end(RctlProcess *process);

/* Start and wait. */
extern RctlProcessResult *rctl_process_run(const RctlProcessSpec *spec, long timeout_ms);

/* "exited with code 1" / "was ended by signal 9: Killed", for messages. */
extern const char *rctl_process_describe(const RctlProcessResult *result);

/* The last lines (at most max_lines, at most 2 kB) of a text, for errdetail. */
extern char *rctl_last_lines(const char *text, int max_lines);

#endif							/* REPLICA_CTL_NET_PROCESS_H */
