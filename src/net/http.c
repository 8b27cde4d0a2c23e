/*-------------------------------------------------------------------------
 *
 * http.c
 *	  Transfers by libcurl, all of a process in one multi handle.
 *
 * libcurl tells by callbacks which sockets it waits for and until when; the
 * waiting itself is rctl_wait_many()'s.  Host names are looked up in a thread
 * of libcurl's, which must never run a signal handler of ours: so all signals
 * are blocked while libcurl runs, and its threads inherit that.
 *
 * Its callbacks must not jump, and so must not palloc or ereport: they write
 * to buffers of malloc() that are bounded, and the answer is copied when it is
 * whole.  A transfer has a memory context of its own below the caller's, whose
 * reset callback ends it.  So an error needs no clean-up code.
 *
 * Sockets are opened and closed by us: they count for PostgreSQL's limit of
 * open files, and the address is seen that plain http really goes to.
 *
 * The multi handle, and with it the connections that are kept, lives as long
 * as a worker; in a user's session until the end of the transaction.  Nothing
 * here is durable or in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "net/http_internal.h"
#include "net/text.h"

#define DEFAULT_CONNECT_MS 5000
#define DEFAULT_TOTAL_MS 30000
#define DEFAULT_MAX_BODY (1024 * 1024)
#define MAX_HEAD (64 * 1024)

/* Idle connections that are kept. */
#define MAX_KEPT 8L

/* rctl_wait_check is called this often at least */
#define CHECK_MS 1000

/* libcurl keeps to the time-outs; if it did not, this much later we would. */
#define GRACE_US INT64CONST(2000000)

struct RctlTransfer
{
	dlist_node	node;			/* in http.transfers */
	MemoryContext context;		/* holds this struct */
	MemoryContextCallback callback;
	const RctlHttpRequest *request; /* the caller's */
	CURL	   *easy;
	bool		added;			/* to the multi handle */
	struct curl_slist *headers;
	bool		plain;			/* http: to this host only */
	bool		forbidden;		/* the address was none of those allowed */

	/* Written by callbacks, malloc'd. */
	char	   *body;
	size_t		body_length;
	size_t		body_size;
	char	   *head;			/* lines as they came, each ended by CR LF */
	size_t		head_length;
	size_t		head_size;
	bool		too_large;
	bool		no_memory;
	bool		sent;			/* connected, libcurl goes on to send */

	int64		started;
	int64		deadline;
	bool		done;
	char	   *problem;		/* it was not even started */
	CURLcode	result;
	char		error[CURL_ERROR_SIZE];
};

typedef struct Socket
{
	curl_socket_t sock;
	int			events;			/* CURL_POLL_* */
} Socket;

static struct
{
	CURLM	   *multi;			/* NULL: none yet */
	MemoryContextCallback callback; /* in a user's session */
	Socket	   *sockets;		/* malloc'd, of those libcurl waits for */
	int			nsockets;
	int			maxsockets;
	bool		no_memory;		/* for a socket */
	int64		due;			/* libcurl's timer; -1: none */
	dlist_head	transfers;
}			http = {.due = -1, .transfers = DLIST_STATIC_INIT(http.transfers)};

int64
rctl_http_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000000) + now.tv_nsec / 1000;
}

/* ---- callbacks of libcurl: no palloc, no ereport ---- */

/* False if it would be more than limit, or there is no memory. */
static bool
append(RctlTransfer *transfer, char **buffer, size_t *length, size_t *size,
	   const char *bytes, size_t count, size_t limit)
{
	if (count > limit || *length > limit - count)
	{
		transfer->too_large = true;
		return false;
	}
	if (*length + count > *size)
	{
		size_t		wanted = Min(Max(Max(*size * 2, *length + count), 4096), limit);
		char	   *larger = realloc(*buffer, wanted);

		if (larger == NULL)
		{
			transfer->no_memory = true;
			return false;
		}
		*buffer = larger;
		*size = wanted;
	}
	memcpy(*buffer + *length, bytes, count);
	*length += count;
	return true;
}

static size_t
write_body(char *bytes, size_t size, size_t count, void *arg)
{
	RctlTransfer *transfer = arg;
	size_t		limit = transfer->request->max_body ? transfer->request->max_body : DEFAULT_MAX_BODY;

	return append(transfer, &transfer->body, &transfer->body_length, &transfer->body_size,
				  bytes, size * count, limit) ? size * count : 0;
}

