/*-------------------------------------------------------------------------
 *
 * aiven_create.c
 *	  Makes a replica at Aiven, takes over one that exists, and undoes both.
 *
 * A creation is one POST that must not be made twice.  Before it the name and
 * the mark, a tag with a value of this operation's own, are recorded; a lost
 * answer, or another worker, is settled by looking: a service of that name
 * with that mark is ours, one with another mark is not.  One without a mark
 * is taken for ours if type, plan and source are what was asked for, as the
 * name was free before; but it is deleted only if it is the very one of which
 * the API said that it made it for us.
 *
 * Terraform's provider waits for RUNNING several times in a row, as a service
 * can go back to REBUILDING; so do we.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/pg_prng.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "net/wait.h"
#include "provider/aiven.h"

/* Looks in a row that must see it running. */
#define RUNNING_TIMES 3

/* How long a service that was asked for may be unknown to other calls. */
#define APPEAR_MS 30000

/* How long to look for one of which it is not known whether it was asked for. */
#define SHOW_MS 3000

/* How long a service may be built without any sign of progress. */
#define BUILD_STILL_MS (60 * 60 * 1000)

/* Until a running service has connection data, and a new one its integration. */
#define SETTLE_MS 120000

/* Until a deleted service is gone. */
#define DELETE_MS 300000

#define POST_ATTEMPTS 4

static bool
same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

static void
check_source(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	RctlAivenService *source = rctl_aiven_service(aiven, aiven->source, false);
	RctlMap    *facts = op->replica->facts;
	const char *plan = rctl_map_get(op->replica->options, "plan");
	const char *cloud = rctl_aiven_option(op->replica->options, "cloud");
	const char *server = quote_identifier(aiven->server);

	if (source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist in Aiven project \"%s\"", aiven->source, aiven->project),
				 errhint("Name a service of the project with ALTER SERVER %s OPTIONS (SET source '...').", server)));
	if (strcmp(source->type, "pg") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("source \"%s\" is not an Aiven for PostgreSQL service", aiven->source),
				 errdetail("Its type is \"%s\".", source->type),
				 errhint("Name another with ALTER SERVER %s OPTIONS (SET source '...').", server)));
	if (source->is_replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" is itself a read replica", aiven->source),
				 source->integration_source ? errdetail("It follows service \"%s\".", source->integration_source) : 0,
				 source->integration_source ?
				 errhint("Name that one with ALTER SERVER %s OPTIONS (SET source '%s').", server, source->integration_source) : 0));
	if (strcmp(source->state, "POWEROFF") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" is powered off", aiven->source),
				 errhint("Power it on at Aiven, and call replica_create again when it runs.")));
	if (!rctl_aiven_running(source))
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("source \"%s\" does not run yet", aiven->source),
				 errdetail("Its state is %s.", source->state),
				 errhint("Wait until its state is RUNNING.")));
	rctl_map_set(facts, "project", aiven->project);
	rctl_map_set(facts, "source_service", aiven->source);
	rctl_map_set(facts, "plan", plan ? plan : source->plan);
	rctl_map_set(facts, "cloud", cloud ? cloud : source->cloud);
}

/*
 * A list that is there to say early what the creation would say late: a token
 * may do without the right to read it.
 */
static bool
cannot_be_listed(RctlOp *op, const RctlAiven *aiven, const RctlAivenAnswer *answer, const char *what)
{
	if (rctl_aiven_ok(answer))
		return false;
	if (answer->status == 401)
		rctl_aiven_refuse(aiven, answer, "could not list %s", what);
	rctl_op_warn(op, rctl_aiven_detail(answer), NULL, "could not list %s", what);
	return true;
}

