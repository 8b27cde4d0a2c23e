/*-------------------------------------------------------------------------
 *
 * webhook.c
 *	  The monitor's part that sends events to the webhook.
 *
 * Events are sent in order, one a request, by one conversation for each batch
 * that was read from the queue; what was delivered leaves the queue when the
 * batch has ended.  A crash in between sends some again: the receiver tells
 * them apart by the header replica-ctl-id.  After a failure the pause grows.
 * An event that the receiver refuses as such, again and again, is dropped: it
 * must not hold up the others for ever.
 *
 * Durable: the queue, and what was counted (store_webhook.c).  In memory: one
 * batch, and when to try again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "access/xlog.h"
#include "common/pg_prng.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "core/store.h"
#include "core/store_webhook.h"
#include "net/hash.h"
#include "net/http.h"
#include "net/text.h"
#include "primary/clock.h"
#include "settings.h"
#include "worker/webhook.h"

#define SECOND_US INT64CONST(1000000)

/* The queue is looked at this often. */
#define LOOK_US SECOND_US

#define BATCH 50
#define MAX_QUEUED 10000
#define LAST_PAUSE_US (300 * SECOND_US)

/* A request takes at most so long. */
#define TOTAL_MS 15000
#define MAX_SECRET 4096

/* So often an event is refused as such before it is dropped. */
#define MAX_REFUSALS 5

static struct
{
	int64		next_at;		/* monotonic */
	int			failures;		/* in a row */
	int64		refused;		/* id of the event that was refused last */
	int			refusals;		/* how often */
	bool		cleared;		/* there is no webhook, and no queue */

	/* A batch, if task is not NULL. */
	MemoryContext context;
	RctlHttpTask *task;
	List	   *events;
	int			next;			/* index of the one that is being sent */
	char	   *secret;			/* NULL: not signed */
	int64		up_to;			/* id of the last one that was delivered */
	char	   *failure;		/* NULL: none */
	int			status;			/* of the failure; 0: no answer */
	int64		retry_after_ms;
}			webhook;

/* ---- one event ---- */

/* The signature over "TIMESTAMP.BODY". */
static char *
sign(const char *timestamp, const char *body)
{
	char	   *text = psprintf("%s.%s", timestamp, body);
	uint8		hash[RCTL_SHA256_LEN];

	rctl_hmac_sha256(webhook.secret, strlen(webhook.secret), text, strlen(text), hash);
	pfree(text);
	return psprintf("v1=%s", rctl_hex(hash, sizeof(hash)));
}

static const RctlHttpRequest *
make_request(const RctlWebhookEvent *event)
{
	RctlHttpRequest *request = palloc0(sizeof(RctlHttpRequest));
	RctlHttpHeader *headers = palloc0(sizeof(RctlHttpHeader) * 5);
	char	   *timestamp = psprintf(INT64_FORMAT, (int64) time(NULL));

	headers[0].name = "Content-Type";
	headers[0].value = "application/json";
	headers[1].name = "Replica-Ctl-Id";
	headers[1].value = psprintf(UINT64_FORMAT "-" INT64_FORMAT, GetSystemIdentifier(), event->id);
	headers[2].name = "Replica-Ctl-Timestamp";
	headers[2].value = timestamp;
	if (webhook.secret)
	{
		headers[3].name = "Replica-Ctl-Signature";
		headers[3].value = sign(timestamp, event->json);
	}
	request->method = "POST";
	request->url = pstrdup(rctl_webhook_url);
	request->headers = headers;
	request->body = event->json;
	request->what = "the webhook";
	request->total_ms = TOTAL_MS;
	request->max_body = 64 * 1024;
	if (*rctl_webhook_ca_file)
		request->ca_file = pstrdup(rctl_webhook_ca_file);
	return request;
}

/* RctlHttpNext: until the batch is at its end, or one cannot be delivered. */
static const RctlHttpRequest *
next_event(void *state, const RctlHttpResponse *response)
{
	if (response && response->status >= 200 && response->status < 300)
		webhook.up_to = ((RctlWebhookEvent *) list_nth(webhook.events, webhook.next++))->id;
	else if (response)
	{
		webhook.status = response->status;
		webhook.retry_after_ms = response->retry_after_ms;
		webhook.failure = MemoryContextStrdup(webhook.context, response->status == 0 ? response->reason :
											  psprintf("the webhook answered with status %d", response->status));
		return NULL;
	}
	/* It may have been taken out of the configuration meanwhile. */
	if (webhook.next >= list_length(webhook.events) || *rctl_webhook_url == '\0')
		return NULL;
	return make_request(list_nth(webhook.events, webhook.next));
}

/* ---- a batch ---- */

/*
 * The content of the file; NULL, and *problem, if there is none that can be
 * used.  Without a signature nothing is sent where one was asked for.
 */
