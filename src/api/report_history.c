/*-------------------------------------------------------------------------
 *
 * report_history.c
 *	  The history in the report: charts and sparklines, as SVG.
 *
 * The drawings are stretched to the width of the page, their labels are HTML
 * beside them: so a chart can be read on a phone and on paper.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "api/report.h"
#include "net/html.h"
#include "primary/samples.h"
#include "settings.h"

#define WIDTH 1000.0
#define HEIGHT 200.0

/* So many replicas have a curve of their own, in as many colours. */
#define MAX_CURVES 8

typedef char *(*Label) (double value);

typedef struct Curve
{
	const char *label;
	const double *values;		/* at each point */
	int			colour;
	bool		area;			/* filled down to zero */
} Curve;

/* ---------------------------------------------------------------------
 * Reading
 * ---------------------------------------------------------------------
 */

static double *
unknown_values(double *values)
{
	if (values == NULL)
		values = palloc(sizeof(double) * RCTL_REPORT_POINTS);
	for (int i = 0; i < RCTL_REPORT_POINTS; i++)
		values[i] = NAN;
	return values;
}

/* A point stands for many samples: for the worst of them. */
static void
keep_greatest(double *values, int point, double value)
{
	if (!isnan(value) && (isnan(values[point]) || value > values[point]))
		values[point] = value;
}

/* Samples can be wider apart than points: joins what is not more than so many points apart. */
static void
bridge(double *values, int most)
{
	int			last = -1;

	for (int i = 0; i < RCTL_REPORT_POINTS; i++)
	{
		if (isnan(values[i]))
			continue;
		for (int j = last + 1; last >= 0 && i - last <= most && j < i; j++)
			values[j] = values[last] + (values[i] - values[last]) * (j - last) / (i - last);
		last = i;
	}
}

void
rctl_report_history(RctlReport *report)
{
	RctlSamples *samples = rctl_samples_read();
	RctlHistoryRow *rows;
	float4	   *lags;
	int			nreplicas;
	int			nrows = rctl_history_read(&rows, &lags, &nreplicas);
	RctlReportStandby **owners = palloc0(sizeof(*owners) * (nreplicas + 1));
	TimestampTz first = report->now;
	int			most;

	unknown_values(report->rates);
	unknown_values(report->wal_sizes);
	unknown_values(report->slot_sizes);
	unknown_values(report->used);
	for (int j = 0; j < nreplicas; j++)
	{
		for (int i = 0; samples->replicas[j].id != 0 && i < report->nstandbys; i++)
		{
			RctlReportStandby *s = &report->standbys[i];

			if (s->owned && strcmp(s->name, samples->replicas[j].name) == 0)
			{
				s->history = unknown_values(NULL);
				owners[j] = s;
			}
		}
	}

	/* the system's clock may have stepped: times need not be in order */
	for (int i = 0; i < nrows; i++)
	{
		if (rows[i].at >= report->since)
			first = Min(first, rows[i].at);
	}
	report->from = Max(report->since, Min(first, report->now - 10 * USECS_PER_SEC));
	for (int i = 0; i < nrows; i++)
	{
		RctlHistoryRow *h = &rows[i];
		int			point;

		CHECK_FOR_INTERRUPTS();
		if (h->at < report->from || h->at > report->now)
			continue;
		point = (int) ((double) (h->at - report->from) / (report->now - report->from) * (RCTL_REPORT_POINTS - 1));
		report->has_history = true;
		keep_greatest(report->rates, point, h->wal_rate);
		keep_greatest(report->wal_sizes, point, h->wal_bytes);
		keep_greatest(report->slot_sizes, point, h->oldest_slot_bytes);
		keep_greatest(report->used, point, (double) h->total_bytes - (double) h->free_bytes);
		for (int j = 0; j < nreplicas; j++)
		{
			float4		lag = lags[(Size) i * nreplicas + j];

			if (owners[j] && !isnan(lag))
			{
				keep_greatest(owners[j]->history, point, lag);
				owners[j]->peak = isnan(owners[j]->peak) ? lag : Max(owners[j]->peak, lag);
			}
		}
	}
	most = 3 + 3 * (RCTL_REPORT_POINTS - 1) * (rctl_sample_interval * INT64CONST(1000)) / (report->now - report->from);
	bridge(report->rates, most);
	bridge(report->wal_sizes, most);
	bridge(report->slot_sizes, most);
	bridge(report->used, most);
	for (int i = 0; i < report->nstandbys; i++)
	{
		if (report->standbys[i].history)
			bridge(report->standbys[i].history, most);
	}
}

/* ---------------------------------------------------------------------
 * Drawing
 * ---------------------------------------------------------------------
 */

