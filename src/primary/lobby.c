/*-------------------------------------------------------------------------
 *
 * lobby.c
 *	  Where clients wait that log in to a standby while it is promoted.
 *
 * When writes stop on a primary, its clients look for the next one.  To find
 * it takes them longer than it takes a replica to be promoted, and one that
 * comes too early is turned away and starts again.  So clients are sent on
 * their way when the promotion begins, and a session that logs in meanwhile
 * is let in, and waits just before it would be told whether this server
 * accepts writes, until it does.
 *
 * That place is the end of the transaction in which a session logs in: the
 * role is authenticated and may use the database, whose catalogs have been
 * read, and the client was not sent any setting (in_hot_standby is one).
 * Connections for replication do not wait, nor does anybody longer than the
 * caller of rctl_lobby_open() said.  Nothing here matters to correctness: who
 * is not kept here comes back by itself.
 *
 * Nobody tells sessions that recovery has ended.  Whoever asks whether it has
 * (the operation that promotes does so every other millisecond) tells the
 * others; besides, each of them looks now and then.
 *
 * In memory: until when logins wait.  Nothing is durable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "replication/walsender.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "primary/lobby.h"

#define LOBBY_NAME "replica_ctl_lobby"

/* How often each of those who wait looks, if nobody tells it. */
#define LOOK_MS 20

typedef struct Lobby
{
	pg_atomic_uint64 until;		/* no lock; a TimestampTz, 0: it is closed */
	ConditionVariable closed;	/* own lock; those who wait sleep on it */
} Lobby;

static Lobby *lobby = NULL;

/* This session has logged in. */
static bool arrived = false;

void
rctl_lobby_shmem_request(void)
{
	RequestAddinShmemSpace(sizeof(Lobby));
}

void
rctl_lobby_shmem_init(void)
{
	bool		found;

	lobby = ShmemInitStruct(LOBBY_NAME, sizeof(Lobby), &found);
	if (found)
		return;
	pg_atomic_init_u64(&lobby->until, 0);
	ConditionVariableInit(&lobby->closed);
}

static void
close_lobby(void)
{
	pg_atomic_write_u64(&lobby->until, 0);
	ConditionVariableBroadcast(&lobby->closed);
}

bool
rctl_lobby_open(int milliseconds)
{
	if (lobby == NULL || !RecoveryInProgress())
		return false;
	if (milliseconds > 0)
		pg_atomic_write_u64(&lobby->until, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds));
	else
		close_lobby();
	return true;
}

static void
wait_in_lobby(void)
{
	uint64		until;

	ConditionVariablePrepareToSleep(&lobby->closed);
	while ((until = pg_atomic_read_u64(&lobby->until)) != 0 && RecoveryInProgress())
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), (TimestampTz) until);

		if (left == 0)
			break;
		(void) ConditionVariableTimedSleep(&lobby->closed, Min(left, LOOK_MS), PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
	ConditionVariableCancelSleep();
}

/* Every transaction of every process comes here: one comparison, if the lobby is closed. */
static void
on_transaction_event(XactEvent event, void *arg)
{
	bool		open = pg_atomic_read_u64(&lobby->until) != 0;

	if (event == XACT_EVENT_PRE_COMMIT && !arrived && open && MyBackendType == B_BACKEND && !am_walsender)
		wait_in_lobby();
	if (event != XACT_EVENT_COMMIT)
		return;
	arrived = true;
	if (open && !RecoveryInProgress())
		close_lobby();
}

void
rctl_lobby_install_hooks(void)
{
	RegisterXactCallback(on_transaction_event, NULL);
}
