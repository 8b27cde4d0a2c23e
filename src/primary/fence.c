/*-------------------------------------------------------------------------
 *
 * fence.c
 *	  The fence: its state in shared memory, and how it is raised and lifted.
 *
 * While the fence is up, no transaction that has written commits.  The two
 * halves of that are
 *
 *	  a process that commits:		 sets its committing mark,
 *									 full memory barrier,
 *									 reads the phase: up? takes the mark back and waits or fails;
 *	  the process that raises it:	 sets the phase to up,
 *									 full memory barrier,
 *									 waits until every mark that it sees has gone.
 *
 * Either the one sees the phase or the other sees the mark, so that a commit
 * is over before the fence counts as up, or does not happen.  A mark stands
 * only from the pre-commit callback to the end of that commit: nobody waits
 * for a transaction that is merely open.  A commit that waits for a
 * synchronous standby has written and flushed its commit record; it is over
 * as far as the fence is concerned, even if that standby is dead.
 *
 * After the marks, a no-op WAL record is inserted and flushed.  Its end is
 * the LSN after which no user transaction has committed, asynchronous ones
 * included.
 *
 * Durable: the file of fence_file.c.  It is written before the phase is set,
 * which keeps its fsyncs out of the time in which nobody can write, and is
 * removed before the phase is cleared.  So a crash between the two comes up
 * fenced in the first case and not fenced in the second, never the other way
 * round.  In memory: all else.
 *
 * A file found at start is obeyed unless it cannot be meant for what this
 * server is now: it was copied from another one, or the server has moved to
 * a later timeline since (it was a standby in between and was promoted).  A
 * server that starts as a standby is read-only as it is; the file is kept, so
 * that taking standby.signal away again does not make a second primary.
 *
 * A fence that was asked for in memory has no file: where a cluster manager
 * decides who is the primary, a server that it starts as one must not be
 * fenced by its past.
 *
 * One process at a time changes the fence (changing_pid).  The lock is never
 * held across a wait or file access.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/syncrep.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "net/wait.h"
#include "primary/fence_internal.h"

#define FENCE_NAME "replica_ctl_fence"

/* How long the one that raises sleeps between two looks, if nobody wakes it. */
#define LOOK_AGAIN_MS 1

FenceShared *rctl_fence_shared = NULL;
static LWLock *fence_lock = NULL;

