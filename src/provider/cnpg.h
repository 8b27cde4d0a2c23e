/*-------------------------------------------------------------------------
 *
 * cnpg.h
 *	  Replicas that CloudNativePG runs on Kubernetes.
 *
 * A replica is one of two types:
 *	  instance	one more instance of a Cluster; Kubernetes makes it by scaling,
 *				and names it
 *	  cluster	a Cluster of its own that follows a source: this server, or
 *				another Cluster; "distributed" ones know each other and can
 *				change roles by tokens
 *
 *	  cnpg.c			options, and what can be done
 *	  cnpg_cluster.c	the Cluster resource: reading it, changing it, waiting
 *	  cnpg_create.c		create and attach, drop, change, undo
 *	  cnpg_spec.c		the Cluster that a create asks for
 *	  cnpg_promote.c	promotions
 *	  cnpg_move.c		two Clusters change roles
 *	  cnpg_watch.c		the monitor's look
 *
 * The source Cluster may be elsewhere: in another namespace (server option
 * source_namespace), or behind another API server, which another foreign
 * server (source_server) has the address and the login of.  Every request is
 * made by the RctlKube of its side, and messages name that.
 *
 * A change is made in a loop: read the Cluster, see whether it is done
 * already, send a patch that names the version that was read.  So a lost
 * answer is harmless, and what somebody else changed meanwhile is seen.
 *
 * Facts, durable: type, cluster (the Cluster's name), instance (the pod's,
 * of type instance), uid (of the Cluster), adopted, secret (that we made),
 * system_identifier, host, port, moved (it has changed roles with its source).
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_CNPG_H
#define REPLICA_CTL_PROVIDER_CNPG_H

#include "provider/kube.h"

#define RCTL_CNPG_API "/apis/postgresql.cnpg.io/v1"
#define RCTL_CNPG_HEALTHY "Cluster in healthy state"
#define RCTL_CNPG_UNRECOVERABLE "Cluster is unrecoverable and needs manual intervention"

/* Marks what we made: the replica's name, and the operation that asked for it. */
#define RCTL_CNPG_LABEL "replica-ctl/operation"
#define RCTL_CNPG_ANNOTATION "replica-ctl/replica"

/* What is read of a Cluster; strings are NULL where they are not known yet. */
typedef struct RctlCnpgCluster
{
	const RctlJson *json;
	char	   *name;
	char	   *self;			/* its name among externalClusters */
	char	   *primary;		/* spec.replica.primary: the Clusters are a
								 * distributed topology */
	char	   *uid;
	char	   *version;		/* resourceVersion */
	int64		wanted;			/* spec.instances */
	int64		ready;
	List	   *instances;		/* of char *, status.instanceNames */
	List	   *healthy;		/* of char *, those of them that are healthy */
	char	   *phase;
	char	   *phase_reason;
	char	   *current_primary;
	char	   *target_primary;
	bool		role_known;		/* the primary has told whether it is one */
	bool		is_primary;
	int64		timeline;		/* 0: not known */
	char	   *system_id;
	bool		replica;		/* by its spec it follows a source */
	bool		changing_role;	/* a demotion is under way */
	char	   *demotion_token;
} RctlCnpgCluster;

/* ---- cnpg_cluster.c ---- */

extern RctlKube *rctl_cnpg_open(RctlOp *op);

/* The same for the side of the source Cluster, which may be another one. */
extern RctlKube *rctl_cnpg_open_source(RctlOp *op);

/* The replica's, or what it will be: decided once, a fact. */
extern const char *rctl_cnpg_cluster_name(RctlOp *op);

/* That of a new Cluster if it is not said; palloc'd. */
extern char *rctl_cnpg_default_name(const char *replica);

/* Whether the source Cluster is not in the namespace of the replicas. */
extern bool rctl_cnpg_source_apart(const RctlMap *server_options);
extern bool rctl_cnpg_is_distributed(const RctlReplica *replica);
extern char *rctl_cnpg_path(RctlKube *kube, const char *cluster, const char *sub);
extern RctlCnpgCluster *rctl_cnpg_parse(const RctlJson *json);

