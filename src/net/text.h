/*-------------------------------------------------------------------------
 *
 * text.h
 *	  Text from the outside world, made fit for messages and for columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_TEXT_H
#define REPLICA_CTL_NET_TEXT_H

#include "lib/stringinfo.h"

/*
 * The bytes as a string that is valid in the database encoding: what is not
 * (a NUL byte, too) becomes '?'.  palloc'd.
 */
extern char *rctl_valid_text(const char *bytes, size_t length);

/*
 * UTF-8 in the database encoding; what is not valid, and what that encoding
 * does not have, becomes '?'.  Raises nothing, and needs no transaction.
 */
extern char *rctl_from_utf8(const char *bytes, size_t length);

/* Appends one character, likewise. */
extern void rctl_append_unicode(StringInfo out, unsigned int code);

/*
 * The message with every secret removed that stands in it in one of the usual
 * ways: password=..., password = '...', PASSWORD '...' (also sslpassword=,
 * PGPASSWORD=), and the password of a URI.  When in doubt it removes too much.
 * palloc'd.
 */
extern char *rctl_redact(const char *message);

/*
 * The last lines (at most max_lines, at most 2 kB) of a text, valid and
 * without passwords, for errdetail.  palloc'd.
 */
extern char *rctl_last_lines(const char *message, int max_lines);

/* psprintf() for functions that are variadic themselves.  palloc'd. */
extern char *rctl_vpsprintf(const char *format, va_list args) pg_attribute_printf(1, 0);

#endif							/* REPLICA_CTL_NET_TEXT_H */
