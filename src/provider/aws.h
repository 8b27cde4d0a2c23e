/*-------------------------------------------------------------------------
 *
 * aws.h
 *	  What the files of the provider "aws" share.
 *
 * Replicas are Amazon RDS read replicas (engine 'postgres') or Aurora read
 * replicas of an RDS instance (engine 'aurora-postgresql').
 *
 *	  aws.c				options, plans, the provider's struct
 *	  aws_region.c		regions, endpoints, ARNs, identifiers
 *	  aws_params.c		the parameters of Amazon that are create options
 *	  aws_call.c		one call: build, sign, send, retry, judge, word its error
 *	  aws_describe.c	instances, clusters, tags, metrics as they are now
 *	  aws_check.c		what must be true before a create
 *	  aws_create.c		steps of create, attach and repair; undo
 *	  aws_drop.c		steps of drop
 *	  aws_promote.c		members of a promotion
 *	  aws_watch.c		a round of the monitor
 *
 * Amazon has no idempotency token for these calls, so each step describes
 * before it acts.  What we made carries a tag (RCTL_AWS_TAG) whose value has
 * 64 random bits and is durable, in the replica's facts and in the cleanup
 * record, before the call is made: a resource with that tag is ours, whatever
 * became of the answer; nothing without it is ever deleted.
 *
 * Durable facts of a replica: engine, region, identifier (of the instance, or
 * of the cluster of an Aurora replica), writer (the instance in that cluster),
 * owner (the tag's value), resource (Amazon's own id, which no later namesake
 * has), host, port.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_AWS_H
#define REPLICA_CTL_PROVIDER_AWS_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "net/http.h"
#include "net/xml.h"
#include "provider/aws_credentials.h"
#include "provider/provider.h"
#include "provider/watch.h"

#define RCTL_AWS_AURORA "aurora-postgresql"

/* The tags of what we made. */
#define RCTL_AWS_TAG "replica_ctl:owner"
#define RCTL_AWS_NAME_TAG "replica_ctl:replica"

/* ---- aws_region.c ---- */

typedef enum RctlAwsService
{
	RCTL_AWS_RDS,
	RCTL_AWS_CLOUDWATCH,
} RctlAwsService;

typedef struct RctlAwsArn
{
	char	   *partition;
	char	   *region;
	char	   *account;
	char	   *identifier;
} RctlAwsArn;

/* aws, aws-cn, ...; NULL if that is no region's name. */
extern const char *rctl_aws_partition(const char *region);

/* "https://rds.eu-north-1.amazonaws.com", or what the server's options say. */
extern char *rctl_aws_endpoint(const RctlMap *server_options, const char *region, RctlAwsService service);

/* Whether it begins as an ARN does; what follows may be wrong. */
extern bool rctl_aws_is_arn(const char *text);

/* The ARN of a DB instance; raises an error that says what is wrong with it. */
extern RctlAwsArn *rctl_aws_parse_arn(const char *text);

/* Raises an error unless Amazon would take it for an identifier. */
extern void rctl_aws_check_identifier(const char *option, const char *identifier);

/* In lower case, as Amazon stores it; palloc'd. */
extern char *rctl_aws_lower(const char *identifier);

/* RctlProvider.check_server */
extern void rctl_aws_check_server(const RctlMap *options);

/* ---- aws_call.c ---- */

/* On whose behalf, and where. */
typedef struct RctlAwsTarget
{
	RctlAwsUser user;
	const RctlMap *options;		/* of the server */
	const char *region;			/* where replicas are made */
	bool		aurora;
	const char *source;			/* identifier or ARN, as in the options */
	RctlAwsArn *source_arn;		/* NULL: source is an identifier */
	bool		brief;			/* somebody waits: few and short attempts */
} RctlAwsTarget;

extern RctlAwsTarget *rctl_aws_target(RctlOp *op);

/* The same, with region and engine as they were when the replica was made. */
extern RctlAwsTarget *rctl_aws_replica_target(RctlOp *op);
extern RctlAwsTarget *rctl_aws_watch_target(const RctlWatch *watch);

/* The identifier of the source. */
extern const char *rctl_aws_source_name(const RctlAwsTarget *target);

/* A call that is being put together. */
typedef struct RctlAwsCall
{
	RctlAwsService service;
	const char *action;
	const char *region;			/* NULL: the target's */
	const char *endpoint;		/* NULL: the one of the service there */
	bool		changes;		/* sent once: an answer that is lost is for
								 * the caller to settle */
	StringInfoData body;
} RctlAwsCall;

extern RctlAwsCall *rctl_aws_call(RctlAwsService service, const char *action);