static size_t
write_header(char *bytes, size_t size, size_t count, void *arg)
{
	RctlTransfer *transfer = arg;

	/* Those of an answer before the answer (100 Continue) are not wanted. */
	if (size * count > 5 && strncmp(bytes, "HTTP/", 5) == 0)
		transfer->head_length = 0;
	return append(transfer, &transfer->head, &transfer->head_length, &transfer->head_size,
				  bytes, size * count, MAX_HEAD) ? size * count : 0;
}

/*
 * Called just before the request is sent.  The times that libcurl gives when
 * asked afterwards are no substitute: newer versions fill in those of phases
 * that were never reached.
 */
static int
before_request(void *arg, char *to, char *from, int to_port, int from_port)
{
	RctlTransfer *transfer = arg;

	transfer->sent = true;
	return CURL_PREREQFUNC_OK;
}

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	RctlTransfer *transfer = arg;
	curl_socket_t sock;

	if (transfer->plain && !rctl_http_is_loopback(&address->addr) &&
		!(transfer->request->metadata && rctl_http_is_link_local(&address->addr)))
	{
		transfer->forbidden = true;
		return CURL_SOCKET_BAD;
	}
	if (!AcquireExternalFD())
		return CURL_SOCKET_BAD;
	sock = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	if (sock < 0)
		ReleaseExternalFD();
	return sock < 0 ? CURL_SOCKET_BAD : sock;
}

static int
close_socket(void *arg, curl_socket_t sock)
{
	ReleaseExternalFD();
	return close(sock);
}

/* libcurl waits for other events of a socket now, or not for it any more. */
static int
socket_changed(CURL *easy, curl_socket_t sock, int events, void *arg, void *socket_arg)
{
	int			i = 0;

	while (i < http.nsockets && http.sockets[i].sock != sock)
		i++;
	if (events == CURL_POLL_REMOVE)
	{
		if (i < http.nsockets)
			http.sockets[i] = http.sockets[--http.nsockets];
		return 0;
	}
	if (i == http.maxsockets)
	{
		int			wanted = Max(http.maxsockets * 2, 16);
		Socket	   *larger = realloc(http.sockets, sizeof(Socket) * wanted);

		/* It will time out. */
		if (larger == NULL)
			return 0;
		http.sockets = larger;
		http.maxsockets = wanted;
	}
	http.sockets[i].sock = sock;
	http.sockets[i].events = events;
	if (i == http.nsockets)
		http.nsockets++;
	return 0;
}

static int
timer_changed(CURLM *multi, long timeout_ms, void *arg)
{
	http.due = timeout_ms < 0 ? -1 : rctl_http_now() + timeout_ms * INT64CONST(1000);
	return 0;
}

/* ---- the multi handle ---- */

static void
block_signals(sigset_t *before)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
}

static void
restore_signals(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* The transaction of a user's session has ended, and all transfers with it. */
static void
close_multi(void *arg)
{
	dlist_mutable_iter iter;
	sigset_t	signals;

	block_signals(&signals);
	dlist_foreach_modify(iter, &http.transfers)
	{
		RctlTransfer *transfer = dlist_container(RctlTransfer, node, iter.cur);

		if (transfer->added)
			curl_multi_remove_handle(http.multi, transfer->easy);
		transfer->added = false;
	}
	curl_multi_cleanup(http.multi);
	restore_signals(&signals);
	http.multi = NULL;
	http.nsockets = 0;
	http.due = -1;
}

static void
open_multi(void)
{
	static bool initialized = false;
	CURLM	   *multi;

	if (http.multi)
		return;
	Assert(IsUnderPostmaster);
	if (!initialized && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not initialize libcurl")));
	if (!initialized && !(curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_ASYNCHDNS))
		ereport(LOG,
				(errmsg("this libcurl looks host names up without a thread"),
				 errdetail("While one is looked up, nothing else is done.")));
	initialized = true;

	multi = curl_multi_init();
	if (multi == NULL ||
		curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, socket_changed) != CURLM_OK ||
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, timer_changed) != CURLM_OK ||
#if LIBCURL_VERSION_NUM >= 0x081400
	/* Else its end waits for all names that are being looked up. */
		curl_multi_setopt(multi, CURLMOPT_QUICK_EXIT, 1L) != CURLM_OK ||
#endif
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, MAX_KEPT) != CURLM_OK)
	{
		curl_multi_cleanup(multi);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	}
	http.multi = multi;
	if (IsTransactionState())
	{
		http.callback.func = close_multi;
		MemoryContextRegisterResetCallback(TopTransactionContext, &http.callback);
	}
}

