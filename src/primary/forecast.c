/*-------------------------------------------------------------------------
 *
 * forecast.c
 *	  From samples to judgement: rates, who keeps the WAL, when the disk is
 *	  full, and what is to be done about a slot.
 *
 * pg_wal grows by what is written while the oldest WAL is held back: by a
 * slot, by the archiver, by wal_keep_size or, normally, until the next
 * checkpoint.  The last two have bounds, so that they fill a disk only if the
 * bound is larger than the disk; the first two go on for ever unless
 * max_slot_wal_keep_size ends it.  What else grows in the same file system
 * counts as well.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogarchive.h"
#include "postmaster/pgarch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "primary/forecast.h"
#include "settings.h"

/* Seconds: a step of the load shows within a minute; other files grow less evenly. */
#define WAL_TAU 10.0
#define STEADY_TAU 300.0
#define OTHER_TAU 20.0

/* Below this many bytes a second nothing grows. */
#define STILL 1.0

/* Slots that this extension made, and how long one may be without a replica. */
#define OUR_PREFIX "replica_ctl_"
#define ORPHAN_S 600.0

#define HOUR_S 3600.0
#define DAY_S 86400.0

/* What is further away is not in sight. */
#define SIGHT_S (365 * DAY_S)

#define MB INT64CONST(1048576)

double
rctl_smooth(double old, double rate, double seconds, double rated, double tau)
{
	double		weight = Max(1 - exp(-seconds / tau), seconds / (rated + seconds));
	double		smoothed = old + (rate - old) * weight;

	return fabs(smoothed) < STILL && fabs(rate) < STILL ? 0 : smoothed;
}

const char *
rctl_verdict_name(RctlVerdict verdict)
{
	switch (verdict)
	{
		case RCTL_VERDICT_OK:
			return "ok";
		case RCTL_VERDICT_WARNING:
			return "warning";
		case RCTL_VERDICT_CRITICAL:
			return "critical";
		case RCTL_VERDICT_LOST:
			return "lost";
	}
	return NULL;
}

static uint64
distance(XLogRecPtr from, XLogRecPtr to)
{
	return to > from ? to - from : 0;
}

void
rctl_forecast_slot(RctlSlotSample *next, const RctlSlotFact *fact,
				   const RctlSlotSample *before, const RctlWalEnd *end)
{
	memset(next, 0, sizeof(*next));
	strlcpy(next->name, fact->name, NAMEDATALEN);
	next->restart_lsn = fact->restart_lsn;
	next->mono = end->now;
	if (fact->restart_lsn != InvalidXLogRecPtr)
		next->retained_bytes = distance(fact->restart_lsn, end->flush);
	if (before && before->mono != 0 && before->restart_lsn != InvalidXLogRecPtr &&
		fact->restart_lsn != InvalidXLogRecPtr && end->now > before->mono)
	{
		double		seconds = (end->now - before->mono) / 1000000.0;
		double		rate = ((double) next->retained_bytes - (double) before->retained_bytes) / seconds;

		next->growth = rctl_smooth(before->growth, rate, seconds, before->rated, WAL_TAU);
		/* What a burst after its creation was says nothing of a day. */
		next->steady_growth = rctl_smooth(before->steady_growth, rate, seconds, HOUR_S, STEADY_TAU);
		next->rated = before->rated + seconds;
	}
	if (fact->active_pid == 0)
		next->inactive_since = before && before->inactive_since != 0 ?
			before->inactive_since : GetCurrentTimestamp();
	if (before)
	{
		next->said = before->said;
		next->calm_since = before->calm_since;
	}
}

const char *
rctl_slot_replica(const RctlSlotSample *slot)
{
	return slot && slot->replica[0] != '\0' ? slot->replica : NULL;
}

/* WAL is removed by whole segments. */
static XLogSegNo
segment_of(XLogRecPtr lsn)
{
	XLogSegNo	segment;

	XLByteToSeg(lsn, segment, wal_segment_size);
	return segment;
}

/*
 * What pins the oldest WAL, from when, and how fast that grows.  Of slots that
 * keep the same segment it is the one to be sacrificed first.
 */
