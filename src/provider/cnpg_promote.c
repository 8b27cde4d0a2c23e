/*-------------------------------------------------------------------------
 *
 * cnpg_promote.c
 *	  Promotions by CloudNativePG: of an instance, of a replica cluster.
 *
 * Three ways, by what the replica is:
 *	  instance		status.targetPrimary is set, as kubectl cnpg promote does; the
 *					operator stops the old primary and lets it follow
 *	  distributed	the source is demoted, tells a token, and the replica is
 *					promoted with that token: see cnpg_move.c
 *	  standalone	spec.replica.enabled becomes false; the operator stops
 *					nothing, so that the fence and the wait for lag 0 are ours
 *
 * There is no phase for a standalone promotion: that the primary says it is
 * one, on a later timeline, is the proof.
 *
 * Before anything is asked that may lead to a primary, state "asked" is made
 * durable (rctl_cnpg_ask).  An error before that is undone; one after it
 * leaves the operation to a person, as nobody knows what will come of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "net/wait.h"
#include "provider/cnpg.h"
#include "settings.h"

#define VERIFY_TIMEOUT_MS 10000
#define ROLE_TIMEOUT_MS 30000

/* After so many looks at a switchover that nobody is working on it has been dropped. */
#define FORGOTTEN_LOOKS 120

static const char *
cluster_of(RctlOp *op)
{
	return rctl_map_get_default(op->replica->facts, "cluster", "");
}

/* ---------------------------------------------------------------------
 * Before
 * ---------------------------------------------------------------------
 */

static void
check_cluster(RctlOp *op)
{
	RctlCnpgCluster *cluster = rctl_cnpg_get(rctl_cnpg_open(op), cluster_of(op), false);
	const char *instance = rctl_map_get(op->replica->facts, "instance");
	char	   *progress;

	rctl_cnpg_require_recoverable(cluster);
	if (!rctl_cnpg_healthy(cluster, &progress) && instance && cluster->target_primary &&
		strcmp(cluster->target_primary, instance) == 0)
	{
		rctl_op_warn(op, progress, NULL, "Cluster \"%s\" is switching over to \"%s\" already", cluster->name, instance);
		return;
	}
	if (!rctl_cnpg_healthy(cluster, &progress))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" is not in healthy state", cluster->name),
				 errdetail("%s", progress),
				 errhint("Wait until the operator is done: kubectl get clusters.postgresql.cnpg.io %s.", cluster->name)));
	if (cluster->changing_role)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("Cluster \"%s\" is changing its role", cluster->name),
				 errhint("Wait until status.switchReplicaClusterStatus.inProgress is false.")));
}

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
					 rctl_cnpg_quote(instance), at, (int) (now % USECS_PER_SEC),
					 rctl_cnpg_quote(psprintf("Switching over to %s", instance)));
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

static void
check_role(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, cluster_of(op), false);
	const char *instance = rctl_map_get(op->replica->facts, "instance");

	rctl_cnpg_require_same(op, cluster);
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
		rctl_cnpg_try(kube, cluster->name, "status", switchover_patch(cluster, instance),
					  psprintf("switch Cluster \"%s\" over to \"%s\"", cluster->name, instance));
		return;
	}
	if (!cluster->replica || !cluster->role_known || cluster->is_primary)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" is not a replica cluster", cluster->name),
				 errhint("Somebody has promoted it: forget it with SELECT replica_detach(%s).",
						 quote_literal_cstr(op->replica->name))));
	if (cluster->primary && !rctl_cnpg_is_distributed(op->replica))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" is part of a distributed topology", cluster->name),
				 errdetail("Its spec.replica.primary is \"%s\".", cluster->primary),
				 errhint("Attach it again with the option distributed.")));
}

static const RctlStep promote_checks[] = {
	{"operator", check_cluster, "the operator is done with all else"},
	{"role", check_role, "it is a replica that can be promoted"},
	{"topology", rctl_cnpg_move_check, "a source that is to be demoted can be, and both sides accept it"},
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
	return rctl_cnpg_is_instance(replica) || rctl_cnpg_is_distributed(replica);
}

