/*-------------------------------------------------------------------------
 *
 * aws_create.c
 *	  Steps that make, take over and look after a replica at Amazon.
 *
 * Each thing that is made: a cleanup record with its identifier and the value
 * of its tag, durable; then the call; then, if its answer was lost, a look at
 * what became of it.  A name that is taken is ours only if it carries our tag
 * and follows our source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/builtins.h"

#include "net/wait.h"
#include "provider/aws.h"

#define INSTANCE_RECORD "DB instance"
#define CLUSTER_RECORD "DB cluster"

/* How often a create is sent if its answer is lost and nothing is to be seen of it. */
#define SENDS 3
#define SETTLE_LOOKS 4

/* The wait for the data takes nearly all of the time. */
#define WAIT_WEIGHT 20

/* ---------------------------------------------------------------------
 * Names
 * ---------------------------------------------------------------------
 */

char *
rctl_aws_wanted_identifier(const RctlOp *op, bool aurora)
{
	const char *given = rctl_map_get(op->replica->options,
									 aurora ? "db_cluster_identifier" : "db_instance_identifier");

	return rctl_aws_lower(given ? given : op->replica->name);
}

char *
rctl_aws_wanted_writer(const RctlOp *op, const char *cluster)
{
	const char *given = rctl_map_get(op->replica->options, "db_instance_identifier");

	return given ? rctl_aws_lower(given) : psprintf("%s-1", cluster);
}

/* The value of our tag: durable before anything is made, unlike any other's. */
static const char *
owner_tag(RctlOp *op)
{
	const char *owner = rctl_map_get(op->replica->facts, "owner");
	uint64		random;

	if (owner)
		return owner;
	if (!pg_strong_random(&random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	rctl_map_setf(op->replica->facts, "owner", UINT64_FORMAT "-" INT64_FORMAT "-%016llx",
				  GetSystemIdentifier(), op->replica->id, (unsigned long long) random);
	return rctl_map_get(op->replica->facts, "owner");
}

void
rctl_aws_note_endpoint(RctlOp *op, const RctlAwsInstance *instance)
{
	rctl_map_set(op->replica->facts, "resource", instance->resource);
	rctl_map_set(op->replica->facts, "arn", instance->arn);
	if (instance->host == NULL)
		return;
	rctl_map_set(op->replica->facts, "host", instance->host);
	rctl_map_setf(op->replica->facts, "port", "%d", instance->port);
	rctl_map_set(op->replica->facts, "reader_host", instance->reader_host);
}

static void
reserve(RctlOp *op, const RctlAwsTarget *target, bool cluster, const char *identifier)
{
	char	   *name = psprintf("%s %s %s", target->region, cluster ? "cluster" : "instance", identifier);

	if (!rctl_op_reserve(op, cluster ? "aws_cluster" : "aws_instance", name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("another replica of this server is the DB %s \"%s\"", cluster ? "cluster" : "instance", identifier),
				 errhint("Choose another identifier.")));
}

static void
note_names(RctlOp *op, const RctlAwsTarget *target, const char *identifier, const char *writer)
{
	RctlMap    *facts = op->replica->facts;

	reserve(op, target, target->aurora, identifier);
	if (writer)
		reserve(op, target, false, writer);
	rctl_map_set(facts, "engine", target->aurora ? RCTL_AWS_AURORA : "postgres");
	rctl_map_set(facts, "region", target->region);
	rctl_map_set(facts, "service", "rds");
	rctl_map_set(facts, "identifier", identifier);
	rctl_map_set(facts, "writer", writer);
	rctl_map_set(facts, "source", target->source);
}

/* ---------------------------------------------------------------------
 * Making
 * ---------------------------------------------------------------------
 */

/* Whether it is the read replica that we are making: our tag, our source, our engine. */
static bool
is_the_one(RctlOp *op, const RctlAwsTarget *target, RctlAwsInstance *found)
{
	const char *engine = target->aurora ? RCTL_AWS_AURORA : "postgres";
	const char *source = found->source;

	if (!rctl_aws_is_ours(target, found, rctl_map_get(op->replica->facts, "owner")))
		return false;
	if (found->engine && strcmp(found->engine, engine) != 0)
		return false;
	if (target->aurora && !found->is_cluster)
		return found->cluster && strcmp(found->cluster, rctl_map_get(op->replica->facts, "identifier")) == 0;
	if (source && strrchr(source, ':'))
		source = strrchr(source, ':') + 1;
	return source == NULL || strcmp(rctl_aws_lower(source), rctl_aws_source_name(target)) == 0;
}

static void
raise_taken(const RctlAwsInstance *found)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("%s \"%s\" already exists", found->is_cluster ? "DB cluster" : "DB instance", found->identifier),
			 errdetail("It was not made by this replica."),
			 errhint("Choose another identifier, or take that one over with replica_attach.")));
}

