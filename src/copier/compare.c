/*-------------------------------------------------------------------------
 *
 * compare.c
 *	  How one file is made equal to another of which it once was a copy.
 *
 * Both are read, and only blocks that differ are written.  Neither times nor
 * sizes nor page LSNs are trusted: what is there may be damaged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "copier/copier.h"

/*
 * Opens the target a second time, to read past the page cache: it is read
 * once, and that takes a third of the processor time.  Some file systems
 * cannot.
 */
static void
open_direct(RctlCopyFile *file)
{
#ifdef O_DIRECT
	if (!rctl_copy_without("direct"))
		file->out_direct = open(file->target, O_RDONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC, 0);
#endif
}

/*
 * Fills the worker's other buffer from the target, up to its end.  What is in
 * the page cache is taken from there, the rest comes from disk.
 */
static size_t
read_target(RctlCopyWorker *worker, RctlCopyFile *file, size_t length, off_t offset)
{
	double		cached = rctl_copy_cache_look(file->out, &worker->target, offset, length);
	bool		direct = file->out_direct >= 0 && cached < 0.5;
	size_t		got = 0;

	while (got < length)
	{
		char	   *to = worker->other + got;
		size_t		want = length - got;
		ssize_t		n;

		/* Whole sectors; the buffer has room for them. */
		direct = direct && got % RCTL_COPY_ALIGN == 0;
		if (direct)
			n = pread(file->out_direct, to, TYPEALIGN(RCTL_COPY_ALIGN, want), offset + got);
		else
			n = pread(file->out, to, want, offset + got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && direct && errno == EINVAL)
		{
			direct = false;
			continue;
		}
		if (n < 0)
			rctl_copy_fail_errno("read", file->target);
		if (n == 0)
			break;
		got = Min(got + n, length);
	}
	if (cached < 1 && !direct)
		rctl_copy_cache_forget(file->out, &worker->target, offset, length);
	rctl_copy_counters.read += got;
	return got;
}

/* Writes the runs of blocks that differ. */
static void
write_differences(RctlCopyFile *file, const char *wanted, size_t length,
				  const char *there, size_t there_length, off_t offset)
{
	size_t		run = length;	/* where the current one begins */

	for (size_t at = 0; at < length; at += BLCKSZ)
	{
		size_t		block = Min(BLCKSZ, length - at);
		bool		same = at + block <= there_length && memcmp(wanted + at, there + at, block) == 0;

		if (!same && run == length)
			run = at;
		if (same && run < length)
		{
			rctl_copy_write(file, wanted + run, at - run, offset + run);
			run = length;
		}
	}
	if (run < length)
		rctl_copy_write(file, wanted + run, length - run, offset + run);
#ifdef SYNC_FILE_RANGE_WRITE
	/* So that not all is left to the end. */
	(void) sync_file_range(file->out, offset, length, SYNC_FILE_RANGE_WRITE);
#endif
}

static void
compare_piece(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length)
{
	off_t		end = offset + length;
	size_t		chunk = rctl_copy_chunk();

	rctl_copy_cache_begin(&worker->source, file->size, offset);
	rctl_copy_cache_begin(&worker->target, file->old_size, offset);
	while (offset < end)
	{
		size_t		want = Min(chunk, end - offset);
		size_t		there;
		ssize_t		got;

		rctl_copy_throttle(want);
		got = rctl_copy_read(worker, file, want, offset);
		rctl_copy_verify(file, worker->buffer, got, offset);
		there = offset < file->old_size ? read_target(worker, file, got, offset) : 0;
		if (there != got || memcmp(worker->buffer, worker->other, got) != 0)
			write_differences(file, worker->buffer, got, worker->other, there, offset);
		rctl_copy_counters.done += want;
		offset += got;
		if (got < want)
		{
			rctl_copy_ended(file, offset);
			break;
		}
	}
	rctl_copy_piece_done(worker, file, offset);
}

void
rctl_copy_compare_file(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length)
{
	struct stat st;

	file->out = open(file->target, O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
	if (file->out < 0 && errno == ENOENT)
	{
		rctl_copy_file(worker, file, 0, 0);
		return;
	}
	if (file->out < 0)
		rctl_copy_fail_errno("open", file->target);
	if (!rctl_copy_open_source(file))
	{
		close(file->out);
		if (unlink(file->target) != 0)
			rctl_copy_fail_errno("remove", file->target);
		rctl_copy_counters.removed++;
		rctl_copy_free_file(file);
		return;
	}
	if (fstat(file->out, &st) != 0)
		rctl_copy_fail_errno("stat", file->target);
	if ((st.st_mode & 0777) != file->mode && fchmod(file->out, file->mode) != 0)
		rctl_copy_fail_errno("set permissions of", file->target);
	file->old_size = st.st_size;
	open_direct(file);
	rctl_copy_split(worker, compare_piece, file);
}
