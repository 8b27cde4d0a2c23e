/*-------------------------------------------------------------------------
 *
 * report_topology.c
 *	  The tree of servers in the report, drawn as SVG: one line a server, its
 *	  lag on the edge that leads to it.
 *
 * It grows downwards like a directory tree, so that it fits on a phone.  Of
 * many standbys of one server those that need a look are drawn, the others
 * become one box.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"

#include "api/report.h"
#include "net/html.h"

#define ROW 60
#define BOX_WIDTH 220
#define BOX_HEIGHT 46
#define INDENT 92				/* from box to box, the length of an edge */
#define STEM 16					/* where in a box the edges begin */

/* More standbys of one server than this are summed up, and so many are drawn. */
#define MAX_CHILDREN 16
#define DRAWN_CHILDREN 12

typedef struct Drawing
{
	StringInfo	out;
	const RctlReport *report;
	int		   *order;			/* the standbys, the worst first */
	int			rows;
	int			depth;
} Drawing;

/* For qsort_arg. */
static int
compare_standbys(const void *a, const void *b, void *arg)
{
	const RctlReport *report = arg;
	const RctlReportStandby *left = &report->standbys[*(const int *) a];
	const RctlReportStandby *right = &report->standbys[*(const int *) b];
	double		left_lag = isnan(left->lag) ? -1 : left->lag;
	double		right_lag = isnan(right->lag) ? -1 : right->lag;

	if (left->mood != right->mood)
		return left->mood > right->mood ? -1 : 1;
	if (rint(left_lag) != rint(right_lag))
		return left_lag > right_lag ? -1 : 1;
	return strcmp(left->name, right->name);
}

/*
 * Finds each standby's parent.  One whose upstream is not on record, or that
 * follows itself in the end, is drawn below this server.
 */
static void
find_parents(RctlReport *report)
{
	for (int i = 0; i < report->nstandbys; i++)
	{
		RctlReportStandby *s = &report->standbys[i];

		s->parent = -1;
		for (int j = 0; s->upstream && j < report->nstandbys; j++)
		{
			if (report->standbys[j].owned && strcmp(report->standbys[j].name, s->upstream) == 0)
				s->parent = j;
		}
	}
	for (int i = 0; i < report->nstandbys; i++)
	{
		int			at = i;

		for (int steps = 0; at >= 0 && steps <= report->nstandbys; steps++)
			at = report->standbys[at].parent;
		if (at >= 0)
			report->standbys[i].parent = -1;
	}
	for (int i = 0; i < report->nstandbys; i++)
	{
		if (report->standbys[i].parent >= 0)
			report->standbys[report->standbys[i].parent].children++;
	}
}

/* A box in row and column; kind is its class. */
static void
draw_box(Drawing *d, int depth, const char *kind, const char *name, const char *line, const char *title)
{
	rctl_html(d->out, "<g class=\"%s\" transform=\"translate(%d %d)\" clip-path=\"url(#box)\"><title>%s</title>"
			  "<rect class=\"box\" x=\"1\" y=\"1\" width=\"%d\" height=\"%d\" rx=\"8\"></rect>"
			  "<rect class=\"edge\" x=\"1\" y=\"9\" width=\"4\" height=\"%d\"></rect>"
			  "<text class=\"name\" x=\"14\" y=\"20\">%s</text><text class=\"line\" x=\"14\" y=\"36\">%s</text></g>\n",
			  kind, depth * INDENT, d->rows * ROW + 6, title,
			  BOX_WIDTH - 2, BOX_HEIGHT - 2, BOX_HEIGHT - 18, name, line);
	d->depth = Max(d->depth, depth);
	d->rows++;
}

/* From the box in a row to the place of the next box. */
static void
draw_edge(Drawing *d, int parent_row, int depth, const char *kind, const char *above, const char *below)
{
	int			x = (depth - 1) * INDENT + STEM;
	int			y = d->rows * ROW + 6 + BOX_HEIGHT / 2;

	rctl_html(d->out, "<path class=\"edge %s\" d=\"M%d %dV%dq0 8 8 8H%d\"></path>",
			  kind, x, parent_row * ROW + 6 + BOX_HEIGHT, y - 8, depth * INDENT);
	rctl_html(d->out, "<text class=\"lag\" x=\"%d\" y=\"%d\">%s</text><text class=\"bytes\" x=\"%d\" y=\"%d\">%s</text>\n",
			  x + (INDENT - STEM) / 2 + 2, y - 5, above, x + (INDENT - STEM) / 2 + 2, y + 14, below);
}

