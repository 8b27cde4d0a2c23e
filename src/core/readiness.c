/*-------------------------------------------------------------------------
 *
 * readiness.c
 *	  Checks that a replica can take this server's place.
 *
 * Blocked is what would make the promotion fail, or a promoted server that
 * does not take writes.  What costs something but works is a warning: the
 * user may know about it.
 *
 * A forced promotion is for a bad day: of the blocked ones only those are
 * checked that no force overcomes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"
#include "utils/varlena.h"

#include "core/preflight.h"
#include "primary/fence.h"
#include "settings.h"

#define NOT_READY ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE

/* More than this is more than a busy server's usual backlog. */
#define ARCHIVE_READY_MANY 8
#define LONG_TRANSACTION_S 60
#define LAG_MANY_BYTES (16 * 1024 * 1024)

/* For which operations a check is made. */
#define PLANNED 1				/* promote, switchover, drill */
#define FORCED 2
#define FOLLOWS 4				/* this server becomes a standby */
#define EVER (PLANNED | FORCED)
#define ELSEWHERE 8				/* also if this server is not the source */

/* ---------------------------------------------------------------------
 * Answers
 * ---------------------------------------------------------------------
 */

static const char *
get(const RctlMap *map, const char *key)
{
	return rctl_map_get_default(map, key, "");
}

static long
get_long(const RctlMap *map, const char *key)
{
	return strtol(get(map, key), NULL, 10);
}

static bool
get_bool(const RctlMap *map, const char *key)
{
	return strcmp(get(map, key), "true") == 0;
}

/* A nested object; empty if there is none. */
static RctlMap *
get_map(const RctlMap *map, const char *key)
{
	const char *json = rctl_map_get(map, key);

	return json ? rctl_map_from_json(json, key) : rctl_map_make();
}

static XLogRecPtr
parse_lsn(const char *text)
{
	return text[0] ? DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text))) : InvalidXLogRecPtr;
}

static void
append_name(StringInfo names, const char *name)
{
	appendStringInfo(names, "%s%s", names->len > 0 ? ", " : "", name);
}

static const char *
replica_name(RctlPreflight *p)
{
	return p->op->replica->name;
}

/* "ALTER SYSTEM ... on replica "r1"", as a hint */
static char *
alter_there(RctlPreflight *p, const char *assignment)
{
	return psprintf("Run ALTER SYSTEM SET %s and SELECT pg_reload_conf() on replica \"%s\".",
					assignment, replica_name(p));
}

/* ---------------------------------------------------------------------
 * This server
 * ---------------------------------------------------------------------
 */

/* Nothing starts while an operation holds the fence; one that stays is in the way of the next only. */
void
rctl_check_fence(RctlPreflight *p, const char *name)
{
	RctlOpKind	kind = p->op->kind;
	bool		fences = !p->forced && (kind == RCTL_OP_PROMOTE || kind == RCTL_OP_SWITCHOVER || kind == RCTL_OP_DRILL);
	RctlFenceState fence;

	if (!rctl_fence_exists() || !rctl_fence_is_up())
	{
		rctl_found_ok(p, name, "this server is not fenced");
		return;
	}
	rctl_fence_get(&fence);
	if (fence.operation != 0 && fence.phase != RCTL_FENCE_PROMOTED)
		rctl_found_blocked(p, name, ERRCODE_OBJECT_IN_USE,
						   psprintf("operation " INT64_FORMAT " has fenced this server", fence.operation), NULL,
						   psprintf("Wait for it with SELECT replica_operation_wait(" INT64_FORMAT ").", fence.operation));
	else if (!fences)
		rctl_found_ok(p, name, "this server is fenced, which is not in the way");
	else if (fence.phase == RCTL_FENCE_PROMOTED)
		rctl_found_blocked(p, name, NOT_READY, "this server is fenced",
						   psprintf("Replica \"%s\" was promoted in its place.", fence.replica),
						   psprintf("Work on the new primary%s%s.", fence.endpoint[0] ? " at " : "", fence.endpoint));
	else
		rctl_found_blocked(p, name, NOT_READY, "this server is fenced",
						   fence.reason[0] ? psprintf("The reason given: %s.", fence.reason) : NULL,
						   "Lift the fence with SELECT replica_unfence().");
}

