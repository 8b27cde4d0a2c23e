/*-------------------------------------------------------------------------
 *
 * aiven_watch.c
 *	  One look at all replicas of a project, for the monitor.
 *
 * A round is one list of the project's services, however many replicas there
 * are.  It tells states, progress and endpoints, and the connection data by
 * which the monitor then asks the replicas themselves how far they are: Aiven
 * has no metric for lag.
 *
 * Metrics are had by a request a service, and events by another, all sharing
 * the token's limit of about 120 requests a minute with everybody else.  With
 * few replicas they go along with each round; with many there are some every
 * few rounds, in turn, and what was seen last is told again with its time.
 * Neither fails a round: they are left out until the next turn.
 *
 * What is remembered (RctlWatch.memory): "round", "turn", "events" (time of
 * the newest event told), "metric <id>" (the last values of a replica).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "pgtime.h"
#include "utils/timestamp.h"

#include "provider/aiven.h"
#include "provider/watch.h"

/* As many replicas are few: each one's metrics in each round. */
#define FEW 5

/* Else so many, every so many rounds. */
#define MANY_METRICS 10
#define MANY_ROUNDS 5

/* Events are asked for every so many rounds; a first look goes back so far. */
#define EVENT_ROUNDS 5
#define EVENT_LIMIT 100
#define EVENTS_BACK_MS (60 * 60 * 1000)

typedef enum Phase
{
	PHASE_LIST,
	PHASE_METRICS,
	PHASE_EVENTS,
	PHASE_END,
} Phase;

typedef struct Round
{
	RctlAiven  *aiven;
	Phase		phase;			/* of the request that is out */
	const RctlHttpRequest *request;
	int			number;			/* of the round, from 0 */
	int			metrics_left;	/* replicas to ask for in this round */
	int			replica;		/* whose metrics are asked for */
	int64	   *disk_mb;		/* by replica */
} Round;

/* Metrics of Aiven and what they are called here. */
static const struct
{
	const char *aiven;
	const char *name;
	const char *unit;
}			metrics[] =

{
	{"cpu_usage", "CPUUtilization", "Percent"},
	{"disk_usage", "DiskUsage", "Percent"},
	{"mem_usage", "MemoryUsage", "Percent"},
};

static bool
same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

/* "2026-07-23T10:00:00.123456Z"; false if it is something else. */
static bool
parse_time(const char *text, TimestampTz *moment)
{
	struct pg_tm tm = {0};
	double		seconds;
	int			offset = 0;
	Timestamp	result;

	if (text == NULL ||
		sscanf(text, "%4d-%2d-%2dT%2d:%2d:%lf", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
			   &tm.tm_hour, &tm.tm_min, &seconds) != 6)
		return false;
	if (!(seconds >= 0 && seconds < 61) || !IS_VALID_JULIAN(tm.tm_year, tm.tm_mon, tm.tm_mday) ||
		tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59)
		return false;
	tm.tm_sec = (int) seconds;
	if (tm2timestamp(&tm, (fsec_t) ((seconds - tm.tm_sec) * 1000000), &offset, &result) != 0)
		return false;
	*moment = result;
	return true;
}

/* ---------------------------------------------------------------------
 * Services
 * ---------------------------------------------------------------------
 */

static const char *
service_name(const RctlReplica *replica)
{
	return rctl_map_get(replica->facts, "service_name");
}

static void
tell_trouble(RctlWatch *watch, int index, const char *kind, char *message)
{
	const RctlReplica *replica = watch->replicas[index];
	const char *id = rctl_map_get_default(replica->facts, "integration_id", "?");

	rctl_watch_event(watch, index, psprintf("%s %s %s", kind, service_name(replica), id), GetCurrentTimestamp(),
					 "error", "aiven", message, NULL);
}

/*
 * Its own word by SQL, if it can be reached; else what Aiven says of the
 * integration.
 */
