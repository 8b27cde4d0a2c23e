/*-------------------------------------------------------------------------
 *
 * ssh_session.c
 *	  A connection to another machine by OpenSSH, and programs there.
 *
 * sshd gives the remote command to the user's login shell, whatever that is
 * and whatever it prints first.  So the command is a constant that every
 * shell reads the same way (no quote, backslash, newline or '!' within its
 * single quotes): it becomes a /bin/sh that reads one line and executes it.
 * All else goes there by stdin.  That line prints a random word; what comes
 * before it is not ours.  Each answer ends with that word, the number of its
 * request and a status.
 *
 * The first ssh is the master of the connection and carries that shell.  Its
 * control socket lives in a directory of its own under base/pgsql_tmp, which
 * PostgreSQL empties when it starts and leaves out of base backups.  ssh is
 * started in that directory, so that the socket's name stays short.
 *
 * In memory only: one RctlSsh for each machine, in the operation's context,
 * whose reset ends the ssh processes.  If a request was interrupted, its
 * answer may still come: the connection is then not used again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "net/wait.h"
#include "provider/ssh_quote.h"
#include "provider/ssh_session.h"

#define SSH_PROGRAM "/usr/bin/ssh"
#define CONTROL_PATH "c"
#define REMOTE_COMMAND "exec /bin/sh -c 'IFS= read -r l && eval \"$l\"'"

#define CONNECT_TIMEOUT_S 10
#define ALIVE_INTERVAL_S 5
#define ALIVE_COUNT 3

/* From the start of ssh to the first word of the shell. */
#define GREETING_MS 20000

#define HEARTBEAT_MS 5000
#define LISTEN_MS 500

/* Status of ssh if it fails itself. */
#define SSH_FAILED 255

struct RctlSsh
{
	dlist_node	node;			/* in sessions */
	MemoryContext context;		/* below the operation's */
	MemoryContextCallback callback;
	char	   *key;			/* the options that it was made with */
	RctlMap    *options;
	const char *name;
	char	   *directory;		/* of the control socket */
	char		mark[33];		/* the random word */
	RctlProcess *master;
	int			requests;
	bool		busy;			/* a request is not answered */
};

static dlist_head sessions = DLIST_STATIC_INIT(sessions);

/* ---------------------------------------------------------------------
 * Options
 * ---------------------------------------------------------------------
 */

const char *
rctl_ssh_name(const RctlMap *server_options)
{
	return psprintf("host \"%s\"", rctl_map_get_default(server_options, "host", ""));
}

/* ssh may hand host and user to a shell (ProxyCommand), and takes a leading '-' for an option. */
static void
check_word(const RctlMap *options, const char *name, const char *allowed)
{
	const char *value = rctl_map_get(options, name);

	if (value == NULL)
		return;
	if (value[0] == '\0' || value[0] == '-')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
				 errdetail("It must not be empty or begin with \"-\".")));
	for (const unsigned char *c = (const unsigned char *) value; *c; c++)
	{
		if (!isalnum(*c) && *c < 0x80 && strchr(allowed, *c) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
					 errdetail("Character \"%c\" cannot be in it.", *c)));
	}
}

void
rctl_ssh_check_options(const RctlMap *server_options)
{
	if (rctl_map_get(server_options, "host") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"host\" is missing"),
				 errhint("ALTER SERVER ... OPTIONS (ADD host '...') names the host that ssh connects to.")));
	check_word(server_options, "host", "._:-%");
	check_word(server_options, "user", "._-@\\$");
}

static const char *const key_options[] = {
	"host", "port", "user", "identity_file", "ssh_config", "known_hosts_file",
};

static char *
session_key(const RctlMap *options)
{
	StringInfoData key;

	initStringInfo(&key);
	for (int i = 0; i < lengthof(key_options); i++)
		appendStringInfo(&key, "%s\n", rctl_map_get_default(options, key_options[i], ""));
	return key.data;
}

/* ---------------------------------------------------------------------
 * ssh
 * ---------------------------------------------------------------------
 */

/* ssh replaces %-words in the names of files. */
static char *
plain_path(const char *path)
{
	StringInfoData plain;

	initStringInfo(&plain);
	for (; *path; path++)
	{
		if (*path == '%')
			appendStringInfoChar(&plain, '%');
		appendStringInfoChar(&plain, *path);
	}
	return plain.data;
}

