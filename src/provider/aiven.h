/*-------------------------------------------------------------------------
 *
 * aiven.h
 *	  What the files of the provider "aiven" share.
 *
 * A replica is a service of Aiven for PostgreSQL, made with an integration of
 * type read_replica; to delete that integration is to promote it.
 *
 *	  aiven.c			options, plans, the provider's struct
 *	  aiven_options.c	checks options, and makes the body of a creation
 *	  aiven_api.c		one call: token, retries, errors
 *	  aiven_service.c	reads what the API says about a service
 *	  aiven_connect.c	SQL on a replica
 *	  aiven_create.c	create, attach, and what undoes them
 *	  aiven_manage.c	drop, repair, change
 *	  aiven_promote.c	promote
 *	  aiven_watch.c		the monitor's rounds
 *	  aiven_terraform.c what a user of Terraform has to change
 *
 * Durable are the facts of a replica: project, service_name, integration_id,
 * source_service, create_time, mark (see below), plan, cloud, host, port,
 * dbname, user, sslmode, and "adopted" for one that was attached.  A password
 * is in memory only: it is asked for (include_secrets) when it is needed.
 *
 * The mark is a tag that the creation gives to its service: so it is known
 * again after a lost answer, and nothing else is ever deleted in its place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_AIVEN_H
#define REPLICA_CTL_PROVIDER_AIVEN_H

#include "net/http.h"
#include "net/json.h"
#include "provider/provider.h"

/* Key of the tag that holds the mark. */
#define RCTL_AIVEN_MARK "replica_ctl"

/* One project, seen with one user's token. */
typedef struct RctlAiven
{
	RctlOp	   *op;				/* NULL: the monitor's */
	const char *server;			/* the foreign server, for hints */
	const char *user;			/* whose mapping it is, quoted for hints */
	const char *base;			/* URL up to and with /v1 */
	const char *project;
	const char *source;			/* service */
	const char *ca_file;		/* or NULL */
	const char *token;			/* never log it */

	/*
	 * Something is under way at Aiven that must not be given up for a refusal
	 * (401, 403) or a 404 that is gone a moment later, as rights and new
	 * things take a while to be known everywhere.
	 */
	bool		patient;
} RctlAiven;

/* What came back; everything is palloc'd in CurrentMemoryContext. */
typedef struct RctlAivenAnswer
{
	int			status;			/* 0: no answer */
	const RctlJson *json;		/* NULL: the body is none */
	char	   *message;		/* Aiven's words without secrets; NULL: none */
	char	   *code;			/* error_code; or NULL */
	bool		maybe_done;		/* it may have done what was asked, although
								 * it did not say so */
	const RctlHttpRequest *request;
	const RctlHttpResponse *response;
} RctlAivenAnswer;

/* What the API says about a service. */
typedef struct RctlAivenService
{
	char	   *name;
	char	   *type;
	char	   *state;			/* "" if it is missing */
	char	   *plan;
	char	   *cloud;
	char	   *create_time;
	bool		termination_protection;
	int64		disk_space_mb;	/* 0: unknown */

	/* The integration by which it is a replica; NULL type of id: not yet. */
	bool		is_replica;
	char	   *integration_id;
	char	   *integration_source;
	char	   *integration_state;	/* "running", "failed", ...; or NULL */
	List	   *followers;		/* names of services that are its replicas */

	bool		backups_known;
	int			backups;

	bool		tags_known;
	char	   *mark;

	/* Nodes: their role, if any is told, and what they are busy with. */
	bool		role_known;
	bool		role_master;	/* one is the master, and none a read-replica */
	char	   *activity;		/* "REBUILDING: basebackup"; never NULL */
	uint64		done;			/* of the activity, in its own unit */
	uint64		total;			/* 0: unknown */

	/* Connection data; host NULL: not yet.  The password only if asked for. */
	char	   *host;
	char	   *port;
	char	   *user;
	char	   *password;
	char	   *dbname;
	char	   *sslmode;
} RctlAivenService;

/* ---- aiven_options.c ---- */

extern const RctlOptionDef rctl_aiven_create_options[];
extern const RctlOptionDef rctl_aiven_attach_options[];
extern const char *const rctl_aiven_change_options[];

extern void rctl_aiven_check_server(const RctlMap *server_options);
extern void rctl_aiven_check_options(RctlOpKind kind, const char *replica,
									 const RctlMap *server_options, const RctlMap *options);

/* The service's name: the option, or one made of the replica's. */
extern char *rctl_aiven_service_name(const char *replica, const RctlMap *options);

/* What was asked for, by either of its names; NULL: nothing. */
extern const char *rctl_aiven_option(const RctlMap *options, const char *name);

/* Bodies of POST service and PUT service: JSON texts. */
extern char *rctl_aiven_create_body(const RctlAiven *aiven, const RctlReplica *replica);
extern char *rctl_aiven_update_body(const RctlAiven *aiven, const RctlMap *old, const RctlMap *new);

/* The object for "tags", with the mark if there is one. */
extern char *rctl_aiven_tags(const RctlMap *options, const char *mark);

/* ---- aiven_api.c ---- */

/* The project of the operation's server, with the requester's token.  Raises an error if there is none. */
extern RctlAiven *rctl_aiven_open(RctlOp *op);

/* The same of a foreign server and a user mapping (NULL: none), without an operation. */
extern RctlAiven *rctl_aiven_make(const char *server, const char *user,
								  const RctlMap *server_options, const RctlMap *mapping);

