/*-------------------------------------------------------------------------
 *
 * board.c
 *	  The board in shared memory: which operations run now, and how far.
 *
 * Lock rules stand at each field.  The lock is held for a few instructions
 * only, never across a wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "core/board.h"
#include "settings.h"

#define BOARD_NAME "replica_ctl_board"

/* Sessions beyond this many that wait at the same time are not known as watchers. */
#define MAX_WATCHERS 32

typedef struct BoardSlot
{
	RctlBoardEntry entry;		/* lock; operation 0 = free */
	pg_atomic_uint32 cancel;	/* set by anybody under the lock, read without */
	double		base;			/* lock */
	double		share;			/* lock */
	TimestampTz measured_at;	/* lock; when bytes_done was last used for the
								 * rate */
	uint64		measured_bytes; /* lock */
} BoardSlot;

typedef struct Board
{
	pg_atomic_uint64 changes;	/* lock-free; counted before changed is
								 * broadcast */
	ConditionVariable changed;	/* own lock */
	int			launcher_pid;	/* lock; 0 = none */
	int			monitor_pid;	/* lock; 0 = none */
	int			watchers[MAX_WATCHERS]; /* lock; pids, 0 = free */
	int			nslots;			/* constant after start */
	BoardSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} Board;

static Board *board = NULL;
static LWLock *board_lock = NULL;
static int	my_slot = -1;

Size
rctl_board_shmem_size(void)
{
	return offsetof(Board, slots) + sizeof(BoardSlot) * rctl_max_operations;
}

void
rctl_board_shmem_request(void)
{
	RequestAddinShmemSpace(rctl_board_shmem_size());
	RequestNamedLWLockTranche(BOARD_NAME, 1);
}

void
rctl_board_shmem_init(void)
{
	bool		found;

	board = ShmemInitStruct(BOARD_NAME, rctl_board_shmem_size(), &found);
	if (!found)
	{
		memset(board, 0, rctl_board_shmem_size());
		pg_atomic_init_u64(&board->changes, 0);
		ConditionVariableInit(&board->changed);
		board->nslots = rctl_max_operations;
		for (int i = 0; i < board->nslots; i++)
			pg_atomic_init_u32(&board->slots[i].cancel, 0);
	}
	board_lock = &GetNamedLWLockTranche(BOARD_NAME)->lock;
}

bool
rctl_board_exists(void)
{
	return board != NULL;
}

/* Sets the latch of a process by pid; harmless if it has gone. */
static void
wake_pid(int pid)
{
	PGPROC	   *proc = pid != 0 ? BackendPidGetProc(pid) : NULL;

	if (proc)
		SetLatch(&proc->procLatch);
}

static void
leave_launcher(int code, Datum arg)
{
	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	if (board->launcher_pid == MyProcPid)
		board->launcher_pid = 0;
	LWLockRelease(board_lock);
}

void
rctl_board_enter_launcher(void)
{
	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	board->launcher_pid = MyProcPid;
	for (int i = 0; i < board->nslots; i++)
	{
		if (board->slots[i].entry.pid == 0)
			board->slots[i].entry.operation = 0;
	}
	LWLockRelease(board_lock);
	before_shmem_exit(leave_launcher, (Datum) 0);
}

static void
leave_monitor(int code, Datum arg)
{
	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	if (board->monitor_pid == MyProcPid)
		board->monitor_pid = 0;
	LWLockRelease(board_lock);
}

void
rctl_board_enter_monitor(void)
{
	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	board->monitor_pid = MyProcPid;
	LWLockRelease(board_lock);
	before_shmem_exit(leave_monitor, (Datum) 0);
}

uint64
rctl_board_changes(void)
{
	return pg_atomic_read_u64(&board->changes);
}

void
rctl_board_wake_launcher(void)
{
	int			pid;

	LWLockAcquire(board_lock, LW_SHARED);
	pid = board->launcher_pid;
	LWLockRelease(board_lock);
	wake_pid(pid);
}

