/*-------------------------------------------------------------------------
 *
 * ssh_check.c
 *	  What is looked at on another host before a replica is made there.
 *
 * A physical copy runs on another host only if processor, major version,
 * libraries and locales are the same, and sorts as its indexes were built
 * only if the collations are.  What would keep it from starting is an error,
 * what may bite later a warning.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <gnu/libc-version.h>
#include <math.h>
#include <sys/utsname.h>

#include "miscadmin.h"
#include "port.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "net/pgconn.h"
#include "provider/host_ssh.h"
#include "provider/ssh_check.h"
#include "provider/standby.h"

/* Clocks that differ by more make intervals of lag and logs misleading. */
#define CLOCK_TOLERANCE_S 1.0
#define WAY_TIMEOUT_MS 5000

/* From the beginning of a program's file to the end of the processor's number. */
#define ELF_BYTES 20

void
rctl_ssh_check_host(RctlOp *op)
{
	static const char *const shared[] = {"sslmode", "sslrootcert", "sslcert", "sslkey"};
	RctlMap    *facts = op->replica->facts;

	rctl_map_set(facts, "os_user", NULL);
	rctl_host_ssh_look(rctl_host_ssh(op, op->server_options, op->replica), facts);
	for (int i = 0; i < lengthof(shared); i++)
		rctl_map_set(facts, shared[i], rctl_map_get(op->server_options, shared[i]));
}

void
rctl_ssh_require_host(RctlOp *op)
{
	if (rctl_map_get(op->replica->facts, "os_user") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("not checked, as the host cannot be used"),
				 errhint("See the check \"ssh\".")));
}

/* "postgres (PostgreSQL) 15.6 (Debian 15.6-0+deb12u1)" */
static const char *
version_number(const char *text)
{
	const char *number = strstr(text, "(PostgreSQL) ");

	return number ? pnstrdup(number + 13, strcspn(number + 13, " ")) : text;
}

/* As rctl_standby_check_programs, with one question for all. */
void
rctl_ssh_check_programs(RctlOp *op)
{
	static const char *const programs[] = {"pg_basebackup", "pg_ctl", "pg_controldata", "postgres", "psql"};
	RctlHost   *host = rctl_standby_host(op);
	List	   *paths = NIL;
	List	   *missing;

	for (int i = 0; i < lengthof(programs); i++)
		paths = lappend(paths, psprintf("%s/%s", host->bindir, programs[i]));
	missing = rctl_host_ssh_missing(host, paths);
	if (missing)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("program \"%s\" not found in \"%s\" on %s",
						strrchr(linitial(missing), '/') + 1, host->bindir, host->name),
				 errhint("Install it, or set the server's option bindir.")));
}

void
rctl_ssh_check_version(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	const char *own = version_number("(PostgreSQL) " PG_VERSION);
	const char *theirs;

	theirs = version_number(rctl_host_ssh_version(host, "postgres"));
	if (strtol(theirs, NULL, 10) != PG_MAJORVERSION_NUM)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("PostgreSQL on %s is of another major version", host->name),
				 errdetail("That in \"%s\" is of version %s, this server of %s.", host->bindir, theirs, own),
				 errhint("Install PostgreSQL %d there, or set the server's option bindir.", PG_MAJORVERSION_NUM)));
	if (strcmp(theirs, own) != 0)
		rctl_op_warn(op, psprintf("It is %s there and %s here.", theirs, own),
					 "Install the same minor version on both, replicas first.",
					 "PostgreSQL on %s is of another minor version", host->name);
}

/* "72" of the ICU library that this server has loaded; "" if there is none. */
static char *
own_icu(void)
{
	static const char name[] = "/libicuuc.so.";
	FILE	   *maps = AllocateFile("/proc/self/maps", "r");
	char		line[MAXPGPATH + 128];
	char	   *version = NULL;

	while (maps && version == NULL && fgets(line, sizeof(line), maps))
	{
		char	   *found = strstr(line, name);

		if (found)
			version = pnstrdup(found + strlen(name), strspn(found + strlen(name), "0123456789"));
	}
	if (maps)
		FreeFile(maps);
	return version ? version : pstrdup("");
}

