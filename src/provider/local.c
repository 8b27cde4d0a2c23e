/*-------------------------------------------------------------------------
 *
 * local.c
 *	  The provider "local": replicas in directories on this host.
 *
 * Options, plans and the provider's struct; the steps are those of any
 * physical standby (standby.h) on the host of this server (host_local.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/providers.h"
#include "provider/clone.h"
#include "provider/standby.h"

/* A copy takes nearly all of the time, and the only one that grows with the data. */
#define COPY_WEIGHT 50

static const RctlOptionDef server_options[] = {
	{"bindir", RCTL_OPTION_PATH, "directory of PostgreSQL's programs, default that of this server"},
	{"directory", RCTL_OPTION_PATH, "where replicas are made, default the setting replica_ctl.local_directory"},
	{NULL}
};

static const RctlOptionDef mapping_options[] = {
	{"user", RCTL_OPTION_TEXT, "role to log in with, for replication and for promotion, default found by trying"},
	{"password", RCTL_OPTION_TEXT, "its password"},
	{"passfile", RCTL_OPTION_PATH, "password file of libpq to use instead of a password"},
	{NULL}
};

static const char *const checkpoint_choices[] = {"fast", "spread", NULL};

static const char *const method_choices[] = {"basebackup", "copy", "snapshot", NULL};
static const char *const verify_choices[] = {"off", "auto", "on", "fail", NULL};

static const RctlOptionDef create_options[] = {
	{"apply_delay", RCTL_OPTION_INTERVAL, "how long it waits before it applies a commit, default 0", .fallback = "0"},
	{"checkpoint", RCTL_OPTION_CHOICE, "fast or spread: the checkpoint that the copy begins with, default fast",
	.choices = checkpoint_choices, .fallback = "fast"},
	{"data_directory", RCTL_OPTION_PATH, "its data directory, missing or empty, default one named like the replica in replica_ctl.local_directory"},
	{"jobs", RCTL_OPTION_INTEGER, "threads that copy with method copy, default as many as processors, 2 to 4", 1, 64},
	{"listen_addresses", RCTL_OPTION_TEXT, "where it listens, default as this server"},
	{"max_rate", RCTL_OPTION_INTEGER, "limit of the copy in kB per second, default none", 32, 1048576},
	{"method", RCTL_OPTION_CHOICE, "copy: read the files here; basebackup: through a connection; snapshot: by snapshot_command; default copy where it can be",
	.choices = method_choices},
	{"port", RCTL_OPTION_INTEGER, "its port, default the first free one after this server's", 1, 65535},
	{"settings", RCTL_OPTION_OBJECT, "object of settings for its postgresql.conf, default none"},
	{"snapshot_command", RCTL_OPTION_LIST, "array of a program and its arguments that makes the data directory, for method snapshot"},
	{"synchronous", RCTL_OPTION_BOOL, "whether commits wait for it (synchronous_standby_names), default false", .fallback = "false"},
	{"tablespace_mapping", RCTL_OPTION_OBJECT, "object from directories of tablespaces here to directories for the replica, default directories next to its data directory"},
	{"upstream", RCTL_OPTION_TEXT, "replica that it is copied from and follows, default this server"},
	{"verify_checksums", RCTL_OPTION_CHOICE, "whether method copy verifies data checksums: off, auto (not of files that are cloned), on, or fail: a wrong one is an error; default auto",
	.choices = verify_choices},
	{NULL}
};

static const RctlOptionDef attach_options[] = {
	{"data_directory", RCTL_OPTION_PATH, "data directory of the standby, which runs; default found by host and port"},
	{"host", RCTL_OPTION_TEXT, "address or socket directory of the standby, default found by data_directory"},
	{"port", RCTL_OPTION_INTEGER, "port of the standby, default found by data_directory", 1, 65535},
	{"slot", RCTL_OPTION_TEXT, "replication slot for it if it uses none yet, default a new one"},
	{"upstream", RCTL_OPTION_TEXT, "replica that it follows, default this server"},
	{NULL}
};

static RctlHost *
local_host(RctlOp *op)
{
	return rctl_host_local(op, op->server_options);
}

static const RctlStep create_checks[] = {
	{"upstream", rctl_standby_check_upstream, "the server that it follows is there"},
	{"programs", rctl_standby_check_programs, "PostgreSQL's programs are installed"},
	{"directory", rctl_standby_check_place, "its data directory can be made"},
	{"tablespaces", rctl_standby_check_tablespaces, "directories for its tablespaces can be made"},
	{"source", rctl_standby_check_source, "the server that it follows has the wal_level, walsenders and slots for it"},
	{"replication login", rctl_standby_check_login, "it can log in to the server that it follows"},
	{"method", rctl_standby_check_method, "the way to copy it that was asked for can be used"},
	{"disk", rctl_standby_check_space, "there is room for a copy"},
	{"port", rctl_standby_check_port, "there is a free port for it"},
	{NULL}
};