/* ssh with all options but those of the control socket, up to where host and command follow. */
static const char **
ssh_arguments(const RctlSsh *ssh, bool master)
{
	const RctlMap *options = ssh->options;
	const char *config = rctl_map_get(options, "ssh_config");
	const char *known_hosts = rctl_map_get(options, "known_hosts_file");
	const char *identity = rctl_map_get(options, "identity_file");
	const char *fixed[] = {
		"BatchMode=yes",
		"StrictHostKeyChecking=yes",
		"UpdateHostKeys=no",
		"PasswordAuthentication=no",
		"KbdInteractiveAuthentication=no",
		"NumberOfPasswordPrompts=0",
		"AddKeysToAgent=no",
		"ClearAllForwardings=yes",
		"ForwardAgent=no",
		"ForwardX11=no",
		"PermitLocalCommand=no",
		"RemoteCommand=none",
		"RequestTTY=no",
		"EscapeChar=none",
		"LogLevel=ERROR",
		"ConnectionAttempts=1",
		"TCPKeepAlive=yes",
		"ControlPersist=no",
		"ControlPath=" CONTROL_PATH,
		psprintf("ConnectTimeout=%d", CONNECT_TIMEOUT_S),
		psprintf("ServerAliveInterval=%d", ALIVE_INTERVAL_S),
		psprintf("ServerAliveCountMax=%d", ALIVE_COUNT),
		master ? "ControlMaster=yes" : "ControlMaster=no",
	};
	const char **argv = palloc0(sizeof(char *) * (2 * lengthof(fixed) + 32));
	int			n = 0;

	argv[n++] = SSH_PROGRAM;
	argv[n++] = "-T";
	if (config)
	{
		argv[n++] = "-F";
		argv[n++] = config;
	}
	for (int i = 0; i < lengthof(fixed); i++)
	{
		argv[n++] = "-o";
		argv[n++] = fixed[i];
	}
	if (known_hosts)
	{
		/* ssh splits the value at spaces that are not in quotes. */
		argv[n++] = "-o";
		argv[n++] = psprintf("UserKnownHostsFile=\"%s\"", plain_path(known_hosts));
		argv[n++] = "-o";
		argv[n++] = "GlobalKnownHostsFile=/dev/null";
	}
	if (identity)
	{
		argv[n++] = "-i";
		argv[n++] = plain_path(identity);
		argv[n++] = "-o";
		argv[n++] = "IdentitiesOnly=yes";
	}
	if (rctl_map_get(options, "port"))
	{
		argv[n++] = "-p";
		argv[n++] = rctl_map_get(options, "port");
	}
	if (rctl_map_get(options, "user"))
	{
		argv[n++] = "-l";
		argv[n++] = rctl_map_get(options, "user");
	}
	argv[n++] = "--";
	argv[n++] = rctl_map_get(options, "host");
	argv[n++] = REMOTE_COMMAND;
	return argv;
}

/*
 * Why there is no connection, from what ssh has said.  A key that is refused
 * does not get better by another attempt; a host that is down may.
 */
static RCTL_NORETURN void connection_failed(RctlSsh *ssh, const char *said, const char *banner);

static void
connection_failed(RctlSsh *ssh, const char *said, const char *banner)
{
	char	   *detail = rctl_last_lines(said, 10);
	const char *host = rctl_map_get_default(ssh->options, "host", "");

	if (detail[0] == '\0' && banner[0] != '\0')
		detail = rctl_last_lines(banner, 5);
	if (detail[0] == '\0')
		detail = "ssh said nothing.";
	if (strstr(said, "IDENTIFICATION HAS CHANGED") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("the host key of %s has changed", ssh->name),
				 errdetail("%s", detail),
				 errhint("If the host was set up anew, remove its old key from the known hosts file with \"ssh-keygen -R %s\" and add the new one.", host)));
	if (strstr(said, "Host key verification failed") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("the host key of %s is not known", ssh->name),
				 errdetail("%s", detail),
				 errhint("Add it to the known hosts file, after you have compared it: \"ssh-keyscan %s\" shows it.", host)));
	if (strstr(said, "Permission denied") != NULL || strstr(said, "Too many authentication failures") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("%s refuses the login by ssh", ssh->name),
				 errdetail("%s", detail),
				 errhint("Put the public key into authorized_keys of the user there; the options user and identity_file of the server say who logs in and by which key. A key that asks for a passphrase cannot be used.")));
	if (strstr(said, "Bad configuration option") != NULL || strstr(said, "Can't open user config") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ssh does not accept its configuration"),
				 errdetail("%s", detail),
				 errhint("Correct the file of the server's option ssh_config.")));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("no connection to %s by ssh", ssh->name),
			 errdetail("%s", detail),
			 errhint("Check that the host is up and that the user of this server can log in there with \"ssh -o BatchMode=yes\".")));
}

