/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Reads JSON that came from elsewhere, by PostgreSQL's own parser.
 *
 * jsonb_in() raises errors, and takes the text in the database encoding.  So
 * the bytes are made fit first: nesting is bounded, escapes and characters
 * that the database cannot hold become '?'.  What jsonb_in() then still
 * raises about the data is caught; it has no effect but memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "net/json.h"
#include "net/text.h"

/* Levels of nesting; the documents that we read have less than ten. */
#define MAX_DEPTH 100

/* What \uXXXX stands for; -1 if these are no four digits. */
static int
hex4(const char *p)
{
	int			value = 0;

	for (int i = 0; i < 4; i++)
	{
		int			digit;

		if (p[i] >= '0' && p[i] <= '9')
			digit = p[i] - '0';
		else if (pg_ascii_tolower(p[i]) >= 'a' && pg_ascii_tolower(p[i]) <= 'f')
			digit = pg_ascii_tolower(p[i]) - 'a' + 10;
		else
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/* Copies the escape at p (a backslash) as one that jsonb takes; returns what follows it. */
static const char *
copy_escape(StringInfo out, const char *p)
{
	int			code = p[1] == 'u' ? hex4(p + 2) : -1;
	int			low;

	if (code < 0)
	{
		/* an escaped character, or what the parser refuses */
		appendStringInfoChar(out, *p++);
		if (*p)
			appendStringInfoChar(out, *p++);
		return p;
	}
	p += 6;
	low = (code >= 0xD800 && code <= 0xDBFF && p[0] == '\\' && p[1] == 'u') ? hex4(p + 2) : -1;
	if (low >= 0xDC00 && low <= 0xDFFF)
	{
		rctl_append_unicode(out, 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00));
		return p + 6;
	}
	if (code == 0 || (code >= 0xD800 && code <= 0xDFFF))
		appendStringInfoChar(out, '?');
	else if (code < 0x80)
		appendStringInfo(out, "\\u%04x", code);
	else
		rctl_append_unicode(out, code);
	return p;
}

/* The text in the database encoding; NULL, and *problem, if it cannot be JSON. */
static char *
make_fit(const char *bytes, size_t length, char **problem)
{
	StringInfoData out;
	char	   *utf8 = pnstrdup(bytes, length); /* as far as the first NUL */
	const char *p = utf8;
	bool		in_string = false;
	int			depth = 0;

	initStringInfo(&out);
	if (strlen(utf8) != length || !pg_verify_mbstr(PG_UTF8, utf8, length, true))
	{
		*problem = "it is not UTF-8 text";
		return NULL;
	}
	while (*p)
	{
		if (in_string && *p == '\\')
		{
			p = copy_escape(&out, p);
			continue;
		}
		if (*p == '"')
			in_string = !in_string;
		else if (!in_string && (*p == '{' || *p == '['))
			depth++;
		else if (!in_string && (*p == '}' || *p == ']'))
			depth--;
		if (depth > MAX_DEPTH)
		{
			*problem = "it is nested too deeply";
			return NULL;
		}
		if (!IS_HIGHBIT_SET(*p))
			appendStringInfoCharMacro(&out, *p++);
		else
		{
			rctl_append_unicode(&out, utf8_to_unicode((const unsigned char *) p));
			p += pg_utf_mblen((const unsigned char *) p);
		}
	}
	pfree(utf8);
	return out.data;
}

/* NULL, and *problem, if it is refused; raises what is not about the data. */
static Jsonb *
parse_fit(const char *text, char **problem)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile jsonb = NULL;

	PG_TRY();
	{
		jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			class;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		class = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (class != ERRCODE_DATA_EXCEPTION && class != ERRCODE_PROGRAM_LIMIT_EXCEEDED &&
			error->sqlerrcode != ERRCODE_UNTRANSLATABLE_CHARACTER)
			PG_RE_THROW();
		FlushErrorState();
		FreeErrorData(error);
		*problem = "it is not JSON";
	}
	PG_END_TRY();
	return jsonb;
}

