/*-------------------------------------------------------------------------
 *
 * fence_hooks.c
 *	  The fence as every process meets it.
 *
 * What makes the fence safe is one thing only: the check at commit (pre-commit
 * and pre-prepare callbacks, COMMIT PREPARED).  All else is courtesy, so that
 * whoever cannot commit learns it early, or waits early:
 *
 *	- A statement that writes, and a utility command, waits before it starts
 *	  (fence_action = hold) or fails.  Only what runs inside a statement that
 *	  reads, and what was running already, gets as far as the commit.
 *	- What is neither runs in a transaction that is read-only for as long as
 *	  that statement takes.  It is set for each statement and taken back
 *	  after it, so that neither SET transaction_read_only = off nor a fence
 *	  that is lifted in mid-transaction leaves anything behind.
 *	- Functions that write (nextval, setval, lo_*, pg_notify) are met when an
 *	  expression with a call of them is made ready to run.
 *	- default_transaction_read_only is shown, and reported to clients, as on.
 *	  The variable itself is not touched: a transaction that starts while the
 *	  fence is up and goes on after it must not be read-only.
 *
 * "Has written" means: has an XID and has inserted WAL.  An XID alone
 * (txid_current()) changes nothing that a replica could lack; nor does WAL
 * that is inserted in reading, so a transaction that got its XID behind the
 * fence, for a temporary table, is looked at more closely (has_written()).
 * Two things change something without both: NOTIFY, whose XID is assigned
 * after the callback, and nextval() within a range that is in the WAL already;
 * they are noted when they are met.
 *
 * Who waits: sessions and background workers as fence_action says; autovacuum
 * and subscriptions' workers always, as nobody would read their errors.  Once
 * a replica was promoted, waiting is in vain: all but autovacuum, and those
 * workers of subscriptions that have nothing to commit, get an error.
 *
 * A held statement has a snapshot and maybe locks, an open transaction its
 * XID.  That is harmless while it lasts: no one else can commit a change that
 * makes dead rows, and whoever raises the fence waits for no lock and for no
 * transaction that is not in the act of committing.
 *
 * While there is no fence, a statement costs one comparison with a word in
 * shared memory, and a commit that wrote one more write and barrier.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_subscription.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "replication/logicalworker.h"
#include "replication/walsender.h"
#include "replication/worker_internal.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "primary/fence_internal.h"
#include "settings.h"

#define READ_ONLY_SETTING "default_transaction_read_only"

static ExecutorStart_hook_type previous_executor_start = NULL;
static ExecutorRun_hook_type previous_executor_run = NULL;
static ProcessUtility_hook_type previous_process_utility = NULL;
static object_access_hook_type previous_object_access = NULL;

/* The word, with the fence down, that this process has seen and acted on. */
static uint32 quiet_word = PG_UINT32_MAX;

/* Our own worker's bookkeeping: see rctl_fence_exempt(). */
static bool exempt = false;

/* This transaction's, until it ends. */
static bool marked = false;		/* my slot's committing mark is set */
static bool held = false;		/* my slot's held flag is set */
static bool notifies = false;	/* NOTIFY was met: its XID is assigned at
								 * commit */
static bool advances = false;	/* nextval() was met: it may need neither XID
								 * nor WAL */
static bool began_fenced = false;	/* all statements since it has an XID ran
									 * behind the fence */

/* See rctl_fence_begin_pass(). */
static bool passing = false;	/* what runs now writes the registry only */
static uint32 passed_word = PG_UINT32_MAX;	/* the word under which this
											 * transaction may commit */

/* XactReadOnly is forced by a statement that runs; what it is without that. */
static bool forced = false;
static bool wanted_read_only = false;

/* The plan that is being made ready is not going to be run. */
static bool explaining = false;

/* What the client has been told of the setting; -1: not yet anything. */
static int	told = -1;
static struct config_bool *read_only_setting = NULL;

/* ---- Messages ---- */

