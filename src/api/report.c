/*-------------------------------------------------------------------------
 *
 * report.c
 *	  replica_report(): the state of replication as one HTML page.
 *
 * What stands in tables is read from the views, with the caller's rights; the
 * history from shared memory.  No network, no file, nothing is written.  The
 * page loads nothing and runs no script; its policy forbids both, whatever
 * the content.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <unistd.h>

#include "executor/spi.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "api/report.h"
#include "net/html.h"

PG_FUNCTION_INFO_V1(rctl_sql_report);

/* Tables of more rows scroll. */
#define MANY_ROWS 25

/* No more rows than these. */
#define MAX_EVENTS 200
#define MAX_OPERATIONS 100

/* The disk will be full. */
#define FULL_WARNING_SECONDS (24 * 3600)
#define FULL_BAD_SECONDS 3600

/* What needs a look, as items of a list. */
typedef struct Verdict
{
	RctlMood	mood;
	StringInfoData items;
} Verdict;

/* ---------------------------------------------------------------------
 * Words
 * ---------------------------------------------------------------------
 */

char *
rctl_report_bytes(double bytes)
{
	const char *const units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
	int			unit = 0;

	if (isnan(bytes))
		return pstrdup("-");
	while (fabs(bytes) >= 1024 && unit < lengthof(units) - 1)
	{
		bytes /= 1024;
		unit++;
	}
	return psprintf(unit > 0 && fabs(bytes) < 10 && rint(bytes * 10) != rint(bytes) * 10 ? "%.1f %s" : "%.0f %s",
					bytes, units[unit]);
}

char *
rctl_report_seconds(double seconds)
{
	if (isnan(seconds))
		return pstrdup("-");
	if (seconds < 0.00005)
		return pstrdup("0 s");
	if (seconds < 1)
		return psprintf(seconds < 0.01 ? "%.1f ms" : "%.0f ms", seconds * 1000);
	if (seconds < 10 && rint(seconds * 10) != rint(seconds) * 10)
		return psprintf("%.1f s", seconds);
	if (seconds < 120)
		return psprintf("%.0f s", seconds);
	if (seconds < 7200)
		return psprintf("%.0f min", seconds / 60);
	if (seconds < 2 * 86400)
		return psprintf("%d h %d min", (int) (seconds / 3600), (int) fmod(seconds / 60, 60));
	return psprintf("%.0f days", seconds / 86400);
}

static char *
format_time(TimestampTz at, const char *format)
{
	pg_time_t	time = timestamptz_to_time_t(at);
	char text[	64];

	pg_strftime(text, sizeof(text), format, pg_localtime(&time, session_timezone));
	return pstrdup(text);
}

char *
rctl_report_clock(TimestampTz at, TimestampTz now)
{
	return format_time(at, at > now + USECS_PER_DAY || at < now - USECS_PER_DAY ?
					   "%Y-%m-%d %H:%M" : "%H:%M:%S");
}

const char *
rctl_report_mood(RctlMood mood)
{
	switch (mood)
	{
		case RCTL_MOOD_OK:
			return "ok";
		case RCTL_MOOD_WARNING:
			return "warning";
		case RCTL_MOOD_BAD:
			return "bad";
	}
	return "";
}

/* How a state of a replica or an operation, a verdict or a severity looks. */
static RctlMood
mood_of(const char *word)
{
	const char *const bad[] = {
		"disconnected", "stopped", "failed", "needs_attention", "critical", "lost", "error"
	};
	const char *const good[] = {"streaming", "promoted", "succeeded", "running", "queued", "ok", "info"};

	for (int i = 0; i < lengthof(bad); i++)
	{
		if (strcmp(word, bad[i]) == 0)
			return RCTL_MOOD_BAD;
	}
	for (int i = 0; i < lengthof(good); i++)
	{
		if (strcmp(word, good[i]) == 0)
			return RCTL_MOOD_OK;
	}
	return RCTL_MOOD_WARNING;
}

