/*-------------------------------------------------------------------------
 *
 * patroni_member.c
 *	  Whether this server is a member of the cluster itself.
 *
 * The extension lives in the primary, which is the cluster's leader where
 * Patroni runs this server.  Names and addresses prove nothing: every member
 * may call itself localhost:5432.  The leader's REST interface tells the
 * system identifier and when the server was started, to the microsecond.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "provider/patroni.h"

/* Some releases tell milliseconds only. */
#define SAME_START_US 2000

void
rctl_patroni_note_place(RctlMap *facts, const char *server, const RctlPatroniMember *member)
{
	rctl_map_set(facts, "member", member->name);
	rctl_map_set(facts, "member_of", psprintf("%s/%s", server, member->name));
	rctl_map_set(facts, "host", member->host);
	rctl_map_set(facts, "port", member->port);
	rctl_map_set(facts, "api_url", member->api_url);
	rctl_map_set(facts, "application_name", member->name);
}

bool
rctl_patroni_is_copy(const RctlReplica *replica)
{
	const char *theirs = rctl_map_get(replica->facts, "system_identifier");

	return theirs && strcmp(theirs, psprintf(UINT64_FORMAT, GetSystemIdentifier())) == 0;
}

bool
rctl_patroni_is_inside(const RctlReplica *replica)
{
	return rctl_patroni_is_copy(replica) && rctl_map_get(replica->facts, "cluster") != NULL;
}

/* "2026-11-22 01:47:24.714437+00:00"; false if it is anything else. */
static bool
parse_start_time(const char *text, TimestampTz *time)
{
	struct pg_tm tm = {0};
	double		seconds;
	int			offset_hours;
	int			offset_minutes;
	char		sign;
	fsec_t		fsec;
	int			zone;

	if (text == NULL ||
		sscanf(text, "%4d-%2d-%2d %2d:%2d:%lf%c%2d:%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min,
			   &seconds, &sign, &offset_hours, &offset_minutes) != 9 || (sign != '+' && sign != '-') ||
		seconds < 0 || seconds >= 61)
		return false;
	tm.tm_sec = (int) seconds;
	fsec = (fsec_t) rint((seconds - tm.tm_sec) * 1000000);
	zone = (offset_hours * 60 + offset_minutes) * 60;	/* PostgreSQL counts
														 * westward */
	if (sign == '+')
		zone = -zone;
	return tm2timestamp(&tm, fsec, &zone, time) == 0;
}

/* Whether what answers at this URL is the Patroni of this very server. */
static bool
is_this_server(RctlOp *op, const char *api_url)
{
	RctlHttpResponse *response;
	const RctlJson *json;
	const char *system;
	char	   *problem;
	TimestampTz start;

	if (api_url == NULL)
		return false;
	response = rctl_http_exchange(rctl_patroni_request(op->server_options, NULL, NULL, "GET", api_url, "/patroni", NULL));
	if (response->status != 200)
		return false;
	json = rctl_json_parse(response->body, response->body_length, &problem);
	system = json ? rctl_json_text(json, "database_system_identifier") : NULL;
	return system && strcmp(system, psprintf(UINT64_FORMAT, GetSystemIdentifier())) == 0 &&
		parse_start_time(rctl_json_text(json, "postmaster_start_time"), &start) &&
		start >= PgStartTime - SAME_START_US && start <= PgStartTime + SAME_START_US;
}

bool
rctl_patroni_note_inside(RctlOp *op, const RctlPatroniCluster *cluster)
{
	RctlMap    *facts = op->replica->facts;
	RctlMap    *leader;

	if (cluster->leader == NULL || !rctl_patroni_is_copy(op->replica) || cluster_name[0] == '\0' ||
		strcmp(cluster->leader->role, "leader") != 0 || !is_this_server(op, cluster->leader->api_url))
		return false;
	leader = rctl_map_from_json(rctl_map_get_default(facts, "leader", "{}"), "leader");
	if (strcmp(rctl_map_get_default(leader, "member", ""), cluster->leader->name) != 0)
	{
		leader = rctl_map_make();
		rctl_map_set(leader, "name", cluster->leader->name);
	}
	rctl_patroni_note_place(leader, op->replica->server, cluster->leader);
	rctl_map_set(leader, "adopted", "true");
	rctl_map_set(leader, "cluster", cluster_name);
	rctl_map_set(leader, "system_identifier", psprintf(UINT64_FORMAT, GetSystemIdentifier()));
	rctl_map_set(facts, "cluster", cluster_name);
	rctl_map_set_json(facts, "leader", rctl_map_to_json(leader));
	return true;
}
