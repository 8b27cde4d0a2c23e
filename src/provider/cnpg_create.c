/*-------------------------------------------------------------------------
 *
 * cnpg_create.c
 *	  Makes, adopts, changes and removes replicas on CloudNativePG.
 *
 * An instance is made by one more in spec.instances.  That number says
 * nothing about who changed it, so the same patch leaves a mark of the
 * operation among the Cluster's annotations: what has the mark is done.  The
 * operator removes the youngest instance that is no primary when the number
 * shrinks; so only that one can be dropped.
 *
 * A Cluster carries the operation in a label, and is deleted by its uid only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/base64.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/cnpg.h"

#define STATEMENT_TIMEOUT_MS 10000
#define CONNECT_TIMEOUT_MS 10000

/* How often a create may find that its answer was lost before it gives up. */
#define CREATE_ATTEMPTS 5

bool
rctl_cnpg_is_instance(const RctlReplica *replica)
{
	const char *type = rctl_map_get(replica->facts, "type");

	if (type == NULL)
		type = rctl_map_get_default(replica->options, "type", "cluster");
	return strcmp(type, "instance") == 0;
}

static char *
operation_mark(RctlOp *op)
{
	return psprintf(UINT64_FORMAT "-" INT64_FORMAT, GetSystemIdentifier(), op->id);
}

/* "replica-ctl/<mark>", an annotation */
static char *
operation_annotation(RctlOp *op)
{
	return psprintf("replica-ctl/%s", operation_mark(op));
}

bool
rctl_cnpg_is_distributed(const RctlReplica *replica)
{
	return strcmp(rctl_map_get_default(replica->options, "distributed", "false"), "true") == 0;
}

char *
rctl_cnpg_default_name(const char *replica)
{
	char	   *name = pstrdup(replica);

	for (char *c = name; *c; c++)
		*c = *c == '_' ? '-' : pg_ascii_tolower((unsigned char) *c);
	return name;
}

const char *
rctl_cnpg_cluster_name(RctlOp *op)
{
	const char *name = rctl_map_get(op->replica->facts, "cluster");

	if (name)
		return name;
	if (rctl_cnpg_is_instance(op->replica))
		name = rctl_map_get(op->server_options, "cluster");
	else
		name = rctl_map_get(op->replica->options, "cluster_name");
	if (name == NULL && rctl_cnpg_is_instance(op->replica))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("server \"%s\" does not say which Cluster the instance belongs to", op->replica->server),
				 errhint("Set it with ALTER SERVER %s OPTIONS (ADD cluster '...').",
						 quote_identifier(op->replica->server))));
	rctl_map_set(op->replica->facts, "cluster", name ? name : rctl_cnpg_default_name(op->replica->name));
	return rctl_map_get(op->replica->facts, "cluster");
}

static RctlMap *
named_object(const char *name)
{
	RctlMap    *object = rctl_map_make();

	rctl_map_set(object, "name", name);
	return object;
}

/* ---------------------------------------------------------------------
 * Before a create
 * ---------------------------------------------------------------------
 */

/* Where the operator's own certificate is not what it logs in to the source by. */
static char *
source_password(RctlOp *op)
{
	bool		certificate = rctl_map_get(op->server_options, "cluster") && rctl_map_get(op->replica->options, "source_user") == NULL;

	return certificate ? NULL : rctl_op_secret(op, "replication_password");
}

/* The API server answers, and the Cluster that is the source is well. */
static void
check_source(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open_source(op);
	const char *source = rctl_map_get(op->server_options, "cluster");
	RctlCnpgCluster *cluster;
	char	   *progress;

	rctl_map_set(op->replica->facts, "type", rctl_cnpg_is_instance(op->replica) ? "instance" : "cluster");
	if (source == NULL)
	{
		(void) rctl_cnpg_cluster_name(op);
		return;
	}
	cluster = rctl_cnpg_get(kube, source, false);
	rctl_cnpg_require_recoverable(cluster);
	if (rctl_cnpg_is_distributed(op->replica) && strcmp(cluster->self, rctl_cnpg_cluster_name(op)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a distributed replica cannot be called \"%s\", like its source", cluster->self),
				 errhint("Choose another name with the option cluster_name.")));
	if (!rctl_cnpg_healthy(cluster, &progress))
		rctl_op_warn(op, psprintf("%s: %s.", kube->what, progress), NULL, "Cluster \"%s\" is not in healthy state", source);
}

