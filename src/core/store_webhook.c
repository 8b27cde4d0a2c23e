/*-------------------------------------------------------------------------
 *
 * store_webhook.c
 *	  SQL on the queue of events that wait to be sent to the webhook.
 *
 * An event enters the queue in the transaction that writes it (store.c), and
 * leaves it when it was delivered: so each is delivered at least once, also
 * across crashes.  The queue is bounded; the oldest are dropped, and counted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "access/xlog.h"

#include "core/store_private.h"
#include "core/store_webhook.h"

/* An event that is longer is sent without its detail. */
#define MAX_EVENT "100000"

/* The event as UTF-8, which JSON is in; what it cannot be, '?'. */
static char *
to_utf8(const char *json)
{
	char	   *copy;

	if (GetDatabaseEncoding() == PG_UTF8)
		return pstrdup(json);
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
	{
		char	   *converted = pg_server_to_any(json, strlen(json), PG_UTF8);

		return converted == json ? pstrdup(json) : converted;
	}
	copy = pstrdup(json);
	for (char *p = copy; *p; p++)
		if (IS_HIGHBIT_SET(*p))
			*p = '?';
	return copy;
}

List *
rctl_store_webhook_events(int limit)
{
	List	   *events = NIL;
	char	   *system = psprintf(UINT64_FORMAT, GetSystemIdentifier());
	uint64		rows;

	rows = rctl_run("SELECT e.event_id, (SELECT CASE WHEN octet_length(j::text) <= " MAX_EVENT " THEN j::text"
					"  ELSE (j - 'detail')::text END"
					" FROM jsonb_build_object('event', e.event_id, 'at', e.at, 'replica', e.replica,"
					"  'operation', e.operation_id, 'severity', e.severity, 'kind', e.kind, 'message', left(e.message, 50000),"
					"  'detail', e.detail, 'actor', e.actor, 'system_identifier', $2,"
					"  'cluster_name', current_setting('cluster_name')) j)"
					" FROM replica_ctl.webhook_queue q JOIN replica_ctl.event e USING (event_id)"
					" ORDER BY q.event_id LIMIT $1::int",
					ARGS(psprintf("%d", limit), system));
	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(rctl_result_context);
		RctlWebhookEvent *event = palloc(sizeof(RctlWebhookEvent));

		event->id = rctl_get_int64(i, 1);
		event->json = to_utf8(rctl_get(i, 2));
		events = lappend(events, event);
		MemoryContextSwitchTo(old);
	}
	return events;
}

void
rctl_store_webhook_done(int64 up_to, int sent, int64 rejected, const char *failure)
{
	if (up_to > 0)
		rctl_run("DELETE FROM replica_ctl.webhook_queue WHERE event_id <= $1::bigint OR event_id = $2::bigint",
				 ARGS(rctl_id_text(up_to), rctl_id_text(rejected)));
	else if (rejected > 0)
		rctl_run("DELETE FROM replica_ctl.webhook_queue WHERE event_id = $1::bigint", ARGS(rctl_id_text(rejected)));
	rctl_run("UPDATE replica_ctl.webhook SET sent = sent + $1::bigint, dropped = dropped + $2::bigint,"
			 " last_sent_at = CASE WHEN $1::bigint > 0 THEN clock_timestamp() ELSE last_sent_at END,"
			 " last_failure = coalesce($3, last_failure),"
			 " last_failure_at = CASE WHEN $3 IS NOT NULL THEN clock_timestamp() ELSE last_failure_at END",
			 ARGS(psprintf("%d", sent), rejected > 0 ? "1" : "0", failure));
}

int64
rctl_store_webhook_trim(int keep)
{
	int64		dropped = rctl_run("DELETE FROM replica_ctl.webhook_queue WHERE event_id <= (SELECT event_id"
								   " FROM replica_ctl.webhook_queue ORDER BY event_id DESC OFFSET $1::int LIMIT 1)"
								   " RETURNING event_id",
								   ARGS(psprintf("%d", keep)));

	if (dropped > 0)
		rctl_run("UPDATE replica_ctl.webhook SET dropped = dropped + $1::bigint", ARGS(rctl_id_text(dropped)));
	return dropped;
}

void
rctl_store_webhook_clear(void)
{
	rctl_run("DELETE FROM replica_ctl.webhook_queue", NO_ARGS);
}
