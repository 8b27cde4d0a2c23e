/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Asks replicas how they are, all at once.
 *
 * libpq's own non-blocking calls are used without net/pgconn, whose calls
 * wait for one connection.  The one thing in libpq that can block is the
 * look-up of a host name, which net/resolve does instead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "net/text.h"
#include "primary/clock.h"
#include "worker/probe.h"

/* Microseconds. */
#define CONNECT_US INT64CONST(5000000)
#define ANSWER_US INT64CONST(5000000)
#define FIRST_RETRY_US INT64CONST(1000000)
#define LAST_RETRY_US INT64CONST(30000000)

static const char *const question =
"SELECT r.in_recovery,"
" (SELECT system_identifier FROM pg_catalog.pg_control_system()),"
" pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn(),"
" CASE WHEN r.in_recovery THEN pg_catalog.pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END,"
" coalesce((SELECT status = 'streaming' FROM pg_catalog.pg_stat_wal_receiver), false),"
" CASE WHEN r.in_recovery THEN coalesce((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver),"
"   (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()))"
"  ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END,"
" CASE WHEN r.in_recovery THEN CASE WHEN pg_catalog.pg_last_wal_receive_lsn() <= pg_catalog.pg_last_wal_replay_lsn()"
"   AND EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE status IS NULL OR (status = 'streaming'"
"    AND coalesce(latest_end_lsn <= pg_catalog.pg_last_wal_replay_lsn(), true))) THEN 0"
"  ELSE extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END END"
" FROM (SELECT pg_catalog.pg_is_in_recovery() AS in_recovery) r";

#define ANSWER_COLUMNS 8

static void
close_connection(RctlProbe *probe)
{
	if (probe->resolve)
		rctl_resolve_cancel(probe->resolve);
	if (probe->conn)
		PQfinish(probe->conn);
	if (probe->resolve || probe->conn)
		ReleaseExternalFD();
	probe->resolve = NULL;
	probe->conn = NULL;
	probe->events = 0;
	probe->phase = RCTL_PROBE_CLOSED;
}

static void
look_whether_stopped(RctlProbe *probe)
{
	const RctlProvider *provider = probe->replica->provider;

	probe->sample.stopped = provider->stopped && provider->stopped(probe->replica);
}

/* No answer: closes the connection and says when to try again. */
static void
fail(RctlProbe *probe, const char *reason, int64 now)
{
	char	   *valid = rctl_valid_text(reason, strlen(reason));
	char	   *clean = rctl_redact(valid);
	int64		pause = FIRST_RETRY_US << Min(probe->failures, 5);

	/* One line is enough for a view. */
	clean[strcspn(clean, "\n")] = '\0';
	for (char *c = clean; *c; c++)
	{
		if ((unsigned char) *c < ' ' || *c == 0x7f)
			*c = '?';
	}
	clean[pg_mbcliplen(clean, strlen(clean), RCTL_REASON_LEN - 1)] = '\0';
	strlcpy(probe->sample.reason, clean, RCTL_REASON_LEN);
	pfree(clean);
	pfree(valid);
	probe->sample.receiving = false;
	probe->changed = true;
	close_connection(probe);
	look_whether_stopped(probe);
	probe->retry_at = now + Min(pause, LAST_RETRY_US);
	probe->failures++;
}

static void
ask(RctlProbe *probe, int64 now)
{
	if (!PQsendQuery(probe->conn, question))
	{
		fail(probe, PQerrorMessage(probe->conn), now);
		return;
	}
	probe->phase = RCTL_PROBE_ASKED;
	probe->deadline = now + ANSWER_US;
	probe->events = PQflush(probe->conn) == 1 ?
		WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE;
}

static void
ignore_notice(void *arg, const PGresult *result)
{
}

/* Of the next phase, with a file descriptor that is counted; conn NULL: out of memory. */
static void
take_connection(RctlProbe *probe, PGconn *conn, int64 now)
{
	probe->conn = conn;
	if (probe->conn == NULL)
	{
		ReleaseExternalFD();
		fail(probe, "out of memory", now);
		return;
	}
	if (PQstatus(probe->conn) == CONNECTION_BAD)
	{
		fail(probe, PQerrorMessage(probe->conn), now);
		return;
	}
	PQsetNoticeReceiver(probe->conn, ignore_notice, NULL);
	probe->phase = RCTL_PROBE_CONNECTING;
	probe->deadline = now + CONNECT_US;
	probe->events = WL_SOCKET_WRITEABLE;
}

