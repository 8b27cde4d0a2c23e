/*-------------------------------------------------------------------------
 *
 * standby_config.c
 *	  The configuration of a replica, and this server's synchronous names.
 *
 * The configuration of this server may lie outside its data directory, have
 * included files, and be overridden by the command line.  So a replica's
 * postgresql.conf is written from the settings that are in force here and do
 * not stand at their default, less those that belong to one server only.
 * pg_hba.conf and pg_ident.conf are copies.  The file is written once: the
 * user may edit it afterwards.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "primary/config.h"
#include "provider/standby.h"

#define CONFIG_FILE_MAX (4 * 1024 * 1024)
#define AUTO_FILE "postgresql.auto.conf"
#define LOG_TAIL_BYTES 8192
#define LOG_TAIL_LINES 12

/*
 * Settings of one server, not carried over.  option: what a user who names
 * one in "settings" should use instead; NULL: nothing, it is ours to set.
 */
static const struct
{
	const char *name;
	bool		settable;		/* by the option "settings" */
	const char *option;
}			own_settings[] = {
	{"archive_cleanup_command", true, NULL},
	{"bonjour", true, NULL},
	{"bonjour_name", true, NULL},
	{"cluster_name", false, NULL},
	{"config_file", false, NULL},
	{"data_directory", false, "data_directory"},
	{"external_pid_file", true, NULL},
	{"hba_file", false, NULL},
	{"hot_standby", false, NULL},
	{"ident_file", false, NULL},
	{"listen_addresses", false, "listen_addresses"},
	{"log_directory", true, NULL},
	{"port", false, "port"},
	{"primary_conninfo", false, NULL},
	{"primary_slot_name", false, NULL},
	{"promote_trigger_file", true, NULL},
	{"recovery_end_command", true, NULL},
	{"recovery_min_apply_delay", false, "apply_delay"},
	{"recovery_target", false, NULL},
	{"recovery_target_action", false, NULL},
	{"recovery_target_inclusive", false, NULL},
	{"recovery_target_lsn", false, NULL},
	{"recovery_target_name", false, NULL},
	{"recovery_target_time", false, NULL},
	{"recovery_target_timeline", false, NULL},
	{"recovery_target_xid", false, NULL},
	{"restore_command", true, NULL},
	{"synchronized_standby_slots", true, NULL},
	{"synchronous_standby_names", true, NULL},
	{"unix_socket_directories", true, NULL},
};

/* A standby cannot start with less of these than its primary has. */
static const char *const minimum_settings[] = {
	"max_connections", "max_worker_processes", "max_wal_senders",
	"max_prepared_transactions", "max_locks_per_transaction",
};

static int
find_own_setting(const char *name)
{
	for (int i = 0; i < lengthof(own_settings); i++)
	{
		if (pg_strcasecmp(own_settings[i].name, name) == 0)
			return i;
	}
	return -1;
}

/* ---------------------------------------------------------------------
 * Options
 * ---------------------------------------------------------------------
 */

int64
rctl_standby_apply_delay(const RctlMap *options)
{
	const char *text = rctl_map_get(options, "apply_delay");
	Interval   *interval;
	int64		ms;

	if (text == NULL)
		return 0;
	interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
													 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	ms = interval->time / 1000 +
		((int64) interval->day + (int64) interval->month * DAYS_PER_MONTH) * (USECS_PER_DAY / 1000);
	if (ms > INT_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("apply_delay \"%s\" is too long", text),
				 errhint("It is at most 24 days.")));
	return ms;
}

static void
check_minimum(const char *name, const char *value)
{
	for (int i = 0; i < lengthof(minimum_settings); i++)
	{
		const char *ours;

		if (pg_strcasecmp(minimum_settings[i], name) != 0)
			continue;
		ours = GetConfigOption(name, false, false);
		if (strtol(value, NULL, 0) < strtol(ours, NULL, 10))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("setting \"%s\" must be at least %s on a replica, as on this server", name, ours),
					 errdetail("It was given as \"%s\".", value)));
	}
}

