/*-------------------------------------------------------------------------
 *
 * aws_region.c
 *	  Where Amazon's services are, and how its resources are called.
 *
 * Regions are told by their partition's pattern, not from a list that would
 * grow old: us-gov-west-1 is of aws-us-gov, eu-north-1 of aws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "provider/aws.h"

#define MAX_IDENTIFIER 63

/* A partition, by the prefixes of its regions; more special ones first. */
typedef struct Partition
{
	const char *name;
	const char *prefixes;		/* separated by spaces */
	const char *suffix;
} Partition;

static const Partition partitions[] = {
	{"aws-us-gov", "us-gov-", "amazonaws.com"},
	{"aws-iso", "us-iso-", "c2s.ic.gov"},
	{"aws-iso-b", "us-isob-", "sc2s.sgov.gov"},
	{"aws-iso-e", "eu-isoe-", "cloud.adc-e.uk"},
	{"aws-iso-f", "us-isof-", "csp.hci.ic.gov"},
	{"aws-cn", "cn-", "amazonaws.com.cn"},
	{"aws", "us- eu- ap- sa- ca- me- af- il- mx-", "amazonaws.com"},
};

static const char *const service_prefixes[] = {
	[RCTL_AWS_RDS] = "rds",
	[RCTL_AWS_CLOUDWATCH] = "monitoring",
};

static const char *const service_options[] = {
	[RCTL_AWS_RDS] = "rds_endpoint",
	[RCTL_AWS_CLOUDWATCH] = "cloudwatch_endpoint",
};

/* "<letters>-<digits>", as a region's name goes on after its partition. */
static bool
is_region_rest(const char *rest)
{
	const char *c = rest;

	while (islower((unsigned char) *c) || *c == '_')
		c++;
	if (c == rest || *c++ != '-' || !isdigit((unsigned char) *c))
		return false;
	while (isdigit((unsigned char) *c))
		c++;
	return *c == '\0';
}

static const Partition *
find_partition(const char *region)
{
	for (int i = 0; i < lengthof(partitions); i++)
	{
		for (const char *prefix = partitions[i].prefixes; *prefix;)
		{
			size_t		length = strcspn(prefix, " ");

			if (strncmp(region, prefix, length) == 0 && is_region_rest(region + length))
				return &partitions[i];
			prefix += length;
			prefix += strspn(prefix, " ");
		}
	}
	return NULL;
}

const char *
rctl_aws_partition(const char *region)
{
	const Partition *partition = find_partition(region);

	return partition ? partition->name : NULL;
}

char *
rctl_aws_endpoint(const RctlMap *server_options, const char *region, RctlAwsService service)
{
	const char *endpoint = rctl_map_get(server_options, service_options[service]);
	const Partition *partition;

	if (endpoint == NULL)
		endpoint = rctl_map_get(server_options, "endpoint");
	if (endpoint)
		return pstrdup(endpoint);
	partition = find_partition(region);
	return psprintf("https://%s.%s.%s", service_prefixes[service], region,
					partition ? partition->suffix : "amazonaws.com");
}

/* ---------------------------------------------------------------------
 * Names
 * ---------------------------------------------------------------------
 */

char *
rctl_aws_lower(const char *identifier)
{
	char	   *lower = pstrdup(identifier);

	for (char *c = lower; *c; c++)
	{
		if (*c >= 'A' && *c <= 'Z')
			*c += 'a' - 'A';
	}
	return lower;
}

static const char *
identifier_problem(const char *identifier)
{
	size_t		length = strlen(identifier);

	if (length == 0 || length > MAX_IDENTIFIER)
		return "It must have 1 to 63 characters.";
	if (!isalpha((unsigned char) identifier[0]))
		return "It must begin with a letter.";
	for (const char *c = identifier; *c; c++)
	{
		if ((unsigned char) *c >= 0x80 || (!isalnum((unsigned char) *c) && *c != '-'))
			return "It may consist of ASCII letters, digits and hyphens only.";
		if (c[0] == '-' && c[1] == '-')
			return "It must not have two hyphens in a row.";
	}
	if (identifier[length - 1] == '-')
		return "It must not end with a hyphen.";
	return NULL;
}

void
rctl_aws_check_identifier(const char *option, const char *identifier)
{
	const char *problem = identifier_problem(identifier);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not an identifier of Amazon RDS", identifier),
				 errdetail("%s", problem),
				 errhint("Give another one by option %s.", option)));
}

bool
rctl_aws_is_arn(const char *text)
{
	return strncmp(text, "arn:", 4) == 0;
}