/*
 * Patroni keeps a file in the data directory, and starts the server with the
 * cluster's name as an argument; a copy that somebody else starts has but the
 * file.
 */
static void
check_patroni(RctlPreflight *p, const char *name)
{
	char	   *path = psprintf("%s/patroni.dynamic.json", DataDir);
	struct stat ignored;

	if (p->op->replica->provider->managed || p->op->kind == RCTL_OP_DRILL ||
		!get_bool(p->ours, "started_by_manager") || stat(path, &ignored) != 0)
		return;
	if (p->forced)
		rctl_found_warning(p, name, "this server is run by Patroni, and stays a member of its cluster", NULL, NULL);
	else
		rctl_found_blocked(p, name, NOT_READY, "this server is run by Patroni",
						   "A promotion would take its place without Patroni knowing, which would make another member the primary.",
						   "Promote a member of the cluster: CREATE SERVER ... FOREIGN DATA WRAPPER replica_patroni, then SELECT replica_attach('MEMBER', 'SERVER')"
						   " and SELECT replica_promote('MEMBER'); or promote this one with mode => 'forced'.");
}

static void
check_timeout(RctlPreflight *p, const char *name)
{
	long		timeout = strtol(rctl_map_get_default(p->op->arguments, "timeout_ms", "60000"), NULL, 10);

	if (timeout <= 0)
		rctl_found_blocked(p, name, ERRCODE_INVALID_PARAMETER_VALUE,
						   "a timeout of zero leaves no time for anything", NULL,
						   "Leave out timeout to allow 60 seconds.");
	else
		rctl_found_ok(p, name, psprintf("all is undone if the replica is not ready within %ld ms", timeout));
}

static void
check_archiver(RctlPreflight *p, const char *name)
{
	long		ready = get_long(p->ours, "archive_ready");
	const char *mode = get(get_map(p->ours, "settings"), "archive_mode");

	if (strcmp(mode, "off") == 0)
		rctl_found_ok(p, name, "archive_mode is off");
	else if (get_bool(p->ours, "archive_fails"))
		rctl_found_warning(p, name,
						   psprintf("archiving fails here, %ld WAL segments wait for it", ready),
						   psprintf("The last failure was with \"%s\". A restore could not get past this server's timeline.",
									get(p->ours, "archive_failed_wal")),
						   "Correct archive_command or archive_library; the server log says what is wrong.");
	else if (ready > ARCHIVE_READY_MANY)
		rctl_found_warning(p, name, psprintf("%ld WAL segments wait to be archived here", ready),
						   "This server must run on until they are archived.",
						   "Wait until pg_stat_archiver shows that the archiver has caught up.");
	else
		rctl_found_ok(p, name, psprintf("%ld WAL segments wait to be archived", ready));
}

static void
check_writers(RctlPreflight *p, const char *name)
{
	double		drain = strtol(rctl_map_get_default(p->op->arguments, "drain_ms", "1000"), NULL, 10) / 1000.0;
	double		age = strtod(get(p->ours, "writer_age"), NULL);

	p->writers = get_long(p->ours, "writers");
	if (p->writers == 0)
		rctl_found_ok(p, name, "no session has writes that are not committed");
	else if (age <= drain)
		rctl_found_ok(p, name,
					  psprintf("%d sessions have writes that are not committed, for %.1f s at most; drain gives them %.1f s",
							   p->writers, age, drain));
	else
		rctl_found_warning(p, name,
						   psprintf("%d sessions have writes that are not committed, the oldest for %.0f s",
									p->writers, age),
						   psprintf("It is process %s of %s. Those that have not ended when the drain time of %.1f s is over cannot commit.",
									get(p->ours, "writer_pid"), get(p->ours, "writer_name"), drain),
						   psprintf("Let them finish, give a longer drain, or run SELECT pg_terminate_backend(%s).",
									get(p->ours, "writer_pid")));
}