/* en_US.UTF-8 and en_US.utf8 are one. */
static char *
locale_key(const char *name)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfoChar(&key, ' ');
	for (; *name; name++)
	{
		if (*name != '-')
			appendStringInfoChar(&key, pg_tolower((unsigned char) *name));
	}
	appendStringInfoChar(&key, ' ');
	return key.data;
}

static void
check_locales(RctlOp *op, RctlHost *host, const char *locales)
{
	RctlRows   *rows = rctl_own_rows(op,
									 "SELECT DISTINCT l FROM pg_catalog.pg_database, LATERAL (VALUES (datcollate), (datctype)) v(l)"
									 " WHERE datallowconn AND l NOT IN ('C', 'POSIX') ORDER BY l", 0, NULL);
	char	   *known = psprintf(" %s", locale_key(locales));

	if (locales[strspn(locales, " ")] == '\0')
		return;
	for (int i = 0; i < rows->nrows; i++)
	{
		const char *name = rctl_cell(rows, i, 0);

		if (strstr(known, locale_key(name)) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("locale \"%s\" is missing on %s", name, host->name),
					 errdetail("A database of this server uses it, and nobody could connect to that on a copy."),
					 errhint("Generate it there with locale-gen or dpkg-reconfigure locales.")));
	}
}

/* Whether collations of libc that change with it are in use, those of ICU, any locale of libc but C. */
static const char *const collations_sql =
"SELECT libc, icu, libc OR locales FROM (SELECT"
" EXISTS (SELECT FROM pg_catalog.pg_database"
"  WHERE datallowconn AND datcollate NOT IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8'))"
" OR EXISTS (SELECT FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_attribute a ON a.attcollation = c.oid"
"  WHERE c.collprovider = 'c' AND c.oid >= 1000) AS libc,"
" EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_collation c ON a.attcollation = c.oid"
"  WHERE c.collprovider = 'i')"
" OR EXISTS (SELECT FROM pg_catalog.pg_database d WHERE to_jsonb(d)->>'datlocprovider' = 'i') AS icu,"
" EXISTS (SELECT FROM pg_catalog.pg_database WHERE datallowconn"
"  AND (datcollate NOT IN ('C', 'POSIX') OR datctype NOT IN ('C', 'POSIX'))) AS locales) u";

/*
 * Whether two programs that begin with these bytes, as hexadecimal digits,
 * were built for the same kind of machine: a processor may run programs of
 * another word size, whose server cannot read our files.
 */
static bool
same_elf(const char *theirs, const char *ours)
{
	const char *magic = "7f454c46";
	size_t		digits = 2 * ELF_BYTES;

	/* It may be a script that calls the program. */
	if (strlen(theirs) < digits || strlen(ours) < digits ||
		strncmp(theirs, magic, strlen(magic)) != 0 || strncmp(ours, magic, strlen(magic)) != 0)
		return true;
	/* word size and byte order, then the processor */
	return strncmp(theirs + 8, ours + 8, 4) == 0 && strncmp(theirs + 36, ours + 36, 4) == 0;
}

/* The beginning of this server's program. */
static char *
own_elf(void)
{
	FILE	   *file = AllocateFile(my_exec_path, PG_BINARY_R);
	unsigned char bytes[ELF_BYTES] = {0};
	StringInfoData digits;

	initStringInfo(&digits);
	if (file && fread(bytes, 1, sizeof(bytes), file) == sizeof(bytes))
	{
		for (int i = 0; i < sizeof(bytes); i++)
			appendStringInfo(&digits, "%02x", bytes[i]);
	}
	if (file)
		FreeFile(file);
	return digits.data;
}