/* ---------------------------------------------------------------------
 * Reading
 * ---------------------------------------------------------------------
 */

/* Runs a query with %s for the quoted schema of the views, and $1 for the time asked for. */
static int
query(const char *format, const char *schema, TimestampTz since)
{
	Oid			type = TIMESTAMPTZOID;
	Datum		value = TimestampTzGetDatum(since);
	StringInfoData sql;
	int			rc;

	initStringInfo(&sql);
	for (const char *p = format; *p != '\0'; p++)
	{
		if (p[0] == '%' && p[1] == 's')
		{
			appendStringInfoString(&sql, schema);
			p++;
		}
		else
			appendStringInfoChar(&sql, *p);
	}
	rc = SPI_execute_with_args(sql.data, 1, &type, &value, NULL, true, 0);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "query of the report failed: %s", SPI_result_code_string(rc));
	return (int) SPI_processed;
}

/* A column (from 1) of a row (from 0) as text; NULL for null. */
static const char *
get(int row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/* NaN for null. */
static double
get_number(int row, int column)
{
	const char *value = get(row, column);

	return value ? strtod(value, NULL) : NAN;
}

static bool
get_bool(int row, int column)
{
	const char *value = get(row, column);

	return value && value[0] == 't';
}

/* 0 for null. */
static TimestampTz
get_time(int row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

/* A copy that is being made has a WAL sender, but is no standby yet. */
static void
read_standbys(RctlReport *report, const char *schema)
{
	report->nstandbys = query(
							  "SELECT s.replica, true, s.server, s.state, l.sync_state, s.endpoint, s.upstream, s.slot,"
							  "  s.message, s.operation, extract(epoch FROM s.lag), s.lag_bytes, s.slot_wal_bytes"
							  " FROM %s.replica_status s LEFT JOIN %s.replica_lag l ON l.replica = s.replica"
							  " UNION ALL"
							  " SELECT coalesce(application_name, '(no name)'), false, NULL, state, sync_state,"
							  "  host(client_addr), NULL, NULL, NULL, NULL, extract(epoch FROM replay_lag), replay_lag_bytes, NULL"
							  " FROM %s.replica_lag WHERE replica IS NULL"
							  "  AND application_name NOT IN (SELECT 'replica_ctl_' || operation"
							  "   FROM %s.replica_operations WHERE state = 'running')"
							  " ORDER BY 2 DESC, 1", schema, report->since);
	report->standbys = palloc0(sizeof(RctlReportStandby) * (report->nstandbys + 1));
	for (int i = 0; i < report->nstandbys; i++)
	{
		RctlReportStandby *s = &report->standbys[i];

		s->name = get(i, 1);
		s->owned = get_bool(i, 2);
		s->server = get(i, 3);
		s->state = get(i, 4);
		s->sync_state = get(i, 5);
		s->endpoint = get(i, 6);
		s->upstream = get(i, 7);
		s->slot = get(i, 8);
		s->message = get(i, 9);
		s->operation = get(i, 10);
		s->lag = get_number(i, 11);
		s->lag_bytes = get_number(i, 12);
		s->slot_bytes = get_number(i, 13);
		s->mood = mood_of(s->state);
		s->peak = NAN;
	}
}

static void
read_usage(RctlReport *report, const char *schema)
{
	report->sampled = query(
							"SELECT wal_bytes_per_second, wal_bytes, free_bytes, total_bytes,"
							"  extract(epoch FROM time_to_full), held_by, held_bytes, archive_ready, archive_failed"
							" FROM %s.replica_wal_usage", schema, report->since) > 0;
	if (!report->sampled)
		return;
	report->wal_rate = get_number(0, 1);
	report->wal_bytes = get_number(0, 2);
	report->free_bytes = get_number(0, 3);
	report->total_bytes = get_number(0, 4);
	report->time_to_full = get(0, 5) ? get_number(0, 5) : -1;
	report->held_by = get(0, 6);
	report->held_bytes = get_number(0, 7);
	report->archive_ready = (int) Min(get_number(0, 8), (double) INT_MAX);
	report->archive_failed = (int) Min(get_number(0, 9), (double) INT_MAX);
}

/* ---------------------------------------------------------------------
 * Tables
 * ---------------------------------------------------------------------
 */

/* A heading and the columns, separated by "|"; those of numbers begin with "#". */
static void
begin_table(StringInfo out, const char *title, const char *columns, int rows)
{
	rctl_html(out, "<section><h2>%s</h2>\n<div class=\"rows%s\" role=\"region\" aria-label=\"%s\" tabindex=\"0\">"
			  "<table><thead><tr>", title, rows > MANY_ROWS ? " many" : "", title);
	while (*columns != '\0')
	{
		Size		length = strcspn(columns, "|");
		bool		number = columns[0] == '#';

		rctl_html(out, "<th scope=\"col\" class=\"%s\">%s</th>", number ? "num" : "text",
				  pnstrdup(columns + number, length - number));
		columns += length;
		columns += *columns == '|';
	}
	rctl_html(out, "</tr></thead><tbody>\n");
}

static void
end_table(StringInfo out)
{
	rctl_html(out, "</tbody></table></div></section>\n");
}

static void
empty_section(StringInfo out, const char *title, const char *note)
{
	rctl_html(out, "<section><h2>%s</h2><p class=\"note\">%s</p></section>\n", title, note);
}

static void
cell(StringInfo out, const char *label, const char *value)
{
	if (value)
		rctl_html(out, "<td data-label=\"%s\"><bdi>%s</bdi></td>", label, value);
	else
		rctl_html(out, "<td></td>");
}

static void
number_cell(StringInfo out, const char *label, const char *value)
{
	rctl_html(out, "<td class=\"num\" data-label=\"%s\"><span>%s</span></td>", label, value);
}

static void
mood_cell(StringInfo out, const char *label, const char *word)
{
	rctl_html(out, "<td data-label=\"%s\"><span class=\"mood %s\">%s</span></td>",
			  label, rctl_report_mood(mood_of(word)), word);
}

static void
put_replicas(StringInfo out, const RctlReport *report)
{
	if (report->nstandbys == 0)
		return;
	begin_table(out, "Replicas",
				"Replica|State|#Lag|#Behind|Lag over time|Place|Slot|#Kept WAL|Note", report->nstandbys);
	for (int i = 0; i < report->nstandbys; i++)
	{
		const RctlReportStandby *s = &report->standbys[i];

		rctl_html(out, "<tr><td data-label=\"Replica\"><bdi><b>%s</b></bdi>", s->name);
		if (s->upstream)
			rctl_html(out, "<small>follows <bdi>%s</bdi></small>", s->upstream);
		else if (!s->owned)
			rctl_html(out, "<small>not ours</small>");
		rctl_html(out, "</td>");
		mood_cell(out, "State", s->state);
		number_cell(out, "Lag", rctl_report_seconds(s->lag));
		number_cell(out, "Behind", rctl_report_bytes(s->lag_bytes));
		if (s->history && !isnan(s->peak))
		{
			rctl_html(out, "<td data-label=\"Lag over time\">");
			rctl_report_sparkline(out, s);
			rctl_html(out, "<small>at most %s</small></td>", rctl_report_seconds(s->peak));
		}
		else
			cell(out, "Lag over time", NULL);
		cell(out, "Place", s->server && s->endpoint ? psprintf("%s, %s", s->server, s->endpoint) :
			 s->server ? s->server : s->endpoint);
		cell(out, "Slot", s->slot);
		if (isnan(s->slot_bytes))
			cell(out, "Kept WAL", NULL);
		else
			number_cell(out, "Kept WAL", rctl_report_bytes(s->slot_bytes));
		cell(out, "Note", s->message);
		rctl_html(out, "</tr>\n");
	}
	end_table(out);
}

static void
put_slots(StringInfo out, const RctlReport *report, const char *schema, Verdict *verdict)
{
	int			rows = query(
							 "SELECT slot_name, slot_type, replica, active, wal_status, retained_bytes,"
							 "  growth_bytes_per_second, inactive_since, verdict, advice"
							 " FROM %s.replica_slots"
							 " ORDER BY array_position(ARRAY['lost', 'critical', 'warning'], verdict),"
							 "  retained_bytes DESC NULLS LAST, slot_name", schema, report->since);
	int			troubled = 0;

	if (rows == 0)
	{
		empty_section(out, "Slots", "None.");
		return;
	}
	begin_table(out, "Slots", "Slot|Verdict|#Kept WAL|#Growth|Use|WAL|Advice", rows);
	for (int i = 0; i < rows; i++)
	{
		double		growth = get_number(i, 7);
		TimestampTz since = get_time(i, 8);
		RctlMood	mood = mood_of(get(i, 9));

		troubled += mood != RCTL_MOOD_OK;
		verdict->mood = Max(verdict->mood, mood);
		if (mood != RCTL_MOOD_OK && troubled <= 5)
			rctl_html(&verdict->items, "<li class=\"%s\">Slot <bdi>&quot;%s&quot;</bdi> is %s%s%s.</li>\n",
					  rctl_report_mood(mood), get(i, 1), strcmp(get(i, 9), "warning") == 0 ? "worth a look" : get(i, 9),
					  get(i, 6) ? " and keeps " : "", get(i, 6) ? rctl_report_bytes(get_number(i, 6)) : "");
		rctl_html(out, "<tr><td data-label=\"Slot\"><bdi><b>%s</b></bdi><small>%s</small></td>", get(i, 1),
				  get(i, 3) ? psprintf("of replica %s", get(i, 3)) : psprintf("%s, not ours", get(i, 2)));
		mood_cell(out, "Verdict", get(i, 9));
		number_cell(out, "Kept WAL", rctl_report_bytes(get_number(i, 6)));
		number_cell(out, "Growth", isnan(growth) ? "-" : psprintf("%s/s", rctl_report_bytes(growth)));
		cell(out, "Use", get_bool(i, 4) ? "active" :
			 since != 0 ? psprintf("inactive since %s", rctl_report_clock(since, report->now)) : "inactive");
		cell(out, "WAL", get(i, 5));
		cell(out, "Advice", get(i, 10));
		rctl_html(out, "</tr>\n");
	}
	end_table(out);
	if (troubled > 5)
		rctl_html(&verdict->items, "<li>%d more slots need a look.</li>\n", troubled - 5);
}

/* The file systems of this host; what is to be said of that of pg_wal is said already. */
static void
put_disks(StringInfo out, const RctlReport *report, const char *schema, Verdict *verdict)
{
	int			rows = query(
							 "SELECT path, wal, data, array_to_string((replicas::text[])[1:6], ', '), cardinality(replicas),"
							 "  free_bytes, total_bytes, growth_bytes_per_second, extract(epoch FROM time_to_full)"
							 " FROM %s.replica_disk_usage ORDER BY time_to_full NULLS LAST, path", schema, report->since);

	if (rows == 0)
		return;
	begin_table(out, "Disks of this host", "Disk|Used by|#Free|#Size|#Growth|#Full in", rows);
	for (int i = 0; i < rows; i++)
	{
		double		seconds = get(i, 9) ? get_number(i, 9) : -1;
		int			more = (int) get_number(i, 5) - 6;
		bool		wal = get_bool(i, 2);
		bool		data = get_bool(i, 3);

		if (!wal && seconds >= 0 && seconds < FULL_WARNING_SECONDS)
		{
			RctlMood	mood = seconds < FULL_BAD_SECONDS ? RCTL_MOOD_BAD : RCTL_MOOD_WARNING;

			verdict->mood = Max(verdict->mood, mood);
			rctl_html(&verdict->items, "<li class=\"%s\">The disk at <bdi>%s</bdi> is full in %s.</li>\n",
					  rctl_report_mood(mood), get(i, 1), rctl_report_seconds(seconds));
		}
		rctl_html(out, "<tr><td data-label=\"Disk\"><bdi><b>%s</b></bdi></td>", get(i, 1));
		rctl_html(out, "<td data-label=\"Used by\">%s", wal && data ? "this server" : wal ? "pg_wal" : data ? "data of this server" : "");
		if (more > -6)
			rctl_html(out, "%s%s <bdi>%s</bdi>", wal || data ? ", " : "", more > -5 ? "replicas" : "replica", get(i, 4));
		if (more > 0)
			rctl_html(out, " and %d more", more);
		rctl_html(out, "</td>");
		number_cell(out, "Free", rctl_report_bytes(get_number(i, 6)));
		number_cell(out, "Size", rctl_report_bytes(get_number(i, 7)));
		number_cell(out, "Growth", psprintf("%s/s", rctl_report_bytes(get_number(i, 8))));
		number_cell(out, "Full in", seconds >= 0 ? rctl_report_seconds(seconds) : "not in sight");
		rctl_html(out, "</tr>\n");
	}
	end_table(out);
}

static void
put_progress(StringInfo out, int row)
{
	double		progress = get_number(row, 7);
	double		done = get_number(row, 8);
	double		total = get_number(row, 9);
	double		rate = get_number(row, 10);
	double		eta = get_number(row, 11);
	int			percent = isnan(progress) ? 0 : (int) (Min(Max(progress, 0), 1) * 100);

	rctl_html(out, "<td data-label=\"Progress\"><span><progress max=\"100\" value=\"%d\">%d %%</progress> %d %%</span>",
			  percent, percent, percent);
	if (!isnan(done) && !isnan(total))
		rctl_html(out, "<small>%s of %s%s%s%s</small>", rctl_report_bytes(done), rctl_report_bytes(total),
				  isnan(rate) ? "" : psprintf(", %s/s", rctl_report_bytes(rate)),
				  isnan(eta) ? "" : psprintf(", %s", rctl_report_seconds(eta)), isnan(eta) ? "" : " left");
	rctl_html(out, "</td>");
}

static void
put_operations(StringInfo out, const RctlReport *report, const char *schema, Verdict *verdict)
{
	int			rows = query(
							 "SELECT operation, replica, kind, state, coalesce(phase, step), step_number || ' of ' || steps,"
							 "  progress, bytes_done, bytes_total, bytes_per_second, extract(epoch FROM eta),"
							 "  message, hint, requested_by, requested_at, finished_at"
							 " FROM %s.replica_operations"
							 " WHERE state IN ('queued', 'running', 'needs_attention') OR requested_at >= $1 OR finished_at >= $1"
							 " ORDER BY state IN ('queued', 'running') DESC, state = 'needs_attention' DESC, operation DESC"
							 " LIMIT " CppAsString2(MAX_OPERATIONS), schema, report->since);

	if (rows == 0)
	{
		empty_section(out, "Operations", "None in this time.");
		return;
	}
	begin_table(out, "Operations", "Operation|What|State|Progress|Step|Asked for|Message", rows);
	for (int i = 0; i < rows; i++)
	{
		const char *state = get(i, 4);
		TimestampTz finished = get_time(i, 16);

		if (strcmp(state, "needs_attention") == 0)
		{
			verdict->mood = RCTL_MOOD_BAD;
			rctl_html(&verdict->items, "<li class=\"bad\">Operation %s (%s of replica <bdi>%s</bdi>) needs attention: %s</li>\n",
					  get(i, 1), get(i, 3), get(i, 2), get(i, 12));
		}
		rctl_html(out, "<tr>");
		cell(out, "Operation", get(i, 1));
		rctl_html(out, "<td data-label=\"What\"><span>%s <bdi><b>%s</b></bdi></span></td>", get(i, 3), get(i, 2));
		mood_cell(out, "State", state);
		put_progress(out, i);
		rctl_html(out, "<td data-label=\"Step\"><span>%s</span><small>%s</small></td>", get(i, 5), get(i, 6));
		rctl_html(out, "<td data-label=\"Asked for\"><span>%s</span><small>by <bdi>%s</bdi>%s%s</small></td>",
				  rctl_report_clock(get_time(i, 15), report->now), get(i, 14), finished ? ", ended " : "",
				  finished ? rctl_report_clock(finished, report->now) : "");
		if (get(i, 12) && get(i, 13))
			rctl_html(out, "<td data-label=\"Message\"><span>%s</span><small>%s</small></td>", get(i, 12), get(i, 13));
		else
			cell(out, "Message", get(i, 12));
		rctl_html(out, "</tr>\n");
	}
	end_table(out);
}

static void
put_events(StringInfo out, const RctlReport *report, const char *schema)
{
	int			rows = query(
							 "SELECT at, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), severity, replica, kind,"
							 "  message, actor, count(*) OVER ()"
							 " FROM %s.replica_events WHERE at >= $1 ORDER BY event DESC"
							 " LIMIT " CppAsString2(MAX_EVENTS), schema, report->since);

	if (rows == 0)
	{
		empty_section(out, "Events", "None in this time.");
		return;
	}
	begin_table(out, get_number(0, 8) > rows ? psprintf("Events, the last %d of %s", rows, get(0, 8)) : "Events",
				"Time|Severity|Replica|Event|Actor", rows);
	for (int i = 0; i < rows; i++)
	{
		rctl_html(out, "<tr><td class=\"time\" data-label=\"Time\"><time datetime=\"%s\">%s</time></td>",
				  get(i, 2), rctl_report_clock(get_time(i, 1), report->now));
		mood_cell(out, "Severity", get(i, 3));
		cell(out, "Replica", get(i, 4));
		rctl_html(out, "<td data-label=\"Event\"><bdi>%s</bdi><small>%s</small></td>", get(i, 6), get(i, 5));
		cell(out, "Actor", get(i, 7));
		rctl_html(out, "</tr>\n");
	}
	end_table(out);
}

/* ---------------------------------------------------------------------
 * Page
 * ---------------------------------------------------------------------
 */

static void
put_header(StringInfo out, RctlReport *report, const char *schema, Verdict *verdict)
{
	char		host[256] = "";
	const char *name;

	query("SELECT current_setting('cluster_name'), current_setting('port'), current_setting('server_version'),"
		  "  pg_is_in_recovery(), c.timeline_id, system_identifier, f.phase, f.reason, f.since,"
		  "  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,"
		  "  to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
		  " FROM pg_control_checkpoint() c, pg_control_system() s, replica_ctl.fence() f", schema, report->since);
	if (gethostname(host, sizeof(host) - 1) != 0)
		host[0] = '\0';
	name = psprintf("%s:%s", host, get(0, 2));
	report->self = get(0, 1)[0] != '\0' ? get(0, 1) : name;
	report->self_state = psprintf("%s, timeline %s", get_bool(0, 4) ? "in recovery" : "this server", get(0, 5));
	if (get(0, 7) && (strcmp(get(0, 7), "up") == 0 || strcmp(get(0, 7), "promoted") == 0))
	{
		report->self_mood = RCTL_MOOD_WARNING;
		verdict->mood = Max(verdict->mood, RCTL_MOOD_WARNING);
		report->self_state = psprintf("fenced, timeline %s", get(0, 5));
		rctl_html(&verdict->items, "<li class=\"warning\">Writes to this server are stopped since %s%s%s.</li>\n",
				  rctl_report_clock(get_time(0, 9), report->now), get(0, 8) ? ": " : "", get(0, 8));
	}
	rctl_html(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
			  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
			  "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
			  "<title>Replication of %s, %s</title>\n<style>\n",
			  report->self, format_time(report->now, "%Y-%m-%d %H:%M %Z"));
	appendStringInfoString(out, rctl_report_style);
	rctl_html(out, "</style>\n</head>\n<body>\n<main>\n<header><h1>Replication of <bdi>%s</bdi></h1>\n"
			  "<p><time datetime=\"%s\">%s</time>, and the time since %s</p>\n"
			  "<p>PostgreSQL %s on %s, timeline %s, WAL at %s, system %s</p></header>\n",
			  report->self, get(0, 11), format_time(report->now, "%Y-%m-%d %H:%M:%S %Z"),
			  format_time(report->since, "%Y-%m-%d %H:%M:%S %Z"),
			  get(0, 3), name, get(0, 5), get(0, 10), get(0, 6));
}

/* Adds what is wrong with replicas and the disk. */
static void
judge(const RctlReport *report, Verdict *verdict)
{
	int			count = 0;

	for (int i = 0; i < report->nstandbys; i++)
	{
		const RctlReportStandby *s = &report->standbys[i];

		/*
		 * A foreign standby that has gone may have gone for good, and a
		 * replica that an operation works on is in its hands.
		 */
		if (s->mood == RCTL_MOOD_OK || (!s->owned && s->mood == RCTL_MOOD_BAD) || s->operation)
			continue;
		verdict->mood = Max(verdict->mood, s->mood);
		if (++count <= 5)
			rctl_html(&verdict->items, "<li class=\"%s\">%s <bdi>&quot;%s&quot;</bdi> is %s%s%s.</li>\n",
					  rctl_report_mood(s->mood), s->owned ? "Replica" : "Standby", s->name, s->state,
					  s->message ? ": " : "", s->message);
	}
	if (count > 5)
		rctl_html(&verdict->items, "<li>%d more replicas are not streaming.</li>\n", count - 5);
	if (report->sampled && report->time_to_full >= 0 && report->time_to_full < FULL_WARNING_SECONDS)
	{
		RctlMood	mood = report->time_to_full < FULL_BAD_SECONDS ? RCTL_MOOD_BAD : RCTL_MOOD_WARNING;

		verdict->mood = Max(verdict->mood, mood);
		rctl_html(&verdict->items, "<li class=\"%s\">The disk that holds pg_wal is full in %s%s%s.</li>\n",
				  rctl_report_mood(mood), rctl_report_seconds(report->time_to_full),
				  report->held_by ? "; WAL is held by " : "", report->held_by);
	}
}

static void
put_verdict(StringInfo out, const RctlReport *report, const Verdict *verdict)
{
	const char *const words[] = {
		[RCTL_MOOD_OK] = "All is well.",
		[RCTL_MOOD_WARNING] = "Worth a look.",
		[RCTL_MOOD_BAD] = "Needs action.",
	};

	rctl_html(out, "<div class=\"verdict %s\"><b>%s</b>", rctl_report_mood(verdict->mood), words[verdict->mood]);
	if (verdict->items.len > 0)
	{
		rctl_html(out, "<ul>\n");
		appendBinaryStringInfo(out, verdict->items.data, verdict->items.len);
		rctl_html(out, "</ul>");
	}
	rctl_html(out, "</div>\n");
}

static void
tile(StringInfo out, const char *title, const char *value, const char *note)
{
	rctl_html(out, "<li><span>%s</span> <b>%s</b>", title, value);
	if (note)
		rctl_html(out, " <small><bdi>%s</bdi></small>", note);
	rctl_html(out, "</li>\n");
}

static void
put_tiles(StringInfo out, const RctlReport *report)
{
	int			streaming = 0;
	int			owned = 0;
	int			foreign;
	const RctlReportStandby *worst = NULL;

	for (int i = 0; i < report->nstandbys; i++)
	{
		const RctlReportStandby *s = &report->standbys[i];

		owned += s->owned;
		streaming += s->owned && strcmp(s->state, "streaming") == 0;
		if (!isnan(s->lag) && (worst == NULL || s->lag > worst->lag))
			worst = s;
	}
	foreign = report->nstandbys - owned;
	rctl_html(out, "<ul class=\"tiles\">\n");
	tile(out, "Replicas streaming", psprintf("%d of %d", streaming, owned),
		 foreign > 0 ? psprintf(foreign == 1 ? "and %d standby that is not ours" : "and %d standbys that are not ours", foreign) : NULL);
	tile(out, "Greatest lag", rctl_report_seconds(worst ? worst->lag : NAN), worst ? worst->name : NULL);
	if (report->sampled)
	{
		tile(out, "WAL rate", psprintf("%s/s", rctl_report_bytes(report->wal_rate)), NULL);
		tile(out, "WAL on disk", rctl_report_bytes(report->wal_bytes),
			 report->held_by ? psprintf("held by %s", report->held_by) : NULL);
		tile(out, "Disk free", rctl_report_bytes(report->free_bytes),
			 psprintf("of %s", rctl_report_bytes(report->total_bytes)));
		tile(out, "Time to full",
			 report->time_to_full >= 0 ? rctl_report_seconds(report->time_to_full) : "not in sight", NULL);
		if (report->archive_ready > 0 || report->archive_failed > 0)
			tile(out, "To be archived", psprintf("%d files", report->archive_ready),
				 psprintf("%d attempts failed", report->archive_failed));
	}
	rctl_html(out, "</ul>\n");
}

/* All of the page; run within SPI, what it reads is freed with that. */
static void
put_page(StringInfo out, RctlReport *report, const char *schema)
{
	Verdict		verdict = {RCTL_MOOD_OK};
	StringInfoData tables;

	initStringInfo(&verdict.items);
	initStringInfo(&tables);
	read_standbys(report, schema);
	read_usage(report, schema);
	rctl_report_history(report);
	put_header(out, report, schema, &verdict);
	judge(report, &verdict);

	/* what they find comes first on the page */
	put_operations(&tables, report, schema, &verdict);
	put_slots(&tables, report, schema, &verdict);
	put_disks(&tables, report, schema, &verdict);
	put_events(&tables, report, schema);

	put_verdict(out, report, &verdict);
	put_tiles(out, report);
	rctl_html(out, "<section><h2>Topology</h2>\n");
	rctl_report_topology(out, report);
	rctl_html(out, "</section>\n<section><h2>History</h2>\n");
	rctl_report_charts(out, report);
	rctl_html(out, "</section>\n");
	put_replicas(out, report);
	appendBinaryStringInfo(out, tables.data, tables.len);
	rctl_html(out, "<footer>Made by replica_report() of the extension replica_ctl. Times are in %s.</footer>\n"
			  "</main>\n</body>\n</html>\n", pg_get_timezone_name(session_timezone));
}

/* replica_report(since interval) returns text */
Datum
rctl_sql_report(PG_FUNCTION_ARGS)
{
	char	   *schema = get_namespace_name(get_func_namespace(fcinfo->flinfo->fn_oid));
	RctlReport	report = {.now = GetCurrentTimestamp(), .time_to_full = -1};
	StringInfoData page;

	report.since = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
														   TimestampTzGetDatum(report.now),
														   PG_GETARG_DATUM(0)));
	if (report.since >= report.now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time that a report covers must be greater than zero"),
				 errhint("The default is SELECT replica_report('1 hour').")));
	initStringInfo(&page);
	SPI_connect();
	put_page(&page, &report, quote_identifier(schema));
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(page.data, page.len));
}
