/*-------------------------------------------------------------------------
 *
 * aws_check.c
 *	  What must be true before a replica is made at Amazon.
 *
 * The first check describes the source and notes what the later ones, and the
 * steps, need to know of it in op->state ("source_..."), so that one look
 * serves all of them.  The migration of an Aurora replica takes hours, and
 * the source keeps all of its WAL meanwhile: the last check foretells whether
 * there is room.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"

#include "provider/aws.h"

#define MAX_REPLICAS 15
#define MAX_PAGES 50
#define HOURS_PER_TB 4.0
#define LEAST_HOURS 0.5
#define GIB (1024.0 * 1024.0 * 1024.0)

static const char *
option(RctlOp *op, const char *name)
{
	return rctl_map_get(op->replica->options, name);
}

static bool
option_bool(RctlOp *op, const char *name)
{
	bool		value = false;

	(void) parse_bool(rctl_map_get_default(op->replica->options, name, "false"), &value);
	return value;
}

static const char *
source_fact(RctlOp *op, const char *name)
{
	return rctl_map_get(op->state, psprintf("source_%s", name));
}

/* For checks of the source: raises an error if it was not found. */
static void
require_source(RctlOp *op)
{
	if (source_fact(op, "known") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this cannot be checked, because the source is not known"),
				 errhint("Correct what the check of the source says.")));
}

/* Whether it is known, but for a region that cannot be asked. */
static bool
source_told(RctlOp *op)
{
	require_source(op);
	return strcmp(source_fact(op, "known"), "true") == 0;
}

static bool
crosses_regions(const RctlAwsTarget *target)
{
	return target->source_arn && strcmp(target->source_arn->region, target->region) != 0;
}

/* ---------------------------------------------------------------------
 * The source
 * ---------------------------------------------------------------------
 */

static void
note_source(RctlOp *op, const RctlAwsInstance *source)
{
	int			elsewhere = 0;
	ListCell   *lc;

	foreach(lc, source->replicas)
	{
		if (rctl_aws_is_arn(lfirst(lc)))
			elsewhere++;
	}
	rctl_map_set(op->state, "source_known", "true");
	rctl_map_set(op->state, "source_arn", source->arn);
	rctl_map_set(op->state, "source_status", source->status);
	rctl_map_set(op->state, "source_engine", source->engine);
	rctl_map_set(op->state, "source_version", source->version);
	rctl_map_set(op->state, "source_class", source->instance_class);
	rctl_map_set(op->state, "source_cluster", source->cluster);
	rctl_map_setf(op->state, "source_backup_days", "%d", source->backup_days);
	rctl_map_set(op->state, "source_encrypted", source->encrypted ? "true" : "false");
	rctl_map_setf(op->state, "source_storage_gb", INT64_FORMAT, source->storage_gb);
	rctl_map_setf(op->state, "source_max_storage_gb", INT64_FORMAT, source->max_storage_gb);
	rctl_map_setf(op->state, "source_replicas", "%d", list_length(source->replicas));
	rctl_map_setf(op->state, "source_replicas_elsewhere", "%d", elsewhere);
	rctl_map_set(op->state, "source_cluster_replica",
				 source->cluster_replicas ? linitial(source->cluster_replicas) : NULL);
}

static void
check_source(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	char	   *reason;
	RctlAwsInstance *source;

	rctl_map_set(op->state, "source_known", NULL);
	source = rctl_aws_source(target, &reason);
	if (source == NULL && crosses_regions(target) && reason && rctl_map_get(target->options, "source_endpoint") == NULL &&
		(rctl_map_get(target->options, "endpoint") || rctl_map_get(target->options, "rds_endpoint")))
	{
		rctl_map_set(op->state, "source_known", "false");
		rctl_map_set(op->state, "source_arn", target->source);
		rctl_op_warn(op, reason, "Set the server's option source_endpoint to look at it.",
					 "source \"%s\" cannot be looked at", target->source);
		return;
	}
	if (source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", target->source),
				 errdetail("Amazon RDS knows no such DB instance in region %s, or hides it from these credentials.%s%s",
						   target->source_arn ? target->source_arn->region : target->region,
						   reason ? " " : "", reason ? reason : ""),
				 errhint("Check option source of server \"%s\", its region, and whose account the credentials belong to.",
						 op->replica->server)));
	if (target->source_arn && source->arn && rctl_aws_is_arn(source->arn) &&
		strcmp(rctl_aws_parse_arn(source->arn)->account, target->source_arn->account) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source \"%s\" is of another account", target->source),
				 errdetail("These credentials see the instance of account %s.",
						   rctl_aws_parse_arn(source->arn)->account),
				 errhint("Use credentials of the source's account.")));
	note_source(op, source);
}

