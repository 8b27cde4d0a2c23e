/*-------------------------------------------------------------------------
 *
 * http_test.c
 *	  What the tests of HTTP, XML and JSON need, in test builds only.
 *
 * The install script does not know these functions; the tests create them.
 * They wait in the caller's transaction, as replica_explain() does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef RCTL_TEST

#include <sys/resource.h>
#include <unistd.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/store.h"
#include "net/http.h"
#include "net/json.h"
#include "net/xml.h"

PG_FUNCTION_INFO_V1(rctl_test_http);
PG_FUNCTION_INFO_V1(rctl_test_http_call);
PG_FUNCTION_INFO_V1(rctl_test_http_repeat);
PG_FUNCTION_INFO_V1(rctl_test_http_tasks);
PG_FUNCTION_INFO_V1(rctl_test_http_problem);
PG_FUNCTION_INFO_V1(rctl_test_json);
PG_FUNCTION_INFO_V1(rctl_test_xml);
PG_FUNCTION_INFO_V1(rctl_test_event);

static const RctlJson *
argument(text *value)
{
	char	   *problem = NULL;
	const RctlJson *json = rctl_json_parse(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), &problem);

	if (json == NULL)
		elog(ERROR, "%s", problem);
	return json;
}

static int
number(const RctlJson *json, const char *key)
{
	int64		value = 0;

	(void) rctl_json_int64(json, key, &value);
	return (int) value;
}

/* Keys as the fields of RctlHttpRequest; headers is an object. */
static RctlHttpRequest *
make_request(const RctlJson *json)
{
	RctlHttpRequest *request = palloc0(sizeof(RctlHttpRequest));
	List	   *names = rctl_json_keys(rctl_json_key(json, "headers"));
	RctlHttpHeader *headers = palloc0(sizeof(RctlHttpHeader) * (list_length(names) + 1));
	ListCell   *lc;

	foreach(lc, names)
	{
		headers[foreach_current_index(lc)].name = lfirst(lc);
		headers[foreach_current_index(lc)].value =
			rctl_json_text(rctl_json_key(rctl_json_key(json, "headers"), lfirst(lc)), "");
	}
	request->headers = headers;
	request->method = rctl_json_text(json, "method");
	request->url = rctl_json_text(json, "url");
	request->body = rctl_json_text(json, "body");
	request->what = rctl_json_text(json, "what");
	request->action = rctl_json_text(json, "action");
	request->metadata = rctl_json_bool(json, "metadata", false);
	request->once = rctl_json_bool(json, "once", false);
	request->ca_file = rctl_json_text(json, "ca_file");
	request->ca_pem = rctl_json_text(json, "ca_pem");
	request->cert_file = rctl_json_text(json, "cert_file");
	request->key_file = rctl_json_text(json, "key_file");
	request->cert_pem = rctl_json_text(json, "cert_pem");
	request->key_pem = rctl_json_text(json, "key_pem");
	request->connect_ms = number(json, "connect_ms");
	request->total_ms = number(json, "total_ms");
	request->max_body = number(json, "max_body");
	request->delay_ms = number(json, "delay_ms");
	return request;
}

static void
append_member(StringInfo out, const char *name, const char *value)
{
	appendStringInfo(out, ", \"%s\": ", name);
	if (value)
		escape_json(out, value);
	else
		appendStringInfoString(out, "null");
}

static char *
response_json(const RctlHttpResponse *response)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "{\"status\": %d, \"failure\": %d, \"sent\": %s, \"retry_after_ms\": " INT64_FORMAT
					 ", \"elapsed_ms\": %d, \"length\": %zu",
					 response->status, response->failure, response->sent ? "true" : "false",
					 response->retry_after_ms, response->elapsed_ms, response->body_length);
	append_member(&out, "reason", response->reason);
	append_member(&out, "sqlstate", response->sqlerrcode ? unpack_sql_state(response->sqlerrcode) : NULL);
	append_member(&out, "request_id", response->request_id);
	append_member(&out, "date", response->date ? timestamptz_to_str(response->date) : NULL);
	append_member(&out, "type", rctl_http_header(response, "content-type"));
	append_member(&out, "body", pnstrdup(response->body, Min(response->body_length, 2000)));
	appendStringInfoChar(&out, '}');
	return out.data;
}

