/*-------------------------------------------------------------------------
 *
 * explain.c
 *	  SQL function replica_explain(): what would happen, and what is in the way.
 *
 * It takes the arguments of the function that it explains as options, checks
 * them in the same way, and builds the operation in memory only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "api/api.h"
#include "core/preflight.h"
#include "core/store.h"

PG_FUNCTION_INFO_V1(rctl_sql_explain);

static const char *const mode_choices[] = {"planned", "forced", NULL};
static const char *const after_choices[] = {"read_only", "read_write", "standby", NULL};

static const RctlOptionDef promote_options[] = {
	{"drain", RCTL_OPTION_INTERVAL, "time for transactions that have written, default 1s"},
	{"mode", RCTL_OPTION_CHOICE, "planned or forced, default planned", .choices = mode_choices},
	{"source_after", RCTL_OPTION_CHOICE, "read_only, read_write or standby, default read_only",
	.choices = after_choices},
	{"timeout", RCTL_OPTION_INTERVAL, "after which it is undone, default 60s"},
	{NULL}
};

static const RctlOptionDef fence_options[] = {
	{"drain", RCTL_OPTION_INTERVAL, "time for transactions that have written, default 1s"},
	{"timeout", RCTL_OPTION_INTERVAL, "after which it is undone, default 60s"},
	{NULL}
};

static const RctlOptionDef drop_options[] = {
	{"force", RCTL_OPTION_BOOL, "delete even what others depend on, default false"},
	{NULL}
};

static const RctlOptionDef no_options[] = {{NULL}};

static RctlOpKind
parse_action(const char *action)
{
	static const RctlOpKind kinds[] = {
		RCTL_OP_PROMOTE, RCTL_OP_SWITCHOVER, RCTL_OP_CREATE, RCTL_OP_DROP,
		RCTL_OP_ATTACH, RCTL_OP_DETACH, RCTL_OP_REPAIR, RCTL_OP_DRILL,
	};
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; i < lengthof(kinds); i++)
	{
		const char *name = rctl_op_kind_name(kinds[i]);

		if (strcmp(name, action) == 0)
			return kinds[i];
		appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid action: \"%s\"", action),
			 errhint("Valid actions: %s.", valid.data)));
	pg_unreachable();
}

static const RctlOptionDef *
option_defs(RctlOpKind kind, const RctlProvider *provider)
{
	switch (kind)
	{
		case RCTL_OP_CREATE:
			return provider->create_options;
		case RCTL_OP_ATTACH:
			return provider->attach_options;
		case RCTL_OP_PROMOTE:
			return promote_options;
		case RCTL_OP_SWITCHOVER:
		case RCTL_OP_DRILL:
			return fence_options;
		case RCTL_OP_DROP:
			return drop_options;
		case RCTL_OP_DETACH:
		case RCTL_OP_REPAIR:
		case RCTL_OP_CHANGE:
			break;
	}
	return no_options;
}

/* "1s" under key as milliseconds under key_ms, as the call itself stores it. */
static void
set_ms(RctlMap *arguments, const RctlMap *options, const char *key)
{
	const char *text = rctl_map_get(options, key);
	Datum		interval;

	if (text == NULL)
		return;
	interval = DirectFunctionCall3(interval_in, CStringGetDatum(text),
								   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	rctl_map_setf(arguments, psprintf("%s_ms", key), INT64_FORMAT,
				  (int64) rctl_api_interval_ms(DatumGetIntervalP(interval), key));
}

/* What the explained function would have stored of its arguments. */
static RctlMap *
make_arguments(RctlOpKind kind, const RctlMap *options)
{
	RctlMap    *arguments = rctl_map_make();
	const char *force = rctl_map_get(options, "force");
	bool		forced = false;

	if (kind == RCTL_OP_CREATE || kind == RCTL_OP_ATTACH)
		return arguments;
	if (force)
		(void) parse_bool(force, &forced);
	rctl_map_set(arguments, "force", forced ? "true" : "false");
	rctl_map_set(arguments, "mode", rctl_map_get(options, "mode"));
	rctl_map_set(arguments, "source_after", rctl_map_get(options, "source_after"));
	set_ms(arguments, options, "timeout");
	set_ms(arguments, options, "drain");
	return arguments;
}

/* The replica that is to be explained; NULL if there is none of that name. */
static RctlReplica *
find_replica(const char *name, RctlReplicaRow *row, bool *known, int64 *unfinished)
{
	RctlStoreScope scope;
	RctlReplica *replica = NULL;

	rctl_store_enter_read(&scope);
	*known = rctl_store_find_replica(name, row);
	if (*known)
	{
		*unfinished = rctl_store_unfinished(row->id);
		replica = rctl_store_replica(name);
	}
	rctl_store_leave(&scope);
	return replica;
}

static RctlOp *
make_operation(RctlOpKind kind, RctlReplica *replica, const char *name, const char *server,
			   RctlMap *options)
{
	RctlMap    *arguments = make_arguments(kind, options);
	RctlStoreScope scope;
	RctlOp	   *op;

	rctl_store_enter_read(&scope);
	if (replica == NULL)
		replica = rctl_store_imagine_replica(name, server, options);
	op = rctl_store_dry_run(kind, replica, arguments);
	rctl_store_leave(&scope);
	return op;
}

static List *
explain(RctlOpKind kind, const char *name, const char *server_name, RctlMap *options)
{
	bool		adds = kind == RCTL_OP_CREATE || kind == RCTL_OP_ATTACH;
	RctlReplicaRow row;
	bool		known;
	int64		unfinished = 0;
	RctlReplica *replica = find_replica(name, &row, &known, &unfinished);
	ForeignServer *server;
	const RctlProvider *provider;

	if (!known && !adds)
		return rctl_preflight_unknown(name);
	if (!adds && server_name && strcmp(server_name, row.server) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("replica \"%s\" is on server \"%s\"", name, row.server),
				 errhint("Leave out the argument server.")));
	if (server_name == NULL)
		server_name = adds ? "local" : row.server;
	provider = rctl_api_provider(server_name, &server);
	if (adds)
		rctl_api_check_name(name);
	rctl_options_check(option_defs(kind, provider), options, psprintf("action \"%s\"", rctl_op_kind_name(kind)));

	/* What is left of a creation that failed gives way to the next. */
	if (adds && known && strcmp(row.state, "failed") == 0 && replica->facts->entries == NIL)
		known = false;
	return rctl_preflight_explain(make_operation(kind, adds ? NULL : replica, name, server_name, options),
								  known ? &row : NULL, unfinished);
}