static void
tell_lag(RctlWatch *watch, int index, const RctlAivenService *service)
{
	bool		streaming;
	double		lag;
	TimestampTz at;

	if (rctl_aiven_last_answer(watch->replicas[index], &streaming, &lag, &at))
	{
		rctl_watch_streaming(watch, index, streaming);
		if (!isnan(lag))
			rctl_watch_lag(watch, index, lag, at);
	}
	else if (service->integration_state && strcmp(service->integration_state, "unknown") != 0)
		rctl_watch_streaming(watch, index, rctl_aiven_running(service) &&
							 strcmp(service->integration_state, "running") == 0);
}

static void
tell_service(RctlWatch *watch, int index, const RctlAivenService *service)
{
	Round	   *round = watch->state;
	const RctlReplica *replica = watch->replicas[index];
	int			percent = -1;

	if (service->total > 0)
		percent = (int) (100.0 * service->done / service->total);
	rctl_watch_status(watch, index, service->activity, percent);
	if (service->host)
		rctl_watch_endpoint(watch, index, service->host,
							service->port ? (int) strtol(service->port, NULL, 10) : 5432);
	tell_lag(watch, index, service);
	if (rctl_aiven_remember(replica, service))
		rctl_watch_login(watch);
	round->disk_mb[index] = service->disk_space_mb;
	if (!service->is_replica && strcmp(replica->state, "promoted") != 0 && strcmp(replica->state, "promoting") != 0)
		tell_trouble(watch, index, "promoted",
					 psprintf("Aiven service \"%s\" is no read replica any more: its integration was deleted", service->name));
	if (strcmp(service->state, "POWEROFF") == 0)
		tell_trouble(watch, index, psprintf("poweroff %s", service->create_time ? service->create_time : ""),
					 psprintf("Aiven service \"%s\" is powered off", service->name));
}

static void
take_list(RctlWatch *watch, const RctlAivenAnswer *answer)
{
	Round	   *round = watch->state;
	const RctlJson *list = rctl_json_find(answer->json, "services");
	int			count = rctl_json_array_length(answer->json, "services");
	bool	   *seen = palloc0(sizeof(bool) * Max(watch->nreplicas, 1));

	if (!rctl_aiven_ok(answer) || count < 0)
		rctl_aiven_refuse(round->aiven, answer, "could not list the services of Aiven project \"%s\"", round->aiven->project);
	for (int i = 0; i < count; i++)
	{
		const RctlJson *json = rctl_json_element(list, i);
		char	   *name = rctl_json_text(json, "service_name");

		for (int r = 0; r < watch->nreplicas; r++)
		{
			if (!same(service_name(watch->replicas[r]), name))
				continue;
			tell_service(watch, r, rctl_aiven_read_service(json));
			seen[r] = true;
		}
	}
	for (int r = 0; r < watch->nreplicas; r++)
	{
		if (seen[r] || service_name(watch->replicas[r]) == NULL)
			continue;
		rctl_watch_status(watch, r, "gone", -1);
		tell_trouble(watch, r, "gone", psprintf("Aiven service \"%s\" does not exist any more", service_name(watch->replicas[r])));
	}
}

/* ---------------------------------------------------------------------
 * Metrics
 * ---------------------------------------------------------------------
 */

/* The newest value: the mean over the nodes of the last row that has one. */
static bool
newest_value(const RctlJson *metric, double *value, TimestampTz *moment)
{
	const RctlJson *rows = rctl_json_find(metric, "data/rows");

	for (int i = rctl_json_array_length(metric, "data/rows") - 1; i >= 0; i--)
	{
		const RctlJson *row = rctl_json_element(rows, i);
		int			nodes = 0;
		double		sum = 0;
		double		cell;

		if (!parse_time(rctl_json_text(row, "0"), moment))
			continue;
		for (int column = 1; column < rctl_json_array_length(row, ""); column++)
		{
			if (rctl_json_double(row, psprintf("%d", column), &cell))
			{
				sum += cell;
				nodes++;
			}
		}
		if (nodes > 0)
		{
			*value = sum / nodes;
			return true;
		}
	}
	return false;
}

static char *
memory_key(const RctlReplica *replica)
{
	return psprintf("metric " INT64_FORMAT, replica->id);
}

