/*-------------------------------------------------------------------------
 *
 * cache.c
 *	  What a copy reads does not push out what the server has in the page
 *	  cache: what was in there stays, what was not is dropped when it has been
 *	  read.
 *
 * What is in there is looked up some way ahead of where the file is read, and
 * not just before: the kernel reads ahead as well (even of a descriptor that
 * was declared to be read at random, when it comes upon a page at which an
 * earlier reader's read-ahead had stopped), so that by then it may be our own
 * reading that has brought it.  The other way to tell, a read with
 * RWF_NOWAIT, begins to bring in what is missing.
 *
 * It is a matter of speed alone.  Where it cannot be told, all counts as
 * being in there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "copier/copier.h"

/* More than the kernel reads ahead. */
#define LOOK_AHEAD ((off_t) RCTL_COPY_LOOK_AHEAD)

static size_t
page_size(void)
{
	static _Atomic size_t size;

	if (size == 0)
		size = sysconf(_SC_PAGESIZE);
	return size;
}

static unsigned char *
page_at(RctlCopyCached *cached, off_t offset)
{
	return &cached->pages[offset / page_size() % lengthof(cached->pages)];
}

/* Of the next stretch of the file, which does not wrap around in our memory. */
static void
look_up(int fd, RctlCopyCached *cached)
{
	size_t		length = Min(LOOK_AHEAD, cached->size - cached->until);
	unsigned char *pages = page_at(cached, cached->until);
	void	   *map = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, cached->until);

	if (map == MAP_FAILED || mincore(map, length, pages) != 0)
		memset(pages, 1, (length + page_size() - 1) / page_size());
	if (map != MAP_FAILED)
		(void) munmap(map, length);
	cached->until += length;
}

/* A file of this size, or a piece of it, is read from here on. */
void
rctl_copy_cache_begin(RctlCopyCached *cached, off_t size, off_t offset)
{
	cached->size = size;
	cached->until = offset - offset % LOOK_AHEAD;
}

/* Before that is read.  The part of it that is in there. */
double
rctl_copy_cache_look(int fd, RctlCopyCached *cached, off_t offset, size_t length)
{
	off_t		end = Min(offset + (off_t) length, cached->size);
	size_t		count = 0;
	size_t		there = 0;

	while (cached->until < Min(end + LOOK_AHEAD, cached->size))
		look_up(fd, cached);
	for (off_t at = offset; at < end; at += page_size())
	{
		count++;
		there += *page_at(cached, at) & 1;
	}
	return count ? (double) there / count : 1;
}

/* After it was read. */
void
rctl_copy_cache_forget(int fd, RctlCopyCached *cached, off_t offset, size_t length)
{
	off_t		end = Min(offset + (off_t) length, cached->until);
	size_t		size = page_size();

	for (off_t at = offset; at < end; at += size)
	{
		off_t		first = at;

		while (at < end && !(*page_at(cached, at) & 1))
			at += size;
		if (at > first)
			(void) posix_fadvise(fd, first, at - first, POSIX_FADV_DONTNEED);
	}
}

/* After all was read, up to there: also what the kernel has read ahead of that. */
void
rctl_copy_cache_end(int fd, RctlCopyCached *cached, off_t offset)
{
	rctl_copy_cache_forget(fd, cached, offset, LOOK_AHEAD);
}