static void
check_setting(const RctlMapEntry *entry)
{
	const char *name = entry->key;
	int			own = find_own_setting(name);

	if (entry->nested)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting \"%s\" must be a single value", name)));
	if (own >= 0 && !own_settings[own].settable)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting \"%s\" cannot be given in the option settings", name),
				 own_settings[own].option
				 ? errhint("Use the option %s.", own_settings[own].option)
				 : errdetail("It is set by replica_ctl.")));
	if (name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.$")] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid name of a setting: \"%s\"", name)));
	if (GetConfigOptionByName(name, NULL, true) == NULL)
	{
		/* Of a library that is not loaded here: the replica will tell. */
		if (strchr(name, '.') != NULL)
			return;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("unrecognized setting \"%s\" in the option settings", name),
				 errhint("SELECT name FROM pg_settings lists them.")));
	}

	/* Raises an error about the value; changes nothing. */
	(void) set_config_option(name, entry->value, PGC_POSTMASTER, PGC_S_FILE,
							 GUC_ACTION_SET, false, ERROR, false);
	check_minimum(name, entry->value);
}

void
rctl_standby_check_settings(const RctlMap *options)
{
	const char *settings = rctl_map_get(options, "settings");
	ListCell   *cell;

	if (settings == NULL)
		return;
	foreach(cell, rctl_map_from_json(settings, "settings")->entries)
		check_setting(lfirst(cell));
}

/* ---------------------------------------------------------------------
 * postgresql.conf
 * ---------------------------------------------------------------------
 */

/* name = 'value', as the configuration file's grammar reads it back. */
static void
append_setting(StringInfo conf, const char *name, const char *value)
{
	appendStringInfo(conf, "%s = '", name);
	for (const char *c = value; *c; c++)
	{
		if (*c == '\'' || *c == '\\')
			appendStringInfoChar(conf, *c);
		if (*c == '\n')
			appendStringInfoString(conf, "\\n");
		else
			appendStringInfoChar(conf, *c);
	}
	appendStringInfoString(conf, "'\n");
}

/*
 * Settings in force here that are not at their default: as the files have
 * them (with units, and whatever this session or its role has changed), or
 * from the command line and environment, which win over the files.
 */
static const char *const carried_sql =
"WITH file AS (SELECT DISTINCT ON (lower(name)) lower(name) AS name, setting"
"  FROM pg_catalog.pg_file_settings WHERE applied ORDER BY lower(name), seqno DESC),"
" live AS (SELECT name, setting, source IN ('command line', 'environment variable') AS wins,"
"   source IN ('configuration file', 'global') AS configured"
"  FROM pg_catalog.pg_settings WHERE context <> 'internal')"
" SELECT coalesce(live.name, file.name),"
"  CASE WHEN live.wins OR file.name IS NULL THEN live.setting ELSE file.setting END"
" FROM live FULL JOIN file ON file.name = lower(live.name)"
" WHERE file.name IS NOT NULL OR live.wins OR live.configured"
" ORDER BY 1";

/* What a carried setting becomes on a replica; NULL: it is left out. */
static const char *
carried_value(const char *name, const char *value)
{
	if (value == NULL || find_own_setting(name) >= 0)
		return NULL;
	/* What pg_settings shows for a command that is not in use. */
	if (strcmp(value, "(disabled)") == 0)
		return NULL;
	/* A replica does not archive what its primary archives already. */
	if (strcmp(name, "archive_mode") == 0 && pg_strcasecmp(value, "always") == 0)
		return "on";
	/* The pages were counted for one server. */
	if (strcmp(name, "huge_pages") == 0 && pg_strcasecmp(value, "try") != 0 && pg_strcasecmp(value, "off") != 0)
		return "try";
	return value;
}

static void
append_user_settings(RctlOp *op, StringInfo conf)
{
	const char *settings = rctl_map_get(op->replica->options, "settings");
	ListCell   *cell;

	if (settings == NULL)
		return;
	appendStringInfoString(conf, "\n# The option \"settings\" of replica_create.\n");
	foreach(cell, rctl_map_from_json(settings, "settings")->entries)
	{
		RctlMapEntry *entry = lfirst(cell);

		append_setting(conf, entry->key, entry->value);
	}
}

