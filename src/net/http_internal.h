/*-------------------------------------------------------------------------
 *
 * http_internal.h
 *	  What the files http*.c share, and nobody else includes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_HTTP_INTERNAL_H
#define REPLICA_CTL_NET_HTTP_INTERNAL_H

#include <sys/socket.h>

#include "net/http.h"

/* An exchange under way (http.c). */
typedef struct RctlTransfer RctlTransfer;

/*
 * Starts one; it belongs to CurrentMemoryContext, and the request must live
 * as long.  It may be over at once.
 */
extern RctlTransfer *rctl_transfer_start(const RctlHttpRequest *request);
extern bool rctl_transfer_done(const RctlTransfer *transfer);

/* The response of one that is done, palloc'd in CurrentMemoryContext. Ends it. */
extern RctlHttpResponse *rctl_transfer_finish(RctlTransfer *transfer);

/* All transfers of this process together: as the functions of http.h, without the tasks. */
extern int	rctl_transfers_sockets(RctlWaitSocket *sockets, int nsockets);
extern int	rctl_transfers_nsockets(void);
extern long rctl_transfers_timeout(void);
extern void rctl_transfers_advance(RctlWaitSocket *sockets, int nsockets);

/* Microseconds of the monotonic clock. */
extern int64 rctl_http_now(void);

/* http_trace.c */
extern void rctl_http_trace(const RctlHttpRequest *request, const RctlHttpResponse *response);

/* http_url.c: what of a URL is of interest here; palloc'd. */
typedef struct RctlHttpUrl
{
	bool		plain;			/* http, not https */
	char	   *host;			/* without brackets */
	char	   *authority;		/* as it is sent in the header "host" */
	char	   *path;			/* "/" at least, without the query */
	char	   *query;			/* or NULL */
} RctlHttpUrl;

/* NULL, or what is wrong with it. */
extern char *rctl_http_url_parse(const char *url, RctlHttpUrl *parsed);
extern bool rctl_http_is_loopback(const struct sockaddr *address);
extern bool rctl_http_is_link_local(const struct sockaddr *address);

#endif							/* REPLICA_CTL_NET_HTTP_INTERNAL_H */
