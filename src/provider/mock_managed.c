/*-------------------------------------------------------------------------
 *
 * mock_managed.c
 *	  A provider whose service promotes: for tests of core/managed.c.
 *
 * Test builds (RCTL_TEST) only.  The service is a directory.  "ID.role" holds
 * "replica" or "primary"; each call for a promotion adds a line to "calls".
 * Other files make it misbehave: "blocked" and "doubtful" (its check), "lag"
 * ("unknown", or a number of bytes; without the file SQL decides where the
 * replica is a real standby), "refuse", "lose" (done, but the answer is lost;
 * once), "slow" (milliseconds).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef RCTL_TEST

#include <unistd.h>

#include "storage/fd.h"
#include "utils/builtins.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/provider.h"
#include "provider/providers.h"

#define QUERY_MS 5000

static const RctlOptionDef managed_server_options[] = {
	{"directory", RCTL_OPTION_PATH, "where the files are"},
	{"fences", RCTL_OPTION_BOOL, "the service stops the source itself"},
	{"follows", RCTL_OPTION_BOOL, "the source becomes a replica"},
	{"here", RCTL_OPTION_BOOL, "the source is this server"},
	RCTL_SOURCE_SERVER_OPTIONS,
	{NULL}
};

static const RctlOptionDef managed_mapping_options[] = {
	RCTL_SOURCE_MAPPING_OPTIONS,
	{NULL}
};

static const RctlOptionDef managed_create_options[] = {
	{"conninfo", RCTL_OPTION_TEXT, "of a real standby"},
	{"fault", RCTL_OPTION_TEXT, "faults to inject into the steps, see core/fault.h"},
	{"promoted", RCTL_OPTION_TEXT, "conninfo of what it is taken for when it is a primary"},
	{"size", RCTL_OPTION_INTEGER, "can be changed, default 1", 1, 1000, .fallback = "1"},
	{"class", RCTL_OPTION_TEXT, "cannot be changed"},
	{NULL}
};

static const char *const managed_change_options[] = {"size", NULL};

/* ---- Files ---- */

static char *
path_of(RctlOp *op, const char *name)
{
	return psprintf("%s/%s", rctl_map_get(op->server_options, "directory"), name);
}

static char *
role_path(RctlOp *op)
{
	return path_of(op, psprintf(INT64_FORMAT ".role", op->replica->id));
}

/* The first line; NULL if there is no such file. */
static char *
read_line(const char *path)
{
	FILE	   *file = AllocateFile(path, "r");
	char		line[256];
	bool		ok;

	if (file == NULL)
		return NULL;
	ok = fgets(line, sizeof(line), file) != NULL;
	FreeFile(file);
	if (!ok)
		return pstrdup("");
	line[strcspn(line, "\n")] = '\0';
	return pstrdup(line);
}

static void
write_line(const char *path, const char *mode, const char *line)
{
	FILE	   *file = AllocateFile(path, mode);

	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	fprintf(file, "%s\n", line);
	FreeFile(file);
}

static bool
server_flag(const RctlMap *options, const char *name)
{
	bool		flag = false;
	const char *value = rctl_map_get(options, name);

	return value && parse_bool(value, &flag) && flag;
}

/* ---- Making and removing ---- */

static void
make(RctlOp *op)
{
	RctlMap    *object = rctl_map_make();
	const char *flags[] = {"fences", "follows"};
	const char *promoted = rctl_map_get(op->replica->options, "promoted");
	PQconninfoOption *parsed = promoted ? PQconninfoParse(promoted, NULL) : NULL;

	rctl_map_set(object, "path", role_path(op));
	rctl_op_cleanup_add(op, "role", object, false);
	write_line(role_path(op), "w", "replica");
	for (PQconninfoOption *o = parsed; o && o->keyword; o++)
	{
		if (o->val && (strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "port") == 0))
			rctl_map_set(op->replica->facts, o->keyword, o->val);
	}
	PQconninfoFree(parsed);
	for (int i = 0; i < lengthof(flags); i++)
		rctl_map_set(op->replica->facts, flags[i], rctl_map_get(op->server_options, flags[i]));
}

static void
take_away(RctlOp *op)
{
	if (unlink(role_path(op)) < 0 && errno != ENOENT)
		elog(ERROR, "could not remove a file: %m");
}

static void
managed_cleanup(RctlOp *op, const RctlCleanup *record)
{
	take_away(op);
}

static void
change(RctlOp *op)
{
	write_line(path_of(op, "calls"), "a", psprintf("change %s size %s", op->replica->name,
												   rctl_map_get_default(op->arguments, "size", "1")));
}

/* ---- Promotion ---- */

static void
check_service(RctlOp *op)
{
	if (read_line(path_of(op, "blocked")))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the service is not ready"),
				 errhint("Remove the file.")));
	if (read_line(path_of(op, "doubtful")))
		rctl_op_warn(op, "There is a file.", "Remove it.", "the service of \"%s\" is doubtful", op->replica->name);
}

