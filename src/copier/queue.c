/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  The threads of replica_ctl_copy and what they are given to do.
 *
 * Files wait in a ring of fixed length, which the walker fills.  Pieces of
 * large files are pushed by the worker that opened the file and are taken
 * before further files, so that there are never more of them than workers
 * times the pieces of one file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <errno.h>
#include <time.h>

#include "copier/copier.h"

#define QUEUE_LENGTH 1024
#define REPORT_MS 250

/* The rate is kept over times of this length. */
#define BURST_MS 100

typedef struct Task
{
	RctlCopyWork work;
	RctlCopyFile *file;
	off_t		offset;
	off_t		length;
	struct Task *next;			/* of pieces */
} Task;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;	/* for workers */
static pthread_cond_t room = PTHREAD_COND_INITIALIZER;	/* for the walker */
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;	/* for the main thread */

/* All of these are protected by lock. */
static Task ring[QUEUE_LENGTH];
static uint64 ring_put;			/* tasks ever put there */
static uint64 ring_taken;
static Task *pieces;			/* the last pushed first */
static bool walked;				/* no more files will come */
static int	busy;				/* workers that have a task */

static pthread_mutex_t rate_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64 rate_next;		/* microseconds: when the bytes taken until
								 * now are due; protected by rate_lock */

static uint64
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void
rctl_copy_throttle(uint64 bytes)
{
	uint64		now;
	uint64		due;

	if (rctl_copy_options.rate == 0 || bytes == 0)
		return;
	pthread_mutex_lock(&rate_lock);
	now = now_us();
	/* What was not used is not saved up, but for a moment. */
	if (rate_next + BURST_MS * 1000 < now)
		rate_next = now - BURST_MS * 1000;
	rate_next += bytes * 1000000 / rctl_copy_options.rate;
	due = rate_next;
	pthread_mutex_unlock(&rate_lock);
	if (due > now)
	{
		struct timespec pause = {
			.tv_sec = (due - now) / 1000000,
			.tv_nsec = (due - now) % 1000000 * 1000,
		};

		nanosleep(&pause, NULL);
	}
}

size_t
rctl_copy_chunk(void)
{
	uint64		size = RCTL_COPY_CHUNK;

	if (rctl_copy_options.rate > 0)
		size = rctl_copy_options.rate / 10;
	size -= size % BLCKSZ;
	return Max(Min(size, RCTL_COPY_CHUNK), BLCKSZ);
}

void
rctl_copy_queue(RctlCopyWork work, RctlCopyFile *file)
{
	pthread_mutex_lock(&lock);
	while (ring_put - ring_taken == QUEUE_LENGTH)
		pthread_cond_wait(&room, &lock);
	ring[ring_put % QUEUE_LENGTH] = (Task)
	{
		.work = work,
			.file = file,
	};
	ring_put++;
	pthread_cond_signal(&more);
	pthread_mutex_unlock(&lock);
}

void
rctl_copy_queue_piece(RctlCopyWork work, RctlCopyFile *file, off_t offset, off_t length)
{
	Task	   *task = rctl_copy_alloc(sizeof(Task));

	task->work = work;
	task->file = file;
	task->offset = offset;
	task->length = length;
	pthread_mutex_lock(&lock);
	task->next = pieces;
	pieces = task;
	pthread_cond_signal(&more);
	pthread_mutex_unlock(&lock);
}

static bool
all_done(void)
{
	return walked && busy == 0 && pieces == NULL && ring_taken == ring_put;
}

/* The last one lets all others go; called with the lock. */
static void
tell_if_done(void)
{
	if (!all_done())
		return;
	pthread_cond_broadcast(&more);
	pthread_cond_signal(&done);
}

/* Waits for a task; false if there will be none. */
static bool
take(Task *task)
{
	bool		found = true;

	pthread_mutex_lock(&lock);
	for (;;)
	{
		if (pieces)
		{
			Task	   *first = pieces;

			*task = *first;
			pieces = first->next;
			free(first);
			break;
		}
		if (ring_taken < ring_put)
		{
			*task = ring[ring_taken % QUEUE_LENGTH];
			if (ring_put - ring_taken++ == QUEUE_LENGTH)
				pthread_cond_signal(&room);
			break;
		}
		/* One that is busy may push pieces. */
		if (walked && busy == 0)
		{
			found = false;
			break;
		}
		pthread_cond_wait(&more, &lock);
	}
	if (found)
		busy++;
	pthread_mutex_unlock(&lock);
	return found;
}

static void *
aligned_buffer(void)
{
	void	   *buffer;

	if (posix_memalign(&buffer, RCTL_COPY_ALIGN, RCTL_COPY_CHUNK) != 0)
		rctl_copy_fail("53200", 0, "out of memory");
	return buffer;
}

static void *
worker_main(void *arg)
{
	RctlCopyWorker worker = {.buffer = aligned_buffer()};
	Task		task;

	if (rctl_copy_options.resync)
		worker.other = aligned_buffer();
	while (take(&task))
	{
		task.work(&worker, task.file, task.offset, task.length);
		pthread_mutex_lock(&lock);
		busy--;
		tell_if_done();
		pthread_mutex_unlock(&lock);
	}
	free(worker.buffer);
	free(worker.other);
	return NULL;
}

static void *
walker_main(void *arg)
{
	void		(*walk) (void) = *(void (**) (void)) arg;

	walk();
	pthread_mutex_lock(&lock);
	walked = true;
	tell_if_done();
	pthread_mutex_unlock(&lock);
	return NULL;
}

void
rctl_copy_run(void (*walk) (void), void (*report) (void))
{
	int			nthreads = rctl_copy_options.jobs + 1;
	pthread_t  *threads = rctl_copy_alloc(sizeof(pthread_t) * nthreads);

	walked = false;
	for (int i = 0; i < nthreads; i++)
	{
		int			error = pthread_create(&threads[i], NULL, i == 0 ? walker_main : worker_main,
										   i == 0 ? (void *) &walk : NULL);

		if (error != 0)
			rctl_copy_fail("53000", error, "could not start a thread");
	}
	for (bool finished = false; !finished;)
	{
		struct timespec until;

		report();
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += REPORT_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		pthread_mutex_lock(&lock);
		while (!(finished = all_done()))
		{
			if (pthread_cond_timedwait(&done, &lock, &until) == ETIMEDOUT)
				break;
		}
		pthread_mutex_unlock(&lock);
	}
	for (int i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);
	free(threads);
}
