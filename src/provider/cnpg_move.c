/*-------------------------------------------------------------------------
 *
 * cnpg_move.c
 *	  Two Clusters of a distributed topology change roles.
 *
 *	  1 the source is demoted: it stops, and follows the replica from then on
 *	  2 when it has stopped it gives a token: up to where its WAL goes
 *	  3 the replica is asked to be the primary, with that token, in one patch
 *
 * Between 1 and the end of 3 nobody takes writes.  So what could refuse 3 is
 * asked before 1 by dry runs, on both sides, and 1 leaves a cleanup record
 * first: as long as the replica has not been asked, the undo makes the source
 * a primary again.  A replica that has been asked is waited for.
 *
 * The two may be in different namespaces, or behind different API servers
 * (rctl_cnpg_open_source).  A Cluster is known to the other one by the name
 * that it has among externalClusters (spec.replica.self), which may differ
 * from the name of the resource.
 *
 * Durable in op->state: old_token (the source's before its demotion: its
 * status may still show that), token, source_name (the source's name in the
 * topology), asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "provider/cnpg.h"

static const char *
source_of(RctlOp *op)
{
	return rctl_map_get_default(op->server_options, "cluster", "");
}

static bool
same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

static bool
is_forced(RctlOp *op)
{
	return same(rctl_map_get(op->arguments, "mode"), "forced");
}

/* ---------------------------------------------------------------------
 * The patches
 * ---------------------------------------------------------------------
 */

/* Its own old token would be refused in what is no primary, and "enabled" next to "primary". */
static char *
demotion_patch(const char *source, const char *replica)
{
	return psprintf("{\"spec\":{\"replica\":{\"self\":%s,\"primary\":%s,\"source\":%s,\"enabled\":null,\"promotionToken\":null}}}",
					rctl_cnpg_quote(source), rctl_cnpg_quote(replica), rctl_cnpg_quote(replica));
}

/* token "": none, which is a failover. */
static char *
promotion_patch(const char *source, const char *replica, const char *token)
{
	return psprintf("{\"spec\":{\"replica\":{\"self\":%s,\"primary\":%s,\"source\":%s,\"enabled\":null,\"promotionToken\":%s}}}",
					rctl_cnpg_quote(replica), rctl_cnpg_quote(replica), rctl_cnpg_quote(source),
					token[0] ? rctl_cnpg_quote(token) : "null");
}

/* ---------------------------------------------------------------------
 * Before
 * ---------------------------------------------------------------------
 */

/* A Cluster can name another one only if that is among its external ones; and itself, too. */
static void
require_known(const RctlKube *kube, const RctlCnpgCluster *cluster, const char *wanted)
{
	const RctlJson *known = rctl_json_find(cluster->json, "spec/externalClusters");

	for (int i = 0; i < rctl_json_array_length(known, ""); i++)
	{
		if (same(rctl_json_text(rctl_json_element(known, i), "name"), wanted))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("Cluster \"%s\" does not know \"%s\" by its spec.externalClusters", cluster->name, wanted),
			 errdetail("It is at %s.", kube->what),
			 errhint("Add it there, as docs/cnpg.md shows; CloudNativePG needs both for a distributed topology.")));
}

static void
require_topology(const RctlCnpgCluster *replica, const RctlCnpgCluster *source)
{
	if (same(source->self, replica->self))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("both Clusters are called \"%s\"", source->self),
				 errhint("Give one of them another name by its spec.replica.self, and use that in spec.externalClusters.")));
	if (!same(replica->primary, source->self))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" does not follow \"%s\" in a distributed topology", replica->name, source->self),
				 errdetail("Its spec.replica.primary is \"%s\".", replica->primary ? replica->primary : ""),
				 errhint("Correct the server's option cluster, or that field.")));
	if (source->replica && !same(source->primary, replica->self))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" is a replica itself", source->name),
				 errdetail("Its spec.replica.primary is \"%s\".", source->primary ? source->primary : ""),
				 errhint("Promote the replica of the Cluster that is the primary.")));
}

/* An unhealthy source may take for ever to stop. */
static void
require_demotable(const RctlKube *kube, const RctlCnpgCluster *source)
{
	char	   *progress;

	rctl_cnpg_require_recoverable(source);
	if (source->changing_role || !rctl_cnpg_healthy(source, &progress))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("Cluster \"%s\" cannot be demoted now", source->name),
				 errdetail("%s: %s.", kube->what, source->changing_role ? "it is changing its role" : progress),
				 errhint("Wait until the operator is done: kubectl get clusters.postgresql.cnpg.io %s.", source->name)));
}