static void
check_engine(RctlOp *op)
{
	const char *engine;

	if (!source_told(op))
		return;
	engine = source_fact(op, "engine");
	if (engine && strcmp(engine, "postgres") == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("the source is not an RDS instance of PostgreSQL"),
			 errdetail("Its engine is \"%s\".", engine ? engine : "unknown"),
			 errhint("Name another DB instance in option source of server \"%s\".", op->replica->server)));
}

static void
check_status(RctlOp *op)
{
	const char *status;

	if (!source_told(op))
		return;
	status = source_fact(op, "status");
	if (strcmp(status, "available") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the source is not available"),
				 errdetail("Its status is \"%s\".", status),
				 strcmp(status, "storage-full") == 0 ?
				 errhint("Give it more storage first.") :
				 errhint("Wait until its status is \"available\", and try again.")));
}

static void
check_backups(RctlOp *op)
{
	if (source_told(op) && strtol(source_fact(op, "backup_days"), NULL, 10) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the source has no automated backups"),
				 errdetail("Its backup retention period is 0 days; a read replica is made from a snapshot."),
				 errhint("Set its backup retention period to 1 day or more.")));
}

/* ---------------------------------------------------------------------
 * Versions
 * ---------------------------------------------------------------------
 */

/* "15.4" as {15, 4}; "9.6.3" as {906, 3}: a major version and the rest. */
static void
split_version(const char *text, long *major, long *minor)
{
	char	   *rest = unconstify(char *, text);

	*major = strtol(rest, &rest, 10);
	*minor = 0;
	if (*major < 10 && *rest == '.')
		*major = *major * 100 + strtol(rest + 1, &rest, 10);
	if (*rest == '.')
		*minor = strtol(rest + 1, &rest, 10);
}

/* Of the versions of Aurora with this major version: the first from a minor one on; NULL if there is none. */
static char *
find_aurora_version(const RctlAwsTarget *target, long major, long least, bool exact, StringInfo seen)
{
	char	   *marker = NULL;
	char	   *best = NULL;
	long		best_minor = 0;

	for (int page = 0; page < MAX_PAGES; page++)
	{
		RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, "DescribeDBEngineVersions");
		const RctlXml *result;
		const RctlXml *list;

		rctl_aws_add(call, "Engine", RCTL_AWS_AURORA);
		rctl_aws_add(call, "Marker", marker);
		result = rctl_aws_result(target, call);
		list = rctl_xml_find(result, "DBEngineVersions");
		for (const RctlXml *item = rctl_xml_child(list, NULL, "DBEngineVersion"); item;
			 item = rctl_xml_child(list, item, "DBEngineVersion"))
		{
			char	   *version = rctl_xml_text(item, "EngineVersion");
			long		its_major;
			long		its_minor;

			if (version == NULL)
				continue;
			split_version(version, &its_major, &its_minor);
			if (its_major != major)
				continue;
			appendStringInfo(seen, "%s%s", seen->len > 0 ? ", " : "", version);
			if ((exact ? its_minor == least : its_minor >= least) && (best == NULL || its_minor < best_minor))
			{
				best = version;
				best_minor = its_minor;
			}
		}
		marker = rctl_xml_text(result, "Marker");
		if (marker == NULL)
			break;
	}
	return best;
}

static void
check_version(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *wanted = option(op, "engine_version");
	const char *source;
	long		major,
				minor,
				wanted_major,
				wanted_minor;
	StringInfoData seen;
	char	   *found;

	require_source(op);
	if (!target->aurora)
		return;
	source = source_fact(op, "version");
	if (source == NULL)
		return;
	split_version(source, &major, &minor);
	split_version(wanted ? wanted : source, &wanted_major, &wanted_minor);
	if (wanted_major != major || wanted_minor < minor)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an Aurora read replica of version %s cannot follow a source of version %s", wanted, source),
				 errhint("Leave out engine_version, or give the same or a later minor version.")));
	initStringInfo(&seen);
	found = find_aurora_version(target, major, wanted_minor, wanted != NULL, &seen);
	if (found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("Aurora PostgreSQL has no version that can follow a source of version %s",
						wanted ? psprintf("%s as version %s", source, wanted) : source),
				 errdetail("In region %s it has: %s.", target->region, seen.len > 0 ? seen.data : "none of that major version"),
				 errhint("Upgrade the source to a version that Aurora has, or choose another engine_version.")));
	rctl_map_set(op->state, "engine_version", found);
}

