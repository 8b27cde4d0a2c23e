/*-------------------------------------------------------------------------
 *
 * observe.c
 *	  This server's standbys, slots, WAL and disk, read where they are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/statvfs.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "common/ip.h"
#include "libpq/pqcomm.h"
#include "pgstat.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/backend_status.h"

#include "compat.h"
#include "primary/observe.h"

/* As pg_stat_replication has it. */
static const char *
sync_state(int index, int pid, int priority, const SyncRepStandbyData *candidates, int count)
{
	if (priority == 0)
		return "async";
	for (int i = 0; i < count; i++)
	{
		if (candidates[i].walsnd_index == index && candidates[i].pid == pid)
			return SyncRepConfig->syncrep_method == SYNC_REP_PRIORITY ? "sync" : "quorum";
	}
	return "potential";
}

int
rctl_observe_senders(RctlSender **senders)
{
	SyncRepStandbyData *candidates;
	int			ncandidates = SyncRepGetCandidateStandbys(&candidates);
	int			count = 0;

	*senders = palloc(sizeof(RctlSender) * Max(max_wal_senders, 1));
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *w = &WalSndCtl->walsnds[i];
		RctlSender *s = &(*senders)[count];
		int			priority;

		SpinLockAcquire(&w->mutex);
		s->pid = w->pid;
		s->state = w->state;
		s->sent = w->sentPtr;
		s->write = w->write;
		s->flush = w->flush;
		s->replay = w->apply;
		s->reply_time = w->replyTime;
		priority = w->sync_standby_priority;
		SpinLockRelease(&w->mutex);

		/* Others copy a base backup, or are about to end. */
		if (s->pid == 0 || (s->state != WALSNDSTATE_STARTUP &&
							s->state != WALSNDSTATE_CATCHUP && s->state != WALSNDSTATE_STREAMING))
			continue;

		/*
		 * Nothing is flushed that was not written, whatever an idle standby
		 * says.
		 */
		s->write = Max(s->write, s->flush);
		s->sync_state = sync_state(i, s->pid, s->flush == InvalidXLogRecPtr ? 0 : priority,
								   candidates, ncandidates);
		count++;
	}
	return count;
}

bool
rctl_sender_answers(const RctlSender *sender, const RctlStandbySample *sample, int64 now)
{
	/* Every message has its time; another one has come since the sample. */
	if (sample == NULL || sample->pid != sender->pid || sample->reply_time != sender->reply_time)
		return true;
	if (sender->sent > sender->write && sample->waiting != 0)
		return now - sample->waiting <= RCTL_SILENT_US;

	/*
	 * An idle standby is asked to show itself after half of
	 * wal_sender_timeout.
	 */
	return wal_sender_timeout <= 0 ||
		now - sample->answered <= wal_sender_timeout * INT64CONST(500) + RCTL_SILENT_US;
}

static RctlWalStatus
wal_status(XLogRecPtr restart_lsn, bool invalidated, int active_pid)
{
	if (invalidated)
		return RCTL_WAL_LOST;
	if (restart_lsn == InvalidXLogRecPtr)
		return RCTL_WAL_NONE;
	switch (GetWALAvailability(restart_lsn))
	{
		case WALAVAIL_RESERVED:
			return RCTL_WAL_RESERVED;
		case WALAVAIL_EXTENDED:
			return RCTL_WAL_EXTENDED;
		case WALAVAIL_UNRESERVED:
			return RCTL_WAL_UNRESERVED;
		case WALAVAIL_REMOVED:
			/* While its user goes on, it may still get ahead of the removal. */
			return active_pid != 0 ? RCTL_WAL_UNRESERVED : RCTL_WAL_LOST;
		case WALAVAIL_INVALID_LSN:
			break;
	}
	return RCTL_WAL_NONE;
}

