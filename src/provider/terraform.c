/*-------------------------------------------------------------------------
 *
 * terraform.c
 *	  Tells a user of Terraform what to change after an operation.
 *
 * Nothing here reads a configuration: an address is either told by the user
 * (option "terraform") or made of the name that the thing has in its cloud.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/json.h"

#include "provider/terraform.h"

RctlTerraform *
rctl_terraform_make(void)
{
	RctlTerraform *terraform = palloc0(sizeof(RctlTerraform));

	initStringInfo(&terraform->add);
	initStringInfo(&terraform->remove);
	terraform->first = -1;
	return terraform;
}

/* A name as the label of a block: letters, digits and "_", not beginning with a digit. */
static char *
label_of(const char *name)
{
	StringInfoData label;

	initStringInfo(&label);
	for (const char *c = name; *c; c++)
	{
		bool		letter = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || *c == '_';
		bool		digit = *c >= '0' && *c <= '9';

		if (digit && label.len == 0)
			appendStringInfoChar(&label, '_');
		appendStringInfoChar(&label, letter || digit ? *c : '_');
	}
	return label.data;
}

char *
rctl_terraform_address(const RctlMap *options, const char *key, const char *type, const char *name)
{
	const char *object = rctl_map_get(options, "terraform");
	const char *address = object ? rctl_map_get(rctl_map_from_json(object, "terraform"), key) : NULL;

	return address ? pstrdup(address) : psprintf("%s.%s", type, label_of(name));
}

