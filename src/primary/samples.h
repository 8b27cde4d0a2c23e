/*-------------------------------------------------------------------------
 *
 * samples.h
 *	  What the monitor saw last, and a while ago, in shared memory.
 *
 * The monitor writes, views read; one lock covers everything here and is held
 * for copying only.  No table row and no WAL is ever written for a sample.
 * A clean shutdown saves it all to a file (saved.c); a crash loses it.
 *
 * Fields called mono are microseconds of the monotonic clock (clock.h), with
 * which ages are computed; fields of type TimestampTz are for people.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_SAMPLES_H
#define REPLICA_CTL_PRIMARY_SAMPLES_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#include "primary/clock.h"

#define RCTL_ADDRESS_LEN 64
#define RCTL_HOLDER_LEN 96
#define RCTL_REASON_LEN 200
#define RCTL_DISK_LEN 256

/* File systems that are watched: the bits of RctlReplicaSample.disks. */
#define RCTL_MAX_DISKS 64

/* A standby that does not answer for so long, with WAL on its way to it, is not connected. */
#define RCTL_SILENT_US INT64CONST(5000000)

/* This server.  All fields: lock. */
typedef struct RctlServerSample
{
	TimestampTz at;				/* 0: never sampled */
	int64		mono;
	XLogRecPtr	flush;
	double		wal_rate;		/* bytes a second, smoothed */
	double		rated;			/* seconds that the rate is made of */
	uint64		wal_bytes;		/* size of pg_wal */
	int64		wal_segments;
	uint64		ahead_bytes;	/* of it, files that wait to be used again */
	uint64		free_bytes;		/* of the file system that holds pg_wal */
	uint64		total_bytes;
	double		other_rate;		/* growth of what else is in that file system */
	double		other_rated;
	int64		scan_mono;		/* when pg_wal was last looked through */
	uint64		scan_free_bytes;	/* free then */
	int64		archive_ready;	/* files that wait to be archived */
	XLogRecPtr	archive_lsn;	/* the oldest of them; 0: none */
	int64		archive_failed; /* failed attempts since the statistics were
								 * reset */
	char		held_by[RCTL_HOLDER_LEN];	/* what keeps the oldest WAL; "" =
											 * nothing */
	char		held_slot[NAMEDATALEN]; /* its name, if it is a slot */
	uint64		held_bytes;
	double		held_rate;		/* growth of that, bytes a second */
	double		time_to_full;	/* seconds; negative: not in sight */
	uint64		oldest_slot_bytes;	/* kept by the slot that keeps most */
} RctlServerSample;

/* A replication slot.  All fields: lock. */
typedef struct RctlSlotSample
{
	char		name[NAMEDATALEN];
	char		replica[NAMEDATALEN];	/* whose it is by the registry; "": no
										 * replica's */
	bool		busy;			/* that is being made or dropped */
	bool		judged;			/* the registry could be read, so that this is
								 * known */
	XLogRecPtr	restart_lsn;
	uint64		retained_bytes;
	double		growth;			/* bytes a second, smoothed */
	double		steady_growth;	/* the same over minutes: bursts do not count */
	double		rated;			/* seconds that growth is made of */
	int64		mono;
	TimestampTz inactive_since; /* 0: it is in use */
	int			said;			/* the worst RctlVerdict since it was well */
	int64		calm_since;		/* mono: since when it is well; 0: it is not */
} RctlSlotSample;

/* A file system that this server or replicas on this host use.  All fields: lock. */
typedef struct RctlDiskSample
{
	uint64		device;
	char		path[RCTL_DISK_LEN];	/* where it is mounted */
	bool		wal;			/* this server's pg_wal is there */
	bool		data;			/* its data directory or a tablespace is */
	uint64		free_bytes;
	uint64		total_bytes;	/* 0: it cannot be asked */
	double		growth;			/* bytes a second, smoothed */
	double		rated;			/* seconds that it is made of */
	int64		mono;
} RctlDiskSample;