/* Whether it is there and the one we make; raises an error if it is another's. */
static bool
is_there(RctlOp *op, const RctlAwsTarget *target, bool cluster, const char *identifier)
{
	RctlAwsInstance *found = rctl_aws_resource(target, cluster, identifier);

	if (found == NULL)
		return false;
	if (!is_the_one(op, target, found))
		raise_taken(found);
	return true;
}

/* After an answer that leaves it open. */
static bool
appears(RctlOp *op, const RctlAwsTarget *target, bool cluster, const char *identifier)
{
	for (int look = 0; look < SETTLE_LOOKS; look++)
	{
		if (is_there(op, target, cluster, identifier))
			return true;
		rctl_sleep(rctl_aws_pause(target->options, look));
	}
	return false;
}

/* Sees to it that the resource is there, or on its way. */
static void
make(RctlOp *op, const RctlAwsTarget *target, bool cluster, const char *identifier, const RctlAwsCall *call)
{
	RctlMap    *object = rctl_map_make();

	if (is_there(op, target, cluster, identifier))
		return;
	rctl_map_set(object, "identifier", identifier);
	rctl_map_set(object, "region", target->region);
	rctl_map_set(object, "owner", rctl_map_get(op->replica->facts, "owner"));
	rctl_op_cleanup_add(op, cluster ? CLUSTER_RECORD : INSTANCE_RECORD, object, false);

	for (int send = 1;; send++)
	{
		RctlAwsAnswer *answer = rctl_aws_perform(target, call);
		bool		exists = rctl_aws_code_is(answer, "AlreadyExists");

		if (answer->result)
			return;
		if (!exists && !answer->uncertain)
			rctl_aws_raise(call, answer);
		rctl_op_progress(op, psprintf("the answer to %s was lost, looking for \"%s\"", call->action, identifier), 0, 0);
		if (appears(op, target, cluster, identifier))
			return;
		if (exists || send == SENDS)
			rctl_aws_raise(call, answer);
	}
}

static void
preflight(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	char	   *identifier = rctl_aws_wanted_identifier(op, target->aurora);

	rctl_op_progress(op, "checking", 0, 0);
	for (const RctlStep *check = rctl_aws_create_checks; check->name; check++)
		check->run(op);
	(void) owner_tag(op);
	note_names(op, target, identifier, target->aurora ? rctl_aws_wanted_writer(op, identifier) : NULL);
}

static const char *
source_arn(RctlOp *op, const RctlAwsTarget *target)
{
	const char *arn = rctl_map_get(op->state, "source_arn");

	return arn ? arn : target->source;
}

static void
make_cluster(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *identifier = rctl_map_get(op->replica->facts, "identifier");
	RctlAwsCall *call;

	if (!target->aurora)
		return;
	call = rctl_aws_call(RCTL_AWS_RDS, "CreateDBCluster");
	rctl_aws_add(call, "DBClusterIdentifier", identifier);
	rctl_aws_add(call, "Engine", RCTL_AWS_AURORA);
	rctl_aws_add(call, "ReplicationSourceIdentifier", source_arn(op, target));
	if (rctl_map_get(op->replica->options, "engine_version") == NULL)
		rctl_aws_add(call, "EngineVersion", rctl_map_get(op->state, "engine_version"));
	if (rctl_map_get(op->replica->options, "storage_encrypted") == NULL &&
		strcmp(rctl_map_get_default(op->state, "source_encrypted", "false"), "true") == 0)
		rctl_aws_add(call, "StorageEncrypted", "true");
	rctl_aws_add_params(call, RCTL_AWS_CLUSTER, op->replica->options);
	rctl_aws_add_tags(call, target->options, op->replica->options, owner_tag(op), op->replica->name);
	make(op, target, true, identifier, call);
}