static void
put_finding(ReturnSetInfo *rsinfo, const RctlFinding *finding)
{
	static const char *const verdicts[] = {"ok", "warning", "blocked"};
	Datum		values[6] = {0};
	bool		nulls[6] = {0};

	values[0] = Int32GetDatum(finding->step);
	nulls[0] = finding->step == 0;
	values[1] = CStringGetTextDatum(finding->name);
	values[2] = CStringGetTextDatum(verdicts[finding->verdict]);
	nulls[3] = finding->seconds < 0;
	if (!nulls[3])
	{
		Interval   *interval = palloc0(sizeof(Interval));

		/* No guess is good to the microsecond. */
		interval->time = (TimeOffset) rint(finding->seconds * 1000) * 1000;
		values[3] = IntervalPGetDatum(interval);
	}
	values[4] = CStringGetTextDatum(finding->detail ? psprintf("%s. %s", finding->message, finding->detail)
									: finding->message);
	nulls[5] = finding->hint == NULL;
	if (!nulls[5])
		values[5] = CStringGetTextDatum(finding->hint);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* replica_explain(action text, replica name, server name, options jsonb); server may be null */
Datum
rctl_sql_explain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlOpKind	kind;
	RctlMap    *options;
	List	   *findings;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("action and replica must not be null")));
	kind = parse_action(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	rctl_api_require_primary();
	options = PG_ARGISNULL(3) ? rctl_map_make() : rctl_map_from_jsonb(PG_GETARG_JSONB_P(3), "options");
	findings = explain(kind, NameStr(*PG_GETARG_NAME(1)),
					   PG_ARGISNULL(2) ? NULL : NameStr(*PG_GETARG_NAME(2)), options);
	foreach(lc, findings)
		put_finding(rsinfo, lfirst(lc));
	return (Datum) 0;
}
