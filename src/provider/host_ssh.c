/*-------------------------------------------------------------------------
 *
 * host_ssh.c
 *	  The host interface (host.h) for a machine that is reached by ssh.
 *
 * Each function of the interface is one round trip: a call of one of the
 * shell functions below, which use what every Debian has (coreutils, awk,
 * setsid) and the /proc of Linux, and speak English.
 *
 * Nothing is kept in memory between calls but the connection
 * (ssh_session.c).  What is known of the host, and does not change while a
 * replica lives there, is in the replica's facts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "net/wait.h"
#include "provider/host_ssh.h"
#include "provider/ssh_quote.h"
#include "provider/ssh_session.h"

#define CALL_TIMEOUT_MS 60000
#define START_POLL_MS 20
#define LOGIN_TIMEOUT_S 10

/* What a service manager may take before the server has a pid file. */
#define COMMAND_TIMEOUT_MS 120000
#define PID_FILE_TIMEOUT_MS 10000

/* Status of a function when what it should read is not there. */
#define STATUS_MISSING 44

typedef struct SshHost
{
	RctlHost	host;			/* first */
	const RctlMap *options;
	const RctlReplica *replica;
} SshHost;

/* ---------------------------------------------------------------------
 * The other side
 * ---------------------------------------------------------------------
 */

/*
 * Results are on stdout; what goes wrong is said on stderr, and the status is
 * not 0.  A path that begins with "-" cannot come, as all are absolute.
 */
static const char functions[] =
"LC_ALL=C; export LC_ALL; unset CDPATH ENV BASH_ENV LANGUAGE; umask 077; cd /\n"
"PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH\n"
"rctl_answer() {\n"
"	rctl_number=$1; shift\n"
"	\"$@\" </dev/null 2>&1; rctl_status=$?\n"
"	printf '\\n%s %s %s\\n' \"$mark\" \"$rctl_number\" \"$rctl_status\"\n"
"}\n"
"fail() { printf '%s\\n' \"$*\"; return 1; }\n"

/*
 * What the other functions need, then what is known of the host.  Arguments:
 * how many directories may have the programs, those, and directories for
 * sockets.
 */
"rctl_look() {\n"
"	for t in awk cat chmod dd env grep head id ls mkdir mktemp mv od readlink rm rmdir setsid stat sync tail timeout tr wc; do\n"
"		command -v \"$t\" >/dev/null || { fail \"program $t is missing\"; return 1; }\n"
"	done\n"
"	[ -d /proc/self ] || { fail \"there is no /proc\"; return 1; }\n"
"	printf 'os_user=%s\\nhome=%s\\n' \"$(id -un)\" \"$HOME\"\n"
"	[ -d \"$HOME\" ] && [ -w \"$HOME\" ] && printf 'home_writable=1\\n'\n"
"	printf 'client=%s\\n' \"${SSH_CONNECTION%% *}\"\n"
"	i=$1 b=''; shift\n"
"	while [ \"$i\" -gt 0 ]; do\n"
"		[ -n \"$b\" ] || { [ -x \"$1/pg_basebackup\" ] && [ -x \"$1/postgres\" ] && b=$1; }\n"
"		shift; i=$((i - 1))\n"
"	done\n"
"	[ -n \"$b\" ] || { d=$(command -v pg_ctl) && d=$(readlink -f -- \"$d\") && [ -x \"${d%/*}/postgres\" ] && b=${d%/*}; }\n"
"	printf 'bindir=%s\\n' \"$b\"\n"
"	for d; do [ -d \"$d\" ] && [ -w \"$d\" ] && printf 'sockets %s=1\\n' \"$d\"; done\n"
"	return 0\n"
"}\n"
"rctl_platform() {\n"
"	printf 'machine=%s\\nelf=%s\\n' \"$(uname -m 2>/dev/null)\" \"$(od -An -v -tx1 -N20 -- \"$1\" | tr -d ' \\n')\"\n"
"	[ \"$2\" = t ] && printf 'libc=%s\\nlocales= %s \\n' \"$(getconf GNU_LIBC_VERSION 2>/dev/null)\" \"$(locale -a 2>/dev/null | tr '\\n' ' ')\"\n"
"	[ \"$3\" = t ] && printf 'libicu=%s\\n' \"$(ldd \"$1\" 2>/dev/null | awk '/libicuuc/ { sub(/.*so\\./, \"\", $1); print $1 }')\"\n"
"	return 0\n"
"}\n"
"rctl_missing() { for f; do [ -r \"$f\" ] || printf '%s\\n' \"$f\"; done; return 0; }\n"
"rctl_clock() { date +%s.%N; }\n"

