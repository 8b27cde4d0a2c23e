/*-------------------------------------------------------------------------
 *
 * host_ssh.h
 *	  What the provider "ssh" finds out about a host.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_HOST_SSH_H
#define REPLICA_CTL_PROVIDER_HOST_SSH_H

#include "provider/host.h"

/*
 * Facts of a replica on such a host: bindir, address, source_address, root,
 * scratch, os_user, host_sockets.
 */

/* Connects, looks around, and keeps the facts; raises an error if the host cannot be used. */
extern void rctl_host_ssh_look(RctlHost *host, RctlMap *facts);

/*
 * Runs the program that this option of the server (start_command or
 * stop_command) names, or the other one if it names none, and waits for its
 * end.  %d, %n and %p in it become the directory, the replica's name, its port.
 */
extern RctlProcessResult *rctl_host_ssh_command(RctlHost *host, const char *option, const char *otherwise,
												const char *directory, RctlProcessTick tick, void *arg);

/* "--version" of a program there. */
extern char *rctl_host_ssh_version(RctlHost *host, const char *program);

/*
 * By name: machine; elf, the first 20 bytes of postgres as hexadecimal digits; if asked for libc, libc and locales (with spaces before,
 * between and behind); if asked for icu, libicu.  "" or absent if unknown.
 */
extern RctlMap *rctl_host_ssh_platform(RctlHost *host, bool libc, bool icu);

/* Those of the paths that are no readable files there. */
extern List *rctl_host_ssh_missing(RctlHost *host, List *paths);

/* Seconds by which the clock there is ahead of ours, and how exact that is; false if it cannot be read. */
extern bool rctl_host_ssh_clock(RctlHost *host, double *ahead, double *error);

#endif							/* REPLICA_CTL_PROVIDER_HOST_SSH_H */
