/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  The LSN clock: at what time was a WAL position the current one?
 *
 * A sorted array of points in shared memory.  While WAL stands still the last
 * point is prolonged; when it moves, a point is added.  When the array is full,
 * every second point of its older half is dropped, so that the distance
 * between points grows with their age and the array reaches back as long as
 * the server has run.  Between two points, time is interpolated, unless WAL
 * stood still at the first one.
 *
 * Written by the monitor only.  Nothing here is durable: samples.c saves the
 * points at shutdown.  Without them the files in pg_wal tell when their last
 * record was written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "primary/clock.h"

#define CLOCK_NAME "replica_ctl_clock"

typedef struct Clock
{
	int			count;			/* lock */
	RctlClockPoint points[RCTL_CLOCK_POINTS];	/* lock; by lsn, all times
												 * ascending */
} Clock;

static Clock *lsn_clock = NULL;
static LWLock *lsn_clock_lock = NULL;

void
rctl_clock_shmem_request(void)
{
	RequestAddinShmemSpace(sizeof(Clock));
	RequestNamedLWLockTranche(CLOCK_NAME, 1);
}

void
rctl_clock_shmem_init(void)
{
	bool		found;

	lsn_clock = ShmemInitStruct(CLOCK_NAME, sizeof(Clock), &found);
	if (!found)
		memset(lsn_clock, 0, sizeof(Clock));
	lsn_clock_lock = &GetNamedLWLockTranche(CLOCK_NAME)->lock;
}