"rctl_is_empty() {\n"
"	for f in \"$1\"/* \"$1\"/.[!.]* \"$1\"/..?*; do if [ -e \"$f\" ] || [ -L \"$f\" ]; then return 1; fi; done\n"
"}\n"
"rctl_inspect() {\n"
"	p=$1 empty=0 writable=0\n"
"	if s=$(stat -c '%F|%i|%u|%d' -- \"$p\" 2>&1); then d=${s##*|} s=${s%|*}; else\n"
"		case $s in *'No such file'*|*'Not a directory'*) s='missing||' d='' ;; *) fail \"$s\"; return 1 ;; esac\n"
"	fi\n"
"	case $s in\n"
"		directory*)\n"
"			[ -w \"$p\" ] && [ -x \"$p\" ] && writable=1\n"
"			[ -r \"$p\" ] && rctl_is_empty \"$p\" && empty=1 ;;\n"
"		symbolic*) d='' ;;\n"
"	esac\n"
"	a=$p\n"
"	while ! [ -e \"$a\" ] && [ \"$a\" != / ]; do a=${a%/*}; a=${a:-/}; done\n"
"	aw=0; [ -w \"$a\" ] && [ -x \"$a\" ] && aw=1\n"
"	[ -n \"$rctl_uid\" ] || rctl_uid=$(id -u)\n"
"	[ -n \"$d\" ] || d=$(stat -L -c %d -- \"$a\")\n"
"	printf '%s|%s|%s|%s|%s|%s|%s\\n%s\\n' \"$s\" \"$empty\" \"$writable\" \"$aw\" \"$rctl_uid\" \"$d\" \"$(stat -f -c '%a|%S' -- \"$a\")\" \"$a\"\n"
"	readlink -m -- \"$p\"\n"
"}\n"

"rctl_read() { if [ -e \"$1\" ] || [ -L \"$1\" ]; then tail -c \"$2\" -- \"$1\"; else return 44; fi; }\n"

/* a directory, then name, mode and content of each file: their temporary names take the place of these */
"rctl_write() {\n"
"	d=$1 i=$((($# - 1) / 3)); shift\n"
"	while [ $i -gt 0 ]; do\n"
"		t=$d/$1.partial\n"
"		if [ -e \"$t\" ] || [ -L \"$t\" ]; then rm -f -- \"$t\" || return 1; fi\n"
"		printf '%s' \"$3\" | (set -C; exec cat >\"$t\") && { [ \"$2\" = 600 ] || chmod \"$2\" -- \"$t\"; } || { rm -f -- \"$t\"; return 1; }\n"
"		set -- \"$@\" \"$t\"; shift 3; i=$((i - 1))\n"
"	done\n"
"	sync -- \"$@\" || { rm -f -- \"$@\"; return 1; }\n"
"	for t; do mv -fT -- \"$t\" \"${t%.partial}\" || { rm -f -- \"$@\"; return 1; }; done\n"
"	sync -- \"$d/\"\n"
"}\n"
"rctl_remove_file() { if [ -e \"$1\" ] || [ -L \"$1\" ]; then rm -f -- \"$1\" && printf yes; fi; }\n"
"rctl_make_directory() {\n"
"	if [ -e \"$1\" ] || [ -L \"$1\" ]; then return 0; fi\n"
"	if [ \"$2\" = 1 ]; then mkdir -p -- \"${1%/*}/\" || return 1; fi\n"
"	mkdir -- \"$1\" && sync -- \"${1%/*}/\" && printf yes\n"
"}\n"
"rctl_set_mode() { chmod \"$2\" -- \"$1\"; }\n"

/* a copy whose connection was lost may not have ended yet */
"rctl_end_copies() {\n"
"	for f in $(grep -lsF -- \"$1\" /proc/[0-9]*/cmdline); do\n"
"		q=${f#/proc/}; q=${q%%/*}\n"
"		[ \"$q\" != $$ ] && case $(tr '\\000' '\\n' 2>/dev/null <\"$f\" | head -n 1) in */pg_basebackup) kill -KILL \"$q\" 2>/dev/null ;; esac\n"
"	done\n"
"	return 0\n"
"}\n"
"rctl_remove_tree() {\n"
"	if ! [ -e \"$1\" ] && ! [ -L \"$1\" ]; then return 0; fi\n"
"	if [ -L \"$1\" ] || ! [ -d \"$1\" ]; then fail \"$1: Not a directory\"; return 1; fi\n"
"	rctl_end_copies \"$1\"\n"
"	i=0\n"
"	while :; do\n"
"		if [ \"$2\" = 1 ]; then find \"$1/\" -mindepth 1 -maxdepth 1 -exec rm -rf -- {} +; else rm -rf -- \"$1\"; fi && break\n"
"		i=$((i + 1)); [ $i -lt 5 ] || return 1\n"
"		sleep 1\n"
"	done\n"
"	sync -- \"${1%/*}/\"\n"
"}\n"
"rctl_remove_empty() { rmdir -- \"$1\" 2>/dev/null && sync -- \"${1%/*}/\" && printf yes; return 0; }\n"
"rctl_rename() { mv -T -- \"$1\" \"$2\" && sync -- \"${2%/*}/\"; }\n"

