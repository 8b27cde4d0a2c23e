/*-------------------------------------------------------------------------
 *
 * aws_promote.c
 *	  What a promotion by Amazon needs of this provider (core/managed.c).
 *
 * Zero lag is shown by data only: by SQL on the replica where it can be
 * reached, else by data points of CloudWatch for times after the last commit,
 * all of which must be 0, by their minimum and by their maximum (-1 means
 * that nothing replicates).  A missing data point shows nothing.
 *
 * The status may still be "available" right after the call, so that it is
 * done when the status is "available" and the link to the source is gone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/aws.h"

/* CloudWatch has new data once a minute; each question costs money. */
#define METRIC_ASK_MS 5000
#define LAG_MINUTES 10
#define EVENT_WAIT_MS (2 * 60 * 1000)
#define EVENT_PAGES 20
#define VERIFY_SQL_MS 60000
#define SETTLE_LOOKS 8

static const char *
identifier_of(RctlOp *op)
{
	const char *identifier = rctl_map_get(op->replica->facts, "identifier");

	if (identifier == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was never made", op->replica->name),
				 errhint("Remove it with SELECT replica_drop(%s), and create it anew.",
						 quote_literal_cstr(op->replica->name))));
	return identifier;
}

static const char *
kind_of(const RctlAwsTarget *target)
{
	return target->aurora ? "DB cluster" : "DB instance";
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

static RctlAwsInstance *
describe_replica(RctlOp *op, const RctlAwsTarget *target)
{
	const char *identifier = identifier_of(op);
	RctlAwsInstance *found = rctl_aws_resource(target, target->aurora, identifier);

	if (found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("%s \"%s\" does not exist", kind_of(target), identifier),
				 errdetail("Amazon RDS knows none of that name in region %s.", target->region),
				 errhint("Remove the replica with SELECT replica_drop(%s).", quote_literal_cstr(op->replica->name))));
	return found;
}

static void
check_replica(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	RctlAwsInstance *found = describe_replica(op, target);

	if (found->source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" is not a read replica", kind_of(target), found->identifier),
				 errdetail("Amazon RDS names no source of it: it was promoted, or its source is gone."),
				 errhint("Forget it with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
}

static void
require_available(const RctlAwsInstance *found, const char *what)
{
	if (strcmp(found->status, "available") == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s \"%s\" is not available", what, found->identifier),
			 errdetail("Its status is \"%s\".%s", found->status,
					   strcmp(found->status, "backing-up") == 0 ? " Amazon does not promote while it backs up." : ""),
			 rctl_aws_status_is_fatal(found->status) ?
			 errhint("See its events in Amazon RDS.") :
			 errhint("Wait until its status is \"available\", and try again.")));
}

static void
check_status(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	const char *writer = rctl_map_get(op->replica->facts, "writer");
	RctlAwsInstance *found = describe_replica(op, target);
	RctlAwsInstance *instance;

	require_available(found, kind_of(target));
	instance = writer ? rctl_aws_instance(target, writer) : NULL;
	if (instance)
		require_available(instance, "DB instance");
	if (found->replication && strcmp(found->replication, "replicating") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" does not replicate", kind_of(target), found->identifier),
				 errdetail("Its replication is in status \"%s\".%s%s", found->replication,
						   found->trouble ? " Amazon RDS says: " : "", found->trouble ? found->trouble : ""),
				 errhint("See its events in Amazon RDS.")));
}

static bool
newest_lag(RctlOp *op, const RctlAwsTarget *target, RctlAwsMetric metrics[2])
{
	const char *name = target->aurora ? "RDSToAuroraPostgreSQLReplicaLag" : "ReplicaLag";
	const char *instance = rctl_map_get(op->replica->facts, target->aurora ? "writer" : "identifier");

	memset(metrics, 0, 2 * sizeof(RctlAwsMetric));
	metrics[0].name = metrics[1].name = name;
	metrics[0].instance = metrics[1].instance = instance;
	metrics[0].stat = "Maximum";
	metrics[1].stat = "Minimum";
	rctl_aws_metrics(target, metrics, 2, LAG_MINUTES);
	return metrics[0].known && metrics[1].known;
}

