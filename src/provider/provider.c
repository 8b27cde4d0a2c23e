/*-------------------------------------------------------------------------
 *
 * provider.c
 *	  The registry of providers, and the check of their options.
 *
 * A new provider is one file in this directory and one row in the table
 * below.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "net/text.h"
#include "provider/provider.h"
#include "provider/providers.h"

static const RctlProvider *const providers[] = {
	&rctl_provider_aws,
	&rctl_provider_local,
	&rctl_provider_ssh,
	&rctl_provider_cnpg,
	&rctl_provider_aiven,
	&rctl_provider_patroni,
#ifdef RCTL_TEST
	&rctl_provider_mock,
	&rctl_provider_mock_managed,
#endif
	NULL
};

const char *const rctl_fence_choices[] = {"auto", "external", NULL};

const RctlProvider *const *
rctl_providers(void)
{
	return providers;
}

const RctlProvider *
rctl_provider_by_wrapper(const char *wrapper)
{
	for (int i = 0; providers[i] != NULL; i++)
	{
		if (strcmp(providers[i]->wrapper, wrapper) == 0)
			return providers[i];
	}
	return NULL;
}

const RctlOptionDef *
rctl_option_find(const RctlOptionDef *defs, const char *name)
{
	for (; defs && defs->name; defs++)
	{
		if (strcmp(defs->name, name) == 0)
			return defs;
	}
	return NULL;
}

/* "a, b, c" */
static char *
option_names(const RctlOptionDef *defs)
{
	StringInfoData names;

	initStringInfo(&names);
	for (; defs && defs->name; defs++)
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", defs->name);
	return names.data;
}

static void
unknown_option(const RctlOptionDef *defs, const char *name, const char *what)
{
	char	   *names = option_names(defs);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("unrecognized option \"%s\" for %s", name, what),
			 names[0] != '\0'
			 ? errhint("Valid options are: %s.", names)
			 : errhint("There are no valid options here.")));
}

static RCTL_NORETURN void bad_value(const RctlOptionDef *def, const char *value, const char *format,...) pg_attribute_printf(3, 4);

/* Raises the error; format says what the value must be. */
static void
bad_value(const RctlOptionDef *def, const char *value, const char *format,...)
{
	char	   *wanted;
	va_list		args;

	va_start(args, format);
	wanted = rctl_vpsprintf(format, args);
	va_end(args);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", def->name, value),
			 errdetail("%s", wanted),
			 errhint("%s: %s.", def->name, def->help)));
}

static void
check_integer(const RctlOptionDef *def, const char *value)
{
	char	   *end;
	long long	number;

	errno = 0;
	number = strtoll(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' ||
		number < def->min || number > def->max)
		bad_value(def, value, "It must be an integer from " INT64_FORMAT " to " INT64_FORMAT ".",
				  def->min, def->max);
}

/*
 * interval_in() knows best what an interval is; it has no state to leave
 * behind, so that its error can be caught without a subtransaction.
 */
