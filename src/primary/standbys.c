/*-------------------------------------------------------------------------
 *
 * standbys.c
 *	  Every standby, ours or not, connected or not, put together from what is
 *	  known: WAL senders now, what they said before, what replicas answer.
 *
 * A WAL sender and a replica of the registry belong together by
 * application_name.  A position that a replica itself reports counts if it is
 * ahead of what its WAL sender was last told: standbys report replay late.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "primary/standbys.h"
#include "settings.h"

/* A standby without a slot is forgotten after so long. */
#define FORGET_US INT64CONST(600000000)

bool
rctl_replica_answers(const RctlReplicaSample *replica, int64 now)
{
	return replica->answered != 0 &&
		now - replica->answered <= RCTL_SILENT_US + rctl_sample_interval * INT64CONST(1000);
}

static const RctlStandbySample *
sample_of_pid(const RctlSamples *samples, int pid)
{
	for (int i = 0; i < samples->nstandbys; i++)
	{
		if (samples->standbys[i].pid == pid)
			return &samples->standbys[i];
	}
	return NULL;
}

static const RctlStandbySample *
sample_of_name(const RctlSamples *samples, const char *application_name)
{
	for (int i = 0; i < samples->nstandbys; i++)
	{
		if (samples->standbys[i].pid == 0 &&
			strcmp(samples->standbys[i].application_name, application_name) == 0)
			return &samples->standbys[i];
	}
	return NULL;
}

static const RctlReplicaSample *
replica_of_name(const RctlSamples *samples, const char *application_name)
{
	for (int i = 0; i < samples->nreplicas; i++)
	{
		const RctlReplicaSample *r = &samples->replicas[i];

		if (r->id != 0 && !r->cascaded && strcmp(r->application_name, application_name) == 0)
			return r;
	}
	return NULL;
}

static void
add_own_answer(RctlStandby *standby)
{
	const RctlReplicaSample *r = standby->replica;

	if (r == NULL || r->answered == 0 || !r->in_recovery)
		return;
	standby->replay = Max(standby->replay, r->replay);
	standby->flush = Max(Max(standby->flush, r->receive), standby->replay);
	standby->write = Max(standby->write, standby->flush);
}

static void
set_state(RctlStandby *standby, bool streaming, int64 now)
{
	const RctlReplicaSample *r = standby->replica;

	if (standby->connected)
		standby->state = streaming ? "streaming" : "catching_up";
	else if (r && r->stopped)
		standby->state = "stopped";
	else if (r && rctl_replica_answers(r, now) && !r->in_recovery)
		standby->state = "promoted";
	else
		standby->state = "disconnected";
}

/* One that is connected to this server. */
static bool
from_sender(RctlStandby *standby, const RctlSender *sender, const RctlSamples *samples, int64 now)
{
	const RctlStandbySample *sample = sample_of_pid(samples, sender->pid);
	RctlStandbySample *fresh = NULL;

	if (sample == NULL)
	{
		fresh = palloc0(sizeof(RctlStandbySample));
		if (!rctl_observe_backend(sender->pid, fresh))
			return false;
	}
	memset(standby, 0, sizeof(*standby));
	standby->application_name = sample ? sample->application_name : fresh->application_name;
	standby->client_addr = sample ? sample->client_addr : fresh->client_addr;
	standby->replica = replica_of_name(samples, standby->application_name);
	standby->sync_state = sender->sync_state;
	standby->connected = rctl_sender_answers(sender, sample, now);
	standby->sent = sender->sent;
	standby->write = sender->write;
	standby->flush = sender->flush;
	standby->replay = sender->replay;
	if (sample && standby->flush == InvalidXLogRecPtr)
	{
		standby->write = sample->write;
		standby->flush = sample->flush;
	}
	if (sample && standby->replay == InvalidXLogRecPtr)
		standby->replay = sample->replay;
	add_own_answer(standby);
	set_state(standby, sender->state == WALSNDSTATE_STREAMING, now);
	return true;
}

/* One that was. */
static void
from_sample(RctlStandby *standby, const RctlStandbySample *sample, const RctlSamples *samples, int64 now)
{
	memset(standby, 0, sizeof(*standby));
	standby->application_name = sample->application_name;
	standby->client_addr = sample->client_addr;
	standby->replica = replica_of_name(samples, sample->application_name);
	standby->write = sample->write;
	standby->flush = sample->flush;
	standby->replay = sample->replay;
	add_own_answer(standby);
	set_state(standby, false, now);
}

/* One that has never been seen here: it follows another replica, or is new. */
static void
from_replica(RctlStandby *standby, const RctlReplicaSample *replica, int64 now)
{
	memset(standby, 0, sizeof(*standby));
	standby->application_name = replica->application_name;
	standby->client_addr = "";
	standby->replica = replica;
	standby->connected = replica->cascaded && replica->receiving && rctl_replica_answers(replica, now);
	add_own_answer(standby);
	set_state(standby, true, now);
}

