/*-------------------------------------------------------------------------
 *
 * standby_repair.c
 *	  Bring a physical standby back: its slot, its server, its login to the
 *	  source; and if nothing of that helps a new copy in its place.
 *
 * "clone" in the operation's state is the reason why a new copy is needed;
 * while it is absent, the steps that make one do nothing.  If "resync" is
 * there too, the old copy is made equal again in its place
 * (standby_resync.c).  Else the old directory is moved aside until the new
 * replica streams, and moved back by an undo.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "net/pgconn.h"
#include "net/wait.h"
#include "provider/clone.h"

#define PROBE_MS 200
#define PROBE_FIRST_MS 20

/*
 * How long a replica that runs may take to stream before what seems to keep
 * it from that counts: until it asks for WAL, it may find it by itself.
 */
#define PROBE_PATIENCE_MS 1000
#define PROBE_DEADLINE_MS 60000

static bool
is_true(const RctlMap *map, const char *key)
{
	return strcmp(rctl_map_get_default(map, key, "false"), "true") == 0;
}

static bool
cloning(RctlOp *op)
{
	return rctl_map_get(op->state, "clone") != NULL;
}

/* Decides for a new copy. */
static void
need_clone(RctlOp *op, const char *reason)
{
	if (is_true(op->replica->facts, "adopted"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" needs a new copy, and it was not made here", op->replica->name),
				 errdetail("%s", reason),
				 errhint("Forget it with SELECT replica_detach(%s) and make a new one with replica_create().",
						 quote_literal_cstr(op->replica->name))));
	rctl_map_set(op->state, "clone", reason);
	rctl_op_event(op, "warning", "repair_clone", NULL,
				  "Replica \"%s\" needs a new copy: %s", op->replica->name, reason);
}

/* ---------------------------------------------------------------------
 * What is wrong
 * ---------------------------------------------------------------------
 */

void
rctl_standby_repair_examine(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlMap    *facts = op->replica->facts;
	const char *directory = rctl_map_get(facts, "data_directory");
	RctlSource *source = rctl_source(op, host);
	RctlSlot	slot;

	rctl_op_progress(op, "examining", 0, 0);
	if (rctl_map_get(facts, "slot") == NULL && rctl_map_get(facts, "application_name") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was never made", op->replica->name),
				 errhint("Create it again with replica_create().")));
	if (rctl_standby_was_promoted(op, host))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" was promoted and is a server of its own", op->replica->name),
				 errhint("Forget it with SELECT replica_detach(%s).", quote_literal_cstr(op->replica->name))));
	if (!is_true(facts, "adopted"))
		rctl_source_find_login(source);
	if (rctl_map_get(facts, "slot") == NULL)
		rctl_map_set(facts, "slot", rctl_standby_slot_name(op->replica));
	if (cloning(op))
		return;
	rctl_rewind_end(op, host, false);
	if (rctl_resync_unfinished(op->replica, host))
		need_clone(op, "It was being made equal to its source, and that was not finished.");
	else if (directory && !rctl_standby_marked(op, host, directory, false) && !is_true(facts, "adopted"))
		need_clone(op, psprintf("The directory \"%s\" is gone or not its own.", directory));
	else if (rctl_source_slot(source, rctl_map_get(facts, "slot"), &slot) && slot.lost)
		need_clone(op, "Its slot has lost WAL that it needs.");
}

/* Makes the slot if it is missing; one that has lost its WAL is made anew for a new copy. */
void
rctl_standby_repair_slot(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	const char *name = rctl_map_get(op->replica->facts, "slot");
	RctlSource *source = rctl_source(op, host);
	RctlMap    *object;
	RctlSlot	slot;

	if (rctl_source_slot(source, name, &slot))
	{
		if (slot.reserved && !slot.lost)
			return;
		rctl_source_drop_slot(source, name);
	}
	object = rctl_map_make();
	rctl_map_set(object, "name", name);
	rctl_map_set(object, "upstream", rctl_map_get(op->replica->facts, "upstream"));
	rctl_op_cleanup_add(op, "slot", object, false);
	rctl_source_create_slot(source, name);
	rctl_op_event(op, "info", "repair_slot", NULL, "Made replication slot \"%s\" again", name);
}

