/*-------------------------------------------------------------------------
 *
 * promotion.c
 *	  Steps that make a replica a primary, or let it go.
 *
 * Planned: look, wait until little is left to replay, fence, wait until the
 * replica has replayed all that can have been acknowledged, and only then
 * promote.  Up to that point the fence's cleanup record takes everything
 * back.  From the promotion on there are two servers that hold the same data,
 * and this one stays fenced until the plan says otherwise.
 *
 * What a session could lose is bounded by one LSN: the one that
 * rctl_fence_raise() returns.  WAL that this server writes later (checkpoints,
 * our own bookkeeping) is nobody's data.
 *
 * All of it goes over libpq and this server's own catalogs, so that it is the
 * same for every provider whose replicas can be reached.  One connection to
 * the replica serves all steps of a worker: making one while writes stand
 * still would cost as much as the promotion.
 *
 * Durable in op->state: the deadline, the fence's LSN, the times for the
 * event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "core/board.h"
#include "core/preflight.h"
#include "core/promotion.h"
#include "core/rejoin.h"
#include "core/store.h"
#include "core/timing.h"
#include "net/pgconn.h"
#include "net/wait.h"
#include "primary/fence.h"
#include "primary/segment.h"
#include "primary/slots.h"

#define CONNECT_TIMEOUT_MS 10000
#define QUERY_TIMEOUT_MS 10000

/* pg_promote(true) and pg_ctl look every 100 ms; the server is writable sooner. */
#define PROMOTE_POLL_MS 1
#define REPLAY_POLL_MS 1
#define REPORT_MS 1000

/* Writes are stopped only when less than this is left to replay. */
#define WARM_LAG_BYTES (16 * 1024 * 1024)
#define FILL_PAUSE_MS 2

/* How long to wait for the end of a segment, which only makes the promotion faster. */
#define SEGMENT_END_MS 200

/* How long a login there waits for the promotion: clients have time-outs of their own. */
#define HOLD_LOGINS_MS 1000

/* ---------------------------------------------------------------------
 * The replica
 * ---------------------------------------------------------------------
 */

static PGconn *
connect_within(RctlOp *op, long timeout_ms)
{
	static PGconn *conn = NULL;
	static int64 operation = 0;
	MemoryContext old;

	/* A session looks once; it has no operation, nor a context that lasts. */
	if (op->dry_run)
		return op->replica->provider->connect(op, op->replica, timeout_ms);
	if (operation != op->id || !rctl_pg_usable(conn))
	{
		old = MemoryContextSwitchTo(op->context);
		conn = NULL;
		conn = op->replica->provider->connect(op, op->replica, timeout_ms);
		operation = op->id;
		MemoryContextSwitchTo(old);
	}
	return conn;
}

/* The worker's connection to its operation's replica, in op->context. */
PGconn *
rctl_promotion_conn(RctlOp *op)
{
	return connect_within(op, CONNECT_TIMEOUT_MS);
}

static char *
ask(PGconn *conn, const char *sql)
{
	return rctl_pg_value(conn, QUERY_TIMEOUT_MS, sql, 0, NULL);
}

static bool
ask_bool(PGconn *conn, const char *sql)
{
	char	   *value = ask(conn, sql);

	return value && value[0] == 't';
}

static XLogRecPtr
parse_lsn(const char *text)
{
	return text ? DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text))) : InvalidXLogRecPtr;
}

static XLogRecPtr
ask_lsn(PGconn *conn, const char *sql)
{
	return parse_lsn(ask(conn, sql));
}

/*
 * The timeline that a server writes, NULL while it is in recovery; pg_control
 * knows it only after a checkpoint.
 */
static char *
ask_timeline(PGconn *conn)
{
	return ask(conn, "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
			   " WHERE NOT pg_is_in_recovery()");
}

static char *
lsn_text(XLogRecPtr lsn)
{
	return psprintf("%X/%X", LSN_FORMAT_ARGS(lsn));
}

/* ---------------------------------------------------------------------
 * Before the fence
 * ---------------------------------------------------------------------
 */

/*
 * What the replica has replayed, asked while there is a way back: a network
 * that is gone must not keep writes waiting after the call's time-out.  In
 * whole seconds, for each other time-out is one more round trip.
 */
static XLogRecPtr
ask_replayed(RctlOp *op, PGconn *conn)
{
	long		timeout_ms = Min(QUERY_TIMEOUT_MS, (rctl_time_left(op, NULL) / 1000 + 1) * 1000);

	return parse_lsn(rctl_pg_value(conn, timeout_ms, "SELECT pg_last_wal_replay_lsn()", 0, NULL));
}

