/*-------------------------------------------------------------------------
 *
 * aws_describe.c
 *	  Instances, clusters, tags and metrics of Amazon, as they are now.
 *
 * Nothing here changes anything.  What Amazon does not tell is NULL, 0 or -1,
 * never guessed; optional elements may be absent or empty.
 *
 * rctl_aws_wait() is the one loop that waits for Amazon.  Statuses that are
 * not known are taken for passing ones: Amazon adds new ones.  An operation of
 * hours must not end because the network was gone for a while, so that
 * failures of the calls are waited out for OUTAGE_MS.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "datatype/timestamp.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "net/wait.h"
#include "provider/aws.h"

#define OUTAGE_MS (3600 * 1000)

/* A resource that was just made may not be seen everywhere yet. */
#define MISSING_LOOKS 5

#define FIRST_PAUSE_MS 1000
#define DEFAULT_PAUSE_MS 15000
#define METRIC_PERIOD 60
#define MAX_PAGES 20

/* ---------------------------------------------------------------------
 * Reading
 * ---------------------------------------------------------------------
 */

static bool
xml_bool(const RctlXml *element, const char *path)
{
	char	   *value = rctl_xml_text(element, path);

	return value && strcmp(value, "true") == 0;
}

static int64
xml_integer(const RctlXml *element, const char *path, int64 otherwise)
{
	char	   *text = rctl_xml_text(element, path);

	return text ? strtoll(text, NULL, 10) : otherwise;
}

/* The texts of <list><item>..</item></list>, or of a path below each item. */
static List *
xml_texts(const RctlXml *element, const char *list, const char *item, const char *path)
{
	const RctlXml *parent = rctl_xml_find(element, list);
	List	   *texts = NIL;

	for (const RctlXml *child = rctl_xml_child(parent, NULL, item); child;
		 child = rctl_xml_child(parent, child, item))
	{
		char	   *text = rctl_xml_text(child, path);

		if (text)
			texts = lappend(texts, text);
	}
	return texts;
}

static char *
find_tag(const RctlXml *tags, const char *wanted)
{
	for (const RctlXml *tag = rctl_xml_child(tags, NULL, "Tag"); tag; tag = rctl_xml_child(tags, tag, "Tag"))
	{
		char	   *key = rctl_xml_text(tag, "Key");

		if (key && strcmp(key, wanted) == 0)
			return rctl_xml_text(tag, "Value");
	}
	return NULL;
}

static void
read_tags(RctlAwsInstance *instance, const RctlXml *element)
{
	const RctlXml *tags = rctl_xml_find(element, "TagList");

	instance->tags_told = tags != NULL;
	instance->owner = find_tag(tags, RCTL_AWS_TAG);
}

static char *
lower_text(const RctlXml *element, const char *path)
{
	char	   *text = rctl_xml_text(element, path);

	return text ? rctl_aws_lower(text) : NULL;
}

/* What Amazon says about the replication, and about trouble. */
static void
read_status_infos(RctlAwsInstance *instance, const RctlXml *element)
{
	const RctlXml *infos = rctl_xml_find(element, "StatusInfos");

	for (const RctlXml *info = rctl_xml_child(infos, NULL, "DBInstanceStatusInfo"); info;
		 info = rctl_xml_child(infos, info, "DBInstanceStatusInfo"))
	{
		char	   *type = rctl_xml_text(info, "StatusType");

		if (type && strcmp(type, "read replication") == 0)
			instance->replication = rctl_xml_text(info, "Status");
		if (rctl_xml_text(info, "Message") && !xml_bool(info, "Normal"))
			instance->trouble = rctl_xml_text(info, "Message");
	}
}

