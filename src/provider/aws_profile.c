/*-------------------------------------------------------------------------
 *
 * aws_profile.c
 *	  Reads the files in which Amazon's tools keep credentials.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "net/text.h"
#include "provider/aws_profile.h"

#define MAX_FILE (256 * 1024)

/*
 * The whole file; NULL if it does not exist and missing_ok is set.  What it
 * holds is never part of a message.
 */
static char *
read_whole(const char *path, bool missing_ok)
{
	/* Not to hang at a pipe. */
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	char	   *content;
	ssize_t		got;

	if (fd < 0 && errno == ENOENT && missing_ok)
		return NULL;
	if (fd < 0 || fstat(fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read credentials file \"%s\": %m", path),
				 errhint("It is read by the server, with the rights of the operating system's user that PostgreSQL runs as.")));
	if (!S_ISREG(st.st_mode) || st.st_size > MAX_FILE)
	{
		CloseTransientFile(fd);
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is no credentials file", path),
				 errdetail("It must be a regular file of at most %d bytes.", MAX_FILE)));
	}
	content = palloc(MAX_FILE + 1);
	got = read(fd, content, MAX_FILE);
	CloseTransientFile(fd);
	if (got < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read credentials file \"%s\": %m", path)));
	return rctl_valid_text(content, got);
}

char *
rctl_aws_read_token(const char *path)
{
	char	   *token = read_whole(path, false);
	size_t		length = strlen(token);

	while (length > 0 && isspace((unsigned char) token[length - 1]))
		token[--length] = '\0';
	return token;
}

/* Without blanks at both ends, in place. */
static char *
trim(char *text)
{
	char	   *end;

	while (isspace((unsigned char) *text))
		text	  ++;
	end = text +strlen(text);

	while (end > text &&isspace((unsigned char) end[-1]))
		*--end = '\0';
	return text;
}

/* Takes a key of the profile, unless it is there already. */
static void
take_key(RctlAwsProfile *profile, const char *key, char *value)
{
	const struct
	{
		const char *key;
		char	  **value;
	}			keys[] = {
		{"aws_access_key_id", &profile->access_key_id},
		{"aws_secret_access_key", &profile->secret_access_key},
		{"aws_session_token", &profile->session_token},
		{"role_arn", &profile->role_arn},
		{"external_id", &profile->external_id},
		{"source_profile", &profile->source_profile},
	};

	for (int i = 0; i < lengthof(keys); i++)
		if (strcmp(key, keys[i].key) == 0 && *keys[i].value == NULL && *value)
			*keys[i].value = pstrdup(value);
}

/* Adds what the file says about the profile: section [name], or [profile name]. */
static void
read_section(const char *path, bool missing_ok, const char *name, RctlAwsProfile *profile)
{
	char	   *content = read_whole(path, missing_ok);
	bool		inside = false;
	char	   *next;

	for (char *line = content; line; line = next)
	{
		char	   *equals;
		bool		nested = *line == ' ' || *line == '\t';

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		line = trim(line);
		if (*line == '#' || *line == ';' || *line == '\0')
			continue;
		if (*line == '[')
		{
			char	   *title = line + 1;

			title[strcspn(title, "]")] = '\0';
			title = trim(title);
			if (strncmp(title, "profile", 7) == 0 && isspace((unsigned char) title[7]))
				title = trim(title + 7);
			inside = strcmp(title, name) == 0;
			continue;
		}
		equals = strchr(line, '=');
		/* An indented line belongs to a setting of a service. */
		if (!inside || equals == NULL || nested)
			continue;
		*equals = '\0';
		take_key(profile, trim(line), trim(equals + 1));
	}
}

static void
read_both(const char *credentials_file, const char *config_file, bool missing_ok, const char *name,
		  RctlAwsProfile *profile)
{
	char	   *source;

	memset(profile, 0, sizeof(*profile));
	read_section(credentials_file, missing_ok, name, profile);
	if (config_file)
		read_section(config_file, missing_ok, name, profile);
	source = profile->source_profile;
	if (profile->role_arn && source && strcmp(source, name) != 0)
	{
		RctlAwsProfile keys = {0};

		read_section(credentials_file, missing_ok, source, &keys);
		if (config_file)
			read_section(config_file, missing_ok, source, &keys);
		profile->access_key_id = keys.access_key_id;
		profile->secret_access_key = keys.secret_access_key;
		profile->session_token = keys.session_token;
	}
}

void
rctl_aws_read_profile(const char *credentials_file, const char *config_file, const char *name,
					  RctlAwsProfile *profile)
{
	read_both(credentials_file, config_file, false, name, profile);
}

/* What the variable says, or a file in the home directory. */
static char *
path_of(const char *variable, const char *below_home)
{
	const char *path = getenv(variable);
	const char *home = getenv("HOME");

	if (path && *path)
		return pstrdup(path);
	return psprintf("%s/.aws/%s", home && *home ? home : "", below_home);
}

void
rctl_aws_shared_profile(RctlAwsProfile *profile)
{
	const char *name = getenv("AWS_PROFILE");

	if (name == NULL || *name == '\0')
		name = getenv("AWS_DEFAULT_PROFILE");
	read_both(path_of("AWS_SHARED_CREDENTIALS_FILE", "credentials"), path_of("AWS_CONFIG_FILE", "config"),
			  true, name && *name ? name : "default", profile);
}
