/*-------------------------------------------------------------------------
 *
 * provider.h
 *	  What a provider is, and what the engine gives to its steps.
 *
 * A provider knows one place where replicas run.  It is a constant struct
 * with its options, its steps and a few functions; adding one means to write
 * one file in this directory and one row in provider.c.
 *
 * A step is the unit that is made durable.  The engine commits "step S,
 * attempt n started", calls run() with no transaction open, and commits the
 * outcome together with the operation's state and the replica's facts.  A
 * crash leaves a start without an outcome, so that every step
 *
 *	  - is idempotent: it begins by observing what already exists;
 *	  - raises an error (ereport) when it fails, with SQLSTATE, detail, hint;
 *	    connection, resource and object-in-use errors are retried with
 *	    back-off (rctl_error_is_transient), all others end the attempt;
 *	  - calls rctl_op_cleanup_add() before it creates anything outside the
 *	    database, so that the operation can be undone;
 *	  - waits by rctl_wait() or what is built on it (process.h, pgconn.h);
 *	    a cancel, a shutdown or a missed progress deadline is raised there;
 *	  - may read this database by a short transaction of its own
 *	    (rctl_op_begin / rctl_op_commit), never across a wait.
 *
 * Memory: CurrentMemoryContext in a step is op->step_context, reset after the
 * step with everything that belongs to it (connections, child processes).
 * What must live longer goes into the maps, which are durable.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_PROVIDER_H
#define REPLICA_CTL_PROVIDER_PROVIDER_H

#include "libpq-fe.h"
#include "access/xlogdefs.h"
#include "utils/timestamp.h"

#include "net/http.h"
#include "net/map.h"

typedef struct RctlProvider RctlProvider;
typedef struct RctlOp RctlOp;
typedef struct RctlHost RctlHost;	/* host.h */

typedef enum RctlOpKind
{
	RCTL_OP_CREATE,
	RCTL_OP_ATTACH,
	RCTL_OP_DETACH,
	RCTL_OP_DROP,
	RCTL_OP_REPAIR,
	RCTL_OP_PROMOTE,
	RCTL_OP_SWITCHOVER,
	RCTL_OP_DRILL,
	RCTL_OP_CHANGE,
} RctlOpKind;
#define RCTL_OP_KINDS (RCTL_OP_CHANGE + 1)

/* A row of replica_ctl.replica, as a step sees it. */
typedef struct RctlReplica
{
	int64		id;
	char	   *name;
	char	   *server;			/* name of the foreign server */
	Oid			serverid;
	const RctlProvider *provider;
	char	   *state;
	RctlMap    *options;		/* what the user asked for; read only */

	/*
	 * What became of it: data_directory, port, ...  Written by steps, durable
	 * with the step's outcome or by rctl_op_save().  Never holds a secret.
	 * Keys that the core reads, for every provider: "slot" (the slot's name),
	 * "host" and "port" (the endpoint), "upstream" (name of the replica that
	 * it follows, absent: the source), "application_name" (in
	 * pg_stat_replication of its upstream), "service" (a service can tell
	 * about it although it is still being made); "cluster" (this server is a
	 * member of that cluster, as the replica is: the row belongs to whichever
	 * of them is the primary, see takeover.c) and "leader" (the facts that
	 * the primary of the cluster would have as a replica, and its "name").
	 */
	RctlMap    *facts;
} RctlReplica;

/* A row of replica_ctl.cleanup: something outside the database, to be removed. */
typedef struct RctlCleanup
{
	int64		id;
	char	   *type;			/* 'slot', 'directory', 'server', 'fence',
								 * ...: the provider's words */
	RctlMap    *object;			/* what it takes to remove it */
} RctlCleanup;

struct RctlOp
{
	int64		id;
	RctlOpKind	kind;
	char	   *requested_by;	/* role name */
	Oid			requested_by_id;
	RctlReplica *replica;
	RctlMap    *arguments;		/* of the call: mode, timeout, force, ...;
								 * read only */
	RctlMap    *state;			/* durable scratch of this operation; dies
								 * with it */
	RctlMap    *server_options; /* of the foreign server; read only */