static int
slots_needed(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

static Size
shmem_size(void)
{
	return add_size(offsetof(FenceShared, slots) + PG_CACHE_LINE_SIZE,
					mul_size(sizeof(FenceSlot), slots_needed()));
}

void
rctl_fence_shmem_request(void)
{
	RequestAddinShmemSpace(shmem_size());
	RequestNamedLWLockTranche(FENCE_NAME, 1);
}

static bool
file_exists(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0;
}

/* The timeline of the last checkpoint: at most one behind the truth, see rctl_fence_verify(). */
static TimeLineID
timeline_at_start(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	TimeLineID	timeline = control->checkPointCopy.ThisTimeLineID;

	pfree(control);
	return timeline;
}

/* Whether a file that was found at start applies; removes one that never will. */
static bool
file_applies(FenceFileStatus status, RctlFenceState *state)
{
	const char *void_because = NULL;

	if (status == FENCE_FILE_ABSENT)
		return false;
	if (status == FENCE_FILE_FOREIGN)
		void_because = "it was copied from another server";
	else if (status == FENCE_FILE_VALID && timeline_at_start() > state->timeline)
		void_because = "this server has moved to a later timeline";
	if (void_because)
	{
		ereport(LOG,
				(errmsg("removing the fence file: %s", void_because)));
		(void) rctl_fence_file_remove(LOG);
		return false;
	}
	if (file_exists(STANDBY_SIGNAL_FILE) || file_exists(RECOVERY_SIGNAL_FILE))
	{
		ereport(LOG,
				(errmsg("the fence does not matter while this server is in recovery")));
		return false;
	}
	if (status == FENCE_FILE_DAMAGED)
	{
		memset(state, 0, sizeof(*state));
		state->phase = RCTL_FENCE_UP;
		state->since = GetCurrentTimestamp();
		strlcpy(state->reason, "the fence file is damaged", sizeof(state->reason));
	}
	return true;
}

/* At server start, before anybody can write. */
static void
load(void)
{
	RctlFenceState *state = &rctl_fence_shared->state;

	if (!file_applies(rctl_fence_file_read(state), state))
	{
		memset(state, 0, sizeof(*state));
		return;
	}
	pg_atomic_init_u32(&rctl_fence_shared->word, state->phase);
	pg_atomic_init_u32(&rctl_fence_shared->unverified, state->timeline != 0);
	if (state->phase == RCTL_FENCE_PROMOTED)
		ereport(LOG,
				(errmsg("this server is fenced: replica \"%s\" was promoted in its place", state->replica),
				 errhint("The new primary is %s.",
						 state->endpoint[0] ? state->endpoint : "at an address that is not known here")));
	else
		ereport(LOG,
				(errmsg("this server is fenced since %s%s%s", timestamptz_to_str(state->since),
						state->reason[0] ? ": " : "", state->reason),
				 errhint("SELECT replica_unfence() lifts the fence.")));
}

void
rctl_fence_shmem_init(void)
{
	bool		found;
	void	   *space = ShmemInitStruct(FENCE_NAME, shmem_size(), &found);

	rctl_fence_shared = (FenceShared *) space;
	fence_lock = &GetNamedLWLockTranche(FENCE_NAME)->lock;
	if (found)
		return;

	memset(rctl_fence_shared, 0, shmem_size());
	pg_atomic_init_u32(&rctl_fence_shared->word, RCTL_FENCE_DOWN);
	pg_atomic_init_u32(&rctl_fence_shared->unverified, 0);
	ConditionVariableInit(&rctl_fence_shared->changed);
	ConditionVariableInit(&rctl_fence_shared->progress);
	rctl_fence_shared->nslots = slots_needed();
	for (int i = 0; i < rctl_fence_shared->nslots; i++)
	{
		FenceSlot  *slot = &rctl_fence_shared->slots[i];

		pg_atomic_init_u32(&slot->committing, 0);
		pg_atomic_init_u32(&slot->held, 0);
		pg_atomic_init_u32(&slot->exempt, 0);
		pg_atomic_init_u32(&slot->apply_worker, 0);
		pg_atomic_init_u32(&slot->two_phase, 0);
	}
	load();
}

bool
rctl_fence_exists(void)
{
	return rctl_fence_shared != NULL;
}

FenceSlot *
rctl_fence_my_slot(void)
{
	Assert(rctl_my_proc_index() < rctl_fence_shared->nslots);
	return &rctl_fence_shared->slots[rctl_my_proc_index()];
}

/* A fence that was found at start may be void, see rctl_fence_verify(). */
static void
verify_if_found(void)
{
	if (pg_atomic_read_u32(&rctl_fence_shared->unverified) && !RecoveryInProgress())
		rctl_fence_verify();
}

bool
rctl_fence_is_up(void)
{
	if (rctl_fence_shared == NULL)
		return false;
	verify_if_found();
	return FENCE_PHASE(pg_atomic_read_u32(&rctl_fence_shared->word)) >= RCTL_FENCE_UP;
}

void
rctl_fence_get(RctlFenceState *state)
{
	memset(state, 0, sizeof(*state));
	if (rctl_fence_shared == NULL)
		return;
	verify_if_found();
	LWLockAcquire(fence_lock, LW_SHARED);
	*state = rctl_fence_shared->state;
	state->phase = FENCE_PHASE(pg_atomic_read_u32(&rctl_fence_shared->word));
	LWLockRelease(fence_lock);
	if (state->phase == RCTL_FENCE_DOWN)
		memset(state, 0, sizeof(*state));	/* it may be about to be raised */
	for (int i = 0; i < rctl_fence_shared->nslots; i++)
		state->held += pg_atomic_read_u32(&rctl_fence_shared->slots[i].held);
}

/* Changes the phase and tells everybody.  With the lock held exclusively. */
static void
set_phase_locked(RctlFencePhase phase)
{
	uint32		word = pg_atomic_read_u32(&rctl_fence_shared->word);

	Assert(LWLockHeldByMeInMode(fence_lock, LW_EXCLUSIVE));
	if (phase == RCTL_FENCE_DOWN)
		memset(&rctl_fence_shared->state, 0, sizeof(RctlFenceState));
	word = (((word >> FENCE_PHASE_BITS) + 1) << FENCE_PHASE_BITS) | phase;
	pg_atomic_write_u32(&rctl_fence_shared->word, word);

	/* Pairs with the barrier between a committer's mark and its look. */
	pg_memory_barrier();
}

static void
set_phase(RctlFencePhase phase)
{
	LWLockAcquire(fence_lock, LW_EXCLUSIVE);
	if (phase != RCTL_FENCE_DOWN)
		rctl_fence_shared->state.since = GetCurrentTimestamp();
	pg_atomic_write_u32(&rctl_fence_shared->unverified, 0);
	set_phase_locked(phase);
	LWLockRelease(fence_lock);
	ConditionVariableBroadcast(&rctl_fence_shared->changed);
}

/*
 * The timeline that the control file names at start can be that of before a
 * promotion, if the server crashed before its first checkpoint as a primary.
 */
void
rctl_fence_verify(void)
{
	bool		lift = false;

	Assert(!RecoveryInProgress());
	LWLockAcquire(fence_lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&rctl_fence_shared->unverified))
	{
		lift = GetWALInsertionTimeLine() > rctl_fence_shared->state.timeline;
		if (lift)
			set_phase_locked(RCTL_FENCE_DOWN);
		pg_atomic_write_u32(&rctl_fence_shared->unverified, 0);
	}
	LWLockRelease(fence_lock);

	if (lift)
	{
		ereport(LOG,
				(errmsg("lifting the fence: this server has moved to a later timeline")));
		(void) rctl_fence_file_remove(LOG);
		ConditionVariableBroadcast(&rctl_fence_shared->changed);
	}
}

