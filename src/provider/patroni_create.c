/*-------------------------------------------------------------------------
 *
 * patroni_create.c
 *	  Makes and removes a member of a Patroni cluster, through ssh.
 *
 * Patroni has no call that makes a member: one appears when Patroni is started
 * on a host with a configuration that names the cluster.  That file holds the
 * secrets of the cluster and the habits of the site, so that it is the
 * user's; what is done here is to see that it fits, to start Patroni, and to
 * wait until it has copied the leader.  Only what the file's data_dir names,
 * missing or empty before, is ever removed, after Patroni has been stopped.
 *
 * Facts of such a replica, besides those of any member: ssh_server,
 * config_file, data_dir, data_dir_existed.  They say where the record of what
 * was made is to be undone, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "net/wait.h"
#include "net/yaml.h"
#include "provider/host_ssh.h"
#include "provider/patroni.h"

#define NOT_READY ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE

/* Where Debian's service looks for it. */
#define DEFAULT_CONFIG_FILE "/etc/patroni/config.yml"
#define CONFIG_BYTES (256 * 1024)

#define LOOK_AGAIN_MS 500

/* Patroni is in the cluster a moment after it is started, or it has failed. */
#define JOIN_MS 60000
#define STOP_MS 60000

#define MEMBER_RECORD "member"

static const char *const record_facts[] = {"ssh_server", "data_dir", "data_dir_existed"};

void
rctl_patroni_check_create(const char *replica, const RctlMap *options)
{
	if (rctl_map_get(options, "ssh_server") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("provider \"patroni\" cannot create a replica without a way to its host"),
				 errdetail("Patroni has no call for it: on the new host, install Patroni and the same major version of PostgreSQL,"
						   " and write a patroni.yml with the cluster's scope and DCS and a name of its own."),
				 errhint("Then start Patroni there (systemctl start patroni): it copies the leader and joins, and SELECT replica_attach(%s, server) adds it."
						 " Or name a server of wrapper replica_ssh that reaches the host in option ssh_server, and replica_create does that.",
						 quote_literal_cstr(replica))));
	if (!has_privs_of_role(GetUserId(), ROLE_PG_EXECUTE_SERVER_PROGRAM))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to run programs for server \"%s\"", rctl_map_get(options, "ssh_server")),
				 errhint("GRANT pg_execute_server_program TO %s.",
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

/*
 * The host of a member.  What is found out about it is about PostgreSQL's
 * programs there, and not kept: Patroni decides which ones it runs.
 */
static RctlHost *
member_host(RctlOp *op, const char *ssh_server)
{
	RctlReplica *there = palloc(sizeof(RctlReplica));

	*there = *op->replica;
	there->facts = rctl_map_make();
	there->options = rctl_map_make();
	return rctl_host_ssh(op, rctl_op_server_options(op, "replica_ssh", ssh_server), there);
}

static RctlHost *
own_host(RctlOp *op)
{
	return member_host(op, rctl_map_get_default(op->replica->facts, "ssh_server",
												rctl_map_get_default(op->replica->options, "ssh_server", "")));
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

/* A member that was stopped stays in the list until ttl. */
static bool
is_there(const RctlPatroniMember *member)
{
	return member && strcmp(member->state, "stopped") != 0;
}

static void
check_cluster(RctlOp *op)
{
	RctlPatroniCluster *cluster = rctl_patroni_cluster(op);
	const char *name = rctl_patroni_member_name(op);

	rctl_patroni_reserve(op, name);
	if (is_there(rctl_patroni_member(cluster, name)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("the Patroni cluster has a member \"%s\" already", name),
				 errhint("Take it over with SELECT replica_attach(%s, %s), or choose another name in its patroni.yml.",
						 quote_literal_cstr(op->replica->name), quote_literal_cstr(op->replica->server))));
	if (cluster->leader == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the Patroni cluster has no leader"),
				 errdetail("There is nothing that a new member could copy."),
				 errhint("Patroni elects one by itself, unless it is paused.")));
}

static void
check_host(RctlOp *op)
{
	RctlMap    *facts = op->replica->facts;
	RctlMap    *found = rctl_map_make();

	rctl_map_set(facts, "ssh_server", NULL);
	rctl_host_ssh_look(own_host(op), found);
	rctl_map_set(op->state, "bin_dir", rctl_map_get(found, "bindir"));
	rctl_map_set(facts, "ssh_server", rctl_map_get(op->replica->options, "ssh_server"));
}

/* Later checks depend on earlier ones, and are told so in a dry run. */
static void
require(RctlOp *op, const char *fact, const char *check)
{
	if (rctl_map_get(op->replica->facts, fact) == NULL)
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("not checked, as an earlier check has failed"),
				 errhint("See the check \"%s\".", check)));
}

