/*-------------------------------------------------------------------------
 *
 * store.h
 *	  All SQL on the tables of schema replica_ctl.
 *
 * Nobody else reads or writes them.  Two ways in:
 *
 *	  - a worker brackets its calls with rctl_store_begin() and
 *		rctl_store_commit(): a transaction of its own;
 *	  - a SQL function, in its caller's transaction, with rctl_store_enter()
 *		and rctl_store_leave(): the registry's owner and a safe search_path
 *		between the two.
 *
 * The registry can go: DROP EXTENSION waits for no operation, and the
 * extension can be made anew, with other rows under the same ids, while a
 * worker is busy elsewhere.  So a worker that has loaded its operation holds
 * on to that registry: in every later bracket it is the same one, locked, or
 * an error is raised.
 *
 * A service that is written for workers may be called in a session, too, by
 * replica_explain (rctl_wait_in_transaction): then the first kind of bracket
 * does what the second does, and nothing may be written in it.
 *
 * Every call below needs one of the two to be open.  Strings that are
 * returned are palloc'd in the context that was current before the bracket
 * was opened.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_STORE_H
#define REPLICA_CTL_CORE_STORE_H

#include "core/operation.h"

/* What SIGINT does in this worker: a bracket's end may take it over for a moment. */
extern pqsigfunc rctl_store_sigint;

/* An operation as the engine sees it: what steps see, and what is its own. */
typedef struct RctlOpRow
{
	RctlOp		op;
	RctlOpState state;
	bool		undoing;
	bool		no_return;
	bool		cancel_requested;
	char	   *previous_state; /* of the replica; NULL: it did not exist */
	char	   *sqlstate;		/* of the error that is being undone; or NULL */
	char	   *message;
	char	   *detail;
	char	   *hint;
} RctlOpRow;

/* What became of an error, in words that can be stored. */
typedef struct RctlError
{
	char	   *sqlstate;
	char	   *message;
	char	   *detail;			/* or NULL */
	char	   *hint;			/* or NULL */
} RctlError;

/* The caller's, to be restored. */
typedef struct RctlStoreScope
{
	Oid			userid;
	int			sec_context;
	int			guc_level;
} RctlStoreScope;

extern void rctl_store_begin(void);
extern void rctl_store_commit(void);

/* The same without a flush: a crash within the next moments may lose it. */
extern void rctl_store_commit_unflushed(void);
extern void rctl_store_enter(RctlStoreScope *scope);

/* The same for reading only: it does not open the fence to the transaction. */
extern void rctl_store_enter_read(RctlStoreScope *scope);
extern void rctl_store_leave(RctlStoreScope *scope);

/*
 * Whether the registry of the loaded operation has gone.  _check looks (in a
 * transaction of its own), _lost says what was seen last.
 */
extern bool rctl_store_check_lost(void);
extern bool rctl_store_lost(void);

/* A transaction as by rctl_store_begin(), but one that does without the registry. */
extern void rctl_store_begin_elsewhere(void);

/* Whether the extension exists in this database; needs a transaction only. */
extern bool rctl_store_installed(void);

/* ---- SQL functions ---- */

typedef struct RctlReplicaRow
{
	int64		id;
	char	   *server;
	char	   *state;
	bool		owned;			/* by this server */
} RctlReplicaRow;

/*
 * Inserts a replica in state creating.  A row whose creation failed, with
 * nothing left of it, is replaced.  False if the name is taken.
 */
extern bool rctl_store_add_replica(const char *name, const char *server,
								   const char *options, int64 *id);

/* Finds and locks a replica's row; false if there is none. */
extern bool rctl_store_lock_replica(const char *name, RctlReplicaRow *row);

/* The same without the lock, which would be a write. */
extern bool rctl_store_find_replica(const char *name, RctlReplicaRow *row);

/* The unfinished operation of a replica; 0 if there is none. */
extern int64 rctl_store_unfinished(int64 replica_id);

/*
 * Queues an operation of a replica that has no unfinished one and is locked
 * (or new).  state: the replica's state while it runs; NULL leaves it.  Operations of the replica
 * that need attention are superseded, and a drop inherits what they left.
 */
extern int64 rctl_store_enqueue(RctlOpKind kind, int64 replica_id, const char *replica,
								const char *previous_state, const char *state,
								const char *arguments);

typedef struct RctlOutcome
{
	RctlOpState state;
	char	   *kind;
	char	   *replica;
	char	   *server;			/* NULL: the replica is gone */
	char	   *requested_by;
	bool		no_return;
	RctlError	error;			/* sqlstate NULL: none */
} RctlOutcome;

/*
 * The latest operation of a replica by name; 0 if there never was one.
 * read_only, here and below: with the active snapshot, else with one of the
 * transaction's own.
 */