/* ---------------------------------------------------------------------
 * An instance of a Cluster
 * ---------------------------------------------------------------------
 */

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
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("somebody else moves the primary of Cluster \"%s\"", cluster->name),
				 errdetail("Its target primary is \"%s\".", cluster->target_primary ? cluster->target_primary : ""),
				 errhint("Wait until it is done, look at replica_status, and call again.")));
	}
	return switchover_patch(cluster, instance);
}

/* 0, or how far the timeline must have got. */
static bool
timeline_grown(RctlOp *op, const RctlCnpgCluster *cluster)
{
	return cluster->timeline > strtoll(rctl_map_get_default(op->state, "old_timeline", "0"), NULL, 10);
}

static bool
look_instance(RctlOp *op, RctlKube *kube, void *arg)
{
	int		   *idle = arg;
	const char *instance = rctl_map_get(op->replica->facts, "instance");
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, cluster_of(op), false);
	bool		aimed = cluster->target_primary && strcmp(cluster->target_primary, instance) == 0;
	bool		there = cluster->current_primary && strcmp(cluster->current_primary, instance) == 0;
	char	   *progress;
	bool		healthy = rctl_cnpg_healthy(cluster, &progress);

	rctl_cnpg_require_recoverable(cluster);
	if (there && aimed && healthy && cluster->role_known && cluster->is_primary && timeline_grown(op, cluster))
	{
		rctl_map_setf(op->state, "timeline", INT64_FORMAT, cluster->timeline);
		return true;
	}

	/* The operator has dropped it: nothing is under way any more. */
	if (!aimed && !there && healthy && ++*idle >= FORGOTTEN_LOOKS)
	{
		rctl_map_set(op->state, "asked", NULL);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the operator did not make \"%s\" the primary of Cluster \"%s\"", instance, cluster->name),
				 errdetail("Its primary is \"%s\".", cluster->current_primary ? cluster->current_primary : ""),
				 errhint("See the log of the operator, and kubectl describe clusters.postgresql.cnpg.io %s.", cluster->name)));
	}
	rctl_op_progress(op, progress, 0, 0);
	return false;
}

static void
promote_instance(RctlOp *op, RctlKube *kube)
{
	int			idle = 0;

	rctl_cnpg_ask(op, kube, cluster_of(op), "status", decide_switchover,
				  psprintf("switch Cluster \"%s\" over to \"%s\"", cluster_of(op),
						   rctl_map_get(op->replica->facts, "instance")));
	rctl_cnpg_wait(op, kube, look_instance, &idle);
}

/* ---------------------------------------------------------------------
 * A replica cluster
 * ---------------------------------------------------------------------
 */

static const char *
decide_enabled(void *arg, const RctlCnpgCluster *cluster)
{
	RctlOp	   *op = arg;

	rctl_cnpg_require_same(op, cluster);
	if (!cluster->replica)
		return NULL;
	rctl_map_setf(op->state, "old_timeline", INT64_FORMAT, cluster->timeline);
	return "{\"spec\":{\"replica\":{\"enabled\":false}}}";
}

/* The operator has given up although the source has been stopped for it: nobody takes writes. */
static void
require_mended(RctlOp *op, const RctlCnpgCluster *cluster)
{
	const char *source = rctl_map_get_default(op->server_options, "cluster", "");
	const char *name = rctl_map_get_default(op->state, "source_name", source);

	if (!rctl_cnpg_is_distributed(op->replica) || cluster->phase == NULL ||
		strcmp(cluster->phase, RCTL_CNPG_UNRECOVERABLE) != 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("CloudNativePG has given up on the promotion of Cluster \"%s\"", cluster->name),
			 errdetail("%s. Its source is demoted: nobody takes writes.",
					   cluster->phase_reason ? cluster->phase_reason : cluster->phase),
			 errhint("To go back, run kubectl patch clusters.postgresql.cnpg.io %s --type merge"
					 " -p '{\"spec\":{\"replica\":{\"primary\":\"%s\",\"source\":\"%s\",\"promotionToken\":null}}}', and where the source is"
					 " kubectl patch clusters.postgresql.cnpg.io %s --type merge -p '{\"spec\":{\"replica\":{\"primary\":\"%s\"}}}'.",
					 cluster->name, name, name, source, name)));
}