static int
fence_hint(const RctlFenceState *state)
{
	if (state->phase == RCTL_FENCE_PROMOTED && state->endpoint[0])
		return errhint("Connect to the new primary at %s.", state->endpoint);
	if (state->phase == RCTL_FENCE_PROMOTED)
		return errhint("Connect to the new primary.");
	if (state->operation != 0)
		return errhint("Try again when operation " INT64_FORMAT " has ended.", state->operation);
	return errhint("Try again when the fence was lifted with SELECT replica_unfence().");
}

static void
fence_error(const char *command)
{
	RctlFenceState state;

	rctl_fence_get(&state);
	if (state.phase == RCTL_FENCE_PROMOTED)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s: replica \"%s\" was promoted in place of this server",
						command, state.replica),
				 fence_hint(&state)));
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("cannot execute %s while this server is fenced", command),
			 state.reason[0] ?
			 errdetail("It has been fenced since %s: %s.", timestamptz_to_str(state.since), state.reason) :
			 errdetail("It has been fenced since %s.", timestamptz_to_str(state.since)),
			 fence_hint(&state)));
}

/* Tells why, where PostgreSQL itself finds that a transaction is read-only. */
static void
explain_read_only(void *arg)
{
	RctlFenceState state;

	if (geterrcode() != ERRCODE_READ_ONLY_SQL_TRANSACTION)
		return;
	rctl_fence_get(&state);
	if (state.phase != RCTL_FENCE_DOWN)
		fence_hint(&state);
}

/* ---- The setting that clients see ---- */

static const char *
show_read_only_setting(void)
{
	bool		fenced = rctl_fence_shared != NULL && !exempt && !am_walsender &&
	FENCE_PHASE(pg_atomic_read_u32(&rctl_fence_shared->word)) != RCTL_FENCE_DOWN;

	/*
	 * The first call in a session is the report of all settings to its
	 * client.
	 */
	if (told < 0)
		told = fenced;
	return fenced || DefaultXactReadOnly ? "on" : "off";
}

/*
 * Has the setting reported after this statement, if the client knows another
 * value: it is set to what it is already, from where it came, which does no
 * more than that.  False if that cannot be done here.
 */
static bool
tell_client(bool fenced)
{
	GucSource	source = read_only_setting->gen.source;

	if (whereToSendOutput != DestRemote || told == (int) fenced)
		return true;
	if (!IsTransactionState() || IsInParallelMode())
		return false;
	(void) set_config_option(READ_ONLY_SETTING, DefaultXactReadOnly ? "on" : "off",
							 PGC_USERSET, source,
							 source > PGC_S_OVERRIDE ? GUC_ACTION_LOCAL : GUC_ACTION_SET,
							 true, 0, false);
	told = fenced;
	return true;
}

/* ---- Does the fence stand in the way? ---- */

/* Nothing has changed since this process last found that there is no fence. */
static inline bool
out_of_sight(void)
{
	return likely(pg_atomic_read_u32(&rctl_fence_shared->word) == quiet_word && !forced);
}

/* Whether a write may not begin in this process now. */
static bool
stands(void)
{
	uint32		word = pg_atomic_read_u32(&rctl_fence_shared->word);
	RctlFencePhase phase = FENCE_PHASE(word);

	if (phase != RCTL_FENCE_DOWN && pg_atomic_read_u32(&rctl_fence_shared->unverified) &&
		!RecoveryInProgress())
	{
		rctl_fence_verify();
		word = pg_atomic_read_u32(&rctl_fence_shared->word);
		phase = FENCE_PHASE(word);
	}
	if (tell_client(phase != RCTL_FENCE_DOWN) && phase == RCTL_FENCE_DOWN)
		quiet_word = word;

	if (phase == RCTL_FENCE_DOWN || exempt || passing || IsParallelWorker())
		return false;
	return phase != RCTL_FENCE_DRAINING || !TransactionIdIsValid(GetTopTransactionIdIfAny());
}

