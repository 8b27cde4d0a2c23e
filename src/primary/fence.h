/*-------------------------------------------------------------------------
 *
 * fence.h
 *	  The state in which this server lets no transaction commit a write.
 *
 * fence.c has the state and its changes, fence_file.c makes it durable,
 * fence_hooks.c enforces it in every process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_FENCE_H
#define REPLICA_CTL_PRIMARY_FENCE_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#define RCTL_FENCE_REASON_LEN 256
#define RCTL_FENCE_ENDPOINT_LEN 320

typedef enum RctlFencePhase
{
	RCTL_FENCE_DOWN = 0,
	RCTL_FENCE_DRAINING = 1,	/* transactions that have written may finish,
								 * no other may begin to */
	RCTL_FENCE_UP = 2,			/* nothing that has written commits */
	RCTL_FENCE_PROMOTED = 3,	/* the same, and a replica is the primary now */
} RctlFencePhase;

typedef struct RctlFenceRequest
{
	int64		operation;		/* the owner; 0: a session, by hand */
	const char *reason;			/* shown to whoever is stopped; may be NULL */
	long		drain_ms;		/* how long transactions that have written may
								 * take to finish; 0: none */
	long		timeout_ms;		/* for all of it; > 0 */
	bool		in_memory;		/* it ends with the server: something else
								 * keeps this one from being a second primary */
} RctlFenceRequest;

/* A copy of what is known about the fence. */
typedef struct RctlFenceState
{
	RctlFencePhase phase;
	TimestampTz since;			/* when writes stopped, or began to drain */
	int64		operation;		/* the owner; 0: a session, by hand */
	int			pid;			/* who raised it; 0: it was up when the server
								 * started */
	XLogRecPtr	lsn;			/* no user transaction has committed after it;
								 * invalid while it is being raised and after
								 * a restart */
	TimeLineID	timeline;		/* of this server */
	bool		in_memory;		/* there is no file of it */
	int			held;			/* sessions that wait for it to be lifted */
	char		reason[RCTL_FENCE_REASON_LEN];	/* "" = none */

	/* Valid in RCTL_FENCE_PROMOTED. */
	char		replica[NAMEDATALEN];
	char		endpoint[RCTL_FENCE_ENDPOINT_LEN];	/* host:port of the new
													 * primary, for messages;
													 * "" = unknown */
	TimeLineID	promoted_timeline;	/* 0 while it is being promoted */
	XLogRecPtr	promoted_lsn;
} RctlFenceState;

/* For _PG_init, and the shared-memory hooks (init with AddinShmemInitLock held). */
extern void rctl_fence_install_hooks(void);
extern void rctl_fence_shmem_request(void);
extern void rctl_fence_shmem_init(void);

/* Whether the library was preloaded, so that there can be a fence at all. */
extern bool rctl_fence_exists(void);

/* Whether writes are stopped.  One read of shared memory. */
extern bool rctl_fence_is_up(void);

extern void rctl_fence_get(RctlFenceState *state);

/*
 * Raises the fence and returns an LSN, flushed here, after which no user
 * transaction has committed.  Durable when it returns, unless it is asked for
 * in memory.  Undoes itself when it fails, times out or is cancelled.  An operation that finds its own fence up
 * already (after a crash) gets a new LSN, and then an error leaves it up.
 *
 * To be called by a worker with no transaction open, or in a transaction that
 * has not written.  Not transactional.
 */
extern XLogRecPtr rctl_fence_raise(const RctlFenceRequest *request);

/*
 * Lifts the fence that this operation raised, whatever has become of it, and
 * lets held statements go on.  False if there was none.  Raises
 * ERRCODE_OBJECT_IN_USE if it is another one's, or is just being raised.
 */
extern bool rctl_fence_lift(int64 operation);

/*
 * Nobody will come back to this operation's fence: lifts it if it is in memory
 * only.  One that is durable stays, for it has a reason to.
 */
extern void rctl_fence_abandon(int64 operation);

/*
 * To be called when the promotion of the replica cannot be undone any more:
 * held statements fail, and none is held from now on.  In memory only: after
 * a crash this server is fenced as before, and this must be repeated.
 */
extern void rctl_fence_tell_promoting(int64 operation, const char *replica, const char *endpoint, XLogRecPtr lsn);

/*
 * Says the same, and then writes durably that the replica is the primary now.
 * If that raises an error, or this server crashes, it is fenced as before, and
 * this must be repeated; which is always harmless.  Workers of subscriptions
 * are stopped, for the new primary needs their slots.
 */
extern void rctl_fence_mark_promoted(int64 operation, const char *replica, const char *endpoint,
									 TimeLineID timeline, XLogRecPtr lsn);

/*
 * Lets this process write while the fence is up.  For our own background
 * workers and their bookkeeping only; an error in any other process.
 */
extern void rctl_fence_exempt(bool exempt);

/*
 * Between the two, statements of this session may write although the fence is
 * up, and the transaction may commit: for the registry, so that operations can
 * be asked for on a fenced server.  Granted only to a transaction that has
 * written nothing else, and worth nothing once the fence has changed.  An
 * error ends it as rctl_fence_end_pass() does.
 */
extern void rctl_fence_begin_pass(void);
extern void rctl_fence_end_pass(void);

#endif							/* REPLICA_CTL_PRIMARY_FENCE_H */
