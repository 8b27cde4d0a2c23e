/*-------------------------------------------------------------------------
 *
 * aws_call.c
 *	  One call of Amazon's query protocol: form, signature, retries, errors.
 *
 * What reads is sent again when an answer is lost or broken; what changes
 * something is sent again only if it surely was not done (it was refused for
 * its rate, or never reached the other side).  Else the answer says
 * "uncertain", and the caller describes what became of it.
 *
 * Errors go by Amazon's code, never by its message, and by the HTTP status
 * where there is no code (a load balancer's page).  What Amazon says about a
 * signature may repeat it, so that those messages are replaced by ours; all
 * others are searched for the keys that were used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "net/text.h"
#include "provider/aws.h"

#define MAX_ANSWER (8 * 1024 * 1024)
#define MAX_MESSAGE 400
#define READ_MS 20000
#define CHANGE_MS 60000
#define BRIEF_MS 2500
#define BRIEF_CONNECT_MS 1500

/* A Date has whole seconds, and took a while to come. */
#define CLOCK_MARGIN_MS 2000

/* What a signature forgives, so that nothing else would show a difference. */
#define UNKNOWN_CLOCK_MS (15 * 60 * 1000)

typedef struct ServiceFacts
{
	const char *name;			/* for messages */
	const char *signing_name;
	const char *version;
	const char *iam_prefix;		/* of actions in policies */
} ServiceFacts;

static const ServiceFacts services[] = {
	[RCTL_AWS_RDS] = {"Amazon RDS", "rds", "2014-10-31", "rds"},
	[RCTL_AWS_CLOUDWATCH] = {"Amazon CloudWatch", "monitoring", "2010-08-01", "cloudwatch"},
};

/* ---------------------------------------------------------------------
 * Targets
 * ---------------------------------------------------------------------
 */

static RctlAwsTarget *
make_target(const RctlMap *options, Oid serverid, const char *server, Oid userid, const RctlMap *mapping)
{
	RctlAwsTarget *target = palloc0(sizeof(RctlAwsTarget));

	target->options = options;
	target->region = rctl_map_get_default(options, "region", "us-east-1");
	target->aurora = strcmp(rctl_map_get_default(options, "engine", "postgres"), RCTL_AWS_AURORA) == 0;
	target->source = rctl_map_get_default(options, "source", "");
	if (rctl_aws_is_arn(target->source))
		target->source_arn = rctl_aws_parse_arn(target->source);
	target->user.serverid = serverid;
	target->user.userid = userid;
	target->user.server = server;
	target->user.server_options = options;
	target->user.mapping = mapping;
	target->user.region = target->region;
	return target;
}

RctlAwsTarget *
rctl_aws_target(RctlOp *op)
{
	RctlMap    *mapping = NULL;
	RctlAwsTarget *target;

	for (const RctlOptionDef *def = rctl_aws_mapping_options; def->name; def++)
	{
		char	   *value = rctl_op_secret(op, def->name);

		if (value == NULL)
			continue;
		if (mapping == NULL)
			mapping = rctl_map_make();
		rctl_map_set(mapping, def->name, value);
	}
	target = make_target(op->server_options, op->replica->serverid, op->replica->server,
						 op->requested_by_id, mapping);
	target->brief = op->dry_run;
	return target;
}

RctlAwsTarget *
rctl_aws_replica_target(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *engine = rctl_map_get(op->replica->facts, "engine");

	target->region = rctl_map_get_default(op->replica->facts, "region", target->region);
	if (engine)
		target->aurora = strcmp(engine, RCTL_AWS_AURORA) == 0;
	return target;
}

RctlAwsTarget *
rctl_aws_watch_target(const RctlWatch *watch)
{
	return make_target(watch->server_options, watch->serverid, watch->server, watch->userid, watch->mapping);
}

const char *
rctl_aws_source_name(const RctlAwsTarget *target)
{
	return target->source_arn ? target->source_arn->identifier : rctl_aws_lower(target->source);
}

/* ---------------------------------------------------------------------
 * Form
 * ---------------------------------------------------------------------
 */

RctlAwsCall *
rctl_aws_call(RctlAwsService service, const char *action)
{
	RctlAwsCall *call = palloc0(sizeof(RctlAwsCall));

	call->service = service;
	call->action = action;
	call->changes = strncmp(action, "Describe", 8) != 0 && strncmp(action, "Get", 3) != 0 &&
		strncmp(action, "List", 4) != 0;
	initStringInfo(&call->body);
	appendStringInfo(&call->body, "Action=%s&Version=%s", action, services[service].version);
	return call;
}

