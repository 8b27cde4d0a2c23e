/*-------------------------------------------------------------------------
 *
 * writer.c
 *	  Clients that write one row a transaction and remember what was
 *	  acknowledged: for the tests and benchmarks of promotions.
 *
 *	  writer CONNINFO MODES SECONDS LOGFILE
 *
 * One process for each letter of MODES:
 *
 *	  a  autocommit			   m  several statements in a transaction
 *	  p  prepared statement	   t  two-phase commit
 *	  s  synchronous_commit = off (a loss of these after a crash is allowed)
 *
 * Each inserts (client, seq) into table acked, with seq counting up, and
 * appends a line "client seq started acknowledged port" (times in µs since
 * the epoch) to LOGFILE.client once COMMIT was acknowledged, never before.  A
 * row whose COMMIT got no answer is not written to the log, and its seq is
 * not used again.  A lost connection is made again at once, to whatever host
 * of CONNINFO takes writes.  Ends after SECONDS, or at SIGTERM.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

static volatile sig_atomic_t stop = 0;

static void
on_term(int signo)
{
	(void) signo;
	if (stop == 0)
		stop = 1;
}

/* Without SA_RESTART: wait() must return. */
static void
set_handler(int signo)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = on_term;
	sigaction(signo, &action, NULL);
}

static long long
now_us(void)
{
	struct timeval tv;

	gettimeofday(&tv, NULL);
	return tv.tv_sec * 1000000LL + tv.tv_usec;
}

static int
run(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(result);

	PQclear(result);
	return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* Writes one row; true if its commit was acknowledged. */
static int
write_row(PGconn *conn, char mode, int client, long seq)
{
	char		sql[256];
	char		gid[64];

	if (mode == 'p')
		snprintf(sql, sizeof(sql), "EXECUTE w (%d, %ld)", client, seq);
	else
		snprintf(sql, sizeof(sql), "INSERT INTO acked VALUES (%d, %ld)", client, seq);

	switch (mode)
	{
		case 'm':
			return run(conn, "BEGIN") && run(conn, "SELECT 1") && run(conn, sql) &&
				run(conn, "SELECT 2") && run(conn, "COMMIT");
		case 't':
			snprintf(gid, sizeof(gid), "PREPARE TRANSACTION 'w%d_%ld'", client, seq);
			if (!(run(conn, "BEGIN") && run(conn, sql) && run(conn, gid)))
				return 0;
			snprintf(gid, sizeof(gid), "COMMIT PREPARED 'w%d_%ld'", client, seq);
			return run(conn, gid);
		default:
			return run(conn, sql);
	}
}

static PGconn *
connect_to_primary(const char *conninfo, char mode)
{
	PGconn	   *conn = PQconnectdb(conninfo);

	if (PQstatus(conn) == CONNECTION_OK &&
		(mode != 's' || run(conn, "SET synchronous_commit = off")) &&
		(mode != 'p' || run(conn, "PREPARE w (int, bigint) AS INSERT INTO acked VALUES ($1, $2)")))
		return conn;
	PQfinish(conn);
	return NULL;
}

static void
client_main(const char *conninfo, char mode, int client, double seconds, const char *logfile)
{
	long long	end = now_us() + (long long) (seconds * 1e6);
	char		path[1024];
	PGconn	   *conn = NULL;
	FILE	   *log;

	snprintf(path, sizeof(path), "%s.%d", logfile, client);
	log = fopen(path, "w");
	if (log == NULL)
	{
		perror(path);
		_exit(1);
	}
	for (long seq = 1; !stop && now_us() < end; seq++)
	{
		long long	began;

		while (conn == NULL && !stop && now_us() < end)
		{
			struct timespec pause = {0, 1000000};

			conn = connect_to_primary(conninfo, mode);
			if (conn == NULL)
				nanosleep(&pause, NULL);
		}
		if (conn == NULL)
			break;
		began = now_us();
		if (write_row(conn, mode, client, seq))
		{
			fprintf(log, "%d %ld %lld %lld %s %s\n", client, seq, began, now_us(), PQport(conn),
					PQhost(conn));
			fflush(log);
		}
		else
		{
			/* Connected or not: look for a host that takes writes. */
			PQfinish(conn);
			conn = NULL;
		}
	}
	PQfinish(conn);
	fclose(log);
}

int
main(int argc, char **argv)
{
	int			count;

	if (argc != 5)
	{
		fprintf(stderr, "usage: writer CONNINFO MODES SECONDS LOGFILE\n");
		return 2;
	}
	/* A group of its own, so that one SIGTERM to this process ends all of it. */
	(void) setpgid(0, 0);
	signal(SIGINT, on_term);
	signal(SIGPIPE, SIG_IGN);
	set_handler(SIGTERM);
	count = (int) strlen(argv[2]);
	for (int i = 0; i < count; i++)
	{
		if (fork() == 0)
		{
			client_main(argv[1], argv[2][i], i, strtod(argv[3], NULL), argv[4]);
			_exit(0);
		}
	}
	while (count > 0)
	{
		if (wait(NULL) > 0)
			count--;
		else if (errno == EINTR && stop == 1)
		{
			stop = 2;
			kill(0, SIGTERM);
		}
		else if (errno != EINTR)
			break;
	}
	return 0;
}
