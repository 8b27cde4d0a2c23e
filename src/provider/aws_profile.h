/*-------------------------------------------------------------------------
 *
 * aws_profile.h
 *	  Reads the files in which Amazon's tools keep credentials.
 *
 * What makes them run a program (credential_process, SSO) is left out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_AWS_PROFILE_H
#define REPLICA_CTL_PROVIDER_AWS_PROFILE_H

/* NULL: not there. */
typedef struct RctlAwsProfile
{
	char	   *access_key_id;
	char	   *secret_access_key;
	char	   *session_token;
	char	   *role_arn;
	char	   *external_id;
	char	   *source_profile; /* whose keys assume the role */
} RctlAwsProfile;

/*
 * A profile of a credentials file and, if it is not NULL, of a configuration
 * file, which is second.  With a source_profile the keys are that one's.  A
 * file that cannot be read raises an error.
 */
extern void rctl_aws_read_profile(const char *credentials_file, const char *config_file,
								  const char *name, RctlAwsProfile *profile);

/* The profile that the environment of this process names; files that do not exist are empty. */
extern void rctl_aws_shared_profile(RctlAwsProfile *profile);

/* A token in a file, without the line's end.  Raises errors. */
extern char *rctl_aws_read_token(const char *path);

#endif							/* REPLICA_CTL_PROVIDER_AWS_PROFILE_H */