/* Refuses what cannot work before anything is touched. */
static void
check(RctlOp *op)
{
	(void) rctl_time_left(op, NULL);
	rctl_preflight_require(op);
}

/* Waits until less than this is left to replay. */
static void
wait_for_lag_below(RctlOp *op, uint64 limit, long poll_ms)
{
	PGconn	   *conn = connect_within(op, Min(CONNECT_TIMEOUT_MS, rctl_time_left(op, NULL)));

	for (;;)
	{
		XLogRecPtr	ours = GetFlushRecPtr(NULL);
		XLogRecPtr	theirs = ask_replayed(op, conn);
		uint64		lag = ours > theirs ? ours - theirs : 0;

		if (lag < limit)
			break;
		rctl_op_progress(op, psprintf("replaying, " UINT64_FORMAT " kB left", lag / 1024), 0, 0);
		rctl_sleep(Min(rctl_time_left(op, NULL), poll_ms));
	}
}

/*
 * Whether logins can be held there (primary/lobby.c).  Where our library is
 * not loaded, or our role may not, clients that come too early try again.
 */
static bool
can_hold_logins(PGconn *conn)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool can = false;

	PG_TRY();
	{
		can = ask_bool(conn, "SELECT replica_ctl.hold_logins(0)");
	}
	PG_CATCH();
	{
		if (!rctl_pg_usable(conn))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return can;
}

/*
 * Waits until so little is left to replay that the fence will be short, and
 * leaves little of the WAL segment, so that the promotion will be.
 */
static void
warm(RctlOp *op)
{
	wait_for_lag_below(op, WARM_LAG_BYTES, 100);
	if (op->kind == RCTL_OP_DRILL)
		return;
	rctl_map_set(op->state, "holds_logins", can_hold_logins(rctl_promotion_conn(op)) ? "true" : NULL);
	while (!rctl_segment_fill())
	{
		/* Not faster than it is replayed, and with pauses for the others. */
		rctl_sleep(Min(rctl_time_left(op, NULL), FILL_PAUSE_MS));
		wait_for_lag_below(op, WARM_LAG_BYTES / 4, 10);
	}
}

/* ---------------------------------------------------------------------
 * Behind the fence
 * ---------------------------------------------------------------------
 */

static void
fence(RctlOp *op)
{
	RctlMap    *object = rctl_map_make();
	RctlFenceRequest request = {
		.operation = op->id,
		.reason = psprintf("%s of replica \"%s\"",
						   op->kind == RCTL_OP_DRILL ? "drill" : "planned promotion", op->replica->name),
		.drain_ms = rctl_argument_ms(op, "drain_ms", "1000"),
		.timeout_ms = rctl_time_left(op, NULL),
	};
	RctlFenceState state;
	XLogRecPtr	lsn;

	(void) rctl_promotion_conn(op);
	rctl_map_setf(object, "operation", INT64_FORMAT, op->id);
	rctl_op_cleanup_add(op, RCTL_FENCE_RECORD, object, op->kind == RCTL_OP_DRILL);

	lsn = rctl_fence_raise(&request);
	rctl_note_time(op, "fenced");
	rctl_fence_get(&state);
	rctl_map_setf(op->state, "fence_began", INT64_FORMAT, (int64) state.since);
	rctl_map_set(op->state, "fence_lsn", lsn_text(lsn));
}

/* Until the replica has replayed, not only received, everything up to the fence. */
static void
zero_lag(RctlOp *op)
{
	PGconn	   *conn = rctl_promotion_conn(op);
	XLogRecPtr	target = parse_lsn(rctl_map_get(op->state, "fence_lsn"));

	while (ask_replayed(op, conn) < target)
		rctl_sleep(Min(rctl_time_left(op, NULL), REPLAY_POLL_MS));
	rctl_note_time(op, "zero_lag");
}

static void
lift(RctlOp *op)
{
	rctl_op_cleanup_run(op, RCTL_FENCE_RECORD);
	rctl_note_time(op, "lifted");
}

/* ---------------------------------------------------------------------
 * Promotion
 * ---------------------------------------------------------------------
 */

/*
 * The replica may have been killed at any moment of this.  One that went down
 * as a standby comes up as one and is asked again; one that had already
 * switched comes up as a primary.
 */
static PGconn *
conn_of_promoted(RctlOp *op)
{
	if (op->attempt > 1 && op->replica->provider->start)
		op->replica->provider->start(op, op->replica);
	return rctl_promotion_conn(op);
}

