/*-------------------------------------------------------------------------
 *
 * aiven_service.c
 *	  Reads what Aiven's API says about a service.
 *
 * Nearly everything may be null, missing, or a word that is new: what is not
 * there is unknown, and what is not known decides nothing.
 *
 * The same integration is listed with its source and with its destination,
 * and merely possible ones are listed without an id: a service is a replica
 * if it is the destination of an integration of type read_replica that is
 * enabled, or that has an id.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq-fe.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "net/text.h"
#include "net/wait.h"
#include "provider/aiven.h"

/* Looks become rarer while something takes its time. */
#define POLL_FIRST_MS 250
#define POLL_LAST_MS 10000
#define POLL_PART 4

/* A service is gone if it is not there so many times more (RctlAiven.patient). */
#define MISSING_TIMES 2
#define MISSING_PAUSE_MS 700

static char *
text_of(const RctlJson *json, const char *path, const char *otherwise)
{
	char	   *text = rctl_json_text(json, path);

	return text ? text : (otherwise ? pstrdup(otherwise) : NULL);
}

static bool
same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

static void
read_integrations(RctlAivenService *service, const RctlJson *json)
{
	const RctlJson *list = rctl_json_find(json, "service_integrations");
	int			count = rctl_json_array_length(json, "service_integrations");

	for (int i = 0; i < count; i++)
	{
		const RctlJson *integration = rctl_json_element(list, i);
		char	   *id = rctl_json_text(integration, "service_integration_id");
		char	   *source = rctl_json_text(integration, "source_service");
		char	   *destination = rctl_json_text(integration, "dest_service");

		if (!same(rctl_json_text(integration, "integration_type"), "read_replica"))
			continue;
		if (destination == NULL && source && !same(source, service->name))
			destination = service->name;
		if (id == NULL && same(destination, service->name) && !service->is_replica &&
			rctl_json_bool(integration, "enabled", false))
		{
			/* not ready: the caller looks again */
			service->is_replica = true;
			service->integration_source = source;
		}
		else if (id && same(destination, service->name))
		{
			service->is_replica = true;
			service->integration_id = id;
			service->integration_source = source;
			service->integration_state = rctl_json_text(integration, "integration_status/state/status");
		}
		else if (id && same(source, service->name) && destination)
			service->followers = lappend(service->followers, destination);
	}
}

/* What a node is busy with; the first that is not done says it. */
static void
read_progress(RctlAivenService *service, const RctlJson *node)
{
	const RctlJson *list = rctl_json_find(node, "progress_updates");
	int			count = rctl_json_array_length(node, "progress_updates");

	for (int i = 0; i < count; i++)
	{
		const RctlJson *update = rctl_json_element(list, i);
		char	   *phase = rctl_json_text(update, "phase");
		int64		current;
		int64		max;
		int64		min;

		if (phase == NULL || rctl_json_bool(update, "completed", false))
			continue;
		service->activity = psprintf("%s: %s", service->state, phase);
		if (!rctl_json_int64(update, "current", &current) || !rctl_json_int64(update, "max", &max))
			return;
		if (!rctl_json_int64(update, "min", &min))
			min = 0;
		if (max > min && current >= min)
		{
			service->total = max - min;
			service->done = Min(current - min, max - min);
		}
		return;
	}
}

static void
read_nodes(RctlAivenService *service, const RctlJson *json)
{
	const RctlJson *list = rctl_json_find(json, "node_states");
	int			count = rctl_json_array_length(json, "node_states");
	bool		replica = false;
	bool		master = false;
	bool		busy = false;

	for (int i = 0; i < count; i++)
	{
		const RctlJson *node = rctl_json_element(list, i);
		char	   *role = rctl_json_text(node, "role");
		char	   *state = rctl_json_text(node, "state");

		replica |= same(role, "read-replica");
		master |= same(role, "master");
		if (busy || state == NULL || strcmp(state, "running") == 0)
			continue;
		busy = true;
		service->activity = psprintf("%s: node is %s", service->state, state);
		read_progress(service, node);
	}
	service->role_known = replica || master;
	service->role_master = master && !replica;
}

/* service_uri_params, or else what service_uri says. */
static void
read_connection(RctlAivenService *service, const RctlJson *json)
{
	char	   *uri;
	char	   *error = NULL;
	PQconninfoOption *options;

	service->host = rctl_json_text(json, "service_uri_params/host");
	if (service->host)
	{
		service->port = text_of(json, "service_uri_params/port", NULL);
		service->user = text_of(json, "service_uri_params/user", NULL);
		service->password = text_of(json, "service_uri_params/password", NULL);
		service->dbname = text_of(json, "service_uri_params/dbname", NULL);
		service->sslmode = text_of(json, "service_uri_params/sslmode", NULL);
		return;
	}
	uri = rctl_json_text(json, "service_uri");
	options = uri ? PQconninfoParse(uri, &error) : NULL;
	for (PQconninfoOption *option = options; option && option->keyword; option++)
	{
		char	  **field = same(option->keyword, "host") ? &service->host :
		same(option->keyword, "port") ? &service->port :
		same(option->keyword, "user") ? &service->user :
		same(option->keyword, "password") ? &service->password :
		same(option->keyword, "dbname") ? &service->dbname :
		same(option->keyword, "sslmode") ? &service->sslmode : NULL;

		if (field && option->val && *option->val)
			*field = pstrdup(option->val);
	}
	PQconninfoFree(options);
	PQfreemem(error);
}