static char *
read_secret(char **problem)
{
	int			fd = OpenTransientFile(rctl_webhook_secret_file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char		buffer[MAX_SECRET + 1];
	struct stat st;
	ssize_t		length;

	if (fd < 0)
	{
		*problem = psprintf("could not open the file of replica_ctl.webhook_secret_file: %m");
		return NULL;
	}
	length = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read(fd, buffer, MAX_SECRET) : -1;
	CloseTransientFile(fd);
	while (length > 0 && isspace((unsigned char) buffer[length - 1]))
		length--;
	if (length <= 0 || memchr(buffer, '\0', length))
		*problem = "the file of replica_ctl.webhook_secret_file holds no secret";
	else if (st.st_mode & S_IRWXO)
		*problem = "the file of replica_ctl.webhook_secret_file can be read by everybody: chmod o-rwx it";
	else
		return pnstrdup(buffer, length);
	return NULL;
}

static void
end_batch(void)
{
	if (webhook.context)
		MemoryContextDelete(webhook.context);
	webhook.context = NULL;
	webhook.task = NULL;
	webhook.events = NIL;
	webhook.secret = NULL;
	webhook.failure = NULL;
	webhook.next = 0;
	webhook.up_to = 0;
	webhook.status = 0;
	webhook.retry_after_ms = -1;
}

static int64
pause_after_failure(void)
{
	int64		pause = Min(SECOND_US << Min(webhook.failures, 10), LAST_PAUSE_US);

	pause = pause / 2 + (int64) (pause / 2 * pg_prng_double(&pg_global_prng_state));
	if (webhook.retry_after_ms > 0)
		pause = Max(pause, Min(webhook.retry_after_ms * 1000, LAST_PAUSE_US));
	return pause;
}

/* Whether the event itself is what the receiver does not take, and it has said so often enough. */
static bool
is_rejected(const RctlWebhookEvent *event)
{
	if (webhook.status != 400 && webhook.status != 413 && webhook.status != 422)
		return false;
	if (webhook.refused != event->id)
		webhook.refusals = 0;
	webhook.refused = event->id;
	return ++webhook.refusals >= MAX_REFUSALS;
}

/* Writes down what became of the batch, in a transaction. */
static void
settle(int64 now)
{
	int64		rejected = 0;
	int			sent = webhook.next;

	if (webhook.failure && webhook.next < list_length(webhook.events))
	{
		const RctlWebhookEvent *event = list_nth(webhook.events, webhook.next);

		if (is_rejected(event))
			rejected = event->id;
	}
	webhook.next_at = now + (webhook.failure && rejected == 0 ? pause_after_failure() : 0);
	webhook.failures = webhook.failure && rejected == 0 ? webhook.failures + 1 : 0;
	rctl_store_begin();
	if (rctl_store_installed())
	{
		rctl_store_webhook_done(webhook.up_to, sent, rejected, webhook.failure);
		(void) rctl_store_webhook_trim(MAX_QUEUED);
	}
	rctl_store_commit();
	end_batch();
}

static List *
read_queue(void)
{
	List	   *events = NIL;

	rctl_store_begin();
	if (rctl_store_installed())
		events = rctl_store_webhook_events(BATCH);
	rctl_store_commit();
	return events;
}

static void
start_batch(int64 now)
{
	MemoryContext old;
	char	   *problem = NULL;

	end_batch();
	webhook.next_at = now + LOOK_US;
	webhook.context = AllocSetContextCreate(TopMemoryContext, "replica_ctl webhook", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(webhook.context);
	webhook.events = read_queue();
	if (webhook.events != NIL && *rctl_webhook_secret_file)
		webhook.secret = read_secret(&problem);
	if (webhook.events != NIL && problem == NULL)
		webhook.task = rctl_http_task_start(next_event, NULL);
	MemoryContextSwitchTo(old);
	if (problem)
	{
		webhook.failure = problem;
		settle(now);
	}
	else if (webhook.events == NIL)
		end_batch();
}

/* What waits would be sent to another webhook, once there is one again. */
static void
clear(void)
{
	if (webhook.cleared)
		return;
	end_batch();
	rctl_store_begin();
	if (rctl_store_installed())
		rctl_store_webhook_clear();
	rctl_store_commit();
	webhook.failures = 0;
	webhook.next_at = 0;
	webhook.cleared = true;
}

void
rctl_webhook_work(int64 now, bool installed)
{
	ErrorData  *error;

	if (!installed)
	{
		end_batch();
		return;
	}
	if (*rctl_webhook_url == '\0')
	{
		clear();
		return;
	}
	webhook.cleared = false;
	if (webhook.task && rctl_http_task_ended(webhook.task, &error))
	{
		if (error && webhook.failure == NULL)
			webhook.failure = pstrdup(error->message);
		settle(now);
	}
	if (webhook.task == NULL && now >= webhook.next_at)
		start_batch(now);
}

int64
rctl_webhook_due(void)
{
	ErrorData  *error;

	if (*rctl_webhook_url == '\0')
		return webhook.cleared ? PG_INT64_MAX : 0;
	if (webhook.task)
		return rctl_http_task_ended(webhook.task, &error) ? 0 : PG_INT64_MAX;
	return webhook.next_at;
}