"rctl_sync() { sync -f -- \"$@\"; }\n"

/* pid and status of the postmaster that stands in the directory; 0 if there is none */
"rctl_server() {\n"
"	pid='' status=''\n"
"	if [ -r \"$1/postmaster.pid\" ]; then\n"
"		{ IFS= read -r pid; i=1; while [ $i -lt 8 ]; do IFS= read -r status || status=''; i=$((i + 1)); done; } <\"$1/postmaster.pid\"\n"
"	fi\n"
"	pid=${pid#-}\n"
"	case $pid in\n"
"		''|*[!0-9]*) ;;\n"
"		*) [ \"$pid\" -gt 1 ] && [ \"/proc/$pid/cwd\" -ef \"$1\" ] && { printf '%s %s' \"$pid\" \"$status\"; return 0; } ;;\n"
"	esac\n"
"	printf 0\n"
"}\n"
"rctl_activity() {\n"
"	pid=$(rctl_server \"$1\"); pid=${pid%% *}; [ \"$pid\" != 0 ] || return 44\n"
"	for c in $(cat \"/proc/$pid/task/$pid/children\" 2>/dev/null); do set -- \"$@\" \"/proc/$c/cmdline\"; done\n"
"	shift; [ $# -gt 0 ] && cat -- \"$@\" 2>/dev/null | tr '\\000' ' '; return 0\n"
"}\n"
"rctl_start() {\n"
"	cd -- \"$1\" || return 1; log=$2; shift 2\n"
"	setsid \"$@\" </dev/null >>\"$log\" 2>&1 &\n"
"	printf '%s' $!; cd /\n"
"}\n"

/* whether the child that was started is there, and what the server of the directory says */
"rctl_started() {\n"
"	child=gone st=\n"
"	[ \"$1\" = 0 ] && child=unknown\n"
"	[ \"$1\" != 0 ] && [ -r \"/proc/$1/stat\" ] && IFS=' ' read -r a b st rest <\"/proc/$1/stat\" && [ \"$st\" != Z ] && child=alive\n"
"	if [ $child = gone ]; then wait \"$1\"; child=$?; fi\n"
"	printf '%s ' \"$child\"; rctl_server \"$2\"\n"
"}\n"
"rctl_ports() {\n"
"	awk '$4 == \"0A\" { print \"tcp\", $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null\n"
"	for d; do for f in \"$d\"/.s.PGSQL.*.lock; do\n"
"		[ -e \"$f\" ] || continue\n"
"		pid=; [ -r \"$f\" ] && IFS= read -r pid <\"$f\"\n"
"		case $pid in ''|*[!0-9]*) ;; *) [ -d \"/proc/$pid\" ] || continue ;; esac\n"
"		printf 'socket %s\\n' \"$f\"\n"
"	done; done\n"
"	return 0\n"
"}\n"

/* psql's path, seconds, connection string, content of a password file */
"rctl_identify() {\n"
"	t=\n"
"	if [ -n \"$4\" ]; then t=$(mktemp -d) && printf '%s' \"$4\" >\"$t/p\" || return 1; fi\n"
"	PGCONNECT_TIMEOUT=$2 PGPASSFILE=${t:+$t/p} \"$1\" -XAtqw -F '|' -d \"$3\" -c IDENTIFY_SYSTEM; r=$?\n"
"	[ -z \"$t\" ] || rm -rf -- \"$t\"\n"
"	return $r\n"
"}\n";

/* ---------------------------------------------------------------------
 * Calls
 * ---------------------------------------------------------------------
 */

static void
stay_alive(void *arg)
{
	RctlHost   *host = arg;

	rctl_op_alive(host->op);
}

static RctlSsh *
session(RctlHost *host)
{
	if (host->op == NULL)
		elog(ERROR, "no operation to connect for");
	return rctl_ssh_session(host->op, ((SshHost *) host)->options, functions);
}

/* SQLSTATE of what a program there said, which speaks English. */
static int
errcode_said(const char *said)
{
	static const struct
	{
		const char *sign;
		int			sqlerrcode;
	}			signs[] = {
		{"No space left on device", ERRCODE_DISK_FULL},
		{"Disk quota exceeded", ERRCODE_DISK_FULL},
		{"Permission denied", ERRCODE_INSUFFICIENT_PRIVILEGE},
		{"Operation not permitted", ERRCODE_INSUFFICIENT_PRIVILEGE},
		{"Read-only file system", ERRCODE_INSUFFICIENT_PRIVILEGE},
		{"File exists", ERRCODE_DUPLICATE_FILE},
		{"cannot overwrite existing file", ERRCODE_DUPLICATE_FILE},
		{"No such file or directory", ERRCODE_UNDEFINED_FILE},
		{"Not a directory", ERRCODE_UNDEFINED_FILE},
		{"Input/output error", ERRCODE_IO_ERROR},
	};

	for (int i = 0; i < lengthof(signs); i++)
	{
		if (strstr(said, signs[i].sign) != NULL)
			return signs[i].sqlerrcode;
	}
	return ERRCODE_SYSTEM_ERROR;
}

