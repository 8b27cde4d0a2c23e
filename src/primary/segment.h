/*-------------------------------------------------------------------------
 *
 * segment.h
 *	  Where in a WAL segment this server's WAL ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_SEGMENT_H
#define REPLICA_CTL_PRIMARY_SEGMENT_H

#include "access/xlogdefs.h"

/*
 * Fills a part of the current WAL segment.  True when so little of it is left
 * that rctl_segment_end() will end it, or when it is too large to be filled;
 * else to be called again, after a look at whatever may have been asked.
 */
extern bool rctl_segment_fill(void);

/*
 * Flushes all WAL, asynchronous commits included, and ends the current segment
 * if little of it is left.  Returns the end of this server's WAL, if nobody
 * has written any since.
 */
extern XLogRecPtr rctl_segment_end(void);

#endif							/* REPLICA_CTL_PRIMARY_SEGMENT_H */
