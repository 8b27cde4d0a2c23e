/*-------------------------------------------------------------------------
 *
 * clone.h
 *	  A data directory made from files that this server can see, within a
 *	  backup, instead of through pg_basebackup's connection.
 *
 * The bracket is the one of PostgreSQL's documentation: pg_backup_start, then
 * something that brings the files, then pg_backup_stop and backup_label.
 * Whatever brings the files may see the server writing to them.
 *
 *	  clone.c			which method; the bracket
 *	  clone_copy.c		the files brought by replica_ctl_copy (src/copier)
 *	  clone_snapshot.c	the files brought by a command of the user
 *	  standby_resync.c	a replica's old files made equal again
 *	  standby_rewind.c	the same by pg_rewind, if it has left the history
 *
 * pg_control comes last, after backup_label: without it no server starts in
 * the directory, so that a half of a copy is never taken for a whole one.
 * No WAL is copied but the histories of timelines: the replica streams it,
 * from the start of the backup on, through its slot, which is older.
 *
 * Facts, durable: "method" (basebackup, copy or snapshot).
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_CLONE_H
#define REPLICA_CTL_PROVIDER_CLONE_H

#include "catalog/pg_control.h"

#include "provider/standby.h"

/* In a data directory that is being made equal to the source: it must not start. */
#define RCTL_RESYNC_FILE "replica_ctl.resync"

/* A backup that is going on. */
typedef struct RctlBackup
{
	RctlOp	   *op;
	RctlHost   *host;
	const char *source;			/* the data directory that is backed up */
	const char *target;
	PGconn	   *conn;			/* the backup's session; ends with it */
	char	   *start;			/* LSN */
	bool		resync;			/* the target has an old copy */
	RctlMap    *tablespaces;	/* oid to directory, in the source; what is
								 * there in the target, too */
} RctlBackup;

/* ---- clone.c ---- */

/* A check of a create: fact method, from the option and what is possible. */
extern void rctl_standby_check_method(RctlOp *op);

/* Whether the replica's fact is another method than basebackup. */
extern bool rctl_clone_possible(const RctlReplica *replica, const RctlHost *host);

/* Brings the source's files to the replica's directories: empty, or with an old copy. */
extern void rctl_clone(RctlOp *op, RctlHost *host, RctlSource *source, bool resync);

/* Directory of the files of what the replica follows; NULL if it is not known. */
extern const char *rctl_clone_source_directory(const RctlSource *source);

/* Called while something of a backup is waited for: raises an error if the backup is lost. */
extern void rctl_clone_check_session(RctlBackup *backup);

/* Whether files in the target's directory can share their blocks with files in the source's. */
extern bool rctl_clone_shares(const char *source, const char *target);

/* Raises an error unless the options of a create fit together. */
extern void rctl_clone_check_options(const RctlMap *options);

/* ---- standby_resync.c ---- */

/* NULL if the replica's own copy can be made equal again; else why not, for "The reason is that %s." */
extern const char *rctl_resync_obstacle(RctlOp *op, RctlHost *host, RctlSource *source);

/* Whether that was begun, and not finished. */
extern bool rctl_resync_unfinished(const RctlReplica *replica, RctlHost *host);

/* Does it. */
extern void rctl_resync(RctlOp *op, RctlHost *host, RctlSource *source);

/* The copy is half made, and no server starts there until it is made equal. */
extern void rctl_resync_make_unstartable(RctlOp *op, RctlHost *host);

/* pg_control of the replica; false if there is none. */
extern bool rctl_resync_control(const RctlReplica *replica, ControlFileData *control);

/* Whether that, and the version, are those of this server. */
extern bool rctl_resync_same_system(const RctlReplica *replica, RctlHost *host);

/* Whether the replica has a directory for each of the source's tablespaces, and no other. */
extern bool rctl_resync_same_tablespaces(RctlOp *op, RctlSource *source);

/* ---- standby_rewind.c ---- */

/* Whether the replica, whose server is stopped, has left the source's history and pg_rewind can bring it back. */
extern bool rctl_rewind_applies(RctlOp *op, RctlHost *host, RctlSource *source);

/* Does it; false if it could not be done to the end: then the copy is to be compared, or made anew. */
extern bool rctl_rewind(RctlOp *op, RctlHost *host, RctlSource *source);

/* After it, or after it was interrupted (not done: then the copy is marked as half made); fine if neither. */
extern void rctl_rewind_end(RctlOp *op, RctlHost *host, bool done);

/* ---- clone_copy.c ---- */
extern void rctl_clone_copy(RctlBackup *backup);

/* Where the program is. */
extern char *rctl_clone_program(const RctlHost *host);

/* ---- clone_snapshot.c ---- */
extern void rctl_clone_snapshot(RctlBackup *backup);

/* The command of the option snapshot_command, NULL-terminated; raises an error if it is none. */
extern const char *const *rctl_clone_snapshot_command(const char *json);

#endif							/* REPLICA_CTL_PROVIDER_CLONE_H */
