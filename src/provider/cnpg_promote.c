/*-------------------------------------------------------------------------
 *
 * cnpg_promote.c
 *	  Promotions by CloudNativePG: of an instance, of a replica cluster.
 *
 * Three ways, by what the replica is:
 *	  instance		status.targetPrimary is set, as kubectl cnpg promote does; the
 *					operator stops the old primary and lets it follow
 *	  distributed	the source is demoted, tells a token, and the replica is
 *					promoted with that token, in this order: so the operator
 *					knows that nothing is missing
 *	  standalone	spec.replica.enabled becomes false; the operator stops
 *					nothing, so that the fence and the wait for lag 0 are ours
 *
 * There is no phase for a standalone promotion: that the primary says it is
 * one, on a later timeline, is the proof.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "net/wait.h"
#include "provider/cnpg.h"

#define VERIFY_TIMEOUT_MS 10000

/* After so many looks at a switchover that nobody is working on it has been dropped. */
#define FORGOTTEN_LOOKS 30

static bool
is_distributed(const RctlReplica *replica)
{
	return strcmp(rctl_map_get_default(replica->options, "distributed", "false"), "true") == 0;
}

static const char *
cluster_of(RctlOp *op)
{
	return rctl_map_get_default(op->replica->facts, "cluster", "");
}

/* The source of a distributed one: a Cluster in the same namespace. */
static const char *
source_of(RctlOp *op)
{
	return rctl_map_get_default(op->server_options, "cluster", "");
}

static char *
json_text(const char *text)
{
	StringInfoData json;

	initStringInfo(&json);
	escape_json(&json, text);
	return json.data;
}

/* ---------------------------------------------------------------------
 * Before
 * ---------------------------------------------------------------------
 */

static void
check_cluster(RctlOp *op)
{
	RctlCnpgCluster *cluster = rctl_cnpg_get(rctl_cnpg_open(op), cluster_of(op), false);
	char	   *progress;

	rctl_cnpg_require_recoverable(cluster);
	if (!rctl_cnpg_healthy(cluster, &progress))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" is not in healthy state", cluster->name),
				 errdetail("%s", progress),
				 errhint("Wait until the operator is done: kubectl get clusters.postgresql.cnpg.io %s.", cluster->name)));
	if (rctl_json_bool(cluster->json, "status/switchReplicaClusterStatus/inProgress", false))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("Cluster \"%s\" is changing its role", cluster->name),
				 errhint("Wait until status.switchReplicaClusterStatus.inProgress is false.")));
}

static void
check_role(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, cluster_of(op), false);
	const char *instance = rctl_map_get(op->replica->facts, "instance");

	if (rctl_cnpg_is_instance(op->replica))
	{
		RctlKubeAnswer *pod;

		if (instance == NULL || !rctl_cnpg_has(cluster->healthy, instance))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("instance \"%s\" is not healthy", instance ? instance : ""),
					 errhint("See kubectl get pods -l cnpg.io/cluster=%s.", cluster->name)));
		pod = rctl_kube_ask(kube, "GET", rctl_kube_path(kube, "/api/v1", "pods", instance, NULL), NULL,
							psprintf("get Pod \"%s\"", instance));
		if (!rctl_kube_ok(pod))
			rctl_kube_raise(pod);
		return;
	}
	if (!cluster->replica || !cluster->role_known || cluster->is_primary)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" is not a replica cluster", cluster->name),
				 errhint("Somebody has promoted it: forget it with SELECT replica_detach(%s).",
						 quote_literal_cstr(op->replica->name))));
}

static const RctlStep promote_checks[] = {
	{"operator", check_cluster, "the operator is done with all else"},
	{"role", check_role, "it is a replica that can be promoted"},
	{NULL}
};

/* A Cluster that was copied from this server, and can be asked by SQL. */
static bool
source_is_here(RctlOp *op)
{
	const char *system = rctl_map_get(op->replica->facts, "system_identifier");

	return rctl_map_get(op->server_options, "cluster") == NULL && system != NULL &&
		strcmp(system, psprintf(UINT64_FORMAT, GetSystemIdentifier())) == 0;
}