static void
wait_for_promotion(RctlOp *op, PGconn *conn)
{
	char	   *timeline;
	int			waited = 0;

	while ((timeline = ask_timeline(conn)) == NULL)
	{
		rctl_sleep(PROMOTE_POLL_MS);
		waited += PROMOTE_POLL_MS;
		if (waited % REPORT_MS == 0)
			rctl_op_progress(op, psprintf("promoting, %d s", waited / 1000), 0, 0);
	}
	rctl_note_time(op, "promoted");
	rctl_map_set(op->state, "timeline", timeline);
}

static void
promote(RctlOp *op)
{
	PGconn	   *conn = conn_of_promoted(op);

	if (ask_bool(conn, "SELECT pg_is_in_recovery()"))
		(void) ask(conn, "SELECT pg_promote(false)");
	wait_for_promotion(op, conn);
}

/*
 * Ends the sessions that clients had here before the given time, but for those
 * that watch this operation.  Later ones know that this server is read-only;
 * many are just being made by clients that look for the primary.
 */
static void
end_sessions(RctlOp *op, TimestampTz before)
{
	char	   *sql = psprintf("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_get_activity(NULL)"
							   " WHERE backend_type = 'client backend' AND pid <> ALL ('{%s}'::int[])"
							   " AND backend_start <= '%s'::timestamptz",
							   rctl_board_watchers(rctl_map_get(op->arguments, "session")),
							   timestamptz_to_str(before));

	rctl_op_begin(op);
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not end sessions");
	rctl_op_commit(op);
}

static char *
endpoint(RctlReplica *replica)
{
	const char *host = rctl_map_get(replica->facts, "host");
	const char *port = rctl_map_get(replica->facts, "port");

	return host && port ? psprintf("%s:%s", host, port) : pstrdup("");
}

/*
 * A promotion removes standby.signal a moment before it writes the first
 * record of the new timeline.  A replica that is killed in between comes up
 * by crash recovery: as a primary that has everything, but on the timeline
 * that it shares with this server.
 */
static void
refuse_shared_timeline(RctlOp *op, XLogRecPtr now)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("replica \"%s\" takes writes, but on timeline %u, that of this server",
					op->replica->name, GetWALInsertionTimeLine()),
			 errdetail("It has everything, up to %X/%X. It was killed while it was being promoted, and came up"
					   " by crash recovery.", LSN_FORMAT_ARGS(now)),
			 errhint("This server stays fenced: leave it so. Give the replica a timeline of its own, as docs/promotion.md says,"
					 " then run SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
}

/* The promoted replica is on a timeline of its own and has all that it must have. */
static void
verify(RctlOp *op)
{
	PGconn	   *conn = conn_of_promoted(op);
	char	   *timeline = ask_timeline(conn);
	XLogRecPtr	now = ask_lsn(conn, "SELECT pg_current_wal_flush_lsn()");
	const char *fenced = rctl_map_get(op->state, "fence_lsn");
	XLogRecPtr	least = parse_lsn(fenced ? fenced : rctl_map_get(op->state, "replica_lsn"));

	if (timeline && now >= least && strtoul(timeline, NULL, 10) == GetWALInsertionTimeLine())
		refuse_shared_timeline(op, now);
	if (now < least || timeline == NULL || strtoul(timeline, NULL, 10) <= GetWALInsertionTimeLine())
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("promoted replica \"%s\" is at %X/%X on timeline %s", op->replica->name,
						LSN_FORMAT_ARGS(now), timeline ? timeline : "?"),
				 errdetail("It should be past %X/%X, on a timeline after %u.",
						   LSN_FORMAT_ARGS(least), GetWALInsertionTimeLine()),
				 errhint("Compare the two servers before you let either take writes.")));
	rctl_map_set(op->state, "timeline", timeline);
	rctl_map_set(op->replica->facts, "timeline", timeline);
}

/*
 * Makes durable that there is no way back, and lets this server's WAL end with
 * a segment.  The replica has all that it must have: if it is slow to get
 * there, it is promoted in mid-segment.
 */
static void
end_segment(RctlOp *op)
{
	PGconn	   *conn = conn_of_promoted(op);
	XLogRecPtr	end = rctl_segment_end();
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SEGMENT_END_MS);

	while (ask_lsn(conn, "SELECT pg_last_wal_replay_lsn()") < end && GetCurrentTimestamp() < until)
		rctl_sleep(REPLAY_POLL_MS);
	rctl_note_time(op, "segment_ended");
}

static bool
source_stays_fenced(RctlOp *op)
{
	return strcmp(rctl_map_get_default(op->arguments, "source_after", "read_only"), "read_write") != 0;
}