	char	   *step;			/* name of the running step */
	int			attempt;		/* of this step, from 1 */
	TimestampTz requested_at;

	/*
	 * replica_explain: a look, in the caller's session, at what would be
	 * done. There is no row of it (id is 0), and the services below write
	 * nothing.
	 */
	bool		dry_run;
	MemoryContext context;		/* lives as long as this process works on the
								 * operation */
	MemoryContext step_context; /* reset after every step */
};

typedef struct RctlStep
{
	const char *name;			/* stored in rows: never renamed, never reused
								 * for another meaning */
	void		(*run) (RctlOp *op);
	const char *title;			/* what it does, for replica_explain: "copy
								 * the data directory" */

	/*
	 * From the start of this step there is no way back: no undo, no cancel,
	 * only retries, and needs_attention when they are used up.
	 */
	bool		point_of_no_return;

	/* Its part in the operation's progress, next to the others'; 0 is 1. */
	int			weight;

	/*
	 * An error is not retried: a person, or writes behind the fence, wait for
	 * it.
	 */
	bool		once;

	/*
	 * Its start, with all that was saved before it, is not flushed to disk:
	 * writers wait.  After a crash the operation may go on at the step
	 * before; if that would do harm, the step itself flushes.
	 */
	bool		hurried;
} RctlStep;

typedef enum RctlOptionType
{
	RCTL_OPTION_TEXT,
	RCTL_OPTION_BOOL,
	RCTL_OPTION_INTEGER,		/* min and max apply */
	RCTL_OPTION_INTERVAL,		/* not negative */
	RCTL_OPTION_CHOICE,			/* one of choices, NULL-terminated */
	RCTL_OPTION_OBJECT,			/* a jsonb object */
	RCTL_OPTION_LIST,			/* a jsonb array, or text with commas between
								 * the elements */
	RCTL_OPTION_PATH,			/* an absolute path without control characters */
} RctlOptionType;

/* An option of a server, a user mapping or a call; arrays end with a NULL name. */
typedef struct RctlOptionDef
{
	const char *name;
	RctlOptionType type;
	const char *help;			/* one line: meaning, unit, default */
	int64		min;
	int64		max;
	const char *const *choices;

	/*
	 * It lets its users have what belongs to the server process: a file, its
	 * environment.  Setting it takes the rights of pg_read_server_files.
	 */
	bool		privileged;

	/*
	 * The default, where it is a constant: leaving the option out is the same
	 * as this value.  For objects and lists, empty is the default anyway.
	 */
	const char *fallback;
} RctlOptionDef;

/* How this server will follow one of its replicas once that is the primary. */
typedef struct RctlRejoin
{
	char	   *primary_conninfo;	/* for streaming; names pass_file if there
									 * is one */
	char	   *rewind_conninfo;	/* for pg_rewind; likewise */
	char	   *pass_file_content;	/* or NULL; never log it */
} RctlRejoin;

/*
 * ---- Promotions that a service makes ----
 *
 * Where SQL on the replica promotes it, core/promotion.c does all of it by
 * provider->connect.  Where a service does (a call of a cloud's API, a
 * cluster manager), the provider has RctlProvider.managed, and core/managed.c
 * frames its members with what is the same for all: the time-out of the call,
 * the source's fence and its undo, the wait for lag 0, the event.  The steps
 * of a planned promotion, and who acts in them:
 *
 *	  check		core, then each of promote_checks
 *	  warm		lag(), until it is small
 *	  fence		core/source_fence.c stops writes on the source
 *	  zero_lag	caught_up(), until it says yes
 *	  promote	promote(); from here there is no way back
 *	  verify	verify()
 *	  unlink	provider->release(), note(), the event
 *	  after		core/source_fence.c, then after()
 *
 * A forced one has receipt, promote, verify and unlink.
 */

