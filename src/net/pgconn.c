/*-------------------------------------------------------------------------
 *
 * pgconn.c
 *	  Non-blocking libpq, driven by rctl_wait().
 *
 * libpq allocates by malloc() and knows nothing of errors that jump.  So each
 * PGconn and each PGresult is held by a small struct in a memory context of
 * its own below the caller's, whose reset callback frees it; the structs are
 * found by pointer in two lists.  Freeing early deletes the context: nothing
 * adds up in a loop.
 *
 * The server bounds each statement, too: before one runs with another
 * timeout than the last, statement_timeout is set.  PQcancel() is not used:
 * it blocks, without a bound, on a server that accepts and does not answer,
 * which is just the one that a statement has timed out on.
 *
 * A wait that is interrupted leaves a protocol state that nobody will read
 * on.  The socket is shut down then, and the PGconn stays as a broken one
 * until it is closed, because the caller still has the pointer.
 *
 * Nothing here is durable or in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <sys/socket.h>

#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "net/pgconn.h"
#include "net/wait.h"

/* rctl_wait_check is called this often at least */
#define CHECK_MS 1000

/* The server gives a statement up this much after us. */
#define SERVER_GRACE_MS 500

/* Appended to the options of each session: the last one counts. */
#define SESSION_OPTIONS \
	"-c lock_timeout=0 -c search_path=pg_catalog" \
	" -c client_min_messages=error -c synchronous_commit=local"

typedef struct Connection
{
	dlist_node	node;			/* in connections */
	MemoryContext context;		/* holds this struct and what it points to */
	MemoryContextCallback callback;
	PGconn	   *conn;			/* NULL until it is made */
	char	   *what;			/* the other side, in messages */
	bool		broken;			/* an interrupted wait: unusable */
	bool		replication;	/* takes simple queries only, and no SET */
	long		statement_timeout;	/* in effect, ms; -1: the server's default */
	void		(*tick) (void *arg);	/* called while a statement runs, or
										 * NULL */
	void	   *tick_arg;
} Connection;

typedef struct Result
{
	dlist_node	node;			/* in results */
	MemoryContext context;
	MemoryContextCallback callback;
	PGresult   *result;
} Result;

static dlist_head connections = DLIST_STATIC_INIT(connections);
static dlist_head results = DLIST_STATIC_INIT(results);

/* ---- holders ---- */

static void
connection_callback(void *arg)
{
	Connection *connection = arg;

	dlist_delete(&connection->node);
	PQfinish(connection->conn);
	ReleaseExternalFD();
}

static void
result_callback(void *arg)
{
	Result	   *holder = arg;

	dlist_delete(&holder->node);
	PQclear(holder->result);
}

static Connection *
make_connection(const char *what)
{
	MemoryContext context;
	Connection *connection;

	context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl connection",
									ALLOCSET_SMALL_SIZES);
	connection = MemoryContextAllocZero(context, sizeof(Connection));
	connection->context = context;
	connection->what = MemoryContextStrdup(context, what);
	connection->statement_timeout = -1;
	connection->callback.func = connection_callback;
	connection->callback.arg = connection;

	/* Reserved before, so that the callback can always release it. */
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("too many open files to connect to %s", what),
				 errhint("Raise max_files_per_process.")));
	dlist_push_tail(&connections, &connection->node);
	MemoryContextRegisterResetCallback(context, &connection->callback);
	return connection;
}

/* Holds results from now on; made before there is one that could leak. */
static Result *
make_result(void)
{
	MemoryContext context;
	Result	   *holder;

	context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl result",
									ALLOCSET_SMALL_SIZES);
	holder = MemoryContextAllocZero(context, sizeof(Result));
	holder->context = context;
	holder->callback.func = result_callback;
	holder->callback.arg = holder;
	dlist_push_tail(&results, &holder->node);
	MemoryContextRegisterResetCallback(context, &holder->callback);
	return holder;
}

static Connection *
find_connection(PGconn *conn)
{
	dlist_iter	iter;

	dlist_foreach(iter, &connections)
	{
		Connection *connection = dlist_container(Connection, node, iter.cur);

		if (connection->conn == conn)
			return connection;
	}
	return NULL;
}

void
rctl_pg_close(PGconn *conn)
{
	Connection *connection = conn ? find_connection(conn) : NULL;

	if (connection)
		MemoryContextDelete(connection->context);
}

