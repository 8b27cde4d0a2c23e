/*-------------------------------------------------------------------------
 *
 * host_local.c
 *	  The host interface (host.h) for the machine of this server.
 *
 * Nothing here is durable but what it does to the file system; nothing is
 * kept in memory between calls.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/username.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port.h"
#include "storage/fd.h"
#include "utils/pidfile.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "compat.h"
#include "net/wait.h"
#include "provider/host.h"

#define START_POLL_MS 20

/* How long, and how often, a server is started that was not shut down. */
#define STALE_START_MS 10000
#define STALE_RETRY_MS 500

/* So many files are removed between two looks at interrupts. */
#define FILES_PER_BREATH 256

/*
 * Errors of the file system.  A full disk, a missing right and so on have
 * SQLSTATEs of their own (errcode_for_file_access).
 */
static RCTL_NORETURN void file_error(const char *doing, const char *path);

static void
file_error(const char *doing, const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s \"%s\": %m", doing, path)));
}

static RctlProcessResult *
local_run(RctlHost *host, const RctlProcessSpec *spec, long timeout_ms,
		  RctlProcessTick tick, long interval_ms, void *arg)
{
	return rctl_process_wait(rctl_process_start(spec), timeout_ms, tick, interval_ms, arg);
}

/*
 * Names in a directory, without "." and "..", read at once so that no
 * descriptor is open while something else may raise an error.  NULL if it
 * cannot be read (errno says why), else *count names.
 */
static char **
directory_entries(const char *path, int *count)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *entry;
	int			size = 64;
	char	  **names;

	*count = 0;
	if (dir == NULL)
		return NULL;
	names = palloc(size * sizeof(char *));
	while ((entry = ReadDirExtended(dir, path, LOG)) != NULL)
	{
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (*count == size)
		{
			size *= 2;
			names = repalloc_huge(names, size * sizeof(char *));
		}
		names[(*count)++] = pstrdup(entry->d_name);
	}
	FreeDir(dir);
	return names;
}

/* Fills what is known of the nearest existing ancestor of a missing path, or of the path. */
static void
inspect_ancestor(const char *path, RctlPathInfo *info)
{
	char	   *ancestor = pstrdup(path);
	struct stat st;
	struct statvfs fs;
	char		resolved[PATH_MAX];

	while (stat(ancestor, &st) != 0 && (errno == ENOENT || errno == ENOTDIR) &&
		   strcmp(ancestor, "/") != 0)
		get_parent_directory(ancestor);
	if (ancestor[0] == '\0')
		ancestor = pstrdup("/");

	info->ancestor = ancestor;
	info->ancestor_writable = access(ancestor, W_OK | X_OK) == 0;
	if (stat(ancestor, &st) == 0)
		info->device = psprintf(UINT64_FORMAT, (uint64) st.st_dev);
	else
		info->device = pstrdup("");
	if (statvfs(ancestor, &fs) == 0)
		info->free_bytes = (uint64) fs.f_bavail * fs.f_frsize;
	if (realpath(ancestor, resolved) == NULL)
		strlcpy(resolved, ancestor, sizeof(resolved));
	info->real_path = psprintf("%s%s", strcmp(resolved, "/") == 0 ? "" : resolved,
							   strcmp(ancestor, "/") == 0 ? path : path + strlen(ancestor));
	if (info->real_path[0] == '\0')
		info->real_path = pstrdup("/");
}

