/*-------------------------------------------------------------------------
 *
 * services.h
 *	  What services told last about the replicas that they run, in shared
 *	  memory.
 *
 * The monitor writes, views read; one lock covers everything here and is held
 * for copying only.  Nothing survives a restart: the services are asked anew.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_SERVICES_H
#define REPLICA_CTL_PRIMARY_SERVICES_H

#include "datatype/timestamp.h"

#define RCTL_SERVICE_METRICS 8

typedef struct RctlServiceMetric
{
	char		name[48];
	char		unit[16];
	char		source[64];
	double		value;
	TimestampTz sampled_at;
} RctlServiceMetric;

/* A replica.  All fields: lock. */
typedef struct RctlServiceSample
{
	int64		id;				/* 0: free */
	char		name[NAMEDATALEN];
	TimestampTz polled_at;		/* of the last round that succeeded; 0: none
								 * has, and what follows is unknown */
	TimestampTz fresh_until;	/* then it is not known any more whether it
								 * streams */
	bool		streaming;		/* the service says that it replicates */
	bool		streaming_known;
	char		status[64];		/* the service's word; "": none */
	int			percent;		/* -1: not told */
	char		host[256];		/* ""; not told */
	int			port;
	double		lag;			/* seconds */
	TimestampTz lag_at;			/* of the data point; 0: there is none */
	int			nmetrics;
	RctlServiceMetric metrics[RCTL_SERVICE_METRICS];
	char		message[200];	/* why the last round failed; "": it did not */
} RctlServiceSample;

extern void rctl_services_shmem_request(void);
extern void rctl_services_shmem_init(void);

/* Copies all, palloc'd; returns how many. */
extern int	rctl_services_read(RctlServiceSample **samples);

/* ---- monitor only ---- */

/* Replaces the one with this id, or takes a free place. */
extern void rctl_services_write(const RctlServiceSample *sample);

/* A copy of the one with this id; an empty one if there is none. */
extern void rctl_services_get(int64 id, RctlServiceSample *sample);

/* Forgets all replicas but these. */
extern void rctl_services_keep(const int64 *ids, int nids);

#endif							/* REPLICA_CTL_PRIMARY_SERVICES_H */
