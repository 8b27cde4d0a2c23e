/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Text from the outside world, made fit for messages and for columns.
 *
 * What a program or a server says may be in any encoding and may repeat a
 * secret that it was given.  Before such text reaches an error, an event or
 * a row it goes through here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "net/text.h"

#define MASK "***"
#define LAST_LINES_SIZE 2048

char *
rctl_valid_text(const char *bytes, size_t length)
{
	int			encoding = GetDatabaseEncoding();
	char	   *valid = palloc(length + 1);
	char	   *out = valid;

	while (length > 0)
	{
		int			width = -1;

		if (*bytes != '\0')
			width = pg_encoding_verifymbchar(encoding, bytes, Min(length, MAX_MULTIBYTE_CHAR_LEN));
		if (width < 1)
		{
			*out++ = '?';
			width = 1;
		}
		else
		{
			memcpy(out, bytes, width);
			out += width;
		}
		bytes += width;
		length -= width;
	}
	*out = '\0';
	return valid;
}

/* One character by a conversion that raises an error if it has no counterpart. */
static bool
convert_unicode(unsigned int code, unsigned char *converted)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = true;

	PG_TRY();
	{
		pg_unicode_to_server(code, converted);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		done = false;
	}
	PG_END_TRY();
	return done;
}

void
rctl_append_unicode(StringInfo out, unsigned int code)
{
	unsigned char converted[MAX_UNICODE_EQUIVALENT_STRING + 1] = {0};

	if (code < 0x80)
		appendStringInfoChar(out, code ? code : '?');
	else if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
		appendStringInfoChar(out, '?');
	else if (GetDatabaseEncoding() == PG_UTF8 || GetDatabaseEncoding() == PG_SQL_ASCII)
	{
		unicode_to_utf8(code, converted);
		appendBinaryStringInfo(out, (char *) converted, pg_utf_mblen(converted));
	}
	else if (convert_unicode(code, converted))
		appendStringInfoString(out, (char *) converted);
	else
		appendStringInfoChar(out, '?');
}

char *
rctl_from_utf8(const char *bytes, size_t length)
{
	StringInfoData out;

	initStringInfo(&out);
	while (length > 0)
	{
		int			width = -1;

		if (*bytes != '\0')
			width = pg_encoding_verifymbchar(PG_UTF8, bytes, Min(length, 4));
		if (width < 1)
		{
			appendStringInfoChar(&out, '?');
			width = 1;
		}
		else
			rctl_append_unicode(&out, utf8_to_unicode((const unsigned char *) bytes));
		bytes += width;
		length -= width;
	}
	return out.data;
}

/*
 * The end of the secret value that starts at "value".
 *
 * A value may be quoted, and the quotes may be escaped or doubled once more
 * by whatever it is embedded in ('...password=''x y''...').  So the whole run
 * of quotes and backslashes at its start is taken as the delimiter.  A bare
 * value ends at white space only: every other character may be part of it.
 */
static const char *
end_of_secret(const char *value)
{
	size_t		quotes = strspn(value, "'\"\\");
	const char *p = value + quotes;

	if (quotes == 0)
	{
		while (*p && !isspace((unsigned char) *p))
			p += (p[0] == '\\' && p[1]) ? 2 : 1;
		return p;
	}

	/* Two quotes and nothing behind them: an empty value. */
	if (quotes == 2 && value[0] == value[1] && (*p == '\0' || isspace((unsigned char) *p)))
		return p;

	while (*p)
	{
		if (strncmp(p, value, quotes) != 0)
			p += (p[0] == '\\' && p[1] && quotes == 1) ? 2 : 1;
		else if (quotes == 1 && p[1] == value[0])
			p += 2;				/* a doubled quote inside */
		else
			return p + quotes;
	}
	return p;
}

/*
 * If a secret's name ("password") starts at p and a value follows, copies all
 * up to the value and returns the value's end; else returns NULL.
 */
static const char *
redact_named(StringInfo out, const char *p)
{
	static const char name[] = "password";
	const char *value = p + strlen(name);
	bool		assigned = false;

	if (pg_strncasecmp(p, name, strlen(name)) != 0)
		return NULL;
	value += strspn(value, "'\"");	/* "password": "..." */
	value += strspn(value, " \t");
	if (*value == '=' || *value == ':')
	{
		assigned = *value == '=';
		value++;
		value += strspn(value, " \t");
	}
	/* Prose goes on with a word; a value is assigned, or it is quoted. */
	if (*value == '\0' || (!assigned && *value != '\'' && *value != '"'))
		return NULL;

	appendBinaryStringInfo(out, p, value - p);
	appendStringInfoString(out, MASK);
	return end_of_secret(value);
}

/*
 * If the authority of a URI starts at p (behind "://") and has a password,
 * copies the user name and returns the place of the '@'; else returns NULL.
 */
static const char *
redact_authority(StringInfo out, const char *p)
{
	size_t		length = strcspn(p, "/?# \t\r\n");
	const char *colon = memchr(p, ':', length);
	const char *at = NULL;

	for (size_t i = 0; i < length; i++)
		if (p[i] == '@')
			at = p + i;
	if (colon == NULL || at == NULL || at < colon)
		return NULL;

	appendBinaryStringInfo(out, p, colon + 1 - p);
	appendStringInfoString(out, MASK);
	return at;
}

char *
rctl_redact(const char *message)
{
	StringInfoData out;
	const char *p = message;

	initStringInfo(&out);
	while (*p)
	{
		const char *next = NULL;

		if (*p == 'p' || *p == 'P')
			next = redact_named(&out, p);
		else if (p - message >= 3 && strncmp(p - 3, "://", 3) == 0)
			next = redact_authority(&out, p);

		if (next == NULL)
		{
			appendStringInfoCharMacro(&out, *p);
			next = p + 1;
		}
		p = next;
	}
	return out.data;
}

char *
rctl_last_lines(const char *message, int max_lines)
{
	const char *end = message + strlen(message);
	const char *start;
	int			lines = 0;

	while (end > message && isspace((unsigned char) end[-1]))
		end--;

	/*
	 * Whole lines only, as long as one fits: half a line could start in the
	 * middle of a character, or of a password.
	 */
	start = end;
	for (const char *p = end; p > message; p--)
	{
		if (end - p >= LAST_LINES_SIZE)
			break;
		if (p - 1 == message)
			start = message;
		else if (p[-1] == '\n')
		{
			start = p;
			if (++lines == max_lines)
				break;
		}
	}
	if (start == end && end > message)
		start = end - Min(end - message, LAST_LINES_SIZE);

	return rctl_redact(rctl_valid_text(start, end - start));
}

char *
rctl_vpsprintf(const char *format, va_list args)
{
	StringInfoData text;

	initStringInfo(&text);
	for (;;)
	{
		va_list		again;
		int			needed;

		va_copy(again, args);
		needed = appendStringInfoVA(&text, format, again);
		va_end(again);
		if (needed == 0)
			return text.data;

		enlargeStringInfo(&text, needed);
	}
}
