/*-------------------------------------------------------------------------
 *
 * services.c
 *	  What services told last about the replicas that they run, in shared
 *	  memory.
 *
 * Memory: about 2 kB for each of replica_ctl.max_replicas.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "primary/services.h"
#include "settings.h"

#define SERVICES_NAME "replica_ctl_services"

static RctlServiceSample *services = NULL;
static LWLock *services_lock;

static Size
services_size(void)
{
	return mul_size(sizeof(RctlServiceSample), rctl_max_replicas);
}

void
rctl_services_shmem_request(void)
{
	RequestAddinShmemSpace(services_size());
	RequestNamedLWLockTranche(SERVICES_NAME, 1);
}

void
rctl_services_shmem_init(void)
{
	bool		found;

	services = ShmemInitStruct(SERVICES_NAME, services_size(), &found);
	if (!found)
		memset(services, 0, services_size());
	services_lock = &GetNamedLWLockTranche(SERVICES_NAME)->lock;
}

int
rctl_services_read(RctlServiceSample **samples)
{
	int			count = 0;

	*samples = NULL;
	if (services == NULL)
		return 0;
	*samples = palloc(services_size());
	LWLockAcquire(services_lock, LW_SHARED);
	for (int i = 0; i < rctl_max_replicas; i++)
	{
		if (services[i].id != 0)
			(*samples)[count++] = services[i];
	}
	LWLockRelease(services_lock);
	return count;
}

/* Call with the lock. */
static RctlServiceSample *
find(int64 id)
{
	for (int i = 0; i < rctl_max_replicas; i++)
	{
		if (services[i].id == id)
			return &services[i];
	}
	return NULL;
}

void
rctl_services_write(const RctlServiceSample *sample)
{
	RctlServiceSample *place;

	LWLockAcquire(services_lock, LW_EXCLUSIVE);
	place = find(sample->id);
	if (place == NULL)
		place = find(0);
	if (place)
		*place = *sample;
	LWLockRelease(services_lock);
}

void
rctl_services_get(int64 id, RctlServiceSample *sample)
{
	RctlServiceSample *place;

	memset(sample, 0, sizeof(*sample));
	sample->percent = -1;
	LWLockAcquire(services_lock, LW_SHARED);
	place = find(id);
	if (place)
		*sample = *place;
	LWLockRelease(services_lock);
}

void
rctl_services_keep(const int64 *ids, int nids)
{
	LWLockAcquire(services_lock, LW_EXCLUSIVE);
	for (int i = 0; i < rctl_max_replicas; i++)
	{
		bool		kept = false;

		for (int j = 0; j < nids && !kept; j++)
			kept = ids[j] == services[i].id;
		if (!kept)
			services[i].id = 0;
	}
	LWLockRelease(services_lock);
}
