/*-------------------------------------------------------------------------
 *
 * kube.h
 *	  Talks to a Kubernetes API server.
 *
 *	  kube_config.c	where it is, whom to trust, and who we are
 *	  kube.c		requests, answers, and errors in Kubernetes' own words
 *
 * Nothing here knows what the objects mean.  A bearer token in a file is read
 * again for every request: Kubernetes rotates those.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_KUBE_H
#define REPLICA_CTL_PROVIDER_KUBE_H

#include "compat.h"
#include "net/http.h"
#include "net/json.h"
#include "provider/provider.h"

/* An API server and a login there; never log it.  Fields that do not apply are NULL. */
typedef struct RctlKube
{
	const char *server;			/* of the foreign server */
	char	   *what;			/* for messages: Kubernetes (server "k8s",
								 * namespace "db") */
	bool		brief;			/* somebody waits: fewer attempts */
	char	   *url;			/* without a slash at its end */
	char	   *namespace;
	char	   *ca_file;
	char	   *ca_pem;
	char	   *token;
	char	   *token_file;		/* goes before token */
	char	   *cert_file;
	char	   *cert_pem;
	char	   *key_file;
	char	   *key_pem;
} RctlKube;

/* Server options that rctl_kube_open() reads. */
#define RCTL_KUBE_SERVER_OPTIONS \
	{"api_server", RCTL_OPTION_TEXT, "URL of the Kubernetes API server: https://host:port"}, \
	{"ca_file", RCTL_OPTION_PATH, "certificates (PEM) by which the API server is verified; default: the system's"}, \
	{"kubeconfig", RCTL_OPTION_PATH, "file that says where the API server is and how to log in", .privileged = true}, \
	{"context", RCTL_OPTION_TEXT, "context of the kubeconfig; default: its current-context"}, \
	{"token_file", RCTL_OPTION_PATH, "file with a bearer token", .privileged = true}, \
	{"in_cluster", RCTL_OPTION_BOOL, "use the service account of the pod that this server runs in; default false", .privileged = true}, \
	{"namespace", RCTL_OPTION_TEXT, "namespace of the clusters; default: that of the context or of the pod, else \"default\""}

/*
 * Reads the options of a foreign server (and the files that they name).  token:
 * from the user mapping, goes before all others; or NULL.  Raises an error if
 * there is no API server or no login.  Does not use the network.
 */
extern RctlKube *rctl_kube_open(const char *server, const RctlMap *server_options, const char *token);

/* From now on of another namespace. */
extern void rctl_kube_use_namespace(RctlKube *kube, const char *namespace);

/* Why a name of an object or a namespace is none, as a sentence; NULL: it is a good one (RFC 1123 label). */
extern char *rctl_kube_name_problem(const char *name, int length);

/* A request, for rctl_http_*; body NULL: none.  path begins with a slash. */
extern const RctlHttpRequest *rctl_kube_request(const RctlKube *kube, const char *method, const char *path,
												const char *body, const char *action);

/* What became of a request. */
typedef struct RctlKubeAnswer
{
	int			status;			/* 0: there is no (whole) answer */
	bool		lost;			/* with status 0: it may have been done */
	const RctlJson *object;		/* NULL with status 0 */
	char	   *reason;			/* of a failure: "AlreadyExists"; "" if none */
	char	   *message;		/* of a failure */
	const RctlHttpRequest *request;
	const RctlHttpResponse *response;
} RctlKubeAnswer;

/*
 * Asks, and asks again where that can help: a GET after any passing trouble,
 * others only if they were surely not done.  PATCH is a JSON merge patch.
 * Raises errors for what is no answer of a Kubernetes API server; failures of
 * Kubernetes are the caller's to judge.
 */
extern RctlKubeAnswer *rctl_kube_ask(RctlKube *kube, const char *method, const char *path,
									 const char *body, const char *action);

/* An answer to a request that another way than rctl_kube_ask() has made. */
extern RctlKubeAnswer *rctl_kube_answer(const RctlHttpRequest *request, const RctlHttpResponse *response);

#define rctl_kube_ok(answer) ((answer)->status >= 200 && (answer)->status < 300)

/* Raises the failure of an answer that is not ok, with Kubernetes' message and a hint. */
extern RCTL_NORETURN void rctl_kube_raise(const RctlKubeAnswer *answer);

/* Whether it says that there is no object of that name, and not that there is no such API at all. */
extern bool rctl_kube_missing(const RctlKubeAnswer *answer, const char *name);

/* "/apis/postgresql.cnpg.io/v1/namespaces/NS/clusters/NAME"; name NULL: all; sub NULL: the object. */
extern char *rctl_kube_path(const RctlKube *kube, const char *api, const char *kind, const char *name, const char *sub);

#endif							/* REPLICA_CTL_PROVIDER_KUBE_H */
