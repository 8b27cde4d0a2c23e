/*-------------------------------------------------------------------------
 *
 * monitor.c
 *	  Watches this server and its replicas.
 *
 * One static worker.  Every sample_interval it reads this server's WAL, slots,
 * standbys and disk out of shared memory and the file system, and asks every
 * replica of the registry by libpq; once a second, however long the interval
 * is, it moves the LSN clock on.  All sockets and deadlines are waited for
 * together, those of the services that are asked about replicas (watcher.c)
 * too.  The registry is read when it has changed; no transaction is open while
 * anything is waited for.
 *
 * Durable: nothing, but for the file that is written at shutdown (samples.c).
 * In memory: the probes, one a replica, and what is in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "core/board.h"
#include "core/store.h"
#include "net/http.h"
#include "net/wait.h"
#include "primary/clock.h"
#include "primary/disks.h"
#include "primary/fence.h"
#include "primary/forecast.h"
#include "primary/standbys.h"
#include "settings.h"
#include "worker/guard.h"
#include "worker/probe.h"
#include "worker/watcher.h"
#include "worker/webhook.h"
#include "worker/worker.h"

/* Microseconds. */
#define TICK_US INT64CONST(1000000)
#define REGISTRY_US INT64CONST(60000000)
#define EXTENSION_US INT64CONST(2000000)	/* to see CREATE EXTENSION */
#define REGISTRY_PAUSE_US INT64CONST(100000)
#define ERROR_PAUSE_US INT64CONST(5000000)

/* While slots may be dropped for the sake of the disk, it is looked at this often. */
#define GUARD_US INT64CONST(10000000)

/* Looking through pg_wal takes at most one part in so many of the time. */
#define SCAN_PAUSE 500

typedef struct Monitor
{
	RctlProbe  *probes;			/* rctl_max_replicas of them; the index is
								 * that of the history */
	bool		registry_known; /* it was read at least once */
	bool		installed;		/* the extension existed when it was read */
	uint64		registry_changes;	/* rctl_board_changes() when it was read */
	List	   *slot_owners;	/* RctlSlotOwner *, in owners_context */
	MemoryContext owners_context;
	int64		registry_at;	/* monotonic, as for the next four */
	int64		next_tick;
	int64		next_sample;
	int64		next_scan;
	int64		paused_until;	/* after an error */
} Monitor;

static Monitor monitor;

/* ---------------------------------------------------------------------
 * The registry
 * ---------------------------------------------------------------------
 */

static RctlProbe *
find_probe(int64 id)
{
	RctlProbe  *unused = NULL;

	for (int i = 0; i < rctl_max_replicas; i++)
	{
		if (monitor.probes[i].id == id)
			return &monitor.probes[i];
		if (monitor.probes[i].id == 0 && unused == NULL)
			unused = &monitor.probes[i];
	}
	if (unused)
		rctl_history_clear(unused - monitor.probes);
	return unused;
}

static void
write_probes(void)
{
	for (int i = 0; i < rctl_max_replicas; i++)
	{
		RctlProbe  *probe = &monitor.probes[i];

		if (probe->changed)
			rctl_samples_write_replica(i, &probe->sample);
		probe->changed = false;
	}
}

