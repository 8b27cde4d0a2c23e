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

#include "utils/acl.h"

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

#endif							/* REPLICA_CTL_COMPAT_H */
