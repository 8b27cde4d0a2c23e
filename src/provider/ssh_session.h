/*-------------------------------------------------------------------------
 *
 * ssh_session.h
 *	  A connection to another machine by OpenSSH, and programs there.
 *
 * There is one connection for each machine that an operation works with,
 * from the first use to the end of the operation (or of replica_explain).  It
 * carries a shell that answers requests, one at a time, and programs next to
 * it, each in a channel of its own (ControlMaster).
 *
 * A program there does not outlive the connection: it is ended when its stdin
 * ends, or when no sign of life has come for RCTL_SSH_SILENCE_S seconds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_SSH_SESSION_H
#define REPLICA_CTL_PROVIDER_SSH_SESSION_H

#include "net/process.h"
#include "provider/provider.h"

/* Tests do not wait as long. */
#ifdef RCTL_TEST
#define RCTL_SSH_SILENCE_S 12
#else
#define RCTL_SSH_SILENCE_S 30
#endif

typedef struct RctlSsh RctlSsh;

/* What a function of the remote shell has answered. */
typedef struct RctlSshReply
{
	int			status;			/* 0: it worked */
	char	   *text;			/* its output; if it failed, what it said */
	size_t		length;
} RctlSshReply;

/*
 * The connection of an operation to the machine of these server options; made
 * if there is none, or if the one that there was has broken.  functions: what
 * the shell there is to know.  Raises an error that says why it cannot be had.
 */
extern RctlSsh *rctl_ssh_session(RctlOp *op, const RctlMap *server_options, const char *functions);

/*
 * Calls a function in the shell there, with arguments that are ended by NULL.
 * tick as in net/process.h; timeout_ms <= 0: no bound of its own.
 */
extern RctlSshReply *rctl_ssh_call(RctlSsh *ssh, const char *const *argv, long timeout_ms,
								   RctlProcessTick tick, void *arg);

/* Runs a program there to its end; as rctl_process_start and _wait do here. */
extern RctlProcessResult *rctl_ssh_run(RctlSsh *ssh, const RctlProcessSpec *spec, long timeout_ms,
									   RctlProcessTick tick, long interval_ms, void *arg);

/* host "db2", for messages */
extern const char *rctl_ssh_name(const RctlMap *server_options);

/* Raises an error unless the options can be given to ssh. */
extern void rctl_ssh_check_options(const RctlMap *server_options);

#endif							/* REPLICA_CTL_PROVIDER_SSH_SESSION_H */
