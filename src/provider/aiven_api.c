/*-------------------------------------------------------------------------
 *
 * aiven_api.c
 *	  One call of Aiven's API: token, retries, and what its errors mean.
 *
 * An answer is good or bad by its HTTP status only: good bodies may hold
 * "errors", bad ones may be HTML or empty.  No answer at all, 408, 429, 5xx,
 * and a body of a page where JSON is due, are not the API's word: they are
 * asked again.  429 says how long to wait, in a header or in its text.
 *
 * Where a call must not be made twice (a creation), only what was surely not
 * done is asked again, and the rest is the caller's to find out.
 *
 * The token goes into the request's header and nowhere else: every text that
 * comes back has it removed, should the other side repeat it.
 *
 * Nothing here is durable or in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"

#include "net/text.h"
#include "net/wait.h"
#include "provider/aiven.h"

#define DEFAULT_ENDPOINT "https://api.aiven.io"

/* Attempts for as long as there is no real answer. */
#define ATTEMPTS 6
#define FIRST_PAUSE_MS 500
#define LAST_PAUSE_MS 15000

/* A rate limit counts by the minute: waiting for it is no failure. */
#define RATE_WAITS 20
#define RATE_PAUSE_MS 65000

/* One session looks for replica_explain: it has a few seconds. */
#define DRY_ATTEMPTS 2

#define MAX_BODY ((size_t) 32 * 1024 * 1024)
#define MAX_MESSAGE 1000

/* ---------------------------------------------------------------------
 * Token
 * ---------------------------------------------------------------------
 */

/* What a token may look like: it becomes part of a header. */
static bool
is_token(const char *text)
{
	if (*text == '\0')
		return false;
	for (; *text; text ++)
	{
		if ((unsigned char) *text <=' ' || (unsigned char) *text >=0x7f)
			return false;
	}
	return true;
}

static char *
token_of_file(const char *path)
{
	char		buffer[8192];
	FILE	   *file = AllocateFile(path, "r");
	size_t		length;
	int			problem;

	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open token file \"%s\": %m", path),
				 errhint("It must be readable for the user who runs this server.")));
	length = fread(buffer, 1, sizeof(buffer) - 1, file);
	problem = ferror(file) ? errno : 0;
	FreeFile(file);
	if (problem)
	{
		errno = problem;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read token file \"%s\": %m", path),
				 errhint("It must be readable for the user who runs this server.")));
	}
	while (length > 0 && isspace((unsigned char) buffer[length - 1]))
		length--;
	buffer[length] = '\0';
	return pstrdup(buffer);
}

static const char *
find_token(const char *server, const char *user, const RctlMap *mapping)
{
	const char *value = mapping ? rctl_map_get(mapping, "token") : NULL;
	const char *file = mapping ? rctl_map_get(mapping, "token_file") : NULL;
	const char *variable = mapping ? rctl_map_get(mapping, "token_env") : NULL;
	const char *option = "token";

	if (value == NULL && file)
	{
		value = token_of_file(file);
		option = "token_file";
	}
	else if (value == NULL && variable)
	{
		value = getenv(variable);
		option = "token_env";
	}
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("no Aiven token for server \"%s\"", server),
				 variable ? errdetail("Environment variable \"%s\" is not set for this server's processes.", variable) : 0,
				 errhint("Run CREATE USER MAPPING FOR %s SERVER %s OPTIONS (token '...'), or give it a token_file.",
						 user, quote_identifier(server))));
	if (!is_token(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("what option \"%s\" gives for server \"%s\" is not an Aiven token", option, server),
				 errdetail("A token is not empty and has neither spaces nor control characters."),
				 errhint("Set it with ALTER USER MAPPING FOR %s SERVER %s OPTIONS (SET %s '...').",
						 user, quote_identifier(server), option)));
	return value;
}

/* ---------------------------------------------------------------------
 * Project
 * ---------------------------------------------------------------------
 */

/* Of "https://host" and "https://host/v1/" the same is made. */
static char *
base_url(const char *endpoint)
{
	char	   *base = pstrdup(endpoint);
	size_t		length = strlen(base);

	while (length > 0 && base[length - 1] == '/')
		base[--length] = '\0';
	if (length >= 3 && strcmp(base + length - 3, "/v1") == 0)
		return base;
	return psprintf("%s/v1", base);
}

