/*-------------------------------------------------------------------------
 *
 * operations.c
 *	  SQL functions that queue an operation, or cancel one.
 *
 * They check the arguments and the caller's rights and insert rows, nothing
 * else: what takes time happens in a worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "api/api.h"
#include "compat.h"
#include "core/board.h"
#include "core/plan.h"
#include "core/store.h"
#include "primary/fence.h"
#include "provider/provider.h"

PG_FUNCTION_INFO_V1(rctl_sql_create);
PG_FUNCTION_INFO_V1(rctl_sql_attach);
PG_FUNCTION_INFO_V1(rctl_sql_detach);
PG_FUNCTION_INFO_V1(rctl_sql_drop);
PG_FUNCTION_INFO_V1(rctl_sql_repair);
PG_FUNCTION_INFO_V1(rctl_sql_promote);
PG_FUNCTION_INFO_V1(rctl_sql_switchover);
PG_FUNCTION_INFO_V1(rctl_sql_drill);
PG_FUNCTION_INFO_V1(rctl_sql_cancel);
PG_FUNCTION_INFO_V1(rctl_sql_claim);

const RctlProvider *
rctl_api_provider(const char *name, ForeignServer **server)
{
	const RctlProvider *provider;
	AclResult	acl;

	*server = GetForeignServerByName(name, true);
	if (*server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errhint("Create it with CREATE SERVER, or use server \"local\".")));
	provider = rctl_provider_by_wrapper(GetForeignDataWrapper((*server)->fdwid)->fdwname);
	if (provider == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a replica_ctl server", name),
				 errhint("Use a server of the foreign-data wrapper replica_local.")));

	acl = rctl_server_aclcheck((*server)->serverid, GetUserId());
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_FOREIGN_SERVER, name);
	if (provider->runs_programs &&
		!has_privs_of_role(GetUserId(), ROLE_PG_EXECUTE_SERVER_PROGRAM))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to run programs for server \"%s\"", name),
				 errdetail("Provider \"%s\" runs programs on this host.", provider->name),
				 errhint("GRANT pg_execute_server_program TO %s.",
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	return provider;
}

static void
require_plan(const RctlProvider *provider, RctlOpKind kind, const RctlMap *arguments)
{
	if (rctl_plan(provider, kind, arguments).steps != NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("provider \"%s\" cannot do \"%s\"", provider->name, rctl_op_kind_name(kind)),
			 errhint("SELECT DISTINCT kind FROM replica_ctl.steps() WHERE provider = %s lists what it can do.",
					 quote_literal_cstr(provider->name))));
}

void
rctl_api_check_name(const char *name)
{
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("replica name must not be empty"),
				 errhint("Choose a name of 1 to %d bytes.", NAMEDATALEN - 1)));
	for (const char *c = name; *c; c++)
	{
		if ((unsigned char) *c < ' ' || *c == 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("replica name must not contain control characters"),
					 errhint("Letters, digits, spaces and punctuation are fine.")));
	}
}

/* While an operation holds the fence, nothing else starts; a fence that stays is no obstacle. */
static void
require_no_fencing_operation(void)
{
	RctlFenceState fence;

	if (!rctl_fence_is_up())
		return;
	rctl_fence_get(&fence);
	if (fence.operation != 0 && fence.phase != RCTL_FENCE_PROMOTED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("operation " INT64_FORMAT " has fenced this server", fence.operation),
				 errhint("Wait for it with SELECT replica_operation_wait(" INT64_FORMAT "),"
						 " or stop it with SELECT replica_cancel(" INT64_FORMAT ").",
						 fence.operation, fence.operation)));
}

/* create and attach: a new row with its first operation */
int64
rctl_api_add_replica(RctlOpKind kind, const char *name, const char *server_name, const RctlMap *options)
{
	const RctlProvider *provider;
	ForeignServer *server;
	RctlStoreScope scope;
	int64		replica;
	int64		operation = 0;
	bool		added;

	rctl_api_require_primary();
	require_no_fencing_operation();
	rctl_api_check_name(name);
	provider = rctl_api_provider(server_name, &server);
	require_plan(provider, kind, NULL);
	rctl_options_check(kind == RCTL_OP_CREATE ? provider->create_options : provider->attach_options,
					   options, psprintf("replica_%s", rctl_op_kind_name(kind)));
	if (provider->check_options)
		provider->check_options(kind, name, rctl_map_from_options(server->options), options);

	rctl_store_enter(&scope);
	added = rctl_store_add_replica(name, server_name, rctl_map_to_json(options), &replica);
	if (added)
	{
		operation = rctl_store_enqueue(kind, replica, name, NULL, NULL, "{}");
		rctl_store_note_request(name, operation, "info", psprintf("%s_requested", rctl_op_kind_name(kind)),
								psprintf("%s of replica \"%s\" on server \"%s\" was requested",
										 rctl_op_kind_name(kind), name, server_name),
								NULL, GetUserNameFromId(GetSessionUserId(), false));
	}
	rctl_store_leave(&scope);
	if (!added)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replica \"%s\" already exists", name),
				 errhint("Choose another name, or remove it with SELECT replica_drop(%s).",
						 quote_literal_cstr(name))));
	rctl_api_queued(operation);
	return operation;
}