static void
start_connection(RctlProbe *probe, int64 now)
{
	const char *reason;
	MemoryContext old;

	if (!AcquireExternalFD())
	{
		fail(probe, "too many files are open", now);
		return;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	reason = rctl_resolve_start(probe->conninfo, &probe->resolve);
	MemoryContextSwitchTo(old);
	if (reason)
	{
		ReleaseExternalFD();
		fail(probe, reason, now);
	}
	else if (probe->resolve == NULL)
		take_connection(probe, PQconnectStart(probe->conninfo), now);
	else
	{
		probe->phase = RCTL_PROBE_RESOLVING;
		probe->deadline = now + CONNECT_US;
		probe->events = WL_SOCKET_READABLE;
	}
}

static void
go_on_resolving(RctlProbe *probe, int64 now)
{
	RctlResolve *resolve = probe->resolve;
	char	   *reason;
	PGconn	   *conn;

	probe->resolve = NULL;
	conn = rctl_resolve_connect(resolve, &reason);
	if (conn == NULL)
	{
		ReleaseExternalFD();
		fail(probe, reason, now);
	}
	else
		take_connection(probe, conn, now);
}

pgsocket
rctl_probe_socket(const RctlProbe *probe)
{
	return probe->resolve ? rctl_resolve_socket(probe->resolve) : PQsocket(probe->conn);
}

static void
go_on_connecting(RctlProbe *probe, int64 now)
{
	switch (PQconnectPoll(probe->conn))
	{
		case PGRES_POLLING_READING:
			probe->events = WL_SOCKET_READABLE;
			break;
		case PGRES_POLLING_WRITING:
			probe->events = WL_SOCKET_WRITEABLE;
			break;
		case PGRES_POLLING_OK:
			PQsetnonblocking(probe->conn, 1);
			ask(probe, now);
			break;
		default:
			fail(probe, PQerrorMessage(probe->conn), now);
	}
}

static bool
parse_lsn(const PGresult *result, int column, XLogRecPtr *lsn)
{
	unsigned int high;
	unsigned int low;

	*lsn = InvalidXLogRecPtr;
	if (PQgetisnull(result, 0, column))
		return true;
	if (sscanf(PQgetvalue(result, 0, column), "%X/%X", &high, &low) != 2)
		return false;
	*lsn = ((uint64) high << 32) | low;
	return true;
}

static bool
is_true(const PGresult *result, int column)
{
	return PQgetvalue(result, 0, column)[0] == 't';
}

/*
 * It is no copy of this server, so that its position says nothing here: what it
 * knows of its lag itself is for the provider, if its replicas may be such.
 */
static const char *
take_foreign_answer(RctlProbe *probe, const PGresult *result)
{
	const RctlProvider *provider = probe->replica->provider;
	const char *reason = "another database system answers there";

	if (provider->answered)
		reason = provider->answered(probe->replica, PQgetvalue(result, 0, 1), is_true(result, 5),
									PQgetisnull(result, 0, 7) ? NAN : strtod(PQgetvalue(result, 0, 7), NULL));
	if (reason)
		return reason;
	probe->sample.reason[0] = '\0';
	probe->changed = true;
	probe->failures = 0;
	return NULL;
}

/* Takes the answer over, if it is one. Returns what is wrong with it, or NULL. */
static const char *
take_answer(RctlProbe *probe, const PGresult *result, int64 now)
{
	RctlReplicaSample *sample = &probe->sample;
	XLogRecPtr	receive;
	XLogRecPtr	replay;
	char		own[32];

	if (PQresultStatus(result) == PGRES_FATAL_ERROR)
		return PQresultErrorMessage(result);
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1 || PQnfields(result) != ANSWER_COLUMNS ||
		!parse_lsn(result, 2, &receive) || !parse_lsn(result, 3, &replay))
		return "its answer makes no sense";
	snprintf(own, sizeof(own), UINT64_FORMAT, GetSystemIdentifier());
	if (strcmp(PQgetvalue(result, 0, 1), own) != 0)
		return take_foreign_answer(probe, result);

	sample->in_recovery = is_true(result, 0);
	sample->receive = receive;
	sample->replay = replay;
	sample->paused = is_true(result, 4);
	sample->receiving = is_true(result, 5);
	sample->timeline = (uint32) strtoul(PQgetvalue(result, 0, 6), NULL, 10);
	sample->answered = now;
	sample->stopped = false;
	sample->reason[0] = '\0';
	probe->changed = true;
	probe->failures = 0;
	return NULL;
}

