/*-------------------------------------------------------------------------
 *
 * promotion.c
 *	  Steps that make a replica a primary, or let it go.
 *
 * All of it goes over libpq and this server's own catalogs, so that it is the
 * same for every provider whose replicas can be reached.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "core/promotion.h"
#include "core/store.h"
#include "net/pgconn.h"
#include "net/wait.h"
#include "primary/slots.h"

#define CONNECT_TIMEOUT_MS 10000
#define QUERY_TIMEOUT_MS 10000

/* pg_promote(true) and pg_ctl look every 100 ms; the server is writable sooner. */
#define PROMOTE_POLL_MS 2
#define PROMOTE_REPORT_MS 1000

static PGconn *
connect_replica(RctlOp *op)
{
	return op->replica->provider->connect(op, op->replica, CONNECT_TIMEOUT_MS);
}

static bool
in_recovery(PGconn *conn)
{
	return strcmp(rctl_pg_value(conn, QUERY_TIMEOUT_MS, "SELECT pg_is_in_recovery()", 0, NULL), "t") == 0;
}

static XLogRecPtr
parse_lsn(const char *text)
{
	return text ? DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text))) : InvalidXLogRecPtr;
}

static char *
lsn_text(XLogRecPtr lsn)
{
	return psprintf("%X/%X", LSN_FORMAT_ARGS(lsn));
}

/*
 * What a forced promotion may lose, as far as it can be known before it: WAL
 * that this server has flushed and the replica has not received.
 */
static void
take_receipt(RctlOp *op)
{
	PGconn	   *conn = connect_replica(op);
	XLogRecPtr	ours;
	XLogRecPtr	theirs;

	if (!in_recovery(conn))
		return;
	theirs = parse_lsn(rctl_pg_value(conn, QUERY_TIMEOUT_MS,
									 "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())", 0, NULL));
	rctl_map_set(op->state, "replica_last_commit",
				 rctl_pg_value(conn, QUERY_TIMEOUT_MS, "SELECT pg_last_xact_replay_timestamp()", 0, NULL));
	ours = GetFlushRecPtr(NULL);
	rctl_map_set(op->state, "replica_lsn", lsn_text(theirs));
	rctl_map_set(op->state, "source_lsn", lsn_text(ours));
	rctl_map_setf(op->state, "lost_bytes", UINT64_FORMAT, ours > theirs ? ours - theirs : 0);
}

static void
promote(RctlOp *op)
{
	PGconn	   *conn = connect_replica(op);
	int			waited = 0;

	if (in_recovery(conn))
		(void) rctl_pg_value(conn, QUERY_TIMEOUT_MS, "SELECT pg_promote(false)", 0, NULL);
	while (in_recovery(conn))
	{
		rctl_sleep(PROMOTE_POLL_MS);
		waited += PROMOTE_POLL_MS;
		if (waited % PROMOTE_REPORT_MS == 0)
			rctl_op_progress(op, psprintf("promoting, %d s", waited / 1000), 0, 0);
	}
}

/* The promoted replica is on a timeline of its own and has all that was seen of it. */
static void
verify(RctlOp *op)
{
	PGconn	   *conn = connect_replica(op);
	char	   *timeline = rctl_pg_value(conn, QUERY_TIMEOUT_MS,
										 "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int", 0, NULL);
	XLogRecPtr	now = parse_lsn(rctl_pg_value(conn, QUERY_TIMEOUT_MS, "SELECT pg_current_wal_flush_lsn()", 0, NULL));
	XLogRecPtr	least = parse_lsn(rctl_map_get(op->state, "replica_lsn"));

	if (now < least)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("promoted replica \"%s\" is at %X/%X, before %X/%X that it had received",
						op->replica->name, LSN_FORMAT_ARGS(now), LSN_FORMAT_ARGS(least))));
	rctl_map_set(op->state, "timeline", timeline);
	rctl_map_set(op->replica->facts, "timeline", timeline);
}

/* Drops the replica's slot on whatever it follows. */
static void
drop_slot(RctlOp *op)
{
	const char *slot = rctl_map_get(op->replica->facts, "slot");
	const char *upstream = rctl_map_get(op->replica->facts, "upstream");

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
	drop_slot(op);
	rctl_op_event(op, "info", "promoted", op->state,
				  "Promoted read replica \"%s\" to stand-alone primary", op->replica->name);
}

const RctlStep rctl_forced_promotion_steps[] = {
	{"receipt", take_receipt, "note what the replica has and what it lacks", false},
	{"promote", promote, "promote the replica and wait until it accepts writes", true},
	{"verify", verify, "check its timeline and position", true},
	{"unlink", unlink_promoted, "drop its slot and write the event", true},
	{0}
};

const RctlStep rctl_detach_steps[] = {
	{"unlink", drop_slot, "drop the replica's slot", false},
	{0}
};
