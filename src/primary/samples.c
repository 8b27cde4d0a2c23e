/*-------------------------------------------------------------------------
 *
 * samples.c
 *	  What the monitor saw last, and a while ago, in shared memory.
 *
 * Memory: a row of 48 bytes and 4 bytes a replica for each of
 * replica_ctl.history_size samples, about 500 bytes for each of
 * replica_ctl.max_replicas, 330 for each of max_wal_senders and 210 for each
 * of max_replication_slots.
 *
 * The file is written at a clean shutdown and removed when it was read.  It
 * holds this server's memory layout and is of use to no other server: the
 * header says whose it is.  That it is lost costs history only, so it is not
 * flushed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <unistd.h>

#include "access/xlog.h"
#include "port/pg_crc32c.h"
#include "replication/slot.h"
#include "replication/walsender.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "primary/samples.h"
#include "settings.h"

#define SAMPLES_NAME "replica_ctl_samples"
#define SAMPLES_FILE "pg_stat/replica_ctl.stat"
#define SAMPLES_MAGIC 0x52435431

/* Standbys that have gone are remembered beside those that are connected. */
#define GONE_STANDBYS 64

typedef struct Samples
{
	RctlServerSample server;	/* lock, as for all that follows */
	int			nslots;
	int			nstandbys;
	int			ndisks;
	int			nrows;
	int			first_row;
	/* then: slots, standbys, disks, replicas, rows, lags */
} Samples;

typedef struct FileHeader
{
	uint32		magic;
	uint32		version;		/* of the layout: sizes of what follows */
	uint64		system_identifier;
	uint64		timeline;
	TimestampTz saved_at;
	int64		saved_mono;
	uint64		size;			/* of the samples */
	uint32		npoints;
	pg_crc32c	crc;			/* of all before this field and all after the
								 * header */
} FileHeader;

static Samples *samples = NULL;
static RctlSlotSample *slots;
static RctlStandbySample *standbys;
static RctlDiskSample *disks;
static RctlReplicaSample *replicas;
static RctlHistoryRow *rows;
static float4 *lags;
static LWLock *samples_lock;

int
rctl_samples_max_standbys(void)
{
	return max_wal_senders + GONE_STANDBYS;
}

int
rctl_samples_max_slots(void)
{
	return max_replication_slots;
}

/* Lays the parts out behind each other; returns the size of all. */
static Size
lay_out(char *base)
{
	Size		at = MAXALIGN(sizeof(Samples));

#define PART(pointer, count) \
	do { \
		if (base) \
			(pointer) = (void *) (base + at); \
		at = add_size(at, MAXALIGN(mul_size(sizeof(*(pointer)), (count)))); \
	} while (0)

	PART(slots, rctl_samples_max_slots());
	PART(standbys, rctl_samples_max_standbys());
	PART(disks, RCTL_MAX_DISKS);
	PART(replicas, rctl_max_replicas);
	PART(rows, rctl_history_size);
	PART(lags, mul_size(rctl_history_size, rctl_max_replicas));
	return at;
}

void
rctl_samples_shmem_request(void)
{
	RequestAddinShmemSpace(lay_out(NULL));
	RequestNamedLWLockTranche(SAMPLES_NAME, 1);
}

void
rctl_samples_shmem_init(void)
{
	Size		size = lay_out(NULL);
	bool		found;

	samples = ShmemInitStruct(SAMPLES_NAME, size, &found);
	if (!found)
		memset(samples, 0, size);
	lay_out((char *) samples);
	samples_lock = &GetNamedLWLockTranche(SAMPLES_NAME)->lock;
}

RctlSamples *
rctl_samples_read(void)
{
	RctlSamples *copy = palloc0(sizeof(RctlSamples));

	if (samples == NULL)
		return copy;
	copy->slots = palloc(sizeof(RctlSlotSample) * (rctl_samples_max_slots() + 1));
	copy->standbys = palloc(sizeof(RctlStandbySample) * rctl_samples_max_standbys());
	copy->disks = palloc(sizeof(RctlDiskSample) * RCTL_MAX_DISKS);
	copy->replicas = palloc(sizeof(RctlReplicaSample) * rctl_max_replicas);
	copy->nreplicas = rctl_max_replicas;
	LWLockAcquire(samples_lock, LW_SHARED);
	copy->server = samples->server;
	copy->nslots = samples->nslots;
	memcpy(copy->slots, slots, sizeof(RctlSlotSample) * samples->nslots);
	copy->nstandbys = samples->nstandbys;
	memcpy(copy->standbys, standbys, sizeof(RctlStandbySample) * samples->nstandbys);
	copy->ndisks = samples->ndisks;
	memcpy(copy->disks, disks, sizeof(RctlDiskSample) * samples->ndisks);
	memcpy(copy->replicas, replicas, sizeof(RctlReplicaSample) * rctl_max_replicas);
	LWLockRelease(samples_lock);
	return copy;
}

