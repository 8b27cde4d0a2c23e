/*-------------------------------------------------------------------------
 *
 * copier.h
 *	  The program replica_ctl_copy: copies a data directory with its
 *	  tablespaces, by several threads, inside a backup that its caller has
 *	  started.
 *
 * Why a program of its own.  A copy at the speed of the disk needs several
 * system calls in flight.  Threads have no place in a PostgreSQL process:
 * its memory, its error handling and its signal handlers know of one thread.
 * Background workers would be taken from max_worker_processes, which the
 * user has sized for other things, and killing one of them restarts the
 * whole server.  A small program has threads without any of that: it knows
 * no shared memory, can be killed at any moment, its memory is its own, and
 * its caller waits for it like for pg_basebackup (net/process.h).
 *
 *	  replica_ctl_copy.c	arguments, progress, the summary
 *	  queue.c				the threads and what they are given to do
 *	  tree.c				what is copied and what is left out
 *	  file.c				how one file is copied
 *	  compare.c				how one file is made equal to another
 *	  cache.c				what stays in the page cache
 *	  check.c				data checksums
 *	  names.c				what the names of files tell
 *
 * Threads: one walks the directories and queues files, "jobs" of them work
 * on files, the main thread reports.  A large file is split between the
 * workers.  Memory is bounded: each worker has two buffers, the queue has a
 * fixed length, and the walker keeps the names of the directories it is in.
 *
 * Errors: the first one ends the program (rctl_copy_fail); nothing is
 * cleaned up here, the caller removes what it had made or does it again.
 * The caller reads from stderr one line, an SQLSTATE and a message.
 *
 * Nothing is followed at the end of a path: neither side's symbolic links.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_COPIER_COPIER_H
#define REPLICA_CTL_COPIER_COPIER_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "access/xlogdefs.h"

/* Bytes that a worker reads at once. */
#define RCTL_COPY_CHUNK (1024 * 1024)

/* What O_DIRECT wants to be aligned to, whatever the disk. */
#define RCTL_COPY_ALIGN 4096

/* How far ahead of that the page cache is looked at. */
#define RCTL_COPY_LOOK_AHEAD (16 * 1024 * 1024)

/* A file of at least twice this is split into pieces of this. */
#define RCTL_COPY_PIECE (64 * 1024 * 1024)

typedef enum RctlCopyVerify
{
	RCTL_VERIFY_OFF,
	RCTL_VERIFY_AUTO,			/* what passes through this program */
	RCTL_VERIFY_ON,				/* also what was cloned */
	RCTL_VERIFY_FAIL,			/* the same, and a bad block is an error */
} RctlCopyVerify;

/* The data directory (oid 0) or a tablespace. */
typedef struct RctlCopyTree
{
	unsigned	oid;
	const char *source;
	const char *target;
} RctlCopyTree;

typedef struct RctlCopyOptions
{
	bool		resync;			/* make the target equal; else it is empty */
	int			jobs;
	uint64		rate;			/* bytes per second for all, 0: no limit */
	RctlCopyVerify verify;
	XLogRecPtr	start;			/* of the backup */
	const char *version_directory;	/* in a tablespace, the one that is ours */
	const char *status_path;
	RctlCopyTree *trees;
	int			ntrees;

	/*
	 * What this program must not use, to test how it does without (test
	 * builds): "clone", "range", "direct", "syncfs".
	 */
	const char *without;
} RctlCopyOptions;

extern RctlCopyOptions rctl_copy_options;

/* Added to by all threads. */
typedef struct RctlCopyCounters
{
	_Atomic uint64 total;		/* bytes found, an estimate */
	_Atomic uint64 done;		/* of these */
	_Atomic uint64 files;
	_Atomic uint64 read;		/* bytes, of both sides */
	_Atomic uint64 written;
	_Atomic uint64 cloned;		/* bytes shared with the source */
	_Atomic uint64 offloaded;	/* bytes copied by the file system */
	_Atomic uint64 vanished;	/* files that were gone before they were
								 * opened */
	_Atomic uint64 shrunk;		/* files that ended early */
	_Atomic uint64 left_out;	/* by the rules of base backups */
	_Atomic uint64 removed;		/* from the target, in a resync */
	_Atomic uint64 bad_blocks;
	_Atomic uint64 torn_blocks; /* that were good when read again */
} RctlCopyCounters;

extern RctlCopyCounters rctl_copy_counters;

/* One file while it is worked on.  Freed when its last piece is done. */
typedef struct RctlCopyFile
{
	char	   *source;
	char	   *target;
	bool		relation;		/* its bytes are pages */
	bool		numbered;		/* pages with checksums; segment is known */
	uint32		segment;

	int			in;
	int			out;
	int			out_direct;		/* in a comparison, to read the target */
	bool		direct;			/* out is O_DIRECT */
	bool		sparse;
	bool		fresh;			/* the target was made by us */
	mode_t		mode;
	off_t		size;			/* of the source when it was opened */
	off_t		old_size;		/* of the target then */
	_Atomic off_t end;			/* where the source was found to end */
	_Atomic int pieces;			/* that are not done */
} RctlCopyFile;