RctlAwsInstance *
rctl_aws_read_instance(const RctlXml *element)
{
	RctlAwsInstance *instance = palloc0(sizeof(RctlAwsInstance));
	char	   *status = rctl_xml_text(element, "DBInstanceStatus");

	instance->identifier = lower_text(element, "DBInstanceIdentifier");
	instance->arn = rctl_xml_text(element, "DBInstanceArn");
	instance->resource = rctl_xml_text(element, "DbiResourceId");
	instance->status = status ? status : pstrdup("unknown");
	instance->engine = rctl_xml_text(element, "Engine");
	instance->version = rctl_xml_text(element, "EngineVersion");
	instance->instance_class = rctl_xml_text(element, "DBInstanceClass");
	instance->host = rctl_xml_text(element, "Endpoint/Address");
	instance->port = (int) xml_integer(element, "Endpoint/Port", 5432);
	instance->source = rctl_xml_text(element, "ReadReplicaSourceDBInstanceIdentifier");
	if (instance->source == NULL)
		instance->source = rctl_xml_text(element, "ReadReplicaSourceDBClusterIdentifier");
	instance->cluster = lower_text(element, "DBClusterIdentifier");
	instance->kms_key = rctl_xml_text(element, "KmsKeyId");
	instance->encrypted = xml_bool(element, "StorageEncrypted");
	instance->protected = xml_bool(element, "DeletionProtection");
	instance->backup_days = (int) xml_integer(element, "BackupRetentionPeriod", -1);
	instance->storage_gb = xml_integer(element, "AllocatedStorage", 0);
	instance->max_storage_gb = xml_integer(element, "MaxAllocatedStorage", 0);
	instance->percent = -1;
	instance->replicas = xml_texts(element, "ReadReplicaDBInstanceIdentifiers", "ReadReplicaDBInstanceIdentifier", "");
	instance->cluster_replicas = xml_texts(element, "ReadReplicaDBClusterIdentifiers",
										   "ReadReplicaDBClusterIdentifier", "");
	read_status_infos(instance, element);
	read_tags(instance, element);
	return instance;
}

RctlAwsInstance *
rctl_aws_read_cluster(const RctlXml *element)
{
	RctlAwsInstance *cluster = palloc0(sizeof(RctlAwsInstance));
	char	   *status = rctl_xml_text(element, "Status");

	cluster->is_cluster = true;
	cluster->identifier = lower_text(element, "DBClusterIdentifier");
	cluster->arn = rctl_xml_text(element, "DBClusterArn");
	cluster->resource = rctl_xml_text(element, "DbClusterResourceId");
	cluster->status = status ? status : pstrdup("unknown");
	cluster->engine = rctl_xml_text(element, "Engine");
	cluster->version = rctl_xml_text(element, "EngineVersion");
	cluster->host = rctl_xml_text(element, "Endpoint");
	cluster->reader_host = rctl_xml_text(element, "ReaderEndpoint");
	cluster->port = (int) xml_integer(element, "Port", 5432);
	cluster->source = rctl_xml_text(element, "ReplicationSourceIdentifier");
	cluster->kms_key = rctl_xml_text(element, "KmsKeyId");
	cluster->encrypted = xml_bool(element, "StorageEncrypted");
	cluster->protected = xml_bool(element, "DeletionProtection");
	cluster->backup_days = (int) xml_integer(element, "BackupRetentionPeriod", -1);
	cluster->percent = (int) xml_integer(element, "PercentProgress", -1);
	cluster->replicas = xml_texts(element, "ReadReplicaIdentifiers", "ReadReplicaIdentifier", "");
	cluster->members = xml_texts(element, "DBClusterMembers", "DBClusterMember", "DBInstanceIdentifier");
	read_tags(cluster, element);
	return cluster;
}

/* ---------------------------------------------------------------------
 * Describing
 * ---------------------------------------------------------------------
 */

static RctlAwsCall *
describe_call(bool cluster, const char *identifier)
{
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, cluster ? "DescribeDBClusters" : "DescribeDBInstances");

	rctl_aws_add(call, cluster ? "DBClusterIdentifier" : "DBInstanceIdentifier", identifier);
	return call;
}

/* NULL: the answer holds no such resource. */
static RctlAwsInstance *
read_described(bool cluster, const RctlXml *result, const char *identifier)
{
	const RctlXml *list = rctl_xml_find(result, cluster ? "DBClusters" : "DBInstances");
	const char *item = cluster ? "DBCluster" : "DBInstance";

	for (const RctlXml *element = rctl_xml_child(list, NULL, item); element;
		 element = rctl_xml_child(list, element, item))
	{
		RctlAwsInstance *found = cluster ? rctl_aws_read_cluster(element) : rctl_aws_read_instance(element);

		if (found->identifier && strcmp(found->identifier, rctl_aws_lower(identifier)) == 0)
			return found;
	}
	return NULL;
}

