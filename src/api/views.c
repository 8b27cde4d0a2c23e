/*-------------------------------------------------------------------------
 *
 * views.c
 *	  Set-returning functions under the monitoring views.
 *
 * They read shared memory and return at once, whatever hangs elsewhere.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "primary/forecast.h"
#include "primary/standbys.h"

PG_FUNCTION_INFO_V1(rctl_sql_disks);
PG_FUNCTION_INFO_V1(rctl_sql_metrics);
PG_FUNCTION_INFO_V1(rctl_sql_metrics_history);
PG_FUNCTION_INFO_V1(rctl_sql_slots);
PG_FUNCTION_INFO_V1(rctl_sql_standbys);
PG_FUNCTION_INFO_V1(rctl_sql_wal_usage);

#define MEGABYTE 1048576.0

/* A row that is put together column by column. */
#define MAX_COLUMNS 20
typedef struct Row
{
	Datum		values[MAX_COLUMNS];
	bool		nulls[MAX_COLUMNS];
	int			count;
} Row;

static void
add(Row *row, Datum value)
{
	Assert(row->count < MAX_COLUMNS);
	row->nulls[row->count] = false;
	row->values[row->count++] = value;
}

static void
add_null(Row *row)
{
	Assert(row->count < MAX_COLUMNS);
	row->nulls[row->count] = true;
	row->values[row->count++] = (Datum) 0;
}

/* NULL and "" are null. */
static void
add_text(Row *row, const char *text)
{
	if (text &&text[0] != '\0')
		add(row, CStringGetTextDatum(text));
	else
		add_null(row);
}

static void
add_lsn(Row *row, XLogRecPtr lsn)
{
	if (lsn != InvalidXLogRecPtr)
		add(row, LSNGetDatum(lsn));
	else
		add_null(row);
}

static void
add_interval(Row *row, int64 microseconds)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = microseconds;
	add(row, IntervalPGetDatum(interval));
}

static void
add_time(Row *row, TimestampTz time)
{
	if (time != 0)
		add(row, TimestampTzGetDatum(time));
	else
		add_null(row);
}

static void
put(ReturnSetInfo *rsinfo, Row *row)
{
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row->values, row->nulls);
	row->count = 0;
}

/* ---------------------------------------------------------------------
 * Standbys
 * ---------------------------------------------------------------------
 */

static void
add_lag_bytes(Row *row, XLogRecPtr lsn, const RctlWalEnd *end)
{
	if (lsn == InvalidXLogRecPtr)
		add_null(row);
	else
		add(row, Int64GetDatum(end->flush > lsn ? (int64) (end->flush - lsn) : 0));
}

static void
add_lag(Row *row, XLogRecPtr lsn, const RctlWalEnd *end)
{
	int64		lag;

	if (lsn != InvalidXLogRecPtr && rctl_clock_lag(lsn, end, &lag))
		add_interval(row, lag);
	else
		add_null(row);
}

Datum
rctl_sql_standbys(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlSamples *samples;
	RctlStandby *standbys;
	RctlWalEnd	end;
	int			count;
	Row			row = {.count = 0};

	InitMaterializedSRF(fcinfo, 0);
	samples = rctl_samples_read();
	count = rctl_standbys(samples, &end, &standbys);
	for (int i = 0; i < count; i++)
	{
		RctlStandby *s = &standbys[i];
		const RctlReplicaSample *r = s->replica;

		if (r)
			add(&row, Int64GetDatum(r->id));
		else
			add_null(&row);
		add_text(&row, s->application_name);
		add_text(&row, s->client_addr);
		add_text(&row, s->state);
		add_text(&row, s->sync_state);
		add(&row, BoolGetDatum(s->connected));
		add_lsn(&row, s->sent);
		add_lsn(&row, s->write);
		add_lsn(&row, s->flush);
		add_lsn(&row, s->replay);
		add_lag_bytes(&row, s->sent, &end);
		add_lag_bytes(&row, s->write, &end);
		add_lag(&row, s->write, &end);
		add_lag_bytes(&row, s->flush, &end);
		add_lag(&row, s->flush, &end);
		add_lag_bytes(&row, s->replay, &end);
		add_lag(&row, s->replay, &end);
		if (r && r->timeline != 0)
			add(&row, Int32GetDatum(r->timeline));
		else
			add_null(&row);
		add_text(&row, r ? r->reason : NULL);
		put(rsinfo, &row);
	}
	return (Datum) 0;
}

/* ---------------------------------------------------------------------
 * Slots, WAL and disk
 * ---------------------------------------------------------------------
 */