static char *
configuration(RctlOp *op)
{
	const RctlMap *facts = op->replica->facts;
	RctlRows   *rows = rctl_own_rows(op, carried_sql, 0, NULL);
	StringInfoData conf;

	initStringInfo(&conf);
	appendStringInfo(&conf,
					 "# Written by replica_ctl when this replica was made. Edit it as you like.\n"
					 "\n# As on the server that it was made by.\n");
	for (int i = 0; i < rows->nrows; i++)
	{
		const char *name = rctl_cell(rows, i, 0);
		const char *value = carried_value(name, rctl_cell(rows, i, 1));

		if (value)
			append_setting(&conf, name, value);
	}

	appendStringInfoString(&conf, "\n# A standby needs at least what its primary has.\n");
	for (int i = 0; i < lengthof(minimum_settings); i++)
		append_setting(&conf, minimum_settings[i], GetConfigOption(minimum_settings[i], false, false));

	appendStringInfoString(&conf, "\n# Of this server alone.\n");
	append_setting(&conf, "port", rctl_map_get(facts, "port"));
	append_setting(&conf, "listen_addresses", rctl_map_get_default(facts, "listen_addresses", ""));
	append_setting(&conf, "unix_socket_directories", rctl_map_get_default(facts, "socket_directories", ""));
	append_setting(&conf, "cluster_name", rctl_map_get(facts, "cluster_name"));
	append_setting(&conf, "hot_standby", "on");
	append_setting(&conf, "log_directory", "log");

	append_user_settings(op, &conf);
	return conf.data;
}

/* ---------------------------------------------------------------------
 * pg_hba.conf and pg_ident.conf
 * ---------------------------------------------------------------------
 */

/*
 * A copy of the file lies in another directory, so that what it refers to by
 * a relative name (@list, include) is given by an absolute one.
 */
static char *
absolute_references(const char *text, const char *directory)
{
	StringInfoData out;
	bool		at_token = true;
	bool		at_line = true;
	bool		in_quotes = false;
	bool		in_comment = false;
	bool		included = false;	/* the next token names a file */

	initStringInfo(&out);
	for (const char *c = text; *c; c++)
	{
		bool		space = *c == ' ' || *c == '\t' || *c == '\r';

		if (*c == '\n')
		{
			at_token = at_line = true;
			in_quotes = in_comment = included = false;
		}
		else if (in_comment || (space && !in_quotes) || (*c == ',' && !in_quotes))
			at_token = true;
		else
		{
			if (at_token && *c == '#')
				in_comment = true;
			else if (at_token && included && *c != '/')
			{
				appendStringInfo(&out, "\"%s/\"", directory);
				included = false;
			}
			else if (at_token && *c == '@' && c[1] != '/' && c[1] != '"')
			{
				appendStringInfo(&out, "@\"%s/\"", directory);
				at_token = at_line = false;
				continue;
			}
			else if (at_line && strncmp(c, "include", 7) == 0)
				included = true;
			if (*c == '"')
				in_quotes = !in_quotes;
			at_token = at_line = false;
		}
		appendStringInfoChar(&out, *c);
	}
	return out.data;
}

/* setting: hba_file or ident_file of this server */
static char *
access_file(RctlOp *op, RctlHost *host, const char *setting)
{
	RctlHost   *own = rctl_host_local(op, op->server_options);
	const char *path = GetConfigOption(setting, false, false);
	char	   *text = own->read_file(own, path, CONFIG_FILE_MAX);
	char	   *directory = pstrdup(path);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("%s \"%s\" does not exist", setting, path)));
	get_parent_directory(directory);
	return host->local ? absolute_references(text, directory) : text;
}

/* ---------------------------------------------------------------------
 * What it follows
 * ---------------------------------------------------------------------
 */

/* postgresql.auto.conf */
static char *
auto_configuration(RctlOp *op, RctlSource *source, bool first_start)
{
	const RctlMap *facts = op->replica->facts;
	const char *passfile = rctl_op_secret(op, "passfile");
	int64		delay = rctl_standby_apply_delay(op->replica->options);
	StringInfoData conf;

	if (rctl_op_secret(op, "password"))
		passfile = psprintf("%s/%s", rctl_map_get(facts, "data_directory"), RCTL_PASS_FILE);
	initStringInfo(&conf);
	appendStringInfoString(&conf, "# Do not edit this file manually!\n"
						   "# It will be overwritten by the ALTER SYSTEM command.\n");
	append_setting(&conf, "primary_conninfo",
				   rctl_source_conninfo(source, rctl_map_get(facts, "application_name"), passfile));
	append_setting(&conf, "primary_slot_name", rctl_map_get(facts, "slot"));
	if (delay > 0)
		append_setting(&conf, "recovery_min_apply_delay", psprintf(INT64_FORMAT "ms", delay));
#ifdef HAVE_SYNCFS

	/*
	 * All files are synced, which a server that finds no clean shutdown does
	 * not know: it would sync each of them again.  Other hosts run Linux, as
	 * this one does then, and have the same major version.
	 */
	if (first_start)
		append_setting(&conf, "recovery_init_sync_method", "syncfs");
#endif
	return conf.data;
}

