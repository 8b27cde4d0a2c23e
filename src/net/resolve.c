/*-------------------------------------------------------------------------
 *
 * resolve.c
 *	  Looks up the host names of a connection string without waiting.
 *
 * A job belongs to two: who asked, and the thread; the last one to let go
 * frees it.  It is malloc'ed, and the thread touches nothing else: no palloc,
 * no ereport, no signal (they are blocked in it).
 *
 * Nothing is durable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "storage/fd.h"

#include "net/resolve.h"

/* A connection string names one host, seldom some. */
#define MAX_HOSTS 8
#define MAX_ADDRESSES 4

/* Threads at a time; beyond it a look-up fails at once, and is tried again. */
#define MAX_JOBS 64
#define STACK_BYTES (512 * 1024)

typedef struct Host
{
	char		name[NI_MAXHOST];
	int			count;			/* of addresses; 0: it failed */
	int			error;			/* of getaddrinfo() */
	char		addresses[MAX_ADDRESSES][NI_MAXHOST];
} Host;

typedef struct Job
{
	pthread_mutex_t mutex;
	int			owners;			/* mutex */
	int			pipe;			/* the thread's end */
	int			nhosts;
	Host		hosts[MAX_HOSTS];	/* the thread's until it has written */
} Job;

struct RctlResolve
{
	Job		   *job;
	int			pipe;			/* our end */
	PQconninfoOption *options;
};

/* Jobs whose threads run. */
static int	running = 0;
static pthread_mutex_t running_mutex = PTHREAD_MUTEX_INITIALIZER;

static void
add_running(int change)
{
	pthread_mutex_lock(&running_mutex);
	running += change;
	pthread_mutex_unlock(&running_mutex);
}

static void
let_go(Job *job)
{
	int			owners;

	pthread_mutex_lock(&job->mutex);
	owners = --job->owners;
	pthread_mutex_unlock(&job->mutex);
	if (owners > 0)
		return;
	pthread_mutex_destroy(&job->mutex);
	free(job);
}

static void
look_up(Host *host)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
	struct addrinfo *list = NULL;

	host->error = getaddrinfo(host->name, NULL, &hints, &list);
	if (host->error != 0)
		return;
	for (struct addrinfo *a = list; a && host->count < MAX_ADDRESSES; a = a->ai_next)
	{
		if (getnameinfo(a->ai_addr, a->ai_addrlen, host->addresses[host->count], NI_MAXHOST,
						NULL, 0, NI_NUMERICHOST) == 0)
			host->count++;
	}
	freeaddrinfo(list);
}

static void *
work(void *arg)
{
	Job		   *job = arg;
	ssize_t		written;

	for (int i = 0; i < job->nhosts; i++)
		look_up(&job->hosts[i]);
	/* Who asked may have gone; then nobody reads it. */
	written = write(job->pipe, "", 1);
	(void) written;
	close(job->pipe);
	let_go(job);
	add_running(-1);
	return NULL;
}

static const char *
option_value(PQconninfoOption *options, const char *keyword)
{
	for (PQconninfoOption *o = options; o->keyword; o++)
	{
		if (strcmp(o->keyword, keyword) == 0)
			return o->val && o->val[0] != '\0' ? o->val : NULL;
	}
	return NULL;
}

static bool
is_address(const char *name)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST};
	struct addrinfo *list = NULL;
	bool		result = getaddrinfo(name, NULL, &hints, &list) == 0;

	if (list)
		freeaddrinfo(list);
	return result;
}

/* The hosts of a list, as libpq splits it; false if there are too many. */
static bool
split_hosts(const char *list, Job *job, bool *any_name)
{
	*any_name = false;
	for (const char *from = list;; from++)
	{
		size_t		length = strcspn(from, ",");
		Host	   *host = &job->hosts[job->nhosts];

		if (job->nhosts == MAX_HOSTS || length >= sizeof(host->name))
			return false;
		memcpy(host->name, from, length);
		job->nhosts++;
		/* Directories of sockets, and addresses, are not looked up. */
		if (length == 0 || host->name[0] == '/' || host->name[0] == '@' || is_address(host->name))
			host->count = -1;
		else
			*any_name = true;
		from += length;
		if (*from == '\0')
			return true;
	}
}

/* Starts the thread, with no signal of ours. */
static bool
start_thread(Job *job)
{
	pthread_attr_t attributes;
	pthread_t	thread;
	sigset_t	all;
	sigset_t	before;
	int			error;

	sigfillset(&all);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, work, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error == 0;
}

