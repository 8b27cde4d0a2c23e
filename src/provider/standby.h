/*-------------------------------------------------------------------------
 *
 * standby.h
 *	  The life of a physical standby that is a directory on a host.
 *
 * Providers whose replicas are plain PostgreSQL servers share these steps,
 * and list them in their plans as they are; they differ in the host (host.h)
 * on which the steps act, and which the steps get from RctlProvider.host.
 *
 *	  standby.c			create: preflight, slot, copy, configure, start, catch_up
 *	  standby_config.c	the replica's configuration files; the option "settings"
 *	  standby_source.c	what a standby follows, and how to log in there and here
 *	  standby_place.c	names, directories, ports: where a replica is put
 *	  standby_space.c	whether there is room for a copy
 *	  standby_manage.c	drop, attach, and the removal of what was made
 *	  standby_repair.c	repair
 *	  standby_follow.c	follow another server; this server as a replica
 *
 * Facts, durable (see also provider.h):
 *	  data_directory, bindir, config_file (if outside), log_file, port, host,
 *	  listen_addresses, socket_directories, system_identifier, slot,
 *	  application_name, cluster_name, upstream, tablespaces (object: oid to
 *	  directory), directory_existed, adopted (attached, not made here),
 *	  source_host, source_port, source_user (how it reaches what it follows),
 *	  login_host, login_port, login_user (how we reach it),
 *	  synchronous (its name was added to synchronous_standby_names),
 *	  slot_found (the slot was there before it was attached),
 *	  rewinding (object: directory to inode, see standby_rewind.c)
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_STANDBY_H
#define REPLICA_CTL_PROVIDER_STANDBY_H

#include "provider/host.h"

/* A file in a replica's data directory that says whose it is. */
#define RCTL_MARKER_FILE "replica_ctl.id"

/*
 * The password file of a replica.  Its name begins like that of a temporary
 * file so that base backups of the replica leave it out.
 */
#define RCTL_PASS_FILE "pgsql_tmp.replica_ctl.passfile"

/* What the server prints before its own logging starts, and all if there is no collector. */
#define RCTL_LOG_FILE "log/replica_ctl.log"

/* A small result, as text in CurrentMemoryContext. */
typedef struct RctlRows
{
	int			nrows;
	int			ncols;
	char	  **cells;			/* row by row; NULL for NULL */
} RctlRows;

#define rctl_cell(rows, row, col) ((rows)->cells[(row) * (rows)->ncols + (col)])

/* Statements on replicas and sources are small. */
#define RCTL_STATEMENT_TIMEOUT 30000

/* The host of an operation's replica: provider->host(op). */
extern RctlHost *rctl_standby_host(RctlOp *op);

/* ---- create: standby.c ---- */

/*
 * Preflight: what RctlProvider.create_checks consists of, in this order, as
 * later ones need facts that earlier ones have set.
 */
extern void rctl_standby_check_upstream(RctlOp *op);	/* and chooses names */
extern void rctl_standby_check_programs(RctlOp *op);
extern void rctl_standby_check_place(RctlOp *op);
extern void rctl_standby_check_tablespaces(RctlOp *op);
extern void rctl_standby_check_source(RctlOp *op);
extern void rctl_standby_check_space(RctlOp *op);
extern void rctl_standby_check_login(RctlOp *op);
extern void rctl_standby_check_port(RctlOp *op);

/* The first step: runs RctlProvider.create_checks. */
extern void rctl_standby_preflight(RctlOp *op);

extern void rctl_standby_slot(RctlOp *op);
extern void rctl_standby_copy(RctlOp *op);
extern void rctl_standby_configure(RctlOp *op);
extern void rctl_standby_start(RctlOp *op);
extern void rctl_standby_catch_up(RctlOp *op);

/* Notes where the source's WAL is now, which a replica must have replayed to be done. */
extern void rctl_standby_note_copy_end(RctlOp *op);

/* ---- drop and attach: standby_manage.c ---- */
extern const RctlStep rctl_standby_drop_checks[];
extern const RctlStep rctl_standby_drop_steps[];

/* RctlProvider.release */
extern void rctl_standby_release(RctlOp *op);

extern void rctl_standby_attach_inspect(RctlOp *op);
extern void rctl_standby_attach_slot(RctlOp *op);

/* RctlProvider.cleanup */
extern void rctl_standby_cleanup(RctlOp *op, const RctlCleanup *record);

