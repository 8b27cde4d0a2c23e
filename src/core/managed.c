/*-------------------------------------------------------------------------
 *
 * managed.c
 *	  Promotions that a service makes, with the guarantees of our own.
 *
 * The same order as in promotion.c: look, wait until little is left, stop
 * writes on the source, wait until the replica has everything, and only then
 * have it promoted.  What is before that is bounded by the call's time-out and
 * taken back if it fails; the provider (RctlProvider.managed) knows the
 * service, source_fence.c the source.
 *
 * Lag 0 is proven for a mark (RctlSourceMark), and the mark is proven to be
 * the end: when the replica has it, the source is looked at again, and if
 * somebody may have written there is a new mark, and the wait goes on.
 *
 * Durable in op->state: the deadline, the times for the event, the mark, the
 * receipt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "core/managed.h"
#include "core/preflight.h"
#include "core/promotion.h"
#include "core/source_fence.h"
#include "core/timing.h"
#include "net/pgconn.h"
#include "net/wait.h"
#include "primary/slots.h"

#define QUERY_TIMEOUT_MS 10000
#define CAUGHT_UP_POLL_MS 10
#define VERIFY_POLL_MS 100
#define WARM_POLL_MS 200
#define CHECKPOINT_POLL_MS 5
#define WARM_LAG_BYTES (16 * 1024 * 1024)

/* How often a source elsewhere is asked to take writes again after the promotion. */
#define RELEASE_ATTEMPTS 3

static const RctlManagedPromotion *
managed_of(RctlOp *op)
{
	return op->replica->provider->managed;
}

bool
rctl_managed_source_follows(const RctlReplica *replica)
{
	const RctlManagedPromotion *managed = replica->provider->managed;

	return managed->source_follows != NULL && managed->source_follows(replica);
}

/* ---------------------------------------------------------------------
 * Errors that are only noted
 * ---------------------------------------------------------------------
 */

typedef void (*Attempt) (RctlOp *op, void *arg);

/*
 * Runs fn; NULL, or the error that it raised.  A cancel is raised on.  Only
 * for what talks to other servers, outside of transactions.
 */
static ErrorData *
attempt(RctlOp *op, Attempt fn, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		fn(op, arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return error;
}

/* ---------------------------------------------------------------------
 * The replica by SQL
 * ---------------------------------------------------------------------
 */

static XLogRecPtr
parse_lsn(const char *text)
{
	return text ? DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text))) : InvalidXLogRecPtr;
}

static char *
ask_replica(RctlOp *op, const char *sql)
{
	return rctl_pg_value(rctl_promotion_conn(op), QUERY_TIMEOUT_MS, sql, 0, NULL);
}

static void
read_replayed(RctlOp *op, void *arg)
{
	*(XLogRecPtr *) arg = parse_lsn(ask_replica(op, "SELECT pg_last_wal_replay_lsn()"));
}

RctlCaughtUp
rctl_managed_replayed(RctlOp *op, const RctlSourceMark *mark, char **progress)
{
	XLogRecPtr	replayed = InvalidXLogRecPtr;
	ErrorData  *error;

	if (mark->lsn == InvalidXLogRecPtr || op->replica->provider->connect == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("whether replica \"%s\" has everything cannot be known", op->replica->name),
				 errdetail("There is no position on the source to compare with."),
				 errhint("Set server option source_conninfo, or promote with mode => 'forced'.")));
	error = attempt(op, read_replayed, &replayed);
	if (error != NULL)
	{
		if (!rctl_error_is_transient(error->sqlerrcode))
			ReThrowError(error);
		*progress = psprintf("the replica does not answer: %s", error->message);
		return RCTL_CAUGHT_UP_UNKNOWN;
	}
	if (replayed >= mark->lsn)
		return RCTL_CAUGHT_UP_YES;
	*progress = psprintf("replaying, " UINT64_FORMAT " kB left", (mark->lsn - replayed) / 1024 + 1);
	return RCTL_CAUGHT_UP_NOT_YET;
}

static void
read_lag(RctlOp *op, void *arg)
{
	RctlManagedLag *lag = arg;
	XLogRecPtr	theirs;
	XLogRecPtr	ours;

	read_replayed(op, &theirs);
	ours = rctl_source_flushed(op);
	lag->bytes = ours > theirs ? ours - theirs : 0;
	lag->bytes_known = theirs != InvalidXLogRecPtr;
	lag->source = "SQL";
}

