/*-------------------------------------------------------------------------
 *
 * mock_watch.c
 *	  The watch of the provider "mock", in test builds only: tells the monitor
 *	  what the JSON at the server option watch_url says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef RCTL_TEST

#include "utils/timestamp.h"

#include "net/json.h"
#include "provider/mock_watch.h"
#include "provider/watch.h"

/* So many seconds ago. */
static TimestampTz
ago(const RctlJson *json, const char *key)
{
	double		seconds = 0;

	(void) rctl_json_double(json, key, &seconds);
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -(int64) (seconds * 1000));
}

static int
number(const RctlJson *json, const char *key, int otherwise)
{
	int64		value = otherwise;

	(void) rctl_json_int64(json, key, &value);
	return (int) value;
}

static void
tell_replica(RctlWatch *watch, int index, const RctlJson *json)
{
	char	   *status = rctl_json_text(json, "status");
	char	   *host = rctl_json_text(json, "host");
	int			count = rctl_json_array_length(json, "metrics");
	double		value;

	if (status)
		rctl_watch_status(watch, index, status, number(json, "percent", -1));
	if (rctl_json_key(json, "streaming"))
		rctl_watch_streaming(watch, index, rctl_json_bool(json, "streaming", false));
	if (host)
		rctl_watch_endpoint(watch, index, host, number(json, "port", 5432));
	if (rctl_json_double(json, "lag", &value))
		rctl_watch_lag(watch, index, value, ago(json, "lag_age"));
	for (int i = 0; i < count; i++)
	{
		const RctlJson *metric = rctl_json_find(json, psprintf("metrics/%d", i));

		if (rctl_json_double(metric, "value", &value))
			rctl_watch_metric(watch, index, rctl_json_text(metric, "name"), value, rctl_json_text(metric, "unit"),
							  ago(metric, "age"), rctl_json_text(metric, "source"));
	}
}

static void
tell_events(RctlWatch *watch, const RctlJson *json)
{
	int			count = rctl_json_array_length(json, "events");

	for (int i = 0; i < count; i++)
	{
		const RctlJson *event = rctl_json_find(json, psprintf("events/%d", i));
		char	   *name = rctl_json_text(event, "replica");
		int			replica = -1;

		for (int j = 0; name && j < watch->nreplicas; j++)
			if (strcmp(watch->replicas[j]->name, name) == 0)
				replica = j;
		rctl_watch_event(watch, replica, rctl_json_text(event, "id"), ago(event, "age"), "info", "mock",
						 rctl_json_text(event, "message"), NULL);
	}
}

const RctlHttpRequest *
rctl_mock_watch(void *state, const RctlHttpResponse *response)
{
	RctlWatch  *watch = state;
	const char *url = rctl_map_get(watch->server_options, "watch_url");
	RctlHttpRequest *request = palloc0(sizeof(RctlHttpRequest));
	const char *rounds = rctl_map_get_default(watch->memory, "rounds", "0");
	const RctlJson *json;
	char	   *problem;

	if (url == NULL)
		return NULL;
	request->url = url;
	request->what = "the mock service";
	request->action = "Watch";
	if (response == NULL)
	{
		rctl_map_setf(watch->memory, "rounds", "%ld", strtol(rounds, NULL, 10) + 1);
		return request;
	}
	if (response->status == 0)
		rctl_http_raise(request, response);
	json = rctl_json_parse(response->body, response->body_length, &problem);
	if (json == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the answer of the mock service makes no sense"),
				 errdetail_internal("%s", problem)));
	for (int i = 0; i < watch->nreplicas; i++)
		tell_replica(watch, i, rctl_json_key(rctl_json_key(json, "replicas"), watch->replicas[i]->name));
	tell_events(watch, json);
	if (rctl_json_bool(json, "tell_rounds", false))
		rctl_watch_event(watch, -1, psprintf("round %s", rounds), GetCurrentTimestamp(), "info", "mock", rounds, NULL);
	if (rctl_json_text(json, "fail"))
		elog(ERROR, "%s", rctl_json_text(json, "fail"));
	if (watch->state == NULL && rctl_json_bool(json, "endless", false))
		return request;
	return NULL;
}

#endif