static const RctlStep create_steps[] = {
	{"preflight", rctl_standby_preflight, "choose directory, port and names, and check that nothing is in the way"},
	{"slot", rctl_standby_slot, "make the replication slot, so that no WAL is lost from here on"},
	{"copy", rctl_standby_copy, "copy the data directory", .weight = COPY_WEIGHT},
	{"configure", rctl_standby_configure, "write the replica's configuration"},
	{"start", rctl_standby_start, "start the replica's server"},
	{"catch_up", rctl_standby_catch_up, "wait until it streams"},
	{NULL}
};

static const RctlStep attach_steps[] = {
	{"inspect", rctl_standby_attach_inspect, "log in to the standby and check that it follows this server"},
	{"slot", rctl_standby_attach_slot, "find its replication slot or make one"},
	{"catch_up", rctl_standby_catch_up, "wait until it streams"},
	{NULL}
};

static const RctlStep repair_steps[] = {
	{"examine", rctl_standby_repair_examine, "look at what is wrong"},
	{"slot", rctl_standby_repair_slot, "make its replication slot again if it is gone"},
	{"start", rctl_standby_repair_start, "start it if it does not run"},
	{"probe", rctl_standby_repair_probe, "see whether it streams, and if not whether it ever can"},
	{"aside", rctl_standby_repair_aside, "if a new copy is needed: move the old one aside, or decide to make it equal again"},
	{"copy", rctl_standby_repair_copy, "if a new copy is needed: make it", .weight = COPY_WEIGHT},
	{"configure", rctl_standby_repair_configure, "if a new copy is needed: write its configuration"},
	{"restart", rctl_standby_repair_restart, "if a new copy is needed: start it"},
	{"catch_up", rctl_standby_catch_up, "wait until it streams"},
	{"discard", rctl_standby_repair_discard, "if there was a new copy: delete the old one", .point_of_no_return = true},
	{NULL}
};

static void
local_check_options(RctlOpKind kind, const char *replica,
					const RctlMap *server, const RctlMap *options)
{
	rctl_standby_check_options(rctl_host_local(NULL, server), kind, replica, server, options);
	if (kind == RCTL_OP_CREATE)
		rctl_clone_check_options(options);
}

static bool
local_stopped(const RctlReplica *replica)
{
	RctlHost   *host = rctl_host_local(NULL, rctl_map_make());
	const char *directory = rctl_map_get(replica->facts, "data_directory");

	return directory != NULL && host->server_pid(host, directory) == 0;
}

static List *
local_directories(const RctlReplica *replica)
{
	return rctl_map_get(replica->facts, "data_directory") ? rctl_standby_directories(replica->facts) : NIL;
}

static void
local_follow(RctlOp *op, RctlReplica *replica, RctlReplica *upstream)
{
	rctl_standby_follow(op, local_host(op), replica, upstream);
}

static void
local_rejoin(RctlOp *op, RctlReplica *primary, RctlReplica *self, const char *pass_file, RctlRejoin *rejoin)
{
	rctl_standby_rejoin(op, local_host(op), primary, self, pass_file, rejoin);
}

static bool
local_free_space(RctlOp *op, RctlReplica *replica, uint64 *bytes)
{
	RctlHost   *host = local_host(op);
	const char *directory = rctl_map_get(replica->facts, "data_directory");
	RctlPathInfo info;

	if (directory == NULL)
		return false;
	host->inspect(host, directory, &info);
	*bytes = info.free_bytes;
	return info.kind == RCTL_PATH_DIRECTORY;
}

const RctlProvider rctl_provider_local = {
	.name = "local",
	.wrapper = "replica_local",
	.runs_programs = true,
	.server_options = server_options,
	.mapping_options = mapping_options,
	.create_options = create_options,
	.attach_options = attach_options,
	.check_options = local_check_options,
	.host = local_host,
	.create_checks = create_checks,
	.drop_checks = rctl_standby_drop_checks,
	.create = create_steps,
	.attach = attach_steps,
	.drop = rctl_standby_drop_steps,
	.repair = repair_steps,
	.cleanup = rctl_standby_cleanup,
	.start = rctl_standby_start_server,
	.release = rctl_standby_release,
	.free_space = local_free_space,
	.connect = rctl_standby_connect,
	.conninfo = rctl_standby_conninfo,
	.stopped = local_stopped,
	.directories = local_directories,
	.follow = local_follow,
	.rejoin = local_rejoin,
};
