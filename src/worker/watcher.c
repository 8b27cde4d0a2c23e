/*-------------------------------------------------------------------------
 *
 * watcher.c
 *	  The monitor's part that asks services about the replicas they run.
 *
 * The replicas of a foreign server that are reached by the same user mapping
 * make a group: one conversation (RctlProvider.watch) asks for all of them.
 * Each group has its own interval, bound and pause after a failure, so that
 * one that hangs delays nothing but itself.  The monitor does the waiting.
 *
 * A round works on a copy of what the registry said when it started; if that
 * has changed meanwhile, the next round has the new one.
 *
 * Durable: the events, each once, told apart by their ids.  In memory: the
 * groups; events that could not be written yet; in shared memory what the
 * last round told (primary/services.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"

#include "core/board.h"
#include "core/store.h"
#include "net/text.h"
#include "primary/clock.h"
#include "primary/services.h"
#include "provider/watch.h"
#include "settings.h"
#include "worker/watcher.h"

StaticAssertDecl(RCTL_WATCH_METRICS == RCTL_SERVICE_METRICS, "a watch tells as many metrics as are kept");

#define SECOND_US INT64CONST(1000000)

/* A round that takes longer is given up. */
#define ROUND_US (60 * SECOND_US)

/* After a failure the interval doubles, up to this (or the interval, if that is longer). */
#define LAST_PAUSE_US (600 * SECOND_US)

/* After so many intervals without an answer the state is unknown. */
#define MISSED_ROUNDS 3

/* What one round may ask, and this once more for each replica. */
#define MAX_REQUESTS 50

/* A new replica is asked about at once, but not more often than this. */
#define LEAST_US (5 * SECOND_US)

/* Events that were told before are recognized without asking the registry. */
#define REMEMBERED 256

/* Events that wait to be written, should that fail. */
#define MAX_PENDING 1000
#define EVENT_RETRY_US (10 * SECOND_US)

/* What a group knows of the registry, all in context. */
typedef struct Listing
{
	MemoryContext context;
	const RctlProvider *provider;
	char	   *server;
	RctlMap    *server_options;
	RctlMap    *mapping;		/* NULL: none */
	int			nreplicas;
	RctlReplica **replicas;
	uint64		hash;			/* of the options and the mapping */
} Listing;

typedef struct WatchGroup
{
	dlist_node	node;
	MemoryContext context;		/* holds this struct */
	Oid			serverid;
	Oid			userid;			/* of the mapping; InvalidOid: PUBLIC, or none */
	bool		listed;
	Listing    *latest;			/* as the registry was last read */
	Listing    *used;			/* by the round; may be the same */
	RctlMap    *memory;			/* the provider's, in memory_context */
	MemoryContext memory_context;
	int64		next_at;		/* monotonic, as for the next two */
	int64		started;
	int64		deadline;
	int			failures;
	uint64		remembered[REMEMBERED]; /* hashes of events; a ring */
	int			nremembered;

	/* A round, if task is not NULL. */
	MemoryContext round;
	int			requests;		/* that it has made */
	RctlHttpTask *task;
	RctlWatch  *watch;
	RctlServiceSample *told;	/* one a replica of watch */
	List	   *events;			/* of Event *, in round */
} WatchGroup;

typedef struct Event
{
	dlist_node	node;
	char	   *replica;		/* NULL: the server's */
	TimestampTz at;
	char	   *severity;
	char	   *kind;
	char	   *message;
	char	   *detail;			/* JSON, with the id in it */
	uint64		hash;
} Event;

static dlist_head groups = DLIST_STATIC_INIT(groups);
static dlist_head pending = DLIST_STATIC_INIT(pending); /* events */
static int	npending = 0;
static int64 pending_at = 0;	/* monotonic: not tried before */

/* ---------------------------------------------------------------------
 * What a generator tells
 * ---------------------------------------------------------------------
 */

static WatchGroup *
group_of(const RctlWatch *watch)
{
	dlist_iter	iter;

	dlist_foreach(iter, &groups)
	{
		WatchGroup *group = dlist_container(WatchGroup, node, iter.cur);

		if (group->watch == watch)
			return group;
	}
	elog(ERROR, "not a watch of the monitor");
}

static RctlServiceSample *
told(RctlWatch *watch, int replica)
{
	if (replica < 0 || replica >= watch->nreplicas)
		elog(ERROR, "there is no replica %d in the watch of server \"%s\"", replica, watch->server);
	return &group_of(watch)->told[replica];
}