/* NULL if there is no such Cluster and missing_ok; all other failures are raised. */
extern RctlCnpgCluster *rctl_cnpg_get(RctlKube *kube, const char *name, bool missing_ok);

/* Whether all that is wanted runs; *progress is a text for rctl_op_progress(). */
extern bool rctl_cnpg_healthy(const RctlCnpgCluster *cluster, char **progress);
extern bool rctl_cnpg_has(const List *names, const char *name);

/* Raises an error if the operator has given up on the Cluster. */
extern void rctl_cnpg_require_recoverable(const RctlCnpgCluster *cluster);

/*
 * The patch that is still to be made to a Cluster, as it is now; NULL: none,
 * it is as it should be.  May raise an error.  The version is added to it.
 */
typedef const char *(*RctlCnpgDecide) (void *arg, const RctlCnpgCluster *cluster);

/* Asks whether a patch would be accepted, and changes nothing; raises the refusal. */
extern void rctl_cnpg_try(RctlKube *kube, const char *name, const char *sub, const char *patch, const char *action);

/* Reads, decides and patches until there is nothing to patch.  sub: NULL or "status". */
extern RctlCnpgCluster *rctl_cnpg_change(RctlKube *kube, const char *name, const char *sub,
										 RctlCnpgDecide decide, void *arg, const char *action);

/*
 * Looks again and again, until it returns true.  What it allocates is gone
 * with the next look; kube and arg are the caller's.
 */
typedef bool (*RctlCnpgLook) (RctlOp *op, RctlKube *kube, void *arg);
extern void rctl_cnpg_wait(RctlOp *op, RctlKube *kube, RctlCnpgLook look, void *arg);

/* Raises an error if the Cluster is gone (NULL), or another one of its name than the replica's. */
extern void rctl_cnpg_require_same(RctlOp *op, const RctlCnpgCluster *cluster);

/* A text as JSON, palloc'd. */
extern char *rctl_cnpg_quote(const char *text);

/* ---- cnpg_create.c ---- */
extern const RctlStep rctl_cnpg_create_checks[];
extern const RctlStep rctl_cnpg_create_steps[];
extern const RctlStep rctl_cnpg_attach_steps[];
extern const RctlStep rctl_cnpg_drop_checks[];
extern const RctlStep rctl_cnpg_drop_steps[];
extern const RctlStep rctl_cnpg_change_steps[];
extern void rctl_cnpg_cleanup(RctlOp *op, const RctlCleanup *record);

/* ---- cnpg_spec.c ---- */

/* The Cluster of a replica of type cluster, as JSON.  secret: that holds the password for the source; or NULL. */
extern char *rctl_cnpg_manifest(RctlOp *op, const char *name, const char *secret);

/* ---- cnpg_promote.c ---- */
extern const RctlManagedPromotion rctl_cnpg_promotion;

/*
 * A change that makes the replica a primary, or begins to: that it was asked
 * for is durable (state "asked") before it is.  If it is refused, and has
 * changed nothing, that is forgotten before the error is raised.
 */
extern void rctl_cnpg_ask(RctlOp *op, RctlKube *kube, const char *name, const char *sub,
						  RctlCnpgDecide decide, const char *action);

/* ---- cnpg_move.c ---- */

/* A check: both sides know each other and would accept the change of roles. */
extern void rctl_cnpg_move_check(RctlOp *op);

/* The source gives its token, the replica is asked to be the primary with it. */
extern void rctl_cnpg_move(RctlOp *op, RctlKube *kube);

/* Makes a source that was demoted a primary again; object is a cleanup record's. */
extern void rctl_cnpg_move_back(RctlOp *op, const RctlMap *object);

/* ---- cnpg.c ---- */

/* The replica's connection string with its password, if there is one. */
extern char *rctl_cnpg_conninfo(const char *conninfo, const char *password);

/* ---- cnpg_watch.c ---- */
extern const RctlHttpRequest *rctl_cnpg_watch(void *watch, const RctlHttpResponse *response);

/* "type" of a replica, from its facts or its options. */
extern bool rctl_cnpg_is_instance(const RctlReplica *replica);

#endif							/* REPLICA_CTL_PROVIDER_CNPG_H */