void
rctl_ssh_check_platform(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	RctlMap    *theirs;
	struct utsname own;
	char	   *libc = psprintf("glibc %s", gnu_get_libc_version());
	char	   *icu;
	const char *their_libc;
	const char *their_icu;
	RctlRows   *used;

	used = rctl_own_rows(op, collations_sql, 0, NULL);
	theirs = rctl_host_ssh_platform(host, rctl_cell(used, 0, 2)[0] == 't', rctl_cell(used, 0, 1)[0] == 't');
	if (uname(&own) == 0 && strcmp(own.machine, rctl_map_get_default(theirs, "machine", own.machine)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s has another processor architecture", host->name),
				 errdetail("It is %s, and this host is %s.", rctl_map_get(theirs, "machine"), own.machine),
				 errhint("A physical copy needs the same architecture.")));
	if (!same_elf(rctl_map_get_default(theirs, "elf", ""), own_elf()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("PostgreSQL on %s was built for another kind of machine", host->name),
				 errdetail("Word size, byte order or processor of \"%s/postgres\" are not those of \"%s\".", host->bindir, my_exec_path),
				 errhint("Install the packages of the same architecture there, or set the server's option bindir.")));
	check_locales(op, host, rctl_map_get_default(theirs, "locales", ""));

	their_libc = rctl_map_get_default(theirs, "libc", "");
	if (strcmp(their_libc, libc) != 0 && rctl_cell(used, 0, 0)[0] == 't')
		rctl_op_warn(op, psprintf("It is %s there and %s here.", their_libc[0] ? their_libc : "not known", libc),
					 "Install the same release of the operating system on both, or REINDEX indexes on text after a promotion.",
					 "the C library of %s is of another version, and so may be its collations", host->name);
	icu = own_icu();
	their_icu = rctl_map_get_default(theirs, "libicu", "");
	if (icu[0] && strcmp(their_icu, icu) != 0 && rctl_cell(used, 0, 1)[0] == 't')
		rctl_op_warn(op, psprintf("It is %s there and %s here.", their_icu[0] ? their_icu : "not known", icu),
					 "Install the same release of the operating system on both, or REINDEX indexes on text after a promotion.",
					 "the ICU library of %s is of another version, and so may be its collations", host->name);
}

/* ---------------------------------------------------------------------
 * Files that a copy needs
 * ---------------------------------------------------------------------
 */

/* Where a library of this name is there. */
static char *
library_path(RctlHost *host, const char *name)
{
	char		directory[MAXPGPATH];
	const char *suffix = strlen(name) > 3 && strcmp(name + strlen(name) - 3, ".so") == 0 ? "" : ".so";

	if (is_absolute_path(name))
		return psprintf("%s%s", name, suffix);
	if (strncmp(name, "$libdir/", 8) == 0)
		name += 8;
	get_pkglib_path(psprintf("%s/postgres", host->bindir), directory);
	return psprintf("%s/%s%s", directory, name, suffix);
}

/* Paths of the libraries that a query names, which are missing there: "a, b"; NULL: none. */
static char *
missing_libraries(RctlOp *op, RctlHost *host, const char *sql)
{
	RctlRows   *rows = rctl_own_rows(op, sql, 0, NULL);
	List	   *paths = NIL;
	ListCell   *cell;
	StringInfoData text;

	for (int i = 0; i < rows->nrows; i++)
		paths = lappend(paths, library_path(host, rctl_cell(rows, i, 0)));
	if (paths == NIL)
		return NULL;
	initStringInfo(&text);
	foreach(cell, rctl_host_ssh_missing(host, paths))
		appendStringInfo(&text, "%s\"%s\"", text.len > 0 ? ", " : "", (char *) lfirst(cell));
	return text.len > 0 ? text.data : NULL;
}

void
rctl_ssh_check_libraries(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	char	   *missing;

	missing = missing_libraries(op, host,
								"SELECT DISTINCT trim(both '\" ' from l) FROM unnest(string_to_array("
								" concat_ws(',', nullif(current_setting('shared_preload_libraries'), ''),"
								"  nullif(current_setting('session_preload_libraries'), ''),"
								"  nullif(current_setting('local_preload_libraries'), '')), ',')) l");
	if (missing)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("libraries that this server preloads are missing on %s", host->name),
				 errdetail("Not found there: %s.", missing),
				 errhint("Install the packages of these extensions there.")));
	missing = missing_libraries(op, host,
								"SELECT DISTINCT probin FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang"
								" WHERE l.lanname = 'c' AND probin IS NOT NULL");
	if (missing)
		rctl_op_warn(op, psprintf("Not found there: %s.", missing),
					 "Install the packages of these extensions there; their functions do not work on the replica without.",
					 "libraries of extensions are missing on %s", host->name);
}

