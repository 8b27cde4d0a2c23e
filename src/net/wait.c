/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  The one way in which this extension's processes wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "net/wait.h"

RctlWaitCheck rctl_wait_check = NULL;

int
rctl_wait(pgsocket sock, int socket_events, long timeout_ms)
{
	int			events;

	Assert(timeout_ms >= 0);
	Assert(!IsTransactionState());

	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | socket_events,
							   sock, timeout_ms, PG_WAIT_EXTENSION);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);

	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (rctl_wait_check)
		rctl_wait_check();
	return events;
}

void
rctl_sleep(long timeout_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	long		left;

	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until)) > 0)
		rctl_wait(PGINVALID_SOCKET, 0, left);
}