static void
check_reply(RctlHost *host, const RctlSshReply *reply, const char *doing, const char *path)
{
	char	   *said;

	if (reply->status == 0)
		return;
	said = rctl_last_lines(reply->text, 3);
	ereport(ERROR,
			(errcode(errcode_said(said)),
			 errmsg("could not %s \"%s\" on %s: %s", doing, path, host->name,
					said[0] ? said : psprintf("status %d", reply->status))));
}

/* A function with one or two arguments (b may be NULL), which must work. */
static char *
call(RctlHost *host, const char *function, const char *a, const char *b, const char *doing)
{
	const char *argv[] = {function, a, b, NULL};
	RctlSshReply *reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);

	check_reply(host, reply, doing, a);
	return reply->text;
}

/* ---------------------------------------------------------------------
 * Files
 * ---------------------------------------------------------------------
 */

static RctlPathKind
path_kind(const char *name)
{
	if (strcmp(name, "missing") == 0)
		return RCTL_PATH_MISSING;
	if (strncmp(name, "regular", 7) == 0)
		return RCTL_PATH_FILE;
	if (strcmp(name, "directory") == 0)
		return RCTL_PATH_DIRECTORY;
	if (strcmp(name, "symbolic link") == 0)
		return RCTL_PATH_SYMLINK;
	return RCTL_PATH_OTHER;
}

static void
ssh_inspect(RctlHost *host, const char *path, RctlPathInfo *info)
{
	char	   *rest = call(host, "rctl_inspect", path, NULL, "stat");
	char	   *line = strsep(&rest, "\n");
	char	   *fields[10] = {0};
	int			n = 0;

	while (line && n < lengthof(fields))
		fields[n++] = strsep(&line, "|");
	if (n < lengthof(fields) - 1 || rest == NULL)
		elog(ERROR, "could not understand what %s says about \"%s\"", host->name, path);
	memset(info, 0, sizeof(*info));
	info->kind = path_kind(fields[0]);
	info->identity = info->kind == RCTL_PATH_MISSING ? NULL : fields[1];
	info->empty = fields[3][0] == '1';
	info->writable = fields[4][0] == '1';
	info->ancestor_writable = fields[5][0] == '1';
	info->owned = strcmp(fields[2], fields[6]) == 0;
	info->device = fields[7];
	info->free_bytes = strtoull(fields[8], NULL, 10) * strtoull(fields[9] ? fields[9] : "0", NULL, 10);
	info->ancestor = strsep(&rest, "\n");
	info->real_path = rest ? strsep(&rest, "\n") : pstrdup(path);
}

static char *
ssh_read_file(RctlHost *host, const char *path, size_t max_bytes)
{
	const char *argv[] = {"rctl_read", path, psprintf("%zu", max_bytes), NULL};
	RctlSshReply *reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);

	if (reply->status == STATUS_MISSING)
		return NULL;
	check_reply(host, reply, "read", path);
	return reply->text;
}

static void
ssh_write_files(RctlHost *host, const char *directory, const RctlHostFile *files)
{
	const char **argv;
	int			count = 0;
	int			n = 0;

	while (files[count].name)
		count++;
	argv = palloc0(sizeof(char *) * (3 * count + 3));
	argv[n++] = "rctl_write";
	argv[n++] = directory;
	for (int i = 0; i < count; i++)
	{
		argv[n++] = files[i].name;
		argv[n++] = psprintf("%o", (unsigned) files[i].mode);
		argv[n++] = files[i].content;
	}
	check_reply(host, rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL),
				count == 1 ? "write" : "write files in",
				count == 1 ? psprintf("%s/%s", directory, files[0].name) : directory);
}

static void
ssh_write_file(RctlHost *host, const char *path, const char *content, int mode)
{
	const char *slash = strrchr(path, '/');
	RctlHostFile files[] = {{slash + 1, content, mode}, {NULL}};

	ssh_write_files(host, pnstrdup(path, slash - path), files);
}

static bool
ssh_remove_file(RctlHost *host, const char *path)
{
	return call(host, "rctl_remove_file", path, NULL, "remove")[0] == 'y';
}

static bool
ssh_make_directory(RctlHost *host, const char *path, bool parents)
{
	return call(host, "rctl_make_directory", path, parents ? "1" : "0", "create directory")[0] == 'y';
}