extern int64 rctl_store_latest(const char *replica, bool read_only);
extern bool rctl_store_outcome(int64 operation, RctlOutcome *outcome, bool read_only);

/*
 * Marks an unfinished operation that no worker has taken up, and ends one that never started.
 * False if it has ended or cannot go back.
 */
extern bool rctl_store_request_cancel(int64 operation);

/* Makes every row this server's own and queues what was parked for it; returns how many rows changed. */
extern int64 rctl_store_claim(void);

/* ---- launcher ---- */

/*
 * Ids (int64 *) of operations that are due, at most limit, oldest first, and
 * the milliseconds until the next one is (-1: none waits).
 */
extern List *rctl_store_due(int limit, const int64 *running, int nrunning, long *next_ms);

/* Parks unfinished operations that belong to another server; returns how many. */
extern int	rctl_store_park_foreign(void);

/* Parks one operation that cannot even be loaded, and settles its replica. */
extern void rctl_store_park(int64 operation, const RctlError *error);

/*
 * A replica of another server's registry that may be this server (takeover.c),
 * and the unfinished operation by which it was to be promoted.
 */
typedef struct RctlPromotion
{
	RctlReplica *self;			/* without a provider */
	char	   *owner_timeline;
	char	   *owner_home;
	int64		operation;		/* 0: none, and the rest is empty */
	RctlOpState state;
	RctlMap    *arguments;
	RctlMap    *scratch;
	char	   *requested_by;
} RctlPromotion;

/* RctlPromotion *: rows with this slot, of this system on an earlier timeline. */
extern List *rctl_store_promotions(const char *slot);

/* It was promoted and is on its own: its operation, if any, has succeeded. */
extern void rctl_store_stand_alone(const RctlPromotion *promotion);

/*
 * The other replicas of the row's owner are this server's; the row itself
 * goes, and the owner becomes a replica with this name and these facts.  The
 * operation goes on at the step that waits for it.
 */
extern void rctl_store_take_over(const RctlPromotion *promotion, const char *owner_name, const char *owner_facts);

/*
 * This server is the primary of a cluster whose members are replicas of each
 * other, and of whose registry a former one was the owner: makes the rows of
 * the cluster's replicas, and their unfinished operations, this server's.
 * Promotions go on at step "promote", with RCTL_HANDED_OVER; drills end.
 * Returns the number of rows.
 */
extern int	rctl_store_adopt_cluster(const char *cluster);

/*
 * The application_name of the row of the cluster that is this server, by the
 * home that it had when it was the primary before, or else by this name (or
 * NULL); NULL if there is none, or if an unfinished promotion of it is about
 * to settle that.
 */
extern char *rctl_store_own_member(const char *cluster, const char *application_name);

/*
 * The row of this member becomes that of the former primary, as fact "leader"
 * tells it, and the member takes that one's place in this fact of all rows.
 * Returns the row as it is then; NULL if there is none.
 */
extern RctlReplica *rctl_store_change_places(const char *cluster, const char *application_name);

/* The name of the cluster whose manager has started this server; NULL: nobody's. */
extern char *rctl_store_managed_cluster(void);

/* ---- monitor ---- */

typedef struct RctlMonitored
{
	RctlReplica *replica;
	RctlMap    *mapping;		/* user mapping of who made the replica */
	Oid			mapping_userid; /* whose mapping that is; InvalidOid:
								 * PUBLIC's, or there is none */
	RctlMap    *server_options;
} RctlMonitored;

/* The settled replicas of this server (RctlMonitored *), oldest first, at most limit. */
extern List *rctl_store_monitored(int limit);

/*
 * Whether the slot is a replica's of this server; sets its name, and whether
 * an operation on it is under way.
 */
extern bool rctl_store_slot_owner(const char *slot, char **replica, bool *busy);

typedef struct RctlSlotOwner
{
	char	   *slot;
	char	   *replica;
	bool		busy;			/* it is being made or dropped */
} RctlSlotOwner;

/* The slots on this server of its replicas in any state, settled or not (RctlSlotOwner *). */
extern List *rctl_store_slot_owners(void);

/* Removes some ended operations and events that are older; true if there may be more. */
extern bool rctl_store_prune(int older_than_seconds);

/* ---- engine ---- */

/* NULL if there is no such row, or it is not queued or running, or not this server's. */
extern RctlOpRow *rctl_store_load(int64 operation);

/* The operation is running; notes how many steps it has.  False if it has ended meanwhile. */
extern bool rctl_store_started(RctlOpRow *row, int steps);