void
rctl_aws_add(RctlAwsCall *call, const char *key, const char *value)
{
	unsigned char *utf8;

	if (value == NULL)
		return;
	utf8 = pg_do_encoding_conversion((unsigned char *) unconstify(char *, value), strlen(value),
									 GetDatabaseEncoding(), PG_UTF8);
	appendStringInfo(&call->body, "&%s=%s", key, rctl_http_encode((char *) utf8));
}

void
rctl_aws_addf(RctlAwsCall *call, const char *key, const char *format,...)
{
	char	   *value;
	va_list		args;

	va_start(args, format);
	value = rctl_vpsprintf(format, args);
	va_end(args);
	rctl_aws_add(call, key, value);
}

void
rctl_aws_add_time(RctlAwsCall *call, const char *key, TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		elog(ERROR, "timestamp out of range");
	rctl_aws_addf(call, key, "%04d-%02d-%02dT%02d:%02d:%02dZ", tm.tm_year, tm.tm_mon, tm.tm_mday,
				  tm.tm_hour, tm.tm_min, tm.tm_sec);
}

const RctlHttpRequest *
rctl_aws_request(const RctlAwsTarget *target, const RctlAwsCall *call, const RctlAwsCredentials *credentials)
{
	static const RctlHttpHeader headers[] = {
		{"content-type", "application/x-www-form-urlencoded; charset=utf-8"},
		{NULL}
	};
	const char *region = call->region ? call->region : target->region;
	char	   *endpoint = call->endpoint ? pstrdup(call->endpoint) :
	rctl_aws_endpoint(target->options, region, call->service);
	RctlHttpRequest *request = palloc0(sizeof(RctlHttpRequest));

	request->method = "POST";
	request->url = endpoint[strlen(endpoint) - 1] == '/' ? endpoint : psprintf("%s/", endpoint);
	request->headers = headers;
	request->body = call->body.data;
	request->body_length = call->body.len;
	request->what = services[call->service].name;
	request->action = call->action;
	request->once = call->changes;
	request->ca_file = rctl_map_get(target->options, "ca_file");
	request->connect_ms = target->brief ? BRIEF_CONNECT_MS : 0;
	request->total_ms = target->brief ? BRIEF_MS : call->changes ? CHANGE_MS : READ_MS;
	request->max_body = MAX_ANSWER;
	return rctl_aws_sign(request, credentials, region, services[call->service].signing_name, rctl_aws_clock());
}

/* ---------------------------------------------------------------------
 * Errors
 * ---------------------------------------------------------------------
 */

static bool
is_one_of(const char *code, const char *const *list)
{
	for (; code && *list; list++)
	{
		if (strcmp(code, *list) == 0)
			return true;
	}
	return false;
}

static bool
is_throttled(const char *code)
{
	static const char *const codes[] = {
		"Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
		"RequestThrottledException", "TooManyRequestsException", "RequestLimitExceeded",
		"ProvisionedThroughputExceededException", "TransactionInProgressException",
		"BandwidthLimitExceeded", "LimitExceededException", "SlowDown", "PriorRequestNotComplete",
		"EC2ThrottledException", NULL
	};

	return is_one_of(code, codes);
}

static bool
is_expired(const char *code)
{
	static const char *const codes[] = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", NULL};

	return is_one_of(code, codes);
}

static bool
is_bad_signature(const char *code)
{
	static const char *const codes[] = {"SignatureDoesNotMatch", "RequestTimeTooSkewed", NULL};

	return is_one_of(code, codes);
}

/* Amazon does not know who asks: its message may repeat what we sent. */
static bool
is_bad_login(const char *code)
{
	static const char *const codes[] = {
		"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "AuthFailure",
		"MissingAuthenticationToken", "MissingAuthenticationTokenException", "IncompleteSignature",
		"InvalidToken", "OptInRequired", NULL
	};

	return is_one_of(code, codes) || is_bad_signature(code) || is_expired(code);
}

static bool
is_denied(const char *code)
{
	static const char *const codes[] = {
		"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized",
		"KMSKeyNotAccessibleFault", "Forbidden", NULL
	};

	return is_one_of(code, codes);
}

static bool
ends_with(const char *word, const char *end)
{
	size_t		length = strlen(word);

	return length >= strlen(end) && strcmp(word + length - strlen(end), end) == 0;
}

static bool
is_about(const char *code, const char *word)
{
	return code != NULL && (ends_with(code, word) || ends_with(code, psprintf("%sFault", word)));
}

