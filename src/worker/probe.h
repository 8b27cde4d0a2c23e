/*-------------------------------------------------------------------------
 *
 * probe.h
 *	  Asks replicas how they are, all at once.
 *
 * Each replica has a connection and a state of its own.  Nothing here waits:
 * the monitor waits for all sockets and deadlines together, so that a replica
 * that hangs or is dead delays no other one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_WORKER_PROBE_H
#define REPLICA_CTL_WORKER_PROBE_H

#include "libpq-fe.h"

#include "net/resolve.h"
#include "net/wait.h"
#include "primary/samples.h"
#include "provider/provider.h"

typedef enum RctlProbePhase
{
	RCTL_PROBE_CLOSED,			/* no connection; the next try is at retry_at */
	RCTL_PROBE_RESOLVING,		/* its host name is looked up */
	RCTL_PROBE_CONNECTING,
	RCTL_PROBE_READY,			/* connected, nothing asked */
	RCTL_PROBE_ASKED,			/* waits for the answer */
} RctlProbePhase;

typedef struct RctlProbe
{
	int64		id;				/* of the replica; 0: free */
	bool		listed;			/* in the registry as it was last read */
	char	   *conninfo;		/* in context; NULL: it cannot be asked */
	RctlReplica *replica;		/* in context */
	MemoryContext context;
	RctlProbePhase phase;
	PGconn	   *conn;
	RctlResolve *resolve;		/* of the phase RESOLVING, in TopMemoryContext */
	int			events;			/* WL_SOCKET_* that it waits for */
	int64		deadline;		/* monotonic, of the phases RESOLVING,
								 * CONNECTING and ASKED */
	int64		retry_at;		/* monotonic, of the phase CLOSED */
	int			failures;		/* since the last answer */
	RctlReplicaSample sample;
	bool		changed;		/* sample is not in shared memory yet */
} RctlProbe;

/* Takes a replica, whose memory is in context, into a free probe or one that has it already. */
extern void rctl_probe_set(RctlProbe *probe, RctlReplica *replica, char *conninfo, MemoryContext context);

/* Frees it. */
extern void rctl_probe_clear(RctlProbe *probe);

/* A new round: asks if it is connected, connects if it is time to. */
extern void rctl_probe_round(RctlProbe *probe, int64 now);

/* What to wait for, with its events. */
extern pgsocket rctl_probe_socket(const RctlProbe *probe);

/* Goes on after its socket became ready or its deadline passed. */
extern void rctl_probe_advance(RctlProbe *probe, int ready, int64 now);

#endif							/* REPLICA_CTL_WORKER_PROBE_H */
