/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Says when a replication slot becomes dangerous, and drops it if it is
 *	  told to.
 *
 * A slot is dropped only if it breaks a limit (not on a forecast), if that was
 * said in an earlier round, if it is physical, if no operation runs on its
 * replica, and if it is a replica's of ours unless slot_scope widens that.
 * For the sake of the disk only the slot that keeps the oldest WAL is dropped,
 * and then time is given for the WAL to go before the next one.  Of several
 * that break a limit the one with the lowest slot_priority goes first.
 *
 * Durable: the events.  They are written after the deed, so that a disk that is
 * full does not keep the guard from acting, and tried again until they can be.
 * In memory: those, and what was said of each slot, in its sample.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/store.h"
#include "net/map.h"
#include "net/wait.h"
#include "primary/fence.h"
#include "settings.h"
#include "worker/guard.h"

/* Microseconds: a slot is well again after so long; WAL is gone after so long. */
#define CALM_US INT64CONST(300000000)
#define SETTLE_US INT64CONST(30000000)

/* Waits for a WAL sender that was told to end. */
#define RELEASE_TRIES 5
#define RELEASE_WAIT_MS 50

/* Events that are kept while they cannot be written. */
#define MAX_UNWRITTEN 500

typedef struct Event
{
	MemoryContext context;		/* of all that belongs to it */
	char	   *replica;		/* or NULL */
	const char *severity;
	char	   *kind;
	char	   *message;
	char	   *detail;
	bool		complained;		/* the log has why it could not be written */
} Event;

/* A slot that breaks a limit, which was said before. */
typedef struct Candidate
{
	const RctlSlotFact *fact;
	const RctlSlotSample *slot;
	const char *why;
	RctlSlotPriority priority;
} Candidate;

static int64 next_drop = 0;		/* monotonic */
static List *unwritten = NIL;	/* Event *, in TopMemoryContext */

static const char *
severity_of(RctlVerdict verdict)
{
	switch (verdict)
	{
		case RCTL_VERDICT_OK:
			return "info";
		case RCTL_VERDICT_WARNING:
			return "warning";
		case RCTL_VERDICT_CRITICAL:
		case RCTL_VERDICT_LOST:
			break;
	}
	return "error";
}

/* Writes what can be written; an event that cannot be is kept for the next round. */
static void
write_events(void)
{
	while (unwritten != NIL)
	{
		Event	   *event = linitial(unwritten);
		MemoryContext old = CurrentMemoryContext;
		volatile bool written = false;

		PG_TRY();
		{
			rctl_store_begin();
			if (rctl_store_installed())
				rctl_store_event(event->replica, 0, event->severity, event->kind, event->message,
								 event->detail, NULL);
			rctl_store_commit();
			written = true;
		}
		PG_CATCH();
		{
			HOLD_INTERRUPTS();
			MemoryContextSwitchTo(old);
			/* Once is enough: the disk may be full for long. */
			if (!event->complained)
				EmitErrorReport();
			FlushErrorState();
			LWLockReleaseAll();
			AbortOutOfAnyTransaction();
			MemoryContextSwitchTo(old);
			RESUME_INTERRUPTS();
		}
		PG_END_TRY();
		if (!written)
		{
			event->complained = true;
			return;
		}
		unwritten = list_delete_first(unwritten);
		MemoryContextDelete(event->context);
	}
}

/* Adds an event to those to be written. */
static void
add_event(const char *replica, const char *severity, const char *kind, const char *message,
		  const RctlSlotFact *fact, const RctlSlotSample *slot, const char *advice)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "replica_ctl guard event", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Event	   *event = palloc0(sizeof(Event));
	RctlMap    *detail = rctl_map_make();

	rctl_map_set(detail, "slot", fact->name);
	rctl_map_setf(detail, "retained_bytes", UINT64_FORMAT, slot->retained_bytes);
	rctl_map_setf(detail, "growth_bytes_per_second", "%.0f", slot->growth);
	rctl_map_set(detail, "advice", advice);
	event->context = context;
	event->replica = replica ? pstrdup(replica) : NULL;
	event->severity = severity;
	event->kind = pstrdup(kind);
	event->message = pstrdup(message);
	event->detail = rctl_map_to_json(detail);
	MemoryContextSwitchTo(TopMemoryContext);
	if (list_length(unwritten) >= MAX_UNWRITTEN)
	{
		Event	   *oldest = linitial(unwritten);

		ereport(LOG, (errmsg("an event is lost: %s", oldest->message)));
		unwritten = list_delete_first(unwritten);
		MemoryContextDelete(oldest->context);
	}
	unwritten = lappend(unwritten, event);
	MemoryContextSwitchTo(old);
}

