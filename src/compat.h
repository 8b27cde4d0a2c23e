/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between PostgreSQL 15 and 18.
 *
 * The only file of this project that mentions PG_VERSION_NUM.  Include it
 * after postgres.h and after the PostgreSQL headers it wraps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_COMPAT_H
#define REPLICA_CTL_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "replica_ctl needs PostgreSQL 15 or newer"
#endif

#include "catalog/pg_foreign_server.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc_tables.h"

/* Stands before the type of a function that does not return. */
#if PG_VERSION_NUM >= 180000
#define RCTL_NORETURN pg_noreturn
#else
#define RCTL_NORETURN pg_attribute_noreturn()
#endif

/* Whether a role has USAGE on a foreign server. */
static inline AclResult
rctl_server_aclcheck(Oid server, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, server, role, ACL_USAGE);
#else
	return pg_foreign_server_aclcheck(server, role, ACL_USAGE);
#endif
}

/* From 17 on a wait event set belongs to a resource owner; NULL: none. */
#if PG_VERSION_NUM >= 170000
#define rctl_create_wait_event_set(nevents) CreateWaitEventSet(NULL, (nevents))
#else
#define rctl_create_wait_event_set(nevents) CreateWaitEventSet(CurrentMemoryContext, (nevents))
#endif

/* Index of this process in ProcGlobal->allProcs. */
static inline int
rctl_my_proc_index(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

/* A list with the permissions that a plan needs, of what rctl_permission_to_write() takes. */
static inline List *
rctl_plan_permissions(const PlannedStmt *plan)
{
#if PG_VERSION_NUM >= 160000
	return plan->permInfos;
#else
	return plan->rtable;
#endif
}

/* The relation for which more than SELECT is needed, or InvalidOid. */
static inline Oid
rctl_permission_to_write(Node *permission)
{
#if PG_VERSION_NUM >= 160000
	RTEPermissionInfo *info = castNode(RTEPermissionInfo, permission);

	return (info->requiredPerms & ~ACL_SELECT) != 0 ? info->relid : InvalidOid;
#else
	RangeTblEntry *rte = castNode(RangeTblEntry, permission);

	return rte->rtekind == RTE_RELATION && (rte->requiredPerms & ~ACL_SELECT) != 0 ? rte->relid : InvalidOid;
#endif
}

/* What an ExecutorRun hook takes, and passes on. */
#if PG_VERSION_NUM >= 180000
#define RCTL_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *query, ScanDirection direction, uint64 count
#define RCTL_EXECUTOR_RUN_ARGUMENTS \
	query, direction, count
#else
#define RCTL_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *query, ScanDirection direction, uint64 count, bool execute_once
#define RCTL_EXECUTOR_RUN_ARGUMENTS \
	query, direction, count, execute_once
#endif

/* The record of a boolean setting of PostgreSQL's own. */
static inline struct config_bool *
rctl_find_bool_setting(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return (struct config_bool *) find_option(name, false, false, ERROR);
#else
	struct config_generic **settings = get_guc_variables();

	for (int i = 0; i < GetNumConfigOptions(); i++)
	{
		if (strcmp(settings[i]->name, name) == 0)
			return (struct config_bool *) settings[i];
	}
	elog(ERROR, "setting \"%s\" does not exist", name);
#endif
}

/* Whether a slot has lost what it was kept for. */
#if PG_VERSION_NUM >= 160000
#define rctl_slot_invalidated(data) ((data)->invalidated != RS_INVAL_NONE)
#else
#define rctl_slot_invalidated(data) \
	((data)->restart_lsn == InvalidXLogRecPtr && (data)->invalidated_at != InvalidXLogRecPtr)
#endif

/* The n-th (from 1) backend of this process's copy of the backends' status. */
#if PG_VERSION_NUM >= 160000
#define rctl_local_backend(n) pgstat_get_local_beentry_by_index(n)
#else
#define rctl_local_backend(n) pgstat_fetch_stat_local_beentry(n)
#endif

/* Memory for what a check hook makes of a setting; NULL if there is none. */
#if PG_VERSION_NUM >= 160000
#define rctl_guc_malloc(size) guc_malloc(LOG, (size))
#define rctl_guc_free(pointer) guc_free(pointer)
#else
#define rctl_guc_malloc(size) malloc(size)
#define rctl_guc_free(pointer) free(pointer)
#endif

#endif							/* REPLICA_CTL_COMPAT_H */
