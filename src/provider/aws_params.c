/*-------------------------------------------------------------------------
 *
 * aws_params.c
 *	  The parameters of Amazon that are options of replica_create.
 *
 * One table says for each option what Amazon calls it, its type, and which
 * calls take it; the options' definitions, the checks and the requests all
 * come from it.  An option has the name of its parameter in snake_case.
 *
 * Where both calls of an Aurora replica have a parameter, it goes to the one
 * that owns it: storage, network and encryption are the cluster's, hardware
 * and monitoring the instance's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "net/json.h"
#include "provider/aws.h"

#define R RCTL_AWS_REPLICA
#define C RCTL_AWS_CLUSTER
#define W RCTL_AWS_WRITER
#define NOT_FOR_REPLICAS 0
#define OWN (-1)				/* of this extension, or handled by name */

#define MAX_TAG_KEY 128
#define MAX_TAG_VALUE 256

/*
 * option, parameter, type, calls, element of a list, help.
 * In the order of the options' names.
 */
#define PARAMETERS(P) \
	P(allocated_storage, AllocatedStorage, INTEGER, R, NULL, "storage in GiB, default the source's") \
	P(auto_minor_version_upgrade, AutoMinorVersionUpgrade, BOOL, R | W, NULL, "whether minor upgrades are applied by themselves") \
	P(availability_zone, AvailabilityZone, TEXT, R | W, NULL, "availability zone, default chosen by Amazon") \
	P(availability_zones, AvailabilityZones, LIST, C, "AvailabilityZone", "availability zones of the cluster's storage") \
	P(backtrack_window, BacktrackWindow, INTEGER, C, NULL, "seconds to backtrack") \
	P(backup_retention_period, BackupRetentionPeriod, INTEGER, C, NULL, "days to keep backups of the cluster") \
	P(ca_certificate_identifier, CACertificateIdentifier, TEXT, R | W, NULL, "certificate authority of its server certificate") \
	P(character_set_name, CharacterSetName, TEXT, C, NULL, "character set of the cluster") \
	P(cluster_scalability_type, ClusterScalabilityType, TEXT, C, NULL, "standard or limitless") \
	P(copy_tags_to_snapshot, CopyTagsToSnapshot, BOOL, R | C, NULL, "whether snapshots get its tags") \
	P(custom_iam_instance_profile, CustomIamInstanceProfile, TEXT, R, NULL, "instance profile, for RDS Custom") \
	P(database_insights_mode, DatabaseInsightsMode, TEXT, R | C, NULL, "standard or advanced") \
	P(database_name, DatabaseName, TEXT, NOT_FOR_REPLICAS, NULL, "not for a read replica") \
	P(db_cluster_identifier, DBClusterIdentifier, TEXT, OWN, NULL, "identifier of the Aurora cluster, default the replica's name") \
	P(db_cluster_instance_class, DBClusterInstanceClass, TEXT, C, NULL, "class of the instances of a Multi-AZ DB cluster") \
	P(db_cluster_parameter_group_name, DBClusterParameterGroupName, TEXT, C, NULL, "parameter group of the cluster") \
	P(db_instance_class, DBInstanceClass, TEXT, R | W, NULL, "class, such as db.r6g.large; default the source's, required for Aurora") \
	P(db_instance_identifier, DBInstanceIdentifier, TEXT, OWN, NULL, "identifier of the instance, default the replica's name, with -1 for Aurora") \
	P(db_parameter_group_name, DBParameterGroupName, TEXT, R | W, NULL, "parameter group of the instance") \
	P(db_subnet_group_name, DBSubnetGroupName, TEXT, R | C, NULL, "subnet group") \
	P(db_system_id, DBSystemId, TEXT, C, NULL, "system identifier, for RDS Custom") \
	P(dedicated_log_volume, DedicatedLogVolume, BOOL, R, NULL, "whether the WAL has a volume of its own") \
	P(deletion_protection, DeletionProtection, BOOL, R | C, NULL, "whether Amazon refuses to delete it") \
	P(domain, Domain, TEXT, R | C, NULL, "directory of Active Directory") \
	P(domain_auth_secret_arn, DomainAuthSecretArn, TEXT, R, NULL, "ARN of the secret to join the domain with") \
	P(domain_dns_ips, DomainDnsIps, LIST, R, "member", "addresses of the domain controllers") \
	P(domain_fqdn, DomainFqdn, TEXT, R, NULL, "name of the Active Directory domain") \
	P(domain_iam_role_name, DomainIAMRoleName, TEXT, R | C, NULL, "role for calls to the directory service") \
	P(domain_ou, DomainOu, TEXT, R, NULL, "organizational unit in the domain") \
	P(enable_cloudwatch_logs_exports, EnableCloudwatchLogsExports, LIST, R | C, "member", "logs to export to CloudWatch") \
	P(enable_customer_owned_ip, EnableCustomerOwnedIp, BOOL, R, NULL, "customer-owned address, on Outposts") \
	P(enable_global_write_forwarding, EnableGlobalWriteForwarding, BOOL, C, NULL, "whether writes are forwarded in a global database") \
	P(enable_http_endpoint, EnableHttpEndpoint, BOOL, C, NULL, "whether the data API is on") \
	P(enable_iam_database_authentication, EnableIAMDatabaseAuthentication, BOOL, R | C, NULL, "whether IAM users can log in") \
	P(enable_limitless_database, EnableLimitlessDatabase, BOOL, C, NULL, "whether it is a Limitless database") \
	P(enable_local_write_forwarding, EnableLocalWriteForwarding, BOOL, C, NULL, "whether its readers forward writes") \
	P(enable_performance_insights, EnablePerformanceInsights, BOOL, R | W, NULL, "whether Performance Insights are on") \
	P(engine_lifecycle_support, EngineLifecycleSupport, TEXT, C, NULL, "extended support, or none") \
	P(engine_mode, EngineMode, TEXT, C, NULL, "engine mode, such as provisioned") \
	P(engine_version, EngineVersion, TEXT, C, NULL, "version of Aurora PostgreSQL: the source's or a later minor one, default the source's") \
	P(global_cluster_identifier, GlobalClusterIdentifier, TEXT, C, NULL, "global database to be a part of") \
	P(iops, Iops, INTEGER, R | C, NULL, "provisioned I/O operations per second") \
	P(kms_key_id, KmsKeyId, TEXT, R | C, NULL, "KMS key; of the replica's region") \
	P(license_model, LicenseModel, TEXT, W, NULL, "license model") \
	P(manage_master_user_password, ManageMasterUserPassword, BOOL, NOT_FOR_REPLICAS, NULL, "not for a read replica") \
	P(master_user_password, MasterUserPassword, TEXT, NOT_FOR_REPLICAS, NULL, "not for a read replica") \
	P(master_username, MasterUsername, TEXT, NOT_FOR_REPLICAS, NULL, "not for a read replica") \
	P(max_allocated_storage, MaxAllocatedStorage, INTEGER, R, NULL, "storage in GiB up to which it grows by itself") \
	P(monitoring_interval, MonitoringInterval, INTEGER, R | W, NULL, "seconds between samples of Enhanced Monitoring, 0 is off") \
	P(monitoring_role_arn, MonitoringRoleArn, TEXT, R | W, NULL, "role for Enhanced Monitoring") \
	P(multi_az, MultiAZ, BOOL, R, NULL, "whether it has a standby in another zone") \
	P(network_type, NetworkType, TEXT, R | C, NULL, "IPV4 or DUAL") \
	P(option_group_name, OptionGroupName, TEXT, R | C, NULL, "option group") \
	P(performance_insights_kms_key_id, PerformanceInsightsKMSKeyId, TEXT, R | W, NULL, "KMS key for Performance Insights") \
	P(performance_insights_retention_period, PerformanceInsightsRetentionPeriod, INTEGER, R | W, NULL, "days to keep Performance Insights") \
	P(port, Port, INTEGER, R | C, NULL, "its port, default the source's") \
	P(pre_signed_url, PreSignedUrl, TEXT, NOT_FOR_REPLICAS, NULL, "not taken: it holds a signature") \
	P(preferred_backup_window, PreferredBackupWindow, TEXT, C, NULL, "time of day of backups, UTC: hh24:mi-hh24:mi") \
	P(preferred_maintenance_window, PreferredMaintenanceWindow, TEXT, C, NULL, "time of week of maintenance, UTC: ddd:hh24:mi-ddd:hh24:mi") \
	P(processor_features, ProcessorFeatures, OBJECT, R, NULL, "object of CPU features, such as {\"coreCount\": \"4\"}") \
	P(promotion_tier, PromotionTier, INTEGER, W, NULL, "order in which the instances of the cluster take over, 0 to 15") \
	P(publicly_accessible, PubliclyAccessible, BOOL, R | W, NULL, "whether it has a public address") \
	P(replica_mode, ReplicaMode, TEXT, R, NULL, "open-read-only or mounted") \
	P(scaling_configuration, ScalingConfiguration, OBJECT, C, NULL, "object of the scaling of Serverless v1") \
	P(serverless_v2_scaling_configuration, ServerlessV2ScalingConfiguration, OBJECT, C, NULL, "object of min_capacity and max_capacity of Serverless v2") \
	P(skip_final_snapshot, SkipFinalSnapshot, BOOL, OWN, NULL, "whether a drop of a promoted replica, by force, makes no last snapshot; default false") \
	P(skip_storage_check, SkipStorageCheck, BOOL, OWN, NULL, "whether to begin although the source may run out of storage, default false") \
	P(storage_encrypted, StorageEncrypted, BOOL, C, NULL, "whether it is encrypted, default as the source") \
	P(storage_throughput, StorageThroughput, INTEGER, R, NULL, "storage throughput in MiB per second") \
	P(storage_type, StorageType, TEXT, R | C, NULL, "gp2, gp3, io1, ... or aurora, aurora-iopt1") \
	P(tags, Tags, OBJECT, OWN, NULL, "object of more tags for what is made") \
	P(upgrade_storage_config, UpgradeStorageConfig, BOOL, R, NULL, "whether its storage layout is brought up to date") \
	P(use_default_processor_features, UseDefaultProcessorFeatures, BOOL, R, NULL, "whether it has the CPU features of its class") \
	P(vpc_security_group_ids, VpcSecurityGroupIds, LIST, R | C, "VpcSecurityGroupId", "VPC security groups")