/* ---------------------------------------------------------------------
 * What is in the way
 * ---------------------------------------------------------------------
 */

static void
check_replicas(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *cluster;
	long		replicas;

	if (!source_told(op))
		return;
	cluster = source_fact(op, "cluster_replica");
	replicas = strtol(source_fact(op, "replicas"), NULL, 10);
	if (!target->aurora)
	{
		if (replicas >= MAX_REPLICAS)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("the source has %ld read replicas already", replicas),
					 errdetail("Amazon RDS allows %d.", MAX_REPLICAS),
					 errhint("Drop one, or name a read replica as the source.")));
		return;
	}
	if (cluster && strcmp(cluster, rctl_aws_wanted_identifier(op, true)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the source has an Aurora read replica already: \"%s\"", cluster),
				 errdetail("Amazon allows one, and rejects the request for another."),
				 errhint("Take it over with replica_attach, or promote or delete it first.")));
	if (strcmp(source_fact(op, "replicas_elsewhere"), "0") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the source has a read replica in another region"),
				 errdetail("Amazon rejects the request for an Aurora read replica then."),
				 errhint("Promote or delete that one first.")));
	if (replicas > 0)
		rctl_op_warn(op, "Amazon used to reject the request for an Aurora read replica then.",
					 "If it does, promote or delete that one first.",
					 "the source has a read replica in its own region");
}

static void
check_encryption(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *key = option(op, "kms_key_id");
	const char *encrypt = option(op, "storage_encrypted");
	bool		encrypted;

	if (!source_told(op))
		return;
	encrypted = strcmp(source_fact(op, "encrypted"), "true") == 0;
	if (target->aurora)
	{
		if (encrypted && encrypt && !option_bool(op, "storage_encrypted"))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the replica of an encrypted source must be encrypted"),
					 errhint("Leave out storage_encrypted.")));
		if (key && !encrypted && !option_bool(op, "storage_encrypted"))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"kms_key_id\" needs storage_encrypted"),
					 errdetail("The source is not encrypted."),
					 errhint("Add storage_encrypted true, or leave out kms_key_id.")));
		return;
	}
	if (key && !encrypted)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the read replica of a source that is not encrypted cannot be encrypted"),
				 errhint("Leave out kms_key_id.")));
	if (encrypted && key == NULL && crosses_regions(target))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the read replica of an encrypted source in another region needs a KMS key"),
				 errhint("Give one of region %s by option kms_key_id.", target->region)));
}

static void
check_class(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *wanted = option(op, "db_instance_class");
	const char *version = target->aurora ? rctl_map_get(op->state, "engine_version") : source_fact(op, "version");
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, "DescribeOrderableDBInstanceOptions");
	const RctlXml *result;

	require_source(op);
	if (wanted == NULL && crosses_regions(target))
		wanted = source_fact(op, "class");
	if (wanted == NULL)
		return;
	rctl_aws_add(call, "Engine", target->aurora ? RCTL_AWS_AURORA : "postgres");
	rctl_aws_add(call, "EngineVersion", version);
	rctl_aws_add(call, "DBInstanceClass", wanted);
	result = rctl_aws_result(target, call);
	if (rctl_xml_child(rctl_xml_find(result, "OrderableDBInstanceOptions"), NULL, "OrderableDBInstanceOption") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("instance class \"%s\" cannot be ordered", wanted),
				 errdetail("Region %s does not offer it for engine %s%s%s.", target->region,
						   target->aurora ? RCTL_AWS_AURORA : "postgres",
						   version ? ", version " : "", version ? version : ""),
				 errhint("Choose another db_instance_class.")));
}

/* Names that are in use, by us or by others. */
static void
check_free(RctlOp *op, const RctlAwsTarget *target, bool cluster, const char *option_name, const char *identifier)
{
	RctlAwsInstance *found;
	char	   *name = psprintf("%s %s %s", target->region, cluster ? "cluster" : "instance", identifier);

	rctl_aws_check_identifier(option_name, identifier);
	if (rctl_op_fact_taken(op, cluster ? "aws_cluster" : "aws_instance", name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("another replica of this server is the DB %s \"%s\"", cluster ? "cluster" : "instance", identifier),
				 errhint("Choose another identifier by option %s.", option_name)));
	found = rctl_aws_resource(target, cluster, identifier);
	if (found && !rctl_aws_is_ours(target, found, rctl_map_get(op->replica->facts, "owner")))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("DB %s \"%s\" already exists", cluster ? "cluster" : "instance", identifier),
				 errdetail("It was not made by this replica."),
				 errhint("Choose another identifier by option %s, or take that one over with replica_attach.", option_name)));
}