/* What the replica must have before it may be promoted. */
typedef struct RctlSourceMark
{
	/*
	 * Flushed on the source after the last commit of a user.  Invalid if the
	 * source cannot be asked (writes were stopped by somebody else, who said
	 * so by option fence 'external'): then data about a moment after "since"
	 * must prove that nothing is missing.
	 */
	XLogRecPtr	lsn;
	TimestampTz since;			/* no user has committed there since, by this
								 * server's clock */
} RctlSourceMark;

/* What is known about how far a replica is behind its source. */
typedef struct RctlManagedLag
{
	bool		bytes_known;
	uint64		bytes;			/* that it has not replayed */
	bool		seconds_known;
	double		seconds;
	TimestampTz sampled_at;		/* of the data; 0: just now */
	const char *source;			/* whose figure it is: "SQL", "CloudWatch",
								 * ...; or NULL */
} RctlManagedLag;

typedef enum RctlCaughtUp
{
	RCTL_CAUGHT_UP_NOT_YET,		/* data show that something is missing */
	RCTL_CAUGHT_UP_YES,			/* data show that nothing is */
	RCTL_CAUGHT_UP_UNKNOWN,		/* there are no data that could show either:
								 * asked again until the time-out */
} RctlCaughtUp;

/* All may wait by rctl_wait(), and raise errors, unless they say otherwise. */
typedef struct RctlManagedPromotion
{
	/*
	 * What must be true of the service before a promotion, one thing each, in
	 * order, ended by a NULL name; the convention of create_checks.  Step
	 * "check" runs them all and raises the first error; replica_explain runs
	 * them too, in the caller's session, as a dry run, each within a few
	 * seconds.  A check that fails raises its error (SQLSTATE, detail, hint);
	 * what is only doubtful is told by rctl_op_warn().  They change nothing,
	 * but may set facts that later checks and steps read.  op->kind and
	 * rctl_map_get(op->arguments, "mode") say what is asked for; a forced
	 * promotion is checked in replica_explain only. May be NULL.
	 */
	const RctlStep *promote_checks;

	/*
	 * Whether the source of op's replica is this very server, so that the
	 * fence in this server stops its writes.  Does not wait; facts that are
	 * durable since the creation decide (compare system identifiers and the
	 * postmaster's, not addresses).  NULL: never.
	 */
	bool		(*source_is_here) (RctlOp *op);

	/*
	 * The service itself stops the source, and lets the replica have all of
	 * its WAL, before it promotes: where neither the fence in this server nor
	 * source_conninfo can be used, no fence is needed and steps fence and
	 * zero_lag do nothing.  It may differ by the kind of replica (its options
	 * and facts say).  Does not wait.  NULL: never.
	 */
	bool		(*service_fences) (const RctlReplica *replica);

	/*
	 * The service alone decides which server takes writes, and sees to it
	 * that no other one does, whatever crashes.  So the fence in this server
	 * is in memory only: it ends with the server, which the service stops in
	 * the middle of the operation and may make the primary again later.  Does
	 * not wait.  NULL: never.
	 */
	bool		(*service_guards) (const RctlReplica *replica);

	/*
	 * The service turns the source into a replica of the promoted one: the
	 * only source_after is then "standby" (it is the default, too), and
	 * replica_switchover is the same promotion.  Does not wait.  NULL: never.
	 */
	bool		(*source_follows) (const RctlReplica *replica);

	/*
	 * How far the replica is behind, for step "warm" (which waits until few
	 * bytes are left, and not for seconds: on some services they count while
	 * nothing is written), the checks and the forecast; false if that is not
	 * known at all.  NULL: by SQL, through provider->connect, if that is
	 * there.
	 */
	bool		(*lag) (RctlOp *op, RctlManagedLag *lag);

	/*
	 * Whether the replica has everything up to the mark.  Asked every poll_ms
	 * (0: every 10 ms), the first time at once, until the time-out; each look
	 * takes a few seconds at most.  Only data can say yes: a value for a
	 * moment after mark->since, or a replayed position at or past mark->lsn;
	 * never that a value is missing, old, or was 0 before. progress: set it
	 * to a palloc'd text, "replaying, 12 kB left", shown by
	 * replica_operations and in the error of a time-out.  If it can never
	 * know, it raises an error.  NULL: rctl_managed_replayed().
	 */
	RctlCaughtUp (*caught_up) (RctlOp *op, const RctlSourceMark *mark, char **progress);
	long		poll_ms;

	/*
	 * Makes the service promote the replica, and returns when the service
	 * says that it is done.  It is entered anew after a crash, a restart or a
	 * retried error, hours later perhaps, and so begins by describing: done
	 * already is success, under way means to wait, and only a replica that is
	 * still one is asked for.  A lost answer is settled in the same way.
	 * Errors that rctl_error_is_transient() knows are retried, with back-off;
	 * others park the operation as needs_attention, with the source still
	 * fenced, for nobody knows whether there are two primaries.  So when the
	 * service has clearly refused, and a description after that shows that
	 * nothing has changed, call rctl_op_not_done() before raising the error:
	 * then the promotion is undone and the source goes on.  Nothing but
	 * replica_ctl.progress_timeout bounds it: call rctl_op_progress().
	 */
	void		(*promote) (RctlOp *op);

	/*
	 * Proves what promote() was told: the link to the source is gone, the
	 * replica is what the service calls a primary, and, where it can be
	 * reached, rctl_managed_verify_sql().  Waits, if a proof takes its time,
	 * within bounds of its own.  An error parks the operation.
	 */
	void		(*verify) (RctlOp *op);

	/*
	 * Forced promotions: adds what is known about the loss, each key only if
	 * it is known: replica_lsn, replica_last_commit, source_lsn, lost_bytes,
	 * lag_seconds, lag_sampled_at, lag_source; or what the service tells. The
	 * core has filled in what SQL on either side tells (it may have nothing).
	 * Errors are caught: a receipt that cannot be had stops nothing.  May be
	 * NULL.
	 */
	void		(*receipt) (RctlOp *op, RctlMap *receipt);

	/*
	 * Adds to the detail of the event "promoted": what the service said, what
	 * a user of Terraform has to change, ...  Does not wait.  May be NULL.
	 */
	void		(*note) (RctlOp *op, RctlMap *detail);

	/*
	 * After all else, with source_after: read_only, read_write or standby
	 * (only where source_follows).  What the fence did on the source has been
	 * kept (read_only) or taken back (read_write) already.  May be NULL.
	 */
	void		(*after) (RctlOp *op, const char *source_after);
} RctlManagedPromotion;

