/*-------------------------------------------------------------------------
 *
 * standby_source.c
 *	  What a standby follows, and how to log in there and here.
 *
 * Nobody tells us how to connect.  So the ways that can work are tried in
 * order: the endpoints of the other server (its sockets, then TCP), each with
 * the role of the user mapping or, without one, with roles that peer or trust
 * authentication may let in: the role named like the operating system's user,
 * the bootstrap superuser, the one who asked.  What worked is kept in the
 * replica's facts and is tried first from then on.  If nothing works the
 * error lists each attempt.
 *
 * A login counts only if the server behind it has this server's system
 * identifier.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/username.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/standby.h"
#include "settings.h"

#define LOGIN_TIMEOUT 10000
#define MAX_ARGS 8

/* How long a session that was told to end may still hold its slot. */
#define RELEASE_TRIES 200
#define RELEASE_WAIT_MS 50

/* How long a tablespace may take to be dropped. */
#define LOCATION_TRIES 100
#define LOCATION_WAIT_MS 50

typedef struct Endpoint
{
	const char *host;			/* socket directory or address */
	const char *port;
} Endpoint;

/* One search for a login. */
typedef struct Search
{
	RctlOp	   *op;
	const char *what;			/* the other server, for messages */
	bool		replication;	/* else SQL with the right to promote */
	List	   *endpoints;		/* of Endpoint */
	List	   *roles;			/* of names */
	long		timeout_ms;
	StringInfoData attempts;	/* what failed, a line each */
	bool		refused;		/* a server answered, and will not let us in */
	bool		password;		/* it asked for a password */
	RctlHost   *from;			/* who logs in, if that is not this server */
	const RctlMap *facts;		/* of a replica: what its logins need besides */
	int			sqlerrcode;		/* of the last attempt */
	Endpoint	endpoint;		/* the login that worked */
	const char *role;
} Search;

/* ---------------------------------------------------------------------
 * Queries
 * ---------------------------------------------------------------------
 */

static void
run_spi(const char *sql, int nargs, const char *const *args)
{
	Oid			types[MAX_ARGS];
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS] = {0};
	int			result;

	Assert(nargs <= MAX_ARGS);
	for (int i = 0; i < nargs; i++)
	{
		types[i] = TEXTOID;
		nulls[i] = args[i] ? ' ' : 'n';
		values[i] = args[i] ? CStringGetTextDatum(args[i]) : (Datum) 0;
	}
	result = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg_internal("SPI failed: %s", SPI_result_code_string(result))));
}

RctlRows *
rctl_own_rows(RctlOp *op, const char *sql, int nargs, const char *const *args)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	RctlRows   *rows;

	rctl_op_begin(op);
	run_spi(sql, nargs, args);
	old = MemoryContextSwitchTo(context);
	rows = palloc0(sizeof(RctlRows));
	if (SPI_tuptable)
	{
		rows->nrows = (int) SPI_processed;
		rows->ncols = SPI_tuptable->tupdesc->natts;
		rows->cells = palloc0(sizeof(char *) * Max(rows->nrows * rows->ncols, 1));
		for (int i = 0; i < rows->nrows * rows->ncols; i++)
			rows->cells[i] = SPI_getvalue(SPI_tuptable->vals[i / rows->ncols], SPI_tuptable->tupdesc,
										  i % rows->ncols + 1);
	}
	MemoryContextSwitchTo(old);
	rctl_op_commit(op);
	MemoryContextSwitchTo(context);
	return rows;
}

char *
rctl_own_value(RctlOp *op, const char *sql, int nargs, const char *const *args)
{
	RctlRows   *rows = rctl_own_rows(op, sql, nargs, args);

	return rows->nrows > 0 ? rctl_cell(rows, 0, 0) : NULL;
}

