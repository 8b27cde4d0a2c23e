/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  What the background workers have in common.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include "primary/fence.h"
#include "settings.h"
#include "worker/worker.h"

#define RESTART_SECONDS 5

void
rctl_worker_define(BackgroundWorker *worker, const char *main)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	/* A standby that preloads the library stays quiet. */
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, "replica_ctl", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, main, sizeof(worker->bgw_function_name));
}

static void
register_static(const char *main, const char *name)
{
	BackgroundWorker worker;

	rctl_worker_define(&worker, main);
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_name, name, sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, name, sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

void
rctl_workers_register(void)
{
	register_static("rctl_launcher_main", "replica_ctl launcher");
	register_static("rctl_monitor_main", "replica_ctl monitor");
}

void
rctl_worker_start(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, SIG_IGN);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(rctl_database, NULL, 0);

	/* A dead synchronous standby must not block the tool that fixes it. */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);

	/*
	 * Settings made for clients, in a role or in the database, are not for
	 * us.
	 */
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("row_security", "off", PGC_SUSET, PGC_S_OVERRIDE);

	/*
	 * The fence stops the users' writes; the operation that raised it goes on
	 * with its bookkeeping.
	 */
	rctl_fence_exempt(true);
}
