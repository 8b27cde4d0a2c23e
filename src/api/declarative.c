/*-------------------------------------------------------------------------
 *
 * declarative.c
 *	  SQL functions replica_plan(), replica_apply() and replica_spec(): the
 *	  replicas as they should be, and what it takes to get there.
 *
 * A spec is {"replicas": {"r1": {"server": "local", "role": "replica",
 * "options": {}}}}.  jsonb keeps the last of equal keys only, so that a name
 * given twice cannot be seen in that form; it can in the other one, an array
 * of such objects, each with a "name".
 *
 * A plan is made anew by each call, from the registry: what was queued by an
 * earlier one is there already, so that applying twice does nothing.  Nothing
 * is promoted unless the spec says "standalone", and nothing is dropped
 * because a row of the spec is missing unless the caller allows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

#include "api/api.h"
#include "core/store.h"

PG_FUNCTION_INFO_V1(rctl_sql_plan);
PG_FUNCTION_INFO_V1(rctl_sql_apply);
PG_FUNCTION_INFO_V1(rctl_sql_spec);

typedef enum Action
{
	ACTION_BLOCKED,
	ACTION_CREATE,
	ACTION_ATTACH,
	ACTION_CHANGE,
	ACTION_PROMOTE,
	ACTION_DETACH,
	ACTION_DROP,
} Action;

static const char *const action_names[] = {
	[ACTION_BLOCKED] = "blocked",
	[ACTION_CREATE] = "create",
	[ACTION_ATTACH] = "attach",
	[ACTION_CHANGE] = "change",
	[ACTION_PROMOTE] = "promote",
	[ACTION_DETACH] = "detach",
	[ACTION_DROP] = "drop",
};

/* A replica of the spec. */
typedef struct Wanted
{
	char	   *name;
	char	   *server;
	bool		standalone;
	bool		attach;			/* it exists: attach it if it is not there */
	RctlMap    *options;
	const RctlProvider *provider;
} Wanted;

/* A row of the plan. */
typedef struct Change
{
	Action		action;
	char	   *replica;
	char	   *server;
	RctlMap    *before;			/* options, or NULL */
	RctlMap    *after;			/* likewise */
	char	   *reason;
	bool		ready;			/* can be queued now */
	const Wanted *wanted;		/* NULL: it is not in the spec */
} Change;

/* A plan in the making. */
typedef struct Planning
{
	List	   *wanted;			/* of Wanted */
	List	   *existing;		/* of RctlReplica: this server's own */
	List	   *changes;		/* of Change */
} Planning;

/* ---------------------------------------------------------------------
 * The spec
 * ---------------------------------------------------------------------
 */

static void
unknown_key(const char *key, const char *where, const char *valid)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized key \"%s\" in %s", key, where),
			 errhint("Valid keys are: %s.", valid)));
}

static bool
parse_role(const char *name, const char *role)
{
	if (strcmp(role, "standalone") == 0)
		return true;
	if (strcmp(role, "replica") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid role of replica \"%s\" in the spec: \"%s\"", name, role),
				 errhint("Valid values: replica, standalone.")));
	return false;
}

static bool
parse_attach(const char *name, const char *value)
{
	bool		attach;

	if (!parse_bool(value, &attach))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value of \"attach\" for replica \"%s\" in the spec: \"%s\"", name, value),
				 errhint("It must be true or false.")));
	return attach;
}

/* One that is there already may have been created or attached: it has options of either. */
static void
check_known_options(const Wanted *wanted)
{
	ListCell   *lc;
	RctlMap    *of_create = rctl_map_make();
	RctlMap    *of_attach = rctl_map_make();

	foreach(lc, wanted->options->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);
		bool		only_attach = rctl_option_find(wanted->provider->create_options, entry->key) == NULL &&
		rctl_option_find(wanted->provider->attach_options, entry->key) != NULL;
		RctlMap    *map = only_attach ? of_attach : of_create;

		if (entry->nested)
			rctl_map_set_json(map, entry->key, entry->value);
		else
			rctl_map_set(map, entry->key, entry->value);
	}
	rctl_options_check(wanted->provider->create_options, of_create, psprintf("replica \"%s\" in the spec", wanted->name));
	rctl_options_check(wanted->provider->attach_options, of_attach, psprintf("replica \"%s\" in the spec", wanted->name));
}

