/*-------------------------------------------------------------------------
 *
 * yaml.c
 *	  Reads YAML by libyaml.
 *
 * The library's memory is its own (malloc); it is freed whether the text is
 * good or not.  Anchors that would blow up a small text to a large one (or
 * to an endless one) are bounded by the size of the result and the depth.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <yaml.h>

#include "lib/stringinfo.h"
#include "utils/json.h"

#include "net/text.h"
#include "net/yaml.h"

#define MAX_DEPTH 64
#define MAX_RESULT (4 * 1024 * 1024)

static bool
is_null(const yaml_node_t * node)
{
	const char *value = (const char *) node->data.scalar.value;

	return node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
		(value[0] == '\0' || strcmp(value, "~") == 0 || strcmp(value, "null") == 0);
}

static void
add_scalar(StringInfo json, const yaml_node_t * node, bool key)
{
	if (!key && is_null(node))
		appendStringInfoString(json, "null");
	else
		escape_json(json, rctl_valid_text((const char *) node->data.scalar.value, node->data.scalar.length));
}

/* False: too deep, too large, or a key that is no scalar. */
static bool
add_node(StringInfo json, yaml_document_t * document, int index, int depth)
{
	yaml_node_t *node = yaml_document_get_node(document, index);

	if (node == NULL || depth > MAX_DEPTH || json->len > MAX_RESULT)
		return false;
	switch (node->type)
	{
		case YAML_SCALAR_NODE:
			add_scalar(json, node, false);
			return true;
		case YAML_SEQUENCE_NODE:
			appendStringInfoChar(json, '[');
			for (yaml_node_item_t * item = node->data.sequence.items.start;
				 item < node->data.sequence.items.top; item++)
			{
				if (item > node->data.sequence.items.start)
					appendStringInfoChar(json, ',');
				if (!add_node(json, document, *item, depth + 1))
					return false;
			}
			appendStringInfoChar(json, ']');
			return true;
		case YAML_MAPPING_NODE:
			appendStringInfoChar(json, '{');
			for (yaml_node_pair_t * pair = node->data.mapping.pairs.start;
				 pair < node->data.mapping.pairs.top; pair++)
			{
				yaml_node_t *key = yaml_document_get_node(document, pair->key);

				if (key == NULL || key->type != YAML_SCALAR_NODE)
					return false;
				if (pair > node->data.mapping.pairs.start)
					appendStringInfoChar(json, ',');
				add_scalar(json, key, true);
				appendStringInfoChar(json, ':');
				if (!add_node(json, document, pair->value, depth + 1))
					return false;
			}
			appendStringInfoChar(json, '}');
			return true;
		default:
			return false;
	}
}

/* The JSON of a document, or NULL if it cannot be had.  Frees the document, also on an error. */
static char *
convert(yaml_document_t * document)
{
	StringInfoData json;
	volatile bool good = false;

	initStringInfo(&json);
	PG_TRY();
	{
		good = yaml_document_get_root_node(document) != NULL && add_node(&json, document, 1, 0);
	}
	PG_CATCH();
	{
		yaml_document_delete(document);
		PG_RE_THROW();
	}
	PG_END_TRY();
	yaml_document_delete(document);
	return good ? json.data : NULL;
}

char *
rctl_yaml_to_json(const char *text, size_t length, const char *what)
{
	yaml_parser_t parser;
	yaml_document_t document;
	bool		parsed;
	size_t		line;
	char	   *json;

	if (!yaml_parser_initialize(&parser))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	yaml_parser_set_input_string(&parser, (const unsigned char *) text, length);
	parsed = yaml_parser_load(&parser, &document) != 0;
	line = parser.problem_mark.line + 1;

	/* A loaded document no longer needs its parser. */
	yaml_parser_delete(&parser);
	json = parsed ? convert(&document) : NULL;
	if (json == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("%s is not valid YAML", what),
				 parsed ? errdetail("It is empty, or nested too deep or too large.")
				 : errdetail("The first error is in line %zu.", line)));
	return json;
}