static void
ssh_set_mode(RctlHost *host, const char *path, int mode)
{
	call(host, "rctl_set_mode", path, psprintf("%o", (unsigned) mode), "set permissions of");
}

static void
ssh_remove_tree(RctlHost *host, const char *path, bool keep_top)
{
	const char *argv[] = {"rctl_remove_tree", path, keep_top ? "1" : "0", NULL};

	/*
	 * As long as it takes: that the connection lives is all that can be seen
	 * of it.
	 */
	check_reply(host, rctl_ssh_call(session(host), argv, 0, stay_alive, host), "remove directory", path);
}

static bool
ssh_remove_empty(RctlHost *host, const char *path)
{
	return call(host, "rctl_remove_empty", path, NULL, "remove directory")[0] == 'y';
}

static void
ssh_rename(RctlHost *host, const char *from, const char *to)
{
	call(host, "rctl_rename", from, to, "rename");
}

static void
ssh_sync_trees(RctlHost *host, List *directories)
{
	const char **argv = palloc0(sizeof(char *) * (list_length(directories) + 2));
	ListCell   *cell;
	int			n = 0;

	argv[n++] = "rctl_sync";
	foreach(cell, directories)
		argv[n++] = lfirst(cell);
	check_reply(host, rctl_ssh_call(session(host), argv, 0, stay_alive, host), "sync", linitial(directories));
}

/* ---------------------------------------------------------------------
 * Programs and servers
 * ---------------------------------------------------------------------
 */

static RctlProcessResult *
ssh_run(RctlHost *host, const RctlProcessSpec *spec, long timeout_ms,
		RctlProcessTick tick, long interval_ms, void *arg)
{
	return rctl_ssh_run(session(host), spec, timeout_ms, tick, interval_ms, arg);
}

static int
ssh_server_pid(RctlHost *host, const char *directory)
{
	return (int) strtol(call(host, "rctl_server", directory, NULL, "look into"), NULL, 10);
}

static char *
ssh_server_activity(RctlHost *host, const char *directory)
{
	const char *argv[] = {"rctl_activity", directory, NULL};
	RctlSshReply *reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);

	return reply->status == 0 ? reply->text : NULL;
}

/* %d data directory, %n name, %p port of the replica, %% a percent sign */
static char *
expand(const SshHost *self, const char *word, const char *directory)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const char *c = word; *c; c++)
	{
		if (*c != '%' || c[1] == '\0')
		{
			appendStringInfoChar(&out, *c);
			continue;
		}
		c++;
		if (*c == 'd')
			appendStringInfoString(&out, directory);
		else if (*c == 'n' && self->replica)
			appendStringInfoString(&out, self->replica->name);
		else if (*c == 'p' && self->replica)
			appendStringInfoString(&out, rctl_map_get_default(self->replica->facts, "port", ""));
		else
		{
			if (*c != '%')
				appendStringInfoChar(&out, '%');
			appendStringInfoChar(&out, *c);
		}
	}
	return out.data;
}

RctlProcessResult *
rctl_host_ssh_command(RctlHost *host, const char *option, const char *otherwise,
					  const char *directory, RctlProcessTick tick, void *arg)
{
	SshHost    *self = (SshHost *) host;
	List	   *words = rctl_ssh_words(option, rctl_map_get_default(self->options, option, otherwise));
	const char **argv = palloc0(sizeof(char *) * (list_length(words) + 1));
	RctlProcessSpec spec = {.argv = argv};
	ListCell   *cell;
	int			n = 0;

	foreach(cell, words)
		argv[n++] = expand(self, lfirst(cell), directory);
	return ssh_run(host, &spec, COMMAND_TIMEOUT_MS, tick, 1000, arg);
}

/* "child pid status", see rctl_started */
typedef struct Started
{
	bool		alive;			/* the process that we have started */
	bool		unknown;		/* a service manager has started it */
	int			exit_code;		/* else */
	int			pid;			/* of the server of the directory; 0: none */
	bool		ready;
} Started;

static Started
look_at_start(RctlHost *host, const char *child, const char *directory)
{
	char	   *rest = call(host, "rctl_started", child, directory, "look at process");
	char	   *word = strsep(&rest, " ");
	Started		started = {0};

	started.alive = strcmp(word, "alive") == 0;
	started.unknown = strcmp(word, "unknown") == 0;
	started.exit_code = (int) strtol(word, NULL, 10);
	if (rest)
	{
		started.pid = (int) strtol(rest, &rest, 10);
		started.ready = strstr(rest, "ready") != NULL || strstr(rest, "standby") != NULL;
	}
	return started;
}

static RctlProcessResult *
ended_with(int exit_code)
{
	RctlProcessResult *result = palloc0(sizeof(RctlProcessResult));

	result->exited = true;
	result->exit_code = exit_code;
	result->output = pstrdup("");
	result->errors = pstrdup("");
	return result;
}