/* Its absence is what Aiven calls "not allowed under current plan". */
static void
check_backups(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	RctlAivenAnswer *answer = rctl_aiven_ask(aiven, "GET",
											 rctl_aiven_path(aiven, "service", aiven->source, "backups", NULL),
											 NULL, "ServiceBackupsGet");

	if (cannot_be_listed(op, aiven, answer, "the backups of the source"))
		return;
	if (rctl_json_array_length(answer->json, "backups") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" has no backup yet", aiven->source),
				 errdetail("Aiven makes a read replica from a backup of its source; the first one of a new service takes a while."),
				 errhint("Call replica_create again when Aiven lists a backup of the source.")));
}

/* "a, b, c" of the field of each element. */
static char *
names_of(const RctlJson *list, int count, const char *field)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < count; i++)
	{
		char	   *name = rctl_json_text(rctl_json_element(list, i), field);

		if (name)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", name);
	}
	return names.data;
}

/* The element whose field has the value; NULL if there is none. */
static const RctlJson *
find_named(const RctlJson *list, int count, const char *field, const char *value)
{
	for (int i = 0; i < count; i++)
	{
		const RctlJson *element = rctl_json_element(list, i);

		if (same(rctl_json_text(element, field), value))
			return element;
	}
	return NULL;
}

static void
check_plan(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	const char *plan = rctl_map_get(op->replica->facts, "plan");
	RctlAivenAnswer *answer = rctl_aiven_ask(aiven, "GET", rctl_aiven_path(aiven, "service-types", "pg", "plans", NULL),
											 NULL, "ProjectServicePlanList");
	const RctlJson *plans = rctl_json_find(answer->json, "service_plans");
	int			count = rctl_json_array_length(answer->json, "service_plans");

	if (cannot_be_listed(op, aiven, answer, "the plans"))
		return;
	if (plan && count > 0 && find_named(plans, count, "service_plan", plan) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("project \"%s\" has no plan \"%s\" for PostgreSQL", aiven->project, plan),
				 errhint("Valid plans are: %s.", names_of(plans, count, "service_plan"))));
	if (plan && strncmp(plan, "startup-", 8) != 0)
		rctl_op_warn(op, "Aiven's documentation names the Startup plans only for replicas that are not made in its console.",
					 "If Aiven refuses it, choose option \"plan\" accordingly.",
					 "the plan of the replica is \"%s\"", plan);
}

static void
check_cloud(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	const char *cloud = rctl_aiven_option(op->replica->options, "cloud");
	RctlAivenAnswer *answer;
	const RctlJson *clouds;
	int			count;

	/* The source's is one. */
	if (cloud == NULL)
		return;
	answer = rctl_aiven_ask(aiven, "GET", rctl_aiven_path(aiven, "clouds", NULL), NULL, "ListProjectClouds");
	if (cannot_be_listed(op, aiven, answer, "the clouds"))
		return;
	clouds = rctl_json_find(answer->json, "clouds");
	count = rctl_json_array_length(answer->json, "clouds");
	if (count > 0 && find_named(clouds, count, "cloud_name", cloud) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("project \"%s\" has no cloud \"%s\"", aiven->project, cloud),
				 errhint("Valid clouds are: %s.", names_of(clouds, count, "cloud_name"))));
}

static void
name_in_use(RctlOp *op, const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("Aiven service \"%s\" already exists", name),
			 errdetail("%s", detail),
			 errhint("Choose another option \"service_name\", or take it over with SELECT replica_attach(%s, %s, '{\"service_name\": \"%s\"}').",
					 quote_literal_cstr(op->replica->name), quote_literal_cstr(op->replica->server), name)));
}

static void
check_service_name(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	char	   *name = rctl_aiven_service_name(op->replica->name, op->replica->options);
	RctlAivenService *service;

	if (!rctl_op_reserve(op, "service_name", name))
		name_in_use(op, name, "Another replica of this registry has that name at Aiven.");
	service = rctl_aiven_service(aiven, name, false);
	if (service)
		name_in_use(op, name, psprintf("It is in project \"%s\", and its state is %s.", aiven->project, service->state));
}

