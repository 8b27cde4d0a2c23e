/*-------------------------------------------------------------------------
 *
 * rctl_test_net.c
 *	  SQL functions around src/net/, for t/010_net.pl.
 *
 * They wait inside the caller's transaction, which is what our own processes
 * never do: good enough for a test, in a build without assertions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "net/map.h"
#include "net/pgconn.h"
#include "net/process.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(rctl_test_process);
PG_FUNCTION_INFO_V1(rctl_test_process_abandon);
PG_FUNCTION_INFO_V1(rctl_test_exec);
PG_FUNCTION_INFO_V1(rctl_test_growth);
PG_FUNCTION_INFO_V1(rctl_test_exec_after_error);
PG_FUNCTION_INFO_V1(rctl_test_try_connect);
PG_FUNCTION_INFO_V1(rctl_test_conninfo);
PG_FUNCTION_INFO_V1(rctl_test_redact);
PG_FUNCTION_INFO_V1(rctl_test_last_lines);
PG_FUNCTION_INFO_V1(rctl_test_map);
PG_FUNCTION_INFO_V1(rctl_test_map_json);

static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* A text[] as a NULL-terminated array of strings; NULL if it is NULL. */
static const char **
array_argument(FunctionCallInfo fcinfo, int n, int *count)
{
	Datum	   *elements;
	bool	   *nulls;
	const char **strings;

	*count = 0;
	if (PG_ARGISNULL(n))
		return NULL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, count);
	strings = palloc0(sizeof(char *) * (*count + 1));
	for (int i = 0; i < *count; i++)
		strings[i] = nulls[i] ? NULL : TextDatumGetCString(elements[i]);
	return strings;
}

typedef struct Ticks
{
	int			count;
	int			fail_at;
} Ticks;

static void
count_tick(void *arg)
{
	Ticks	   *ticks = arg;

	if (++ticks->count == ticks->fail_at)
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg("tick %d fails", ticks->count)));
}

static void
spec_arguments(FunctionCallInfo fcinfo, RctlProcessSpec *spec)
{
	int			count;

	memset(spec, 0, sizeof(*spec));
	spec->argv = array_argument(fcinfo, 0, &count);
	spec->env = array_argument(fcinfo, 1, &count);
	spec->input = text_argument(fcinfo, 2);
	spec->output_file = text_argument(fcinfo, 3);
	spec->directory = text_argument(fcinfo, 4);
}

/*
 * (argv text[], env text[], input text, output_file text, directory text,
 * timeout_ms int, tick_ms int, fail_at_tick int) -> (result text, output
 * text, errors text, ticks int)
 */
Datum
rctl_test_process(PG_FUNCTION_ARGS)
{
	RctlProcessSpec spec;
	RctlProcessResult *result;
	Ticks		ticks = {0, PG_GETARG_INT32(7)};
	TupleDesc	tupdesc;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	spec_arguments(fcinfo, &spec);
	if (PG_GETARG_INT32(6) == 0)
		result = rctl_process_run(&spec, PG_GETARG_INT32(5));
	else
		result = rctl_process_wait(rctl_process_start(&spec), PG_GETARG_INT32(5),
								   count_tick, PG_GETARG_INT32(6), &ticks);

	values[0] = CStringGetTextDatum(rctl_process_describe(result));
	values[1] = CStringGetTextDatum(result->output);
	values[2] = CStringGetTextDatum(result->errors);
	values[3] = Int32GetDatum(ticks.count);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}

/*
 * Starts a program (the same first five arguments), and does not wait for it.
 * The sixth says whose it is: 'statement', 'session', or 'nobody' (a daemon
 * that is released at once).
 */
Datum
rctl_test_process_abandon(PG_FUNCTION_ARGS)
{
	RctlProcessSpec spec;
	RctlProcess *process;
	char	   *owner = text_argument(fcinfo, 5);
	MemoryContext old_context = CurrentMemoryContext;

	spec_arguments(fcinfo, &spec);
	spec.daemon = strcmp(owner, "nobody") == 0;
	if (strcmp(owner, "session") == 0)
		MemoryContextSwitchTo(TopMemoryContext);
	process = rctl_process_start(&spec);
	if (!rctl_process_running(process))
		elog(ERROR, "the program has ended already");
	if (spec.daemon)
		rctl_process_release(process);
	MemoryContextSwitchTo(old_context);
	PG_RETURN_VOID();
}

/*
 * (conninfo text, sql text[], params text[], timeout_ms int) -> the first
 * value of the last statement, which has the parameters.  Connects as "server
 * x".
 */
Datum
rctl_test_exec(PG_FUNCTION_ARGS)
{
	int			nsql;
	int			nparams;
	const char **sql = array_argument(fcinfo, 1, &nsql);
	const char **params = array_argument(fcinfo, 2, &nparams);
	long		timeout_ms = PG_GETARG_INT32(3);
	PGconn	   *conn = rctl_pg_connect(text_argument(fcinfo, 0), timeout_ms, "server x");
	char	   *value = NULL;

	for (int i = 0; i < nsql; i++)
	{
		bool		last = i == nsql - 1;

		value = rctl_pg_value(conn, timeout_ms, sql[i], last ? nparams : 0, last ? params : NULL);
	}
	rctl_pg_close(conn);
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(value));
}

