/*-------------------------------------------------------------------------
 *
 * cnpg.c
 *	  Provider replica_cnpg: replicas that CloudNativePG runs on Kubernetes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "net/pgconn.h"
#include "provider/cnpg.h"
#include "provider/providers.h"
#include "provider/standby.h"
#include "provider/watch.h"

#define CLUSTER_NAME_LENGTH 50	/* the webhook's bound */
#define NAME_LENGTH 63			/* of a namespace, of a label's value */

static const char *const types[] = {"cluster", "instance", NULL};

static const RctlOptionDef server_options[] = {
	RCTL_KUBE_SERVER_OPTIONS,
	{"cluster", RCTL_OPTION_TEXT, "the Cluster that replicas follow, or are instances of; default: a source outside Kubernetes"},
	{"source_server", RCTL_OPTION_TEXT, "server of this wrapper by which that Cluster is reached, if it is behind another API server"},
	{"source_namespace", RCTL_OPTION_TEXT, "namespace of that Cluster; default: that of source_server, or of this server"},
	RCTL_SOURCE_SERVER_OPTIONS,
	RCTL_WATCH_INTERVAL_OPTION,
	{NULL}
};

static const RctlOptionDef mapping_options[] = {
	{"token", RCTL_OPTION_TEXT, "bearer token for the Kubernetes API"},
	{"replication_password", RCTL_OPTION_TEXT, "password by which a new Cluster logs in to the source; becomes a Secret"},
	{"password", RCTL_OPTION_TEXT, "password for conninfo"},
	RCTL_SOURCE_MAPPING_OPTIONS,
	{NULL}
};

#define COMMON_OPTIONS \
	{"type", RCTL_OPTION_CHOICE, "cluster: a Cluster of its own; instance: one more of the server's Cluster; default cluster", \
		.choices = types}, \
	{"cluster_name", RCTL_OPTION_TEXT, "name of the Cluster; default: the replica's"}, \
	{"distributed", RCTL_OPTION_BOOL, "it can change roles with the server's Cluster, by tokens; default false"}, \
	{"conninfo", RCTL_OPTION_TEXT, "connection string without password, by which this server reaches the replica; default none"}

static const RctlOptionDef create_options[] = {
	COMMON_OPTIONS,
	{"instances", RCTL_OPTION_INTEGER, "instances of the new Cluster, default 1", 1, 1000},
	{"image_name", RCTL_OPTION_TEXT, "container image; default: the operator's"},
	{"storage_size", RCTL_OPTION_TEXT, "size of the data volume, \"100Gi\"; needed for a Cluster"},
	{"storage_class", RCTL_OPTION_TEXT, "storage class of the volumes; default: that of Kubernetes"},
	{"wal_storage_size", RCTL_OPTION_TEXT, "size of a volume for WAL; default: none"},
	{"apply_delay", RCTL_OPTION_INTERVAL, "how long it waits before it applies a commit, default 0"},
	{"parameters", RCTL_OPTION_OBJECT, "settings of PostgreSQL (spec.postgresql.parameters)"},
	{"labels", RCTL_OPTION_OBJECT, "labels of the Cluster"},
	{"spec", RCTL_OPTION_OBJECT, "more fields of the Cluster's spec"},
	{"source_host", RCTL_OPTION_TEXT, "how Kubernetes reaches the source; default: the service of the server's Cluster"},
	{"source_port", RCTL_OPTION_INTEGER, "port of the source, default 5432", 1, 65535},
	{"source_user", RCTL_OPTION_TEXT, "role with REPLICATION on the source; default streaming_replica of the server's Cluster"},
	{"source_dbname", RCTL_OPTION_TEXT, "database of the source, default postgres"},
	{"source_sslmode", RCTL_OPTION_TEXT, "default require; verify-full where the source is a Cluster"},
	{"source_password_secret", RCTL_OPTION_TEXT, "Secret with key password, if not made of the mapping's replication_password"},
	{"source_tls_secret", RCTL_OPTION_TEXT, "Secret with a client certificate: keys tls.crt and tls.key; default CLUSTER-replication"},
	{"source_ca_secret", RCTL_OPTION_TEXT, "Secret with the source's authority: key ca.crt; default CLUSTER-ca"},
	{NULL}
};

static const RctlOptionDef attach_options[] = {
	COMMON_OPTIONS,
	{"instance", RCTL_OPTION_TEXT, "pod of the instance, for type instance"},
	{NULL}
};

static const char *const change_options[] = {"instances", NULL};

/* ---------------------------------------------------------------------
 * Checks of options
 * ---------------------------------------------------------------------
 */

/* Cluster: its services are named like it, so that it begins with a letter. */
static void
require_name(const char *option, const char *value, bool cluster)
{
	char	   *problem = value ? rctl_kube_name_problem(value, cluster ? CLUSTER_NAME_LENGTH : NAME_LENGTH) : NULL;

	if (problem == NULL && value && cluster && (value[0] < 'a' || value[0] > 'z'))
		problem = "It must begin with a letter.";
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is no name for a %s", value, cluster ? "Cluster" : "namespace"),
				 errdetail("%s", problem),
				 errhint("Set another name with the option %s.", option)));
}

