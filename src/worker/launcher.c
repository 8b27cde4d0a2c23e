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

typedef struct Started
{
	BackgroundWorkerHandle *handle; /* NULL: none */
	int64		operation;
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

/* One round; returns how long to sleep, in ms. */
static long
launch_due(void)
{
	static bool parked = false;
	RctlBoardEntry *entries = palloc(sizeof(RctlBoardEntry) * rctl_max_operations);
	int64	   *running = palloc(sizeof(int64) * rctl_max_operations);
	int			nrunning;
	int			nfree;
	long		next_ms = -1;
	List	   *due = NIL;
	ListCell   *lc;

	reap_workers();
	nrunning = rctl_board_read(entries);
	for (int i = 0; i < nrunning; i++)
		running[i] = entries[i].operation;
	nfree = rctl_max_operations - nrunning;

	rctl_store_begin();
	if (rctl_store_installed())
	{
		if (!parked)
		{
			int			count;

			rctl_takeover();
			count = rctl_store_park_foreign();
			if (count > 0)
				ereport(LOG,
						(errmsg("%d replica_ctl operations of another server need attention", count),
						 errhint("See replica_operations.")));
			parked = true;
		}
		if (nfree > 0)
			due = rctl_store_due(nfree, running, nrunning, &next_ms);
	}
	rctl_store_commit();

	foreach(lc, due)
	{
		if (!launch(*(int64 *) lfirst(lc)))
			return NO_WORKER_MS;
	}
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
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		sleep_ms = ERROR_MS;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(round_context);
	return sleep_ms;
}

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
	}
}