static bool
operator_moves_source(const RctlReplica *replica)
{
	return rctl_cnpg_is_instance(replica) || is_distributed(replica);
}

/* ---------------------------------------------------------------------
 * An instance of a Cluster
 * ---------------------------------------------------------------------
 */

/* What kubectl cnpg promote writes; the conditions go whole, as a merge patch replaces lists. */
static char *
switchover_patch(const RctlCnpgCluster *cluster, const char *instance)
{
	TimestampTz now = GetCurrentTimestamp();
	pg_time_t	seconds = timestamptz_to_time_t(now);
	struct pg_tm *tm = pg_gmtime(&seconds);
	const RctlJson *conditions = rctl_json_find(cluster->json, "status/conditions");
	char	   *at;
	StringInfoData patch;

	at = psprintf("%04d-%02d-%02dT%02d:%02d:%02d", tm->tm_year + 1900, tm->tm_mon + 1, tm->tm_mday,
				  tm->tm_hour, tm->tm_min, tm->tm_sec);
	initStringInfo(&patch);
	appendStringInfo(&patch, "{\"status\":{\"targetPrimary\":%s,\"targetPrimaryTimestamp\":\"%s.%06dZ\""
					 ",\"phase\":\"Switchover in progress\",\"phaseReason\":%s,\"conditions\":[",
					 json_text(instance), at, (int) (now % USECS_PER_SEC),
					 json_text(psprintf("Switching over to %s", instance)));
	appendStringInfo(&patch, "{\"type\":\"Ready\",\"status\":\"False\",\"reason\":\"ClusterIsNotReady\""
					 ",\"message\":\"Cluster Is Not Ready\",\"lastTransitionTime\":\"%sZ\"}", at);
	for (int i = 0; i < rctl_json_array_length(conditions, ""); i++)
	{
		const RctlJson *condition = rctl_json_element(conditions, i);
		char	   *type = rctl_json_text(condition, "type");

		if (type && strcmp(type, "Ready") != 0)
			appendStringInfo(&patch, ",%s", rctl_json_print(condition));
	}
	appendStringInfoString(&patch, "]}}");
	return patch.data;
}

static const char *
decide_switchover(void *arg, const RctlCnpgCluster *cluster)
{
	RctlOp	   *op = arg;
	const char *instance = rctl_map_get(op->replica->facts, "instance");
	const char *before = rctl_map_get(op->state, "old_primary");

	if (cluster->target_primary && strcmp(cluster->target_primary, instance) == 0)
		return NULL;
	if (before == NULL)
	{
		before = cluster->current_primary ? cluster->current_primary : "";
		rctl_map_set(op->state, "old_primary", before);
		rctl_map_setf(op->state, "old_timeline", INT64_FORMAT, cluster->timeline);
		rctl_op_save(op);
	}
	if (cluster->target_primary == NULL || strcmp(cluster->target_primary, before) != 0)
	{
		rctl_op_not_done(op);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("somebody else moves the primary of Cluster \"%s\"", cluster->name),
				 errdetail("Its target primary is \"%s\".", cluster->target_primary ? cluster->target_primary : ""),
				 errhint("Wait until it is done, look at replica_status, and call again.")));
	}
	return switchover_patch(cluster, instance);
}