static void
check_identifiers(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	char	   *identifier = rctl_aws_wanted_identifier(op, target->aurora);

	if (target->aurora)
	{
		check_free(op, target, true, "db_cluster_identifier", identifier);
		check_free(op, target, false, "db_instance_identifier", rctl_aws_wanted_writer(op, identifier));
	}
	else
		check_free(op, target, false, "db_instance_identifier", identifier);
}

/* ---------------------------------------------------------------------
 * Room for the WAL
 * ---------------------------------------------------------------------
 */

/*
 * The source keeps its WAL from the snapshot on until the replica has it: for
 * HOURS_PER_TB, at the rate at which it is written now.
 */
static void
check_storage(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *source = rctl_aws_source_name(target);
	RctlAwsMetric metrics[] = {
		{"FreeStorageSpace", source},
		{"TransactionLogsDiskUsage", source},
		{"TransactionLogsGeneration", source},
		{"WriteThroughput", source},
	};
	double		storage,
				growth,
				rate,
				hours,
				needed,
				room;
	char	   *detail;
	RctlAwsCall *call;
	RctlAwsAnswer *answer;

	if (!source_told(op) || crosses_regions(target))
		return;
	answer = rctl_aws_try_metrics(target, metrics, lengthof(metrics), 60, &call);
	if (answer->result == NULL)
	{
		/* No reason not to make it, but one not to rely on being told. */
		rctl_op_warn(op, answer->detail, answer->hint, "%s", answer->message);
		return;
	}
	if (!metrics[0].known)
	{
		rctl_op_warn(op, "There is no data point of FreeStorageSpace of the last hour.",
					 "See in CloudWatch that the source has room for the WAL of several hours.",
					 "the free storage of the source is not known");
		return;
	}
	storage = strtod(source_fact(op, "storage_gb"), NULL) * GIB;
	growth = strtod(source_fact(op, "max_storage_gb"), NULL) * GIB - storage;
	rate = metrics[2].known ? metrics[2].newest.value : metrics[3].known ? metrics[3].newest.value : 0;
	hours = Max((storage - metrics[0].newest.value) / (1024 * GIB) * HOURS_PER_TB, LEAST_HOURS);
	needed = rate * 3600 * hours;
	room = metrics[0].newest.value + Max(growth, 0);
	detail = psprintf("It has %.1f GiB free%s%s; about %.1f hours of copying at %.2f MiB of WAL per second need %.1f GiB.",
					  metrics[0].newest.value / GIB,
					  growth > 0 ? psprintf(" and may grow by %.0f GiB", growth / GIB) : "",
					  metrics[1].known ? psprintf(", %.2f GiB of WAL are there", metrics[1].newest.value / GIB) : "",
					  hours, rate / (1024 * 1024), needed / GIB);
	rctl_map_set(op->state, "storage_forecast", detail);
	if (needed > room && !option_bool(op, "skip_storage_check"))
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("the source may run out of storage while the replica is made"),
				 errdetail("%s", detail),
				 errhint("Give the source more storage, or set option skip_storage_check to begin all the same.")));
	if (needed > room / 2 || (!metrics[2].known && !metrics[3].known))
		rctl_op_warn(op, detail, "Watch FreeStorageSpace in replica_metrics while the replica is made.",
					 metrics[2].known || metrics[3].known ?
					 "the WAL of the source may fill more than half of its free storage" :
					 "it is not known how much WAL the source writes");
}

const RctlStep rctl_aws_create_checks[] = {
	{"source", check_source, "the source exists, and may be described"},
	{"source engine", check_engine, "the source is PostgreSQL"},
	{"source status", check_status, "the source is available"},
	{"source backups", check_backups, "the source has automated backups"},
	{"version", check_version, "there is a version of the engine that can follow the source"},
	{"read replicas", check_replicas, "no read replica of the source is in the way"},
	{"encryption", check_encryption, "encryption and KMS key go with the source's"},
	{"instance class", check_class, "the instance class can be ordered"},
	{"identifier", check_identifiers, "its identifiers are free"},
	{"storage", check_storage, "the source has room for the WAL that will pile up"},
	{NULL}
};
