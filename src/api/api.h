/*-------------------------------------------------------------------------
 *
 * api.h
 *	  What the SQL-callable functions have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_API_API_H
#define REPLICA_CTL_API_API_H

#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/timestamp.h"

#include "provider/provider.h"

/*
 * Raises an error, with what to do about it, unless operations can be queued
 * here: the library is preloaded, this is the control database, and the
 * server is not in recovery.
 */
extern void rctl_api_require_primary(void);

/*
 * The current transaction changed what an operation waits for: the launcher
 * is woken when it commits.  0: no operation in particular.
 */
extern void rctl_api_queued(int64 operation);

/* An interval argument in ms; raises an error if it is negative or longer than 24 days. */
extern int64 rctl_api_interval_ms(const Interval *interval, const char *what);

/* Whether the operation waits for this transaction to commit. */
extern bool rctl_api_queued_here(int64 operation);

/* The provider of a server that the caller may use; raises an error otherwise. */
extern const RctlProvider *rctl_api_provider(const char *name, ForeignServer **server);

/* Raises an error unless a replica can have this name. */
extern void rctl_api_check_name(const char *name);

/* Queue an operation: of a new replica (create, attach), of one that exists; all checks are made. */
extern int64 rctl_api_add_replica(RctlOpKind kind, const char *name, const char *server_name, const RctlMap *options);

/* busy_state: the replica's state meanwhile; NULL leaves it. */
extern int64 rctl_api_queue_operation(const char *name, RctlOpKind kind, const RctlMap *arguments,
									  const char *busy_state);

#endif							/* REPLICA_CTL_API_API_H */
