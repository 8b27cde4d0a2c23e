/*-------------------------------------------------------------------------
 *
 * aws_watch.c
 *	  One round of the monitor at Amazon, for all replicas of a server.
 *
 * Three questions, whatever the number of replicas up to 100: their
 * descriptions, all their metrics in one call, and the events since the last
 * round.  A page more of any of them is a request more.
 *
 * CloudWatch measures slot lag and WAL in bytes; they are told in the units
 * of its console, megabytes.  What has no data point is not told at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "provider/aws.h"

#define MEGABYTE (1024.0 * 1024.0)
#define METRIC_MINUTES 10
#define MAX_QUERIES 500
#define FIRST_EVENT_MINUTES 60
#define EVENT_OVERLAP_MINUTES 5
#define MAX_PAGES 10

typedef enum Stage
{
	STAGE_LOGIN,
	STAGE_DESCRIBE,
	STAGE_METRICS,
	STAGE_EVENTS,
	STAGE_END,
} Stage;

typedef struct Round
{
	RctlAwsTarget *target;
	RctlAwsLogin *login;
	const RctlAwsCredentials *credentials;
	Stage		stage;
	RctlAwsCall *call;			/* that was sent last */
	char	   *marker;			/* of the next page; NULL: the first */
	int			pages;
	RctlAwsMetric *metrics;		/* the source's three, then one of each
								 * replica */
	int			nmetrics;
	TimestampTz newest_event;
} Round;

static const char *const source_metrics[] = {
	"FreeStorageSpace", "OldestReplicationSlotLag", "TransactionLogsDiskUsage",
};

static const char *
fact(const RctlWatch *watch, int i, const char *name)
{
	return rctl_map_get(watch->replicas[i]->facts, name);
}

/* The index of the replica with that value of a fact; -1: none. */
static int
find_replica(const RctlWatch *watch, const char *name, const char *value)
{
	for (int i = 0; value && i < watch->nreplicas; i++)
	{
		const char *its = fact(watch, i, name);

		if (its && strcmp(its, value) == 0)
			return i;
	}
	return -1;
}

/* ---------------------------------------------------------------------
 * Status
 * ---------------------------------------------------------------------
 */

static RctlAwsCall *
describe_call(RctlWatch *watch, Round *round)
{
	bool		aurora = round->target->aurora;
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, aurora ? "DescribeDBClusters" : "DescribeDBInstances");
	int			n = 0;

	if (watch->nreplicas == 1)
	{
		if (fact(watch, 0, "identifier") == NULL)
			return NULL;
		rctl_aws_add(call, aurora ? "DBClusterIdentifier" : "DBInstanceIdentifier", fact(watch, 0, "identifier"));
		return call;
	}
	rctl_aws_add(call, "Filters.Filter.1.Name", aurora ? "db-cluster-id" : "db-instance-id");
	for (int i = 0; i < watch->nreplicas; i++)
	{
		const char *identifier = fact(watch, i, "identifier");

		if (identifier)
			rctl_aws_add(call, psprintf("Filters.Filter.1.Values.Value.%d", ++n), identifier);
	}
	rctl_aws_add(call, "MaxRecords", "100");
	rctl_aws_add(call, "Marker", round->marker);
	return n > 0 ? call : NULL;
}

static void
take_descriptions(RctlWatch *watch, Round *round, const RctlXml *result)
{
	bool		aurora = round->target->aurora;
	const RctlXml *list = rctl_xml_find(result, aurora ? "DBClusters" : "DBInstances");
	const char *item = aurora ? "DBCluster" : "DBInstance";

	for (const RctlXml *element = rctl_xml_child(list, NULL, item); element;
		 element = rctl_xml_child(list, element, item))
	{
		RctlAwsInstance *found = aurora ? rctl_aws_read_cluster(element) : rctl_aws_read_instance(element);
		int			i = find_replica(watch, "identifier", found->identifier);

		if (i < 0)
			continue;
		rctl_watch_status(watch, i, found->replication && strcmp(found->status, "available") == 0 &&
						  strcmp(found->replication, "replicating") != 0 ?
						  psprintf("%s, replication: %s", found->status, found->replication) : found->status,
						  found->percent);
		if (found->replication || found->source == NULL)
			rctl_watch_streaming(watch, i, found->source && found->replication &&
								 strcmp(found->status, "available") == 0 &&
								 strcmp(found->replication, "replicating") == 0);
		if (found->host)
			rctl_watch_endpoint(watch, i, found->host, found->port);
	}
}

