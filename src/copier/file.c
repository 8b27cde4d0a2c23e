/*-------------------------------------------------------------------------
 *
 * file.c
 *	  How one file is copied.
 *
 * First by FICLONE: the file system shares the blocks, and nothing is read
 * or written.  Where it cannot, copy_file_range() is asked on those file
 * systems that do it by themselves (a file server, say), without the bytes
 * coming here.  On others the kernel would copy from page cache to page
 * cache, and that is slower than what is done otherwise: read and write, the
 * writes past the page cache (O_DIRECT) for files that are not small.  So
 * they take a sixth of the processor time, and what the source keeps in the
 * page cache stays there (see also cache.c).
 *
 * A file changes while it is copied, see check.c; what is after the size
 * that it had when it was opened is left to WAL replay, and if it was cut
 * meanwhile the copy ends there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "copier/copier.h"

/* Smaller files are written through the page cache: they are few bytes in all. */
#define DIRECT_MIN (256 * 1024)

/* Fails if it is gone; that is for the caller to see. */
bool
rctl_copy_open_source(RctlCopyFile *file)
{
	struct stat st;

	file->in = open(file->source, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
	if (file->in < 0)
	{
		if (errno != ENOENT)
			rctl_copy_fail_errno("open", file->source);
		rctl_copy_counters.vanished++;
		return false;
	}
	if (fstat(file->in, &st) != 0)
		rctl_copy_fail_errno("stat", file->source);
	file->mode = st.st_mode & 0777;
	file->size = st.st_size;
	file->end = st.st_size;
	rctl_copy_counters.files++;

	/*
	 * What is read at once is enough for a disk; the less goes through the
	 * page cache.
	 */
	(void) posix_fadvise(file->in, 0, 0, POSIX_FADV_RANDOM);
	if (file->size > 0)
	{
		off_t		hole = lseek(file->in, 0, SEEK_HOLE);

		file->sparse = hole >= 0 && hole < file->size;
	}
	return true;
}

/* Fills the worker's buffer, up to the end of the file. */
ssize_t
rctl_copy_read(RctlCopyWorker *worker, RctlCopyFile *file, size_t length, off_t offset)
{
	size_t		got = 0;

	(void) rctl_copy_cache_look(file->in, &worker->source, offset, length);
	while (got < length)
	{
		ssize_t		n = pread(file->in, worker->buffer + got, length - got, offset + got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rctl_copy_fail_errno("read", file->source);
		if (n == 0)
			break;
		got += n;
	}
	rctl_copy_cache_forget(file->in, &worker->source, offset, length);
	rctl_copy_counters.read += got;
	return got;
}

void
rctl_copy_write(RctlCopyFile *file, const char *buffer, size_t length, off_t offset)
{
	while (length > 0)
	{
		ssize_t		n = pwrite(file->out, buffer, length, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
		{
			if (n == 0)
				errno = ENOSPC;
			rctl_copy_fail_errno("write", file->target);
		}
		buffer += n;
		offset += n;
		length -= n;
		rctl_copy_counters.written += n;
	}
}

/* ---- without reading ---- */

static bool
clone_file(RctlCopyFile *file)
{
#ifdef FICLONE
	if (rctl_copy_without("clone"))
		errno = EOPNOTSUPP;
	else if (ioctl(file->out, FICLONE, file->in) == 0)
	{
		rctl_copy_counters.cloned += file->size;
		return true;
	}
	if (errno == ENOSPC || errno == EDQUOT || errno == EIO)
		rctl_copy_fail_errno("clone", file->target);
	if (file->size > 0)
		rctl_copy_note("clone", "Files were not cloned: %s.", strerror(errno));
#endif
	return false;
}

/* Whether the file system may copy by itself, without our memory. */
static bool
offloads(int fd)
{
	static const unsigned long types[] = {
		0x6969 /* NFS */ , 0xFF534D42 /* CIFS */ , 0xFE534D42 /* SMB2 */ , 0x00C36400 /* Ceph */ ,
		0x65735546 /* FUSE */ , 0x58465342 /* XFS */ , 0x9123683E /* btrfs */ , 0x2FC12FC1 /* ZFS */ ,
		0xCA451A4E /* bcachefs */ , 0x7461636F /* OCFS2 */ ,
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) != 0)
		return false;
	for (int i = 0; i < lengthof(types); i++)
	{
		if ((unsigned long) fs.f_type == types[i])
			return true;
	}
	return false;
}

/* False if it cannot, and nothing is copied. */
static bool
offload_file(RctlCopyFile *file)
{
	off_t		done = 0;

	if (rctl_copy_options.rate > 0 || !offloads(file->out))
		return false;
	while (done < file->size)
	{
		loff_t		from = done;
		loff_t		to = done;
		ssize_t		n;

		if (rctl_copy_without("range"))
		{
			errno = EOPNOTSUPP;
			n = -1;
		}
		else
			n = copy_file_range(file->in, &from, file->out, &to,
								Min(file->size - done, RCTL_COPY_PIECE), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO))
			rctl_copy_fail_errno("write", file->target);
		if (n < 0 || (n == 0 && done == 0))
		{
			rctl_copy_note("range", "Files were not copied by the file system: %s.",
						   n < 0 ? strerror(errno) : "it copied nothing");
			return false;
		}
		if (n == 0)
		{
			rctl_copy_ended(file, done);
			break;
		}
		done += n;
		rctl_copy_counters.offloaded += n;
	}
	return true;
}

/* What was copied without passing through here is read, if wanted. */
static void
verify_target(RctlCopyWorker *worker, RctlCopyFile *file)
{
	if (rctl_copy_options.verify < RCTL_VERIFY_ON || !file->numbered)
		return;
	rctl_copy_cache_begin(&worker->source, file->size, 0);
	for (off_t at = 0; at < file->size; at += RCTL_COPY_CHUNK)
	{
		ssize_t		got = rctl_copy_read(worker, file, RCTL_COPY_CHUNK, at);

		if (got == 0)
			break;
		rctl_copy_verify(file, worker->buffer, got, at);
	}
}

/* ---- by reading and writing ---- */

/* Notes that the source ends here. */
void
rctl_copy_ended(RctlCopyFile *file, off_t offset)
{
	off_t		end = file->end;

	while (offset < end && !atomic_compare_exchange_weak(&file->end, &end, offset))
		;
}

/* Sets O_DIRECT, if the file is worth it. */
static void
choose_direct(RctlCopyFile *file)
{
#ifdef O_DIRECT
	if (file->size < DIRECT_MIN || rctl_copy_without("direct"))
		return;
	file->direct = fcntl(file->out, F_SETFL, O_DIRECT) == 0;
#endif
}

/* So that a full disk is seen at once, and pieces can be written in any order. */
static void
reserve(RctlCopyFile *file)
{
	if (!file->sparse)
	{
		if (fallocate(file->out, 0, 0, file->size) == 0)
			return;
		if (errno == ENOSPC || errno == EDQUOT || errno == EIO)
			rctl_copy_fail_errno("write", file->target);
	}
	if (ftruncate(file->out, file->size) != 0)
		rctl_copy_fail_errno("write", file->target);
}

/* The next data of a sparse file at or after the offset; the end if there is none. */
static off_t
skip_hole(RctlCopyFile *file, off_t offset, off_t end)
{
	off_t		data;

	if (!file->sparse)
		return offset;
	data = lseek(file->in, offset, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? end : offset;
	data -= data % BLCKSZ;
	return Min(Max(data, offset), end);
}

/* Writes what was read; O_DIRECT wants whole sectors, the rest is cut off at the end. */
static void
write_chunk(RctlCopyFile *file, char *buffer, size_t length, off_t offset)
{
	size_t		padded = TYPEALIGN(RCTL_COPY_ALIGN, length);

	if (!file->direct)
	{
		rctl_copy_write(file, buffer, length, offset);
#ifdef SYNC_FILE_RANGE_WRITE
		/* So that not all is left to the end. */
		if (file->size >= DIRECT_MIN)
			(void) sync_file_range(file->out, offset, length, SYNC_FILE_RANGE_WRITE);
#endif
		return;
	}
	memset(buffer + length, 0, padded - length);
	rctl_copy_write(file, buffer, padded, offset);
}

void
rctl_copy_piece(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length)
{
	off_t		end = offset + length;
	size_t		chunk = rctl_copy_chunk();

	rctl_copy_cache_begin(&worker->source, file->size, offset);
	while (offset < end)
	{
		off_t		start = skip_hole(file, offset, end);
		size_t		want;
		ssize_t		got;

		rctl_copy_counters.done += start - offset;
		offset = start;
		if (offset >= end)
			break;
		want = Min(chunk, end - offset);
		rctl_copy_throttle(want);
		got = rctl_copy_read(worker, file, want, offset);
		if (got > 0)
		{
			rctl_copy_verify(file, worker->buffer, got, offset);
			write_chunk(file, worker->buffer, got, offset);
		}
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

/* Gives all but the first piece to whoever is free, and does that. */
void
rctl_copy_split(RctlCopyWorker *worker, RctlCopyWork work, RctlCopyFile *file)
{
	off_t		first = file->size;

	file->pieces = 1;
	if (rctl_copy_options.jobs > 1 && file->size >= 2 * RCTL_COPY_PIECE)
	{
		file->pieces = (file->size + RCTL_COPY_PIECE - 1) / RCTL_COPY_PIECE;
		first = RCTL_COPY_PIECE;

		/* The last pushed is taken first. */
		for (off_t i = file->pieces - 1; i > 0; i--)
			rctl_copy_queue_piece(work, file, i * RCTL_COPY_PIECE,
								  Min(RCTL_COPY_PIECE, file->size - i * RCTL_COPY_PIECE));
	}
	work(worker, file, 0, first);
}

void
rctl_copy_free_file(RctlCopyFile *file)
{
	free(file->source);
	free(file->target);
	free(file);
}

/* A piece has been read up to there.  After the last one the size is right, and the file is closed. */
void
rctl_copy_piece_done(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset)
{
	off_t		end;
	struct stat st;

	rctl_copy_cache_end(file->in, &worker->source, offset);
	if (--file->pieces > 0)
		return;
	end = file->end;
	if (end < file->size)
		rctl_copy_counters.shrunk++;

	/* A page of which half was there is being added: replay will add it. */
	if (file->relation)
		end -= end % BLCKSZ;
	if (fstat(file->out, &st) != 0)
		rctl_copy_fail_errno("stat", file->target);
	if (st.st_size != end && ftruncate(file->out, end) != 0)
		rctl_copy_fail_errno("truncate", file->target);
	close(file->in);
	if (file->out_direct >= 0)
		close(file->out_direct);
	if (close(file->out) != 0)
		rctl_copy_fail_errno("close", file->target);
	rctl_copy_free_file(file);
}

void
rctl_copy_file(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length)
{
	if (!rctl_copy_open_source(file))
	{
		rctl_copy_free_file(file);
		return;
	}
	file->fresh = true;
	file->out = open(file->target, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (file->out < 0)
		rctl_copy_fail_errno("create", file->target);
	if (fchmod(file->out, file->mode) != 0)
		rctl_copy_fail_errno("set permissions of", file->target);
	rctl_copy_cache_begin(&worker->source, file->size, 0);
	if (file->size > 0 && (clone_file(file) || offload_file(file)))
	{
		verify_target(worker, file);
		rctl_copy_counters.done += file->size;
		file->pieces = 1;

		/* A clone has the size of that moment. */
		if (!file->relation)
		{
			struct stat st;

			if (fstat(file->out, &st) == 0)
				file->end = st.st_size;
		}
		rctl_copy_piece_done(worker, file, file->size);
		return;
	}
	if (file->size > 0)
	{
		choose_direct(file);
		reserve(file);
	}
	rctl_copy_split(worker, rctl_copy_piece, file);
}

/* In the second walk: makes durable what is in the target. */
void
rctl_copy_sync_file(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length)
{
	int			fd = open(file->target, O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);

	if (fd < 0 && (errno == EACCES || errno == EROFS))
		fd = open(file->target, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		rctl_copy_fail_errno("open", file->target);
	if (fsync(fd) != 0)
		rctl_copy_fail_errno("fsync", file->target);
	(void) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	rctl_copy_free_file(file);
}