static void
make_instance(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *identifier = rctl_map_get(op->replica->facts, target->aurora ? "writer" : "identifier");
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS,
									  target->aurora ? "CreateDBInstance" : "CreateDBInstanceReadReplica");

	rctl_aws_add(call, "DBInstanceIdentifier", identifier);
	if (target->aurora)
	{
		rctl_aws_add(call, "Engine", RCTL_AWS_AURORA);
		rctl_aws_add(call, "DBClusterIdentifier", rctl_map_get(op->replica->facts, "identifier"));
	}
	else if (target->source_arn && strcmp(target->source_arn->region, target->region) != 0)
		rctl_aws_add(call, "SourceDBInstanceIdentifier", target->source);
	else
		rctl_aws_add(call, "SourceDBInstanceIdentifier", rctl_aws_source_name(target));
	rctl_aws_add_params(call, target->aurora ? RCTL_AWS_WRITER : RCTL_AWS_REPLICA, op->replica->options);
	rctl_aws_add_tags(call, target->options, op->replica->options, owner_tag(op), op->replica->name);
	make(op, target, false, identifier, call);
}

/* ---------------------------------------------------------------------
 * Waiting
 * ---------------------------------------------------------------------
 */

static bool
is_available(RctlOp *op, const RctlAwsInstance *instance)
{
	return instance != NULL && strcmp(instance->status, "available") == 0;
}

static void
wait_for_cluster(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	RctlAwsInstance *cluster;

	if (!target->aurora)
		return;
	cluster = rctl_aws_wait(op, target, true, rctl_map_get(op->replica->facts, "identifier"),
							is_available, "creating", false);
	rctl_aws_note_endpoint(op, cluster);
}

/* A replica whose replication has ended is none. */
static void
require_replication(const RctlAwsInstance *instance)
{
	if (instance->replication == NULL ||
		(strcmp(instance->replication, "error") != 0 && strcmp(instance->replication, "terminated") != 0 &&
		 strcmp(instance->replication, "stopped") != 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the replication of DB instance \"%s\" is in status \"%s\"", instance->identifier,
					instance->replication),
			 instance->trouble ? errdetail("Amazon RDS says: %s", instance->trouble) : 0,
			 errhint("See its events in Amazon RDS, or drop the replica and create it anew.")));
}

static void
wait_for_instance(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	RctlAwsInstance *instance =
	rctl_aws_wait(op, target, false, rctl_map_get(op->replica->facts, target->aurora ? "writer" : "identifier"),
				  is_available, "creating", false);

	require_replication(instance);
	if (!target->aurora)
		rctl_aws_note_endpoint(op, instance);
}

const RctlStep rctl_aws_create_steps[] = {
	{"preflight", preflight, "check the source and the options, and choose identifiers"},
	{"cluster", make_cluster, "for Aurora: CreateDBCluster with the source's ARN"},
	{"cluster_wait", wait_for_cluster, "for Aurora: wait until the cluster is available", .weight = WAIT_WEIGHT},
	{"instance", make_instance, "CreateDBInstanceReadReplica, or CreateDBInstance in the Aurora cluster"},
	{"instance_wait", wait_for_instance, "wait until the instance is available, several hours per TB",
	.weight = WAIT_WEIGHT},
	{NULL}
};

void
rctl_aws_cleanup(RctlOp *op, const RctlCleanup *record)
{
	RctlAwsTarget *target = rctl_aws_target(op);

	target->region = rctl_map_get_default(record->object, "region", target->region);
	rctl_aws_delete(op, target, strcmp(record->type, CLUSTER_RECORD) == 0,
					rctl_map_get(record->object, "identifier"), rctl_map_get(record->object, "owner"), NULL);
}

/* ---------------------------------------------------------------------
 * Attach
 * ---------------------------------------------------------------------
 */