const RctlStep rctl_aiven_create_checks[] = {
	{"source", check_source, "the source is a running PostgreSQL service and no replica itself"},
	{"backups", check_backups, "the source has a backup"},
	{"plan", check_plan, "its plan exists"},
	{"cloud", check_cloud, "its cloud exists"},
	{"service name", check_service_name, "its name at Aiven is free"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Create
 * ---------------------------------------------------------------------
 */

static void
preflight(RctlOp *op)
{
	rctl_op_progress(op, "checking", 0, 0);
	for (const RctlStep *check = rctl_aiven_create_checks; check->name; check++)
		check->run(op);

	/* No other operation of any server has it, ever. */
	rctl_map_setf(op->replica->facts, "mark", UINT64_FORMAT "-" INT64_FORMAT "-%08x",
				  GetSystemIdentifier(), op->id, (unsigned int) pg_prng_uint32(&pg_global_prng_state));
}

/*
 * Whether the service is what this operation asked for, whose name was free a
 * moment ago: good enough to go on with it, not to delete it.
 */
static bool
is_ours(const RctlAiven *aiven, const RctlReplica *replica, const RctlAivenService *service)
{
	if (service->mark)
		return same(service->mark, rctl_map_get(replica->facts, "mark"));
	return strcmp(service->type, "pg") == 0 && service->is_replica &&
		same(service->integration_source, aiven->source) &&
		same(service->plan, rctl_map_get(replica->facts, "plan"));
}

/* What Aiven means when it says that a read replica is not allowed. */
static void
explain_refusal(RctlOp *op, const RctlAiven *aiven, const RctlAivenAnswer *answer)
{
	if (answer->status == 403 && answer->message && strstr(answer->message, "not allowed under current plan"))
	{
		check_backups(op);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Aiven refuses a read replica of source \"%s\"", aiven->source),
				 errdetail("%s", rctl_aiven_detail(answer)),
				 errhint("The source has a backup, so that it is its plan, or option \"plan\": choose another.")));
	}
	rctl_aiven_refuse(aiven, answer, "could not create Aiven service \"%s\"",
					  rctl_map_get(op->replica->facts, "service_name"));
}

/*
 * Whether a creation whose outcome is not known was made after all: looked for
 * as long as it may take to show.
 */
static bool
appeared(const RctlAiven *aiven, const char *name, long patience_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext look = NULL;
	RctlAivenService *service;

	for (;;)
	{
		look = rctl_aiven_look(look);
		service = rctl_aiven_service(aiven, name, false);
		if (service || TimestampDifferenceExceeds(start, GetCurrentTimestamp(), patience_ms))
			break;
		rctl_aiven_pause(start);
	}
	MemoryContextSwitchTo(caller);
	if (service && !is_ours(aiven, aiven->op->replica, service))
		name_in_use(aiven->op, name, "It was made by somebody else meanwhile.");
	return service != NULL;
}

static void
make_service(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	const char *name = rctl_map_get(op->replica->facts, "service_name");
	RctlMap    *object = rctl_map_make();
	bool		asked_before = rctl_map_get(op->state, "asked") != NULL;

	rctl_map_set(object, "project", aiven->project);
	rctl_map_set(object, "service_name", name);
	rctl_map_set(object, "mark", rctl_map_get(op->replica->facts, "mark"));
	rctl_map_setf(op->state, "asked", INT64_FORMAT, (int64) GetCurrentTimestamp());
	rctl_op_cleanup_add(op, "service", object, false);
	rctl_op_save(op);

	for (int attempt = 1;; attempt++)
	{
		RctlAivenAnswer *answer;

		if ((asked_before || attempt > 1) && appeared(aiven, name, SHOW_MS))
			break;
		rctl_op_progress(op, "asking Aiven for the service", 0, 0);
		answer = rctl_aiven_ask_once(aiven, "POST", rctl_aiven_path(aiven, "service", NULL),
									 rctl_aiven_create_body(aiven, op->replica), "ServiceCreate");
		if (rctl_aiven_ok(answer) && !answer->maybe_done)
		{
			rctl_map_set(op->state, "answered", "true");
			rctl_map_set(op->state, "create_time", rctl_json_text(answer->json, "service/create_time"));
			break;
		}
		if (answer->status == 409)
		{
			if (appeared(aiven, name, 0))
				break;
			rctl_aiven_refuse(aiven, answer, "could not create Aiven service \"%s\"", name);
		}
		if (rctl_aiven_missing(answer) && attempt < POST_ATTEMPTS)
		{
			/* the source is not known there yet; it was a moment ago */
			rctl_sleep(SHOW_MS);
			continue;
		}
		if (!answer->maybe_done)
		{
			/* nothing is on its way: the undo need not wait for it to show */
			rctl_map_set(op->state, "answered", "true");
			explain_refusal(op, aiven, answer);
		}
		if (attempt == POST_ATTEMPTS)
			rctl_aiven_refuse(aiven, answer, "could not create Aiven service \"%s\"", name);
	}
	rctl_op_save(op);
}