static Datum
add_replica(FunctionCallInfo fcinfo, RctlOpKind kind)
{
	PG_RETURN_INT64(rctl_api_add_replica(kind, NameStr(*PG_GETARG_NAME(0)), NameStr(*PG_GETARG_NAME(1)),
										 rctl_map_from_jsonb(PG_GETARG_JSONB_P(2), "options")));
}

static void
require_known(bool known, const char *name)
{
	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replica \"%s\" does not exist", name),
				 errhint("SELECT replica FROM replica_status lists the replicas.")));
}

/* All other kinds: an operation on a row that exists. */
int64
rctl_api_queue_operation(const char *name, RctlOpKind kind, const RctlMap *arguments, const char *busy_state)
{
	RctlReplicaRow row;
	RctlStoreScope scope;
	ForeignServer *server;
	bool		known;
	int64		unfinished = 0;
	int64		operation;

	rctl_api_require_primary();
	require_no_fencing_operation();
	rctl_store_enter(&scope);
	known = rctl_store_lock_replica(name, &row);
	if (known)
		unfinished = rctl_store_unfinished(row.id);
	rctl_store_leave(&scope);

	require_known(known, name);
	if (!row.owned)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" belongs to another server", name),
				 errdetail("This server is a copy of the one that made it, was promoted, or was moved."),
				 errhint("If this server has taken that one's place, run SELECT replica_claim().")));
	if (unfinished != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("operation " INT64_FORMAT " is running on replica \"%s\"", unfinished, name),
				 errhint("Wait for it with SELECT replica_wait(%s), or stop it with SELECT replica_cancel(" INT64_FORMAT ").",
						 quote_literal_cstr(name), unfinished)));
	require_plan(rctl_api_provider(row.server, &server), kind, arguments);
	if (strcmp(row.state, "promoted") == 0 && kind != RCTL_OP_DROP && kind != RCTL_OP_DETACH)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was promoted and is a server of its own", name),
				 errhint("Remove it from the registry with SELECT replica_detach(%s).", quote_literal_cstr(name))));

	rctl_store_enter(&scope);
	operation = rctl_store_enqueue(kind, row.id, name, row.state, busy_state, rctl_map_to_json(arguments));
	rctl_store_note_request(name, operation, "info", psprintf("%s_requested", rctl_op_kind_name(kind)),
							psprintf("%s of replica \"%s\" was requested", rctl_op_kind_name(kind), name),
							rctl_map_to_json(arguments), GetUserNameFromId(GetSessionUserId(), false));
	rctl_store_leave(&scope);
	rctl_api_queued(operation);
	return operation;
}

Datum
rctl_sql_create(PG_FUNCTION_ARGS)
{
	return add_replica(fcinfo, RCTL_OP_CREATE);
}

Datum
rctl_sql_attach(PG_FUNCTION_ARGS)
{
	return add_replica(fcinfo, RCTL_OP_ATTACH);
}

Datum
rctl_sql_detach(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(rctl_api_queue_operation(NameStr(*PG_GETARG_NAME(0)), RCTL_OP_DETACH, rctl_map_make(), NULL));
}

Datum
rctl_sql_drop(PG_FUNCTION_ARGS)
{
	RctlMap    *arguments = rctl_map_make();

	rctl_map_set(arguments, "force", PG_GETARG_BOOL(1) ? "true" : "false");
	PG_RETURN_INT64(rctl_api_queue_operation(NameStr(*PG_GETARG_NAME(0)), RCTL_OP_DROP, arguments, "dropping"));
}

Datum
rctl_sql_repair(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(rctl_api_queue_operation(NameStr(*PG_GETARG_NAME(0)), RCTL_OP_REPAIR, rctl_map_make(), NULL));
}

static void
require_choice(const char *what, const char *value, const char *const *choices)
{
	StringInfoData valid;

	initStringInfo(&valid);
	for (const char *const *c = choices; *c; c++)
	{
		if (strcmp(*c, value) == 0)
			return;
		appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", *c);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid %s: \"%s\"", what, value),
			 errhint("Valid values: %s.", valid.data)));
}

static char *
interval_ms(Interval *interval, const char *what)
{
	return psprintf(INT64_FORMAT, rctl_api_interval_ms(interval, what));
}