static bool
is_apply_worker(void)
{
	return MyBackendType == B_BG_WORKER && IsLogicalWorker();
}

static bool
may_wait(RctlFencePhase phase, bool wrote)
{
	if (phase == RCTL_FENCE_DRAINING || MyBackendType == B_AUTOVAC_WORKER)
		return true;
	if (is_apply_worker())
		return phase == RCTL_FENCE_UP || !wrote;
	if (phase == RCTL_FENCE_PROMOTED)
		return false;

	/* The session that raised it would wait for itself. */
	return rctl_fence_action == RCTL_FENCE_ACTION_HOLD && rctl_fence_shared->state.pid != MyProcPid;
}

/*
 * When the wait has to end by itself.  lock_timeout holds as it does for a
 * lock.  At commit, statement_timeout's timer is off already.
 */
static TimestampTz
wait_until(bool *lock_timeout)
{
	TimestampTz until = DT_NOEND;

	*lock_timeout = false;
	if (MyBackendType != B_BACKEND)
		return until;
	if (StatementTimeout > 0)
		until = TimestampTzPlusMilliseconds(GetCurrentStatementStartTimestamp(), StatementTimeout);
	if (LockTimeout > 0)
	{
		TimestampTz lock_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LockTimeout);

		if (lock_until < until)
		{
			until = lock_until;
			*lock_timeout = true;
		}
	}
	return until;
}

static void
set_held(bool value)
{
	held = value;
	pg_atomic_write_u32(&rctl_fence_my_slot()->held, value);
}

/*
 * Returns when the fence is not in the way any more.  Raises an error if it
 * is there and waiting is not wanted or in vain, and on cancel and timeouts.
 */
