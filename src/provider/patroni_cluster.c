/*-------------------------------------------------------------------------
 *
 * patroni_cluster.c
 *	  Patroni's REST interface: the calls, and what a cluster looks like.
 *
 * GET /cluster of any member is the truth about all of them, up to loop_wait
 * seconds old; what a POST answers is not (patroni_promote.c).  An unknown
 * path answers 503 with a document of the node, so that only a 200 counts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/base64.h"
#include "utils/builtins.h"

#include "net/wait.h"
#include "provider/patroni.h"

/* Longer answers are cut in messages. */
#define ANSWER_LENGTH 200

/* ---------------------------------------------------------------------
 * Documents
 * ---------------------------------------------------------------------
 */

/* Without slashes, and "/patroni", at the end. */
static char *
base_url(const char *url)
{
	static const char suffix[] = "/patroni";
	char	   *base = pstrdup(url);
	size_t		length = strlen(base);

	while (length > 0 && base[length - 1] == '/')
		base[--length] = '\0';
	if (length > sizeof(suffix) - 1 && strcmp(base + length - (sizeof(suffix) - 1), suffix) == 0)
		base[length - (sizeof(suffix) - 1)] = '\0';
	return base;
}

List *
rctl_patroni_urls(const RctlMap *server_options)
{
	const char *text = rctl_map_get(server_options, "urls");
	List	   *urls = NIL;
	char	   *copy = pstrdup(text ? text : "");
	char	   *rest = NULL;

	/*
	 * A list is JSON, or text with commas between; no URL has these
	 * characters.
	 */
	for (char *url = strtok_r(copy, "[]\", ", &rest); url; url = strtok_r(NULL, "[]\", ", &rest))
		urls = lappend(urls, base_url(url));
	return urls;
}

static RctlPatroniMember *
parse_member(const RctlJson *json)
{
	RctlPatroniMember *member = palloc0(sizeof(RctlPatroniMember));
	char	   *api_url = rctl_json_text(json, "api_url");
	char	   *name = rctl_json_text(json, "name");
	char	   *role = rctl_json_text(json, "role");
	char	   *state = rctl_json_text(json, "state");

	if (name == NULL)
		return NULL;
	member->name = name;
	member->role = role ? role : pstrdup("unknown");
	member->state = state ? state : pstrdup("unknown");
	member->api_url = api_url ? base_url(api_url) : NULL;
	member->host = rctl_json_text(json, "host");
	member->port = rctl_json_text(json, "port");
	if (!rctl_json_int64(json, "timeline", &member->timeline))
		member->timeline = 0;
	if (!rctl_json_int64(json, "lag", &member->lag))
		member->lag = -1;
	member->nofailover = rctl_json_bool(json, "tags/nofailover", false);
	return member;
}

bool
rctl_patroni_is_leader(const RctlPatroniMember *member)
{
	return strcmp(member->role, "leader") == 0 || strcmp(member->role, "standby_leader") == 0;
}

bool
rctl_patroni_works(const RctlPatroniMember *member)
{
	return strcmp(member->state, "running") == 0 || strcmp(member->state, "streaming") == 0 ||
		strcmp(member->state, "in archive recovery") == 0;
}

bool
rctl_patroni_parse(const RctlHttpResponse *response, RctlPatroniCluster *cluster, char **problem)
{
	const RctlJson *json = rctl_json_parse(response->body, response->body_length, problem);
	int			count = json ? rctl_json_array_length(json, "members") : -1;

	memset(cluster, 0, sizeof(*cluster));
	if (json == NULL)
		return false;
	if (count < 0)
	{
		*problem = pstrdup("it has no list of members");
		return false;
	}
	for (int i = 0; i < count; i++)
	{
		RctlPatroniMember *member = parse_member(rctl_json_element(rctl_json_key(json, "members"), i));

		if (member == NULL)
			continue;
		cluster->members = lappend(cluster->members, member);
		if (rctl_patroni_is_leader(member))
		{
			cluster->leaders++;
			cluster->leader = member;
		}
	}
	if (cluster->leaders != 1)
		cluster->leader = NULL;
	cluster->paused = rctl_json_bool(json, "pause", false);
	cluster->scheduled = rctl_json_text(json, "scheduled_switchover/at");
	cluster->scope = rctl_json_text(json, "scope");
	return true;
}

RctlPatroniMember *
rctl_patroni_member(const RctlPatroniCluster *cluster, const char *name)
{
	ListCell   *lc;

	foreach(lc, cluster->members)
	{
		RctlPatroniMember *member = lfirst(lc);

		if (strcmp(member->name, name) == 0)
			return member;
	}
	return NULL;
}

char *
rctl_patroni_names(const RctlPatroniCluster *cluster)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, cluster->members)
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", ((RctlPatroniMember *) lfirst(lc))->name);
	return names.data;
}

char *
rctl_patroni_answer(const RctlHttpResponse *response)
{
	char	   *text = pnstrdup(response->body, Min(response->body_length, ANSWER_LENGTH));

	if (response->status == 0)
		return response->reason ? pstrdup(response->reason) : pstrdup("there was no answer");
	for (char *c = text; *c; c++)
	{
		if ((unsigned char) *c < ' ' || (unsigned char) *c >= 0x7f)
			*c = ' ';
	}
	if (text[0] == '\0' || text[0] == '<' || text[0] == '{')
		return psprintf("status %d", response->status);
	return psprintf("status %d: %s", response->status, text);
}

