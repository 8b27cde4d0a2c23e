/*-------------------------------------------------------------------------
 *
 * service_views.c
 *	  SQL functions under the views that show what services tell about the
 *	  replicas they run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "primary/services.h"

PG_FUNCTION_INFO_V1(rctl_sql_services);
PG_FUNCTION_INFO_V1(rctl_sql_service_metrics);

static Datum
text_or_null(const char *text, bool *isnull)
{
	*isnull = *text == '\0';
	return *isnull ? (Datum) 0 : CStringGetTextDatum(text);
}

static Datum
interval_of(double seconds)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = (int64) (seconds * USECS_PER_SEC);
	return IntervalPGetDatum(interval);
}

Datum
rctl_sql_services(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlServiceSample *samples;
	int			count;

	InitMaterializedSRF(fcinfo, 0);
	count = rctl_services_read(&samples);
	for (int i = 0; i < count; i++)
	{
		const RctlServiceSample *s = &samples[i];
		Datum		values[9] = {0};
		bool		nulls[9] = {0};

		values[0] = Int64GetDatum(s->id);
		values[1] = TimestampTzGetDatum(s->polled_at);
		nulls[1] = s->polled_at == 0;
		values[2] = text_or_null(s->status, &nulls[2]);
		values[3] = Int32GetDatum(s->percent);
		nulls[3] = s->percent < 0;
		values[4] = BoolGetDatum(s->streaming);
		nulls[4] = !s->streaming_known || s->fresh_until < GetCurrentTimestamp();
		values[5] = text_or_null(*s->host ? psprintf("%s:%d", s->host, s->port) : "", &nulls[5]);
		values[6] = interval_of(s->lag);
		values[7] = TimestampTzGetDatum(s->lag_at);
		nulls[6] = nulls[7] = s->lag_at == 0;
		values[8] = text_or_null(s->message, &nulls[8]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
rctl_sql_service_metrics(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RctlServiceSample *samples;
	int			count;

	InitMaterializedSRF(fcinfo, 0);
	count = rctl_services_read(&samples);
	for (int i = 0; i < count; i++)
	{
		for (int j = 0; j < samples[i].nmetrics; j++)
		{
			const RctlServiceMetric *m = &samples[i].metrics[j];
			Datum		values[6] = {0};
			bool		nulls[6] = {0};

			values[0] = text_or_null(m->name, &nulls[0]);
			values[1] = CStringGetTextDatum(samples[i].name);
			values[2] = Float8GetDatum(m->value);
			values[3] = text_or_null(m->unit, &nulls[3]);
			values[4] = TimestampTzGetDatum(m->sampled_at);
			values[5] = text_or_null(m->source, &nulls[5]);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}