static void
find_holder(RctlServerSample *next, const RctlSlotFact *facts, const RctlSlotSample *slots, int nslots)
{
	XLogRecPtr	oldest = GetRedoRecPtr();
	uint64		keep = (uint64) wal_keep_size_mb * MB;
	RctlSlotPriority holder_priority = RCTL_SLOT_PRIORITY_NORMAL;
	RctlSlotPriority priority;

	strlcpy(next->held_by, "checkpoint", RCTL_HOLDER_LEN);
	next->held_slot[0] = '\0';
	next->held_rate = next->wal_rate;
	if (keep > 0 && next->flush > keep && next->flush - keep < oldest)
	{
		oldest = next->flush - keep;
		strlcpy(next->held_by, "wal_keep_size", RCTL_HOLDER_LEN);
		next->held_rate = 0;
	}
	if (next->archive_lsn != InvalidXLogRecPtr && next->archive_lsn < oldest)
	{
		oldest = next->archive_lsn;
		strlcpy(next->held_by, "archiver", RCTL_HOLDER_LEN);
		next->held_rate = next->wal_rate;
	}
	for (int i = 0; i < nslots; i++)
	{
		if (facts[i].restart_lsn == InvalidXLogRecPtr || facts[i].wal_status == RCTL_WAL_LOST)
			continue;
		next->oldest_slot_bytes = Max(next->oldest_slot_bytes, slots[i].retained_bytes);
		priority = rctl_slot_priority_of(facts[i].name, rctl_slot_replica(&slots[i]));
		/* What a checkpoint keeps as well stays when that is over. */
		if (next->held_slot[0] == '\0' || segment_of(facts[i].restart_lsn) != segment_of(oldest) ?
			facts[i].restart_lsn <= oldest : priority < holder_priority)
		{
			oldest = Min(oldest, facts[i].restart_lsn);
			holder_priority = priority;
			snprintf(next->held_by, RCTL_HOLDER_LEN, "slot \"%s\"", facts[i].name);
			strlcpy(next->held_slot, facts[i].name, NAMEDATALEN);
			next->held_rate = Max(slots[i].growth, 0);
		}
	}
	next->held_bytes = distance(oldest, next->flush);
}

/* The most that the holder will keep; -1: there is no end to it. */
static double
holder_bound(const RctlServerSample *s)
{
	if (strcmp(s->held_by, "checkpoint") == 0)
		return (double) max_wal_size_mb * MB;
	if (strcmp(s->held_by, "wal_keep_size") == 0)
		return (double) wal_keep_size_mb * MB;
	if (s->held_slot[0] != '\0' && max_slot_wal_keep_size_mb >= 0)
		return (double) max_slot_wal_keep_size_mb * MB;
	return -1;
}

static double
time_to_full(const RctlServerSample *s)
{
	double		room = (double) s->free_bytes + s->ahead_bytes;
	double		bound = holder_bound(s);
	double		rate = Max(s->other_rate, 0);
	double		seconds;

	if (bound < 0 || bound - s->held_bytes > room)
		rate += s->held_rate;
	if (rate <= STILL || s->total_bytes == 0)
		return -1;
	seconds = room / rate;
	return seconds < SIGHT_S ? seconds : -1;
}

void
rctl_forecast_server(RctlServerSample *next, const RctlServerSample *before,
					 const RctlSlotFact *facts, const RctlSlotSample *slots, int nslots)
{
	next->wal_rate = before->wal_rate;
	next->rated = before->rated;
	next->other_rate = before->other_rate;
	next->other_rated = before->other_rated;
	if (before->mono != 0 && next->mono > before->mono)
	{
		double		seconds = (next->mono - before->mono) / 1000000.0;

		next->wal_rate = rctl_smooth(before->wal_rate, distance(before->flush, next->flush) / seconds,
									 seconds, before->rated, WAL_TAU);
		next->rated += seconds;
		if (next->scan_mono != before->scan_mono && before->scan_mono != 0)
		{
			double		used = (double) next->total_bytes - next->free_bytes - next->wal_bytes;
			double		used_before = (double) before->total_bytes - before->scan_free_bytes - before->wal_bytes;

			seconds = (next->scan_mono - before->scan_mono) / 1000000.0;
			next->other_rate = rctl_smooth(before->other_rate, (used - used_before) / seconds,
										   seconds, before->other_rated, OTHER_TAU);
			next->other_rated += seconds;
		}
	}
	next->oldest_slot_bytes = 0;
	find_holder(next, facts, slots, nslots);
	next->time_to_full = time_to_full(next);
}

