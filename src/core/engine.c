/*-------------------------------------------------------------------------
 *
 * engine.c
 *	  Works on one operation until it ends or must wait.
 *
 * Forward: for each step, commit its start, run it with no transaction open,
 * commit its outcome with the start of the next.  Backward (undo): handle the
 * cleanup records, latest first, each by its provider, and forget each as it
 * is done.  Both directions can be taken up again by another worker at any
 * point: what is durable is the step's name, the attempt, the two maps and
 * the records; nothing in this process is needed.
 *
 * An error in a step means, in this order: cancelled, retry, undo; and past
 * the point of no return: retry, then a person must look.  An operation that
 * was asked to cancel is never told from a failed one by its SQLSTATE, only by
 * the request.
 *
 * The cleanup records are in memory too, for the one case in which the tables
 * are no longer there: see rctl_engine_abandon().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/board.h"
#include "core/engine.h"
#include "core/fault.h"
#include "core/plan.h"
#include "core/promotion.h"
#include "core/rejoin.h"
#include "core/source_fence.h"
#include "core/store.h"
#include "net/http.h"
#include "net/text.h"
#include "net/wait.h"
#include "primary/fence.h"
#include "settings.h"

#define RETRY_FIRST_MS 500
#define RETRY_LAST_MS 60000

/* How often a step that waits finds out whether the extension is still there. */
#define CHECK_LOST_MS 1000

/* What this worker's wait check looks at. */
static RctlOpRow *current = NULL;
static TimestampTz last_progress = 0;
static TimestampTz last_check_lost = 0;

/* The running step has said that it changed nothing (rctl_op_not_done). */
static bool not_done = false;

/* The records of this operation that are not handled yet, latest first; in op.context. */
static List *made = NIL;

/* ---------------------------------------------------------------------
 * Waiting: cancel and the no-progress deadline
 * ---------------------------------------------------------------------
 */

/* Whether a cancel was asked for that can still be obeyed. */
static bool
cancel_pending(RctlOpRow *row)
{
	if (row->undoing || row->no_return)
		return false;
	row->cancel_requested |= rctl_board_cancelled();
	return row->cancel_requested;
}

static void
raise_cancelled(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("the operation was cancelled")));
}

static void
check_wait(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (current == NULL)
		return;
	if (cancel_pending(current))
		raise_cancelled();
	if (rctl_progress_timeout > 0 &&
		TimestampDifferenceExceeds(last_progress, now, rctl_progress_timeout))
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("step \"%s\" made no progress for %d ms",
						current->op.step ? current->op.step : "undo", rctl_progress_timeout),
				 errhint("replica_ctl.progress_timeout sets how long a step may stand still.")));
	if (TimestampDifferenceExceeds(last_check_lost, now, CHECK_LOST_MS))
	{
		last_check_lost = now;
		if (!current->no_return && !rctl_store_lost() && rctl_store_check_lost())
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("extension replica_ctl was dropped while the operation ran")));
	}
}

void
rctl_op_alive(RctlOp *op)
{
	last_progress = GetCurrentTimestamp();
}

void
rctl_op_progress(RctlOp *op, const char *phase, uint64 bytes_done, uint64 bytes_total)
{
	RctlBoardEntry before;

	if (op->dry_run)
		return;
	rctl_board_self(&before);

	/* The board has as much of it as there is room for. */
	if (strncmp(before.phase, phase, RCTL_PHASE_LEN - 1) != 0 ||
		before.bytes_done != bytes_done || before.bytes_total != bytes_total)
		rctl_op_alive(op);
	rctl_board_progress(phase, bytes_done, bytes_total);
}

/* ---------------------------------------------------------------------
 * Services to steps
 * ---------------------------------------------------------------------
 */

void
rctl_op_begin(RctlOp *op)
{
	rctl_store_begin_elsewhere();
}

void
rctl_op_commit(RctlOp *op)
{
	rctl_store_commit();
}

void
rctl_op_save(RctlOp *op)
{
	if (op->dry_run || rctl_store_lost())
		return;
	rctl_store_begin();
	rctl_store_save(current);
	rctl_store_commit();
}