typedef struct Parameter
{
	const char *option;
	const char *name;			/* Amazon's */
	RctlOptionType type;
	int			calls;			/* mask of those that take it, or OWN */
	const char *element;		/* of a list */
} Parameter;

#define AS_PARAMETER(option, name, type, calls, element, help) \
	{#option, #name, RCTL_OPTION_##type, calls, element},
#define AS_OPTION(option, name, type, calls, element, help) \
	{#option, RCTL_OPTION_##type, help, 0, PG_INT32_MAX},

static const Parameter parameters[] = {PARAMETERS(AS_PARAMETER)};
const RctlOptionDef rctl_aws_create_options[] = {PARAMETERS(AS_OPTION) {NULL}};

/* Members of the parameters that are structures. */
static const struct
{
	const char *parameter;
	const char *key;			/* in the option's object */
	const char *member;
}			members[] = {
	{"ScalingConfiguration", "min_capacity", "MinCapacity"},
	{"ScalingConfiguration", "max_capacity", "MaxCapacity"},
	{"ScalingConfiguration", "auto_pause", "AutoPause"},
	{"ScalingConfiguration", "seconds_until_auto_pause", "SecondsUntilAutoPause"},
	{"ScalingConfiguration", "timeout_action", "TimeoutAction"},
	{"ScalingConfiguration", "seconds_before_timeout", "SecondsBeforeTimeout"},
	{"ServerlessV2ScalingConfiguration", "min_capacity", "MinCapacity"},
	{"ServerlessV2ScalingConfiguration", "max_capacity", "MaxCapacity"},
	{"ServerlessV2ScalingConfiguration", "seconds_until_auto_pause", "SecondsUntilAutoPause"},
};

/* ---------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------
 */

static const char *
member_of(const char *parameter, const char *key)
{
	for (int i = 0; i < lengthof(members); i++)
	{
		if (strcmp(members[i].parameter, parameter) == 0 &&
			(strcmp(members[i].key, key) == 0 || strcmp(members[i].member, key) == 0))
			return members[i].member;
	}
	return NULL;
}

static void
bad_element(const char *option, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", option),
			 errdetail("%s", detail),
			 errhint("Give an array of strings, such as [\"a\", \"b\"].")));
}