/* Kubernetes would say so, too, but only when it is asked. */
static void
check_labels(const RctlMap *options)
{
	const char *text = rctl_map_get(options, "labels");
	char	   *problem;
	const RctlJson *labels = text ? rctl_json_parse(text, strlen(text), &problem) : NULL;
	ListCell   *cell;

	foreach(cell, rctl_json_keys(labels))
	{
		char	   *value = rctl_json_text(rctl_json_key(labels, lfirst(cell)), "");
		const char *allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
		size_t		length = value ? strlen(value) : 0;

		if (value == NULL || length > NAME_LENGTH || strspn(value, allowed) != length ||
			(length > 0 && (strchr("-_.", value[0]) || strchr("-_.", value[length - 1]))))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for label \"%s\"", (char *) lfirst(cell)),
					 errdetail("It must be at most %d letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends.", NAME_LENGTH),
					 errhint("Kubernetes keeps other texts in annotations.")));
	}
}

/* What is made up of other options, or marks what is ours. */
static void
refuse_fields(const RctlMap *options, const char *option, const char *const *refused, const char *hint)
{
	const char *text = rctl_map_get(options, option);
	char	   *problem;
	const RctlJson *json = text ? rctl_json_parse(text, strlen(text), &problem) : NULL;

	for (; json && *refused; refused++)
	{
		if (rctl_json_key(json, *refused))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" cannot be set by the option \"%s\"", *refused, option),
					 errhint("%s", hint)));
	}
}

static void
check_conninfo(const char *conninfo)
{
	char	   *problem = NULL;
	PQconninfoOption *parsed;
	bool		secret = false;

	if (conninfo == NULL)
		return;
	parsed = PQconninfoParse(conninfo, &problem);
	if (parsed == NULL)
	{
		PQfreemem(problem);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the option \"conninfo\" is not a connection string")));
	}
	for (PQconninfoOption *o = parsed; o->keyword; o++)
		secret |= o->val && (strcmp(o->keyword, "password") == 0 || strcmp(o->keyword, "sslpassword") == 0);
	PQconninfoFree(parsed);
	if (secret)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the option \"conninfo\" must not hold a password"),
				 errhint("Set the option password of your user mapping.")));
}

static void
check_server(const RctlMap *server)
{
	const char *url = rctl_map_get(server, "api_server");
	char	   *problem = url ? rctl_http_url_problem(url, false) : NULL;

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", "api_server"),
				 errdetail("%s", problem),
				 errhint("It looks like https://host:port.")));
	require_name("namespace", rctl_map_get(server, "namespace"), false);
	require_name("source_namespace", rctl_map_get(server, "source_namespace"), false);
	require_name("cluster", rctl_map_get(server, "cluster"), true);
	if (rctl_cnpg_source_apart(server) && rctl_map_get(server, "cluster") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("options \"source_server\" and \"source_namespace\" need option \"cluster\""),
				 errhint("Name the Cluster there that replicas follow.")));
}

static void
check_options(RctlOpKind kind, const char *replica, const RctlMap *server, const RctlMap *options)
{
	static const char *const made_fields[] = {
		"instances", "imageName", "storage", "walStorage", "bootstrap", "externalClusters", "replica", "postgresql", NULL
	};
	static const char *const our_labels[] = {RCTL_CNPG_LABEL, NULL};
	bool		instance = strcmp(rctl_map_get_default(options, "type", "cluster"), "instance") == 0;
	bool		create = kind == RCTL_OP_CREATE;
	const char *name = rctl_map_get(options, "cluster_name");
	const char *source = rctl_map_get(server, "cluster");
	const char *missing = NULL;

	check_conninfo(rctl_map_get(options, "conninfo"));
	refuse_fields(options, "spec", made_fields, "There is an option of its own for it.");
	refuse_fields(options, "labels", our_labels, "It marks what this server made.");
	check_labels(options);
	if (instance && (source == NULL || rctl_cnpg_source_apart(server)))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("an instance needs a Cluster of its own server and namespace"),
				 errhint("Use a server with the option cluster, and without source_server and source_namespace.")));
	if (instance)
	{
		if (!create && rctl_map_get(options, "instance") == NULL)
			missing = "instance";
	}
	else
	{
		require_name("cluster_name", name ? name : rctl_cnpg_default_name(replica), true);
		if (create && rctl_map_get(options, "storage_size") == NULL)
			missing = "storage_size";
		else if (create && (source == NULL || rctl_map_get(server, "source_server")) && rctl_map_get(options, "source_host") == NULL)
			missing = "source_host";
		else if (create && source == NULL && rctl_map_get(options, "source_user") == NULL)
			missing = "source_user";
	}
	if (missing)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"%s\" is missing", missing),
				 errhint("Add it to the options of replica_%s().", create ? "create" : "attach")));
	if (strcmp(rctl_map_get_default(options, "distributed", "false"), "true") == 0 &&
		(instance || source == NULL || rctl_map_get(options, "apply_delay")))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a distributed replica is a Cluster that follows the server's Cluster, without apply_delay"),
				 errhint("Set the server's option cluster, or leave out distributed.")));
	(void) rctl_standby_apply_delay(options);
}

