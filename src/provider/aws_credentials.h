/*-------------------------------------------------------------------------
 *
 * aws_credentials.h
 *	  Finds the credentials for calls to Amazon, and signs with them.
 *
 * Who may use what:
 *	  - keys (access_key_id, secret_access_key, session_token) stand in a user
 *		mapping: whoever knows them may use them;
 *	  - credentials_file and profile stand in a user mapping, and make this
 *		server read a file: the one who sets them needs the rights of
 *		pg_read_server_files (checked by the validator);
 *	  - what the server process has by itself (environment, web identity,
 *		its own shared credentials file, container, instance) is for servers
 *		with the option ambient_credentials 'true', which takes the same
 *		rights to set.  Then it is for all who may use the server.
 *	  role_arn, with external_id, is assumed with whichever of these was found.
 *
 * Credentials are cached in the process by server and user, and fetched anew
 * before they expire.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_AWS_CREDENTIALS_H
#define REPLICA_CTL_PROVIDER_AWS_CREDENTIALS_H

#include "net/http.h"
#include "net/map.h"
#include "provider/provider.h"

/* All user mapping options, ended by a NULL name: for RctlProvider.mapping_options. */
extern const RctlOptionDef rctl_aws_mapping_options[];

/* For the server options. */
#define RCTL_AWS_AMBIENT_OPTION \
	{"ambient_credentials", RCTL_OPTION_BOOL, \
	"users without keys of their own use those of the server process: environment, web identity, container, instance; default false", \
	.privileged = true}

/* Never log or store one. */
typedef struct RctlAwsCredentials
{
	const char *access_key_id;
	const char *secret_access_key;
	const char *session_token;	/* NULL: none */
	TimestampTz expires;		/* 0: never */
	const char *source;			/* where they are from, for messages: "user
								 * mapping", "instance metadata" */
} RctlAwsCredentials;

/* Who needs credentials, for what. */
typedef struct RctlAwsUser
{
	Oid			serverid;
	Oid			userid;
	const char *server;			/* its name, for hints */
	const RctlMap *server_options;	/* ambient_credentials, region,
									 * sts_endpoint, endpoint, ca_file */
	const RctlMap *mapping;		/* NULL: none */
	const char *region;
} RctlAwsUser;

typedef struct RctlAwsLogin RctlAwsLogin;

/*
 * Palloc'd in CurrentMemoryContext, with all that belongs to it.  So in a
 * generator switch to a context that lives as long as the whole conversation
 * (in a watch: watch->context): the current one there lives for one request.
 */
extern RctlAwsLogin *rctl_aws_login(const RctlAwsUser *user);

/*
 * The conversation (an RctlHttpNext with the login as its state): a part of
 * the caller's own.  NULL: it is over, and rctl_aws_login_result() has the
 * credentials, often at once.  Raises an error if there are none.
 */
extern const RctlHttpRequest *rctl_aws_login_next(void *login, const RctlHttpResponse *response);
extern const RctlAwsCredentials *rctl_aws_login_result(const RctlAwsLogin *login);

/* Waits for them: for operation workers and replica_explain(). */
extern const RctlAwsCredentials *rctl_aws_credentials(const RctlAwsUser *user);

/* Amazon says that they have expired: the next login fetches new ones. */
extern void rctl_aws_forget(const RctlAwsUser *user);

/*
 * Signs a request (version 4): returns a copy of it, palloc'd, with the
 * headers x-amz-date, x-amz-security-token and authorization added.  The path
 * is taken as it stands in the URL, encoded once; all headers are signed.  credentials NULL: nothing is signed, and the copy has just the
 * headers it had.  now: by Amazon's clock, see rctl_aws_clock().
 */
extern RctlHttpRequest *rctl_aws_sign(const RctlHttpRequest *request, const RctlAwsCredentials *credentials,
									  const char *region, const char *service, TimestampTz now);

/*
 * This process's idea of Amazon's clock: its own, corrected by the Date of the
 * last answer given to rctl_aws_clock_learn() if they differ by more than
 * four minutes.  _learn returns whether the idea changed: a signature that
 * was refused for its time is worth another attempt then.
 */
extern TimestampTz rctl_aws_clock(void);
extern bool rctl_aws_clock_learn(const RctlHttpResponse *response);

#endif							/* REPLICA_CTL_PROVIDER_AWS_CREDENTIALS_H */
