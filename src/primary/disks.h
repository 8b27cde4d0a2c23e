/*-------------------------------------------------------------------------
 *
 * disks.h
 *	  The file systems of this host that this server and its replicas use.
 *
 * Which ones there are is found when the registry is read; how full they are
 * is asked every sample.  Only the monitor calls this, but for nothing here
 * waits on more than the file system itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_DISKS_H
#define REPLICA_CTL_PRIMARY_DISKS_H

#include "nodes/pg_list.h"

#include "primary/samples.h"

/* Starts to look for them: those of this server. */
extern void rctl_disks_find(void);

/* Adds those of a replica's directories (char *); returns RctlReplicaSample.disks. */
extern uint64 rctl_disks_add(List *directories);

/* Asks for the room of each; before is the last sample. */
extern int	rctl_disks_sample(const RctlSamples *before, int64 now, RctlDiskSample *next);

#endif							/* REPLICA_CTL_PRIMARY_DISKS_H */
