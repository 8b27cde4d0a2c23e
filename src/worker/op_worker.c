/*-------------------------------------------------------------------------
 *
 * op_worker.c
 *	  Works on one operation and exits.
 *
 * It never restarts itself: what is to be done again is in the operation's
 * row, and the launcher reads it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/board.h"
#include "core/engine.h"
#include "core/store.h"
#include "primary/fence.h"
#include "worker/worker.h"

BackgroundWorkerHandle *
rctl_op_worker_launch(int slot, int64 operation)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	rctl_worker_define(&worker, "rctl_op_worker_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "replica_ctl operation " INT64_FORMAT, operation);
	strlcpy(worker.bgw_type, "replica_ctl operation", sizeof(worker.bgw_type));
	worker.bgw_main_arg = Int32GetDatum(slot);
	memcpy(worker.bgw_extra, &operation, sizeof(operation));
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/*
 * An error that is not of a step but of the engine.  If it may pass, or the
 * registry cannot be written now, this process just ends: the operation is as
 * its row says and the launcher tries again.  If not, a person must look.
 */
static void
handle_error(int64 operation, MemoryContext context)
{
	RctlError	error = {0};
	ErrorData  *edata;

	MemoryContextSwitchTo(context);
	edata = CopyErrorData();
	HOLD_INTERRUPTS();
	FlushErrorState();
	LWLockReleaseAll();
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(context);

	if (rctl_store_lost())
	{
		rctl_engine_abandon();
		return;
	}
	if (rctl_error_is_transient(edata->sqlerrcode) ||
		ERRCODE_TO_CATEGORY(edata->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
	{
		ereport(LOG,
				(errmsg("replica_ctl operation " INT64_FORMAT " was interrupted: %s", operation, edata->message)));
		return;
	}

	error.sqlstate = pstrdup(unpack_sql_state(edata->sqlerrcode));
	error.message = edata->message;
	error.detail = edata->detail;
	error.hint = edata->hint;
	ereport(LOG,
			(errmsg("replica_ctl operation " INT64_FORMAT " needs attention: %s", operation, edata->message)));
	rctl_fence_abandon(operation);
	rctl_store_begin();
	if (rctl_store_installed())
		rctl_store_park(operation, &error);
	rctl_store_commit();
}

/* pg_cancel_backend() means the same as replica_cancel(). */
static void
cancel_handler(SIGNAL_ARGS)
{
	int			save_errno = errno;

	rctl_board_cancel_self();
	errno = save_errno;
}

void
rctl_op_worker_main(Datum arg)
{
	int64		operation;
	MemoryContext context;

	memcpy(&operation, MyBgworkerEntry->bgw_extra, sizeof(operation));
	rctl_worker_start();
	rctl_store_sigint = cancel_handler;
	pqsignal(SIGINT, rctl_store_sigint);
	if (!rctl_board_enter_worker(DatumGetInt32(arg), operation))
		proc_exit(0);

	context = AllocSetContextCreate(TopMemoryContext, "replica_ctl operation",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		rctl_engine_run(operation);
	}
	PG_CATCH();
	{
		handle_error(operation, context);
	}
	PG_END_TRY();

	/* Ends what still hangs on it: connections, programs. */
	MemoryContextDelete(context);
	proc_exit(0);
}
