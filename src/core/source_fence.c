/*-------------------------------------------------------------------------
 *
 * source_fence.c
 *	  Stops writes on the source of a replica that a service promotes.
 *
 * Where the source is this server that is its fence (primary/fence.h), which
 * lets nothing through.  A source elsewhere is asked by SQL to be read-only,
 * which sessions can overrule: so it is looked at again and again until the
 * promotion, and once after it (source_remote.c).  Where there is neither,
 * the user may vouch for it, or the service may stop the source itself.
 *
 * Durable in op->state: fence_lsn and fence_since, the mark that the replica
 * must have; what source_remote.c has seen.
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
#include "core/managed.h"
#include "core/promotion.h"
#include "core/source_fence.h"
#include "core/timing.h"
#include "primary/fence.h"

static bool
is_here(RctlOp *op)
{
	const RctlManagedPromotion *managed = op->replica->provider->managed;

	return managed->source_is_here != NULL && managed->source_is_here(op);
}

static bool
has_conninfo(RctlOp *op)
{
	return rctl_map_get(op->server_options, "source_conninfo") != NULL;
}

RctlSourceFence
rctl_source_fence_kind(RctlOp *op)
{
	const RctlManagedPromotion *managed = op->replica->provider->managed;

	/* The source was stopped, or this would not be the primary. */
	if (rctl_map_get(op->state, RCTL_HANDED_OVER))
		return RCTL_SOURCE_SERVICE;
	if (strcmp(rctl_map_get_default(op->server_options, "fence", "auto"), "external") == 0)
		return RCTL_SOURCE_EXTERNAL;
	if (is_here(op))
		return RCTL_SOURCE_HERE;
	if (has_conninfo(op))
		return RCTL_SOURCE_REMOTE;
	if (managed->service_fences && managed->service_fences(op->replica))
		return RCTL_SOURCE_SERVICE;
	return RCTL_SOURCE_NONE;
}

const char *
rctl_source_fence_name(RctlSourceFence kind)
{
	switch (kind)
	{
		case RCTL_SOURCE_NONE:
			break;
		case RCTL_SOURCE_HERE:
			return "the fence of this server";
		case RCTL_SOURCE_REMOTE:
			return "read-only databases on the source";
		case RCTL_SOURCE_EXTERNAL:
			return "somebody else, as option fence says";
		case RCTL_SOURCE_SERVICE:
			return "the service itself";
	}
	return "nobody";
}

bool
rctl_source_reachable(RctlOp *op)
{
	return is_here(op) || has_conninfo(op);
}