static bool
is_not_found(bool cluster, const RctlAwsAnswer *answer)
{
	return rctl_aws_code_is(answer, cluster ? "DBClusterNotFound" : "DBInstanceNotFound");
}

RctlAwsInstance *
rctl_aws_resource(const RctlAwsTarget *target, bool cluster, const char *identifier)
{
	RctlAwsCall *call = describe_call(cluster, identifier);
	RctlAwsAnswer *answer = rctl_aws_perform(target, call);

	if (answer->result)
		return read_described(cluster, answer->result, identifier);
	if (!is_not_found(cluster, answer))
		rctl_aws_raise(call, answer);
	return NULL;
}

RctlAwsInstance *
rctl_aws_instance(const RctlAwsTarget *target, const char *identifier)
{
	return rctl_aws_resource(target, false, identifier);
}

RctlAwsInstance *
rctl_aws_cluster(const RctlAwsTarget *target, const char *identifier)
{
	return rctl_aws_resource(target, true, identifier);
}

RctlAwsInstance *
rctl_aws_source(const RctlAwsTarget *target, char **reason)
{
	const char *name = rctl_aws_source_name(target);
	RctlAwsCall *call = describe_call(false, name);
	RctlAwsAnswer *answer;

	*reason = NULL;
	if (target->source_arn && strcmp(target->source_arn->region, target->region) != 0)
	{
		call->region = target->source_arn->region;
		call->endpoint = rctl_map_get(target->options, "source_endpoint");
		if (call->endpoint == NULL &&
			(rctl_map_get(target->options, "endpoint") || rctl_map_get(target->options, "rds_endpoint")))
		{
			*reason = psprintf("It is in region %s, whose endpoint is not known.", call->region);
			return NULL;
		}
	}
	answer = rctl_aws_perform(target, call);
	if (answer->result)
		return read_described(false, answer->result, name);
	if (!is_not_found(false, answer))
		rctl_aws_raise(call, answer);
	*reason = psprintf("%s", answer->detail);
	return NULL;
}

bool
rctl_aws_is_ours(const RctlAwsTarget *target, RctlAwsInstance *instance, const char *owner)
{
	if (owner == NULL || owner[0] == '\0')
		return false;
	if (!instance->tags_told && instance->arn)
	{
		RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, "ListTagsForResource");

		rctl_aws_add(call, "ResourceName", instance->arn);
		instance->owner = find_tag(rctl_xml_find(rctl_aws_result(target, call), "TagList"), RCTL_AWS_TAG);
		instance->tags_told = true;
	}
	return instance->owner != NULL && strcmp(instance->owner, owner) == 0;
}

/* ---------------------------------------------------------------------
 * Waiting
 * ---------------------------------------------------------------------
 */

bool
rctl_aws_status_is_fatal(const char *status)
{
	static const char *const fatal[] = {
		"failed", "restore-error", "storage-full", "insufficient-capacity", "migration-failed",
		"inaccessible-encryption-credentials", "inaccessible-encryption-credentials-recoverable",
		"cloning-failed", "deleted", NULL
	};

	for (const char *const *f = fatal; *f; f++)
	{
		if (strcmp(status, *f) == 0)
			return true;
	}
	return strncmp(status, "incompatible-", 13) == 0;
}

static void
raise_fatal(const RctlAwsInstance *instance, const char *doing)
{
	const char *what = instance->is_cluster ? "DB cluster" : "DB instance";

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s \"%s\" is in status \"%s\"", what, instance->identifier, instance->status),
			 errdetail("This was found while %s it.%s%s", doing,
					   instance->trouble ? " Amazon RDS says: " : "", instance->trouble ? instance->trouble : ""),
			 errhint("See its events in Amazon RDS; a person must act, or drop the replica and create it anew.")));
}

static int64
option_ms(const RctlMap *options, const char *name, int64 otherwise)
{
	const char *text = rctl_map_get(options, name);
	Interval   *interval;

	if (text == NULL)
		return otherwise;
	interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
													 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	return (interval->time + (interval->day + interval->month * INT64CONST(30)) * USECS_PER_DAY) / 1000;
}