/* It is a login, but not one with a shell that we can use. */
static void
no_shell(RctlSsh *ssh, const char *said, const char *printed)
{
	char	   *detail = rctl_last_lines(printed[strspn(printed, " \r\n")] ? printed : said, 5);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s does not run commands", ssh->name),
			 errdetail("It said: %s", detail[0] ? detail : "(nothing)"),
			 errhint("The user there needs a login shell that can execute /bin/sh, and no forced command in authorized_keys or sshd_config.")));
}

/* ---------------------------------------------------------------------
 * A session's life
 * ---------------------------------------------------------------------
 */

/* ssh has removed its socket, unless it was killed. */
static void
remove_directory(const RctlSsh *ssh)
{
	char		path[MAXPGPATH];

	if (ssh->directory == NULL)
		return;
	snprintf(path, sizeof(path), "%s/%s", ssh->directory, CONTROL_PATH);
	(void) unlink(path);
	(void) rmdir(ssh->directory);
}

static void
forget_session(void *arg)
{
	RctlSsh    *ssh = arg;

	dlist_delete(&ssh->node);
	remove_directory(ssh);
}

/* Memory contexts are not reset when this process exits; its programs have ended by then. */
static void
remove_all_at_exit(int code, Datum arg)
{
	dlist_iter	iter;

	dlist_foreach(iter, &sessions)
		remove_directory(dlist_container(RctlSsh, node, iter.cur));
}

/* A name that PostgreSQL takes for a temporary file of its own. */
static void
make_directory(RctlSsh *ssh)
{
	static int	counter = 0;
	char	   *parent = psprintf("%s/base/pgsql_tmp", DataDir);

	if (mkdir(parent, S_IRWXU) != 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", parent)));
	for (;;)
	{
		char	   *path = psprintf("%s/pgsql_tmp%d.%d.ssh", parent, MyProcPid, counter++);

		if (mkdir(path, S_IRWXU) == 0)
		{
			ssh->directory = path;
			return;
		}
		if (errno != EEXIST)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create directory \"%s\": %m", path)));
	}
}

static void
make_mark(RctlSsh *ssh)
{
	uint8		bytes[16];

	if (!pg_strong_random(bytes, sizeof(bytes)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random word")));
	for (int i = 0; i < lengthof(bytes); i++)
		snprintf(ssh->mark + 2 * i, 3, "%02x", bytes[i]);
}

/* Takes what is before the text, and the text, out of the output; NULL: the text has not come yet. */
static char *
take_until(StringInfo output, const char *text, size_t *length)
{
	char	   *found = memmem(output->data, output->len, text, strlen(text));
	char	   *taken;
	size_t		size;

	if (found == NULL)
		return NULL;
	*length = found - output->data;
	taken = palloc(*length + 1);
	memcpy(taken, output->data, *length);
	taken[*length] = '\0';
	size = *length + strlen(text);
	memmove(output->data, output->data + size, output->len - size + 1);
	output->len -= size;
	return taken;
}

/*
 * Whether it was ssh that has ended, or was ended, and not the shell there,
 * whose status ssh passes on.
 */
static bool
ended_by_ssh(RctlSsh *ssh)
{
	bool		said = rctl_process_errors(ssh->master)->len > 0;
	bool		printed = rctl_process_output(ssh->master)->len > 0;
	RctlProcessResult *result = rctl_process_wait(ssh->master, 0, NULL, 0, NULL);

	return !result->exited || (result->exit_code == SSH_FAILED && (said || !printed));
}

/* Starts ssh, and waits for the word of the shell there. */
static void
start_master(RctlSsh *ssh, const char *functions)
{
	char	   *ready = psprintf("\n%s ready\n", ssh->mark);
	char	   *script = psprintf("mark='%s'\n%s\n"
								  "printf '\\n%%s ready\\n' \"$mark\"\n"
								  "while IFS= read -r l; do eval \"$l\"; done\n", ssh->mark, functions);
	char	   *line = psprintf("%seval %s\n", RCTL_SSH_QUOTE_PRELUDE, rctl_ssh_quote(script));
	RctlProcessSpec spec = {
		.argv = ssh_arguments(ssh, true),
		.input = line,
		.stdin_open = true,
		.directory = ssh->directory,
	};
	TimestampTz start = GetCurrentTimestamp();
	size_t		length;
	StringInfo	output;

	ssh->busy = true;
	ssh->master = rctl_process_start(&spec);
	output = rctl_process_output(ssh->master);
	while (take_until(output, ready, &length) == NULL)
	{
		bool		alive = rctl_process_listen(ssh->master, LISTEN_MS);

		if (alive && !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), GREETING_MS))
			continue;
		if (memmem(output->data, output->len, ready, strlen(ready)))
			continue;
		if (alive)
			rctl_process_end(ssh->master);
		else if (ended_by_ssh(ssh))
			connection_failed(ssh, rctl_process_errors(ssh->master)->data, output->data);
		no_shell(ssh, rctl_process_errors(ssh->master)->data, output->data);
	}
	ssh->busy = false;
}

