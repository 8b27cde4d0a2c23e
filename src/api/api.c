/*-------------------------------------------------------------------------
 *
 * api.c
 *	  What the SQL-callable functions have in common.
 *
 * A queued operation is a row of the caller's transaction: ROLLBACK means it
 * never happened, COMMIT wakes the launcher.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "api/api.h"
#include "core/board.h"
#include "settings.h"

static List *queued = NIL;		/* of int64 *, in TopTransactionContext */
static bool callback_registered = false;

/* Whether the transaction had written something before the call. */
static bool wrote_before = false;

void
rctl_api_require_primary(void)
{
	wrote_before = TransactionIdIsValid(GetTopTransactionIdIfAny());
	if (!rctl_board_exists())
	{
		const char *loaded = shared_preload_libraries_string;

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica_ctl must be loaded via shared_preload_libraries"),
				 loaded && loaded[0]
				 ? errhint("Add replica_ctl to shared_preload_libraries, which is now \"%s\", and restart the server.", loaded)
				 : errhint("Run ALTER SYSTEM SET shared_preload_libraries = %s and restart the server.",
						   quote_literal_cstr("replica_ctl"))));
	}
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("this server is a standby"),
				 errhint("Call the function on the primary that this server follows.")));
	if (MyDatabaseId != get_database_oid(rctl_database, true))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica_ctl works in database \"%s\", not in this one", rctl_database),
				 errhint("Connect to that database, or run ALTER SYSTEM SET replica_ctl.database = %s and restart the server.",
						 quote_literal_cstr(get_database_name(MyDatabaseId)))));
}

static void
transaction_ended(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (queued != NIL)
			{
				rctl_board_wake_launcher();
				rctl_board_changed();
			}
			queued = NIL;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			queued = NIL;
			break;
		default:
			break;
	}
}

void
rctl_api_queued(int64 operation)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	int64	   *id = palloc(sizeof(int64));

	if (!callback_registered)
		RegisterXactCallback(transaction_ended, NULL);
	callback_registered = true;
	*id = operation;
	queued = lappend(queued, id);
	MemoryContextSwitchTo(old);

	/*
	 * The row must become visible even if a synchronous standby is dead: its
	 * removal may be what is asked for.  What the user has written in the
	 * same transaction waits for it all the same.
	 */
	if (!wrote_before && synchronous_commit > SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		(void) set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}

int64
rctl_api_interval_ms(const Interval *interval, const char *what)
{
	int64		ms = interval->time / 1000 + interval->day * (USECS_PER_DAY / 1000);

	if (interval->month != 0 || ms < 0 || ms > INT_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is out of range", what),
				 errhint("It is at least 0 and at most 24 days.")));
	return ms;
}

bool
rctl_api_queued_here(int64 operation)
{
	ListCell   *lc;

	foreach(lc, queued)
	{
		if (*(int64 *) lfirst(lc) == operation)
			return true;
	}
	return false;
}