static const char *
wal_status_name(RctlWalStatus status)
{
	switch (status)
	{
		case RCTL_WAL_NONE:
			break;
		case RCTL_WAL_RESERVED:
			return "reserved";
		case RCTL_WAL_EXTENDED:
			return "extended";
		case RCTL_WAL_UNRESERVED:
			return "unreserved";
		case RCTL_WAL_LOST:
			return "lost";
	}
	return NULL;
}

Datum
rctl_sql_slots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlSamples *samples;
	RctlSlotFact *facts;
	RctlWalEnd	end;
	int			count;
	Row			row = {.count = 0};

	InitMaterializedSRF(fcinfo, 0);
	samples = rctl_samples_read();
	count = rctl_observe_slots(&facts);
	rctl_wal_end(&end);
	for (int i = 0; i < count; i++)
	{
		RctlSlotFact *f = &facts[i];
		const RctlSlotSample *sample = rctl_samples_slot(samples, f->name);
		RctlJudgement judgement;

		rctl_judge_slot(f, sample, &samples->server, end.flush, &judgement);
		add_text(&row, f->name);
		add_text(&row, f->physical ? "physical" : "logical");
		add(&row, BoolGetDatum(f->active_pid != 0));
		add_text(&row, wal_status_name(f->wal_status));
		add_lsn(&row, f->restart_lsn);
		add_lag_bytes(&row, f->restart_lsn, &end);
		if (sample)
			add(&row, Float8GetDatum(sample->growth));
		else
			add_null(&row);
		add_time(&row, sample && f->active_pid == 0 ? sample->inactive_since : 0);
		add_text(&row, rctl_verdict_name(judgement.verdict));
		add_text(&row, judgement.advice);
		put(rsinfo, &row);
	}
	return (Datum) 0;
}

/* No row before the first sample, and on a standby. */
Datum
rctl_sql_wal_usage(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlServerSample *s;
	Row			row = {.count = 0};

	InitMaterializedSRF(fcinfo, 0);
	s = &rctl_samples_read()->server;
	if (s->mono == 0)
		return (Datum) 0;
	add(&row, Int64GetDatum((int64) s->wal_bytes));
	add(&row, Int64GetDatum(s->wal_segments));
	add(&row, Float8GetDatum(s->wal_rate));
	add(&row, Int64GetDatum((int64) s->free_bytes));
	add(&row, Int64GetDatum((int64) s->total_bytes));
	if (s->time_to_full >= 0)
		add_interval(&row, (int64) (s->time_to_full * USECS_PER_SEC));
	else
		add_null(&row);
	add_text(&row, s->held_by);
	add(&row, Int64GetDatum((int64) s->held_bytes));
	add(&row, Int64GetDatum(s->archive_ready));
	add(&row, Int64GetDatum(s->archive_failed));
	put(rsinfo, &row);
	return (Datum) 0;
}

