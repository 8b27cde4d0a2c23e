/*-------------------------------------------------------------------------
 *
 * aws_drop.c
 *	  Steps that delete a replica at Amazon, and nothing else.
 *
 * Refused: what does not carry our tag, what is a source itself (Amazon would
 * promote the read replicas of an instance that is deleted), what is being
 * promoted, and what was promoted, unless it is forced: then it has a last
 * snapshot.
 *
 * Amazon deletes an instance of a cluster first, then the cluster; and it does
 * not delete the last instance of a cluster that is still a read replica.
 * Such a cluster is promoted first, in order to be deleted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "net/wait.h"
#include "provider/aws.h"

#define MAX_REFUSALS 240
#define GONE_LOOKS 2

static bool
is_forced(RctlOp *op)
{
	return strcmp(rctl_map_get_default(op->arguments, "force", "false"), "true") == 0;
}

/* ---------------------------------------------------------------------
 * Deleting
 * ---------------------------------------------------------------------
 */

static bool
is_gone(RctlOp *op, const RctlAwsInstance *instance)
{
	return instance == NULL;
}

static RctlAwsCall *
delete_call(const RctlAwsInstance *found, const char *snapshot)
{
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, found->is_cluster ? "DeleteDBCluster" : "DeleteDBInstance");

	rctl_aws_add(call, found->is_cluster ? "DBClusterIdentifier" : "DBInstanceIdentifier", found->identifier);
	rctl_aws_add(call, "SkipFinalSnapshot", snapshot ? "false" : "true");
	rctl_aws_add(call, "FinalDBSnapshotIdentifier", snapshot);
	return call;
}

/* Whether it is refused because it is the last instance of a cluster that is a read replica. */
static bool
must_promote(const RctlAwsTarget *target, const RctlAwsInstance *found, char **cluster)
{
	RctlAwsInstance *above;

	if (found->cluster == NULL || strcmp(found->status, "available") != 0)
		return false;
	above = rctl_aws_cluster(target, found->cluster);
	if (above == NULL || above->source == NULL || list_length(above->members) != 1)
		return false;
	*cluster = above->identifier;
	return strcmp(above->status, "available") == 0;
}

/* Sends the request; false if it must be tried again a little later. */
static bool
ask_to_delete(RctlOp *op, const RctlAwsTarget *target, const RctlAwsInstance *found, const char *snapshot)
{
	RctlAwsCall *call = delete_call(found, snapshot);
	RctlAwsAnswer *answer = rctl_aws_perform(target, call);
	char	   *cluster;

	if (answer->result || rctl_aws_code_is(answer, "NotFound"))
		return true;
	if (rctl_aws_code_is(answer, "State") && must_promote(target, found, &cluster))
	{
		rctl_op_progress(op, psprintf("promoting %s, so that its last instance can be deleted", cluster), 0, 0);
		rctl_aws_promote(op, target, cluster, true);
		return false;
	}
	/* It was just made, or backs up; or the answer was lost. */
	if ((rctl_aws_code_is(answer, "State") && !rctl_aws_status_is_fatal(found->status)) || answer->transient)
		return false;
	rctl_aws_raise(call, answer);
}

void
rctl_aws_delete(RctlOp *op, const RctlAwsTarget *target, bool cluster, const char *identifier,
				const char *owner, const char *snapshot)
{
	int			missing = 0;

	for (int look = 0;; look++)
	{
		RctlAwsInstance *found = rctl_aws_resource(target, cluster, identifier);

		/*
		 * What was made a moment ago, by a call whose answer was lost, may
		 * not be seen at once.
		 */
		if (found == NULL && ++missing >= GONE_LOOKS)
			return;
		if (found && !rctl_aws_is_ours(target, found, owner))
		{
			rctl_op_event(op, "warning", "left_alone", NULL, "DB %s \"%s\" does not have our tag and was left alone",
						  cluster ? "cluster" : "instance", identifier);
			return;
		}
		if (found && (strcmp(found->status, "deleting") == 0 || ask_to_delete(op, target, found, snapshot)))
		{
			(void) rctl_aws_wait(op, target, cluster, identifier, is_gone, "deleting", true);
			return;
		}
		if (found && look >= MAX_REFUSALS)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("could not delete DB %s \"%s\"", cluster ? "cluster" : "instance", identifier),
					 errdetail("Its status is \"%s\".", found->status),
					 errhint("When that is \"available\", drop the replica again.")));
		if (found)
			rctl_op_progress(op, psprintf("deleting %s: %s", identifier, found->status), 0, 0);
		rctl_op_alive(op);
		rctl_sleep(rctl_aws_pause(target->options, look));
	}
}

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

static void
refuse_dependents(RctlOp *op, const RctlAwsInstance *found)
{
	const char *dependent = found->cluster_replicas ? linitial(found->cluster_replicas) :
	found->replicas ? linitial(found->replicas) : NULL;

	if (dependent == NULL || (is_forced(op) && found->cluster_replicas == NIL))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("%s \"%s\" is the source of \"%s\"", found->is_cluster ? "DB cluster" : "DB instance",
					found->identifier, dependent),
			 errdetail("Amazon promotes the read replicas of an instance that is deleted;"
					   " a promotion that is under way needs its source."),
			 errhint("Promote or drop \"%s\" first.", dependent)));
}