/*
 * Options of every provider with a managed promotion, for its arrays of server
 * options and mapping options; read by core/source_fence.c only.  The
 * password is never in source_conninfo (api/validate.c refuses it there).
 */
#define RCTL_SOURCE_SERVER_OPTIONS \
	{"source_conninfo", RCTL_OPTION_TEXT, \
		"connection string without password, to stop writes and to measure on the source"}, \
	{"fence", RCTL_OPTION_CHOICE, \
		"external: writes on the source are stopped by somebody else before a planned promotion; default auto", \
		.choices = rctl_fence_choices}
#define RCTL_SOURCE_MAPPING_OPTIONS \
	{"source_password", RCTL_OPTION_TEXT, "password for the server's source_conninfo"}
extern const char *const rctl_fence_choices[];	/* auto, external */

struct RctlProvider
{
	const char *name;			/* 'local' */
	const char *wrapper;		/* 'replica_local' */
	bool		runs_programs;	/* callers need pg_execute_server_program */

	const RctlOptionDef *server_options;
	const RctlOptionDef *mapping_options;
	const RctlOptionDef *create_options;
	const RctlOptionDef *attach_options;

	/*
	 * Further checks of the options of a server (types and names are checked
	 * already), when it is created or altered.  Raises errors.  May be NULL.
	 */
	void		(*check_server) (const RctlMap *server_options);