RctlRows *
rctl_conn_rows(PGconn *conn, const char *sql, int nargs, const char *const *args)
{
	PGresult   *result = rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, sql, nargs, args);
	RctlRows   *rows = palloc0(sizeof(RctlRows));

	rows->nrows = PQntuples(result);
	rows->ncols = PQnfields(result);
	rows->cells = palloc0(sizeof(char *) * Max(rows->nrows * rows->ncols, 1));
	for (int row = 0; row < rows->nrows; row++)
	{
		for (int col = 0; col < rows->ncols; col++)
		{
			if (!PQgetisnull(result, row, col))
				rctl_cell(rows, row, col) = pstrdup(PQgetvalue(result, row, col));
		}
	}
	return rows;
}

RctlSource *
rctl_source(RctlOp *op, RctlHost *host)
{
	RctlSource *source = palloc0(sizeof(RctlSource));
	const char *upstream = rctl_map_get(op->replica->facts, "upstream");

	source->op = op;
	source->host = host;
	if (upstream)
	{
		source->upstream = rctl_op_replica(op, upstream);
		if (source->upstream == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("upstream replica \"%s\" does not exist", upstream),
					 errhint("SELECT replica, state FROM replica_status shows the replicas that there are.")));
	}
	return source;
}

RctlRows *
rctl_source_query(RctlSource *source, const char *sql, int nargs, const char *const *args)
{
	if (source->upstream == NULL)
		return rctl_own_rows(source->op, sql, nargs, args);
	if (source->conn == NULL)
		source->conn = rctl_standby_connect(source->op, source->upstream, LOGIN_TIMEOUT);
	return rctl_conn_rows(source->conn, sql, nargs, args);
}

/* ---------------------------------------------------------------------
 * Tablespaces
 * ---------------------------------------------------------------------
 */

/* Adds a tablespace of this server, unless it is in the data directory, or being dropped. */
static void
add_own_tablespace(RctlMap *map, const char *oid)
{
	char		location[MAXPGPATH];
	ssize_t		length = readlink(psprintf("%s/pg_tblspc/%s", DataDir, oid), location, sizeof(location) - 1);

	if (length < 0 && errno != ENOENT && errno != EINVAL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read symbolic link \"%s/pg_tblspc/%s\": %m", DataDir, oid)));
	if (length <= 0)
		return;
	location[length] = '\0';
	rctl_map_set(map, oid, location);
}

/* The same of an upstream, where pg_tablespace_location() fails for one that is just being dropped; NULL then. */
static RctlRows *
upstream_tablespaces(RctlSource *source)
{
	MemoryContext context = CurrentMemoryContext;
	RctlRows   *volatile rows = NULL;

	PG_TRY();
	{
		rows = rctl_source_query(source,
								 "SELECT oid, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace"
								 " WHERE pg_catalog.pg_tablespace_location(oid) LIKE '/%' ORDER BY oid", 0, NULL);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_UNDEFINED_FILE)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return rows;
}

RctlMap *
rctl_source_tablespaces(RctlSource *source)
{
	RctlMap    *map = rctl_map_make();
	RctlRows   *rows = NULL;

	if (source->upstream == NULL)
	{
		rows = rctl_own_rows(source->op, "SELECT oid FROM pg_catalog.pg_tablespace ORDER BY oid", 0, NULL);
		for (int i = 0; i < rows->nrows; i++)
			add_own_tablespace(map, rctl_cell(rows, i, 0));
		return map;
	}
	for (int i = 0; i < LOCATION_TRIES && rows == NULL; i++)
	{
		if (i > 0)
			rctl_sleep(LOCATION_WAIT_MS);
		rows = upstream_tablespaces(source);
	}
	if (rows == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("the directory of a tablespace of replica \"%s\" is missing", source->upstream->name),
				 errhint("See pg_tblspc in its data directory.")));
	for (int i = 0; i < rows->nrows; i++)
		rctl_map_set(map, rctl_cell(rows, i, 0), rctl_cell(rows, i, 1));
	return map;
}

/* ---------------------------------------------------------------------
 * Slots
 * ---------------------------------------------------------------------
 */

