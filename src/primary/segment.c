/*-------------------------------------------------------------------------
 *
 * segment.c
 *	  Where in a WAL segment this server's WAL ends.
 *
 * A standby that is promoted in mid-segment copies that segment to its new
 * timeline, block by block, before it accepts writes: most of the time that a
 * promotion takes.  One whose WAL ends with a segment only makes a new file.
 * So before writes are stopped, the segment is filled with records that do
 * nothing until little is left, and when they are stopped it is ended.
 *
 * The rest of a segment that is ended is sent to standbys as zeros, which is
 * why it must be short, and why the filling comes before.  All of this is for
 * speed: WAL that someone writes in between makes the promotion slower, not
 * wrong.
 *
 * Nothing here is kept, in memory or on disk.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "catalog/pg_control.h"

#include "primary/segment.h"

/* Filled until this is left: other sessions go on writing until the fence is up. */
#define LEAVE_BYTES (512 * 1024)

/* Ended when no more than this is left. */
#define END_BYTES (2 * 1024 * 1024)

/* Larger segments are rare, and not worth it. */
#define LARGEST_SEGMENT (64 * 1024 * 1024)

/* Flushed at once: other sessions' commits wait for this. */
#define PIECE_BYTES (256 * 1024)
#define RECORD_BYTES (32 * 1024)

static int
bytes_left(void)
{
	return wal_segment_size - (int) XLogSegmentOffset(GetXLogInsertRecPtr(), wal_segment_size);
}

/* A record that does nothing; returns its end. */
static XLogRecPtr
insert_nothing(int bytes)
{
	static char nothing[RECORD_BYTES];

	Assert(bytes > 0 && bytes <= RECORD_BYTES);
	XLogBeginInsert();
	XLogRegisterData(nothing, bytes);
	return XLogInsert(RM_XLOG_ID, XLOG_NOOP);
}

bool
rctl_segment_fill(void)
{
	XLogRecPtr	end = InvalidXLogRecPtr;

	if (wal_segment_size > LARGEST_SEGMENT || bytes_left() <= LEAVE_BYTES)
		return true;
	for (int done = 0; done < PIECE_BYTES; done += RECORD_BYTES)
		end = insert_nothing(RECORD_BYTES);
	XLogFlush(end);
	return false;
}

XLogRecPtr
rctl_segment_end(void)
{
	XLogRecPtr	end;
	int			over;

	if (bytes_left() > END_BYTES)
	{
		end = insert_nothing(1);
		XLogFlush(end);
		return end;
	}

	/*
	 * Flushes up to the end of the segment, but returns the end of its own
	 * record.
	 */
	end = RequestXLogSwitch(false);
	over = XLogSegmentOffset(end, wal_segment_size);
	return over == 0 ? end : end + wal_segment_size - over;
}