static RctlSsh *
open_session(RctlOp *op, const RctlMap *server_options, const char *functions)
{
	MemoryContext context = AllocSetContextCreate(op->context, "replica_ctl ssh", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RctlSsh    *ssh = palloc0(sizeof(RctlSsh));
	static bool exit_registered = false;

	if (!exit_registered)
	{
		on_proc_exit(remove_all_at_exit, 0);
		exit_registered = true;
	}
	ssh->context = context;
	ssh->options = rctl_map_copy(server_options);
	ssh->key = session_key(server_options);
	ssh->name = rctl_ssh_name(server_options);
	dlist_push_tail(&sessions, &ssh->node);
	ssh->callback.func = forget_session;
	ssh->callback.arg = ssh;
	MemoryContextRegisterResetCallback(context, &ssh->callback);
	make_directory(ssh);
	make_mark(ssh);
	PG_TRY();
	{
		start_master(ssh, functions);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return ssh;
}

RctlSsh *
rctl_ssh_session(RctlOp *op, const RctlMap *server_options, const char *functions)
{
	char	   *key = session_key(server_options);
	dlist_mutable_iter iter;

	rctl_ssh_check_options(server_options);
	dlist_foreach_modify(iter, &sessions)
	{
		RctlSsh    *ssh = dlist_container(RctlSsh, node, iter.cur);

		if (strcmp(ssh->key, key) != 0)
			continue;
		if (!ssh->busy && rctl_process_running(ssh->master))
			return ssh;
		MemoryContextDelete(ssh->context);
	}
	return open_session(op, server_options, functions);
}

/* ---------------------------------------------------------------------
 * Requests
 * ---------------------------------------------------------------------
 */

static void
lost(RctlSsh *ssh)
{
	char	   *said = rctl_last_lines(rctl_process_errors(ssh->master)->data, 5);

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("the connection to %s was lost", ssh->name),
			 said[0] ? errdetail("%s", said) : 0,
			 errhint("Check that the host is up.")));
}

RctlSshReply *
rctl_ssh_call(RctlSsh *ssh, const char *const *argv, long timeout_ms, RctlProcessTick tick, void *arg)
{
	RctlSshReply *reply = palloc0(sizeof(RctlSshReply));
	int			number = ++ssh->requests;
	char	   *end = psprintf("\n%s %d ", ssh->mark, number);
	StringInfo	output = rctl_process_output(ssh->master);
	TimestampTz start = GetCurrentTimestamp();
	char	   *status;
	size_t		length;

	ssh->busy = true;
	rctl_process_send(ssh->master, psprintf("rctl_answer %d %s\n", number, rctl_ssh_command(argv)));
	while ((reply->text = take_until(output, end, &reply->length)) == NULL)
	{
		if (!rctl_process_listen(ssh->master, LISTEN_MS))
			lost(ssh);
		if (tick)
			tick(arg);
		if (timeout_ms > 0 && TimestampDifferenceExceeds(start, GetCurrentTimestamp(), timeout_ms))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("%s has not answered for %ld s", ssh->name, timeout_ms / 1000),
					 errhint("Check that the host is up and not overloaded.")));
	}
	while ((status = take_until(output, "\n", &length)) == NULL)
	{
		if (!rctl_process_listen(ssh->master, LISTEN_MS))
			lost(ssh);
	}
	reply->status = (int) strtol(status, NULL, 10);
	ssh->busy = false;
	return reply;
}

/* ---------------------------------------------------------------------
 * Programs
 * ---------------------------------------------------------------------
 */