static void
check_transactions(RctlPreflight *p, const char *name)
{
	double		age = strtod(get(p->ours, "oldest_age"), NULL);
	bool		stay = strcmp(rctl_map_get_default(p->op->arguments, "source_after", ""), "read_write") == 0 ||
	p->op->kind == RCTL_OP_DRILL;

	if (age < LONG_TRANSACTION_S || stay)
		rctl_found_ok(p, name, psprintf("%s sessions, the oldest transaction began %.0f s ago",
										get(p->ours, "sessions"), age));
	else
		rctl_found_warning(p, name,
						   psprintf("a transaction has been open for %.0f s", age),
						   psprintf("It is that of process %s. Sessions are ended here when the replica was promoted.",
									get(p->ours, "oldest_pid")),
						   "SELECT * FROM pg_stat_activity ORDER BY xact_start shows it.");
}

/* They travel in the WAL: here COMMIT PREPARED is fenced, there it works. */
static void
check_prepared(RctlPreflight *p, const char *name)
{
	long		count = get_long(p->ours, "prepared");

	if (count == 0)
		rctl_found_ok(p, name, "no transaction is prepared");
	else
		rctl_found_warning(p, name,
						   psprintf("%ld transactions are prepared and neither committed nor rolled back", count),
						   "They exist on the replica, too, and are to be ended there after the promotion; here they cannot be committed any more.",
						   psprintf("Run COMMIT PREPARED %s or ROLLBACK PREPARED %s, here before or on the new primary.",
									get(p->ours, "prepared_gid"), get(p->ours, "prepared_gid")));
}

/* Slots that the replica has as well (synchronized ones) are no trouble. */
static void
check_logical_slots(RctlPreflight *p, const char *name)
{
	RctlMap    *slots = get_map(p->ours, "logical_slots");
	RctlMap    *theirs = p->theirs ? get_map(p->theirs, "slots") : rctl_map_make();
	StringInfoData missing;
	ListCell   *lc;

	initStringInfo(&missing);
	foreach(lc, slots->entries)
	{
		const char *slot = ((RctlMapEntry *) lfirst(lc))->key;

		if (rctl_map_get(theirs, slot) == NULL)
			append_name(&missing, slot);
	}
	if (missing.len == 0)
		rctl_found_ok(p, name, "the replica lacks no logical replication slot");
	else
		rctl_found_warning(p, name,
						   psprintf("logical replication slots do not exist on the replica: %s", missing.data),
						   "Their subscribers cannot go on from the new primary.",
						   "Make them there with pg_create_logical_replication_slot() before it takes writes, or refresh the subscriptions.");
}

static void
check_subscriptions(RctlPreflight *p, const char *name)
{
	if (get_long(p->ours, "subscriptions") == 0)
		rctl_found_ok(p, name, "this server has no subscription");
	else
		rctl_found_warning(p, name,
						   psprintf("subscriptions of this server: %s", get(p->ours, "subscription_names")),
						   "The new primary has them too, and both servers would ask for the same slots of the publisher.",
						   "Run ALTER SUBSCRIPTION ... DISABLE here before the promotion, and ENABLE on the new primary.");
}

static void
check_slot(RctlPreflight *p, const char *name)
{
	const char *status = rctl_map_get(p->ours, "slot_status");

	if (rctl_map_get(p->op->replica->facts, "upstream") != NULL ||
		rctl_map_get(p->op->replica->facts, "slot") == NULL)
		return;
	if (status == NULL)
		rctl_found_warning(p, name, "its replication slot is gone", NULL,
						   psprintf("SELECT replica_repair(%s) makes it again.", p->name));
	else if (strcmp(status, "lost") == 0)
		rctl_found_blocked(p, name, NOT_READY, "its replication slot has lost WAL", NULL,
						   psprintf("SELECT replica_repair(%s) makes a new copy.", p->name));
	else if (strcmp(status, "unreserved") == 0)
		rctl_found_warning(p, name, "its replication slot is about to lose WAL", NULL,
						   "Raise max_slot_wal_keep_size.");
	else
		rctl_found_ok(p, name, "its replication slot holds the WAL that it needs");
}

/* ---------------------------------------------------------------------
 * The replica as a standby
 * ---------------------------------------------------------------------
 */