/* ---------------------------------------------------------------------
 * Metrics
 * ---------------------------------------------------------------------
 */

static void
choose_metrics(RctlWatch *watch, Round *round)
{
	const char *source = rctl_aws_source_name(round->target);
	bool		crosses = round->target->source_arn &&
	strcmp(round->target->source_arn->region, round->target->region) != 0;

	round->metrics = MemoryContextAllocZero(watch->context,
											(lengthof(source_metrics) + watch->nreplicas) * sizeof(RctlAwsMetric));
	for (int i = 0; i < lengthof(source_metrics); i++)
	{
		round->metrics[i].name = source_metrics[i];
		/* CloudWatch of another region has those of its source. */
		round->metrics[i].instance = crosses ? "-" : MemoryContextStrdup(watch->context, source);
	}
	for (int i = 0; i < watch->nreplicas; i++)
	{
		RctlAwsMetric *metric = &round->metrics[lengthof(source_metrics) + i];
		const char *instance = fact(watch, i, round->target->aurora ? "writer" : "identifier");

		metric->name = round->target->aurora ? "RDSToAuroraPostgreSQLReplicaLag" : "ReplicaLag";
		metric->instance = instance ? instance : "-";
	}
	round->nmetrics = Min(lengthof(source_metrics) + watch->nreplicas, MAX_QUERIES);
}

static RctlAwsCall *
metrics_call(RctlWatch *watch, Round *round)
{
	RctlAwsCall *call;

	if (round->metrics == NULL)
		choose_metrics(watch, round);
	call = rctl_aws_metrics_call(round->metrics, round->nmetrics, rctl_aws_clock(), METRIC_MINUTES);
	rctl_aws_add(call, "NextToken", round->marker);
	return call;
}

static void
tell_metrics(RctlWatch *watch, Round *round)
{
	char	   *whose = psprintf("cloudwatch %s", rctl_aws_source_name(round->target));

	for (int i = 0; i < watch->nreplicas; i++)
	{
		int			own = lengthof(source_metrics) + i;

		for (int m = 0; m < lengthof(source_metrics); m++)
		{
			const RctlAwsMetric *metric = &round->metrics[m];
			bool		bytes = strcmp(metric->name, "FreeStorageSpace") == 0;

			if (metric->known)
				rctl_watch_metric(watch, i, metric->name, bytes ? metric->newest.value : metric->newest.value / MEGABYTE,
								  bytes ? "Bytes" : "Megabytes", metric->newest.at, whose);
		}

		/*
		 * Amazon tells of an Aurora replica only by its lag whether it
		 * replicates.
		 */
		if (round->target->aurora && own < round->nmetrics && round->metrics[own].known)
			rctl_watch_streaming(watch, i, round->metrics[own].newest.value >= 0);
		if (own < round->nmetrics && round->metrics[own].known && round->metrics[own].newest.value >= 0)
		{
			const RctlAwsMetric *metric = &round->metrics[own];

			rctl_watch_lag(watch, i, metric->newest.value, metric->newest.at);
			rctl_watch_metric(watch, i, metric->name, metric->newest.value, "Seconds", metric->newest.at,
							  psprintf("cloudwatch %s", metric->instance));
		}
	}
}

/* ---------------------------------------------------------------------
 * Events
 * ---------------------------------------------------------------------
 */