/* The file has passwords: nothing of it but these values is ever shown. */
static void
check_configuration(RctlOp *op)
{
	RctlMap    *facts = op->replica->facts;
	const char *file = rctl_map_get_default(op->replica->options, "config_file", DEFAULT_CONFIG_FILE);
	const char *scope = rctl_map_get(op->server_options, "scope");
	RctlHost   *host;
	char	   *text;
	const RctlJson *json;
	char	   *json_text;
	char	   *problem;
	char	   *name;
	char	   *their_scope;
	char	   *data_dir;

	rctl_map_set(facts, "data_dir", NULL);
	require(op, "ssh_server", "ssh");
	host = own_host(op);
	text = host->read_file(host, file, CONFIG_BYTES);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("there is no file \"%s\" on %s", file, host->name),
				 errhint("Install Patroni there and write its configuration, or name it in option config_file.")));
	json_text = rctl_yaml_to_json(text, strlen(text), psprintf("file \"%s\" on %s", file, host->name));
	json = rctl_json_parse(json_text, strlen(json_text), &problem);
	name = json ? rctl_json_text(json, "name") : NULL;
	their_scope = json ? rctl_json_text(json, "scope") : NULL;
	data_dir = json ? rctl_json_text(json, "postgresql/data_dir") : NULL;
	if (scope == NULL)
		scope = rctl_patroni_cluster(op)->scope;
	if (name == NULL || strcmp(name, rctl_patroni_member_name(op)) != 0)
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("\"%s\" on %s is not the configuration of member \"%s\"", file, host->name, rctl_patroni_member_name(op)),
				 name ? errdetail("Its name is \"%s\".", name) : errdetail("It has no name."),
				 errhint("Correct the file, or name the member in option member.")));
	if (their_scope == NULL || (scope && strcmp(their_scope, scope) != 0))
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("\"%s\" on %s is of another cluster", file, host->name),
				 errdetail("Its scope is \"%s\", that of the cluster is \"%s\".", their_scope ? their_scope : "", scope ? scope : "?"),
				 errhint("Correct the file.")));
	if (data_dir == NULL || data_dir[0] != '/')
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("\"%s\" on %s has no absolute path in postgresql.data_dir", file, host->name),
				 errhint("Correct the file.")));
	rctl_map_set(facts, "config_file", file);
	rctl_map_set(facts, "data_dir", data_dir);
	if (rctl_json_text(json, "postgresql/bin_dir"))
		rctl_map_set(op->state, "bin_dir", rctl_json_text(json, "postgresql/bin_dir"));
}

static void
check_version(RctlOp *op)
{
	RctlHost   *host;
	RctlHttpResponse *response;
	const RctlJson *json;
	const char *theirs;
	char	   *problem;
	int64		ours = 0;

	require(op, "data_dir", "configuration");
	host = own_host(op);
	host->bindir = rctl_map_get(op->state, "bin_dir");
	theirs = strstr(rctl_host_ssh_version(host, "postgres"), "(PostgreSQL) ");
	response = rctl_patroni_get(op, "/patroni");
	json = rctl_json_parse(response->body, response->body_length, &problem);
	if (json == NULL || !rctl_json_int64(json, "server_version", &ours) || theirs == NULL)
		return;
	theirs += strlen("(PostgreSQL) ");
	if (strtol(theirs, NULL, 10) != ours / 10000)
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("PostgreSQL on %s has another major version than the cluster", host->name),
				 errdetail("It is %s, the cluster has %d.", pnstrdup(theirs, strcspn(theirs, " \n")), (int) (ours / 10000)),
				 errhint("Install postgresql-%d there, and set postgresql.bin_dir in the configuration of Patroni.", (int) (ours / 10000))));
}