/* ---- One process at a time ---- */

/* With the lock held; lets it go if it raises, as no transaction may be there to do it. */
static void
claim_locked(void)
{
	int			pid = rctl_fence_shared->changing_pid;

	if (pid != 0)
	{
		LWLockRelease(fence_lock);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the fence is being changed by process %d", pid),
				 errhint("Try again when that has ended.")));
	}
	rctl_fence_shared->changing_pid = MyProcPid;
}

static void
release(void)
{
	LWLockAcquire(fence_lock, LW_EXCLUSIVE);
	rctl_fence_shared->changing_pid = 0;
	LWLockRelease(fence_lock);
}

static void
release_on_error(int code, Datum arg)
{
	release();
}

static void
fenced_already(int64 owner)
{
	if (owner != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("this server is fenced already"),
				 errdetail("The fence belongs to operation " INT64_FORMAT ".", owner),
				 errhint("Wait for it, or stop it with SELECT replica_cancel(" INT64_FORMAT ").", owner)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("this server is fenced already"),
			 errdetail("It was fenced by hand."),
			 errhint("Lift the fence with SELECT replica_unfence().")));
}

/* For raising: false if the operation's own fence is up already. */
static bool
claim_to_raise(const RctlFenceRequest *request)
{
	RctlFenceState *state = &rctl_fence_shared->state;
	bool		fresh;

	LWLockAcquire(fence_lock, LW_EXCLUSIVE);
	claim_locked();
	fresh = FENCE_PHASE(pg_atomic_read_u32(&rctl_fence_shared->word)) == RCTL_FENCE_DOWN;
	if (!fresh && (request->operation == 0 || request->operation != state->operation))
	{
		int64		owner = state->operation;

		rctl_fence_shared->changing_pid = 0;
		LWLockRelease(fence_lock);
		fenced_already(owner);
	}
	if (fresh)
	{
		memset(state, 0, sizeof(*state));
		state->phase = RCTL_FENCE_UP;
		state->operation = request->operation;
		state->in_memory = request->in_memory;
		state->since = GetCurrentTimestamp();
		state->timeline = GetWALInsertionTimeLine();
		if (request->reason)
			memcpy(state->reason, request->reason,
				   pg_mbcliplen(request->reason, strlen(request->reason), sizeof(state->reason) - 1));
	}
	state->pid = MyProcPid;
	LWLockRelease(fence_lock);
	return fresh;
}

/* For lifting or marking: false if there is no fence, else a copy of its state. */
static bool
claim_to_change(int64 operation, RctlFenceState *copy)
{
	bool		up;

	LWLockAcquire(fence_lock, LW_EXCLUSIVE);
	claim_locked();
	*copy = rctl_fence_shared->state;
	up = FENCE_PHASE(pg_atomic_read_u32(&rctl_fence_shared->word)) != RCTL_FENCE_DOWN;
	if (up && operation != copy->operation)
	{
		rctl_fence_shared->changing_pid = 0;
		LWLockRelease(fence_lock);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the fence does not belong to operation " INT64_FORMAT, operation),
				 errdetail("Its owner is operation " INT64_FORMAT ".", copy->operation)));
	}
	LWLockRelease(fence_lock);
	return up;
}

/* ---- Raise ---- */

static void
undo_raise(int code, Datum fresh)
{
	ConditionVariableCancelSleep();
	if (DatumGetBool(fresh))
	{
		if (!rctl_fence_file_remove(LOG))
			ereport(WARNING,
					(errmsg("this server will come up fenced when it is restarted"),
					 errhint("Lift the fence then with SELECT replica_unfence().")));
		set_phase(RCTL_FENCE_DOWN);
	}
	release();
}

