/*-------------------------------------------------------------------------
 *
 * watcher.h
 *	  The monitor's part that asks services about the replicas they run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_WORKER_WATCHER_H
#define REPLICA_CTL_WORKER_WATCHER_H

#include "nodes/pg_list.h"

#include "provider/provider.h"

/* Takes over the registry as it is now: a List of RctlMonitored. */
extern void rctl_watcher_registry(List *monitored, int64 now);

/* Starts the rounds that are due, takes the results of those that have ended. */
extern void rctl_watcher_work(int64 now);

/* When rctl_watcher_work() is due next, monotonic; PG_INT64_MAX: never. */
extern int64 rctl_watcher_due(void);

/* Copies what providers look at in the monitor, into CurrentMemoryContext. */
extern RctlReplica *rctl_watcher_copy_replica(const RctlReplica *from);

#endif							/* REPLICA_CTL_WORKER_WATCHER_H */
