/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  Which server this is, told from its copies.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "core/identity.h"

/* systemd's machine-id(5); containers may have none, and then it is left out. */
#define MACHINE_ID_FILE "/etc/machine-id"
#define MACHINE_ID_LEN 32

static void
read_machine_id(char *id)
{
	FILE	   *file = AllocateFile(MACHINE_ID_FILE, PG_BINARY_R);
	size_t		length = 0;

	if (file)
	{
		length = fread(id, 1, MACHINE_ID_LEN, file);
		FreeFile(file);
	}
	id[length] = '\0';
	id[strspn(id, "0123456789abcdef")] = '\0';
}

const RctlIdentity *
rctl_identity(void)
{
	static RctlIdentity identity;
	char		machine_id[MACHINE_ID_LEN + 1];
	struct stat st;
	MemoryContext old;

	if (identity.home != NULL)
		return &identity;

	if (stat(DataDir, &st) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat data directory \"%s\": %m", DataDir)));
	read_machine_id(machine_id);

	old = MemoryContextSwitchTo(TopMemoryContext);
	identity.system_identifier = psprintf(UINT64_FORMAT, GetSystemIdentifier());
	identity.timeline = psprintf("%u", GetWALInsertionTimeLine());
	identity.home = psprintf("%llu@%s", (unsigned long long) st.st_ino, machine_id);
	MemoryContextSwitchTo(old);
	return &identity;
}