int
rctl_observe_slots(RctlSlotFact **slots)
{
	int			count = 0;

	*slots = palloc(sizeof(RctlSlotFact) * Max(max_replication_slots, 1));
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		RctlSlotFact *fact = &(*slots)[count];
		ReplicationSlotPersistentData data;

		if (!slot->in_use)
			continue;
		SpinLockAcquire(&slot->mutex);
		data = slot->data;
		fact->active_pid = slot->active_pid;
		SpinLockRelease(&slot->mutex);

		strlcpy(fact->name, NameStr(data.name), NAMEDATALEN);
		fact->physical = data.database == InvalidOid;
		fact->temporary = data.persistency == RS_TEMPORARY;
		fact->restart_lsn = data.restart_lsn;
		fact->wal_status = wal_status(data.restart_lsn, rctl_slot_invalidated(&data), fact->active_pid);
		count++;
	}
	LWLockRelease(ReplicationSlotControlLock);
	return count;
}

bool
rctl_observe_backend(int pid, RctlStandbySample *sample)
{
	int			count = pgstat_fetch_stat_numbackends();

	for (int i = 1; i <= count; i++)
	{
		LocalPgBackendStatus *local = rctl_local_backend(i);
		PgBackendStatus *backend;

		if (local == NULL)
			continue;
		backend = &local->backendStatus;
		if (backend->st_procpid != pid)
			continue;
		if (backend->st_databaseid != InvalidOid)
			return false;
		strlcpy(sample->application_name, backend->st_appname, NAMEDATALEN);
		sample->client_addr[0] = '\0';
		if (backend->st_clientaddr.addr.ss_family == AF_INET ||
			backend->st_clientaddr.addr.ss_family == AF_INET6)
		{
			if (pg_getnameinfo_all(&backend->st_clientaddr.addr, backend->st_clientaddr.salen,
								   sample->client_addr, RCTL_ADDRESS_LEN, NULL, 0, NI_NUMERICHOST) != 0)
				sample->client_addr[0] = '\0';
			/* An IPv6 scope is not part of an inet. */
			sample->client_addr[strcspn(sample->client_addr, "%")] = '\0';
		}
		return true;
	}
	return false;
}

/* The files that wait to be archived. */
static void
observe_archive(RctlServerSample *server)
{
	DIR		   *dir;
	struct dirent *entry;

	server->archive_ready = 0;
	server->archive_lsn = InvalidXLogRecPtr;
	dir = AllocateDir(XLOGDIR "/archive_status");
	while ((entry = ReadDirExtended(dir, XLOGDIR "/archive_status", LOG)) != NULL)
	{
		const char *suffix = strrchr(entry->d_name, '.');
		char		name[MAXFNAMELEN];
		TimeLineID	timeline;
		XLogSegNo	segment;
		XLogRecPtr	lsn;

		if (suffix == NULL || strcmp(suffix, ".ready") != 0)
			continue;
		server->archive_ready++;
		strlcpy(name, entry->d_name, Min(sizeof(name), suffix - entry->d_name + 1));
		if (!IsXLogFileName(name))
			continue;
		XLogFromFileName(name, &timeline, &segment, wal_segment_size);
		XLogSegNoOffsetToRecPtr(segment, 0, wal_segment_size, lsn);
		if (server->archive_lsn == InvalidXLogRecPtr || lsn < server->archive_lsn)
			server->archive_lsn = lsn;
	}
	FreeDir(dir);
}

void
rctl_observe_files(RctlServerSample *server, XLogRecPtr flush)
{
	DIR		   *dir = AllocateDir(XLOGDIR);
	struct dirent *entry;
	XLogSegNo	current;
	int64		ahead = 0;

	XLByteToSeg(flush, current, wal_segment_size);
	server->wal_segments = 0;
	while ((entry = ReadDirExtended(dir, XLOGDIR, LOG)) != NULL)
	{
		TimeLineID	timeline;
		XLogSegNo	segment;

		if (!IsXLogFileName(entry->d_name))
			continue;
		XLogFromFileName(entry->d_name, &timeline, &segment, wal_segment_size);
		server->wal_segments++;
		if (segment > current)
			ahead++;
	}
	FreeDir(dir);
	server->wal_bytes = (uint64) server->wal_segments * wal_segment_size;
	server->ahead_bytes = (uint64) ahead * wal_segment_size;
	observe_archive(server);
}

void
rctl_observe_disk(RctlServerSample *server)
{
	struct statvfs status;

	if (statvfs(XLOGDIR, &status) != 0)
		return;
	server->free_bytes = (uint64) status.f_bavail * status.f_frsize;
	server->total_bytes = (uint64) status.f_blocks * status.f_frsize;
}