/* For a shell. */
static char *
quote(const char *text)
{
	StringInfoData out;

	if (strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@") == strlen(text))
		return pstrdup(text);
	initStringInfo(&out);
	appendStringInfoChar(&out, '\'');
	for (; *text; text ++)
	{
		if (*text == '\'')
			appendStringInfoString(&out, "'\\''");
		else
			appendStringInfoChar(&out, *text);
	}
	appendStringInfoChar(&out, '\'');
	return out.data;
}

void
rctl_terraform_import(RctlTerraform *terraform, const char *address, const char *id)
{
	if (id)
		terraform->commands = lappend(terraform->commands,
									  psprintf("terraform import %s %s", quote(address), quote(id)));
}

void
rctl_terraform_forget(RctlTerraform *terraform, const char *address)
{
	terraform->commands = lappend(terraform->commands, psprintf("terraform state rm %s", quote(address)));
}

/*
 * As "terraform fmt" does: the "=" of neighbouring attributes stand below each
 * other.  Called when no more neighbours come; the attributes since
 * terraform->first are complete lines of "NAME = VALUE".
 */
static void
align(RctlTerraform *terraform, StringInfo out)
{
	StringInfoData aligned;
	int			width = 0;

	if (terraform->first < 0)
		return;
	for (const char *line = out->data + terraform->first; *line; line = strchr(line, '\n') + 1)
		width = Max(width, strstr(line, " = ") - line);
	initStringInfo(&aligned);
	for (const char *line = out->data + terraform->first; *line; line = strchr(line, '\n') + 1)
	{
		const char *equals = strstr(line, " = ");

		appendBinaryStringInfo(&aligned, line, equals - line);
		appendStringInfoSpaces(&aligned, width - (equals - line));
		appendBinaryStringInfo(&aligned, equals, strchr(line, '\n') + 1 - equals);
	}
	out->len = terraform->first;
	appendBinaryStringInfo(out, aligned.data, aligned.len);
	terraform->first = -1;
}

static void
begin_attribute(RctlTerraform *terraform, StringInfo out, const char *name)
{
	if (terraform->first < 0)
		terraform->first = out->len;
	appendStringInfoSpaces(out, 2 * terraform->depth);
	appendStringInfo(out, "%s = ", name);
}

static void
indent(RctlTerraform *terraform, StringInfo out)
{
	appendStringInfoSpaces(out, 2 * terraform->depth);
}

static void
put_string(StringInfo out, const char *value)
{
	appendStringInfoChar(out, '"');
	for (; *value; value++)
	{
		switch (*value)
		{
			case '"':
			case '\\':
				appendStringInfoChar(out, '\\');
				appendStringInfoChar(out, *value);
				break;
			case '\n':
				appendStringInfoString(out, "\\n");
				break;
			case '\r':
				appendStringInfoString(out, "\\r");
				break;
			case '\t':
				appendStringInfoString(out, "\\t");
				break;
			case '$':
			case '%':
				/* ${ and %{ begin a template */
				appendStringInfoChar(out, *value);
				if (value[1] == '{')
					appendStringInfoChar(out, *value);
				break;
			default:
				appendStringInfoChar(out, *value);
		}
	}
	appendStringInfoChar(out, '"');
}

void
rctl_terraform_resource(RctlTerraform *terraform, StringInfo out, const char *address)
{
	const char *dot = strrchr(address, '.');
	const char *type = address;
	char	   *label = dot ? pstrdup(dot + 1) : pstrdup(address);

	/* module.x.TYPE.LABEL["key"]: the block has the last type and label only */
	for (const char *c = address; dot && c < dot; c++)
	{
		if (*c == '.')
			type = c + 1;
	}
	label[strcspn(label, "[")] = '\0';
	if (out->len > 0)
		appendStringInfoChar(out, '\n');
	appendStringInfo(out, "resource \"%.*s\" \"%s\" {\n", dot ? (int) (dot - type) : 0, type, label);
	terraform->depth++;
}

void
rctl_terraform_block(RctlTerraform *terraform, StringInfo out, const char *name)
{
	align(terraform, out);
	indent(terraform, out);
	appendStringInfo(out, "%s {\n", name);
	terraform->depth++;
}

void
rctl_terraform_text(RctlTerraform *terraform, StringInfo out, const char *name, const char *value)
{
	if (value == NULL)
		return;
	begin_attribute(terraform, out, name);
	put_string(out, value);
	appendStringInfoChar(out, '\n');
}

void
rctl_terraform_raw(RctlTerraform *terraform, StringInfo out, const char *name, const char *value)
{
	if (value == NULL)
		return;
	begin_attribute(terraform, out, name);
	appendStringInfo(out, "%s\n", value);
}

void
rctl_terraform_json(RctlTerraform *terraform, StringInfo out, const char *name, const RctlJson *json)
{
	char	   *text;
	ListCell   *lc;

	if (json == NULL || json->type == jbvNull)
		return;
	if (rctl_json_is_object(json))
	{
		rctl_terraform_block(terraform, out, name);
		foreach(lc, rctl_json_keys(json))
			rctl_terraform_json(terraform, out, lfirst(lc), rctl_json_key(json, lfirst(lc)));
		rctl_terraform_end(terraform, out);
		return;
	}
	text = rctl_json_text(json, "");

	if (json->type == jbvString)
		rctl_terraform_text(terraform, out, name, text);
	else
		rctl_terraform_raw(terraform, out, name, text ? text : rctl_json_print(json));
}

void
rctl_terraform_end(RctlTerraform *terraform, StringInfo out)
{
	align(terraform, out);
	terraform->depth--;
	indent(terraform, out);
	appendStringInfoString(out, "}\n");
}

char *
rctl_terraform_detail(const RctlTerraform *terraform)
{
	StringInfoData out;
	ListCell   *lc;
	bool		first = true;

	initStringInfo(&out);
	appendStringInfoString(&out, "{\"commands\": [");
	foreach(lc, terraform->commands)
	{
		appendStringInfoString(&out, first ? "" : ", ");
		escape_json(&out, lfirst(lc));
		first = false;
	}
	appendStringInfoChar(&out, ']');
	if (terraform->add.len > 0)
	{
		appendStringInfoString(&out, ", \"add\": ");
		escape_json(&out, terraform->add.data);
	}
	if (terraform->remove.len > 0)
	{
		appendStringInfoString(&out, ", \"remove\": ");
		escape_json(&out, terraform->remove.data);
	}
	appendStringInfoChar(&out, '}');
	return out.data;
}