static void
local_inspect(RctlHost *host, const char *path, RctlPathInfo *info)
{
	struct stat st;

	memset(info, 0, sizeof(*info));
	if (lstat(path, &st) != 0)
	{
		if (errno != ENOENT && errno != ENOTDIR)
			file_error("stat", path);
		info->kind = RCTL_PATH_MISSING;
	}
	else
	{
		info->identity = psprintf(UINT64_FORMAT, (uint64) st.st_ino);
		info->owned = st.st_uid == geteuid();
		if (S_ISREG(st.st_mode))
			info->kind = RCTL_PATH_FILE;
		else if (S_ISLNK(st.st_mode))
			info->kind = RCTL_PATH_SYMLINK;
		else if (S_ISDIR(st.st_mode))
		{
			int			count;

			info->kind = RCTL_PATH_DIRECTORY;
			info->writable = access(path, W_OK | X_OK) == 0;
			info->empty = directory_entries(path, &count) != NULL && count == 0;
		}
		else
			info->kind = RCTL_PATH_OTHER;
	}
	inspect_ancestor(path, info);
}

static char *
local_read_file(RctlHost *host, const char *path, size_t max_bytes)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	struct stat st;
	char	   *content;
	ssize_t		got = -1;
	int			saved_errno;

	if (fd < 0)
	{
		if (errno == ENOENT || errno == ENOTDIR)
			return NULL;
		file_error("open", path);
	}
	content = palloc(max_bytes + 1);
	if (fstat(fd, &st) == 0)
		got = pg_pread(fd, content, max_bytes,
					   st.st_size > max_bytes ? st.st_size - max_bytes : 0);
	saved_errno = errno;
	CloseTransientFile(fd);
	errno = saved_errno;
	if (got < 0)
		file_error("read", path);
	content[got] = '\0';
	return content;
}

/* Writes and syncs; on failure errno says why. */
static bool
write_all(int fd, const char *content, int mode)
{
	size_t		left = strlen(content);

	if (fchmod(fd, mode) != 0)
		return false;
	while (left > 0)
	{
		ssize_t		written = write(fd, content, left);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			if (written == 0)
				errno = ENOSPC;
			return false;
		}
		content += written;
		left -= written;
	}
	return pg_fsync(fd) == 0;
}

static void
local_write_file(RctlHost *host, const char *path, const char *content, int mode)
{
	char	   *partial = psprintf("%s.partial", path);
	int			fd;

	if (unlink(partial) != 0 && errno != ENOENT)
		file_error("remove", partial);
	fd = OpenTransientFilePerm(partial, O_CREAT | O_EXCL | O_WRONLY | PG_BINARY, 0600);
	if (fd < 0)
		file_error("create", partial);
	if (!write_all(fd, content, mode))
	{
		int			saved_errno = errno;

		CloseTransientFile(fd);
		unlink(partial);
		errno = saved_errno;
		file_error("write", partial);
	}
	if (CloseTransientFile(fd) != 0)
		file_error("close", partial);
	durable_rename(partial, path, ERROR);
}

static bool
local_remove_file(RctlHost *host, const char *path)
{
	if (unlink(path) == 0)
		return true;
	if (errno != ENOENT && errno != ENOTDIR)
		file_error("remove", path);
	return false;
}

static bool
local_make_directory(RctlHost *host, const char *path, bool parents)
{
	char	   *parent = pstrdup(path);

	get_parent_directory(parent);
	if (parents && parent[0] != '\0' && strcmp(parent, "/") != 0)
	{
		struct stat st;

		if (stat(parent, &st) != 0 && errno == ENOENT)
			local_make_directory(host, parent, true);
	}
	if (mkdir(path, S_IRWXU) != 0)
	{
		if (errno == EEXIST)
			return false;
		file_error("create directory", path);
	}
	if (parent[0] != '\0')
		fsync_fname(parent, true);
	return true;
}

static void
local_set_mode(RctlHost *host, const char *path, int mode)
{
	if (chmod(path, mode) != 0)
		file_error("set permissions of", path);
}

static void
local_write_files(RctlHost *host, const char *directory, const RctlHostFile *files)
{
	for (; files->name; files++)
		local_write_file(host, psprintf("%s/%s", directory, files->name), files->content, files->mode);
}