/* The line through the values from point "from" up to the one before "to". */
static void
draw_line(StringInfo out, const double *values, int from, int to, double width, double height, double top)
{
	for (int i = from; i < to; i++)
	{
		/* what lies on a level line between its neighbours adds nothing */
		if (i > from && i < to - 1 && values[i] == values[i - 1] && values[i] == values[i + 1])
			continue;
		rctl_html(out, "%.1f %.1f ", i * width / (RCTL_REPORT_POINTS - 1), height - values[i] / top * height);
	}
}

static void
draw_curve(StringInfo out, const Curve *curve, double width, double height, double top)
{
	for (int from = 0; from < RCTL_REPORT_POINTS;)
	{
		int			to = from;

		while (to < RCTL_REPORT_POINTS && !isnan(curve->values[to]))
			to++;
		if (to == from)
		{
			from++;
			continue;
		}
		if (curve->area)
		{
			rctl_html(out, "<path class=\"area c%d\" d=\"M%.1f %.1fL", curve->colour,
					  from * width / (RCTL_REPORT_POINTS - 1), height);
			draw_line(out, curve->values, from, to, width, height, top);
			rctl_html(out, "%.1f %.1fZ\"></path>", (to - 1) * width / (RCTL_REPORT_POINTS - 1), height);
		}
		rctl_html(out, "<path class=\"curve c%d\" d=\"M", curve->colour);
		draw_line(out, curve->values, from, to, width, height, top);
		/* a single point is drawn as well */
		rctl_html(out, "h.1\"></path>");
		from = to;
	}
}

/* The next round number: 1, 2, 5, 10 ...; of bytes 1, 2, 4 ... 512 of a unit. */
static double
round_up(double value, bool bytes)
{
	double		top = bytes ? 1024 : 0.001;

	while (top < value)
	{
		if (bytes)
			top *= 2;
		else if (top * 2 >= value)
			top *= 2;
		else if (top * 5 >= value)
			top *= 5;
		else
			top *= 10;
	}
	return top;
}

static double
greatest(const Curve *curves, int count)
{
	double		result = 0;

	for (int i = 0; i < count; i++)
	{
		for (int j = 0; j < RCTL_REPORT_POINTS; j++)
		{
			if (curves[i].values[j] > result)
				result = curves[i].values[j];
		}
	}
	return result;
}

/* Opens a chart: heading and the labels of its height. */
static void
begin_chart(StringInfo out, const char *title, const char *note, double top, Label label)
{
	rctl_html(out, "<figure class=\"chart\"><figcaption><b>%s</b> <span>%s</span></figcaption>"
			  "<div class=\"plot\"><div class=\"y\"><span>%s</span><span>%s</span><span>0</span></div>"
			  "<svg viewBox=\"0 0 1000 200\" preserveAspectRatio=\"none\" role=\"img\"><title>%s: %s</title>"
			  "<path class=\"grid\" d=\"M0 0H1000M0 100H1000M0 200H1000\"></path>",
			  title, note, label(top), label(top / 2), title, note);
}

/* Closes it: the labels of its width, and what the colours mean. */
static void
end_chart(StringInfo out, const RctlReport *report, double now_at, TimestampTz until,
		  const Curve *curves, int count, const char *forecast)
{
	rctl_html(out, "</svg><div class=\"x\"><span>%s</span>", rctl_report_clock(report->from, report->now));
	if (now_at < 1)
		rctl_html(out, "<span class=\"mid\" style=\"left:%.1f%%\">now</span>", now_at * 100);
	rctl_html(out, "<span>%s</span></div></div><ul class=\"legend\">", rctl_report_clock(until, report->now));
	for (int i = 0; i < count; i++)
		rctl_html(out, "<li class=\"c%d\"><bdi>%s</bdi></li>", curves[i].colour, curves[i].label);
	if (forecast)
		rctl_html(out, "<li class=\"dashed\">%s</li>", forecast);
	rctl_html(out, "</ul></figure>\n");
}

static void
draw_chart(StringInfo out, const RctlReport *report, const char *title, const char *note,
		   const Curve *curves, int count, Label label)
{
	double		top = round_up(greatest(curves, count), label != rctl_report_seconds);

	begin_chart(out, title, note, top, label);
	for (int i = 0; i < count; i++)
		draw_curve(out, &curves[i], WIDTH, HEIGHT, top);
	end_chart(out, report, 1, report->now, curves, count, NULL);
}

static char *
rate_label(double value)
{
	return psprintf("%s/s", rctl_report_bytes(value));
}