static void
check_name(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *name = rctl_cnpg_cluster_name(op);

	if (rctl_cnpg_is_instance(op->replica))
		return;
	if (rctl_cnpg_get(kube, name, true))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("Cluster \"%s\" exists already in namespace \"%s\"", name, kube->namespace),
				 errhint("Choose another name with the option cluster_name, or take it over with replica_attach().")));
}

/* Asks whether we may, and does nothing; that there is nothing of that name is fine. */
static void
try_delete(RctlKube *kube, const char *path, const char *action)
{
	RctlKubeAnswer *answer = rctl_kube_ask(kube, "DELETE", psprintf("%s?dryRun=All", path), NULL,
										   psprintf("%s (dry run)", action));

	if (!rctl_kube_ok(answer) && answer->status != 404)
		rctl_kube_raise(answer);
}

/* What could be made but not deleted would be left behind by an undo. */
static void
check_rights(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *name = rctl_cnpg_cluster_name(op);
	RctlKubeAnswer *answer;

	if (rctl_cnpg_is_instance(op->replica))
		return;
	try_delete(kube, rctl_cnpg_path(kube, name, NULL), psprintf("delete Cluster \"%s\"", name));
	if (source_password(op) == NULL)
		return;
	name = psprintf("%s-source-dry-run", name);
	answer = rctl_kube_ask(kube, "POST", psprintf("%s?dryRun=All", rctl_kube_path(kube, "/api/v1", "secrets", NULL, NULL)),
						   psprintf("{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":%s}}", rctl_cnpg_quote(name)),
						   "create a Secret (dry run)");
	if (!rctl_kube_ok(answer))
		rctl_kube_raise(answer);
	try_delete(kube, rctl_kube_path(kube, "/api/v1", "secrets", name, NULL), "delete a Secret");
}

/* Kubernetes and the operator's webhook look at the very request, and do nothing. */
static void
check_manifest(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *name = rctl_cnpg_cluster_name(op);
	RctlKubeAnswer *answer;

	if (rctl_cnpg_is_instance(op->replica))
	{
		RctlCnpgCluster *cluster = rctl_cnpg_get(kube, name, false);

		answer = rctl_kube_ask(kube, "PATCH",
							   psprintf("%s?dryRun=All&fieldValidation=Strict", rctl_cnpg_path(kube, name, NULL)),
							   psprintf("{\"spec\":{\"instances\":" INT64_FORMAT "}}", cluster->wanted + 1),
							   psprintf("patch Cluster \"%s\" (dry run)", name));
	}
	else
		answer = rctl_kube_ask(kube, "POST",
							   psprintf("%s?dryRun=All&fieldValidation=Strict", rctl_cnpg_path(kube, NULL, NULL)),
							   rctl_cnpg_manifest(op, name, source_password(op) ? "dry-run" : NULL),
							   psprintf("create Cluster \"%s\" (dry run)", name));
	if (!rctl_kube_ok(answer))
		rctl_kube_raise(answer);
}

const RctlStep rctl_cnpg_create_checks[] = {
	{"kubernetes", check_source, "the API server accepts our login, and the source is there"},
	{"name", check_name, "no other Cluster has its name"},
	{"rights", check_rights, "what will be made may be taken back, too"},
	{"manifest", check_manifest, "Kubernetes and the operator accept what will be asked for"},
	{NULL}
};

static void
preflight(RctlOp *op)
{
	rctl_op_progress(op, "checking", 0, 0);
	for (const RctlStep *check = rctl_cnpg_create_checks; check->name; check++)
		check->run(op);
}