int64
rctl_clock_now(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

void
rctl_wal_end(RctlWalEnd *end)
{
	if (RecoveryInProgress())
	{
		end->flush = GetXLogReplayRecPtr(NULL);
		end->important = InvalidXLogRecPtr;
	}
	else
	{
		/* In this order: what is important now may not be flushed yet. */
		end->flush = GetFlushRecPtr(NULL);
		end->important = GetLastImportantRecPtr();
	}
	end->now = rctl_clock_now();
}

/* The last point at or before lsn, by binary search; -1 if there is none. */
static int
find_point(XLogRecPtr lsn)
{
	int			low = -1;
	int			high = lsn_clock->count;

	while (high - low > 1)
	{
		int			middle = (low + high) / 2;

		if (lsn_clock->points[middle].lsn <= lsn)
			low = middle;
		else
			high = middle;
	}
	return low;
}

bool
rctl_clock_lag(XLogRecPtr lsn, const RctlWalEnd *end, int64 *lag)
{
	RctlClockPoint before;
	RctlClockPoint after = {end->flush, end->now, end->now};
	int64		passed;
	int			i;

	*lag = 0;
	if (lsn >= end->flush || (end->important != InvalidXLogRecPtr && lsn > end->important))
		return true;
	if (lsn_clock == NULL)
		return false;

	LWLockAcquire(lsn_clock_lock, LW_SHARED);
	if (lsn_clock->count == 0)
	{
		LWLockRelease(lsn_clock_lock);
		return false;
	}
	i = find_point(lsn);
	before = lsn_clock->points[Max(i, 0)];
	if (i + 1 < lsn_clock->count)
		after = lsn_clock->points[i + 1];
	LWLockRelease(lsn_clock_lock);

	if (i < 0)
		passed = before.since;
	else if (before.until > before.since)
	{
		/*
		 * WAL stood still, and began to move some time before it was seen:
		 * take the latest.
		 */
		passed = after.since;
	}
	else
	{
		double		part = after.lsn > before.lsn ?
		(double) (lsn - before.lsn) / (double) (after.lsn - before.lsn) : 0;

		passed = before.until + (int64) (part * (after.since - before.until));
	}
	*lag = Max(end->now - passed, 0);
	return true;
}

/* Drops every second point of the older half. Needs the lock. */
static void
thin_out(void)
{
	int			half = lsn_clock->count / 2;
	int			kept = 0;

	for (int i = 0; i < lsn_clock->count; i++)
	{
		if (i >= half || i % 2 == 0)
			lsn_clock->points[kept++] = lsn_clock->points[i];
	}
	lsn_clock->count = kept;
}

/* Needs the lock. */
static void
add_point(XLogRecPtr lsn, int64 since, int64 until)
{
	if (lsn_clock->count == RCTL_CLOCK_POINTS)
		thin_out();
	lsn_clock->points[lsn_clock->count++] = (RctlClockPoint)
	{
		lsn, since, until
	};
}

void
rctl_clock_tick(const RctlWalEnd *end)
{
	RctlClockPoint *last;

	LWLockAcquire(lsn_clock_lock, LW_EXCLUSIVE);
	last = lsn_clock->count > 0 ? &lsn_clock->points[lsn_clock->count - 1] : NULL;
	if (last && last->lsn == end->flush)
		last->until = Max(last->until, end->now);
	else
	{
		/* WAL never moves backwards while a server runs. */
		if (last && last->lsn > end->flush)
			lsn_clock->count = 0;
		add_point(end->flush, end->now, end->now);
	}
	LWLockRelease(lsn_clock_lock);
}

bool
rctl_clock_is_empty(void)
{
	bool		empty;

	LWLockAcquire(lsn_clock_lock, LW_SHARED);
	empty = lsn_clock->count == 0;
	LWLockRelease(lsn_clock_lock);
	return empty;
}

int
rctl_clock_read(RctlClockPoint *points)
{
	int			count;

	LWLockAcquire(lsn_clock_lock, LW_SHARED);
	count = lsn_clock->count;
	memcpy(points, lsn_clock->points, sizeof(RctlClockPoint) * count);
	LWLockRelease(lsn_clock_lock);
	return count;
}

void
rctl_clock_restore(const RctlClockPoint *points, int count, const RctlWalEnd *end)
{
	XLogRecPtr	lsn = 0;
	int64		time = PG_INT64_MIN;

	LWLockAcquire(lsn_clock_lock, LW_EXCLUSIVE);
	lsn_clock->count = 0;
	for (int i = 0; i < count; i++)
	{
		const RctlClockPoint *p = &points[i];

		if (p->lsn <= lsn || p->lsn > end->flush || p->since < time ||
			p->until < p->since || p->until > end->now)
			continue;
		add_point(p->lsn, p->since, p->until);
		lsn = p->lsn;
		time = p->until;
	}
	LWLockRelease(lsn_clock_lock);
}

static int
compare_points(const void *a, const void *b)
{
	XLogRecPtr	x = ((const RctlClockPoint *) a)->lsn;
	XLogRecPtr	y = ((const RctlClockPoint *) b)->lsn;

	return x < y ? -1 : x > y ? 1 : 0;
}

void
rctl_clock_estimate(const RctlWalEnd *end)
{
	int64		to_monotonic = end->now - GetCurrentTimestamp();
	RctlClockPoint *points = palloc(sizeof(RctlClockPoint) * 64);
	int			room = 64;
	int			count = 0;
	int64		later = end->now;
	DIR		   *dir = AllocateDir(XLOGDIR);
	struct dirent *entry;

	while ((entry = ReadDirExtended(dir, XLOGDIR, LOG)) != NULL)
	{
		char		path[MAXPGPATH];
		struct stat status;
		TimeLineID	timeline;
		XLogSegNo	segment;
		XLogRecPtr	lsn;
		int64		time;

		if (!IsXLogFileName(entry->d_name))
			continue;
		XLogFromFileName(entry->d_name, &timeline, &segment, wal_segment_size);
		XLogSegNoOffsetToRecPtr(segment + 1, 0, wal_segment_size, lsn);
		snprintf(path, sizeof(path), XLOGDIR "/%s", entry->d_name);

		/*
		 * Those ahead wait to be used again: their time is of another
		 * content.
		 */
		if (lsn > end->flush || stat(path, &status) != 0)
			continue;
		time = (int64) time_t_to_timestamptz(status.st_mtime) + to_monotonic;
		if (count == room)
			points = repalloc(points, sizeof(RctlClockPoint) * (room *= 2));
		points[count++] = (RctlClockPoint)
		{
			lsn, time, time
		};
	}
	FreeDir(dir);

	/*
	 * Nothing was written later than what comes after it (copied files, clock
	 * steps).
	 */
	qsort(points, count, sizeof(RctlClockPoint), compare_points);
	for (int i = count - 1; i >= 0; i--)
	{
		later = Min(points[i].since, later);
		points[i].since = points[i].until = later;
	}
	rctl_clock_restore(points, count, end);
	pfree(points);
}