/* As this server sees it; one that follows another replica is asked itself. */
static void
check_streaming(RctlPreflight *p, const char *name)
{
	const char *upstream = rctl_map_get(p->op->replica->facts, "upstream");
	const char *state = upstream == NULL ? get(p->ours, "walsender")
	: p->theirs ? get(p->theirs, "receiver") : NULL;

	/* A service's replica may stream under a name that nobody has told. */
	if (state == NULL || (p->op->replica->provider->managed && !rctl_map_get(p->op->replica->facts, "application_name")))
		return;
	if (state[0] == '\0')
		rctl_found_blocked(p, name, NOT_READY,
						   psprintf("replica \"%s\" is not connected to %s", replica_name(p),
									upstream ? psprintf("replica \"%s\"", upstream) : "this server"), NULL,
						   psprintf("SELECT replica_repair(%s) brings it back.", p->name));
	else if (strcmp(state, "streaming") == 0 || strcmp(state, "unknown") == 0)
		rctl_found_ok(p, name, "it is streaming");
	else if (upstream)
		rctl_found_blocked(p, name, NOT_READY,
						   psprintf("replica \"%s\" is not streaming: its WAL receiver is in state \"%s\"",
									replica_name(p), state), NULL,
						   psprintf("SELECT replica_repair(%s) brings it back.", p->name));
	else
		rctl_found_warning(p, name, "it is catching up", "The promotion waits for it.",
						   "Wait until replica_status shows it as streaming.");
}

static void
check_connection(RctlPreflight *p, const char *name)
{
	rctl_found_ok(p, name, psprintf("logged in at %s port %s as \"%s\"",
									rctl_map_get_default(p->op->replica->facts, "login_host", "its address"),
									rctl_map_get_default(p->op->replica->facts, "login_port",
														 rctl_map_get_default(p->op->replica->facts, "port", "5432")),
									rctl_map_get_default(p->op->replica->facts, "login_user", "its user")));
}

static void
check_recovery(RctlPreflight *p, const char *name)
{
	if (get_bool(p->theirs, "in_recovery"))
		rctl_found_ok(p, name, "it is a standby");
	else
		rctl_found_blocked(p, name, NOT_READY,
						   psprintf("replica \"%s\" is not in recovery", replica_name(p)),
						   "It was promoted by someone else.",
						   psprintf("Remove it from the registry with SELECT replica_detach(%s).", p->name));
}

static void
check_system(RctlPreflight *p, const char *name)
{
	char	   *own = psprintf(UINT64_FORMAT, GetSystemIdentifier());
	const char *there = get(p->theirs, "system_identifier");

	if (strcmp(own, there) == 0)
		rctl_found_ok(p, name, psprintf("%s on both", own));
	else
		rctl_found_blocked(p, name, NOT_READY,
						   psprintf("replica \"%s\" is not a copy of this server", replica_name(p)),
						   psprintf("Its system identifier is %s, this server's %s.", there, own),
						   psprintf("Remove it from the registry with SELECT replica_detach(%s).", p->name));
}

static void
check_timeline(RctlPreflight *p, const char *name)
{
	TimeLineID	own = GetWALInsertionTimeLine();
	const char *there = rctl_map_get(p->theirs, "timeline");

	if (there == NULL)
		return;
	if (strtoul(there, NULL, 10) == own)
		rctl_found_ok(p, name, psprintf("%u on both", own));
	else
		rctl_found_blocked(p, name, NOT_READY,
						   psprintf("replica \"%s\" follows timeline %s, this server is on %u",
									replica_name(p), there, own), NULL,
						   psprintf("SELECT replica_repair(%s) brings it back.", p->name));
}

static void
check_paused(RctlPreflight *p, const char *name)
{
	const char *state = get(p->theirs, "pause_state");

	if (state[0] == '\0' || strcmp(state, "not paused") == 0)
		rctl_found_ok(p, name, "it replays what it receives");
	else
		rctl_found_blocked(p, name, NOT_READY,
						   psprintf("WAL replay is paused on replica \"%s\"", replica_name(p)), NULL,
						   "Run SELECT pg_wal_replay_resume() on it.");
}