/* Whether a replica that was made to the end is no standby any more. */
extern bool rctl_standby_was_promoted(RctlOp *op, RctlHost *host);

/* RctlProvider.start */
extern void rctl_standby_start_server(RctlOp *op, RctlReplica *replica);

/* Stops the server of a data directory: fast, then immediately. Fine if none runs. */
extern void rctl_standby_stop_server(RctlOp *op, RctlHost *host, const char *directory);

/* ---- repair: standby_repair.c ---- */
extern void rctl_standby_repair_examine(RctlOp *op);
extern void rctl_standby_repair_slot(RctlOp *op);
extern void rctl_standby_repair_start(RctlOp *op);
extern void rctl_standby_repair_probe(RctlOp *op);
extern void rctl_standby_repair_aside(RctlOp *op);
extern void rctl_standby_repair_copy(RctlOp *op);
extern void rctl_standby_repair_configure(RctlOp *op);
extern void rctl_standby_repair_restart(RctlOp *op);
extern void rctl_standby_repair_discard(RctlOp *op);

/* Whether a directory is known to be a replica's while pg_rewind takes its marker away (standby_rewind.c). */
extern bool rctl_rewinding(const RctlReplica *replica, RctlHost *host, const char *path);

/* Moves a directory back to its place. */
extern void rctl_standby_restore_aside(RctlHost *host, const char *path, const char *aside);

/* ---- another source: standby_follow.c ---- */

/* RctlProvider.follow and RctlProvider.rejoin */
extern void rctl_standby_follow(RctlOp *op, RctlHost *host, RctlReplica *replica, RctlReplica *upstream);
extern void rctl_standby_rejoin(RctlOp *op, RctlHost *host, RctlReplica *primary, RctlReplica *self,
								const char *pass_file, RctlRejoin *rejoin);

/* ---- what it follows, and logins: standby_source.c ---- */

/* The server that a replica follows. */
typedef struct RctlSource
{
	RctlOp	   *op;
	RctlHost   *host;
	RctlReplica *upstream;		/* another replica; NULL: this server */
	PGconn	   *conn;			/* to the upstream, made when first needed */
} RctlSource;

/* By the fact "upstream"; raises an error if that replica is not there. */
extern RctlSource *rctl_source(RctlOp *op, RctlHost *host);

/* This server by a short transaction, an upstream by libpq. */
extern RctlRows *rctl_source_query(RctlSource *source, const char *sql,
								   int nargs, const char *const *args);

/* Its tablespaces that are outside of its data directory: oid to directory, by oid. */
extern RctlMap *rctl_source_tablespaces(RctlSource *source);

/* A physical replication slot there. */
typedef struct RctlSlot
{
	bool		physical;
	bool		reserved;		/* it holds WAL back */
	bool		lost;			/* its WAL is gone */
	int			active_pid;		/* 0: nobody uses it */
} RctlSlot;

/* False if there is no such slot. */
extern bool rctl_source_slot(RctlSource *source, const char *name, RctlSlot *slot);

/* Creates a slot that holds WAL back from now on. */
extern void rctl_source_create_slot(RctlSource *source, const char *name);

/* Ends the session that uses the slot, and waits until nobody does. */
extern void rctl_source_release_slot(RctlSource *source, const char *name);

/* Releases and drops it; that there is none is fine. */
extern void rctl_source_drop_slot(RctlSource *source, const char *name);

/* On this server, by a short transaction; the first column of the first row, or NULL. */
extern char *rctl_own_value(RctlOp *op, const char *sql, int nargs, const char *const *args);
extern RctlRows *rctl_own_rows(RctlOp *op, const char *sql, int nargs, const char *const *args);

/* On a libpq connection. */
extern RctlRows *rctl_conn_rows(PGconn *conn, const char *sql, int nargs, const char *const *args);

/*
 * Finds a login for replication and keeps it in the facts source_*.  Raises
 * an error that lists what was tried.
 */
extern void rctl_source_find_login(RctlSource *source);

/*
 * Raises an error if we cannot log in to the source for SQL with the right to
 * promote: then we could not log in to its copy either.
 */
extern void rctl_source_check_login(RctlSource *source);

/* A new connection for SQL to the source; to an upstream, the one that there is. */
extern PGconn *rctl_source_login(RctlSource *source, long timeout_ms);