void
rctl_standby_repair_start(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	const RctlMap *facts = op->replica->facts;
	const char *directory = rctl_map_get(facts, "data_directory");
	RctlProcessResult *result;
	char	   *warning;

	if (cloning(op) || directory == NULL || host->server_pid(host, directory) != 0)
		return;
	rctl_op_progress(op, "starting", 0, 0);
	result = host->start_server(host, directory, is_true(facts, "adopted") ? "replica_ctl.log" : RCTL_LOG_FILE,
								rctl_map_get(facts, "config_file"), NULL, NULL, &warning);
	if (result == NULL)
	{
		rctl_op_event(op, "info", "repair_start", NULL, "Started replica \"%s\" again", op->replica->name);
		if (warning)
			rctl_op_event(op, "warning", "not_a_daemon", NULL,
						  "Replica \"%s\" is not a daemon of its own. %s", op->replica->name, warning);
	}
	else
		need_clone(op, psprintf("It does not start. Last lines of its log: %s",
								rctl_standby_log_tail(host, directory)));
}

/* Whether the replica has WAL of a timeline; also if that cannot be told. */
static bool
has_timeline(PGconn *conn, const char *timeline)
{
	char	   *may = rctl_pg_value(conn, RCTL_STATEMENT_TIMEOUT,
									"SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE')", 0, NULL);
	RctlRows   *rows;

	if (may == NULL || may[0] != 't')
		return true;
	rows = rctl_conn_rows(conn,
						  "SELECT EXISTS (SELECT FROM pg_catalog.pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"
						  " AND ('x' || substr(name, 1, 8))::bit(32)::int = $1::int)", 1, &timeline);
	return rctl_cell(rows, 0, 0)[0] == 't';
}

/*
 * This server has been promoted, on another timeline than the replica's; NULL
 * if the replica can follow: it was not past the place where ours begins.
 */
static char *
left_behind(RctlOp *op, PGconn *conn, const char *lsn, const char *timeline, const char *own_timeline)
{
	const char *file = psprintf("pg_wal/%08X.history", (unsigned) strtoul(own_timeline, NULL, 10));
	char	   *history = rctl_own_value(op, "SELECT pg_catalog.pg_read_file($1, 0, 1048576, true)", 1, &file);
	uint32		high;
	uint32		low;
	XLogRecPtr	at;
	char	   *line;

	if (history == NULL || sscanf(lsn, "%X/%X", &high, &low) != 2 || has_timeline(conn, own_timeline))
		return NULL;
	at = ((uint64) high) << 32 | low;
	while ((line = strsep(&history, "\n")) != NULL)
	{
		uint32		parent;

		if (sscanf(line, "%u %X/%X", &parent, &high, &low) != 3 || parent != strtoul(timeline, NULL, 10))
			continue;
		if (at <= (((uint64) high) << 32 | low))
			return NULL;
		return psprintf("It is at %s on timeline %s, which this server has left at %X/%X: they have diverged.",
						lsn, timeline, high, low);
	}
	return psprintf("It is on timeline %s, which is not in this server's history.", timeline);
}

/*
 * Why a replica that runs can never stream again; NULL if there is no such
 * reason.  Its next WAL must still be here, on a timeline that we share.
 * asked: it has used up the WAL that it has, and has asked for more.
 */
static char *
hopeless(RctlOp *op, RctlSource *source, PGconn *conn, bool *asked)
{
	RctlRows   *rows = rctl_conn_rows(conn,
									  "SELECT greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()),"
									  " (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),"
									  " pg_catalog.pg_last_wal_receive_lsn() IS NOT NULL"
									  " AND current_setting('restore_command') = ''", 0, NULL);
	const char *args[] = {rctl_cell(rows, 0, 0), rctl_cell(rows, 0, 1)};

	*asked = rctl_cell(rows, 0, 2)[0] == 't';
	if (args[0] == NULL || source->upstream)
		return NULL;
	rows = rctl_own_rows(op,
						 "SELECT $2::int > tli, $2::int = tli AND $1::pg_lsn > pg_catalog.pg_current_wal_flush_lsn(),"
						 " NOT EXISTS (SELECT FROM pg_catalog.pg_ls_waldir() w"
						 "  WHERE substr(w.name, 9) = substr(pg_catalog.pg_walfile_name($1::pg_lsn), 9))"
						 "  AND EXISTS (SELECT FROM pg_catalog.pg_ls_waldir() w"
						 "  WHERE w.name ~ '^[0-9A-F]{24}$'"
						 "  AND substr(w.name, 9) > substr(pg_catalog.pg_walfile_name($1::pg_lsn), 9)"
						 "  AND pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) >= w.name),"
						 " tli, $2::int < tli"
						 " FROM (SELECT ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int AS tli) t",
						 2, args);
	if (rctl_cell(rows, 0, 0)[0] == 't')
		return psprintf("It is on timeline %s, which this server does not have.", args[1]);
	if (rctl_cell(rows, 0, 1)[0] == 't')
		return psprintf("It is at %s, ahead of this server: they have diverged.", args[0]);
	if (rctl_cell(rows, 0, 2)[0] == 't')
		return psprintf("The WAL that it needs, from %s on, is gone.", args[0]);
	if (rctl_cell(rows, 0, 4)[0] == 't')
		return left_behind(op, conn, args[0], args[1], rctl_cell(rows, 0, 3));
	return NULL;
}

