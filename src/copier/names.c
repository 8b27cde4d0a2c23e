/*-------------------------------------------------------------------------
 *
 * names.c
 *	  What the names of files in a data directory tell.
 *
 * The rules are those of base backups of PostgreSQL 15 to 18, which differ
 * in nothing that is seen here: a file that only one of them knows does not
 * exist with the others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <ctype.h>

#include "copier/copier.h"

/* Digits of a number without a leading zero; 0 if there are none. */
static size_t
digits(const char *text)
{
	size_t		n = strspn(text, "0123456789");

	return n > 0 && n <= 10 && text[0] != '0' ? n : 0;
}

/* "", "_fsm", "_vm" or "_init", then "" or ".1"; NULL if it is none of that. */
static const char *
skip_fork(const char *text, bool *init)
{
	static const char *const forks[] = {"_fsm", "_vm", "_init"};

	*init = false;
	for (int i = 0; i < lengthof(forks); i++)
	{
		size_t		len = strlen(forks[i]);

		if (strncmp(text, forks[i], len) == 0)
		{
			*init = i == 2;
			return text +len;
		}
	}
	return text;
}

bool
rctl_copy_relation_name(const char *name, unsigned *number, bool *init, uint32 *segment)
{
	size_t		n = digits(name);
	const char *rest;

	if (n == 0)
		return false;
	*number = (unsigned) strtoul(name, NULL, 10);
	rest = skip_fork(name + n, init);
	*segment = 0;
	if (*rest == '\0')
		return true;
	if (*rest != '.')
		return false;
	n = digits(rest + 1);
	*segment = (uint32) strtoul(rest + 1, NULL, 10);
	return n > 0 && rest[1 + n] == '\0';
}

/* t, the backend's number, an underscore, the relation's file */
bool
rctl_copy_temporary_name(const char *name)
{
	size_t		n;
	unsigned	number;
	bool		init;
	uint32		segment;

	if (name[0] != 't')
		return false;
	n = strspn(name + 1, "0123456789");
	return n > 0 && name[1 + n] == '_' &&
		rctl_copy_relation_name(name + 2 + n, &number, &init, &segment);
}

bool
rctl_copy_left_out(const char *name)
{
	static const char *const names[] = {
		"postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_label", "tablespace_map",
		"backup_manifest", "postmaster.pid", "postmaster.opts", ".DS_Store",
	};

	if (strncmp(name, "pgsql_tmp", 9) == 0 || strncmp(name, "pg_internal.init", 16) == 0)
		return true;
	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return rctl_copy_own_file(name);
}

bool
rctl_copy_emptied(const char *name)
{
	static const char *const names[] = {
		"pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial",
		"pg_snapshots", "pg_subtrans",
	};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return false;
}

/* RCTL_MARKER_FILE and RCTL_RESYNC_FILE of provider/standby.h */
bool
rctl_copy_own_file(const char *name)
{
	return strcmp(name, "replica_ctl.id") == 0 || strcmp(name, "replica_ctl.resync") == 0;
}