/* Everything about the instance or the cluster that speaks against deleting it. */
static void
refuse_deletion(RctlOp *op, const RctlAwsTarget *target, RctlAwsInstance *found)
{
	const char *what = found->is_cluster ? "DB cluster" : "DB instance";
	const char *resource = rctl_map_get(op->replica->facts, "resource");
	const char *name = quote_literal_cstr(op->replica->name);

	if (!target->aurora && strcmp(found->identifier, rctl_aws_source_name(target)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("DB instance \"%s\" is the source", found->identifier),
				 errhint("Forget the replica with SELECT replica_detach(%s).", name)));
	if (!rctl_aws_is_ours(target, found, rctl_map_get(op->replica->facts, "owner")) ||
		(resource && found->resource && strcmp(resource, found->resource) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s \"%s\" is not the one of this replica", what, found->identifier),
				 errdetail("It does not have the tag %s that this replica gave, or is another one of the same name.",
						   RCTL_AWS_TAG),
				 errhint("Forget the replica with SELECT replica_detach(%s); what was not made here is never deleted.",
						 name)));
	refuse_dependents(op, found);
	if (found->protected)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" is protected from deletion", what, found->identifier),
				 errhint("Turn its deletion protection off in Amazon RDS first.")));
	if (strcmp(found->status, "promoting") == 0 || (found->source && strcmp(found->status, "rebooting") == 0) ||
		(found->source && strcmp(found->status, "modifying") == 0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("%s \"%s\" may be in the middle of a promotion", what, found->identifier),
				 errdetail("Its status is \"%s\".", found->status),
				 errhint("Wait until its status is \"available\", and try again.")));
	if (found->source == NULL && strcmp(found->status, "available") == 0 && !is_forced(op))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" was promoted: it is a database of its own", what, found->identifier),
				 errhint("Forget it with SELECT replica_detach(%s), or delete it with SELECT replica_drop(%s, force => true).",
						 name, name)));
}

static void
refuse_other_members(const RctlAwsInstance *cluster, const char *writer)
{
	ListCell   *lc;

	foreach(lc, cluster->members)
	{
		if (writer == NULL || strcmp(rctl_aws_lower(lfirst(lc)), writer) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("DB cluster \"%s\" has instance \"%s\", which is not of this replica", cluster->identifier,
							(char *) lfirst(lc)),
					 errhint("Delete that instance first.")));
	}
}

static void
check_deletion(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	const char *identifier = rctl_map_get(op->replica->facts, "identifier");
	const char *writer = rctl_map_get(op->replica->facts, "writer");
	RctlAwsInstance *found;

	if (identifier == NULL)
		return;
	found = rctl_aws_resource(target, target->aurora, identifier);
	if (found)
	{
		refuse_deletion(op, target, found);
		if (target->aurora)
			refuse_other_members(found, writer);
		if (found->source == NULL)
			rctl_map_set(op->state, "promoted", "true");
	}
	if (writer == NULL)
		return;
	found = rctl_aws_instance(target, writer);
	if (found && !rctl_aws_is_ours(target, found, rctl_map_get(op->replica->facts, "owner")))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("DB instance \"%s\" is not the one of this replica", writer),
				 errdetail("It does not have the tag %s that this replica gave.", RCTL_AWS_TAG),
				 errhint("Forget the replica with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
	if (found && found->protected)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("DB instance \"%s\" is protected from deletion", writer),
				 errhint("Turn its deletion protection off in Amazon RDS first.")));
}

const RctlStep rctl_aws_drop_checks[] = {
	{"deletion", check_deletion, "it is ours to delete, and nothing depends on it"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Steps
 * ---------------------------------------------------------------------
 */

/* The name of the last snapshot; NULL: none, as of a read replica. */
static char *
last_snapshot(RctlOp *op, const char *identifier)
{
	bool		skip = false;

	(void) parse_bool(rctl_map_get_default(op->replica->options, "skip_final_snapshot", "false"), &skip);
	if (skip || rctl_map_get(op->state, "promoted") == NULL)
		return NULL;
	return psprintf("%s-final-" INT64_FORMAT, identifier, op->id);
}

static void
drop_instance(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	const char *identifier = rctl_map_get(op->replica->facts, target->aurora ? "writer" : "identifier");

	if (identifier)
		rctl_aws_delete(op, target, false, identifier, rctl_map_get(op->replica->facts, "owner"),
						target->aurora ? NULL : last_snapshot(op, identifier));
}

static void
drop_cluster(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	const char *identifier = rctl_map_get(op->replica->facts, "identifier");

	if (target->aurora && identifier)
		rctl_aws_delete(op, target, true, identifier, rctl_map_get(op->replica->facts, "owner"),
						last_snapshot(op, identifier));
}

const RctlStep rctl_aws_drop_steps[] = {
	{"check", check_deletion, "check that it is ours to delete, and that nothing depends on it"},
	{"instance", drop_instance, "DeleteDBInstance, and wait until it is gone", .point_of_no_return = true, .weight = 5},
	{"cluster", drop_cluster, "for Aurora: DeleteDBCluster, and wait until it is gone", .point_of_no_return = true,
	.weight = 5},
	{NULL}
};
