/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Faults that tests inject into the steps of operations.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef RCTL_TEST

#include <signal.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#include "core/fault.h"
#include "net/wait.h"
#include "settings.h"

#define BLOCK_MS 2000

static void
inject(const char *action)
{
	if (strncmp(action, "crash", 5) == 0)
	{
		/*
		 * The start of a hurried step may not be flushed: "*1" would be for
		 * ever.
		 */
		XLogFlush(XactLastCommitEnd);
		kill(MyProcPid, SIGKILL);
	}
	else if (strncmp(action, "exit", 4) == 0)
		proc_exit(1);
	else if (strncmp(action, "stall", 5) == 0)
	{
		for (;;)
			rctl_sleep(1000);
	}
	else if (strncmp(action, "block", 5) == 0)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, BLOCK_MS, PG_WAIT_EXTENSION);
	else
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(action[0], action[1], action[2], action[3], action[4])),
				 errmsg("injected fault"),
				 errdetail("It is %s.", action),
				 errhint("Inject none.")));
}

/* Obeys the first fault of the list that names the place. */
static void
look_for(const char *faults, const char *place, int attempt)
{
	for (const char *fault = faults; fault; fault = strchr(fault, ';'))
	{
		const char *action;
		const char *times;

		if (*fault == ';')
			fault++;
		if (strncmp(fault, place, strlen(place)) != 0)
			continue;
		action = pnstrdup(fault + strlen(place), strcspn(fault + strlen(place), ";"));
		times = strchr(action, '*');
		if (times && attempt > strtol(times + 1, NULL, 10))
			return;
		ereport(LOG, (errmsg("injecting fault %s%s", place, action)));
		inject(action);
		return;
	}
}

void
rctl_fault(RctlOp *op, const char *kind, const char *step, const char *when)
{
	char	   *place = psprintf("%s.%s.%s=", kind, step, when);

	look_for(rctl_test_fault, place, op->attempt);
	look_for(rctl_map_get(op->replica->options, "fault"), place, op->attempt);
}

#endif							/* RCTL_TEST */