static void
check_lag(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	RctlAwsMetric metrics[2];

	if (!newest_lag(op, target, metrics))
		rctl_op_warn(op, psprintf("CloudWatch has no data point of %s of the last %d minutes.", metrics[0].name, LAG_MINUTES),
					 "The promotion waits for data that show a lag of 0, until its time-out.",
					 "the lag of replica \"%s\" is not known", op->replica->name);
	else if (metrics[1].newest.value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" does not replicate", op->replica->name),
				 errdetail("%s is %g.", metrics[0].name, metrics[1].newest.value),
				 errhint("See its events in Amazon RDS.")));
	else if (metrics[0].newest.value > 300)
		rctl_op_warn(op, psprintf("%s is %.0f seconds.", metrics[0].name, metrics[0].newest.value),
					 "Wait until it is small, or give the promotion a long timeout.",
					 "replica \"%s\" is far behind its source", op->replica->name);
}

static const RctlStep promote_checks[] = {
	{"link", check_replica, "Amazon says that it is a read replica"},
	{"status", check_status, "it is available, and replicates"},
	{"lag", check_lag, "CloudWatch knows its lag"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Lag
 * ---------------------------------------------------------------------
 */

static bool
lag(RctlOp *op, RctlManagedLag *result)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	RctlAwsMetric metrics[2];

	(void) identifier_of(op);
	if (!newest_lag(op, target, metrics) || metrics[1].newest.value < 0)
		return false;
	result->seconds_known = true;
	result->seconds = metrics[0].newest.value;
	result->sampled_at = metrics[0].newest.at;
	result->source = "CloudWatch";
	return true;
}

/* By CloudWatch: everything before "since" has arrived. */
static RctlCaughtUp
caught_up_by_metric(RctlOp *op, const RctlSourceMark *mark, char **progress)
{
	static TimestampTz asked = 0;
	static int64 operation = 0;
	static RctlCaughtUp last = RCTL_CAUGHT_UP_UNKNOWN;
	static char last_progress[200];
	TimestampTz now = GetCurrentTimestamp();
	RctlAwsTarget *target;
	RctlAwsMetric metrics[2];
	TimestampTz since;
	double		age;

	target = rctl_aws_replica_target(op);
	if (operation == op->id && asked != 0 && !TimestampDifferenceExceeds(asked, now, Min(METRIC_ASK_MS, rctl_aws_pause(target->options, 9))))
	{
		*progress = pstrdup(last_progress);
		return last;
	}
	asked = now;
	operation = op->id;
	last = RCTL_CAUGHT_UP_UNKNOWN;

	if (!newest_lag(op, target, metrics))
		strlcpy(last_progress, psprintf("waiting for a data point of %s", metrics[0].name), sizeof(last_progress));
	else
	{
		/*
		 * A data point is for the minute that begins at its time, by Amazon's
		 * clock.
		 */
		since = rctl_aws_surely_after(mark->since);
		age = (double) (since - metrics[0].newest.at) / USECS_PER_SEC;
		if (metrics[0].newest.at < since || metrics[1].newest.at < since)
			strlcpy(last_progress, psprintf("waiting for a data point of %s after the last write, the newest is %.0f s older",
											metrics[0].name, ceil(age)), sizeof(last_progress));
		else if (metrics[0].newest.value == 0 && metrics[1].newest.value == 0)
		{
			last = RCTL_CAUGHT_UP_YES;
			strlcpy(last_progress, psprintf("%s is 0", metrics[0].name), sizeof(last_progress));
		}
		else
		{
			last = RCTL_CAUGHT_UP_NOT_YET;
			strlcpy(last_progress, psprintf("%s is %g s", metrics[0].name,
											metrics[1].newest.value < 0 ? metrics[1].newest.value : metrics[0].newest.value),
					sizeof(last_progress));
		}
	}
	*progress = pstrdup(last_progress);
	return last;
}

static RctlCaughtUp
caught_up(RctlOp *op, const RctlSourceMark *mark, char **progress)
{
	(void) identifier_of(op);
	if (mark->lsn != InvalidXLogRecPtr && rctl_map_get(op->server_options, "source_conninfo"))
	{
		RctlCaughtUp by_sql = rctl_managed_replayed(op, mark, progress);

		if (by_sql != RCTL_CAUGHT_UP_UNKNOWN)
			return by_sql;
	}
	return caught_up_by_metric(op, mark, progress);
}

/* ---------------------------------------------------------------------
 * Promotion
 * ---------------------------------------------------------------------
 */

/* The status that it began with, while it is one that says nothing. */
static bool
is_unlinked(RctlOp *op, const RctlAwsInstance *found)
{
	return found != NULL && found->source == NULL && strcmp(found->status, "available") == 0;
}

/* After an answer that leaves it open: whether a promotion is under way, or done. */
static bool
has_begun(RctlOp *op, const RctlAwsTarget *target, const char *identifier)
{
	for (int look = 0; look < SETTLE_LOOKS; look++)
	{
		RctlAwsInstance *found = rctl_aws_resource(target, target->aurora, identifier);

		if (found && (found->source == NULL || strcmp(found->status, "available") != 0))
			return true;
		rctl_op_progress(op, psprintf("finding out whether the promotion of %s has begun, look %d", identifier, look + 1), 0, 0);
		rctl_sleep(rctl_aws_pause(target->options, look));
	}
	return false;
}

/* Statuses between "available" and "available". */
static bool
may_be_promoting(const RctlAwsInstance *found)
{
	return strcmp(found->status, "promoting") == 0 || strcmp(found->status, "modifying") == 0 ||
		strcmp(found->status, "rebooting") == 0;
}

/* A clear refusal.  again: an earlier call may have been taken, with its answer lost. */
static void
refused(RctlOp *op, const RctlAwsTarget *target, const char *identifier, bool again, const RctlAwsCall *call,
		const RctlAwsAnswer *answer)
{
	RctlAwsInstance *found = rctl_aws_resource(target, target->aurora, identifier);

	if (found && (found->source == NULL || may_be_promoting(found)))
		return;
	if (again && has_begun(op, target, identifier))
		return;
	if (op->kind == RCTL_OP_PROMOTE && found)
		rctl_op_not_done(op);
	rctl_aws_raise(call, answer);
}

static bool
is_settled(RctlOp *op, const RctlAwsInstance *found)
{
	return found != NULL && !may_be_promoting(found);
}

void
rctl_aws_promote(RctlOp *op, const RctlAwsTarget *target, const char *identifier, bool again)
{
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, target->aurora ? "PromoteReadReplicaDBCluster" : "PromoteReadReplica");
	RctlAwsInstance *found;

	rctl_aws_add(call, target->aurora ? "DBClusterIdentifier" : "DBInstanceIdentifier", identifier);

	/*
	 * Whatever is under way, perhaps our own call of an earlier attempt,
	 * comes first.
	 */
	found = rctl_aws_wait(op, target, target->aurora, identifier, is_settled, "promoting", false);
	if (found->source != NULL)
	{
		RctlAwsAnswer *answer = rctl_aws_perform(target, call);

		if (answer->result == NULL)
		{
			if (!answer->uncertain && !answer->transient)
				refused(op, target, identifier, again, call, answer);
			else if (!has_begun(op, target, identifier))
				rctl_aws_raise(call, answer);	/* the step is tried again */
		}
	}
	(void) rctl_aws_wait(op, target, target->aurora, identifier, is_unlinked, "promoting", false);
}

