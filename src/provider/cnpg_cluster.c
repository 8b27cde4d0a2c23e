/*-------------------------------------------------------------------------
 *
 * cnpg_cluster.c
 *	  The Cluster resource of CloudNativePG: reading it, changing it.
 *
 * There is no status.observedGeneration: right after a change the status is
 * still that of before.  So what is waited for is always something that the
 * change alone can bring about, and not the phase by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "net/wait.h"
#include "provider/cnpg.h"
#include "settings.h"

/*
 * Pauses between two looks: short at first, as what a promotion waits for
 * comes within seconds and keeps writes waiting, and longer for what takes
 * its time anyway.  A watch would tell no more, and be a connection that is
 * held open, and that breaks.
 */
static const struct
{
	int			looks;			/* so often */
	int			pause_ms;
}			pauses[] = {
	{120, 250},
	{300, 1000},
	{INT_MAX, 5000},
};

/* So often may somebody else have changed the Cluster between our look and our patch. */
#define MAX_CONFLICTS 10
#define CONFLICT_PAUSE_MS 200

/* A look in somebody's session, or one that is repeated as a whole. */
static bool
is_check(RctlOp *op)
{
	return op->dry_run || (op->step && (strcmp(op->step, "check") == 0 || strcmp(op->step, "preflight") == 0));
}

RctlKube *
rctl_cnpg_open(RctlOp *op)
{
	RctlKube   *kube = rctl_kube_open(op->replica->server, op->server_options, rctl_op_secret(op, "token"));

	kube->brief = is_check(op);
	return kube;
}

bool
rctl_cnpg_source_apart(const RctlMap *server_options)
{
	return rctl_map_get(server_options, "source_server") || rctl_map_get(server_options, "source_namespace");
}

RctlKube *
rctl_cnpg_open_source(RctlOp *op)
{
	const char *server = rctl_map_get(op->server_options, "source_server");
	const char *namespace = rctl_map_get(op->server_options, "source_namespace");
	RctlKube   *kube;

	if (server)
		kube = rctl_kube_open(server, rctl_op_server_options(op, op->replica->provider->wrapper, server), rctl_op_server_secret(op, server, "token"));
	else
		kube = rctl_cnpg_open(op);
	if (namespace)
		rctl_kube_use_namespace(kube, namespace);
	kube->brief = is_check(op);
	return kube;
}

char *
rctl_cnpg_path(RctlKube *kube, const char *cluster, const char *sub)
{
	return rctl_kube_path(kube, RCTL_CNPG_API, "clusters", cluster, sub);
}