static RctlAwsCall *
events_call(RctlWatch *watch, Round *round)
{
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, "DescribeEvents");
	const char *read_to = rctl_map_get(watch->memory, "events_read_to");
	TimestampTz now = rctl_aws_clock();
	TimestampTz since = TimestampTzPlusMilliseconds(now, -FIRST_EVENT_MINUTES * 60 * INT64CONST(1000));
	TimestampTz oldest = TimestampTzPlusMilliseconds(now, -13 * 24 * 3600 * INT64CONST(1000));

	/* Events may turn up late; each is written once, whoever tells it again. */
	if (read_to)
		since = TimestampTzPlusMilliseconds(strtoll(read_to, NULL, 10), -EVENT_OVERLAP_MINUTES * 60 * INT64CONST(1000));
	rctl_aws_add_time(call, "StartTime", Max(since, oldest));
	rctl_aws_add(call, "MaxRecords", "100");
	rctl_aws_add(call, "Marker", round->marker);
	return call;
}

/* By the words of the message: Amazon does not tell the number of the event. */
static const char *
severity_of(const RctlXml *event, const char *message)
{
	const RctlXml *categories = rctl_xml_find(event, "EventCategories");
	char	   *lower = rctl_aws_lower(message);

	for (const RctlXml *category = rctl_xml_child(categories, NULL, "EventCategory"); category;
		 category = rctl_xml_child(categories, category, "EventCategory"))
	{
		char	   *name = rctl_xml_text(category, "");

		if (name && strcmp(name, "failure") == 0)
			return "error";
		if (name && (strcmp(name, "low storage") == 0 || strcmp(name, "failover") == 0))
			return "warning";
	}
	if (strstr(lower, "failed") || strstr(lower, "terminated") || strstr(lower, "error"))
		return "error";
	if (strstr(lower, "stopped") || strstr(lower, "storage"))
		return "warning";
	return "info";
}

/* The replica that the event is of; -1: the source; -2: somebody else's. */
static int
event_subject(RctlWatch *watch, Round *round, const char *type, const char *identifier)
{
	int			i = -1;

	if (strcmp(type, "db-cluster") == 0)
		i = round->target->aurora ? find_replica(watch, "identifier", identifier) : -1;
	else if (strcmp(type, "db-instance") == 0)
		i = find_replica(watch, round->target->aurora ? "writer" : "identifier", identifier);
	if (i >= 0)
		return i;
	return strcmp(type, "db-instance") == 0 && strcmp(identifier, rctl_aws_source_name(round->target)) == 0 ? -1 : -2;
}

static void
take_event(RctlWatch *watch, Round *round, const RctlXml *event)
{
	char	   *identifier = rctl_xml_text(event, "SourceIdentifier");
	char	   *type = rctl_xml_text(event, "SourceType");
	char	   *message = rctl_xml_text(event, "Message");
	char	   *date = rctl_xml_text(event, "Date");
	TimestampTz at = rctl_aws_parse_time(date);
	RctlMap    *detail;
	int			subject;

	if (identifier == NULL || type == NULL || message == NULL || at == 0)
		return;
	round->newest_event = Max(round->newest_event, at);
	identifier = rctl_aws_lower(identifier);
	subject = event_subject(watch, round, type, identifier);
	if (subject == -2)
		return;
	detail = rctl_map_make();
	rctl_map_set(detail, "source_identifier", identifier);
	rctl_map_set(detail, "source_type", type);
	rctl_watch_event(watch, subject, psprintf("%s %s %s %s", type, identifier, date, message), at,
					 severity_of(event, message), "aws", psprintf("%s: %s", identifier, message), detail);
}

static void
take_events(RctlWatch *watch, Round *round, const RctlXml *result)
{
	const RctlXml *events = rctl_xml_find(result, "Events");

	for (const RctlXml *event = rctl_xml_child(events, NULL, "Event"); event;
		 event = rctl_xml_child(events, event, "Event"))
		take_event(watch, round, event);
}