static int
sqlstate_of(const char *code, int status)
{
	if (is_expired(code) || is_bad_login(code))
		return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
	if (is_denied(code))
		return ERRCODE_INSUFFICIENT_PRIVILEGE;
	if (is_throttled(code) || status >= 500)
		return ERRCODE_CONNECTION_EXCEPTION;
	if (is_about(code, "NotFound"))
		return ERRCODE_UNDEFINED_OBJECT;
	if (is_about(code, "AlreadyExists"))
		return ERRCODE_DUPLICATE_OBJECT;
	if (code && strstr(code, "Quota"))
		return ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
	if (code && strstr(code, "Capacity"))
		return ERRCODE_INSUFFICIENT_RESOURCES;
	if (is_about(code, "State"))
		return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	if (code && (strncmp(code, "Invalid", 7) == 0 || strncmp(code, "Missing", 7) == 0 ||
				 strncmp(code, "Validation", 10) == 0 || strncmp(code, "Malformed", 9) == 0 ||
				 strstr(code, "NotSupported") || strstr(code, "NotAvailable") || strstr(code, "NotAllowed") ||
				 strstr(code, "DoesNotCover")))
		return ERRCODE_INVALID_PARAMETER_VALUE;
	return ERRCODE_FDW_ERROR;
}

static char *
hint_of(const RctlAwsTarget *target, const RctlAwsCall *call, const char *code, int status)
{
	if (is_expired(code))
		return psprintf("Set new credentials with ALTER USER MAPPING ... SERVER %s, or a reference to some that are renewed.",
						quote_identifier(target->user.server));
	if (is_bad_signature(code))
		return psprintf("Check secret_access_key in the user mapping for server %s, and this host's clock.",
						quote_identifier(target->user.server));
	if (is_bad_login(code))
		return psprintf("Check the keys in the user mapping for server %s.", quote_identifier(target->user.server));
	if (code && strcmp(code, "KMSKeyNotAccessibleFault") == 0)
		return "Allow these credentials to use the KMS key, or name another one by option kms_key_id.";
	if (is_denied(code))
		return psprintf("Allow %s:%s in the IAM policy of these credentials.",
						services[call->service].iam_prefix, call->action);
	if (is_throttled(code) || status >= 500)
		return "Try again later.";
	if (code && strstr(code, "Quota"))
		return "Delete what is not needed, or ask Amazon to raise the quota.";
	if (code && strstr(code, "Capacity"))
		return "Choose another db_instance_class or availability_zone, or try again later.";
	if (is_about(code, "NotFound"))
		return "Check the name, the server's region, and whose account the credentials belong to.";
	if (is_about(code, "State"))
		return "See its status in Amazon RDS; when that is available, run the call again.";
	if (is_about(code, "AlreadyExists"))
		return "Choose another identifier, or take the existing one over with replica_attach.";
	if (sqlstate_of(code, status) == ERRCODE_INVALID_PARAMETER_VALUE)
		return "Correct the options of the call or of the server.";
	return NULL;
}

/* Overwrites each place at which the secret stands in the text. */
static void
scrub(char *text, const char *secret)
{
	size_t		length = secret ? strlen(secret) : 0;

	if (length < 4)
		return;
	for (char *at = strstr(text, secret); at; at = strstr(at, secret))
		memset(at, '*', length);
}

/* Amazon's message, fit for ours: one line, not long, without what was signed with. */
static char *
clean_message(const char *text, const RctlAwsCredentials *credentials)
{
	char	   *clean = pstrdup(text);
	size_t		length;

	if (credentials)
	{
		scrub(clean, credentials->secret_access_key);
		scrub(clean, credentials->session_token);
		scrub(clean, credentials->access_key_id);
	}
	for (char *c = clean; *c; c++)
	{
		if ((unsigned char) *c < ' ' || *c == 0x7f)
			*c = ' ';
	}
	length = strlen(clean);
	if (length > MAX_MESSAGE)
		clean[pg_mbcliplen(clean, length, MAX_MESSAGE)] = '\0';
	length = strlen(clean);
	while (length > 0 && (clean[length - 1] == '.' || clean[length - 1] == ' '))
		clean[--length] = '\0';
	return rctl_redact(clean);
}

static char *
words_for(const char *code, const char *message, const RctlAwsCredentials *credentials)
{
	if (is_expired(code))
		return "the credentials have expired";
	if (is_bad_signature(code))
		return "it does not accept the signature";
	if (is_bad_login(code))
		return "it does not know these credentials";
	if (message)
		return clean_message(message, credentials);
	return "it gave no reason";
}

