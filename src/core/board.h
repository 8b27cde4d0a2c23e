/*-------------------------------------------------------------------------
 *
 * board.h
 *	  The board in shared memory: which operations run now, and how far.
 *
 * It holds nothing that must survive: after a crash the board is empty, and
 * that is how the launcher sees that running operations have lost their
 * workers.  It is also the way to wake: the launcher when an operation was
 * queued, a worker when its operation is cancelled, a waiting session when an
 * operation has changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_BOARD_H
#define REPLICA_CTL_CORE_BOARD_H

#include "datatype/timestamp.h"

#define RCTL_PHASE_LEN 64

/* A copy of one taken slot. */
typedef struct RctlBoardEntry
{
	int64		operation;
	int			pid;			/* 0: reserved, its worker has not started yet */
	char		phase[RCTL_PHASE_LEN];
	uint64		bytes_done;
	uint64		bytes_total;	/* 0: not known */
	double		bytes_per_second;
	double		progress;		/* of the whole operation, 0 to 1 */
} RctlBoardEntry;

extern Size rctl_board_shmem_size(void);
extern void rctl_board_shmem_request(void);
extern void rctl_board_shmem_init(void);

/* Whether the library was preloaded, so that there is a board at all. */
extern bool rctl_board_exists(void);

/* ---- launcher ---- */

/* Makes this process the one that rctl_board_wake_launcher() wakes; frees slots whose worker never started. */
extern void rctl_board_enter_launcher(void);

/* Takes a free slot for the operation; -1 if all are taken or it has one already. */
extern int	rctl_board_reserve(int64 operation);

/* Frees a slot whose worker could not be started; harmless once a worker has it. */
extern void rctl_board_unreserve(int slot, int64 operation);
extern int	rctl_board_free_slots(void);

/* ---- operation worker ---- */

/* Takes the reserved slot for this process until it exits; false if it is not reserved for it. */
extern bool rctl_board_enter_worker(int slot, int64 operation);

/* Whether somebody asked for a cancel of this worker's operation. Lock-free. */
extern bool rctl_board_cancelled(void);

/* Asks for it from within; safe in a signal handler. */
extern void rctl_board_cancel_self(void);

/*
 * Leaves the board before this process exits, so that a cancel that is asked
 * for from now on is written to the operation's row.  False, and it stays, if
 * one was asked for already: nobody but this worker knows of it.
 */
extern bool rctl_board_retire(void);

/* base and share: what part of the whole (0 to 1) is done before, and done by, the running step. */
extern void rctl_board_step(double base, double share);
extern void rctl_board_progress(const char *phase, uint64 bytes_done, uint64 bytes_total);

/* This worker's entry. */
extern void rctl_board_self(RctlBoardEntry *entry);

/* ---- anybody ---- */

extern void rctl_board_wake_launcher(void);

/*
 * Sets the cancel flag and wakes the worker.  False if no worker has taken up
 * the operation; if one is about to, it will see the flag, but may never
 * start.
 */
extern bool rctl_board_cancel(int64 operation);

/* Copies the taken slots; returns how many.  entries has room for rctl_max_operations. */
extern int	rctl_board_read(RctlBoardEntry *entries);

/* Tells waiting sessions, and the monitor, that an operation has changed. */
extern void rctl_board_changed(void);

/* Makes this process the one whose latch rctl_board_changed() sets: the monitor. */
extern void rctl_board_enter_monitor(void);

/* Grows with every change. Lock-free. */
extern uint64 rctl_board_changes(void);

/*
 * For a session that waits for changes: note the number of changes so far,
 * look, then sleep until there are more (at most timeout_ms; interrupts
 * raise).
 */
extern void rctl_board_wait(uint64 seen, long timeout_ms);

/*
 * Meanwhile it is a watcher; so is the session that asked for the operation.
 * The list, "1,2,3", is for sparing them when the sessions of a server are
 * ended.
 */
extern void rctl_board_enter_watchers(void);
extern void rctl_board_leave_watchers(void);
extern char *rctl_board_watchers(const char *and_this_pid);

#endif							/* REPLICA_CTL_CORE_BOARD_H */
