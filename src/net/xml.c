/*-------------------------------------------------------------------------
 *
 * xml.c
 *	  Reads XML that came from elsewhere, by libxml2.
 *
 * libxml2 allocates by malloc(): a document is held by a small struct in a
 * memory context of its own, whose reset callback frees it.  Its messages go
 * to a handler that drops them; neither that one nor any other callback here
 * allocates or jumps.  PostgreSQL's own use of libxml2 in the same process is
 * not touched, for nothing global is set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <libxml/parser.h>
#include <libxml/tree.h>

#include "utils/memutils.h"

#include "net/text.h"
#include "net/xml.h"

typedef struct Document
{
	MemoryContextCallback callback;
	xmlParserCtxtPtr parser;
	xmlDocPtr	doc;
	bool		has_dtd;
} Document;

static void
free_document(void *arg)
{
	Document   *document = arg;

	if (document->doc)
		xmlFreeDoc(document->doc);
	if (document->parser)
		xmlFreeParserCtxt(document->parser);
}

/* The newer libxml2 passes a pointer to const. */
#if LIBXML_VERSION >= 21200
static void
drop_message(void *arg, const xmlError * error)
#else
static void
drop_message(void *arg, xmlErrorPtr error)
#endif
{
}

static void
refuse_dtd(void *arg, const xmlChar * name, const xmlChar * external, const xmlChar * system)
{
	xmlParserCtxtPtr parser = arg;
	Document   *document = parser->_private;

	document->has_dtd = true;
	xmlStopParser(parser);
}

static Document *
make_document(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl XML",
												  ALLOCSET_SMALL_SIZES);
	Document   *document = MemoryContextAllocZero(context, sizeof(Document));

	document->callback.func = free_document;
	document->callback.arg = document;
	MemoryContextRegisterResetCallback(context, &document->callback);
	return document;
}

const RctlXml *
rctl_xml_parse(const char *bytes, size_t length, char **problem)
{
	Document   *document = make_document();
	xmlParserCtxtPtr parser;
	xmlNode    *root;

	xmlInitParser();
	parser = document->parser = xmlNewParserCtxt();
	if (parser == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	parser->_private = document;
	parser->sax->internalSubset = refuse_dtd;
	parser->sax->serror = drop_message;

	if (length <= INT_MAX)
		document->doc = xmlCtxtReadMemory(parser, bytes, (int) length, NULL, NULL,
										  XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING |
										  XML_PARSE_NOCDATA | XML_PARSE_COMPACT);
	root = document->doc ? xmlDocGetRootElement(document->doc) : NULL;
	if (root && !document->has_dtd)
		return (const RctlXml *) root;

	*problem = document->has_dtd ? "it has a document type declaration" : "it is not XML";
	MemoryContextDelete(GetMemoryChunkContext(document));
	return NULL;
}

const char *
rctl_xml_name(const RctlXml *element)
{
	return (const char *) ((const xmlNode *) element)->name;
}

static const xmlNode *
first_named(const xmlNode * node, const char *name, size_t length)
{
	for (; node; node = node->next)
		if (node->type == XML_ELEMENT_NODE &&
			(name == NULL || (strlen((const char *) node->name) == length &&
							  memcmp(node->name, name, length) == 0)))
			return node;
	return NULL;
}

const RctlXml *
rctl_xml_find(const RctlXml *element, const char *path)
{
	const		xmlNode *node = (const xmlNode *) element;

	while (node && *path)
	{
		size_t		length = strcspn(path, "/");

		node = first_named(node->children, path, length);
		path += length;
		if (*path == '/')
			path++;
	}
	return (const RctlXml *) node;
}

char *
rctl_xml_text(const RctlXml *element, const char *path)
{
	const		xmlNode *node = (const xmlNode *) rctl_xml_find(element, path);
	xmlChar    *content;
	char	   *text = NULL;

	content = node ? xmlNodeGetContent(node) : NULL;
	if (content == NULL)
		return NULL;
	PG_TRY();
	{
		char	   *start = (char *) content;
		char	   *end = start + strlen(start);

		while (end > start && isspace((unsigned char) end[-1]))
			end--;
		while (start < end && isspace((unsigned char) *start))
			start++;
		if (end > start)
			text = rctl_from_utf8(start, end - start);
	}
	PG_FINALLY();
	{
		xmlFree(content);
	}
	PG_END_TRY();
	return text;
}

const RctlXml *
rctl_xml_child(const RctlXml *parent, const RctlXml *previous, const char *name)
{
	const		xmlNode *start = NULL;

	if (previous)
		start = ((const xmlNode *) previous)->next;
	else if (parent)
		start = ((const xmlNode *) parent)->children;
	return (const RctlXml *) first_named(start, name, name ? strlen(name) : 0);
}
