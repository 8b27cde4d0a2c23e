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

#include "net/wait.h"
#include "provider/cnpg.h"
#include "settings.h"

/* The operator itself looks every few seconds. */
#define POLL_MS 1000

/* So often may somebody else have changed the Cluster between our look and our patch. */
#define MAX_CONFLICTS 10
#define CONFLICT_PAUSE_MS 200

RctlKube *
rctl_cnpg_open(RctlOp *op)
{
	return rctl_kube_open(op->server_options, rctl_op_secret(op, "token"));
}

char *
rctl_cnpg_path(RctlKube *kube, const char *cluster, const char *sub)
{
	return rctl_kube_path(kube, RCTL_CNPG_API, "clusters", cluster, sub);
}

void
rctl_cnpg_pause(void)
{
	rctl_sleep(POLL_MS);
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

	if (answer->status == 404 && missing_ok && strcmp(answer->reason, "NotFound") == 0)
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

RctlCnpgCluster *
rctl_cnpg_change(RctlKube *kube, const char *name, const char *sub, RctlCnpgDecide decide, void *arg,
				 const char *action)
{
	RctlKubeAnswer *answer = NULL;

	for (int i = 0; i < MAX_CONFLICTS; i++)
	{
		RctlCnpgCluster *cluster = rctl_cnpg_get(kube, name, false);
		const char *patch = decide(arg, cluster);

		if (patch == NULL)
			return cluster;
		answer = rctl_kube_ask(kube, "PATCH", rctl_cnpg_path(kube, name, sub),
							   versioned(patch, cluster->version), action);
		if (!rctl_kube_ok(answer) && answer->status != 0 && strcmp(answer->reason, "Conflict") != 0)
			rctl_kube_raise(answer);
		if (!rctl_kube_ok(answer))
			rctl_sleep(CONFLICT_PAUSE_MS);
	}
	if (rctl_kube_ok(answer))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("Cluster \"%s\" does not stay as we set it", name),
				 errhint("See who else changes it: kubectl get clusters.postgresql.cnpg.io %s --show-managed-fields -o yaml.", name)));
	rctl_kube_raise(answer);
}