/*
 * Clients take longer to get to the replica than it takes to be promoted: off
 * they go as soon as nothing can call it back.
 */
static void
send_clients(RctlOp *op)
{
	TimestampTz now = GetCurrentTimestamp();

	rctl_fence_tell_promoting(op->id, op->replica->name, endpoint(op->replica),
							  parse_lsn(rctl_map_get(op->state, "fence_lsn")));
	end_sessions(op, now);
}

/*
 * The promotion, and what clients must not wait for: where they are sent to
 * the new primary that comes first, where they stay the fence is lifted as
 * soon as the new primary is known to be one.
 */
static void
promote_planned(RctlOp *op)
{
	PGconn	   *conn = conn_of_promoted(op);
	bool		leave = source_stays_fenced(op);	/* the clients */
	RctlFenceState state;

	if (ask_bool(conn, "SELECT pg_is_in_recovery()"))
	{
		/*
		 * While no worker had the operation, somebody may have lifted its
		 * fence.
		 */
		rctl_fence_get(&state);
		if (state.phase == RCTL_FENCE_DOWN || state.operation != op->id)
		{
			fence(op);
			zero_lag(op);
		}
		end_segment(op);
		if (leave && rctl_map_get(op->state, "holds_logins"))
			(void) ask(conn, psprintf("SELECT replica_ctl.hold_logins(%d)", HOLD_LOGINS_MS));
		(void) ask(conn, "SELECT pg_promote(false)");
	}
	if (leave)
		send_clients(op);
	wait_for_promotion(op, conn);
	if (!leave)
	{
		verify(op);
		(void) rctl_fence_lift(op->id);
		return;
	}
	rctl_fence_mark_promoted(op->id, op->replica->name, endpoint(op->replica),
							 (TimeLineID) strtoul(rctl_map_get(op->state, "timeline"), NULL, 10),
							 parse_lsn(rctl_map_get(op->state, "fence_lsn")));
}

/* Drops the replica's slot on whatever it follows, and what else was set for it. */
static void
drop_slot(RctlOp *op)
{
	const char *upstream = rctl_map_get(op->replica->facts, "upstream");
	const char *slot;

	if (op->replica->provider->release)
		op->replica->provider->release(op);
	slot = rctl_map_get(op->replica->facts, "slot");
	if (slot == NULL)
		return;
	if (upstream == NULL)
		rctl_slot_drop(slot);
	else
	{
		RctlReplica *above = rctl_op_replica(op, upstream);

		if (above)
			(void) rctl_pg_value(above->provider->connect(op, above, CONNECT_TIMEOUT_MS), QUERY_TIMEOUT_MS,
								 "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
								 " WHERE slot_name = $1", 1, &slot);
	}
	rctl_map_set(op->replica->facts, "slot", NULL);
}

static void
unlink_promoted(RctlOp *op)
{
	RctlMap    *detail = rctl_map_make();

	drop_slot(op);
	rctl_map_set(detail, "mode", rctl_map_get(op->arguments, "mode"));
	rctl_map_set(detail, "timeline", rctl_map_get(op->state, "timeline"));
	rctl_map_set(detail, "fence_lsn", rctl_map_get(op->state, "fence_lsn"));
	rctl_set_elapsed(op, detail, "fence_ms", "fence_began", "fenced");
	rctl_set_elapsed(op, detail, "zero_lag_ms", "fenced", "zero_lag");
	rctl_set_elapsed(op, detail, "segment_ms", "zero_lag", "segment_ended");
	rctl_set_elapsed(op, detail, "promote_ms", rctl_noted_time(op, "segment_ended") ? "segment_ended" : "zero_lag", "promoted");
	rctl_set_elapsed(op, detail, "writes_stopped_ms", "fence_began", "promoted");
	rctl_map_set(detail, "source_lsn", rctl_map_get(op->state, "source_lsn"));
	rctl_map_set(detail, "replica_lsn", rctl_map_get(op->state, "replica_lsn"));
	rctl_map_set(detail, "replica_last_commit", rctl_map_get(op->state, "replica_last_commit"));
	rctl_map_set(detail, "lost_bytes", rctl_map_get(op->state, "lost_bytes"));
	rctl_op_event(op, "info", "promoted", detail,
				  "Promoted read replica \"%s\" to stand-alone primary", op->replica->name);
}

/* What becomes of this server. */
static void
after(RctlOp *op)
{
	if (!source_stays_fenced(op))
		(void) rctl_fence_lift(op->id);
}

/* ---------------------------------------------------------------------
 * Forced
 * ---------------------------------------------------------------------
 */

/*
 * What a forced promotion may lose, as far as it can be known before it: WAL
 * that this server has flushed and the replica has not received.
 */