void
rctl_op_cleanup_add(RctlOp *op, const char *type, const RctlMap *object, bool always)
{
	MemoryContext old = CurrentMemoryContext;
	RctlCleanup *record;
	int64		id;

	if (op->dry_run)
		elog(ERROR, "a dry run was about to make an object of type \"%s\"", type);
	rctl_store_begin();
	rctl_store_save(current);
	id = rctl_store_cleanup_add(current, type, object, always);
	rctl_store_commit();
	if (id == 0)
		return;

	MemoryContextSwitchTo(op->context);
	record = palloc(sizeof(RctlCleanup));
	record->id = id;
	record->type = pstrdup(type);
	record->object = rctl_map_copy(object);
	made = lcons(record, made);
	MemoryContextSwitchTo(old);
}

/* The record's object is gone. */
static void
forget(const RctlCleanup *record)
{
	ListCell   *lc;

	if (!rctl_store_lost())
	{
		rctl_store_begin();
		rctl_store_cleanup_forget(record->id);
		rctl_store_commit();
	}
	foreach(lc, made)
	{
		if (((RctlCleanup *) lfirst(lc))->id == record->id)
			made = foreach_delete_current(made, lc);
	}
}

void
rctl_op_event(RctlOp *op, const char *severity, const char *kind,
			  const RctlMap *detail, const char *format,...)
{
	char	   *message;
	va_list		args;

	if (op->dry_run)
		return;
	va_start(args, format);
	message = rctl_vpsprintf(format, args);
	va_end(args);

	if (rctl_store_lost())
		return;
	rctl_store_begin();
	rctl_store_event(op->replica->name, op->id, severity, kind, message,
					 detail ? rctl_map_to_json(detail) : NULL, op->requested_by);
	rctl_store_commit();
}

RctlReplica *
rctl_op_replica(RctlOp *op, const char *name)
{
	RctlReplica *replica;

	if (rctl_store_lost())
		return NULL;
	rctl_store_begin();
	replica = rctl_store_replica(name);
	rctl_store_commit();
	return replica;
}

bool
rctl_op_reserve(RctlOp *op, const char *fact, const char *value)
{
	bool		taken;

	rctl_store_begin();
	if (!op->dry_run)
		rctl_store_lock_facts();
	taken = rctl_store_is_taken(fact, value, op->replica->id);
	if (!taken)
		rctl_map_set(op->replica->facts, fact, value);
	if (!taken && !op->dry_run)
		rctl_store_save(current);
	rctl_store_commit();
	return !taken;
}

void
rctl_op_change_places(RctlOp *op, const char *member)
{
	RctlReplica *former;

	if (op->dry_run || member == NULL)
		return;
	rctl_store_begin();
	former = rctl_store_change_places(rctl_map_get(op->replica->facts, "cluster"), member);
	if (former)
	{
		MemoryContext old = MemoryContextSwitchTo(op->context);

		if (former->id == op->replica->id)
		{
			op->replica->facts = rctl_map_copy(former->facts);
			rctl_map_set(op->state, "places_changed", "true");
		}
		MemoryContextSwitchTo(old);
		rctl_store_save(current);
	}
	rctl_store_commit();
}

bool
rctl_op_fact_taken(RctlOp *op, const char *fact, const char *value)
{
	bool		taken;

	rctl_store_begin();
	taken = rctl_store_is_taken(fact, value, op->replica->id);
	rctl_store_commit();
	return taken;
}

void
rctl_op_not_done(RctlOp *op)
{
	if (!op->dry_run)
		not_done = true;
}

bool
rctl_error_is_transient(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
			return true;
		default:
			break;
	}
	switch (sqlerrcode)
	{
		case ERRCODE_TOO_MANY_CONNECTIONS:
		case ERRCODE_CANNOT_CONNECT_NOW:
		case ERRCODE_ADMIN_SHUTDOWN:
		case ERRCODE_CRASH_SHUTDOWN:
		case ERRCODE_OBJECT_IN_USE:
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION:
			return true;
		default:
			return false;
	}
}

/* ---------------------------------------------------------------------
 * Errors
 * ---------------------------------------------------------------------
 */

/* Takes the current error off the stack, with everything that hung on it. */
static RctlError *
catch_error(RctlOpRow *row, int *sqlerrcode)
{
	MemoryContext old = MemoryContextSwitchTo(row->op.context);
	RctlError  *error = palloc0(sizeof(RctlError));
	ErrorData  *edata = CopyErrorData();

	FlushErrorState();
	HOLD_INTERRUPTS();
	LWLockReleaseAll();
	pgstat_report_wait_end();
	AbortOutOfAnyTransaction();
	if (MyReplicationSlot != NULL)
		ReplicationSlotRelease();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(row->op.context);
	MemoryContextReset(row->op.step_context);

	*sqlerrcode = edata->sqlerrcode;
	error->sqlstate = pstrdup(unpack_sql_state(edata->sqlerrcode));
	error->message = edata->message;
	error->detail = edata->detail;
	error->hint = edata->hint;
	MemoryContextSwitchTo(old);
	return error;
}