static char *
trim(char *word)
{
	char	   *end;

	word += strspn(word, " \t\n");
	end = word + strlen(word);
	while (end > word && strchr(" \t\n", end[-1]))
		*--end = '\0';
	return word;
}

/* The elements of an option of type LIST: a JSON array, or text with commas. */
static List *
list_elements(const char *option, const char *value)
{
	List	   *elements = NIL;

	if (value[0] == '[')
	{
		char	   *problem;
		const RctlJson *json = rctl_json_parse(value, strlen(value), &problem);
		int			count = rctl_json_array_length(json, "");

		for (int i = 0; i < count; i++)
		{
			char	   *element = rctl_json_text(rctl_json_element(json, i), "");

			if (element == NULL || element[0] == '\0')
				bad_element(option, "It has an element that is no text.");
			elements = lappend(elements, element);
		}
	}
	else
	{
		char	   *rest = pstrdup(value);

		while (rest)
		{
			char	   *element = rest;

			rest = strchr(rest, ',');
			if (rest)
				*rest++ = '\0';
			element = trim(element);
			if (element[0] == '\0')
				bad_element(option, "It has an element that is empty.");
			elements = lappend(elements, element);
		}
	}
	return elements;
}

static const char *
bool_text(const char *value)
{
	bool		is_true = false;

	(void) parse_bool(value, &is_true);
	return is_true ? "true" : "false";
}

