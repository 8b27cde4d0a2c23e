/*-------------------------------------------------------------------------
 *
 * aws_credentials.c
 *	  Finds the credentials for calls to Amazon.
 *
 * A login is a conversation.  It looks, in the order of Amazon's own SDKs,
 * where credentials are; some places (STS, a container's or an instance's
 * metadata service) are asked by HTTP.  If a role is to be assumed, those
 * found are used to ask STS for the role's.
 *
 * In memory: temporary credentials, until shortly before they expire, by
 * server, user and the options that they were found by.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/memutils.h"

#include "net/json.h"
#include "net/text.h"
#include "net/xml.h"
#include "provider/aws_credentials.h"
#include "provider/aws_profile.h"

#define MAX_CACHED 64
#define STS_VERSION "2011-06-15"
#define SESSION_NAME "replica_ctl"

/* Fetched anew so long before they expire, or in the last quarter of their life. */
#define REFRESH_BEFORE (15 * 60 * USECS_PER_SEC)

/* Not used any more in their last minute. */
#define LAST_MOMENT (60 * USECS_PER_SEC)

#define IMDS "http://169.254.169.254"
#define CONTAINER "http://169.254.170.2"
#define METADATA_MS 1000
#define CONTAINER_MS 2000

const RctlOptionDef rctl_aws_mapping_options[] = {
	{"access_key_id", RCTL_OPTION_TEXT, "access key ID"},
	{"secret_access_key", RCTL_OPTION_TEXT, "its secret"},
	{"session_token", RCTL_OPTION_TEXT, "its session token, if it is a temporary one"},
	{"credentials_file", RCTL_OPTION_PATH, "file on this host with profiles, as ~/.aws/credentials", .privileged = true},
	{"profile", RCTL_OPTION_TEXT, "profile in credentials_file; default: default"},
	{"role_arn", RCTL_OPTION_TEXT, "role to assume with the keys"},
	{"external_id", RCTL_OPTION_TEXT, "external ID that the role asks for"},
	RCTL_SOURCE_MAPPING_OPTIONS,
	{NULL}
};

/* What is asked for next. */
typedef enum Stage
{
	STAGE_START,
	STAGE_WEB_IDENTITY,
	STAGE_CONTAINER,
	STAGE_IMDS_TOKEN,
	STAGE_IMDS_ROLE,
	STAGE_IMDS_KEYS,
	STAGE_ASSUME_ROLE,
	STAGE_DONE,
} Stage;

struct RctlAwsLogin
{
	RctlAwsUser user;
	MemoryContext context;
	Stage		stage;
	int			attempt;		/* of this stage's request */
	const char *role_arn;		/* to be assumed in the end; or NULL */
	const char *external_id;
	char	   *imds_token;
	char	   *imds_role;
	RctlAwsCredentials *credentials;	/* NULL: none yet */
	RctlAwsCredentials *spare;	/* from the cache, still good for a while */
};

typedef struct Cached
{
	dlist_node	node;
	MemoryContext context;
	Oid			serverid;
	Oid			userid;
	uint64		options;		/* hash of what they were found by */
	TimestampTz fetched;
	RctlAwsCredentials credentials;
} Cached;

static dlist_head cache = DLIST_STATIC_INIT(cache); /* the latest first */

/* ---- the cache ---- */

static void
copy_credentials(RctlAwsCredentials *to, const RctlAwsCredentials *from)
{
	to->access_key_id = pstrdup(from->access_key_id);
	to->secret_access_key = pstrdup(from->secret_access_key);
	to->session_token = from->session_token ? pstrdup(from->session_token) : NULL;
	to->expires = from->expires;
	to->source = pstrdup(from->source);
}

static uint64
hash_of_options(const RctlAwsUser *user)
{
	char	   *options = psprintf("%s %s %s", user->region, rctl_map_to_json(user->server_options),
								   user->mapping ? rctl_map_to_json(user->mapping) : "");
	uint64		hash = hash_bytes_extended((unsigned char *) options, strlen(options), 0);

	explicit_bzero(options, strlen(options));
	pfree(options);
	return hash;
}

static Cached *
find_cached(const RctlAwsUser *user)
{
	dlist_iter	iter;

	dlist_foreach(iter, &cache)
	{
		Cached	   *cached = dlist_container(Cached, node, iter.cur);

		if (cached->serverid == user->serverid && cached->userid == user->userid)
			return cached;
	}
	return NULL;
}

