/*-------------------------------------------------------------------------
 *
 * pgconn.h
 *	  Non-blocking libpq, driven by rctl_wait().
 *
 * A connection belongs to the memory context that was current when it was
 * made: resetting or deleting that context closes it.  The same holds for
 * results.  Never call PQfinish() or PQclear() on them: use rctl_pg_close()
 * and rctl_pg_clear().  Every session gets TCP keepalives, tcp_user_timeout,
 * an application_name (what the connection string says about these goes
 * first), the client encoding of this database, and options setting
 * lock_timeout = 0, search_path = pg_catalog, client_min_messages = error and
 * synchronous_commit = local.  Notices are dropped.
 *
 * Errors carry the server's own SQLSTATE where there is one (also when it
 * refused the connection: 28P01, 57P03, ...) and ERRCODE_CONNECTION_FAILURE
 * (08006) or ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION (08001)
 * otherwise; the message of libpq goes to the detail with any password
 * removed.  Nothing here logs.
 *
 * One thing does block: libpq resolves a host name by getaddrinfo().  Where
 * the address is known pass it, too, as hostaddr.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_PGCONN_H
#define REPLICA_CTL_NET_PGCONN_H

#include "libpq-fe.h"

#include "net/text.h"

/* One keyword of a connection string; an array ends with a NULL keyword. */
typedef struct RctlConnParam
{
	const char *keyword;
	const char *value;			/* NULL or "" is left out */
} RctlConnParam;

/* "k='v' k2='v2'", quoted by libpq's rules; palloc'd. */
extern char *rctl_conninfo(const RctlConnParam *params);

/* Connects, or raises an error.  "what" names the other side in messages: replica "r1". */
extern PGconn *rctl_pg_connect(const char *conninfo, long timeout_ms, const char *what);

/*
 * The same, but returns NULL, a palloc'd reason and its SQLSTATE instead of
 * raising an error (interrupts still raise one).
 */
extern PGconn *rctl_pg_try_connect(const char *conninfo, long timeout_ms,
								   char **reason, int *sqlerrcode);

/*
 * Runs one statement with text parameters and waits for its result: TUPLES_OK
 * or COMMAND_OK, else an error is raised.  On timeout (timeout_ms > 0 always)
 * ERRCODE_QUERY_CANCELED is raised; the same time is set as statement_timeout
 * before, so that the server gives the statement up as well, whatever has
 * become of us.  Whatever interrupts the wait, timeout or error, leaves the
 * connection broken: it stays valid as a pointer, but the next statement
 * raises 08006.
 */
extern PGresult *rctl_pg_exec(PGconn *conn, long timeout_ms, const char *sql,
							  int nparams, const char *const *params);

/*
 * Has tick called about once a second while a statement of this connection
 * is waited for, from now on; NULL: nothing.  It may ereport(ERROR).
 */
extern void rctl_pg_set_tick(PGconn *conn, void (*tick) (void *arg), void *arg);

/* Frees a result early; harmless with NULL. */
extern void rctl_pg_clear(PGresult *result);

/* First column of the first row as a palloc'd string; NULL if there is no row or it is NULL. */
extern char *rctl_pg_value(PGconn *conn, long timeout_ms, const char *sql,
						   int nparams, const char *const *params);

/* Whether another statement can be tried on it: no wait on it was interrupted, and it is not known to be gone. */
extern bool rctl_pg_usable(PGconn *conn);

/* Closes early; harmless with NULL. */
extern void rctl_pg_close(PGconn *conn);

#endif							/* REPLICA_CTL_NET_PGCONN_H */
