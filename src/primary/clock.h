/*-------------------------------------------------------------------------
 *
 * clock.h
 *	  The LSN clock: at what time was a WAL position the current one?
 *
 * The monitor notes the end of the flushed WAL once a second.  A standby that
 * has replayed up to some position lags by the time since WAL went beyond
 * that position: nothing while it has replayed all that matters, ever more
 * while the link is down or replay stands still.
 *
 * Times are of the monotonic clock: a step of the system's clock changes no
 * lag.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_CLOCK_H
#define REPLICA_CTL_PRIMARY_CLOCK_H

#include "access/xlogdefs.h"

/* WAL ended at lsn from since to until (microseconds of the monotonic clock). */
typedef struct RctlClockPoint
{
	XLogRecPtr	lsn;
	int64		since;
	int64		until;
} RctlClockPoint;

/* Points that are kept; the older they are, the wider apart (see clock.c). */
#define RCTL_CLOCK_POINTS 2048

/* Where WAL ends now. */
typedef struct RctlWalEnd
{
	XLogRecPtr	flush;			/* what a standby can have; in recovery, what
								 * is replayed */

	/*
	 * Start of the last record that was not written by background activity of
	 * an idle server; 0: not known.  Who has replayed beyond it misses
	 * nothing.
	 */
	XLogRecPtr	important;
	int64		now;			/* monotonic */
} RctlWalEnd;

extern void rctl_clock_shmem_request(void);
extern void rctl_clock_shmem_init(void);

/* Microseconds of the monotonic clock, the same for all processes. */
extern int64 rctl_clock_now(void);

extern void rctl_wal_end(RctlWalEnd *end);

/*
 * How long ago WAL went beyond lsn, in microseconds, never negative; 0 if it
 * has not.  For a position older than the clock's memory, the least that it
 * can be.  False if the clock knows nothing.
 */
extern bool rctl_clock_lag(XLogRecPtr lsn, const RctlWalEnd *end, int64 *lag);

/* ---- monitor only ---- */

extern void rctl_clock_tick(const RctlWalEnd *end);
extern bool rctl_clock_is_empty(void);

/* Copies the points, oldest first; returns how many. points has room for all. */
extern int	rctl_clock_read(RctlClockPoint *points);

/* Starts from these, which are older than any tick; what is out of order or later than end is left out. */
extern void rctl_clock_restore(const RctlClockPoint *points, int count, const RctlWalEnd *end);

/* Starts from the modification times of the files in pg_wal: what there is after a crash or a promotion. */
extern void rctl_clock_estimate(const RctlWalEnd *end);

#endif							/* REPLICA_CTL_PRIMARY_CLOCK_H */