static void
drop_cached(Cached *cached)
{
	dlist_delete(&cached->node);
	explicit_bzero(unconstify(char *, cached->credentials.secret_access_key),
				   strlen(cached->credentials.secret_access_key));
	MemoryContextDelete(cached->context);
}

static void
put_cached(const RctlAwsUser *user, const RctlAwsCredentials *credentials)
{
	Cached	   *cached = find_cached(user);
	MemoryContext context;
	MemoryContext old;
	dlist_iter	iter;
	int			count = 0;

	if (cached)
		drop_cached(cached);
	if (credentials->expires == 0)
		return;
	dlist_foreach(iter, &cache)
		count++;
	if (count >= MAX_CACHED)
		drop_cached(dlist_container(Cached, node, dlist_tail_node(&cache)));

	context = AllocSetContextCreate(TopMemoryContext, "replica_ctl credentials", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	cached = palloc0(sizeof(Cached));
	cached->context = context;
	cached->serverid = user->serverid;
	cached->userid = user->userid;
	cached->options = hash_of_options(user);
	cached->fetched = rctl_aws_clock();
	copy_credentials(&cached->credentials, credentials);
	dlist_push_head(&cache, &cached->node);
	MemoryContextSwitchTo(old);
}

void
rctl_aws_forget(const RctlAwsUser *user)
{
	Cached	   *cached = find_cached(user);

	if (cached)
		drop_cached(cached);
}

/* True: those in the cache will do.  Else, if they still work, they are kept as a spare. */
static bool
use_cached(RctlAwsLogin *login)
{
	Cached	   *cached = find_cached(&login->user);
	TimestampTz now = rctl_aws_clock();
	RctlAwsCredentials *found;
	int64		before;

	if (cached == NULL || cached->options != hash_of_options(&login->user) ||
		now > cached->credentials.expires - LAST_MOMENT)
		return false;
	found = MemoryContextAllocZero(login->context, sizeof(RctlAwsCredentials));
	copy_credentials(found, &cached->credentials);
	before = Min(REFRESH_BEFORE, (found->expires - cached->fetched) / 4);
	if (now < found->expires - before)
	{
		login->credentials = found;
		return true;
	}
	login->spare = found;
	return false;
}

/* ---- errors ---- */

static bool
is_ambient(const RctlAwsUser *user)
{
	const char *value = rctl_map_get(user->server_options, "ambient_credentials");
	bool		allowed = false;

	return value && parse_bool(value, &allowed) && allowed;
}

static void
raise_none(const RctlAwsLogin *login)
{
	const char *server = login->user.server ? login->user.server : "?";

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("there are no credentials for server \"%s\"", server),
			 is_ambient(&login->user) ?
			 errdetail("The user mapping has none, and none were found in the environment, the shared credentials file, the container or the instance of the server process.") :
			 login->user.mapping ?
			 errdetail("The user mapping has neither keys nor a credentials file.") :
			 errdetail("The user has no user mapping for it."),
			 errhint("CREATE USER MAPPING FOR ... SERVER %s OPTIONS (access_key_id '...', secret_access_key '...'), or ALTER SERVER %s OPTIONS (ADD ambient_credentials 'true') to let its users have those of the server process.",
					 server, server)));
}

/*
 * A refused signature is explained at length, with all the headers that were
 * signed: the session token is one.
 */
static char *
without_secrets(char *message)
{
	static const char *const starts[] = {"The Canonical String", "The String-to-Sign", "x-amz-security-token", "Signature="};

	message[strcspn(message, "\r\n")] = '\0';
	for (int i = 0; i < lengthof(starts); i++)
	{
		char	   *found = strstr(message, starts[i]);

		if (found)
			*found = '\0';
	}
	return rctl_redact(message);
}

/* The source is asked for credentials and does not give them. */
static void
raise_refused(const RctlHttpRequest *request, const RctlHttpResponse *response)
{
	char	   *problem;
	const RctlXml *root = NULL;
	char	   *code = NULL;
	char	   *message = NULL;

	if (response->status == 0)
		rctl_http_raise(request, response);
	if (response->status >= 300)
		root = rctl_xml_parse(response->body, response->body_length, &problem);
	code = rctl_xml_text(root, "Error/Code");
	message = rctl_xml_text(root, "Error/Message");
	ereport(ERROR,
			(errcode(response->status >= 500 || response->status == 429 ?
					 ERRCODE_CONNECTION_FAILURE : ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("%s gave no credentials", request->what),
			 code ? errdetail("%s: %s (status %d, request %s)", code,
							  message ? without_secrets(message) : "", response->status,
							  response->request_id ? response->request_id : "unknown") :
			 errdetail("The status of its answer was %d.", response->status),
			 request->metadata ? 0 :
			 errhint("Check role_arn, external_id and the keys in the user mapping.")));
}

static void
raise_senseless(const RctlHttpRequest *request, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("%s gave no credentials", request->what),
			 errdetail("Its answer makes no sense: %s.", problem)));
}