static bool
managed_is_here(RctlOp *op)
{
	return server_flag(op->server_options, "here");
}

static bool
managed_fences(const RctlReplica *replica)
{
	return server_flag(replica->facts, "fences");
}

static bool
managed_follows(const RctlReplica *replica)
{
	return server_flag(replica->facts, "follows");
}

static PGconn *
managed_connect(RctlOp *op, RctlReplica *replica, long timeout_ms)
{
	const char *conninfo = rctl_map_get(replica->options, "conninfo");

	if (conninfo == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("replica \"%s\" cannot be reached", replica->name)));
	return rctl_pg_connect(conninfo, timeout_ms, psprintf("replica \"%s\"", replica->name));
}

static RctlCaughtUp
managed_caught_up(RctlOp *op, const RctlSourceMark *mark, char **progress)
{
	char	   *lag = read_line(path_of(op, "lag"));

	if (lag == NULL && rctl_map_get(op->replica->options, "conninfo") && mark->lsn != InvalidXLogRecPtr)
		return rctl_managed_replayed(op, mark, progress);
	if (lag && strcmp(lag, "unknown") == 0)
		return RCTL_CAUGHT_UP_UNKNOWN;
	if (lag)
		*progress = psprintf("%s bytes behind", lag);
	return lag ? RCTL_CAUGHT_UP_NOT_YET : RCTL_CAUGHT_UP_YES;
}

static void
managed_promote(RctlOp *op)
{
	char	   *role = read_line(role_path(op));
	char	   *slow = read_line(path_of(op, "slow"));

	if (role == NULL)
		elog(ERROR, "the replica is gone");
	if (strcmp(role, "primary") == 0)
		return;
	write_line(path_of(op, "calls"), "a", psprintf("promote %s", op->replica->name));
	if (read_line(path_of(op, "refuse")))
	{
		rctl_op_not_done(op);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the service refuses to promote replica \"%s\"", op->replica->name)));
	}
	rctl_sleep(slow ? strtol(slow, NULL, 10) : 0);
	if (rctl_map_get(op->replica->options, "conninfo"))
		(void) rctl_pg_value(managed_connect(op, op->replica, QUERY_MS), QUERY_MS,
							 "SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote() END", 0, NULL);
	write_line(role_path(op), "w", "primary");
	if (read_line(path_of(op, "lose")))
	{
		(void) unlink(path_of(op, "lose"));
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("no answer from the service")));
	}
}

static void
managed_verify(RctlOp *op)
{
	char	   *role = read_line(role_path(op));

	if (role == NULL || strcmp(role, "primary") != 0)
		elog(ERROR, "it is no primary");
	if (rctl_map_get(op->replica->options, "conninfo"))
		(void) rctl_managed_verify_sql(op, QUERY_MS);
}

static void
managed_receipt(RctlOp *op, RctlMap *receipt)
{
	rctl_map_set(receipt, "lag_seconds", "7");
	rctl_map_set(receipt, "lag_source", "mock");
}

static void
managed_note(RctlOp *op, RctlMap *detail)
{
	rctl_map_set(detail, "terraform", "remove the block");
}

static char *
managed_describe(RctlOp *op, const char *step)
{
	return strcmp(step, "promote") == 0 ? psprintf("POST /promote/%s", op->replica->name) : NULL;
}

static const RctlStep managed_checks[] = {
	{"service", check_service, "the service is ready"},
	{NULL}
};

static const RctlStep managed_create[] = {
	{"make", make, "make the role file"},
	{NULL}
};

static const RctlStep managed_drop[] = {
	{"remove", take_away, "remove the role file", true},
	{NULL}
};

static const RctlStep managed_change[] = {
	{"change", change, "write what is asked for"},
	{NULL}
};

static const RctlManagedPromotion managed = {
	.promote_checks = managed_checks,
	.source_is_here = managed_is_here,
	.service_fences = managed_fences,
	.source_follows = managed_follows,
	.caught_up = managed_caught_up,
	.promote = managed_promote,
	.verify = managed_verify,
	.receipt = managed_receipt,
	.note = managed_note,
};

const RctlProvider rctl_provider_mock_managed = {
	.name = "mock_managed",
	.wrapper = "replica_mock_managed",
	.server_options = managed_server_options,
	.mapping_options = managed_mapping_options,
	.create_options = managed_create_options,
	.attach_options = managed_create_options,
	.create = managed_create,
	.attach = managed_create,
	.drop = managed_drop,
	.cleanup = managed_cleanup,
	.connect = managed_connect,
	.managed = &managed,
	.describe_step = managed_describe,
	.change = managed_change,
	.change_options = managed_change_options,
};

#endif							/* RCTL_TEST */