long
rctl_aws_pause(const RctlMap *server_options, int looks)
{
	int64		longest = Min(option_ms(server_options, "wait_interval", DEFAULT_PAUSE_MS), 600000);
	double		pause = FIRST_PAUSE_MS;

	for (int i = 0; i < looks && pause < longest; i++)
		pause *= 1.5;
	return (long) Max(Min(pause, longest), 10);
}

static void
show_progress(RctlOp *op, const RctlAwsInstance *instance, const char *doing)
{
	const char *gigabytes = rctl_map_get(op->state, "source_storage_gb");
	uint64		total = gigabytes ? strtoull(gigabytes, NULL, 10) << 30 : 0;

	if (instance->percent >= 0)
		rctl_op_progress(op, psprintf("%s %s: %s, %d %%", doing, instance->identifier, instance->status,
									  instance->percent),
						 total / 100 * Min(instance->percent, 100), total);
	else
		rctl_op_progress(op, psprintf("%s %s: %s", doing, instance->identifier, instance->status), 0, 0);
}

RctlAwsInstance *
rctl_aws_wait(RctlOp *op, const RctlAwsTarget *target, bool cluster, const char *identifier,
			  RctlAwsDone done, const char *doing, bool tolerant)
{
	MemoryContext round = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl AWS look", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz failing = 0;
	int			missing = 0;

	for (int look = 0;; look++)
	{
		RctlAwsCall *call;
		RctlAwsAnswer *answer;
		RctlAwsInstance *instance = NULL;

		MemoryContextReset(round);
		MemoryContextSwitchTo(round);
		call = describe_call(cluster, identifier);
		answer = rctl_aws_perform(target, call);
		if (answer->result)
			instance = read_described(cluster, answer->result, identifier);

		if (answer->result || is_not_found(cluster, answer))
		{
			failing = 0;
			missing = instance ? 0 : missing + 1;
			if (done(op, instance))
			{
				/*
				 * What it points to lives in "round", a child of the caller's
				 * context.
				 */
				MemoryContextSwitchTo(caller);
				return instance;
			}
			if (instance && !tolerant && rctl_aws_status_is_fatal(instance->status))
				raise_fatal(instance, doing);
			if (missing >= MISSING_LOOKS || (instance && !tolerant && strcmp(instance->status, "deleting") == 0))
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_OBJECT),
						 errmsg("%s \"%s\" was deleted while the operation was %s it",
								cluster ? "DB cluster" : "DB instance", identifier, doing),
						 errhint("Drop the replica and create it anew.")));
			if (instance)
				show_progress(op, instance, doing);
			/* One that is settled, and yet not done, stands still. */
			if (instance && strcmp(instance->status, "available") != 0)
				rctl_op_alive(op);
		}
		else
		{
			if (failing == 0)
				failing = GetCurrentTimestamp();
			if (!answer->transient ||
				TimestampDifferenceExceeds(failing, GetCurrentTimestamp(), OUTAGE_MS))
				rctl_aws_raise(call, answer);
			rctl_op_progress(op, psprintf("%s %s: %s", doing, identifier, answer->message), 0, 0);
			rctl_op_alive(op);
		}
		MemoryContextSwitchTo(caller);
		rctl_sleep(rctl_aws_pause(target->options, look));
	}
}

/* ---------------------------------------------------------------------
 * Metrics
 * ---------------------------------------------------------------------
 */

