/*-------------------------------------------------------------------------
 *
 * aiven_promote.c
 *	  Promotes a replica at Aiven: the deletion of its integration.
 *
 * That call is the promotion, it cannot be taken back, and no answer says when
 * it is done.  So it is made, again if need be, until the service is the
 * destination of no read_replica integration any more; then the role of its
 * nodes, where it is told, and at last the server itself must say that it is
 * a primary.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/aiven.h"

#define CONNECT_MS 3000
#define QUERY_MS 3000
#define LOOK_AGAIN_MS 500

/* A deletion that shows no effect is asked for again so often. */
#define DELETE_AGAIN_MS 20000

/*
 * Until the server itself must be out of recovery, after Aiven says so; and
 * how long one that cannot be reached is tried.
 */
#define VERIFY_MS 120000
#define VERIFY_UNREACHED_MS 8000
#define VERIFY_SERVICE_MS 600000

/* Data that are this much newer than the fence cannot have been on their way before it. */
#define FLIGHT_MS 2000

static bool
same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

static void
check_service(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	RctlAivenService *service = rctl_aiven_own_service(aiven, false);

	if (!service->is_replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Aiven service \"%s\" is no read replica any more", service->name),
				 errdetail("It has no integration of type read_replica with a source: it was promoted already."),
				 errhint("Forget the replica with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
	if (service->integration_id == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("the integration of Aiven service \"%s\" is not ready", service->name),
				 errdetail("It has no id yet."),
				 errhint("Call replica_promote again in a moment.")));
	if (strcmp(service->state, "POWEROFF") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Aiven service \"%s\" is powered off", service->name),
				 errhint("SELECT replica_repair(%s) powers it on.", quote_literal_cstr(op->replica->name))));
	if (!rctl_aiven_running(service))
		rctl_op_warn(op, psprintf("Its state is %s.", service->state), NULL,
					 "Aiven is busy with service \"%s\"", service->name);
	rctl_aiven_note_service(op->replica, service);
}

static void
check_siblings(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	RctlAivenService *source = rctl_aiven_service(aiven, aiven->source, false);

	if (source == NULL)
		rctl_op_warn(op, NULL, NULL, "source \"%s\" does not exist any more at Aiven", aiven->source);
	else if (list_length(source->followers) > 1)
		rctl_op_warn(op, "They go on to follow the old source, and Aiven cannot attach them to the promoted service.",
					 "Make new replicas of the promoted service afterwards.",
					 "source \"%s\" has %d more read replicas", aiven->source, list_length(source->followers) - 1);
}

static const RctlStep promote_checks[] = {
	{"service", check_service, "the service runs, and an integration makes it a replica"},
	{"siblings", check_siblings, "no other replica is left behind"},
	{NULL}
};

static bool
source_is_here(RctlOp *op)
{
	return same(rctl_map_get(op->replica->facts, "source_here"), "true");
}

/* ---------------------------------------------------------------------
 * Lag
 * ---------------------------------------------------------------------
 */

/*
 * What the replica itself tells, where the source cannot be asked.  $1: the
 * age that its last message from the source may have, in seconds.  A WAL
 * sender that has more to send says so in each message, so that a message
 * younger than the fence, with nothing left after it, is proof.
 */
static const char *const receiver_sql =
"SELECT status = 'streaming' AND last_msg_receipt_time > clock_timestamp() - $1::float8 * interval '1 second',"
" latest_end_lsn <= pg_catalog.pg_last_wal_replay_lsn()"
"  AND pg_catalog.pg_last_wal_receive_lsn() <= pg_catalog.pg_last_wal_replay_lsn()"
" FROM pg_catalog.pg_stat_wal_receiver";

