/*-------------------------------------------------------------------------
 *
 * resolve.h
 *	  Looks up the host names of a connection string without waiting.
 *
 * libpq's one call that blocks is the look-up of a host name.  Here it is done
 * in a thread that knows nothing of PostgreSQL: it gets a copy of the name,
 * calls getaddrinfo() and writes to a pipe that can be waited for like a
 * socket.  A look-up that is given up goes on in its thread and is discarded
 * there; few of them may be under way at once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_RESOLVE_H
#define REPLICA_CTL_NET_RESOLVE_H

#include "libpq-fe.h"

typedef struct RctlResolve RctlResolve;

/*
 * Starts to look up the host names of a connection string.  *resolve is NULL
 * if there is none in it: it can be used as it is.  Returns a reason if the
 * look-up cannot be started, else NULL.
 */
extern const char *rctl_resolve_start(const char *conninfo, RctlResolve **resolve);

/* Becomes readable when there is a result. */
extern pgsocket rctl_resolve_socket(const RctlResolve *resolve);

/*
 * Once the socket is readable: starts a connection as PQconnectStart() does,
 * to the addresses that were found.  Returns NULL with a palloc'd reason if
 * there are none.  Frees the look-up in any case.
 */
extern PGconn *rctl_resolve_connect(RctlResolve *resolve, char **reason);

/* Gives it up. */
extern void rctl_resolve_cancel(RctlResolve *resolve);

#endif							/* REPLICA_CTL_NET_RESOLVE_H */