/* Cut to the room there is, valid, on one line. */
static void
put(char *to, size_t size, const char *from)
{
	char	   *valid = rctl_valid_text(from ? from : "", from ? strlen(from) : 0);

	valid[pg_mbcliplen(valid, strlen(valid), size - 1)] = '\0';
	for (char *p = valid; *p; p++)
		if ((unsigned char) *p < ' ')
			*p = ' ';
	strlcpy(to, valid, size);
	pfree(valid);
}

void
rctl_watch_status(RctlWatch *watch, int replica, const char *status, int percent)
{
	RctlServiceSample *sample = told(watch, replica);

	put(sample->status, sizeof(sample->status), status);
	sample->percent = percent >= 0 && percent <= 100 ? percent : -1;
}

void
rctl_watch_streaming(RctlWatch *watch, int replica, bool streaming)
{
	RctlServiceSample *sample = told(watch, replica);

	sample->streaming = streaming;
	sample->streaming_known = true;
}

void
rctl_watch_endpoint(RctlWatch *watch, int replica, const char *host, int port)
{
	RctlServiceSample *sample = told(watch, replica);

	put(sample->host, sizeof(sample->host), host);
	sample->port = port;
}

void
rctl_watch_login(RctlWatch *watch)
{
	rctl_board_changed();
}

void
rctl_watch_lag(RctlWatch *watch, int replica, double seconds, TimestampTz sampled_at)
{
	RctlServiceSample *sample = told(watch, replica);

	/* Amazon says -1 for "does not replicate". */
	if (isnan(seconds) || isinf(seconds) || seconds < 0 || seconds > 1e9 || sampled_at == 0)
		return;
	sample->lag = seconds;
	sample->lag_at = sampled_at;
}

void
rctl_watch_metric(RctlWatch *watch, int replica, const char *name, double value,
				  const char *unit, TimestampTz sampled_at, const char *source)
{
	RctlServiceSample *sample = told(watch, replica);
	RctlServiceMetric *metric = NULL;

	if (isnan(value) || isinf(value) || sampled_at == 0)
		return;
	for (int i = 0; i < sample->nmetrics && metric == NULL; i++)
		if (strncmp(sample->metrics[i].name, name, sizeof(metric->name) - 1) == 0)
			metric = &sample->metrics[i];
	if (metric == NULL && sample->nmetrics == RCTL_SERVICE_METRICS)
		return;
	if (metric == NULL)
		metric = &sample->metrics[sample->nmetrics++];
	put(metric->name, sizeof(metric->name), name);
	put(metric->unit, sizeof(metric->unit), unit);
	put(metric->source, sizeof(metric->source), source);
	metric->value = value;
	metric->sampled_at = sampled_at;
}

void
rctl_watch_event(RctlWatch *watch, int replica, const char *id, TimestampTz at,
				 const char *severity, const char *kind, const char *message, const RctlMap *detail)
{
	WatchGroup *group = group_of(watch);
	MemoryContext old;
	Event	   *event;
	RctlMap    *map;
	char	   *key;

	if (rctl_retention > 0 &&
		at < TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -INT64CONST(1000) * rctl_retention))
		return;
	old = MemoryContextSwitchTo(group->round);
	event = palloc0(sizeof(Event));
	event->replica = replica >= 0 && replica < watch->nreplicas ? pstrdup(watch->replicas[replica]->name) : NULL;
	key = psprintf("%s %s %s", kind, event->replica ? event->replica : "", id);
	event->hash = hash_bytes_extended((unsigned char *) key, strlen(key), 0);
	for (int i = 0; i < REMEMBERED; i++)
		if (group->remembered[i] == event->hash)
		{
			MemoryContextSwitchTo(old);
			return;
		}
	map = detail ? rctl_map_copy(detail) : rctl_map_make();
	rctl_map_set(map, "id", rctl_valid_text(id, strlen(id)));
	rctl_map_set(map, "server", watch->server);
	event->at = at;
	event->severity = strcmp(severity, "warning") == 0 || strcmp(severity, "error") == 0 ? pstrdup(severity) : "info";
	event->kind = pstrdup(kind);
	event->message = rctl_redact(rctl_valid_text(message, strlen(message)));
	event->detail = rctl_map_to_json(map);
	group->events = lappend(group->events, event);
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------------
 * Events
 * ---------------------------------------------------------------------
 */