/* (request text) returns text; raise: true raises the error of a failure */
Datum
rctl_test_http(PG_FUNCTION_ARGS)
{
	const RctlJson *json = argument(PG_GETARG_TEXT_PP(0));
	RctlHttpRequest *request = make_request(json);
	RctlHttpResponse *response;

	rctl_wait_in_transaction = true;
	PG_TRY();
	{
		response = rctl_http_exchange(request);
		if (response->status == 0 && rctl_json_bool(json, "raise", false))
			rctl_http_raise(request, response);
	}
	PG_FINALLY();
	{
		rctl_wait_in_transaction = false;
	}
	PG_END_TRY();
	PG_RETURN_TEXT_P(cstring_to_text(response_json(response)));
}

typedef struct Call
{
	const RctlJson *json;
	int			made;
} Call;

static const RctlHttpRequest *
make_attempt(void *arg, int attempt)
{
	Call	   *call = arg;

	call->made++;
	return make_request(call->json);
}

/* A body that says "again" is one. */
static RctlHttpVerdict
judge(void *arg, const RctlHttpResponse *response)
{
	return strstr(response->body, "again") ? RCTL_HTTP_AGAIN : RCTL_HTTP_UNDECIDED;
}

/* (request text) returns text: with keys attempts, base_ms, idempotent, judge */
Datum
rctl_test_http_call(PG_FUNCTION_ARGS)
{
	Call		call = {.json = argument(PG_GETARG_TEXT_PP(0))};
	RctlHttpRetry retry = {0};
	RctlHttpResponse *response;
	char	   *trace;

	retry.attempts = number(call.json, "attempts");
	retry.base_ms = number(call.json, "base_ms");
	retry.max_retry_after_ms = number(call.json, "max_retry_after_ms");
	retry.idempotent = rctl_json_bool(call.json, "idempotent", false);
	if (rctl_json_bool(call.json, "judge", false))
		retry.judge = judge;
	(void) rctl_http_take_trace();
	rctl_wait_in_transaction = true;
	PG_TRY();
	{
		response = rctl_http_call(&retry, make_attempt, &call);
	}
	PG_FINALLY();
	{
		rctl_wait_in_transaction = false;
	}
	PG_END_TRY();
	trace = rctl_http_take_trace();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("{\"made\": %d, \"response\": %s, \"trace\": %s}",
											  call.made, response_json(response), trace ? trace : "null")));
}