void
rctl_forecast_disk(RctlDiskSample *next, const RctlDiskSample *before)
{
	double		seconds;
	double		used;

	next->growth = before ? before->growth : 0;
	next->rated = before ? before->rated : 0;
	if (before == NULL || before->mono == 0 || next->mono <= before->mono ||
		before->total_bytes == 0 || next->total_bytes == 0)
		return;
	seconds = (next->mono - before->mono) / 1000000.0;
	used = (double) before->free_bytes - (double) next->free_bytes;
	/* A file system that was made larger or smaller has not grown. */
	used += (double) next->total_bytes - (double) before->total_bytes;
	next->growth = rctl_smooth(before->growth, used / seconds, seconds, before->rated, OTHER_TAU);
	next->rated += seconds;
}

double
rctl_disk_time_to_full(const RctlDiskSample *disk)
{
	double		seconds;

	if (disk->total_bytes == 0 || disk->growth <= STILL)
		return -1;
	seconds = disk->free_bytes / disk->growth;
	return seconds < SIGHT_S ? seconds : -1;
}

/* What to call, to get rid of it or to bring it back. */
static char *
statement(const RctlSlotFact *fact, const RctlSlotSample *slot)
{
	const char *replica = rctl_slot_replica(slot);

	if (replica && slot->busy)
		return psprintf("SELECT * FROM replica_operations WHERE replica = %s", quote_literal_cstr(replica));
	if (replica)
		return psprintf("SELECT replica_repair(%s)", quote_literal_cstr(replica));
	if (fact->active_pid != 0)
		return psprintf("SELECT * FROM pg_stat_replication WHERE pid = %d", fact->active_pid);
	return psprintf("SELECT pg_drop_replication_slot(%s)", quote_literal_cstr(fact->name));
}

/* Whether growth fills the disk within the time, and nothing stops it before. */
static bool
fills_disk(const RctlServerSample *server, double growth, double seconds)
{
	double		room = (double) server->free_bytes + server->ahead_bytes;
	double		bound = holder_bound(server);

	return growth > STILL && room / growth < seconds &&
		(bound < 0 || bound - server->held_bytes > room);
}

/*
 * Whether so little is free that the slot, which keeps the oldest WAL, is
 * judged for it; sets the reason, and whether it may be dropped for it.  Which
 * slot goes when is decided by how soon that is: dropping one that does not
 * keep the oldest WAL would free nothing.
 */
static const char *
lacks_room(const RctlServerSample *server, RctlSlotPriority priority, bool *breach)
{
	double		reserve = (double) rctl_disk_reserve * MB;
	double		room = server->free_bytes;

	*breach = priority != RCTL_SLOT_PRIORITY_NEVER;
	switch (priority)
	{
		case RCTL_SLOT_PRIORITY_FIRST:
			if (room >= 2 * reserve)
				return NULL;
			if (room >= reserve)
				return "it keeps the oldest WAL, is to go first, and less is free than twice replica_ctl.disk_reserve";
			break;
		case RCTL_SLOT_PRIORITY_LAST:
			*breach = room < reserve / 2;
			if (*breach)
				return "it keeps the oldest WAL and less is free than half of replica_ctl.disk_reserve";
			break;
		case RCTL_SLOT_PRIORITY_NORMAL:
		case RCTL_SLOT_PRIORITY_NEVER:
			break;
	}
	return room < reserve ? "it keeps the oldest WAL and less is free than replica_ctl.disk_reserve" : NULL;
}

static void
find(RctlJudgement *judgement, RctlVerdict verdict, bool breach, const char *why)
{
	judgement->verdict = verdict;
	judgement->breach = breach;
	judgement->why = why;
}