/* What tells whether a service moves; it outlives the look. */
typedef struct Sight
{
	char		activity[200];	/* "": not seen yet */
	uint64		done;
	uint64		total;
} Sight;

/* Takes over what is seen now; whether it differs. */
static bool
moves(Sight *sight, const RctlAivenService *service)
{
	Sight		now;

	memset(&now, 0, sizeof(now));
	now.done = service->done;
	now.total = service->total;
	strlcpy(now.activity, service->activity, sizeof(now.activity));
	if (now.activity[0] == '\0')
		strlcpy(now.activity, "?", sizeof(now.activity));
	if (memcmp(&now, sight, sizeof(now)) == 0)
		return false;
	*sight = now;
	return true;
}

static void
not_built(const RctlAiven *aiven, const Sight *sight, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("Aiven service \"%s\" did not come to run", rctl_map_get(aiven->op->replica->facts, "service_name")),
			 errdetail("%s%s", why, sight->activity[0] ? psprintf(" It was last seen as %s.", sight->activity) : ""),
			 errhint("See the service's log at Aiven.")));
}

/* One look; true if it runs. */
static bool
look_at_building(const RctlAiven *aiven, const RctlAivenService *service, Sight *sight, TimestampTz *moved)
{
	if (moves(sight, service))
		*moved = GetCurrentTimestamp();
	rctl_aiven_show_progress(aiven->op, service);
	if (strcmp(service->state, "POWEROFF") == 0)
		not_built(aiven, sight, "It is powered off.");
	if (TimestampDifferenceExceeds(*moved, GetCurrentTimestamp(), BUILD_STILL_MS))
		not_built(aiven, sight, psprintf("There was no progress for %d min.", BUILD_STILL_MS / 60000));
	return rctl_aiven_running(service);
}

RctlAivenService *
rctl_aiven_wait_running(const RctlAiven *aiven, bool posted)
{
	const char *name = rctl_map_get(aiven->op->replica->facts, "service_name");
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz moved = start;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext look = NULL;
	RctlAivenService *service;
	Sight		sight;
	int			running = 0;

	memset(&sight, 0, sizeof(sight));
	for (;;)
	{
		look = rctl_aiven_look(look);
		service = rctl_aiven_service(aiven, name, false);
		if (service)
			running = look_at_building(aiven, service, &sight, &moved) ? running + 1 : 0;
		else if (sight.activity[0] || !posted)
			not_built(aiven, &sight, "The service is gone.");
		else if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), APPEAR_MS))
			not_built(aiven, &sight, "Aiven does not know it.");
		if (running >= RUNNING_TIMES)
			break;
		rctl_op_alive(aiven->op);
		rctl_aiven_pause(start);
	}
	MemoryContextSwitchTo(caller);
	return service;
}

static void
build(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);

	aiven->patient = true;
	(void) rctl_aiven_wait_running(aiven, true);
}

/*
 * The integration that makes it a replica, which has an id when it is there,
 * and the connection data.
 */