/* ---------------------------------------------------------------------
 * An instance more
 * ---------------------------------------------------------------------
 */

static char *
names_to_json(const List *names)
{
	StringInfoData json;
	ListCell   *cell;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	foreach(cell, names)
	{
		if (json.len > 1)
			appendStringInfoChar(&json, ',');
		escape_json(&json, lfirst(cell));
	}
	appendStringInfoChar(&json, ']');
	return json.data;
}

/* Whether an annotation of the Cluster has the mark. */
static bool
is_marked(const RctlCnpgCluster *cluster, const char *annotation)
{
	return rctl_json_key(rctl_json_find(cluster->json, "metadata/annotations"), annotation) != NULL;
}

static char *
scale_patch(int64 instances, const char *annotation, bool mark)
{
	return psprintf("{\"metadata\":{\"annotations\":{\"%s\":%s}},\"spec\":{\"instances\":" INT64_FORMAT "}}",
					annotation, mark ? "\"scaled\"" : "null", instances);
}

static const char *
decide_scale_up(void *arg, const RctlCnpgCluster *cluster)
{
	RctlOp	   *op = arg;

	rctl_cnpg_require_same(op, cluster);
	if (is_marked(cluster, operation_annotation(op)))
		return NULL;
	rctl_map_set(op->replica->facts, "uid", cluster->uid);
	rctl_map_set_json(op->state, "before", names_to_json(cluster->instances));
	rctl_op_save(op);
	return scale_patch(cluster->wanted + 1, operation_annotation(op), true);
}

static void
scale_up(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *name = rctl_cnpg_cluster_name(op);
	RctlMap    *object = named_object(name);

	rctl_map_set(object, "annotation", operation_annotation(op));
	rctl_map_set(object, "namespace", kube->namespace);
	rctl_op_cleanup_add(op, "instance", object, false);
	(void) rctl_cnpg_change(kube, name, NULL, decide_scale_up, op,
							psprintf("scale Cluster \"%s\" up", name));
}

/* An instance that was not there before, and that no other replica here is; NULL: none yet. */
static char *
find_new_instance(RctlOp *op, RctlKube *kube, const RctlCnpgCluster *cluster)
{
	const char *before = rctl_map_get_default(op->state, "before", "[]");
	char	   *problem;
	const RctlJson *old = rctl_json_parse(before, strlen(before), &problem);
	List	   *known = NIL;
	ListCell   *cell;

	for (int i = 0; i < rctl_json_array_length(old, ""); i++)
		known = lappend(known, rctl_json_text(rctl_json_element(old, i), ""));
	foreach(cell, cluster->instances)
	{
		char	   *instance = lfirst(cell);

		if (!rctl_cnpg_has(known, instance) &&
			rctl_op_reserve(op, "pod", psprintf("%s/%s/%s", kube->url, kube->namespace, instance)))
			return instance;
	}
	return NULL;
}

/* ---------------------------------------------------------------------
 * A Cluster
 * ---------------------------------------------------------------------
 */

/* The password for the source goes into a Secret of its own. */
static const char *
make_secret(RctlOp *op, RctlKube *kube)
{
	char	   *password = source_password(op);
	char	   *name = psprintf("%s-source-%s", rctl_cnpg_cluster_name(op), operation_mark(op));
	char	   *encoded;
	int			length;
	RctlKubeAnswer *answer;

	if (password == NULL)
		return NULL;
	length = pg_b64_enc_len(strlen(password));
	encoded = palloc0(length + 1);
	if (pg_b64_encode((void *) password, strlen(password), encoded, length) < 0)
		elog(ERROR, "could not encode a password");
	rctl_map_set(op->replica->facts, "secret", name);
	rctl_op_cleanup_add(op, "secret", named_object(name), false);
	answer = rctl_kube_ask(kube, "POST", rctl_kube_path(kube, "/api/v1", "secrets", NULL, NULL),
						   psprintf("{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"%s\"},"
									"\"data\":{\"password\":\"%s\"}}", name, encoded),
						   psprintf("create Secret \"%s\"", name));

	/*
	 * The name is this operation's: one that exists is from an earlier
	 * attempt.
	 */
	if (!rctl_kube_ok(answer) && strcmp(answer->reason, "AlreadyExists") != 0)
		rctl_kube_raise(answer);
	return rctl_map_get(op->replica->facts, "secret");
}