static void
check_directory(RctlOp *op)
{
	RctlMap    *facts = op->replica->facts;
	const char *directory = rctl_map_get(facts, "data_dir");
	RctlHost   *host;
	RctlPathInfo info;

	require(op, "data_dir", "configuration");
	host = own_host(op);
	host->inspect(host, directory, &info);
	if (info.kind != RCTL_PATH_MISSING && (info.kind != RCTL_PATH_DIRECTORY || !info.empty))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_FILE),
				 errmsg("\"%s\" on %s is not empty", directory, host->name),
				 errdetail("It is Patroni's data_dir for the new member."),
				 errhint("If it is a member's, start Patroni there and attach it; else empty it, or change data_dir.")));
	if (info.kind == RCTL_PATH_DIRECTORY && !info.owned)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"%s\" on %s belongs to another user", directory, host->name),
				 errhint("Have ssh log in as the user who runs Patroni, by option user of server %s.",
						 quote_identifier(rctl_map_get_default(facts, "ssh_server", "")))));
	rctl_map_set(facts, "data_dir_existed", info.kind == RCTL_PATH_DIRECTORY ? "true" : NULL);
}

const RctlStep rctl_patroni_create_checks[] = {
	{"cluster", check_cluster, "the cluster has a leader, and no member of that name"},
	{"ssh", check_host, "the host is reached by ssh and runs our commands"},
	{"configuration", check_configuration, "Patroni's configuration there is the new member's, in this cluster"},
	{"version", check_version, "PostgreSQL there has the cluster's major version"},
	{"data directory", check_directory, "Patroni's data_dir there is missing or empty"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Create
 * ---------------------------------------------------------------------
 */

static void
preflight(RctlOp *op)
{
	for (const RctlStep *check = rctl_patroni_create_checks; check->name; check++)
		check->run(op);
}

static void
stay_alive(void *arg)
{
	rctl_op_alive(arg);
}

/* Runs the server's start_command or stop_command, by default for the service. */
static void
run_command(RctlOp *op, RctlHost *host, const char *option, const char *otherwise, const char *data_dir)
{
	RctlProcessResult *result = rctl_host_ssh_command(host, option, otherwise, data_dir, stay_alive, op);

	if (!result->exited || result->exit_code != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("%s %s on %s", option, rctl_process_describe(result), host->name),
				 errdetail("It said: %s", rctl_last_lines(psprintf("%s%s", result->output, result->errors), 10)),
				 errhint("Without option %s of the server it is \"%s\".", option, otherwise)));
}

/* A second start, after a crash in between, is harmless for a service manager. */
static void
start_member(RctlOp *op)
{
	RctlMap    *facts = op->replica->facts;
	RctlMap    *object = rctl_map_make();
	const char *data_dir = rctl_map_get(facts, "data_dir");
	RctlHost   *host;

	if (is_there(rctl_patroni_member(rctl_patroni_cluster(op), rctl_patroni_member_name(op))))
		return;
	for (int i = 0; i < lengthof(record_facts); i++)
		rctl_map_set(object, record_facts[i], rctl_map_get(facts, record_facts[i]));
	rctl_op_cleanup_add(op, MEMBER_RECORD, object, false);
	host = own_host(op);
	/* PostgreSQL would refuse to start in it otherwise, when all is copied. */
	if (rctl_map_get(facts, "data_dir_existed"))
		host->set_mode(host, data_dir, 0700);
	rctl_op_progress(op, "starting Patroni", 0, 0);
	run_command(op, host, "start_command", "systemctl start patroni", data_dir);
}

static void
join(RctlOp *op)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), JOIN_MS);

	rctl_op_progress(op, "waiting until it has joined the cluster", 0, 0);
	while (!is_there(rctl_patroni_member(rctl_patroni_cluster(op), rctl_patroni_member_name(op))))
	{
		if (GetCurrentTimestamp() > until)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("member \"%s\" has not joined the Patroni cluster within %d seconds",
							rctl_patroni_member_name(op), JOIN_MS / 1000),
					 errdetail("Patroni was started on its host."),
					 errhint("Its log there says why: \"journalctl -u patroni\".")));
		rctl_op_alive(op);
		rctl_sleep(LOOK_AGAIN_MS);
	}
}

