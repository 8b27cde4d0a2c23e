/*-------------------------------------------------------------------------
 *
 * html.h
 *	  Writes HTML in which all content is escaped.
 *
 * Markup stands in format strings, content in their arguments: what is not a
 * constant of the source cannot be markup.  The text is pure ASCII, so that
 * it means the same in every encoding that a client may ask for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_HTML_H
#define REPLICA_CTL_NET_HTML_H

#include "lib/stringinfo.h"

/*
 * Appends markup.  In the format, %s is a text (NULL: nothing), escaped for
 * content and for attribute values in quotes; %d an int; %.1f a finite double;
 * %% a percent sign.  There is nothing else.
 */
extern void rctl_html(StringInfo out, const char *format,...) pg_attribute_printf(2, 3);

/* Appends content. */
extern void rctl_html_text(StringInfo out, const char *text);

#endif							/* REPLICA_CTL_NET_HTML_H */