/* value NULL: left out. */
extern void rctl_aws_add(RctlAwsCall *call, const char *key, const char *value);
extern void rctl_aws_addf(RctlAwsCall *call, const char *key, const char *format,...) pg_attribute_printf(3, 4);
extern void rctl_aws_add_time(RctlAwsCall *call, const char *key, TimestampTz at);

typedef struct RctlAwsAnswer
{
	const RctlXml *result;		/* the element <ActionResult>; NULL: an error */

	/* Of an error. */
	const char *code;			/* Amazon's, on the wire; NULL: none */
	char	   *message;		/* fit for users, without secrets */
	int			status;			/* 0: no answer */
	bool		uncertain;		/* it may have been done all the same */
	bool		transient;		/* another attempt may do better */
	int			sqlerrcode;
	const char *request_id;
	char	   *detail;			/* for errdetail */
	const char *hint;			/* for errhint; or NULL */
	TimestampTz date;			/* by Amazon's clock; 0: unknown */
} RctlAwsAnswer;

/* Calls, and tries again where that is harmless.  Raises interrupts and missing credentials only. */
extern RctlAwsAnswer *rctl_aws_perform(const RctlAwsTarget *target, const RctlAwsCall *call);

/* Raises the error of an answer. */
extern RCTL_NORETURN void rctl_aws_raise(const RctlAwsCall *call, const RctlAwsAnswer *answer);

/* Performs, and raises an error unless there is a result. */
extern const RctlXml *rctl_aws_result(const RctlAwsTarget *target, const RctlAwsCall *call);

/* What time it is at Amazon, as well as this process knows. */
extern TimestampTz rctl_aws_now(void);

/* A time by Amazon's clock that is not before this one by ours. */
extern TimestampTz rctl_aws_surely_after(TimestampTz ours);

extern bool rctl_aws_code_is(const RctlAwsAnswer *answer, const char *code);

/* For generators: the signed request, and what became of it. */
extern const RctlHttpRequest *rctl_aws_request(const RctlAwsTarget *target, const RctlAwsCall *call,
											   const RctlAwsCredentials *credentials);
extern RctlAwsAnswer *rctl_aws_judge(const RctlAwsTarget *target, const RctlAwsCall *call,
									 const RctlHttpResponse *response, const RctlAwsCredentials *credentials);

/* ---- aws_params.c ---- */

/* The calls that a create makes. */
#define RCTL_AWS_REPLICA	1	/* CreateDBInstanceReadReplica */
#define RCTL_AWS_CLUSTER	2	/* CreateDBCluster */
#define RCTL_AWS_WRITER		4	/* CreateDBInstance, in that cluster */

extern const RctlOptionDef rctl_aws_create_options[];

/* Checks what can be checked of them without asking Amazon. */
extern void rctl_aws_check_params(bool aurora, const RctlMap *options);

/* Adds the options that the call takes. */
extern void rctl_aws_add_params(RctlAwsCall *call, int which, const RctlMap *options);

/* Adds our tags, those of the server and those of the options. */
extern void rctl_aws_add_tags(RctlAwsCall *call, const RctlMap *server_options, const RctlMap *options,
							  const char *owner, const char *replica);

/* "key=value, key=value", checked; an empty map if text is NULL. */
extern RctlMap *rctl_aws_parse_tags(const char *text);

/* ---- aws_describe.c ---- */

typedef struct RctlAwsInstance
{
	char	   *identifier;
	char	   *arn;
	char	   *resource;		/* DbiResourceId, or DbClusterResourceId */
	char	   *status;
	char	   *engine;
	char	   *version;
	char	   *instance_class; /* not of a cluster */
	char	   *host;			/* NULL: none yet */
	char	   *reader_host;	/* of a cluster */
	int			port;
	char	   *source;			/* what it is a read replica of; NULL: nothing */
	char	   *cluster;		/* that it is a member of; or NULL */
	char	   *kms_key;
	char	   *replication;	/* status of the read replication; or NULL */
	char	   *trouble;		/* what Amazon says is wrong; or NULL */
	bool		encrypted;
	bool		protected;		/* from deletion */
	int			backup_days;
	int64		storage_gb;
	int64		max_storage_gb; /* 0: it does not grow by itself */
	int			percent;		/* -1: not told */
	List	   *replicas;		/* of char *: its read replicas */
	List	   *cluster_replicas;	/* its Aurora read replicas */
	List	   *members;		/* of a cluster: its instances */
	bool		tags_told;
	char	   *owner;			/* the value of our tag; or NULL */
	bool		is_cluster;
} RctlAwsInstance;