/*
 * pg_hba.conf and pg_ident.conf go there as they are; what they take in from
 * other files stays here.
 */
static void
check_access_file(const char *setting)
{
	const char *path = GetConfigOption(setting, false, false);
	FILE	   *file = AllocateFile(path, "r");
	char		line[8192];

	while (file && fgets(line, sizeof(line), file))
	{
		char	   *start = line + strspn(line, " \t");

		start[strcspn(start, "#\n")] = '\0';
		if (strncmp(start, "include", 7) != 0 && strstr(start, " @") == NULL &&
			strstr(start, "\t@") == NULL && strstr(start, ",@") == NULL)
			continue;
		FreeFile(file);
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s \"%s\" takes in other files, which a replica on another host would not have", setting, path),
				 errdetail("It has the line \"%s\".", start),
				 errhint("Write what is in that file into \"%s\".", path)));
	}
	if (file)
		FreeFile(file);
}

void
rctl_ssh_check_files(RctlOp *op)
{
	static const char *const settings[] = {
		"ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_dh_params_file",
	};
	RctlHost   *host = rctl_standby_host(op);
	const char *given = rctl_map_get(op->replica->options, "settings");
	RctlMap    *own = given ? rctl_map_from_json(given, "settings") : rctl_map_make();
	bool		ssl = false;
	List	   *paths = NIL;
	List	   *missing;

	check_access_file("hba_file");
	check_access_file("ident_file");
	if (!parse_bool(rctl_map_get_default(own, "ssl", GetConfigOption("ssl", false, false)), &ssl) || !ssl)
		return;
	for (int i = 0; i < lengthof(settings); i++)
	{
		const char *path = rctl_map_get_default(own, settings[i], GetConfigOption(settings[i], false, false));

		/* a relative one is in the data directory, and is copied with it */
		if (path && is_absolute_path(path))
			paths = lappend(paths, pstrdup(path));
	}
	missing = paths ? rctl_host_ssh_missing(host, paths) : NIL;
	if (missing)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("file \"%s\", which a setting of this server names, cannot be read on %s",
						(char *) linitial(missing), host->name),
				 errdetail("User \"%s\" needs the certificate and key of ssl there.", host->os_user),
				 errhint("Put it there, or name another one, or turn ssl off, with the option settings.")));
}

/* ---------------------------------------------------------------------
 * Clock and network
 * ---------------------------------------------------------------------
 */

void
rctl_ssh_check_clock(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	double		error;
	double		ahead;

	if (!rctl_host_ssh_clock(host, &ahead, &error))
		rctl_op_warn(op, NULL, "Its program date should print seconds for the format \"+%s.%N\".",
					 "the clock of %s cannot be read", host->name);
	else if (fabs(ahead) > CLOCK_TOLERANCE_S + error)
		rctl_op_warn(op, "Times of lag and apply_delay are wrong by as much.",
					 "Keep the clocks of both hosts by NTP.",
					 "the clock of %s is %.1f s %s", host->name, fabs(ahead), ahead > 0 ? "ahead" : "behind");
}

/* Nobody listens there yet: a refusal is the answer that a host gives which can be reached. */
void
rctl_ssh_check_way(RctlOp *op)
{
	RctlHost   *host = rctl_standby_host(op);
	const char *port = rctl_map_get(op->replica->facts, "port");
	RctlConnParam params[] = {
		{"host", host->address},
		{"port", port},
		{"user", "replica_ctl"},
		{"dbname", "postgres"},
		{NULL, NULL}
	};
	char	   *reason;
	int			sqlerrcode;
	PGconn	   *conn;

	if (port == NULL)
		return;
	conn = rctl_pg_try_connect(rctl_conninfo(params), WAY_TIMEOUT_MS, &reason, &sqlerrcode);
	if (conn)
		rctl_pg_close(conn);
	else if (strstr(reason, "refused") == NULL && ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("port %s of \"%s\" cannot be reached from this server", port, host->address),
				 errdetail("%s", reason),
				 errhint("Let the firewall of %s pass it, or set the server's option address to where servers on the host are reached.", host->name)));
}
