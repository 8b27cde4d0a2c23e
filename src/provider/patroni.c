/*-------------------------------------------------------------------------
 *
 * patroni.c
 *	  Provider replica_patroni: the members of a cluster that Patroni runs.
 *
 * A member appears when somebody starts Patroni on a host; there is no call
 * that makes one, nor one that removes one.  So members are attached and
 * detached, or made and removed through ssh (patroni_create.c), and what
 * Patroni does with them by itself is watched.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/patroni.h"
#include "provider/providers.h"
#include "provider/watch.h"
#include "settings.h"

#define LOOK_AGAIN_MS 500
#define REINITIALIZE_CALL_MS 10000

/* More lag than this is no "caught up". */
#define CAUGHT_UP_BYTES (1024 * 1024)

/* Patroni tries again and again; a person has to look when that is no use. */
#define MAX_COPIES 3

static const RctlOptionDef server_options[] = {
	{"urls", RCTL_OPTION_LIST, "URLs of the members' REST interfaces, https or loopback: \"https://db1:8008, https://db2:8008\""},
	{"ca_file", RCTL_OPTION_PATH, "PEM file with the authority of their certificates, default those of the system", .privileged = true},
	{"cert_file", RCTL_OPTION_PATH, "PEM file with a client certificate, default none", .privileged = true},
	{"key_file", RCTL_OPTION_PATH, "PEM file with its key", .privileged = true},
	{"scope", RCTL_OPTION_TEXT, "name of the cluster, checked where Patroni tells it"},
	{"dbname", RCTL_OPTION_TEXT, "database to log in to on members, default postgres"},
	{"sslmode", RCTL_OPTION_TEXT, "for logins to members, default prefer"},
	RCTL_SOURCE_SERVER_OPTIONS,
	RCTL_WATCH_INTERVAL_OPTION,
	{NULL}
};

static const RctlOptionDef mapping_options[] = {
	{"user", RCTL_OPTION_TEXT, "user of the REST interface, for calls that change something"},
	{"password", RCTL_OPTION_TEXT, "its password"},
	{"db_user", RCTL_OPTION_TEXT, "role to log in as on members; default: no logins"},
	{"db_password", RCTL_OPTION_TEXT, "its password"},
	RCTL_SOURCE_MAPPING_OPTIONS,
	{NULL}
};

static const RctlOptionDef create_options[] = {
	{"config_file", RCTL_OPTION_PATH, "configuration of Patroni on the member's host, default /etc/patroni/config.yml"},
	{"member", RCTL_OPTION_TEXT, "name of the member, as that file has it, default the replica's"},
	{"ssh_server", RCTL_OPTION_TEXT, "server of wrapper replica_ssh by which the host is reached; its start_command and stop_command start and stop Patroni there"},
	{NULL}
};

static const RctlOptionDef attach_options[] = {
	{"member", RCTL_OPTION_TEXT, "name of the member, default the replica's"},
	{NULL}
};

static void
check_server(const RctlMap *options)
{
	List	   *urls = rctl_patroni_urls(options);
	ListCell   *lc;

	if (urls == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"urls\" is missing"),
				 errhint("Name the REST interfaces of the members: OPTIONS (urls 'https://db1:8008, https://db2:8008').")));
	foreach(lc, urls)
	{
		char	   *problem = rctl_http_url_problem(lfirst(lc), false);

		if (problem)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid URL in option \"urls\": \"%s\"", (char *) lfirst(lc)),
					 errdetail("%s.", problem),
					 errhint("Such as \"https://db1.example.com:8008\".")));
	}
}

static void
check_options(RctlOpKind kind, const char *replica, const RctlMap *server_options, const RctlMap *options)
{
	if (kind == RCTL_OP_CREATE)
		rctl_patroni_check_create(replica, options);
}

/* ---------------------------------------------------------------------
 * Attach
 * ---------------------------------------------------------------------
 */

/* Where it is, anew: Patroni may have moved it. */
static void
note_place(RctlOp *op, const RctlPatroniMember *member)
{
	rctl_patroni_note_place(op->replica->facts, op->replica->server, member);
	rctl_map_set(op->replica->facts, "standby_cluster", strcmp(member->role, "standby_leader") == 0 ? "true" : NULL);
}

void
rctl_patroni_reserve(RctlOp *op, const char *member)
{
	if (!rctl_op_reserve(op, "member_of", psprintf("%s/%s", op->replica->server, member)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("member \"%s\" is attached already", member),
				 errhint("SELECT replica FROM replica_status lists the replicas.")));
}