/* Sleeps for a moment, or until a committer says that it is through. */
static void
wait_a_moment(void)
{
	(void) ConditionVariableTimedSleep(&rctl_fence_shared->progress, LOOK_AGAIN_MS, PG_WAIT_EXTENSION);
	CHECK_FOR_INTERRUPTS();
	if (rctl_wait_check)
		rctl_wait_check();
}

static void
require_in_time(TimestampTz deadline, const char *waiting_for)
{
	if (GetCurrentTimestamp() < deadline)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("could not raise the fence in time"),
			 errdetail("It was still waiting for %s.", waiting_for),
			 errhint("Writes go on as before.  Try again, with a longer timeout.")));
}

/*
 * Whether any transaction but ours has an XID.  Autovacuum's and our own
 * workers' are left alone; prepared transactions belong to no process.
 */
static bool
anybody_is_writing(void)
{
	for (int i = 0; i < rctl_fence_shared->nslots; i++)
	{
		volatile PGPROC *proc = GetPGProcByNumber(i);

		if (proc != MyProc && proc->pid != 0 && TransactionIdIsValid(proc->xid) &&
			!(proc->statusFlags & PROC_IS_AUTOVACUUM) &&
			pg_atomic_read_u32(&rctl_fence_shared->slots[i].exempt) == 0)
			return true;
	}
	return false;
}

static void
drain(TimestampTz until)
{
	while (anybody_is_writing() && GetCurrentTimestamp() < until)
		wait_a_moment();
}

/*
 * Whether the process with this index is between its look at the phase and
 * the insertion of its commit record.  syncRepState is set after the record
 * was flushed and cleared before the process can set its mark again, so a
 * mark seen first and a state read after it are of the same commit.
 */
static bool
is_committing(int index)
{
	volatile PGPROC *proc = GetPGProcByNumber(index);

	if (pg_atomic_read_u32(&rctl_fence_shared->slots[index].committing) == 0)
		return false;
	pg_read_barrier();
	return proc->syncRepState == SYNC_REP_NOT_WAITING;
}

static void
wait_for_commits(TimestampTz deadline)
{
	for (int i = 0; i < rctl_fence_shared->nslots; i++)
	{
		while (is_committing(i))
		{
			require_in_time(deadline, psprintf("the commit of process %d", GetPGProcByNumber(i)->pid));
			wait_a_moment();
		}
	}
}

/*
 * Asks workers of subscriptions to restart, which wait then at their first
 * transaction, before they connect to the publisher, for the fence to be
 * lifted (fence_hooks.c).
 */
static void
stop_apply_workers(bool two_phase_only, TimestampTz deadline)
{
	for (int i = 0; i < rctl_fence_shared->nslots; i++)
	{
		FenceSlot  *slot = &rctl_fence_shared->slots[i];
		uint32		pid = pg_atomic_read_u32(&slot->apply_worker);

		if (pid == 0 || (two_phase_only && pg_atomic_read_u32(&slot->two_phase) == 0))
			continue;
		(void) kill((pid_t) pid, SIGTERM);
		while (deadline != 0 && pg_atomic_read_u32(&slot->apply_worker) == pid)
		{
			require_in_time(deadline, psprintf("logical replication worker %u to stop", pid));
			wait_a_moment();
		}
	}
}

/* The end of this record is after every commit that was over when it is called. */
static XLogRecPtr
write_fence_point(void)
{
	char		nothing = 0;
	XLogRecPtr	lsn;

	XLogBeginInsert();
	XLogRegisterData(&nothing, sizeof(nothing));
	lsn = XLogInsert(RM_XLOG_ID, XLOG_NOOP);
	XLogFlush(lsn);
	return lsn;
}

/* With the change claimed; whatever it raises, its caller undoes it. */
static XLogRecPtr
raise_claimed(const RctlFenceRequest *request, bool fresh)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz deadline = TimestampTzPlusMilliseconds(start, request->timeout_ms);
	XLogRecPtr	lsn;

	ConditionVariablePrepareToSleep(&rctl_fence_shared->progress);
	if (fresh)
	{
		/* Nobody else changes it while the change is claimed. */
		if (!request->in_memory)
			rctl_fence_file_write(&rctl_fence_shared->state);
		if (request->drain_ms > 0)
		{
			set_phase(RCTL_FENCE_DRAINING);
			drain(Min(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), request->drain_ms), deadline));
		}
		require_in_time(deadline, "transactions to finish");
		set_phase(RCTL_FENCE_UP);
	}
	wait_for_commits(deadline);

	/* Their COMMIT PREPARED does not pass any hook before it is done. */
	stop_apply_workers(true, deadline);
	ConditionVariableCancelSleep();
	lsn = write_fence_point();

	LWLockAcquire(fence_lock, LW_EXCLUSIVE);
	rctl_fence_shared->state.lsn = lsn;
	start = rctl_fence_shared->state.since;
	LWLockRelease(fence_lock);
	ereport(LOG,
			(errmsg("this server is fenced: no transaction has committed a write after %X/%X", LSN_FORMAT_ARGS(lsn)),
			 errdetail("Commits in flight and the flush took " INT64_FORMAT " us.",
					   fresh ? GetCurrentTimestamp() - start : INT64CONST(0))));
	return lsn;
}