/* The connection string for pg_basebackup or the replica; never with a password. passfile may be NULL. */
extern char *rctl_source_conninfo(RctlSource *source, const char *application_name, const char *passfile);

/* The line of a password file, if the user mapping has a password; else NULL. Never log it. */
extern char *rctl_pass_file_content(RctlOp *op);

/* RctlProvider.connect */
extern PGconn *rctl_standby_connect(RctlOp *op, RctlReplica *replica, long timeout_ms);

/* RctlProvider.conninfo */
extern char *rctl_standby_conninfo(const RctlReplica *replica, const RctlMap *mapping);

/* The same, but returns NULL and a palloc'd reason instead of raising an error. */
extern PGconn *rctl_standby_try_connect(RctlOp *op, RctlReplica *replica, long timeout_ms,
										char **reason);

/* ---- the place: standby_place.c ---- */

/* RctlProvider.check_options, for both kinds */
extern void rctl_standby_check_options(RctlHost *host, RctlOpKind kind, const char *replica,
									   const RctlMap *server_options, const RctlMap *options);

/* Facts data_directory, slot, application_name, cluster_name, listen_addresses, socket_directories. */
extern void rctl_standby_choose_names(RctlOp *op, RctlHost *host);

/* A name for its slot that no other replica has. */
extern char *rctl_standby_slot_name(const RctlReplica *replica);

/* Raises an error unless a data directory can be made there; what is there now. what: "data directory" */
extern void rctl_standby_check_directory(RctlHost *host, const char *path, const char *what,
										 RctlPathInfo *info);

/* Raises an error if one of the directories is, or is in, the other. */
extern void rctl_standby_check_apart(RctlHost *host, const char *path, const char *what,
									 const char *other, const char *other_what);

/* Fact tablespaces, from the source's tablespaces and the option tablespace_mapping. */
extern void rctl_standby_map_tablespaces(RctlOp *op, RctlHost *host, RctlSource *source);

/* Fact port; nobody else's, as far as the registry and the host tell. */
extern void rctl_standby_reserve_port(RctlOp *op, RctlHost *host);

/* Fact host: where users connect. */
extern void rctl_standby_set_endpoint(RctlMap *facts);

/* The directory and the tablespaces of a replica: a list of strings. */
extern List *rctl_standby_directories(const RctlMap *facts);

/* Removes what is in it, and it too unless it existed before, if it is known to be ours. */
extern void rctl_standby_remove_directory(RctlOp *op, RctlHost *host, const char *path, bool existed);

/* Notes that what is there now is what this operation has filled. */
extern void rctl_standby_claim_again(RctlOp *op, RctlHost *host, const char *path);

/* Notes that an (empty) directory is this operation's to fill, and makes it. */
extern void rctl_standby_claim_directory(RctlOp *op, RctlHost *host, const char *path);

/* Writes the marker. */
extern void rctl_standby_mark_directory(RctlOp *op, RctlHost *host, const char *path);

/* Whether the marker there is this replica's; of this very operation if op_only. */
extern bool rctl_standby_marked(RctlOp *op, RctlHost *host, const char *path, bool op_only);

/* ---- configuration: standby_config.c ---- */

extern void rctl_standby_check_settings(const RctlMap *options);
extern void rctl_standby_write_configuration(RctlOp *op, RctlHost *host, RctlSource *source);

/* postgresql.auto.conf, the password file and standby.signal. */
extern void rctl_standby_write_replication(RctlOp *op, RctlHost *host, RctlSource *source);

/* postgresql.auto.conf alone: for the first start of a copy, then as it stays. */
extern void rctl_standby_write_start(RctlOp *op, RctlHost *host, RctlSource *source, bool first);

/* The option apply_delay in milliseconds; 0 without one. Raises an error if it is too long. */
extern int64 rctl_standby_apply_delay(const RctlMap *options);

/* The option synchronous. */
extern bool rctl_standby_wants_synchronous(const RctlMap *options);

/* Raises an error unless synchronous_standby_names can be changed. */
extern void rctl_standby_check_synchronous(RctlOp *op);

/* synchronous_standby_names of this server with a name added or taken out. */
extern void rctl_standby_synchronous(RctlOp *op, const char *name, bool add);

/* The last lines of the replica's log, for errdetail; never NULL. */
extern char *rctl_standby_log_tail(RctlHost *host, const char *directory);

#endif							/* REPLICA_CTL_PROVIDER_STANDBY_H */
