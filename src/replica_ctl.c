/*-------------------------------------------------------------------------
 *
 * replica_ctl.c
 *	  Entry point of the library: settings, shared memory, hooks, workers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"

#include "core/board.h"
#include "primary/clock.h"
#include "primary/fence.h"
#include "primary/lobby.h"
#include "primary/samples.h"
#include "primary/services.h"
#include "primary/tablespaces.h"
#include "settings.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;

static void
request_shmem(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	rctl_board_shmem_request();
	rctl_fence_shmem_request();
	rctl_lobby_shmem_request();
	rctl_clock_shmem_request();
	rctl_samples_shmem_request();
	rctl_services_shmem_request();
}

static void
start_shmem(void)
{
	if (previous_shmem_startup)
		previous_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	rctl_board_shmem_init();
	rctl_fence_shmem_init();
	rctl_lobby_shmem_init();
	rctl_clock_shmem_init();
	rctl_samples_shmem_init();
	rctl_services_shmem_init();
	LWLockRelease(AddinShmemInitLock);
}

PGDLLEXPORT void _PG_init(void);

/*
 * Loaded by a backend only because a function was called: the function says
 * what is missing.  Under pg_upgrade nothing of ours may run.
 */
void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;

	rctl_settings_define();
	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_shmem;
	rctl_fence_install_hooks();
	rctl_lobby_install_hooks();
	rctl_tablespaces_install_hook();
	rctl_workers_register();
}
