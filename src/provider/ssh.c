/*-------------------------------------------------------------------------
 *
 * ssh.c
 *	  The provider "ssh": replicas on other hosts, which are reached by ssh.
 *
 * Options, plans and the provider's struct; the steps are those of any
 * physical standby (standby.h) on a host that is reached by ssh (host_ssh.c).
 * What is asked of another machine only, before a copy is made, is in
 * ssh_check.c.
 *
 * What needs the host's files and processes goes by ssh.  What needs the
 * replica's server (promotion, monitoring, a new source) goes by libpq, and
 * works while ssh does not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "net/pgconn.h"
#include "provider/host_ssh.h"
#include "provider/providers.h"
#include "provider/ssh_check.h"
#include "provider/ssh_quote.h"
#include "provider/ssh_session.h"
#include "provider/standby.h"

/* A copy takes nearly all of the time, and the only one that grows with the data. */
#define COPY_WEIGHT 50

/* How long a replica that may run is asked before ssh starts it. */
#define ASK_FIRST_MS 5000

static const char *const sslmode_choices[] = {
	"disable", "allow", "prefer", "require", "verify-ca", "verify-full", NULL
};

static const RctlOptionDef server_options[] = {
	{"address", RCTL_OPTION_TEXT, "where servers on the host are reached by this server and by clients, default host"},
	{"bindir", RCTL_OPTION_PATH, "directory of PostgreSQL's programs there, default found by looking"},
	{"directory", RCTL_OPTION_PATH, "where replicas are made there, default replicas in the user's home directory"},
	{"home_server", RCTL_OPTION_TEXT, "server of replica_ssh by which the host reaches this one, for the time after a switchover, default none"},
	{"host", RCTL_OPTION_TEXT, "name or address that ssh connects to, or an alias in its configuration"},
	{"identity_file", RCTL_OPTION_PATH, "private key, default what ssh's configuration says"},
	{"known_hosts_file", RCTL_OPTION_PATH, "the only file with host keys that are believed, default what ssh's configuration says"},
	{"port", RCTL_OPTION_INTEGER, "port of sshd, default what ssh's configuration says", 1, 65535},
	{"source_host", RCTL_OPTION_TEXT, "address by which the host reaches this server, default where its sshd sees us come from"},
	{"ssh_config", RCTL_OPTION_PATH, "configuration file of ssh, default that of the user and of the system"},
	{"sslcert", RCTL_OPTION_PATH, "client certificate for connections between the servers, at the same path on both sides"},
	{"sslkey", RCTL_OPTION_PATH, "its private key, likewise"},
	{"sslmode", RCTL_OPTION_CHOICE, "of connections between the servers, as in libpq, default prefer",
	.choices = sslmode_choices},
	{"sslrootcert", RCTL_OPTION_PATH, "certificates that the servers' are checked by, at the same path on both sides"},
	{"start_command", RCTL_OPTION_TEXT, "program with arguments that starts a replica there, in place of its postgres; %d is the data directory, %n the replica's name, %p its port"},
	{"stop_command", RCTL_OPTION_TEXT, "the same for stopping one, in place of pg_ctl"},
	{"user", RCTL_OPTION_TEXT, "user there, who will own the replicas, default what ssh's configuration says"},
	{NULL}
};

static const RctlOptionDef mapping_options[] = {
	{"user", RCTL_OPTION_TEXT, "role to log in with, for replication and for promotion, default found by trying"},
	{"password", RCTL_OPTION_TEXT, "its password"},
	{"passfile", RCTL_OPTION_PATH, "password file of libpq to use instead of a password, at the same path on both sides"},
	{NULL}
};

static const char *const checkpoint_choices[] = {"fast", "spread", NULL};

static const RctlOptionDef create_options[] = {
	{"apply_delay", RCTL_OPTION_INTERVAL, "how long it waits before it applies a commit, default 0"},
	{"checkpoint", RCTL_OPTION_CHOICE, "fast or spread: the checkpoint that the copy begins with, default fast",
	.choices = checkpoint_choices},
	{"data_directory", RCTL_OPTION_PATH, "its data directory there, missing or empty, default one named like the replica in the server's directory"},
	{"listen_addresses", RCTL_OPTION_TEXT, "where it listens, default *"},
	{"max_rate", RCTL_OPTION_INTEGER, "limit of the copy in kB per second, default none", 32, 1048576},
	{"port", RCTL_OPTION_INTEGER, "its port, default that of this server or the first free one after it", 1, 65535},
	{"settings", RCTL_OPTION_OBJECT, "object of settings for its postgresql.conf, default none"},
	{"synchronous", RCTL_OPTION_BOOL, "whether commits wait for it (synchronous_standby_names), default false"},
	{"tablespace_mapping", RCTL_OPTION_OBJECT, "object from directories of tablespaces here to directories there, default directories next to its data directory"},
	{"upstream", RCTL_OPTION_TEXT, "replica that it is copied from and follows, default this server"},
	{NULL}
};