static const char *
required_option(const char *server, const RctlMap *options, const char *name, const char *example)
{
	const char *value = rctl_map_get(options, name);

	if (value == NULL || *value == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("server \"%s\" has no option \"%s\"", server, name),
				 errhint("Run ALTER SERVER %s OPTIONS (ADD %s '%s').", quote_identifier(server), name, example)));
	return value;
}

RctlAiven *
rctl_aiven_make(const char *server, const char *user, const RctlMap *server_options, const RctlMap *mapping)
{
	RctlAiven  *aiven = palloc0(sizeof(RctlAiven));

	aiven->server = server;
	aiven->user = user;
	aiven->base = base_url(rctl_map_get_default(server_options, "endpoint", DEFAULT_ENDPOINT));
	aiven->project = required_option(server, server_options, "project", "my-project");
	aiven->source = required_option(server, server_options, "source", "primary-postgresql");
	aiven->ca_file = rctl_map_get(server_options, "ca_file");
	aiven->token = find_token(server, user, mapping);
	return aiven;
}

RctlAiven *
rctl_aiven_open(RctlOp *op)
{
	static const char *const secrets[] = {"token", "token_file", "token_env"};
	RctlMap    *mapping = rctl_map_make();
	RctlAiven  *aiven;

	for (int i = 0; i < lengthof(secrets); i++)
	{
		char	   *value = rctl_op_secret(op, secrets[i]);

		rctl_map_set(mapping, secrets[i], value);
	}
	aiven = rctl_aiven_make(op->replica->server, quote_identifier(op->requested_by), op->server_options, mapping);
	aiven->op = op;
	return aiven;
}

char *
rctl_aiven_path(const RctlAiven *aiven, const char *segment,...)
{
	StringInfoData path;
	va_list		args;

	initStringInfo(&path);
	appendStringInfo(&path, "/project/%s", rctl_http_encode(aiven->project));
	va_start(args, segment);
	for (; segment; segment = va_arg(args, const char *))
		appendStringInfo(&path, "/%s", rctl_http_encode(segment));
	va_end(args);
	return path.data;
}

/* ---------------------------------------------------------------------
 * Requests and answers
 * ---------------------------------------------------------------------
 */

RctlHttpRequest *
rctl_aiven_request(const RctlAiven *aiven, const char *method, const char *path, const char *body,
				   const char *action)
{
	RctlHttpRequest *request = palloc0(sizeof(RctlHttpRequest));
	RctlHttpHeader *headers = palloc0(sizeof(RctlHttpHeader) * 4);

	headers[0].name = "Authorization";
	headers[0].value = psprintf("aivenv1 %s", aiven->token);
	headers[1].name = "Accept";
	headers[1].value = "application/json";
	headers[2].name = body ? "Content-Type" : NULL;
	headers[2].value = "application/json";

	request->method = method;
	request->url = psprintf("%s%s", aiven->base, path);
	request->headers = headers;
	request->what = "Aiven";
	request->action = action;
	request->ca_file = aiven->ca_file;
	request->max_body = MAX_BODY;
	if (body)
	{
		request->body = pg_server_to_any(body, strlen(body), PG_UTF8);
		request->body_length = strlen(request->body);
	}
	return request;
}

/* The text without the token, a password or control characters, and not too long. */
static char *
clean(const RctlAiven *aiven, const char *text)
{
	StringInfoData out;
	size_t		length = strlen(aiven->token);

	initStringInfo(&out);
	while (*text)
	{
		if (strncmp(text, aiven->token, length) == 0)
		{
			appendStringInfoString(&out, "***");
			text	  +=length;
		}
		else
		{
			appendStringInfoChar(&out, iscntrl((unsigned char) *text) ? ' ' : *text);
			text	  ++;
		}
	}
	if (out.len > MAX_MESSAGE)
	{
		out.len = pg_mbcliplen(out.data, out.len, MAX_MESSAGE);
		out.data[out.len] = '\0';
	}
	return rctl_redact(out.data);
}