static void
make_cluster(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *name = rctl_cnpg_cluster_name(op);
	RctlMap    *object = named_object(name);
	RctlKubeAnswer *answer = NULL;
	const char *secret;

	rctl_map_set(object, "mark", operation_mark(op));
	rctl_map_set(object, "namespace", kube->namespace);
	rctl_op_cleanup_add(op, "cluster", object, false);
	secret = make_secret(op, kube);
	for (int i = 0; i < CREATE_ATTEMPTS; i++)
	{
		RctlCnpgCluster *cluster = rctl_cnpg_get(kube, name, true);

		if (cluster)
		{
			char	   *label = rctl_json_text(rctl_json_key(rctl_json_find(cluster->json, "metadata/labels"),
															 RCTL_CNPG_LABEL), "");

			if (label == NULL || strcmp(label, operation_mark(op)) != 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_OBJECT),
						 errmsg("Cluster \"%s\" was made by somebody else meanwhile", name),
						 errhint("Choose another name with the option cluster_name.")));
			rctl_map_set(op->replica->facts, "uid", cluster->uid);
			(void) rctl_op_reserve(op, "pod", psprintf("%s/%s/%s", kube->url, kube->namespace, name));
			return;
		}
		answer = rctl_kube_ask(kube, "POST",
							   psprintf("%s?fieldValidation=Strict", rctl_cnpg_path(kube, NULL, NULL)),
							   rctl_cnpg_manifest(op, name, secret), psprintf("create Cluster \"%s\"", name));
		if (!rctl_kube_ok(answer) && !answer->lost && strcmp(answer->reason, "AlreadyExists") != 0)
			rctl_kube_raise(answer);
	}
	if (rctl_kube_ok(answer))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("Cluster \"%s\" was made, and is gone again", name),
				 errhint("See who deletes it.")));
	rctl_kube_raise(answer);
}

static void
make(RctlOp *op)
{
	if (rctl_cnpg_is_instance(op->replica))
		scale_up(op);
	else
		make_cluster(op);
}

/* The endpoint that replica_status shows; what the user said goes first. */
static void
set_endpoint(RctlOp *op, RctlKube *kube, const RctlCnpgCluster *cluster)
{
	RctlMap    *facts = op->replica->facts;
	const char *instance = rctl_map_get(facts, "instance");
	char	   *service = rctl_json_text(cluster->json, "status/writeService");
	char	   *ip = NULL;

	if (instance)
		ip = rctl_json_text(rctl_json_key(rctl_json_find(cluster->json, "status/instancesReportedState"), instance), "ip");
	if (ip)
		rctl_map_set(facts, "host", ip);
	else if (!instance && service)
		rctl_map_set(facts, "host", psprintf("%s.%s.svc", service, kube->namespace));
	rctl_map_set(facts, "port", "5432");
	rctl_map_set(facts, "system_identifier", cluster->system_id);
}