const RctlSlotSample *
rctl_samples_slot(const RctlSamples *from, const char *name)
{
	for (int i = 0; i < from->nslots; i++)
	{
		if (strcmp(from->slots[i].name, name) == 0)
			return &from->slots[i];
	}
	return NULL;
}

int
rctl_history_read(RctlHistoryRow **row_copies, float4 **lag_copies, int *nreplicas)
{
	int			count;

	*nreplicas = 0;
	if (samples == NULL)
		return 0;
	*nreplicas = rctl_max_replicas;
	*row_copies = palloc(sizeof(RctlHistoryRow) * rctl_history_size);
	*lag_copies = palloc_extended(sizeof(float4) * rctl_history_size * rctl_max_replicas,
								  MCXT_ALLOC_HUGE);
	LWLockAcquire(samples_lock, LW_SHARED);
	count = samples->nrows;
	for (int i = 0; i < count; i++)
	{
		int			from = (samples->first_row + i) % rctl_history_size;

		(*row_copies)[i] = rows[from];
		memcpy(*lag_copies + (Size) i * rctl_max_replicas,
			   lags + (Size) from * rctl_max_replicas, sizeof(float4) * rctl_max_replicas);
	}
	LWLockRelease(samples_lock);
	return count;
}

/* ---------------------------------------------------------------------
 * Monitor
 * ---------------------------------------------------------------------
 */

void
rctl_samples_write_server(const RctlServerSample *server)
{
	LWLockAcquire(samples_lock, LW_EXCLUSIVE);
	samples->server = *server;
	LWLockRelease(samples_lock);
}

void
rctl_samples_write_slots(const RctlSlotSample *from, int count)
{
	Assert(count <= rctl_samples_max_slots());
	LWLockAcquire(samples_lock, LW_EXCLUSIVE);
	samples->nslots = count;
	memcpy(slots, from, sizeof(RctlSlotSample) * count);
	LWLockRelease(samples_lock);
}

void
rctl_samples_write_disks(const RctlDiskSample *from, int count)
{
	Assert(count <= RCTL_MAX_DISKS);
	LWLockAcquire(samples_lock, LW_EXCLUSIVE);
	samples->ndisks = count;
	memcpy(disks, from, sizeof(RctlDiskSample) * count);
	LWLockRelease(samples_lock);
}

void
rctl_samples_write_standbys(const RctlStandbySample *from, int count)
{
	Assert(count <= rctl_samples_max_standbys());
	LWLockAcquire(samples_lock, LW_EXCLUSIVE);
	samples->nstandbys = count;
	memcpy(standbys, from, sizeof(RctlStandbySample) * count);
	LWLockRelease(samples_lock);
}

void
rctl_samples_write_replica(int index, const RctlReplicaSample *replica)
{
	Assert(index >= 0 && index < rctl_max_replicas);
	LWLockAcquire(samples_lock, LW_EXCLUSIVE);
	replicas[index] = *replica;
	LWLockRelease(samples_lock);
}

void
rctl_history_add(const RctlHistoryRow *row, const float4 *row_lags)
{
	int			at;

	LWLockAcquire(samples_lock, LW_EXCLUSIVE);
	if (samples->nrows < rctl_history_size)
		at = samples->nrows++;
	else
	{
		at = samples->first_row;
		samples->first_row = (at + 1) % rctl_history_size;
	}
	rows[at] = *row;
	memcpy(lags + (Size) at * rctl_max_replicas, row_lags, sizeof(float4) * rctl_max_replicas);
	LWLockRelease(samples_lock);
}

void
rctl_history_clear(int index)
{
	LWLockAcquire(samples_lock, LW_EXCLUSIVE);
	for (int i = 0; i < samples->nrows; i++)
		lags[(Size) i * rctl_max_replicas + index] = (float4) NAN;
	LWLockRelease(samples_lock);
}

/* ---------------------------------------------------------------------
 * The file
 * ---------------------------------------------------------------------
 */

/* Changes with anything that changes the meaning of the bytes. */
static uint32
layout_version(void)
{
	uint64		sizes[] = {
		1, sizeof(Samples), sizeof(RctlSlotSample), sizeof(RctlStandbySample),
		sizeof(RctlDiskSample), sizeof(RctlReplicaSample), sizeof(RctlHistoryRow),
		rctl_samples_max_slots(), rctl_samples_max_standbys(),
		rctl_max_replicas, rctl_history_size
	};
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, sizes, sizeof(sizes));
	FIN_CRC32C(crc);
	return crc;
}

static pg_crc32c
file_crc(const FileHeader *header, const RctlClockPoint *points, const char *body)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, offsetof(FileHeader, crc));
	COMP_CRC32C(crc, points, sizeof(RctlClockPoint) * header->npoints);
	COMP_CRC32C(crc, body, header->size);
	FIN_CRC32C(crc);
	return crc;
}