static const RctlOptionDef attach_options[] = {
	{"data_directory", RCTL_OPTION_PATH, "data directory of the standby there, which runs; default found by port"},
	{"host", RCTL_OPTION_TEXT, "address of the standby, default the server's address"},
	{"port", RCTL_OPTION_INTEGER, "port of the standby, default found by data_directory", 1, 65535},
	{"slot", RCTL_OPTION_TEXT, "replication slot for it if it uses none yet, default a new one"},
	{"upstream", RCTL_OPTION_TEXT, "replica that it follows, default this server"},
	{NULL}
};

/* Checks that come after a failed one, "ssh", are told so. */
static RctlHost *
ssh_host(RctlOp *op)
{
	if (op->dry_run && op->kind == RCTL_OP_CREATE)
		rctl_ssh_require_host(op);
	return rctl_host_ssh(op, op->server_options, op->replica);
}

static const RctlStep create_checks[] = {
	{"ssh", rctl_ssh_check_host, "the host is reached by ssh and runs our commands"},
	{"upstream", rctl_standby_check_upstream, "the server that it follows is there"},
	{"programs", rctl_ssh_check_programs, "PostgreSQL's programs are installed there"},
	{"version", rctl_ssh_check_version, "they are of this server's version"},
	{"platform", rctl_ssh_check_platform, "processor, locales and collations there are those of this host"},
	{"libraries", rctl_ssh_check_libraries, "the libraries of this server's extensions are there"},
	{"files", rctl_ssh_check_files, "files that this server's settings name are there"},
	{"clock", rctl_ssh_check_clock, "the clocks agree"},
	{"directory", rctl_standby_check_place, "its data directory can be made"},
	{"tablespaces", rctl_standby_check_tablespaces, "directories for its tablespaces can be made"},
	{"source", rctl_standby_check_source, "the server that it follows has the wal_level, walsenders and slots for it"},
	{"disk", rctl_standby_check_space, "there is room for a copy"},
	{"replication login", rctl_standby_check_login, "the host can log in to the server that it follows, and a copy will let this server in"},
	{"port", rctl_standby_check_port, "there is a free port for it"},
	{"way there", rctl_ssh_check_way, "this server reaches that port"},
	{NULL}
};

static void
ssh_attach_inspect(RctlOp *op)
{
	rctl_op_progress(op, "connecting by ssh", 0, 0);
	rctl_ssh_check_host(op);
	rctl_standby_attach_inspect(op);
}

/* The host may have been set up anew, and this server may be another one since a switchover. */
static void
ssh_repair_examine(RctlOp *op)
{
	rctl_op_progress(op, "connecting by ssh", 0, 0);
	if (rctl_map_get(op->replica->facts, "data_directory"))
	{
		rctl_ssh_check_host(op);
		rctl_standby_set_endpoint(op->replica->facts);
	}
	rctl_standby_repair_examine(op);
}

static const RctlStep create_steps[] = {
	{"preflight", rctl_standby_preflight, "choose directory, port and names, and check that nothing is in the way"},
	{"slot", rctl_standby_slot, "make the replication slot, so that no WAL is lost from here on"},
	{"copy", rctl_standby_copy, "copy the data directory with pg_basebackup, which runs on the host", .weight = COPY_WEIGHT},
	{"configure", rctl_standby_configure, "write the replica's configuration"},
	{"start", rctl_standby_start, "start the replica's server"},
	{"catch_up", rctl_standby_catch_up, "wait until it streams"},
	{NULL}
};

static const RctlStep attach_steps[] = {
	{"inspect", ssh_attach_inspect, "log in to the standby and check that it follows this server"},
	{"slot", rctl_standby_attach_slot, "find its replication slot or make one"},
	{"catch_up", rctl_standby_catch_up, "wait until it streams"},
	{NULL}
};

