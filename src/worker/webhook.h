/*-------------------------------------------------------------------------
 *
 * webhook.h
 *	  The monitor's part that sends events to the webhook.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_WORKER_WEBHOOK_H
#define REPLICA_CTL_WORKER_WEBHOOK_H

/* Starts what is due, takes the result of what has ended. installed: the extension exists. */
extern void rctl_webhook_work(int64 now, bool installed);

/* When rctl_webhook_work() is due next, monotonic; PG_INT64_MAX: never. */
extern int64 rctl_webhook_due(void);

#endif							/* REPLICA_CTL_WORKER_WEBHOOK_H */
