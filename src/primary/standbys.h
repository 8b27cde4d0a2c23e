/*-------------------------------------------------------------------------
 *
 * standbys.h
 *	  Every standby, ours or not, connected or not, put together from what is
 *	  known: WAL senders now, what they said before, what replicas answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_STANDBYS_H
#define REPLICA_CTL_PRIMARY_STANDBYS_H

#include "primary/observe.h"

typedef struct RctlStandby
{
	const RctlReplicaSample *replica;	/* NULL: not in the registry */
	const char *application_name;
	const char *client_addr;	/* "": none, or a Unix-domain socket */
	const char *state;			/* streaming, catching_up, disconnected,
								 * stopped, promoted */
	const char *sync_state;		/* NULL: not connected here */
	bool		connected;
	XLogRecPtr	sent;			/* 0: not known, as for the next three */
	XLogRecPtr	write;
	XLogRecPtr	flush;
	XLogRecPtr	replay;
} RctlStandby;

/*
 * A palloc'd array that points into samples; the number of elements is
 * returned.  Fills in end, before the positions of standbys are read.
 */
extern int	rctl_standbys(const RctlSamples *samples, RctlWalEnd *end, RctlStandby **standbys);

/* Whether the replica has answered lately. */
extern bool rctl_replica_answers(const RctlReplicaSample *replica, int64 now);

/* The next samples of WAL senders, with those that have gone and are worth to be remembered. */
extern int	rctl_standbys_track(const RctlSamples *before, const RctlSlotFact *slots, int nslots,
								int64 now, RctlStandbySample *next);

#endif							/* REPLICA_CTL_PRIMARY_STANDBYS_H */
