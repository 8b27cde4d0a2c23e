/*-------------------------------------------------------------------------
 *
 * preflight.h
 *	  What stands in the way of an operation, and how long it would take.
 *
 * One list of checks serves two callers: replica_explain() shows what each
 * has found, in a session; the first step of a promotion raises the first
 * blocked one as an error, in an operation worker.
 *
 *	  preflight.c	asks this server and the replica; the checks of all kinds
 *					but promotions; the two entry points
 *	  readiness.c	checks that a replica can take this server's place
 *	  forecast.c	the steps of the plan, with seconds and predicted loss
 *
 * A check only looks.  Nothing here is durable or in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_PREFLIGHT_H
#define REPLICA_CTL_CORE_PREFLIGHT_H

#include "core/store.h"

typedef enum RctlVerdict
{
	RCTL_VERDICT_OK,
	RCTL_VERDICT_WARNING,
	RCTL_VERDICT_BLOCKED,
} RctlVerdict;

#define RCTL_SECONDS_UNKNOWN (-1.0)

/* What a check has found, or what a step is expected to do. */
typedef struct RctlFinding
{
	int			step;			/* number of the step; 0: of the whole */
	const char *name;
	RctlVerdict verdict;
	double		seconds;		/* that it will take; or RCTL_SECONDS_UNKNOWN */
	char	   *message;		/* in the style of an error's message */
	char	   *detail;			/* in that of its detail; or NULL */
	char	   *hint;			/* or NULL */
	int			sqlerrcode;		/* of the error that a blocked one becomes */
} RctlFinding;

/*
 * In a session, in its transaction: everything about an operation that does
 * not exist (op is a dry run): a list of RctlFinding, checks first, then the
 * steps, then the sums.  Bounded in time, and it can be cancelled.  op NULL:
 * name is not that of a replica that could be asked about.
 */
extern List *rctl_preflight_explain(RctlOp *op, const RctlReplicaRow *row, int64 unfinished);

/* The one finding about a replica that is not in the registry. */
extern List *rctl_preflight_unknown(const char *name);

/*
 * In a step, with no transaction open: raises the first blocked check as an
 * error; else writes the warnings, if there are any, as one event.  Waits for
 * a replica that may be reconnecting after a restart of this server.
 */
extern void rctl_preflight_require(RctlOp *op);

/* ---- between preflight.c, readiness.c and forecast.c ---- */

/* One look: what was asked, what was answered, what was found. */
typedef struct RctlPreflight
{
	RctlOp	   *op;
	const char *name;			/* of the replica, quoted for SQL */
	bool		forced;			/* promote without waiting */
	bool		follows;		/* this server becomes a standby afterwards */
	bool		elsewhere;		/* the source is another server, and a service
								 * promotes */
	int			step;			/* whose checks are being made */
	List	   *findings;		/* of RctlFinding */
	MemoryContext connections;	/* reset when the replica was asked, or an
								 * error was caught */

	/* Answers, by the names of the columns in preflight.c; NULL: none. */
	RctlMap    *ours;
	RctlMap    *theirs;
	List	   *siblings;		/* of RctlReplica */

	bool		free_known;
	uint64		free_bytes;		/* where the replica's data are */

	/* For the forecast. */
	uint64		lag_bytes;		/* that the replica has not replayed */
	uint64		lost_bytes;		/* that it has not received */
	double		replay_rate;	/* bytes per second; 0: not measured */
	double		apply_delay;	/* seconds */
	int			writers;		/* sessions with writes that are not committed */
	uint64		data_bytes;		/* size of this server's data; 0: not asked */
} RctlPreflight;

/* Each adds a finding; text is palloc'd or constant, detail and hint may be NULL. */
extern void rctl_found_ok(RctlPreflight *p, const char *name, const char *message);
extern void rctl_found_warning(RctlPreflight *p, const char *name, const char *message,
							   const char *detail, const char *hint);
extern void rctl_found_blocked(RctlPreflight *p, const char *name, int sqlerrcode,
							   const char *message, const char *detail, const char *hint);

/* "12 MB", "3 bytes" */
extern char *rctl_size_text(uint64 bytes);

/* readiness.c */
extern void rctl_readiness_checks(RctlPreflight *p);
extern void rctl_check_fence(RctlPreflight *p, const char *name);

/* forecast.c: adds the steps and the sums to the findings */
extern void rctl_forecast(RctlPreflight *p);

#endif							/* REPLICA_CTL_CORE_PREFLIGHT_H */
