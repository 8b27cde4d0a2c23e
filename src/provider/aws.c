/*-------------------------------------------------------------------------
 *
 * aws.c
 *	  The provider "aws": read replicas of Amazon RDS and Aurora.
 *
 * Options and the provider's struct; see aws.h for who does what.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "net/pgconn.h"
#include "provider/aws.h"
#include "provider/providers.h"

static const char *const engine_choices[] = {"postgres", RCTL_AWS_AURORA, NULL};

static const RctlOptionDef server_options[] = {
	RCTL_AWS_AMBIENT_OPTION,
	{"ca_file", RCTL_OPTION_PATH, "PEM file of the certificate authorities of the endpoints, default the system's",
	.privileged = true},
	{"cloudwatch_endpoint", RCTL_OPTION_TEXT, "URL of CloudWatch, default that of the region"},
	{"endpoint", RCTL_OPTION_TEXT, "URL of all services that have none of their own, default those of the region"},
	{"engine", RCTL_OPTION_CHOICE, "postgres for RDS read replicas, aurora-postgresql for Aurora read replicas; default postgres",
	.choices = engine_choices},
	RCTL_WATCH_INTERVAL_OPTION,
	{"rds_endpoint", RCTL_OPTION_TEXT, "URL of RDS, default that of the region"},
	{"region", RCTL_OPTION_TEXT, "region in which replicas are made, such as eu-north-1"},
	{"source", RCTL_OPTION_TEXT, "identifier or ARN of the RDS DB instance to replicate"},
	{"source_endpoint", RCTL_OPTION_TEXT, "URL of RDS in the source's region, if that is another one"},
	RCTL_SOURCE_SERVER_OPTIONS,
	{"sts_endpoint", RCTL_OPTION_TEXT, "URL of STS, for role_arn; default that of the region"},
	{"tags", RCTL_OPTION_TEXT, "tags for what is made: key=value, key=value"},
	{"wait_interval", RCTL_OPTION_INTERVAL, "longest pause between two looks at what is being made, default 15 s"},
	{NULL}
};

static const RctlOptionDef attach_options[] = {
	{"db_cluster_identifier", RCTL_OPTION_TEXT, "identifier of the Aurora cluster, default the replica's name"},
	{"db_instance_identifier", RCTL_OPTION_TEXT, "identifier of the RDS read replica, default the replica's name"},
	{"skip_final_snapshot", RCTL_OPTION_BOOL, "whether a drop of a promoted replica, by force, makes no last snapshot; default false"},
	{"take_over", RCTL_OPTION_BOOL, "whether to take it although another registry has tagged it, default false"},
	{NULL}
};

/* A cross-region replica is the only one whose parameter group can be chosen. */
static void
check_parameter_group(const RctlMap *server, const RctlMap *options)
{
	const char *source = rctl_map_get_default(server, "source", "");

	if (rctl_map_get(options, "db_parameter_group_name") == NULL)
		return;
	if (rctl_aws_is_arn(source) &&
		strcmp(rctl_aws_parse_arn(source)->region, rctl_map_get_default(server, "region", "")) != 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("option \"db_parameter_group_name\" cannot be given for a read replica in its source's region"),
			 errdetail("Amazon gives it the parameter group of its source."),
			 errhint("Leave it out.")));
}

static void
check_options(RctlOpKind kind, const char *replica, const RctlMap *server, const RctlMap *options)
{
	bool		aurora = strcmp(rctl_map_get_default(server, "engine", "postgres"), RCTL_AWS_AURORA) == 0;
	const char *option = aurora ? "db_cluster_identifier" : "db_instance_identifier";
	const char *identifier = rctl_map_get_default(options, option, replica);

	rctl_aws_check_server(server);
	rctl_aws_check_identifier(option, identifier);
	if (kind == RCTL_OP_CREATE)
	{
		rctl_aws_check_params(aurora, options);
		if (aurora)
			rctl_aws_check_identifier("db_instance_identifier",
									  rctl_map_get_default(options, "db_instance_identifier",
														   psprintf("%s-1", identifier)));
		else
			check_parameter_group(server, options);
	}
	if (!aurora && strcmp(rctl_aws_lower(identifier), rctl_aws_is_arn(rctl_map_get_default(server, "source", "")) ?
						  rctl_aws_parse_arn(rctl_map_get(server, "source"))->identifier :
						  rctl_aws_lower(rctl_map_get_default(server, "source", ""))) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is the identifier of the source", identifier),
				 errhint("Choose another one by option %s.", option)));
}

