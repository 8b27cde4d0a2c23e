/*-------------------------------------------------------------------------
 *
 * patroni.h
 *	  What the files of provider replica_patroni share.
 *
 *	  patroni.c			options, attach, repair, connections
 *	  patroni_cluster.c	the REST calls, and what a cluster looks like
 *	  patroni_create.c	members that are made and removed through ssh
 *	  patroni_member.c	whether this server is a member, and which
 *	  patroni_promote.c	switchover, failover, standby clusters
 *	  patroni_watch.c	members for the monitor
 *
 * Facts of a replica: member, host, port, api_url, system_identifier,
 * application_name; in the cluster that this server belongs to, also cluster
 * and leader (provider.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_PATRONI_H
#define REPLICA_CTL_PROVIDER_PATRONI_H

#include "net/http.h"
#include "net/json.h"
#include "provider/provider.h"

/* Read time-outs: a member that is frozen accepts the connection and never answers. */
#define RCTL_PATRONI_CONNECT_MS 2000
#define RCTL_PATRONI_READ_MS 4000

typedef struct RctlPatroniMember
{
	char	   *name;
	char	   *role;			/* leader, standby_leader, replica,
								 * sync_standby, ... */
	char	   *state;			/* running, streaming, stopped, ... */
	char	   *api_url;		/* without "/patroni" */
	char	   *host;
	char	   *port;
	int64		timeline;		/* 0: not known */
	int64		lag;			/* bytes; -1: not known */
	bool		nofailover;
} RctlPatroniMember;

typedef struct RctlPatroniCluster
{
	List	   *members;		/* of RctlPatroniMember */
	RctlPatroniMember *leader;	/* or standby leader; NULL: none, or more than
								 * one */
	int			leaders;
	bool		paused;
	char	   *scheduled;		/* a switchover that somebody has scheduled,
								 * as text; NULL: none */
	char	   *scope;			/* NULL: the release does not tell */
} RctlPatroniCluster;

/* ---- patroni_cluster.c ---- */

/* "urls" of the server; each without a slash at the end. */
extern List *rctl_patroni_urls(const RctlMap *server_options);

/* False, and a palloc'd clause, if the document is none of a cluster. */
extern bool rctl_patroni_parse(const RctlHttpResponse *response, RctlPatroniCluster *cluster, char **problem);

extern RctlPatroniMember *rctl_patroni_member(const RctlPatroniCluster *cluster, const char *name);

/* "p1, p2": for messages */
extern char *rctl_patroni_names(const RctlPatroniCluster *cluster);

/* Whether a replica is at work: "running" before Patroni 3.1, "streaming" since. */
extern bool rctl_patroni_works(const RctlPatroniMember *member);
extern bool rctl_patroni_is_leader(const RctlPatroniMember *member);

/* A request for a path at one base URL, with the mapping's user if it changes something. */
extern RctlHttpRequest *rctl_patroni_request(const RctlMap *server_options, const char *user, const char *password,
											 const char *method, const char *base, const char *path,
											 const char *body);

/*
 * GET from the first member that answers with 200; raises an error if none
 * does.  Any member answers for the whole cluster.  Which it was is noted in
 * op->state, and asked first the next time.
 */
#define RCTL_PATRONI_URL "patroni_url"
extern RctlHttpResponse *rctl_patroni_get(RctlOp *op, const char *path);
extern RctlPatroniCluster *rctl_patroni_cluster(RctlOp *op);

/* What such an answer says; raises an error if it is not of the cluster. */
extern RctlPatroniCluster *rctl_patroni_read_cluster(RctlOp *op, const RctlHttpResponse *response);

/* POST, PATCH: to one member, once.  The response may have any status. */
extern RctlHttpResponse *rctl_patroni_call(RctlOp *op, const char *method, const char *base, const char *path,
										   const char *body, int total_ms);

/* The body of an answer as a clause for errdetail: one line, no HTML. */
extern char *rctl_patroni_answer(const RctlHttpResponse *response);

/* The replica's member; raises an error if the cluster has none of that name. */
extern RctlPatroniMember *rctl_patroni_own(RctlOp *op, const RctlPatroniCluster *cluster);

/* Its name, whether the cluster has it or not. */
extern const char *rctl_patroni_member_name(RctlOp *op);

/* ---- patroni.c ---- */

/* Raises an error if another replica of this registry is that member. */
extern void rctl_patroni_reserve(RctlOp *op, const char *member);

/* Facts of op's replica: where its member is, whose data it has, and whether this server is a member, too. */
extern void rctl_patroni_note_member(RctlOp *op, const RctlPatroniCluster *cluster);

/* Waits until the member has caught up. */
extern void rctl_patroni_catch_up(RctlOp *op);

/* ---- patroni_create.c ---- */

/* Of the options of a create, for whoever calls it: raises what is missing. */
extern void rctl_patroni_check_create(const char *replica, const RctlMap *options);

extern const RctlStep rctl_patroni_create_checks[];
extern const RctlStep rctl_patroni_create_steps[];
extern const RctlStep rctl_patroni_drop_checks[];
extern const RctlStep rctl_patroni_drop_steps[];
extern void rctl_patroni_cleanup(RctlOp *op, const RctlCleanup *record);

/* ---- patroni_member.c ---- */

/* Where a member is, as facts of the replica that it is. */
extern void rctl_patroni_note_place(RctlMap *facts, const char *server, const RctlPatroniMember *member);

/* Whether the replica is a copy of this server, by its facts; a standby cluster's may be, too. */
extern bool rctl_patroni_is_copy(const RctlReplica *replica);

/* Whether the replica belongs to the cluster of this server, by its facts. */
extern bool rctl_patroni_is_inside(const RctlReplica *replica);

/*
 * Asks the leader whether it is this very server, and if so notes in the
 * facts of op's replica that both are members of one cluster.
 */
extern bool rctl_patroni_note_inside(RctlOp *op, const RctlPatroniCluster *cluster);

/* ---- patroni_promote.c ---- */

extern const RctlManagedPromotion rctl_patroni_promotion;
extern char *rctl_patroni_describe_step(RctlOp *op, const char *step);

/* ---- patroni_watch.c ---- */

extern const RctlHttpRequest *rctl_patroni_watch(void *state, const RctlHttpResponse *response);

#endif							/* REPLICA_CTL_PROVIDER_PATRONI_H */