/* Tells a running replica how to reach its source now, if that has changed. */
static void
correct_conninfo(RctlOp *op, RctlSource *source, PGconn *conn)
{
	const RctlMap *facts = op->replica->facts;
	const char *passfile = rctl_op_secret(op, "passfile");
	char	   *wanted;
	char	   *now;

	if (is_true(facts, "adopted"))
		return;
	if (rctl_op_secret(op, "password"))
		passfile = psprintf("%s/%s", rctl_map_get(facts, "data_directory"), RCTL_PASS_FILE);
	wanted = rctl_source_conninfo(source, rctl_map_get(facts, "application_name"), passfile);
	now = rctl_pg_value(conn, RCTL_STATEMENT_TIMEOUT, "SELECT current_setting('primary_conninfo')", 0, NULL);
	if (now && strcmp(now, wanted) == 0)
		return;
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT,
				 psprintf("ALTER SYSTEM SET primary_conninfo = %s", quote_literal_cstr(wanted)), 0, NULL);
	rctl_pg_exec(conn, RCTL_STATEMENT_TIMEOUT, "SELECT pg_catalog.pg_reload_conf()", 0, NULL);
	rctl_op_event(op, "info", "repair_conninfo", NULL,
				  "Told replica \"%s\" how to reach its source now", op->replica->name);
}

/* Waits until the replica streams, or it is clear that it cannot. */
void
rctl_standby_repair_probe(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	const char *directory = rctl_map_get(op->replica->facts, "data_directory");
	const char *name = rctl_map_get(op->replica->facts, "application_name");
	RctlSource *source = rctl_source(op, host);
	TimestampTz start = GetCurrentTimestamp();
	PGconn	   *conn;
	char	   *reason;
	bool		asked = false;

	if (cloning(op))
		return;
	if (directory == NULL)
		conn = NULL;			/* not on this host: all that can be done is
								 * to wait */
	else
	{
		conn = rctl_standby_connect(op, op->replica, 10000);
		correct_conninfo(op, source, conn);
	}
	for (;;)
	{
		bool		patient;
		RctlRows   *rows = rctl_source_query(source,
											 "SELECT state FROM pg_catalog.pg_stat_replication"
											 " WHERE application_name = $1 AND state = 'streaming'", 1, &name);

		if (rows->nrows > 0)
			return;
		if (directory && host->server_pid(host, directory) == 0)
		{
			need_clone(op, psprintf("It stops by itself. Last lines of its log: %s",
									rctl_standby_log_tail(host, directory)));
			return;
		}
		patient = !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), PROBE_PATIENCE_MS);
		reason = conn ? hopeless(op, source, conn, &asked) : NULL;
		if (reason && (asked || !patient))
		{
			need_clone(op, reason);
			return;
		}
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), PROBE_DEADLINE_MS))
			return;				/* catch_up says what is wrong */
		rctl_op_progress(op, "waiting for it to stream", 0, 0);
		rctl_sleep(patient ? PROBE_FIRST_MS : PROBE_MS);
	}
}

/* ---------------------------------------------------------------------
 * A new copy
 * ---------------------------------------------------------------------
 */

/* Whether a directory can be renamed: not a mount point, in a directory that we can write. */
static bool
movable(RctlHost *host, const char *path)
{
	RctlPathInfo info;
	RctlPathInfo above;
	char	   *parent = pstrdup(path);

	get_parent_directory(parent);
	host->inspect(host, path, &info);
	host->inspect(host, parent, &above);
	return above.writable && strcmp(info.device, above.device) == 0;
}

static char *
aside_path(RctlOp *op, const char *path)
{
	return psprintf("%s.old_" INT64_FORMAT, path, op->id);
}