/* Lets a long removal be interrupted and be seen as progress. */
static void
breathe(RctlHost *host, int *files)
{
	if (++*files % FILES_PER_BREATH != 0 || host->op == NULL)
		return;
	rctl_op_alive(host->op);
	rctl_wait(PGINVALID_SOCKET, 0, 0);
}

static void
remove_entries(RctlHost *host, const char *path, int *files)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl directory",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			count;
	char	  **names = directory_entries(path, &count);

	if (names == NULL && errno != ENOENT)
		file_error("open directory", path);
	for (int i = 0; i < count; i++)
	{
		char	   *child = psprintf("%s/%s", path, names[i]);
		struct stat st;

		if (lstat(child, &st) != 0)
		{
			if (errno != ENOENT)
				file_error("stat", child);
			continue;
		}
		if (S_ISDIR(st.st_mode))
		{
			remove_entries(host, child, files);
			if (rmdir(child) != 0 && errno != ENOENT)
				file_error("remove directory", child);
		}
		else if (unlink(child) != 0 && errno != ENOENT)
			file_error("remove", child);
		breathe(host, files);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static void
sync_parent(const char *path)
{
	char	   *parent = pstrdup(path);

	get_parent_directory(parent);
	if (parent[0] != '\0')
		fsync_fname(parent, true);
}

static void
local_remove_tree(RctlHost *host, const char *path, bool keep_top)
{
	struct stat st;
	int			files = 0;

	if (lstat(path, &st) != 0)
	{
		if (errno != ENOENT && errno != ENOTDIR)
			file_error("stat", path);
		return;
	}
	if (!S_ISDIR(st.st_mode))
	{
		errno = ENOTDIR;
		file_error("remove directory", path);
	}
	remove_entries(host, path, &files);
	if (keep_top)
		return;
	if (rmdir(path) != 0 && errno != ENOENT)
		file_error("remove directory", path);
	sync_parent(path);
}

static bool
local_remove_empty(RctlHost *host, const char *path)
{
	if (rmdir(path) != 0)
		return false;
	sync_parent(path);
	return true;
}

static void
local_rename(RctlHost *host, const char *from, const char *to)
{
	if (rename(from, to) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rename \"%s\" to \"%s\": %m", from, to)));
	sync_parent(to);
}

/*
 * A postmaster stands in its data directory, so that a pid that was taken
 * over by another program since is not mistaken for it.  Where there is no
 * /proc, the pid alone has to do.
 */
static int
local_server_pid(RctlHost *host, const char *directory)
{
	char	   *content = local_read_file(host, psprintf("%s/postmaster.pid", directory), 4096);
	struct stat own;
	struct stat cwd;
	long		pid;

	if (content == NULL)
		return 0;
	pid = labs(strtol(content, NULL, 10));
	if (pid <= 1 || pid > INT_MAX || (kill((pid_t) pid, 0) != 0 && errno != EPERM))
		return 0;
	if (access("/proc/self/cwd", F_OK) == 0)
	{
		if (stat(psprintf("/proc/%ld/cwd", pid), &cwd) != 0 || stat(directory, &own) != 0 ||
			cwd.st_dev != own.st_dev || cwd.st_ino != own.st_ino)
			return 0;
	}
	return (int) pid;
}

/* The titles of its processes: the startup process names the segment that it replays. */
static char *
local_server_activity(RctlHost *host, const char *directory)
{
	int			pid = local_server_pid(host, directory);
	char	   *children;
	char	   *child;
	StringInfoData titles;

	if (pid == 0)
		return NULL;
	children = local_read_file(host, psprintf("/proc/%d/task/%d/children", pid, pid), 4096);
	if (children == NULL)
		return NULL;
	initStringInfo(&titles);
	while ((child = strsep(&children, " ")) != NULL)
	{
		char	   *title = child[0] ? local_read_file(host, psprintf("/proc/%s/cmdline", child), 1024) : NULL;

		if (title)
			appendStringInfo(&titles, "%s\n", title);
	}
	return titles.data;
}