/* Runs fn in the step's context.  NULL on success, else the error. */
static RctlError *
run_guarded(RctlOpRow *row, void (*fn) (RctlOpRow *row, const void *arg), const void *arg,
			int *sqlerrcode)
{
	MemoryContext old = MemoryContextSwitchTo(row->op.step_context);
	RctlError  *volatile error = NULL;

	last_progress = GetCurrentTimestamp();
	rctl_wait_check = check_wait;
	PG_TRY();
	{
		fn(row, arg);
	}
	PG_CATCH();
	{
		rctl_wait_check = NULL;
		error = catch_error(row, sqlerrcode);
	}
	PG_END_TRY();
	rctl_wait_check = NULL;
	MemoryContextReset(row->op.step_context);
	MemoryContextSwitchTo(old);
	return error;
}

/* Doubles from RETRY_FIRST_MS, with up to a quarter of jitter. */
static long
retry_delay(int attempt)
{
	double		delay = RETRY_FIRST_MS;

	for (int i = 1; i < attempt && delay < RETRY_LAST_MS; i++)
		delay *= 2;
	delay = Min(delay, RETRY_LAST_MS);
	return (long) (delay * (1.0 + 0.25 * pg_prng_double(&pg_global_prng_state)));
}

/* ---------------------------------------------------------------------
 * Ends
 * ---------------------------------------------------------------------
 */

static const char *
object_list(List *records)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, records)
	{
		RctlCleanup *record = lfirst(lc);

		appendStringInfo(&text, "%s%s %s", text.len > 0 ? ", " : "", record->type,
						 rctl_map_to_json(record->object));
	}
	return text.data;
}

static void
end_event(RctlOpRow *row, const char *severity, const char *outcome, const RctlError *error)
{
	RctlMap    *detail = rctl_map_make();
	char	   *trace = rctl_http_take_trace();
	char	   *message;

	/* What was last asked of a service, and what it answered. */
	if (trace)
		rctl_map_set_json(detail, "http", trace);
	if (error)
	{
		rctl_map_set(detail, "sqlstate", error->sqlstate);
		rctl_map_set(detail, "detail", error->detail);
		rctl_map_set(detail, "hint", error->hint);
		message = psprintf("operation " INT64_FORMAT " (%s of replica \"%s\") %s: %s", row->op.id,
						   rctl_op_kind_name(row->op.kind), row->op.replica->name, outcome, error->message);
	}
	else
		message = psprintf("operation " INT64_FORMAT " (%s of replica \"%s\") %s", row->op.id,
						   rctl_op_kind_name(row->op.kind), row->op.replica->name, outcome);
	rctl_store_event(row->op.replica->name, row->op.id, severity,
					 psprintf("%s_%s", rctl_op_kind_name(row->op.kind), outcome),
					 message, rctl_map_to_json(detail), row->op.requested_by);
}

/* The state of the replica after success; NULL: it leaves the registry. */
static const char *
settled_state(RctlOpRow *row)
{
	switch (row->op.kind)
	{
		case RCTL_OP_CREATE:
		case RCTL_OP_ATTACH:
		case RCTL_OP_REPAIR:
			return "streaming";
		case RCTL_OP_DROP:
		case RCTL_OP_DETACH:
			return NULL;
		case RCTL_OP_SWITCHOVER:
			return "streaming";
		case RCTL_OP_PROMOTE:
			if (strcmp(row->op.step, RCTL_ARRIVE_STEP) == 0 || rctl_map_get(row->op.state, "places_changed"))
				return "streaming";
			return "promoted";
		case RCTL_OP_DRILL:
		case RCTL_OP_CHANGE:
			break;
	}
	return row->previous_state;
}

static void
succeed(RctlOpRow *row)
{
	rctl_store_begin();
	rctl_store_end(row, RCTL_EVENT_FINISH, NULL, settled_state(row), NULL);
	end_event(row, "info", "succeeded", NULL);
	rctl_store_commit();
}