static void
say(const RctlSlotFact *fact, RctlSlotSample *slot, const RctlJudgement *judgement, int64 now)
{
	char	   *message;

	slot->calm_since = judgement->verdict != RCTL_VERDICT_OK ? 0 :
		slot->calm_since != 0 ? slot->calm_since : now;
	if (judgement->verdict <= slot->said &&
		!(slot->said != RCTL_VERDICT_OK && slot->calm_since != 0 && now - slot->calm_since > CALM_US))
		return;
	message = judgement->advice ?
		psprintf("replication slot \"%s\" is judged %s: %s", fact->name,
				 rctl_verdict_name(judgement->verdict), judgement->advice) :
		psprintf("replication slot \"%s\" is well again", fact->name);
	add_event(rctl_slot_replica(slot), severity_of(judgement->verdict),
			  psprintf("slot_%s", rctl_verdict_name(judgement->verdict)), message,
			  fact, slot, judgement->advice);
	slot->said = judgement->verdict;
}

/* Ends the session that uses the slot; false if it does not go at once. */
static bool
release(const char *name)
{
	for (int i = 0; i < RELEASE_TRIES; i++)
	{
		RctlSlotFact *facts;
		int			count = rctl_observe_slots(&facts);
		int			pid = 0;

		for (int j = 0; j < count; j++)
		{
			if (strcmp(facts[j].name, name) == 0)
				pid = facts[j].active_pid;
		}
		if (pid == 0)
			return true;
		(void) kill(pid, SIGTERM);
		rctl_sleep(RELEASE_WAIT_MS);
	}
	return false;
}

/* Whether the slot may be dropped; sets the replica that owns it, or NULL. */
static bool
may_drop(const RctlSlotFact *fact, char **replica)
{
	bool		busy = true;
	bool		owned = true;

	if (!fact->physical || fact->temporary || rctl_fence_is_up())
		return false;
	rctl_store_begin();
	if (rctl_store_installed())
		owned = rctl_store_slot_owner(fact->name, replica, &busy);
	rctl_store_commit();
	return owned ? !busy : rctl_slot_scope == RCTL_SLOT_SCOPE_PHYSICAL;
}

/* True if it was dropped. */
static bool
drop(const RctlSlotFact *fact, const RctlSlotSample *slot, const char *why, int64 now)
{
	char	   *replica = NULL;
	char	   *message;

	if (!may_drop(fact, &replica) || !release(fact->name))
		return false;
	message = psprintf("replication slot \"%s\" was dropped: %s", fact->name, why);
	next_drop = now + SETTLE_US;
	rctl_store_begin();
	ReplicationSlotDrop(fact->name, true);
	rctl_store_commit();
	ereport(LOG,
			(errmsg("%s", message),
			 errdetail("It kept %llu bytes of WAL.", (unsigned long long) slot->retained_bytes)));
	add_event(replica, "error", "slot_dropped", message, fact, slot,
			  replica ? psprintf("SELECT replica_repair(%s);", quote_literal_cstr(replica)) : NULL);
	/* Its WAL goes with the next checkpoint. */
	RequestCheckpoint(CHECKPOINT_FORCE | CHECKPOINT_IMMEDIATE);
	return true;
}

/* Of two slots that may go, the one to go first: by priority, then by what it keeps. */
static int
compare_candidates(const ListCell *a, const ListCell *b)
{
	const Candidate *x = lfirst(a);
	const Candidate *y = lfirst(b);

	if (x->priority != y->priority)
		return x->priority < y->priority ? -1 : 1;
	if (x->slot->retained_bytes != y->slot->retained_bytes)
		return x->slot->retained_bytes > y->slot->retained_bytes ? -1 : 1;
	return 0;
}

/* Drops the first of them that may be dropped. */
static void
act(List *candidates, int64 now)
{
	ListCell   *lc;

	if (rctl_slot_action != RCTL_SLOT_ACTION_DROP || now < next_drop)
		return;
	list_sort(candidates, compare_candidates);
	foreach(lc, candidates)
	{
		const Candidate *candidate = lfirst(lc);

		if (drop(candidate->fact, candidate->slot, candidate->why, now))
			return;
	}
}

void
rctl_guard(const RctlSamples *samples, const RctlSlotFact *facts,
		   RctlSlotSample *slots, int nslots, const RctlWalEnd *end)
{
	List	   *candidates = NIL;

	for (int i = 0; i < nslots; i++)
	{
		bool		said = slots[i].said != RCTL_VERDICT_OK;
		RctlJudgement judgement;

		rctl_judge_slot(&facts[i], &slots[i], &samples->server, end->flush, &judgement);
		say(&facts[i], &slots[i], &judgement, end->now);
		if (said && judgement.breach)
		{
			Candidate  *candidate = palloc(sizeof(Candidate));

			candidate->fact = &facts[i];
			candidate->slot = &slots[i];
			candidate->why = judgement.why;
			candidate->priority = rctl_slot_priority_of(facts[i].name, rctl_slot_replica(&slots[i]));
			candidates = lappend(candidates, candidate);
		}
	}
	/* First act: on a full disk no event can be written. */
	act(candidates, end->now);
	write_events();
}
