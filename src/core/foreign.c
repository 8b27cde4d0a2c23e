/*-------------------------------------------------------------------------
 *
 * foreign.c
 *	  What steps read of foreign servers and user mappings.
 *
 * Always as they are now, in a short transaction: a password that was put
 * right counts at the next attempt.  Nothing is kept here, and what a mapping
 * holds is never logged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_user_mapping.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "provider/provider.h"

/* The mapping of one user, InvalidOid for PUBLIC: the option's value, palloc'd in the context; or NULL. */
static char *
mapping_option(Oid user, Oid server, const char *option, MemoryContext context)
{
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(user), ObjectIdGetDatum(server));
	char	   *value = NULL;
	bool		isnull;
	Datum		options;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
	{
		const char *found = rctl_map_get(rctl_map_from_options(untransformRelOptions(options)), option);

		if (found)
			value = MemoryContextStrdup(context, found);
	}
	ReleaseSysCache(tuple);
	return value;
}

/* Of the requester's mapping, else of PUBLIC's. */
static char *
requester_option(RctlOp *op, Oid server, const char *option, MemoryContext context)
{
	char	   *value = mapping_option(op->requested_by_id, server, option, context);

	return value ? value : mapping_option(InvalidOid, server, option, context);
}

char *
rctl_op_secret(RctlOp *op, const char *option)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *secret;

	rctl_op_begin(op);
	secret = requester_option(op, op->replica->serverid, option, caller);
	rctl_op_commit(op);
	return secret;
}

/*
 * The other server's options and a secret of the requester's mapping (option
 * NULL: none), palloc'd.  What is wrong is raised when the transaction is
 * over: in a dry run it is the caller's, with another role.
 */
static RctlMap *
other_server(RctlOp *op, const char *wrapper, const char *name, const char *option, char **secret)
{
	MemoryContext caller = CurrentMemoryContext;
	RctlMap    *options = NULL;
	ForeignServer *server;
	bool		allowed = false;

	rctl_op_begin(op);
	server = GetForeignServerByName(name, true);
	if (server && strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, wrapper) == 0)
	{
		RctlMap    *found = rctl_map_from_options(server->options);
		MemoryContext inner = MemoryContextSwitchTo(caller);

		options = rctl_map_copy(found);
		MemoryContextSwitchTo(inner);
		allowed = rctl_server_aclcheck(server->serverid, op->requested_by_id) == ACLCHECK_OK;
		if (allowed && option)
			*secret = requester_option(op, server->serverid, option, caller);
	}
	rctl_op_commit(op);

	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no server \"%s\" of wrapper %s", name, wrapper),
				 errdetail("An option of server \"%s\" or of replica \"%s\" names it.", op->replica->server, op->replica->name),
				 errhint("Create it with CREATE SERVER %s FOREIGN DATA WRAPPER %s.", quote_identifier(name), wrapper)));
	if (!allowed)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server %s", name),
				 errdetail("Server \"%s\" refers to it, and role \"%s\" may not use it.",
						   op->replica->server, op->requested_by),
				 errhint("Run GRANT USAGE ON FOREIGN SERVER %s TO %s.",
						 quote_identifier(name), quote_identifier(op->requested_by))));
	return options;
}

RctlMap *
rctl_op_server_options(RctlOp *op, const char *wrapper, const char *name)
{
	return other_server(op, wrapper, name, NULL, NULL);
}

char *
rctl_op_server_secret(RctlOp *op, const char *name, const char *option)
{
	char	   *secret = NULL;

	(void) other_server(op, op->replica->provider->wrapper, name, option, &secret);
	return secret;
}