/*
 * $1: the random word, $2: seconds of silence, $3: the directory to work in,
 * then the program.  It gets a process group of its own, which is ended when
 * nothing more is to be read from stdin.
 */
static const char run_script[] =
"mark=$1 silence=$2 dir=$3\n"
"shift 3\n"
"printf '\\n%s\\n' \"$mark\"\n"
"printf '\\n%s\\n' \"$mark\" >&2\n"
"umask 077\n"
"exec 3<&0 </dev/null\n"
"if cd -- \"$dir\"; then\n"
"	setsid \"$@\" 3<&- &\n"
"	p=$!\n"
"	(\n"
"		while [ \"$(timeout \"$silence\" dd bs=1 count=1 <&3 2>/dev/null | wc -c)\" -gt 0 ]; do :; done\n"
"		trap 'exit 9' TERM\n"
"		kill -TERM \"-$p\"; sleep 3 & wait $!; kill -KILL \"-$p\"; exit 9\n"
"	) >/dev/null 2>&1 &\n"
"	w=$!\n"
"	wait \"$p\"\n"
"	r=$?\n"
"	kill \"$w\" 2>/dev/null; wait \"$w\" 2>/dev/null; [ $? != 9 ] || r=lost\n"
"else\n"
"	r=126\n"
"fi\n"
"printf '\\n%s exit %s\\n' \"$mark\" \"$r\" >&2\n";

/* The line that makes the waiting shell run the program. */
static char *
run_line(const RctlSsh *ssh, const RctlProcessSpec *spec)
{
	const char **argv;
	int			count = 0;
	int			n = 0;

	while (spec->argv[count])
		count++;
	for (int i = 0; spec->env && spec->env[i]; i++)
		count++;
	argv = palloc0(sizeof(char *) * (count + 10));
	argv[n++] = "rctl_run";
	argv[n++] = ssh->mark;
	argv[n++] = psprintf("%d", RCTL_SSH_SILENCE_S);
	argv[n++] = spec->directory ? spec->directory : "/";
	if (spec->env && spec->env[0])
	{
		argv[n++] = "env";
		for (int i = 0; spec->env[i]; i++)
			argv[n++] = spec->env[i];
	}
	for (int i = 0; spec->argv[i]; i++)
		argv[n++] = spec->argv[i];
	return psprintf("%seval %s; %s\n", RCTL_SSH_QUOTE_PRELUDE,
					rctl_ssh_quote(psprintf("rctl_run() {\n%s}", run_script)),
					rctl_ssh_command(argv));
}

/* What comes after the random word; all, if that was too long ago. */
static char *
after_mark(const RctlSsh *ssh, char *text)
{
	char	   *mark = psprintf("\n%s\n", ssh->mark);
	char	   *found = strstr(text, mark);

	return found ? found + strlen(mark) : text;
}

RctlProcessResult *
rctl_ssh_run(RctlSsh *ssh, const RctlProcessSpec *spec, long timeout_ms,
			 RctlProcessTick tick, long interval_ms, void *arg)
{
	char	   *mark = psprintf("\n%s exit ", ssh->mark);
	RctlProcessSpec channel = {
		.argv = ssh_arguments(ssh, false),
		.input = run_line(ssh, spec),
		.stdin_open = true,
		.heartbeat_ms = HEARTBEAT_MS,
		.directory = ssh->directory,
	};
	RctlProcessResult *result;
	char	   *end;
	int			status;

	Assert(spec->input == NULL && spec->output_file == NULL && !spec->daemon);
	result = rctl_process_wait(rctl_process_start(&channel), timeout_ms, tick, interval_ms, arg);
	end = strstr(result->errors, mark);
	if (end == NULL || strncmp(end + strlen(mark), "lost", 4) == 0)
	{
		char	   *said = rctl_last_lines(after_mark(ssh, result->errors), 10);

		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the connection to %s was lost while \"%s\" ran there", ssh->name, spec->argv[0]),
				 said[0] ? errdetail("%s", said) : 0,
				 errhint("Check that the host is up.")));
	}
	status = (int) strtol(end + strlen(mark), NULL, 10);
	*end = '\0';
	result->output = after_mark(ssh, result->output);
	result->errors = after_mark(ssh, result->errors);

	/* A shell adds 128 to the number of a signal. */
	result->exited = status < 128 || status > 128 + 64;
	result->exit_code = result->exited ? status : 0;
	result->signal = result->exited ? 0 : status - 128;
	return result;
}