static void
take_metrics(RctlWatch *watch, const RctlAivenAnswer *answer)
{
	Round	   *round = watch->state;
	RctlMap    *values = rctl_map_make();

	if (!rctl_aiven_ok(answer))
		return;
	for (int i = 0; i < lengthof(metrics); i++)
	{
		double		value;
		TimestampTz moment;

		if (newest_value(rctl_json_find(answer->json, psprintf("metrics/%s", metrics[i].aiven)), &value, &moment))
			rctl_map_setf(values, metrics[i].aiven, "%.17g " INT64_FORMAT, value, (int64) moment);
	}
	rctl_map_set(watch->memory, memory_key(watch->replicas[round->replica]), rctl_map_to_json(values));
}

/* What is remembered of a replica, with the time it is of. */
static void
tell_metrics(RctlWatch *watch, int index)
{
	Round	   *round = watch->state;
	const char *text = rctl_map_get(watch->memory, memory_key(watch->replicas[index]));
	RctlMap    *values = text ? rctl_map_from_json(text, "metrics") : rctl_map_make();
	char	   *source = psprintf("aiven %s", service_name(watch->replicas[index]));

	for (int i = 0; i < lengthof(metrics); i++)
	{
		const char *entry = rctl_map_get(values, metrics[i].aiven);
		char	   *end;
		double		value;
		TimestampTz moment;

		if (entry == NULL)
			continue;
		value = strtod(entry, &end);
		moment = strtoll(end, NULL, 10);
		rctl_watch_metric(watch, index, metrics[i].name, value, metrics[i].unit, moment, source);

		/* The seed's name, in its unit. */
		if (strcmp(metrics[i].aiven, "disk_usage") == 0 && round->disk_mb[index] > 0 && value >= 0 && value <= 100)
			rctl_watch_metric(watch, index, "FreeStorageSpace",
							  rint(round->disk_mb[index] * 1048576.0 * (100 - value) / 100), "Bytes", moment, source);
	}
}

/* Whose metrics are due next; -1: nobody's in this round. */
static int
next_metrics(RctlWatch *watch)
{
	Round	   *round = watch->state;
	int			turn = (int) strtol(rctl_map_get_default(watch->memory, "turn", "0"), NULL, 10);

	for (int tried = 0; tried < watch->nreplicas && round->metrics_left > 0; tried++)
	{
		int			index = (turn + tried) % watch->nreplicas;

		if (service_name(watch->replicas[index]) == NULL)
			continue;
		round->metrics_left--;
		rctl_map_setf(watch->memory, "turn", "%d", (index + 1) % watch->nreplicas);
		return index;
	}
	return -1;
}

/* ---------------------------------------------------------------------
 * Events
 * ---------------------------------------------------------------------
 */

static void
take_event(RctlWatch *watch, const RctlJson *event, TimestampTz since, TimestampTz *newest)
{
	Round	   *round = watch->state;
	char	   *id = rctl_json_text(event, "id");
	char	   *service = rctl_json_text(event, "service_name");
	char	   *text = rctl_json_text(event, "event_desc");
	char	   *type = rctl_json_text(event, "event_type");
	TimestampTz at;
	RctlMap    *detail = rctl_map_make();

	if (id == NULL || service == NULL || !parse_time(rctl_json_text(event, "time"), &at) || at < since)
		return;
	*newest = Max(*newest, at);
	rctl_map_set(detail, "event_type", type);
	rctl_map_set(detail, "service_name", service);
	rctl_map_set(detail, "actor", rctl_json_text(event, "actor"));
	if (text == NULL || *text == '\0')
		text = type ? type : pstrdup("event without a description");

	for (int r = 0; r < watch->nreplicas; r++)
	{
		if (same(service_name(watch->replicas[r]), service))
			rctl_watch_event(watch, r, id, at, "info", "aiven", text, detail);
	}
	if (strcmp(service, round->aiven->source) == 0)
		rctl_watch_event(watch, -1, id, at, "info", "aiven", text, detail);
}

