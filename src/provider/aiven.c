/*-------------------------------------------------------------------------
 *
 * aiven.c
 *	  The provider "aiven": read replicas that are services of Aiven.
 *
 * Options of servers and user mappings, what replica_explain says about the
 * calls, and the provider's struct; see aiven.h for the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "provider/aiven.h"
#include "provider/providers.h"
#include "provider/watch.h"

static const RctlOptionDef server_options[] = {
	{"ca_file", RCTL_OPTION_PATH, "PEM file of the authorities that the endpoint's certificate is verified by, default the system's"},
	{"endpoint", RCTL_OPTION_TEXT, "URL of the API, https or a loopback address, default https://api.aiven.io"},
	RCTL_WATCH_INTERVAL_OPTION,
	{"project", RCTL_OPTION_TEXT, "name of the project"},
	{"source", RCTL_OPTION_TEXT, "name of the service that the replicas follow"},
	RCTL_SOURCE_SERVER_OPTIONS,
	{NULL}
};

static const RctlOptionDef mapping_options[] = {
	{"password", RCTL_OPTION_TEXT, "password for SQL on the replicas, default the one that Aiven tells"},
	RCTL_SOURCE_MAPPING_OPTIONS,
	{"token", RCTL_OPTION_TEXT, "token of Aiven's API"},
	{"token_env", RCTL_OPTION_TEXT, "environment variable of this server's processes that holds the token",
	.privileged = true},
	{"token_file", RCTL_OPTION_PATH, "file on this server that holds the token", .privileged = true},
	{"user", RCTL_OPTION_TEXT, "role for SQL on the replicas, default the one that Aiven tells"},
	{NULL}
};

static char *
describe(const char *method, const RctlMap *server_options, const char *tail)
{
	return psprintf("%s /v1/project/%s%s", method, rctl_http_encode(rctl_map_get_default(server_options, "project", "")), tail);
}

/* The calls that a step makes, as far as they are known before. */
static char *
describe_step(RctlOp *op, const char *step)
{
	const RctlMap *server = op->server_options;
	const RctlMap *facts = op->replica->facts;
	const char *name = rctl_map_get(facts, "service_name");
	char	   *service = psprintf("/service/%s", name ? name : "NAME");
	char	   *integration = psprintf("/integration/%s", rctl_map_get_default(facts, "integration_id", "ID"));

	if (strcmp(step, "service") == 0 && op->kind == RCTL_OP_CREATE)
	{
		RctlAiven	aiven = {.source = rctl_map_get_default(server, "source", "")};

		return psprintf("%s %s", describe("POST", server, "/service"), rctl_aiven_create_body(&aiven, op->replica));
	}
	if (strcmp(step, "build") == 0 || strcmp(step, "settle") == 0 || strcmp(step, "inspect") == 0 ||
		strcmp(step, "examine") == 0 || strcmp(step, "run") == 0)
		return describe("GET", server, service);
	if (strcmp(step, "verify") == 0)
		return describe("GET", server, psprintf("%s?include_secrets=true", service));
	if (strcmp(step, "promote") == 0)
		return psprintf("%s, then %s until the integration is gone", describe("DELETE", server, integration),
						describe("GET", server, service));
	if (strcmp(step, "delete") == 0)
		return psprintf("%s, then %s until it is gone", describe("DELETE", server, service), describe("GET", server, service));
	if (strcmp(step, "power") == 0)
		return psprintf("%s {\"powered\": true}, if it is off", describe("PUT", server, service));
	if (strcmp(step, "update") == 0)
		return describe("PUT", server, service);
	if (strcmp(step, "tags") == 0)
		return describe("PUT", server, psprintf("%s/tags", service));
	return NULL;
}

const RctlProvider rctl_provider_aiven = {
	.name = "aiven",
	.wrapper = "replica_aiven",
	.server_options = server_options,
	.mapping_options = mapping_options,
	.create_options = rctl_aiven_create_options,
	.attach_options = rctl_aiven_attach_options,
	.check_server = rctl_aiven_check_server,
	.check_options = rctl_aiven_check_options,
	.create_checks = rctl_aiven_create_checks,
	.drop_checks = rctl_aiven_drop_checks,
	.create = rctl_aiven_create_steps,
	.attach = rctl_aiven_attach_steps,
	.drop = rctl_aiven_drop_steps,
	.repair = rctl_aiven_repair_steps,
	.cleanup = rctl_aiven_cleanup,
	.connect = rctl_aiven_connect,
	.conninfo = rctl_aiven_conninfo,
	.answered = rctl_aiven_answered,
	.managed = &rctl_aiven_managed,
	.describe_step = describe_step,
	.watch = rctl_aiven_watch,
	.change = rctl_aiven_change_steps,
	.change_options = rctl_aiven_change_options,
};
