/*-------------------------------------------------------------------------
 *
 * xml.h
 *	  Reads XML that came from elsewhere, by libxml2.
 *
 * Nothing is loaded, no entity but the five of XML itself is replaced, a
 * document type declaration is refused, and libxml2's own limits on depth and
 * size apply.  Elements are found by their local names: prefixes and name
 * spaces do not matter.  Texts come in the database encoding, with what it
 * cannot express replaced by '?'.
 *
 * A document belongs to the memory context that was current when it was read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_XML_H
#define REPLICA_CTL_NET_XML_H

typedef struct RctlXml RctlXml; /* an element */

/* The root element; or NULL, and *problem a palloc'd clause for errdetail. */
extern const RctlXml *rctl_xml_parse(const char *bytes, size_t length, char **problem);

/* Its local name. */
extern const char *rctl_xml_name(const RctlXml *element);

/*
 * The first element by a path of local names below this one: "Endpoint/Port".
 * NULL if there is none, also if element is NULL.  An empty path is the
 * element itself.
 */
extern const RctlXml *rctl_xml_find(const RctlXml *element, const char *path);

/* Its text, without white space at both ends, palloc'd; NULL if there is none or it is empty. */
extern char *rctl_xml_text(const RctlXml *element, const char *path);

/*
 * For loops: the first, and the next after previous, child element of this
 * local name (NULL: any).  parent may be NULL.
 *
 *		for (item = rctl_xml_child(list, NULL, "DBInstance"); item;
 *			 item = rctl_xml_child(list, item, "DBInstance"))
 */
extern const RctlXml *rctl_xml_child(const RctlXml *parent, const RctlXml *previous, const char *name);

#endif							/* REPLICA_CTL_NET_XML_H */