static void
check_apply_delay(RctlPreflight *p, const char *name)
{
	long		delay = get_long(get_map(p->theirs, "settings"), "recovery_min_apply_delay");
	long		timeout = strtol(rctl_map_get_default(p->op->arguments, "timeout_ms", "60000"), NULL, 10);
	char	   *message = psprintf("replica \"%s\" applies commits %.1f s late", replica_name(p), delay / 1000.0);
	char	   *hint = alter_there(p, "recovery_min_apply_delay = 0");

	p->apply_delay = delay / 1000.0;
	if (delay == 0)
		rctl_found_ok(p, name, "it applies commits at once");
	else if (delay >= timeout)
		rctl_found_blocked(p, name, NOT_READY, message, "That is no less than the timeout.", hint);
	else
		rctl_found_warning(p, name, message, "Writes stand still for as long.", hint);
}

/* On replay, not on receive: what has arrived is not yet what can be read. */
static void
check_lag(RctlPreflight *p, const char *name)
{
	char	   *message = psprintf("%s are not replayed%s", rctl_size_text(p->lag_bytes),
								   p->replay_rate > 0 ? psprintf(", at %s per second",
																 rctl_size_text((uint64) p->replay_rate)) : "");

	if (p->lag_bytes > LAG_MANY_BYTES)
		rctl_found_warning(p, name, message,
						   "Writes are stopped only when little is left.",
						   "Wait until replica_lag shows less, or give a longer timeout.");
	else
		rctl_found_ok(p, name, message);
}

static void
check_loss(RctlPreflight *p, const char *name)
{
	const char *last = rctl_map_get(p->theirs, "last_commit");

	if (p->lost_bytes == 0)
		rctl_found_ok(p, name, "the replica has received all that this server has flushed; what is committed after this look may be lost");
	else
		rctl_found_warning(p, name,
						   psprintf("%s of WAL would be lost, and what is written meanwhile",
									rctl_size_text(p->lost_bytes)),
						   psprintf("The replica has received up to %s, this server has flushed up to %s%s%s.",
									get(p->theirs, "receive_lsn"), get(p->ours, "flush_lsn"),
									last ? "; its last replayed commit is of " : "", last ? last : ""),
						   psprintf("SELECT replica_promote(%s) loses nothing as long as this server runs.", p->name));
}

/* For a planned promotion a sibling's lead is gone when the fence is up. */
static void
check_siblings(RctlPreflight *p, const char *name)
{
	RctlMap    *standbys = get_map(p->ours, "standbys");
	XLogRecPtr	target = p->theirs ? parse_lsn(get(p->theirs, "receive_lsn")) : InvalidXLogRecPtr;
	XLogRecPtr	best = InvalidXLogRecPtr;
	RctlReplica *ahead = NULL;
	ListCell   *lc;

	foreach(lc, p->siblings)
	{
		RctlReplica *sibling = lfirst(lc);
		XLogRecPtr	lsn = parse_lsn(get(standbys, get(sibling->facts, "application_name")));

		if (lsn > target && lsn > best)
		{
			ahead = sibling;
			best = lsn;
		}
	}
	if (ahead == NULL)
		rctl_found_ok(p, name, "no other replica is further ahead");
	else if (p->forced)
		rctl_found_warning(p, name,
						   psprintf("replica \"%s\" is %s further ahead", ahead->name,
									rctl_size_text(best - target)),
						   "Less would be lost with that one.",
						   psprintf("Use SELECT replica_promote(%s, mode => 'forced').", quote_literal_cstr(ahead->name)));
	else
		rctl_found_ok(p, name,
					  psprintf("replica \"%s\" is %s further ahead; the promotion waits until nobody is",
							   ahead->name, rctl_size_text(best - target)));
}

/* ---------------------------------------------------------------------
 * The replica as a primary
 * ---------------------------------------------------------------------
 */

static void
check_read_only(RctlPreflight *p, const char *name)
{
	if (strcmp(get(get_map(p->theirs, "settings"), "default_transaction_read_only"), "on") != 0)
		rctl_found_ok(p, name, "its sessions may write when it is promoted");
	else
		rctl_found_blocked(p, name, NOT_READY,
						   psprintf("default_transaction_read_only is on for replica \"%s\"", replica_name(p)),
						   "It would refuse writes when it is promoted.",
						   alter_there(p, "default_transaction_read_only = off"));
}