/* The words of a page, roughly: what stands between its tags. */
static char *
page_text(const char *body, size_t length)
{
	char	   *text = rctl_valid_text(body, Min(length, 4000));
	StringInfoData out;
	bool		tag = false;

	initStringInfo(&out);
	for (const char *c = text; *c; c++)
	{
		if (*c == '<')
			tag = true;
		if (!tag && !(isspace((unsigned char) *c) && (out.len == 0 || out.data[out.len - 1] == ' ')))
			appendStringInfoChar(&out, isspace((unsigned char) *c) ? ' ' : *c);
		if (*c == '>')
		{
			tag = false;
			if (out.len > 0 && out.data[out.len - 1] != ' ')
				appendStringInfoChar(&out, ' ');
		}
	}
	while (out.len > 0 && out.data[out.len - 1] == ' ')
		out.data[--out.len] = '\0';
	return out.data;
}

RctlAivenAnswer *
rctl_aiven_understand(const RctlAiven *aiven, const RctlHttpRequest *request, const RctlHttpResponse *response)
{
	RctlAivenAnswer *answer = palloc0(sizeof(RctlAivenAnswer));
	char	   *problem;
	char	   *message = NULL;

	answer->request = request;
	answer->response = response;
	answer->status = response->status;
	if (response->status == 0)
	{
		answer->maybe_done = response->sent;
		return answer;
	}
	if (response->body_length > 0)
		answer->json = rctl_json_parse(response->body, response->body_length, &problem);
	if (answer->json && !rctl_json_is_object(answer->json))
		answer->json = NULL;
	if (!rctl_aiven_ok(answer))
	{
		message = rctl_json_text(answer->json, "errors/0/message");
		if (message == NULL)
			message = rctl_json_text(answer->json, "message");
		if (message == NULL && answer->json == NULL && response->body_length > 0)
			message = page_text(response->body, response->body_length);
		answer->code = rctl_json_text(answer->json, "errors/0/error_code");
	}
	answer->message = message && *message ? clean(aiven, message) : NULL;
	answer->code = answer->code ? clean(aiven, answer->code) : NULL;
	answer->maybe_done = answer->status == 408 || answer->status >= 500;
	return answer;
}

bool
rctl_aiven_ok(const RctlAivenAnswer *answer)
{
	return answer->status >= 200 && answer->status < 300;
}

static bool
has_code(const RctlAivenAnswer *answer, const char *code)
{
	return answer->code && strcmp(answer->code, code) == 0;
}

static bool
says(const RctlAivenAnswer *answer, const char *words)
{
	return answer->message && strcasestr(answer->message, words) != NULL;
}

/* error_code is not always there, so that the words decide otherwise. */
static bool
project_missing(const RctlAivenAnswer *answer)
{
	if (answer->status != 404)
		return false;
	if (has_code(answer, "project_not_found") || has_code(answer, "project_does_not_exist"))
		return true;
	return answer->code == NULL && says(answer, "project") && !says(answer, "service") && !says(answer, "integration");
}

bool
rctl_aiven_missing(const RctlAivenAnswer *answer)
{
	return answer->status == 404 && !project_missing(answer);
}

bool
rctl_aiven_denied(const RctlAivenAnswer *answer)
{
	return answer->status == 401 || answer->status == 403;
}

/* A body that is due and is not JSON is not the API's. */
static bool
is_garbage(const RctlAivenAnswer *answer, const char *method)
{
	if (answer->json)
		return false;
	if (rctl_aiven_ok(answer))
		return strcmp(method, "GET") == 0 || strcmp(method, "POST") == 0;
	return answer->status == 404 && answer->response->body_length > 0;
}

/* ---------------------------------------------------------------------
 * Errors
 * ---------------------------------------------------------------------
 */

char *
rctl_aiven_detail(const RctlAivenAnswer *answer)
{
	StringInfoData text;

	initStringInfo(&text);
	if (answer->status == 0)
	{
		appendStringInfo(&text, "No answer from Aiven to %s: %s.", answer->request->action,
						 answer->response->reason ? answer->response->reason : "unknown reason");
		return text.data;
	}
	appendStringInfo(&text, "Aiven answered %s with status %d", answer->request->action, answer->status);
	if (answer->message)
		appendStringInfo(&text, ": %s", answer->message);
	else if (rctl_aiven_ok(answer))
		appendStringInfoString(&text, " and something that is not JSON");
	if (answer->code)
		appendStringInfo(&text, " (%s)", answer->code);
	if (text.data[text.len - 1] != '.')
		appendStringInfoChar(&text, '.');
	return text.data;
}

