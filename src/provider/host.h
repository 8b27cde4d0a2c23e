/*-------------------------------------------------------------------------
 *
 * host.h
 *	  The machine on which a replica lives: run this program, write this
 *	  file, read that one.
 *
 * The steps of a physical standby (standby.h) touch the files, processes and
 * ports of its machine through these functions and in no other way, so that
 * they are the same for this machine (host_local.c) and for others.
 *
 * All paths are absolute.  Nothing follows a symbolic link at the end of a
 * path, and nothing passes a path through a shell.  Functions raise errors,
 * with the operating system's words in the message, unless it says so here.
 * Memory is palloc'd in CurrentMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_HOST_H
#define REPLICA_CTL_PROVIDER_HOST_H

#include "nodes/pg_list.h"

#include "net/process.h"
#include "provider/provider.h"

typedef enum RctlPathKind
{
	RCTL_PATH_MISSING,
	RCTL_PATH_FILE,
	RCTL_PATH_DIRECTORY,
	RCTL_PATH_SYMLINK,
	RCTL_PATH_OTHER,
} RctlPathKind;

/* What is at a path. */
typedef struct RctlPathInfo
{
	RctlPathKind kind;
	bool		empty;			/* a directory without entries */
	bool		owned;			/* by the user as whom the server will run */
	bool		writable;		/* entries can be made in this directory */
	char	   *identity;		/* the inode: another one if it was replaced;
								 * NULL if missing */

	/*
	 * Of the path, or of its nearest existing ancestor if it is missing:
	 */
	char	   *real_path;		/* with all symbolic links resolved, the
								 * missing rest appended */
	char	   *ancestor;		/* that ancestor */
	bool		ancestor_writable;
	char	   *device;			/* names the file system */
	uint64		free_bytes;		/* there, for an unprivileged user */
} RctlPathInfo;

/* What is to be written to a file. */
typedef struct RctlHostFile
{
	const char *name;			/* in its directory */
	const char *content;
	int			mode;
} RctlHostFile;

struct RctlHost
{
	const char *name;			/* for messages: "this host" */
	bool		local;			/* shares its file systems and ports with this
								 * server */
	const char *bindir;			/* PostgreSQL's programs there */
	const char *scratch;		/* directory for files that live as long as an
								 * operation */
	const char *os_user;		/* as whom the replica runs */
	RctlOp	   *op;				/* whose progress deadline long work pushes
								 * out; NULL in a session */

	/* Of a host that is not local; each may be NULL. */
	const char *address;		/* where the servers there are reached */
	const char *source_address; /* where this server is reached from there */
	const char *root;			/* where replicas are made by default */
	const char *socket_directories; /* for the servers there */

	/*
	 * Connects, which raises an error if the host cannot be used.  NULL: it
	 * always can.
	 */
	void		(*reach) (RctlHost *host);

	/*
	 * The command that a person runs there to remove a replica, whose data
	 * directory is the first of the directories.  Connects to nothing.  NULL
	 * with reach.
	 */
	char	   *(*removal_command) (RctlHost *host, List *directories);

	/*
	 * Runs a program to its end; see net/process.h.
	 */
	RctlProcessResult *(*run) (RctlHost *host, const RctlProcessSpec *spec, long timeout_ms,
							   RctlProcessTick tick, long interval_ms, void *arg);

	void		(*inspect) (RctlHost *host, const char *path, RctlPathInfo *info);

	/* At most the last max_bytes of a file; NULL if there is no such file. */
	char	   *(*read_file) (RctlHost *host, const char *path, size_t max_bytes);

	/*
	 * Replaces each file of a directory in one go, in this order, with
	 * exactly its mode; they are durable when all are written.  Ended by a
	 * NULL name.  write_file: a single one.
	 */
	void		(*write_files) (RctlHost *host, const char *directory, const RctlHostFile *files);
	void		(*write_file) (RctlHost *host, const char *path, const char *content, int mode);

	/* Removes a file; true if it was there. */
	bool		(*remove_file) (RctlHost *host, const char *path);

	/*
	 * Makes a directory, and missing parents if wanted, with mode 0700. False
	 * if it exists.
	 */
	bool		(*make_directory) (RctlHost *host, const char *path, bool parents);

	void		(*set_mode) (RctlHost *host, const char *path, int mode);

	/*
	 * Removes a directory with all that is in it (never what symbolic links
	 * point to), or only all that is in it.  That it is gone is fine.
	 */
	void		(*remove_tree) (RctlHost *host, const char *path, bool keep_top);

	/* Removes a directory if it is empty; says whether it did. */
	bool		(*remove_empty) (RctlHost *host, const char *path);

	void		(*rename) (RctlHost *host, const char *from, const char *to);

	/*
	 * Makes all that is in the directories durable, in one go.  NULL: files
	 * are to be synced one by one.
	 */
	void		(*sync_trees) (RctlHost *host, List *directories);

	/*
	 * The pid of the live postmaster that runs in this data directory; 0 if
	 * there is none.
	 */
	int			(*server_pid) (RctlHost *host, const char *directory);

	/*
	 * A text that changes while the server of a data directory replays WAL;
	 * NULL if that cannot be told.
	 */
	char	   *(*server_activity) (RctlHost *host, const char *directory);

	/*
	 * Starts the server of a data directory as a daemon that outlives this
	 * server and the service manager's unit that this server may run in, and
	 * waits until it accepts connections or has failed.  Its output is
	 * appended to log_file.  config_file: if it is not the one in the data
	 * directory; or NULL.  warning is set to a palloc'd sentence if something
	 * keeps it from being a daemon of its own, else to NULL.  NULL: it has
	 * started; else how it ended.
	 */
	RctlProcessResult *(*start_server) (RctlHost *host, const char *directory, const char *log_file,
										const char *config_file, RctlProcessTick tick, void *arg,
										char **warning);

	/*
	 * Tells the service manager to stop the server of a data directory.  NULL
	 * where that is not its business: pg_ctl does it.
	 */
	void		(*stop_server) (RctlHost *host, const char *directory);

	/*
	 * Logs in from there for replication, by a connection string without a
	 * password and (or NULL) the content of a password file.  True with the
	 * system identifier of the server that answers, else false with a reason
	 * and an SQLSTATE.  NULL: as this server does.
	 */
	bool		(*identify) (RctlHost *host, const char *conninfo, const char *pass_file_content,
							 char **system_identifier, char **reason, int *sqlerrcode);

	/*
	 * The first wanted ports, from first on, on which a server with these
	 * settings could listen now: a list of integers, may be shorter.
	 */
	List	   *(*free_ports) (RctlHost *host, int first, int wanted, const char *listen_addresses,
							   const char *socket_directories);
};

/* host_local.c; op may be NULL, then nothing that waits may be called */
extern RctlHost *rctl_host_local(RctlOp *op, const RctlMap *server_options);

/*
 * host_ssh.c: nothing is connected before it is needed.  What is known of the
 * host is in the replica's facts; rctl_host_ssh_look() finds it out.
 */
extern RctlHost *rctl_host_ssh(RctlOp *op, const RctlMap *server_options, const RctlReplica *replica);

#endif							/* REPLICA_CTL_PROVIDER_HOST_H */
