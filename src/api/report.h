/*-------------------------------------------------------------------------
 *
 * report.h
 *	  What the parts of the report have in common.
 *
 * Everything is palloc'd in the memory of the call and read once, so that the
 * parts of a page agree with each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_API_REPORT_H
#define REPLICA_CTL_API_REPORT_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

/* How many points a curve has. */
#define RCTL_REPORT_POINTS 120

typedef enum RctlMood
{
	RCTL_MOOD_OK,
	RCTL_MOOD_WARNING,
	RCTL_MOOD_BAD,
} RctlMood;

/* A standby, ours or not.  Texts may be NULL. */
typedef struct RctlReportStandby
{
	const char *name;			/* application_name if it is not ours */
	bool		owned;
	const char *server;
	const char *state;
	const char *sync_state;
	const char *endpoint;
	const char *upstream;		/* replica that it follows; NULL: this server */
	const char *slot;
	const char *message;
	const char *operation;
	double		lag;			/* seconds; NaN: not known, as for the next
								 * two */
	double		lag_bytes;
	double		slot_bytes;
	RctlMood	mood;
	int			parent;			/* index of the upstream; -1: this server */
	int			children;		/* how many follow it */
	double	   *history;		/* the greatest lag at each point, NaN where
								 * it is not known; NULL: none */
	double		peak;			/* the greatest of all; NaN: none */
} RctlReportStandby;

typedef struct RctlReport
{
	TimestampTz since;			/* what was asked for */
	TimestampTz from;			/* what the charts cover: since then, or since
								 * the first sample */
	TimestampTz now;
	const char *self;			/* what this server is called */
	const char *self_state;
	RctlMood	self_mood;
	RctlReportStandby *standbys;
	int			nstandbys;

	/* this server; valid if it has been sampled */
	bool		sampled;
	double		wal_rate;
	double		wal_bytes;
	double		free_bytes;
	double		total_bytes;
	double		time_to_full;	/* seconds; negative: not in sight */
	const char *held_by;		/* NULL: nothing */
	double		held_bytes;
	int			archive_ready;
	int			archive_failed;

	/* its history, at each point, NaN where it is not known */
	bool		has_history;
	double		rates[RCTL_REPORT_POINTS];
	double		wal_sizes[RCTL_REPORT_POINTS];
	double		slot_sizes[RCTL_REPORT_POINTS];
	double		used[RCTL_REPORT_POINTS];
} RctlReport;

/* "12 MB"; "1.5 s", "3 h 20 min"; a dash for what is not known (NaN). */
extern char *rctl_report_bytes(double bytes);
extern char *rctl_report_seconds(double seconds);

/* "14:03:05", with a date if it is more than a day away from now. */
extern char *rctl_report_clock(TimestampTz at, TimestampTz now);

/* "ok", "warning", "bad": classes of the style sheet. */
extern const char *rctl_report_mood(RctlMood mood);

/* report_history.c: fills in the history, and "from". */
extern void rctl_report_history(RctlReport *report);
extern void rctl_report_charts(StringInfo out, const RctlReport *report);
extern void rctl_report_sparkline(StringInfo out, const RctlReportStandby *standby);

/* report_style.c: the style sheet. */
extern const char rctl_report_style[];

/* report_topology.c: the tree of servers. */
extern void rctl_report_topology(StringInfo out, RctlReport *report);

#endif							/* REPLICA_CTL_API_REPORT_H */