/* ---- what answers hold ---- */

/* 2026-11-22T01:02:03Z; 0 if it is no time. */
static TimestampTz
parse_time(const char *text)
{
	struct pg_tm tm = {0};
	TimestampTz result;

	if (text == NULL ||
		sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
			   &tm.tm_hour, &tm.tm_min, &tm.tm_sec) != 6)
		return 0;
	if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 ||
		tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60 || tm.tm_year < 2000)
		return 0;
	if (tm2timestamp(&tm, 0, NULL, &result) != 0)
		return 0;
	return result;
}

/* Raises an error if they are no credentials. */
static void
take_credentials(RctlAwsLogin *login, const RctlHttpRequest *request, char *id, char *secret,
				 char *token, char *expires, const char *source)
{
	RctlAwsCredentials *found = MemoryContextAllocZero(login->context, sizeof(RctlAwsCredentials));
	RctlAwsCredentials given = {id, secret, token, parse_time(expires), source};
	MemoryContext old;

	if (id == NULL || secret == NULL)
		raise_senseless(request, "there is no key in it");
	if (expires && given.expires == 0)
		raise_senseless(request, "it does not say when they expire");
	if (given.expires != 0 && given.expires < rctl_aws_clock())
		raise_senseless(request, "they have expired");
	old = MemoryContextSwitchTo(login->context);
	copy_credentials(found, &given);
	MemoryContextSwitchTo(old);
	login->credentials = found;
}

/* Of STS. */
static void
take_xml(RctlAwsLogin *login, const RctlHttpRequest *request, const RctlHttpResponse *response,
		 const char *result, const char *source)
{
	char	   *problem;
	const RctlXml *root = rctl_xml_parse(response->body, response->body_length, &problem);
	const RctlXml *given = rctl_xml_find(rctl_xml_find(root, result), "Credentials");

	if (root == NULL)
		raise_senseless(request, problem);
	take_credentials(login, request, rctl_xml_text(given, "AccessKeyId"), rctl_xml_text(given, "SecretAccessKey"),
					 rctl_xml_text(given, "SessionToken"), rctl_xml_text(given, "Expiration"), source);
}

/* Of a container or an instance. */
static void
take_json(RctlAwsLogin *login, const RctlHttpRequest *request, const RctlHttpResponse *response,
		  const char *source)
{
	char	   *problem;
	const RctlJson *root = rctl_json_parse(response->body, response->body_length, &problem);
	char	   *code;

	if (root == NULL)
		raise_senseless(request, problem);
	code = rctl_json_text(root, "Code");
	if (code && strcmp(code, "Success") != 0)
		raise_senseless(request, "its code is not Success");
	take_credentials(login, request, rctl_json_text(root, "AccessKeyId"), rctl_json_text(root, "SecretAccessKey"),
					 rctl_json_text(root, "Token"), rctl_json_text(root, "Expiration"), source);
}

/* ---- requests ---- */

static RctlHttpRequest *
make_request(const char *method, const char *url, const char *what, int headers)
{
	RctlHttpRequest *request = palloc0(sizeof(RctlHttpRequest));

	request->method = method;
	request->url = url;
	request->what = what;
	request->headers = palloc0(sizeof(RctlHttpHeader) * (headers + 1));
	request->max_body = 64 * 1024;
	return request;
}

static void
set_header(RctlHttpRequest *request, int index, const char *name, const char *value)
{
	unconstify(RctlHttpHeader *, request->headers)[index].name = name;
	unconstify(RctlHttpHeader *, request->headers)[index].value = value;
}