/* A Cluster that was deleted and made again is not ours. */
void
rctl_cnpg_require_same(RctlOp *op, const RctlCnpgCluster *cluster)
{
	const char *uid = rctl_map_get(op->replica->facts, "uid");

	if (cluster == NULL || (uid && strcmp(uid, cluster->uid) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the Cluster of replica \"%s\" is gone", op->replica->name),
				 errdetail("Somebody has deleted it%s.", cluster ? " and made another one of its name" : ""),
				 errhint("Forget the replica with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
}

static bool
look_ready(RctlOp *op, RctlKube *kube, void *arg)
{
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, rctl_cnpg_cluster_name(op), true);
	char	   *progress;
	bool		healthy;

	rctl_cnpg_require_same(op, cluster);
	rctl_cnpg_require_recoverable(cluster);
	healthy = rctl_cnpg_healthy(cluster, &progress);
	rctl_op_progress(op, progress, cluster->ready, cluster->wanted);
	if (rctl_cnpg_is_instance(op->replica))
	{
		char	   *found = find_new_instance(op, kube, cluster);

		if (found == NULL || !rctl_cnpg_has(cluster->healthy, found))
			return false;
		rctl_map_set(op->replica->facts, "instance", found);
	}
	else if (!cluster->replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" is a primary, not a replica", cluster->name),
				 errhint("Somebody has changed its spec.replica.")));
	else if (!healthy || !cluster->role_known || cluster->is_primary)
		return false;
	set_endpoint(op, kube, cluster);
	return true;
}

static void
wait_until_ready(RctlOp *op)
{
	rctl_cnpg_wait(op, rctl_cnpg_open(op), look_ready, NULL);
}

/* By SQL, where the replica can be reached from here; it exists, whatever this says. */
static void
verify(RctlOp *op)
{
	const char *conninfo = rctl_map_get(op->replica->options, "conninfo");
	PGconn	   *conn;
	char	   *reason;
	int			sqlerrcode;

	if (conninfo == NULL)
		return;
	conn = rctl_pg_try_connect(rctl_cnpg_conninfo(conninfo, rctl_op_secret(op, "password")), CONNECT_TIMEOUT_MS,
							   &reason, &sqlerrcode);
	if (conn)
		reason = rctl_pg_value(conn, STATEMENT_TIMEOUT_MS,
							   "SELECT CASE WHEN NOT pg_is_in_recovery() THEN 'It is not in recovery.'"
							   " WHEN NOT EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 'It does not stream.' END", 0, NULL);
	if (reason)
		rctl_op_event(op, "warning", "not_verified", NULL, "Replica \"%s\" is there, but: %s", op->replica->name, reason);
}

static const char *
decide_unmark(void *arg, const RctlCnpgCluster *cluster)
{
	const char *annotation = arg;

	if (!is_marked(cluster, annotation))
		return NULL;
	return psprintf("{\"metadata\":{\"annotations\":{\"%s\":null}}}", annotation);
}

/* The mark has served: from here on facts say whose the instance is. */
static void
settle(RctlOp *op)
{
	verify(op);
	if (rctl_cnpg_is_instance(op->replica))
		(void) rctl_cnpg_change(rctl_cnpg_open(op), rctl_cnpg_cluster_name(op), NULL, decide_unmark, operation_annotation(op),
								psprintf("patch Cluster \"%s\"", rctl_cnpg_cluster_name(op)));
}