static void
go_on_reading(RctlProbe *probe, int ready, int64 now)
{
	PGresult   *result;

	if ((ready & WL_SOCKET_WRITEABLE) && PQflush(probe->conn) == 0)
		probe->events = WL_SOCKET_READABLE;
	if ((ready & WL_SOCKET_READABLE) && !PQconsumeInput(probe->conn))
	{
		fail(probe, PQerrorMessage(probe->conn), now);
		return;
	}
	while (!PQisBusy(probe->conn))
	{
		const char *wrong;
		char	   *reason;

		result = PQgetResult(probe->conn);
		if (result == NULL)
		{
			probe->phase = RCTL_PROBE_READY;
			probe->events = 0;
			return;
		}
		wrong = take_answer(probe, result, now);
		if (wrong)
		{
			reason = pstrdup(wrong);
			PQclear(result);
			fail(probe, reason, now);
			pfree(reason);
			return;
		}
		PQclear(result);
	}
}

void
rctl_probe_advance(RctlProbe *probe, int ready, int64 now)
{
	if (probe->phase == RCTL_PROBE_CLOSED || probe->phase == RCTL_PROBE_READY)
		return;
	if (ready == 0)
	{
		if (now >= probe->deadline)
			fail(probe, probe->phase == RCTL_PROBE_RESOLVING ? "its host name is not found in time" :
				 probe->phase == RCTL_PROBE_CONNECTING ?
				 "it accepts no connection in time" : "it does not answer in time", now);
	}
	else if (probe->phase == RCTL_PROBE_RESOLVING)
		go_on_resolving(probe, now);
	else if (probe->phase == RCTL_PROBE_CONNECTING)
		go_on_connecting(probe, now);
	else
		go_on_reading(probe, ready, now);
}

void
rctl_probe_round(RctlProbe *probe, int64 now)
{
	if (probe->phase == RCTL_PROBE_READY)
		ask(probe, now);
	else if (probe->phase == RCTL_PROBE_CLOSED)
	{
		bool		stopped = probe->sample.stopped;

		if (probe->failures > 0 || probe->conninfo == NULL)
			look_whether_stopped(probe);
		/* One that was started is asked at once. */
		if (probe->conninfo && (now >= probe->retry_at || (stopped && !probe->sample.stopped)))
			start_connection(probe, now);
		probe->changed |= stopped != probe->sample.stopped;
	}
}

void
rctl_probe_clear(RctlProbe *probe)
{
	close_connection(probe);
	if (probe->context)
		MemoryContextDelete(probe->context);
	memset(probe, 0, sizeof(*probe));
	probe->changed = true;
}

void
rctl_probe_set(RctlProbe *probe, RctlReplica *replica, char *conninfo, MemoryContext context)
{
	RctlReplicaSample *sample = &probe->sample;
	bool		same = probe->id == replica->id &&
	(probe->conninfo == NULL) == (conninfo == NULL) &&
	(conninfo == NULL || strcmp(probe->conninfo, conninfo) == 0);

	if (!same)
	{
		close_connection(probe);
		probe->failures = 0;
		probe->retry_at = 0;
		sample->reason[0] = '\0';
	}
	if (probe->context)
		MemoryContextDelete(probe->context);
	probe->context = context;
	probe->conninfo = conninfo;
	probe->replica = replica;
	probe->id = sample->id = replica->id;
	strlcpy(sample->name, replica->name, NAMEDATALEN);
	strlcpy(sample->provider, replica->provider->name, NAMEDATALEN);
	strlcpy(sample->application_name,
			rctl_map_get_default(replica->facts, "application_name", replica->name), NAMEDATALEN);
	strlcpy(sample->slot, rctl_map_get_default(replica->facts, "slot", ""), NAMEDATALEN);
	sample->cascaded = rctl_map_get(replica->facts, "upstream") != NULL;
	probe->changed = true;
}