bool
rctl_managed_lag(RctlOp *op, RctlManagedLag *lag)
{
	ErrorData  *error;

	memset(lag, 0, sizeof(*lag));
	if (managed_of(op)->lag)
		return managed_of(op)->lag(op, lag);
	if (op->replica->provider->connect == NULL || !rctl_source_reachable(op))
		return false;
	error = attempt(op, read_lag, lag);
	if (error != NULL && !rctl_error_is_transient(error->sqlerrcode))
		ReThrowError(error);
	return lag->bytes_known;
}

/* What a look at the promoted replica has shown. */
typedef struct Look
{
	bool		in_recovery;
	XLogRecPtr	lsn;
	char	   *timeline;
} Look;

static void
look_at_promoted(RctlOp *op, void *arg)
{
	Look	   *look = arg;
	char	   *in_recovery = ask_replica(op, "SELECT pg_is_in_recovery()");

	look->in_recovery = in_recovery && in_recovery[0] == 't';
	if (look->in_recovery)
		return;
	look->lsn = parse_lsn(ask_replica(op, "SELECT pg_current_wal_flush_lsn()"));
	look->timeline = ask_replica(op, "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int");
}

bool
rctl_managed_verify_sql(RctlOp *op, long timeout_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	RctlSourceMark mark;
	Look		look;
	ErrorData  *error;

	for (;;)
	{
		memset(&look, 0, sizeof(look));
		error = attempt(op, look_at_promoted, &look);
		if (error == NULL && !look.in_recovery)
			break;
		if (GetCurrentTimestamp() >= until)
			break;
		rctl_op_progress(op, error ? "waiting until the promoted replica can be reached"
						 : "waiting until the promoted replica accepts writes", 0, 0);
		rctl_sleep(VERIFY_POLL_MS);
	}
	if (error)
	{
		rctl_op_event(op, "warning", "unverified", NULL,
					  "replica \"%s\" was promoted, but could not be asked: %s", op->replica->name, error->message);
		return false;
	}
	rctl_source_mark(op, &mark);
	if (look.in_recovery || look.lsn < mark.lsn)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 look.in_recovery
				 ? errmsg("promoted replica \"%s\" is still in recovery", op->replica->name)
				 : errmsg("promoted replica \"%s\" is at %X/%X", op->replica->name, LSN_FORMAT_ARGS(look.lsn)),
				 errdetail("It should take writes, past %X/%X.", LSN_FORMAT_ARGS(mark.lsn)),
				 errhint("Compare the two servers before you let either take writes.")));
	rctl_map_set(op->replica->facts, "timeline", look.timeline);
	return true;
}

/* ---------------------------------------------------------------------
 * Before the promotion
 * ---------------------------------------------------------------------
 */

static void
check(RctlOp *op)
{
	(void) rctl_time_left(op, NULL);
	rctl_preflight_require(op);
}

/*
 * The service shuts this server down behind the fence, which begins with a
 * checkpoint: for what this one writes nobody waits then.
 */
static void
checkpoint_here(RctlOp *op)
{
	XLogRecPtr	now = GetXLogInsertRecPtr();
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), rctl_time_left(op, NULL) / 2);
	bool		done = false;

	RequestCheckpoint(CHECKPOINT_IMMEDIATE | CHECKPOINT_FORCE);
	rctl_op_progress(op, "checkpoint", 0, 0);
	while (!done && GetCurrentTimestamp() < until)
	{
		bool		crc_ok;
		ControlFileData *control = get_controlfile(DataDir, &crc_ok);

		done = crc_ok && control->checkPointCopy.redo >= now;
		pfree(control);
		if (!done)
			rctl_sleep(CHECKPOINT_POLL_MS);
	}
}

/*
 * Only bytes can be waited for: a lag in seconds says on some services how
 * long nothing was written.
 */
static void
warm(RctlOp *op)
{
	const RctlManagedPromotion *managed = managed_of(op);
	RctlManagedLag lag;

	if (op->kind != RCTL_OP_DRILL && rctl_source_fence_kind(op) == RCTL_SOURCE_HERE &&
		managed->service_guards && managed->service_guards(op->replica))
		checkpoint_here(op);

	while (rctl_managed_lag(op, &lag) && lag.bytes_known && lag.bytes > WARM_LAG_BYTES)
	{
		char	   *phase = psprintf("replaying, " UINT64_FORMAT " kB left", lag.bytes / 1024);

		rctl_op_progress(op, phase, 0, 0);
		rctl_sleep(Min(rctl_time_left(op, phase), Max(managed->poll_ms, WARM_POLL_MS)));
	}
}