/* Seconds after which a slot of ours that no replica uses is said to be left over. */
static double
orphan_age(void)
{
	return rctl_slot_inactive_limit > 0 ? Min(ORPHAN_S, rctl_slot_inactive_limit) : ORPHAN_S;
}

/* What is wrong with it, the worst first. */
static void
examine(const RctlSlotFact *fact, const RctlSlotSample *slot, const RctlServerSample *server,
		uint64 retained, double inactive, RctlJudgement *judgement)
{
	RctlSlotPriority priority = rctl_slot_priority_of(fact->name, rctl_slot_replica(slot));
	double		limit = (double) rctl_slot_wal_limit * MB;
	bool		droppable = priority != RCTL_SLOT_PRIORITY_NEVER;
	bool		holds = slot && server->total_bytes > 0 && strcmp(server->held_slot, fact->name) == 0;
	bool		breach = false;
	const char *lack = holds && retained > (uint64) wal_segment_size ?
	lacks_room(server, priority, &breach) : NULL;

	if (fact->wal_status == RCTL_WAL_LOST)
		find(judgement, RCTL_VERDICT_LOST, false, "its WAL is gone, a standby that needs it must be made again");
	else if (limit > 0 && retained >= limit)
		find(judgement, RCTL_VERDICT_CRITICAL, droppable, "it keeps more WAL than replica_ctl.slot_wal_limit");
	else if (lack)
		find(judgement, RCTL_VERDICT_CRITICAL, breach, lack);
	else if (fact->wal_status == RCTL_WAL_UNRESERVED)
		find(judgement, RCTL_VERDICT_CRITICAL, false, "its WAL will be removed at the next checkpoint");
	else if (holds && fills_disk(server, slot->growth, HOUR_S))
		find(judgement, RCTL_VERDICT_CRITICAL, false,
			 "it keeps the oldest WAL and the disk will be full within an hour");
	else if (slot && slot->judged && slot->replica[0] == '\0' && inactive > orphan_age() &&
			 strncmp(fact->name, OUR_PREFIX, strlen(OUR_PREFIX)) == 0)
		find(judgement, RCTL_VERDICT_WARNING,
			 droppable && rctl_slot_inactive_limit > 0 && inactive > rctl_slot_inactive_limit,
			 "it was made for a replica, and no replica of this server uses it");
	else if (rctl_slot_inactive_limit > 0 && inactive > rctl_slot_inactive_limit)
		find(judgement, RCTL_VERDICT_WARNING, droppable,
			 fact->wal_status == RCTL_WAL_NONE ? "it was never used and reserves no WAL" :
			 "nobody has used it for longer than replica_ctl.slot_inactive_limit");
	else if (holds && fills_disk(server, slot->steady_growth, DAY_S))
		find(judgement, RCTL_VERDICT_WARNING, false,
			 "it keeps the oldest WAL and the disk will be full within a day");
	else if (limit > 0 && retained >= 0.8 * limit)
		find(judgement, RCTL_VERDICT_WARNING, false,
			 "it keeps nearly as much WAL as replica_ctl.slot_wal_limit allows");
	else if (max_slot_wal_keep_size_mb > 0 && retained >= 0.8 * max_slot_wal_keep_size_mb * MB)
		find(judgement, RCTL_VERDICT_WARNING, false,
			 "it keeps nearly as much WAL as max_slot_wal_keep_size allows");
	else
		find(judgement, RCTL_VERDICT_OK, false, NULL);
}

void
rctl_judge_slot(const RctlSlotFact *fact, const RctlSlotSample *slot,
				const RctlServerSample *server, XLogRecPtr flush,
				RctlJudgement *judgement)
{
	uint64		retained = fact->restart_lsn != InvalidXLogRecPtr ? distance(fact->restart_lsn, flush) : 0;
	double		inactive = 0;

	if (fact->active_pid == 0 && slot && slot->inactive_since != 0)
		inactive = (GetCurrentTimestamp() - slot->inactive_since) / 1000000.0;
	examine(fact, slot, server, retained, inactive, judgement);
	judgement->advice = judgement->why ?
		psprintf("%s: %s;", judgement->why, statement(fact, slot)) : NULL;
}