XLogRecPtr
rctl_fence_raise(const RctlFenceRequest *request)
{
	volatile XLogRecPtr lsn;
	bool		fresh;

	Assert(request->timeout_ms > 0);
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot fence a server that is in recovery")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot raise the fence in a transaction that has written"),
				 errdetail("It could not commit any more."),
				 errhint("Commit or roll back first.")));

	fresh = claim_to_raise(request);
	PG_ENSURE_ERROR_CLEANUP(undo_raise, BoolGetDatum(fresh));
	{
		lsn = raise_claimed(request, fresh);
	}
	PG_END_ENSURE_ERROR_CLEANUP(undo_raise, BoolGetDatum(fresh));
	release();
	return lsn;
}

/* ---- Lift and mark ---- */

bool
rctl_fence_lift(int64 operation)
{
	RctlFenceState state;
	volatile bool up;

	if (rctl_fence_shared == NULL)
		return false;
	up = claim_to_change(operation, &state);
	PG_ENSURE_ERROR_CLEANUP(release_on_error, (Datum) 0);
	{
		/* Without a fence too: a standby may have kept the file of its past. */
		(void) rctl_fence_file_remove(ERROR);
		if (up)
		{
			set_phase(RCTL_FENCE_DOWN);
			ereport(LOG,
					(errmsg("the fence was lifted after " INT64_FORMAT " ms",
							(GetCurrentTimestamp() - state.since) / 1000)));
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(release_on_error, (Datum) 0);
	release();
	return up;
}

void
rctl_fence_abandon(int64 operation)
{
	RctlFenceState state;

	rctl_fence_get(&state);
	if (state.phase != RCTL_FENCE_DOWN && state.in_memory && state.operation == operation)
		(void) rctl_fence_lift(operation);
}

/* With the change claimed, which is let go if it raises: tells everybody. */
static RctlFenceState
claim_and_tell(int64 operation, const char *replica, const char *endpoint, TimeLineID timeline, XLogRecPtr lsn)
{
	RctlFenceState state;

	if (!claim_to_change(operation, &state))
	{
		release();
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server is not fenced")));
	}
	state.phase = RCTL_FENCE_PROMOTED;
	strlcpy(state.replica, replica, sizeof(state.replica));
	strlcpy(state.endpoint, endpoint ? endpoint : "", sizeof(state.endpoint));
	state.promoted_timeline = timeline;
	state.promoted_lsn = lsn;

	LWLockAcquire(fence_lock, LW_EXCLUSIVE);
	rctl_fence_shared->state = state;
	set_phase_locked(RCTL_FENCE_PROMOTED);
	LWLockRelease(fence_lock);
	ConditionVariableBroadcast(&rctl_fence_shared->changed);
	return state;
}

/*
 * The file is left as it is: a crash comes up fenced, too, and the operation
 * that owns the fence comes here again.
 */
void
rctl_fence_tell_promoting(int64 operation, const char *replica, const char *endpoint, XLogRecPtr lsn)
{
	(void) claim_and_tell(operation, replica, endpoint, 0, lsn);
	release();
}

void
rctl_fence_mark_promoted(int64 operation, const char *replica, const char *endpoint,
						 TimeLineID timeline, XLogRecPtr lsn)
{
	RctlFenceState state = claim_and_tell(operation, replica, endpoint, timeline, lsn);

	PG_ENSURE_ERROR_CLEANUP(release_on_error, (Datum) 0);
	{
		rctl_fence_file_write(&state);
	}
	PG_END_ENSURE_ERROR_CLEANUP(release_on_error, (Datum) 0);
	release();

	/* The new primary has the same subscriptions, and needs their slots. */
	stop_apply_workers(false, 0);
	ereport(LOG,
			(errmsg("this server stays fenced: replica \"%s\" is the primary from %X/%X on", replica,
					LSN_FORMAT_ARGS(lsn))));
}
