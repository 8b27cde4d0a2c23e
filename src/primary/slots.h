/*-------------------------------------------------------------------------
 *
 * slots.h
 *	  Physical replication slots of this server.
 *
 * Each call is a short transaction of its own; not to be called in one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_SLOTS_H
#define REPLICA_CTL_PRIMARY_SLOTS_H

/*
 * Makes the slot with reserved WAL; one of that name that is physical and has
 * WAL reserved is success.  Raises ERRCODE_CONFIGURATION_LIMIT_EXCEEDED when
 * max_replication_slots is used up, ERRCODE_DUPLICATE_OBJECT for a slot of
 * another type.
 */
extern void rctl_slot_create(const char *name);

/*
 * Drops the slot, ending the walsender that uses it; that it is gone already
 * is success.  Raises ERRCODE_OBJECT_IN_USE (transient) if its user does not
 * let go within some seconds.
 */
extern void rctl_slot_drop(const char *name);

extern bool rctl_slot_exists(const char *name);

#endif							/* REPLICA_CTL_PRIMARY_SLOTS_H */