static bool
look_cluster(RctlOp *op, RctlKube *kube, void *arg)
{
	const char *token = rctl_map_get(op->state, "token");
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, cluster_of(op), false);
	char	   *used = rctl_json_text(cluster->json, "status/lastPromotionToken");
	char	   *progress;
	bool		healthy = rctl_cnpg_healthy(cluster, &progress);

	require_mended(op, cluster);
	rctl_cnpg_require_recoverable(cluster);
	rctl_cnpg_require_same(op, cluster);
	if (cluster->replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("somebody else has changed the role of Cluster \"%s\" back", cluster->name),
				 errhint("See who: kubectl get clusters.postgresql.cnpg.io %s --show-managed-fields -o yaml.", cluster->name)));
	if (healthy && cluster->role_known && cluster->is_primary && timeline_grown(op, cluster) &&
		(token == NULL || token[0] == '\0' || (used && strcmp(used, token) == 0)))
	{
		rctl_map_setf(op->state, "timeline", INT64_FORMAT, cluster->timeline);
		return true;
	}
	rctl_op_progress(op, progress, 0, 0);
	return false;
}

static void
promote_cluster(RctlOp *op, RctlKube *kube)
{
	if (rctl_cnpg_is_distributed(op->replica))
		rctl_cnpg_move(op, kube);
	else
		rctl_cnpg_ask(op, kube, cluster_of(op), NULL, decide_enabled,
					  psprintf("promote Cluster \"%s\"", cluster_of(op)));
	rctl_cnpg_wait(op, kube, look_cluster, NULL);
	if (rctl_cnpg_is_distributed(op->replica))
		rctl_map_set(op->replica->facts, "moved", "true");
}

/*
 * As long as the replica was not asked, all that there is has a cleanup
 * record: after the last attempt, or an error that will not pass, it is taken
 * back.
 */
static void
promote(RctlOp *op)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		RctlKube   *kube = rctl_cnpg_open(op);

		if (rctl_cnpg_is_instance(op->replica))
			promote_instance(op, kube);
		else
			promote_cluster(op, kube);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (rctl_map_get(op->state, "asked") == NULL)
		{
			if (!rctl_error_is_transient(error->sqlerrcode) || op->attempt > rctl_step_retries)
				rctl_op_not_done(op);
		}
		else if (error->hint == NULL && operator_moves_source(op->replica))
			error->hint = psprintf("SELECT * FROM replica_explain('promote', %1$s) tells how far it got; SELECT replica_promote(%1$s) goes on from there.",
								   quote_literal_cstr(op->replica->name));
		ReThrowError(error);
	}
	PG_END_TRY();
}

/* ---------------------------------------------------------------------
 * After
 * ---------------------------------------------------------------------
 */

/* What the operator tells of an instance's role may lag behind for a moment. */
static bool
look_role(RctlOp *op, RctlKube *kube, void *arg)
{
	TimestampTz *until = arg;
	RctlCnpgCluster *cluster = rctl_cnpg_get(kube, cluster_of(op), false);
	const char *instance = rctl_map_get(op->replica->facts, "instance");

	rctl_cnpg_require_same(op, cluster);
	if (cluster->role_known && cluster->is_primary && !cluster->replica &&
		(instance == NULL || (cluster->current_primary && strcmp(cluster->current_primary, instance) == 0)))
	{
		rctl_map_setf(op->replica->facts, "timeline", INT64_FORMAT, cluster->timeline);
		return true;
	}
	if (GetCurrentTimestamp() >= *until)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" is not the primary", instance ? instance : cluster->name),
				 errdetail("The operator says: %s.", cluster->phase ? cluster->phase : "nothing"),
				 errhint("See kubectl describe clusters.postgresql.cnpg.io %s.", cluster->name)));
	return false;
}

static void
verify(RctlOp *op)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROLE_TIMEOUT_MS);

	rctl_cnpg_wait(op, rctl_cnpg_open(op), look_role, &until);
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