/* What a person can do, where the error itself does not say. */
static char *
what_to_do(const RctlOpRow *row)
{
	const char *name = quote_literal_cstr(row->op.replica->name);

	if (row->no_return && (row->op.kind == RCTL_OP_PROMOTE || row->op.kind == RCTL_OP_SWITCHOVER))
		return psprintf("See whether replica \"%s\" is still in recovery. If so, SELECT replica_unfence() lets this"
						" server take writes again, and SELECT replica_repair(%s) brings the replica back;"
						" if not, it is the primary, and this server must stay as it is.",
						row->op.replica->name, name);
	if (row->op.kind == RCTL_OP_PROMOTE || row->op.kind == RCTL_OP_SWITCHOVER)
		return psprintf("When the cause is gone, run SELECT replica_drop(%s): it takes back what is left, and removes the replica.",
						name);
	return psprintf("When the cause is gone, run SELECT %s(%s).",
					row->op.kind == RCTL_OP_DROP || !row->no_return ? "replica_drop" : "replica_repair", name);
}

/* Nobody can go on without a person: say what is left and what to do. */
static void
park(RctlOpRow *row, RctlError *error, List *left)
{
	bool		halfway = row->no_return || row->previous_state == NULL;

	if (left != NIL)
		error->detail = psprintf("%s%sNot removed: %s.", error->detail ? error->detail : "",
								 error->detail ? "\n" : "", object_list(left));
	if (error->hint == NULL || left != NIL)
		error->hint = what_to_do(row);
	rctl_fence_abandon(row->op.id);
	rctl_store_begin();
	rctl_store_end(row, RCTL_EVENT_PARK, error,
				   halfway ? "failed" : row->previous_state, error->message);
	end_event(row, "error", "needs_attention", error);
	rctl_store_commit();
}

/* Everything that was made is gone. */
static void
end_undone(RctlOpRow *row, RctlError *error)
{
	bool		cancelled = row->cancel_requested;

	rctl_store_begin();
	if (row->previous_state == NULL)
	{
		row->op.replica->facts = rctl_map_make();
		rctl_store_end(row, cancelled ? RCTL_EVENT_CANCELLED : RCTL_EVENT_UNDONE, error,
					   cancelled ? NULL : "failed", error->message);
	}
	else
		rctl_store_end(row, cancelled ? RCTL_EVENT_CANCELLED : RCTL_EVENT_UNDONE, error,
					   row->previous_state, NULL);
	end_event(row, cancelled ? "warning" : "error", cancelled ? "cancelled" : "failed", error);
	rctl_store_commit();
}

/* ---------------------------------------------------------------------
 * Backward
 * ---------------------------------------------------------------------
 */

/* Fences are the core's own; everything else is of the provider's making. */
static void
remove_object(RctlOp *op, const RctlCleanup *record)
{
	if (strcmp(record->type, RCTL_FENCE_RECORD) == 0)
		(void) rctl_fence_lift(op->id);
	else if (strcmp(record->type, RCTL_SOURCE_RECORD) == 0)
		rctl_source_undo(op, record);
	else if (rctl_rejoin_is_record(record))
		rctl_rejoin_undo(op, record);
	else
		op->replica->provider->cleanup(op, record);
}

static void
handle_record(RctlOpRow *row, const void *arg)
{
	const RctlCleanup *record = arg;

	rctl_op_progress(&row->op, psprintf("removing %s", record->type), 0, 0);
	rctl_fault(&row->op, "undo", record->type, "before");
	remove_object(&row->op, record);
	rctl_fault(&row->op, "undo", record->type, "after");
}

/* Handles records, latest first; returns those that could not be, and the first error. */
static List *
handle_records(RctlOpRow *row, List *records, RctlError **first_error, bool *transient)
{
	List	   *left = NIL;
	ListCell   *lc;

	*first_error = NULL;
	*transient = true;
	foreach(lc, records)
	{
		RctlCleanup *record = lfirst(lc);
		int			sqlerrcode;
		RctlError  *error = run_guarded(row, handle_record, record, &sqlerrcode);

		if (error)
		{
			left = lappend(left, record);
			if (*first_error == NULL)
				*first_error = error;
			*transient &= rctl_error_is_transient(sqlerrcode);
			continue;
		}
		forget(record);
	}
	return left;
}

void
rctl_op_cleanup_run(RctlOp *op, const char *type)
{
	List	   *records;
	RctlCleanup *record;

	rctl_store_begin();
	records = rctl_store_cleanups(current, type, false);
	rctl_store_commit();
	if (records == NIL)
		return;
	record = linitial(records);
	remove_object(op, record);
	forget(record);
}