/* ---------------------------------------------------------------------
 * The round
 * ---------------------------------------------------------------------
 */

/* Takes an answer; true: there is another page. */
static bool
take(RctlWatch *watch, Round *round, const RctlXml *result)
{
	const char *next = round->stage == STAGE_METRICS ? "NextToken" : "Marker";
	char	   *marker = rctl_xml_text(result, next);

	switch (round->stage)
	{
		case STAGE_DESCRIBE:
			take_descriptions(watch, round, result);
			break;
		case STAGE_METRICS:
			rctl_aws_read_metrics(result, round->metrics, round->nmetrics);
			break;
		case STAGE_EVENTS:
			take_events(watch, round, result);
			break;
		case STAGE_LOGIN:
		case STAGE_END:
			break;
	}
	round->marker = marker ? MemoryContextStrdup(watch->context, marker) : NULL;
	return marker != NULL && ++round->pages < MAX_PAGES;
}

static RctlAwsCall *
stage_call(RctlWatch *watch, Round *round)
{
	switch (round->stage)
	{
		case STAGE_DESCRIBE:
			return describe_call(watch, round);
		case STAGE_METRICS:
			return metrics_call(watch, round);
		case STAGE_EVENTS:
			return events_call(watch, round);
		case STAGE_LOGIN:
		case STAGE_END:
			break;
	}
	return NULL;
}

static void
leave_stage(RctlWatch *watch, Round *round)
{
	if (round->stage == STAGE_METRICS)
		tell_metrics(watch, round);
	else if (round->stage == STAGE_EVENTS)
		rctl_map_setf(watch->memory, "events_read_to", INT64_FORMAT, (int64) rctl_aws_clock());
	round->stage++;
	round->marker = NULL;
	round->pages = 0;
}

static Round *
begin(RctlWatch *watch)
{
	MemoryContext old = MemoryContextSwitchTo(watch->context);
	Round	   *round = palloc0(sizeof(Round));

	round->target = rctl_aws_watch_target(watch);
	round->login = rctl_aws_login(&round->target->user);
	MemoryContextSwitchTo(old);
	return round;
}

const RctlHttpRequest *
rctl_aws_watch_next(void *state, const RctlHttpResponse *response)
{
	RctlWatch  *watch = state;
	Round	   *round = watch->state;

	if (watch->nreplicas == 0)
		return NULL;
	if (round == NULL)
		watch->state = round = begin(watch);
	if (round->stage == STAGE_LOGIN)
	{
		const RctlHttpRequest *request = rctl_aws_login_next(round->login, response);

		if (request)
			return request;
		round->credentials = rctl_aws_login_result(round->login);
		round->stage = STAGE_DESCRIBE;
	}
	else
	{
		RctlAwsAnswer *answer = rctl_aws_judge(round->target, round->call, response, round->credentials);

		if (round->stage == STAGE_DESCRIBE && rctl_aws_code_is(answer, "NotFound"))
		{
			/* It was deleted by somebody, or is only about to be made. */
			if (watch->nreplicas == 1)
				rctl_watch_status(watch, 0, "not found", -1);
			leave_stage(watch, round);
		}
		else if (answer->result == NULL)
		{
			if (rctl_aws_code_is(answer, "ExpiredToken"))
				rctl_aws_forget(&round->target->user);
			(void) rctl_aws_clock_learn(response);
			rctl_aws_raise(round->call, answer);
		}
		else if (!take(watch, round, answer->result))
			leave_stage(watch, round);
	}
	for (; round->stage != STAGE_END; leave_stage(watch, round))
	{
		MemoryContext old = MemoryContextSwitchTo(watch->context);

		round->call = stage_call(watch, round);
		MemoryContextSwitchTo(old);
		if (round->call)
			return rctl_aws_request(round->target, round->call, round->credentials);
	}
	return NULL;
}