/* ---------------------------------------------------------------------
 * Calls
 * ---------------------------------------------------------------------
 */

static char *
basic_auth(const char *user, const char *password)
{
	char	   *plain = psprintf("%s:%s", user, password);
	int			length = strlen(plain);
	int			size = pg_b64_enc_len(length) + 1;
	char	   *encoded = palloc0(size);

	length = pg_b64_encode((void *) plain, length, encoded, size - 1);
	if (length < 0)
		elog(ERROR, "could not encode credentials");
	return psprintf("Basic %s", encoded);
}

RctlHttpRequest *
rctl_patroni_request(const RctlMap *server_options, const char *user, const char *password,
					 const char *method, const char *base, const char *path, const char *body)
{
	RctlHttpRequest *request = palloc0(sizeof(RctlHttpRequest));
	RctlHttpHeader *headers = palloc0(sizeof(RctlHttpHeader) * 3);
	int			n = 0;

	if (user && password && strcmp(method, "GET") != 0)
	{
		headers[n].name = "Authorization";
		headers[n++].value = basic_auth(user, password);
	}
	if (body)
	{
		headers[n].name = "Content-Type";
		headers[n++].value = "application/json";
	}
	request->method = method;
	request->url = psprintf("%s%s", base, path);
	request->headers = headers;
	request->body = body;
	request->what = psprintf("Patroni at %s", base);
	request->action = psprintf("%s %s", method, path);
	request->once = strcmp(method, "GET") != 0;
	request->ca_file = rctl_map_get(server_options, "ca_file");
	request->cert_file = rctl_map_get(server_options, "cert_file");
	request->key_file = rctl_map_get(server_options, "key_file");
	request->connect_ms = RCTL_PATRONI_CONNECT_MS;
	request->total_ms = RCTL_PATRONI_READ_MS;
	return request;
}

RctlHttpResponse *
rctl_patroni_get(RctlOp *op, const char *path)
{
	List	   *urls = rctl_patroni_urls(op->server_options);
	const char *own = rctl_map_get(op->replica->facts, "api_url");
	const char *last = rctl_map_get(op->state, RCTL_PATRONI_URL);
	StringInfoData failures;
	ListCell   *lc;

	if (own)
		urls = lappend(urls, base_url(own));

	/*
	 * A member that hangs costs a time-out once in an operation, not with
	 * each call.
	 */
	if (last)
		urls = lcons(pstrdup(last), urls);
	initStringInfo(&failures);
	foreach(lc, urls)
	{
		RctlHttpRequest *request = rctl_patroni_request(op->server_options, NULL, NULL, "GET", lfirst(lc), path, NULL);
		RctlHttpResponse *response = rctl_http_exchange(request);

		if (response->status == 200)
		{
			rctl_map_set(op->state, RCTL_PATRONI_URL, lfirst(lc));
			return response;
		}
		appendStringInfo(&failures, "%s%s: %s", failures.len > 0 ? "; " : "", (char *) lfirst(lc),
						 rctl_patroni_answer(response));
	}
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("no member of the Patroni cluster answers"),
			 errdetail("%s.", failures.data),
			 errhint("See whether Patroni runs there; option urls of server %s names its members.",
					 quote_identifier(op->replica->server))));
	pg_unreachable();
}

RctlPatroniCluster *
rctl_patroni_cluster(RctlOp *op)
{
	return rctl_patroni_read_cluster(op, rctl_patroni_get(op, "/cluster"));
}

RctlPatroniCluster *
rctl_patroni_read_cluster(RctlOp *op, const RctlHttpResponse *response)
{
	RctlPatroniCluster *cluster = palloc(sizeof(RctlPatroniCluster));
	const char *scope = rctl_map_get(op->server_options, "scope");
	char	   *problem = NULL;

	if (!rctl_patroni_parse(response, cluster, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("what answers is no Patroni"),
				 errdetail("The answer to GET /cluster cannot be used: %s.", problem),
				 errhint("Option urls of server %s names the REST interfaces of the members.",
						 quote_identifier(op->replica->server))));
	if (scope && cluster->scope && strcmp(scope, cluster->scope) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("the Patroni cluster is \"%s\", not \"%s\"", cluster->scope, scope),
				 errhint("Correct the options urls and scope of server %s.", quote_identifier(op->replica->server))));
	return cluster;
}

RctlHttpResponse *
rctl_patroni_call(RctlOp *op, const char *method, const char *base, const char *path, const char *body, int total_ms)
{
	RctlHttpRequest *request = rctl_patroni_request(op->server_options, rctl_op_secret(op, "user"),
													rctl_op_secret(op, "password"), method, base, path, body);

	if (total_ms > 0)
		request->total_ms = total_ms;
	return rctl_http_exchange(request);
}

const char *
rctl_patroni_member_name(RctlOp *op)
{
	return rctl_map_get_default(op->replica->facts, "member",
								rctl_map_get_default(op->replica->options, "member", op->replica->name));
}

RctlPatroniMember *
rctl_patroni_own(RctlOp *op, const RctlPatroniCluster *cluster)
{
	const char *name = rctl_patroni_member_name(op);
	RctlPatroniMember *member = rctl_patroni_member(cluster, name);

	if (member == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the Patroni cluster has no member \"%s\"", name),
				 errdetail("Its members are: %s.", rctl_patroni_names(cluster)),
				 errhint("A member that is down leaves the list after ttl; start Patroni on its host, or name another member.")));
	return member;
}
