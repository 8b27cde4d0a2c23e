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

#include "compat.h"
#include "net/wait.h"

RctlWaitCheck rctl_wait_check = NULL;
bool		rctl_wait_in_transaction = false;

/* What is due after every wake-up. */
static void
after_wait(int events)
{
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);

	CHECK_FOR_INTERRUPTS();
	/* A session reloads between two statements, not in one. */
	if (ConfigReloadPending && !rctl_wait_in_transaction)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (rctl_wait_check)
		rctl_wait_check();
}

int
rctl_wait(pgsocket sock, int socket_events, long timeout_ms)
{
	int			events;

	Assert(timeout_ms >= 0);
	Assert(rctl_wait_in_transaction || !IsTransactionState());

	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | socket_events,
							   sock, timeout_ms, PG_WAIT_EXTENSION);
	after_wait(events);
	return events;
}

/* Makes a set of the latch and the sockets, and waits for it once. */
static int
wait_for_set(RctlWaitSocket *sockets, int nsockets, long timeout_ms, WaitEvent *occurred)
{
	WaitEventSet *set = rctl_create_wait_event_set(nsockets + 2);
	volatile int noccurred = 0;

	PG_TRY();
	{
		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		for (int i = 0; i < nsockets; i++)
		{
			sockets[i].ready = 0;
			if (sockets[i].sock != PGINVALID_SOCKET && sockets[i].events != 0)
				AddWaitEventToSet(set, sockets[i].events, sockets[i].sock, NULL, &sockets[i]);
		}
		noccurred = WaitEventSetWait(set, timeout_ms, occurred, nsockets + 2, PG_WAIT_EXTENSION);
	}
	PG_FINALLY();
	{
		FreeWaitEventSet(set);
	}
	PG_END_TRY();
	return noccurred;
}

/*
 * A set is made for each wait, as WaitLatchOrSocket() does: sockets come and
 * go between two waits, and a set cannot give one back.
 */
int
rctl_wait_many(RctlWaitSocket *sockets, int nsockets, long timeout_ms)
{
	WaitEvent  *occurred;
	int			noccurred;
	int			events = 0;

	Assert(timeout_ms >= 0);
	Assert(rctl_wait_in_transaction || !IsTransactionState());

	occurred = palloc(sizeof(WaitEvent) * (nsockets + 2));
	noccurred = wait_for_set(sockets, nsockets, timeout_ms, occurred);
	for (int i = 0; i < noccurred; i++)
	{
		RctlWaitSocket *socket = occurred[i].user_data;

		events |= occurred[i].events;
		if (socket)
			socket->ready = occurred[i].events;
	}
	pfree(occurred);
	if (noccurred == 0)
		events = WL_TIMEOUT;

	after_wait(events);
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
