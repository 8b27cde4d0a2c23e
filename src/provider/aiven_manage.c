/*-------------------------------------------------------------------------
 *
 * aiven_manage.c
 *	  Drops a replica at Aiven, brings it back, and changes its options.
 *
 * A drop deletes a service with its data, so that it first makes sure that the
 * service is the one that the registry means: the name alone is not enough, as
 * it can have been given to another service since.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "provider/aiven.h"

static bool
same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

static bool
is_true(const RctlMap *map, const char *key)
{
	return same(rctl_map_get(map, key), "true");
}

/* ---------------------------------------------------------------------
 * Drop
 * ---------------------------------------------------------------------
 */

/* Whether it is the service that was made or attached, by any sign that a service keeps. */
static bool
is_meant(const RctlMap *facts, const RctlAivenService *service)
{
	return same(service->mark, rctl_map_get(facts, "mark")) ||
		same(service->create_time, rctl_map_get(facts, "create_time")) ||
		same(service->integration_id, rctl_map_get(facts, "integration_id"));
}

static char *
list_text(List *names)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, names)
		appendStringInfo(&text, "%s\"%s\"", text.len > 0 ? ", " : "", (char *) lfirst(lc));
	return text.data;
}

static void
refuse_drop(RctlOp *op, const char *message, const char *detail)
{
	const char *name = quote_literal_cstr(op->replica->name);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s", message),
			 errdetail("%s", detail),
			 errhint("Forget it with SELECT replica_detach(%s), or delete it with SELECT replica_drop(%s, force => true).",
					 name, name)));
}

/* NULL: there is nothing to delete. */
static RctlAivenService *
service_to_drop(RctlOp *op)
{
	const RctlMap *facts = op->replica->facts;
	const char *name = rctl_map_get(facts, "service_name");
	RctlAiven  *aiven;
	RctlAivenService *service;

	/* A creation that failed early has none. */
	if (name == NULL)
		return NULL;
	aiven = rctl_aiven_open(op);
	service = rctl_aiven_service(aiven, name, false);
	if (service == NULL)
		return NULL;
	if (is_true(facts, "adopted") && !is_true(op->arguments, "force"))
		refuse_drop(op, psprintf("replica \"%s\" was attached, not made here", op->replica->name),
					"A drop would delete its service with its data.");
	if (!is_meant(facts, service))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Aiven service \"%s\" is not the one that replica \"%s\" is about", name, op->replica->name),
				 errdetail("It was made at %s, and has neither its tag nor its integration.",
						   service->create_time ? service->create_time : "an unknown time"),
				 errhint("Forget the replica with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
	return service;
}

static void
check_drop(RctlOp *op)
{
	RctlAivenService *service = service_to_drop(op);
	bool		force = is_true(op->arguments, "force");

	if (service == NULL)
		return;
	if (!force && !service->is_replica && rctl_map_get(op->replica->facts, "integration_id"))
		refuse_drop(op, psprintf("replica \"%s\" was promoted and is a service of its own", op->replica->name),
					"A drop would delete its service with its data.");
	if (!force && service->followers != NIL)
		refuse_drop(op, psprintf("other services follow replica \"%s\"", op->replica->name),
					psprintf("They are: %s.", list_text(service->followers)));
	if (service->termination_protection)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Aiven service \"%s\" is protected against termination", service->name),
				 errhint("Switch its termination protection off at Aiven, and call replica_drop again.")));
}

static void
delete_service(RctlOp *op)
{
	RctlAivenService *service = service_to_drop(op);
	RctlMap    *detail = rctl_map_make();

	rctl_op_progress(op, "asking Aiven to delete the service", 0, 0);
	if (service)
		rctl_aiven_delete_service(rctl_aiven_open(op), service->name);
	if (rctl_map_get(op->replica->facts, "service_name") == NULL)
		return;
	rctl_map_set(detail, "project", rctl_map_get(op->replica->facts, "project"));
	rctl_map_set(detail, "service_name", rctl_map_get(op->replica->facts, "service_name"));
	rctl_map_set_json(detail, "terraform", rctl_aiven_terraform(op, RCTL_OP_DROP));
	rctl_op_event(op, "info", "service_deleted", detail, service ? "deleted Aiven service \"%s\"" :
				  "Aiven service \"%s\" was gone already", rctl_map_get(op->replica->facts, "service_name"));
}