static void
bad_arn(const char *arn, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is not the ARN of an RDS DB instance", arn),
			 errdetail("%s", detail),
			 errhint("It looks like arn:aws:rds:eu-north-1:123456789012:db:orders.")));
}

RctlAwsArn *
rctl_aws_parse_arn(const char *text)
{
	RctlAwsArn *arn = palloc0(sizeof(RctlAwsArn));
	char	   *parts[7];
	char	   *rest = pstrdup(text);
	const char *partition;
	int			count = 0;

	while (count < lengthof(parts) - 1 && strchr(rest, ':'))
	{
		parts[count++] = rest;
		rest = strchr(rest, ':');
		*rest++ = '\0';
	}
	parts[count++] = rest;
	if (count != lengthof(parts) || strcmp(parts[0], "arn") != 0)
		bad_arn(text, "It must have seven parts, with colons between them.");
	if (strcmp(parts[2], "rds") != 0)
		bad_arn(text, psprintf("It names the service \"%s\".", parts[2]));
	partition = rctl_aws_partition(parts[3]);
	if (partition == NULL)
		bad_arn(text, psprintf("\"%s\" is not a region.", parts[3]));
	if (strcmp(partition, parts[1]) != 0)
		bad_arn(text, psprintf("Region %s is in partition %s, not %s.", parts[3], partition, parts[1]));
	if (strlen(parts[4]) != 12 || strspn(parts[4], "0123456789") != 12)
		bad_arn(text, "The account must have 12 digits.");
	if (strcmp(parts[5], "db") != 0)
		bad_arn(text, psprintf("It names a resource of type \"%s\", not \"db\".", parts[5]));
	if (identifier_problem(parts[6]))
		bad_arn(text, psprintf("\"%s\" is not an identifier. %s", parts[6], identifier_problem(parts[6])));
	arn->partition = parts[1];
	arn->region = parts[3];
	arn->account = parts[4];
	arn->identifier = rctl_aws_lower(parts[6]);
	return arn;
}

/* ---------------------------------------------------------------------
 * Options of a server
 * ---------------------------------------------------------------------
 */

static void
check_endpoint(const RctlMap *options, const char *name)
{
	const char *url = rctl_map_get(options, name);
	char	   *problem;
	const char *slash;

	if (url == NULL)
		return;
	problem = rctl_http_url_problem(url, false);
	slash = strstr(url, "://") ? strchr(strstr(url, "://") + 3, '/') : NULL;
	if (problem == NULL && slash && strcmp(slash, "/") != 0)
		problem = "it has a path";
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", name),
				 errdetail("The URL cannot be used: %s.", problem),
				 errhint("It looks like https://rds.eu-north-1.amazonaws.com; http is for loopback addresses only.")));
}

static void
missing_option(const char *name, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
			 errmsg("option \"%s\" is required for a server of replica_aws", name),
			 errhint("%s", hint)));
}

void
rctl_aws_check_server(const RctlMap *options)
{
	static const char *const endpoints[] = {
		"endpoint", "rds_endpoint", "cloudwatch_endpoint", "sts_endpoint", "source_endpoint",
	};
	const char *region = rctl_map_get(options, "region");
	const char *engine = rctl_map_get_default(options, "engine", "postgres");
	const char *source = rctl_map_get(options, "source");

	if (region == NULL)
		missing_option("region", "Give the region in which replicas are made, such as eu-north-1.");
	if (rctl_aws_partition(region) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a region of Amazon", region),
				 errhint("Region names look like eu-north-1 or us-gov-west-1.")));
	if (source == NULL)
		missing_option("source", "Give the identifier or the ARN of the RDS DB instance to replicate.");
	if (rctl_aws_is_arn(source))
	{
		RctlAwsArn *arn = rctl_aws_parse_arn(source);

		if (strcmp(arn->region, region) != 0 && strcmp(engine, RCTL_AWS_AURORA) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("source \"%s\" is not in region %s", source, region),
					 errdetail("An Aurora read replica is made in its source's region."),
					 errhint("Set option region to '%s', or engine to 'postgres'.", arn->region)));
		if (strcmp(arn->partition, rctl_aws_partition(region)) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("source \"%s\" is not in the partition of region %s", source, region),
					 errhint("Set option region to one of partition %s.", arn->partition)));
	}
	else
		rctl_aws_check_identifier("source", source);
	for (int i = 0; i < lengthof(endpoints); i++)
		check_endpoint(options, endpoints[i]);
	(void) rctl_aws_parse_tags(rctl_map_get(options, "tags"));
}