/* NULL if there is none; other errors are raised. */
extern RctlAwsInstance *rctl_aws_instance(const RctlAwsTarget *target, const char *identifier);
extern RctlAwsInstance *rctl_aws_cluster(const RctlAwsTarget *target, const char *identifier);

/* The one or the other. */
extern RctlAwsInstance *rctl_aws_resource(const RctlAwsTarget *target, bool cluster, const char *identifier);

/* The source, wherever it is; NULL and a reason if its region cannot be asked. */
extern RctlAwsInstance *rctl_aws_source(const RctlAwsTarget *target, char **reason);

/* Reads <DBInstance> or <DBCluster>. */
extern RctlAwsInstance *rctl_aws_read_instance(const RctlXml *element);
extern RctlAwsInstance *rctl_aws_read_cluster(const RctlXml *element);

/* Whether our tag with that value is on it; asks for the tags if the description has none. */
extern bool rctl_aws_is_ours(const RctlAwsTarget *target, RctlAwsInstance *instance, const char *owner);

/* Whether nobody but a person can bring it on from this status. */
extern bool rctl_aws_status_is_fatal(const char *status);

/*
 * Describes again and again until done() says so; NULL as an instance if it
 * is gone (done() decides).  Raises an error of a fatal status, unless
 * tolerant.  Failures of the network are waited out.
 */
typedef bool (*RctlAwsDone) (RctlOp *op, const RctlAwsInstance *instance);
extern RctlAwsInstance *rctl_aws_wait(RctlOp *op, const RctlAwsTarget *target, bool cluster,
									  const char *identifier, RctlAwsDone done, const char *doing, bool tolerant);

/* Milliseconds until the next look, which grow with the looks there were. */
extern long rctl_aws_pause(const RctlMap *server_options, int looks);

/* A data point of a metric; false if there is none in the last minutes. */
typedef struct RctlAwsPoint
{
	double		value;
	TimestampTz at;
} RctlAwsPoint;

typedef struct RctlAwsMetric
{
	const char *name;
	const char *instance;
	const char *stat;			/* NULL: Average */
	bool		known;
	RctlAwsPoint newest;
} RctlAwsMetric;

extern RctlAwsCall *rctl_aws_metrics_call(const RctlAwsMetric *metrics, int count, TimestampTz now, int minutes);
extern void rctl_aws_read_metrics(const RctlXml *result, RctlAwsMetric *metrics, int count);

/* Waits for them; the answer, with its call, may be an error. */
extern RctlAwsAnswer *rctl_aws_try_metrics(const RctlAwsTarget *target, RctlAwsMetric *metrics, int count,
										   int minutes, RctlAwsCall **call);

/* The same, which raises an error then. */
extern void rctl_aws_metrics(const RctlAwsTarget *target, RctlAwsMetric *metrics, int count, int minutes);

/* "2026-11-22T01:02:03.456Z"; 0 if it is no time. */
extern TimestampTz rctl_aws_parse_time(const char *text);

/* ---- steps ---- */

extern const RctlStep rctl_aws_create_checks[];
extern const RctlStep rctl_aws_drop_checks[];
extern const RctlStep rctl_aws_create_steps[];
extern const RctlStep rctl_aws_attach_steps[];
extern const RctlStep rctl_aws_drop_steps[];
extern const RctlStep rctl_aws_repair_steps[];
extern const RctlManagedPromotion rctl_aws_promotion;

extern void rctl_aws_cleanup(RctlOp *op, const RctlCleanup *record);
extern const RctlHttpRequest *rctl_aws_watch_next(void *watch, const RctlHttpResponse *response);

/* The identifiers that a create with these options uses. */
extern char *rctl_aws_wanted_identifier(const RctlOp *op, bool aurora);
extern char *rctl_aws_wanted_writer(const RctlOp *op, const char *cluster);

/* Notes where clients connect to. */
extern void rctl_aws_note_endpoint(RctlOp *op, const RctlAwsInstance *instance);

/* Deletes what is ours and waits until it is gone; that it is gone already is success. */
extern void rctl_aws_delete(RctlOp *op, const RctlAwsTarget *target, bool cluster, const char *identifier,
							const char *owner, const char *snapshot);

/*
 * aws_promote.c: asks for the promotion and waits for it; also to be able to
 * delete a cluster.  again: it may have been asked for before.
 */
extern void rctl_aws_promote(RctlOp *op, const RctlAwsTarget *target, const char *identifier, bool again);

#endif							/* REPLICA_CTL_PROVIDER_AWS_H */
