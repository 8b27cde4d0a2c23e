/*-------------------------------------------------------------------------
 *
 * http_retry.c
 *	  Trying again, the trace of exchanges, and the error of a failed one.
 *
 * In memory: the last exchanges of this process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "utils/json.h"

#include "net/http_internal.h"

#define ATTEMPTS 3
#define BASE_MS 1000
#define MAX_MS 20000
#define MAX_RETRY_AFTER_MS 60000

#define TRACED 20

typedef struct Trace
{
	char		method[8];
	char		host[128];
	char		action[64];
	char		request_id[64];
	char		failure[16];
	int			status;
	int			ms;
	int			attempt;
} Trace;

static Trace traces[TRACED];
static int	ntraces = 0;		/* the last one is traces[(ntraces - 1) %
								 * TRACED] */

/* ---- trying again ---- */

/* Whether the other side has surely not done what was asked. */
static bool
surely_not_done(const RctlHttpResponse *response)
{
	return !response->sent || response->status == 429 || response->status == 503;
}

static bool
worth_another(const RctlHttpResponse *response)
{
	switch (response->status)
	{
		case 0:
			return response->failure != RCTL_HTTP_REFUSED && response->failure != RCTL_HTTP_TLS &&
				response->failure != RCTL_HTTP_TOO_LARGE;
		case 429:
		case 500:
		case 502:
		case 503:
		case 504:
			return true;
		default:
			return false;
	}
}

int
rctl_http_retry_delay(const RctlHttpRetry *retry, void *arg, int attempt,
					  const RctlHttpResponse *response)
{
	int64		max_ms = retry->max_ms > 0 ? retry->max_ms : MAX_MS;
	int64		base_ms = retry->base_ms > 0 ? retry->base_ms : BASE_MS;
	int64		ceiling = Min(base_ms << Min(attempt - 1, 20), max_ms);
	int64		bound = retry->max_retry_after_ms > 0 ? retry->max_retry_after_ms : MAX_RETRY_AFTER_MS;
	RctlHttpVerdict verdict = RCTL_HTTP_UNDECIDED;
	int64		delay;

	if (attempt >= (retry->attempts > 0 ? retry->attempts : ATTEMPTS))
		return -1;
	if (retry->judge && response->status != 0)
		verdict = retry->judge(arg, response);
	if (verdict == RCTL_HTTP_TAKE)
		return -1;
	if (verdict == RCTL_HTTP_UNDECIDED &&
		(!worth_another(response) || (!retry->idempotent && !surely_not_done(response))))
		return -1;

	/* All that failed together shall not come back together. */
	delay = (int64) (pg_prng_double(&pg_global_prng_state) * ceiling);
	return (int) Max(delay, Min(response->retry_after_ms, bound));
}

RctlHttpResponse *
rctl_http_call(const RctlHttpRetry *retry, RctlHttpMake make, void *arg)
{
	int			delay = 0;

	for (int attempt = 1;; attempt++)
	{
		RctlHttpRequest request;
		RctlHttpResponse *response;

		/* Before the request is made: it is signed by the time. */
		if (delay > 0)
			rctl_sleep(delay);
		request = *make(arg, attempt);
		request.attempt = attempt;
		response = rctl_http_exchange(&request);
		delay = rctl_http_retry_delay(retry, arg, attempt, response);
		if (delay < 0)
			return response;
	}
}

/* ---- errors ---- */

static char *
other_side(const RctlHttpRequest *request)
{
	RctlHttpUrl url;

	if (request->what)
		return pstrdup(request->what);
	if (rctl_http_url_parse(request->url, &url) == NULL)
		return url.host;
	return pstrdup("the service");
}

void
rctl_http_raise(const RctlHttpRequest *request, const RctlHttpResponse *response)
{
	char	   *what = other_side(request);

	if (response->sent && request->action)
		ereport(ERROR,
				(errcode(response->sqlerrcode),
				 errmsg("no answer from %s to %s", what, request->action),
				 errdetail_internal("%s", response->reason)));
	ereport(ERROR,
			(errcode(response->sqlerrcode),
			 errmsg(response->sent ? "no answer from %s" : "could not reach %s", what),
			 errdetail_internal("%s", response->reason),
			 response->failure == RCTL_HTTP_TLS ?
			 errhint("Check the host name in the URL, and give the certificate authority's file by option ca_file if it is not one that the system knows.") : 0));
}

/* ---- the trace ---- */

static const char *
failure_word(const RctlHttpResponse *response)
{
	switch (response->failure)
	{
		case RCTL_HTTP_OK:
			return "";
		case RCTL_HTTP_REFUSED:
			return "refused";
		case RCTL_HTTP_RESOLVE:
			return "resolve";
		case RCTL_HTTP_CONNECT:
			return "connect";
		case RCTL_HTTP_TLS:
			return "tls";
		case RCTL_HTTP_TIMEOUT:
			return "timeout";
		case RCTL_HTTP_LOST:
			return "lost";
		case RCTL_HTTP_TOO_LARGE:
			return "too_large";
		case RCTL_HTTP_GARBAGE:
			return "garbage";
		case RCTL_HTTP_OTHER:
			break;
	}
	return "other";
}

/* Cut at a character's end. */
static void
put(char *to, size_t size, const char *from)
{
	if (from == NULL)
		from = "";
	strlcpy(to, from, size);
	to[pg_mbcliplen(to, strlen(to), size - 1)] = '\0';
}

void
rctl_http_trace(const RctlHttpRequest *request, const RctlHttpResponse *response)
{
	Trace	   *trace = &traces[ntraces++ % TRACED];
	RctlHttpUrl url;

	if (ntraces == 2 * TRACED)
		ntraces = TRACED;
	if (rctl_http_url_parse(request->url, &url) != NULL)
		url.authority = NULL;
	put(trace->method, sizeof(trace->method), request->method ? request->method : "GET");
	put(trace->host, sizeof(trace->host), url.authority);
	put(trace->action, sizeof(trace->action), request->action);
	put(trace->request_id, sizeof(trace->request_id), response->request_id);
	put(trace->failure, sizeof(trace->failure), failure_word(response));
	trace->status = response->status;
	trace->ms = response->elapsed_ms;
	trace->attempt = Max(request->attempt, 1);
}

static void
append_trace(StringInfo out, const Trace *trace)
{
	appendStringInfoString(out, "{\"method\": ");
	escape_json(out, trace->method);
	appendStringInfoString(out, ", \"host\": ");
	escape_json(out, trace->host);
	if (*trace->action)
	{
		appendStringInfoString(out, ", \"action\": ");
		escape_json(out, trace->action);
	}
	appendStringInfo(out, ", \"status\": %d, \"ms\": %d, \"attempt\": %d",
					 trace->status, trace->ms, trace->attempt);
	if (*trace->request_id)
	{
		appendStringInfoString(out, ", \"request_id\": ");
		escape_json(out, trace->request_id);
	}
	if (*trace->failure)
		appendStringInfo(out, ", \"failure\": \"%s\"", trace->failure);
	appendStringInfoChar(out, '}');
}

char *
rctl_http_take_trace(void)
{
	StringInfoData out;

	if (ntraces == 0)
		return NULL;
	initStringInfo(&out);
	for (int i = Max(ntraces - TRACED, 0); i < ntraces; i++)
	{
		appendStringInfoString(&out, out.len == 0 ? "[" : ", ");
		append_trace(&out, &traces[i % TRACED]);
	}
	appendStringInfoChar(&out, ']');
	ntraces = 0;
	return out.data;
}