int
rctl_board_reserve(int64 operation)
{
	int			slot = -1;

	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	for (int i = 0; i < board->nslots; i++)
	{
		if (board->slots[i].entry.operation == operation)
		{
			slot = -1;
			break;
		}
		if (board->slots[i].entry.operation == 0 && slot < 0)
			slot = i;
	}
	if (slot >= 0)
	{
		memset(&board->slots[slot].entry, 0, sizeof(RctlBoardEntry));
		board->slots[slot].entry.operation = operation;
		board->slots[slot].base = board->slots[slot].share = 0;
		board->slots[slot].measured_at = 0;
		pg_atomic_write_u32(&board->slots[slot].cancel, 0);
	}
	LWLockRelease(board_lock);
	return slot;
}

void
rctl_board_unreserve(int slot, int64 operation)
{
	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	if (board->slots[slot].entry.operation == operation && board->slots[slot].entry.pid == 0)
		board->slots[slot].entry.operation = 0;
	LWLockRelease(board_lock);
}

int
rctl_board_free_slots(void)
{
	int			count = 0;

	LWLockAcquire(board_lock, LW_SHARED);
	for (int i = 0; i < board->nslots; i++)
		count += board->slots[i].entry.operation == 0;
	LWLockRelease(board_lock);
	return count;
}

static void
leave_worker(int code, Datum arg)
{
	if (my_slot < 0)
		return;
	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	memset(&board->slots[my_slot].entry, 0, sizeof(RctlBoardEntry));
	LWLockRelease(board_lock);
	my_slot = -1;
	rctl_board_wake_launcher();
	rctl_board_changed();
}

bool
rctl_board_enter_worker(int slot, int64 operation)
{
	bool		mine;

	if (slot < 0 || slot >= board->nslots)
		return false;
	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	mine = board->slots[slot].entry.operation == operation &&
		board->slots[slot].entry.pid == 0;
	if (mine)
		board->slots[slot].entry.pid = MyProcPid;
	LWLockRelease(board_lock);
	if (mine)
	{
		my_slot = slot;
		before_shmem_exit(leave_worker, (Datum) 0);
	}
	return mine;
}

bool
rctl_board_cancelled(void)
{
	return my_slot >= 0 && pg_atomic_read_u32(&board->slots[my_slot].cancel) != 0;
}

void
rctl_board_cancel_self(void)
{
	if (my_slot >= 0)
		pg_atomic_write_u32(&board->slots[my_slot].cancel, 1);
	SetLatch(MyLatch);
}

bool
rctl_board_retire(void)
{
	bool		cancelled;

	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	cancelled = rctl_board_cancelled();
	if (!cancelled)
	{
		memset(&board->slots[my_slot].entry, 0, sizeof(RctlBoardEntry));
		my_slot = -1;
	}
	LWLockRelease(board_lock);
	if (!cancelled)
		rctl_board_wake_launcher();
	return !cancelled;
}

bool
rctl_board_cancel(int64 operation)
{
	int			pid = 0;

	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	for (int i = 0; i < board->nslots; i++)
	{
		if (board->slots[i].entry.operation == operation)
		{
			pg_atomic_write_u32(&board->slots[i].cancel, 1);
			pid = board->slots[i].entry.pid;
			break;
		}
	}
	LWLockRelease(board_lock);
	wake_pid(pid);
	return pid != 0;
}

void
rctl_board_step(double base, double share)
{
	BoardSlot  *slot = &board->slots[my_slot];

	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	slot->base = base;
	slot->share = share;
	slot->entry.progress = base;
	slot->entry.phase[0] = '\0';
	slot->entry.bytes_per_second = 0;
	slot->measured_at = 0;
	LWLockRelease(board_lock);
}

/*
 * The rate is measured over at least half a second and smoothed, so that the
 * ETA does not jump.
 */