static void
promote(RctlOp *op)
{
	bool		again = rctl_map_get(op->state, "aws_promote_began") != NULL;

	if (!again)
	{
		rctl_map_setf(op->state, "aws_promote_began", INT64_FORMAT, (int64) rctl_aws_clock());
		rctl_op_save(op);
	}
	rctl_aws_promote(op, rctl_aws_replica_target(op), identifier_of(op), again);
}

/* ---------------------------------------------------------------------
 * Proof
 * ---------------------------------------------------------------------
 */

/* Either wording: "... to stand-alone database cluster", "... to a stand-alone database cluster." */
static bool
is_promotion_event(const char *message)
{
	char	   *lower = rctl_aws_lower(message);

	return strstr(lower, "promoted read replica") != NULL &&
		(strstr(lower, "stand-alone") != NULL || strstr(lower, "standalone") != NULL);
}

/* The event's message; NULL if there is none yet. */
static char *
find_event(const RctlAwsTarget *target, const char *identifier, TimestampTz since)
{
	char	   *marker = NULL;

	for (int page = 0; page < EVENT_PAGES; page++)
	{
		RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, "DescribeEvents");
		const RctlXml *result;
		const RctlXml *events;

		rctl_aws_add(call, "SourceIdentifier", identifier);
		rctl_aws_add(call, "SourceType", target->aurora ? "db-cluster" : "db-instance");
		rctl_aws_add_time(call, "StartTime", since);
		rctl_aws_add(call, "Marker", marker);
		result = rctl_aws_result(target, call);
		events = rctl_xml_find(result, "Events");
		for (const RctlXml *event = rctl_xml_child(events, NULL, "Event"); event;
			 event = rctl_xml_child(events, event, "Event"))
		{
			char	   *message = rctl_xml_text(event, "Message");

			if (message && is_promotion_event(message))
				return message;
		}
		marker = rctl_xml_text(result, "Marker");
		if (marker == NULL)
			break;
	}
	return NULL;
}