static void
fence(RctlOp *op)
{
	rctl_source_stop(op);
}

static RctlCaughtUp
caught_up(RctlOp *op, char **progress)
{
	RctlSourceMark mark;

	rctl_source_mark(op, &mark);
	if (managed_of(op)->caught_up)
		return managed_of(op)->caught_up(op, &mark, progress);
	return rctl_managed_replayed(op, &mark, progress);
}

static void
zero_lag(RctlOp *op)
{
	long		poll = managed_of(op)->poll_ms > 0 ? managed_of(op)->poll_ms : CAUGHT_UP_POLL_MS;

	if (rctl_source_fence_kind(op) == RCTL_SOURCE_SERVICE)
		return;
	for (;;)
	{
		char	   *progress = NULL;
		RctlCaughtUp answer = caught_up(op, &progress);

		if (answer == RCTL_CAUGHT_UP_YES)
		{
			if (rctl_source_still(op))
				break;
			/* Somebody wrote meanwhile: there is another mark to reach. */
			(void) rctl_time_left(op, "sessions on the source write again");
			continue;
		}
		if (progress == NULL)
			progress = answer == RCTL_CAUGHT_UP_UNKNOWN ? "there are no data about its lag" : "it is not at lag 0 yet";
		rctl_op_progress(op, progress, 0, 0);
		rctl_sleep(Min(rctl_time_left(op, progress), poll));
	}
	rctl_note_time(op, "zero_lag");
}

/* ---------------------------------------------------------------------
 * The promotion
 * ---------------------------------------------------------------------
 */

static void
promote(RctlOp *op)
{
	managed_of(op)->promote(op);
	rctl_note_time(op, "promoted");
}

void
rctl_managed_require_still(RctlOp *op)
{
	if (rctl_source_fence_kind(op) == RCTL_SOURCE_HERE && !rctl_source_still(op))
		zero_lag(op);
}

static void
promote_planned(RctlOp *op)
{
	promote(op);
	rctl_source_promoted(op);
}

static void
verify(RctlOp *op)
{
	if (managed_of(op)->verify)
		managed_of(op)->verify(op);
}

static void
unlink_promoted(RctlOp *op)
{
	static const char *const told[] = {
		"fence_lsn", "source_lsn", "replica_lsn", "replica_last_commit", "lost_bytes",
		"lag_seconds", "lag_sampled_at", "lag_source",
	};
	RctlReplica *replica = op->replica;
	RctlMap    *detail = rctl_map_make();
	const char *slot;

	/* On the new primary: its row is another one's already, after a crash. */
	if (rctl_map_get(op->state, "places_changed"))
		return;
	if (replica->provider->release)
		replica->provider->release(op);
	slot = rctl_map_get(replica->facts, "slot");
	if (slot && rctl_map_get(replica->facts, "upstream") == NULL)
		rctl_slot_drop(slot);
	rctl_map_set(replica->facts, "slot", NULL);

	rctl_map_set(detail, "mode", rctl_map_get(op->arguments, "mode"));
	rctl_map_set(detail, "timeline", rctl_map_get(replica->facts, "timeline"));
	for (int i = 0; i < lengthof(told); i++)
		rctl_map_set(detail, told[i], rctl_map_get(op->state, told[i]));
	rctl_set_elapsed(op, detail, "fence_ms", "fence_began", "fenced");
	rctl_set_elapsed(op, detail, "zero_lag_ms", "fenced", "zero_lag");
	rctl_set_elapsed(op, detail, "promote_ms", "zero_lag", "promoted");
	rctl_set_elapsed(op, detail, "writes_stopped_ms", "fence_began", "promoted");
	if (managed_of(op)->note)
		managed_of(op)->note(op, detail);
	if (rctl_map_get(op->state, RCTL_HANDED_OVER) == NULL)
	{
		rctl_op_event(op, "info", "promoted", detail,
					  "Promoted read replica \"%s\" to stand-alone primary", replica->name);
		return;
	}
	rctl_op_event(op, "info", "promoted", detail,
				  "Promoted read replica \"%s\" to primary of its cluster", replica->name);
	rctl_op_change_places(op, rctl_map_get(replica->facts, "application_name"));
}

static void
release_source(RctlOp *op, void *arg)
{
	rctl_source_release(op);
}

/*
 * Lets the source take writes again.  One elsewhere that cannot be asked does
 * not make a failure of a promotion that has succeeded.
 */