static void
undo(RctlOpRow *row)
{
	RctlError  *cause = palloc0(sizeof(RctlError));
	RctlError  *trouble = NULL;
	List	   *left;
	bool		transient = true;
	bool		interrupted = row->op.attempt > rctl_step_retries;

	cause->sqlstate = row->sqlstate;
	cause->message = row->message;
	cause->detail = row->detail;
	cause->hint = row->hint;

	rctl_store_begin();
	rctl_store_undo_attempt(row);
	left = rctl_store_cleanups(row, NULL, false);
	rctl_store_commit();

	/* Neither must an undo crash this server for ever. */
	if (!interrupted)
		left = handle_records(row, left, &trouble, &transient);

	if (left == NIL)
		end_undone(row, cause);
	else if (transient && !interrupted && row->op.attempt <= rctl_step_retries)
	{
		rctl_store_begin();
		rctl_store_retry(row, cause, retry_delay(row->op.attempt));
		rctl_store_commit();
	}
	else
	{
		const char *why = trouble ? trouble->message :
		psprintf("it was interrupted %d times", row->op.attempt - 1);

		cause->detail = psprintf("%s%sUndo failed: %s.%s%s", cause->detail ? cause->detail : "",
								 cause->detail ? "\n" : "", why,
								 trouble && trouble->detail ? " " : "",
								 trouble && trouble->detail ? trouble->detail : "");
		park(row, cause, left);
	}
}

void
rctl_engine_abandon(void)
{
	List	   *left = NIL;
	RctlError  *trouble;
	bool		transient;

	if (current == NULL)
		return;
	if (!current->no_return)
	{
		current->undoing = true;
		left = handle_records(current, list_copy(made), &trouble, &transient);
	}
	rctl_fence_abandon(current->op.id);
	ereport(LOG,
			(errmsg("operation " INT64_FORMAT " (%s of replica \"%s\") ended: extension replica_ctl was dropped",
					current->op.id, rctl_op_kind_name(current->op.kind), current->op.replica->name),
			 left != NIL ? errdetail("Not removed: %s.", object_list(left)) : 0));
}

/* ---------------------------------------------------------------------
 * Forward
 * ---------------------------------------------------------------------
 */

static void
run_step(RctlOpRow *row, const void *arg)
{
	const RctlStep *step = arg;

	not_done = false;
	rctl_fault(&row->op, rctl_op_kind_name(row->op.kind), step->name, "before");
	step->run(&row->op);
	rctl_fault(&row->op, rctl_op_kind_name(row->op.kind), step->name, "after");
}

/* The operation goes backward from now on. */
static void
turn_back(RctlOpRow *row, const RctlError *error)
{
	rctl_store_undoing(row, error);
	row->sqlstate = error->sqlstate;
	row->message = error->message;
	row->detail = error->detail;
	row->hint = error->hint;
}

/*
 * From where there is no way back, more is worth waiting for: an answer that
 * did not come in time, room on a disk, a login that is put right.
 */
static bool
may_pass(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_QUERY_CANCELED || sqlerrcode == ERRCODE_DISK_FULL ||
		ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
}

/* Decides what an error of the running step means; true: the operation goes backward now. */
static bool
step_failed(RctlOpRow *row, const RctlStep *step, RctlError *error, int sqlerrcode)
{
	bool		cancelled = cancel_pending(row);
	bool		retry;
	bool		transient = rctl_error_is_transient(sqlerrcode) || (row->no_return && may_pass(sqlerrcode));

	retry = transient && !cancelled && !step->once && row->op.attempt <= rctl_step_retries;

	if (not_done && step->point_of_no_return)
	{
		row->no_return = false;
		retry = false;
	}
	rctl_store_begin();
	rctl_store_step_failed(row);
	if (retry)
		rctl_store_retry(row, error, retry_delay(row->op.attempt));
	else if (!row->no_return)
		turn_back(row, error);
	rctl_store_commit();
	if (!retry && row->no_return)
		park(row, error, NIL);
	return row->undoing;
}

/*
 * The last moment at which a cancel can be obeyed is right before a step's
 * start is committed: that step may be one from which there is no way back.
 */
static bool
cancel_between_steps(RctlOpRow *row, const char *done)
{
	RctlError	error = {0};

	if (!cancel_pending(row))
		return false;
	error.sqlstate = pstrdup(unpack_sql_state(ERRCODE_QUERY_CANCELED));
	error.message = pstrdup("the operation was cancelled");
	rctl_store_begin();
	if (done)
		rctl_store_step_done(row, done);
	turn_back(row, &error);
	rctl_store_commit();
	return true;
}