/* A standby that is connected to this server, or was.  All fields: lock. */
typedef struct RctlStandbySample
{
	int			pid;			/* of its walsender; 0: it has gone */
	char		application_name[NAMEDATALEN];
	char		client_addr[RCTL_ADDRESS_LEN];	/* "": a Unix-domain socket */
	char		slot[NAMEDATALEN];
	XLogRecPtr	sent;			/* 0: not known, as for the next three */
	XLogRecPtr	write;
	XLogRecPtr	flush;
	XLogRecPtr	replay;
	TimestampTz reply_time;		/* in its last message, by its own clock */
	int64		answered;		/* mono: when its last message came */
	int64		waiting;		/* mono: since when it owes an answer; 0: it
								 * does not */
	int64		seen;			/* mono: when it was last connected */
} RctlStandbySample;

/* A replica of the registry, as it answers itself.  All fields: lock. */
typedef struct RctlReplicaSample
{
	int64		id;				/* 0: free */
	char		name[NAMEDATALEN];
	char		provider[NAMEDATALEN];
	char		application_name[NAMEDATALEN];
	char		slot[NAMEDATALEN];
	bool		cascaded;		/* it follows another replica */
	uint64		disks;			/* bit i: it uses disk i of this host */
	bool		stopped;		/* its server is known not to run */
	int64		answered;		/* mono: of its last answer; 0: never */
	bool		in_recovery;
	bool		paused;
	bool		receiving;		/* its WAL receiver is streaming */
	uint32		timeline;
	XLogRecPtr	receive;
	XLogRecPtr	replay;
	char		reason[RCTL_REASON_LEN];	/* why it does not answer; "": it
											 * does */
} RctlReplicaSample;

/* A row of the history: this server, and the lag in seconds by replica (NaN: not known). */
typedef struct RctlHistoryRow
{
	TimestampTz at;
	uint64		free_bytes;
	uint64		total_bytes;
	uint64		wal_bytes;
	uint64		oldest_slot_bytes;
	double		wal_rate;
} RctlHistoryRow;

/* A copy of everything but the history, palloc'd. */
typedef struct RctlSamples
{
	RctlServerSample server;
	int			nslots;
	RctlSlotSample *slots;
	int			ndisks;
	RctlDiskSample *disks;
	int			nstandbys;
	RctlStandbySample *standbys;
	int			nreplicas;
	RctlReplicaSample *replicas;	/* by index of the registry, with gaps */
} RctlSamples;

extern void rctl_samples_shmem_request(void);
extern void rctl_samples_shmem_init(void);

/* Empty where the library is not preloaded. */
extern RctlSamples *rctl_samples_read(void);

/* Copies the history, oldest first; lags has nreplicas values a row, by index of the registry. */
extern int	rctl_history_read(RctlHistoryRow **rows, float4 **lags, int *nreplicas);

extern const RctlSlotSample *rctl_samples_slot(const RctlSamples *samples, const char *name);

/* ---- monitor only ---- */

/* Room for these. */
extern int	rctl_samples_max_standbys(void);
extern int	rctl_samples_max_slots(void);

extern void rctl_samples_write_server(const RctlServerSample *server);
extern void rctl_samples_write_slots(const RctlSlotSample *slots, int count);
extern void rctl_samples_write_disks(const RctlDiskSample *disks, int count);
extern void rctl_samples_write_standbys(const RctlStandbySample *standbys, int count);
extern void rctl_samples_write_replica(int index, const RctlReplicaSample *replica);

/* Adds a row; lags has rctl_max_replicas values. */
extern void rctl_history_add(const RctlHistoryRow *row, const float4 *lags);

/* Forgets the lags of an index: another replica gets it. */
extern void rctl_history_clear(int index);

/* To a file, and back.  A file that does not fit this server is left out. */
extern void rctl_samples_save(void);
extern void rctl_samples_load(const RctlWalEnd *end);

/* Removes the file: what is in shared memory is newer. */
extern void rctl_samples_discard(void);

#endif							/* REPLICA_CTL_PRIMARY_SAMPLES_H */