/* The names of the replicas that use a disk. */
static Datum
users_of_disk(const RctlSamples *samples, int disk)
{
	Datum	   *names = palloc(sizeof(Datum) * samples->nreplicas);
	int			count = 0;

	for (int i = 0; i < samples->nreplicas; i++)
	{
		RctlReplicaSample *r = &samples->replicas[i];

		if (r->id != 0 && (r->disks & (UINT64CONST(1) << disk)) != 0)
			names[count++] = CStringGetDatum(r->name);
	}
	return PointerGetDatum(construct_array(names, count, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
}

Datum
rctl_sql_disks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlSamples *samples;
	Row			row = {.count = 0};

	InitMaterializedSRF(fcinfo, 0);
	samples = rctl_samples_read();
	for (int i = 0; i < samples->ndisks; i++)
	{
		const RctlDiskSample *d = &samples->disks[i];
		double		seconds = rctl_disk_time_to_full(d);

		if (d->path[0] == '\0' || d->total_bytes == 0)
			continue;
		/* Of pg_wal more is known than how much is free. */
		if (d->wal)
			seconds = samples->server.time_to_full;
		add_text(&row, d->path);
		add(&row, BoolGetDatum(d->wal));
		add(&row, BoolGetDatum(d->data));
		add(&row, users_of_disk(samples, i));
		add(&row, Int64GetDatum((int64) d->free_bytes));
		add(&row, Int64GetDatum((int64) d->total_bytes));
		add(&row, Float8GetDatum(d->growth));
		if (seconds >= 0)
			add_interval(&row, (int64) (seconds * USECS_PER_SEC));
		else
			add_null(&row);
		put(rsinfo, &row);
	}
	return (Datum) 0;
}

/* ---------------------------------------------------------------------
 * Metrics
 * ---------------------------------------------------------------------
 */

/* The room in the fullest file system that a replica on this host uses; negative: it uses none. */
static double
free_space_of(const RctlSamples *samples, const RctlReplicaSample *replica)
{
	double		least = -1;

	for (int i = 0; i < samples->ndisks; i++)
	{
		const RctlDiskSample *d = &samples->disks[i];

		if ((replica->disks & (UINT64CONST(1) << i)) != 0 && d->total_bytes > 0 &&
			(least < 0 || d->free_bytes < least))
			least = d->free_bytes;
	}
	return least;
}

/* source NULL: there is no such column. */
static void
put_metric(ReturnSetInfo *rsinfo, const char *metric, const char *replica, double value,
		   const char *unit, TimestampTz at, const char *source)
{
	Row			row = {.count = 0};

	add_text(&row, metric);
	add_text(&row, replica);
	if (isnan(value))
		add_null(&row);
	else
		add(&row, Float8GetDatum(value));
	add_text(&row, unit);
	add_time(&row, at);
	if (source)
		add_text(&row, source);
	put(rsinfo, &row);
}

/* The metrics that Amazon's and Aiven's users know, by those names and in those units. */
static void
put_server_metrics(ReturnSetInfo *rsinfo, TimestampTz at, double free_bytes, double oldest_slot_bytes,
				   double wal_bytes, const char *source)
{
	put_metric(rsinfo, "FreeStorageSpace", NULL, free_bytes, "Bytes", at, source);
	put_metric(rsinfo, "OldestReplicationSlotLag", NULL, oldest_slot_bytes / MEGABYTE, "Megabytes", at, source);
	put_metric(rsinfo, "TransactionLogsDiskUsage", NULL, wal_bytes / MEGABYTE, "Megabytes", at, source);
}

static void
put_replica_metrics(ReturnSetInfo *rsinfo, const RctlReplicaSample *replica, TimestampTz at,
					double lag, const char *source)
{
	put_metric(rsinfo, "ReplicaLag", replica->name, lag, "Seconds", at, source);
	if (strcmp(replica->provider, "aws") == 0)
		put_metric(rsinfo, "RDSToAuroraPostgreSQLReplicaLag", replica->name, lag, "Seconds", at, source);
}

Datum
rctl_sql_metrics(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlSamples *samples;
	RctlStandby *standbys;
	RctlWalEnd	end;
	TimestampTz now;
	int			count;

	InitMaterializedSRF(fcinfo, 0);
	samples = rctl_samples_read();
	if (samples->server.mono != 0)
		put_server_metrics(rsinfo, samples->server.at, samples->server.free_bytes,
						   samples->server.oldest_slot_bytes, samples->server.wal_bytes, "monitor");
	for (int i = 0; i < samples->nreplicas; i++)
	{
		const RctlReplicaSample *r = &samples->replicas[i];
		double		free_bytes = r->id != 0 ? free_space_of(samples, r) : -1;

		if (free_bytes >= 0)
			put_metric(rsinfo, "FreeStorageSpace", r->name, free_bytes, "Bytes", samples->server.at, "monitor");
	}
	count = rctl_standbys(samples, &end, &standbys);
	now = GetCurrentTimestamp();
	for (int i = 0; i < count; i++)
	{
		RctlStandby *s = &standbys[i];
		int64		lag;

		if (s->replica == NULL)
			continue;
		put_replica_metrics(rsinfo, s->replica, now,
							s->replay != InvalidXLogRecPtr && rctl_clock_lag(s->replay, &end, &lag) ?
							lag / 1000000.0 : NAN, "monitor");
	}
	return (Datum) 0;
}

Datum
rctl_sql_metrics_history(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlSamples *samples;
	RctlHistoryRow *rows;
	float4	   *lags;
	int			nrows;
	int			nreplicas;

	InitMaterializedSRF(fcinfo, 0);
	samples = rctl_samples_read();
	nrows = rctl_history_read(&rows, &lags, &nreplicas);
	for (int i = 0; i < nrows; i++)
	{
		RctlHistoryRow *h = &rows[i];

		CHECK_FOR_INTERRUPTS();
		put_server_metrics(rsinfo, h->at, h->free_bytes, h->oldest_slot_bytes, h->wal_bytes, NULL);
		for (int j = 0; j < nreplicas; j++)
		{
			float4		lag = lags[(Size) i * nreplicas + j];

			if (samples->replicas[j].id != 0 && !isnan(lag))
				put_replica_metrics(rsinfo, &samples->replicas[j], h->at, lag, NULL);
		}
	}
	return (Datum) 0;
}