/* Waits until the server is ready, or there is none any more. */
static RctlProcessResult *
await_start(RctlHost *host, const char *child, const char *directory, RctlProcessTick tick, void *arg)
{
	TimestampTz start = GetCurrentTimestamp();
	bool		seen = false;

	for (;;)
	{
		Started		started = look_at_start(host, child, directory);

		if (started.ready)
			return NULL;
		seen |= started.pid != 0;
		if (!started.alive && started.pid == 0 &&
			(seen || !started.unknown ||
			 TimestampDifferenceExceeds(start, GetCurrentTimestamp(), PID_FILE_TIMEOUT_MS)))
			return ended_with(started.unknown ? 1 : started.exit_code);
		if (tick)
			tick(arg);
		rctl_sleep(START_POLL_MS);
	}
}

static RctlProcessResult *
ssh_start_server(RctlHost *host, const char *directory, const char *log_file,
				 const char *config_file, RctlProcessTick tick, void *arg, char **warning)
{
	SshHost    *self = (SshHost *) host;
	const char *argv[10];
	int			n = 0;
	RctlSshReply *reply;

	*warning = NULL;
	if (rctl_map_get(self->options, "start_command"))
	{
		RctlProcessResult *result = rctl_host_ssh_command(host, "start_command", NULL, directory, tick, arg);

		if (!result->exited || result->exit_code != 0)
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("start_command %s on %s", rctl_process_describe(result), host->name),
					 errdetail("It said: %s", rctl_last_lines(psprintf("%s%s", result->output, result->errors), 10)),
					 errhint("Correct the server's option start_command.")));
		return await_start(host, "0", directory, tick, arg);
	}
	argv[n++] = "rctl_start";
	argv[n++] = directory;
	argv[n++] = log_file;
	argv[n++] = psprintf("%s/postgres", host->bindir);
	argv[n++] = "-D";
	argv[n++] = directory;
	if (config_file)
	{
		argv[n++] = "-c";
		argv[n++] = psprintf("config_file=%s", config_file);
	}
	argv[n] = NULL;
	reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);
	check_reply(host, reply, "start the server in", directory);
	return await_start(host, reply->text, directory, tick, arg);
}

static void
ssh_stop_server(RctlHost *host, const char *directory)
{
	RctlProcessResult *result = rctl_host_ssh_command(host, "stop_command", NULL, directory, stay_alive, host);

	/* pg_ctl comes next, and says what is wrong if it is */
	if (!result->exited || result->exit_code != 0)
		rctl_op_event(host->op, "warning", "stop_command", NULL, "stop_command %s on %s: %s",
					  rctl_process_describe(result), host->name,
					  rctl_last_lines(psprintf("%s%s", result->output, result->errors), 3));
}

static void
ssh_reach(RctlHost *host)
{
	(void) session(host);
}

static char *
ssh_removal_command(RctlHost *host, List *directories)
{
	SshHost    *self = (SshHost *) host;
	const char *stop = rctl_map_get(self->options, "stop_command");
	const char *directory = linitial(directories);
	StringInfoData command;
	ListCell   *cell;

	initStringInfo(&command);
	if (stop)
	{
		foreach(cell, rctl_ssh_words("stop_command", stop))
			appendStringInfo(&command, "%s ", rctl_ssh_quote(expand(self, lfirst(cell), directory)));
		appendStringInfoString(&command, "; ");
	}
	appendStringInfo(&command, "%s stop -m immediate -D %s; rm -rf --",
					 rctl_ssh_quote(psprintf("%s/pg_ctl", host->bindir)), rctl_ssh_quote(directory));
	foreach(cell, directories)
		appendStringInfo(&command, " %s", rctl_ssh_quote(lfirst(cell)));
	return command.data;
}

/* ---------------------------------------------------------------------
 * Network
 * ---------------------------------------------------------------------
 */

static int
errcode_login(const char *said)
{
	if (strstr(said, "no password supplied") || strstr(said, "password authentication failed"))
		return ERRCODE_INVALID_PASSWORD;
	if (strstr(said, "too many") || strstr(said, "the database system is"))
		return ERRCODE_CANNOT_CONNECT_NOW;
	if (strstr(said, "FATAL:"))
		return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
	return ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
}

static bool
ssh_identify(RctlHost *host, const char *conninfo, const char *pass_file_content,
			 char **system_identifier, char **reason, int *sqlerrcode)
{
	const char *argv[] = {
		"rctl_identify", psprintf("%s/psql", host->bindir), psprintf("%d", LOGIN_TIMEOUT_S),
		conninfo, pass_file_content ? pass_file_content : "", NULL
	};
	RctlSshReply *reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);

	if (reply->status == 0)
	{
		*system_identifier = pnstrdup(reply->text, strcspn(reply->text, "|\n"));
		return true;
	}
	*reason = rctl_last_lines(reply->text, 5);
	if (strncmp(*reason, "psql: error: ", 13) == 0)
		*reason += 13;
	*sqlerrcode = errcode_login(reply->text);
	return false;
}