/* Whether it was tagged by another registry, or another replica of this one. */
static void
require_untaken(RctlOp *op, const RctlAwsInstance *found)
{
	const char *mine = rctl_map_get(op->replica->facts, "owner");
	bool		take_over = false;

	(void) parse_bool(rctl_map_get_default(op->replica->options, "take_over", "false"), &take_over);
	if (found->owner == NULL || take_over || (mine && strcmp(found->owner, mine) == 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("%s \"%s\" belongs to another registry", found->is_cluster ? "DB cluster" : "DB instance",
					found->identifier),
			 errdetail("Its tag %s has the value \"%s\".", RCTL_AWS_TAG, found->owner),
			 errhint("If that one no longer manages it, set option take_over to true.")));
}

static void
attach_inspect(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	char	   *identifier = rctl_aws_wanted_identifier(op, target->aurora);
	const char *kind = target->aurora ? "DB cluster" : "DB instance";
	RctlAwsInstance *found = rctl_aws_resource(target, target->aurora, identifier);
	const char *source;

	if (found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("%s \"%s\" does not exist", kind, identifier),
				 errdetail("Amazon RDS knows none of that name in region %s.", target->region),
				 errhint("Name it by option %s.", target->aurora ? "db_cluster_identifier" : "db_instance_identifier")));
	source = found->source;
	if (source && strrchr(source, ':'))
		source = strrchr(source, ':') + 1;
	if (source == NULL || strcmp(rctl_aws_lower(source), rctl_aws_source_name(target)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" is not a read replica of \"%s\"", kind, identifier, rctl_aws_source_name(target)),
				 source ? errdetail("Its source is \"%s\".", source) : errdetail("It has no source."),
				 errhint("Use a server whose option source is right.")));
	if (strcmp(found->status, "available") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" is not available", kind, identifier),
				 errdetail("Its status is \"%s\".", found->status),
				 errhint("Wait until its status is \"available\", and try again.")));
	if (target->aurora && found->members == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("DB cluster \"%s\" has no instance", identifier),
				 errhint("Create its primary instance first.")));
	require_untaken(op, found);
	(void) owner_tag(op);
	note_names(op, target, identifier, target->aurora ? rctl_aws_lower(linitial(found->members)) : NULL);
	rctl_aws_note_endpoint(op, found);
}

static void
tag_resource(RctlOp *op, const RctlAwsTarget *target, const RctlAwsInstance *found)
{
	RctlAwsCall *call = rctl_aws_call(RCTL_AWS_RDS, "AddTagsToResource");

	if (found == NULL || found->arn == NULL)
		return;
	/* It sets what is set already: twice is as good as once. */
	call->changes = false;
	rctl_aws_add(call, "ResourceName", found->arn);
	rctl_aws_add_tags(call, rctl_map_make(), NULL, owner_tag(op), op->replica->name);
	(void) rctl_aws_result(target, call);
}

static void
attach_tag(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_target(op);
	const char *writer = rctl_map_get(op->replica->facts, "writer");

	tag_resource(op, target, rctl_aws_resource(target, target->aurora, rctl_map_get(op->replica->facts, "identifier")));
	if (writer)
		tag_resource(op, target, rctl_aws_instance(target, writer));
}

const RctlStep rctl_aws_attach_steps[] = {
	{"inspect", attach_inspect, "check that it is a read replica of the server's source"},
	{"tag", attach_tag, "AddTagsToResource: mark it as this replica"},
	{NULL}
};

/* ---------------------------------------------------------------------
 * Repair
 * ---------------------------------------------------------------------
 */

static void
repair_wait(RctlOp *op)
{
	RctlAwsTarget *target = rctl_aws_replica_target(op);
	const char *identifier = rctl_map_get(op->replica->facts, "identifier");
	RctlAwsInstance *found;

	if (identifier == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was never made", op->replica->name),
				 errhint("Remove it with SELECT replica_drop(%s), and create it anew.",
						 quote_literal_cstr(op->replica->name))));
	found = rctl_aws_wait(op, target, target->aurora, identifier, is_available, "repairing", false);
	rctl_aws_note_endpoint(op, found);
	if (!target->aurora)
		require_replication(found);
	else
		(void) rctl_aws_wait(op, target, false, rctl_map_get(op->replica->facts, "writer"), is_available,
							 "repairing", false);
}

const RctlStep rctl_aws_repair_steps[] = {
	{"available", repair_wait, "wait until Amazon says that it is available and replicates"},
	{NULL}
};
