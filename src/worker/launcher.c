/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Gives every operation that is due a worker of its own.
 *
 * It sleeps until a session commits a queued operation, a worker ends, or the
 * next retry is due; then it reads what is due and asks the postmaster for
 * workers.  It does nothing else: no network, no file, no wait for a worker
 * to start or stop.  An error ends the round, not the launcher.
 *
 * Durable: nothing.  In memory: the handles of workers that were asked for,
 * so that one that could not be forked does not keep its slot for ever.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/board.h"
#include "core/store.h"
#include "core/takeover.h"
#include "net/wait.h"
#include "settings.h"
#include "worker/worker.h"

/* Only a net under the latch: every change that matters sets it. */
#define IDLE_MS 60000
#define ERROR_MS 5000
#define NO_WORKER_MS 1000

/* A worker that ends at once and leaves its operation due must not be started in a loop. */
#define RELAUNCH_MS 250

#define PRUNE_EVERY_MS (3600 * 1000)

typedef struct Started
{
	BackgroundWorkerHandle *handle; /* NULL: it has ended */
	int64		operation;		/* 0: none yet */
	TimestampTz at;
} Started;

static Started *started;		/* by slot; in TopMemoryContext */

/* Frees the slots of workers that ended, or were never started. */
static void
reap_workers(void)
{
	for (int i = 0; i < rctl_max_operations; i++)
	{
		pid_t		pid;

		if (started[i].handle == NULL)
			continue;
		if (GetBackgroundWorkerPid(started[i].handle, &pid) == BGWH_STOPPED)
		{
			rctl_board_unreserve(i, started[i].operation);
			pfree(started[i].handle);
			started[i].handle = NULL;
		}
	}
}

/* How long, in ms, an operation has to wait because it was started just now. */
static long
relaunch_delay(int64 operation)
{
	for (int i = 0; i < rctl_max_operations; i++)
	{
		if (started[i].operation == operation)
			return TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
												   TimestampTzPlusMilliseconds(started[i].at, RELAUNCH_MS));
	}
	return 0;
}

/* False if the postmaster has no room for another worker. */
static bool
launch(int64 operation)
{
	static bool complained = false;
	int			slot = rctl_board_reserve(operation);
	MemoryContext old;

	if (slot < 0)
		return true;
	old = MemoryContextSwitchTo(TopMemoryContext);
	if (started[slot].handle)
		pfree(started[slot].handle);
	started[slot].operation = operation;
	started[slot].at = GetCurrentTimestamp();
	started[slot].handle = rctl_op_worker_launch(slot, operation);
	MemoryContextSwitchTo(old);
	if (started[slot].handle)
	{
		complained = false;
		return true;
	}
	rctl_board_unreserve(slot, operation);
	if (!complained)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free for a replica_ctl operation"),
				 errhint("Consider increasing max_worker_processes.")));
	complained = true;
	return false;
}

/* What is due; and in next_ms when the next one is (-1: none waits). */
static List *
read_due(long *next_ms)
{
	RctlBoardEntry *entries = palloc(sizeof(RctlBoardEntry) * rctl_max_operations);
	int64	   *running = palloc(sizeof(int64) * rctl_max_operations);
	int			nrunning = rctl_board_read(entries);
	int			nfree = rctl_max_operations - nrunning;

	*next_ms = -1;
	for (int i = 0; i < nrunning; i++)
		running[i] = entries[i].operation;
	return nfree > 0 ? rctl_store_due(nfree, running, nrunning, next_ms) : NIL;
}

/* Whose is what: once in the life of this process, as soon as there are tables. */
static void
settle_owners(void)
{
	static bool parked = false;
	bool		installed;
	int			count = 0;

	if (parked)
		return;
	rctl_store_begin();
	installed = rctl_store_installed();
	if (installed)
	{
		rctl_takeover();
		count = rctl_store_park_foreign();
	}
	rctl_store_commit();
	parked = installed;
	if (count > 0)
		ereport(LOG,
				(errmsg("%d replica_ctl operations of another server need attention", count),
				 errhint("See replica_operations.")));
}

static void
prune(void)
{
	static TimestampTz next = 0;
	bool		more = false;

	if (rctl_retention == 0 || GetCurrentTimestamp() < next)
		return;
	rctl_store_begin();
	if (rctl_store_installed())
		more = rctl_store_prune(rctl_retention);
	rctl_store_commit();
	next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), more ? 0 : PRUNE_EVERY_MS);
	if (more)
		SetLatch(MyLatch);
}

/* One round; returns how long to sleep, in ms. */
static long
launch_due(void)
{
	long		next_ms = -1;
	List	   *due = NIL;
	ListCell   *lc;

	reap_workers();
	settle_owners();
	rctl_store_begin();
	if (rctl_store_installed())
		due = read_due(&next_ms);
	rctl_store_commit();

	foreach(lc, due)
	{
		int64		operation = *(int64 *) lfirst(lc);
		long		delay = relaunch_delay(operation);

		if (delay > 0)
			next_ms = next_ms < 0 ? delay : Min(next_ms, delay);
		else if (!launch(operation))
			return NO_WORKER_MS;
	}
	prune();
	return next_ms >= 0 ? next_ms : IDLE_MS;
}

/* launch_due, with the error of a bad round logged. */
static long
guarded_round(MemoryContext round_context)
{
	long		sleep_ms;

	PG_TRY();
	{
		sleep_ms = launch_due();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		LWLockReleaseAll();
		pgstat_report_wait_end();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		sleep_ms = ERROR_MS;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(round_context);
	return sleep_ms;
}

#ifdef RCTL_TEST
/* As many rounds as a test asks for, and what they did to the memory of this process. */
static void
test_rounds(MemoryContext round_context)
{
	static int	done = 0;
	Size		before;

	if (rctl_test_rounds == done)
		return;
	done = rctl_test_rounds;
	for (int i = 0; i < 1000; i++)	/* until the caches have what they want */
	{
		(void) guarded_round(round_context);
		MemoryContextReset(round_context);
	}
	before = MemoryContextMemAllocated(TopMemoryContext, true);
	for (int i = 0; i < rctl_test_rounds; i++)
	{
		(void) guarded_round(round_context);
		MemoryContextReset(round_context);
		if (i % 100 == 0)
			rctl_wait(PGINVALID_SOCKET, 0, 0);
	}
	ereport(LOG,
			(errmsg("%d launcher rounds: %zu bytes before, %zu bytes after", rctl_test_rounds,
					before, MemoryContextMemAllocated(TopMemoryContext, true))));
}
#else
#define test_rounds(round_context) ((void) 0)
#endif

void
rctl_launcher_main(Datum arg)
{
	MemoryContext round_context;

	rctl_worker_start();
	rctl_board_enter_launcher();
	started = MemoryContextAllocZero(TopMemoryContext, sizeof(Started) * rctl_max_operations);
	round_context = AllocSetContextCreate(TopMemoryContext, "replica_ctl launcher round",
										  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(round_context);

	for (;;)
	{
		long		sleep_ms = guarded_round(round_context);

		MemoryContextReset(round_context);
		pgstat_report_activity(STATE_IDLE, NULL);
		rctl_wait(PGINVALID_SOCKET, 0, sleep_ms);
		test_rounds(round_context);
	}
}
