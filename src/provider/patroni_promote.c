/*-------------------------------------------------------------------------
 *
 * patroni_promote.c
 *	  Promotions that Patroni makes.
 *
 * POST /switchover names the leader, which is a lock: nothing happens if
 * another one leads by then.  Its answer decides nothing.  A 200 may tell that
 * another member won, a 503 that Patroni does not know yet, and two calls at
 * once may both be told that they succeeded.  GET /cluster decides: our member
 * leads (done), another one does (lost, and said so), or nothing has changed
 * for as long as Patroni may take.  Only the last allows to ask again, once.
 *
 * Where this server is the leader itself, Patroni stops it after the call, and
 * the member that leads then has the operation (core/takeover.c) and finds out
 * here whether it is the one that was asked for.  As long as this server runs,
 * and another one leads, it stays fenced and waits to be stopped; if it leads
 * as before, the fence comes off.
 *
 * A standby cluster is promoted by its configuration, and its leader is the
 * replica; Patroni does not know its source then, and stops nothing there.
 *
 * Durable in op->state: patroni_leader and patroni_timeline, as the checks
 * found them; patroni_loop_ms; patroni_asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "net/wait.h"
#include "provider/patroni.h"

#define POLL_MS 250
#define DEFAULT_LOOP_WAIT_S 10
#define VERIFY_MS 30000
#define FOLLOW_MS 60000
#define SQL_VERIFY_MS 10000

/* How long nothing may change before it is taken for unchanged. */
#define QUIET_REFUSED_MS 1000
#define QUIET_EXTRA_MS 3000

#define NOT_READY ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE

typedef enum Outcome
{
	OUTCOME_WON,
	OUTCOME_OTHER,				/* another member leads */
	OUTCOME_UNCHANGED,
} Outcome;

static const char *
member_name(RctlOp *op)
{
	return rctl_map_get_default(op->replica->facts, "member", op->replica->name);
}

static bool
leads_standby_cluster(const RctlReplica *replica)
{
	return strcmp(rctl_map_get_default(replica->facts, "standby_cluster", "false"), "true") == 0;
}

static bool
is_forced(RctlOp *op)
{
	return strcmp(rctl_map_get_default(op->arguments, "mode", "planned"), "forced") == 0;
}

/* This server was the replica of another one, and has got the operation with the data. */
static bool
was_handed_over(RctlOp *op)
{
	return rctl_map_get(op->state, RCTL_HANDED_OVER) != NULL;
}

/* This server leads the cluster, as far as it knows. */
static bool
source_is_here(RctlOp *op)
{
	return rctl_patroni_is_inside(op->replica) && !was_handed_over(op);
}

static bool
stops_source(const RctlReplica *replica)
{
	return !leads_standby_cluster(replica);
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

/*
 * The cluster has this server's data.  If it is a member, then it must be the
 * leader: anything else is a copy with a registry that is not its own.
 */
static void
require_inside(RctlOp *op, const RctlPatroniCluster *cluster)
{
	if (rctl_patroni_note_inside(op, cluster) || (cluster->leader == NULL && is_forced(op)))
		return;
	ereport(ERROR,
			(errcode(NOT_READY),
			 errmsg("this server is not the leader of the Patroni cluster, but has the same system identifier"),
			 cluster->leader
			 ? errdetail("Member \"%s\" leads it.", cluster->leader->name)
			 : errdetail("It has %d leaders.", cluster->leaders),
			 errhint("Ask for the promotion on the leader; if this server is a copy of it, forget the replica with SELECT replica_detach(%s).",
					 quote_literal_cstr(op->replica->name))));
}

static long loop_wait_ms(RctlOp *op);

/* The checks share one look; the first takes it, the last forgets it. */
static RctlPatroniCluster *
look_once(RctlOp *op)
{
	const char *known = rctl_map_get(op->state, "patroni_look");
	RctlHttpResponse *response;

	if (known)
	{
		response = palloc0(sizeof(RctlHttpResponse));
		response->status = 200;
		response->body = pstrdup(known);
		response->body_length = strlen(known);
	}
	else
	{
		response = rctl_patroni_get(op, "/cluster");
		rctl_map_set(op->state, "patroni_look", pnstrdup(response->body, response->body_length));
	}
	return rctl_patroni_read_cluster(op, response);
}

static void
check_leader(RctlOp *op)
{
	RctlPatroniCluster *cluster = look_once(op);
	RctlPatroniMember *own = rctl_patroni_own(op, cluster);

	rctl_map_set(op->replica->facts, "standby_cluster", strcmp(own->role, "standby_leader") == 0 ? "true" : NULL);
	if (rctl_patroni_is_copy(op->replica) && !leads_standby_cluster(op->replica))
		require_inside(op, cluster);
	if (cluster->leader == NULL && !is_forced(op))
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("the Patroni cluster has %d leaders", cluster->leaders),
				 errhint("Wait until Patroni has elected one, or promote with mode => 'forced'.")));
	if (cluster->leader && cluster->leader == own && strcmp(own->role, "leader") == 0)
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("member \"%s\" leads the Patroni cluster already", own->name),
				 errhint("Forget it with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
	if (cluster->leader)
	{
		rctl_map_set(op->state, "patroni_leader", cluster->leader->name);
		rctl_map_setf(op->state, "patroni_timeline", INT64_FORMAT, cluster->leader->timeline);
	}
	(void) loop_wait_ms(op);
}

