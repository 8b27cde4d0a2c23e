/*-------------------------------------------------------------------------
 *
 * html.c
 *	  Writes HTML in which all content is escaped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "net/html.h"

/* U+FFFD stands for what HTML cannot say. */
#define REPLACEMENT 0xFFFD

/* Control characters and noncharacters are errors in HTML, as references too. */
static bool
is_allowed(pg_wchar c)
{
	if (c < 0x20)
		return c == '\t' || c == '\n';
	return !(c >= 0x7F && c <= 0x9F) && !(c >= 0xFDD0 && c <= 0xFDEF) && (c & 0xFFFE) != 0xFFFE;
}

/*
 * The next character and the number of its bytes.  In a database with
 * encoding SQL_ASCII anything can come.
 */
static int
next_character(const char *text, Size left, pg_wchar *c)
{
	const unsigned char *bytes = (const unsigned char *) text;
	int			length = pg_utf_mblen(bytes);

	if (length > left || !pg_utf8_islegal(bytes, length))
	{
		*c = REPLACEMENT;
		return 1;
	}
	*c = utf8_to_unicode(bytes);
	if (!is_allowed(*c))
		*c = REPLACEMENT;
	return length;
}

void
rctl_html_text(StringInfo out, const char *text)
{
	Size		left;

	if (text == NULL)
		return;

	/*
	 * SQL_ASCII is not converted but checked: the loop does that, without an
	 * error
	 */
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		text = pg_server_to_any(text, strlen(text), PG_UTF8);

	left = strlen(text);
	while (left > 0)
	{
		pg_wchar	c;
		int			length = next_character(text, left, &c);

		if (c >= 0x7F)
			appendStringInfo(out, "&#x%X;", (unsigned int) c);
		else if (c == '<')
			appendStringInfoString(out, "&lt;");
		else if (c == '>')
			appendStringInfoString(out, "&gt;");
		else if (c == '&')
			appendStringInfoString(out, "&amp;");
		else if (c == '"')
			appendStringInfoString(out, "&quot;");
		else if (c == '\'')
			appendStringInfoString(out, "&#39;");
		else
			appendStringInfoChar(out, (char) c);
		text	  +=length;

		left -= length;
	}
}

void
rctl_html(StringInfo out, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	for (const char *p = format; *p != '\0';)
	{
		const char *percent = strchrnul(p, '%');

		appendBinaryStringInfo(out, p, percent - p);
		p = percent;
		if (*p == '\0')
			break;
		if (strncmp(p, "%.1f", 4) == 0)
		{
			appendStringInfo(out, "%.1f", va_arg(args, double));
			p += 4;
			continue;
		}
		switch (p[1])
		{
			case 's':
				rctl_html_text(out, va_arg(args, const char *));
				break;
			case 'd':
				appendStringInfo(out, "%d", va_arg(args, int));
				break;
			case '%':
				appendStringInfoChar(out, '%');
				break;
			default:
				elog(ERROR, "unknown conversion in \"%s\"", format);
		}
		p += 2;
	}
	va_end(args);
}