static void
wait_for_fence(const char *command, bool at_commit, bool wrote)
{
	bool		lock_timeout;
	TimestampTz until = wait_until(&lock_timeout);

	ConditionVariablePrepareToSleep(&rctl_fence_shared->changed);
	for (;;)
	{
		RctlFencePhase phase = FENCE_PHASE(pg_atomic_read_u32(&rctl_fence_shared->word));
		long		left = -1;

		if (at_commit ? phase < RCTL_FENCE_UP : !stands())
			break;
		if (!may_wait(phase, wrote))
		{
			ConditionVariableCancelSleep();
			fence_error(command);
		}
		if (until != DT_NOEND)
			left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (left == 0)
		{
			ConditionVariableCancelSleep();
			ereport(ERROR,
					(errcode(lock_timeout ? ERRCODE_LOCK_NOT_AVAILABLE : ERRCODE_QUERY_CANCELED),
					 lock_timeout ? errmsg("canceling statement due to lock timeout") :
					 errmsg("canceling statement due to statement timeout"),
					 errdetail("It was waiting for this server's fence to be lifted.")));
		}
		if (!held)
			set_held(true);
		(void) ConditionVariableTimedSleep(&rctl_fence_shared->changed, left, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
	ConditionVariableCancelSleep();
	if (held)
		set_held(false);
}

/* Slots are handed on from process to process: what stands in ours must not outlive us. */
static void
clear_slot(int code, Datum arg)
{
	FenceSlot  *slot = rctl_fence_my_slot();

	pg_atomic_write_u32(&slot->exempt, 0);
	pg_atomic_write_u32(&slot->two_phase, 0);
	pg_atomic_write_u32(&slot->apply_worker, 0);
}

static void
cleanup_at_exit(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(clear_slot, (Datum) 0);
	registered = true;
}

/* ---- Commit ---- */

static void
set_mark(void)
{
	pg_atomic_write_u32(&rctl_fence_my_slot()->committing, 1);
	marked = true;

	/* Pairs with the barrier in set_phase_locked(). */
	pg_memory_barrier();
}

static void
clear_mark(void)
{
	/* The commit record is inserted before the mark is seen to be gone. */
	pg_write_barrier();
	pg_atomic_write_u32(&rctl_fence_my_slot()->committing, 0);
	marked = false;
	if (FENCE_PHASE(pg_atomic_read_u32(&rctl_fence_shared->word)) != RCTL_FENCE_DOWN)
		ConditionVariableBroadcast(&rctl_fence_shared->progress);
}

/*
 * Whether this transaction may commit, fence or not.  A session that ends
 * drops its temporary tables: it cannot be interrupted any more, and what it
 * changes is of no use to anybody.
 */
static bool
may_commit(void)
{
	return exempt || proc_exit_inprogress ||
		pg_atomic_read_u32(&rctl_fence_shared->word) == passed_word;
}

/*
 * What PostgreSQL locks later at the commit of a NOTIFY, so that notifications
 * are queued in the order of commits.  We take it before the mark: whoever has
 * it may be waiting for a synchronous standby that is dead.
 */
#define NOTIFY_LOCK DatabaseRelationId, InvalidOid, 0, AccessExclusiveLock

/*
 * Goes on with the mark set: what follows counts as before any fence that is
 * raised from now on, which waits for the transaction to end.
 */
static void
admit(const char *command)
{
	if (marked || may_commit())
		return;
	for (;;)
	{
		if (notifies)
			LockSharedObject(NOTIFY_LOCK);
		set_mark();
		if (FENCE_PHASE(pg_atomic_read_u32(&rctl_fence_shared->word)) < RCTL_FENCE_UP)
			return;
		clear_mark();
		if (notifies)
			UnlockSharedObject(NOTIFY_LOCK);
		wait_for_fence(command, true, true);
	}
}

/*
 * A subscription's worker ends its first transaction before it connects to
 * the publisher: behind the fence it waits there, also when it has nothing to
 * commit, and does not take the slot from the new primary's worker.  It says
 * who it is, so that one that is connected already can be stopped: a
 * subscription with two_phase gets COMMIT PREPARED from its publisher and
 * does it without passing any hook.
 */
static void
at_apply_worker_commit(bool wrote)
{
	FenceSlot  *slot = rctl_fence_my_slot();

	cleanup_at_exit();
	pg_atomic_write_u32(&slot->two_phase, MySubscription != NULL &&
						MySubscription->twophasestate != LOGICALREP_TWOPHASE_STATE_DISABLED);
	pg_atomic_write_u32(&slot->apply_worker, MyProcPid);

	/* Either the one that raises a fence sees this, or we see the fence. */
	pg_memory_barrier();
	if (!wrote && rctl_fence_is_up())
		wait_for_fence("COMMIT", true, false);
}

/* Whether this transaction holds a lock that is taken to write, on more than temporary tables. */
static bool
has_locked_to_write(void)
{
	const LOCKMASK reading = LOCKBIT_ON(AccessShareLock);
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *lock = &locks->locks[i];

		if (lock->pid == MyProcPid && lock->locktag.locktag_type == LOCKTAG_RELATION &&
			(lock->holdMask & ~reading) != 0 &&
			get_rel_persistence(lock->locktag.locktag_field2) != RELPERSISTENCE_TEMP)
			return true;
	}
	return false;
}

static bool
has_changed_catalogs(void)
{
	SharedInvalidationMessage *messages;
	bool		init_file;

	return xactGetCommittedInvalidationMessages(&messages, &init_file) > 0;
}

static bool
has_written(void)
{
	if (notifies || advances)
		return true;
	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()) || XLogRecPtrIsInvalid(XactLastRecEnd))
		return false;

	/*
	 * Reading inserts WAL too, when it cleans up a page or sets hint bits.
	 * Behind the fence only C code that ignores that its transaction is
	 * read-only could have written more than that.
	 */
	return !began_fenced || has_locked_to_write() || has_changed_catalogs();
}

static void
at_transaction_end(void)
{
	notifies = false;
	advances = false;
	began_fenced = false;
	forced = false;
	passing = false;
	passed_word = PG_UINT32_MAX;
	if (marked)
		clear_mark();
	if (held)
		set_held(false);
}

