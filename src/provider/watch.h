/*-------------------------------------------------------------------------
 *
 * watch.h
 *	  How the monitor watches replicas that a service runs.
 *
 * A provider whose replicas are known to an HTTP service has a generator,
 * RctlProvider.watch.  The monitor runs one round of it for each foreign
 * server (and each user whose mapping applies) every poll_interval: a fresh
 * RctlWatch as the state, until the generator returns NULL.  Every answer is
 * for all replicas of the server, so that a round takes a few requests however
 * many there are.
 *
 * The generator tells what it finds out by the calls below.  What it does not
 * tell is unknown from then on, and shown as NULL: a missing data point is
 * never a 0.  It may raise an error: the round has failed then, what it told
 * before stays, replica_status shows the message, and the next round comes
 * after a pause that grows.  So a round needs no retries of its own.
 *
 * The monitor sees to poll_interval, time-outs of a whole round, pauses after
 * failures, shared memory, and to it that each event is written once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_WATCH_H
#define REPLICA_CTL_PROVIDER_WATCH_H

#include "net/http.h"
#include "net/map.h"
#include "provider/provider.h"

/* Metrics of one replica that there is room for. */
#define RCTL_WATCH_METRICS 8

/*
 * For the server options of a provider with a watch; the monitor reads it.
 * Seconds, not an interval, so that it can be told from an old value at once.
 */
#define RCTL_WATCH_INTERVAL_OPTION \
	{"poll_interval", RCTL_OPTION_INTEGER, \
	"seconds between two looks at the service's view of the replicas; default 60", 5, 86400}
#define RCTL_WATCH_INTERVAL 60

typedef struct RctlWatch
{
	/* All read only, and valid during the round. */
	const char *server;			/* name of the foreign server */
	Oid			serverid;
	Oid			userid;			/* whose user mapping it is; InvalidOid:
								 * PUBLIC's, or there is none */
	const RctlMap *server_options;
	const RctlMap *mapping;		/* NULL: that user has none, nor has PUBLIC */
	int			nreplicas;
	const RctlReplica *const *replicas; /* not those that were promoted; those
										 * that are being made only with the
										 * fact "service" */

	/*
	 * What the provider likes to remember until the next round, such as up to
	 * which time it has read events.  In memory only: it is empty after a
	 * restart, so that a first round looks back some time.  May be changed.
	 */
	RctlMap    *memory;

	void	   *state;			/* the generator's own; NULL at its first call */
	MemoryContext context;		/* of the round, for what lives longer than a
								 * request */
} RctlWatch;

/*
 * The calls.  replica is an index of watch->replicas.  Strings are cut to the
 * room there is, and made valid.
 */

/* The service's own word ("available", "migrating"), and 0 to 100 or -1; either may be NULL or -1. */
extern void rctl_watch_status(RctlWatch *watch, int replica, const char *status, int percent);

/*
 * Whether the service says that the replica replicates: shown as state and
 * connected by replica_status where the replica itself cannot be asked.  Not
 * told: unknown.
 */
extern void rctl_watch_streaming(RctlWatch *watch, int replica, bool streaming);

/* Where clients connect to: shown by replica_status if the replica's facts name no host. */
extern void rctl_watch_endpoint(RctlWatch *watch, int replica, const char *host, int port);

/*
 * RctlProvider.conninfo has another answer than before, for one of the replicas
 * at least: the monitor soon asks for it anew.
 */
extern void rctl_watch_login(RctlWatch *watch);

/*
 * How far the replica is behind by the service's measure, at the time the
 * data point is of.  Only if there is a data point.
 */
extern void rctl_watch_lag(RctlWatch *watch, int replica, double seconds, TimestampTz sampled_at);

/*
 * A value of a metric.  A metric of what the replica follows is told for the
 * replica, too: source says whose it is, "cloudwatch orders".  The last one
 * of a name counts.
 */
extern void rctl_watch_metric(RctlWatch *watch, int replica, const char *name, double value,
							  const char *unit, TimestampTz sampled_at, const char *source);

/*
 * Something that happened there, for replica_events.  id tells it from all
 * other events of this replica and kind, for ever: telling the same again
 * writes nothing, also after a restart.  replica -1: it is the server's.
 * severity is 'info', 'warning' or 'error'; kind is "aws", "aiven", ...;
 * detail may be NULL.
 */
extern void rctl_watch_event(RctlWatch *watch, int replica, const char *id, TimestampTz at,
							 const char *severity, const char *kind, const char *message,
							 const RctlMap *detail);

#endif							/* REPLICA_CTL_PROVIDER_WATCH_H */
