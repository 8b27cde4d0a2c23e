/*-------------------------------------------------------------------------
 *
 * operation.c
 *	  The states of an operation and the edges between them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "core/operation.h"

const RctlOpEdge rctl_op_edges[] = {
	{RCTL_STATE_QUEUED, RCTL_EVENT_START, RCTL_STATE_RUNNING},
	{RCTL_STATE_QUEUED, RCTL_EVENT_CANCELLED, RCTL_STATE_CANCELLED},
	{RCTL_STATE_QUEUED, RCTL_EVENT_PARK, RCTL_STATE_NEEDS_ATTENTION},
	{RCTL_STATE_RUNNING, RCTL_EVENT_START, RCTL_STATE_RUNNING},
	{RCTL_STATE_RUNNING, RCTL_EVENT_RETRY, RCTL_STATE_QUEUED},
	{RCTL_STATE_RUNNING, RCTL_EVENT_FINISH, RCTL_STATE_SUCCEEDED},
	{RCTL_STATE_RUNNING, RCTL_EVENT_UNDONE, RCTL_STATE_FAILED},
	{RCTL_STATE_RUNNING, RCTL_EVENT_CANCELLED, RCTL_STATE_CANCELLED},
	{RCTL_STATE_RUNNING, RCTL_EVENT_PARK, RCTL_STATE_NEEDS_ATTENTION},
	{RCTL_STATE_NEEDS_ATTENTION, RCTL_EVENT_CLAIM, RCTL_STATE_QUEUED},
	{RCTL_STATE_NEEDS_ATTENTION, RCTL_EVENT_SUPERSEDE, RCTL_STATE_FAILED},
};
const int	rctl_op_edge_count = lengthof(rctl_op_edges);

static const char *const state_names[RCTL_OP_STATES] = {
	[RCTL_STATE_QUEUED] = "queued",
	[RCTL_STATE_RUNNING] = "running",
	[RCTL_STATE_SUCCEEDED] = "succeeded",
	[RCTL_STATE_FAILED] = "failed",
	[RCTL_STATE_CANCELLED] = "cancelled",
	[RCTL_STATE_NEEDS_ATTENTION] = "needs_attention",
};

static const char *const event_names[RCTL_OP_EVENTS] = {
	[RCTL_EVENT_START] = "start",
	[RCTL_EVENT_RETRY] = "retry",
	[RCTL_EVENT_FINISH] = "finish",
	[RCTL_EVENT_UNDONE] = "undone",
	[RCTL_EVENT_CANCELLED] = "cancelled",
	[RCTL_EVENT_PARK] = "park",
	[RCTL_EVENT_CLAIM] = "claim",
	[RCTL_EVENT_SUPERSEDE] = "supersede",
};

static const char *const kind_names[RCTL_OP_KINDS] = {
	[RCTL_OP_CREATE] = "create",
	[RCTL_OP_ATTACH] = "attach",
	[RCTL_OP_DETACH] = "detach",
	[RCTL_OP_DROP] = "drop",
	[RCTL_OP_REPAIR] = "repair",
	[RCTL_OP_PROMOTE] = "promote",
	[RCTL_OP_SWITCHOVER] = "switchover",
	[RCTL_OP_DRILL] = "drill",
	[RCTL_OP_CHANGE] = "change",
};

RctlOpState
rctl_op_next(RctlOpState from, RctlOpEvent event)
{
	for (int i = 0; i < rctl_op_edge_count; i++)
	{
		if (rctl_op_edges[i].from == from && rctl_op_edges[i].event == event)
			return rctl_op_edges[i].to;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("no edge for event \"%s\" from operation state \"%s\"",
					event_names[event], state_names[from])));
	pg_unreachable();
}

const char *
rctl_op_state_name(RctlOpState state)
{
	return state_names[state];
}

const char *
rctl_op_event_name(RctlOpEvent event)
{
	return event_names[event];
}

const char *
rctl_op_kind_name(RctlOpKind kind)
{
	return kind_names[kind];
}

static int
parse_name(const char *name, const char *const *names, int count, const char *what)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(names[i], name) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("unrecognized operation %s \"%s\"", what, name)));
	pg_unreachable();
}

RctlOpState
rctl_op_state_parse(const char *name)
{
	return (RctlOpState) parse_name(name, state_names, RCTL_OP_STATES, "state");
}

RctlOpKind
rctl_op_kind_parse(const char *name)
{
	return (RctlOpKind) parse_name(name, kind_names, RCTL_OP_KINDS, "kind");
}
