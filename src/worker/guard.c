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
 * and then time is given for the WAL to go before the next one.
 *
 * Durable: the events.  In memory: what was said of each slot, in its sample.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "postmaster/bgwriter.h"
#include "replication/slot.h"
#include "utils/builtins.h"

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

static int64 next_drop = 0;		/* monotonic */

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

/* In a transaction of the store. */
static void
write_event(const char *replica, const char *severity, const char *kind, const char *message,
			const RctlSlotFact *fact, const RctlSlotSample *slot, const char *advice)
{
	RctlMap    *detail = rctl_map_make();

	rctl_map_set(detail, "slot", fact->name);
	rctl_map_setf(detail, "retained_bytes", UINT64_FORMAT, slot->retained_bytes);
	rctl_map_setf(detail, "growth_bytes_per_second", "%.0f", slot->growth);
	rctl_map_set(detail, "advice", advice);
	rctl_store_event(replica, 0, severity, kind, message, rctl_map_to_json(detail), NULL);
}

static void
say(const RctlSlotFact *fact, RctlSlotSample *slot, const RctlJudgement *judgement,
	const char *replica, int64 now)
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
	rctl_store_begin();
	if (rctl_store_installed())
		write_event(replica, severity_of(judgement->verdict),
					psprintf("slot_%s", rctl_verdict_name(judgement->verdict)), message,
					fact, slot, judgement->advice);
	rctl_store_commit();
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

static void
drop(const RctlSlotFact *fact, const RctlSlotSample *slot, const RctlJudgement *judgement, int64 now)
{
	char	   *replica = NULL;
	char	   *message;

	if (!may_drop(fact, &replica) || !release(fact->name))
		return;
	message = psprintf("replication slot \"%s\" was dropped: %s", fact->name, judgement->why);
	next_drop = now + SETTLE_US;
	rctl_store_begin();
	ReplicationSlotDrop(fact->name, true);
	ereport(LOG,
			(errmsg("%s", message),
			 errdetail("It kept %llu bytes of WAL.", (unsigned long long) slot->retained_bytes)));
	write_event(replica, "error", "slot_dropped", message, fact, slot,
				replica ? psprintf("SELECT replica_repair(%s);", quote_literal_cstr(replica)) : NULL);
	rctl_store_commit();
	/* Its WAL goes with the next checkpoint. */
	RequestCheckpoint(CHECKPOINT_FORCE | CHECKPOINT_IMMEDIATE);
}

void
rctl_guard(const RctlSamples *samples, const RctlSlotFact *facts,
		   RctlSlotSample *slots, int nslots, const RctlWalEnd *end)
{
	for (int i = 0; i < nslots; i++)
	{
		const RctlReplicaSample *owner = rctl_samples_replica_of_slot(samples, facts[i].name);
		const char *replica = owner ? owner->name : NULL;
		bool		said = slots[i].said != RCTL_VERDICT_OK;
		RctlJudgement judgement;

		rctl_judge_slot(&facts[i], &slots[i], &samples->server, replica, end->flush, &judgement);
		say(&facts[i], &slots[i], &judgement, replica, end->now);
		if (said && judgement.breach && rctl_slot_action == RCTL_SLOT_ACTION_DROP && end->now >= next_drop)
			drop(&facts[i], &slots[i], &judgement, end->now);
	}
}
