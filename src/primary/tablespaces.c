/*-------------------------------------------------------------------------
 *
 * tablespaces.c
 *	  Keeps the tablespaces of this server and of replicas on its host apart.
 *
 * A standby replays CREATE TABLESPACE with the directory that its primary
 * was given.  On the same host that is the primary's own directory: in
 * recovery PostgreSQL takes it over without a question, and the two servers
 * overwrite each other's files.  Nothing on the standby could prevent that,
 * so the command is refused here.  Tablespaces that exist when a replica is
 * made are mapped to other directories (provider/standby_place.c), and those
 * inside the data directory have none of their own.
 *
 * Whether a replica is on this host is known by what the monitor has seen;
 * nothing is durable here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/wait_event.h"

#include "primary/samples.h"
#include "primary/tablespaces.h"

#define SETTLE_MS 2000
#define LOOK_MS 100

static ProcessUtility_hook_type previous_process_utility = NULL;

/* A standby of ours whose files are on this host, running or not; NULL: there is none. */
static const char *
replica_on_this_host(void)
{
	RctlSamples *samples = rctl_samples_read();

	for (int i = 0; i < samples->nreplicas; i++)
	{
		const RctlReplicaSample *replica = &samples->replicas[i];
		bool		promoted = replica->answered != 0 && !replica->stopped && !replica->in_recovery;

		if (replica->id != 0 && replica->disks != 0 && !promoted)
			return replica->name;
	}
	return NULL;
}

static void
refuse_shared_directory(const CreateTableSpaceStmt *statement)
{
	const char *replica;

	if (statement->location == NULL || statement->location[0] == '\0')
		return;

	/* One that was just dropped is there until the monitor has looked again. */
	for (int waited = 0; (replica = replica_on_this_host()) != NULL && waited < SETTLE_MS; waited += LOOK_MS)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tablespace \"%s\" cannot be created while replica \"%s\" is on the same host",
						statement->tablespacename, replica),
				 errdetail("The replica would use directory \"%s\", too, and overwrite the files of this server.",
						   statement->location),
				 errhint("Run SELECT replica_drop(%s), create the tablespace, and then the replica again;"
						 " or create it inside the data directory: SET allow_in_place_tablespaces = on, and LOCATION ''.",
						 quote_literal_cstr(replica))));
}

static void
process_utility(PlannedStmt *statement, const char *source, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
				DestReceiver *receiver, QueryCompletion *completion)
{
	if (IsA(statement->utilityStmt, CreateTableSpaceStmt))
		refuse_shared_directory(castNode(CreateTableSpaceStmt, statement->utilityStmt));
	previous_process_utility(statement, source, read_only_tree, context, params, environment, receiver, completion);
}

void
rctl_tablespaces_install_hook(void)
{
	previous_process_utility = ProcessUtility_hook ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = process_utility;
}
