/*-------------------------------------------------------------------------
 *
 * tablespaces.h
 *	  Keeps the tablespaces of this server and of replicas on its host apart.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_TABLESPACES_H
#define REPLICA_CTL_PRIMARY_TABLESPACES_H

/* Call from _PG_init only. */
extern void rctl_tablespaces_install_hook(void);

#endif							/* REPLICA_CTL_PRIMARY_TABLESPACES_H */