static Wanted *
parse_wanted(const char *name, const RctlMap *map, bool in_array)
{
	Wanted	   *wanted = palloc0(sizeof(Wanted));
	ForeignServer *server;
	ListCell   *lc;

	wanted->name = pstrdup(name);
	wanted->server = pstrdup("local");
	wanted->options = rctl_map_make();
	rctl_api_check_name(name);
	if (strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("replica name \"%s\" is too long", name),
				 errhint("Choose a name of 1 to %d bytes.", NAMEDATALEN - 1)));
	foreach(lc, map->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);

		if (strcmp(entry->key, "server") == 0)
			wanted->server = pstrdup(entry->value);
		else if (strcmp(entry->key, "role") == 0)
			wanted->standalone = parse_role(name, entry->value);
		else if (strcmp(entry->key, "attach") == 0)
			wanted->attach = parse_attach(name, entry->value);
		else if (strcmp(entry->key, "options") == 0)
			wanted->options = rctl_map_from_json(entry->nested ? entry->value : "0",
												 psprintf("\"options\" of replica \"%s\" in the spec", name));
		else if (!in_array || strcmp(entry->key, "name") != 0)
			unknown_key(entry->key, psprintf("replica \"%s\" of the spec", name), "attach, options, role, server");
	}
	wanted->provider = rctl_api_provider(wanted->server, &server);
	check_known_options(wanted);
	return wanted;
}

static Wanted *
find_wanted(List *list, const char *name)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		Wanted	   *wanted = lfirst(lc);

		if (strcmp(wanted->name, name) == 0)
			return wanted;
	}
	return NULL;
}

/* {"r1": {...}, ...} */
static List *
parse_object(Jsonb *replicas)
{
	RctlMap    *map = rctl_map_from_jsonb(replicas, "\"replicas\" of the spec");
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, map->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);
		char	   *what = psprintf("replica \"%s\" of the spec", entry->key);

		list = lappend(list, parse_wanted(entry->key, rctl_map_from_json(entry->nested ? entry->value : "0", what), false));
	}
	return list;
}

/* [{"name": "r1", ...}, ...] */
static List *
parse_array(Jsonb *replicas)
{
	List	   *list = NIL;

	for (uint32 i = 0; i < JB_ROOT_COUNT(replicas); i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&replicas->root, i);
		RctlMap    *map = rctl_map_from_jsonb(JsonbValueToJsonb(value), "an element of \"replicas\" of the spec");
		const char *name = rctl_map_get(map, "name");

		if (name == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("element %u of \"replicas\" of the spec has no \"name\"", i + 1),
					 errhint("Each is an object such as {\"name\": \"r1\", \"server\": \"local\"}.")));
		if (find_wanted(list, name))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("replica \"%s\" occurs twice in the spec", name),
					 errhint("Name each replica once.")));
		list = lappend(list, parse_wanted(name, map, true));
	}
	return list;
}

static List *
parse_spec(FunctionCallInfo fcinfo)
{
	RctlMap    *spec;
	const RctlMapEntry *replicas = NULL;
	Jsonb	   *jsonb;
	ListCell   *lc;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("spec must not be null"),
				 errhint("SELECT replica_spec() shows one.")));
	spec = rctl_map_from_jsonb(PG_GETARG_JSONB_P(0), "spec");
	foreach(lc, spec->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);

		if (strcmp(entry->key, "replicas") != 0)
			unknown_key(entry->key, "the spec", "replicas");
		replicas = entry;
	}
	if (replicas == NULL || !replicas->nested)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the spec has no object or array \"replicas\""),
				 errhint("SELECT replica_spec() shows what a spec looks like.")));
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(replicas->value)));
	return JB_ROOT_IS_ARRAY(jsonb) ? parse_array(jsonb) : parse_object(jsonb);
}

/* ---------------------------------------------------------------------
 * The plan
 * ---------------------------------------------------------------------
 */

static Change *
add_change(Planning *p, Action action, const char *replica, const char *server, const Wanted *wanted,
		   char *reason)
{
	Change	   *change = palloc0(sizeof(Change));

	change->action = action;
	change->replica = pstrdup(replica);
	change->server = pstrdup(server);
	change->wanted = wanted;
	change->reason = reason;
	change->ready = action != ACTION_BLOCKED;
	p->changes = lappend(p->changes, change);
	return change;
}

static RctlReplica *
find_existing(Planning *p, const char *name)
{
	ListCell   *lc;

	foreach(lc, p->existing)
	{
		RctlReplica *replica = lfirst(lc);

		if (strcmp(replica->name, name) == 0)
			return replica;
	}
	return NULL;
}

static int64
unfinished_operation(const RctlReplica *replica)
{
	RctlStoreScope scope;
	int64		operation;

	rctl_store_enter_read(&scope);
	operation = rctl_store_unfinished(replica->id);
	rctl_store_leave(&scope);
	return operation;
}