static void
let_go(RctlOp *op)
{
	ErrorData  *error = attempt(op, release_source, NULL);
	RctlMap    *detail;

	if (error == NULL)
		return;
	if (rctl_error_is_transient(error->sqlerrcode) && op->attempt < RELEASE_ATTEMPTS)
		ReThrowError(error);
	detail = rctl_map_make();
	rctl_map_set(detail, "detail", error->detail);
	rctl_op_event(op, "warning", "source_read_only", detail,
				  "the source of replica \"%s\" is still read-only: %s", op->replica->name, error->message);
}

static void
after(RctlOp *op)
{
	const char *source_after = rctl_map_get_default(op->arguments, "source_after", "read_only");

	if (rctl_managed_source_follows(op->replica))
		source_after = "standby";
	if (strcmp(source_after, "read_write") == 0)
		let_go(op);
	if (managed_of(op)->after)
		managed_of(op)->after(op, source_after);
}

/* ---------------------------------------------------------------------
 * Forced
 * ---------------------------------------------------------------------
 */

static void
note_replica(RctlOp *op, void *arg)
{
	RctlMap    *receipt = arg;
	char	   *in_recovery = ask_replica(op, "SELECT pg_is_in_recovery()");

	if (in_recovery && in_recovery[0] == 't')
	{
		rctl_map_set(receipt, "replica_lsn",
					 ask_replica(op, "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"));
		rctl_map_set(receipt, "replica_last_commit", ask_replica(op, "SELECT pg_last_xact_replay_timestamp()"));
	}
}

static void
note_source(RctlOp *op, void *arg)
{
	XLogRecPtr	lsn = rctl_source_flushed(op);

	if (lsn != InvalidXLogRecPtr)
		rctl_map_setf(arg, "source_lsn", "%X/%X", LSN_FORMAT_ARGS(lsn));
}

static void
note_service(RctlOp *op, void *arg)
{
	managed_of(op)->receipt(op, arg);
}

/* What may be lost, as far as anybody can tell before it is. */
static void
take_receipt(RctlOp *op)
{
	RctlMap    *receipt = rctl_map_make();
	XLogRecPtr	ours;
	XLogRecPtr	theirs;
	ListCell   *lc;

	if (op->replica->provider->connect)
		(void) attempt(op, note_replica, receipt);
	(void) attempt(op, note_source, receipt);
	theirs = parse_lsn(rctl_map_get(receipt, "replica_lsn"));
	ours = parse_lsn(rctl_map_get(receipt, "source_lsn"));
	if (ours != InvalidXLogRecPtr && theirs != InvalidXLogRecPtr)
		rctl_map_setf(receipt, "lost_bytes", UINT64_FORMAT, ours > theirs ? ours - theirs : 0);
	if (managed_of(op)->receipt)
		(void) attempt(op, note_service, receipt);
	foreach(lc, receipt->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);

		rctl_map_set(op->state, entry->key, entry->value);
	}
}

/* ---------------------------------------------------------------------
 * Drill
 * ---------------------------------------------------------------------
 */

static void
lift(RctlOp *op)
{
	rctl_source_release(op);
	rctl_note_time(op, "lifted");
}

const RctlStep rctl_managed_promotion_steps[] = {
	{"check", check, "check that the replica can take over", .once = true},
	{"warm", warm, "wait until little is left to replay", .once = true},
	{"fence", fence, "stop writes on the source", .once = true},
	{"zero_lag", zero_lag, "wait until data show that the replica has everything", .once = true},
	{"promote", promote_planned, "have the service promote the replica", true},
	{"verify", verify, "check that it is a primary and has everything", true},
	{"unlink", unlink_promoted, "forget the link to the source and write the event", true},
	{"after", after, "leave the source as was asked", true},
	{0}
};

const RctlStep rctl_managed_forced_steps[] = {
	{"receipt", take_receipt, "note what the replica has and what it lacks"},
	{"promote", promote, "have the service promote the replica", true},
	{"verify", verify, "check that it is a primary", true},
	{"unlink", unlink_promoted, "forget the link to the source and write the event", true},
	{0}
};

const RctlStep rctl_managed_drill_steps[] = {
	{"check", check, "check that the replica could take over", .once = true},
	{"warm", warm, "wait until little is left to replay", .once = true},
	{"fence", fence, "stop writes on the source", .once = true},
	{"zero_lag", zero_lag, "wait until data show that the replica has everything", .once = true},
	{"lift", lift, "let writes go on", .once = true},
	{"report", rctl_drill_report, "write the event with the times"},
	{0}
};