static void
check_synchronous(RctlPreflight *p, const char *name)
{
	const char *names = get(get_map(p->theirs, "settings"), "synchronous_standby_names");

	if (names[0] == '\0')
		rctl_found_ok(p, name, "its commits will wait for no standby");
	else if (get_long(p->theirs, "walsenders") == 0)
		rctl_found_blocked(p, name, NOT_READY,
						   psprintf("commits on replica \"%s\" would wait for standbys that it does not have",
									replica_name(p)),
						   psprintf("synchronous_standby_names is \"%s\" there, and nobody follows it.", names),
						   alter_there(p, "synchronous_standby_names = ''"));
	else
		rctl_found_warning(p, name,
						   psprintf("commits on replica \"%s\" will wait for \"%s\"", replica_name(p), names),
						   "Standbys do follow it, but whether they are enough is not known.", NULL);
}

/* Numbers that must not be lower there; the first five only can be while it is stopped. */
static void
append_lower(StringInfo differences, const RctlMap *ours, const RctlMap *theirs)
{
	static const char *const numbers[] = {
		"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
		"max_locks_per_transaction", "max_replication_slots", "shared_buffers",
	};

	for (int i = 0; i < lengthof(numbers); i++)
	{
		if (get_long(theirs, numbers[i]) < get_long(ours, numbers[i]))
			append_name(differences, psprintf("%s %s instead of %s", numbers[i],
											  get(theirs, numbers[i]), get(ours, numbers[i])));
	}
}

/* Switches that are on here and off there. */
static void
append_off(StringInfo differences, const RctlMap *ours, const RctlMap *theirs)
{
	static const char *const switches[] = {"archive_mode", "autovacuum", "fsync", "full_page_writes"};
	static const char *const levels[] = {"minimal", "replica", "logical"};

	for (int i = 0; i < lengthof(switches); i++)
	{
		if (strcmp(get(theirs, switches[i]), "off") == 0 && strcmp(get(ours, switches[i]), "off") != 0)
			append_name(differences, psprintf("%s off instead of %s", switches[i], get(ours, switches[i])));
	}
	/* pg_rewind, for the way back of a switchover */
	if (!DataChecksumsEnabled() && strcmp(get(theirs, "wal_log_hints"), "off") == 0 &&
		strcmp(get(ours, "wal_log_hints"), "on") == 0)
		append_name(differences, "wal_log_hints off instead of on");
	for (int i = 0; i < lengthof(levels) && strcmp(levels[i], get(ours, "wal_level")) != 0; i++)
	{
		if (strcmp(levels[i], get(theirs, "wal_level")) == 0)
			append_name(differences, psprintf("wal_level %s instead of %s", levels[i], get(ours, "wal_level")));
	}
	if (strcmp(get(ours, "shared_preload_libraries"), get(theirs, "shared_preload_libraries")) != 0)
		append_name(differences, psprintf("shared_preload_libraries \"%s\" instead of \"%s\"",
										  get(theirs, "shared_preload_libraries"),
										  get(ours, "shared_preload_libraries")));
}

static void
check_settings(RctlPreflight *p, const char *name)
{
	RctlMap    *ours = get_map(p->ours, "settings");
	RctlMap    *theirs = get_map(p->theirs, "settings");
	StringInfoData differences;

	initStringInfo(&differences);
	append_lower(&differences, ours, theirs);
	append_off(&differences, ours, theirs);
	if (differences.len == 0)
		rctl_found_ok(p, name, "no setting that matters is lower than here");
	else
		rctl_found_warning(p, name,
						   psprintf("settings of replica \"%s\" are lower than here", replica_name(p)),
						   psprintf("It has %s.", differences.data),
						   psprintf("Change them with ALTER SYSTEM on replica \"%s\" and restart it before it is promoted.",
									replica_name(p)));
}

/* An index on text whose order has changed is a broken index. */
static void
check_collations(RctlPreflight *p, const char *name)
{
	if (get(p->theirs, "collations")[0] == '\0')
		rctl_found_ok(p, name, "its host sorts text as its databases expect");
	else
		rctl_found_warning(p, name,
						   psprintf("the host of replica \"%s\" has another collation version for databases %s",
									replica_name(p), get(p->theirs, "collations")),
						   "Indexes on text may be out of order there.",
						   "Run REINDEX DATABASE and ALTER DATABASE ... REFRESH COLLATION VERSION on the new primary.");
}

