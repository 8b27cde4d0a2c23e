/*-------------------------------------------------------------------------
 *
 * lobby.h
 *	  Where clients wait that log in to a standby while it is promoted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_LOBBY_H
#define REPLICA_CTL_PRIMARY_LOBBY_H

/* For _PG_init, after the fence's; and the shared-memory hooks. */
extern void rctl_lobby_install_hooks(void);
extern void rctl_lobby_shmem_request(void);
extern void rctl_lobby_shmem_init(void);

/*
 * On a standby: sessions that log in from now on wait until it accepts
 * writes, or until so much time has passed since this call; 0 lets those that
 * wait go on.  False where that cannot be: on a primary, and without the
 * library preloaded.
 */
extern bool rctl_lobby_open(int milliseconds);

#endif							/* REPLICA_CTL_PRIMARY_LOBBY_H */