RctlAivenService *
rctl_aiven_read_service(const RctlJson *json)
{
	RctlAivenService *service = palloc0(sizeof(RctlAivenService));
	const RctlJson *tags = rctl_json_key(json, "tags");

	service->name = text_of(json, "service_name", "");
	service->type = text_of(json, "service_type", "");
	service->state = text_of(json, "state", "");
	service->plan = text_of(json, "plan", "");
	service->cloud = text_of(json, "cloud_name", "");
	service->create_time = text_of(json, "create_time", NULL);
	service->termination_protection = rctl_json_bool(json, "termination_protection", false);
	if (!rctl_json_int64(json, "disk_space_mb", &service->disk_space_mb))
		service->disk_space_mb = 0;
	service->backups = rctl_json_array_length(json, "backups");
	service->backups_known = service->backups >= 0;
	service->tags_known = rctl_json_is_object(tags);
	service->mark = rctl_json_text(tags, RCTL_AIVEN_MARK);
	service->activity = service->state;
	read_integrations(service, json);
	read_nodes(service, json);
	read_connection(service, json);
	return service;
}

RctlAivenService *
rctl_aiven_service(const RctlAiven *aiven, const char *name, bool secrets)
{
	char	   *path = rctl_aiven_path(aiven, "service", name, NULL);
	RctlAivenAnswer *answer;

	if (secrets)
		path = psprintf("%s?include_secrets=true", path);
	answer = rctl_aiven_ask(aiven, "GET", path, NULL, "ServiceGet");
	for (int more = 0; aiven->patient && more < MISSING_TIMES && rctl_aiven_missing(answer); more++)
	{
		rctl_sleep(MISSING_PAUSE_MS);
		answer = rctl_aiven_ask(aiven, "GET", path, NULL, "ServiceGet");
	}
	if (rctl_aiven_missing(answer))
		return NULL;
	if (!rctl_aiven_ok(answer))
		rctl_aiven_refuse(aiven, answer, "could not look at Aiven service \"%s\"", name);
	if (!rctl_json_is_object(rctl_json_key(answer->json, "service")))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("Aiven's answer about service \"%s\" holds no service", name),
				 errhint("See what endpoint server \"%s\" has.", aiven->server)));
	return rctl_aiven_read_service(rctl_json_key(answer->json, "service"));
}

RctlAivenService *
rctl_aiven_own_service(const RctlAiven *aiven, bool secrets)
{
	const RctlReplica *replica = aiven->op->replica;
	const char *name = rctl_map_get(replica->facts, "service_name");
	RctlAivenService *service = name ? rctl_aiven_service(aiven, name, secrets) : NULL;

	if (service == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replica \"%s\" has no Aiven service", replica->name),
				 name ? errdetail("Project \"%s\" has no service \"%s\".", aiven->project, name) :
				 errdetail("It was never made."),
				 errhint("Remove the replica with SELECT replica_detach(%s), and make a new one.",
						 quote_literal_cstr(replica->name))));
	return service;
}

bool
rctl_aiven_running(const RctlAivenService *service)
{
	return strcmp(service->state, "RUNNING") == 0;
}

void
rctl_aiven_note_service(RctlReplica *replica, const RctlAivenService *service)
{
	RctlMap    *facts = replica->facts;

	rctl_map_set(facts, "service_name", service->name);
	if (service->integration_id)
		rctl_map_set(facts, "integration_id", service->integration_id);
	if (service->integration_source)
		rctl_map_set(facts, "source_service", service->integration_source);
	if (service->create_time)
		rctl_map_set(facts, "create_time", service->create_time);
	rctl_map_set(facts, "plan", service->plan);
	rctl_map_set(facts, "cloud", service->cloud);
	if (service->host)
	{
		rctl_map_set(facts, "host", service->host);
		rctl_map_set(facts, "port", service->port);
		rctl_map_set(facts, "dbname", service->dbname);
		rctl_map_set(facts, "user", service->user);
		rctl_map_set(facts, "sslmode", service->sslmode);
	}
}

void
rctl_aiven_show_progress(RctlOp *op, const RctlAivenService *service)
{
	rctl_op_progress(op, service->activity, service->done, service->total);
}

MemoryContext
rctl_aiven_look(MemoryContext look)
{
	if (look == NULL)
		look = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl look", ALLOCSET_DEFAULT_SIZES);
	else
		MemoryContextReset(look);
	MemoryContextSwitchTo(look);
	return look;
}

void
rctl_aiven_pause(TimestampTz since)
{
	long		passed = TimestampDifferenceMilliseconds(since, GetCurrentTimestamp());

	rctl_sleep(Max(POLL_FIRST_MS, Min(passed / POLL_PART, POLL_LAST_MS)));
}