bool
rctl_source_slot(RctlSource *source, const char *name, RctlSlot *slot)
{
	RctlRows   *rows = rctl_source_query(source,
										 "SELECT slot_type = 'physical', restart_lsn IS NOT NULL,"
										 " coalesce(wal_status = 'lost', false), coalesce(active_pid, 0)"
										 " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
										 1, &name);

	memset(slot, 0, sizeof(*slot));
	if (rows->nrows == 0)
		return false;
	slot->physical = rctl_cell(rows, 0, 0)[0] == 't';
	slot->reserved = rctl_cell(rows, 0, 1)[0] == 't';
	slot->lost = rctl_cell(rows, 0, 2)[0] == 't';
	slot->active_pid = (int) strtol(rctl_cell(rows, 0, 3), NULL, 10);
	return true;
}

void
rctl_source_create_slot(RctlSource *source, const char *name)
{
	rctl_source_query(source,
					  "SELECT pg_catalog.pg_create_physical_replication_slot($1::pg_catalog.name, true)",
					  1, &name);
}

void
rctl_source_release_slot(RctlSource *source, const char *name)
{
	RctlSlot	slot;

	for (int i = 0; i < RELEASE_TRIES; i++)
	{
		if (!rctl_source_slot(source, name, &slot) || slot.active_pid == 0)
			return;
		rctl_source_query(source,
						  "SELECT pg_catalog.pg_terminate_backend(active_pid)"
						  " FROM pg_catalog.pg_replication_slots"
						  " WHERE slot_name = $1 AND active_pid IS NOT NULL",
						  1, &name);
		rctl_sleep(RELEASE_WAIT_MS);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("replication slot \"%s\" is still in use by process %d", name, slot.active_pid),
			 errhint("See active_pid in pg_replication_slots.")));
}

void
rctl_source_drop_slot(RctlSource *source, const char *name)
{
	rctl_source_release_slot(source, name);
	rctl_source_query(source,
					  "SELECT pg_catalog.pg_drop_replication_slot(slot_name)"
					  " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
					  1, &name);
}

/* ---------------------------------------------------------------------
 * Candidates
 * ---------------------------------------------------------------------
 */

static List *
add_endpoint(List *endpoints, const char *host, const char *port)
{
	ListCell   *cell;
	Endpoint   *endpoint;

	foreach(cell, endpoints)
	{
		endpoint = lfirst(cell);
		if (strcmp(endpoint->host, host) == 0 && strcmp(endpoint->port, port) == 0)
			return endpoints;
	}
	endpoint = palloc(sizeof(Endpoint));
	endpoint->host = pstrdup(host);
	endpoint->port = pstrdup(port);
	return lappend(endpoints, endpoint);
}

static List *
add_role(List *roles, const char *role)
{
	ListCell   *cell;

	foreach(cell, roles)
	{
		if (strcmp(lfirst(cell), role) == 0)
			return roles;
	}
	return lappend(roles, pstrdup(role));
}

/* Where a server with these settings can be reached from its own machine. */
static List *
add_listened(List *endpoints, const char *socket_directories, const char *listen_addresses,
			 const char *port, const char *data_directory)
{
	List	   *names;
	ListCell   *cell;

	if (socket_directories && SplitDirectoriesString(pstrdup(socket_directories), ',', &names))
	{
		foreach(cell, names)
		{
			const char *name = lfirst(cell);

			if (name[0] != '/' && name[0] != '@')
				name = psprintf("%s/%s", data_directory, name);
			endpoints = add_endpoint(endpoints, name, port);
		}
	}
	if (listen_addresses && SplitGUCList(pstrdup(listen_addresses), ',', &names))
	{
		foreach(cell, names)
		{
			const char *name = lfirst(cell);

			if (strcmp(name, "*") == 0)
			{
				endpoints = add_endpoint(endpoints, "127.0.0.1", port);
				name = "::1";
			}
			else if (strcmp(name, "0.0.0.0") == 0)
				name = "127.0.0.1";
			else if (strcmp(name, "::") == 0)
				name = "::1";
			endpoints = add_endpoint(endpoints, name, port);
		}
	}
	return endpoints;
}