const RctlStep rctl_aiven_drop_checks[] = {
	{"deletion", check_drop, "it is the service that was made here, it is not protected, and nobody follows it"},
	{NULL}
};

const RctlStep rctl_aiven_drop_steps[] = {
	{"check", check_drop, "check that it is the right service and that nobody depends on it"},
	{"delete", delete_service, "delete the service", .point_of_no_return = true},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Repair
 * ---------------------------------------------------------------------
 */

static void
examine(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	RctlAivenService *service = rctl_aiven_own_service(aiven, false);

	if (!service->is_replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Aiven service \"%s\" is no read replica any more", service->name),
				 errdetail("Its integration with the source is gone: it was promoted."),
				 errhint("Forget the replica with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
	rctl_aiven_note_service(op->replica, service);
}

static void
power_on(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	RctlAivenService *service = rctl_aiven_own_service(aiven, false);
	RctlAivenAnswer *answer;

	if (strcmp(service->state, "POWEROFF") != 0)
		return;
	answer = rctl_aiven_ask(aiven, "PUT", rctl_aiven_path(aiven, "service", service->name, NULL),
							"{\"powered\": true}", "ServiceUpdate");
	if (!rctl_aiven_ok(answer))
		rctl_aiven_refuse(aiven, answer, "could not power Aiven service \"%s\" on", service->name);
}

static void
wait_until_it_runs(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);

	rctl_aiven_note_service(op->replica, rctl_aiven_wait_running(aiven, false));
}

static void
verify_repaired(RctlOp *op)
{
	rctl_aiven_verify_standby(op);
}

const RctlStep rctl_aiven_repair_steps[] = {
	{"examine", examine, "look at the service"},
	{"power", power_on, "power it on if it is off"},
	{"run", wait_until_it_runs, "wait until it runs"},
	{"verify", verify_repaired, "check over SQL that it is a standby of the source and streams"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Change
 * ---------------------------------------------------------------------
 */

/* Doing it twice is harmless: what is sent is the wanted state. */
static void
update(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	RctlAivenService *service = rctl_aiven_own_service(aiven, false);
	char	   *body = rctl_aiven_update_body(aiven, op->replica->options, op->arguments);
	RctlAivenAnswer *answer;

	if (strcmp(body, "{}") == 0)
		return;
	answer = rctl_aiven_ask(aiven, "PUT", rctl_aiven_path(aiven, "service", service->name, NULL), body, "ServiceUpdate");
	if (!rctl_aiven_ok(answer))
		rctl_aiven_refuse(aiven, answer, "could not change Aiven service \"%s\"", service->name);
}

static void
replace_tags(RctlOp *op)
{
	RctlAiven  *aiven = rctl_aiven_open(op);
	const char *name = rctl_map_get(op->replica->facts, "service_name");
	const char *before = rctl_map_get_default(op->replica->options, "tags", "{}");
	const char *after = rctl_map_get_default(op->arguments, "tags", "{}");
	RctlAivenAnswer *answer;

	if (strcmp(before, after) == 0)
		return;
	answer = rctl_aiven_ask(aiven, "PUT", rctl_aiven_path(aiven, "service", name, "tags", NULL),
							psprintf("{\"tags\": %s}", rctl_aiven_tags(op->arguments, rctl_map_get(op->replica->facts, "mark"))),
							"ProjectServiceTagsReplace");
	if (!rctl_aiven_ok(answer))
		rctl_aiven_refuse(aiven, answer, "could not change the tags of Aiven service \"%s\"", name);
}

const RctlStep rctl_aiven_change_steps[] = {
	{"update", update, "ask Aiven for the new options"},
	{"tags", replace_tags, "replace its tags, if they differ"},
	{"run", wait_until_it_runs, "wait until it runs"},
	{NULL}
};