static const RctlStep repair_steps[] = {
	{"examine", ssh_repair_examine, "look at what is wrong"},
	{"slot", rctl_standby_repair_slot, "make its replication slot again if it is gone"},
	{"start", rctl_standby_repair_start, "start it if it does not run"},
	{"probe", rctl_standby_repair_probe, "see whether it streams, and if not whether it ever can"},
	{"aside", rctl_standby_repair_aside, "if a new copy is needed: move the old one aside"},
	{"copy", rctl_standby_repair_copy, "if a new copy is needed: make it", .weight = COPY_WEIGHT},
	{"configure", rctl_standby_repair_configure, "if a new copy is needed: write its configuration"},
	{"restart", rctl_standby_repair_restart, "if a new copy is needed: start it"},
	{"catch_up", rctl_standby_catch_up, "wait until it streams"},
	{"discard", rctl_standby_repair_discard, "if there was a new copy: delete the old one", .point_of_no_return = true},
	{NULL}
};

static void
ssh_check_options(RctlOpKind kind, const char *replica,
				  const RctlMap *server, const RctlMap *options)
{
	static const char *const commands[] = {"start_command", "stop_command"};

	rctl_ssh_check_options(server);
	for (int i = 0; i < lengthof(commands); i++)
	{
		if (rctl_map_get(server, commands[i]))
			rctl_ssh_words(commands[i], rctl_map_get(server, commands[i]));
	}
	rctl_standby_check_options(rctl_host_ssh(NULL, server, NULL), kind, replica, server, options);
}

static void
ssh_start_server(RctlOp *op, RctlReplica *replica)
{
	char	   *reason;
	PGconn	   *conn = rctl_standby_try_connect(op, replica, ASK_FIRST_MS, &reason);

	if (conn)
		rctl_pg_close(conn);
	else
		rctl_standby_start_server(op, replica);
}

/*
 * The login to the new source is tried from here, so that no ssh is needed
 * when a primary is replaced; whether the replica gets there is seen by its
 * streaming.
 */
static void
ssh_follow(RctlOp *op, RctlReplica *replica, RctlReplica *upstream)
{
	RctlHost   *host = rctl_host_ssh(op, rctl_map_make(), replica);

	host->identify = NULL;
	rctl_standby_follow(op, host, replica, upstream);
}

/* What the new primary must know of this server: where it is, and by which server it gets at its files. */
static void
ssh_rejoin(RctlOp *op, RctlReplica *primary, RctlReplica *self, const char *pass_file, RctlRejoin *rejoin)
{
	static const char *const shared[] = {"sslmode", "sslrootcert", "sslcert", "sslkey"};
	const char *home = rctl_map_get(op->server_options, "home_server");
	RctlMap    *facts = self->facts;

	for (int i = 0; i < lengthof(shared); i++)
		rctl_map_set(facts, shared[i], rctl_map_get(primary->facts, shared[i]));
	rctl_standby_rejoin(op, rctl_host_local(op, rctl_map_make()), primary, self, pass_file, rejoin);
	rctl_map_set(facts, "address", rctl_map_get(primary->facts, "source_address"));
	rctl_map_set(facts, "source_address", rctl_map_get(primary->facts, "address"));
	rctl_standby_set_endpoint(facts);

	/*
	 * The server of the replica is the host that the new primary runs on.
	 * Paths of this host must not be looked for there.
	 */
	if (home)
		rctl_map_set(facts, "home_server", home);
	else
		rctl_map_set(facts, "data_directory", NULL);
}

const RctlProvider rctl_provider_ssh = {
	.name = "ssh",
	.wrapper = "replica_ssh",
	.runs_programs = true,
	.server_options = server_options,
	.mapping_options = mapping_options,
	.create_options = create_options,
	.attach_options = attach_options,
	.check_options = ssh_check_options,
	.host = ssh_host,
	.create_checks = create_checks,
	.drop_checks = rctl_standby_drop_checks,
	.create = create_steps,
	.attach = attach_steps,
	.drop = rctl_standby_drop_steps,
	.repair = repair_steps,
	.cleanup = rctl_standby_cleanup,
	.start = ssh_start_server,
	.release = rctl_standby_release,
	.connect = rctl_standby_connect,
	.conninfo = rctl_standby_conninfo,
	.follow = ssh_follow,
	.rejoin = ssh_rejoin,
};
