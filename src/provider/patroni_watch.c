/*-------------------------------------------------------------------------
 *
 * patroni_watch.c
 *	  What Patroni says about its members, for the monitor.
 *
 * One request a round: GET /cluster of the first member that answers.  Members
 * that come and go, and changes of the leader, are told as events; what the
 * cluster was like at the round before is in memory only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "provider/patroni.h"
#include "provider/watch.h"

typedef struct Round
{
	List	   *urls;			/* that are left to ask */
	StringInfoData failures;
} Round;

/* The index of the replica that is this member; -1: it is not attached. */
static int
replica_of(const RctlWatch *watch, const char *member)
{
	for (int i = 0; i < watch->nreplicas; i++)
	{
		const char *name = rctl_map_get(watch->replicas[i]->facts, "member");

		if (name && strcmp(name, member) == 0)
			return i;
	}
	return -1;
}

static void
tell_event(RctlWatch *watch, const char *member, const char *what, const char *severity, const char *message)
{
	TimestampTz now = GetCurrentTimestamp();
	RctlMap    *detail = rctl_map_make();

	rctl_map_set(detail, "member", member);
	rctl_watch_event(watch, replica_of(watch, member), psprintf("%s %s " INT64_FORMAT, what, member, now), now,
					 severity, "patroni", message, detail);
}

static void
tell_member(RctlWatch *watch, int replica, const RctlPatroniMember *member, const char *source)
{
	rctl_watch_status(watch, replica, psprintf("%s, %s", member->role, member->state), -1);
	rctl_watch_streaming(watch, replica, rctl_patroni_works(member) && strcmp(member->role, "leader") != 0);
	if (member->host && member->port)
		rctl_watch_endpoint(watch, replica, member->host, (int) strtol(member->port, NULL, 10));
	if (member->lag >= 0)
		rctl_watch_metric(watch, replica, "PatroniLag", (double) member->lag, "Bytes", GetCurrentTimestamp(), source);
}

/* Differences to the round before. */
static void
tell_changes(RctlWatch *watch, const RctlPatroniCluster *cluster)
{
	const char *known = rctl_map_get(watch->memory, "members");
	const char *old_leader = rctl_map_get(watch->memory, "leader");
	RctlMap    *before = known ? rctl_map_from_json(known, "members") : NULL;
	RctlMap    *now = rctl_map_make();
	ListCell   *lc;

	foreach(lc, cluster->members)
	{
		const RctlPatroniMember *member = lfirst(lc);

		rctl_map_set(now, member->name, member->role);
		if (before && rctl_map_get(before, member->name) == NULL)
			tell_event(watch, member->name, "joined", "info",
					   psprintf("member \"%s\" has joined the Patroni cluster of server \"%s\"", member->name, watch->server));
	}
	if (before)
	{
		foreach(lc, before->entries)
		{
			const char *name = ((RctlMapEntry *) lfirst(lc))->key;

			if (rctl_map_get(now, name) == NULL)
				tell_event(watch, name, "left", "warning",
						   psprintf("member \"%s\" has left the Patroni cluster of server \"%s\"", name, watch->server));
		}
	}
	rctl_map_set_json(watch->memory, "members", rctl_map_to_json(now));
	if (cluster->leader == NULL)
		return;
	if (old_leader && strcmp(old_leader, cluster->leader->name) != 0)
		tell_event(watch, cluster->leader->name, "leader", "warning",
				   psprintf("member \"%s\" leads the Patroni cluster of server \"%s\" now, before it was \"%s\"",
							cluster->leader->name, watch->server, old_leader));
	rctl_map_set(watch->memory, "leader", cluster->leader->name);
}

static void
tell(RctlWatch *watch, const RctlPatroniCluster *cluster)
{
	for (int i = 0; i < watch->nreplicas; i++)
	{
		const char *name = rctl_map_get(watch->replicas[i]->facts, "member");
		const RctlPatroniMember *member = name ? rctl_patroni_member(cluster, name) : NULL;

		if (member)
			tell_member(watch, i, member, psprintf("patroni %s", watch->server));
		else
			rctl_watch_status(watch, i, "not in the cluster", -1);
	}
	tell_changes(watch, cluster);
}

const RctlHttpRequest *
rctl_patroni_watch(void *state, const RctlHttpResponse *response)
{
	RctlWatch  *watch = state;
	Round	   *round = watch->state;
	RctlPatroniCluster cluster;
	char	   *problem = NULL;
	char	   *url;
	MemoryContext old = MemoryContextSwitchTo(watch->context);

	if (round == NULL)
	{
		round = palloc0(sizeof(Round));
		round->urls = rctl_patroni_urls(watch->server_options);
		if (rctl_map_get(watch->memory, "url"))
			round->urls = lcons(pstrdup(rctl_map_get(watch->memory, "url")), round->urls);
		initStringInfo(&round->failures);
		watch->state = round;
	}
	MemoryContextSwitchTo(old);
	if (response)
	{
		if (response->status == 200 && rctl_patroni_parse(response, &cluster, &problem))
		{
			tell(watch, &cluster);
			return NULL;
		}
		appendStringInfo(&round->failures, "%s%s", round->failures.len > 0 ? "; " : "",
						 problem ? problem : rctl_patroni_answer(response));
	}
	if (round->urls == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("no member of the Patroni cluster answers"),
				 errdetail("%s.", round->failures.data)));
	url = linitial(round->urls);
	rctl_map_set(watch->memory, "url", url);
	round->urls = list_delete_first(round->urls);
	return rctl_patroni_request(watch->server_options, NULL, NULL, "GET", url, "/cluster", NULL);
}