/*
 * Ours was registered first and so is called last of all pre-commit
 * callbacks: what another one writes is covered.  Parallel workers insert no
 * commit record; their leader does.
 */
static void
on_transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			{
				bool		wrote = has_written();

				if (is_apply_worker())
					at_apply_worker_commit(wrote);
				if (wrote)
					admit("COMMIT");
			}
			break;
		case XACT_EVENT_PRE_PREPARE:
			/* It may be assigned its XID only after this. */
			admit("PREPARE TRANSACTION");
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			at_transaction_end();
			break;
		default:
			break;
	}
}

/*
 * For COMMIT and PREPARE TRANSACTION while there is a fence: called first of
 * all pre-commit callbacks, before a foreign-data wrapper commits on the
 * remote side what is going to be stopped here.  The other callback has the
 * last word.
 */
static void
on_commit_first(XactEvent event, void *arg)
{
	if ((event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE) &&
		rctl_fence_is_up() && !may_commit() && has_written())
		wait_for_fence("COMMIT", true, true);
}

static void
be_first_at_commit(void)
{
	UnregisterXactCallback(on_commit_first, NULL);
	RegisterXactCallback(on_commit_first, NULL);
}

void
rctl_fence_exempt(bool value)
{
	if (MyBgworkerEntry == NULL)
		elog(ERROR, "only background workers can be exempt from the fence");
	cleanup_at_exit();
	exempt = value;
	pg_atomic_write_u32(&rctl_fence_my_slot()->exempt, value);
}

void
rctl_fence_begin_pass(void)
{
	uint32		word = pg_atomic_read_u32(&rctl_fence_shared->word);

	if (FENCE_PHASE(word) == RCTL_FENCE_DOWN)
		return;
	if (passed_word != word &&
		(TransactionIdIsValid(GetTopTransactionIdIfAny()) || notifies || advances))
		return;
	passed_word = word;
	passing = true;
}

void
rctl_fence_end_pass(void)
{
	passing = false;
}

/* An error that is caught in the transaction must not leave the pass behind. */
static void
on_subtransaction_event(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		passing = false;
}

/* ---- Statements ---- */

typedef struct ReadOnlyScope
{
	bool		saved;
	bool		outermost;
	ErrorContextCallback context;
} ReadOnlyScope;

/*
 * First thing in PG_TRY, which also takes the context off the stack; to be
 * left in PG_FINALLY, as an error that is caught further out must find it
 * undone.
 */
static void
enter_scope(ReadOnlyScope *scope)
{
	scope->saved = XactReadOnly;
	scope->outermost = !forced;
	if (scope->outermost)
	{
		wanted_read_only = XactReadOnly;
		forced = true;
	}

	/*
	 * The fence can have been lifted since the statement around this one
	 * began.
	 */
	XactReadOnly = stands() ? true : wanted_read_only;
	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		began_fenced = stands();

	scope->context.callback = explain_read_only;
	scope->context.arg = NULL;
	scope->context.previous = error_context_stack;
	error_context_stack = &scope->context;
}

static void
leave_scope(ReadOnlyScope *scope)
{
	XactReadOnly = scope->saved;
	if (scope->outermost)
		forced = false;
}

/* As PostgreSQL decides what a read-only transaction may not execute. */
static bool
plan_writes(const PlannedStmt *plan)
{
	ListCell   *cell;

	foreach(cell, rctl_plan_permissions(plan))
	{
		Oid			relation = rctl_permission_to_write((Node *) lfirst(cell));

		if (OidIsValid(relation) && !isTempNamespace(get_rel_namespace(relation)))
			return true;
	}
	return false;
}

static void
stop_if_writing(const PlannedStmt *plan)
{
	if (plan_writes(plan) && stands())
		wait_for_fence(CreateCommandName((Node *) plan), false, true);
}