void
rctl_samples_save(void)
{
	RctlClockPoint *points = palloc(sizeof(RctlClockPoint) * RCTL_CLOCK_POINTS);
	FileHeader	header;
	FILE	   *file;
	bool		good;

	memset(&header, 0, sizeof(header));
	header.magic = SAMPLES_MAGIC;
	header.version = layout_version();
	header.system_identifier = GetSystemIdentifier();
	header.timeline = GetWALInsertionTimeLine();
	header.saved_at = GetCurrentTimestamp();
	header.saved_mono = rctl_clock_now();
	header.size = lay_out(NULL);
	header.npoints = rctl_clock_read(points);

	file = AllocateFile(SAMPLES_FILE ".tmp", PG_BINARY_W);
	if (file == NULL)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", SAMPLES_FILE ".tmp")));
		pfree(points);
		return;
	}
	LWLockAcquire(samples_lock, LW_SHARED);
	header.crc = file_crc(&header, points, (char *) samples);
	good = fwrite(&header, sizeof(header), 1, file) == 1 &&
		fwrite(points, sizeof(RctlClockPoint), header.npoints, file) == header.npoints &&
		fwrite(samples, header.size, 1, file) == 1;
	LWLockRelease(samples_lock);
	good = FreeFile(file) == 0 && good;
	if (!good || rename(SAMPLES_FILE ".tmp", SAMPLES_FILE) != 0)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", SAMPLES_FILE)));
		unlink(SAMPLES_FILE ".tmp");
	}
	pfree(points);
}

/* Moves the times of the monotonic clock of before the restart to that of today. */
static void
shift_times(RctlClockPoint *points, int npoints, int64 shift)
{
	for (int i = 0; i < npoints; i++)
	{
		points[i].since += shift;
		points[i].until += shift;
	}
	samples->server.mono = 0;
	samples->server.scan_mono = 0;
	for (int i = 0; i < samples->nslots; i++)
		slots[i].mono = slots[i].calm_since = 0;
	for (int i = 0; i < samples->ndisks; i++)
		disks[i].mono = 0;
	for (int i = 0; i < samples->nstandbys; i++)
	{
		standbys[i].pid = 0;
		standbys[i].waiting = 0;
		standbys[i].answered += shift;
		standbys[i].seen += shift;
	}
	for (int i = 0; i < rctl_max_replicas; i++)
	{
		if (replicas[i].answered != 0)
			replicas[i].answered += shift;
	}
}

/*
 * Reads the file into shared memory; false if it is not this server's, or
 * damaged.
 */
static bool
read_file(FILE *file, const RctlWalEnd *end)
{
	Size		size = lay_out(NULL);
	FileHeader	header;
	RctlClockPoint *points;
	char	   *body;
	bool		good;

	if (fread(&header, sizeof(header), 1, file) != 1 ||
		header.magic != SAMPLES_MAGIC || header.version != layout_version() ||
		header.size != size || header.npoints > RCTL_CLOCK_POINTS ||
		header.system_identifier != GetSystemIdentifier() ||
		header.timeline != GetWALInsertionTimeLine())
		return false;
	points = palloc(sizeof(RctlClockPoint) * RCTL_CLOCK_POINTS);
	body = palloc_extended(size, MCXT_ALLOC_HUGE);
	good = fread(points, sizeof(RctlClockPoint), header.npoints, file) == header.npoints &&
		fread(body, size, 1, file) == 1 &&
		EQ_CRC32C(header.crc, file_crc(&header, points, body));
	if (good)
	{
		/*
		 * A system clock that was set back meanwhile tells nothing: assume no
		 * time at all.
		 */
		int64		down = Max(GetCurrentTimestamp() - header.saved_at, 0);

		LWLockAcquire(samples_lock, LW_EXCLUSIVE);
		memcpy(samples, body, size);
		shift_times(points, header.npoints, end->now - down - header.saved_mono);
		LWLockRelease(samples_lock);
		rctl_clock_restore(points, header.npoints, end);
	}
	pfree(points);
	pfree(body);
	return good;
}

void
rctl_samples_load(const RctlWalEnd *end)
{
	FILE	   *file = AllocateFile(SAMPLES_FILE, PG_BINARY_R);

	if (file == NULL)
		return;
	if (!read_file(file, end))
		ereport(LOG,
				(errmsg("file \"%s\" is left out", SAMPLES_FILE),
				 errdetail("It is of another server, timeline or set of settings, or damaged.")));
	FreeFile(file);
	rctl_samples_discard();
}

void
rctl_samples_discard(void)
{
	if (unlink(SAMPLES_FILE) != 0 && errno != ENOENT)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", SAMPLES_FILE)));
}