const RctlStep rctl_cnpg_create_steps[] = {
	{"preflight", preflight, "check that Kubernetes and the operator will accept it"},
	{"make", make, "ask for the instance or the Cluster"},
	{"wait", wait_until_ready, "wait until the operator has made it", .weight = 10},
	{"settle", settle, "see that it streams, and remove the mark of this operation"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Attach
 * ---------------------------------------------------------------------
 */

static void
attach(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	bool		is_instance = rctl_cnpg_is_instance(op->replica);
	const char *name = rctl_cnpg_cluster_name(op);
	const char *instance = rctl_map_get(op->replica->options, "instance");
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, name, false);

	rctl_map_set(op->replica->facts, "type", is_instance ? "instance" : "cluster");
	rctl_map_set(op->replica->facts, "adopted", "true");
	if (is_instance && !rctl_cnpg_has(cluster->instances, instance))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("Cluster \"%s\" has no instance \"%s\"", name, instance ? instance : ""),
				 errhint("Name one of its pods with the option instance.")));
	if (!is_instance && cluster->replica && (cluster->primary != NULL) != rctl_cnpg_is_distributed(op->replica))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("Cluster \"%s\" is %s", name,
						cluster->primary ? "part of a distributed topology" : "no part of a distributed topology"),
				 errdetail("Its spec.replica.primary is %s.", cluster->primary ? rctl_cnpg_quote(cluster->primary) : "not set"),
				 errhint("Set the option distributed to %s.", cluster->primary ? "true" : "false")));
	if (is_instance ? strcmp(instance, cluster->current_primary ? cluster->current_primary : "") == 0 : !cluster->replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" is a primary, not a replica", is_instance ? instance : name),
				 errhint("Attach what follows it.")));
	if (!rctl_op_reserve(op, "pod", psprintf("%s/%s/%s", kube->url, kube->namespace, is_instance ? instance : name)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("\"%s\" is a replica here already", is_instance ? instance : name),
				 errhint("SELECT replica FROM replica_status lists the replicas.")));
	rctl_map_set(op->replica->facts, "instance", is_instance ? instance : NULL);
	rctl_map_set(op->replica->facts, "uid", cluster->uid);
	set_endpoint(op, kube, cluster);
	verify(op);
}

const RctlStep rctl_cnpg_attach_steps[] = {
	{"inspect", attach, "look at it, and check that it is a replica"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Drop
 * ---------------------------------------------------------------------
 */

static int
serial_of(const char *instance)
{
	const char *dash = instance ? strrchr(instance, '-') : NULL;

	return dash ? (int) strtol(dash + 1, NULL, 10) : 0;
}

/* The operator would remove another one if this is not the youngest that is no primary. */
static void
require_removable(const RctlCnpgCluster *cluster, const char *instance)
{
	bool		primary = (cluster->current_primary && strcmp(cluster->current_primary, instance) == 0) ||
	(cluster->target_primary && strcmp(cluster->target_primary, instance) == 0);
	ListCell   *cell;

	if (primary)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("instance \"%s\" is the primary of Cluster \"%s\"", instance, cluster->name),
				 errhint("Forget it with replica_detach(), or promote another instance first.")));
	foreach(cell, cluster->instances)
	{
		const char *other = lfirst(cell);

		if (serial_of(other) > serial_of(instance) &&
			(cluster->current_primary == NULL || strcmp(other, cluster->current_primary) != 0))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("scaling Cluster \"%s\" down would remove instance \"%s\", not \"%s\"",
							cluster->name, other, instance),
					 errdetail("CloudNativePG removes the youngest instance that is not the primary."),
					 errhint("Drop that one first, or run kubectl cnpg destroy %s %d, then SELECT replica_detach().",
							 cluster->name, serial_of(instance))));
	}
}

/* As it is now; NULL if it is gone, or another one has its name. */
static RctlCnpgCluster *
our_cluster(RctlOp *op, RctlKube *kube)
{
	const char *uid = rctl_map_get(op->replica->facts, "uid");
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, rctl_cnpg_cluster_name(op), true);

	return cluster && uid && strcmp(cluster->uid, uid) != 0 ? NULL : cluster;
}

static void
drop_check(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *quoted = quote_literal_cstr(op->replica->name);
	bool		force = strcmp(rctl_map_get_default(op->arguments, "force", "false"), "true") == 0;
	RctlCnpgCluster *cluster;

	if (!force && rctl_map_get(op->replica->facts, "adopted"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was attached, not made here", op->replica->name),
				 errdetail("A drop would delete its data."),
				 errhint("Forget it with SELECT replica_detach(%s), or delete it with SELECT replica_drop(%s, force => true).",
						 quoted, quoted)));
	cluster = our_cluster(op, kube);
	if (cluster == NULL)
		return;
	if (rctl_cnpg_is_instance(op->replica))
	{
		const char *instance = rctl_map_get(op->replica->facts, "instance");

		if (instance == NULL || !rctl_cnpg_has(cluster->instances, instance))
			return;
		require_removable(cluster, instance);
		rctl_cnpg_try(kube, cluster->name, NULL,
					  psprintf("{\"spec\":{\"instances\":" INT64_FORMAT "}}", cluster->wanted - 1),
					  psprintf("scale Cluster \"%s\" down", cluster->name));
		return;
	}
	if (!force && cluster->role_known && cluster->is_primary)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was promoted and is a server of its own", op->replica->name),
				 errdetail("A drop would delete its data."),
				 errhint("Forget it with SELECT replica_detach(%s), or delete it with SELECT replica_drop(%s, force => true).",
						 quoted, quoted)));
	try_delete(kube, rctl_cnpg_path(kube, cluster->name, NULL), psprintf("delete Cluster \"%s\"", cluster->name));
}