void
rctl_pg_clear(PGresult *result)
{
	dlist_mutable_iter iter;

	if (result == NULL)
		return;
	dlist_foreach_modify(iter, &results)
	{
		Result	   *holder = dlist_container(Result, node, iter.cur);

		if (holder->result == result)
		{
			MemoryContextDelete(holder->context);
			return;
		}
	}
}

/* ---- messages ---- */

/* Fit for an error: valid, without passwords, without a line feed at the end. */
static char *
clean_message(const char *message)
{
	char	   *clean = rctl_redact(rctl_valid_text(message, strlen(message)));
	size_t		length = strlen(clean);

	while (length > 0 && isspace((unsigned char) clean[length - 1]))
		clean[--length] = '\0';
	return clean;
}

static int
parse_sqlstate(const char *code)
{
	return MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]);
}

/*
 * If the line has "SEVERITY:  12345: message", as libpq's verbose form has
 * it, returns where the code starts.
 */
static char *
find_sqlstate(char *line)
{
	for (char *p = line; (p = strstr(p, ":  ")) != NULL; p++)
		if (strspn(p + 3, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 &&
			strncmp(p + 8, ": ", 2) == 0)
			return p + 3;
	return NULL;
}

/* Whether the line is the verbose form's "LOCATION:  function, file.c:123". */
static bool
is_location(const char *line)
{
	const char *file = strstr(line, ".c:");

	return file && file[3] != '\0' && strspn(file + 3, "0123456789") == strlen(file + 3);
}

/*
 * libpq has no field for the SQLSTATE of a refused connection: it stands in
 * the verbose form of the message only.  Takes it, and what only that form
 * has, out of the text.
 */
static char *
connect_failure(PGconn *conn, int *sqlerrcode)
{
	char	   *message = clean_message(PQerrorMessage(conn));
	StringInfoData reason;
	char	   *next;

	initStringInfo(&reason);
	for (char *line = message; line; line = next)
	{
		char	   *code;

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (is_location(line))
			continue;
		if (reason.len > 0)
			appendStringInfoChar(&reason, '\n');
		code = find_sqlstate(line);
		if (code)
		{
			*sqlerrcode = parse_sqlstate(code);
			appendBinaryStringInfo(&reason, line, code - line);
			line = code + strlen("12345: ");
		}
		appendStringInfoString(&reason, line);
	}
	pfree(message);
	return reason.data;
}

/* ---- connecting ---- */

char *
rctl_conninfo(const RctlConnParam *params)
{
	StringInfoData conninfo;

	initStringInfo(&conninfo);
	for (; params->keyword; params++)
	{
		if (params->value == NULL || *params->value == '\0')
			continue;
		if (conninfo.len > 0)
			appendStringInfoChar(&conninfo, ' ');
		appendStringInfo(&conninfo, "%s='", params->keyword);
		for (const char *p = params->value; *p; p++)
		{
			if (*p == '\'' || *p == '\\')
				appendStringInfoChar(&conninfo, '\\');
			appendStringInfoChar(&conninfo, *p);
		}
		appendStringInfoChar(&conninfo, '\'');
	}
	return conninfo.data;
}

static void
ignore_notice(void *arg, const PGresult *result)
{
}

/*
 * Starts a connection with our own parameters around those of the connection
 * string.  Leaves connection->conn NULL if the string is not valid (what libpq
 * says about that could quote a part of a password).
 */
static void
start_connection(Connection *connection, const char *conninfo)
{
	/* A keyword that occurs again overrides the one before. */
	static const RctlConnParam defaults[] = {
		{"keepalives", "1"},
		{"keepalives_idle", "10"},
		{"keepalives_interval", "5"},
		{"keepalives_count", "3"},
		{"tcp_user_timeout", "30000"},
		{"application_name", "replica_ctl"},
	};
	PQconninfoOption *given = PQconninfoParse(conninfo, NULL);
	const char **keywords;
	const char **values;
	const char *options = SESSION_OPTIONS;
	int			n = 0;

	if (given == NULL)
		return;
	for (PQconninfoOption *option = given; option->keyword; option++)
		n++;
	keywords = palloc0(sizeof(char *) * (n + lengthof(defaults) + 3));
	values = palloc0(sizeof(char *) * (n + lengthof(defaults) + 3));

	n = 0;
	for (int i = 0; i < lengthof(defaults); i++)
	{
		keywords[n] = defaults[i].keyword;
		values[n++] = defaults[i].value;
	}
	for (PQconninfoOption *option = given; option->keyword; option++)
	{
		if (option->val == NULL)
			continue;
		if (strcmp(option->keyword, "options") == 0)
			options = psprintf("%s %s", option->val, SESSION_OPTIONS);
		else if (strcmp(option->keyword, "replication") == 0)
			connection->replication = true;
		keywords[n] = option->keyword;
		values[n++] = option->val;
	}
	keywords[n] = "options";
	values[n++] = options;
	keywords[n] = "client_encoding";
	values[n++] = GetDatabaseEncodingName();

	connection->conn = PQconnectStartParams(keywords, values, 0);
	PQconninfoFree(given);
	pfree(keywords);
	pfree(values);
	if (connection->conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	PQsetNoticeReceiver(connection->conn, ignore_notice, NULL);
	PQsetErrorVerbosity(connection->conn, PQERRORS_VERBOSE);
}

/*
 * Drives the start to its end.  False on timeout; then, or when the status is
 * not CONNECTION_OK after it, it has failed.
 */
static bool
finish_connecting(PGconn *conn, long timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (PQstatus(conn) == CONNECTION_BAD)
		return true;
	while (status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			events;

		if (left <= 0)
			return false;

		/* Each poll may have gone on with another socket. */
		events = rctl_wait(PQsocket(conn),
						   status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_CONNECTED,
						   Min(left, CHECK_MS));
		if (events & WL_SOCKET_MASK)
			status = PQconnectPoll(conn);
	}
	return true;
}

/*
 * Connects; NULL with *reason and *sqlerrcode set if it cannot.  Only
 * interrupts and a lack of resources raise errors.
 */
static PGconn *
connect_or_reason(const char *conninfo, long timeout_ms, const char *what,
				  char **reason, int *sqlerrcode)
{
	Connection *connection = make_connection(what);

	*reason = NULL;
	*sqlerrcode = ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
	start_connection(connection, conninfo);
	if (connection->conn == NULL)
	{
		*reason = pstrdup("invalid connection string");
		*sqlerrcode = ERRCODE_INVALID_PARAMETER_VALUE;
	}
	else if (!finish_connecting(connection->conn, timeout_ms))
		*reason = psprintf("no answer within %ld ms", timeout_ms);
	else if (PQstatus(connection->conn) != CONNECTION_OK)
		*reason = connect_failure(connection->conn, sqlerrcode);
	else if (PQsetnonblocking(connection->conn, 1) != 0)
		*reason = clean_message(PQerrorMessage(connection->conn));

	if (*reason)
	{
		MemoryContextDelete(connection->context);
		return NULL;
	}

	/* From now on results have the SQLSTATE in a field of its own. */
	(void) PQsetErrorVerbosity(connection->conn, PQERRORS_DEFAULT);
	return connection->conn;
}

PGconn *
rctl_pg_connect(const char *conninfo, long timeout_ms, const char *what)
{
	char	   *reason;
	int			sqlerrcode;
	PGconn	   *conn = connect_or_reason(conninfo, timeout_ms, what, &reason, &sqlerrcode);

	if (conn == NULL)
		ereport(ERROR,
				(errcode(sqlerrcode),
				 errmsg("could not connect to %s", what),
				 errdetail_internal("%s", reason)));
	return conn;
}

PGconn *
rctl_pg_try_connect(const char *conninfo, long timeout_ms, char **reason, int *sqlerrcode)
{
	return connect_or_reason(conninfo, timeout_ms, "the server", reason, sqlerrcode);
}

/* ---- statements ---- */

static void
raise_lost(Connection *connection)
{
	char	   *reason = clean_message(PQerrorMessage(connection->conn));

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("connection to %s was lost", connection->what),
			 *reason ? errdetail_internal("%s", reason) : 0));
}

