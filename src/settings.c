/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  Every setting of this extension (prefix replica_ctl.), alphabetical.
 *
 * The documentation of each is docs/settings.md, in the same order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "settings.h"

char	   *rctl_database = NULL;
int			rctl_disk_reserve = 1024;
int			rctl_fence_action = RCTL_FENCE_ACTION_HOLD;
int			rctl_history_size = 3600;
char	   *rctl_local_directory = NULL;
int			rctl_max_operations = 4;
int			rctl_max_replicas = 200;
int			rctl_progress_timeout = 300000;
char	   *rctl_restart_command = NULL;
int			rctl_retention = 30 * SECS_PER_DAY;
int			rctl_sample_interval = 1000;
int			rctl_slot_action = RCTL_SLOT_ACTION_WARN;
int			rctl_slot_inactive_limit = 86400;
char	   *rctl_slot_priority = NULL;
int			rctl_slot_scope = RCTL_SLOT_SCOPE_OWNED;
int			rctl_slot_wal_limit = 0;
int			rctl_step_retries = 5;
char	   *rctl_webhook_ca_file = NULL;
char	   *rctl_webhook_secret_file = NULL;
char	   *rctl_webhook_url = NULL;

#ifdef RCTL_TEST
char	   *rctl_test_fault = NULL;
int			rctl_test_rounds = 0;
#endif

static const struct config_enum_entry fence_actions[] = {
	{"hold", RCTL_FENCE_ACTION_HOLD, false},
	{"error", RCTL_FENCE_ACTION_ERROR, false},
	{NULL, 0, false}
};

static const struct config_enum_entry slot_actions[] = {
	{"warn", RCTL_SLOT_ACTION_WARN, false},
	{"drop", RCTL_SLOT_ACTION_DROP, false},
	{NULL, 0, false}
};

static const struct config_enum_entry slot_scopes[] = {
	{"owned", RCTL_SLOT_SCOPE_OWNED, false},
	{"physical", RCTL_SLOT_SCOPE_PHYSICAL, false},
	{NULL, 0, false}
};

/* replica_ctl.slot_priority, read. */
typedef struct Priorities
{
	int			count;
	struct
	{
		char		name[NAMEDATALEN];
		RctlSlotPriority priority;
	}			entries[FLEXIBLE_ARRAY_MEMBER];
} Priorities;

static const Priorities *priorities = NULL;

static const char *const priority_names[] = {
	[RCTL_SLOT_PRIORITY_FIRST] = "first",
	[RCTL_SLOT_PRIORITY_NORMAL] = "normal",
	[RCTL_SLOT_PRIORITY_LAST] = "last",
	[RCTL_SLOT_PRIORITY_NEVER] = "never",
};

/* "" or an absolute path. */
static bool
check_local_directory(char **newval, void **extra, GucSource source)
{
	if (**newval != '\0' && !is_absolute_path(*newval))
	{
		GUC_check_errdetail("\"%s\" is not an absolute path.", *newval);
		return false;
	}
	return true;
}

/* "" (pg_ctl), or a program by an absolute path, with arguments. */
static bool
check_restart_command(char **newval, void **extra, GucSource source)
{
	if (**newval != '\0' && !is_absolute_path(*newval))
	{
		GUC_check_errdetail("\"%s\" does not begin with an absolute path.", *newval);
		return false;
	}
	if (strpbrk(*newval, "\n\r") != NULL)
	{
		GUC_check_errdetail("It has more than one line.");
		return false;
	}
	return true;
}

/* Reads "name=priority" into an entry; names may have a "=". */
static bool
read_priority(char *item, Priorities *into)
{
	char	   *equals = strrchr(item, '=');

	if (equals == NULL || equals == item)
	{
		GUC_check_errdetail("\"%s\" is not of the form name=priority.", item);
		return false;
	}
	*equals = '\0';
	if (strlen(item) >= NAMEDATALEN)
	{
		GUC_check_errdetail("The name \"%s\" is too long.", item);
		return false;
	}
	for (int i = 0; i < lengthof(priority_names); i++)
	{
		if (pg_strcasecmp(equals + 1, priority_names[i]) != 0)
			continue;
		strlcpy(into->entries[into->count].name, item, NAMEDATALEN);
		into->entries[into->count++].priority = i;
		return true;
	}
	GUC_check_errdetail("\"%s\" is not a priority.", equals + 1);
	GUC_check_errhint("Available priorities: first, normal, last, never.");
	return false;
}

/* A list of name=priority. */
static bool
check_slot_priority(char **newval, void **extra, GucSource source)
{
	char	   *raw = pstrdup(*newval);
	List	   *items;
	ListCell   *lc;
	Priorities *parsed = NULL;
	bool		good = SplitGUCList(raw, ',', &items);

	if (!good)
		GUC_check_errdetail("List syntax is invalid.");
	else
	{
		parsed = rctl_guc_malloc(offsetof(Priorities, entries) + sizeof(parsed->entries[0]) * list_length(items));
		good = parsed != NULL;
	}
	if (good)
	{
		parsed->count = 0;
		foreach(lc, items)
			good = good && read_priority(lfirst(lc), parsed);
	}
	if (good)
		*extra = parsed;
	else if (parsed)
		rctl_guc_free(parsed);
	list_free(items);
	pfree(raw);
	return good;
}

static void
assign_slot_priority(const char *newval, void *extra)
{
	priorities = extra;
}