typedef struct ScaleDown
{
	const char *annotation;
	const char *instance;		/* NULL: none is known */
	bool		undo;			/* the mark says that there is something to
								 * undo */
} ScaleDown;

static const char *
decide_scale_down(void *arg, const RctlCnpgCluster *cluster)
{
	ScaleDown  *down = arg;
	bool		marked = is_marked(cluster, down->annotation);

	if (down->undo)
	{
		if (!marked)
			return NULL;
		if (down->instance && rctl_cnpg_has(cluster->instances, down->instance))
			require_removable(cluster, down->instance);
		return scale_patch(Max(cluster->wanted - 1, 1), down->annotation, false);
	}
	if (marked || down->instance == NULL || !rctl_cnpg_has(cluster->instances, down->instance))
		return NULL;
	require_removable(cluster, down->instance);
	return scale_patch(cluster->wanted - 1, down->annotation, true);
}

/* Deletes an object by its uid (NULL: any); what is gone, or is another one of the name, is fine. */
static void
delete_object(RctlKube *kube, const char *path, const char *uid, const char *action)
{
	StringInfoData body;
	RctlKubeAnswer *answer = NULL;

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"propagationPolicy\":\"Foreground\"");
	if (uid)
	{
		appendStringInfoString(&body, ",\"preconditions\":{\"uid\":");
		escape_json(&body, uid);
		appendStringInfoChar(&body, '}');
	}
	appendStringInfoChar(&body, '}');
	for (int i = 0; i < CREATE_ATTEMPTS; i++)
	{
		answer = rctl_kube_ask(kube, "DELETE", path, body.data, action);
		if (rctl_kube_ok(answer) || answer->status == 404 || (uid && answer->status == 409))
			return;
		if (!answer->lost)
			break;
	}
	rctl_kube_raise(answer);
}

static void
drop_secret(RctlKube *kube, const char *name)
{
	if (name)
		delete_object(kube, rctl_kube_path(kube, "/api/v1", "secrets", name, NULL), NULL,
					  psprintf("delete Secret \"%s\"", name));
}

static void
drop_remove(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *name = rctl_cnpg_cluster_name(op);
	ScaleDown	down = {operation_annotation(op), rctl_map_get(op->replica->facts, "instance"), false};

	if (!rctl_cnpg_is_instance(op->replica))
	{
		const char *uid = rctl_map_get(op->replica->facts, "uid");

		if (uid)
			delete_object(kube, rctl_cnpg_path(kube, name, NULL), uid, psprintf("delete Cluster \"%s\"", name));
		drop_secret(kube, rctl_map_get(op->replica->facts, "secret"));
	}
	else if (our_cluster(op, kube))
		(void) rctl_cnpg_change(kube, name, NULL, decide_scale_down, &down, psprintf("scale Cluster \"%s\" down", name));
}

static bool
look_gone(RctlOp *op, RctlKube *kube, void *arg)
{
	RctlCnpgCluster *cluster = our_cluster(op, kube);

	if (cluster == NULL)
		return true;
	if (rctl_cnpg_is_instance(op->replica)
		? !rctl_cnpg_has(cluster->instances, rctl_map_get(op->replica->facts, "instance"))
		: rctl_map_get(op->replica->facts, "uid") == NULL)
		return true;
	rctl_op_progress(op, "waiting until it is deleted", 0, 0);
	return false;
}