/* What a failed creation has left, which the next one replaces. */
static bool
is_leftover(const RctlReplica *replica)
{
	return strcmp(replica->state, "failed") == 0 && replica->facts->entries == NIL;
}

static void
plan_new(Planning *p, const Wanted *wanted)
{
	RctlOpKind	kind = wanted->attach ? RCTL_OP_ATTACH : RCTL_OP_CREATE;
	const RctlOptionDef *defs = wanted->attach ? wanted->provider->attach_options : wanted->provider->create_options;
	const char *upstream = rctl_map_get(wanted->options, "upstream");
	RctlReplica *above;
	ForeignServer *server;
	Change	   *change;

	/* It was one, was promoted, and is nobody's replica any more. */
	if (wanted->standalone)
		return;
	rctl_options_check(defs, wanted->options, psprintf("replica \"%s\" in the spec", wanted->name));
	if (wanted->provider->check_options)
	{
		(void) rctl_api_provider(wanted->server, &server);
		wanted->provider->check_options(kind, wanted->name, rctl_map_from_options(server->options), wanted->options);
	}
	change = add_change(p, wanted->attach ? ACTION_ATTACH : ACTION_CREATE, wanted->name, wanted->server, wanted,
						pstrdup("it is not in the registry"));
	change->after = wanted->options;
	if (upstream == NULL || rctl_option_find(defs, "upstream") == NULL)
		return;
	above = find_existing(p, upstream);
	if (above && strcmp(above->state, "streaming") == 0)
		return;
	change->ready = false;
	if (above == NULL && find_wanted(p->wanted, upstream) == NULL)
	{
		change->action = ACTION_BLOCKED;
		change->reason = psprintf("its upstream \"%s\" is neither in the registry nor in the spec", upstream);
	}
	else
		change->reason = psprintf("its upstream \"%s\" must be streaming first: apply again then", upstream);
}

/* "a, b" */
static void
append_name(StringInfo names, const char *name)
{
	appendStringInfo(names, "%s%s", names->len > 0 ? ", " : "", name);
}

static bool
can_change(const RctlProvider *provider, const char *option)
{
	for (const char *const *name = provider->change_options; provider->change && name && *name; name++)
	{
		if (strcmp(*name, option) == 0)
			return true;
	}
	return false;
}

static void
copy_entry(RctlMap *to, const RctlMap *from, const char *key)
{
	ListCell   *lc;

	foreach(lc, from->entries)
	{
		const RctlMapEntry *entry = lfirst(lc);

		if (strcmp(entry->key, key) != 0)
			continue;
		if (entry->nested)
			rctl_map_set_json(to, key, entry->value);
		else
			rctl_map_set(to, key, entry->value);
	}
}

/* Notes the option, if it differs and was not noted before. */
static void
compare_option(const RctlProvider *provider, const RctlMap *old, const RctlMap *new, const char *name,
			   RctlMap *before, RctlMap *after, StringInfo fixed)
{
	const RctlOptionDef *def = rctl_option_find(provider->create_options, name);

	if (def == NULL)
		def = rctl_option_find(provider->attach_options, name);
	if (rctl_map_get(before, name) || rctl_map_get(after, name) ||
		rctl_option_same(def, rctl_map_get(old, name), rctl_map_get(new, name)))
		return;
	copy_entry(before, old, name);
	copy_entry(after, new, name);
	if (!can_change(provider, name))
		append_name(fixed, name);
}

/* Differences of options; true if there are any, and then there is a row. */
static bool
plan_options(Planning *p, const Wanted *wanted, const RctlReplica *replica)
{
	RctlMap    *before = rctl_map_make();
	RctlMap    *after = rctl_map_make();
	StringInfoData fixed;
	Change	   *change;
	ListCell   *lc;

	initStringInfo(&fixed);
	foreach(lc, replica->options->entries)
		compare_option(wanted->provider, replica->options, wanted->options, ((RctlMapEntry *) lfirst(lc))->key,
					   before, after, &fixed);
	foreach(lc, wanted->options->entries)
		compare_option(wanted->provider, replica->options, wanted->options, ((RctlMapEntry *) lfirst(lc))->key,
					   before, after, &fixed);
	if (before->entries == NIL && after->entries == NIL)
		return false;
	change = add_change(p, fixed.len > 0 ? ACTION_BLOCKED : ACTION_CHANGE, wanted->name, wanted->server, wanted,
						fixed.len > 0
						? psprintf("provider \"%s\" cannot change these options of a replica: %s; drop it and create it again",
								   wanted->provider->name, fixed.data)
						: pstrdup("its options differ"));
	change->before = before;
	change->after = after;
	return true;
}

