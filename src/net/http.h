/*-------------------------------------------------------------------------
 *
 * http.h
 *	  HTTP by libcurl, waited for by rctl_wait().
 *
 * One exchange turns a request into a response, and raises no error for
 * anything that the other side or the network does: the response says what
 * became of it.  Errors are raised by interrupts (cancel, shutdown, a missed
 * deadline) and by a lack of resources only.
 *
 * Two forms:
 *	  - rctl_http_exchange(), rctl_http_call() and rctl_http_converse() wait.
 *		They are for operation workers (with no transaction open) and for
 *		replica_explain().
 *	  - An RctlHttpTask never waits.  The monitor adds the tasks' sockets and
 *		their time-out to those it waits for anyway.
 *
 * What needs more than one exchange (fetch credentials, then ask; ask again
 * until it is done; try again) is written as a generator, which both forms
 * run: see RctlHttpNext.
 *
 * TLS is always verified.  Plain http goes to a loopback address only, or, if
 * the request says metadata, to a link-local one; both without a proxy.  No
 * redirect is followed: a 3xx is a status as any other.  https honours the
 * proxy variables of the server's environment (https_proxy, no_proxy, ...).
 * HTTP/1.1 is spoken, and connections are kept and used again.
 *
 * What a request or a response points to belongs to the memory context that
 * was current when it was made; a connection belongs to the process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_HTTP_H
#define REPLICA_CTL_NET_HTTP_H

#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "net/map.h"
#include "net/wait.h"

/* An array of these ends with a NULL name. */
typedef struct RctlHttpHeader
{
	const char *name;			/* in a response: in lower case */
	const char *value;			/* NULL or "" in a request: left out */
} RctlHttpHeader;

typedef struct RctlHttpRequest
{
	const char *method;			/* GET, POST, PUT, PATCH, DELETE; NULL: GET */
	const char *url;			/* no user name, password or fragment in it */
	const RctlHttpHeader *headers;	/* or NULL */
	const char *body;			/* NULL: none */
	size_t		body_length;	/* 0: strlen(body) */

	/* For messages and the trace; neither may hold a secret. */
	const char *what;			/* the other side: "Amazon RDS"; NULL: the
								 * host's name */
	const char *action;			/* what is asked of it: "CreateDBCluster"; or
								 * NULL */

	/*
	 * A metadata service of the host: plain http to a link-local address is
	 * allowed, and no proxy is used whatever the scheme is.
	 */
	bool		metadata;

	/*
	 * libcurl sends a request again, unasked, if a connection that it used
	 * before turns out to have been closed.  With this set it goes over a new
	 * connection, so that the other side sees it once at most.
	 */
	bool		once;

	/* What certificates are verified by; all NULL: those of the system. */
	const char *ca_file;		/* a PEM file */
	const char *ca_pem;			/* its content, instead */
	const char *cert_file;		/* a client certificate; or NULL */
	const char *cert_pem;
	const char *key_file;		/* its key; or NULL */
	const char *key_pem;

	/* Milliseconds; 0: the default. */
	int			connect_ms;		/* name, TCP, proxy and TLS together: 5000 */
	int			total_ms;		/* from the start to the answer's last byte:
								 * 30000 */
	size_t		max_body;		/* bytes; 0: 1 MB.  More is a failure. */

	/* It is sent so many milliseconds later: to poll, or to try again. */
	int			delay_ms;

	int			attempt;		/* for the trace only; 0 is 1 */
} RctlHttpRequest;

/* Why there is no answer. */
typedef enum RctlHttpFailure
{
	RCTL_HTTP_OK,				/* there is one: look at the status */
	RCTL_HTTP_REFUSED,			/* by us: the URL or a file is not acceptable */
	RCTL_HTTP_RESOLVE,			/* no such host */
	RCTL_HTTP_CONNECT,			/* nobody listens there, or it timed out */
	RCTL_HTTP_TLS,				/* the certificate is not the right one, ... */
	RCTL_HTTP_TIMEOUT,			/* connected, but no (whole) answer in time */
	RCTL_HTTP_LOST,				/* the connection was closed before its end */
	RCTL_HTTP_TOO_LARGE,		/* more than max_body, or endless headers */
	RCTL_HTTP_GARBAGE,			/* that is not HTTP */
	RCTL_HTTP_OTHER,
} RctlHttpFailure;

typedef struct RctlHttpResponse
{
	int			status;			/* 200, 404, ...; 0: no answer, or not a whole
								 * one */
	RctlHttpHeader *headers;	/* ended by a NULL name; never NULL */
	char	   *body;			/* as it came, any bytes; ends with a NUL that
								 * does not count; never NULL */
	size_t		body_length;

	/* With status 0. */
	RctlHttpFailure failure;
	char	   *reason;			/* a clause for errdetail, without secrets */
	int			sqlerrcode;		/* ERRCODE_CONNECTION_FAILURE, ... */

	/*
	 * A part of the request was sent at least, so that the other side may
	 * have done what it asked.  False: it surely has not.
	 */
	bool		sent;

	int64		retry_after_ms; /* Retry-After as it was sent; -1: none */
	TimestampTz date;			/* Date, by the other side's clock; 0: none */
	int			elapsed_ms;
	const char *request_id;		/* of x-amzn-requestid, x-request-id, ...; or
								 * NULL */
} RctlHttpResponse;