/* ---------------------------------------------------------------------
 * Starting a daemon
 * ---------------------------------------------------------------------
 */

/*
 * The unit of a service manager in which this process runs; NULL if there is
 * none.  Such a manager ends every process of a unit when it stops the unit,
 * whatever session or parent the process has.
 */
static char *
service_unit(RctlHost *host)
{
	char	   *groups = local_read_file(host, "/proc/self/cgroup", 16384);
	char	   *line;
	char	   *rest = groups;

	while (rest && (line = strsep(&rest, "\n")) != NULL)
	{
		char	   *last = strrchr(line, '/');
		size_t		len = strlen(line);

		if ((strncmp(line, "0::", 3) == 0 || strstr(line, ":name=systemd:") != NULL) &&
			last != NULL && len > 8 && strcmp(line + len - 8, ".service") == 0)
			return pstrdup(last + 1);
	}
	return NULL;
}

/* Whether the server that runs in the data directory says that it accepts connections. */
static bool
server_ready(RctlHost *host, const char *directory)
{
	char	   *rest;
	char	   *line = NULL;

	if (local_server_pid(host, directory) == 0)
		return false;
	rest = local_read_file(host, psprintf("%s/postmaster.pid", directory), 8192);
	for (int i = 1; i <= LOCK_FILE_LINE_PM_STATUS && rest; i++)
		line = strsep(&rest, "\n");
	return line != NULL && rest != NULL &&
		(strcmp(line, PM_STATUS_READY) == 0 || strcmp(line, PM_STATUS_STANDBY) == 0);
}

/*
 * Waits until the server is ready.  process: the server; NULL if somebody
 * else started it.  False if it has ended.
 */
static bool
await_ready(RctlHost *host, const char *directory, RctlProcess *process,
			RctlProcessTick tick, void *arg)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl start",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		ready;

	while (!(ready = server_ready(host, directory)))
	{
		if (process ? !rctl_process_running(process) : local_server_pid(host, directory) == 0)
			break;
		if (tick)
			tick(arg);
		rctl_sleep(START_POLL_MS);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return ready;
}

#define SYSTEMD_RUN "/usr/bin/systemd-run"

/*
 * Asks the user's own service manager, then the system's, to run the server
 * in a unit of its own.  False if neither would.
 */
static bool
start_in_own_unit(RctlHost *host, const char *directory, const char *log_path,
				  const char *const *command, int ncommand, RctlProcessTick tick, void *arg)
{
	char	   *runtime = psprintf("/run/user/%u", (unsigned) geteuid());
	const char *env[] = {psprintf("XDG_RUNTIME_DIR=%s", runtime), NULL};

	if (access(SYSTEMD_RUN, X_OK) != 0)
		return false;
	for (int system = 0; system <= 1; system++)
	{
		const char *argv[32];
		int			n = 0;
		RctlProcessSpec spec = {.argv = argv, .env = env};
		RctlProcessResult *result;

		if (!system && access(psprintf("%s/systemd", runtime), F_OK) != 0)
			continue;
		argv[n++] = SYSTEMD_RUN;
		argv[n++] = system ? "--system" : "--user";
		if (system)
			argv[n++] = psprintf("--uid=%u", (unsigned) geteuid());
		argv[n++] = "--quiet";
		argv[n++] = "--collect";
		argv[n++] = "--no-ask-password";
		argv[n++] = "--description=PostgreSQL replica of replica_ctl";
		argv[n++] = "--service-type=exec";
		argv[n++] = "--property=KillMode=mixed";
		argv[n++] = "--property=KillSignal=SIGINT";
		argv[n++] = "--property=TimeoutStopSec=infinity";
		argv[n++] = psprintf("--property=StandardOutput=append:%s", log_path);
		argv[n++] = psprintf("--property=StandardError=append:%s", log_path);
		argv[n++] = "--";
		Assert(n + ncommand < lengthof(argv));
		memcpy(argv + n, command, (ncommand + 1) * sizeof(char *));

		result = local_run(host, &spec, 60000, tick, 1000, arg);
		if (!result->exited || result->exit_code != 0)
			continue;
		/* It has been executed; its pid file follows. */
		for (int i = 0; i < 50 && local_server_pid(host, directory) == 0; i++)
			rctl_sleep(START_POLL_MS);
		if (await_ready(host, directory, NULL, tick, arg))
			return true;
	}
	return false;
}

