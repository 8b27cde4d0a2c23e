/*-------------------------------------------------------------------------
 *
 * text.h
 *	  Text from the outside world, made fit for messages and for columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_TEXT_H
#define REPLICA_CTL_NET_TEXT_H

/*
 * The bytes as a string that is valid in the database encoding: what is not
 * (a NUL byte, too) becomes '?'.  palloc'd.
 */
extern char *rctl_valid_text(const char *bytes, size_t length);

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

#endif							/* REPLICA_CTL_NET_TEXT_H */
