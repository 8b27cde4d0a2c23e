/*-------------------------------------------------------------------------
 *
 * ssh_quote.h
 *	  Text for the shell of another machine: the only place that makes any.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PROVIDER_SSH_QUOTE_H
#define REPLICA_CTL_PROVIDER_SSH_QUOTE_H

#include "nodes/pg_list.h"

/* What has to stand before the first quoted word: it makes the variable that stands for a newline. */
#define RCTL_SSH_QUOTE_PRELUDE "rctl_n=$(printf '\\nx'); rctl_n=${rctl_n%x}; "

/*
 * One word of a command line of a POSIX shell, on one line whatever is in it.
 * palloc'd.
 */
extern char *rctl_ssh_quote(const char *word);

/* A function or program with its arguments, ended by NULL: words with a space between. */
extern char *rctl_ssh_command(const char *const *argv);

/*
 * The words of a command that a user has given: a JSON array of strings, or
 * words with spaces between, where quotes (single or double) keep a word
 * together and a backslash, but within single quotes, takes the next
 * character as it is.  No shell reads it.  A list of strings; raises an error
 * that names the option.
 */
extern List *rctl_ssh_words(const char *option, const char *command);

#endif							/* REPLICA_CTL_PROVIDER_SSH_QUOTE_H */