void
rctl_cnpg_wait(RctlOp *op, RctlKube *kube, RctlCnpgLook look, void *arg)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "look at a Cluster", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			p = 0;

	for (int looks = 0; !look(op, kube, arg); looks++)
	{
		if (looks >= pauses[p].looks)
		{
			looks = 0;
			p++;
		}
		MemoryContextReset(context);
		rctl_sleep(pauses[p].pause_ms);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

char *
rctl_cnpg_quote(const char *text)
{
	StringInfoData json;

	initStringInfo(&json);
	escape_json(&json, text);
	return json.data;
}

static List *
texts(const RctlJson *array)
{
	List	   *list = NIL;

	for (int i = 0; i < rctl_json_array_length(array, ""); i++)
	{
		char	   *text = rctl_json_text(rctl_json_element(array, i), "");

		if (text)
			list = lappend(list, text);
	}
	return list;
}

bool
rctl_cnpg_has(const List *names, const char *name)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (name && strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

/* A Cluster is a replica by "enabled", or by not being the primary that it names. */
static bool
follows_source(const RctlJson *json)
{
	const RctlJson *replica = rctl_json_find(json, "spec/replica");
	char	   *self = rctl_json_text(replica, "self");
	char	   *primary = rctl_json_text(replica, "primary");

	if (replica == NULL)
		return false;
	if (rctl_json_text(replica, "enabled"))
		return rctl_json_bool(replica, "enabled", false);
	if (self == NULL || self[0] == '\0')
		self = rctl_json_text(json, "metadata/name");
	return primary == NULL || self == NULL || strcmp(self, primary) != 0;
}

RctlCnpgCluster *
rctl_cnpg_parse(const RctlJson *json)
{
	RctlCnpgCluster *cluster = palloc0(sizeof(RctlCnpgCluster));
	const RctlJson *status = rctl_json_find(json, "status");

	cluster->json = json;
	cluster->name = rctl_json_text(json, "metadata/name");
	cluster->uid = rctl_json_text(json, "metadata/uid");
	cluster->version = rctl_json_text(json, "metadata/resourceVersion");
	(void) rctl_json_int64(json, "spec/instances", &cluster->wanted);
	(void) rctl_json_int64(status, "readyInstances", &cluster->ready);
	(void) rctl_json_int64(status, "timelineID", &cluster->timeline);
	cluster->instances = texts(rctl_json_find(status, "instanceNames"));
	cluster->healthy = texts(rctl_json_find(status, "instancesStatus/healthy"));
	cluster->phase = rctl_json_text(status, "phase");
	cluster->phase_reason = rctl_json_text(status, "phaseReason");
	cluster->current_primary = rctl_json_text(status, "currentPrimary");
	cluster->target_primary = rctl_json_text(status, "targetPrimary");
	cluster->system_id = rctl_json_text(status, "systemID");
	cluster->replica = follows_source(json);
	cluster->self = rctl_json_text(json, "spec/replica/self");
	if (cluster->self == NULL || cluster->self[0] == '\0')
		cluster->self = cluster->name;
	cluster->primary = rctl_json_text(json, "spec/replica/primary");
	cluster->changing_role = rctl_json_bool(status, "switchReplicaClusterStatus/inProgress", false);
	cluster->demotion_token = rctl_json_text(status, "demotionToken");
	if (cluster->current_primary)
	{
		const RctlJson *reported = rctl_json_key(rctl_json_find(status, "instancesReportedState"),
												 cluster->current_primary);

		cluster->role_known = rctl_json_text(reported, "isPrimary") != NULL;
		cluster->is_primary = rctl_json_bool(reported, "isPrimary", false);
	}
	return cluster;
}

RctlCnpgCluster *
rctl_cnpg_get(RctlKube *kube, const char *name, bool missing_ok)
{
	RctlKubeAnswer *answer = rctl_kube_ask(kube, "GET", rctl_cnpg_path(kube, name, NULL), NULL,
										   psprintf("get Cluster \"%s\"", name));

	if (missing_ok && rctl_kube_missing(answer, name))
		return NULL;
	if (!rctl_kube_ok(answer))
		rctl_kube_raise(answer);
	return rctl_cnpg_parse(answer->object);
}

bool
rctl_cnpg_healthy(const RctlCnpgCluster *cluster, char **progress)
{
	*progress = psprintf("%s, " INT64_FORMAT " of " INT64_FORMAT " instances ready%s%s",
						 cluster->phase ? cluster->phase : "Waiting for the operator",
						 cluster->ready, cluster->wanted,
						 cluster->phase_reason ? ": " : "", cluster->phase_reason ? cluster->phase_reason : "");
	return cluster->phase && strcmp(cluster->phase, RCTL_CNPG_HEALTHY) == 0 &&
		cluster->ready == cluster->wanted && list_length(cluster->instances) == cluster->wanted;
}

void
rctl_cnpg_require_recoverable(const RctlCnpgCluster *cluster)
{
	if (cluster->phase && strcmp(cluster->phase, RCTL_CNPG_UNRECOVERABLE) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("CloudNativePG has given up on Cluster \"%s\"", cluster->name),
				 errdetail("%s", cluster->phase_reason ? cluster->phase_reason : cluster->phase),
				 errhint("See kubectl describe clusters.postgresql.cnpg.io %s.", cluster->name)));
}

/* A merge patch with the version that it is meant for; if it has "metadata", that comes first. */
static char *
versioned(const char *patch, const char *version)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "{\"metadata\":{\"resourceVersion\":");
	escape_json(&text, version ? version : "");
	if (strncmp(patch, "{\"metadata\":{", 13) == 0)
		appendStringInfo(&text, ",%s", patch + 13);
	else
		appendStringInfo(&text, "},%s", patch + 1);
	return text.data;
}