void
rctl_cnpg_move_check(RctlOp *op)
{
	RctlKube   *kube = rctl_cnpg_open(op);
	RctlKube   *there;
	RctlCnpgCluster *replica;
	RctlCnpgCluster *source;

	/* A forced one is for the day on which nobody answers there. */
	if (!rctl_cnpg_is_distributed(op->replica) || is_forced(op))
		return;
	there = rctl_cnpg_open_source(op);
	replica = rctl_cnpg_get(kube, rctl_cnpg_cluster_name(op), false);
	source = rctl_cnpg_get(there, source_of(op), false);
	require_topology(replica, source);
	require_known(kube, replica, source->self);
	require_known(kube, replica, replica->self);
	require_known(there, source, source->self);
	require_known(there, source, replica->self);
	if (source->replica)
		rctl_op_warn(op, psprintf("It is at %s. The promotion goes on from there.", there->what), NULL,
					 "Cluster \"%s\" has been demoted already", source->name);
	else
	{
		require_demotable(there, source);
		rctl_cnpg_try(there, source->name, NULL, demotion_patch(source->self, replica->self),
					  psprintf("demote Cluster \"%s\"", source->name));
	}
	rctl_cnpg_try(kube, replica->name, NULL, promotion_patch(source->self, replica->self, ""),
				  psprintf("promote Cluster \"%s\"", replica->name));
}

/* ---------------------------------------------------------------------
 * Demotion
 * ---------------------------------------------------------------------
 */

typedef struct Demotion
{
	RctlOp	   *op;
	const char *replica;		/* its name in the topology */
} Demotion;

static RCTL_NORETURN void raise_moved(const RctlCnpgCluster *source);

static void
raise_moved(const RctlCnpgCluster *source)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("somebody else changes the role of Cluster \"%s\"", source->name),
			 errdetail("Its spec.replica.primary is \"%s\".", source->primary ? source->primary : ""),
			 errhint("Wait until that is done, look at replica_explain, and call again.")));
}

static const char *
decide_demotion(void *arg, const RctlCnpgCluster *source)
{
	Demotion   *demotion = arg;

	if (source->replica && !same(source->primary, demotion->replica))
		raise_moved(source);
	return source->replica ? NULL : demotion_patch(source->self, demotion->replica);
}

/* The token of an earlier demotion stays in the status for a while: that is not the one. */
static bool
look_for_token(RctlOp *op, RctlKube *there, void *arg)
{
	Demotion   *demotion = arg;
	RctlCnpgCluster *source = rctl_cnpg_get(there, source_of(op), false);
	const char *token = source->demotion_token;

	rctl_cnpg_require_recoverable(source);
	if (!source->replica || !same(source->primary, demotion->replica))
		raise_moved(source);
	if (token && token[0] && !source->changing_role && !same(token, rctl_map_get(op->state, "old_token")))
	{
		rctl_map_set(op->state, "token", token);
		rctl_op_save(op);
		return true;
	}
	rctl_op_progress(op, psprintf("waiting for the demotion token of %s (%s)", source->name,
								  source->phase ? source->phase : ""), 0, 0);
	return false;
}

static void
demote_source(RctlOp *op, const char *replica)
{
	RctlKube   *there = rctl_cnpg_open_source(op);
	RctlCnpgCluster *source = rctl_cnpg_get(there, source_of(op), false);
	Demotion	demotion = {op, replica};

	/* One that was demoted before this operation has its token already. */
	if (!source->replica && rctl_map_get(op->state, "old_token") == NULL)
	{
		RctlMap    *object = rctl_map_make();

		rctl_map_set(op->state, "old_token", source->demotion_token ? source->demotion_token : "");
		rctl_map_set(object, "name", source->name);
		rctl_map_set(object, "server", there->server);
		rctl_map_set(object, "namespace", there->namespace);
		rctl_map_set(object, "source", source->self);
		rctl_map_set(object, "replica", replica);
		rctl_op_cleanup_add(op, "demotion", object, false);
	}
	(void) rctl_cnpg_change(there, source->name, NULL, decide_demotion, &demotion,
							psprintf("demote Cluster \"%s\"", source->name));
	rctl_cnpg_wait(op, there, look_for_token, &demotion);
}

/* ---------------------------------------------------------------------
 * Promotion
 * ---------------------------------------------------------------------
 */

static const char *
decide_promotion(void *arg, const RctlCnpgCluster *cluster)
{
	RctlOp	   *op = arg;

	if (!cluster->replica)
		return NULL;
	return promotion_patch(rctl_map_get_default(op->state, "source_name", ""), cluster->self,
						   rctl_map_get_default(op->state, "token", ""));
}