static void
promote_instance(RctlOp *op, RctlKube *kube)
{
	const char *instance = rctl_map_get(op->replica->facts, "instance");
	int			idle = 0;

	(void) rctl_cnpg_change(kube, cluster_of(op), "status", decide_switchover, op,
							psprintf("switch Cluster \"%s\" over to \"%s\"", cluster_of(op), instance));
	for (;;)
	{
		RctlCnpgCluster *cluster = rctl_cnpg_get(kube, cluster_of(op), false);
		bool		aimed = cluster->target_primary && strcmp(cluster->target_primary, instance) == 0;
		bool		there = cluster->current_primary && strcmp(cluster->current_primary, instance) == 0;
		char	   *progress;
		bool		healthy = rctl_cnpg_healthy(cluster, &progress);

		rctl_cnpg_require_recoverable(cluster);
		if (there && aimed && healthy && cluster->role_known && cluster->is_primary)
		{
			rctl_map_setf(op->state, "timeline", INT64_FORMAT, cluster->timeline);
			return;
		}
		if (!aimed && !there && healthy && ++idle >= FORGOTTEN_LOOKS)
		{
			rctl_op_not_done(op);
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the operator did not make \"%s\" the primary of Cluster \"%s\"", instance, cluster->name),
					 errdetail("Its primary is \"%s\".", cluster->current_primary ? cluster->current_primary : ""),
					 errhint("See the log of the operator, and kubectl describe clusters.postgresql.cnpg.io %s.", cluster->name)));
		}
		rctl_op_progress(op, progress, 0, 0);
		rctl_cnpg_pause();
	}
}

/* ---------------------------------------------------------------------
 * A replica cluster
 * ---------------------------------------------------------------------
 */

static const char *
decide_enabled(void *arg, const RctlCnpgCluster *cluster)
{
	RctlOp	   *op = arg;

	if (!cluster->replica)
		return NULL;
	rctl_map_setf(op->state, "old_timeline", INT64_FORMAT, cluster->timeline);
	return "{\"spec\":{\"replica\":{\"enabled\":false}}}";
}

/* Demotes the source; its own old token would be refused with it. */
static const char *
decide_demotion(void *arg, const RctlCnpgCluster *cluster)
{
	RctlOp	   *op = arg;

	if (cluster->replica)
		return NULL;
	return psprintf("{\"spec\":{\"replica\":{\"self\":%s,\"primary\":%s,\"source\":%s,\"enabled\":null,\"promotionToken\":null}}}",
					json_text(source_of(op)), json_text(cluster_of(op)), json_text(cluster_of(op)));
}

static const char *
decide_promotion(void *arg, const RctlCnpgCluster *cluster)
{
	RctlOp	   *op = arg;

	if (!cluster->replica)
		return NULL;
	return psprintf("{\"spec\":{\"replica\":{\"primary\":%s,\"source\":%s,\"promotionToken\":%s}}}",
					json_text(cluster_of(op)), json_text(source_of(op)),
					json_text(rctl_map_get(op->state, "token")));
}

/* A Cluster can name another as its source only if that is among its external ones. */
static void
require_external(RctlOp *op, RctlKube *kube)
{
	RctlCnpgCluster *source = rctl_cnpg_get(kube, source_of(op), false);
	const RctlJson *known = rctl_json_find(source->json, "spec/externalClusters");
	const char *wanted[] = {source_of(op), cluster_of(op)};

	for (int w = 0; w < lengthof(wanted); w++)
	{
		bool		found = false;

		for (int i = 0; i < rctl_json_array_length(known, ""); i++)
		{
			char	   *name = rctl_json_text(rctl_json_element(known, i), "name");

			found |= name && strcmp(name, wanted[w]) == 0;
		}
		if (!found)
		{
			rctl_op_not_done(op);
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("Cluster \"%s\" does not know \"%s\" by its spec.externalClusters", source->name, wanted[w]),
					 errhint("Add it there, as docs/cnpg.md shows; CloudNativePG needs both for a distributed topology.")));
		}
	}
}

