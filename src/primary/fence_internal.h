/*-------------------------------------------------------------------------
 *
 * fence_internal.h
 *	  What the three files of the fence share among themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_FENCE_INTERNAL_H
#define REPLICA_CTL_PRIMARY_FENCE_INTERNAL_H

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "primary/fence.h"

/*
 * The word that every hook reads: the phase in the low bits, above it a
 * counter of changes, so that a process that has seen a word knows that
 * nothing has changed since.
 */
#define FENCE_PHASE_BITS 2
#define FENCE_PHASE(word) ((RctlFencePhase) ((word) & ((1 << FENCE_PHASE_BITS) - 1)))

/*
 * One for each PGPROC, on cache lines of its own: two sessions that commit
 * must not slow each other down.
 */
typedef union FenceSlot
{
	struct
	{
		pg_atomic_uint32 committing;	/* set and cleared by its own process,
										 * read by the one that raises */
		pg_atomic_uint32 held;	/* likewise, read for the views */
		pg_atomic_uint32 exempt;	/* likewise, read while draining */
		pg_atomic_uint32 apply_worker;	/* pid, 0 if it is no worker of a
										 * subscription; likewise */
		pg_atomic_uint32 two_phase; /* of that subscription; likewise */
	};
	char		pad[PG_CACHE_LINE_SIZE];
} FenceSlot;

typedef struct FenceShared
{
	pg_atomic_uint32 word;		/* written with the lock held exclusively,
								 * read without */
	pg_atomic_uint32 unverified;	/* 1: read from the file at start, its
									 * timeline was not compared yet; written
									 * with the lock held exclusively, read
									 * without */
	ConditionVariable changed;	/* own lock; held statements sleep on it */
	ConditionVariable progress; /* own lock; the one that raises sleeps on it */
	int			changing_pid;	/* lock; 0 = nobody */
	RctlFenceState state;		/* lock; the phase in it is the one of the
								 * file, held is not kept */
	int			nslots;			/* constant after start */
	FenceSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} FenceShared;

/* fence.c */
extern FenceShared *rctl_fence_shared;

/* This process's slot; only with a PGPROC. */
extern FenceSlot *rctl_fence_my_slot(void);

/* Drops a fence that a timeline switch has made void; only out of recovery. */
extern void rctl_fence_verify(void);

/* fence_file.c */
typedef enum FenceFileStatus
{
	FENCE_FILE_ABSENT,
	FENCE_FILE_VALID,
	FENCE_FILE_FOREIGN,			/* a copy: another server wrote it */
	FENCE_FILE_DAMAGED,
} FenceFileStatus;

/* Raises an error if it cannot be made durable; the old file, if any, stays. */
extern void rctl_fence_file_write(const RctlFenceState *state);

/* Does not raise.  The state's phase is UP or PROMOTED if the file is valid. */
extern FenceFileStatus rctl_fence_file_read(RctlFenceState *state);

/* False, after a report at elevel, if it could not be removed; true if there is none. */
extern bool rctl_fence_file_remove(int elevel);

#endif							/* REPLICA_CTL_PRIMARY_FENCE_INTERNAL_H */