static List *
replica_endpoints(const RctlReplica *replica)
{
	const RctlMap *facts = replica->facts;
	const char *port = rctl_map_get_default(facts, "port", "5432");
	List	   *endpoints = NIL;

	/*
	 * On another machine: its sockets and the addresses that it knows are of
	 * no use here.
	 */
	if (rctl_map_get(facts, "address"))
		return add_endpoint(NIL, rctl_map_get(facts, "address"), port);
	if (rctl_map_get(facts, "login_host"))
		endpoints = add_endpoint(endpoints, rctl_map_get(facts, "login_host"),
								 rctl_map_get_default(facts, "login_port", port));
	endpoints = add_listened(endpoints,
							 rctl_map_get(facts, "socket_directories"),
							 rctl_map_get(facts, "listen_addresses"),
							 port, rctl_map_get_default(facts, "data_directory", ""));
	if (endpoints == NIL && rctl_map_get(facts, "host"))
		endpoints = add_endpoint(endpoints, rctl_map_get(facts, "host"), port);
	return endpoints;
}

static List *
source_endpoints(RctlSource *source)
{
	const RctlMap *facts = source->op->replica->facts;
	List	   *endpoints = NIL;

	/*
	 * A replica on this host is reached from another one where this server
	 * is.
	 */
	if (source->upstream && source->host->source_address && rctl_map_get(source->upstream->facts, "address") == NULL)
		return add_endpoint(NIL, source->host->source_address,
							rctl_map_get_default(source->upstream->facts, "port", "5432"));
	if (source->upstream)
		return replica_endpoints(source->upstream);
	if (source->host->source_address)
		return add_endpoint(NIL, source->host->source_address, psprintf("%d", PostPortNumber));
	if (rctl_map_get(facts, "source_host"))
		endpoints = add_endpoint(endpoints, rctl_map_get(facts, "source_host"),
								 psprintf("%d", PostPortNumber));
	return add_listened(endpoints, Unix_socket_directories, ListenAddresses,
						psprintf("%d", PostPortNumber), DataDir);
}

static List *
candidate_roles(RctlOp *op, const char *remembered, bool replication)
{
	char	   *mapped = rctl_op_secret(op, "user");
	char	   *error;
	const char *os_user = get_user_name(&error);
	const char *args[] = {os_user ? os_user : "", op->requested_by, replication ? "t" : "f"};
	List	   *roles = NIL;
	RctlRows   *rows;

	if (mapped)
		return list_make1(mapped);
	rows = rctl_own_rows(op,
						 "SELECT rolname FROM pg_catalog.pg_roles"
						 " WHERE rolcanlogin AND (rolsuper OR rolreplication AND $3::pg_catalog.bool)"
						 " AND (rolname = $1 OR oid = 10 OR rolname = $2)"
						 " ORDER BY rolname = $1 DESC, oid = 10 DESC",
						 3, args);
	if (remembered)
		roles = add_role(roles, remembered);
	for (int i = 0; i < rows->nrows; i++)
		roles = add_role(roles, rctl_cell(rows, i, 0));
	return roles;
}

/* A field of a password file: \ and : are escaped. */
static void
append_pass_field(StringInfo line, const char *value)
{
	for (; *value; value++)
	{
		if (*value == ':' || *value == '\\')
			appendStringInfoChar(line, '\\');
		appendStringInfoChar(line, *value);
	}
}

/* A password file of one line; NULL without a password. */
static char *
pass_file_line(const char *password, const char *role)
{
	StringInfoData line;

	if (password == NULL)
		return NULL;
	initStringInfo(&line);
	appendStringInfoString(&line, "*:*:*:");
	append_pass_field(&line, role);
	appendStringInfoChar(&line, ':');
	append_pass_field(&line, password);
	appendStringInfoChar(&line, '\n');
	return line.data;
}

/* ---------------------------------------------------------------------
 * The search
 * ---------------------------------------------------------------------
 */