/* "/project/P/..." of segments, each encoded; ended by a NULL. */
extern char *rctl_aiven_path(const RctlAiven *aiven, const char *segment,...);

/* A request, for generators; action is the name of the API's operation. */
extern RctlHttpRequest *rctl_aiven_request(const RctlAiven *aiven, const char *method, const char *path,
										   const char *body, const char *action);
extern RctlAivenAnswer *rctl_aiven_understand(const RctlAiven *aiven, const RctlHttpRequest *request,
											  const RctlHttpResponse *response);

/*
 * Asks for what can be asked for twice, and tries again for as long as there
 * is no real answer; then raises an error that is worth another attempt.  So
 * the status is that of the API, good or bad.
 */
extern RctlAivenAnswer *rctl_aiven_ask(const RctlAiven *aiven, const char *method, const char *path,
									   const char *body, const char *action);

/* Asks for what must not be done twice: see maybe_done. */
extern RctlAivenAnswer *rctl_aiven_ask_once(const RctlAiven *aiven, const char *method, const char *path,
											const char *body, const char *action);

extern bool rctl_aiven_ok(const RctlAivenAnswer *answer);

/* Whether it is the service, or the integration, that does not exist. */
extern bool rctl_aiven_missing(const RctlAivenAnswer *answer);

/* Whether the token is the trouble, or its rights. */
extern bool rctl_aiven_denied(const RctlAivenAnswer *answer);

/* Raises what an answer that is not ok means; the format says what could not be done. */
extern RCTL_NORETURN void rctl_aiven_refuse(const RctlAiven *aiven, const RctlAivenAnswer *answer,
											const char *format,...) pg_attribute_printf(3, 4);

/* "Aiven answered 403: ..." for errdetail. */
extern char *rctl_aiven_detail(const RctlAivenAnswer *answer);

/* ---- aiven_service.c ---- */

extern RctlAivenService *rctl_aiven_read_service(const RctlJson *json);

/* NULL if there is none of that name. */
extern RctlAivenService *rctl_aiven_service(const RctlAiven *aiven, const char *name, bool secrets);

/* The service of op's replica, by its facts; raises an error if it is gone. */
extern RctlAivenService *rctl_aiven_own_service(const RctlAiven *aiven, bool secrets);

extern bool rctl_aiven_running(const RctlAivenService *service);

/* Keeps what is worth it as facts. */
extern void rctl_aiven_note_service(RctlReplica *replica, const RctlAivenService *service);

/* How the service is doing, for replica_operations. */
extern void rctl_aiven_show_progress(RctlOp *op, const RctlAivenService *service);

/*
 * For a loop of looks: a context for each of them, made by the first call
 * (look NULL) and emptied by the next ones, and current from then on.  The
 * loop's end switches back.
 */
extern MemoryContext rctl_aiven_look(MemoryContext look);

/* The pause before the next look at something that began then. */
extern void rctl_aiven_pause(TimestampTz since);

/* ---- aiven_connect.c ---- */

extern PGconn *rctl_aiven_connect(RctlOp *op, RctlReplica *replica, long timeout_ms);

/* NULL if it cannot be reached. */
extern PGconn *rctl_aiven_try_connect(RctlOp *op, RctlReplica *replica, long timeout_ms);
extern char *rctl_aiven_conninfo(const RctlReplica *replica, const RctlMap *mapping);

/* The monitor has learnt a replica's connection data; whether they are new. */
extern bool rctl_aiven_remember(const RctlReplica *replica, const RctlAivenService *service);

/* What the replica itself has told the monitor; the second is false if it has not lately. */
extern const char *rctl_aiven_answered(const RctlReplica *replica, const char *system_identifier,
									   bool streaming, double lag);
extern bool rctl_aiven_last_answer(const RctlReplica *replica, bool *streaming, double *lag, TimestampTz *at);

/* Proves that the replica is a standby of the source and streams; a warning if it cannot be reached. */
extern void rctl_aiven_verify_standby(RctlOp *op);

/* ---- aiven_create.c ---- */

extern const RctlStep rctl_aiven_create_checks[];
extern const RctlStep rctl_aiven_create_steps[];
extern const RctlStep rctl_aiven_attach_steps[];
extern void rctl_aiven_cleanup(RctlOp *op, const RctlCleanup *record);

/* Waits until the service runs for good; posted: it has been asked for just now. */
extern RctlAivenService *rctl_aiven_wait_running(const RctlAiven *aiven, bool posted);

/* Deletes a service, and waits until it is gone. */
extern void rctl_aiven_delete_service(const RctlAiven *aiven, const char *name);

/* ---- aiven_manage.c ---- */

extern const RctlStep rctl_aiven_drop_checks[];
extern const RctlStep rctl_aiven_drop_steps[];
extern const RctlStep rctl_aiven_repair_steps[];
extern const RctlStep rctl_aiven_change_steps[];

/* ---- aiven_promote.c ---- */

extern const RctlManagedPromotion rctl_aiven_managed;

/* ---- aiven_watch.c ---- */

extern const RctlHttpRequest *rctl_aiven_watch(void *watch, const RctlHttpResponse *response);

/* ---- aiven_terraform.c ---- */

/* What has to change in a configuration after an operation of this kind: JSON text for an event's detail. */
extern char *rctl_aiven_terraform(RctlOp *op, RctlOpKind kind);

#endif							/* REPLICA_CTL_PROVIDER_AIVEN_H */