/*
 * A field that this version of CloudNativePG does not know would be dropped
 * with a warning that nobody reads: so the fields of a spec are checked.
 */
static char *
patch_path(RctlKube *kube, const char *name, const char *sub, bool dry_run)
{
	return psprintf("%s%s%s%s", rctl_cnpg_path(kube, name, sub), sub ? "" : "?fieldValidation=Strict",
					dry_run ? (sub ? "?" : "&") : "", dry_run ? "dryRun=All" : "");
}

void
rctl_cnpg_try(RctlKube *kube, const char *name, const char *sub, const char *patch, const char *action)
{
	RctlKubeAnswer *answer = rctl_kube_ask(kube, "PATCH", patch_path(kube, name, sub, true), patch,
										   psprintf("%s (dry run)", action));

	if (!rctl_kube_ok(answer))
		rctl_kube_raise(answer);
}

/*
 * The loop of rctl_cnpg_change(): NULL if an answer shows that what was last
 * asked is not done; then *refusal is that answer.  unsure: something that was
 * asked before it may have been done.
 */
static RctlCnpgCluster *
change(RctlKube *kube, const char *name, const char *sub, RctlCnpgDecide decide, void *arg,
	   const char *action, RctlKubeAnswer **refusal, bool *unsure)
{
	RctlKubeAnswer *answer = NULL;

	*unsure = false;
	for (int i = 0; i < MAX_CONFLICTS; i++)
	{
		RctlCnpgCluster *cluster = rctl_cnpg_get(kube, name, false);
		const char *patch = decide(arg, cluster);

		if (patch == NULL)
			return cluster;
		answer = rctl_kube_ask(kube, "PATCH", patch_path(kube, name, sub, false),
							   versioned(patch, cluster->version), action);
		if (rctl_kube_ok(answer))
			continue;
		*unsure |= answer->lost || (answer->status >= 500 && answer->status != 503);
		if (!answer->lost && strcmp(answer->reason, "Conflict") != 0)
		{
			*refusal = answer;
			return NULL;
		}
		rctl_sleep(CONFLICT_PAUSE_MS);
	}
	if (rctl_kube_ok(answer))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("Cluster \"%s\" does not stay as we set it", name),
				 errhint("See who else changes it: kubectl get clusters.postgresql.cnpg.io %s --show-managed-fields -o yaml.", name)));
	rctl_kube_raise(answer);
}

RctlCnpgCluster *
rctl_cnpg_change(RctlKube *kube, const char *name, const char *sub, RctlCnpgDecide decide, void *arg,
				 const char *action)
{
	RctlKubeAnswer *refusal = NULL;
	bool		unsure;
	RctlCnpgCluster *cluster = change(kube, name, sub, decide, arg, action, &refusal, &unsure);

	if (cluster == NULL)
		rctl_kube_raise(refusal);
	return cluster;
}

/* A change that is asked for: decide, and what to note before it is sent. */
typedef struct Question
{
	RctlOp	   *op;
	RctlCnpgDecide decide;
} Question;

static const char *
decide_question(void *arg, const RctlCnpgCluster *cluster)
{
	Question   *question = arg;
	RctlOp	   *op = question->op;
	const char *patch = question->decide(op, cluster);

	if (patch && rctl_map_get(op->state, "asked") == NULL)
	{
		rctl_map_set(op->state, "asked", "true");
		rctl_op_save(op);
	}
	return patch;
}

void
rctl_cnpg_ask(RctlOp *op, RctlKube *kube, const char *name, const char *sub, RctlCnpgDecide decide,
			  const char *action)
{
	Question	question = {op, decide};
	RctlKubeAnswer *refusal = NULL;
	RctlCnpgCluster *cluster = NULL;
	bool		before = rctl_map_get(op->state, "asked") != NULL;
	bool		unsure;

	if (change(kube, name, sub, decide_question, &question, action, &refusal, &unsure))
		return;

	/* Nothing is under way, unless something else was asked before. */
	if (before || unsure)
		cluster = rctl_cnpg_get(kube, name, true);
	if (!(before || unsure) || cluster == NULL || decide(op, cluster) != NULL)
	{
		rctl_map_set(op->state, "asked", NULL);
		rctl_op_save(op);
	}
	rctl_kube_raise(refusal);
}