/* Adds what makes it a standby to the files to write; there must be room for three. */
static int
add_replication(RctlOp *op, RctlSource *source, RctlHostFile *files)
{
	char	   *secret = rctl_pass_file_content(op);
	int			n = 0;

	if (secret)
		files[n++] = (RctlHostFile)
	{
		RCTL_PASS_FILE, secret, 0600
	};
	files[n++] = (RctlHostFile)
	{
		AUTO_FILE, auto_configuration(op, source, false), 0600
	};
	files[n++] = (RctlHostFile)
	{
		"standby.signal", "", 0600
	};
	return n;
}

void
rctl_standby_write_configuration(RctlOp *op, RctlHost *host, RctlSource *source)
{
	const char *directory = rctl_map_get(op->replica->facts, "data_directory");
	const char *logs = GetConfigOption("log_directory", false, false);
	bool		in_place = rctl_map_get(op->state, "resync") || rctl_map_get(op->state, "rewind");
	RctlHostFile files[8] = {
		{"postgresql.conf", configuration(op), 0600},
		{"pg_hba.conf", access_file(op, host, "hba_file"), 0600},
		{"pg_ident.conf", access_file(op, host, "ident_file"), 0600},
	};

	/*
	 * Logs of the server that was copied; one that was brought back in its
	 * place has its own.
	 */
	if (!is_absolute_path(logs) && strstr(logs, "..") == NULL && logs[0] != '\0' &&
		!(in_place && strcmp(logs, "log") == 0))
		host->remove_tree(host, psprintf("%s/%s", directory, logs), false);
	host->make_directory(host, psprintf("%s/log", directory), false);
	add_replication(op, source, files + 3);
	host->write_files(host, directory, files);

	/* It describes the copy as it was before this. */
	host->remove_file(host, psprintf("%s/backup_manifest", directory));
	host->remove_file(host, psprintf("%s/recovery.signal", directory));
}

void
rctl_standby_write_replication(RctlOp *op, RctlHost *host, RctlSource *source)
{
	RctlHostFile files[4] = {{0}};

	add_replication(op, source, files);
	host->write_files(host, rctl_map_get(op->replica->facts, "data_directory"), files);
}

void
rctl_standby_write_start(RctlOp *op, RctlHost *host, RctlSource *source, bool first)
{
	host->write_file(host, psprintf("%s/%s", rctl_map_get(op->replica->facts, "data_directory"), AUTO_FILE),
					 auto_configuration(op, source, first), 0600);
}

char *
rctl_standby_log_tail(RctlHost *host, const char *directory)
{
	char	   *tail = host->read_file(host, psprintf("%s/%s", directory, RCTL_LOG_FILE), LOG_TAIL_BYTES);
	char	   *current = host->read_file(host, psprintf("%s/current_logfiles", directory), 1024);
	char	   *path = current ? strchr(current, ' ') : NULL;

	tail = tail ? rctl_last_lines(tail, LOG_TAIL_LINES) : pstrdup("");
	if (path)
	{
		char	   *collected;

		path++;
		path[strcspn(path, "\n")] = '\0';
		if (!is_absolute_path(path))
			path = psprintf("%s/%s", directory, path);
		collected = host->read_file(host, path, LOG_TAIL_BYTES);
		if (collected)
			tail = psprintf("%s%s%s", tail, tail[0] ? "\n" : "",
							rctl_last_lines(collected, LOG_TAIL_LINES));
	}
	return tail[0] ? tail : pstrdup("(its log is empty)");
}

/* ---------------------------------------------------------------------
 * synchronous_standby_names
 * ---------------------------------------------------------------------
 */

/* Where the next element of a list of names ends: at a comma that is not quoted, or at the end. */
static const char *
element_end(const char *c)
{
	bool		in_quotes = false;

	for (; *c && (in_quotes || *c != ','); c++)
	{
		if (*c == '"')
			in_quotes = !in_quotes;
	}
	return c;
}

static char *
trimmed(const char *from, const char *to)
{
	while (from < to && isspace((unsigned char) *from))
		from++;
	while (to > from && isspace((unsigned char) to[-1]))
		to--;
	return pnstrdup(from, to - from);
}

/* Whether an element of the list is the name, quoted or not. */
static bool
element_is(const char *element, const char *name)
{
	if (element[0] == '"')
		return pg_strncasecmp(element + 1, name, strlen(name)) == 0 &&
			strcmp(element + 1 + strlen(name), "\"") == 0;
	return pg_strcasecmp(element, name) == 0;
}