/* NULL if the connection is to the right server with the rights we need; else what is wrong with it. */
static const char *
unsuitable(Search *search, PGconn *conn)
{
	char	   *own = psprintf(UINT64_FORMAT, GetSystemIdentifier());
	char	   *theirs;
	char	   *right;

	if (search->replication)
	{
		theirs = rctl_pg_value(conn, LOGIN_TIMEOUT, "IDENTIFY_SYSTEM", 0, NULL);
		right = "t";
	}
	else
	{
		theirs = rctl_pg_value(conn, LOGIN_TIMEOUT,
							   "SELECT system_identifier FROM pg_catalog.pg_control_system()", 0, NULL);
		right = rctl_pg_value(conn, LOGIN_TIMEOUT,
							  "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_promote(boolean, integer)', 'EXECUTE')",
							  0, NULL);
	}
	if (theirs == NULL || strcmp(theirs, own) != 0)
		return "another database system answers there";
	if (right == NULL || right[0] != 't')
		return "the role may not promote a replica (no EXECUTE on function pg_promote)";
	return NULL;
}

/* with_password: else it goes another way */
static char *
search_conninfo(Search *search, const Endpoint *endpoint, const char *role, bool with_password)
{
	RctlConnParam params[] = {
		{"host", endpoint->host},
		{"port", endpoint->port},
		{"user", role},
		{"password", with_password ? rctl_op_secret(search->op, "password") : NULL},
		{"passfile", rctl_op_secret(search->op, "passfile")},
		{"dbname", search->replication ? NULL : rctl_database},
		{"replication", search->replication ? "true" : NULL},
		{"application_name", "replica_ctl"},
		{"sslmode", rctl_map_get(search->facts, "sslmode")},
		{"sslrootcert", rctl_map_get(search->facts, "sslrootcert")},
		{"sslcert", rctl_map_get(search->facts, "sslcert")},
		{"sslkey", rctl_map_get(search->facts, "sslkey")},
		{NULL, NULL}
	};

	return rctl_conninfo(params);
}

/*
 * A login for replication, made on the machine of the replica: NULL if it
 * works, else the reason.
 */
static char *
try_from_host(Search *search, const Endpoint *endpoint, const char *role, int *sqlerrcode)
{
	char	   *content = pass_file_line(rctl_op_secret(search->op, "password"), role);
	char	   *system = NULL;
	char	   *reason = NULL;

	if (!search->from->identify(search->from, search_conninfo(search, endpoint, role, false),
								content, &system, &reason, sqlerrcode))
		return reason;
	if (strcmp(system, psprintf(UINT64_FORMAT, GetSystemIdentifier())) == 0)
		return NULL;
	*sqlerrcode = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
	return pstrdup("another database system answers there");
}

/* The same, made here: the connection, or NULL and the reason. */
static PGconn *
try_from_here(Search *search, const Endpoint *endpoint, const char *role,
			  char **reason, int *sqlerrcode)
{
	PGconn	   *conn = rctl_pg_try_connect(search_conninfo(search, endpoint, role, true),
										   search->timeout_ms, reason, sqlerrcode);
	const char *wrong;

	if (conn == NULL || (wrong = unsuitable(search, conn)) == NULL)
		return conn;
	rctl_pg_close(conn);
	*reason = pstrdup(wrong);
	*sqlerrcode = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
	return NULL;
}

/* Notes why an attempt failed; false if no server answered there at all. */
static bool
note_failure(Search *search, const Endpoint *endpoint, const char *role,
			 const char *reason, int sqlerrcode)
{
	bool		wants_password = sqlerrcode == ERRCODE_INVALID_PASSWORD ||
	strstr(reason, "no password supplied") != NULL;

	appendStringInfo(&search->attempts, "%s%s port %s as \"%s\": %s",
					 search->attempts.len > 0 ? "\n" : "",
					 endpoint->host, endpoint->port, role, reason);
	search->sqlerrcode = sqlerrcode;
	search->password |= wants_password;
	search->refused |= wants_password || !rctl_error_is_transient(sqlerrcode);
	return wants_password || ERRCODE_TO_CATEGORY(sqlerrcode) != ERRCODE_CONNECTION_EXCEPTION;
}

/*
 * The first login that works, as an open connection; NULL if there is none,
 * or if it is not made here (then search->role says that there is one).  An
 * endpoint where no server answers is not asked again for other roles.
 */
