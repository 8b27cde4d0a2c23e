/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  Every setting of this extension (prefix replica_ctl.), alphabetical.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_SETTINGS_H
#define REPLICA_CTL_SETTINGS_H

typedef enum RctlFenceAction
{
	RCTL_FENCE_ACTION_HOLD,
	RCTL_FENCE_ACTION_ERROR,
} RctlFenceAction;

typedef enum RctlSlotAction
{
	RCTL_SLOT_ACTION_WARN,
	RCTL_SLOT_ACTION_DROP,
} RctlSlotAction;

typedef enum RctlSlotScope
{
	RCTL_SLOT_SCOPE_OWNED,
	RCTL_SLOT_SCOPE_PHYSICAL,
} RctlSlotScope;

/* When a slot is dropped for the sake of the disk: first ones early, last ones late. */
typedef enum RctlSlotPriority
{
	RCTL_SLOT_PRIORITY_FIRST,
	RCTL_SLOT_PRIORITY_NORMAL,
	RCTL_SLOT_PRIORITY_LAST,
	RCTL_SLOT_PRIORITY_NEVER,
} RctlSlotPriority;

extern char *rctl_database;		/* control database; never NULL */
extern int	rctl_disk_reserve;	/* MB, 0 = none */
extern int	rctl_fence_action;	/* RctlFenceAction */
extern int	rctl_history_size;	/* samples */
extern char *rctl_local_directory;	/* "" = <data_directory>_replicas */
extern int	rctl_max_operations;
extern int	rctl_max_replicas;	/* that are monitored */
extern int	rctl_progress_timeout;	/* ms, 0 = none */
extern char *rctl_restart_command;	/* "" = pg_ctl */
extern int	rctl_retention;		/* s, 0 = for ever */
extern int	rctl_sample_interval;	/* ms */
extern int	rctl_slot_action;	/* RctlSlotAction */
extern int	rctl_slot_inactive_limit;	/* s, 0 = none */
extern char *rctl_slot_priority;	/* see rctl_slot_priority_of() */
extern int	rctl_slot_scope;	/* RctlSlotScope */
extern int	rctl_slot_wal_limit;	/* MB, 0 = none */
extern int	rctl_step_retries;	/* attempts after the first */
extern char *rctl_webhook_ca_file;	/* "" = the system's authorities */
extern char *rctl_webhook_secret_file;	/* "" = not signed */
extern char *rctl_webhook_url;	/* "" = none */

#ifdef RCTL_TEST
extern char *rctl_test_fault;	/* see core/fault.h */
extern int	rctl_test_rounds;	/* of the launcher, without a pause */
#endif

/* What replica_ctl.slot_priority says of a slot, by its name or its replica's (NULL: none). */
extern RctlSlotPriority rctl_slot_priority_of(const char *slot, const char *replica);

/* Defines all settings and reserves the prefix.  Call from _PG_init only. */
extern void rctl_settings_define(void);

#endif							/* REPLICA_CTL_SETTINGS_H */