/* Whether somebody listens on the port, whatever the address, or holds a socket of this number. */
static bool
port_taken(const char *report, int port)
{
	char	   *tcp = psprintf(":%04X\n", port);
	char	   *lock = psprintf("/.s.PGSQL.%d.lock\n", port);

	return strstr(report, tcp) != NULL || strstr(report, lock) != NULL;
}

static List *
ssh_free_ports(RctlHost *host, int first, int wanted, const char *listen_addresses,
			   const char *socket_directories)
{
	List	   *directories;
	List	   *ports = NIL;
	const char **argv;
	ListCell   *cell;
	int			n = 0;
	RctlSshReply *reply;

	if (!SplitDirectoriesString(pstrdup(socket_directories), ',', &directories))
		directories = NIL;
	argv = palloc0(sizeof(char *) * (list_length(directories) + 2));
	argv[n++] = "rctl_ports";
	foreach(cell, directories)
		argv[n++] = lfirst(cell);
	reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);
	check_reply(host, reply, "list the ports of", host->name);
	for (int port = first; port <= 65535 && list_length(ports) < wanted; port++)
	{
		if (!port_taken(reply->text, port))
			ports = lappend_int(ports, port);
		if (wanted == 1)
			break;
	}
	return ports;
}

/* ---------------------------------------------------------------------
 * What there is
 * ---------------------------------------------------------------------
 */

/* name=value lines */
static RctlMap *
lines_to_map(char *text)
{
	RctlMap    *map = rctl_map_make();
	char	   *line;

	while ((line = strsep(&text, "\n")) != NULL)
	{
		char	   *value = strchr(line, '=');

		if (value == NULL)
			continue;
		*value++ = '\0';
		rctl_map_set(map, line, value);
	}
	return map;
}

/* rctl_look with what it asks about: where Debian and this server have programs, and this server's sockets. */
static RctlMap *
look(RctlHost *host)
{
	char		own[MAXPGPATH];
	List	   *directories;
	const char **argv;
	ListCell   *cell;
	int			n = 0;
	RctlSshReply *reply;

	strlcpy(own, my_exec_path, sizeof(own));
	get_parent_directory(own);
	if (!SplitDirectoriesString(pstrdup(Unix_socket_directories), ',', &directories))
		directories = NIL;
	argv = palloc0(sizeof(char *) * (list_length(directories) + 6));
	argv[n++] = "rctl_look";
	argv[n++] = "3";
	argv[n++] = psprintf("/usr/lib/postgresql/%d/bin", PG_MAJORVERSION_NUM);
	argv[n++] = own;
	argv[n++] = psprintf("/usr/pgsql-%d/bin", PG_MAJORVERSION_NUM);
	foreach(cell, directories)
	{
		if (((char *) lfirst(cell))[0] == '/')
			argv[n++] = lfirst(cell);
	}
	reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);
	if (reply->status != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s lacks something: %s", host->name, rctl_last_lines(reply->text, 3)),
				 errhint("It needs Linux, a /bin/sh, and the packages coreutils, util-linux, findutils and awk.")));
	return lines_to_map(reply->text);
}

/* Those of this server's socket directories that the user there can use. */
static char *
usable_sockets(const RctlMap *found)
{
	StringInfoData list;
	ListCell   *cell;

	initStringInfo(&list);
	foreach(cell, found->entries)
	{
		const char *key = ((RctlMapEntry *) lfirst(cell))->key;

		if (strncmp(key, "sockets ", 8) == 0)
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", quote_identifier(key + 8));
	}
	return list.data;
}

/* Copies: the host outlives changes of the facts. */
static const char *
copy_of(const char *value)
{
	return value ? pstrdup(value) : NULL;
}

static void
take_facts(RctlHost *host, const RctlMap *facts)
{
	SshHost    *self = (SshHost *) host;

	host->bindir = copy_of(rctl_map_get_default(facts, "bindir", rctl_map_get(self->options, "bindir")));
	host->scratch = copy_of(rctl_map_get_default(facts, "scratch", "/tmp"));
	host->os_user = copy_of(rctl_map_get_default(facts, "os_user", "?"));
	host->address = copy_of(rctl_map_get(facts, "address"));
	host->source_address = copy_of(rctl_map_get(facts, "source_address"));
	host->root = copy_of(rctl_map_get(facts, "root"));
	host->socket_directories = copy_of(rctl_map_get(facts, "host_sockets"));
}