static PGconn *
find_login(Search *search)
{
	ListCell   *e;
	ListCell   *r;

	initStringInfo(&search->attempts);
	foreach(e, search->endpoints)
	{
		Endpoint   *endpoint = lfirst(e);

		foreach(r, search->roles)
		{
			const char *role = lfirst(r);
			char	   *reason = NULL;
			int			sqlerrcode;
			PGconn	   *conn = NULL;

			if (search->from)
				reason = try_from_host(search, endpoint, role, &sqlerrcode);
			else
				conn = try_from_here(search, endpoint, role, &reason, &sqlerrcode);
			if (conn || reason == NULL)
			{
				search->endpoint = *endpoint;
				search->role = role;
				return conn;
			}
			if (!note_failure(search, endpoint, role, reason, sqlerrcode))
				break;
		}
	}
	return NULL;
}

/* Raises the error of a search that found nothing. */
static void
no_login(Search *search)
{
	const char *server = quote_identifier(search->op->replica->server);
	const char *role = search->roles ? linitial(search->roles) : "postgres";
	const char *first = search->endpoints ? ((Endpoint *) linitial(search->endpoints))->host : "";
	const char *hba;

	if (search->attempts.len == 0)
		appendStringInfoString(&search->attempts, search->endpoints == NIL
							   ? "It listens on no address and no socket."
							   : "There is no role to log in with.");
	if (first[0] == '/' || first[0] == '@')
		hba = psprintf("local  %s  %s  peer",
					   search->replication ? "replication" : "all", quote_identifier(role));
	else
		hba = psprintf("host  %s  %s  %s  scram-sha-256",
					   search->replication ? "replication" : "all", quote_identifier(role),
					   search->from ? "(its address)" : first[0] ? first : "127.0.0.1/32");

	ereport(ERROR,
			(errcode(search->refused || search->sqlerrcode == 0
					 ? ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION : search->sqlerrcode),
			 errmsg("could not log in to %s%s%s%s", search->what,
					search->replication ? " for replication" : "",
					search->from ? " from " : "", search->from ? search->from->name : ""),
			 errdetail("%s", search->attempts.data),
			 search->refused
			 ? (search->password
				? errhint("CREATE USER MAPPING FOR %s SERVER %s OPTIONS (user '...', password '...') tells how to log in.",
						  quote_identifier(search->op->requested_by), server)
				: errhint("Add the line \"%s\" to pg_hba.conf and reload, or CREATE USER MAPPING FOR %s SERVER %s OPTIONS (user '...', password '...').",
						  hba, quote_identifier(search->op->requested_by), server))
			 : errhint("Check that the server runs; replica_repair() starts a replica that was stopped.")));
}

void
rctl_source_find_login(RctlSource *source)
{
	RctlMap    *facts = source->op->replica->facts;
	PGconn	   *conn;
	Search		search = {
		.op = source->op,
		.what = source->upstream ? psprintf("replica \"%s\"", source->upstream->name) : "this server",
		.replication = true,
		.endpoints = source_endpoints(source),
		.roles = candidate_roles(source->op, rctl_map_get(facts, "source_user"), true),
		.timeout_ms = LOGIN_TIMEOUT,
		.facts = facts,
		.from = source->host->identify ? source->host : NULL,
	};

	conn = find_login(&search);
	if (search.role == NULL)
		no_login(&search);
	rctl_pg_close(conn);
	rctl_map_set(facts, "source_host", search.endpoint.host);
	rctl_map_set(facts, "source_port", search.endpoint.port);
	rctl_map_set(facts, "source_user", search.role);
}

PGconn *
rctl_source_login(RctlSource *source, long timeout_ms)
{
	PGconn	   *conn;
	Search		search = {
		.op = source->op,
		.what = "this server",
		.replication = false,
		.timeout_ms = timeout_ms,
		.facts = source->op->replica->facts,
	};

	if (source->upstream)
	{
		if (source->conn == NULL)
			source->conn = rctl_standby_connect(source->op, source->upstream, timeout_ms);
		return source->conn;
	}
	search.endpoints = source_endpoints(source);
	search.roles = candidate_roles(source->op, NULL, false);
	conn = find_login(&search);
	if (conn == NULL)
		no_login(&search);
	return conn;
}

