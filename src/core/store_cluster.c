/*-------------------------------------------------------------------------
 *
 * store_cluster.c
 *	  Rows that belong to whichever member of a cluster is the primary.
 *
 * A replica with fact "cluster" is a member of the cluster that this server
 * is a member of, too.  Its fact "leader" has the facts that the primary
 * would have as a replica, and the name of its row; so that when one becomes
 * the primary it and the former one can change places.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "core/identity.h"
#include "core/promotion.h"
#include "core/store_private.h"

/* For the parameters $1 to $4: a row of this cluster, of a former primary. */
#define FORMER "r.system_identifier = $1 AND r.timeline_id < $2::int AND r.facts->>'cluster' = $4"

char *
rctl_store_managed_cluster(void)
{
	/*
	 * A copy that somebody starts by hand has the name as well, but out of
	 * its configuration.
	 */
	if (rctl_run("SELECT setting FROM pg_catalog.pg_settings"
				 " WHERE name = 'cluster_name' AND setting <> '' AND source = 'command line'", NO_ARGS) == 0)
		return NULL;
	return rctl_get(0, 1);
}

int
rctl_store_adopt_cluster(const char *cluster)
{
	const RctlIdentity *me = rctl_identity();

	rctl_run("DELETE FROM replica_ctl.cleanup c USING replica_ctl.operation o, replica_ctl.replica r"
			 " WHERE c.operation_id = o.operation_id AND c.type = '" RCTL_FENCE_RECORD "'"
			 "  AND o.replica_id = r.replica_id AND o.state IN ('queued', 'running')"
			 "  AND $3::text IS NOT NULL AND " FORMER,
			 ARGS(me->system_identifier, me->timeline, me->home, cluster));
	rctl_run("WITH former AS (SELECT operation_id,"
			 "   kind IN ('promote', 'switchover') AND NOT undoing AND step IS DISTINCT FROM 'after' AS judge,"
			 "   kind = 'drill' AND NOT undoing AS ended"
			 "  FROM replica_ctl.operation o JOIN replica_ctl.replica r USING (replica_id)"
			 "  WHERE o.state IN ('queued', 'running') AND " FORMER ")"
			 "UPDATE replica_ctl.operation o SET system_identifier = $1, timeline_id = $2::int, home = $3,"
			 "  cancel_requested = cancel_requested AND undoing, attempt = 0, not_before = '-infinity',"
			 "  step = CASE WHEN judge THEN 'promote' ELSE step END, no_return = no_return OR judge,"
			 "  scratch = CASE WHEN judge THEN scratch || '{\"" RCTL_HANDED_OVER "\": \"true\"}' ELSE scratch END,"
			 "  undoing = undoing OR ended, sqlstate = CASE WHEN ended THEN '55000' ELSE sqlstate END,"
			 "  message = CASE WHEN ended THEN 'the server that the drill was made on is no longer the primary' ELSE message END"
			 " FROM former f WHERE f.operation_id = o.operation_id",
			 ARGS(me->system_identifier, me->timeline, me->home, cluster));
	return (int) rctl_run("UPDATE replica_ctl.replica r SET system_identifier = $1, timeline_id = $2::int, home = $3,"
						  "  facts = CASE WHEN facts ? 'leader' THEN jsonb_set(facts, '{leader,home}', to_jsonb(home)) ELSE facts END"
						  " WHERE " FORMER,
						  ARGS(me->system_identifier, me->timeline, me->home, cluster));
}

char *
rctl_store_own_member(const char *cluster, const char *application_name)
{
	const RctlIdentity *me = rctl_identity();

	if (rctl_run("SELECT facts->>'application_name' FROM replica_ctl.replica r"
				 " WHERE " OWNED " AND facts->>'cluster' = $4"
				 "  AND CASE WHEN $5::text IS NULL THEN facts->>'home' = $3 ELSE facts->>'application_name' = $5 END"
				 "  AND NOT EXISTS (SELECT FROM replica_ctl.operation o WHERE o.replica_id = r.replica_id"
				 "   AND o.state IN ('queued', 'running') AND o.kind IN ('promote', 'switchover'))",
				 ARGS(me->system_identifier, me->timeline, me->home, cluster, application_name)) == 0)
		return NULL;
	return rctl_get(0, 1);
}

RctlReplica *
rctl_store_change_places(const char *cluster, const char *application_name)
{
	const RctlIdentity *me = rctl_identity();
	RctlReplica *replica;
	RctlMap    *former;
	RctlMap    *self;
	const char *leader;
	const char *name;

	if (rctl_run("SELECT " RCTL_REPLICA_COLUMNS " FROM replica_ctl.replica"
				 " WHERE " OWNED " AND facts->>'cluster' = $4 AND facts->>'application_name' = $5 AND facts ? 'leader'",
				 ARGS(me->system_identifier, me->timeline, me->home, cluster, application_name)) == 0)
		return NULL;
	replica = rctl_store_read_replica(0, 1);
	leader = rctl_map_get(replica->facts, "leader");
	former = rctl_map_from_json(leader, "leader");
	name = rctl_map_get_default(former, "name", "former_leader");

	self = rctl_map_copy(replica->facts);
	rctl_map_set(self, "leader", NULL);
	rctl_map_set(self, "name", replica->name);
	replica->name = rctl_store_free_name(name, replica->id);
	rctl_map_set(former, "name", NULL);
	rctl_map_set_json(former, "leader", rctl_map_to_json(self));
	replica->facts = former;

	rctl_run("UPDATE replica_ctl.replica SET name = $2::name, facts = $3::jsonb, options = '{}', message = NULL,"
			 "  state = CASE WHEN state = 'promoting' THEN state ELSE 'streaming' END, since = clock_timestamp()"
			 " WHERE replica_id = $1::bigint",
			 ARGS(rctl_id_text(replica->id), replica->name, rctl_map_to_json(former)));
	rctl_run("UPDATE replica_ctl.replica SET facts = jsonb_set(facts, '{leader}', $6::jsonb)"
			 " WHERE " OWNED " AND facts->>'cluster' = $4 AND replica_id <> $5::bigint",
			 ARGS(me->system_identifier, me->timeline, me->home, cluster, rctl_id_text(replica->id), rctl_map_to_json(self)));
	return replica;
}