static void
take_events(RctlWatch *watch, const RctlAivenAnswer *answer)
{
	const RctlJson *list = rctl_json_find(answer->json, "events");
	int			count = rctl_json_array_length(answer->json, "events");
	const char *known = rctl_map_get(watch->memory, "events");
	TimestampTz since = known ? strtoll(known, NULL, 10) :
	TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -EVENTS_BACK_MS);
	TimestampTz newest = since;

	if (!rctl_aiven_ok(answer))
		return;
	/* oldest first, as they are written */
	for (int i = count - 1; i >= 0; i--)
		take_event(watch, rctl_json_element(list, i), since, &newest);
	rctl_map_setf(watch->memory, "events", INT64_FORMAT, (int64) newest);
}

/* ---------------------------------------------------------------------
 * The round
 * ---------------------------------------------------------------------
 */

static void
begin(RctlWatch *watch)
{
	MemoryContext old = MemoryContextSwitchTo(watch->context);
	Round	   *round = palloc0(sizeof(Round));

	round->aiven = rctl_aiven_make(watch->server, OidIsValid(watch->userid) ? "CURRENT_USER" : "PUBLIC", watch->server_options, watch->mapping);
	round->disk_mb = palloc0(sizeof(int64) * Max(watch->nreplicas, 1));
	round->number = (int) strtol(rctl_map_get_default(watch->memory, "round", "0"), NULL, 10);
	if (watch->nreplicas <= FEW)
		round->metrics_left = watch->nreplicas;
	else if (round->number % MANY_ROUNDS == MANY_ROUNDS - 1)
		round->metrics_left = MANY_METRICS;
	watch->state = round;
	MemoryContextSwitchTo(old);
	rctl_map_setf(watch->memory, "round", "%d", (round->number + 1) % 1000000);
}

static const RctlHttpRequest *
next_request(RctlWatch *watch)
{
	Round	   *round = watch->state;
	const RctlAiven *aiven = round->aiven;

	round->replica = next_metrics(watch);
	if (round->replica >= 0)
	{
		round->phase = PHASE_METRICS;
		return rctl_aiven_request(aiven, "POST",
								  rctl_aiven_path(aiven, "service", service_name(watch->replicas[round->replica]), "metrics", NULL),
								  "{\"period\": \"hour\"}", "ServiceMetricsFetch");
	}
	if (round->phase != PHASE_EVENTS && round->number % EVENT_ROUNDS == (watch->nreplicas <= FEW ? 0 : 2))
	{
		round->phase = PHASE_EVENTS;
		return rctl_aiven_request(aiven, "GET",
								  psprintf("%s?limit=%d", rctl_aiven_path(aiven, "events", NULL), EVENT_LIMIT),
								  NULL, "ProjectGetEventLogs");
	}
	round->phase = PHASE_END;
	return NULL;
}

const RctlHttpRequest *
rctl_aiven_watch(void *state, const RctlHttpResponse *response)
{
	RctlWatch  *watch = state;
	Round	   *round = watch->state;
	RctlAivenAnswer *answer;

	if (round == NULL)
	{
		begin(watch);
		round = watch->state;
		round->phase = PHASE_LIST;
		round->request = rctl_aiven_request(round->aiven, "GET",
											psprintf("%s?include_secrets=true", rctl_aiven_path(round->aiven, "service", NULL)),
											NULL, "ServiceList");
		return round->request;
	}
	answer = rctl_aiven_understand(round->aiven, round->request, response);
	if (round->phase == PHASE_LIST)
		take_list(watch, answer);
	else if (round->phase == PHASE_METRICS)
		take_metrics(watch, answer);
	else
		take_events(watch, answer);

	/* The limit is reached, or the API is in trouble: no more in this round. */
	if (!rctl_aiven_ok(answer) && !rctl_aiven_missing(answer))
		round->request = NULL;
	else
		round->request = next_request(watch);
	if (round->request == NULL)
	{
		for (int r = 0; r < watch->nreplicas; r++)
			tell_metrics(watch, r);
	}
	return round->request;
}