static void
plan_existing(Planning *p, const Wanted *wanted, const RctlReplica *replica)
{
	bool		promoted = strcmp(replica->state, "promoted") == 0;
	int64		operation;
	Change	   *last;
	int			rows = list_length(p->changes);

	if (strcmp(replica->server, wanted->server) != 0)
		add_change(p, ACTION_BLOCKED, wanted->name, wanted->server, wanted,
				   psprintf("it is on server \"%s\": drop it first, or choose another name", replica->server));
	else if (promoted && !wanted->standalone)
		add_change(p, ACTION_BLOCKED, wanted->name, wanted->server, wanted,
				   pstrdup("it was promoted: detach it first, or choose another name"));
	else if (promoted || strcmp(replica->state, "promoting") == 0)
		return;
	else if (wanted->standalone)
		add_change(p, ACTION_PROMOTE, wanted->name, wanted->server, wanted,
				   pstrdup("it shall stand alone; replica_apply needs allow_promote => true"));
	else if (strcmp(replica->state, "failed") == 0)
		add_change(p, ACTION_BLOCKED, wanted->name, wanted->server, wanted,
				   pstrdup("its last operation failed half-way: repair or drop it first"));
	else
		(void) plan_options(p, wanted, replica);
	if (list_length(p->changes) == rows)
		return;

	last = llast(p->changes);
	operation = unfinished_operation(replica);
	if (operation != 0 && last->action != ACTION_BLOCKED)
	{
		last->ready = false;
		last->reason = psprintf("operation " INT64_FORMAT " is running on it: apply again when it has ended", operation);
	}
}

/* Replicas that the spec does not name. */
static void
plan_removal(Planning *p, const RctlReplica *replica)
{
	bool		promoted = strcmp(replica->state, "promoted") == 0;
	int64		operation;
	Change	   *change;
	ListCell   *lc;

	if (strcmp(replica->state, "dropping") == 0)
		return;
	change = add_change(p, promoted ? ACTION_DETACH : ACTION_DROP, replica->name, replica->server, NULL,
						promoted ? pstrdup("it is not in the spec; it was promoted, so it is only forgotten; replica_apply needs allow_drop => true")
						: pstrdup("it is not in the spec; replica_apply needs allow_drop => true"));
	change->before = replica->options;
	operation = unfinished_operation(replica);
	if (operation != 0)
	{
		change->ready = false;
		change->reason = psprintf("operation " INT64_FORMAT " is running on it: apply again when it has ended", operation);
	}
	foreach(lc, p->existing)
	{
		RctlReplica *other = lfirst(lc);
		const char *upstream = rctl_map_get(other->facts, "upstream");

		if (upstream && strcmp(upstream, replica->name) == 0 && !promoted)
		{
			change->ready = false;
			change->reason = psprintf("replica \"%s\" follows it: apply again when that is gone", other->name);
		}
	}
}

static Planning *
make_plan(List *wanted_list)
{
	Planning   *p = palloc0(sizeof(Planning));
	RctlStoreScope scope;
	ListCell   *lc;

	rctl_api_require_primary();
	p->wanted = wanted_list;
	rctl_store_enter_read(&scope);
	p->existing = rctl_store_own_replicas();
	rctl_store_leave(&scope);
	foreach(lc, p->wanted)
	{
		Wanted	   *wanted = lfirst(lc);
		RctlReplica *replica = find_existing(p, wanted->name);
		RctlReplicaRow row;
		bool		known;

		if (replica && !is_leftover(replica))
		{
			plan_existing(p, wanted, replica);
			continue;
		}
		rctl_store_enter_read(&scope);
		known = rctl_store_find_replica(wanted->name, &row);
		rctl_store_leave(&scope);
		if (known && !row.owned)
			add_change(p, ACTION_BLOCKED, wanted->name, wanted->server, wanted,
					   pstrdup("it belongs to another server: see replica_claim"));
		else
			plan_new(p, wanted);
	}
	foreach(lc, p->existing)
	{
		RctlReplica *replica = lfirst(lc);

		if (find_wanted(p->wanted, replica->name) == NULL && !is_leftover(replica))
			plan_removal(p, replica);
	}
	return p;
}

/* ---------------------------------------------------------------------
 * SQL functions
 * ---------------------------------------------------------------------
 */

static Datum
options_datum(const RctlMap *options)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(rctl_map_to_json(options)));
}