static void
add_list(RctlAwsCall *call, const Parameter *p, const char *value)
{
	List	   *elements = list_elements(p->option, value);
	ListCell   *lc;

	if (elements == NIL)
		rctl_aws_add(call, p->name, "");
	foreach(lc, elements)
		rctl_aws_add(call, psprintf("%s.%s.%d", p->name, p->element, foreach_current_index(lc) + 1), lfirst(lc));
}

static void
add_object(RctlAwsCall *call, const Parameter *p, const char *value)
{
	RctlMap    *map = rctl_map_from_json(value, p->option);
	ListCell   *lc;

	foreach(lc, map->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);
		int			n = foreach_current_index(lc) + 1;

		if (strcmp(p->name, "ProcessorFeatures") == 0)
		{
			rctl_aws_add(call, psprintf("%s.ProcessorFeature.%d.Name", p->name, n), entry->key);
			rctl_aws_add(call, psprintf("%s.ProcessorFeature.%d.Value", p->name, n), entry->value);
		}
		else
			rctl_aws_add(call, psprintf("%s.%s", p->name, member_of(p->name, entry->key)), entry->value);
	}
}

void
rctl_aws_add_params(RctlAwsCall *call, int which, const RctlMap *options)
{
	for (int i = 0; i < lengthof(parameters); i++)
	{
		const Parameter *p = &parameters[i];
		const char *value = rctl_map_get(options, p->option);

		if (value == NULL || p->calls == OWN || (p->calls & which) == 0)
			continue;
		switch (p->type)
		{
			case RCTL_OPTION_BOOL:
				rctl_aws_add(call, p->name, bool_text(value));
				break;
			case RCTL_OPTION_INTEGER:
				rctl_aws_addf(call, p->name, "%lld", strtoll(value, NULL, 10));
				break;
			case RCTL_OPTION_LIST:
				add_list(call, p, value);
				break;
			case RCTL_OPTION_OBJECT:
				add_object(call, p, value);
				break;
			default:
				rctl_aws_add(call, p->name, value);
				break;
		}
	}
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

static void
check_known(const Parameter *p, bool aurora)
{
	int			mine = aurora ? C | W : R;

	if (p->calls == NOT_FOR_REPLICAS)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" cannot be given for a read replica", p->option),
				 strcmp(p->option, "pre_signed_url") == 0 ?
				 errdetail("A signed URL is a secret that would be stored.") :
				 errdetail("A read replica has the master user, its password and the databases of its source."),
				 errhint("Leave it out.")));
	if (p->calls != OWN && (p->calls & mine) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" is not known for engine \"%s\"", p->option,
						aurora ? RCTL_AWS_AURORA : "postgres"),
				 errdetail("%s is a parameter of replicas of engine \"%s\".", p->name,
						   aurora ? "postgres" : RCTL_AWS_AURORA),
				 errhint("Leave it out, or use a server with that engine.")));
}

static void
check_object(const Parameter *p, const char *value)
{
	RctlMap    *map = rctl_map_from_json(value, p->option);
	ListCell   *lc;

	foreach(lc, map->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);
		StringInfoData valid;

		if (entry->nested)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\"", p->option),
					 errdetail("The value of key \"%s\" must not be an object or an array.", entry->key)));
		if (strstr(p->name, "Configuration") == NULL || member_of(p->name, entry->key))
			continue;
		initStringInfo(&valid);
		for (int i = 0; i < lengthof(members); i++)
		{
			if (strcmp(members[i].parameter, p->name) == 0)
				appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", members[i].key);
		}
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized key \"%s\" in option \"%s\"", entry->key, p->option),
				 errhint("Valid keys are: %s.", valid.data)));
	}
}

/* Whether Amazon takes the character in a tag; letters beyond ASCII are left to it. */
static bool
is_tag_char(char c)
{
	return (unsigned char) c >= 0x80 || isalnum((unsigned char) c) || strchr(" _.:/=+-@", c) != NULL;
}

static bool
has_tag_chars(const char *word)
{
	while (*word && is_tag_char(*word))
		word++;
	return *word == '\0';
}