	/*
	 * Further checks of the options of a create or attach (types and names
	 * are checked already), in the caller's transaction: no I/O that can
	 * block.  Raises errors.  May be NULL.
	 */
	void		(*check_options) (RctlOpKind kind, const char *replica,
								  const RctlMap *server_options, const RctlMap *options);

	/*
	 * The machine on which op's replica lives, palloc'd; nothing is connected
	 * before it is needed.  For the steps of standby.h; NULL where a service
	 * runs the replicas.
	 */
	RctlHost   *(*host) (RctlOp *op);

	/*
	 * What the first step of a create checks and decides, one thing each, in
	 * order; later ones may use the facts of earlier ones.  That step runs
	 * them all; replica_explain does too, in a dry run, and goes on after an
	 * error.  May be NULL.
	 */
	const RctlStep *create_checks;

	/* The same for a drop. */
	const RctlStep *drop_checks;

	/*
	 * Steps by kind, each array ended by a NULL name; NULL where the provider
	 * cannot.
	 */
	const RctlStep *create;
	const RctlStep *attach;
	const RctlStep *drop;
	const RctlStep *repair;

	/*
	 * Removes one recorded object; that it is gone already is success. Raises
	 * errors.
	 */
	void		(*cleanup) (RctlOp *op, const RctlCleanup *record);

	/*
	 * Starts the replica's server if it does not run, and returns when it
	 * accepts connections.  NULL where the provider cannot.
	 */
	void		(*start) (RctlOp *op, RctlReplica *replica);

	/*
	 * The replica leaves: it was promoted, or is detached.  Called before its
	 * slot is dropped; takes back what else was set on this server for it,
	 * and lets one that stays a standby go on without the slot.  May be NULL.
	 */
	void		(*release) (RctlOp *op);

	/*
	 * The bytes that are free where the replica's data are; false if that
	 * cannot be known.  Does not wait.  May be NULL.
	 */
	bool		(*free_space) (RctlOp *op, RctlReplica *replica, uint64 *bytes);

	/*
	 * A connection to the replica for SQL, with rights to promote it, made in
	 * CurrentMemoryContext.  Raises an error if it cannot be had.
	 */
	PGconn	   *(*connect) (RctlOp *op, RctlReplica *replica, long timeout_ms);

	/*
	 * For the monitor, which must never wait; both may be NULL.  conninfo:
	 * where to ask the replica how it is, palloc'd (it may hold a password
	 * out of the user mapping); NULL if it cannot be asked.  stopped: whether
	 * the replica's server is known not to run.  Neither uses the network.
	 */
	char	   *(*conninfo) (const RctlReplica *replica, const RctlMap *mapping);
	bool		(*stopped) (const RctlReplica *replica);

	/*
	 * Also for the monitor: a server of another database system than this one
	 * has answered for the replica, which follows a source elsewhere.
	 * streaming: its WAL receiver says so; lag: in seconds, by its own clock,
	 * NaN if it does not know.  Returns what is wrong with that, or NULL; a
	 * provider without this has replicas of this server only.
	 */
	const char *(*answered) (const RctlReplica *replica, const char *system_identifier,
							 bool streaming, double lag);

	/*
	 * Also for the monitor: the directories on this host in which the
	 * replica's data are (char *), whose file systems are watched.  NULL
	 * where they are elsewhere.
	 */
	List	   *(*directories) (const RctlReplica *replica);

	/*
	 * Both, or neither where the provider has no switchover.
	 *
	 * follow: tells a running replica (which is not op's) to follow another
	 * one, through the slot of its own name there, or with upstream NULL this
	 * server again.  Does not wait until it does.
	 *
	 * rejoin: finds out how this server can follow the replica "primary", by
	 * logging in there, and fills in the facts of "self": this server as a
	 * replica, called self->name.  pass_file: where the caller will write the
	 * password file.  Changes nothing.
	 */
	void		(*follow) (RctlOp *op, RctlReplica *replica, RctlReplica *upstream);
	void		(*rejoin) (RctlOp *op, RctlReplica *primary, RctlReplica *self,
						   const char *pass_file, RctlRejoin *rejoin);

