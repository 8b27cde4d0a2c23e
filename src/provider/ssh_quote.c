/*-------------------------------------------------------------------------
 *
 * ssh_quote.c
 *	  Text for the shell of another machine: the only place that makes any.
 *
 * sshd hands one string to the user's login shell.  That string is a constant
 * (ssh_session.c); all that varies goes as a line to the /bin/sh that it
 * starts, with each word quoted here.  Nothing in single quotes means
 * anything to a POSIX shell but the quote that ends them, so that there are
 * two cases: that quote, and the newline, as requests are lines.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "provider/ssh_quote.h"

static void
append_quoted(StringInfo line, const char *word)
{
	appendStringInfoChar(line, '\'');
	for (; *word; word++)
	{
		if (*word == '\'')
			appendStringInfoString(line, "'\\''");
		else if (*word == '\n')
			appendStringInfoString(line, "'\"$rctl_n\"'");
		else
			appendStringInfoChar(line, *word);
	}
	appendStringInfoChar(line, '\'');
}

char *
rctl_ssh_quote(const char *word)
{
	StringInfoData line;

	initStringInfo(&line);
	append_quoted(&line, word);
	return line.data;
}

char *
rctl_ssh_command(const char *const *argv)
{
	StringInfoData line;

	initStringInfo(&line);
	for (int i = 0; argv[i] != NULL; i++)
	{
		if (i > 0)
			appendStringInfoChar(&line, ' ');
		append_quoted(&line, argv[i]);
	}
	return line.data;
}

/* ---------------------------------------------------------------------
 * Commands in options
 * ---------------------------------------------------------------------
 */

static void
bad_command(const char *option, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", option),
			 errdetail("%s", detail),
			 errhint("Give a program with its arguments, as words or as a JSON array: [\"/usr/bin/sudo\", \"-n\", \"systemctl\", \"start\", \"replica@%%n\"].")));
}

static List *
json_words(const char *option, const char *command)
{
	Jsonb	   *array = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(command)));
	List	   *words = NIL;

	for (uint32 i = 0; i < JB_ROOT_COUNT(array); i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&array->root, i);

		if (value->type != jbvString)
			bad_command(option, "The array must have strings only.");
		words = lappend(words, pnstrdup(value->val.string.val, value->val.string.len));
	}
	return words;
}

static List *
plain_words(const char *option, const char *command)
{
	List	   *words = NIL;
	StringInfoData word;
	bool		in_word = false;
	char		quote = '\0';

	initStringInfo(&word);
	for (const char *c = command; *c; c++)
	{
		if (*c == '\\' && quote != '\'' && c[1] != '\0')
		{
			appendStringInfoChar(&word, *++c);
			in_word = true;
		}
		else if (quote != '\0' ? *c == quote : (*c == '\'' || *c == '"'))
		{
			quote = quote != '\0' ? '\0' : *c;
			in_word = true;
		}
		else if (quote == '\0' && isspace((unsigned char) *c))
		{
			if (in_word)
				words = lappend(words, pstrdup(word.data));
			resetStringInfo(&word);
			in_word = false;
		}
		else
		{
			appendStringInfoChar(&word, *c);
			in_word = true;
		}
	}
	if (quote != '\0')
		bad_command(option, "A quote is not closed.");
	if (in_word)
		words = lappend(words, pstrdup(word.data));
	return words;
}

List *
rctl_ssh_words(const char *option, const char *command)
{
	List	   *words = command[strspn(command, " \t\n")] == '['
	? json_words(option, command) : plain_words(option, command);

	if (words == NIL || ((char *) linitial(words))[0] != '/')
		bad_command(option, "It must begin with the absolute path of a program.");
	return words;
}

#ifdef RCTL_TEST
PG_FUNCTION_INFO_V1(rctl_test_ssh_quote);
PG_FUNCTION_INFO_V1(rctl_test_ssh_words);

/* bytea without zero bytes to bytea */
Datum
rctl_test_ssh_quote(PG_FUNCTION_ARGS)
{
	bytea	   *raw = PG_GETARG_BYTEA_PP(0);
	char	   *quoted = rctl_ssh_quote(pnstrdup(VARDATA_ANY(raw), VARSIZE_ANY_EXHDR(raw)));

	PG_RETURN_BYTEA_P(cstring_to_text(quoted));
}

/* The words, each in brackets. */
Datum
rctl_test_ssh_words(PG_FUNCTION_ARGS)
{
	StringInfoData out;
	ListCell   *cell;

	initStringInfo(&out);
	foreach(cell, rctl_ssh_words("start_command", text_to_cstring(PG_GETARG_TEXT_PP(0))))
		appendStringInfo(&out, "[%s]", (char *) lfirst(cell));
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}
#endif