const RctlJson *
rctl_json_parse(const char *bytes, size_t length, char **problem)
{
	char	   *text = make_fit(bytes, length, problem);
	Jsonb	   *jsonb = text ? parse_fit(text, problem) : NULL;
	JsonbValue *value;

	if (text)
		pfree(text);
	if (jsonb == NULL)
		return NULL;
	if (JB_ROOT_IS_SCALAR(jsonb))
	{
		value = palloc(sizeof(JsonbValue));
		if (!JsonbExtractScalar(&jsonb->root, value))
			elog(ERROR, "unexpected jsonb scalar");
		return value;
	}
	value = palloc(sizeof(JsonbValue));
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	return value;
}

static bool
is_object(const RctlJson *json)
{
	return json && json->type == jbvBinary && JsonContainerIsObject(json->val.binary.data);
}

static bool
is_array(const RctlJson *json)
{
	return json && json->type == jbvBinary && JsonContainerIsArray(json->val.binary.data) &&
		!JsonContainerIsScalar(json->val.binary.data);
}

bool
rctl_json_is_object(const RctlJson *json)
{
	return is_object(json);
}

static const RctlJson *
get_key(const RctlJson *json, const char *key, size_t length)
{
	if (!is_object(json))
		return NULL;
	return getKeyJsonValueFromContainer(json->val.binary.data, key, length, NULL);
}

const RctlJson *
rctl_json_key(const RctlJson *json, const char *key)
{
	return get_key(json, key, strlen(key));
}

const RctlJson *
rctl_json_element(const RctlJson *json, int index)
{
	if (!is_array(json) || index < 0)
		return NULL;
	return getIthJsonbValueFromContainer(json->val.binary.data, index);
}

const RctlJson *
rctl_json_find(const RctlJson *json, const char *path)
{
	while (json && *path)
	{
		size_t		length = strcspn(path, "/");

		if (is_array(json))
			json = strspn(path, "0123456789") == length && length < 9 ?
				rctl_json_element(json, strtol(path, NULL, 10)) : NULL;
		else
			json = get_key(json, path, length);
		path += length;
		if (*path == '/')
			path++;
	}
	return json;
}

char *
rctl_json_text(const RctlJson *json, const char *path)
{
	json = rctl_json_find(json, path);
	if (json == NULL)
		return NULL;
	switch (json->type)
	{
		case jbvString:
			return pnstrdup(json->val.string.val, json->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(json->val.numeric)));
		case jbvBool:
			return pstrdup(json->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

bool
rctl_json_double(const RctlJson *json, const char *path, double *value)
{
	char	   *text = rctl_json_text(json, path);
	char	   *end;
	double		parsed;

	if (text == NULL || *text == '\0' || isspace((unsigned char) *text))
		return false;
	errno = 0;
	parsed = strtod(text, &end);
	if (*end != '\0' || errno == ERANGE || isnan(parsed) || isinf(parsed))
		return false;
	*value = parsed;
	return true;
}

bool
rctl_json_int64(const RctlJson *json, const char *path, int64 *value)
{
	char	   *text = rctl_json_text(json, path);
	char	   *end;
	int64		parsed;

	if (text == NULL || *text == '\0' || isspace((unsigned char) *text))
		return false;
	errno = 0;
	parsed = strtoi64(text, &end, 10);
	if (*end != '\0' || errno == ERANGE)
		return false;
	*value = parsed;
	return true;
}

bool
rctl_json_bool(const RctlJson *json, const char *path, bool otherwise)
{
	json = rctl_json_find(json, path);
	return json && json->type == jbvBool ? json->val.boolean : otherwise;
}

int
rctl_json_array_length(const RctlJson *json, const char *path)
{
	json = rctl_json_find(json, path);
	return is_array(json) ? JsonContainerSize(json->val.binary.data) : -1;
}

List *
rctl_json_keys(const RctlJson *json)
{
	List	   *keys = NIL;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (!is_object(json))
		return NIL;
	iterator = JsonbIteratorInit(json->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
		if (token == WJB_KEY)
			keys = lappend(keys, pnstrdup(value.val.string.val, value.val.string.len));
	return keys;
}

char *
rctl_json_print(const RctlJson *json)
{
	Jsonb	   *jsonb;

	if (json == NULL)
		return pstrdup("null");
	jsonb = JsonbValueToJsonb(unconstify(JsonbValue *, json));
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}