	/* Where a service promotes, see above; else NULL. */
	const RctlManagedPromotion *managed;

	/*
	 * What a step would do in the service's own words ("DELETE
	 * /v1/project/p/integration/<id>"), for replica_explain: appended to the
	 * step's row.  NULL for a step that has nothing to add.  In a dry run,
	 * after the checks; does not wait, and holds no secret.  May be NULL.
	 */
	char	   *(*describe_step) (RctlOp *op, const char *step);

	/*
	 * Steps that bring an existing replica to other options: op->arguments
	 * holds them all, as a create would take them; op->replica->options are
	 * the old ones, which the engine replaces when the last step is done.
	 * change_options: the create options that can differ, ended by NULL; a
	 * difference in any other is refused.  Both NULL where the provider
	 * cannot.
	 */
	const RctlStep *change;
	const char *const *change_options;

	/*
	 * How the monitor learns what the service says about the replicas of a
	 * server: see watch.h.  NULL where there is no service.
	 */
	RctlHttpNext watch;
};

/* provider.c: the registry */
/* NULL if the wrapper is none of ours. */
extern const RctlProvider *rctl_provider_by_wrapper(const char *wrapper);
extern const RctlProvider *const *rctl_providers(void); /* NULL-terminated */

/*
 * Checks names, types and ranges.  Raises ERRCODE_FDW_INVALID_OPTION_NAME or
 * ERRCODE_INVALID_PARAMETER_VALUE; the hint lists the valid names.  "what" is
 * "server", "user mapping" or "replica_create".
 */
extern void rctl_options_check(const RctlOptionDef *defs, const RctlMap *options, const char *what);

/* NULL if the array (or NULL) has none of that name. */
extern const RctlOptionDef *rctl_option_find(const RctlOptionDef *defs, const char *name);

/* Whether two valid values mean the same; NULL: not given.  def may be NULL: they are compared as text. */
extern bool rctl_option_same(const RctlOptionDef *def, const char *a, const char *b);


/*
 * ---- Services of the engine, for steps (implemented in core/) ----
 *
 * In a dry run those that write do nothing; rctl_op_cleanup_add(), after which
 * something would be made, raises an error.
 */

/*
 * A short transaction with the registry's owner and a safe search_path; SPI is
 * connected.  In a dry run it is the caller's transaction.
 */
extern void rctl_op_begin(RctlOp *op);
extern void rctl_op_commit(RctlOp *op);

/* Makes op->state and op->replica->facts durable now. */
extern void rctl_op_save(RctlOp *op);

/*
 * Commits a record of something that is about to be created (with op->state
 * and facts).  Recording the same type and object twice is harmless.
 * Undo handles the records of an operation in reverse order.
 * always: handled at the end of a successful operation as well (temporary
 * objects); else a success forgets it.
 */
extern void rctl_op_cleanup_add(RctlOp *op, const char *type, const RctlMap *object, bool always);

/* Handles the latest matching record now, and forgets it. */
extern void rctl_op_cleanup_run(RctlOp *op, const char *type);

/*
 * Says how far the running step is; shown by replica_operations within a
 * second.  Any change of phase or bytes pushes the no-progress deadline out.
 * bytes_total 0: not known.  phase: "waiting for checkpoint", "copying", ...
 */
extern void rctl_op_progress(RctlOp *op, const char *phase, uint64 bytes_done, uint64 bytes_total);

/* Pushes the no-progress deadline out when there is nothing to show. */
extern void rctl_op_alive(RctlOp *op);

/* Writes an event (and sends it by NOTIFY), in a transaction of its own. */
extern void rctl_op_event(RctlOp *op, const char *severity, const char *kind,
						  const RctlMap *detail, const char *format,...) pg_attribute_printf(5, 6);