void
rctl_cnpg_move(RctlOp *op, RctlKube *kube)
{
	RctlCnpgCluster *replica = rctl_cnpg_get(kube, rctl_cnpg_cluster_name(op), false);

	rctl_cnpg_require_same(op, replica);
	if (rctl_map_get(op->state, "source_name") == NULL)
	{
		if (!replica->replica || replica->primary == NULL)
			raise_moved(replica);
		rctl_map_set(op->state, "source_name", replica->primary);
		rctl_map_setf(op->state, "old_timeline", INT64_FORMAT, replica->timeline);
		rctl_op_save(op);
	}
	if (rctl_map_get(op->state, "token") == NULL)
	{
		if (is_forced(op))
			rctl_map_set(op->state, "token", "");
		else
			demote_source(op, replica->self);
	}
	rctl_cnpg_ask(op, kube, replica->name, NULL, decide_promotion,
				  psprintf("promote Cluster \"%s\"", replica->name));
}

/* ---------------------------------------------------------------------
 * Undo
 * ---------------------------------------------------------------------
 */

static bool
is_demoted(const RctlMap *object, const RctlCnpgCluster *source)
{
	return source && source->replica && same(source->primary, rctl_map_get(object, "replica"));
}

/* While it changes its role that cannot be changed again. */
static const char *
decide_back(void *arg, const RctlCnpgCluster *source)
{
	const RctlMap *object = arg;

	if (!is_demoted(object, source) || source->changing_role)
		return NULL;
	return psprintf("{\"spec\":{\"replica\":{\"primary\":%s,\"promotionToken\":null}}}",
					rctl_cnpg_quote(rctl_map_get(object, "source")));
}

static bool
look_settled(RctlOp *op, RctlKube *there, void *arg)
{
	RctlCnpgCluster *source = rctl_cnpg_get(there, arg, true);

	if (source == NULL || !source->changing_role)
		return true;
	rctl_op_progress(op, psprintf("waiting until %s has stopped", source->name), 0, 0);
	return false;
}

static bool
look_primary(RctlOp *op, RctlKube *there, void *arg)
{
	RctlCnpgCluster *source = rctl_cnpg_get(there, arg, false);
	char	   *progress;

	if (rctl_cnpg_healthy(source, &progress) && source->role_known && source->is_primary)
		return true;
	rctl_cnpg_require_recoverable(source);
	rctl_op_progress(op, psprintf("making %s the primary again: %s", source->name, progress), 0, 0);
	return false;
}

/*
 * A replica that was asked, or a row that is being dropped long after, may be
 * the primary by now: then the source stays as it is.
 */
static bool
replica_is_primary(RctlOp *op)
{
	RctlCnpgCluster *replica;

	if (rctl_map_get(op->replica->facts, "moved"))
		return true;
	if (op->kind != RCTL_OP_DROP && rctl_map_get(op->state, "asked") == NULL)
		return false;
	replica = rctl_cnpg_get(rctl_cnpg_open(op), rctl_cnpg_cluster_name(op), true);
	return replica && !replica->replica;
}

/* What a person can do without waiting for us; goes with the error that stood in the way. */
static char *
ways_out(RctlOp *op, const RctlMap *object)
{
	return psprintf("Cluster \"%s\" is demoted, and nobody is a primary. SELECT replica_promote(%s, source_after => 'standby') goes on;"
					" to go back, run kubectl -n %s patch clusters.postgresql.cnpg.io %s --type merge -p '{\"spec\":{\"replica\":{\"primary\":\"%s\"}}}'.",
					rctl_map_get(object, "name"), quote_literal_cstr(op->replica->name), rctl_map_get(object, "namespace"),
					rctl_map_get(object, "name"), rctl_map_get(object, "source"));
}

static void
go_back(RctlOp *op, const RctlMap *object)
{
	RctlKube   *there = rctl_cnpg_open_source(op);
	char	   *name = pstrdup(rctl_map_get(object, "name"));
	RctlCnpgCluster *source;

	do
	{
		rctl_cnpg_wait(op, there, look_settled, name);
		if (!is_demoted(object, rctl_cnpg_get(there, name, true)))
			return;
		source = rctl_cnpg_change(there, name, NULL, decide_back, (void *) object,
								  psprintf("make Cluster \"%s\" a primary again", name));
	} while (is_demoted(object, source));
	rctl_cnpg_wait(op, there, look_primary, name);
	rctl_op_event(op, "warning", "demotion_undone", NULL, "Cluster \"%s\" was demoted, and is the primary again", name);
}

void
rctl_cnpg_move_back(RctlOp *op, const RctlMap *object)
{
	MemoryContext context = CurrentMemoryContext;

	if (replica_is_primary(op))
		return;
	PG_TRY();
	{
		go_back(op, object);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		error->detail = psprintf("%s%s%s", error->detail ? error->detail : "", error->detail ? "\n" : "",
								 ways_out(op, object));
		ReThrowError(error);
	}
	PG_END_TRY();
}