static bool
is_listed(const RctlStandby *list, int count, const RctlReplicaSample *replica, const char *application_name)
{
	for (int i = 0; i < count; i++)
	{
		if (replica ? list[i].replica == replica :
			strcmp(list[i].application_name, application_name) == 0)
			return true;
	}
	return false;
}

int
rctl_standbys(const RctlSamples *samples, RctlWalEnd *end, RctlStandby **standbys)
{
	RctlSender *senders;
	int			nsenders;
	int			count = 0;

	rctl_wal_end(end);
	nsenders = rctl_observe_senders(&senders);
	*standbys = palloc(sizeof(RctlStandby) *
					   (nsenders + samples->nstandbys + samples->nreplicas + 1));
	for (int i = 0; i < nsenders; i++)
	{
		if (from_sender(&(*standbys)[count], &senders[i], samples, end->now))
			count++;
	}
	for (int i = 0; i < samples->nstandbys; i++)
	{
		const RctlStandbySample *s = &samples->standbys[i];

		if ((s->pid == 0 || s->replay != InvalidXLogRecPtr) &&
			!is_listed(*standbys, count, NULL, s->application_name))
			from_sample(&(*standbys)[count++], s, samples, end->now);
	}
	for (int i = 0; i < samples->nreplicas; i++)
	{
		const RctlReplicaSample *r = &samples->replicas[i];

		if (r->id != 0 && !is_listed(*standbys, count, r, ""))
			from_replica(&(*standbys)[count++], r, end->now);
	}
	return count;
}

/* ---------------------------------------------------------------------
 * Monitor
 * ---------------------------------------------------------------------
 */

static const RctlSlotFact *
slot_of_pid(const RctlSlotFact *slots, int nslots, int pid)
{
	for (int i = 0; i < nslots; i++)
	{
		if (slots[i].active_pid == pid)
			return &slots[i];
	}
	return NULL;
}

/* The next sample of a connected standby; false if it is none. */
static bool
track_sender(RctlStandbySample *next, const RctlSender *sender, const RctlSamples *before,
			 const RctlSlotFact *slots, int nslots, int64 now)
{
	const RctlStandbySample *old = sample_of_pid(before, sender->pid);
	const RctlSlotFact *slot = slot_of_pid(slots, nslots, sender->pid);
	bool		answered = old == NULL || old->reply_time != sender->reply_time;

	if (old)
		*next = *old;
	else
	{
		memset(next, 0, sizeof(*next));
		if (!rctl_observe_backend(sender->pid, next))
			return false;
		if ((old = sample_of_name(before, next->application_name)) != NULL)
		{
			next->write = old->write;
			next->flush = old->flush;
			next->replay = old->replay;
		}
		next->pid = sender->pid;
	}
	if (slot)
		strlcpy(next->slot, slot->name, NAMEDATALEN);
	if (answered)
		next->answered = now;
	if (sender->sent <= sender->write)
		next->waiting = 0;
	else if (answered || next->waiting == 0)
		next->waiting = now;
	next->seen = now;
	next->sent = sender->sent;
	next->reply_time = sender->reply_time;

	/* A new connection says nothing at first. */
	if (sender->flush != InvalidXLogRecPtr)
	{
		next->write = sender->write;
		next->flush = sender->flush;
	}
	if (sender->replay != InvalidXLogRecPtr)
		next->replay = sender->replay;
	return true;
}

/* Whether a standby that has gone is still of interest. */
static bool
is_remembered(const RctlStandbySample *sample, const RctlSamples *samples,
			  const RctlSlotFact *slots, int nslots, int64 now)
{
	/* Not a standby: something that only receives WAL, such as pg_receivewal. */
	if (sample->replay == InvalidXLogRecPtr)
		return false;
	if (replica_of_name(samples, sample->application_name) != NULL ||
		now - sample->seen < FORGET_US)
		return true;
	for (int i = 0; i < nslots; i++)
	{
		if (sample->slot[0] != '\0' && strcmp(slots[i].name, sample->slot) == 0)
			return true;
	}
	return false;
}

int
rctl_standbys_track(const RctlSamples *before, const RctlSlotFact *slots, int nslots,
					int64 now, RctlStandbySample *next)
{
	RctlSender *senders;
	int			nsenders = rctl_observe_senders(&senders);
	int			room = rctl_samples_max_standbys();
	int			count = 0;
	int			nlive;

	for (int i = 0; i < nsenders; i++)
	{
		if (track_sender(&next[count], &senders[i], before, slots, nslots, now))
			count++;
	}
	nlive = count;
	for (int i = 0; i < before->nstandbys && count < room; i++)
	{
		const RctlStandbySample *old = &before->standbys[i];
		bool		back = false;

		for (int j = 0; j < nlive && !back; j++)
			back = next[j].pid == old->pid ||
				strcmp(next[j].application_name, old->application_name) == 0;
		if (back || !is_remembered(old, before, slots, nslots, now))
			continue;
		next[count] = *old;
		next[count++].pid = 0;
	}
	return count;
}