static void
check_interval(const RctlOptionDef *def, const char *value)
{
	MemoryContext context = CurrentMemoryContext;
	Interval   *volatile interval = NULL;
	Interval	zero = {0};

	PG_TRY();
	{
		interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(value),
														 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();

	if (interval == NULL ||
		DatumGetBool(DirectFunctionCall2(interval_lt, IntervalPGetDatum(interval),
										 IntervalPGetDatum(&zero))))
		bad_value(def, value, "It must be an interval that is not negative, such as \"30 seconds\".");
}

static void
check_choice(const RctlOptionDef *def, const char *value)
{
	StringInfoData choices;

	initStringInfo(&choices);
	for (const char *const *choice = def->choices; *choice; choice++)
	{
		if (strcmp(*choice, value) == 0)
			return;
		appendStringInfo(&choices, "%s\"%s\"", choices.len > 0 ? ", " : "", *choice);
	}
	bad_value(def, value, "It must be one of %s.", choices.data);
}

static void
check_path(const RctlOptionDef *def, const char *value)
{
	if (!is_absolute_path(value))
		bad_value(def, value, "It must be an absolute path.");
	if (strlen(value) >= MAXPGPATH - 128)
		bad_value(def, value, "The path is too long.");
	for (const char *c = value; *c; c++)
	{
		if ((unsigned char) *c < 0x20 || *c == 0x7f)
			bad_value(def, value, "It must not hold control characters.");
	}
}

static void
check_value(const RctlOptionDef *def, const RctlMapEntry *entry)
{
	const char *value = entry->value;
	bool		ignored;

	if (entry->nested && def->type != RCTL_OPTION_OBJECT && def->type != RCTL_OPTION_LIST)
		bad_value(def, value, "It must be a single value.");

	switch (def->type)
	{
		case RCTL_OPTION_TEXT:
			break;
		case RCTL_OPTION_BOOL:
			if (!parse_bool(value, &ignored))
				bad_value(def, value, "It must be true or false.");
			break;
		case RCTL_OPTION_INTEGER:
			check_integer(def, value);
			break;
		case RCTL_OPTION_INTERVAL:
			check_interval(def, value);
			break;
		case RCTL_OPTION_CHOICE:
			check_choice(def, value);
			break;
		case RCTL_OPTION_OBJECT:
			if (!entry->nested || value[0] != '{')
				bad_value(def, value, "It must be a JSON object.");
			break;
		case RCTL_OPTION_LIST:
			if (entry->nested && value[0] != '[')
				bad_value(def, value, "It must be a JSON array, or text with commas between the elements.");
			break;
		case RCTL_OPTION_PATH:
			check_path(def, value);
			break;
	}
}

void
rctl_options_check(const RctlOptionDef *defs, const RctlMap *options, const char *what)
{
	ListCell   *cell;

	foreach(cell, options->entries)
	{
		const RctlMapEntry *entry = lfirst(cell);
		const RctlOptionDef *def = rctl_option_find(defs, entry->key);

		if (def == NULL)
			unknown_option(defs, entry->key, what);
		check_value(def, entry);
	}
}

/* ---------------------------------------------------------------------
 * Comparing values
 * ---------------------------------------------------------------------
 */

/* As jsonb prints it; "{}" and "[]" are the same as nothing. */
static char *
canonical_json(const char *value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(value)));

	return JB_ROOT_COUNT(jsonb) == 0 ? NULL : JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/* "a, b" as ["a", "b"] */
static char *
canonical_list(const char *value)
{
	StringInfoData json;
	char	   *copy = pstrdup(value);
	char	   *rest = NULL;

	if (value[0] == '[')
		return canonical_json(value);
	initStringInfo(&json);
	for (char *element = strtok_r(copy, ",", &rest); element; element = strtok_r(NULL, ",", &rest))
	{
		while (isspace((unsigned char) *element))
			element++;
		for (char *end = element + strlen(element); end > element && isspace((unsigned char) end[-1]); end--)
			end[-1] = '\0';
		if (*element == '\0')
			continue;
		appendStringInfoString(&json, json.len > 0 ? ", " : "[");
		escape_json(&json, element);
	}
	if (json.len == 0)
		return NULL;
	appendStringInfoChar(&json, ']');
	return json.data;
}

static char *
canonical_interval(const char *value)
{
	Interval   *interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(value),
																 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	int64		days = interval->month * INT64CONST(30) + interval->day;

	return psprintf(INT64_FORMAT, days * USECS_PER_DAY + interval->time);
}

static char *
canonical(const RctlOptionDef *def, const char *value)
{
	bool		flag;

	if (value == NULL)
		return NULL;
	switch (def->type)
	{
		case RCTL_OPTION_BOOL:
			return parse_bool(value, &flag) ? pstrdup(flag ? "true" : "false") : pstrdup(value);
		case RCTL_OPTION_INTEGER:
			return psprintf("%lld", strtoll(value, NULL, 10));
		case RCTL_OPTION_INTERVAL:
			return canonical_interval(value);
		case RCTL_OPTION_OBJECT:
			return canonical_json(value);
		case RCTL_OPTION_LIST:
			return canonical_list(value);
		case RCTL_OPTION_TEXT:
		case RCTL_OPTION_CHOICE:
		case RCTL_OPTION_PATH:
			break;
	}
	return pstrdup(value);
}

bool
rctl_option_same(const RctlOptionDef *def, const char *a, const char *b)
{
	if (def)
	{
		a = canonical(def, a ? a : def->fallback);
		b = canonical(def, b ? b : def->fallback);
	}
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}
