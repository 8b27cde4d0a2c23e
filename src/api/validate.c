/*-------------------------------------------------------------------------
 *
 * validate.c
 *	  Option validators of the foreign-data wrappers.
 *
 * A validator is told the catalog, not the wrapper, so that each wrapper has
 * a function of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "provider/provider.h"

static const RctlOptionDef no_options[] = {{NULL}};

/* Options that give away what is the server process's own. */
static void
check_privileged(const RctlOptionDef *defs, const RctlMap *options)
{
	for (; defs && defs->name; defs++)
	{
		const char *value = defs->privileged ? rctl_map_get(options, defs->name) : NULL;
		bool		used = value != NULL;

		if (value && defs->type == RCTL_OPTION_BOOL && parse_bool(value, &used) && !used)
			continue;
		if (used && !has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to set option \"%s\"", defs->name),
					 errdetail("It makes what the server process can read available to others."),
					 errhint("A superuser or a member of pg_read_server_files can set it.")));
	}
}

/* A connection string in which there is no secret: everybody can read a server's options. */
static void
check_source_conninfo(const char *conninfo)
{
	PQconninfoOption *options;
	bool		secret = false;

	if (conninfo == NULL)
		return;
	options = PQconninfoParse(conninfo, NULL);
	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"source_conninfo\""),
				 errdetail("It is not a connection string."),
				 errhint("Such as \"host=db.example.com dbname=app user=admin sslmode=verify-full\".")));
	for (PQconninfoOption *o = options; o->keyword; o++)
		secret |= o->val != NULL && (strcmp(o->keyword, "password") == 0 || strcmp(o->keyword, "sslpassword") == 0);
	PQconninfoFree(options);
	if (secret)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"source_conninfo\" must not hold a password"),
				 errdetail("Everybody can read the options of a server."),
				 errhint("Set option source_password in the user mapping.")));
}

static void
validate(const char *wrapper, Datum options, Oid catalog)
{
	const RctlProvider *provider = rctl_provider_by_wrapper(wrapper);
	RctlMap    *map = rctl_map_from_options(untransformRelOptions(options));

	if (provider == NULL)
		elog(ERROR, "wrapper \"%s\" has no provider", wrapper);
	if (catalog == ForeignServerRelationId)
	{
		rctl_options_check(provider->server_options, map, "server");
		check_privileged(provider->server_options, map);
		check_source_conninfo(rctl_map_get(map, "source_conninfo"));
		if (provider->check_server)
			provider->check_server(map);
	}
	else if (catalog == UserMappingRelationId)
	{
		rctl_options_check(provider->mapping_options, map, "user mapping");
		check_privileged(provider->mapping_options, map);
	}
	else
		rctl_options_check(no_options, map, "foreign-data wrapper or table");
}

#define VALIDATOR(provider) \
PG_FUNCTION_INFO_V1(rctl_validate_##provider); \
Datum \
rctl_validate_##provider(PG_FUNCTION_ARGS) \
{ \
	validate("replica_" #provider, PG_GETARG_DATUM(0), PG_GETARG_OID(1)); \
	PG_RETURN_VOID(); \
}

VALIDATOR(aws)
VALIDATOR(local)
VALIDATOR(ssh)
VALIDATOR(cnpg)
VALIDATOR(aiven)
VALIDATOR(patroni)
#ifdef RCTL_TEST
VALIDATOR(mock)
VALIDATOR(mock_managed)
#endif