static void
check_tag(const char *key, const char *value)
{
	const char *problem = NULL;

	if (key[0] == '\0' || pg_mbstrlen(key) > MAX_TAG_KEY || pg_mbstrlen(value) > MAX_TAG_VALUE)
		problem = "A key has 1 to 128 characters, a value up to 256.";
	else if (!has_tag_chars(key) || !has_tag_chars(value))
		problem = "Letters, digits, spaces and _ . : / = + - @ are allowed.";
	else if (pg_strncasecmp(key, "aws:", 4) == 0)
		problem = "Keys that begin with \"aws:\" are Amazon's.";
	else if (strncmp(key, "replica_ctl:", 12) == 0)
		problem = "Keys that begin with \"replica_ctl:\" say what this extension has made.";
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid tag \"%s\"", key),
				 errdetail("%s", problem),
				 errhint("Choose another one.")));
}

RctlMap *
rctl_aws_parse_tags(const char *text)
{
	RctlMap    *tags = rctl_map_make();
	char	   *rest = text ? pstrdup(text) : NULL;

	while (rest)
	{
		char	   *key = rest;
		char	   *value;

		rest = strchr(rest, ',');
		if (rest)
			*rest++ = '\0';
		value = strchr(key, '=');
		if (value)
			*value++ = '\0';
		else
			value = "";
		key = trim(key);
		value = trim(pstrdup(value));
		check_tag(key, value);
		rctl_map_set(tags, key, value);
	}
	return tags;
}

void
rctl_aws_check_params(bool aurora, const RctlMap *options)
{
	for (int i = 0; i < lengthof(parameters); i++)
	{
		const Parameter *p = &parameters[i];
		const char *value = rctl_map_get(options, p->option);

		if (value == NULL)
			continue;
		check_known(p, aurora);
		if (p->type == RCTL_OPTION_OBJECT)
			check_object(p, value);
		else if (p->type == RCTL_OPTION_LIST)
			(void) list_elements(p->option, value);
		else if (value[0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" is empty", p->option),
					 errhint("Leave it out, or give it a value.")));
	}
	if (rctl_map_get(options, "tags"))
	{
		RctlMap    *tags = rctl_map_from_json(rctl_map_get(options, "tags"), "tags");
		ListCell   *lc;

		foreach(lc, tags->entries)
			check_tag(((RctlMapEntry *) lfirst(lc))->key, ((RctlMapEntry *) lfirst(lc))->value);
	}
	if (aurora && rctl_map_get(options, "db_instance_class") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"db_instance_class\" is required for engine \"%s\"", RCTL_AWS_AURORA),
				 errhint("Give the class of the cluster's instance, such as db.r6g.large.")));
	if (!aurora && rctl_map_get(options, "db_cluster_identifier"))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"db_cluster_identifier\" is not known for engine \"postgres\""),
				 errhint("Give option db_instance_identifier.")));
}

/* ---------------------------------------------------------------------
 * Tags
 * ---------------------------------------------------------------------
 */

/* What Amazon does not take in a tag becomes '_'. */
static char *
tag_text(const char *text)
{
	char	   *result = pstrdup(text);

	for (char *c = result; *c; c++)
	{
		if (!is_tag_char(*c))
			*c = '_';
	}
	return result;
}

static int
add_tag_map(RctlAwsCall *call, const RctlMap *tags, int n)
{
	ListCell   *lc;

	foreach(lc, tags->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);

		n++;
		rctl_aws_add(call, psprintf("Tags.Tag.%d.Key", n), entry->key);
		rctl_aws_add(call, psprintf("Tags.Tag.%d.Value", n), entry->value);
	}
	return n;
}

void
rctl_aws_add_tags(RctlAwsCall *call, const RctlMap *server_options, const RctlMap *options,
				  const char *owner, const char *replica)
{
	RctlMap    *tags = rctl_aws_parse_tags(rctl_map_get(server_options, "tags"));
	const char *more = options ? rctl_map_get(options, "tags") : NULL;

	if (more)
	{
		RctlMap    *own = rctl_map_from_json(more, "tags");
		ListCell   *lc;

		foreach(lc, own->entries)
			rctl_map_set(tags, ((RctlMapEntry *) lfirst(lc))->key, ((RctlMapEntry *) lfirst(lc))->value);
	}
	rctl_map_set(tags, RCTL_AWS_TAG, owner);
	rctl_map_set(tags, RCTL_AWS_NAME_TAG, tag_text(replica));
	(void) add_tag_map(call, tags, 0);
}