void
rctl_host_ssh_look(RctlHost *host, RctlMap *facts)
{
	SshHost    *self = (SshHost *) host;
	RctlMap    *found = look(host);
	const char *home = rctl_map_get_default(found, "home", "/tmp");
	const char *name = rctl_map_get(self->options, "host");
	const char *bindir = rctl_map_get_default(self->options, "bindir", rctl_map_get_default(found, "bindir", ""));

	rctl_map_set(facts, "os_user", rctl_map_get_default(found, "os_user", "?"));
	/* A standby that was attached may have an address of its own. */
	rctl_map_set(facts, "address",
				 rctl_map_get_default(self->replica->options, "host",
									  rctl_map_get_default(self->options, "address", name)));
	rctl_map_set(facts, "source_address",
				 rctl_map_get_default(self->options, "source_host", rctl_map_get_default(found, "client", "")));
	rctl_map_set(facts, "root",
				 rctl_map_get_default(self->options, "directory", psprintf("%s/replicas", home)));
	rctl_map_set(facts, "scratch", rctl_map_get(found, "home_writable") ? home : "/tmp");
	if (rctl_map_get(facts, "host_sockets") == NULL)
		rctl_map_set(facts, "host_sockets", usable_sockets(found));
	if (bindir[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("PostgreSQL's programs were not found on %s", host->name),
				 errhint("Install the package postgresql-%d there, or set the server's option bindir.", PG_MAJORVERSION_NUM)));
	rctl_map_set(facts, "bindir", bindir);
	take_facts(host, facts);
}

char *
rctl_host_ssh_version(RctlHost *host, const char *program)
{
	const char *argv[] = {psprintf("%s/%s", host->bindir, program), "--version", NULL};
	RctlSshReply *reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);

	check_reply(host, reply, "run", argv[0]);
	reply->text[strcspn(reply->text, "\n")] = '\0';
	return reply->text;
}

RctlMap *
rctl_host_ssh_platform(RctlHost *host, bool libc, bool icu)
{
	char	   *program = psprintf("%s/postgres", host->bindir);
	const char *argv[] = {"rctl_platform", program, libc ? "t" : "f", icu ? "t" : "f", NULL};
	RctlSshReply *reply = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL);

	check_reply(host, reply, "examine", program);
	return lines_to_map(reply->text);
}

List *
rctl_host_ssh_missing(RctlHost *host, List *paths)
{
	const char **argv = palloc0(sizeof(char *) * (list_length(paths) + 2));
	List	   *missing = NIL;
	ListCell   *cell;
	char	   *rest;
	char	   *line;
	int			n = 0;

	argv[n++] = "rctl_missing";
	foreach(cell, paths)
		argv[n++] = lfirst(cell);
	rest = rctl_ssh_call(session(host), argv, CALL_TIMEOUT_MS, NULL, NULL)->text;
	while ((line = strsep(&rest, "\n")) != NULL)
	{
		if (line[0] != '\0')
			missing = lappend(missing, line);
	}
	return missing;
}

bool
rctl_host_ssh_clock(RctlHost *host, double *ahead, double *error)
{
	const char *argv[] = {"rctl_clock", NULL};
	RctlSsh    *ssh = session(host);
	TimestampTz before = GetCurrentTimestamp();
	RctlSshReply *reply = rctl_ssh_call(ssh, argv, CALL_TIMEOUT_MS, NULL, NULL);
	TimestampTz after = GetCurrentTimestamp();
	double		theirs = reply->status == 0 ? strtod(reply->text, NULL) : 0;
	double		ours = (before / 2 + after / 2) / 1000000.0 +
	(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (double) SECS_PER_DAY;

	*error = (after - before) / 2000000.0;
	*ahead = theirs - ours;
	return theirs > 0;
}

RctlHost *
rctl_host_ssh(RctlOp *op, const RctlMap *server_options, const RctlReplica *replica)
{
	SshHost    *self = palloc0(sizeof(SshHost));
	RctlHost   *host = &self->host;

	self->options = server_options;
	self->replica = replica;
	host->name = rctl_ssh_name(server_options);
	take_facts(host, replica ? replica->facts : rctl_map_make());
	host->op = op;
	host->reach = ssh_reach;
	host->removal_command = ssh_removal_command;
	host->run = ssh_run;
	host->inspect = ssh_inspect;
	host->read_file = ssh_read_file;
	host->write_files = ssh_write_files;
	host->write_file = ssh_write_file;
	host->remove_file = ssh_remove_file;
	host->make_directory = ssh_make_directory;
	host->set_mode = ssh_set_mode;
	host->remove_tree = ssh_remove_tree;
	host->remove_empty = ssh_remove_empty;
	host->rename = ssh_rename;
	host->sync_trees = ssh_sync_trees;
	host->server_pid = ssh_server_pid;
	host->server_activity = ssh_server_activity;
	host->start_server = ssh_start_server;
	host->stop_server = rctl_map_get(server_options, "stop_command") ? ssh_stop_server : NULL;
	host->identify = ssh_identify;
	host->free_ports = ssh_free_ports;
	return host;
}
