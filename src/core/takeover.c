/*-------------------------------------------------------------------------
 *
 * takeover.c
 *	  A replica that was promoted finds itself in the registry that it carries.
 *
 * A physical copy has the rows of the server that it was copied from, as that
 * had written them up to the moment where the two parted.  They belong to
 * that server (identity.c), and are left alone with one exception: a row that
 * is this very server, as a replica of the other one.  This server is it if
 *
 *	  - it has the same system identifier and a later timeline, so it was
 *		promoted, and
 *	  - its primary_slot_name, which a promotion does not take away, is the
 *		slot of the row, and
 *	  - its data directory is the one that the row tells, if it tells one: so
 *		a copy of the replica that is recovered elsewhere is not mistaken for
 *		it.
 *
 * What to do is decided by what is true, not by how far the other server had
 * come: this server was promoted.  If an operation had asked for a promotion
 * it has succeeded.  If that was a switchover, the other server's replicas
 * are now this server's, the other server itself among them, and the
 * operation goes on here until that one streams.  Otherwise nothing of the
 * other server's changes hands.
 *
 * Where a cluster manager decides who is the primary, the rows of the
 * cluster's members (fact "cluster") belong to whichever of them that is, by
 * a promotion of ours or not.  This server is a member if the manager has
 * started it and gave it the cluster's name.  Which one it is, is told by the
 * name under which it last streamed; where that is not known, by its
 * identity when it was the primary before.  What has become of an unfinished
 * promotion its provider finds out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlogrecovery.h"
#include "libpq-fe.h"
#include "miscadmin.h"

#include "core/rejoin.h"
#include "core/store.h"
#include "core/takeover.h"

/* Whether the path, if there is one, is this server's data directory. */
static bool
is_our_directory(const char *path)
{
	struct stat theirs;
	struct stat ours;

	if (path == NULL)
		return true;
	return stat(path, &theirs) == 0 && stat(DataDir, &ours) == 0 &&
		theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

static bool
is_switchover(const RctlPromotion *promotion)
{
	return promotion->operation != 0 &&
		strcmp(rctl_map_get_default(promotion->arguments, "source_after", ""), "standby") == 0 &&
		rctl_map_get(promotion->scratch, RCTL_REJOIN_FACTS) != NULL;
}

static void
settle(const RctlPromotion *promotion)
{
	const char *name = promotion->self->name;
	const char *old_primary = rctl_map_get(promotion->scratch, RCTL_REJOIN_NAME);

	if (is_switchover(promotion))
	{
		rctl_store_take_over(promotion, old_primary, rctl_map_get(promotion->scratch, RCTL_REJOIN_FACTS));
		rctl_store_event(name, promotion->operation, "info", "promoted",
						 psprintf("Promoted read replica \"%s\" to primary in a switchover; the old primary is replica \"%s\" now",
								  name, old_primary),
						 NULL, promotion->requested_by);
	}
	else
	{
		rctl_store_stand_alone(promotion);
		rctl_store_event(name, promotion->operation, "info", "promoted",
						 psprintf("Promoted read replica \"%s\" to stand-alone primary", name),
						 NULL, promotion->requested_by);
	}
	ereport(LOG,
			(errmsg("this server is replica \"%s\", which was promoted%s", name,
					is_switchover(promotion) ? " in a switchover" : "")));
}

/* As what this server streamed when it was a standby; NULL: that is not known. */
static char *
own_application_name(void)
{
	PQconninfoOption *options;
	char	   *name = NULL;

	if (PrimaryConnInfo == NULL || PrimaryConnInfo[0] == '\0')
		return NULL;
	options = PQconninfoParse(PrimaryConnInfo, NULL);
	for (PQconninfoOption *option = options; option && option->keyword; option++)
	{
		if (strcmp(option->keyword, "application_name") == 0 && option->val)
			name = pstrdup(option->val);
	}
	PQconninfoFree(options);
	return name;
}

static void
take_over_cluster(void)
{
	char	   *cluster = rctl_store_managed_cluster();
	char	   *member;
	RctlReplica *former;

	if (cluster == NULL || rctl_store_adopt_cluster(cluster) == 0)
		return;
	ereport(LOG,
			(errmsg("this server is the primary of cluster \"%s\" now, and has its replicas", cluster)));
	member = rctl_store_own_member(cluster, own_application_name());
	former = member ? rctl_store_change_places(cluster, member) : NULL;
	if (former)
		rctl_store_event(former->name, 0, "warning", "leader",
						 psprintf("Member \"%s\" is the primary of cluster \"%s\" now; the former one is replica \"%s\"",
								  member, cluster, former->name),
						 NULL, NULL);
}

void
rctl_takeover(void)
{
	ListCell   *lc;

	take_over_cluster();
	if (PrimarySlotName == NULL || PrimarySlotName[0] == '\0')
		return;
	foreach(lc, rctl_store_promotions(PrimarySlotName))
	{
		const RctlPromotion *promotion = lfirst(lc);

		if (is_our_directory(rctl_map_get(promotion->self->facts, "data_directory")))
		{
			settle(promotion);
			return;
		}
	}
}
