/*-------------------------------------------------------------------------
 *
 * operation.h
 *	  The states of an operation and the edges between them.
 *
 *	              start                     last step done
 *	  queued ───────────────► running ─────────────────────► succeeded
 *	    │  ▲                   │ │ │
 *	    │  └── retry, resume ──┘ │ ├── undone ──► failed | cancelled
 *	    │                        │ │
 *	    └── cancel ► cancelled   │ └── cannot go on, cannot go back
 *	    └── park ──┐             │                   │
 *	               ▼             ▼                   ▼
 *	          needs_attention ◄──┴───────────────────┘
 *	               │
 *	               ├── claim ► queued        (the server says: these are mine)
 *	               └── supersede ► failed    (a later operation settles it)
 *
 * The table in operation.c is the truth; nothing else changes a state.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_OPERATION_H
#define REPLICA_CTL_CORE_OPERATION_H

#include "provider/provider.h"

typedef enum RctlOpState
{
	RCTL_STATE_QUEUED,
	RCTL_STATE_RUNNING,
	RCTL_STATE_SUCCEEDED,
	RCTL_STATE_FAILED,
	RCTL_STATE_CANCELLED,
	RCTL_STATE_NEEDS_ATTENTION,
} RctlOpState;
#define RCTL_OP_STATES (RCTL_STATE_NEEDS_ATTENTION + 1)

typedef enum RctlOpEvent
{
	RCTL_EVENT_START,			/* a worker takes it up */
	RCTL_EVENT_RETRY,			/* a transient error: again later */
	RCTL_EVENT_FINISH,			/* the last step is done */
	RCTL_EVENT_UNDONE,			/* failed, and everything made is gone */
	RCTL_EVENT_CANCELLED,		/* cancelled, and everything made is gone */
	RCTL_EVENT_PARK,			/* neither forward nor back without a person */
	RCTL_EVENT_CLAIM,			/* replica_claim(): work on it after all */
	RCTL_EVENT_SUPERSEDE,		/* a later operation on the replica settles it */
} RctlOpEvent;
#define RCTL_OP_EVENTS (RCTL_EVENT_SUPERSEDE + 1)

typedef struct RctlOpEdge
{
	RctlOpState from;
	RctlOpEvent event;
	RctlOpState to;
} RctlOpEdge;

extern const RctlOpEdge rctl_op_edges[];
extern const int rctl_op_edge_count;

/* The state after the event; raises an internal error if there is no such edge. */
extern RctlOpState rctl_op_next(RctlOpState from, RctlOpEvent event);

/* Names as stored in tables. */
extern const char *rctl_op_state_name(RctlOpState state);
extern const char *rctl_op_event_name(RctlOpEvent event);
extern const char *rctl_op_kind_name(RctlOpKind kind);
extern RctlOpState rctl_op_state_parse(const char *name);	/* raises
															 * ERRCODE_DATA_CORRUPTED */
extern RctlOpKind rctl_op_kind_parse(const char *name); /* likewise */

#endif							/* REPLICA_CTL_CORE_OPERATION_H */