static void
start_executor(QueryDesc *query, int eflags)
{
	ReadOnlyScope scope;

	if (out_of_sight())
	{
		previous_executor_start(query, eflags);
		return;
	}
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		stop_if_writing(query->plannedstmt);
	PG_TRY();
	{
		enter_scope(&scope);
		explaining = (eflags & EXEC_FLAG_EXPLAIN_ONLY) != 0;
		previous_executor_start(query, eflags);
	}
	PG_FINALLY();
	{
		explaining = false;
		leave_scope(&scope);
	}
	PG_END_TRY();
}

/* A statement can have been started before the fence went up: a prepared or planned one, a cursor. */
static void
run_executor(RCTL_EXECUTOR_RUN_PARAMETERS)
{
	ReadOnlyScope scope;

	if (out_of_sight())
	{
		previous_executor_run(RCTL_EXECUTOR_RUN_ARGUMENTS);
		return;
	}
	stop_if_writing(query->plannedstmt);
	PG_TRY();
	{
		enter_scope(&scope);
		previous_executor_run(RCTL_EXECUTOR_RUN_ARGUMENTS);
	}
	PG_FINALLY();
	{
		leave_scope(&scope);
	}
	PG_END_TRY();
}

/* ---- Functions that write ---- */

/* The name for messages, NULL if it does not write. */
static const char *
writing_function(Oid function)
{
	switch (function)
	{
		case F_NEXTVAL:
			return "nextval()";
		case F_SETVAL_REGCLASS_INT8:
		case F_SETVAL_REGCLASS_INT8_BOOL:
			return "setval()";
		case F_PG_NOTIFY:
			return "pg_notify()";
		case F_LO_CREAT:
		case F_LO_CREATE:
		case F_LO_FROM_BYTEA:
		case F_LO_IMPORT_TEXT:
		case F_LO_IMPORT_TEXT_OID:
		case F_LO_PUT:
		case F_LO_TRUNCATE:
		case F_LO_TRUNCATE64:
		case F_LO_UNLINK:
		case F_LOWRITE:
			return "functions that write large objects";
		default:
			return NULL;
	}
}

static bool
has_temporary_objects(void)
{
	Oid			schema;
	Oid			toast_schema;

	GetTempNamespaceState(&schema, &toast_schema);
	return OidIsValid(schema);
}

static void
before_function(Oid function, const char *name)
{
	if (explaining)
		return;
	if (!out_of_sight() && stands())
	{
		/*
		 * The sequence may be a temporary one.  PostgreSQL will look, if the
		 * transaction is read-only; if not, the commit has to.
		 */
		if (function == F_NEXTVAL && has_temporary_objects())
		{
			if (!XactReadOnly)
				advances = true;
			return;
		}
		wait_for_fence(name, false, true);
	}
	if (function == F_NEXTVAL)
		advances = true;
	if (function == F_PG_NOTIFY)
		notifies = true;
}

static void
on_object_access(ObjectAccessType access, Oid class, Oid object, int subobject, void *arg)
{
	const char *name;

	if (previous_object_access)
		previous_object_access(access, class, object, subobject, arg);
	if (access == OAT_FUNCTION_EXECUTE && (name = writing_function(object)) != NULL)
		before_function(object, name);
}

/* ---- Utility commands ---- */

typedef enum UtilityEffect
{
	UTILITY_WRITES,
	UTILITY_WRITES_FILES,		/* and could not be undone at commit */
	UTILITY_ENDS_PREPARED,		/* commits or aborts another transaction */
	UTILITY_NOTIFIES,
	UTILITY_COPIES_IN,			/* writes, if not to a temporary table */
	UTILITY_READS,
	UTILITY_CONTROLS,			/* other statements, or what a transaction is;
								 * harmless by itself */
} UtilityEffect;

/*
 * What is not known to be harmless writes.  Unlike PostgreSQL for read-only
 * transactions, this counts VACUUM, CLUSTER, REINDEX and NOTIFY as writes:
 * they need an XID to commit.
 */
