/*-------------------------------------------------------------------------
 *
 * mock.c
 *	  A provider whose replicas are files: for tests of the engine.
 *
 * Test builds (RCTL_TEST) only.  Each step of a create makes one file in the
 * server's directory, recorded before it is made; a drop removes them.  A file
 * that is there without a replica is what a test calls an orphan.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef RCTL_TEST

#include <unistd.h>

#include "storage/fd.h"

#include "net/wait.h"
#include "provider/provider.h"
#include "provider/mock_watch.h"
#include "provider/providers.h"

#define COPY_PARTS 20

static const RctlOptionDef mock_server_options[] = {
	{"directory", RCTL_OPTION_PATH, "where the files are made"},
	{"watch_url", RCTL_OPTION_TEXT, "where the monitor asks for the replicas"},
	{"poll_interval", RCTL_OPTION_INTEGER, "seconds between two of these", 1, 86400},
	{NULL}
};

static const RctlOptionDef mock_mapping_options[] = {
	{"password", RCTL_OPTION_TEXT, "a secret"},
	{NULL}
};

static const RctlOptionDef mock_create_options[] = {
	{"bytes", RCTL_OPTION_INTEGER, "size of the copy in bytes, default 0", 0, PG_INT64_MAX},
	{"duration_ms", RCTL_OPTION_INTEGER, "how long the copy takes, default 0", 0, 3600000},
	{"fault", RCTL_OPTION_TEXT, "faults to inject into the steps, see core/fault.h"},
	{NULL}
};

static char *
file_of(RctlOp *op, const char *part)
{
	return psprintf("%s/" INT64_FORMAT ".%s", rctl_map_get(op->server_options, "directory"),
					op->replica->id, part);
}

static void
make_file(RctlOp *op, const char *part)
{
	char	   *path = file_of(op, part);
	RctlMap    *object = rctl_map_make();
	FILE	   *file;

	rctl_map_set(object, "path", path);
	rctl_op_cleanup_add(op, part, object, false);
	file = AllocateFile(path, "w");
	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	FreeFile(file);
}

static void
remove_file(const char *path)
{
	if (unlink(path) < 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

static void
mock_reserve(RctlOp *op)
{
	make_file(op, "slot");
	rctl_map_setf(op->replica->facts, "slot", "mock_" INT64_FORMAT, op->replica->id);
}

static void
mock_copy(RctlOp *op)
{
	int64		bytes = strtoll(rctl_map_get_default(op->replica->options, "bytes", "0"), NULL, 10);
	long		duration = strtol(rctl_map_get_default(op->replica->options, "duration_ms", "0"), NULL, 10);

	make_file(op, "data");
	for (int i = 0; i <= COPY_PARTS && duration > 0; i++)
	{
		rctl_op_progress(op, "copying", bytes / COPY_PARTS * i, bytes);
		rctl_sleep(duration / COPY_PARTS);
	}
	if (bytes > 0)
		rctl_op_progress(op, "copying", bytes, bytes);
}

static void
mock_start(RctlOp *op)
{
	make_file(op, "process");
	rctl_map_set(op->replica->facts, "host", "mock");
	rctl_map_set(op->replica->facts, "port", "1");
}

static void
mock_look(RctlOp *op)
{
}

static void
mock_stop(RctlOp *op)
{
	remove_file(file_of(op, "process"));
}

static void
mock_remove(RctlOp *op)
{
	remove_file(file_of(op, "data"));
	remove_file(file_of(op, "slot"));
	rctl_map_set(op->replica->facts, "slot", NULL);
}

static void
mock_cleanup(RctlOp *op, const RctlCleanup *record)
{
	remove_file(rctl_map_get(record->object, "path"));
}

static const RctlStep mock_create[] = {
	{"reserve", mock_reserve, "make the slot file"},
	{"copy", mock_copy, "make the data file", .weight = 8},
	{"start", mock_start, "make the process file"},
	{NULL}
};

static const RctlStep mock_attach[] = {
	{"look", mock_look, "look"},
	{NULL}
};

static const RctlStep mock_drop[] = {
	{"look", mock_look, "look"},
	{"stop", mock_stop, "remove the process file", true},
	{"remove", mock_remove, "remove the other files", true},
	{NULL}
};

const RctlProvider rctl_provider_mock = {
	.name = "mock",
	.wrapper = "replica_mock",
	.server_options = mock_server_options,
	.watch = rctl_mock_watch,
	.mapping_options = mock_mapping_options,
	.create_options = mock_create_options,
	.attach_options = mock_create_options,
	.create = mock_create,
	.attach = mock_attach,
	.drop = mock_drop,
	.repair = mock_attach,
	.cleanup = mock_cleanup,
};

#endif							/* RCTL_TEST */