static void
settle(RctlOp *op)
{
	rctl_patroni_catch_up(op);
	rctl_patroni_note_member(op, rctl_patroni_cluster(op));
}

const RctlStep rctl_patroni_create_steps[] = {
	{"preflight", preflight, "look at the cluster, the host and its configuration"},
	{"start", start_member, "start Patroni there"},
	{"join", join, "wait until the member has joined the cluster"},
	{"catch_up", settle, "wait until Patroni has copied the leader and the member has caught up", .weight = 50},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Drop and undo
 * ---------------------------------------------------------------------
 */

/* That it is stopped or gone already is fine. */
static void
remove_member(RctlOp *op, const RctlMap *object)
{
	RctlHost   *host = member_host(op, rctl_map_get(object, "ssh_server"));
	const char *data_dir = rctl_map_get(object, "data_dir");
	TimestampTz until;

	rctl_op_progress(op, "stopping Patroni", 0, 0);
	run_command(op, host, "stop_command", "systemctl stop patroni", data_dir);
	until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), STOP_MS);
	while (host->server_pid(host, data_dir) != 0)
	{
		if (GetCurrentTimestamp() > until)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("the server in \"%s\" on %s still runs after its Patroni was stopped", data_dir, host->name),
					 errhint("Stop it there with pg_ctl; the option stop_command of the server must stop Patroni.")));
		rctl_sleep(LOOK_AGAIN_MS);
	}
	rctl_op_progress(op, "removing its data", 0, 0);
	host->remove_tree(host, data_dir, rctl_map_get(object, "data_dir_existed") != NULL);
}

void
rctl_patroni_cleanup(RctlOp *op, const RctlCleanup *record)
{
	if (strcmp(record->type, MEMBER_RECORD) != 0)
		elog(ERROR, "unknown cleanup record \"%s\"", record->type);
	remove_member(op, record->object);
}

static void
drop_check(RctlOp *op)
{
	RctlMap    *facts = op->replica->facts;
	const char *name = rctl_patroni_member_name(op);
	RctlPatroniMember *member;

	if (rctl_map_get(facts, "ssh_server") == NULL || rctl_map_get(facts, "data_dir") == NULL)
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("member \"%s\" was not made by replica_create", name),
				 errdetail("Patroni has no call that removes a member."),
				 errhint("Stop Patroni on its host, and forget it with SELECT replica_detach(%s).",
						 quote_literal_cstr(op->replica->name))));
	member = rctl_patroni_member(rctl_patroni_cluster(op), name);
	if (member && rctl_patroni_is_leader(member))
		ereport(ERROR,
				(errcode(NOT_READY),
				 errmsg("member \"%s\" is the leader of the Patroni cluster", name),
				 errhint("Switch over to another member first; or forget it with SELECT replica_detach(%s).",
						 quote_literal_cstr(op->replica->name))));
}

static void
drop_member(RctlOp *op)
{
	remove_member(op, op->replica->facts);
}

const RctlStep rctl_patroni_drop_checks[] = {
	{"member", drop_check, "it was made here, and does not lead the cluster"},
	{NULL}
};

const RctlStep rctl_patroni_drop_steps[] = {
	{"check", drop_check, "check that it was made here, and does not lead the cluster"},
	{"remove", drop_member, "stop Patroni there, and delete its data", .point_of_no_return = true},
	{NULL}
};