/* The source says by a token up to where the replica must have replayed. */
static void
demote_source(RctlOp *op, RctlKube *kube)
{
	(void) rctl_cnpg_change(kube, source_of(op), NULL, decide_demotion, op,
							psprintf("demote Cluster \"%s\"", source_of(op)));
	for (;;)
	{
		RctlCnpgCluster *source = rctl_cnpg_get(kube, source_of(op), false);
		char	   *token = rctl_json_text(source->json, "status/demotionToken");

		rctl_cnpg_require_recoverable(source);
		if (token && token[0] && !rctl_json_bool(source->json, "status/switchReplicaClusterStatus/inProgress", false))
		{
			rctl_map_set(op->state, "token", token);
			rctl_op_save(op);
			return;
		}
		rctl_op_progress(op, psprintf("waiting for the demotion token of %s", source_of(op)), 0, 0);
		rctl_cnpg_pause();
	}
}

static void
promote_cluster(RctlOp *op, RctlKube *kube)
{
	bool		distributed = is_distributed(op->replica);
	bool		forced = strcmp(rctl_map_get_default(op->arguments, "mode", "planned"), "forced") == 0;
	const char *token;

	if (distributed && forced && rctl_map_get(op->state, "token") == NULL)
		rctl_map_set(op->state, "token", "");	/* a failover: the source must
												 * be made anew */
	if (distributed && rctl_map_get(op->state, "token") == NULL)
	{
		require_external(op, kube);
		demote_source(op, kube);
	}
	token = rctl_map_get(op->state, "token");
	(void) rctl_cnpg_change(kube, cluster_of(op), NULL, distributed ? decide_promotion : decide_enabled, op,
							psprintf("promote Cluster \"%s\"", cluster_of(op)));
	for (;;)
	{
		RctlCnpgCluster *cluster = rctl_cnpg_get(kube, cluster_of(op), false);
		char	   *used = rctl_json_text(cluster->json, "status/lastPromotionToken");
		char	   *progress;
		bool		healthy = rctl_cnpg_healthy(cluster, &progress);

		rctl_cnpg_require_recoverable(cluster);
		if (healthy && !cluster->replica && cluster->role_known && cluster->is_primary &&
			(token == NULL || token[0] == '\0' || (used && strcmp(used, token) == 0)))
		{
			rctl_map_setf(op->state, "timeline", INT64_FORMAT, cluster->timeline);
			return;
		}
		rctl_op_progress(op, progress, 0, 0);
		rctl_cnpg_pause();
	}
}

static void
promote(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);

	if (rctl_cnpg_is_instance(op->replica))
		promote_instance(op, kube);
	else
		promote_cluster(op, kube);
}

/* ---------------------------------------------------------------------
 * After
 * ---------------------------------------------------------------------
 */

static void
verify(RctlOp *op)
{
	RctlCnpgCluster *cluster = rctl_cnpg_get(rctl_cnpg_open(op), cluster_of(op), false);
	const char *instance = rctl_map_get(op->replica->facts, "instance");

	if (!cluster->role_known || !cluster->is_primary || cluster->replica ||
		(instance && strcmp(cluster->current_primary, instance) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" is not the primary", instance ? instance : cluster->name),
				 errdetail("The operator says: %s.", cluster->phase ? cluster->phase : "nothing"),
				 errhint("See kubectl describe clusters.postgresql.cnpg.io %s.", cluster->name)));
	rctl_map_setf(op->replica->facts, "timeline", INT64_FORMAT, cluster->timeline);
	if (rctl_map_get(op->replica->options, "conninfo"))
		(void) rctl_managed_verify_sql(op, VERIFY_TIMEOUT_MS);
}

static void
note(RctlOp *op, RctlMap *detail)
{
	rctl_map_set(detail, "cluster", cluster_of(op));
	rctl_map_set(detail, "instance", rctl_map_get(op->replica->facts, "instance"));
	rctl_map_set(detail, "old_primary", rctl_map_get(op->state, "old_primary"));
	rctl_map_set(detail, "old_timeline", rctl_map_get(op->state, "old_timeline"));
}

const RctlManagedPromotion rctl_cnpg_promotion = {
	.promote_checks = promote_checks,
	.source_is_here = source_is_here,
	.service_fences = operator_moves_source,
	.source_follows = operator_moves_source,
	.promote = promote,
	.verify = verify,
	.note = note,
};