TimestampTz
rctl_aws_parse_time(const char *string)
{
	int			year,
				month,
				day,
				hour,
				minute;
	double		second;
	int			read = 0;

	if (string == NULL ||
		sscanf(string, "%4d-%2d-%2dT%2d:%2d:%lf%n", &year, &month, &day, &hour, &minute, &second, &read) != 6 ||
		strcmp(string + read, "Z") != 0 ||
		year < 1970 || month < 1 || month > 12 || day < 1 || day > 31 ||
		hour < 0 || hour > 24 || minute < 0 || minute > 59 || !(second >= 0 && second < 61))
		return 0;
	return (int64) (date2j(year, month, day) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY +
		hour * USECS_PER_HOUR + minute * USECS_PER_MINUTE + (int64) rint(second * USECS_PER_SEC);
}

RctlAwsCall *
rctl_aws_metrics_call(const RctlAwsMetric *metrics, int count, TimestampTz now, int minutes)
{
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_CLOUDWATCH, "GetMetricData");

	for (int i = 0; i < count; i++)
	{
		char	   *query = psprintf("MetricDataQueries.member.%d", i + 1);
		char	   *metric = psprintf("%s.MetricStat.Metric", query);

		rctl_aws_addf(call, psprintf("%s.Id", query), "m%d", i);
		rctl_aws_add(call, psprintf("%s.Namespace", metric), "AWS/RDS");
		rctl_aws_add(call, psprintf("%s.MetricName", metric), metrics[i].name);
		rctl_aws_add(call, psprintf("%s.Dimensions.member.1.Name", metric), "DBInstanceIdentifier");
		rctl_aws_add(call, psprintf("%s.Dimensions.member.1.Value", metric), metrics[i].instance);
		rctl_aws_addf(call, psprintf("%s.MetricStat.Period", query), "%d", METRIC_PERIOD);
		rctl_aws_add(call, psprintf("%s.MetricStat.Stat", query), metrics[i].stat ? metrics[i].stat : "Average");
		rctl_aws_add(call, psprintf("%s.ReturnData", query), "true");
	}
	rctl_aws_add_time(call, "StartTime", TimestampTzPlusMilliseconds(now, -minutes * 60 * INT64CONST(1000)));
	rctl_aws_add_time(call, "EndTime", TimestampTzPlusMilliseconds(now, 1000));
	rctl_aws_add(call, "ScanBy", "TimestampDescending");
	return call;
}

static void
read_points(const RctlXml *item, RctlAwsMetric *metric)
{
	const RctlXml *times = rctl_xml_find(item, "Timestamps");
	const RctlXml *values = rctl_xml_find(item, "Values");
	const RctlXml *time = rctl_xml_child(times, NULL, "member");
	const RctlXml *value = rctl_xml_child(values, NULL, "member");

	/* The newest, whatever order they come in. */
	for (; time && value;
		 time = rctl_xml_child(times, time, "member"), value = rctl_xml_child(values, value, "member"))
	{
		TimestampTz at = rctl_aws_parse_time(rctl_xml_text(time, ""));
		char	   *text = rctl_xml_text(value, "");
		char	   *end = text;
		double		number = text ? strtod(text, &end) : 0;

		if (at == 0 || text == NULL || end == text ||*end != '\0' || isnan(number) || isinf(number) ||
			(metric->known && at <= metric->newest.at))
			continue;
		metric->known = true;
		metric->newest.at = at;
		metric->newest.value = number;
	}
}

void
rctl_aws_read_metrics(const RctlXml *result, RctlAwsMetric *metrics, int count)
{
	const RctlXml *results = rctl_xml_find(result, "MetricDataResults");

	for (const RctlXml *item = rctl_xml_child(results, NULL, "member"); item;
		 item = rctl_xml_child(results, item, "member"))
	{
		char	   *id = rctl_xml_text(item, "Id");
		char	   *status = rctl_xml_text(item, "StatusCode");
		int			number;

		if (id == NULL || id[0] != 'm' ||
			(status && strcmp(status, "Complete") != 0 && strcmp(status, "PartialData") != 0))
			continue;
		number = (int) strtol(id + 1, NULL, 10);
		if (number >= 0 && number < count)
			read_points(item, &metrics[number]);
	}
}

RctlAwsAnswer *
rctl_aws_try_metrics(const RctlAwsTarget *target, RctlAwsMetric *metrics, int count, int minutes, RctlAwsCall **call)
{
	const char *token = NULL;
	RctlAwsAnswer *answer = NULL;

	for (int page = 0; page < MAX_PAGES; page++)
	{
		*call = rctl_aws_metrics_call(metrics, count, rctl_aws_now(), minutes);
		rctl_aws_add(*call, "NextToken", token);
		answer = rctl_aws_perform(target, *call);
		if (answer->result == NULL)
			break;
		rctl_aws_read_metrics(answer->result, metrics, count);
		token = rctl_xml_text(answer->result, "NextToken");
		if (token == NULL)
			break;
	}
	return answer;
}

void
rctl_aws_metrics(const RctlAwsTarget *target, RctlAwsMetric *metrics, int count, int minutes)
{
	RctlAwsCall *call;
	RctlAwsAnswer *answer = rctl_aws_try_metrics(target, metrics, count, minutes, &call);

	if (answer->result == NULL)
		rctl_aws_raise(call, answer);
}
