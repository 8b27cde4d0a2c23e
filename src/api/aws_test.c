/*-------------------------------------------------------------------------
 *
 * aws_test.c
 *	  What the tests of signatures and credentials need, in test builds only.
 *
 * The install script does not know these functions; the tests create them.
 * They wait in the caller's transaction, as replica_explain() does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef RCTL_TEST

#include <stdlib.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "net/json.h"
#include "provider/aws_credentials.h"

PG_FUNCTION_INFO_V1(rctl_test_setenv);
PG_FUNCTION_INFO_V1(rctl_test_aws_sign);
PG_FUNCTION_INFO_V1(rctl_test_aws_credentials);
PG_FUNCTION_INFO_V1(rctl_test_aws_forget);

/* (name text, value text) returns void: in this session's environment; NULL unsets */
Datum
rctl_test_setenv(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (PG_ARGISNULL(1))
		unsetenv(name);
	else
		setenv(name, text_to_cstring(PG_GETARG_TEXT_PP(1)), 1);
	PG_RETURN_VOID();
}

static const RctlJson *
argument(text *value)
{
	char	   *problem = NULL;
	const RctlJson *json = rctl_json_parse(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), &problem);

	if (json == NULL)
		elog(ERROR, "%s", problem);
	return json;
}

static RctlMap *
make_map(const RctlJson *object)
{
	RctlMap    *map = rctl_map_make();
	ListCell   *lc;

	foreach(lc, rctl_json_keys(object))
		rctl_map_set(map, lfirst(lc), rctl_json_text(rctl_json_key(object, lfirst(lc)), ""));
	return map;
}

/* (vector text, now timestamptz) returns text: the header authorization */
Datum
rctl_test_aws_sign(PG_FUNCTION_ARGS)
{
	const RctlJson *json = argument(PG_GETARG_TEXT_PP(0));
	RctlMap    *given = make_map(rctl_json_key(json, "headers"));
	RctlHttpHeader *headers = palloc0(sizeof(RctlHttpHeader) * (list_length(given->entries) + 1));
	RctlAwsCredentials credentials = {0};
	RctlHttpRequest request = {0};
	ListCell   *lc;

	foreach(lc, given->entries)
	{
		RctlMapEntry *entry = lfirst(lc);

		headers[foreach_current_index(lc)].name = entry->key;
		headers[foreach_current_index(lc)].value = entry->value;
	}
	credentials.access_key_id = rctl_json_text(json, "access_key");
	credentials.secret_access_key = rctl_json_text(json, "secret_key");
	credentials.session_token = rctl_json_text(json, "session_token");
	request.method = rctl_json_text(json, "method");
	request.url = rctl_json_text(json, "url");
	request.body = rctl_json_text(json, "body");
	request.headers = headers;

	for (const RctlHttpHeader *header = rctl_aws_sign(&request, &credentials, rctl_json_text(json, "region"),
													  rctl_json_text(json, "service"),
													  PG_GETARG_TIMESTAMPTZ(1))->headers; header->name; header++)
		if (strcmp(header->name, "Authorization") == 0)
			PG_RETURN_TEXT_P(cstring_to_text(header->value));
	PG_RETURN_NULL();
}

static RctlAwsUser
make_user(const RctlJson *json)
{
	RctlAwsUser user = {0};

	user.serverid = 1;
	user.userid = 1;
	user.server = "aurora";
	user.region = "eu-north-1";
	user.server_options = make_map(rctl_json_key(json, "server"));
	if (rctl_json_key(json, "mapping"))
		user.mapping = make_map(rctl_json_key(json, "mapping"));
	return user;
}

/* (options text) returns text: "source id secret token expires" */
Datum
rctl_test_aws_credentials(PG_FUNCTION_ARGS)
{
	RctlAwsUser user = make_user(argument(PG_GETARG_TEXT_PP(0)));
	const RctlAwsCredentials *found;

	rctl_wait_in_transaction = true;
	PG_TRY();
	{
		found = rctl_aws_credentials(&user);
	}
	PG_FINALLY();
	{
		rctl_wait_in_transaction = false;
	}
	PG_END_TRY();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s %s %s %s %s", found->source, found->access_key_id,
											  found->secret_access_key,
											  found->session_token ? found->session_token : "-",
											  found->expires ? "expires" : "stays")));
}

/* () returns void */
Datum
rctl_test_aws_forget(PG_FUNCTION_ARGS)
{
	RctlAwsUser user = {.serverid = 1, .userid = 1};

	rctl_aws_forget(&user);
	PG_RETURN_VOID();
}

#endif
