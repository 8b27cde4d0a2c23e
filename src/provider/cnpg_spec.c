/*-------------------------------------------------------------------------
 *
 * cnpg_spec.c
 *	  The Cluster that replica_create() asks CloudNativePG for.
 *
 * It is bootstrapped by pg_basebackup from the source and goes on as a
 * replica cluster.  The source is the Cluster that the foreign server names,
 * with the secrets that the operator has made for it, or any PostgreSQL that
 * the options describe.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "utils/json.h"

#include "provider/cnpg.h"
#include "provider/standby.h"

/* Name of the source among externalClusters where it is no Cluster. */
#define PLAIN_SOURCE "source"

/* Appends "key":"value", after a comma if it is not the first. */
static void
add_text(StringInfo json, const char *key, const char *value)
{
	if (value == NULL)
		return;
	if (json->len > 0 && strchr("{[", json->data[json->len - 1]) == NULL)
		appendStringInfoChar(json, ',');
	escape_json(json, key);
	appendStringInfoChar(json, ':');
	escape_json(json, value);
}

/* The same for what is JSON already. */
static void
add_json(StringInfo json, const char *key, const char *value)
{
	if (value == NULL)
		return;
	if (json->len > 0 && strchr("{[", json->data[json->len - 1]) == NULL)
		appendStringInfoChar(json, ',');
	escape_json(json, key);
	appendStringInfo(json, ":%s", value);
}

