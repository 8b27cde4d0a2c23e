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

/* Like rctl_copy_read, of the target; its pages are of no use to anybody. */
static size_t
read_target(RctlCopyFile *file, char *buffer, size_t length, off_t offset)
{
	size_t		got = 0;

	while (got < length)
	{
		ssize_t		n = pread(file->out, buffer + got, length - got, offset + got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rctl_copy_fail_errno("read", file->target);
		if (n == 0)
			break;
		got += n;
	}
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
}

static void
compare_piece(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length)
{
	off_t		end = offset + length;
	size_t		chunk = rctl_copy_chunk();

	while (offset < end)
	{
		size_t		want = Min(chunk, end - offset);
		size_t		there;
		ssize_t		got;

		rctl_copy_throttle(want);
		got = rctl_copy_read(file, worker->buffer, want, offset);
		rctl_copy_verify(file, worker->buffer, got, offset);
		there = offset < file->old_size ? read_target(file, worker->other, got, offset) : 0;
		if (there == got && memcmp(worker->buffer, worker->other, got) == 0)
			(void) posix_fadvise(file->out, offset, got, POSIX_FADV_DONTNEED);
		else
			write_differences(file, worker->buffer, got, worker->other, there, offset);
		rctl_copy_counters.done += want;
		offset += got;
		if (got < want)
		{
			rctl_copy_ended(file, offset);
			break;
		}
	}
	rctl_copy_piece_done(file);
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
	(void) posix_fadvise(file->out, 0, 0, POSIX_FADV_SEQUENTIAL);
	rctl_copy_split(worker, compare_piece, file);
}
