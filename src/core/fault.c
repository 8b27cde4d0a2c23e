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

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"

#include "core/fault.h"
#include "net/wait.h"

static char *test_fault = NULL;

void
rctl_fault_define(void)
{
	DefineCustomStringVariable("replica_ctl.test_fault",
							   "Fault to inject into a step, for tests.",
							   NULL, &test_fault, "",
							   PGC_SIGHUP, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
}

void
rctl_fault(const char *kind, const char *step, const char *when, int attempt)
{
	char	   *place = psprintf("%s.%s.%s=", kind, step, when);
	const char *action;
	const char *times;

	if (strncmp(test_fault, place, strlen(place)) != 0)
		return;
	action = test_fault + strlen(place);
	times = strchr(action, '*');
	if (times && attempt > strtol(times + 1, NULL, 10))
		return;

	ereport(LOG, (errmsg("injecting fault %s", test_fault)));
	if (strncmp(action, "crash", 5) == 0)
		kill(MyProcPid, SIGKILL);
	else if (strncmp(action, "exit", 4) == 0)
		proc_exit(1);
	else if (strncmp(action, "stall", 5) == 0)
	{
		for (;;)
			rctl_sleep(1000);
	}
	else
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(action[0], action[1], action[2], action[3], action[4])),
				 errmsg("injected fault at %s %s.%s", when, kind, step),
				 errdetail("replica_ctl.test_fault is \"%s\".", test_fault),
				 errhint("Reset replica_ctl.test_fault.")));
}

#endif							/* RCTL_TEST */