Datum
rctl_sql_promote(PG_FUNCTION_ARGS)
{
	static const char *const modes[] = {"planned", "forced", NULL};
	static const char *const afters[] = {"read_only", "read_write", "standby", NULL};
	RctlMap    *arguments = rctl_map_make();
	char	   *mode = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *after = text_to_cstring(PG_GETARG_TEXT_PP(4));

	require_choice("promotion mode", mode, modes);
	require_choice("source_after", after, afters);
	if (strcmp(mode, "forced") == 0 && strcmp(after, "standby") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source_after \"standby\" needs a planned promotion"),
				 errdetail("A forced promotion does not wait for what this server has and the replica lacks."),
				 errhint("Leave out mode => 'forced', or source_after.")));
	rctl_map_set(arguments, "mode", mode);
	rctl_map_setf(arguments, "session", "%d", MyProcPid);
	rctl_map_set(arguments, "timeout_ms", interval_ms(PG_GETARG_INTERVAL_P(2), "timeout"));
	rctl_map_set(arguments, "drain_ms", interval_ms(PG_GETARG_INTERVAL_P(3), "drain"));
	rctl_map_set(arguments, "source_after", after);
	PG_RETURN_INT64(rctl_api_queue_operation(NameStr(*PG_GETARG_NAME(0)), RCTL_OP_PROMOTE, arguments, "promoting"));
}

/* A planned promotion after which the two servers have changed places. */
Datum
rctl_sql_switchover(PG_FUNCTION_ARGS)
{
	RctlMap    *arguments = rctl_map_make();

	rctl_map_set(arguments, "mode", "planned");
	rctl_map_setf(arguments, "session", "%d", MyProcPid);
	rctl_map_set(arguments, "timeout_ms", interval_ms(PG_GETARG_INTERVAL_P(1), "timeout"));
	rctl_map_set(arguments, "drain_ms", interval_ms(PG_GETARG_INTERVAL_P(2), "drain"));
	rctl_map_set(arguments, "source_after", "standby");
	PG_RETURN_INT64(rctl_api_queue_operation(NameStr(*PG_GETARG_NAME(0)), RCTL_OP_SWITCHOVER, arguments, "promoting"));
}

Datum
rctl_sql_drill(PG_FUNCTION_ARGS)
{
	RctlMap    *arguments = rctl_map_make();

	rctl_map_set(arguments, "timeout_ms", interval_ms(PG_GETARG_INTERVAL_P(1), "timeout"));
	rctl_map_set(arguments, "drain_ms", interval_ms(PG_GETARG_INTERVAL_P(2), "drain"));
	PG_RETURN_INT64(rctl_api_queue_operation(NameStr(*PG_GETARG_NAME(0)), RCTL_OP_DRILL, arguments, NULL));
}

/* Who asked for an operation may cancel it, and who could ask for one like it. */
static void
require_cancel_right(const RctlOutcome *outcome)
{
	Oid			requester = get_role_oid(outcome->requested_by, true);
	ForeignServer *server;

	if ((!OidIsValid(requester) || !has_privs_of_role(GetUserId(), requester)) && outcome->server)
		(void) rctl_api_provider(outcome->server, &server);
}

/*
 * A running operation is told over the board, at once and whatever becomes of
 * the caller's transaction: that works on a fenced server too.  One that is
 * not running is marked in its row, and ends there if it never started.
 */
Datum
rctl_sql_cancel(PG_FUNCTION_ARGS)
{
	int64		operation = PG_GETARG_INT64(0);
	RctlOutcome outcome;
	RctlStoreScope scope;
	bool		known;
	bool		marked;

	rctl_api_require_primary();
	rctl_store_enter(&scope);
	known = rctl_store_outcome(operation, &outcome, false);
	rctl_store_leave(&scope);
	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("operation " INT64_FORMAT " does not exist", operation),
				 errhint("SELECT * FROM replica_operations lists the operations.")));
	require_cancel_right(&outcome);

	if (outcome.state != RCTL_STATE_QUEUED && outcome.state != RCTL_STATE_RUNNING)
		PG_RETURN_BOOL(false);
	if (outcome.no_return)
	{
		ereport(NOTICE,
				(errmsg("operation " INT64_FORMAT " (%s of replica \"%s\") can no longer be cancelled",
						operation, outcome.kind, outcome.replica),
				 errdetail("It is past the point from which it could be undone.")));
		PG_RETURN_BOOL(false);
	}
	if (rctl_board_cancel(operation))
		PG_RETURN_BOOL(true);

	rctl_store_enter(&scope);
	marked = rctl_store_request_cancel(operation);
	rctl_store_leave(&scope);
	if (marked)
		rctl_api_queued(operation);
	PG_RETURN_BOOL(marked);
}

Datum
rctl_sql_claim(PG_FUNCTION_ARGS)
{
	RctlStoreScope scope;
	int64		count;

	rctl_api_require_primary();
	rctl_store_enter(&scope);
	count = rctl_store_claim();
	if (count > 0)
		rctl_store_event(NULL, 0, "warning", "claimed",
						 psprintf("this server claimed " INT64_FORMAT " rows of another one's registry", count),
						 NULL, GetUserNameFromId(GetSessionUserId(), false));
	rctl_store_leave(&scope);
	rctl_api_queued(0);
	PG_RETURN_INT64(count);
}