/* {"name": secret, "key": key}; NULL if there is no secret */
static char *
secret_key(const char *secret, const char *key)
{
	StringInfoData json;

	if (secret == NULL)
		return NULL;
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	add_text(&json, "name", secret);
	add_text(&json, "key", key);
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* One of externalClusters. */
typedef struct Source
{
	const char *name;
	const char *host;
	const char *port;
	const char *user;
	const char *dbname;
	const char *sslmode;
	const char *password;		/* Secrets, or NULL */
	const char *tls;
	const char *ca;
} Source;

static char *
external_cluster(const Source *source)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	add_text(&json, "name", source->name);
	appendStringInfoString(&json, ",\"connectionParameters\":{");
	add_text(&json, "host", source->host);
	add_text(&json, "port", source->port);
	add_text(&json, "user", source->user);
	add_text(&json, "dbname", source->dbname);
	add_text(&json, "sslmode", source->sslmode);
	appendStringInfoChar(&json, '}');
	add_json(&json, "password", secret_key(source->password, "password"));
	add_json(&json, "sslKey", secret_key(source->tls, "tls.key"));
	add_json(&json, "sslCert", secret_key(source->tls, "tls.crt"));
	add_json(&json, "sslRootCert", secret_key(source->ca, "ca.crt"));
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* A Cluster, reached as its operator lets its own replicas. */
static Source
known_cluster(const char *name)
{
	return (Source)
	{
		.name = name,
			.host = psprintf("%s-rw", name),
			.port = "5432",
			.user = "streaming_replica",
			.dbname = "postgres",
			.sslmode = "verify-full",
			.tls = psprintf("%s-replication", name),
			.ca = psprintf("%s-ca", name),
	};
}

/* The source as the options describe it; what they leave out is as for the server's Cluster. */
static char *
source_cluster(RctlOp *op, const char *name, const char *secret)
{
	const RctlMap *options = op->replica->options;
	const char *namespace = rctl_map_get(op->server_options, "source_namespace");
	const char *user = rctl_map_get(options, "source_user");
	Source		source = {.name = name, .port = "5432", .dbname = "postgres", .sslmode = "require"};

	if (rctl_map_get(op->server_options, "cluster"))
		source = known_cluster(name);
	if (namespace && source.host)
		source.host = psprintf("%s.%s.svc", source.host, namespace);

	/* A role of its own has no certificate of the operator's. */
	if (user)
		source.tls = NULL;
	source.host = rctl_map_get_default(options, "source_host", source.host);
	source.port = rctl_map_get_default(options, "source_port", source.port);
	source.user = user ? user : source.user;
	source.dbname = rctl_map_get_default(options, "source_dbname", source.dbname);
	source.sslmode = rctl_map_get_default(options, "source_sslmode", source.sslmode);
	source.tls = rctl_map_get_default(options, "source_tls_secret", source.tls);
	source.ca = rctl_map_get_default(options, "source_ca_secret", source.ca);
	source.password = secret ? secret : rctl_map_get(options, "source_password_secret");
	return external_cluster(&source);
}

/* As CloudNativePG reads a duration. */
static char *
apply_delay(const RctlMap *options)
{
	int64		ms = rctl_standby_apply_delay(options);

	return ms > 0 ? psprintf(INT64_FORMAT "ms", ms) : NULL;
}

static char *
replica_stanza(RctlOp *op, const char *name, const char *source)
{
	const RctlMap *options = op->replica->options;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	if (rctl_cnpg_is_distributed(op->replica))
	{
		add_text(&json, "self", name);
		add_text(&json, "primary", source);
	}
	else
		add_json(&json, "enabled", "true");
	add_text(&json, "source", source);
	add_text(&json, "minApplyDelay", apply_delay(options));
	appendStringInfoChar(&json, '}');
	return json.data;
}

static char *
storage(const char *size, const char *class)
{
	StringInfoData json;

	if (size == NULL)
		return NULL;
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	add_text(&json, "size", size);
	add_text(&json, "storageClass", class);
	appendStringInfoChar(&json, '}');
	return json.data;
}

static char *
external_clusters(RctlOp *op, const char *name, const char *source, const char *secret)
{
	Source		self = known_cluster(name);

	/* A distributed one must be able to name itself, too. */
	return psprintf("[%s%s%s]", source_cluster(op, source, secret),
					rctl_cnpg_is_distributed(op->replica) ? "," : "",
					rctl_cnpg_is_distributed(op->replica) ? external_cluster(&self) : "");
}

static char *
spec(RctlOp *op, const char *name, const char *secret)
{
	const RctlMap *options = op->replica->options;
	const char *source = rctl_map_get_default(op->server_options, "cluster", PLAIN_SOURCE);
	const char *more = rctl_map_get(options, "spec");
	const char *parameters = rctl_map_get(options, "parameters");
	StringInfoData json;
	StringInfoData bootstrap;
	char	   *problem;
	ListCell   *cell;

	initStringInfo(&bootstrap);
	appendStringInfoString(&bootstrap, "{\"pg_basebackup\":{");
	add_text(&bootstrap, "source", source);
	appendStringInfoString(&bootstrap, "}}");

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	add_json(&json, "instances", rctl_map_get_default(options, "instances", "1"));
	add_text(&json, "imageName", rctl_map_get(options, "image_name"));
	add_json(&json, "storage", storage(rctl_map_get(options, "storage_size"), rctl_map_get(options, "storage_class")));
	add_json(&json, "walStorage", storage(rctl_map_get(options, "wal_storage_size"), rctl_map_get(options, "storage_class")));
	add_json(&json, "bootstrap", bootstrap.data);
	add_json(&json, "externalClusters", external_clusters(op, name, source, secret));
	add_json(&json, "replica", replica_stanza(op, name, source));
	if (parameters)
		add_json(&json, "postgresql", psprintf("{\"parameters\":%s}", parameters));
	if (more)
	{
		const RctlJson *fields = rctl_json_parse(more, strlen(more), &problem);

		foreach(cell, rctl_json_keys(fields))
			add_json(&json, lfirst(cell), rctl_json_print(rctl_json_key(fields, lfirst(cell))));
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

char *
rctl_cnpg_manifest(RctlOp *op, const char *name, const char *secret)
{
	const char *labels = rctl_map_get(op->replica->options, "labels");
	StringInfoData json;
	StringInfoData metadata;
	char	   *problem;
	ListCell   *cell;

	initStringInfo(&metadata);
	appendStringInfoChar(&metadata, '{');
	add_text(&metadata, "name", name);
	appendStringInfoString(&metadata, ",\"annotations\":{");
	add_text(&metadata, RCTL_CNPG_ANNOTATION, op->replica->name);
	appendStringInfoString(&metadata, "},\"labels\":{");
	add_text(&metadata, RCTL_CNPG_LABEL, psprintf(UINT64_FORMAT "-" INT64_FORMAT, GetSystemIdentifier(), op->id));
	if (labels)
	{
		const RctlJson *fields = rctl_json_parse(labels, strlen(labels), &problem);

		foreach(cell, rctl_json_keys(fields))
			add_text(&metadata, lfirst(cell), rctl_json_text(rctl_json_key(fields, lfirst(cell)), ""));
	}
	appendStringInfoString(&metadata, "}}");

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	add_text(&json, "apiVersion", "postgresql.cnpg.io/v1");
	add_text(&json, "kind", "Cluster");
	add_json(&json, "metadata", metadata.data);
	add_json(&json, "spec", spec(op, name, secret));
	appendStringInfoChar(&json, '}');
	return json.data;
}
