/*-------------------------------------------------------------------------
 *
 * slots.c
 *	  Physical replication slots of this server.
 *
 * The slot's own functions in pg_catalog do the work: they hold the right
 * locks in every version, and a slot is on disk when they return.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "net/wait.h"
#include "primary/slots.h"

/* How long a walsender that was told to end may take. */
#define RELEASE_TRIES 100
#define RELEASE_WAIT_MS 50

/* Runs a statement with one name parameter; the first column of its first row, or NULL. */
static char *
query(const char *sql, const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};
	char	   *result = NULL;

	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 1) < 0)
		elog(ERROR, "slot statement failed");
	if (SPI_processed > 0)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		if (value)
			result = MemoryContextStrdup(caller, value);
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return result;
}

bool
rctl_slot_exists(const char *name)
{
	return query("SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", name) != NULL;
}

void
rctl_slot_create(const char *name)
{
	char	   *usable = query("SELECT slot_type = 'physical' AND restart_lsn IS NOT NULL"
							   " AND wal_status IS DISTINCT FROM 'lost'"
							   " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", name);

	if (usable == NULL)
		(void) query("SELECT lsn FROM pg_catalog.pg_create_physical_replication_slot($1::name, true)", name);
	else if (usable[0] != 't')
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replication slot \"%s\" exists and cannot serve a replica", name),
				 errdetail("It is logical, has no reserved WAL, or has lost its WAL."),
				 errhint("Drop it with SELECT pg_drop_replication_slot(%s).", quote_literal_cstr(name))));
}

void
rctl_slot_drop(const char *name)
{
	for (int i = 0; i < RELEASE_TRIES; i++)
	{
		char	   *active = query("SELECT CASE WHEN active THEN pg_catalog.pg_terminate_backend(active_pid) END IS NOT NULL"
								   " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", name);

		if (active == NULL)
			return;
		if (active[0] == 'f')
		{
			(void) query("SELECT pg_catalog.pg_drop_replication_slot(slot_name)"
						 " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND NOT active", name);
			continue;
		}
		rctl_sleep(RELEASE_WAIT_MS);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("replication slot \"%s\" is still in use", name),
			 errhint("See active_pid in pg_replication_slots.")));
}