/* The outcome of the step before, and the start of this one; progress is that of the whole, 0 to 1. */
extern void rctl_store_step(RctlOpRow *row, const char *done, const char *step, int number,
							bool no_return, double progress);

/* The last step is done. */
extern void rctl_store_step_done(RctlOpRow *row, const char *step);

/* The attempt at the running step failed. */
extern void rctl_store_step_failed(RctlOpRow *row);
extern void rctl_store_retry(RctlOpRow *row, const RctlError *error, long delay_ms);
extern void rctl_store_undoing(RctlOpRow *row, const RctlError *error);

/* The next attempt at the undo starts. */
extern void rctl_store_undo_attempt(RctlOpRow *row);

/* Ends an operation and settles its replica's row: state NULL deletes the row. */
extern void rctl_store_end(RctlOpRow *row, RctlOpEvent event, const RctlError *error,
						   const char *replica_state, const char *replica_message);

/* op->state, facts and the progress on the board. */
extern void rctl_store_save(RctlOpRow *row);

/* The id of the record; 0 if there was one already. */
extern int64 rctl_store_cleanup_add(RctlOpRow *row, const char *type, const RctlMap *object, bool always);

/* RctlCleanup records, latest first. type NULL: all; only_always: those with the flag. */
extern List *rctl_store_cleanups(RctlOpRow *row, const char *type, bool only_always);
extern void rctl_store_cleanup_forget(int64 cleanup_id);

extern RctlReplica *rctl_store_replica(const char *name);

/* RctlReplica *: those that follow this server directly and have been made, but for one. */
extern List *rctl_store_siblings(int64 except_replica);

/* An unfinished operation other than this one; 0 if there is none. */
extern int64 rctl_store_any_unfinished(int64 except_operation);

/* RctlReplica *: all of this server's, whatever their state, oldest first. */
extern List *rctl_store_own_replicas(void);

/* A name that no replica but this one has: the wanted one, or one made of it. */
extern char *rctl_store_free_name(const char *wanted, int64 except_replica);

/* Whether a standby of this application_name streams from here. */
extern bool rctl_store_streams(const char *application_name);

/* Ends the connections of all standbys of this server. */
extern void rctl_store_end_walsenders(void);

/* How many synchronous standbys are connected here that are none of these replicas. */
extern int	rctl_store_synchronous_without(List *replicas);

/* Slots here that are not of these replicas or ours, as a list for messages; NULL if there are none. */
extern char *rctl_store_foreign_slots(const RctlReplica *replica, List *others);

/* Replicas of this server but one that are not being made, promoted or dropped: a list of RctlReplica. */
extern List *rctl_store_other_replicas(int64 except_replica);

/* ---- replica_explain ---- */

/* An operation that only looks (RctlOp.dry_run), asked for by this session. */
extern RctlOp *rctl_store_dry_run(RctlOpKind kind, RctlReplica *replica, RctlMap *arguments);

/* A replica that does not exist yet, or no more. */
extern RctlReplica *rctl_store_imagine_replica(const char *name, const char *server, RctlMap *options);

/* How long a step took when it succeeded. */
typedef struct RctlStepTime
{
	char	   *step;
	int			runs;
	double		seconds;		/* the median of the latest runs */
} RctlStepTime;

/*
 * A list of RctlStepTime, of operations of these kinds ("{promote,drill}") on
 * replicas of this server, or such as are no longer in the registry.
 */
extern List *rctl_store_step_times(const char *kinds, const char *server);

/* Bytes per second of the latest copies that created replicas; 0: there were none. */
extern double rctl_store_copy_rate(void);

/* Until the end of the transaction nobody else who asks for this lock may take a fact. */
extern void rctl_store_lock_facts(void);
extern bool rctl_store_is_taken(const char *fact, const char *value, int64 except_replica);

/* actor and names may be NULL where they do not apply. */
extern void rctl_store_event(const char *replica, int64 operation, const char *severity,
							 const char *kind, const char *message, const char *detail,
							 const char *actor);

/*
 * The event that an operation was asked for is only written by the session
 * that asks, and sent by the worker that starts on it: a NOTIFY of the
 * session's could wait for ever at its commit, behind somebody else's that
 * waits for a synchronous standby which this very operation may be about.
 */
extern void rctl_store_note_request(const char *replica, int64 operation, const char *severity,
									const char *kind, const char *message, const char *detail, const char *actor);
extern void rctl_store_send_request(int64 operation);

/*
 * The same for what a service tells, at the time when it happened there.
 * Nothing is written if there is an event of that replica and kind already
 * with the same id in its detail.
 */
extern void rctl_store_event_once(const char *replica, TimestampTz at, const char *severity,
								  const char *kind, const char *message, const char *detail);

#endif							/* REPLICA_CTL_CORE_STORE_H */