/* Gives the job to a thread. Returns a reason if that cannot be done. */
static const char *
start_job(Job *job, int *our_end)
{
	int			ends[2];
	bool		busy;

	pthread_mutex_lock(&running_mutex);
	busy = running >= MAX_JOBS;
	pthread_mutex_unlock(&running_mutex);
	if (busy)
		return "too many host names are being looked up";
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
		return "too many files are open";
	job->pipe = ends[1];
	job->owners = 2;
	add_running(1);
	if (start_thread(job))
	{
		*our_end = ends[0];
		return NULL;
	}
	add_running(-1);
	job->owners = 1;
	close(ends[0]);
	close(ends[1]);
	return "no thread can be started to look up a host name";
}

const char *
rctl_resolve_start(const char *conninfo, RctlResolve **resolve)
{
	PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
	const char *hosts = options ? option_value(options, "host") : NULL;
	const char *reason;
	bool		any_name;
	Job		   *job;
	int			end = -1;

	*resolve = NULL;
	/* What cannot be read is for libpq to complain of. */
	if (hosts == NULL || option_value(options, "hostaddr"))
	{
		PQconninfoFree(options);
		return NULL;
	}
	job = calloc(1, sizeof(Job));
	if (job == NULL)
	{
		PQconninfoFree(options);
		return "out of memory";
	}
	pthread_mutex_init(&job->mutex, NULL);
	job->owners = 1;
	if (!split_hosts(hosts, job, &any_name))
		reason = "it has too many or too long host names";
	else if (any_name)
		reason = start_job(job, &end);
	else
		reason = NULL;
	if (end < 0)
	{
		let_go(job);
		PQconninfoFree(options);
		return reason;
	}
	*resolve = palloc(sizeof(RctlResolve));
	(*resolve)->job = job;
	(*resolve)->pipe = end;
	(*resolve)->options = options;
	return NULL;
}

pgsocket
rctl_resolve_socket(const RctlResolve *resolve)
{
	return resolve->pipe;
}

void
rctl_resolve_cancel(RctlResolve *resolve)
{
	close(resolve->pipe);
	let_go(resolve->job);
	PQconninfoFree(resolve->options);
	pfree(resolve);
}

/* The nth of several ports; the only one, or the default, is for all hosts. */
static char *
port_of(const char *ports, int nth)
{
	if (ports == NULL || strchr(ports, ',') == NULL)
		return pstrdup(ports ? ports : "");
	for (; nth > 0 && *ports; nth--)
	{
		ports += strcspn(ports, ",");
		ports += *ports == ',';
	}
	return pnstrdup(ports, strcspn(ports, ","));
}

/*
 * Every host as often as it has addresses, so that libpq tries each; the name
 * stays beside the address, for certificates and password files.
 */
static int
list_addresses(RctlResolve *resolve, StringInfo hosts, StringInfo addresses, StringInfo ports)
{
	const char *all_ports = option_value(resolve->options, "port");
	int			count = 0;

	for (int i = 0; i < resolve->job->nhosts; i++)
	{
		const Host *host = &resolve->job->hosts[i];

		for (int j = 0; j < Max(host->count, host->count < 0 ? 1 : 0); j++)
		{
			const char *comma = count++ > 0 ? "," : "";

			appendStringInfo(hosts, "%s%s", comma, host->name);
			appendStringInfo(addresses, "%s%s", comma, host->count < 0 ? "" : host->addresses[j]);
			appendStringInfo(ports, "%s%s", comma, port_of(all_ports, i));
		}
	}
	return count;
}

static PGconn *
connect_to(PQconninfoOption *options, const char *hosts, const char *addresses, const char *ports)
{
	const char *keywords[64];
	const char *values[64];
	int			count = 0;

	for (PQconninfoOption *o = options; o->keyword && count < lengthof(keywords) - 2; o++)
	{
		const char *value = strcmp(o->keyword, "host") == 0 ? hosts
		: strcmp(o->keyword, "port") == 0 ? ports : o->val;

		if (value == NULL || value[0] == '\0')
			continue;
		keywords[count] = o->keyword;
		values[count++] = value;
	}
	keywords[count] = "hostaddr";
	values[count++] = addresses;
	keywords[count] = NULL;
	values[count] = NULL;
	return PQconnectStartParams(keywords, values, 0);
}

PGconn *
rctl_resolve_connect(RctlResolve *resolve, char **reason)
{
	StringInfoData hosts;
	StringInfoData addresses;
	StringInfoData ports;
	PGconn	   *conn = NULL;

	initStringInfo(&hosts);
	initStringInfo(&addresses);
	initStringInfo(&ports);
	if (list_addresses(resolve, &hosts, &addresses, &ports) > 0)
	{
		conn = connect_to(resolve->options, hosts.data, addresses.data, ports.data);
		*reason = conn ? NULL : pstrdup("out of memory");
	}
	else
		*reason = psprintf("could not translate host name \"%s\" to address: %s",
						   resolve->job->hosts[0].name, gai_strerror(resolve->job->hosts[0].error));
	rctl_resolve_cancel(resolve);
	return conn;
}
