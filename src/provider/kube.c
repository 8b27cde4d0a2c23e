/*-------------------------------------------------------------------------
 *
 * kube.c
 *	  Requests to a Kubernetes API server, and what it answers.
 *
 * A failure is a Status object; its reason, not its code, tells apart what
 * can be tried again (Conflict) from what cannot (AlreadyExists).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "net/text.h"
#include "provider/kube.h"

/* Enough for a restart of the API server's node. */
#define ATTEMPTS 5
#define BRIEF_ATTEMPTS 2

typedef struct Asking
{
	RctlKube   *kube;
	const char *method;
	const char *path;
	const char *body;
	const char *action;
	const RctlHttpRequest *request; /* of the last attempt */
	bool		token_read_again;
} Asking;

char *
rctl_kube_path(const RctlKube *kube, const char *api, const char *kind, const char *name, const char *sub)
{
	return psprintf("%s/namespaces/%s/%s%s%s%s%s", api, rctl_http_encode(kube->namespace), kind,
					name ? "/" : "", name ? rctl_http_encode(name) : "", sub ? "/" : "", sub ? sub : "");
}

static const RctlHttpRequest *
make_request(void *arg, int attempt)
{
	Asking	   *asking = arg;

	asking->request = rctl_kube_request(asking->kube, asking->method, asking->path, asking->body, asking->action);
	return asking->request;
}

/* A token may just have been rotated: the file is read for every attempt. */
static RctlHttpVerdict
judge(void *arg, const RctlHttpResponse *response)
{
	Asking	   *asking = arg;

	if (response->status == 401 && asking->kube->token_file && !asking->token_read_again)
	{
		asking->token_read_again = true;
		return RCTL_HTTP_AGAIN;
	}
	return RCTL_HTTP_UNDECIDED;
}

RctlKubeAnswer *
rctl_kube_answer(const RctlHttpRequest *request, const RctlHttpResponse *response)
{
	RctlKubeAnswer *answer = palloc0(sizeof(RctlKubeAnswer));
	char	   *problem = NULL;

	answer->request = request;
	answer->response = response;
	answer->status = response->status;
	answer->lost = response->status == 0 && response->sent;
	answer->reason = "";
	answer->message = "";
	if (response->status == 0)
		return answer;
	answer->object = rctl_json_parse(response->body, response->body_length, &problem);
	if (rctl_kube_ok(answer) && !rctl_json_is_object(answer->object))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the answer to %s is not from a Kubernetes API server", request->action),
				 errdetail("%s", problem ? problem : "It is not a JSON object."),
				 errhint("Correct the server's option api_server.")));
	if (!rctl_kube_ok(answer))
	{
		char	   *reason = rctl_json_text(answer->object, "reason");
		char	   *message = rctl_json_text(answer->object, "message");

		answer->reason = reason ? reason : "";
		answer->message = message ? rctl_redact(message) : psprintf("HTTP status %d", answer->status);
	}
	return answer;
}

RctlKubeAnswer *
rctl_kube_ask(RctlKube *kube, const char *method, const char *path, const char *body, const char *action)
{
	Asking		asking = {kube, method, path, body, action};
	RctlHttpRetry retry = {
		.attempts = kube->brief ? BRIEF_ATTEMPTS : ATTEMPTS,
		.idempotent = strcmp(method, "GET") == 0,
		.judge = judge,
	};
	RctlHttpResponse *response = rctl_http_call(&retry, make_request, &asking);

	return rctl_kube_answer(asking.request, response);
}

/* The fields that were found wrong, one a line. */
static char *
causes(const RctlKubeAnswer *answer)
{
	const RctlJson *list = rctl_json_find(answer->object, "details/causes");
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < Min(rctl_json_array_length(list, ""), 10); i++)
	{
		const RctlJson *cause = rctl_json_element(list, i);
		char	   *field = rctl_json_text(cause, "field");
		char	   *message = rctl_json_text(cause, "message");

		appendStringInfo(&text, "\n%s: %s", field ? field : "?", message ? message : "?");
	}
	return rctl_redact(text.data);
}

/* The verb by which RBAC knows a request. */
static const char *
verb_of(const RctlHttpRequest *request, bool named)
{
	if (strcmp(request->method, "POST") == 0)
		return "create";
	if (strcmp(request->method, "PATCH") == 0)
		return "patch";
	if (strcmp(request->method, "DELETE") == 0)
		return "delete";
	return named ? "get" : "list";
}