/* The first header of that name (in lower case); NULL if there is none. */
extern const char *rctl_http_header(const RctlHttpResponse *response, const char *name);

/*
 * Why a request to this URL would be refused: a clause for errdetail, or NULL
 * if it would not.  For checking options when they are set.
 */
extern char *rctl_http_url_problem(const char *url, bool metadata);

/* RFC 3986: all but A-Za-z0-9-_.~ becomes %XX.  palloc'd. */
extern char *rctl_http_encode(const char *text);

/* ---- waiting ---- */

/* One exchange. */
extern RctlHttpResponse *rctl_http_exchange(const RctlHttpRequest *request);

/*
 * Raises what a response with status 0 says: "could not reach WHAT" or, if it
 * was sent, "no answer from WHAT to ACTION", with its reason and SQLSTATE.
 */
extern RCTL_NORETURN void rctl_http_raise(const RctlHttpRequest *request, const RctlHttpResponse *response);

/* ---- trying again ---- */

typedef enum RctlHttpVerdict
{
	RCTL_HTTP_TAKE,				/* it is the answer */
	RCTL_HTTP_AGAIN,			/* try again, unless attempts are used up */
	RCTL_HTTP_UNDECIDED,		/* go by the status */
} RctlHttpVerdict;

/* How often to try; fields that are 0 have the default. */
typedef struct RctlHttpRetry
{
	int			attempts;		/* in all: 3 */
	int			base_ms;		/* the pause is random, up to this times 2^n:
								 * 1000 */
	int			max_ms;			/* and never longer than: 20000 */
	int			max_retry_after_ms; /* Retry-After is honoured up to: 60000 */

	/*
	 * Doing it twice is harmless, so that it is sent again when the answer
	 * was lost.  Else only if it was surely not done: nothing was sent, or
	 * the status is 429 or 503.
	 */
	bool		idempotent;

	/*
	 * Looks at the answer first: an error code in a body, say.  May be NULL,
	 * which leaves it to the status: 429, 500, 502, 503, 504, and no answer
	 * but for RCTL_HTTP_REFUSED, _TLS and _TOO_LARGE.
	 */
	RctlHttpVerdict (*judge) (void *arg, const RctlHttpResponse *response);
} RctlHttpRetry;

/*
 * Milliseconds until the next attempt; -1: this response is the last one.
 * attempt is the number of the one that it answers, from 1.  For generators:
 * put it in the next request's delay_ms.
 */
extern int	rctl_http_retry_delay(const RctlHttpRetry *retry, void *arg, int attempt,
								  const RctlHttpResponse *response);

/* Makes the request of an attempt (from 1), anew: signed by the clock as it is then. */
typedef const RctlHttpRequest *(*RctlHttpMake) (void *arg, int attempt);

/* Exchanges until there is an answer to take, or no attempt left. */
extern RctlHttpResponse *rctl_http_call(const RctlHttpRetry *retry, RctlHttpMake make, void *arg);

/* ---- conversations ---- */

/*
 * A generator: returns the next request, or NULL at the end.  response is the
 * answer to the last request, NULL at the first call.  Results are left in
 * state.  It must not wait.  It may raise an error, which ends it.
 *
 * CurrentMemoryContext lives until the request that it returns has been
 * answered and taken by the next call: so requests are simply palloc'd.  What
 * shall live longer belongs to a context of state's own.  The response lives
 * until the call returns.
 */
typedef const RctlHttpRequest *(*RctlHttpNext) (void *state, const RctlHttpResponse *response);

/* Runs it to its end. */
extern void rctl_http_converse(RctlHttpNext next, void *state);

/* ---- without waiting: tasks ---- */

typedef struct RctlHttpTask RctlHttpTask;

/* Starts a conversation.  The task belongs to CurrentMemoryContext: resetting it ends the task. */
extern RctlHttpTask *rctl_http_task_start(RctlHttpNext next, void *state);

/* Whether it has ended; then *error is what it raised, palloc'd with the task, or NULL. */
extern bool rctl_http_task_ended(RctlHttpTask *task, ErrorData **error);

/* Ends it, if it has not ended, and frees it. */
extern void rctl_http_task_end(RctlHttpTask *task);

/* The sockets that all tasks wait for at present: rctl_http_sockets() fills in at most rctl_http_nsockets(). */
extern int	rctl_http_nsockets(void);
extern int	rctl_http_sockets(RctlWaitSocket *sockets, int nsockets);

/* Milliseconds after which rctl_http_advance() must be called in any case; -1: no matter. */
extern long rctl_http_timeout(void);

/*
 * Goes on with all tasks, after a wait with the sockets of rctl_http_sockets().
 * Does not wait; an error of a generator ends its task and is not raised.
 */
extern void rctl_http_advance(RctlWaitSocket *sockets, int nsockets);

/* ---- trace ---- */

/*
 * The exchanges of this process since the last call, at most the last 20, as
 * the text of a JSON array for an event's detail; NULL if there were none.
 * Each is {method, host, action, status, ms, attempt, request_id, failure};
 * no path, query, header or body.  Those of tasks are not among them.
 */
extern char *rctl_http_take_trace(void);

#endif							/* REPLICA_CTL_NET_HTTP_H */