/* ---------------------------------------------------------------------
 * SQL on the replica
 * ---------------------------------------------------------------------
 */

char *
rctl_cnpg_conninfo(const char *conninfo, const char *password)
{
	const RctlConnParam params[] = {{"password", password}, {NULL}};

	return password ? psprintf("%s %s", conninfo, rctl_conninfo(params)) : pstrdup(conninfo);
}

static PGconn *
cnpg_connect(RctlOp *op, RctlReplica *replica, long timeout_ms)
{
	const char *conninfo = rctl_map_get(replica->options, "conninfo");

	if (conninfo == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("it is not known how to reach replica \"%s\" by SQL", replica->name),
				 errhint("Attach it again with the option conninfo.")));
	return rctl_pg_connect(rctl_cnpg_conninfo(conninfo, rctl_op_secret(op, "password")), timeout_ms,
						   psprintf("replica \"%s\"", replica->name));
}

static char *
cnpg_conninfo(const RctlReplica *replica, const RctlMap *mapping)
{
	const char *conninfo = rctl_map_get(replica->options, "conninfo");

	return conninfo ? rctl_cnpg_conninfo(conninfo, mapping ? rctl_map_get(mapping, "password") : NULL) : NULL;
}

/* ---------------------------------------------------------------------
 * The provider
 * ---------------------------------------------------------------------
 */

/* "clusters/alpha on server "east", namespace "db""; what a kubeconfig says of the namespace is not read. */
static char *
describe_cluster(const char *server, const char *namespace, const char *name)
{
	return psprintf("clusters/%s on server \"%s\"%s%s%s", name, server, namespace ? ", namespace \"" : "",
					namespace ? namespace : "", namespace ? "\"" : "");
}

static char *
describe_promotion(RctlOp *op, const char *name)
{
	const RctlMap *server = op->server_options;
	const char *source_server = rctl_map_get(server, "source_server");
	const char *namespace = rctl_map_get(server, "source_namespace");
	char	   *replica = describe_cluster(op->replica->server, rctl_map_get(server, "namespace"), name);
	char	   *source;

	if (rctl_cnpg_is_instance(op->replica))
		return psprintf("PATCH %s status {targetPrimary}", replica);
	if (!rctl_cnpg_is_distributed(op->replica))
		return psprintf("PATCH %s {spec.replica.enabled: false}", replica);
	if (strcmp(rctl_map_get_default(op->arguments, "mode", "planned"), "forced") == 0)
		return psprintf("PATCH %s {spec.replica.primary}, without a token: its source has to be made anew", replica);
	if (namespace == NULL && source_server == NULL)
		namespace = rctl_map_get(server, "namespace");
	source = describe_cluster(source_server ? source_server : op->replica->server, namespace,
							  rctl_map_get_default(server, "cluster", ""));
	return psprintf("PATCH %s {spec.replica.primary}; its status.demotionToken; PATCH %s {spec.replica.primary, promotionToken}",
					source, replica);
}

static char *
describe_step(RctlOp *op, const char *step)
{
	const char *name = rctl_map_get_default(op->replica->facts, "cluster", "NAME");
	bool		instance = rctl_cnpg_is_instance(op->replica);
	char	   *cluster = describe_cluster(op->replica->server, rctl_map_get(op->server_options, "namespace"), name);

	if (strcmp(step, "make") == 0)
		return instance ? psprintf("PATCH %s {spec.instances}", cluster)
			: psprintf("POST %s %s", cluster, rctl_cnpg_manifest(op, name, NULL));
	if (strcmp(step, "remove") == 0)
		return instance ? psprintf("PATCH %s {spec.instances}", cluster) : psprintf("DELETE %s", cluster);
	if (strcmp(step, "promote") == 0)
		return describe_promotion(op, name);
	return NULL;
}

const RctlProvider rctl_provider_cnpg = {
	.name = "cnpg",
	.wrapper = "replica_cnpg",
	.server_options = server_options,
	.mapping_options = mapping_options,
	.create_options = create_options,
	.attach_options = attach_options,
	.check_server = check_server,
	.check_options = check_options,
	.create_checks = rctl_cnpg_create_checks,
	.drop_checks = rctl_cnpg_drop_checks,
	.create = rctl_cnpg_create_steps,
	.attach = rctl_cnpg_attach_steps,
	.drop = rctl_cnpg_drop_steps,
	.change = rctl_cnpg_change_steps,
	.change_options = change_options,
	.cleanup = rctl_cnpg_cleanup,
	.connect = cnpg_connect,
	.conninfo = cnpg_conninfo,
	.managed = &rctl_cnpg_promotion,
	.describe_step = describe_step,
	.watch = rctl_cnpg_watch,
};