static RctlProcessResult *
local_start_server(RctlHost *host, const char *directory, const char *log_file,
				   const char *config_file, RctlProcessTick tick, void *arg, char **warning)
{
	const char *argv[8];
	int			n = 0;
	char	   *log_path = psprintf("%s/%s", directory, log_file);
	RctlProcessSpec spec = {
		.argv = argv,
		.output_file = log_path,
		.directory = directory,
		.daemon = true,
	};
	char	   *unit = service_unit(host);
	RctlProcess *process;
	TimestampTz started;
	bool		stale;
	bool		ready;

	*warning = NULL;
	argv[n++] = psprintf("%s/postgres", host->bindir);
	argv[n++] = "-D";
	argv[n++] = directory;
	if (config_file)
	{
		argv[n++] = "-c";
		argv[n++] = psprintf("config_file=%s", config_file);
	}
	argv[n] = NULL;

	if (unit && start_in_own_unit(host, directory, log_path, argv, n, tick, arg))
		return NULL;

	/*
	 * A server that was killed counts as running until it is reaped and its
	 * children are gone: start again until then.
	 */
	stale = access(psprintf("%s/postmaster.pid", directory), F_OK) == 0;
	started = GetCurrentTimestamp();
	for (;;)
	{
		process = rctl_process_start(&spec);
		ready = await_ready(host, directory, process, tick, arg);
		if (ready || !stale ||
			TimestampDifferenceExceeds(started, GetCurrentTimestamp(), STALE_START_MS))
			break;
		rctl_sleep(STALE_RETRY_MS);
	}
	if (ready)
	{
		rctl_process_release(process);
		if (unit)
			*warning = psprintf("It runs inside the unit %s and is stopped when the service manager stops that. "
								"Run \"loginctl enable-linger %s\" as root and restart it, "
								"or set KillMode=process in that unit.",
								unit, host->os_user);
		return NULL;
	}
	/* One that an earlier attempt has started was faster. */
	if (await_ready(host, directory, NULL, tick, arg))
		return NULL;
	return rctl_process_wait(process, 0, NULL, 0, NULL);
}

/* ---------------------------------------------------------------------
 * Ports
 * ---------------------------------------------------------------------
 */

/*
 * Whether a server could listen on the address; what is no address of this
 * machine, or only a name, is left for the server to find out.
 */
