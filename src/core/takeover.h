/*-------------------------------------------------------------------------
 *
 * takeover.h
 *	  A replica that was promoted finds itself in the registry that it carries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_TAKEOVER_H
#define REPLICA_CTL_CORE_TAKEOVER_H

/*
 * Settles the operation by which this server was promoted, if it was one, and
 * takes over what that operation has left it.  In the caller's transaction
 * (rctl_store_begin).  Harmless to repeat.
 */
extern void rctl_takeover(void);

#endif							/* REPLICA_CTL_CORE_TAKEOVER_H */