/* replica_plan(spec jsonb) */
Datum
rctl_sql_plan(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, make_plan(parse_spec(fcinfo))->changes)
	{
		const Change *change = lfirst(lc);
		Datum		values[6] = {0};
		bool		nulls[6] = {0};

		values[0] = CStringGetTextDatum(action_names[change->action]);
		values[1] = DirectFunctionCall1(namein, CStringGetDatum(change->replica));
		values[2] = DirectFunctionCall1(namein, CStringGetDatum(change->server));
		nulls[3] = change->before == NULL;
		if (!nulls[3])
			values[3] = options_datum(change->before);
		nulls[4] = change->after == NULL;
		if (!nulls[4])
			values[4] = options_datum(change->after);
		values[5] = CStringGetTextDatum(change->reason);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* As the call with its defaults would. */
static RctlMap *
promote_arguments(void)
{
	RctlMap    *arguments = rctl_map_make();

	rctl_map_set(arguments, "mode", "planned");
	rctl_map_setf(arguments, "session", "%d", MyProcPid);
	rctl_map_set(arguments, "timeout_ms", "60000");
	rctl_map_set(arguments, "drain_ms", "1000");
	rctl_map_set(arguments, "source_after", "read_only");
	return arguments;
}

/* Queues it; 0 if it must not be, or cannot be yet. */
static int64
apply_change(const Change *change, bool allow_promote, bool allow_drop)
{
	RctlMap    *arguments = rctl_map_make();

	if (!change->ready)
		return 0;
	switch (change->action)
	{
		case ACTION_BLOCKED:
			break;
		case ACTION_CREATE:
			return rctl_api_add_replica(RCTL_OP_CREATE, change->replica, change->server, change->wanted->options);
		case ACTION_ATTACH:
			return rctl_api_add_replica(RCTL_OP_ATTACH, change->replica, change->server, change->wanted->options);
		case ACTION_CHANGE:
			return rctl_api_queue_operation(change->replica, RCTL_OP_CHANGE, change->wanted->options, NULL);
		case ACTION_PROMOTE:
			if (allow_promote)
				return rctl_api_queue_operation(change->replica, RCTL_OP_PROMOTE, promote_arguments(), "promoting");
			break;
		case ACTION_DETACH:
			if (allow_drop)
				return rctl_api_queue_operation(change->replica, RCTL_OP_DETACH, arguments, NULL);
			break;
		case ACTION_DROP:
			rctl_map_set(arguments, "force", "false");
			if (allow_drop)
				return rctl_api_queue_operation(change->replica, RCTL_OP_DROP, arguments, "dropping");
			break;
	}
	return 0;
}

/* replica_apply(spec jsonb, allow_promote boolean, allow_drop boolean) */
Datum
rctl_sql_apply(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		allow_promote = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	bool		allow_drop = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, make_plan(parse_spec(fcinfo))->changes)
	{
		const Change *change = lfirst(lc);
		int64		operation = apply_change(change, allow_promote, allow_drop);
		Datum		values[] = {
			Int64GetDatum(operation),
			CStringGetTextDatum(action_names[change->action]),
			DirectFunctionCall1(namein, CStringGetDatum(change->replica)),
			DirectFunctionCall1(namein, CStringGetDatum(change->server)),
			CStringGetTextDatum(change->reason),
		};
		bool		nulls[lengthof(values)] = {operation == 0};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* replica_spec() */
Datum
rctl_sql_spec(PG_FUNCTION_ARGS)
{
	RctlMap    *replicas = rctl_map_make();
	RctlMap    *spec = rctl_map_make();
	RctlStoreScope scope;
	List	   *existing;
	ListCell   *lc;

	rctl_store_enter_read(&scope);
	existing = rctl_store_own_replicas();
	rctl_store_leave(&scope);
	foreach(lc, existing)
	{
		RctlReplica *replica = lfirst(lc);
		RctlMap    *entry = rctl_map_make();
		bool		alone = strcmp(replica->state, "promoted") == 0 || strcmp(replica->state, "promoting") == 0;

		if (is_leftover(replica) || strcmp(replica->state, "dropping") == 0)
			continue;
		rctl_map_set(entry, "server", replica->server);
		rctl_map_set(entry, "role", alone ? "standalone" : "replica");
		if (strcmp(rctl_map_get_default(replica->facts, "adopted", "false"), "true") == 0)
			rctl_map_set(entry, "attach", "true");
		rctl_map_set_json(entry, "options", rctl_map_to_json(replica->options));
		rctl_map_set_json(replicas, replica->name, rctl_map_to_json(entry));
	}
	rctl_map_set_json(spec, "replicas", rctl_map_to_json(replicas));
	PG_RETURN_DATUM(options_datum(spec));
}