static char *
sts_endpoint(const RctlAwsUser *user)
{
	static const char *const suffixes[][2] = {
		{"cn-", "amazonaws.com.cn"}, {"us-iso-", "c2s.ic.gov"}, {"us-isob-", "sc2s.sgov.gov"},
		{"eu-isoe-", "cloud.adc-e.uk"}, {"us-isof-", "csp.hci.ic.gov"}, {"", "amazonaws.com"}
	};
	const char *endpoint = rctl_map_get(user->server_options, "sts_endpoint");
	int			i = 0;

	if (endpoint == NULL)
		endpoint = rctl_map_get(user->server_options, "endpoint");
	if (endpoint)
		return pstrdup(endpoint);
	while (strncmp(user->region, suffixes[i][0], strlen(suffixes[i][0])) != 0)
		i++;
	return psprintf("https://sts.%s.%s/", user->region, suffixes[i][1]);
}

static RctlHttpRequest *
sts_request(const RctlAwsLogin *login, const char *action, char *body)
{
	RctlHttpRequest *request = make_request("POST", sts_endpoint(&login->user), "Amazon STS", 1);

	request->action = action;
	request->body = body;
	request->ca_file = rctl_map_get(login->user.server_options, "ca_file");
	set_header(request, 0, "Content-Type", "application/x-www-form-urlencoded; charset=utf-8");
	return request;
}

static const RctlHttpRequest *
assume_role(const RctlAwsLogin *login)
{
	char	   *body = psprintf("Action=AssumeRole&Version=" STS_VERSION "&RoleArn=%s&RoleSessionName=" SESSION_NAME "%s%s",
								rctl_http_encode(login->role_arn),
								login->external_id ? "&ExternalId=" : "",
								login->external_id ? rctl_http_encode(login->external_id) : "");

	return rctl_aws_sign(sts_request(login, "AssumeRole", body), login->credentials,
						 login->user.region, "sts", rctl_aws_clock());
}

/* The token is rotated: it is read each time. */
static const RctlHttpRequest *
assume_by_web_identity(const RctlAwsLogin *login)
{
	char	   *token = rctl_aws_read_token(getenv("AWS_WEB_IDENTITY_TOKEN_FILE"));
	const char *session = getenv("AWS_ROLE_SESSION_NAME");
	char	   *body = psprintf("Action=AssumeRoleWithWebIdentity&Version=" STS_VERSION
								"&RoleArn=%s&RoleSessionName=%s&WebIdentityToken=%s",
								rctl_http_encode(getenv("AWS_ROLE_ARN")),
								rctl_http_encode(session && *session ? session : SESSION_NAME),
								rctl_http_encode(token));

	return sts_request(login, "AssumeRoleWithWebIdentity", body);
}

static const RctlHttpRequest *
ask_container(void)
{
	const char *relative = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
	const char *file = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
	const char *token = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN");
	RctlHttpRequest *request;

	request = make_request("GET", relative && *relative ? psprintf(CONTAINER "%s", relative) :
						   getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
						   "the container's credentials service", 1);
	request->metadata = true;
	request->connect_ms = request->total_ms = CONTAINER_MS;
	if (file && *file)
		token = rctl_aws_read_token(file);
	if (token && *token)
		set_header(request, 0, "Authorization", token);
	return request;
}

static const RctlHttpRequest *
ask_instance(const RctlAwsLogin *login)
{
	const char *endpoint = getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT");
	const char *slash;
	RctlHttpRequest *request;

	if (endpoint == NULL || *endpoint == '\0')
		endpoint = IMDS;
	slash = endpoint[strlen(endpoint) - 1] == '/' ? "" : "/";
	request = make_request("GET", NULL, "the instance metadata service", 1);
	request->metadata = true;
	request->connect_ms = request->total_ms = METADATA_MS;
	if (login->stage == STAGE_IMDS_TOKEN)
	{
		request->method = "PUT";
		request->url = psprintf("%s%slatest/api/token", endpoint, slash);
		set_header(request, 0, "X-aws-ec2-metadata-token-ttl-seconds", "21600");
		return request;
	}
	request->url = psprintf("%s%slatest/meta-data/iam/security-credentials/%s", endpoint, slash,
							login->stage == STAGE_IMDS_KEYS ? rctl_http_encode(login->imds_role) : "");
	set_header(request, 0, "X-aws-ec2-metadata-token", login->imds_token);
	return request;
}

static const RctlHttpRequest *
request_of(const RctlAwsLogin *login)
{
	switch (login->stage)
	{
		case STAGE_WEB_IDENTITY:
			return assume_by_web_identity(login);
		case STAGE_CONTAINER:
			return ask_container();
		case STAGE_ASSUME_ROLE:
			return assume_role(login);
		default:
			return ask_instance(login);
	}
}

/* ---- the conversation ---- */

static bool
is_set(const char *variable)
{
	const char *value = getenv(variable);

	return value && *value;
}

