/*-------------------------------------------------------------------------
 *
 * map.c
 *	  A small ordered map of text to text: options, facts, step state.
 *
 * A list is enough: no map here has more than a few dozen keys.  Reading and
 * writing JSON is left to PostgreSQL's own jsonb.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"

#include "net/map.h"
#include "net/text.h"

RctlMap *
rctl_map_make(void)
{
	RctlMap    *map = palloc(sizeof(RctlMap));

	map->context = CurrentMemoryContext;
	map->entries = NIL;
	return map;
}

static RctlMapEntry *
find_entry(const RctlMap *map, const char *key)
{
	ListCell   *cell;

	foreach(cell, map->entries)
	{
		RctlMapEntry *entry = lfirst(cell);

		if (strcmp(entry->key, key) == 0)
			return entry;
	}
	return NULL;
}

static void
set_entry(RctlMap *map, const char *key, const char *value, bool nested)
{
	MemoryContext old_context = MemoryContextSwitchTo(map->context);
	RctlMapEntry *entry = find_entry(map, key);
	char	   *copy;

	/* Before the old one goes: it may be the same. */
	copy = pstrdup(value);
	if (entry == NULL)
	{
		entry = palloc(sizeof(RctlMapEntry));
		entry->key = pstrdup(key);
		map->entries = lappend(map->entries, entry);
	}
	else
		pfree(entry->value);
	entry->value = copy;
	entry->nested = nested;
	MemoryContextSwitchTo(old_context);
}

static void
remove_entry(RctlMap *map, const char *key)
{
	RctlMapEntry *entry = find_entry(map, key);

	if (entry == NULL)
		return;
	map->entries = list_delete_ptr(map->entries, entry);
	pfree(entry->key);
	pfree(entry->value);
	pfree(entry);
}

RctlMap *
rctl_map_copy(const RctlMap *map)
{
	RctlMap    *copy = rctl_map_make();
	ListCell   *cell;

	foreach(cell, map->entries)
	{
		RctlMapEntry *entry = lfirst(cell);

		set_entry(copy, entry->key, entry->value, entry->nested);
	}
	return copy;
}

const char *
rctl_map_get(const RctlMap *map, const char *key)
{
	return rctl_map_get_default(map, key, NULL);
}

const char *
rctl_map_get_default(const RctlMap *map, const char *key, const char *otherwise)
{
	RctlMapEntry *entry = find_entry(map, key);

	return entry ? entry->value : otherwise;
}

void
rctl_map_set(RctlMap *map, const char *key, const char *value)
{
	if (value)
		set_entry(map, key, value, false);
	else
		remove_entry(map, key);
}

void
rctl_map_set_json(RctlMap *map, const char *key, const char *json)
{
	if (json)
		set_entry(map, key, json, true);
	else
		remove_entry(map, key);
}

void
rctl_map_setf(RctlMap *map, const char *key, const char *format,...)
{
	char	   *value;
	va_list		args;

	va_start(args, format);
	value = rctl_vpsprintf(format, args);
	va_end(args);
	set_entry(map, key, value, false);
	pfree(value);
}

/* Adds one key of a jsonb object. */
static void
add_jsonb_value(RctlMap *map, const char *key, JsonbValue *value)
{
	char	   *string;

	switch (value->type)
	{
		case jbvNull:
			break;
		case jbvBool:
			set_entry(map, key, value->val.boolean ? "true" : "false", false);
			break;
		case jbvNumeric:
			string = DatumGetCString(DirectFunctionCall1(numeric_out,
														 NumericGetDatum(value->val.numeric)));
			set_entry(map, key, string, false);
			pfree(string);
			break;
		case jbvString:
			string = pnstrdup(value->val.string.val, value->val.string.len);
			set_entry(map, key, string, false);
			pfree(string);
			break;
		case jbvBinary:
			string = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
			set_entry(map, key, string, true);
			pfree(string);
			break;
		default:
			elog(ERROR, "unexpected jsonb value type %d", (int) value->type);
	}
}

RctlMap *
rctl_map_from_jsonb(Jsonb *jsonb, const char *what)
{
	RctlMap    *map = rctl_map_make();
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *key = NULL;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a JSON object", what)));

	iterator = JsonbIteratorInit(&jsonb->root);
	(void) JsonbIteratorNext(&iterator, &value, false); /* the object's start */
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			add_jsonb_value(map, key, &value);
			pfree(key);
		}
	}
	return map;
}

/* Says in a syntax error of jsonb which text it was. */
static void
json_error_context(void *arg)
{
	errcontext("parsing %s as JSON", (const char *) arg);
}

RctlMap *
rctl_map_from_json(const char *json, const char *what)
{
	ErrorContextCallback callback;
	Datum		jsonb;

	callback.callback = json_error_context;
	callback.arg = unconstify(char *, what);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	jsonb = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
	error_context_stack = callback.previous;

	return rctl_map_from_jsonb(DatumGetJsonbP(jsonb), what);
}

RctlMap *
rctl_map_from_options(List *defelems)
{
	RctlMap    *map = rctl_map_make();
	ListCell   *cell;

	foreach(cell, defelems)
	{
		DefElem    *option = lfirst(cell);

		set_entry(map, option->defname, defGetString(option), false);
	}
	return map;
}

char *
rctl_map_to_json(const RctlMap *map)
{
	StringInfoData json;
	ListCell   *cell;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	foreach(cell, map->entries)
	{
		RctlMapEntry *entry = lfirst(cell);

		if (json.len > 1)
			appendStringInfoString(&json, ", ");
		escape_json(&json, entry->key);
		appendStringInfoString(&json, ": ");
		if (entry->nested)
			appendStringInfoString(&json, entry->value);
		else
			escape_json(&json, entry->value);
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}
