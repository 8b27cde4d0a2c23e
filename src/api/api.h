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

#include "datatype/timestamp.h"

/*
 * Raises an error, with what to do about it, unless operations can be queued
 * here: the library is preloaded, this is the control database, and the
 * server is not in recovery.
 */
extern void rctl_api_require_primary(void);

/*
 * The current transaction queued an operation: the launcher is woken when it
 * commits.
 */
extern void rctl_api_queued(int64 operation);

/* Whether this transaction queued it, so that nobody else can see it yet. */
extern bool rctl_api_queued_here(int64 operation);

/* An interval argument in ms; negative ones and those of more than 24 days are refused. */
extern int64 rctl_api_interval_ms(Interval *interval, const char *what);

#endif							/* REPLICA_CTL_API_API_H */