static void
settle(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext look = NULL;

	aiven->patient = true;
	for (;;)
	{
		RctlAivenService *service;
		bool		late;

		look = rctl_aiven_look(look);
		service = rctl_aiven_own_service(aiven, false);
		late = TimestampDifferenceExceeds(start, GetCurrentTimestamp(), SETTLE_MS);

		if (service->integration_id && !same(service->integration_source, aiven->source))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("Aiven service \"%s\" is not a replica of source \"%s\"", service->name, aiven->source),
					 errdetail("It follows service \"%s\".", service->integration_source ? service->integration_source : "?"),
					 errhint("Use a server whose option \"source\" names that service.")));
		if (service->integration_id && service->host)
		{
			rctl_aiven_note_service(op->replica, service);
			break;
		}
		if (late && service->integration_id == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("Aiven service \"%s\" is not a read replica", service->name),
					 errdetail("It has no integration of type read_replica with its source."),
					 errhint("Attach a service that was made as a read replica, or make one with replica_create.")));
		if (late)
			ereport(ERROR,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("Aiven tells no connection data of service \"%s\"", service->name),
					 errdetail("Its state is %s.", service->state),
					 errhint("See the service's page at Aiven.")));
		rctl_op_progress(op, service->integration_id ? "waiting for its connection data" : "waiting for its integration", 0, 0);
		rctl_aiven_pause(start);
	}
	MemoryContextSwitchTo(caller);
}

static void
announce(RctlOp *op, const char *kind, const char *format)
{
	RctlMap    *detail = rctl_map_make();
	static const char *const shown[] = {
		"project", "service_name", "source_service", "integration_id", "plan", "cloud", "host", "port"
	};

	for (int i = 0; i < lengthof(shown); i++)
		rctl_map_set(detail, shown[i], rctl_map_get(op->replica->facts, shown[i]));
	rctl_map_set_json(detail, "terraform", rctl_aiven_terraform(op, op->kind));
	rctl_op_event(op, "info", kind, detail, "%s \"%s\"", format, rctl_map_get(op->replica->facts, "service_name"));
}

static void
verify(RctlOp *op)
{
	rctl_op_progress(op, "connecting", 0, 0);
	rctl_aiven_verify_standby(op);
	announce(op, "service_created", "created Aiven service");
}

const RctlStep rctl_aiven_create_steps[] = {
	{"preflight", preflight, "check source, plan, cloud and name"},
	{"service", make_service, "ask Aiven for the service with its integration"},
	{"build", build, "wait until the service runs", .weight = 50},
	{"settle", settle, "find its integration and its connection data"},
	{"verify", verify, "check over SQL that it is a standby of the source and streams"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Attach
 * ---------------------------------------------------------------------
 */

static void
inspect(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	char	   *name = rctl_aiven_service_name(op->replica->name, op->replica->options);
	RctlAivenService *service;

	if (!rctl_op_reserve(op, "service_name", name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("Aiven service \"%s\" belongs to another replica of this registry", name),
				 errhint("SELECT replica, server FROM replica_status lists the replicas.")));
	service = rctl_aiven_service(aiven, name, false);
	if (service == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("Aiven service \"%s\" does not exist in project \"%s\"", name, aiven->project),
				 errhint("Name the service with option \"service_name\", or make one with replica_create.")));
	if (!service->is_replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Aiven service \"%s\" is not a read replica", name),
				 errdetail("It has no integration of type read_replica with a source."),
				 errhint("Name another service with option \"service_name\", or make a replica with replica_create.")));
	if (!rctl_aiven_running(service))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Aiven service \"%s\" does not run", name),
				 errdetail("Its state is %s.", service->state),
				 errhint("Attach it when its state is RUNNING.")));
	rctl_map_set(op->replica->facts, "project", aiven->project);
	rctl_map_set(op->replica->facts, "adopted", "true");
	rctl_map_set(op->replica->facts, "mark", service->mark);
	settle(op);
}