/* Whether a server with these listen_addresses is for its own host only. */
static bool
is_local(const char *addresses)
{
	List	   *names;
	ListCell   *lc;

	if (!SplitGUCList(pstrdup(addresses), ',', &names))
		return false;
	foreach(lc, names)
	{
		const char *address = lfirst(lc);

		if (strcmp(address, "localhost") != 0 && strncmp(address, "127.", 4) != 0 && strcmp(address, "::1") != 0)
			return false;
	}
	return true;
}

/* Whether those who log in here can log in there. */
static void
check_clients(RctlPreflight *p, const char *name)
{
	const char *addresses = get(get_map(p->theirs, "settings"), "listen_addresses");
	RctlMap    *theirs = get_map(p->theirs, "hba");
	RctlMap    *rules = get_map(theirs, "rules");
	const char *missing = NULL;
	int			count = 0;
	ListCell   *lc;

	if (!is_local(get(get_map(p->ours, "settings"), "listen_addresses")) && is_local(addresses))
		rctl_found_warning(p, name,
						   psprintf("replica \"%s\" does not listen for other hosts", replica_name(p)),
						   psprintf("Its listen_addresses is \"%s\", this server's \"%s\".", addresses,
									get(get_map(p->ours, "settings"), "listen_addresses")),
						   psprintf("Run ALTER SYSTEM SET listen_addresses on replica \"%s\" and restart it.",
									replica_name(p)));
	if (rctl_map_get(p->theirs, "hba") == NULL)
		return;
	if (rctl_map_get(theirs, "error"))
	{
		rctl_found_warning(p, name,
						   psprintf("pg_hba.conf of replica \"%s\" has errors", replica_name(p)),
						   psprintf("They begin at %s.", rctl_map_get(theirs, "error")),
						   "Correct the file there and run SELECT pg_reload_conf().");
		return;
	}
	foreach(lc, get_map(get_map(p->ours, "hba"), "rules")->entries)
	{
		const char *rule = ((RctlMapEntry *) lfirst(lc))->key;

		if (rctl_map_get(rules, rule) != NULL)
			continue;
		if (missing == NULL)
			missing = rule;
		count++;
	}
	if (count == 0)
		rctl_found_ok(p, name, "its pg_hba.conf has all rules of this server's");
	else
		rctl_found_warning(p, name,
						   psprintf("pg_hba.conf of replica \"%s\" lacks %d rules of this server's", replica_name(p), count),
						   psprintf("The first is \"%s\". Who logs in by them here may not there.", missing),
						   "Add them to pg_hba.conf there and run SELECT pg_reload_conf().");
}

static void
check_disk(RctlPreflight *p, const char *name)
{
	uint64		bytes = p->free_bytes;
	uint64		wanted = (uint64) get_long(get_map(p->ours, "settings"), "max_wal_size") * 1024 * 1024;
	char	   *message;

	if (!p->free_known)
		return;
	message = psprintf("%s are free where replica \"%s\" has its data", rctl_size_text(bytes), replica_name(p));
	if (bytes < (uint64) wal_segment_size * 2)
		rctl_found_blocked(p, name, ERRCODE_DISK_FULL, message,
						   "A promotion begins with a new WAL segment.", "Free some space there.");
	else if (bytes < wanted)
		rctl_found_warning(p, name, message,
						   psprintf("A primary's WAL takes up to max_wal_size, %s here, and more.", rctl_size_text(wanted)),
						   "Free some space there.");
	else
		rctl_found_ok(p, name, message);
}

/*
 * A cluster's manager stops this server in the middle, and the operation goes
 * on where the extension works: on the promoted one.
 */
static void
check_library(RctlPreflight *p, const char *name)
{
	const RctlManagedPromotion *managed = p->op->replica->provider->managed;
	const char *database = rctl_map_get(get_map(p->theirs, "settings"), "replica_ctl.database");

	if (managed == NULL || managed->service_guards == NULL || !managed->service_guards(p->op->replica) ||
		p->op->kind == RCTL_OP_DRILL)
		return;
	if (database && strcmp(database, rctl_database) == 0)
		rctl_found_ok(p, name, psprintf("the operation will be finished there, in database \"%s\"", database));
	else
		rctl_found_warning(p, name,
						   database
						   ? psprintf("replica_ctl.database is \"%s\" on replica \"%s\", here it is \"%s\"",
									  database, replica_name(p), rctl_database)
						   : psprintf("replica_ctl is not preloaded on replica \"%s\"", replica_name(p)),
						   "The promotion takes place, but nobody finishes the operation there until that is changed.",
						   "Set shared_preload_libraries and replica_ctl.database for all members, with \"patronictl edit-config\", and restart them.");
}

