/*-------------------------------------------------------------------------
 *
 * fence_test.c
 *	  What the tests of the fence need, in test builds only.
 *
 * The install script does not know these functions; the tests create them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef RCTL_TEST

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "primary/fence.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(rctl_test_fence_promoted);
PG_FUNCTION_INFO_V1(rctl_test_fence_raise);
PG_FUNCTION_INFO_V1(rctl_test_fence_lift);
PG_FUNCTION_INFO_V1(rctl_test_background_sql);
PGDLLEXPORT void rctl_test_background_main(Datum arg);

/* (operation bigint, replica text, endpoint text) returns void */
Datum
rctl_test_fence_promoted(PG_FUNCTION_ARGS)
{
	rctl_fence_mark_promoted(PG_GETARG_INT64(0), text_to_cstring(PG_GETARG_TEXT_PP(1)),
							 text_to_cstring(PG_GETARG_TEXT_PP(2)), 2, (XLogRecPtr) 0x2A);
	PG_RETURN_VOID();
}

/* (operation bigint) returns pg_lsn: as an operation's worker would */
Datum
rctl_test_fence_raise(PG_FUNCTION_ARGS)
{
	RctlFenceRequest request = {.operation = PG_GETARG_INT64(0), .reason = "test", .timeout_ms = 10000};

	PG_RETURN_LSN(rctl_fence_raise(&request));
}

/* (operation bigint) returns boolean */
Datum
rctl_test_fence_lift(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(rctl_fence_lift(PG_GETARG_INT64(0)));
}

/* (sql text, exempt boolean) returns void: a background worker of its own runs the statement */
Datum
rctl_test_background_sql(PG_FUNCTION_ARGS)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "replica_ctl", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "rctl_test_background_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "fence test", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "fence test", sizeof(worker.bgw_type));
	worker.bgw_main_arg = BoolGetDatum(PG_GETARG_BOOL(1));
	text_to_cstring_buffer(PG_GETARG_TEXT_PP(0), worker.bgw_extra, sizeof(worker.bgw_extra));
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not register background process")));
	PG_RETURN_VOID();
}

void
rctl_test_background_main(Datum arg)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(rctl_database, NULL, 0);
	if (DatumGetBool(arg))
		rctl_fence_exempt(true);

	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, MyBgworkerEntry->bgw_extra);
	(void) SPI_execute(MyBgworkerEntry->bgw_extra, false, 0);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

#endif