static void
take_receipt(RctlOp *op)
{
	PGconn	   *conn = rctl_promotion_conn(op);
	XLogRecPtr	ours;
	XLogRecPtr	theirs;

	if (!ask_bool(conn, "SELECT pg_is_in_recovery()"))
		return;
	theirs = ask_lsn(conn, "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())");
	rctl_map_set(op->state, "replica_last_commit", ask(conn, "SELECT pg_last_xact_replay_timestamp()"));
	ours = GetFlushRecPtr(NULL);
	rctl_map_set(op->state, "replica_lsn", lsn_text(theirs));
	rctl_map_set(op->state, "source_lsn", lsn_text(ours));
	rctl_map_setf(op->state, "lost_bytes", UINT64_FORMAT, ours > theirs ? ours - theirs : 0);
}

/* ---------------------------------------------------------------------
 * Drill
 * ---------------------------------------------------------------------
 */

void
rctl_drill_report(RctlOp *op)
{
	RctlMap    *detail = rctl_map_make();

	rctl_set_elapsed(op, detail, "fence_ms", "fence_began", "fenced");
	rctl_set_elapsed(op, detail, "zero_lag_ms", "fenced", "zero_lag");
	rctl_set_elapsed(op, detail, "writes_stopped_ms", "fence_began", "lifted");
	rctl_map_set(detail, "fence_lsn", rctl_map_get(op->state, "fence_lsn"));
	rctl_op_event(op, "info", "drill", detail,
				  "Drill with replica \"%s\": writes stood still for %s ms", op->replica->name,
				  rctl_map_get_default(detail, "writes_stopped_ms", "an unknown number of"));
}

const RctlStep rctl_planned_promotion_steps[] = {
	{"check", check, "check that the replica can take over", .once = true},
	{"warm", warm, "connect, and wait until little is left to replay", .once = true},
	{"fence", fence, "stop writes here", .once = true},
	{"zero_lag", zero_lag, "wait until the replica has replayed everything", .once = true, .hurried = true},
	{"promote", promote_planned, "promote the replica and point clients to it", true, .hurried = true},
	{"verify", verify, "check its timeline and position", true},
	{"unlink", unlink_promoted, "drop its slot and write the event", true},
	{"after", after, "leave this server as was asked: read_only, read_write or standby", true},
	{0}
};

/*
 * As before, with the replicas behind the promoted one before writes stop.
 * From "arrive" on it is the promoted server that works on it (takeover.c).
 */
const RctlStep rctl_switchover_steps[] = {
	{"check", check, "check that the replica can take over"},
	{"rejoin_check", rctl_rejoin_check, "check that this server can become a standby of it"},
	{"warm", warm, "connect, and wait until little is left to replay"},
	{"prepare", rctl_rejoin_prepare, "make the slots that will be needed on the replica"},
	{"siblings", rctl_rejoin_siblings, "let the other replicas follow it"},
	{"fence", fence, "stop writes here", .once = true},
	{"zero_lag", zero_lag, "wait until the replica has replayed everything", .once = true, .hurried = true},
	{"promote", promote_planned, "promote the replica and point clients to it", true, .hurried = true},
	{"verify", verify, "check its timeline and position", true},
	{"siblings_verify", rctl_rejoin_siblings_verify, "check that the other replicas are on its timeline", true},
	{"unlink", unlink_promoted, "drop its slot and write the event", true},
	{"demote", rctl_rejoin_demote, "restart this server as a standby", true},
	{RCTL_ARRIVE_STEP, rctl_rejoin_arrive, "on the new primary: wait until the old one streams", true},
	{0}
};

const RctlStep rctl_forced_promotion_steps[] = {
	{"receipt", take_receipt, "note what the replica has and what it lacks"},
	{"promote", promote, "promote the replica and wait until it accepts writes", true},
	{"verify", verify, "check its timeline and position", true},
	{"unlink", unlink_promoted, "drop its slot and write the event", true},
	{0}
};

const RctlStep rctl_drill_steps[] = {
	{"check", check, "check that the replica could take over", .once = true},
	{"warm", warm, "connect, and wait until little is left to replay", .once = true},
	{"fence", fence, "stop writes here", .once = true},
	{"zero_lag", zero_lag, "wait until the replica has replayed everything", .once = true, .hurried = true},
	{"lift", lift, "let writes go on", .once = true},
	{"report", rctl_drill_report, "write the event with the times"},
	{0}
};

const RctlStep rctl_detach_steps[] = {
	{"unlink", drop_slot, "drop the replica's slot"},
	{0}
};
