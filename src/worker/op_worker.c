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

/* An operation that cannot even be worked on waits for a person. */
static void
park_operation(int64 operation, MemoryContext context)
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

	error.sqlstate = pstrdup(unpack_sql_state(edata->sqlerrcode));
	error.message = edata->message;
	error.detail = edata->detail;
	error.hint = edata->hint;
	ereport(LOG,
			(errmsg("replica_ctl operation " INT64_FORMAT " needs attention: %s", operation, edata->message)));
	rctl_store_begin();
	if (rctl_store_installed())
		rctl_store_park(operation, &error);
	rctl_store_commit();
}

void
rctl_op_worker_main(Datum arg)
{
	int64		operation;
	MemoryContext context;

	memcpy(&operation, MyBgworkerEntry->bgw_extra, sizeof(operation));
	rctl_worker_start();
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
		park_operation(operation, context);
	}
	PG_END_TRY();

	/* Ends what still hangs on it: connections, programs. */
	MemoryContextDelete(context);
	proc_exit(0);
}
