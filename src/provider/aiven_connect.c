/*-------------------------------------------------------------------------
 *
 * aiven_connect.c
 *	  SQL on services of Aiven.
 *
 * Connection data come from the API (include_secrets), but for a user name and
 * a password that stand in the user mapping.  An operation worker asks for
 * them once; the monitor, which must not ask when it connects, remembers what
 * its rounds have seen.  Both are in this process's memory only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/aiven.h"

#define QUERY_TIMEOUT_MS 5000

/* A name that was made a moment ago may not be known everywhere yet. */
#define REACH_ATTEMPTS 4
#define REACH_TIMEOUT_MS 5000
#define REACH_PAUSE_MS 1000

/* Until a new replica must stream, once it can be reached. */
#define STREAM_TIMEOUT_MS 120000

/* How long an answer of a replica to the monitor says something about it. */
#define ANSWER_VALID_MS 60000

/* What the monitor knows of a replica; in TopMemoryContext. */
typedef struct Known
{
	int64		replica;
	char	   *conninfo;		/* NULL: not known */
	TimestampTz answered_at;	/* 0: never */
	bool		streaming;
	double		lag;			/* seconds; NaN: it does not know */
} Known;

static List *known = NIL;

/* The operation worker's, of its replica; they live as long as op->context. */
static char *login = NULL;
static int64 login_replica = 0;

/* ---------------------------------------------------------------------
 * Connection strings
 * ---------------------------------------------------------------------
 */

static const char *
safe_sslmode(const char *mode)
{
	static const char *const modes[] = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"};

	for (int i = 0; mode && i < lengthof(modes); i++)
	{
		if (strcmp(modes[i], mode) == 0)
			return modes[i];
	}
	return "require";
}

static char *
conninfo_of(const RctlAivenService *service, const char *user, const char *password)
{
	const RctlConnParam params[] = {
		{"host", service->host},
		{"port", service->port},
		{"dbname", service->dbname},
		{"user", user ? user : service->user},
		{"password", password ? password : service->password},
		{"sslmode", safe_sslmode(service->sslmode)},
		{NULL, NULL}
	};

	return rctl_conninfo(params);
}

static void
forget_login(void *arg)
{
	login = NULL;
}

/* Raises an error if there are no connection data yet. */
static char *
login_of(RctlOp *op, RctlReplica *replica)
{
	RctlAiven  *aiven;
	RctlAivenService *service;
	const char *name = rctl_map_get(replica->facts, "service_name");
	MemoryContextCallback *callback;

	if (login && login_replica == replica->id)
		return login;
	aiven = rctl_aiven_open(op);
	service = name ? rctl_aiven_service(aiven, name, true) : NULL;
	if (service == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replica \"%s\" has no Aiven service", replica->name),
				 name ? errdetail("Project \"%s\" has no service \"%s\".", aiven->project, name) : 0,
				 errhint("Remove the replica with SELECT replica_detach(%s), and make a new one.",
						 quote_literal_cstr(replica->name))));
	if (service->host == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("Aiven tells no connection data of service \"%s\"", name),
				 errdetail("Its state is %s.", service->state),
				 errhint("Wait until it runs, or start it at Aiven.")));
	if (login == NULL)
	{
		callback = MemoryContextAllocZero(op->context, sizeof(MemoryContextCallback));
		callback->func = forget_login;
		MemoryContextRegisterResetCallback(op->context, callback);
	}
	login = MemoryContextStrdup(op->context, conninfo_of(service, rctl_op_secret(op, "user"),
														 rctl_op_secret(op, "password")));
	login_replica = replica->id;
	return login;
}

PGconn *
rctl_aiven_connect(RctlOp *op, RctlReplica *replica, long timeout_ms)
{
	bool		cached = login && login_replica == replica->id;
	char	   *reason;
	int			sqlerrcode;
	PGconn	   *conn = rctl_pg_try_connect(login_of(op, replica), timeout_ms, &reason, &sqlerrcode);

	/* The password, or the address, may have been changed meanwhile. */
	if (conn == NULL && cached)
	{
		login_replica = 0;
		(void) login_of(op, replica);
	}
	if (conn == NULL)
		conn = rctl_pg_connect(login_of(op, replica), timeout_ms, psprintf("replica \"%s\"", replica->name));
	return conn;
}