XLogRecPtr
rctl_source_flushed(RctlOp *op)
{
	if (is_here(op))
		return GetFlushRecPtr(NULL);
	return has_conninfo(op) ? rctl_remote_flushed(op) : InvalidXLogRecPtr;
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

void
rctl_source_check(RctlPreflight *p)
{
	RctlOp	   *op = p->op;
	RctlSourceFence kind = rctl_source_fence_kind(op);
	const char *by = rctl_source_fence_name(kind);

	if (p->forced)
	{
		rctl_found_ok(p, "source", "writes on the source are not stopped");
		return;
	}
	if (kind == RCTL_SOURCE_NONE)
	{
		rctl_found_blocked(p, "source", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   psprintf("writes on the source of replica \"%s\" cannot be stopped", op->replica->name),
						   "The source is not this server, and no option says how to log in there.",
						   psprintf("Run ALTER SERVER %s OPTIONS (ADD source_conninfo '...'), or, if you stop all writes yourself, OPTIONS (ADD fence 'external').",
									quote_identifier(op->replica->server)));
		return;
	}
	if (op->kind == RCTL_OP_DRILL && (kind == RCTL_SOURCE_EXTERNAL || kind == RCTL_SOURCE_SERVICE))
	{
		rctl_found_blocked(p, "source", ERRCODE_FEATURE_NOT_SUPPORTED,
						   psprintf("a drill with replica \"%s\" would stop no writes", op->replica->name),
						   psprintf("In a promotion they are stopped by %s.", by),
						   "A drill needs server option source_conninfo, and fence not to be external.");
		return;
	}
	if (kind == RCTL_SOURCE_EXTERNAL)
		rctl_found_warning(p, "source", psprintf("writes on the source are stopped by %s", by),
						   has_conninfo(op) ? "Whether they are is looked at through source_conninfo."
						   : "Whether they are cannot be looked at.",
						   has_conninfo(op) ? NULL : "Set server option source_conninfo, and it is verified.");
	else
		rctl_found_ok(p, "source", psprintf("writes on the source are stopped by %s", by));
	if (has_conninfo(op) && kind != RCTL_SOURCE_HERE)
		rctl_remote_check(p);
}

/* ---------------------------------------------------------------------
 * This server
 * ---------------------------------------------------------------------
 */

static void
set_mark(RctlOp *op, XLogRecPtr lsn)
{
	rctl_map_set(op->state, "fence_lsn", lsn == InvalidXLogRecPtr ? NULL : psprintf("%X/%X", LSN_FORMAT_ARGS(lsn)));
	rctl_note_time(op, "fence_since");
}

static void
raise_here(RctlOp *op)
{
	const RctlManagedPromotion *managed = op->replica->provider->managed;
	RctlMap    *object = rctl_map_make();
	RctlFenceRequest request = {
		.operation = op->id,
		.reason = psprintf("%s of replica \"%s\"",
						   op->kind == RCTL_OP_DRILL ? "drill" : "planned promotion", op->replica->name),
		.drain_ms = rctl_argument_ms(op, "drain_ms", "1000"),
		.timeout_ms = rctl_time_left(op, NULL),
		.in_memory = managed->service_guards && managed->service_guards(op->replica),
	};
	RctlFenceState state;

	rctl_map_setf(object, "operation", INT64_FORMAT, op->id);
	rctl_op_cleanup_add(op, RCTL_FENCE_RECORD, object, op->kind == RCTL_OP_DRILL);
	set_mark(op, rctl_fence_raise(&request));
	rctl_fence_get(&state);
	rctl_map_setf(op->state, "fence_began", INT64_FORMAT, (int64) state.since);
}

/* The sessions that clients have here, but for those that watch this operation. */
static void
end_sessions(RctlOp *op)
{
	char	   *sql = psprintf("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_get_activity(NULL)"
							   " WHERE backend_type = 'client backend' AND pid <> ALL ('{%s}'::int[])"
							   " AND backend_start <= '%s'::timestamptz",
							   rctl_board_watchers(rctl_map_get(op->arguments, "session")),
							   timestamptz_to_str(rctl_noted_time(op, "promoted")));

	rctl_op_begin(op);
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not end sessions");
	rctl_op_commit(op);
}

static void
promoted_here(RctlOp *op)
{
	const RctlMap *facts = op->replica->facts;
	const char *host = rctl_map_get(facts, "host");
	const char *port = rctl_map_get(facts, "port");
	const char *timeline = rctl_map_get(facts, "timeline");
	RctlSourceMark mark;

	rctl_source_mark(op, &mark);
	rctl_fence_mark_promoted(op->id, op->replica->name, host && port ? psprintf("%s:%s", host, port) : "",
							 timeline ? (TimeLineID) strtoul(timeline, NULL, 10) : GetWALInsertionTimeLine() + 1,
							 mark.lsn);
	if (strcmp(rctl_map_get_default(op->arguments, "source_after", "read_only"), "read_write") != 0)
		end_sessions(op);
}

/* ---------------------------------------------------------------------
 * Wherever it is
 * ---------------------------------------------------------------------
 */

void
rctl_source_stop(RctlOp *op)
{
	if (rctl_noted_time(op, "fence_began") == 0)
		rctl_note_time(op, "fence_began");
	switch (rctl_source_fence_kind(op))
	{
		case RCTL_SOURCE_NONE:
			elog(ERROR, "writes on the source of replica \"%s\" cannot be stopped", op->replica->name);
			break;
		case RCTL_SOURCE_HERE:
			raise_here(op);
			break;
		case RCTL_SOURCE_REMOTE:
			rctl_remote_stop(op);
			break;
		case RCTL_SOURCE_EXTERNAL:
			if (has_conninfo(op))
				rctl_remote_observe(op);
			else
				set_mark(op, is_here(op) ? GetXLogInsertRecPtr() : InvalidXLogRecPtr);
			break;
		case RCTL_SOURCE_SERVICE:
			rctl_map_set(op->state, "fence_began", NULL);
			return;
	}
	rctl_note_time(op, "fenced");
}

void
rctl_source_mark(RctlOp *op, RctlSourceMark *mark)
{
	const char *lsn = rctl_map_get(op->state, "fence_lsn");

	mark->lsn = lsn ? DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(lsn))) : InvalidXLogRecPtr;
	mark->since = rctl_noted_time(op, "fence_since");
}

bool
rctl_source_still(RctlOp *op)
{
	RctlFenceState state;

	switch (rctl_source_fence_kind(op))
	{
		case RCTL_SOURCE_HERE:

			/*
			 * While no worker had the operation, somebody may have lifted its
			 * fence.
			 */
			rctl_fence_get(&state);
			if (state.phase != RCTL_FENCE_DOWN && state.operation == op->id)
				return true;
			raise_here(op);
			return false;
		case RCTL_SOURCE_REMOTE:
			return rctl_remote_still(op);
		case RCTL_SOURCE_EXTERNAL:
			return !has_conninfo(op) || rctl_remote_still(op);
		case RCTL_SOURCE_NONE:
		case RCTL_SOURCE_SERVICE:
			break;
	}
	return true;
}

void
rctl_source_release(RctlOp *op)
{
	rctl_op_cleanup_run(op, RCTL_FENCE_RECORD);
	rctl_op_cleanup_run(op, RCTL_SOURCE_RECORD);
}

void
rctl_source_promoted(RctlOp *op)
{
	switch (rctl_source_fence_kind(op))
	{
		case RCTL_SOURCE_HERE:
			promoted_here(op);
			break;
		case RCTL_SOURCE_REMOTE:
			rctl_remote_open_promoted(op);
			if (!rctl_managed_source_follows(op->replica))
				rctl_remote_look_back(op);
			break;
		case RCTL_SOURCE_EXTERNAL:
			if (has_conninfo(op))
				rctl_remote_look_back(op);
			break;
		case RCTL_SOURCE_NONE:
		case RCTL_SOURCE_SERVICE:
			break;
	}
}