static void
use_keys(RctlAwsLogin *login, const char *id, const char *secret, const char *token, const char *source)
{
	RctlAwsCredentials *found = MemoryContextAllocZero(login->context, sizeof(RctlAwsCredentials));
	RctlAwsCredentials given = {id, secret, token && *token ? token : NULL, 0, source};
	MemoryContext old = MemoryContextSwitchTo(login->context);

	copy_credentials(found, &given);
	MemoryContextSwitchTo(old);
	login->credentials = found;
}

/* A profile of a file; false if there are no keys in it. */
static bool
use_profile(RctlAwsLogin *login, const RctlAwsProfile *profile, const char *source)
{
	if (profile->access_key_id == NULL || profile->secret_access_key == NULL)
		return false;
	use_keys(login, profile->access_key_id, profile->secret_access_key, profile->session_token, source);
	if (profile->role_arn && login->role_arn == NULL)
	{
		login->role_arn = MemoryContextStrdup(login->context, profile->role_arn);
		if (profile->external_id)
			login->external_id = MemoryContextStrdup(login->context, profile->external_id);
	}
	return true;
}

/* The user mapping; false if it has none. */
static bool
look_in_mapping(RctlAwsLogin *login)
{
	const RctlMap *mapping = login->user.mapping;
	const char *id = mapping ? rctl_map_get(mapping, "access_key_id") : NULL;
	const char *secret = mapping ? rctl_map_get(mapping, "secret_access_key") : NULL;
	const char *file = mapping ? rctl_map_get(mapping, "credentials_file") : NULL;
	RctlAwsProfile profile;

	if (mapping == NULL)
		return false;
	login->role_arn = rctl_map_get(mapping, "role_arn");
	login->external_id = rctl_map_get(mapping, "external_id");
	if ((id == NULL) != (secret == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("the user mapping for server \"%s\" has only one of access_key_id and secret_access_key",
						login->user.server),
				 errhint("ALTER USER MAPPING FOR ... SERVER %s OPTIONS (ADD ...)", login->user.server)));
	if (id)
	{
		use_keys(login, id, secret, rctl_map_get(mapping, "session_token"), "user mapping");
		return true;
	}
	if (file == NULL)
		return false;
	rctl_aws_read_profile(file, NULL, rctl_map_get_default(mapping, "profile", "default"), &profile);
	if (!use_profile(login, &profile, "credentials file"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("there are no keys in profile \"%s\" of the credentials file for server \"%s\"",
						rctl_map_get_default(mapping, "profile", "default"), login->user.server),
				 errhint("It must have a section with that name, and in it aws_access_key_id and aws_secret_access_key.")));
	return true;
}