/* What a token needs for an action, in the words of Aiven's permissions. */
static const char *
needed_right(const char *action)
{
	if (strcmp(action, "ServiceIntegrationDelete") == 0)
		return "project:integrations:write or the role role:services:recover";
	if (strncmp(action, "Service", 7) == 0 &&
		(strstr(action, "Create") || strstr(action, "Update") || strstr(action, "Delete")))
		return "project:services:write";
	if (strcmp(action, "ProjectServiceTagsReplace") == 0)
		return "project:services:write";
	return "project:services:read";
}

static char *
token_hint(const RctlAiven *aiven)
{
	return psprintf("Give a token that is valid with ALTER USER MAPPING FOR %s SERVER %s OPTIONS (SET token '...').",
					aiven->user, quote_identifier(aiven->server));
}

/* The SQLSTATE and the hint. */
static int
meaning(const RctlAiven *aiven, const RctlAivenAnswer *answer, char **hint)
{
	const char *server = quote_identifier(aiven->server);

	*hint = NULL;
	switch (answer->status)
	{
		case 400:
			*hint = psprintf("Correct the options; SELECT * FROM replica_explain('create', 'NAME', %s, OPTIONS) checks them.",
							 quote_literal_cstr(aiven->server));
			return ERRCODE_INVALID_PARAMETER_VALUE;
		case 401:
			*hint = token_hint(aiven);
			return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
		case 403:
			if (has_code(answer, "authentication_failed") || says(answer, "authentication failed"))
			{
				*hint = token_hint(aiven);
				return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
			}
			if (says(answer, "termination protection") || says(answer, "protected against termination"))
			{
				*hint = pstrdup("Switch termination protection off at Aiven, and ask again.");
				return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
			}
			if (says(answer, "not available for this service") || says(answer, "not allowed under current plan") ||
				says(answer, "not powered") || has_code(answer, "not_powered") ||
				has_code(answer, "free_tier_restricted"))
			{
				*hint = psprintf("See that the source's plan allows read replicas; ALTER SERVER %s OPTIONS (SET source '...') names another source.",
								 server);
				return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
			}
			*hint = psprintf("The token needs %s; give another one with ALTER USER MAPPING FOR %s SERVER %s OPTIONS (SET token '...').",
							 needed_right(answer->request->action), aiven->user, server);
			return ERRCODE_INSUFFICIENT_PRIVILEGE;
		case 404:
			if (project_missing(answer))
				*hint = psprintf("Name a project that the token can see with ALTER SERVER %s OPTIONS (SET project '...').", server);
			return ERRCODE_UNDEFINED_OBJECT;
		case 409:
			return ERRCODE_DUPLICATE_OBJECT;
		case 429:
			*hint = pstrdup("Other users of the project's API share its limit; it is tried again.");
			return ERRCODE_CANNOT_CONNECT_NOW;
		default:
			if (answer->status >= 400 && answer->status < 500 && answer->status != 408)
				return ERRCODE_FDW_ERROR;
			*hint = psprintf("See whether Aiven's API works, and what endpoint server %s has.", server);
			return ERRCODE_CONNECTION_FAILURE;
	}
}

void
rctl_aiven_refuse(const RctlAiven *aiven, const RctlAivenAnswer *answer, const char *format,...)
{
	char	   *message;
	char	   *hint;
	int			sqlerrcode = meaning(aiven, answer, &hint);
	va_list		args;

	va_start(args, format);
	message = rctl_vpsprintf(format, args);
	va_end(args);

	if (answer->status == 0)
	{
		sqlerrcode = answer->response->sqlerrcode ? answer->response->sqlerrcode : ERRCODE_CONNECTION_FAILURE;
		if (answer->response->failure == RCTL_HTTP_TLS)
			hint = psprintf("Name the certificate authority's file with ALTER SERVER %s OPTIONS (ADD ca_file '...').",
							quote_identifier(aiven->server));
	}
	else if (project_missing(answer))
		message = psprintf("project \"%s\" does not exist at Aiven, or the token cannot see it", aiven->project);
	ereport(ERROR,
			(errcode(sqlerrcode),
			 errmsg("%s", message),
			 errdetail("%s", rctl_aiven_detail(answer)),
			 hint ? errhint("%s", hint) : 0));
	pg_unreachable();
}

