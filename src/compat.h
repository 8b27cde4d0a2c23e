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

#endif							/* REPLICA_CTL_COMPAT_H */