/* The replicas that lagged most; a curve each. */
static void
draw_lag(StringInfo out, const RctlReport *report)
{
	Curve		curves[MAX_CURVES];
	bool	   *taken = palloc0(report->nstandbys + 1);
	double		worst = NAN;
	int			known = 0;
	int			count = 0;

	for (int i = 0; i < report->nstandbys; i++)
		known += !isnan(report->standbys[i].peak);
	while (count < Min(known, MAX_CURVES))
	{
		int			best = -1;

		for (int i = 0; i < report->nstandbys; i++)
		{
			if (!taken[i] && !isnan(report->standbys[i].peak) &&
				(best < 0 || report->standbys[i].peak > report->standbys[best].peak))
				best = i;
		}
		taken[best] = true;
		if (count == 0)
			worst = report->standbys[best].peak;
		curves[count] = (Curve)
		{
			.label = report->standbys[best].name, .values = report->standbys[best].history, .colour = count
		};
		count++;
	}
	if (count == 0)
		return;
	draw_chart(out, report, "Lag of replay",
			   known > count ?
			   psprintf("the %d of %d replicas that lagged most; at most %s", count, known, rctl_report_seconds(worst)) :
			   psprintf("at most %s", rctl_report_seconds(worst)),
			   curves, count, rctl_report_seconds);
}

/*
 * Space in use, and where it leads to.  What lies ahead takes as much room as
 * it needs to show the end if that is near, else a third of the chart.
 */
static void
draw_disk(StringInfo out, const RctlReport *report)
{
	double		past = (report->now - report->from) / (double) USECS_PER_SEC;
	double		used = report->total_bytes - report->free_bytes;
	double		now_at = 1;
	double		ahead = 0;
	Curve		curve = {.label = "in use", .values = report->used, .colour = 0, .area = true};
	char	   *note = psprintf("%s free of %s", rctl_report_bytes(report->free_bytes),
								rctl_report_bytes(report->total_bytes));

	if (report->total_bytes <= 0)
		return;
	if (report->time_to_full >= 0)
	{
		ahead = report->time_to_full < 2 * past ? Max(report->time_to_full * 1.1, past / 10) : past / 2;
		now_at = past / (past + ahead);
		note = psprintf("%s; full in %s", note, rctl_report_seconds(report->time_to_full));
	}
	begin_chart(out, "Disk that holds pg_wal", note, report->total_bytes, rctl_report_bytes);
	draw_curve(out, &curve, WIDTH * now_at, HEIGHT, report->total_bytes);
	if (ahead > 0)
	{
		double		part = report->time_to_full > 0 ? Min(ahead / report->time_to_full, 1) : 1;
		double		end = used + report->free_bytes * part;
		double		x = WIDTH * (now_at + (1 - now_at) * Min(report->time_to_full / ahead, 1));

		rctl_html(out, "<path class=\"now\" d=\"M%.1f 0V200\"></path>"
				  "<path class=\"forecast\" d=\"M%.1f %.1fL%.1f %.1f\"></path>",
				  WIDTH * now_at, WIDTH * now_at, HEIGHT - used / report->total_bytes * HEIGHT,
				  x, HEIGHT - end / report->total_bytes * HEIGHT);
	}
	end_chart(out, report, now_at, report->now + (TimestampTz) (ahead * USECS_PER_SEC), &curve, 1,
			  ahead > 0 ? "forecast" : NULL);
}

void
rctl_report_charts(StringInfo out, const RctlReport *report)
{
	Curve		rate = {.label = "WAL written", .values = report->rates, .colour = 0, .area = true};
	Curve		sizes[] = {
		{.label = "pg_wal", .values = report->wal_sizes, .colour = 0, .area = true},
		{.label = "kept by the slot that keeps most", .values = report->slot_sizes, .colour = 1},
	};

	if (!report->has_history)
	{
		rctl_html(out, "<p class=\"note\">No samples of this time yet: the monitor takes them on a primary whose "
				  "<code>shared_preload_libraries</code> has <code>replica_ctl</code>.</p>\n");
		return;
	}
	rctl_html(out, "<div class=\"charts\">\n");
	draw_lag(out, report);
	draw_chart(out, report, "WAL rate",
			   psprintf("%s now", rate_label(report->wal_rate)), &rate, 1, rate_label);
	draw_chart(out, report, "WAL on disk",
			   report->held_by ? psprintf("%s, held by %s", rctl_report_bytes(report->wal_bytes), report->held_by) :
			   rctl_report_bytes(report->wal_bytes),
			   sizes, lengthof(sizes), rctl_report_bytes);
	if (report->sampled)
		draw_disk(out, report);
	rctl_html(out, "</div>\n");
}

void
rctl_report_sparkline(StringInfo out, const RctlReportStandby *standby)
{
	Curve		curve = {.values = standby->history};

	if (standby->history == NULL || isnan(standby->peak))
		return;
	rctl_html(out, "<svg class=\"spark\" viewBox=\"0 0 100 20\" preserveAspectRatio=\"none\" role=\"img\">"
			  "<title>at most %s</title>", rctl_report_seconds(standby->peak));
	/* below a second a curve would show noise as if it were trouble */
	draw_curve(out, &curve, 100, 20, Max(standby->peak, 1) * 1.1);
	rctl_html(out, "</svg>");
}
