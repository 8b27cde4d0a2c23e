/*-------------------------------------------------------------------------
 *
 * ssh_check.h
 *	  What is looked at on another host before a replica is made there.
 *
 * Each function is one check of RctlProvider.create_checks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_SSH_CHECK_H
#define REPLICA_CTL_PROVIDER_SSH_CHECK_H

#include "provider/provider.h"

/* The first: connects, and keeps what is known of the host in the replica's facts. */
extern void rctl_ssh_check_host(RctlOp *op);

/* Raises an error if that has failed. */
extern void rctl_ssh_require_host(RctlOp *op);

extern void rctl_ssh_check_programs(RctlOp *op);
extern void rctl_ssh_check_version(RctlOp *op);
extern void rctl_ssh_check_platform(RctlOp *op);
extern void rctl_ssh_check_libraries(RctlOp *op);
extern void rctl_ssh_check_files(RctlOp *op);
extern void rctl_ssh_check_clock(RctlOp *op);
extern void rctl_ssh_check_way(RctlOp *op);

#endif							/* REPLICA_CTL_PROVIDER_SSH_CHECK_H */