static long
resident_kb(void)
{
	FILE	   *file = fopen("/proc/self/statm", "r");
	long		size = 0;
	long		resident = 0;

	if (file == NULL || fscanf(file, "%ld %ld", &size, &resident) != 2)
		elog(ERROR, "no /proc/self/statm");
	fclose(file);
	return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static double
cpu_ms(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000.0 +
		(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000.0;
}

/* (request text, warm integer, times integer) returns text: how memory and CPU time grew */
Datum
rctl_test_http_repeat(PG_FUNCTION_ARGS)
{
	const RctlJson *json = argument(PG_GETARG_TEXT_PP(0));
	int			warm = PG_GETARG_INT32(1);
	int			times = PG_GETARG_INT32(2);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "test", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	long		before = 0;
	double		cpu = 0;
	int			failures = 0;

	rctl_wait_in_transaction = true;
	PG_TRY();
	{
		for (int i = 0; i < warm + times; i++)
		{
			if (i == warm)
			{
				before = resident_kb();
				cpu = cpu_ms();
			}
			failures += rctl_http_exchange(make_request(json))->status != 200;
			MemoryContextReset(context);
		}
	}
	PG_FINALLY();
	{
		rctl_wait_in_transaction = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("{\"before_kb\": %ld, \"after_kb\": %ld, \"cpu_ms\": %.1f, \"failures\": %d}",
											  before, resident_kb(), cpu_ms() - cpu, failures)));
}

/* A conversation: the same request some times. */
typedef struct Talk
{
	const RctlJson *json;
	int			left;
	StringInfoData answers;
	TimestampTz ended;
} Talk;

static const RctlHttpRequest *
talk_next(void *state, const RctlHttpResponse *response)
{
	Talk	   *talk = state;

	if (response)
	{
		if (talk->answers.len > 0)
			appendStringInfoChar(&talk->answers, ',');
		appendStringInfoString(&talk->answers, response_json(response));
	}
	if (rctl_json_bool(talk->json, "fail", false) && response)
		elog(ERROR, "the generator failed");
	if (talk->left-- <= 0)
	{
		talk->ended = GetCurrentTimestamp();
		return NULL;
	}
	return make_request(talk->json);
}

static bool
all_ended(RctlHttpTask **tasks, int count)
{
	ErrorData  *error;

	for (int i = 0; i < count; i++)
		if (!rctl_http_task_ended(tasks[i], &error))
			return false;
	return true;
}

static void
run_tasks(RctlHttpTask **tasks, int count, TimestampTz until)
{
	while (!all_ended(tasks, count) && GetCurrentTimestamp() < until)
	{
		int			room = rctl_http_nsockets();
		RctlWaitSocket *sockets = palloc0(sizeof(RctlWaitSocket) * (room + 1));
		long		timeout = rctl_http_timeout();

		room = rctl_http_sockets(sockets, room);
		rctl_wait_many(sockets, room, timeout < 0 ? 1000 : Min(timeout, 1000));
		rctl_http_advance(sockets, room);
		pfree(sockets);
	}
}

/* (requests text: an array, wait_ms integer) returns text: keys times, fail */
Datum
rctl_test_http_tasks(PG_FUNCTION_ARGS)
{
	const RctlJson *json = argument(PG_GETARG_TEXT_PP(0));
	int			count = rctl_json_array_length(json, "");
	Talk	   *talks = palloc0(sizeof(Talk) * count);
	RctlHttpTask **tasks = palloc(sizeof(RctlHttpTask *) * count);
	TimestampTz start = GetCurrentTimestamp();
	StringInfoData out;

	for (int i = 0; i < count; i++)
	{
		talks[i].json = rctl_json_element(json, i);
		talks[i].left = number(talks[i].json, "times");
		initStringInfo(&talks[i].answers);
		tasks[i] = rctl_http_task_start(talk_next, &talks[i]);
	}
	rctl_wait_in_transaction = true;
	PG_TRY();
	{
		run_tasks(tasks, count, TimestampTzPlusMilliseconds(start, PG_GETARG_INT32(1)));
	}
	PG_FINALLY();
	{
		rctl_wait_in_transaction = false;
	}
	PG_END_TRY();

	initStringInfo(&out);
	for (int i = 0; i < count; i++)
	{
		ErrorData  *error;
		bool		ended = rctl_http_task_ended(tasks[i], &error);

		appendStringInfo(&out, "%s{\"ended\": %s, \"ms\": %ld, \"answers\": [%s]", i == 0 ? "[" : ",",
						 ended ? "true" : "false",
						 talks[i].ended ? TimestampDifferenceMilliseconds(start, talks[i].ended) : -1L,
						 talks[i].answers.data);
		append_member(&out, "error", error ? error->message : NULL);
		appendStringInfoChar(&out, '}');
		rctl_http_task_end(tasks[i]);
	}
	appendStringInfoChar(&out, ']');
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}

/* (url text, metadata boolean) returns text */
Datum
rctl_test_http_problem(PG_FUNCTION_ARGS)
{
	char	   *problem = rctl_http_url_problem(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_BOOL(1));

	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

/* (document bytea, path text) returns text: "problem: ..." or the value */
Datum
rctl_test_json(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	char	   *problem = NULL;
	const RctlJson *json = rctl_json_parse(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), &problem);
	char	   *found;

	if (json == NULL)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("problem: %s", problem)));
	found = rctl_json_text(json, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (found == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(found));
}

/* (document bytea, path text, item text) returns text: the texts of all such items there */
Datum
rctl_test_xml(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(2));
	char	   *problem = NULL;
	const RctlXml *root = rctl_xml_parse(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), &problem);
	const RctlXml *parent;
	StringInfoData out;

	if (root == NULL)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("problem: %s", problem)));
	parent = rctl_xml_find(root, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	initStringInfo(&out);
	for (const RctlXml *item = rctl_xml_child(parent, NULL, name); item; item = rctl_xml_child(parent, item, name))
	{
		char	   *content = rctl_xml_text(item, "");

		appendStringInfo(&out, "[%s]", content ? content : "(null)");
	}
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}

/* (message text) returns void: an event, in the caller's transaction */
Datum
rctl_test_event(PG_FUNCTION_ARGS)
{
	RctlStoreScope scope;

	rctl_store_enter(&scope);
	rctl_store_event(NULL, 0, "info", "test", text_to_cstring(PG_GETARG_TEXT_PP(0)), "{}", NULL);
	rctl_store_leave(&scope);
	PG_RETURN_VOID();
}

#endif