/* Takes note of the transfers that have ended. */
static void
collect(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(http.multi, &left)) != NULL)
	{
		RctlTransfer *transfer = NULL;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &transfer);
		transfer->result = message->data.result;
		transfer->done = true;
	}
}

static void
drive(curl_socket_t sock, int ready)
{
	sigset_t	signals;
	int			running;

	block_signals(&signals);
	(void) curl_multi_socket_action(http.multi, sock, ready, &running);
	restore_signals(&signals);
	collect();
}

int
rctl_transfers_nsockets(void)
{
	return http.nsockets;
}

int
rctl_transfers_sockets(RctlWaitSocket *sockets, int nsockets)
{
	int			count = Min(nsockets, http.nsockets);

	for (int i = 0; i < count; i++)
	{
		int			events = http.sockets[i].events;

		sockets[i].sock = http.sockets[i].sock;
		sockets[i].ready = 0;
		sockets[i].events = ((events & CURL_POLL_IN) ? WL_SOCKET_READABLE : 0) |
			((events & CURL_POLL_OUT) ? WL_SOCKET_WRITEABLE : 0);
	}
	return count;
}

long
rctl_transfers_timeout(void)
{
	int64		due = http.due < 0 ? PG_INT64_MAX : http.due;
	bool		busy = http.due >= 0;
	dlist_iter	iter;

	dlist_foreach(iter, &http.transfers)
	{
		RctlTransfer *transfer = dlist_container(RctlTransfer, node, iter.cur);

		if (!transfer->added)
			continue;
		busy = true;
		due = transfer->done ? 0 : Min(due, transfer->deadline);
	}
	/* Rounded up, so that it does not wake before it is time. */
	return busy ? Max((due - rctl_http_now() + 999) / 1000, 0) : -1;
}

void
rctl_transfers_advance(RctlWaitSocket *sockets, int nsockets)
{
	dlist_iter	iter;
	int64		now;

	if (http.multi == NULL)
		return;
	for (int i = 0; i < nsockets; i++)
	{
		int			ready = ((sockets[i].ready & WL_SOCKET_READABLE) ? CURL_CSELECT_IN : 0) |
		((sockets[i].ready & WL_SOCKET_WRITEABLE) ? CURL_CSELECT_OUT : 0);

		if (ready)
			drive(sockets[i].sock, ready);
	}
	now = rctl_http_now();
	if (http.due >= 0 && http.due <= now)
	{
		http.due = -1;
		drive(CURL_SOCKET_TIMEOUT, 0);
	}
	dlist_foreach(iter, &http.transfers)
	{
		RctlTransfer *transfer = dlist_container(RctlTransfer, node, iter.cur);

		if (transfer->added && !transfer->done && transfer->deadline <= now)
		{
			transfer->result = CURLE_OPERATION_TIMEDOUT;
			transfer->done = true;
		}
	}
}

/* ---- one transfer ---- */

static void
transfer_callback(void *arg)
{
	RctlTransfer *transfer = arg;
	sigset_t	signals;

	dlist_delete(&transfer->node);
	block_signals(&signals);
	if (transfer->added)
		curl_multi_remove_handle(http.multi, transfer->easy);
	curl_easy_cleanup(transfer->easy);
	restore_signals(&signals);
	curl_slist_free_all(transfer->headers);
	free(transfer->body);
	free(transfer->head);
}

static RctlTransfer *
make_transfer(const RctlHttpRequest *request)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl transfer",
												  ALLOCSET_SMALL_SIZES);
	RctlTransfer *transfer = MemoryContextAllocZero(context, sizeof(RctlTransfer));

	transfer->context = context;
	transfer->request = request;
	transfer->started = rctl_http_now();
	transfer->callback.func = transfer_callback;
	transfer->callback.arg = transfer;
	dlist_push_tail(&http.transfers, &transfer->node);
	MemoryContextRegisterResetCallback(context, &transfer->callback);
	return transfer;
}