static void
drop_wait(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);

	rctl_cnpg_wait(op, kube, look_gone, NULL);
	if (rctl_cnpg_is_instance(op->replica) && our_cluster(op, kube))
		(void) rctl_cnpg_change(kube, rctl_cnpg_cluster_name(op), NULL, decide_unmark, operation_annotation(op),
								psprintf("patch Cluster \"%s\"", rctl_cnpg_cluster_name(op)));
}

const RctlStep rctl_cnpg_drop_checks[] = {
	{"deletion", drop_check, "it is a replica, and what would be deleted is that one"},
	{NULL}
};

const RctlStep rctl_cnpg_drop_steps[] = {
	{"check", drop_check, "check that it is a replica, and what would be deleted"},
	{"remove", drop_remove, "delete the Cluster, or scale it down", .point_of_no_return = true},
	{"wait", drop_wait, "wait until it is gone", .point_of_no_return = true},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Change
 * ---------------------------------------------------------------------
 */

static const char *
decide_instances(void *arg, const RctlCnpgCluster *cluster)
{
	RctlOp	   *op = arg;
	int64		wanted = strtoll(rctl_map_get_default(op->arguments, "instances", "1"), NULL, 10);

	rctl_cnpg_require_same(op, cluster);
	if (cluster->wanted == wanted)
		return NULL;
	return psprintf("{\"spec\":{\"instances\":" INT64_FORMAT "}}", wanted);
}

static bool
look_scaled(RctlOp *op, RctlKube *kube, void *arg)
{
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, rctl_cnpg_cluster_name(op), true);
	char	   *progress;

	rctl_cnpg_require_same(op, cluster);
	rctl_cnpg_require_recoverable(cluster);
	if (rctl_cnpg_healthy(cluster, &progress))
		return true;
	rctl_op_progress(op, progress, cluster->ready, cluster->wanted);
	return false;
}

static void
change_instances(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *name = rctl_cnpg_cluster_name(op);

	if (rctl_cnpg_is_instance(op->replica))
		return;
	(void) rctl_cnpg_change(kube, name, NULL, decide_instances, op, psprintf("scale Cluster \"%s\"", name));
	rctl_cnpg_wait(op, kube, look_scaled, NULL);
}

const RctlStep rctl_cnpg_change_steps[] = {
	{"scale", change_instances, "scale the Cluster, and wait until it is healthy"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Undo
 * ---------------------------------------------------------------------
 */

void
rctl_cnpg_cleanup(RctlOp *op, const RctlCleanup *record)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	const char *name = rctl_map_get(record->object, "name");
	RctlCnpgCluster *cluster;

	if (strcmp(record->type, "secret") == 0)
	{
		drop_secret(kube, name);
		return;
	}
	if (strcmp(record->type, "demotion") == 0)
	{
		rctl_cnpg_move_back(op, record->object);
		return;
	}
	cluster = rctl_cnpg_get(kube, name, true);
	if (cluster == NULL)
		return;
	if (strcmp(record->type, "instance") == 0)
	{
		ScaleDown	down = {rctl_map_get(record->object, "annotation"), rctl_map_get(op->replica->facts, "instance"), true};

		(void) rctl_cnpg_change(kube, name, NULL, decide_scale_down, &down, psprintf("scale Cluster \"%s\" down", name));
	}
	else if (strcmp(record->type, "cluster") == 0)
	{
		char	   *label = rctl_json_text(rctl_json_key(rctl_json_find(cluster->json, "metadata/labels"),
														 RCTL_CNPG_LABEL), "");

		if (label && strcmp(label, rctl_map_get(record->object, "mark")) == 0)
			delete_object(kube, rctl_cnpg_path(kube, name, NULL), cluster->uid, psprintf("delete Cluster \"%s\"", name));
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("unknown type of cleanup record: \"%s\"", record->type)));
}