/* A step that never gets to an outcome must not crash this server for ever. */
static RctlError *
too_many_crashes(RctlOpRow *row)
{
	RctlError  *error;

	if (row->op.step == NULL || row->op.attempt <= rctl_step_retries)
		return NULL;
	error = palloc0(sizeof(RctlError));
	error->sqlstate = pstrdup(unpack_sql_state(ERRCODE_OPERATOR_INTERVENTION));
	error->message = psprintf("step \"%s\" was interrupted %d times", row->op.step, row->op.attempt);
	error->hint = pstrdup("Look for a crash in the server log.");
	return error;
}

/* Runs the steps from the recorded one on; true: the operation goes backward now. */
static bool
forward(RctlOpRow *row, const RctlPlan *plan)
{
	const char *done = NULL;
	int			first = row->op.step ? rctl_plan_find(plan, row->op.step) : 0;
	RctlError  *error = too_many_crashes(row);
	int			sqlerrcode = 0;

	if (first < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("operation " INT64_FORMAT " is at step \"%s\", which its plan does not have",
						row->op.id, row->op.step)));
	if (error)
		return step_failed(row, &plan->steps[first], error, ERRCODE_OPERATOR_INTERVENTION);

	for (int i = first; i < plan->count; i++)
	{
		const RctlStep *step = &plan->steps[i];
		double		progress = rctl_plan_progress(plan, i);

		if (cancel_between_steps(row, done))
			return true;
		rctl_store_begin();
		rctl_store_step(row, done, step->name, i + 1, step->point_of_no_return, progress);
		if (step->hurried)
			rctl_store_commit_unflushed();
		else
			rctl_store_commit();
		rctl_board_step(progress, rctl_plan_progress(plan, i + 1) - progress);
		pgstat_report_activity(STATE_RUNNING, psprintf("%s of replica \"%s\": %s",
													   rctl_op_kind_name(row->op.kind),
													   row->op.replica->name, step->name));

		error = run_guarded(row, run_step, step, &sqlerrcode);
		if (error)
			return step_failed(row, step, error, sqlerrcode);
		done = step->name;
	}

	rctl_store_begin();
	rctl_store_step_done(row, done);
	rctl_store_commit();
	return false;
}

/* Temporary objects go at the end of a success too; what resists is reported, not fatal. */
static void
remove_temporary(RctlOpRow *row)
{
	List	   *records;
	List	   *left;
	RctlError  *trouble;
	bool		transient;

	row->no_return = true;		/* done is done: no cancel from here */
	rctl_store_begin();
	records = rctl_store_cleanups(row, NULL, true);
	rctl_store_commit();
	left = handle_records(row, records, &trouble, &transient);
	if (left != NIL)
		rctl_op_event(&row->op, "warning", "left_behind", NULL,
					  "could not remove %s: %s", object_list(left), trouble->message);
}

void
rctl_engine_run(int64 operation)
{
	RctlOpRow  *row;
	RctlPlan	plan;
	bool		known;
	bool		back;

	rctl_store_begin();
	row = rctl_store_load(operation);
	rctl_store_commit();
	if (row == NULL)
		return;

	row->op.step_context = AllocSetContextCreate(row->op.context, "replica_ctl step",
												 ALLOCSET_DEFAULT_SIZES);
	plan = rctl_plan(row->op.replica->provider, row->op.kind, row->op.arguments);
	if (plan.steps == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("provider \"%s\" has no steps for \"%s\"",
						row->op.replica->provider->name, rctl_op_kind_name(row->op.kind))));
	rctl_store_begin();
	known = rctl_store_started(row, plan.count);
	if (known)
		made = rctl_store_cleanups(row, NULL, false);
	rctl_store_commit();
	if (!known)
		return;

	current = row;
	back = row->undoing || forward(row, &plan);
	if (back)
		undo(row);
	else if (row->state == RCTL_STATE_RUNNING)
	{
		remove_temporary(row);
		succeed(row);
	}
	current = NULL;

	if (row->state != RCTL_STATE_QUEUED)
		return;

	/* A cancel that came too late for this worker is for the next one. */
	rctl_fault(&row->op, rctl_op_kind_name(row->op.kind), "retry", "after");
	if (!rctl_board_retire())
	{
		rctl_store_begin();
		(void) rctl_store_request_cancel(operation);
		rctl_store_commit();
	}
}