static void
take_replica(const RctlMonitored *monitored)
{
	RctlProbe  *probe = find_probe(monitored->replica->id);
	MemoryContext context;
	MemoryContext old;
	RctlReplica *replica;
	char	   *conninfo = NULL;

	if (probe == NULL)
		return;
	context = AllocSetContextCreate(TopMemoryContext, "replica_ctl probe", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	replica = rctl_watcher_copy_replica(monitored->replica);
	if (replica->provider->conninfo)
		conninfo = replica->provider->conninfo(replica, monitored->mapping);
	MemoryContextSwitchTo(old);
	rctl_probe_set(probe, replica, conninfo, context);
	probe->sample.disks = replica->provider->directories ?
		rctl_disks_add(replica->provider->directories(replica)) : 0;
	probe->listed = true;
}

/* Which slots are whose; in the store's bracket. */
static void
read_slot_owners(void)
{
	List	   *list = rctl_store_slot_owners();
	ListCell   *lc;
	MemoryContext old;

	MemoryContextReset(monitor.owners_context);
	monitor.slot_owners = NIL;
	old = MemoryContextSwitchTo(monitor.owners_context);
	foreach(lc, list)
	{
		const RctlSlotOwner *from = lfirst(lc);
		RctlSlotOwner *to = palloc(sizeof(RctlSlotOwner));

		to->slot = pstrdup(from->slot);
		to->replica = pstrdup(from->replica);
		to->busy = from->busy;
		monitor.slot_owners = lappend(monitor.slot_owners, to);
	}
	MemoryContextSwitchTo(old);
}

static void
read_registry(int64 now)
{
	List	   *list = NIL;
	ListCell   *lc;

	monitor.registry_changes = rctl_board_changes();
	monitor.registry_at = now;
	rctl_store_begin();
	monitor.installed = rctl_store_installed();
	if (monitor.installed)
	{
		list = rctl_store_monitored(rctl_max_replicas);
		read_slot_owners();
	}
	rctl_store_commit();
	rctl_disks_find();

	/* First make room, then take in. */
	for (int i = 0; i < rctl_max_replicas; i++)
	{
		RctlProbe  *probe = &monitor.probes[i];

		probe->listed = false;
		foreach(lc, list)
			probe->listed |= ((RctlMonitored *) lfirst(lc))->replica->id == probe->id;
		if (!probe->listed && probe->id != 0)
			rctl_probe_clear(probe);
	}
	foreach(lc, list)
		take_replica(lfirst(lc));
	rctl_watcher_registry(list, now);
	monitor.registry_known = true;
	/* New ones are asked at once. */
	for (int i = 0; i < rctl_max_replicas; i++)
	{
		if (monitor.probes[i].listed && monitor.probes[i].sample.answered == 0)
			rctl_probe_round(&monitor.probes[i], now);
	}
}

/* ---------------------------------------------------------------------
 * Samples
 * ---------------------------------------------------------------------
 */

/* The clock and the standbys. */
static void
tick(int64 now)
{
	RctlSamples *before = rctl_samples_read();
	RctlStandbySample *standbys = palloc(sizeof(RctlStandbySample) * rctl_samples_max_standbys());
	RctlSlotFact *slots;
	int			nslots;
	RctlWalEnd	end;

	pgstat_clear_snapshot();
	rctl_wal_end(&end);
	rctl_clock_tick(&end);
	nslots = rctl_observe_slots(&slots);
	rctl_samples_write_standbys(standbys,
								rctl_standbys_track(before, slots, nslots, now, standbys));
}

static void
find_owner(RctlSlotSample *slot)
{
	ListCell   *lc;

	slot->judged = monitor.registry_known && monitor.installed;
	slot->replica[0] = '\0';
	slot->busy = false;
	foreach(lc, monitor.slot_owners)
	{
		const RctlSlotOwner *owner = lfirst(lc);

		if (strcmp(owner->slot, slot->name) != 0)
			continue;
		strlcpy(slot->replica, owner->replica, NAMEDATALEN);
		slot->busy = owner->busy;
	}
}

/* The slots; returns how many.  facts and next have the same order. */
static int
sample_slots(const RctlSamples *before, const RctlWalEnd *end,
			 RctlSlotFact **facts, RctlSlotSample **next)
{
	int			count = rctl_observe_slots(facts);

	*next = palloc(sizeof(RctlSlotSample) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		rctl_forecast_slot(&(*next)[i], &(*facts)[i],
						   rctl_samples_slot(before, (*facts)[i].name), end);
		find_owner(&(*next)[i]);
	}
	return count;
}

static void
look_at_files(RctlServerSample *next, const RctlWalEnd *end)
{
	int64		start = rctl_clock_now();

	rctl_observe_disk(next);
	next->archive_failed = pgstat_fetch_stat_archiver()->failed_count;
	if (start < monitor.next_scan)
		return;
	rctl_observe_files(next, end->flush);
	next->scan_mono = start;
	next->scan_free_bytes = next->free_bytes;
	monitor.next_scan = start + (rctl_clock_now() - start) * SCAN_PAUSE;
}

static void
add_history(const RctlServerSample *server)
{
	RctlSamples *samples = rctl_samples_read();
	float4	   *lags = palloc(sizeof(float4) * rctl_max_replicas);
	RctlHistoryRow row = {
		server->at, server->free_bytes, server->total_bytes, server->wal_bytes,
		server->oldest_slot_bytes, server->wal_rate
	};
	RctlStandby *standbys;
	RctlWalEnd	end;
	int			count = rctl_standbys(samples, &end, &standbys);

	for (int i = 0; i < rctl_max_replicas; i++)
		lags[i] = (float4) NAN;
	for (int i = 0; i < count; i++)
	{
		int64		lag;

		if (standbys[i].replica && standbys[i].replay != InvalidXLogRecPtr &&
			rctl_clock_lag(standbys[i].replay, &end, &lag))
			lags[standbys[i].replica - samples->replicas] = lag / 1000000.0;
	}
	rctl_history_add(&row, lags);
}

static void
sample(int64 now)
{
	RctlSamples *before = rctl_samples_read();
	RctlServerSample next = before->server;
	RctlDiskSample *disks = palloc(sizeof(RctlDiskSample) * RCTL_MAX_DISKS);
	RctlSlotFact *facts;
	RctlSlotSample *slots;
	RctlWalEnd	end;
	int			nslots;

	rctl_wal_end(&end);
	nslots = sample_slots(before, &end, &facts, &slots);
	next.at = GetCurrentTimestamp();
	next.mono = end.now;
	next.flush = end.flush;
	look_at_files(&next, &end);
	rctl_forecast_server(&next, &before->server, facts, slots, nslots);
	rctl_samples_write_server(&next);
	rctl_samples_write_slots(slots, nslots);
	rctl_samples_write_disks(disks, rctl_disks_sample(before, end.now, disks));
	add_history(&next);

	for (int i = 0; i < rctl_max_replicas; i++)
	{
		if (monitor.probes[i].listed)
			rctl_probe_round(&monitor.probes[i], now);
	}
	write_probes();
	if (monitor.installed && !rctl_fence_is_up())
	{
		rctl_guard(rctl_samples_read(), facts, slots, nslots, &end);
		rctl_samples_write_slots(slots, nslots);
	}
}

/* ---------------------------------------------------------------------
 * The loop
 * ---------------------------------------------------------------------
 */

/* The next time after now that is a multiple of period after the last one. */
static int64
next_time(int64 last, int64 period, int64 now)
{
	return last + period > now ? last + period : now + period;
}

static int64
registry_due(void)
{
	if (!monitor.registry_known)
		return 0;
	if (!monitor.installed)
		return monitor.registry_at + EXTENSION_US;
	return monitor.registry_at +
		(rctl_board_changes() != monitor.registry_changes ? REGISTRY_PAUSE_US : REGISTRY_US);
}

static void
work(void)
{
	int64		now = rctl_clock_now();
	int64		interval = rctl_sample_interval * INT64CONST(1000);

	if (rctl_slot_action == RCTL_SLOT_ACTION_DROP && rctl_disk_reserve > 0)
		interval = Min(interval, GUARD_US);
	/* A shorter interval takes effect at once. */
	monitor.next_sample = Min(monitor.next_sample, now + interval);
	if (now >= monitor.next_tick)
	{
		tick(now);
		monitor.next_tick = next_time(monitor.next_tick, Min(interval, TICK_US), now);
	}
	if (now >= registry_due())
		read_registry(now);
	if (now >= monitor.next_sample)
	{
		sample(now);
		monitor.next_sample = next_time(monitor.next_sample, interval, now);
	}
	rctl_watcher_work(now);
	rctl_webhook_work(now, monitor.installed);
	write_probes();
}

/* Waits for whatever comes first, and lets the probes go on. */
static void
wait_and_advance(void)
{
	int			nhttp = rctl_http_nsockets();
	RctlWaitSocket *sockets = palloc0(sizeof(RctlWaitSocket) * (rctl_max_replicas + nhttp));
	RctlProbe **owners = palloc(sizeof(RctlProbe *) * rctl_max_replicas);
	int64		until = Min(Min(monitor.next_tick, monitor.next_sample), Min(registry_due(), rctl_watcher_due()));
	int64		now = rctl_clock_now();
	int			count = 0;

	if (monitor.installed)
		until = Min(until, rctl_webhook_due());
	until = Max(until, monitor.paused_until);
	if (rctl_http_timeout() >= 0)
		until = Min(until, now + rctl_http_timeout() * 1000);
	for (int i = 0; i < rctl_max_replicas; i++)
	{
		RctlProbe  *probe = &monitor.probes[i];

		if (probe->events == 0)
			continue;
		sockets[count].sock = rctl_probe_socket(probe);
		sockets[count].events = probe->events;
		owners[count++] = probe;
		until = Min(until, probe->deadline);
	}
	/* Rounded up, so that it does not wake before it is time. */
	nhttp = rctl_http_sockets(sockets + count, nhttp);
	rctl_wait_many(sockets, count + nhttp, Max(until - now + 999, 0) / 1000);
	rctl_http_advance(sockets + count, nhttp);
	now = rctl_clock_now();
	for (int i = 0; i < count; i++)
		rctl_probe_advance(owners[i], sockets[i].ready, now);
	write_probes();
}

/* One turn of the loop; an error ends the turn, not the monitor. */
static void
guarded_turn(MemoryContext turn_context)
{
	PG_TRY();
	{
		if (rctl_clock_now() >= monitor.paused_until)
			work();
		pgstat_report_activity(STATE_IDLE, NULL);
		wait_and_advance();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		LWLockReleaseAll();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		monitor.paused_until = rctl_clock_now() + ERROR_PAUSE_US;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(turn_context);
}

static void
save_at_exit(int code, Datum arg)
{
	LWLockReleaseAll();
	rctl_samples_save();
}

/* What is in shared memory, or in the file of the last shutdown. */
static void
recall(void)
{
	RctlSamples *samples;
	RctlWalEnd	end;

	rctl_wal_end(&end);
	if (rctl_clock_is_empty())
		rctl_samples_load(&end);
	else
		rctl_samples_discard();
	if (rctl_clock_is_empty())
		rctl_clock_estimate(&end);
	samples = rctl_samples_read();
	for (int i = 0; i < samples->nreplicas; i++)
	{
		monitor.probes[i].id = samples->replicas[i].id;
		monitor.probes[i].sample = samples->replicas[i];
	}
}

void
rctl_monitor_main(Datum arg)
{
	MemoryContext turn_context;

	rctl_worker_start();
	rctl_board_enter_monitor();
	/* An event that meets a fence fails; the monitor never waits for one. */
	SetConfigOption("replica_ctl.fence_action", "error", PGC_SUSET, PGC_S_OVERRIDE);
	monitor.probes = MemoryContextAllocZero(TopMemoryContext, sizeof(RctlProbe) * rctl_max_replicas);
	monitor.owners_context = AllocSetContextCreate(TopMemoryContext, "replica_ctl slot owners",
												   ALLOCSET_SMALL_SIZES);
	turn_context = AllocSetContextCreate(TopMemoryContext, "replica_ctl monitor turn",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(turn_context);
	recall();
	before_shmem_exit(save_at_exit, (Datum) 0);

	for (;;)
	{
		MemoryContextReset(turn_context);
		guarded_turn(turn_context);
	}
}