static bool
tcp_port_free(const struct addrinfo *address)
{
	int			fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int			on = 1;
	bool		taken;

	if (fd < 0)
		return true;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
#ifdef IPV6_V6ONLY
	if (address->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
#endif
	taken = bind(fd, address->ai_addr, address->ai_addrlen) != 0 &&
		(errno == EADDRINUSE || errno == EACCES);
	close(fd);
	return !taken;
}

/* node NULL: every address of this machine; only numbers are looked up, which never blocks. */
static bool
tcp_address_free(const char *node, int port)
{
	struct addrinfo hints = {
		.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *list = NULL;
	bool		is_free = true;

	if (getaddrinfo(node, psprintf("%d", port), &hints, &list) != 0)
		return true;
	for (struct addrinfo *address = list; address && is_free; address = address->ai_next)
		is_free = tcp_port_free(address);
	freeaddrinfo(list);
	return is_free;
}

/*
 * Whether a server would refuse the socket because of its lock file: one of a
 * process that exists, which includes one that was killed and is not reaped.
 */
static bool
socket_locked(const char *socket_path)
{
	FILE	   *file = AllocateFile(psprintf("%s.lock", socket_path), "r");
	int			pid = 0;

	if (file == NULL)
		return false;
	if (fscanf(file, "%d", &pid) != 1)
		pid = 0;
	FreeFile(file);
	return pid > 0 && (kill(pid, 0) == 0 || errno == EPERM);
}

/* A socket on which somebody answers, or whose directory is not ours to look into, is taken. */
static bool
socket_free(const char *directory, int port)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t	length;
	int			fd;
	bool		taken;

	if (directory[0] != '/' && directory[0] != '@')
		return true;			/* relative to its data directory: its own */
	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/.s.PGSQL.%d",
				 directory, port) >= sizeof(address.sun_path))
		return true;
	if (directory[0] == '/' && socket_locked(address.sun_path))
		return false;
	length = offsetof(struct sockaddr_un, sun_path) + strlen(address.sun_path);
	if (directory[0] == '@')
		address.sun_path[0] = '\0';
	else
		length++;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return true;
	taken = connect(fd, (struct sockaddr *) &address, length) == 0 ||
		errno == EAGAIN || errno == EACCES || errno == EINPROGRESS;
	close(fd);
	return !taken;
}

static bool
port_free(int port, List *addresses, List *socket_directories)
{
	ListCell   *cell;

	foreach(cell, addresses)
	{
		const char *address = lfirst(cell);

		if (strcmp(address, "*") == 0)
		{
			if (!tcp_address_free(NULL, port))
				return false;
		}
		else if (strcmp(address, "localhost") == 0)
		{
			if (!tcp_address_free("127.0.0.1", port) || !tcp_address_free("::1", port))
				return false;
		}
		else if (!tcp_address_free(address, port))
			return false;
	}
	foreach(cell, socket_directories)
	{
		if (!socket_free(lfirst(cell), port))
			return false;
	}
	return true;
}

static List *
local_free_ports(RctlHost *host, int first, int wanted, const char *listen_addresses,
				 const char *socket_directories)
{
	List	   *addresses;
	List	   *directories;
	List	   *ports = NIL;

	if (!SplitGUCList(pstrdup(listen_addresses), ',', &addresses))
		addresses = NIL;
	if (!SplitDirectoriesString(pstrdup(socket_directories), ',', &directories))
		directories = NIL;
	for (int port = first; port <= 65535 && list_length(ports) < wanted; port++)
	{
		if (port_free(port, addresses, directories))
			ports = lappend_int(ports, port);
		if (wanted == 1)
			break;
	}
	return ports;
}

RctlHost *
rctl_host_local(RctlOp *op, const RctlMap *server_options)
{
	RctlHost   *host = palloc0(sizeof(RctlHost));
	char		bindir[MAXPGPATH];
	char	   *error = NULL;
	const char *user = get_user_name(&error);

	strlcpy(bindir, my_exec_path, sizeof(bindir));
	get_parent_directory(bindir);

	host->name = "this host";
	host->local = true;
	host->bindir = pstrdup(rctl_map_get_default(server_options, "bindir", bindir));
	host->scratch = DataDir;
	host->os_user = user ? pstrdup(user) : "";
	host->op = op;
	host->run = local_run;
	host->inspect = local_inspect;
	host->read_file = local_read_file;
	host->write_files = local_write_files;
	host->write_file = local_write_file;
	host->remove_file = local_remove_file;
	host->make_directory = local_make_directory;
	host->set_mode = local_set_mode;
	host->remove_tree = local_remove_tree;
	host->remove_empty = local_remove_empty;
	host->rename = local_rename;
	host->server_pid = local_server_pid;
	host->server_activity = local_server_activity;
	host->start_server = local_start_server;
	host->free_ports = local_free_ports;
	return host;
}