/* The text under a name: "streaming, sync, 10.0.0.7:5432". */
static char *
describe(const RctlReportStandby *s)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, s->state);
	if (s->sync_state && strcmp(s->sync_state, "async") != 0)
		appendStringInfo(&text, ", %s", s->sync_state);
	if (s->endpoint)
		appendStringInfo(&text, ", %s", s->endpoint);
	else if (!s->owned)
		appendStringInfoString(&text, ", not ours");
	return text.data;
}

/* What is left out of the standbys of a server, as one box. */
static void
draw_others(Drawing *d, int parent_row, int depth, const int *others, int count)
{
	double		lag = NAN;
	int			moods[RCTL_MOOD_BAD + 1] = {0};
	RctlMood	worst = RCTL_MOOD_OK;
	char	   *line;

	for (int i = 0; i < count; i++)
	{
		const RctlReportStandby *s = &d->report->standbys[others[i]];

		moods[s->mood]++;
		worst = Max(worst, s->mood);
		lag = isnan(lag) ? s->lag : isnan(s->lag) ? lag : Max(lag, s->lag);
	}
	if (worst == RCTL_MOOD_OK)
		line = pstrdup("all are well");
	else
		line = psprintf("%d well, %d changing, %d not", moods[RCTL_MOOD_OK],
						moods[RCTL_MOOD_WARNING], moods[RCTL_MOOD_BAD]);
	draw_edge(d, parent_row, depth, rctl_report_mood(worst), rctl_report_seconds(lag), isnan(lag) ? "" : "at most");
	draw_box(d, depth, psprintf("others %s", rctl_report_mood(worst)), psprintf("%d more", count), line,
			 "The table of replicas has them all.");
}

static void
draw_children(Drawing *d, int parent, int parent_row, int depth)
{
	const RctlReport *report = d->report;
	int		   *others = palloc(sizeof(int) * (report->nstandbys + 1));
	int			nothers = 0;
	int			leaves = 0;
	int			drawn = 0;

	for (int i = 0; i < report->nstandbys; i++)
	{
		if (report->standbys[i].parent == parent && report->standbys[i].children == 0)
			leaves++;
	}
	for (int i = 0; i < report->nstandbys; i++)
	{
		int			index = d->order[i];
		const RctlReportStandby *s = &report->standbys[index];
		bool		leaf;
		int			row;

		if (s->parent != parent)
			continue;
		leaf = s->children == 0;
		if (leaf && leaves > MAX_CHILDREN && drawn >= DRAWN_CHILDREN)
		{
			others[nothers++] = index;
			continue;
		}
		drawn += leaf;
		row = d->rows;
		draw_edge(d, parent_row, depth, rctl_report_mood(s->mood), rctl_report_seconds(s->lag),
				  isnan(s->lag_bytes) ? "" : rctl_report_bytes(s->lag_bytes));
		draw_box(d, depth, psprintf("%s%s", s->owned ? "" : "foreign ", rctl_report_mood(s->mood)),
				 s->name, describe(s), psprintf("%s: %s", s->name, describe(s)));
		check_stack_depth();
		draw_children(d, index, row, depth + 1);
	}
	if (nothers > 0)
		draw_others(d, parent_row, depth, others, nothers);
	pfree(others);
}

void
rctl_report_topology(StringInfo out, RctlReport *report)
{
	StringInfoData body;
	Drawing		d = {.out = &body, .report = report};
	int			width;

	initStringInfo(&body);
	find_parents(report);
	d.order = palloc(sizeof(int) * (report->nstandbys + 1));
	for (int i = 0; i < report->nstandbys; i++)
		d.order[i] = i;
	qsort_arg(d.order, report->nstandbys, sizeof(int), compare_standbys, report);
	draw_box(&d, 0, psprintf("self %s", rctl_report_mood(report->self_mood)), report->self, report->self_state,
			 report->self);
	draw_children(&d, -1, 0, 1);

	/* only now it is known how large it is */
	width = d.depth * INDENT + BOX_WIDTH;
	rctl_html(out, "<div class=\"wide\" role=\"region\" aria-label=\"Topology\" tabindex=\"0\">"
			  "<svg class=\"topology\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">"
			  "<title>This server and its standbys, with their lag</title>"
			  "<clipPath id=\"box\"><rect width=\"%d\" height=\"%d\"></rect></clipPath>\n",
			  width, d.rows * ROW, width, d.rows * ROW, BOX_WIDTH, BOX_HEIGHT);
	appendBinaryStringInfo(out, body.data, body.len);
	rctl_html(out, "</svg></div>\n");
	if (report->nstandbys == 0)
		rctl_html(out, "<p class=\"note\">No replicas. <code>SELECT replica_create('r1');</code> makes one.</p>\n");
}