static void
verify_attached(RctlOp *op)
{
	rctl_op_progress(op, "connecting", 0, 0);
	rctl_aiven_verify_standby(op);
	announce(op, "service_attached", "attached Aiven service");
}

const RctlStep rctl_aiven_attach_steps[] = {
	{"inspect", inspect, "find the service and the integration that makes it a replica"},
	{"verify", verify_attached, "check over SQL that it is a standby of the source and streams"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Undo
 * ---------------------------------------------------------------------
 */

void
rctl_aiven_delete_service(const RctlAiven *aiven, const char *name)
{
	char	   *path = rctl_aiven_path(aiven, "service", name, NULL);
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext look = NULL;
	RctlAivenAnswer *answer = rctl_aiven_ask(aiven, "DELETE", path, NULL, "ServiceDelete");

	if (rctl_aiven_missing(answer))
		return;
	if (!rctl_aiven_ok(answer))
		rctl_aiven_refuse(aiven, answer, "could not delete Aiven service \"%s\"", name);
	for (;;)
	{
		look = rctl_aiven_look(look);
		if (rctl_aiven_service(aiven, name, false) == NULL)
			break;
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), DELETE_MS))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("Aiven service \"%s\" is still there after it was deleted", name),
					 errhint("See the service's page at Aiven.")));
		rctl_op_progress(aiven->op, "waiting until the service is gone", 0, 0);
		rctl_op_alive(aiven->op);
		rctl_aiven_pause(start);
	}
	MemoryContextSwitchTo(caller);
}

/* A half-made service that was to be protected is so already. */
static void
unprotect(const RctlAiven *aiven, const char *name)
{
	RctlAivenAnswer *answer = rctl_aiven_ask(aiven, "PUT", rctl_aiven_path(aiven, "service", name, NULL),
											 "{\"termination_protection\": false}", "ServiceUpdate");

	if (!rctl_aiven_ok(answer) && !rctl_aiven_missing(answer))
		rctl_aiven_refuse(aiven, answer, "could not switch off the protection of Aiven service \"%s\"", name);
}

/* The service of a creation that may still be on its way; NULL: there is none. */
static RctlAivenService *
look_for_made(const RctlAiven *aiven, const char *name)
{
	const char *asked = rctl_map_get(aiven->op->state, "asked");
	bool		answered = rctl_map_get(aiven->op->state, "answered") != NULL;
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz until = asked && !answered ?
	TimestampTzPlusMilliseconds(strtoll(asked, NULL, 10), APPEAR_MS / 2) : start;

	for (;;)
	{
		RctlAivenService *service = rctl_aiven_service(aiven, name, false);

		if (service || GetCurrentTimestamp() >= until)
			return service;
		rctl_aiven_pause(start);
	}
}

void
rctl_aiven_cleanup(RctlOp *op, const RctlCleanup *record)
{
	const char *name = rctl_map_get(record->object, "service_name");
	RctlAiven  *aiven = rctl_aiven_open(op);
	RctlAivenService *service;

	aiven->project = rctl_map_get(record->object, "project");
	aiven->patient = true;
	service = look_for_made(aiven, name);
	if (service == NULL)
		return;
	if (service->mark && !same(service->mark, rctl_map_get(record->object, "mark")))
	{
		RctlMap    *detail = rctl_map_make();

		rctl_map_set(detail, "service_name", name);
		rctl_op_event(op, "warning", "left_behind", detail,
					  "Aiven service \"%s\" was not made by this operation and stays", name);
		return;
	}
	if (service->mark == NULL && !same(service->create_time, rctl_map_get(op->state, "create_time")))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("it is not certain whether Aiven service \"%s\" was made by replica_ctl", name),
				 errdetail("It has no tag \"%s\", and Aiven's answer to its creation is not known.", RCTL_AIVEN_MARK),
				 errhint("Look at it at Aiven, and delete it there if it is not needed.")));
	if (service->termination_protection)
		unprotect(aiven, name);
	aiven->patient = false;
	rctl_aiven_delete_service(aiven, name);
}