static void
move_aside(RctlOp *op, RctlHost *host, const char *path)
{
	char	   *aside = aside_path(op, path);
	RctlPathInfo info;
	RctlMap    *object;

	host->inspect(host, path, &info);
	if (info.kind == RCTL_PATH_MISSING)
		return;
	if (info.kind == RCTL_PATH_DIRECTORY && info.empty)
		return;
	if (!rctl_standby_marked(op, host, path, false))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("directory \"%s\" is in the way of a new copy", path),
				 errdetail("It has no file \"%s\" that says that it belongs to replica \"%s\".",
						   RCTL_MARKER_FILE, op->replica->name),
				 errhint("Move it away and repair the replica again.")));
	if (!movable(host, path))
	{
		host->remove_tree(host, path, true);
		return;
	}
	object = rctl_map_make();
	rctl_map_set(object, "path", path);
	rctl_map_set(object, "to", aside);
	rctl_map_set(op->state, psprintf("aside %s", path), aside);
	rctl_op_cleanup_add(op, "aside", object, false);
	host->rename(host, path, aside);
}

void
rctl_standby_restore_aside(RctlHost *host, const char *path, const char *aside)
{
	RctlPathInfo info;

	host->inspect(host, aside, &info);
	if (info.kind == RCTL_PATH_MISSING)
		return;
	host->inspect(host, path, &info);
	if (info.kind == RCTL_PATH_DIRECTORY && info.empty)
		host->remove_empty(host, path);
	host->rename(host, aside, path);
}

/* Decides whether the old copy is brought back in its place, and how: by "rewind" or "resync". */
static bool
in_place(RctlOp *op, RctlHost *host, bool may_rewind)
{
	RctlSource *source = rctl_source(op, host);

	if (may_rewind && rctl_rewind_applies(op, host, source))
	{
		rctl_map_set(op->state, "rewind", "true");
		rctl_op_event(op, "warning", "repair_rewind", NULL,
					  "What replica \"%s\" has done since it left its source's history is taken back, and it is of no use until that is done",
					  op->replica->name);
	}
	else if (rctl_resync_obstacle(op, host, source) == NULL)
	{
		rctl_map_set(op->state, "resync", "true");
		rctl_op_event(op, "warning", "repair_resync", NULL,
					  "The copy of replica \"%s\" is made equal to its source in its place, and is of no use until that is done",
					  op->replica->name);
	}
	else
		return false;
	return true;
}

/* Decides where the new copy is made. */
static void
make_way(RctlOp *op, RctlHost *host, bool may_rewind)
{
	ListCell   *cell;

	if (!in_place(op, host, may_rewind))
	{
		foreach(cell, rctl_standby_directories(op->replica->facts))
			move_aside(op, host, lfirst(cell));
		rctl_standby_map_tablespaces(op, host, rctl_source(op, host));
	}
	rctl_map_set(op->state, "moved", "true");
}

void
rctl_standby_repair_aside(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);

	if (!cloning(op) || is_true(op->state, "moved"))
		return;
	rctl_standby_stop_server(op, host, rctl_map_get(op->replica->facts, "data_directory"));
	make_way(op, host, true);
}

void
rctl_standby_repair_copy(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);

	if (!cloning(op))
		return;
	rctl_standby_repair_slot(op);
	if (is_true(op->state, "rewind"))
	{
		if (rctl_rewind(op, host, rctl_source(op, host)))
		{
			rctl_standby_note_copy_end(op);
			return;
		}
		rctl_map_set(op->state, "rewind", NULL);
		make_way(op, host, false);
		rctl_op_save(op);
	}
	if (is_true(op->state, "resync"))
		rctl_resync(op, host, rctl_source(op, host));
	else
		rctl_standby_copy(op);
}

void
rctl_standby_repair_configure(RctlOp *op)
{
	if (cloning(op))
		rctl_standby_configure(op);
}

void
rctl_standby_repair_restart(RctlOp *op)
{
	if (cloning(op))
		rctl_standby_start(op);
}

void
rctl_standby_repair_discard(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	ListCell   *cell;

	if (!cloning(op))
		return;
	rctl_op_progress(op, "removing the old copy", 0, 0);
	foreach(cell, op->state->entries)
	{
		const RctlMapEntry *entry = lfirst(cell);

		if (strncmp(entry->key, "aside ", 6) == 0 && rctl_standby_marked(op, host, entry->value, false))
			rctl_standby_remove_directory(op, host, entry->value, false);
	}
}