PGconn *
rctl_aiven_try_connect(RctlOp *op, RctlReplica *replica, long timeout_ms)
{
	char	   *reason;
	int			sqlerrcode;

	return rctl_pg_try_connect(login_of(op, replica), timeout_ms, &reason, &sqlerrcode);
}

/* ---------------------------------------------------------------------
 * The monitor's
 * ---------------------------------------------------------------------
 */

static Known *
find_known(int64 replica)
{
	ListCell   *lc;

	foreach(lc, known)
	{
		Known	   *entry = lfirst(lc);

		if (entry->replica == replica)
			return entry;
	}
	return NULL;
}

static Known *
make_known(int64 replica)
{
	Known	   *entry = find_known(replica);
	MemoryContext old;

	if (entry)
		return entry;
	old = MemoryContextSwitchTo(TopMemoryContext);
	entry = palloc0(sizeof(Known));
	entry->replica = replica;
	known = lappend(known, entry);
	MemoryContextSwitchTo(old);
	return entry;
}

bool
rctl_aiven_remember(const RctlReplica *replica, const RctlAivenService *service)
{
	Known	   *entry;
	char	   *conninfo;

	if (service->host == NULL)
		return false;
	entry = make_known(replica->id);
	conninfo = conninfo_of(service, NULL, NULL);
	if (entry->conninfo && strcmp(entry->conninfo, conninfo) == 0)
		return false;
	if (entry->conninfo)
		pfree(entry->conninfo);
	entry->conninfo = MemoryContextStrdup(TopMemoryContext, conninfo);
	return true;
}

const char *
rctl_aiven_answered(const RctlReplica *replica, const char *system_identifier, bool streaming, double lag)
{
	const char *expected = rctl_map_get(replica->facts, "system_identifier");
	Known	   *entry = make_known(replica->id);

	if (expected && strcmp(expected, system_identifier) != 0)
		return "another database system than the source's answers there";
	entry->answered_at = GetCurrentTimestamp();
	entry->streaming = streaming;
	entry->lag = lag;
	return NULL;
}

bool
rctl_aiven_last_answer(const RctlReplica *replica, bool *streaming, double *lag, TimestampTz *at)
{
	Known	   *entry = find_known(replica->id);

	if (entry == NULL || entry->answered_at == 0 ||
		TimestampDifferenceExceeds(entry->answered_at, GetCurrentTimestamp(), ANSWER_VALID_MS))
		return false;
	*streaming = entry->streaming;
	*lag = entry->lag;
	*at = entry->answered_at;
	return true;
}

/* What stands in the mapping goes first; without a password there is no use in asking. */
char *
rctl_aiven_conninfo(const RctlReplica *replica, const RctlMap *mapping)
{
	const char *user = mapping ? rctl_map_get(mapping, "user") : NULL;
	const char *password = mapping ? rctl_map_get(mapping, "password") : NULL;
	Known	   *entry = find_known(replica->id);
	RctlAivenService service = {0};

	if (entry && entry->conninfo && user == NULL && password == NULL)
		return pstrdup(entry->conninfo);
	if (password == NULL || rctl_map_get(replica->facts, "host") == NULL)
		return NULL;
	service.host = pstrdup(rctl_map_get(replica->facts, "host"));
	service.port = pstrdup(rctl_map_get_default(replica->facts, "port", ""));
	service.dbname = pstrdup(rctl_map_get_default(replica->facts, "dbname", "defaultdb"));
	service.user = pstrdup(rctl_map_get_default(replica->facts, "user", "avnadmin"));
	service.sslmode = pstrdup(rctl_map_get_default(replica->facts, "sslmode", "require"));
	return conninfo_of(&service, user, password);
}

/* ---------------------------------------------------------------------
 * Proof that a replica is what it should be
 * ---------------------------------------------------------------------
 */

/* The replica, or NULL with the reason. */
static PGconn *
reach(RctlOp *op, const char *conninfo, char **reason)
{
	int			sqlerrcode;

	for (int attempt = 1;; attempt++)
	{
		PGconn	   *conn = rctl_pg_try_connect(conninfo, REACH_TIMEOUT_MS, reason, &sqlerrcode);

		if (conn || attempt == REACH_ATTEMPTS)
			return conn;
		rctl_op_progress(op, psprintf("connecting, attempt %d", attempt + 1), 0, 0);
		rctl_sleep(REACH_PAUSE_MS * attempt);
	}
}

