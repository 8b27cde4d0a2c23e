/*-------------------------------------------------------------------------
 *
 * standby_follow.c
 *	  A physical standby follows another server, and this server becomes a
 *	  standby: the provider's part of a switchover.
 *
 * A standby takes a new primary_conninfo by a reload, without a restart, and
 * keeps the name of its slot: the slot on its new source has the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "net/pgconn.h"
#include "provider/standby.h"
#include "settings.h"

#define LOGIN_TIMEOUT 10000

/* The operation as one on another replica, whose facts the services below read and write. */
static RctlOp *
view_of(RctlOp *op, RctlReplica *replica)
{
	RctlOp	   *view = palloc(sizeof(RctlOp));

	*view = *op;
	view->replica = replica;
	return view;
}

/* Where a replica has its password file; NULL if it needs none. */
static const char *
pass_file_of(RctlOp *op, const RctlReplica *replica)
{
	const char *directory = rctl_map_get(replica->facts, "data_directory");

	if (rctl_op_secret(op, "password") && directory)
		return psprintf("%s/%s", directory, RCTL_PASS_FILE);
	return rctl_op_secret(op, "passfile");
}

void
rctl_standby_follow(RctlOp *op, RctlHost *host, RctlReplica *replica, RctlReplica *upstream)
{
	RctlOp	   *view = view_of(op, replica);
	RctlSource	source = {.op = view, .host = host, .upstream = upstream};
	PGconn	   *conn = rctl_standby_connect(view, replica, LOGIN_TIMEOUT);
	const char *conninfo;
	const char *slot = rctl_map_get_default(replica->facts, "slot", "");

	rctl_source_find_login(&source);
	conninfo = rctl_source_conninfo(&source, rctl_map_get(replica->facts, "application_name"),
									pass_file_of(view, replica));
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT,
				 psprintf("ALTER SYSTEM SET primary_conninfo = %s", quote_literal_cstr(conninfo)), 0, NULL);
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT,
				 psprintf("ALTER SYSTEM SET primary_slot_name = %s", quote_literal_cstr(slot)), 0, NULL);
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, "SELECT pg_catalog.pg_reload_conf()", 0, NULL);
	rctl_pg_close(conn);
}

/* This server's facts, as if it was a standby that somebody has attached. */
static void
describe_self(RctlOp *op, RctlHost *host, RctlReplica *self)
{
	RctlMap    *facts = self->facts;
	RctlSource	here = {.op = op, .host = host};
	RctlMap    *tablespaces;
	const char *config = GetConfigOption("config_file", false, false);
	char	   *slot = rctl_standby_slot_name(self);

	rctl_map_set(facts, "adopted", "true");
	rctl_map_set(facts, "configured", "true");
	rctl_map_set(facts, "data_directory", DataDir);
	rctl_map_set(facts, "bindir", host->bindir);
	if (strcmp(config, psprintf("%s/postgresql.conf", DataDir)) != 0)
		rctl_map_set(facts, "config_file", config);
	rctl_map_setf(facts, "port", "%d", PostPortNumber);
	rctl_map_set(facts, "listen_addresses", ListenAddresses);
	rctl_map_set(facts, "socket_directories", Unix_socket_directories ? Unix_socket_directories : "");
	rctl_map_setf(facts, "system_identifier", UINT64_FORMAT, GetSystemIdentifier());
	rctl_map_set(facts, "slot", slot);
	rctl_map_set(facts, "application_name", slot);
	if (cluster_name[0] != '\0')
		rctl_map_set(facts, "cluster_name", cluster_name);
	rctl_standby_set_endpoint(facts);

	tablespaces = rctl_source_tablespaces(&here);
	if (tablespaces->entries)
		rctl_map_set(facts, "tablespaces", rctl_map_to_json(tablespaces));
}

void
rctl_standby_rejoin(RctlOp *op, RctlHost *host, RctlReplica *primary, RctlReplica *self,
					const char *pass_file, RctlRejoin *rejoin)
{
	RctlOp	   *view = view_of(op, self);
	RctlSource	source = {.op = view, .host = host, .upstream = primary};
	RctlConnParam rewind[] = {
		{"host", NULL},
		{"port", NULL},
		{"user", NULL},
		{"dbname", rctl_database},
		{"passfile", NULL},
		{"application_name", "replica_ctl"},
		{NULL, NULL}
	};

	describe_self(op, host, self);

	/*
	 * Leaves what worked in the facts source_* of self, and login_* of
	 * primary.
	 */
	rctl_source_find_login(&source);
	rctl_pg_close(rctl_standby_connect(view, primary, LOGIN_TIMEOUT));

	rejoin->pass_file_content = rctl_pass_file_content(view);
	if (rejoin->pass_file_content == NULL)
		pass_file = rctl_op_secret(op, "passfile");
	rejoin->primary_conninfo = rctl_source_conninfo(&source, rctl_map_get(self->facts, "application_name"),
													pass_file);
	rewind[0].value = rctl_map_get(primary->facts, "login_host");
	rewind[1].value = rctl_map_get(primary->facts, "login_port");
	rewind[2].value = rctl_map_get(primary->facts, "login_user");
	rewind[4].value = pass_file;
	rejoin->rewind_conninfo = rctl_conninfo(rewind);
}
