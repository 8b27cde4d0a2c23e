/*-------------------------------------------------------------------------
 *
 * observe.h
 *	  This server's standbys, slots, WAL and disk, read where they are.
 *
 * WAL senders and slots are read from PostgreSQL's shared memory under its
 * own locks; pg_wal and its file system by the operating system.  No SQL, no
 * network: safe to call at any time, in any process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_OBSERVE_H
#define REPLICA_CTL_PRIMARY_OBSERVE_H

#include "primary/samples.h"
#include "replication/slot.h"
#include "replication/walsender_private.h"

/* A WAL sender that serves a standby, as it is now. */
typedef struct RctlSender
{
	int			pid;
	WalSndState state;
	const char *sync_state;		/* as in pg_stat_replication */
	XLogRecPtr	sent;			/* 0: not known, as for the next three */
	XLogRecPtr	write;
	XLogRecPtr	flush;
	XLogRecPtr	replay;
	TimestampTz reply_time;
} RctlSender;

typedef enum RctlWalStatus
{
	RCTL_WAL_NONE,				/* the slot reserves none */
	RCTL_WAL_RESERVED,
	RCTL_WAL_EXTENDED,
	RCTL_WAL_UNRESERVED,
	RCTL_WAL_LOST,
} RctlWalStatus;

/* A replication slot, as it is now. */
typedef struct RctlSlotFact
{
	char		name[NAMEDATALEN];
	bool		physical;
	bool		temporary;
	int			active_pid;
	XLogRecPtr	restart_lsn;	/* 0: it reserves no WAL */
	RctlWalStatus wal_status;
} RctlSlotFact;

/* palloc'd arrays; the number of elements is returned. */
extern int	rctl_observe_senders(RctlSender **senders);
extern int	rctl_observe_slots(RctlSlotFact **slots);

/*
 * Whether the standby answers: it is connected, and what was sent to it is
 * not left without an answer for long.  sample is what was known of it
 * before, or NULL.
 */
extern bool rctl_sender_answers(const RctlSender *sender, const RctlStandbySample *sample, int64 now);

/* Name, address and whether it serves a standby at all (not a logical subscriber); false if it has gone. */
extern bool rctl_observe_backend(int pid, RctlStandbySample *sample);

/* Looks through pg_wal and its archive_status; asks for the room in the file system. */
extern void rctl_observe_files(RctlServerSample *server, XLogRecPtr flush);
extern void rctl_observe_disk(RctlServerSample *server);

#endif							/* REPLICA_CTL_PRIMARY_OBSERVE_H */