void
rctl_patroni_note_member(RctlOp *op, const RctlPatroniCluster *cluster)
{
	RctlHttpResponse *node;
	char	   *problem;
	const RctlJson *json;

	note_place(op, rctl_patroni_own(op, cluster));
	node = rctl_patroni_get(op, "/patroni");
	json = rctl_json_parse(node->body, node->body_length, &problem);
	rctl_map_set(op->replica->facts, "system_identifier",
				 json ? rctl_json_text(json, "database_system_identifier") : NULL);
	(void) rctl_patroni_note_inside(op, cluster);
}

static void
inspect(RctlOp *op)
{
	RctlPatroniCluster *cluster = rctl_patroni_cluster(op);
	RctlPatroniMember *member = rctl_patroni_own(op, cluster);

	if (strcmp(member->role, "leader") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("member \"%s\" is the leader of the Patroni cluster", member->name),
				 errhint("Attach one of its replicas: %s.", rctl_patroni_names(cluster))));
	rctl_patroni_reserve(op, member->name);
	rctl_map_set(op->replica->facts, "adopted", "true");
	rctl_patroni_note_member(op, cluster);
}

/* ---------------------------------------------------------------------
 * Repair
 * ---------------------------------------------------------------------
 */

static bool
is_well(const RctlPatroniCluster *cluster, const RctlPatroniMember *member)
{
	return rctl_patroni_works(member) && !rctl_patroni_is_leader(member) && member->lag >= 0 &&
		member->lag <= CAUGHT_UP_BYTES && cluster->leader != NULL &&
		(member->timeline == 0 || member->timeline == cluster->leader->timeline);
}

static void
examine(RctlOp *op)
{
	RctlPatroniCluster *cluster = rctl_patroni_cluster(op);
	RctlPatroniMember *member = rctl_patroni_own(op, cluster);

	if (rctl_patroni_is_leader(member))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("member \"%s\" is the leader of the Patroni cluster", member->name),
				 errdetail("There is nothing that it could be made a copy of."),
				 errhint("Forget it with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
	if (cluster->leader == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the Patroni cluster has no leader"),
				 errhint("Patroni elects one by itself, unless it is paused.")));
	note_place(op, member);
	rctl_map_set(op->state, "well", is_well(cluster, member) ? "true" : NULL);
}

