/*-------------------------------------------------------------------------
 *
 * cnpg_watch.c
 *	  The monitor's look at replicas on CloudNativePG: all Clusters of the
 *	  namespace, by one request.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "provider/cnpg.h"
#include "provider/watch.h"

static const RctlJson *
find_cluster(const RctlJson *items, const char *name)
{
	for (int i = 0; name && i < rctl_json_array_length(items, ""); i++)
	{
		const RctlJson *item = rctl_json_element(items, i);
		char	   *its = rctl_json_text(item, "metadata/name");

		if (its && strcmp(its, name) == 0)
			return item;
	}
	return NULL;
}

/* Each change of a condition is an event, told apart by when it came about. */
static void
tell_conditions(RctlWatch *watch, int index, const RctlJson *cluster)
{
	const RctlJson *conditions = rctl_json_find(cluster, "status/conditions");

	for (int i = 0; i < rctl_json_array_length(conditions, ""); i++)
	{
		const RctlJson *condition = rctl_json_element(conditions, i);
		char	   *type = rctl_json_text(condition, "type");
		char	   *status = rctl_json_text(condition, "status");
		char	   *since = rctl_json_text(condition, "lastTransitionTime");
		char	   *message = rctl_json_text(condition, "message");

		if (type && status && since)
			rctl_watch_event(watch, index, psprintf("%s %s %s", type, status, since), GetCurrentTimestamp(),
							 strcmp(status, "True") == 0 ? "info" : "warning", "cnpg",
							 psprintf("%s is %s: %s", type, status, message ? message : ""), NULL);
	}
}

static void
tell(RctlWatch *watch, const RctlJson *items)
{
	for (int i = 0; i < watch->nreplicas; i++)
	{
		const RctlReplica *replica = watch->replicas[i];
		const char *instance = rctl_map_get(replica->facts, "instance");
		const RctlJson *json = find_cluster(items, rctl_map_get(replica->facts, "cluster"));
		RctlCnpgCluster *cluster;

		/* What was never made is not missing. */
		if (instance == NULL && rctl_map_get(replica->facts, "uid") == NULL)
			continue;
		if (json == NULL)
		{
			rctl_watch_status(watch, i, "missing", -1);
			continue;
		}
		cluster = rctl_cnpg_parse(json);
		if (instance && !rctl_cnpg_has(cluster->instances, instance))
			rctl_watch_status(watch, i, "missing", -1);
		else if (instance && !rctl_cnpg_has(cluster->healthy, instance))
			rctl_watch_status(watch, i, "not healthy", -1);
		else
			rctl_watch_status(watch, i, cluster->phase, -1);
		tell_conditions(watch, i, json);
	}
}

const RctlHttpRequest *
rctl_cnpg_watch(void *arg, const RctlHttpResponse *response)
{
	RctlWatch  *watch = arg;
	RctlKubeAnswer *answer;
	const RctlHttpRequest *request;

	if (response == NULL)
	{
		RctlKube   *kube;
		MemoryContext old = MemoryContextSwitchTo(watch->context);

		kube = rctl_kube_open(watch->server_options, watch->mapping ? rctl_map_get(watch->mapping, "token") : NULL);
		request = rctl_kube_request(kube, "GET", rctl_cnpg_path(kube, NULL, NULL), NULL, "list Clusters");
		watch->state = (void *) request;
		MemoryContextSwitchTo(old);
		return request;
	}
	request = watch->state;
	if (response->status == 0)
		rctl_http_raise(request, response);
	answer = rctl_kube_answer(request, response);
	if (!rctl_kube_ok(answer))
		rctl_kube_raise(answer);
	tell(watch, rctl_json_find(answer->object, "items"));
	return NULL;
}