/* From the round that has ended to those that wait to be written. */
static void
keep_events(WatchGroup *group)
{
	ListCell   *lc;

	foreach(lc, group->events)
	{
		Event	   *from = lfirst(lc);
		MemoryContext context;
		MemoryContext old;
		Event	   *to;

		group->remembered[group->nremembered++ % REMEMBERED] = from->hash;
		if (npending >= MAX_PENDING)
			continue;
		context = AllocSetContextCreate(TopMemoryContext, "replica_ctl service event", ALLOCSET_SMALL_SIZES);
		old = MemoryContextSwitchTo(context);
		to = palloc0(sizeof(Event));
		to->replica = from->replica ? pstrdup(from->replica) : NULL;
		to->at = from->at;
		to->severity = pstrdup(from->severity);
		to->kind = pstrdup(from->kind);
		to->message = pstrdup(from->message);
		to->detail = pstrdup(from->detail);
		dlist_push_tail(&pending, &to->node);
		MemoryContextSwitchTo(old);
		npending++;
		pending_at = 0;
	}
	group->events = NIL;
}

static void
drop_pending(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &pending)
	{
		Event	   *event = dlist_container(Event, node, iter.cur);

		dlist_delete(iter.cur);
		MemoryContextDelete(GetMemoryChunkContext(event));
	}
	npending = 0;
}

/* All in one transaction: if that fails they all wait on. */
static void
write_events(int64 now)
{
	dlist_iter	iter;

	if (npending == 0 || now < pending_at)
		return;
	pending_at = now + EVENT_RETRY_US;
	rctl_store_begin();
	if (rctl_store_installed())
	{
		dlist_foreach(iter, &pending)
		{
			Event	   *event = dlist_container(Event, node, iter.cur);

			rctl_store_event_once(event->replica, event->at, event->severity, event->kind,
								  event->message, event->detail);
		}
	}
	rctl_store_commit();
	drop_pending();
}

/* ---------------------------------------------------------------------
 * Rounds
 * ---------------------------------------------------------------------
 */

static int64
interval_of(const Listing *snapshot)
{
	const char *value = rctl_map_get(snapshot->server_options, "poll_interval");
	long		seconds = value ? strtol(value, NULL, 10) : RCTL_WATCH_INTERVAL;

	return Max(Min(seconds, 86400), 1) * SECOND_US;
}

/* Not all groups at the same moment. */
static int64
jittered(int64 pause)
{
	return pause + (int64) (pause * 0.1 * (pg_prng_double(&pg_global_prng_state) - 0.5));
}

static void
free_snapshot(Listing *snapshot)
{
	if (snapshot)
		MemoryContextDelete(snapshot->context);
}

static void
end_round(WatchGroup *group)
{
	if (group->task)
		rctl_http_task_end(group->task);
	group->task = NULL;
	group->watch = NULL;
	group->events = NIL;
	if (group->round)
		MemoryContextDelete(group->round);
	group->round = NULL;
	if (group->used != group->latest)
	{
		free_snapshot(group->used);
		group->used = group->latest;
	}
}

/* The map that is kept until the next round, without what was replaced in it. */
static void
keep_memory(WatchGroup *group)
{
	MemoryContext context = AllocSetContextCreate(group->context, "replica_ctl watch memory", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RctlMap    *copy = group->memory ? rctl_map_copy(group->memory) : rctl_map_make();

	MemoryContextSwitchTo(old);
	if (group->memory_context)
		MemoryContextDelete(group->memory_context);
	group->memory_context = context;
	group->memory = copy;
}

/* RctlHttpNext: the provider's, with a bound. */
static const RctlHttpRequest *
next_request(void *state, const RctlHttpResponse *response)
{
	WatchGroup *group = state;
	const RctlHttpRequest *request = group->used->provider->watch(group->watch, response);

	if (request && group->requests++ >= MAX_REQUESTS + group->watch->nreplicas)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("looking at the replicas takes more than %d requests",
						MAX_REQUESTS + group->watch->nreplicas)));
	return request;
}

