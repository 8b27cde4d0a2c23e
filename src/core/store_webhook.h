/*-------------------------------------------------------------------------
 *
 * store_webhook.h
 *	  SQL on the queue of events that wait to be sent to the webhook.
 *
 * Each call needs one of the brackets of store.h to be open.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_STORE_WEBHOOK_H
#define REPLICA_CTL_CORE_STORE_WEBHOOK_H

#include "nodes/pg_list.h"

typedef struct RctlWebhookEvent
{
	int64		id;
	char	   *json;			/* UTF-8 */
} RctlWebhookEvent;

/* The oldest that wait (RctlWebhookEvent *), at most limit. */
extern List *rctl_store_webhook_events(int limit);

/*
 * Those up to an id (0: none) were delivered, sent of them since the last
 * call; one (0: none) was rejected for good.  failure NULL: there was none.
 */
extern void rctl_store_webhook_done(int64 up_to, int sent, int64 rejected, const char *failure);

/* Drops the oldest beyond so many; returns how many that were. */
extern int64 rctl_store_webhook_trim(int keep);

/* There is no webhook any more. */
extern void rctl_store_webhook_clear(void);

#endif							/* REPLICA_CTL_CORE_STORE_WEBHOOK_H */