/*
 * The value of a user-mapping option for the operation's requester (or the
 * PUBLIC mapping); NULL if there is none.  palloc'd in CurrentMemoryContext;
 * never store or log it.
 */
extern char *rctl_op_secret(RctlOp *op, const char *option);

/*
 * Another foreign server of a wrapper, which an option of op's server or
 * replica names; a secret: of the same wrapper, and of the requester's mapping.
 * An error is raised if it is not there, or the requester has no USAGE on it.
 */
extern RctlMap *rctl_op_server_options(RctlOp *op, const char *wrapper, const char *server);
extern char *rctl_op_server_secret(RctlOp *op, const char *server, const char *option);

/*
 * Sets a fact of op's replica, durably, unless another replica of this
 * registry has the same; false if one has.  Two operations that run at the
 * same time never both succeed.
 */
extern bool rctl_op_reserve(RctlOp *op, const char *fact, const char *value);

/* Whether another replica of this registry has this fact. */
extern bool rctl_op_fact_taken(RctlOp *op, const char *fact, const char *value);

/* Another replica of this registry, palloc'd in CurrentMemoryContext; NULL if there is none. */
extern RctlReplica *rctl_op_replica(RctlOp *op, const char *name);

/*
 * For checks (create_checks, drop_checks, promote_checks): something is
 * doubtful, but no obstacle.  A row of replica_explain, part of an event in an
 * operation.  Message, detail and hint as in an error; both of the latter may
 * be NULL.
 */
extern void rctl_op_warn(RctlOp *op, const char *detail, const char *hint,
						 const char *format,...) pg_attribute_printf(4, 5);

/*
 * The running step is one from which there is no way back, but it is certain
 * that nothing is under way, and that it has changed nothing, or only what
 * its cleanup records take back: the error that the caller raises next is
 * undone, like that of an earlier step, and is not retried.
 */
extern void rctl_op_not_done(RctlOp *op);

/* ---- for RctlManagedPromotion (implemented in core/managed.c) ---- */

/*
 * In op->state: the operation has moved, with the data, to the server that is
 * the primary of the replica's cluster now, and goes on there at step
 * "promote" (core/takeover.c).  What promote() has to do then is to find out
 * whether that is the replica.
 */
#define RCTL_HANDED_OVER "handed_over"

/*
 * Right before the call that promotes: if the source is this server and its
 * fence has gone since zero_lag (the server has crashed), it is raised again,
 * and the replica waited for.
 */
extern void rctl_managed_require_still(RctlOp *op);

/*
 * The member with this application_name, a replica of op's cluster, is this
 * server now: its row becomes that of the former primary, and op->replica
 * with it, if it is that.  Harmless to repeat.
 */
extern void rctl_op_change_places(RctlOp *op, const char *member);

/*
 * caught_up() by SQL: the replica, through provider->connect, has replayed
 * mark->lsn.  Raises an error if mark->lsn is invalid; a replica that cannot
 * be reached is UNKNOWN.
 */
extern RctlCaughtUp rctl_managed_replayed(RctlOp *op, const RctlSourceMark *mark, char **progress);

/*
 * verify() by SQL: the replica, through provider->connect, is out of recovery
 * and past the source's mark.  Waits up to timeout_ms for it.  False, and a
 * warning event, if it cannot be reached within that time; raises an error if
 * it can and is not what it should be.  Sets the fact "timeline".
 */
extern bool rctl_managed_verify_sql(RctlOp *op, long timeout_ms);

/*
 * The source by SQL, through the server's source_conninfo and the requester's
 * mapping: NULL if there is no such option.  Belongs to CurrentMemoryContext;
 * raises an error if it cannot be had.
 */
extern PGconn *rctl_source_connect(RctlOp *op, long timeout_ms);

/* Whether an error of this SQLSTATE is worth another attempt. */
extern bool rctl_error_is_transient(int sqlerrcode);

#endif							/* REPLICA_CTL_PROVIDER_PROVIDER_H */