static void
check_member(RctlOp *op)
{
	RctlPatroniCluster *cluster = look_once(op);
	RctlPatroniMember *own = rctl_patroni_own(op, cluster);

	if (!rctl_patroni_works(own))
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("member \"%s\" is in state \"%s\"", own->name, own->state),
				 errhint("SELECT replica_repair(%s) has Patroni make a new copy.", quote_literal_cstr(op->replica->name))));
	if (own->nofailover)
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("member \"%s\" has the tag nofailover", own->name),
				 errdetail("Patroni never makes it the leader."),
				 errhint("Remove the tag from its patroni.yml and reload it, or promote another member.")));
	if (cluster->leader && cluster->leader != own && own->timeline != 0 && own->timeline != cluster->leader->timeline)
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("member \"%s\" is on timeline " INT64_FORMAT ", the leader on " INT64_FORMAT, own->name,
						own->timeline, cluster->leader->timeline),
				 errhint("SELECT replica_repair(%s) has Patroni make a new copy.", quote_literal_cstr(op->replica->name))));
	if (own->lag < 0 && cluster->leader != own)
		rctl_op_warn(op, "Patroni does not make a member the leader that lags more than maximum_lag_on_failover.", NULL,
					 "Patroni does not know the lag of member \"%s\"", own->name);
}

static void
check_pause(RctlOp *op)
{
	RctlPatroniCluster *cluster = look_once(op);

	rctl_map_set(op->state, "patroni_look", NULL);
	if (cluster->paused && !is_forced(op))
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("the Patroni cluster is paused"),
				 errdetail("Somebody has taken it over from Patroni for a while."),
				 errhint("Let it go on with \"patronictl resume\" when that is done.")));
	if (cluster->scheduled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a switchover of the Patroni cluster is scheduled for %s", cluster->scheduled),
				 errhint("Wait for it, or remove it with \"patronictl flush CLUSTER switchover\".")));
}

