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
 *	  cnpg_watch.c		the monitor's look
 *
 * A change is made in a loop: read the Cluster, see whether it is done
 * already, send a patch that names the version that was read.  So a lost
 * answer is harmless, and what somebody else changed meanwhile is seen.
 *
 * Facts, durable: type, cluster (the Cluster's name), instance (the pod's,
 * of type instance), uid (of the Cluster, of type cluster), adopted,
 * distributed, secret (that we made), system_identifier, host, port.
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
} RctlCnpgCluster;

/* ---- cnpg_cluster.c ---- */

extern RctlKube *rctl_cnpg_open(RctlOp *op);
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

/* Reads, decides and patches until there is nothing to patch.  sub: NULL or "status". */
extern RctlCnpgCluster *rctl_cnpg_change(RctlKube *kube, const char *name, const char *sub,
										 RctlCnpgDecide decide, void *arg, const char *action);

/* Waits between two looks. */
extern void rctl_cnpg_pause(void);

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

/* ---- cnpg.c ---- */

/* The replica's connection string with its password, if there is one. */
extern char *rctl_cnpg_conninfo(const char *conninfo, const char *password);

/* ---- cnpg_watch.c ---- */
extern const RctlHttpRequest *rctl_cnpg_watch(void *watch, const RctlHttpResponse *response);

/* "type" of a replica, from its facts or its options. */
extern bool rctl_cnpg_is_instance(const RctlReplica *replica);

#endif							/* REPLICA_CTL_PROVIDER_CNPG_H */
