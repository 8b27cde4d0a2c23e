/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  SQL functions that wait for an operation to end.
 *
 * The waiting session sleeps on the board's condition variable and looks at
 * the operation's row with a fresh snapshot whenever something has changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "api/api.h"
#include "core/board.h"
#include "core/store.h"

PG_FUNCTION_INFO_V1(rctl_sql_wait);
PG_FUNCTION_INFO_V1(rctl_sql_operation_wait);

/* Changes are announced; this is only a net under it, and the grain of the time-out. */
#define LOOK_AGAIN_MS 1000

static void
require_not_queued_here(int64 operation)
{
	if (rctl_api_queued_here(operation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("operation " INT64_FORMAT " cannot go on before this transaction commits", operation),
				 errhint("Wait for it in a transaction of its own: SELECT replica_operation_wait(" INT64_FORMAT ").",
						 operation)));
}

static void
not_found(const char *replica, int64 operation)
{
	if (replica)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replica \"%s\" has no operation", replica),
				 errhint("SELECT replica FROM replica_status lists the replicas.")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("operation " INT64_FORMAT " does not exist", operation),
			 errhint("SELECT * FROM replica_operations lists the operations.")));
}

/*
 * Looks with a snapshot of now, whatever the isolation level, and with locks
 * that are gone at once, in a subtransaction that is rolled back: a session
 * that waits must not keep others from altering or dropping the extension.
 * replica NULL: at the operation; else at the replica's latest.
 */
static bool
look(const char *replica, int64 *operation, RctlOutcome *outcome)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	RctlStoreScope scope;
	bool		known;

	CommandCounterIncrement();
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PushActiveSnapshot(GetLatestSnapshot());
	rctl_store_enter_read(&scope);
	if (replica)
		*operation = rctl_store_latest(replica, true);
	known = *operation != 0 && rctl_store_outcome(*operation, outcome, true);
	rctl_store_leave(&scope);
	PopActiveSnapshot();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return known;
}

/* Raises the stored error of an operation, as it was. */
static void
raise_outcome(const RctlOutcome *outcome)
{
	const RctlError *error = &outcome->error;
	const char *code = error->sqlstate;

	ereport(ERROR,
			(errcode(code && strlen(code) == 5 ? MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]) :
					 ERRCODE_INTERNAL_ERROR),
			 errmsg("%s of replica \"%s\" %s: %s", outcome->kind, outcome->replica,
					outcome->state == RCTL_STATE_FAILED ? "failed" : "needs attention",
					error->message ? error->message : "no reason was recorded"),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

/* Sleeps until the operation, or if given the replica's latest, has ended. */
static void
sleep_until_ended(const char *replica, int64 operation, TimestampTz until, RctlOutcome *outcome)
{
	for (;;)
	{
		uint64		seen = rctl_board_changes();
		long		left;

		if (!look(replica, &operation, outcome))
			not_found(replica, operation);
		replica = NULL;			/* from now on this one */
		if (outcome->state != RCTL_STATE_QUEUED && outcome->state != RCTL_STATE_RUNNING)
			return;
		require_not_queued_here(operation);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (left <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("operation " INT64_FORMAT " (%s of replica \"%s\") has not ended in time",
							operation, outcome->kind, outcome->replica),
					 errdetail("It goes on."),
					 errhint("Wait again, or stop it with SELECT replica_cancel(" INT64_FORMAT ").", operation)));
		rctl_board_wait(seen, Min(left, LOOK_AGAIN_MS));
		CHECK_FOR_INTERRUPTS();
	}
}

static text *
wait_for(const char *replica, int64 operation, Interval *timeout)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													rctl_api_interval_ms(timeout, "timeout"));
	RctlOutcome outcome;

	rctl_board_enter_watchers();
	PG_TRY();
	{
		sleep_until_ended(replica, operation, until, &outcome);
	}
	PG_FINALLY();
	{
		rctl_board_leave_watchers();
	}
	PG_END_TRY();

	if (outcome.state == RCTL_STATE_FAILED || outcome.state == RCTL_STATE_NEEDS_ATTENTION)
		raise_outcome(&outcome);
	return cstring_to_text(rctl_op_state_name(outcome.state));
}

Datum
rctl_sql_wait(PG_FUNCTION_ARGS)
{
	rctl_api_require_primary();
	PG_RETURN_TEXT_P(wait_for(NameStr(*PG_GETARG_NAME(0)), 0, PG_GETARG_INTERVAL_P(1)));
}

Datum
rctl_sql_operation_wait(PG_FUNCTION_ARGS)
{
	rctl_api_require_primary();
	PG_RETURN_TEXT_P(wait_for(NULL, PG_GETARG_INT64(0), PG_GETARG_INTERVAL_P(1)));
}