RctlSlotPriority
rctl_slot_priority_of(const char *slot, const char *replica)
{
	for (int i = 0; priorities && i < priorities->count; i++)
	{
		const char *name = priorities->entries[i].name;

		if (strcmp(name, slot) == 0 || (replica && strcmp(name, replica) == 0))
			return priorities->entries[i].priority;
	}
	return RCTL_SLOT_PRIORITY_NORMAL;
}

/* "" or a URL; whether it may be plain http is seen when it is used. */
static bool
check_webhook_url(char **newval, void **extra, GucSource source)
{
	if (**newval != '\0' && strncmp(*newval, "https://", 8) != 0 && strncmp(*newval, "http://", 7) != 0)
	{
		GUC_check_errdetail("It does not begin with \"https://\".");
		return false;
	}
	return true;
}

void
rctl_settings_define(void)
{
	DefineCustomStringVariable("replica_ctl.database",
							   "Database in which the extension is created and its workers run.",
							   NULL, &rctl_database, "postgres",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.disk_reserve",
							"Space in the file system of pg_wal that slots shall leave free.",
							"A slot that keeps the oldest WAL is judged critical when less is free. 0 turns this off.",
							&rctl_disk_reserve, 1024, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomEnumVariable("replica_ctl.fence_action",
							 "What becomes of a write while this server is fenced.",
							 "With \"hold\" it waits until the fence is lifted, with \"error\" it fails at once.",
							 &rctl_fence_action, RCTL_FENCE_ACTION_HOLD, fence_actions,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.history_size",
							"Samples that are kept in memory.",
							NULL, &rctl_history_size, 3600, 10, 86400,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("replica_ctl.local_directory",
							   "Directory under which local replicas are made.",
							   "Empty means the data directory's path with \"_replicas\" appended.",
							   &rctl_local_directory, "",
							   PGC_SIGHUP, 0, check_local_directory, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.max_operations",
							"Operations that are worked on at the same time.",
							"Each takes one of max_worker_processes.",
							&rctl_max_operations, 4, 1, 64,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.max_replicas",
							"Replicas that are monitored.",
							NULL, &rctl_max_replicas, 200, 1, 1000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.progress_timeout",
							"Time without any progress after which a step fails.",
							"A step that makes progress may take as long as it needs. 0 turns this off.",
							&rctl_progress_timeout, 300000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("replica_ctl.restart_command",
							   "Program that starts this server again as a standby after a switchover.",
							   "A path and arguments, separated by spaces; no shell. Empty means pg_ctl.",
							   &rctl_restart_command, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_restart_command, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.retention",
							"Time for which ended operations and events are kept.",
							"0 keeps them for ever.",
							&rctl_retention, 30 * SECS_PER_DAY, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.sample_interval",
							"Time between two samples of this server and its replicas.",
							NULL, &rctl_sample_interval, 1000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable("replica_ctl.slot_action",
							 "What becomes of a replication slot that breaks a limit.",
							 "With \"warn\" an event says so, with \"drop\" the slot is dropped then.",
							 &rctl_slot_action, RCTL_SLOT_ACTION_WARN, slot_actions,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.slot_inactive_limit",
							"Time after which a replication slot that nobody uses is judged.",
							"0 turns this off.",
							&rctl_slot_inactive_limit, 86400, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("replica_ctl.slot_priority",
							   "Which replication slots are sacrificed first when the disk gets full, and which never.",
							   "A list of name=priority, of replicas or slots; first, normal, last or never.",
							   &rctl_slot_priority, "",
							   PGC_SIGHUP, GUC_LIST_INPUT, check_slot_priority, assign_slot_priority, NULL);
	DefineCustomEnumVariable("replica_ctl.slot_scope",
							 "Which replication slots may be dropped.",
							 "Those of replicas, or all physical ones.",
							 &rctl_slot_scope, RCTL_SLOT_SCOPE_OWNED, slot_scopes,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.slot_wal_limit",
							"WAL that a replication slot may keep.",
							"0 means no limit.",
							&rctl_slot_wal_limit, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.step_retries",
							"Further attempts at a step after an error that may pass.",
							NULL, &rctl_step_retries, 5, 0, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("replica_ctl.webhook_ca_file",
							   "Certificate authorities that the webhook's certificate is verified by.",
							   "Empty means those of the system.",
							   &rctl_webhook_ca_file, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_local_directory, NULL, NULL);
	DefineCustomStringVariable("replica_ctl.webhook_secret_file",
							   "File with the secret by which events for the webhook are signed.",
							   "Empty means that they are not signed.",
							   &rctl_webhook_secret_file, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_local_directory, NULL, NULL);
	DefineCustomStringVariable("replica_ctl.webhook_url",
							   "URL that events are sent to as JSON.",
							   "Empty turns this off.",
							   &rctl_webhook_url, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_webhook_url, NULL, NULL);

#ifdef RCTL_TEST
	DefineCustomStringVariable("replica_ctl.test_fault",
							   "Faults to inject into steps.",
							   NULL, &rctl_test_fault, "",
							   PGC_SIGHUP, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomIntVariable("replica_ctl.test_rounds",
							"Rounds that the launcher makes without a pause, saying how its memory grew.",
							NULL, &rctl_test_rounds, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
#endif

	MarkGUCPrefixReserved("replica_ctl");
}
