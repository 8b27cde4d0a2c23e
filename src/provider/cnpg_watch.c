/*-------------------------------------------------------------------------
 *
 * cnpg_watch.c
 *	  The monitor's look at replicas on CloudNativePG: all Clusters of the
 *	  namespace, by a list in pages.
 *
 * It is a look every poll_interval, not a watch: bounded work, no connection
 * that is held open for every server, and nothing to be caught up with after
 * a break.  A page that comes too late (410 Gone, its snapshot is no longer
 * kept) means to begin anew, which changes nothing: each page is told as it
 * comes, and what was not told is not known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "provider/cnpg.h"
#include "provider/watch.h"

/* Clusters in an answer; one is some 100 kB at most. */
#define PAGE_LENGTH 50

/* So often may a list that takes too long begin anew. */
#define MAX_RESTARTS 3

/* A round: in its context. */
typedef struct Round
{
	RctlKube   *kube;
	const RctlHttpRequest *request;
	int			restarts;
	bool	   *seen;			/* by replica */
} Round;

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

/* Those of a page. */
static void
tell(RctlWatch *watch, Round *round, const RctlJson *items)
{
	for (int i = 0; i < watch->nreplicas; i++)
	{
		const RctlReplica *replica = watch->replicas[i];
		const char *instance = rctl_map_get(replica->facts, "instance");
		const char *uid = rctl_map_get(replica->facts, "uid");
		const RctlJson *json = find_cluster(items, rctl_map_get(replica->facts, "cluster"));
		RctlCnpgCluster *cluster;

		if (json == NULL)
			continue;
		cluster = rctl_cnpg_parse(json);

		/* Another one of its name is none of ours. */
		if (uid && cluster->uid && strcmp(uid, cluster->uid) != 0)
			continue;
		round->seen[i] = true;
		if (instance && !rctl_cnpg_has(cluster->instances, instance))
			rctl_watch_status(watch, i, "missing", -1);
		else if (instance && !rctl_cnpg_has(cluster->healthy, instance))
			rctl_watch_status(watch, i, "not healthy", -1);
		else
			rctl_watch_status(watch, i, cluster->phase, -1);
		tell_conditions(watch, i, json);
	}
}

static void
tell_missing(RctlWatch *watch, const Round *round)
{
	for (int i = 0; i < watch->nreplicas; i++)
	{
		const RctlMap *facts = watch->replicas[i]->facts;

		/* What was never made is not missing. */
		if (!round->seen[i] && (rctl_map_get(facts, "instance") || rctl_map_get(facts, "uid")))
			rctl_watch_status(watch, i, "missing", -1);
	}
}

/* more: the place to go on from; NULL: from the beginning. */
static const RctlHttpRequest *
ask_for_page(RctlWatch *watch, Round *round, const char *more)
{
	MemoryContext old = MemoryContextSwitchTo(watch->context);

	round->request = rctl_kube_request(round->kube, "GET",
									   psprintf("%s?limit=%d%s%s", rctl_cnpg_path(round->kube, NULL, NULL), PAGE_LENGTH,
												more ? "&continue=" : "", more ? rctl_http_encode(more) : ""),
									   NULL, "list Clusters");
	MemoryContextSwitchTo(old);
	return round->request;
}

static Round *
begin_round(RctlWatch *watch)
{
	MemoryContext old = MemoryContextSwitchTo(watch->context);
	Round	   *round = palloc0(sizeof(Round));

	round->kube = rctl_kube_open(watch->server, watch->server_options,
								 watch->mapping ? rctl_map_get(watch->mapping, "token") : NULL);
	round->seen = palloc0(sizeof(bool) * Max(watch->nreplicas, 1));
	watch->state = round;
	MemoryContextSwitchTo(old);
	return round;
}

const RctlHttpRequest *
rctl_cnpg_watch(void *arg, const RctlHttpResponse *response)
{
	RctlWatch  *watch = arg;
	Round	   *round;
	RctlKubeAnswer *answer;
	char	   *more;

	if (response == NULL)
		return ask_for_page(watch, begin_round(watch), NULL);
	round = watch->state;
	if (response->status == 0)
		rctl_http_raise(round->request, response);
	answer = rctl_kube_answer(round->request, response);
	if (answer->status == 410 && round->restarts++ < MAX_RESTARTS)
		return ask_for_page(watch, round, NULL);
	if (!rctl_kube_ok(answer))
		rctl_kube_raise(answer);
	tell(watch, round, rctl_json_find(answer->object, "items"));
	more = rctl_json_text(answer->object, "metadata/continue");
	if (more && more[0])
		return ask_for_page(watch, round, more);
	tell_missing(watch, round);
	return NULL;
}