/* Waits for the event; an Aurora replica without one is not called promoted silently. */
static void
wait_for_event(RctlOp *op, const RctlAwsTarget *target, const char *identifier)
{
	const char *began = rctl_map_get(op->state, "aws_promote_began");
	TimestampTz since = began ? strtoll(began, NULL, 10) : rctl_aws_clock();
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), EVENT_WAIT_MS);
	char	   *message;

	since = TimestampTzPlusMilliseconds(since, -60 * INT64CONST(1000));
	for (int look = 0; (message = find_event(target, identifier, since)) == NULL; look++)
	{
		if (!target->aurora || GetCurrentTimestamp() >= until)
		{
			if (target->aurora)
				rctl_op_event(op, "warning", "promotion_event_missing", NULL,
							  "Amazon RDS has no event of the promotion of DB cluster \"%s\", although its link to the source is gone",
							  identifier);
			return;
		}
		rctl_op_progress(op, psprintf("waiting for the event of the promotion of %s", identifier), 0, 0);
		rctl_op_alive(op);
		rctl_sleep(rctl_aws_pause(target->options, look));
	}
	rctl_map_set(op->state, "aws_event", message);
}

static void
verify(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	RctlAwsInstance *found = describe_replica(op, target);

	if (!is_unlinked(op, found))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" is not a primary", kind_of(target), found->identifier),
				 errdetail("Its status is \"%s\", its source is \"%s\".", found->status,
						   found->source ? found->source : "none"),
				 errhint("See its events in Amazon RDS; until this is settled no other server must take writes.")));
	wait_for_event(op, target, found->identifier);
	rctl_aws_note_endpoint(op, found);
	rctl_map_set(op->state, "aws_status", found->status);
	if (rctl_map_get(op->server_options, "source_conninfo"))
		(void) rctl_managed_verify_sql(op, VERIFY_SQL_MS);
}

static void
receipt(RctlOp *op, RctlMap *map)
{
	RctlManagedLag known = {0};

	if (!lag(op, &known))
		return;
	rctl_map_setf(map, "lag_seconds", "%g", known.seconds);
	rctl_map_set(map, "lag_sampled_at", timestamptz_to_str(known.sampled_at));
	rctl_map_set(map, "lag_source", known.source);
}

static void
note(RctlOp *op, RctlMap *detail)
{
	rctl_map_set(detail, "aws_event", rctl_map_get(op->state, "aws_event"));
	rctl_map_set(detail, "aws_status", rctl_map_get(op->state, "aws_status"));
	rctl_map_set(detail, "arn", rctl_map_get(op->replica->facts, "arn"));
	rctl_map_set(detail, "endpoint", rctl_map_get(op->replica->facts, "host"));
}

const RctlManagedPromotion rctl_aws_promotion = {
	.promote_checks = promote_checks,
	.lag = lag,
	.caught_up = caught_up,
	.poll_ms = 500,
	.promote = promote,
	.verify = verify,
	.receipt = receipt,
	.note = note,
};