static char *
system_identifier(PGconn *conn)
{
	return rctl_pg_value(conn, QUERY_TIMEOUT_MS, "SELECT system_identifier FROM pg_catalog.pg_control_system()", 0, NULL);
}

/* That of the source's own endpoint; NULL if it cannot be asked from here. */
static char *
source_identifier(RctlOp *op, const RctlAiven *aiven)
{
	RctlAivenService *source = rctl_aiven_service(aiven, aiven->source, true);
	PGconn	   *conn;
	char	   *reason;
	char	   *identifier;
	int			sqlerrcode;

	if (source == NULL || source->host == NULL)
		return NULL;
	conn = rctl_pg_try_connect(conninfo_of(source, NULL, NULL), REACH_TIMEOUT_MS, &reason, &sqlerrcode);
	if (conn == NULL)
		return NULL;
	identifier = system_identifier(conn);
	rctl_pg_close(conn);
	return identifier;
}

static void
not_the_replica(RctlOp *op, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("Aiven service \"%s\" is not a standby of the source", rctl_map_get(op->replica->facts, "service_name")),
			 errdetail("%s", what),
			 errhint("Compare the connection data of the two services at Aiven with the servers behind them.")));
}

/* Until the WAL receiver runs; its state may be hidden from the role, which then says nothing. */
static void
wait_for_stream(RctlOp *op, PGconn *conn)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), STREAM_TIMEOUT_MS);

	for (;;)
	{
		char	   *status = rctl_pg_value(conn, QUERY_TIMEOUT_MS,
										   "SELECT coalesce((SELECT coalesce(status, 'hidden') FROM pg_catalog.pg_stat_wal_receiver), 'none')",
										   0, NULL);

		if (strcmp(status, "streaming") == 0 || strcmp(status, "hidden") == 0)
			return;
		if (GetCurrentTimestamp() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("Aiven service \"%s\" does not stream from its source",
							rctl_map_get(op->replica->facts, "service_name")),
					 errdetail("The state of its WAL receiver is \"%s\" after %d s.", status, STREAM_TIMEOUT_MS / 1000),
					 errhint("See the service's log at Aiven.")));
		rctl_op_progress(op, psprintf("waiting until it streams: %s", status), 0, 0);
		rctl_sleep(500);
	}
}

void
rctl_aiven_verify_standby(RctlOp *op)
{
	RctlMap    *facts = op->replica->facts;
	RctlAiven  *aiven = rctl_aiven_open(op);
	char	   *reason;
	PGconn	   *conn = reach(op, login_of(op, op->replica), &reason);
	char	   *identifier;
	char	   *source;
	char	   *timeline;

	if (conn == NULL)
	{
		RctlMap    *detail = rctl_map_make();

		rctl_map_set(detail, "reason", reason);
		rctl_map_set(detail, "host", rctl_map_get(facts, "host"));
		rctl_map_set(detail, "port", rctl_map_get(facts, "port"));
		rctl_op_event(op, "warning", "unreachable", detail,
					  "Aiven service \"%s\" runs, but cannot be reached from this server: its lag is not known here",
					  rctl_map_get(facts, "service_name"));
		return;
	}
	if (strcmp(rctl_pg_value(conn, QUERY_TIMEOUT_MS, "SELECT pg_catalog.pg_is_in_recovery()", 0, NULL), "t") != 0)
		not_the_replica(op, "It is not in recovery: it accepts writes of its own.");
	identifier = system_identifier(conn);
	source = source_identifier(op, aiven);
	if (source && identifier && strcmp(source, identifier) != 0)
		not_the_replica(op, psprintf("Its system identifier is %s, the source's is %s.", identifier, source));
	wait_for_stream(op, conn);

	/*
	 * For a promotion: whether the fence in this server is the one that
	 * counts.
	 */
	timeline = rctl_pg_value(conn, QUERY_TIMEOUT_MS,
							 "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()", 0, NULL);
	rctl_map_set(facts, "system_identifier", identifier);
	rctl_map_set(facts, "source_here",
				 identifier && strcmp(identifier, psprintf(UINT64_FORMAT, GetSystemIdentifier())) == 0 &&
				 timeline && strtoul(timeline, NULL, 10) == GetWALInsertionTimeLine() ? "true" : NULL);
	rctl_pg_close(conn);
}