/*
 * SQL on the replica: it has the roles, the passwords and the databases of
 * its source, so that what leads there leads here with another host.
 */
static PGconn *
connect_replica(RctlOp *op, RctlReplica *replica, long timeout_ms)
{
	const char *source = rctl_map_get(op->server_options, "source_conninfo");
	const char *host = rctl_map_get(replica->facts, "host");
	char	   *password = rctl_op_secret(op, "source_password");
	PQconninfoOption *parsed;
	RctlConnParam *params;
	int			n = 0;

	if (source == NULL || host == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("it is not known how to log in to replica \"%s\"", replica->name),
				 source ? errdetail("Amazon has told no endpoint of it yet.") :
				 errdetail("Server \"%s\" has no option source_conninfo.", replica->server),
				 errhint("Set source_conninfo, and source_password in the user mapping: the replica has the same roles.")));
	parsed = PQconninfoParse(source, NULL);
	if (parsed == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option source_conninfo of server \"%s\" is not a connection string", replica->server),
				 errhint("It looks like \"host=... dbname=postgres user=...\".")));
	for (PQconninfoOption *o = parsed; o->keyword; o++)
		n++;
	params = palloc0((n + 4) * sizeof(RctlConnParam));
	n = 0;
	for (PQconninfoOption *o = parsed; o->keyword; o++)
	{
		if (o->val == NULL || strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "hostaddr") == 0 ||
			strcmp(o->keyword, "port") == 0 || (password && strcmp(o->keyword, "password") == 0))
			continue;
		params[n].keyword = o->keyword;
		params[n++].value = pstrdup(o->val);
	}
	params[n++] = (RctlConnParam)
	{
		"host", host
	};
	params[n++] = (RctlConnParam)
	{
		"port", rctl_map_get_default(replica->facts, "port", "5432")
	};
	params[n++] = (RctlConnParam)
	{
		"password", password
	};
	/* keywords point into what is freed below */
	for (int i = 0; i < n; i++)
		params[i].keyword = pstrdup(params[i].keyword);
	PQconninfoFree(parsed);
	return rctl_pg_connect(rctl_conninfo(params), timeout_ms, psprintf("replica \"%s\"", replica->name));
}

static char *
describe_step(RctlOp *op, const char *step)
{
	bool		aurora = strcmp(rctl_map_get_default(op->server_options, "engine", "postgres"), RCTL_AWS_AURORA) == 0;
	const char *region = rctl_map_get_default(op->server_options, "region", "?");

	if (op->kind == RCTL_OP_CREATE && strcmp(step, "cluster") == 0 && aurora)
		return psprintf("CreateDBCluster %s in %s, engine version %s", rctl_aws_wanted_identifier(op, true), region,
						rctl_map_get_default(op->state, "engine_version", "as the source's"));
	if (op->kind == RCTL_OP_CREATE && strcmp(step, "instance") == 0)
		return aurora ?
			psprintf("CreateDBInstance %s, class %s", rctl_aws_wanted_writer(op, rctl_aws_wanted_identifier(op, true)),
					 rctl_map_get_default(op->replica->options, "db_instance_class", "?")) :
			psprintf("CreateDBInstanceReadReplica %s in %s", rctl_aws_wanted_identifier(op, false), region);
	if (op->kind == RCTL_OP_CREATE && strcmp(step, "instance_wait") == 0 && rctl_map_get(op->state, "storage_forecast"))
		return pstrdup(rctl_map_get(op->state, "storage_forecast"));
	if (strcmp(step, "promote") == 0)
		return psprintf("%s %s", aurora ? "PromoteReadReplicaDBCluster" : "PromoteReadReplica",
						rctl_map_get_default(op->replica->facts, "identifier", "?"));
	return NULL;
}

const RctlProvider rctl_provider_aws = {
	.name = "aws",
	.wrapper = "replica_aws",
	.server_options = server_options,
	.mapping_options = rctl_aws_mapping_options,
	.create_options = rctl_aws_create_options,
	.attach_options = attach_options,
	.check_server = rctl_aws_check_server,
	.check_options = check_options,
	.create_checks = rctl_aws_create_checks,
	.drop_checks = rctl_aws_drop_checks,
	.create = rctl_aws_create_steps,
	.attach = rctl_aws_attach_steps,
	.drop = rctl_aws_drop_steps,
	.repair = rctl_aws_repair_steps,
	.cleanup = rctl_aws_cleanup,
	.connect = connect_replica,
	.managed = &rctl_aws_promotion,
	.describe_step = describe_step,
	.watch = rctl_aws_watch_next,
};