/* Whether it can stand in a header line without being more than that. */
static bool
is_line(const char *text)
{
	for (; *text; text ++)
		if ((unsigned char) *text <' ' && *text !='\t')
			return false;
	return true;
}

static bool
add_header(RctlTransfer *transfer, const char *line)
{
	struct curl_slist *longer = curl_slist_append(transfer->headers, line);

	if (longer)
		transfer->headers = longer;
	return longer != NULL;
}

/* Returns what is wrong with them, or NULL. */
static char *
set_headers(RctlTransfer *transfer)
{
	const RctlHttpHeader *header = transfer->request->headers;
	bool		typed = false;

	for (; header && header->name; header++)
	{
		char	   *line;
		bool		added;

		if (header->value == NULL || *header->value == '\0')
			continue;
		if (!is_line(header->value) || strpbrk(header->name, ": \t\r\n"))
			return psprintf("the value of header \"%s\" holds a control character", header->name);
		if (pg_strcasecmp(header->name, "content-type") == 0)
			typed = true;
		line = psprintf("%s: %s", header->name, header->value);
		added = add_header(transfer, line);
		explicit_bzero(line, strlen(line));
		pfree(line);
		if (!added)
			return "out of memory";
	}

	/* What libcurl adds by itself, for a body. */
	if (!add_header(transfer, "Expect:") || (!typed && !add_header(transfer, "Content-Type:")))
		return "out of memory";
	return NULL;
}

#define SET(option, value) \
	do { \
		if (code == CURLE_OK) \
			code = curl_easy_setopt(easy, option, value); \
	} while (0)

static CURLcode
set_method(CURL *easy, const RctlHttpRequest *request)
{
	const char *method = request->method ? request->method : "GET";
	CURLcode	code = CURLE_OK;

	if (request->body || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 ||
		strcmp(method, "PATCH") == 0)
	{
		const char *body = request->body ? request->body : "";
		size_t		length = request->body_length ? request->body_length : strlen(body);

		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) length);
		SET(CURLOPT_POSTFIELDS, body);
	}
	else if (strcmp(method, "HEAD") == 0)
		SET(CURLOPT_NOBODY, 1L);
	else
		SET(CURLOPT_HTTPGET, 1L);
	if (strcmp(method, "HEAD") != 0)
		SET(CURLOPT_CUSTOMREQUEST, method);
	return code;
}

static CURLcode
set_protocol(CURL *easy, bool plain)
{
	CURLcode	code = CURLE_OK;

#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, plain ? "http" : "https");
#else
	SET(CURLOPT_PROTOCOLS, (long) (plain ? CURLPROTO_HTTP : CURLPROTO_HTTPS));
#endif
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_PATH_AS_IS, 1L);
	SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SET(CURLOPT_USERAGENT, "replica_ctl");
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
	/* Else ending a transfer waits until its name is looked up. */
	SET(CURLOPT_QUICK_EXIT, 1L);
#endif
	return code;
}

static CURLcode
set_blob(CURL *easy, CURLoption option, const char *pem)
{
	struct curl_blob blob = {.data = unconstify(char *, pem), .len = strlen(pem), .flags = CURL_BLOB_COPY};

	return curl_easy_setopt(easy, option, &blob);
}

static CURLcode
set_tls(CURL *easy, const RctlHttpRequest *request)
{
	CURLcode	code = CURLE_OK;

	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	/* An authority that is named is the only one. */
	if (request->ca_file || request->ca_pem)
		SET(CURLOPT_CAPATH, NULL);
	if (request->ca_file)
		SET(CURLOPT_CAINFO, request->ca_file);
	else if (request->ca_pem)
	{
		SET(CURLOPT_CAINFO, NULL);
		if (code == CURLE_OK)
			code = set_blob(easy, CURLOPT_CAINFO_BLOB, request->ca_pem);
	}
	if (request->cert_file)
		SET(CURLOPT_SSLCERT, request->cert_file);
	else if (request->cert_pem && code == CURLE_OK)
		code = set_blob(easy, CURLOPT_SSLCERT_BLOB, request->cert_pem);
	if (request->key_file)
		SET(CURLOPT_SSLKEY, request->key_file);
	else if (request->key_pem && code == CURLE_OK)
		code = set_blob(easy, CURLOPT_SSLKEY_BLOB, request->key_pem);
	return code;
}