/* What of a file is in the page cache, from where it is read to some way ahead. */
typedef struct RctlCopyCached
{
	off_t		size;			/* of the file */
	off_t		until;			/* it is known up to there */
	unsigned char pages[4 * RCTL_COPY_LOOK_AHEAD / RCTL_COPY_ALIGN];	/* a ring; lowest bit */
} RctlCopyCached;

/* What each worker has for itself. */
typedef struct RctlCopyWorker
{
	char	   *buffer;			/* RCTL_COPY_CHUNK, aligned */
	char	   *other;			/* the same, for the target's bytes */
	RctlCopyCached source;
	RctlCopyCached target;
} RctlCopyWorker;

/* replica_ctl_copy.c */

/* Ends the program with exit code 1.  error: an errno, 0 if the message says it all. */
extern void rctl_copy_fail(const char *sqlstate, int error, const char *format,...)
			pg_attribute_printf(3, 4) __attribute__((noreturn));

/* The SQLSTATE of an errno. */
extern const char *rctl_copy_sqlstate(int error);

#define rctl_copy_fail_errno(doing, path) \
	rctl_copy_fail(rctl_copy_sqlstate(errno), errno, "could not %s \"%s\"", (doing), (path))

/* A sentence for the summary; one of each kind. */
extern void rctl_copy_note(const char *kind, const char *format,...) pg_attribute_printf(2, 3);

/* For malloc and its like. */
extern void *rctl_copy_alloc(size_t size);
extern char *rctl_copy_format(const char *format,...) pg_attribute_printf(1, 2);

/* Whether the test wants to do without. */
extern bool rctl_copy_without(const char *what);

/* queue.c */

typedef void (*RctlCopyWork) (RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length);

/* Runs walk in a thread of its own, workers until all is done, and report four times a second. */
extern void rctl_copy_run(void (*walk) (void), void (*report) (void));

/* From the walker: waits while the queue is full. */
extern void rctl_copy_queue(RctlCopyWork work, RctlCopyFile *file);

/* From a worker, for a piece of its file: goes before all files. */
extern void rctl_copy_queue_piece(RctlCopyWork work, RctlCopyFile *file, off_t offset, off_t length);

/* Waits until so many bytes may be read. */
extern void rctl_copy_throttle(uint64 bytes);

/* How much to read at once under that limit. */
extern size_t rctl_copy_chunk(void);

/* tree.c */
extern void rctl_copy_count_trees(void);	/* counters.total */
extern void rctl_copy_walk_trees(void); /* queues all files */
extern void rctl_copy_open_targets(void);	/* before anything is copied */
extern void rctl_copy_sync_trees(void); /* makes the target durable */

/* file.c */
extern void rctl_copy_file(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length);
extern void rctl_copy_piece(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length);
extern void rctl_copy_sync_file(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length);
extern bool rctl_copy_open_source(RctlCopyFile *file);
extern ssize_t rctl_copy_read(RctlCopyWorker *worker, RctlCopyFile *file, size_t length, off_t offset);
extern void rctl_copy_write(RctlCopyFile *file, const char *buffer, size_t length, off_t offset);
extern void rctl_copy_split(RctlCopyWorker *worker, RctlCopyWork work, RctlCopyFile *file);
extern void rctl_copy_ended(RctlCopyFile *file, off_t offset);
extern void rctl_copy_piece_done(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset);
extern void rctl_copy_free_file(RctlCopyFile *file);

/* compare.c */
extern void rctl_copy_compare_file(RctlCopyWorker *worker, RctlCopyFile *file, off_t offset, off_t length);

/* cache.c */
extern void rctl_copy_cache_begin(RctlCopyCached *cached, off_t size, off_t offset);
extern double rctl_copy_cache_look(int fd, RctlCopyCached *cached, off_t offset, size_t length);
extern void rctl_copy_cache_forget(int fd, RctlCopyCached *cached, off_t offset, size_t length);
extern void rctl_copy_cache_end(int fd, RctlCopyCached *cached, off_t offset);

/* check.c */

/* Verifies whole pages that were read; one that was torn is replaced by what it is now. */
extern void rctl_copy_verify(RctlCopyFile *file, char *buffer, size_t length, off_t offset);

/* names.c */

/* A relation's file: its number, and whether it is of the init fork; segment 0 for the first. */
extern bool rctl_copy_relation_name(const char *name, unsigned *number, bool *init, uint32 *segment);

/* A temporary relation's file. */
extern bool rctl_copy_temporary_name(const char *name);

/* By the rules of base backups, wherever it is. */
extern bool rctl_copy_left_out(const char *name);

/* A directory of the data directory whose contents a server makes itself. */
extern bool rctl_copy_emptied(const char *name);

/* Ours, in the target: neither copied nor removed. */
extern bool rctl_copy_own_file(const char *name);

#endif							/* REPLICA_CTL_COPIER_COPIER_H */