/* ---------------------------------------------------------------------
 * This server and the siblings as its standbys (see also rejoin.c)
 * ---------------------------------------------------------------------
 */

static void
check_replication_rule(RctlPreflight *p, const char *name)
{
	if (rctl_map_get(p->theirs, "hba") == NULL)
		return;
	if (get_long(get_map(p->theirs, "hba"), "replication") > 0)
		rctl_found_ok(p, name, "its pg_hba.conf has rules for replication");
	else
		rctl_found_blocked(p, name, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
						   psprintf("pg_hba.conf of replica \"%s\" lets nobody in for replication", replica_name(p)),
						   "This server could not follow it.",
						   "Add a line for the database \"replication\" there and run SELECT pg_reload_conf().");
}

/* Slots of others go when this server is rewound or follows. */
static void
check_other_slots(RctlPreflight *p, const char *name)
{
	char	   *names;

	rctl_op_begin(p->op);
	names = rctl_store_foreign_slots(p->op->replica, p->siblings);
	rctl_op_commit(p->op);
	if (names)
		rctl_found_warning(p, name, psprintf("replication slots that are not of replica_ctl will be gone: %s", names),
						   NULL, "Make them on the new primary if they are needed.");
	else
		rctl_found_ok(p, name, "there is no replication slot that would be lost");
}

/* ---------------------------------------------------------------------
 * All of them
 * ---------------------------------------------------------------------
 */

static const struct
{
	const char *name;
	int			when;
	bool		remote;			/* reads the replica's answer */
	void		(*check) (RctlPreflight *p, const char *name);
}			checks[] = {
	{"fence", EVER, false, rctl_check_fence},
	{"patroni", EVER, false, check_patroni},
	{"timeout", PLANNED | ELSEWHERE, false, check_timeout},
	{"streaming", PLANNED, false, check_streaming},
	{"slot", PLANNED, false, check_slot},
	{"connection", EVER | ELSEWHERE, true, check_connection},
	{"recovery", EVER | ELSEWHERE, true, check_recovery},
	{"system identifier", EVER, true, check_system},
	{"timeline", PLANNED, true, check_timeline},
	{"replay", PLANNED | ELSEWHERE, true, check_paused},
	{"apply delay", PLANNED | ELSEWHERE, true, check_apply_delay},
	{"replay lag", PLANNED, true, check_lag},
	{"loss", FORCED, true, check_loss},
	{"other replicas", EVER, true, check_siblings},
	{"read only", EVER | ELSEWHERE, true, check_read_only},
	{"synchronous standbys", EVER | ELSEWHERE, true, check_synchronous},
	{"settings", EVER, true, check_settings},
	{"collations", EVER | ELSEWHERE, true, check_collations},
	{"clients", EVER, true, check_clients},
	{"library", EVER, true, check_library},
	{"disk", EVER, false, check_disk},
	{"replication rule", FOLLOWS, true, check_replication_rule},
	{"other slots", FOLLOWS, false, check_other_slots},
	{"archiver", PLANNED, false, check_archiver},
	{"open writes", PLANNED, false, check_writers},
	{"transactions", PLANNED, false, check_transactions},
	{"prepared transactions", EVER, false, check_prepared},
	{"logical slots", EVER, false, check_logical_slots},
	{"subscriptions", EVER, false, check_subscriptions},
};

void
rctl_readiness_checks(RctlPreflight *p)
{
	int			now = (p->forced ? FORCED : PLANNED) | (p->follows ? FOLLOWS : 0);

	for (int i = 0; i < lengthof(checks); i++)
	{
		if (p->elsewhere && !(checks[i].when & ELSEWHERE))
			continue;
		if ((checks[i].when & now) && (p->theirs != NULL || !checks[i].remote))
			checks[i].check(p, checks[i].name);
	}
}