static UtilityEffect
utility_effect(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_TransactionStmt:
			{
				TransactionStmtKind kind = castNode(TransactionStmt, statement)->kind;

				return kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED ?
					UTILITY_ENDS_PREPARED : UTILITY_CONTROLS;
			}
		case T_CallStmt:
		case T_DoStmt:
		case T_ExecuteStmt:
		case T_LockStmt:
		case T_VariableSetStmt:
			return UTILITY_CONTROLS;
		case T_AlterSystemStmt:
		case T_CheckPointStmt:
		case T_ClosePortalStmt:
		case T_ConstraintsSetStmt:
		case T_DeallocateStmt:
		case T_DeclareCursorStmt:
		case T_DiscardStmt:
		case T_ExplainStmt:
		case T_FetchStmt:
		case T_ListenStmt:
		case T_LoadStmt:
		case T_PrepareStmt:
		case T_UnlistenStmt:
		case T_VariableShowStmt:
			return UTILITY_READS;
		case T_CopyStmt:
			return castNode(CopyStmt, statement)->is_from ? UTILITY_COPIES_IN : UTILITY_READS;
		case T_NotifyStmt:
			return UTILITY_NOTIFIES;
		case T_AlterDatabaseStmt:
		case T_DropdbStmt:
		case T_DropTableSpaceStmt:
			return UTILITY_WRITES_FILES;
		default:
			return UTILITY_WRITES;
	}
}

static bool
copies_into_temporary(CopyStmt *copy)
{
	Oid			relation = RangeVarGetRelid(copy->relation, NoLock, true);

	return OidIsValid(relation) && get_rel_persistence(relation) == RELPERSISTENCE_TEMP;
}

/* Before the command runs; whether it has to run in a read-only transaction. */
static bool
before_utility(Node *statement)
{
	UtilityEffect effect = utility_effect(statement);
	bool		in_sight = !out_of_sight();

	if (effect == UTILITY_COPIES_IN && in_sight)
		effect = copies_into_temporary(castNode(CopyStmt, statement)) ? UTILITY_READS : UTILITY_WRITES;
	if (effect < UTILITY_READS && effect != UTILITY_ENDS_PREPARED && in_sight && stands())
		wait_for_fence(CreateCommandName(statement), false, true);
	if (effect == UTILITY_WRITES_FILES || effect == UTILITY_ENDS_PREPARED)
		admit(CreateCommandName(statement));
	if (effect == UTILITY_NOTIFIES)
		notifies = true;
	if (in_sight && IsA(statement, TransactionStmt))
		be_first_at_commit();
	return effect == UTILITY_READS && in_sight;
}

static void
process_utility(PlannedStmt *statement, const char *source, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
				DestReceiver *receiver, QueryCompletion *completion)
{
	ReadOnlyScope scope;

	if (!before_utility(statement->utilityStmt))
	{
		previous_process_utility(statement, source, read_only_tree, context, params, environment, receiver, completion);
		return;
	}
	PG_TRY();
	{
		enter_scope(&scope);
		previous_process_utility(statement, source, read_only_tree, context, params, environment, receiver, completion);
	}
	PG_FINALLY();
	{
		leave_scope(&scope);
	}
	PG_END_TRY();
}

void
rctl_fence_install_hooks(void)
{
	read_only_setting = rctl_find_bool_setting(READ_ONLY_SETTING);
	read_only_setting->show_hook = show_read_only_setting;

	previous_executor_start = ExecutorStart_hook ? ExecutorStart_hook : standard_ExecutorStart;
	ExecutorStart_hook = start_executor;
	previous_executor_run = ExecutorRun_hook ? ExecutorRun_hook : standard_ExecutorRun;
	ExecutorRun_hook = run_executor;
	previous_process_utility = ProcessUtility_hook ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = process_utility;
	previous_object_access = object_access_hook;
	object_access_hook = on_object_access;
	RegisterXactCallback(on_transaction_event, NULL);
	RegisterSubXactCallback(on_subtransaction_event, NULL);
}