static const RctlStep checks[] = {
	{"patroni leader", check_leader, "the cluster has one leader, another one"},
	{"patroni member", check_member, "the member can become the leader"},
	{"patroni pause", check_pause, "Patroni is at work, and no switchover is scheduled"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Positions
 * ---------------------------------------------------------------------
 */

/* GET /patroni of one member itself; false if it does not tell. */
static bool
position_of(RctlOp *op, const char *api_url, const char *path, int64 *location)
{
	RctlHttpRequest *request;
	RctlHttpResponse *response;
	const RctlJson *json;
	char	   *problem;

	if (api_url == NULL)
		return false;
	request = rctl_patroni_request(op->server_options, NULL, NULL, "GET", api_url, "/patroni", NULL);
	response = rctl_http_exchange(request);
	if (response->status != 200)
		return false;
	json = rctl_json_parse(response->body, response->body_length, &problem);
	return json && rctl_json_int64(json, path, location);
}

/* As this server's own walsender knows it; false if the member does not stream from here. */
static bool
lag_from_here(RctlOp *op, RctlManagedLag *lag)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(rctl_map_get_default(op->replica->facts, "application_name", ""))};
	bool		isnull = true;
	XLogRecPtr	replayed = InvalidXLogRecPtr;

	rctl_op_begin(op);
	if (SPI_execute_with_args("SELECT replay_lsn FROM pg_catalog.pg_stat_replication WHERE application_name = $1",
							  1, types, values, NULL, false, 1) == SPI_OK_SELECT && SPI_processed == 1)
		replayed = DatumGetLSN(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	rctl_op_commit(op);
	if (isnull)
		return false;
	lag->bytes = GetFlushRecPtr(NULL) - Min(replayed, GetFlushRecPtr(NULL));
	lag->bytes_known = true;
	lag->source = "SQL";
	return true;
}

static bool
patroni_lag(RctlOp *op, RctlManagedLag *lag)
{
	RctlPatroniCluster *cluster;
	RctlPatroniMember *own;
	int64		ours;
	int64		theirs;

	if (source_is_here(op) && lag_from_here(op, lag))
		return true;
	cluster = rctl_patroni_cluster(op);
	own = rctl_patroni_own(op, cluster);
	lag->source = "Patroni";
	if (cluster->leader && cluster->leader != own &&
		position_of(op, own->api_url, "xlog/replayed_location", &theirs) &&
		position_of(op, cluster->leader->api_url, "xlog/location", &ours))
		lag->bytes = ours > theirs ? ours - theirs : 0;
	else if (own->lag >= 0)
		lag->bytes = own->lag;
	else
		return false;
	lag->bytes_known = true;
	return true;
}

static RctlCaughtUp
caught_up(RctlOp *op, const RctlSourceMark *mark, char **progress)
{
	int64		replayed;

	if (mark->lsn == InvalidXLogRecPtr ||
		!position_of(op, rctl_map_get(op->replica->facts, "api_url"), "xlog/replayed_location", &replayed))
		return rctl_managed_replayed(op, mark, progress);
	if ((XLogRecPtr) replayed >= mark->lsn)
		return RCTL_CAUGHT_UP_YES;
	*progress = psprintf("replaying, " UINT64_FORMAT " kB left", (mark->lsn - (XLogRecPtr) replayed) / 1024 + 1);
	return RCTL_CAUGHT_UP_NOT_YET;
}

/* ---------------------------------------------------------------------
 * The call
 * ---------------------------------------------------------------------
 */

/* Asked by the checks, so that no writer waits for it. */
static long
loop_wait_ms(RctlOp *op)
{
	const char *known = rctl_map_get(op->state, "patroni_loop_ms");
	RctlHttpResponse *response;
	const RctlJson *json;
	char	   *problem;
	int64		seconds;

	if (known)
		return strtol(known, NULL, 10);
	response = rctl_patroni_get(op, "/config");
	json = rctl_json_parse(response->body, response->body_length, &problem);
	if (json == NULL || !rctl_json_int64(json, "loop_wait", &seconds) || seconds < 1 || seconds > 3600)
		seconds = DEFAULT_LOOP_WAIT_S;
	rctl_map_setf(op->state, "patroni_loop_ms", INT64_FORMAT, seconds * 1000);
	return seconds * 1000;
}

static char *
quoted(const char *text)
{
	StringInfoData json;

	initStringInfo(&json);
	escape_json(&json, text);
	return json.data;
}

/* A member that answers; one that is frozen would keep us waiting. */
static char *
asked_base(RctlOp *op)
{
	(void) rctl_patroni_get(op, "/cluster");
	return pstrdup(rctl_map_get(op->state, RCTL_PATRONI_URL));
}

/* Until the member leads, another one does, or nothing has changed for quiet_ms. */
static Outcome
wait_for_outcome(RctlOp *op, const char *before, long quiet_ms, char **leader)
{
	TimestampTz unchanged_since = GetCurrentTimestamp();

	for (;;)
	{
		RctlPatroniCluster *cluster = rctl_patroni_cluster(op);
		RctlPatroniMember *now = cluster->leader;
		TimestampTz looked = GetCurrentTimestamp();

		*leader = now ? now->name : NULL;
		if (source_is_here(op) && now && strcmp(now->name, before) != 0)
		{
			/*
			 * Two must not write: this server stays fenced until it is
			 * stopped.
			 */
			rctl_op_progress(op, psprintf("member %s leads, waiting for Patroni to stop this server", now->name), 0, 0);
			rctl_op_alive(op);
			rctl_sleep(POLL_MS);
			unchanged_since = GetCurrentTimestamp();
			continue;
		}
		if (now && strcmp(now->name, member_name(op)) == 0 && strcmp(now->role, "leader") == 0)
			return OUTCOME_WON;
		if (now && before && strcmp(now->name, before) != 0)
			return OUTCOME_OTHER;
		if ((now == NULL && before != NULL) || cluster->scheduled)
			unchanged_since = looked;	/* under way */
		if (TimestampDifferenceExceeds(unchanged_since, looked, quiet_ms))
			return OUTCOME_UNCHANGED;
		rctl_op_progress(op, now ? psprintf("waiting for Patroni, leader is %s", now->name) : "waiting for Patroni, there is no leader", 0, 0);
		rctl_op_alive(op);
		rctl_sleep(POLL_MS);
	}
}

static bool
is_refusal(const RctlHttpResponse *response)
{
	return response->status >= 400 && response->status < 500;
}

/* The leader acts at once on what it is asked itself. */
static char *
base_to_ask(RctlOp *op)
{
	RctlMap    *leader;
	const char *own;

	if (!source_is_here(op))
		return asked_base(op);
	leader = rctl_map_from_json(rctl_map_get_default(op->replica->facts, "leader", "{}"), "leader");
	own = rctl_map_get(leader, "api_url");
	return own ? pstrdup(own) : asked_base(op);
}

static RctlHttpResponse *
ask(RctlOp *op, const char *before, long loop_ms)
{
	char	   *base = base_to_ask(op);
	char	   *candidate = quoted(member_name(op));
	int			total_ms = 2 * Max(10000, loop_ms) + 10000;

	rctl_map_set(op->state, "patroni_asked", "true");
	rctl_op_save(op);
	rctl_op_progress(op, "Patroni switches over", 0, 0);
	if (is_forced(op))
		return rctl_patroni_call(op, "POST", base, "/failover", psprintf("{\"candidate\": %s}", candidate), total_ms);
	return rctl_patroni_call(op, "POST", base, "/switchover",
							 psprintf("{\"leader\": %s, \"candidate\": %s}", quoted(before), candidate), total_ms);
}

static void
raise_other(RctlOp *op, const char *before, const char *leader)
{
	rctl_op_not_done(op);
	ereport(ERROR,
			(errcode(NOT_READY),
			 errmsg("member \"%s\" leads the Patroni cluster now, not \"%s\"", leader, member_name(op)),
			 before ? errdetail("It was \"%s\" when the promotion began: somebody else has switched over, or Patroni has failed over.", before) : 0,
			 errhint("Look at the cluster, then call SELECT replica_promote(%s) again if it is still wanted.",
					 quote_literal_cstr(op->replica->name))));
}

static void
raise_unchanged(RctlOp *op, const RctlHttpResponse *response)
{
	rctl_op_not_done(op);
	ereport(ERROR,
			(errcode(response && response->status == 401 ? ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION : NOT_READY),
			 errmsg("Patroni did not make member \"%s\" the leader", member_name(op)),
			 errdetail("It said %s.", response ? rctl_patroni_answer(response) : "nothing, and nothing has changed"),
			 response && response->status == 401
			 ? errhint("Set user and password of the REST interface in the user mapping for server %s.",
					   quote_identifier(op->replica->server))
			 : errhint("The log of Patroni on the leader and on the member says why.")));
}

static void
switch_over(RctlOp *op)
{
	const char *before = rctl_map_get(op->state, "patroni_leader");
	long		loop_ms = loop_wait_ms(op);
	bool		asked = rctl_map_get(op->state, "patroni_asked") != NULL;
	RctlPatroniCluster *cluster = rctl_patroni_cluster(op);
	char	   *leader = NULL;

	if (before == NULL && cluster->leader)
	{
		before = cluster->leader->name;
		rctl_map_set(op->state, "patroni_leader", before);
		rctl_map_setf(op->state, "patroni_timeline", INT64_FORMAT, cluster->leader->timeline);
	}
	if (before == NULL && !is_forced(op))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the Patroni cluster has no leader")));
	for (int attempt = asked ? 0 : 1; attempt <= 2; attempt++)
	{
		RctlHttpResponse *response = NULL;
		long		quiet_ms = 2 * loop_ms + QUIET_EXTRA_MS;

		switch (wait_for_outcome(op, before, attempt == 1 && !asked ? 0 : QUIET_REFUSED_MS, &leader))
		{
			case OUTCOME_WON:
				return;
			case OUTCOME_OTHER:
				raise_other(op, before, leader);
				break;
			case OUTCOME_UNCHANGED:
				break;
		}
		if (attempt > 0)
		{
			response = ask(op, before, loop_ms);
			if (is_refusal(response))
				quiet_ms = QUIET_REFUSED_MS;
			else if (response->status == 503)
				quiet_ms = loop_ms + QUIET_EXTRA_MS;
		}
		switch (wait_for_outcome(op, before, quiet_ms, &leader))
		{
			case OUTCOME_WON:
				return;
			case OUTCOME_OTHER:
				raise_other(op, before, leader);
				break;
			case OUTCOME_UNCHANGED:
				if (attempt == 2 || (response && is_refusal(response)))
					raise_unchanged(op, response);
				break;
		}
	}
}

/* ---------------------------------------------------------------------
 * The call, where this server is the leader
 * ---------------------------------------------------------------------
 */

/* What can fail before Patroni was asked has changed nothing. */
static RctlHttpResponse *
ask_from_here(RctlOp *op, const char *before, long loop_ms)
{
	volatile RctlHttpResponse *response = NULL;

	PG_TRY();
	{
		if (!is_forced(op))
			rctl_managed_require_still(op);
		response = ask(op, before, loop_ms);
	}
	PG_CATCH();
	{
		rctl_op_not_done(op);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return (RctlHttpResponse *) response;
}

/*
 * Patroni is asked once, and stops this server meanwhile.  If it has refused,
 * or this server is still the leader when everything has had its time, the
 * fence comes off.  Going on after a restart of this server, or of the worker,
 * is the same: what was asked may still be carried out.
 */
static void
switch_over_from_here(RctlOp *op)
{
	const char *before = rctl_map_get(op->state, "patroni_leader");
	long		loop_ms = loop_wait_ms(op);
	RctlHttpResponse *response = NULL;
	long		quiet_ms = 2 * loop_ms + QUIET_EXTRA_MS;
	char	   *leader;

	if (before == NULL)
	{
		RctlMap    *own = rctl_map_from_json(rctl_map_get_default(op->replica->facts, "leader", "{}"), "leader");

		before = rctl_map_get_default(own, "member", "");
		rctl_map_set(op->state, "patroni_leader", before);
		rctl_map_setf(op->state, "patroni_timeline", "%u", GetWALInsertionTimeLine());
	}
	if (rctl_map_get(op->state, "patroni_asked") == NULL)
	{
		response = ask_from_here(op, before, loop_ms);
		if (is_refusal(response))
			quiet_ms = 0;
		else if (response->status == 503)
			quiet_ms = strstr(response->body, "failed") ? 0 : loop_ms + QUIET_EXTRA_MS;
	}
	(void) wait_for_outcome(op, before, quiet_ms, &leader);
	raise_unchanged(op, response);
}

/* This server was promoted, and is the leader; the question is whether it is the right one. */
static void
judge(RctlOp *op)
{
	const char *before = rctl_map_get(op->state, "patroni_leader");
	char	   *leader = NULL;

	switch (wait_for_outcome(op, before ? before : "", 2 * loop_wait_ms(op) + QUIET_EXTRA_MS, &leader))
	{
		case OUTCOME_WON:
			return;
		case OUTCOME_OTHER:
			rctl_op_change_places(op, leader);
			raise_other(op, before, leader);
			break;
		case OUTCOME_UNCHANGED:
			raise_unchanged(op, NULL);
			break;
	}
}

/* ---------------------------------------------------------------------
 * Standby clusters
 * ---------------------------------------------------------------------
 */

static void
promote_standby_cluster(RctlOp *op)
{
	for (;;)
	{
		RctlPatroniCluster *cluster = rctl_patroni_cluster(op);
		RctlPatroniMember *own = rctl_patroni_own(op, cluster);
		RctlHttpResponse *response;

		if (strcmp(own->role, "leader") == 0)
			return;
		if (rctl_map_get(op->state, "patroni_asked") == NULL)
		{
			response = rctl_patroni_call(op, "PATCH", asked_base(op), "/config", "{\"standby_cluster\": null}", 0);
			if (response->status != 409 && is_refusal(response))
				raise_unchanged(op, response);
			if (response->status == 200)
			{
				rctl_map_set(op->state, "patroni_asked", "true");
				rctl_op_save(op);
			}
		}
		rctl_op_progress(op, psprintf("waiting for Patroni, the member is %s", own->role), 0, 0);
		rctl_sleep(POLL_MS);
	}
}

static void
promote(RctlOp *op)
{
	if (was_handed_over(op))
		judge(op);
	else if (leads_standby_cluster(op->replica))
		promote_standby_cluster(op);
	else if (source_is_here(op))
		switch_over_from_here(op);
	else
		switch_over(op);
}

/* ---------------------------------------------------------------------
 * Afterwards
 * ---------------------------------------------------------------------
 */

static void
verify(RctlOp *op)
{
	int64		before = strtoll(rctl_map_get_default(op->state, "patroni_timeline", "0"), NULL, 10);
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), VERIFY_MS);
	RctlPatroniMember *own;

	for (;;)
	{
		own = rctl_patroni_own(op, rctl_patroni_cluster(op));
		if (strcmp(own->role, "leader") == 0 && strcmp(own->state, "running") == 0 && own->timeline > before)
			break;
		if (GetCurrentTimestamp() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("member \"%s\" is %s, %s, on timeline " INT64_FORMAT, own->name, own->role, own->state, own->timeline),
					 errdetail("It should be the leader, running, on a timeline after " INT64_FORMAT ".", before),
					 errhint("Look at the cluster with \"patronictl list\".")));
		rctl_op_progress(op, "waiting until the cluster shows the new timeline", 0, 0);
		rctl_sleep(POLL_MS);
	}
	rctl_map_setf(op->replica->facts, "timeline", INT64_FORMAT, own->timeline);
	if (rctl_op_secret(op, "db_user") && rctl_op_secret(op, "db_password"))
		(void) rctl_managed_verify_sql(op, SQL_VERIFY_MS);
}

