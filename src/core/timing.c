/*-------------------------------------------------------------------------
 *
 * timing.c
 *	  The time-out of a promotion, and the times for its event.
 *
 * All of them are in op->state, so that a worker that takes over an operation
 * goes on with the same deadline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "core/timing.h"

#define DEFAULT_TIMEOUT_MS "60000"

void
rctl_note_time(RctlOp *op, const char *what)
{
	rctl_map_setf(op->state, what, INT64_FORMAT, (int64) GetCurrentTimestamp());
}

TimestampTz
rctl_noted_time(RctlOp *op, const char *what)
{
	const char *value = rctl_map_get(op->state, what);

	return value ? strtoll(value, NULL, 10) : 0;
}

void
rctl_set_elapsed(RctlOp *op, RctlMap *detail, const char *key, const char *from, const char *to)
{
	TimestampTz begin = rctl_noted_time(op, from);
	TimestampTz end = rctl_noted_time(op, to);

	if (begin != 0 && end != 0)
		rctl_map_setf(detail, key, "%.1f", (end - begin) / 1000.0);
}

long
rctl_argument_ms(RctlOp *op, const char *name, const char *otherwise)
{
	return strtol(rctl_map_get_default(op->arguments, name, otherwise), NULL, 10);
}

long
rctl_time_left(RctlOp *op, const char *waiting_for)
{
	long		timeout = rctl_argument_ms(op, "timeout_ms", DEFAULT_TIMEOUT_MS);
	TimestampTz deadline = rctl_noted_time(op, "deadline");
	long		left;

	if (deadline == 0)
	{
		deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
		rctl_map_setf(op->state, "deadline", INT64_FORMAT, deadline);
	}
	left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
	if (left <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("replica \"%s\" was not ready in time", op->replica->name),
				 waiting_for
				 ? errdetail("The time-out of %ld ms passed in step \"%s\": %s.", timeout, op->step, waiting_for)
				 : errdetail("The time-out of %ld ms passed in step \"%s\".", timeout, op->step),
				 errhint("See its lag in replica_lag; call again with a longer timeout.")));
	return left;
}