static void
start_round(WatchGroup *group, int64 now)
{
	Listing    *snapshot = group->latest;
	MemoryContext old;
	RctlWatch  *watch;

	if (group->round)
		end_round(group);		/* an error has left it */
	group->used = snapshot;
	group->started = now;
	group->deadline = now + ROUND_US;
	group->requests = 0;
	keep_memory(group);
	group->round = AllocSetContextCreate(group->context, "replica_ctl watch", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(group->round);
	watch = group->watch = palloc0(sizeof(RctlWatch));
	watch->server = snapshot->server;
	watch->serverid = group->serverid;
	watch->userid = group->userid;
	watch->server_options = snapshot->server_options;
	watch->mapping = snapshot->mapping;
	watch->nreplicas = snapshot->nreplicas;
	watch->replicas = (const RctlReplica *const *) snapshot->replicas;
	watch->memory = group->memory;
	watch->context = group->round;
	group->told = palloc0(sizeof(RctlServiceSample) * snapshot->nreplicas);
	for (int i = 0; i < snapshot->nreplicas; i++)
	{
		group->told[i].id = snapshot->replicas[i]->id;
		strlcpy(group->told[i].name, snapshot->replicas[i]->name, NAMEDATALEN);
		group->told[i].percent = -1;
	}
	group->task = rctl_http_task_start(next_request, group);
	MemoryContextSwitchTo(old);
}

static bool
is_listed(const WatchGroup *group, int64 id)
{
	for (int i = 0; i < group->latest->nreplicas; i++)
		if (group->latest->replicas[i]->id == id)
			return true;
	return false;
}

static void
succeed(WatchGroup *group)
{
	TimestampTz at = GetCurrentTimestamp();

	for (int i = 0; i < group->watch->nreplicas; i++)
	{
		group->told[i].polled_at = at;
		group->told[i].fresh_until = TimestampTzPlusMilliseconds(at, MISSED_ROUNDS * interval_of(group->latest) / 1000);
		if (is_listed(group, group->told[i].id))
			rctl_services_write(&group->told[i]);
	}
	group->failures = 0;
	group->next_at = group->started + jittered(interval_of(group->latest));
}

/* What earlier rounds told stays, with its age. */
static void
fail(WatchGroup *group, const char *message, int64 now)
{
	int64		interval = interval_of(group->latest);
	int64		pause = Min(interval << Min(group->failures, 10), Max(LAST_PAUSE_US, interval));

	for (int i = 0; i < group->watch->nreplicas; i++)
	{
		RctlServiceSample sample;

		if (!is_listed(group, group->told[i].id))
			continue;
		rctl_services_get(group->told[i].id, &sample);
		sample.id = group->told[i].id;
		strlcpy(sample.name, group->told[i].name, NAMEDATALEN);
		put(sample.message, sizeof(sample.message), message);
		rctl_services_write(&sample);
	}
	group->failures++;
	group->next_at = now + jittered(pause);
}

/* The message of an error, and what is most telling of its detail. */
static char *
words_of(const ErrorData *error)
{
	const char *message = error->message ? error->message : "unknown error";

	return rctl_redact(error->detail ? psprintf("%s: %s", message, error->detail) : message);
}

static void
work_on(WatchGroup *group, int64 now)
{
	ErrorData  *error;

	if (group->task == NULL && now >= group->next_at)
		start_round(group, now);
	if (group->task == NULL)
		return;
	if (rctl_http_task_ended(group->task, &error))
	{
		keep_events(group);
		if (error)
			fail(group, words_of(error), now);
		else
			succeed(group);
		end_round(group);
	}
	else if (now >= group->deadline)
	{
		keep_events(group);
		fail(group, psprintf("the service has not answered everything within %d s", (int) (ROUND_US / SECOND_US)), now);
		end_round(group);
	}
}

void
rctl_watcher_work(int64 now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &groups)
		work_on(dlist_container(WatchGroup, node, iter.cur), now);
	write_events(now);
}

int64
rctl_watcher_due(void)
{
	int64		due = npending > 0 ? pending_at : PG_INT64_MAX;
	dlist_iter	iter;

	dlist_foreach(iter, &groups)
	{
		WatchGroup *group = dlist_container(WatchGroup, node, iter.cur);
		ErrorData  *error;

		if (group->task == NULL)
			due = Min(due, group->next_at);
		else if (rctl_http_task_ended(group->task, &error))
			due = 0;
		else
			due = Min(due, group->deadline);
	}
	return due;
}

/* ---------------------------------------------------------------------
 * The registry
 * ---------------------------------------------------------------------
 */

RctlReplica *
rctl_watcher_copy_replica(const RctlReplica *from)
{
	RctlReplica *to = palloc0(sizeof(RctlReplica));

	to->id = from->id;
	to->name = pstrdup(from->name);
	to->server = pstrdup(from->server);
	to->serverid = from->serverid;
	to->provider = from->provider;
	to->state = pstrdup(from->state);
	to->options = rctl_map_copy(from->options);
	to->facts = rctl_map_copy(from->facts);
	return to;
}

static uint64
hash_of_map(const RctlMap *map, uint64 seed)
{
	char	   *json = map ? rctl_map_to_json(map) : pstrdup("");
	uint64		hash = hash_bytes_extended((unsigned char *) json, strlen(json), seed);

	explicit_bzero(json, strlen(json));
	pfree(json);
	return hash;
}