static void
note(RctlOp *op, RctlMap *detail)
{
	rctl_map_set(detail, "old_leader", rctl_map_get(op->state, "patroni_leader"));
	rctl_map_set(detail, "new_leader", member_name(op));
}

/* The old leader restarts as a replica; that is Patroni's doing, and only looked at. */
static void
after(RctlOp *op, const char *source_after)
{
	const char *old_leader = rctl_map_get(op->state, "patroni_leader");
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FOLLOW_MS);

	if (old_leader == NULL || leads_standby_cluster(op->replica))
		return;
	for (;;)
	{
		RctlPatroniMember *member = rctl_patroni_member(rctl_patroni_cluster(op), old_leader);

		if (member && rctl_patroni_works(member) && !rctl_patroni_is_leader(member) && member->lag >= 0)
			return;
		if (GetCurrentTimestamp() >= until)
			break;
		rctl_op_progress(op, psprintf("waiting until %s follows", old_leader), 0, 0);
		rctl_sleep(POLL_MS);
	}
	rctl_op_event(op, "warning", "old_leader", NULL,
				  "member \"%s\", the old leader, does not follow yet", old_leader);
}

char *
rctl_patroni_describe_step(RctlOp *op, const char *step)
{
	const char *leader = rctl_map_get_default(op->state, "patroni_leader", "?");

	if (strcmp(step, "reinitialize") == 0)
		return psprintf("POST /reinitialize of member \"%s\"", member_name(op));
	if (strcmp(step, "promote") != 0)
		return NULL;
	if (leads_standby_cluster(op->replica))
		return pstrdup("PATCH /config {\"standby_cluster\": null}");
	if (is_forced(op))
		return psprintf("POST /failover {\"candidate\": %s}", quoted(member_name(op)));
	return psprintf("POST /switchover {\"leader\": %s, \"candidate\": %s}", quoted(leader), quoted(member_name(op)));
}

const RctlManagedPromotion rctl_patroni_promotion = {
	.promote_checks = checks,
	.source_is_here = source_is_here,
	.service_guards = rctl_patroni_is_inside,
	.service_fences = stops_source,
	.source_follows = stops_source,
	.lag = patroni_lag,
	.caught_up = caught_up,
	.poll_ms = 20,
	.promote = promote,
	.verify = verify,
	.note = note,
	.after = after,
};