/* What the server process has; the next stage if somebody must be asked. */
static Stage
look_around(RctlAwsLogin *login)
{
	RctlAwsProfile profile;
	const char *disabled = getenv("AWS_EC2_METADATA_DISABLED");

	if (is_set("AWS_ACCESS_KEY_ID") && is_set("AWS_SECRET_ACCESS_KEY"))
	{
		use_keys(login, getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_SECRET_ACCESS_KEY"),
				 is_set("AWS_SESSION_TOKEN") ? getenv("AWS_SESSION_TOKEN") : getenv("AWS_SECURITY_TOKEN"),
				 "environment");
		return STAGE_DONE;
	}
	rctl_aws_shared_profile(&profile);
	if (profile.role_arn && use_profile(login, &profile, "shared profile"))
		return STAGE_DONE;
	if (is_set("AWS_WEB_IDENTITY_TOKEN_FILE") && is_set("AWS_ROLE_ARN"))
		return STAGE_WEB_IDENTITY;
	if (use_profile(login, &profile, "shared credentials file"))
		return STAGE_DONE;
	if (is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") || is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
		return STAGE_CONTAINER;
	if (disabled && pg_strcasecmp(disabled, "true") == 0)
		raise_none(login);
	return STAGE_IMDS_TOKEN;
}

/* Where to look first. */
static Stage
start(RctlAwsLogin *login)
{
	if (use_cached(login))
		return STAGE_DONE;
	if (look_in_mapping(login))
		return login->role_arn ? STAGE_ASSUME_ROLE : STAGE_DONE;
	if (is_ambient(&login->user))
	{
		Stage		stage = look_around(login);

		return stage == STAGE_DONE && login->role_arn ? STAGE_ASSUME_ROLE : stage;
	}
	raise_none(login);
	return STAGE_DONE;
}

/* Takes a good answer; returns what is asked next. */
static Stage
take_answer(RctlAwsLogin *login, const RctlHttpRequest *request, const RctlHttpResponse *response)
{
	switch (login->stage)
	{
		case STAGE_WEB_IDENTITY:
			take_xml(login, request, response, "AssumeRoleWithWebIdentityResult", "web identity");
			break;
		case STAGE_CONTAINER:
			take_json(login, request, response, "container");
			break;
		case STAGE_IMDS_TOKEN:
			login->imds_token = MemoryContextStrdup(login->context,
													rctl_valid_text(response->body, response->body_length));
			login->imds_token[strcspn(login->imds_token, "\r\n")] = '\0';
			return STAGE_IMDS_ROLE;
		case STAGE_IMDS_ROLE:
			login->imds_role = MemoryContextStrdup(login->context,
												   rctl_valid_text(response->body, response->body_length));
			login->imds_role[strcspn(login->imds_role, "\r\n")] = '\0';
			if (*login->imds_role == '\0')
				raise_none(login);
			return STAGE_IMDS_KEYS;
		case STAGE_IMDS_KEYS:
			take_json(login, request, response, "instance metadata");
			break;
		case STAGE_ASSUME_ROLE:
			take_xml(login, request, response, "AssumeRoleResult", "assumed role");
			return STAGE_DONE;
		default:
			return STAGE_DONE;
	}
	return login->role_arn ? STAGE_ASSUME_ROLE : STAGE_DONE;
}

/* A bad answer: raises an error unless old credentials will do. */
static Stage
take_failure(RctlAwsLogin *login, const RctlHttpRequest *request, const RctlHttpResponse *response)
{
	if (login->spare)
	{
		login->credentials = login->spare;
		return STAGE_DONE;
	}
	/* No instance at all, or one without a role: that is the end of the list. */
	if ((login->stage == STAGE_IMDS_TOKEN && response->status != 200 && !response->sent) ||
		(login->stage == STAGE_IMDS_ROLE && response->status == 404))
		raise_none(login);
	raise_refused(request, response);
	return STAGE_DONE;
}

const RctlHttpRequest *
rctl_aws_login_next(void *state, const RctlHttpResponse *response)
{
	RctlAwsLogin *login = state;
	RctlHttpRetry retry = {.attempts = 3, .base_ms = 500, .max_ms = 5000, .idempotent = true};
	int			delay = 0;

	if (login->stage == STAGE_START)
		login->stage = start(login);
	else if (response)
	{
		/* The request itself is not kept: its words are made anew. */
		const RctlHttpRequest *request = request_of(login);

		if (login->stage >= STAGE_IMDS_TOKEN && login->stage <= STAGE_IMDS_KEYS)
			retry.attempts = 1;
		if (response->status == 200)
		{
			login->stage = take_answer(login, request, response);
			login->attempt = 0;
		}
		else
		{
			delay = rctl_http_retry_delay(&retry, NULL, login->attempt, response);
			if (delay < 0 && rctl_aws_clock_learn(response) && login->stage == STAGE_ASSUME_ROLE &&
				login->attempt < 3)
				delay = 0;
			if (delay < 0)
				login->stage = take_failure(login, request, response);
		}
	}
	if (login->stage == STAGE_DONE)
	{
		if (login->credentials->expires != 0 && login->credentials != login->spare)
		{
			Cached	   *cached = find_cached(&login->user);

			if (cached == NULL || cached->credentials.expires != login->credentials->expires)
				put_cached(&login->user, login->credentials);
		}
		return NULL;
	}
	else
	{
		RctlHttpRequest *request = unconstify(RctlHttpRequest *, request_of(login));

		request->attempt = ++login->attempt;
		request->delay_ms = Max(delay, 0);
		return request;
	}
}

RctlAwsLogin *
rctl_aws_login(const RctlAwsUser *user)
{
	RctlAwsLogin *login = palloc0(sizeof(RctlAwsLogin));

	login->user = *user;
	login->context = CurrentMemoryContext;
	login->stage = STAGE_START;
	return login;
}

const RctlAwsCredentials *
rctl_aws_login_result(const RctlAwsLogin *login)
{
	return login->credentials;
}

const RctlAwsCredentials *
rctl_aws_credentials(const RctlAwsUser *user)
{
	RctlAwsLogin *login = rctl_aws_login(user);

	rctl_http_converse(rctl_aws_login_next, login);
	return rctl_aws_login_result(login);
}