static void
reinitialize(RctlOp *op)
{
	RctlPatroniMember *member;
	RctlHttpResponse *response;

	if (rctl_map_get(op->state, "well") || rctl_map_get(op->state, "reinitialized"))
		return;
	member = rctl_patroni_own(op, rctl_patroni_cluster(op));
	if (member->api_url == NULL)
		elog(ERROR, "member \"%s\" tells no URL", member->name);
	if (strcmp(member->state, "creating replica") != 0)
	{
		response = rctl_patroni_call(op, "POST", member->api_url, "/reinitialize", "{\"force\": true}", REINITIALIZE_CALL_MS);
		if (response->status != 200)
			ereport(ERROR,
					(errcode(response->status == 0 || response->status == 503 ? ERRCODE_CONNECTION_FAILURE
							 : ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("member \"%s\" was not reinitialized", member->name),
					 errdetail("Patroni said %s.", rctl_patroni_answer(response)),
					 errhint("Its Patroni must run; user and password of the REST interface stand in the user mapping.")));
	}
	rctl_map_set(op->state, "reinitialized", "true");
	rctl_op_save(op);
}

/*
 * What Patroni shows of a copy, and of a start after it, is not how far it is,
 * and that changes to and fro when it fails again and again: only a copy that
 * goes on, and a lag that changes, count as progress.
 */
typedef struct CopyWatch
{
	bool		copying;
	int			copies;			/* that have begun */
	int64		lag;
	TimestampTz moved;
} CopyWatch;

static void
watch_copy(RctlOp *op, CopyWatch *watch, const RctlPatroniMember *member)
{
	bool		copying = member && strcmp(member->state, "creating replica") == 0;
	int64		lag = member ? member->lag : -1;
	TimestampTz now = GetCurrentTimestamp();

	if (copying && !watch->copying)
		watch->copies++;
	if (copying || lag != watch->lag)
		watch->moved = now;
	watch->copying = copying;
	watch->lag = lag;
	if (watch->copies > MAX_COPIES ||
		(rctl_progress_timeout > 0 && TimestampDifferenceExceeds(watch->moved, now, rctl_progress_timeout)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("member \"%s\" of the Patroni cluster does not come up", rctl_patroni_member_name(op)),
				 watch->copies > MAX_COPIES
				 ? errdetail("Patroni has begun to copy the leader %d times.", watch->copies)
				 : errdetail("It is %s.", member ? member->state : "not in the cluster"),
				 errhint("The logs of Patroni and PostgreSQL on its host say why.")));
	rctl_op_progress(op, member ? psprintf("%s, lag " INT64_FORMAT, member->state, lag) : "not in the cluster", 0, 0);
	rctl_op_alive(op);
}

/* After a call that makes a copy: 200 is only the start of it. */
void
rctl_patroni_catch_up(RctlOp *op)
{
	bool		seen = rctl_map_get(op->state, "reinitialized") == NULL;
	CopyWatch	watch = {.lag = -1, .moved = GetCurrentTimestamp()};

	for (int looks = 0;; looks++)
	{
		RctlPatroniCluster *cluster = rctl_patroni_cluster(op);
		RctlPatroniMember *member = rctl_patroni_member(cluster, rctl_patroni_member_name(op));

		/* Until Patroni's next look it is shown as it was before. */
		seen |= member == NULL || !is_well(cluster, member) || looks > 20;
		if (seen && member && is_well(cluster, member))
		{
			note_place(op, member);
			return;
		}
		watch_copy(op, &watch, member);
		rctl_sleep(LOOK_AGAIN_MS);
	}
}

/* ---------------------------------------------------------------------
 * Connections
 * ---------------------------------------------------------------------
 */

static char *
member_conninfo(const RctlReplica *replica, const char *dbname, const char *sslmode, const char *user, const char *password)
{
	RctlConnParam params[] = {
		{"host", rctl_map_get(replica->facts, "host")},
		{"port", rctl_map_get(replica->facts, "port")},
		{"dbname", dbname ? dbname : "postgres"},
		{"sslmode", sslmode},
		{"user", user},
		{"password", password},
		{NULL}
	};

	return rctl_conninfo(params);
}

static PGconn *
patroni_connect(RctlOp *op, RctlReplica *replica, long timeout_ms)
{
	char	   *user = rctl_op_secret(op, "db_user");
	char	   *password = rctl_op_secret(op, "db_password");

	/* Never as whom this server runs as. */
	if (user == NULL || password == NULL || rctl_map_get(replica->facts, "host") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("replica \"%s\" cannot be asked by SQL", replica->name),
				 errdetail("The user mapping does not say how to log in."),
				 errhint("Set db_user and db_password in the user mapping for server %s.",
						 quote_identifier(replica->server))));
	return rctl_pg_connect(member_conninfo(replica, rctl_map_get(op->server_options, "dbname"),
										   rctl_map_get(op->server_options, "sslmode"), user, password),
						   timeout_ms, psprintf("replica \"%s\"", replica->name));
}

static char *
patroni_conninfo(const RctlReplica *replica, const RctlMap *mapping)
{
	const char *user = mapping ? rctl_map_get(mapping, "db_user") : NULL;
	const char *password = mapping ? rctl_map_get(mapping, "db_password") : NULL;

	if (user == NULL || password == NULL || rctl_map_get(replica->facts, "host") == NULL)
		return NULL;
	return member_conninfo(replica, NULL, NULL, user, password);
}

static const RctlStep attach_steps[] = {
	{"inspect", inspect, "find the member in the cluster"},
	{NULL}
};

static const RctlStep repair_steps[] = {
	{"examine", examine, "look what the cluster says about the member"},
	{"reinitialize", reinitialize, "have Patroni make a new copy, unless it is well"},
	{"catch_up", rctl_patroni_catch_up, "wait until it has caught up"},
	{NULL}
};

const RctlProvider rctl_provider_patroni = {
	.name = "patroni",
	.wrapper = "replica_patroni",
	.server_options = server_options,
	.mapping_options = mapping_options,
	.create_options = create_options,
	.attach_options = attach_options,
	.check_server = check_server,
	.check_options = check_options,
	.create_checks = rctl_patroni_create_checks,
	.drop_checks = rctl_patroni_drop_checks,
	.create = rctl_patroni_create_steps,
	.attach = attach_steps,
	.drop = rctl_patroni_drop_steps,
	.repair = repair_steps,
	.cleanup = rctl_patroni_cleanup,
	.connect = patroni_connect,
	.conninfo = patroni_conninfo,
	.managed = &rctl_patroni_promotion,
	.describe_step = rctl_patroni_describe_step,
	.watch = rctl_patroni_watch,
};