/* ---------------------------------------------------------------------
 * Calls
 * ---------------------------------------------------------------------
 */

/* "... try again in 28s" as milliseconds; -1: it does not say so. */
static int64
announced_wait(const RctlAivenAnswer *answer)
{
	static const char words[] = "try again in ";
	const char *found = answer->message ? strstr(answer->message, words) : NULL;
	double		seconds;
	char	   *end;

	if (answer->response->retry_after_ms >= 0)
		return answer->response->retry_after_ms;
	if (found == NULL)
		return -1;
	seconds = strtod(found + strlen(words), &end);
	if (end == found + strlen(words) || !(seconds >= 0 && seconds < 86400))
		return -1;
	return (int64) (seconds * (*end == 'm' && end[1] != 's' ? 60000 : 1000));
}

static long
pause_ms(const RctlAivenAnswer *answer, int attempt)
{
	int64		announced = announced_wait(answer);
	double		pause;

	if (announced >= 0 && (answer->status == 429 || answer->status == 503))
		return (long) Min(announced, RATE_PAUSE_MS) + (long) (250 * pg_prng_double(&pg_global_prng_state));
	pause = Min(FIRST_PAUSE_MS * pow(2, attempt - 1), LAST_PAUSE_MS);
	return (long) (pause * (0.5 + 0.5 * pg_prng_double(&pg_global_prng_state)));
}

/* Whether the API has not spoken, so that it is worth asking again. */
static bool
no_real_answer(const RctlAivenAnswer *answer, const char *method)
{
	if (answer->status == 0)
		return answer->response->failure != RCTL_HTTP_REFUSED &&
			answer->response->failure != RCTL_HTTP_TLS &&
			answer->response->failure != RCTL_HTTP_TOO_LARGE;
	return answer->status == 408 || answer->status == 429 || answer->status >= 500 || is_garbage(answer, method);
}

/* Sleeps before the next attempt; false if there is none left. */
static bool
wait_for_attempt(const RctlAiven *aiven, const RctlAivenAnswer *answer, int *attempt, int *rate_waits)
{
	bool		dry = aiven->op && aiven->op->dry_run;
	bool		limited = answer->status == 429;
	long		pause;

	if (limited ? ++*rate_waits > (dry ? 1 : RATE_WAITS) : ++*attempt > (dry ? DRY_ATTEMPTS : ATTEMPTS))
		return false;
	pause = pause_ms(answer, limited ? *rate_waits : *attempt - 1);
	if (aiven->op)
	{
		if (limited)
			rctl_op_progress(aiven->op, psprintf("waiting %ld s for Aiven's rate limit", (pause + 999) / 1000), 0, 0);
		rctl_op_alive(aiven->op);
	}
	rctl_sleep(pause);
	if (aiven->op)
		rctl_op_alive(aiven->op);
	return true;
}

static RctlAivenAnswer *
ask(const RctlAiven *aiven, const char *method, const char *path, const char *body, const char *action, bool once)
{
	int			attempt = 1;
	int			rate_waits = 0;

	for (;;)
	{
		RctlHttpRequest *request = rctl_aiven_request(aiven, method, path, body, action);
		RctlAivenAnswer *answer;

		request->once = once;
		answer = rctl_aiven_understand(aiven, request, rctl_http_exchange(request));
		if (once && rctl_aiven_ok(answer) && answer->json == NULL)
			answer->maybe_done = true;
		if (!(no_real_answer(answer, method) || (aiven->patient && rctl_aiven_denied(answer))) || (once && answer->maybe_done) ||
			!wait_for_attempt(aiven, answer, &attempt, &rate_waits))
			return answer;
	}
}

RctlAivenAnswer *
rctl_aiven_ask(const RctlAiven *aiven, const char *method, const char *path, const char *body, const char *action)
{
	RctlAivenAnswer *answer = ask(aiven, method, path, body, action, false);

	if (answer->status == 0)
		rctl_aiven_refuse(aiven, answer, "could not ask Aiven");
	if (no_real_answer(answer, method))
		rctl_aiven_refuse(aiven, answer, "no useful answer from Aiven");
	return answer;
}

RctlAivenAnswer *
rctl_aiven_ask_once(const RctlAiven *aiven, const char *method, const char *path, const char *body,
					const char *action)
{
	return ask(aiven, method, path, body, action, true);
}
