/*-------------------------------------------------------------------------
 *
 * identity.h
 *	  Which server this is, told from its copies.
 *
 * A physical clone carries our tables and the same system identifier; a
 * promoted one has another timeline; a copied data directory that is started
 * has both the same.  So a row's owner is (system identifier, timeline, home),
 * where home is the inode of the data directory and the machine id: a copy
 * has another inode, a copied machine another id.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_IDENTITY_H
#define REPLICA_CTL_CORE_IDENTITY_H

typedef struct RctlIdentity
{
	const char *system_identifier;
	const char *timeline;
	const char *home;
} RctlIdentity;

/* Cached for the life of the process; not to be called in recovery. */
extern const RctlIdentity *rctl_identity(void);

#endif							/* REPLICA_CTL_CORE_IDENTITY_H */