/*
 * The rule that a role must have for a request, as it stands in a manifest,
 * and the namespace; out of ".../namespaces/NS/KIND/NAME/SUB?QUERY".
 */
static char *
rule_for(const RctlHttpRequest *request, char **namespace)
{
	const char *group = strstr(request->url, "/apis/");
	const char *rest = strstr(request->url, "/namespaces/");
	char	   *parts[4] = {"", "", "", ""};	/* namespace, kind, name, sub */

	rest = rest ? rest + strlen("/namespaces/") : "";
	for (int i = 0; i < lengthof(parts) && *rest; i++)
	{
		size_t		length = strcspn(rest, "/?");

		parts[i] = pnstrdup(rest, length);
		if (rest[length] != '/')
			break;
		rest += length + 1;
	}
	*namespace = parts[0];
	group = group ? pnstrdup(group + strlen("/apis/"), strcspn(group + strlen("/apis/"), "/")) : "\"\"";
	return psprintf("{apiGroups: [%s], resources: [%s%s%s], verbs: [%s]}", group, parts[1],
					parts[3][0] ? "/" : "", parts[3], verb_of(request, parts[2][0] != '\0'));
}

/*
 * RBAC says which verb of which resource it is; a quota, a namespace that is
 * going or a webhook say something else, which no role can change.
 */
static RCTL_NORETURN void raise_forbidden(const RctlKubeAnswer *answer, const char *detail);

static void
raise_forbidden(const RctlKubeAnswer *answer, const char *detail)
{
	const RctlHttpRequest *request = answer->request;
	char	   *namespace;
	char	   *rule = rule_for(request, &namespace);
	bool		by_role = strstr(answer->message, "cannot ") != NULL && strstr(answer->message, " resource ") != NULL;

	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("%s does not allow: %s", request->what, request->action),
			 errdetail("%s", detail),
			 by_role
			 ? errhint("Add the rule %s to the role of that account in namespace \"%s\"; docs/cnpg.md has the whole manifest.",
					   rule, namespace)
			 : errhint("It is no role that is missing: the message says what stands in the way.")));
}

bool
rctl_kube_missing(const RctlKubeAnswer *answer, const char *name)
{
	char	   *its = rctl_json_text(answer->object, "details/name");

	return answer->status == 404 && strcmp(answer->reason, "NotFound") == 0 && its && strcmp(its, name) == 0;
}

void
rctl_kube_raise(const RctlKubeAnswer *answer)
{
	const char *what = answer->request->what;
	const char *action = answer->request->action;
	char	   *detail;

	if (answer->status == 0)
		rctl_http_raise(answer->request, answer->response);
	detail = psprintf("%s (status %d%s%s)%s", answer->message, answer->status,
					  answer->reason[0] ? ", " : "", answer->reason, causes(answer));
	switch (answer->status)
	{
		case 401:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
					 errmsg("%s does not accept our login", what),
					 errdetail("%s", detail),
					 errhint("The token may have expired: make a new one with kubectl create token.")));
			break;
		case 403:
			raise_forbidden(answer, detail);
			break;
		case 404:
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("%s does not know what was asked for: %s", what, action),
					 errdetail("%s", detail),
					 rctl_json_text(answer->object, "details/name")
					 ? errhint("See kubectl get clusters.postgresql.cnpg.io --all-namespaces.")
					 : errhint("See with kubectl api-resources whether CloudNativePG is installed there, and correct the option api_server if it is.")));
			break;
		case 409:
			ereport(ERROR,
					(errcode(strcmp(answer->reason, "AlreadyExists") == 0 ? ERRCODE_DUPLICATE_OBJECT : ERRCODE_OBJECT_IN_USE),
					 errmsg("%s refused: %s", what, action),
					 errdetail("%s", detail),
					 strcmp(answer->reason, "AlreadyExists") == 0
					 ? errhint("Choose another name.")
					 : errhint("Somebody else keeps changing it: see who with kubectl get --show-managed-fields -o yaml.")));
			break;
		case 400:
		case 415:
		case 422:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s refused: %s", what, action),
					 errdetail("%s", detail),
					 errhint("Correct the options of the call, or the Cluster.")));
			break;
		default:
			ereport(ERROR,
					(errcode(answer->status == 429 || answer->status >= 500 ?
							 ERRCODE_CANNOT_CONNECT_NOW : ERRCODE_FDW_ERROR),
					 errmsg("%s failed: %s", what, action),
					 errdetail("%s", detail),
					 errhint("It is tried again; see the API server's log if it stays so.")));
	}
	pg_unreachable();
}
