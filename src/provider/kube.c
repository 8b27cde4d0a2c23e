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
		.attempts = ATTEMPTS,
		.idempotent = strcmp(method, "GET") == 0,
		.judge = judge,
	};
	RctlHttpResponse *response = rctl_http_call(&retry, make_request, &asking);
	RctlKubeAnswer *answer = rctl_kube_answer(asking.request, response);

	if (answer->status == 0 && !answer->lost)
		rctl_http_raise(asking.request, response);
	return answer;
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

void
rctl_kube_raise(const RctlKubeAnswer *answer)
{
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
					 errmsg("Kubernetes does not accept our login"),
					 errdetail("%s", detail),
					 errhint("The token may have expired: make a new one with kubectl create token.")));
			break;
		case 403:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("Kubernetes does not allow: %s", action),
					 errdetail("%s", detail),
					 errhint("Give the service account the role of the manifest in docs/cnpg.md.")));
			break;
		case 404:
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("Kubernetes does not know what was asked for: %s", action),
					 errdetail("%s", detail),
					 errhint("See kubectl get clusters.postgresql.cnpg.io --all-namespaces.")));
			break;
		case 409:
			ereport(ERROR,
					(errcode(strcmp(answer->reason, "AlreadyExists") == 0 ? ERRCODE_DUPLICATE_OBJECT : ERRCODE_OBJECT_IN_USE),
					 errmsg("Kubernetes refused: %s", action),
					 errdetail("%s", detail)));
			break;
		case 400:
		case 415:
		case 422:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("Kubernetes refused: %s", action),
					 errdetail("%s", detail),
					 errhint("Correct the options of the call, or the Cluster.")));
			break;
		default:
			ereport(ERROR,
					(errcode(answer->status == 429 || answer->status >= 500 ?
							 ERRCODE_CANNOT_CONNECT_NOW : ERRCODE_FDW_ERROR),
					 errmsg("Kubernetes failed: %s", action),
					 errdetail("%s", detail),
					 errhint("It is tried again; see the API server's log if it stays so.")));
	}
	pg_unreachable();
}