static void
measure_rate(BoardSlot *slot, uint64 bytes_done)
{
	TimestampTz now = GetCurrentTimestamp();
	double		seconds;
	double		rate;

	if (slot->measured_at == 0 || bytes_done < slot->measured_bytes)
	{
		slot->measured_at = now;
		slot->measured_bytes = bytes_done;
		return;
	}
	seconds = (now - slot->measured_at) / 1000000.0;
	if (seconds < 0.5)
		return;
	rate = (bytes_done - slot->measured_bytes) / seconds;
	slot->entry.bytes_per_second = slot->entry.bytes_per_second == 0 ? rate :
		0.7 * slot->entry.bytes_per_second + 0.3 * rate;
	slot->measured_at = now;
	slot->measured_bytes = bytes_done;
}

void
rctl_board_progress(const char *phase, uint64 bytes_done, uint64 bytes_total)
{
	BoardSlot  *slot = &board->slots[my_slot];
	double		part;

	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	strlcpy(slot->entry.phase, phase, RCTL_PHASE_LEN);
	if (bytes_done > 0 || bytes_total > 0)
	{
		slot->entry.bytes_done = bytes_done;
		slot->entry.bytes_total = bytes_total;
		measure_rate(slot, bytes_done);
		part = bytes_total > 0 ? (double) bytes_done / bytes_total : 0;
		slot->entry.progress = slot->base + slot->share * Min(part, 1.0);
	}
	LWLockRelease(board_lock);
}

void
rctl_board_self(RctlBoardEntry *entry)
{
	LWLockAcquire(board_lock, LW_SHARED);
	*entry = board->slots[my_slot].entry;
	LWLockRelease(board_lock);
}

int
rctl_board_read(RctlBoardEntry *entries)
{
	int			count = 0;

	LWLockAcquire(board_lock, LW_SHARED);
	for (int i = 0; i < board->nslots; i++)
	{
		if (board->slots[i].entry.operation != 0)
			entries[count++] = board->slots[i].entry;
	}
	LWLockRelease(board_lock);
	return count;
}

void
rctl_board_changed(void)
{
	int			monitor;

	pg_atomic_fetch_add_u64(&board->changes, 1);
	LWLockAcquire(board_lock, LW_SHARED);
	monitor = board->monitor_pid;
	LWLockRelease(board_lock);
	wake_pid(monitor);
	ConditionVariableBroadcast(&board->changed);
}

/* Replaces one entry of the watchers; false if there is none to replace. */
static bool
replace_watcher(int old_pid, int new_pid)
{
	bool		found = false;

	LWLockAcquire(board_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_WATCHERS && !found; i++)
	{
		if (board->watchers[i] == old_pid)
		{
			board->watchers[i] = new_pid;
			found = true;
		}
	}
	LWLockRelease(board_lock);
	return found;
}

static void
leave_watchers(int code, Datum arg)
{
	(void) replace_watcher(MyProcPid, 0);
}

char *
rctl_board_watchers(const char *and_this_pid)
{
	StringInfoData list;

	initStringInfo(&list);
	appendStringInfoString(&list, and_this_pid ? and_this_pid : "0");
	LWLockAcquire(board_lock, LW_SHARED);
	for (int i = 0; i < MAX_WATCHERS; i++)
	{
		if (board->watchers[i] != 0)
			appendStringInfo(&list, ",%d", board->watchers[i]);
	}
	LWLockRelease(board_lock);
	return list.data;
}

void
rctl_board_enter_watchers(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(leave_watchers, (Datum) 0);
	registered = true;
	(void) replace_watcher(0, MyProcPid);
}

void
rctl_board_leave_watchers(void)
{
	(void) replace_watcher(MyProcPid, 0);
}

/*
 * The count, not the condition variable, tells whether something happened
 * between a look and this: a subtransaction that ends takes its session off
 * every condition variable.
 */
void
rctl_board_wait(uint64 seen, long timeout_ms)
{
	ConditionVariablePrepareToSleep(&board->changed);
	while (rctl_board_changes() == seen)
	{
		if (ConditionVariableTimedSleep(&board->changed, timeout_ms, PG_WAIT_EXTENSION))
			break;
	}
	ConditionVariableCancelSleep();
}