static CURLcode
set_callbacks(CURL *easy, RctlTransfer *transfer)
{
	CURLcode	code = CURLE_OK;

	SET(CURLOPT_PRIVATE, (char *) transfer);
	SET(CURLOPT_ERRORBUFFER, transfer->error);
	SET(CURLOPT_WRITEFUNCTION, write_body);
	SET(CURLOPT_WRITEDATA, transfer);
	SET(CURLOPT_HEADERFUNCTION, write_header);
	SET(CURLOPT_HEADERDATA, transfer);
	SET(CURLOPT_PREREQFUNCTION, before_request);
	SET(CURLOPT_PREREQDATA, transfer);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_OPENSOCKETDATA, transfer);
	SET(CURLOPT_CLOSESOCKETFUNCTION, close_socket);
	return code;
}

/* Returns why it cannot be started, or NULL. */
static char *
prepare(RctlTransfer *transfer)
{
	const RctlHttpRequest *request = transfer->request;
	long		total_ms = request->total_ms > 0 ? request->total_ms : DEFAULT_TOTAL_MS;
	long		connect_ms = request->connect_ms > 0 ? request->connect_ms : DEFAULT_CONNECT_MS;
	char	   *problem = rctl_http_url_problem(request->url, request->metadata);
	CURL	   *easy;
	CURLcode	code;

	if (problem)
		return problem;
	if ((problem = set_headers(transfer)) != NULL)
		return problem;
	easy = transfer->easy = curl_easy_init();
	if (easy == NULL)
		return "out of memory";
	transfer->plain = pg_strncasecmp(request->url, "http:", 5) == 0;
	transfer->deadline = transfer->started + total_ms * 1000 + GRACE_US;

	code = set_callbacks(easy, transfer);
	if (code == CURLE_OK)
		code = set_protocol(easy, transfer->plain);
	if (code == CURLE_OK)
		code = set_method(easy, request);
	if (code == CURLE_OK && !transfer->plain)
		code = set_tls(easy, request);
	SET(CURLOPT_URL, request->url);
	SET(CURLOPT_HTTPHEADER, transfer->headers);
	SET(CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
	SET(CURLOPT_TIMEOUT_MS, total_ms);
	if (transfer->plain || request->metadata)
		SET(CURLOPT_PROXY, "");
	if (request->once)
		SET(CURLOPT_FRESH_CONNECT, 1L);
	if (code != CURLE_OK)
		return psprintf("libcurl refuses it: %s", curl_easy_strerror(code));
	return NULL;
}

RctlTransfer *
rctl_transfer_start(const RctlHttpRequest *request)
{
	RctlTransfer *transfer;
	sigset_t	signals;
	CURLMcode	code;

	open_multi();
	transfer = make_transfer(request);
	transfer->problem = prepare(transfer);
	if (transfer->problem)
	{
		transfer->done = true;
		return transfer;
	}
	block_signals(&signals);
	code = curl_multi_add_handle(http.multi, transfer->easy);
	restore_signals(&signals);
	if (code != CURLM_OK)
		elog(ERROR, "libcurl: %s", curl_multi_strerror(code));
	transfer->added = true;
	return transfer;
}

bool
rctl_transfer_done(const RctlTransfer *transfer)
{
	return transfer->done;
}

/* ---- the response ---- */

/* Splits the header lines. */
static void
take_headers(const RctlTransfer *transfer, RctlHttpResponse *response)
{
	char	   *head = rctl_valid_text(transfer->head, transfer->head_length);
	int			count = 0;
	char	   *next;

	for (char *p = head; *p; p++)
		count += *p == '\n';
	response->headers = palloc0(sizeof(RctlHttpHeader) * (count + 2));
	count = 0;
	for (char *line = head; *line; line = next)
	{
		char	   *colon;
		char	   *value;

		next = line + strcspn(line, "\n");
		if (*next)
			*next++ = '\0';
		line[strcspn(line, "\r")] = '\0';
		colon = strchr(line, ':');
		if (colon == NULL || strncmp(line, "HTTP/", 5) == 0)
			continue;
		*colon = '\0';
		for (char *p = line; *p; p++)
			*p = pg_ascii_tolower((unsigned char) *p);
		value = colon + 1 + strspn(colon + 1, " \t");
		for (char *end = value + strlen(value); end > value && (end[-1] == ' ' || end[-1] == '\t');)
			*--end = '\0';
		response->headers[count].name = line;
		response->headers[count++].value = value;
	}
}

static void
fail(RctlHttpResponse *response, RctlHttpFailure failure, int sqlerrcode, const char *reason)
{
	response->failure = failure;
	response->sqlerrcode = sqlerrcode;
	response->reason = rctl_redact(rctl_valid_text(reason, strlen(reason)));
}

/* How far it had come when time was up. */
static void
fail_by_time(const RctlTransfer *transfer, RctlHttpResponse *response)
{
	const RctlHttpRequest *request = transfer->request;
	curl_off_t	resolved = 0;
	const char *reason;

	curl_easy_getinfo(transfer->easy, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
	if (!response->sent)
	{
		if (resolved == 0)
			reason = "the host name was not resolved";
		else if (transfer->plain)
			reason = "no connection was made";
		else
			reason = "no TLS connection was made";
		fail(response, RCTL_HTTP_CONNECT, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
			 psprintf("%s within %d ms", reason, response->elapsed_ms));
		return;
	}
	reason = transfer->head_length > 0 ? "the answer was not complete" : "no answer came";
	fail(response, RCTL_HTTP_TIMEOUT, ERRCODE_CONNECTION_FAILURE,
		 psprintf("%s within %d ms", reason, request->total_ms > 0 ? request->total_ms : DEFAULT_TOTAL_MS));
}

static void
fail_by_size(const RctlTransfer *transfer, RctlHttpResponse *response)
{
	if (transfer->no_memory)
		fail(response, RCTL_HTTP_OTHER, ERRCODE_OUT_OF_MEMORY, "out of memory");
	else
		fail(response, RCTL_HTTP_TOO_LARGE, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
			 psprintf("the answer is larger than %zu bytes",
					  transfer->request->max_body ? transfer->request->max_body : (size_t) DEFAULT_MAX_BODY));
}

/* What libcurl says became of it, in our words. */
static void
take_failure(const RctlTransfer *transfer, RctlHttpResponse *response)
{
	const char *reason = transfer->error[0] ? transfer->error : curl_easy_strerror(transfer->result);
	const int	no_connection = ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;

	switch (transfer->result)
	{
		case CURLE_OPERATION_TIMEDOUT:
			fail_by_time(transfer, response);
			break;
		case CURLE_WRITE_ERROR:
			fail_by_size(transfer, response);
			break;
		case CURLE_COULDNT_RESOLVE_HOST:
		case CURLE_COULDNT_RESOLVE_PROXY:
			fail(response, RCTL_HTTP_RESOLVE, no_connection, reason);
			break;
		case CURLE_COULDNT_CONNECT:
			if (transfer->forbidden)
				fail(response, RCTL_HTTP_REFUSED, ERRCODE_INVALID_PARAMETER_VALUE,
					 "plain http is for addresses of this host only, and the name stands for another one");
			else
				fail(response, RCTL_HTTP_CONNECT, no_connection, reason);
			break;
			/* closed while TLS was negotiated, say */
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PROXY:
			fail(response, RCTL_HTTP_CONNECT, no_connection, reason);
			break;
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_SSL_CIPHER:
			fail(response, RCTL_HTTP_TLS, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION, reason);
			break;
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CACERT_BADFILE:
			fail(response, RCTL_HTTP_REFUSED, ERRCODE_CONFIG_FILE_ERROR, reason);
			break;
		case CURLE_SEND_ERROR:
		case CURLE_RECV_ERROR:
		case CURLE_GOT_NOTHING:
		case CURLE_PARTIAL_FILE:
			if (response->sent)
				fail(response, RCTL_HTTP_LOST, ERRCODE_CONNECTION_FAILURE, reason);
			else				/* by a proxy, say */
				fail(response, RCTL_HTTP_CONNECT, no_connection, reason);
			break;
		case CURLE_UNSUPPORTED_PROTOCOL:	/* an answer without a status line */
		case CURLE_WEIRD_SERVER_REPLY:
		case CURLE_BAD_CONTENT_ENCODING:
			fail(response, RCTL_HTTP_GARBAGE, ERRCODE_PROTOCOL_VIOLATION, reason);
			break;
		default:
			fail(response, RCTL_HTTP_OTHER, ERRCODE_CONNECTION_FAILURE, reason);
			break;
	}
}

/* Seconds, or a date. */
static int64
retry_after(const RctlHttpResponse *response)
{
	const char *value = rctl_http_header(response, "retry-after");
	time_t		at;

	if (value == NULL)
		return -1;
	if (*value && strspn(value, "0123456789") == strlen(value))
		return strlen(value) > 9 ? PG_INT64_MAX : strtol(value, NULL, 10) * INT64CONST(1000);
	at = curl_getdate(value, NULL);
	return at < 0 ? -1 : Max((int64) (at - time(NULL)), 0) * 1000;
}

static void
take_meaning(RctlHttpResponse *response)
{
	static const char *const ids[] = {"x-amzn-requestid", "x-amz-request-id", "x-request-id", "x-correlation-id"};
	const char *date = rctl_http_header(response, "date");
	time_t		at = date ? curl_getdate(date, NULL) : -1;

	if (at > 0)
		response->date = time_t_to_timestamptz(at);
	response->retry_after_ms = retry_after(response);
	for (int i = 0; i < lengthof(ids) && response->request_id == NULL; i++)
		response->request_id = rctl_http_header(response, ids[i]);
}

RctlHttpResponse *
rctl_transfer_finish(RctlTransfer *transfer)
{
	RctlHttpResponse *response = palloc0(sizeof(RctlHttpResponse));
	long		status = 0;

	response->elapsed_ms = (rctl_http_now() - transfer->started) / 1000;
	response->retry_after_ms = -1;
	response->body = "";
	response->headers = palloc0(sizeof(RctlHttpHeader));
	if (transfer->problem)
	{
		fail(response, RCTL_HTTP_REFUSED, ERRCODE_INVALID_PARAMETER_VALUE, transfer->problem);
		MemoryContextDelete(transfer->context);
		return response;
	}

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	response->sent = transfer->sent;
	take_headers(transfer, response);
	take_meaning(response);
	if (transfer->result != CURLE_OK)
		take_failure(transfer, response);
	else if (status < 100 || status > 999)
		fail(response, RCTL_HTTP_GARBAGE, ERRCODE_PROTOCOL_VIOLATION, "the answer has no status");
	else
	{
		response->status = status;
		response->body_length = transfer->body_length;
		response->body = palloc(transfer->body_length + 1);
		if (transfer->body_length > 0)
			memcpy(response->body, transfer->body, transfer->body_length);
		response->body[transfer->body_length] = '\0';
	}
	MemoryContextDelete(transfer->context);
	return response;
}

const char *
rctl_http_header(const RctlHttpResponse *response, const char *name)
{
	for (const RctlHttpHeader *header = response->headers; header->name; header++)
		if (strcmp(header->name, name) == 0)
			return header->value;
	return NULL;
}

/* ---- waiting for one ---- */

static void
wait_for_transfer(RctlTransfer *transfer)
{
	RctlWaitSocket *sockets = NULL;
	int			room = 0;

	while (!transfer->done)
	{
		long		timeout = rctl_transfers_timeout();
		int			count;

		if (http.nsockets > room || sockets == NULL)
		{
			room = http.nsockets + 4;
			sockets = sockets ? repalloc(sockets, sizeof(RctlWaitSocket) * room) :
				palloc(sizeof(RctlWaitSocket) * room);
		}
		count = rctl_transfers_sockets(sockets, room);
		rctl_wait_many(sockets, count, timeout < 0 ? CHECK_MS : Min(timeout, CHECK_MS));
		rctl_transfers_advance(sockets, count);
	}
	if (sockets)
		pfree(sockets);
}

RctlHttpResponse *
rctl_http_exchange(const RctlHttpRequest *request)
{
	RctlTransfer *transfer;
	RctlHttpResponse *response;

	if (request->delay_ms > 0)
		rctl_sleep(request->delay_ms);
	transfer = rctl_transfer_start(request);
	PG_TRY();
	{
		wait_for_transfer(transfer);
	}
	PG_CATCH();
	{
		/* Whoever catches it may go on for long before memory is reset. */
		MemoryContextDelete(transfer->context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	response = rctl_transfer_finish(transfer);
	rctl_http_trace(request, response);
	return response;
}