static RctlCaughtUp
caught_up_without_source(RctlOp *op, const RctlSourceMark *mark, char **progress)
{
	long		age = TimestampDifferenceMilliseconds(mark->since, GetCurrentTimestamp()) - FLIGHT_MS;
	char	   *seconds = psprintf("%.3f", Max(age, 0) / 1000.0);
	const char *params[] = {seconds};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl lag", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RctlCaughtUp verdict = RCTL_CAUGHT_UP_UNKNOWN;
	const char *words = "waiting for a message of the source that is younger than the end of its writes";

	if (age > 0)
	{
		PGconn	   *conn = rctl_aiven_try_connect(op, op->replica, CONNECT_MS);
		PGresult   *result = conn ? rctl_pg_exec(conn, QUERY_MS, receiver_sql, 1, params) : NULL;

		if (conn == NULL)
			words = "the replica cannot be reached";
		else if (PQntuples(result) == 1 && strcmp(PQgetvalue(result, 0, 0), "t") == 0)
		{
			bool		all = strcmp(PQgetvalue(result, 0, 1), "t") == 0;

			verdict = all ? RCTL_CAUGHT_UP_YES : RCTL_CAUGHT_UP_NOT_YET;
			words = "replaying";
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	*progress = pstrdup(words);
	if (verdict != RCTL_CAUGHT_UP_YES)
		rctl_sleep(LOOK_AGAIN_MS);
	return verdict;
}

static RctlCaughtUp
caught_up(RctlOp *op, const RctlSourceMark *mark, char **progress)
{
	if (mark->lsn != InvalidXLogRecPtr)
		return rctl_managed_replayed(op, mark, progress);
	return caught_up_without_source(op, mark, progress);
}

/* ---------------------------------------------------------------------
 * Promotion
 * ---------------------------------------------------------------------
 */

/*
 * Aiven has refused.  Only if the replica is unchanged after that, it is
 * certain that nothing has happened.
 */
static void
refused(RctlOp *op, const RctlAiven *aiven, const RctlAivenAnswer *answer)
{
	RctlAivenService *service = rctl_aiven_own_service(aiven, false);

	if (service->is_replica && same(service->integration_id, rctl_map_get(op->replica->facts, "integration_id")))
		rctl_op_not_done(op);
	rctl_aiven_refuse(aiven, answer, "could not delete the integration of Aiven service \"%s\"", service->name);
}

static void
delete_integration(RctlOp *op, const RctlAiven *aiven, const char *id)
{
	RctlAivenAnswer *answer;

	rctl_op_progress(op, "asking Aiven to delete the integration", 0, 0);
	answer = rctl_aiven_ask(aiven, "DELETE", rctl_aiven_path(aiven, "integration", id, NULL),
							NULL, "ServiceIntegrationDelete");
	if (rctl_aiven_ok(answer) || rctl_aiven_missing(answer))
		return;
	refused(op, aiven, answer);
}

static void
promote(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz asked = 0;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext look = NULL;

	for (;;)
	{
		RctlAivenService *service;
		const char *id;

		look = rctl_aiven_look(look);
		service = rctl_aiven_own_service(aiven, false);
		id = service->integration_id ? service->integration_id : rctl_map_get(op->replica->facts, "integration_id");

		if (!service->is_replica)
		{
			if (!service->role_known || service->role_master)
				break;
			rctl_op_progress(op, "waiting until the service is a primary", 0, 0);
		}
		else if (id && (asked == 0 || TimestampDifferenceExceeds(asked, GetCurrentTimestamp(), DELETE_AGAIN_MS)))
		{
			rctl_map_set(op->replica->facts, "integration_id", id);
			delete_integration(op, aiven, id);
			asked = GetCurrentTimestamp();
			aiven->patient = true;
			continue;
		}
		else
			rctl_op_progress(op, "waiting until the integration is gone", 0, 0);
		rctl_aiven_pause(start);
	}
	MemoryContextSwitchTo(caller);
}

/* ---------------------------------------------------------------------
 * Proof
 * ---------------------------------------------------------------------
 */

static void
verify(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext look = NULL;
	PGconn	   *conn;

	aiven->patient = true;
	for (;;)
	{
		RctlAivenService *service;

		look = rctl_aiven_look(look);
		service = rctl_aiven_own_service(aiven, false);
		if (service->is_replica)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("Aiven service \"%s\" is a read replica again", service->name),
					 errdetail("It is the destination of an integration of type read_replica."),
					 errhint("See at Aiven who has made it, before either server takes writes.")));
		if (rctl_aiven_running(service) && (!service->role_known || service->role_master))
		{
			rctl_aiven_note_service(op->replica, service);
			rctl_map_set(op->state, "aiven_state", service->state);
			rctl_map_set(op->state, "aiven_role", service->role_known ? "master" : NULL);
			break;
		}
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), VERIFY_SERVICE_MS))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("Aiven service \"%s\" does not run after its promotion", service->name),
					 errdetail("It was last seen as %s.", service->activity),
					 errhint("See the service's log at Aiven.")));
		rctl_aiven_show_progress(op, service);
		rctl_op_alive(op);
		rctl_aiven_pause(start);
	}
	MemoryContextSwitchTo(caller);
	conn = rctl_aiven_try_connect(op, op->replica, CONNECT_MS);
	rctl_pg_close(conn);
	rctl_map_set(op->state, "sql_verified",
				 rctl_managed_verify_sql(op, conn ? VERIFY_MS : VERIFY_UNREACHED_MS) ? "true" : "false");
}

static void
note(RctlOp *op, RctlMap *detail)
{
	const RctlMap *facts = op->replica->facts;

	rctl_map_set(detail, "project", rctl_map_get(facts, "project"));
	rctl_map_set(detail, "service_name", rctl_map_get(facts, "service_name"));
	rctl_map_set(detail, "integration_id", rctl_map_get(facts, "integration_id"));
	rctl_map_set(detail, "service_state", rctl_map_get(op->state, "aiven_state"));
	rctl_map_set(detail, "node_role", rctl_map_get(op->state, "aiven_role"));
	rctl_map_set(detail, "verified_by_sql", rctl_map_get(op->state, "sql_verified"));
	rctl_map_set_json(detail, "terraform", rctl_aiven_terraform(op, RCTL_OP_PROMOTE));
}

const RctlManagedPromotion rctl_aiven_managed = {
	.promote_checks = promote_checks,
	.source_is_here = source_is_here,
	.caught_up = caught_up,
	.poll_ms = 20,
	.promote = promote,
	.verify = verify,
	.note = note,
};
