/*-------------------------------------------------------------------------
 *
 * wait.h
 *	  The one way in which this extension's processes wait.
 *
 * Every wait sleeps on the process latch (and the sockets it is given), dies
 * with the postmaster, takes part in ProcSignalBarriers, reloads the
 * configuration after SIGHUP, and is bounded by the caller.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_WAIT_H
#define REPLICA_CTL_NET_WAIT_H

#include "storage/latch.h"
#include "utils/timestamp.h"

/*
 * Called after every wake-up, outside any lock.  May ereport(ERROR): that is
 * how a cancel or a missed deadline ends whatever was being waited for.  Set
 * by the operation worker; NULL elsewhere.
 */
typedef void (*RctlWaitCheck) (void);
extern RctlWaitCheck rctl_wait_check;

/*
 * Waits are no business of a transaction: it would hold back its snapshot and
 * its locks for as long as the outside world likes.  The one exception is
 * replica_explain(), which looks at a replica for its caller, in the caller's
 * session and transaction, for a few seconds at most.  It sets this for as
 * long as it looks (core/preflight.c); services that otherwise open a
 * transaction of their own (core/store.c) use the caller's then.
 */
extern bool rctl_wait_in_transaction;

/*
 * Sleeps until the latch is set, the socket is ready or timeout_ms has
 * passed (0 returns at once; negative is not allowed: every wait has a
 * bound).  socket_events is a mask of WL_SOCKET_*, 0 with PGINVALID_SOCKET.
 * Returns the events that occurred.  Raises what CHECK_FOR_INTERRUPTS and
 * rctl_wait_check raise.  Must not be called in a transaction, but for the
 * exception above.
 */
extern int	rctl_wait(pgsocket sock, int socket_events, long timeout_ms);

/* One of several sockets (or pipes, or whatever else can be polled). */
typedef struct RctlWaitSocket
{
	pgsocket	sock;			/* PGINVALID_SOCKET: left out */
	int			events;			/* mask of WL_SOCKET_*; 0: left out */
	int			ready;			/* out: those of them that occurred */
} RctlWaitSocket;

/* The same as rctl_wait() for any number of sockets. */
extern int	rctl_wait_many(RctlWaitSocket *sockets, int nsockets, long timeout_ms);

/* Sleeps for timeout_ms, however often the latch is set meanwhile. */
extern void rctl_sleep(long timeout_ms);

#endif							/* REPLICA_CTL_NET_WAIT_H */