/*
 * (conninfo text, rounds int) -> by how many bytes so many statements and
 * programs let the caller's memory grow, after the first
 */
Datum
rctl_test_growth(PG_FUNCTION_ARGS)
{
	static const char *const argv[] = {"/bin/true", NULL};
	RctlProcessSpec spec = {.argv = argv};
	RctlProcessResult *result;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "growth",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	PGconn	   *conn = rctl_pg_connect(text_argument(fcinfo, 0), 10000, "server x");
	int64		before = 0;

	for (int i = 0; i <= PG_GETARG_INT32(1); i++)
	{
		pfree(rctl_pg_value(conn, 10000 + i, "SELECT 1", 0, NULL));
		rctl_pg_clear(rctl_pg_exec(conn, 10000 + i, "SELECT 1", 0, NULL));
		result = rctl_process_run(&spec, 10000);
		pfree(result->output);
		pfree(result->errors);
		pfree(result);
		if (i == 0)
			before = MemoryContextMemAllocated(context, true);
	}
	before = MemoryContextMemAllocated(context, true) - before;
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(context);
	PG_RETURN_INT64(before);
}

/*
 * (conninfo text, sql text, timeout_ms int) -> the error that a second
 * statement raises on a connection whose first one has raised one
 */
Datum
rctl_test_exec_after_error(PG_FUNCTION_ARGS)
{
	char	   *sql = text_argument(fcinfo, 1);
	PGconn	   *conn = rctl_pg_connect(text_argument(fcinfo, 0), 10000, "server x");
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *edata;

	for (volatile int i = 0; i < 2; i++)
	{
		bool		failed = false;

		PG_TRY();
		{
			rctl_pg_exec(conn, i == 0 ? PG_GETARG_INT32(2) : 10000, i == 0 ? sql : "SELECT 1", 0, NULL);
		}
		PG_CATCH();
		{
			failed = true;
			MemoryContextSwitchTo(context);
			edata = CopyErrorData();
			FlushErrorState();
		}
		PG_END_TRY();
		if (!failed)
			PG_RETURN_TEXT_P(cstring_to_text("none"));
	}
	rctl_pg_close(conn);
	PG_RETURN_TEXT_P(cstring_to_text(edata->message));
}

/* (conninfo text, timeout_ms int) -> NULL, or SQLSTATE and reason why not */
Datum
rctl_test_try_connect(PG_FUNCTION_ARGS)
{
	char	   *reason;
	int			sqlerrcode;
	PGconn	   *conn = rctl_pg_try_connect(text_argument(fcinfo, 0), PG_GETARG_INT32(1),
										   &reason, &sqlerrcode);

	if (conn == NULL)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s %s", unpack_sql_state(sqlerrcode), reason)));
	rctl_pg_close(conn);
	PG_RETURN_NULL();
}

/* (keywords text[], values text[]) */
Datum
rctl_test_conninfo(PG_FUNCTION_ARGS)
{
	int			count;
	int			nvalues;
	const char **keywords = array_argument(fcinfo, 0, &count);
	const char **values = array_argument(fcinfo, 1, &nvalues);
	RctlConnParam *params = palloc0(sizeof(RctlConnParam) * (count + 1));

	for (int i = 0; i < count; i++)
	{
		params[i].keyword = keywords[i];
		params[i].value = i < nvalues ? values[i] : NULL;
	}
	PG_RETURN_TEXT_P(cstring_to_text(rctl_conninfo(params)));
}

Datum
rctl_test_redact(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(rctl_redact(text_argument(fcinfo, 0))));
}

Datum
rctl_test_last_lines(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(rctl_last_lines(text_argument(fcinfo, 0), PG_GETARG_INT32(1))));
}

/* A map from jsonb, changed by each function of map.h, as JSON. */
Datum
rctl_test_map(PG_FUNCTION_ARGS)
{
	RctlMap    *given = rctl_map_from_jsonb(PG_GETARG_JSONB_P(0), "argument");
	RctlMap    *map = rctl_map_copy(given);

	rctl_map_set(map, "removed", NULL);
	rctl_map_set(map, "absent", NULL);
	if (rctl_map_get(map, "same"))
		rctl_map_set(map, "same", rctl_map_get(map, "same"));
	rctl_map_setf(map, "long", "%01000d", 7);
	rctl_map_set(map, "default", rctl_map_get_default(map, "nowhere", "otherwise"));
	if (rctl_map_get(map, "nested"))
		rctl_map_set(map, "inner",
					 rctl_map_get(rctl_map_from_json(rctl_map_get(map, "nested"), "nested"), "inner"));
	rctl_map_set_json(map, "json", "[1, 2]");
	PG_RETURN_TEXT_P(cstring_to_text(rctl_map_to_json(map)));
}

/* There and back from JSON text. */
Datum
rctl_test_map_json(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(rctl_map_to_json(rctl_map_from_json(text_argument(fcinfo, 0),
																		 "the argument"))));
}