static bool
belongs(const RctlMonitored *monitored, Oid serverid, Oid userid)
{
	return monitored->replica->provider->watch && monitored->replica->serverid == serverid &&
		monitored->mapping_userid == userid;
}

static Listing *
take_snapshot(List *monitored, const RctlMonitored *first)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "replica_ctl watched", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Listing    *snapshot = palloc0(sizeof(Listing));
	ListCell   *lc;

	snapshot->context = context;
	snapshot->provider = first->replica->provider;
	snapshot->server = pstrdup(first->replica->server);
	snapshot->server_options = rctl_map_copy(first->server_options);
	if (first->mapping->entries != NIL)
		snapshot->mapping = rctl_map_copy(first->mapping);
	snapshot->hash = hash_of_map(snapshot->mapping, hash_of_map(snapshot->server_options, 0));
	snapshot->replicas = palloc(sizeof(RctlReplica *) * list_length(monitored));
	foreach(lc, monitored)
	{
		const RctlMonitored *m = lfirst(lc);

		if (belongs(m, first->replica->serverid, first->mapping_userid))
			snapshot->replicas[snapshot->nreplicas++] = rctl_watcher_copy_replica(m->replica);
	}
	MemoryContextSwitchTo(old);
	return snapshot;
}

static WatchGroup *
find_group(Oid serverid, Oid userid)
{
	MemoryContext context;
	WatchGroup *group;
	dlist_iter	iter;

	dlist_foreach(iter, &groups)
	{
		group = dlist_container(WatchGroup, node, iter.cur);
		if (group->serverid == serverid && group->userid == userid)
			return group;
	}
	context = AllocSetContextCreate(TopMemoryContext, "replica_ctl watch group", ALLOCSET_SMALL_SIZES);
	group = MemoryContextAllocZero(context, sizeof(WatchGroup));
	group->context = context;
	group->serverid = serverid;
	group->userid = userid;
	dlist_push_tail(&groups, &group->node);
	return group;
}

/* Whether there is something that the last round did not know. */
static bool
has_news(const WatchGroup *group, const Listing *snapshot)
{
	if (group->latest == NULL || group->latest->hash != snapshot->hash)
		return true;
	for (int i = 0; i < snapshot->nreplicas; i++)
		if (!is_listed(group, snapshot->replicas[i]->id))
			return true;
	return false;
}

static void
take_group(List *monitored, const RctlMonitored *first, int64 now)
{
	WatchGroup *group = find_group(first->replica->serverid, first->mapping_userid);
	Listing    *snapshot;

	if (group->listed)
		return;
	snapshot = take_snapshot(monitored, first);
	if (has_news(group, snapshot))
	{
		if (group->latest && group->latest->hash != snapshot->hash)
			group->failures = 0;
		group->next_at = Min(group->next_at, Max(now, group->started + LEAST_US));
		if (group->latest == NULL)
			group->next_at = now;
	}
	else
		group->next_at = Min(group->next_at, now + Max(interval_of(snapshot) << Min(group->failures, 10), LEAST_US));
	if (group->latest != group->used)
		free_snapshot(group->latest);
	group->latest = snapshot;
	if (group->task == NULL)
	{
		free_snapshot(group->used);
		group->used = snapshot;
	}
	group->listed = true;
}

static void
drop_group(WatchGroup *group)
{
	Listing    *latest = group->latest;

	end_round(group);
	free_snapshot(latest);
	dlist_delete(&group->node);
	MemoryContextDelete(group->context);
}

void
rctl_watcher_registry(List *monitored, int64 now)
{
	int64	   *ids = palloc(sizeof(int64) * (list_length(monitored) + 1));
	int			nids = 0;
	dlist_mutable_iter iter;
	ListCell   *lc;

	dlist_foreach_modify(iter, &groups)
		dlist_container(WatchGroup, node, iter.cur)->listed = false;
	foreach(lc, monitored)
	{
		const RctlMonitored *m = lfirst(lc);

		if (m->replica->provider->watch == NULL)
			continue;
		ids[nids++] = m->replica->id;
		take_group(monitored, m, now);
	}
	dlist_foreach_modify(iter, &groups)
	{
		WatchGroup *group = dlist_container(WatchGroup, node, iter.cur);

		if (!group->listed)
			drop_group(group);
	}
	rctl_services_keep(ids, nids);
	pfree(ids);
}