static char *
error_detail(const RctlAwsAnswer *answer)
{
	StringInfoData detail;

	initStringInfo(&detail);
	if (answer->code)
		appendStringInfo(&detail, "Error code %s, ", answer->code);
	appendStringInfo(&detail, "HTTP status %d", answer->status);
	if (answer->request_id)
		appendStringInfo(&detail, ", request ID %s", answer->request_id);
	appendStringInfoChar(&detail, '.');
	return detail.data;
}

/* A token of letters, digits, dots and hyphens, as codes and request ids are; else NULL. */
static char *
plain_token(const char *text)
{
	if (text == NULL || strlen(text) > 100 ||
		text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_")] != '\0')
		return NULL;
	return pstrdup(text);
}

static void
no_answer(RctlAwsAnswer *answer, const RctlAwsCall *call, const RctlHttpResponse *response)
{
	answer->uncertain = response->sent;
	answer->transient = response->failure != RCTL_HTTP_REFUSED && response->failure != RCTL_HTTP_TLS &&
		response->failure != RCTL_HTTP_TOO_LARGE;
	answer->sqlerrcode = response->sqlerrcode;
	answer->message = response->sent ?
		psprintf("no answer from %s to %s", services[call->service].name, call->action) :
		psprintf("could not reach %s", services[call->service].name);
	answer->detail = psprintf("%s.", response->reason ? response->reason : "There is no reason known");
	answer->detail[0] = pg_toupper((unsigned char) answer->detail[0]);
	answer->hint = response->failure == RCTL_HTTP_TLS ?
		"Name the certificate authority of the endpoint by the server's option ca_file." :
		"Check the endpoint and the network, and try again.";
}

/* An HTTP answer that is no error of Amazon's, and no result either. */
static void
no_result(RctlAwsAnswer *answer, const RctlAwsCall *call, const char *problem)
{
	const char *service = services[call->service].name;

	if (answer->status >= 300 && answer->status < 400)
	{
		answer->sqlerrcode = ERRCODE_FDW_ERROR;
		answer->message = psprintf("%s answered %s with a redirection", service, call->action);
		answer->hint = "Check the server's endpoint options: redirections are not followed.";
		answer->detail = error_detail(answer);
		return;
	}
	/* Whatever it was may have been cut on its way: the next one tells. */
	answer->transient = true;
	answer->uncertain = true;
	answer->sqlerrcode = ERRCODE_CONNECTION_EXCEPTION;
	answer->message = answer->status < 300 ?
		psprintf("could not read the answer of %s to %s", service, call->action) :
		psprintf("%s did not do %s", service, call->action);
	answer->detail = problem ? psprintf("%s %s.", error_detail(answer), problem) : error_detail(answer);
	answer->hint = "Check that the server's endpoint is one of Amazon's API, and try again later.";
}

RctlAwsAnswer *
rctl_aws_judge(const RctlAwsTarget *target, const RctlAwsCall *call, const RctlHttpResponse *response,
			   const RctlAwsCredentials *credentials)
{
	RctlAwsAnswer *answer = palloc0(sizeof(RctlAwsAnswer));
	const RctlXml *root;
	const RctlXml *error;
	char	   *problem = NULL;

	answer->status = response->status;
	answer->date = response->date;
	answer->request_id = plain_token(response->request_id);
	if (response->status == 0)
	{
		no_answer(answer, call, response);
		return answer;
	}

	root = rctl_xml_parse(response->body, response->body_length, &problem);
	if (root && response->status < 300)
	{
		if (strcmp(rctl_xml_name(root), psprintf("%sResponse", call->action)) == 0)
		{
			answer->result = rctl_xml_find(root, psprintf("%sResult", call->action));
			if (answer->result == NULL && strcmp(call->action, "AddTagsToResource") == 0)
				answer->result = root;
		}
		if (answer->result)
			return answer;
		problem = psprintf("Its root element is \"%s\"", clean_message(rctl_xml_name(root), credentials));
	}
	error = root && strcmp(rctl_xml_name(root), "ErrorResponse") == 0 ? rctl_xml_find(root, "Error") : NULL;
	answer->code = plain_token(rctl_xml_text(error, "Code"));
	if (answer->request_id == NULL)
		answer->request_id = plain_token(rctl_xml_text(root, "RequestId"));
	if (answer->code == NULL || response->status < 400)
	{
		no_result(answer, call, response->status < 300 ? problem : NULL);
		return answer;
	}
	answer->transient = is_throttled(answer->code) || response->status >= 500;
	answer->uncertain = response->status >= 500 && !is_throttled(answer->code);
	answer->sqlerrcode = sqlstate_of(answer->code, response->status);
	answer->message = psprintf("%s refused %s: %s", services[call->service].name, call->action,
							   words_for(answer->code, rctl_xml_text(error, "Message"), credentials));
	answer->detail = error_detail(answer);
	answer->hint = hint_of(target, call, answer->code, response->status);
	return answer;
}

/* ---------------------------------------------------------------------
 * Calling
 * ---------------------------------------------------------------------
 */

/* What the callbacks of rctl_http_call() need. */
typedef struct Exchange
{
	const RctlAwsTarget *target;
	const RctlAwsCall *call;
	const RctlAwsCredentials *credentials;
} Exchange;

static const RctlHttpRequest *
make_request(void *arg, int attempt)
{
	const Exchange *exchange = arg;

	return rctl_aws_request(exchange->target, exchange->call, exchange->credentials);
}

static RctlHttpVerdict
judge_response(void *arg, const RctlHttpResponse *response)
{
	const Exchange *exchange = arg;
	RctlAwsAnswer *answer;

	if (response->status == 0)
		return RCTL_HTTP_UNDECIDED;
	answer = rctl_aws_judge(exchange->target, exchange->call, response, exchange->credentials);
	if (is_throttled(answer->code))
		return RCTL_HTTP_AGAIN;
	if (answer->result || exchange->call->changes)
		return RCTL_HTTP_TAKE;
	return answer->transient ? RCTL_HTTP_AGAIN : RCTL_HTTP_TAKE;
}

/*
 * By how much Amazon's clock is ahead of ours, by the last answer with a Date,
 * which has whole seconds.  rctl_aws_clock() is for signatures, and does not
 * care for less than minutes.
 */
static int64 clock_ahead = 0;
static bool clock_known = false;

TimestampTz
rctl_aws_now(void)
{
	return clock_known ? GetCurrentTimestamp() + clock_ahead : rctl_aws_clock();
}

TimestampTz
rctl_aws_surely_after(TimestampTz ours)
{
	if (clock_known)
		return ours + clock_ahead + CLOCK_MARGIN_MS * INT64CONST(1000);
	return ours + (rctl_aws_clock() - GetCurrentTimestamp()) + UNKNOWN_CLOCK_MS * INT64CONST(1000);
}

RctlAwsAnswer *
rctl_aws_perform(const RctlAwsTarget *target, const RctlAwsCall *call)
{
	RctlHttpRetry retry = {
		.attempts = target->brief ? 2 : 3,
		.base_ms = target->brief ? 200 : 0,
		.idempotent = !call->changes,
		.judge = judge_response,
	};
	Exchange	exchange = {target, call, NULL};
	RctlAwsAnswer *answer;

	for (int attempt = 1;; attempt++)
	{
		RctlHttpResponse *response;

		exchange.credentials = rctl_aws_credentials(&target->user);
		response = rctl_http_call(&retry, make_request, &exchange);
		answer = rctl_aws_judge(target, call, response, exchange.credentials);
		if (answer->date != 0)
		{
			clock_ahead = answer->date - GetCurrentTimestamp();
			clock_known = true;
		}
		if (attempt > 1)
			return answer;

		/*
		 * Neither of these was done: worth a second attempt with what
		 * changed.
		 */
		if (is_expired(answer->code))
			rctl_aws_forget(&target->user);
		else if (!is_bad_signature(answer->code) || !rctl_aws_clock_learn(response))
			return answer;
	}
}

void
rctl_aws_raise(const RctlAwsCall *call, const RctlAwsAnswer *answer)
{
	ereport(ERROR,
			(errcode(answer->sqlerrcode),
			 errmsg("%s", answer->message),
			 answer->detail ? errdetail("%s", answer->detail) : 0,
			 answer->hint ? errhint("%s", answer->hint) : 0));
	pg_unreachable();
}

const RctlXml *
rctl_aws_result(const RctlAwsTarget *target, const RctlAwsCall *call)
{
	RctlAwsAnswer *answer = rctl_aws_perform(target, call);

	if (answer->result == NULL)
		rctl_aws_raise(call, answer);
	return answer->result;
}

bool
rctl_aws_code_is(const RctlAwsAnswer *answer, const char *code)
{
	return answer->code != NULL && is_about(answer->code, code);
}