void
rctl_source_check_login(RctlSource *source)
{
	/* An upstream has been asked things by such a login already. */
	if (source->upstream == NULL)
		rctl_pg_close(rctl_source_login(source, LOGIN_TIMEOUT));
}

char *
rctl_source_conninfo(RctlSource *source, const char *application_name, const char *passfile)
{
	const RctlMap *facts = source->op->replica->facts;
	RctlConnParam params[] = {
		{"host", rctl_map_get(facts, "source_host")},
		{"port", rctl_map_get(facts, "source_port")},
		{"user", rctl_map_get(facts, "source_user")},
		{"passfile", passfile},
		{"application_name", application_name},
		{"keepalives_idle", "30"},
		{"keepalives_interval", "10"},
		{"keepalives_count", "3"},
		{"sslmode", rctl_map_get(facts, "sslmode")},
		{"sslrootcert", rctl_map_get(facts, "sslrootcert")},
		{"sslcert", rctl_map_get(facts, "sslcert")},
		{"sslkey", rctl_map_get(facts, "sslkey")},
		{NULL, NULL}
	};

	return rctl_conninfo(params);
}

char *
rctl_pass_file_content(RctlOp *op)
{
	return pass_file_line(rctl_op_secret(op, "password"),
						  rctl_map_get_default(op->replica->facts, "source_user", "*"));
}

static void
search_replica(Search *search, RctlOp *op, RctlReplica *replica, long timeout_ms)
{
	memset(search, 0, sizeof(*search));
	search->op = op;
	search->what = psprintf("replica \"%s\"", replica->name);
	search->endpoints = replica_endpoints(replica);
	search->facts = replica->facts;
	search->roles = candidate_roles(op, rctl_map_get(replica->facts, "login_user"), false);
	search->timeout_ms = timeout_ms;
}

PGconn *
rctl_standby_connect(RctlOp *op, RctlReplica *replica, long timeout_ms)
{
	RctlMap    *facts = replica->facts;
	Search		search;
	PGconn	   *conn;

	search_replica(&search, op, replica, timeout_ms);
	conn = find_login(&search);
	if (conn == NULL)
		no_login(&search);
	rctl_map_set(facts, "login_host", search.endpoint.host);
	rctl_map_set(facts, "login_port", search.endpoint.port);
	rctl_map_set(facts, "login_user", search.role);
	return conn;
}

char *
rctl_standby_conninfo(const RctlReplica *replica, const RctlMap *mapping)
{
	List	   *endpoints = replica_endpoints(replica);
	Endpoint   *endpoint = endpoints ? linitial(endpoints) : NULL;
	char	   *error;
	const char *user = rctl_map_get(mapping, "user");
	RctlConnParam params[] = {
		{"host", endpoint ? endpoint->host : NULL},
		{"port", endpoint ? endpoint->port : NULL},
		{"user", NULL},
		{"password", rctl_map_get(mapping, "password")},
		{"passfile", rctl_map_get(mapping, "passfile")},
		{"dbname", rctl_database},
		{"application_name", "replica_ctl monitor"},
		{"options", "-c statement_timeout=5000 -c search_path=pg_catalog -c client_min_messages=error"},
		{"sslmode", rctl_map_get(replica->facts, "sslmode")},
		{"sslrootcert", rctl_map_get(replica->facts, "sslrootcert")},
		{"sslcert", rctl_map_get(replica->facts, "sslcert")},
		{"sslkey", rctl_map_get(replica->facts, "sslkey")},
		{NULL, NULL}
	};

	if (endpoint == NULL)
		return NULL;
	if (user == NULL)
		user = rctl_map_get(replica->facts, "login_user");
	params[2].value = user ? user : get_user_name(&error);
	return rctl_conninfo(params);
}

PGconn *
rctl_standby_try_connect(RctlOp *op, RctlReplica *replica, long timeout_ms, char **reason)
{
	Search		search;
	PGconn	   *conn;

	search_replica(&search, op, replica, timeout_ms);
	conn = find_login(&search);
	*reason = search.attempts.data;
	return conn;
}