/* Raises the error that the server sent; or that libpq made up for a loss. */
static void
raise_result(Connection *connection, const PGresult *result)
{
	const char *code = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

	if (code == NULL || strlen(code) != 5 || primary == NULL)
		raise_lost(connection);

	ereport(ERROR,
			(errcode(parse_sqlstate(code)),
			 errmsg("%s: %s", connection->what, clean_message(primary)),
			 detail ? errdetail_internal("%s", clean_message(detail)) : 0,
			 hint ? errhint("%s", clean_message(hint)) : 0));
}

/*
 * Waits for the socket and reads.  False at the end of the stream: what has
 * come until then is still to be taken from libpq, such as the reason why the
 * server closed it.
 */
static bool
wait_for_socket(Connection *connection, int events, TimestampTz deadline, long timeout_ms)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

	if (left <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("%s did not answer within %ld ms", connection->what, timeout_ms)));
	events = rctl_wait(PQsocket(connection->conn), events, Min(left, CHECK_MS));
	if (connection->tick)
		connection->tick(connection->tick_arg);
	return !(events & WL_SOCKET_READABLE) || PQconsumeInput(connection->conn);
}

/* Sends one statement and reads all of its results; the first error counts. */
static void
run_statement(Connection *connection, Result *holder, long timeout_ms, const char *sql,
			  int nparams, const char *const *params)
{
	PGconn	   *conn = connection->conn;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	PGresult   *result;
	int			unsent;

	if (!(connection->replication ? PQsendQuery(conn, sql) :
		  PQsendQueryParams(conn, sql, nparams, NULL, params, NULL, NULL, 0)))
		raise_lost(connection);

	/* Wait for writing only while there is something to write. */
	while ((unsent = PQflush(conn)) == 1)
		if (!wait_for_socket(connection, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE, deadline, timeout_ms))
			break;
	if (unsent < 0)
		raise_lost(connection);

	for (;;)
	{
		while (PQisBusy(conn))
			if (!wait_for_socket(connection, WL_SOCKET_READABLE, deadline, timeout_ms))
				break;
		result = PQgetResult(conn);
		if (result == NULL)
			break;
		if (holder->result == NULL)
			holder->result = result;
		else
			PQclear(result);

		switch (PQresultStatus(holder->result))
		{
			case PGRES_TUPLES_OK:
			case PGRES_COMMAND_OK:
			case PGRES_FATAL_ERROR:
				break;
			default:
				elog(ERROR, "unexpected result status %s of a statement",
					 PQresStatus(PQresultStatus(holder->result)));
		}
	}
	if (holder->result == NULL)
		raise_lost(connection);
}

