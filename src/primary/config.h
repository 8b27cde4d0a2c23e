/*-------------------------------------------------------------------------
 *
 * config.h
 *	  This server's postgresql.auto.conf.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_CONFIG_H
#define REPLICA_CTL_PRIMARY_CONFIG_H

/*
 * ALTER SYSTEM SET or, with value NULL, RESET: as a statement it is not
 * allowed in a function or worker.  In a transaction of the caller's, which
 * it does not take part in.  Does not reload.
 */
extern void rctl_alter_system(const char *name, const char *value);

#endif							/* REPLICA_CTL_PRIMARY_CONFIG_H */
