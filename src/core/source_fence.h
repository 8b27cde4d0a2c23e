/*-------------------------------------------------------------------------
 *
 * source_fence.h
 *	  Stops writes on the source of a replica that a service promotes,
 *	  wherever that source is.
 *
 * source_fence.c decides how, and does it where the source is this server;
 * source_remote.c does it by SQL on a source elsewhere.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_SOURCE_FENCE_H
#define REPLICA_CTL_CORE_SOURCE_FENCE_H

#include "core/preflight.h"

/* Type of the cleanup record of databases that were made read-only on a source elsewhere. */
#define RCTL_SOURCE_RECORD "source_read_only"

typedef enum RctlSourceFence
{
	RCTL_SOURCE_NONE,			/* there is no way: nothing is promoted as
								 * planned */
	RCTL_SOURCE_HERE,			/* the fence of this server */
	RCTL_SOURCE_REMOTE,			/* databases made read-only, by SQL */
	RCTL_SOURCE_EXTERNAL,		/* the user says that writes are stopped */
	RCTL_SOURCE_SERVICE,		/* the service stops the source itself */
} RctlSourceFence;

extern RctlSourceFence rctl_source_fence_kind(RctlOp *op);

/* For messages: "the fence of this server", ... */
extern const char *rctl_source_fence_name(RctlSourceFence kind);

/* Whether the source can be asked by SQL: this server, or through source_conninfo. */
extern bool rctl_source_reachable(RctlOp *op);

/* Findings about the source and about how its writes are stopped.  May raise errors. */
extern void rctl_source_check(RctlPreflight *p);

/* What the source has flushed; invalid if it cannot be asked.  May raise errors. */
extern XLogRecPtr rctl_source_flushed(RctlOp *op);

/*
 * Stops writes; what it does is recorded first, so that an undo takes it back.
 * Can be repeated.
 */
extern void rctl_source_stop(RctlOp *op);

/* What the replica must have. */
extern void rctl_source_mark(RctlOp *op, RctlSourceMark *mark);

/*
 * Whether nobody has written since the mark was made, as far as can be known.
 * If somebody may have, there is a new mark.
 */
extern bool rctl_source_still(RctlOp *op);

/* Takes back what was done; harmless if it was nothing. */
extern void rctl_source_release(RctlOp *op);

/*
 * The replica is a primary now: tells clients here; or lets it take writes,
 * and looks whether the source elsewhere was written to.
 */
extern void rctl_source_promoted(RctlOp *op);

/* Handles a cleanup record of type RCTL_SOURCE_RECORD. */
extern void rctl_source_undo(RctlOp *op, const RctlCleanup *record);

/* ---- source_remote.c, for source_fence.c ---- */

extern void rctl_remote_check(RctlPreflight *p);
extern void rctl_remote_stop(RctlOp *op);
extern void rctl_remote_observe(RctlOp *op);
extern bool rctl_remote_still(RctlOp *op);
extern XLogRecPtr rctl_remote_flushed(RctlOp *op);
extern void rctl_remote_open_promoted(RctlOp *op);
extern void rctl_remote_look_back(RctlOp *op);

#endif							/* REPLICA_CTL_CORE_SOURCE_FENCE_H */