/* Runs a statement; whatever interrupts it leaves the connection broken. */
static PGresult *
execute(Connection *connection, long timeout_ms, const char *sql,
		int nparams, const char *const *params)
{
	Result	   *holder;

	if (connection->broken || PQstatus(connection->conn) != CONNECTION_OK)
		raise_lost(connection);

	holder = make_result();
	PG_TRY();
	{
		run_statement(connection, holder, timeout_ms, sql, nparams, params);
	}
	PG_CATCH();
	{
		connection->broken = true;
		if (PQsocket(connection->conn) >= 0)
			(void) shutdown(PQsocket(connection->conn), SHUT_RDWR);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (PQresultStatus(holder->result) == PGRES_FATAL_ERROR)
		raise_result(connection, holder->result);
	return holder->result;
}

/*
 * Makes the server bound its statements, too.  Not in a transaction block,
 * whose end may take the setting back.
 */
static void
set_statement_timeout(Connection *connection, long timeout_ms)
{
	long		wanted = Min(timeout_ms, INT_MAX - SERVER_GRACE_MS) + SERVER_GRACE_MS;
	char		sql[64];

	if (connection->replication || connection->statement_timeout == wanted ||
		PQtransactionStatus(connection->conn) != PQTRANS_IDLE)
		return;
	snprintf(sql, sizeof(sql), "SET statement_timeout = %ld", wanted);
	rctl_pg_clear(execute(connection, timeout_ms, sql, 0, NULL));
	connection->statement_timeout = wanted;
}

void
rctl_pg_set_tick(PGconn *conn, void (*tick) (void *arg), void *arg)
{
	Connection *connection = find_connection(conn);

	connection->tick = tick;
	connection->tick_arg = arg;
}

PGresult *
rctl_pg_exec(PGconn *conn, long timeout_ms, const char *sql,
			 int nparams, const char *const *params)
{
	Connection *connection = find_connection(conn);

	Assert(timeout_ms > 0);
	if (connection == NULL)
		elog(ERROR, "not a connection made by rctl_pg_connect");
	set_statement_timeout(connection, timeout_ms);
	return execute(connection, timeout_ms, sql, nparams, params);
}

bool
rctl_pg_usable(PGconn *conn)
{
	Connection *connection = conn ? find_connection(conn) : NULL;

	return connection != NULL && !connection->broken && PQstatus(conn) == CONNECTION_OK;
}

char *
rctl_pg_value(PGconn *conn, long timeout_ms, const char *sql,
			  int nparams, const char *const *params)
{
	PGresult   *result = rctl_pg_exec(conn, timeout_ms, sql, nparams, params);
	char	   *value = NULL;

	if (PQntuples(result) > 0 && PQnfields(result) > 0 && !PQgetisnull(result, 0, 0))
		value = pstrdup(PQgetvalue(result, 0, 0));
	rctl_pg_clear(result);
	return value;
}