/*
 * The value with the name added to its list, or taken out of it.  The forms
 * are "a, b", "2 (a, b)", "FIRST 2 (a, b)" and "ANY 2 (a, b)".  Waiting for
 * more standbys than the list has would stop every commit, so that the number
 * shrinks with the list.
 */
static char *
change_names(const char *value, const char *name, bool add)
{
	const char *open = strchr(value, '(');
	const char *close = strrchr(value, ')');
	const char *quote = strchr(value, '"');
	char	   *head = NULL;
	char	   *list;
	StringInfoData names;
	int			count = 0;
	bool		present = false;

	if (open && close && close > open && (quote == NULL || quote > open))
	{
		head = trimmed(value, open);
		list = trimmed(open + 1, close);
	}
	else
		list = trimmed(value, value + strlen(value));

	initStringInfo(&names);
	for (const char *c = list; *c;)
	{
		const char *end = element_end(c);
		char	   *element = trimmed(c, end);

		present |= strcmp(element, "*") == 0 || element_is(element, name);
		if (element[0] != '\0' && (add || !element_is(element, name)))
		{
			appendStringInfo(&names, "%s%s", count > 0 ? ", " : "", element);
			count++;
		}
		c = *end ? end + 1 : end;
	}
	if (add && present)
		return pstrdup(value);
	if (add)
		appendStringInfo(&names, "%s%s", count++ > 0 ? ", " : "", name);
	if (head == NULL || count == 0)
		return names.data;
	else
	{
		size_t		word = strcspn(head, "0123456789");
		long		number = strtol(head + word, NULL, 10);

		return psprintf("%s%ld (%s)", pnstrdup(head, word), Min(number, (long) count), names.data);
	}
}

/* The first column of the first row, in the open transaction; "" if there is none. */
static char *
spi_text(const char *sql)
{
	char	   *value = NULL;

	if (SPI_execute(sql, false, 1) < 0)
		elog(ERROR, "SPI_execute failed");
	if (SPI_processed > 0)
		value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return value ? value : pstrdup("");
}

bool
rctl_standby_wants_synchronous(const RctlMap *options)
{
	const char *option = rctl_map_get(options, "synchronous");
	bool		wanted = false;

	return option && parse_bool(option, &wanted) && wanted;
}

/* It is set by ALTER SYSTEM, which some versions can forbid and the command line outranks. */
void
rctl_standby_check_synchronous(RctlOp *op)
{
	const char *allowed = GetConfigOption("allow_alter_system", true, false);
	char	   *source = rctl_own_value(op,
										"SELECT source FROM pg_catalog.pg_settings"
										" WHERE name = 'synchronous_standby_names'", 0, NULL);

	if (source && strcmp(source, "command line") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("synchronous_standby_names is set on the command line"),
				 errhint("Set it in postgresql.conf instead, or leave out the option synchronous.")));
	if (allowed && strcmp(allowed, "on") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("synchronous_standby_names cannot be changed, as allow_alter_system is off"),
				 errhint("Leave out the option synchronous, and set it in postgresql.conf yourself.")));
}

#define NAMES_IN_FILES \
	"SELECT setting FROM pg_catalog.pg_file_settings" \
	" WHERE name = 'synchronous_standby_names' AND error IS NULL %s" \
	" ORDER BY seqno DESC LIMIT 1"

void
rctl_standby_synchronous(RctlOp *op, const char *name, bool add)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *now;
	char	   *below;
	char	   *wanted;

	rctl_op_begin(op);
	/* One at a time: this reads, changes and writes a file. */
	(void) spi_text("SELECT pg_catalog.pg_advisory_xact_lock('replica_ctl.replica'::pg_catalog.regclass::int, 1)");
	now = spi_text(psprintf(NAMES_IN_FILES, ""));
	below = spi_text(psprintf(NAMES_IN_FILES, "AND sourcefile NOT LIKE '%/postgresql.auto.conf'"));
	wanted = change_names(now, name, add);
	if (strcmp(wanted, now) != 0)
	{
		rctl_alter_system("synchronous_standby_names", strcmp(wanted, below) == 0 ? NULL : wanted);
		(void) spi_text("SELECT pg_catalog.pg_reload_conf()");
	}
	rctl_op_commit(op);
	MemoryContextSwitchTo(caller);
}
