/*-------------------------------------------------------------------------
 *
 * standby_place.c
 *	  The place of a replica: its names, directories and port.
 *
 * A directory is removed only if it is known to be ours.  While an operation
 * fills it, that is the inode which was noted (in the operation's state)
 * when the directory was made or found empty; from the end of the copy on
 * it is a marker file that names the system and the replica.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "port.h"
#include "postmaster/postmaster.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "net/wait.h"
#include "provider/standby.h"
#include "settings.h"

/* So many free ports are asked for at once, as other replicas may have taken the first ones. */
#define PORTS_WANTED 64

/* ---------------------------------------------------------------------
 * Names
 * ---------------------------------------------------------------------
 */

/*
 * A name made of allowed characters: others become '_'.  If that changed or
 * cut anything the id is appended, so that no two replicas share a name.
 */
static char *
plain_name(const char *prefix, const char *name, bool lower, const char *allowed,
		   int max_length, int64 id)
{
	char	   *suffix = psprintf("_" INT64_FORMAT, id);
	StringInfoData plain;
	bool		changed = false;
	int			room;

	initStringInfo(&plain);
	for (const unsigned char *c = (const unsigned char *) name; *c; c++)
	{
		char		ch = *c;

		if (lower && ch >= 'A' && ch <= 'Z')
			ch += 'a' - 'A';
		else if (!((ch >= 'a' && ch <= 'z') || (!lower && ch >= 'A' && ch <= 'Z') ||
				   (ch >= '0' && ch <= '9') || strchr(allowed, ch) != NULL))
			ch = '_';
		changed |= ch != (char) *c;
		appendStringInfoChar(&plain, ch);
	}
	room = max_length - (int) strlen(prefix);
	if (!changed && plain.len <= room)
		return psprintf("%s%s", prefix, plain.data);
	room -= (int) strlen(suffix);
	if (plain.len > room)
		plain.data[room] = '\0';
	return psprintf("%s%s%s", prefix, plain.data, suffix);
}

char *
rctl_standby_slot_name(const RctlReplica *replica)
{
	return plain_name("replica_ctl_", replica->name, true, "_", NAMEDATALEN - 1, replica->id);
}

/* Printable ASCII, as cluster_name wants it. */
static char *
ascii_name(const char *name)
{
	char	   *ascii = pstrdup(name);

	for (char *c = ascii; *c; c++)
	{
		if (*c < 0x20 || *c > 0x7e)
			*c = '_';
	}
	return ascii;
}

/* Where replicas go by default. */
static char *
default_root(RctlHost *host, const RctlMap *server_options)
{
	const char *given = host->root ? host->root : rctl_map_get(server_options, "directory");
	char	   *root;

	if (given)
		root = pstrdup(given);
	else if (rctl_local_directory[0] != '\0')
		root = pstrdup(rctl_local_directory);
	else
		root = psprintf("%s_replicas", DataDir);
	canonicalize_path(root);
	return root;
}

void
rctl_standby_choose_names(RctlOp *op, RctlHost *host)
{
	RctlReplica *replica = op->replica;
	RctlMap    *facts = replica->facts;
	const char *given = rctl_map_get(replica->options, "data_directory");
	char	   *directory;
	char	   *slot = rctl_standby_slot_name(replica);

	if (given)
	{
		directory = pstrdup(given);
		canonicalize_path(directory);
	}
	else
		directory = psprintf("%s/%s", default_root(host, op->server_options),
							 plain_name("", replica->name, false, "_-", 128, replica->id));
	rctl_map_set(facts, "data_directory", directory);
	rctl_map_set(facts, "bindir", host->bindir);
	rctl_map_set(facts, "log_file", psprintf("%s/%s", directory, RCTL_LOG_FILE));
	rctl_map_setf(facts, "system_identifier", UINT64_FORMAT, GetSystemIdentifier());
	if (rctl_map_get(facts, "slot") == NULL)
		rctl_map_set(facts, "slot", slot);
	rctl_map_set(facts, "application_name", slot);
	rctl_map_set(facts, "cluster_name", ascii_name(replica->name));
	rctl_map_set(facts, "upstream", rctl_map_get(replica->options, "upstream"));
	rctl_map_set(facts, "listen_addresses",
				 rctl_map_get_default(replica->options, "listen_addresses", host->local ? ListenAddresses : "*"));
	if (!host->local)
		rctl_map_set(facts, "socket_directories", host->socket_directories ? host->socket_directories : "");
	else
		rctl_map_set(facts, "socket_directories", Unix_socket_directories ? Unix_socket_directories : "");
}

void
rctl_standby_set_endpoint(RctlMap *facts)
{
	const char *addresses = rctl_map_get_default(facts, "listen_addresses", "");
	const char *sockets = rctl_map_get_default(facts, "socket_directories", "");
	char	   *first = pstrdup(addresses[0] != '\0' ? addresses : sockets);
	char	   *end = first + strcspn(first, ", ");

	if (rctl_map_get(facts, "address"))
	{
		rctl_map_set(facts, "host", rctl_map_get(facts, "address"));
		return;
	}
	*end = '\0';
	if (strcmp(first, "*") == 0 || strcmp(first, "0.0.0.0") == 0 || strcmp(first, "::") == 0)
		first = pstrdup("localhost");
	rctl_map_set(facts, "host", first);
}

/* ---------------------------------------------------------------------
 * Directories
 * ---------------------------------------------------------------------
 */

/* Whether path is dir or lies in it. */
static bool
path_within(const char *path, const char *dir)
{
	size_t		len = strlen(dir);

	if (strcmp(dir, "/") == 0)
		return true;
	return strncmp(path, dir, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

void
rctl_standby_check_apart(RctlHost *host, const char *path, const char *what,
						 const char *other, const char *other_what)
{
	RctlPathInfo info;
	RctlPathInfo other_info;

	host->inspect(host, path, &info);
	host->inspect(host, other, &other_info);
	if (path_within(info.real_path, other_info.real_path))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s \"%s\" is inside %s", what, path, other_what),
				 errdetail("That is \"%s\".", other),
				 errhint("Choose another place with the option data_directory or the setting replica_ctl.local_directory.")));
	if (path_within(other_info.real_path, info.real_path))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s \"%s\" holds %s", what, path, other_what),
				 errdetail("That is \"%s\".", other),
				 errhint("Choose another place with the option data_directory or the setting replica_ctl.local_directory.")));
}

/* Raises an error unless what is there can become a data directory. */
static void
check_place(RctlHost *host, const char *path, const char *what, const RctlPathInfo *info)
{
	switch (info->kind)
	{
		case RCTL_PATH_MISSING:
			if (!info->ancestor_writable)
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("%s \"%s\" cannot be created", what, path),
						 errdetail("User \"%s\" cannot write to \"%s\".", host->os_user, info->ancestor),
						 errhint("Create the directory, empty and owned by \"%s\", or choose another place with the option data_directory or the setting replica_ctl.local_directory.",
								 host->os_user)));
			break;
		case RCTL_PATH_DIRECTORY:
			if (!info->owned || !info->writable)
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("%s \"%s\" is not owned by or not writable for user \"%s\"",
								what, path, host->os_user),
						 errhint("Change its owner, or choose another place.")));
			if (!info->empty)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_FILE),
						 errmsg("%s \"%s\" exists and is not empty", what, path),
						 errhint("Empty it, or choose another place with the option data_directory.")));
			break;
		case RCTL_PATH_SYMLINK:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s \"%s\" is a symbolic link", what, path),
					 errhint("Give the directory itself: \"%s\".", info->real_path)));
			break;
		case RCTL_PATH_FILE:
		case RCTL_PATH_OTHER:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s \"%s\" exists and is not a directory", what, path),
					 errhint("Choose another place with the option data_directory.")));
			break;
	}
	if (host->local)
		rctl_standby_check_apart(host, path, what, DataDir, "the data directory of this server");
}

void
rctl_standby_check_directory(RctlHost *host, const char *path, const char *what, RctlPathInfo *info)
{
	host->inspect(host, path, info);
	check_place(host, path, what, info);
}

List *
rctl_standby_directories(const RctlMap *facts)
{
	const char *tablespaces = rctl_map_get(facts, "tablespaces");
	List	   *directories = list_make1(pstrdup(rctl_map_get(facts, "data_directory")));

	if (tablespaces)
	{
		RctlMap    *map = rctl_map_from_json(tablespaces, "tablespaces");
		ListCell   *cell;

		foreach(cell, map->entries)
			directories = lappend(directories, ((RctlMapEntry *) lfirst(cell))->value);
	}
	return directories;
}

/* A key of the operation's state for something about a path. */
static char *
path_key(const char *word, const char *path)
{
	return psprintf("%s %s", word, path);
}

void
rctl_standby_claim_directory(RctlOp *op, RctlHost *host, const char *path)
{
	char	   *key = path_key("inode", path);
	const char *claimed = rctl_map_get(op->state, key);
	RctlPathInfo info;
	RctlMap    *object;

	host->inspect(host, path, &info);
	if (claimed && info.kind == RCTL_PATH_DIRECTORY && strcmp(info.identity, claimed) == 0)
	{
		/* An earlier attempt has left something here. */
		host->remove_tree(host, path, true);
		return;
	}
	check_place(host, path, "directory", &info);

	object = rctl_map_make();
	rctl_map_set(object, "path", path);
	rctl_map_set(object, "existed", info.kind == RCTL_PATH_DIRECTORY ? "true" : "false");
	rctl_op_cleanup_add(op, "directory", object, false);
	if (info.kind == RCTL_PATH_MISSING)
	{
		host->make_directory(host, path, true);
		host->inspect(host, path, &info);
	}
	rctl_map_set(op->state, key, info.identity);
	rctl_op_save(op);
}

void
rctl_standby_claim_again(RctlOp *op, RctlHost *host, const char *path)
{
	RctlPathInfo info;

	host->inspect(host, path, &info);
	rctl_map_set(op->state, path_key("inode", path), info.identity);
	rctl_op_save(op);
}

void
rctl_standby_mark_directory(RctlOp *op, RctlHost *host, const char *path)
{
	RctlMap    *marker = rctl_map_make();

	rctl_map_setf(marker, "system_identifier", UINT64_FORMAT, GetSystemIdentifier());
	rctl_map_setf(marker, "replica_id", INT64_FORMAT, op->replica->id);
	rctl_map_setf(marker, "operation", INT64_FORMAT, op->id);
	rctl_map_set(marker, "name", op->replica->name);
	host->write_file(host, psprintf("%s/%s", path, RCTL_MARKER_FILE),
					 psprintf("%s\n", rctl_map_to_json(marker)), 0600);
}

bool
rctl_standby_marked(RctlOp *op, RctlHost *host, const char *path, bool op_only)
{
	char	   *content = host->read_file(host, psprintf("%s/%s", path, RCTL_MARKER_FILE), 4096);
	volatile bool ours = false;
	MemoryContext context = CurrentMemoryContext;

	if (content == NULL)
		return !op_only && rctl_rewinding(op->replica, host, path);
	PG_TRY();
	{
		RctlMap    *marker = rctl_map_from_json(content, RCTL_MARKER_FILE);

		ours = strcmp(rctl_map_get_default(marker, "system_identifier", ""),
					  psprintf(UINT64_FORMAT, GetSystemIdentifier())) == 0 &&
			strcmp(rctl_map_get_default(marker, "replica_id", ""),
				   psprintf(INT64_FORMAT, op->replica->id)) == 0 &&
			(!op_only ||
			 strcmp(rctl_map_get_default(marker, "operation", ""),
					psprintf(INT64_FORMAT, op->id)) == 0);
	}
	PG_CATCH();
	{
		/* Not our JSON: not our directory. */
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return ours;
}

void
rctl_standby_remove_directory(RctlOp *op, RctlHost *host, const char *path, bool existed)
{
	const char *claimed = rctl_map_get(op->state, path_key("inode", path));
	char	   *parent = pstrdup(path);
	RctlPathInfo info;

	host->inspect(host, path, &info);
	if (info.kind == RCTL_PATH_DIRECTORY &&
		((claimed && strcmp(claimed, info.identity) == 0) ||
		 rctl_standby_marked(op, host, path, false)))
		host->remove_tree(host, path, existed);
	else if (info.kind == RCTL_PATH_DIRECTORY && info.empty)
	{
		if (!existed)
			host->remove_empty(host, path);
	}
	else if (info.kind != RCTL_PATH_MISSING)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("directory \"%s\" was left as it is", path),
				 errdetail("It has no file \"%s\" that says that it belongs to replica \"%s\".",
						   RCTL_MARKER_FILE, op->replica->name),
				 errhint("Look at it, remove it by hand if it is not needed, and try again.")));

	/* The default places above it, when the last one is gone. */
	get_parent_directory(parent);
	if (!existed &&
		(strcmp(parent, default_root(host, op->server_options)) == 0 ||
		 strcmp(parent, psprintf("%s_tablespaces",
								 rctl_map_get_default(op->replica->facts, "data_directory", ""))) == 0))
	{
		if (host->remove_empty(host, parent))
		{
			get_parent_directory(parent);
			if (strcmp(parent, default_root(host, op->server_options)) == 0)
				host->remove_empty(host, parent);
		}
	}
}

/* ---------------------------------------------------------------------
 * Tablespaces
 * ---------------------------------------------------------------------
 */

void
rctl_standby_map_tablespaces(RctlOp *op, RctlHost *host, RctlSource *source)
{
	RctlMap    *facts = op->replica->facts;
	const char *directory = rctl_map_get(facts, "data_directory");
	const char *option = rctl_map_get(op->replica->options, "tablespace_mapping");
	RctlMap    *wanted = option ? rctl_map_from_json(option, "tablespace_mapping") : rctl_map_make();
	RctlMap    *targets = rctl_map_make();
	RctlMap    *seen = rctl_map_make();

	/*
	 * A tablespace inside the data directory (allow_in_place_tablespaces) is
	 * copied with it.
	 */
	RctlMap    *there = rctl_source_tablespaces(source);
	RctlPathInfo info;
	ListCell   *cell;
	ListCell   *other;

	foreach(other, there->entries)
	{
		const char *oid = ((RctlMapEntry *) lfirst(other))->key;
		const char *location = ((RctlMapEntry *) lfirst(other))->value;
		char	   *target = pstrdup(rctl_map_get_default(wanted, location,
														  psprintf("%s_tablespaces/%s", directory, oid)));

		canonicalize_path(target);
		rctl_map_set(seen, location, target);
		rctl_standby_check_directory(host, target, "tablespace directory", &info);
		rctl_standby_check_apart(host, target, "tablespace directory", directory, "the replica's data directory");
		if (host->local)
		{
			rctl_standby_check_apart(host, directory, "data directory", location, "a tablespace of this server");
			foreach(cell, there->entries)
				rctl_standby_check_apart(host, target, "tablespace directory",
										 ((RctlMapEntry *) lfirst(cell))->value, "a tablespace of this server");
		}
		foreach(cell, targets->entries)
			rctl_standby_check_apart(host, target, "tablespace directory",
									 ((RctlMapEntry *) lfirst(cell))->value, "another tablespace's directory");
		rctl_map_set(targets, oid, target);
		if (strcmp(location, target) != 0)
			rctl_map_set(op->state, path_key("tablespace", location), target);
	}

	foreach(cell, wanted->entries)
	{
		const char *location = ((RctlMapEntry *) lfirst(cell))->key;

		if (rctl_map_get(seen, location) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("tablespace_mapping names \"%s\", which is not the directory of a tablespace", location),
					 errhint("SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace shows the directories.")));
	}
	if (targets->entries)
		rctl_map_set_json(facts, "tablespaces", rctl_map_to_json(targets));
	else
		rctl_map_set(facts, "tablespaces", NULL);
}

/* ---------------------------------------------------------------------
 * Port
 * ---------------------------------------------------------------------
 */

static void
port_in_use(const char *port)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("port %s is in use", port),
			 errhint("Leave out the option port to take the first free one.")));
}

void
rctl_standby_reserve_port(RctlOp *op, RctlHost *host)
{
	RctlMap    *facts = op->replica->facts;
	const char *given = rctl_map_get(op->replica->options, "port");
	const char *addresses = rctl_map_get_default(facts, "listen_addresses", "");
	const char *sockets = rctl_map_get_default(facts, "socket_directories", "");
	int			first = given ? pg_strtoint32(given) : host->local ? PostPortNumber + 1 : PostPortNumber;
	List	   *ports;
	ListCell   *cell;

	ports = host->free_ports(host, first, given ? 1 : PORTS_WANTED, addresses, sockets);
	if (ports == NIL && !given)
		ports = host->free_ports(host, 1024, PORTS_WANTED, addresses, sockets);
	foreach(cell, ports)
	{
		char	   *port = psprintf("%d", lfirst_int(cell));

		if (host->local && rctl_op_reserve(op, "port", port))
			return;
		/* Hosts do not share their ports. */
		if (!host->local && rctl_op_reserve(op, "port_there", psprintf("%s %s", host->address, port)))
		{
			rctl_map_set(facts, "port", port);
			return;
		}
	}
	if (given)
		port_in_use(given);
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no free port from %d on", first),
			 errhint("Name one with the option port.")));
}

/* ---------------------------------------------------------------------
 * The check in the caller's transaction
 * ---------------------------------------------------------------------
 */

/* The directory in which a replica's own would be made. */
static void
check_root(RctlHost *host, const char *root)
{
	RctlPathInfo info;

	host->inspect(host, root, &info);
	if (info.kind == RCTL_PATH_MISSING ? !info.ancestor_writable : !info.writable)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("no replica can be made in \"%s\"", root),
				 errdetail("User \"%s\" cannot write to \"%s\".", host->os_user, info.ancestor),
				 errhint("Create the directory, owned by \"%s\", or choose another place with the option data_directory or the setting replica_ctl.local_directory.",
						 host->os_user)));
}

static void
check_create(RctlHost *host, const RctlMap *server_options, const RctlMap *options)
{
	const char *directory = rctl_map_get(options, "data_directory");
	const char *port = rctl_map_get(options, "port");
	const char *addresses = rctl_map_get(options, "listen_addresses");
	const char *sockets = Unix_socket_directories ? Unix_socket_directories : "";
	const char *mapping = rctl_map_get(options, "tablespace_mapping");

	if (wal_level < WAL_LEVEL_REPLICA)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("wal_level must be \"replica\" or \"logical\" for a replica"),
				 errhint("ALTER SYSTEM SET wal_level = 'replica', then restart the server.")));
	if (directory && host->local)
	{
		char	   *path = pstrdup(directory);
		RctlPathInfo info;

		canonicalize_path(path);
		rctl_standby_check_directory(host, path, "data directory", &info);
	}
	else if (host->local)
		check_root(host, default_root(host, server_options));
	if (addresses == NULL)
		addresses = host->local ? ListenAddresses : "*";
	if (addresses[0] == '\0' && sockets[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the replica would listen nowhere"),
				 errdetail("unix_socket_directories is empty, and so is listen_addresses."),
				 errhint("Give the option listen_addresses.")));
	if (port && host->local && host->free_ports(host, pg_strtoint32(port), 1, addresses, sockets) == NIL)
		port_in_use(port);
	if (mapping)
	{
		RctlMap    *map = rctl_map_from_json(mapping, "tablespace_mapping");
		ListCell   *cell;

		foreach(cell, map->entries)
		{
			RctlMapEntry *entry = lfirst(cell);

			if (entry->nested || !is_absolute_path(entry->key) || !is_absolute_path(entry->value))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("tablespace_mapping must map absolute paths to absolute paths"),
						 errdetail("Found \"%s\": \"%s\".", entry->key, entry->value)));
		}
	}
	rctl_standby_apply_delay(options);
	rctl_standby_check_settings(options);
}

void
rctl_standby_check_options(RctlHost *host, RctlOpKind kind, const char *replica,
						   const RctlMap *server_options, const RctlMap *options)
{
	const char *upstream = rctl_map_get(options, "upstream");

	if (upstream && strcmp(upstream, replica) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("replica \"%s\" cannot be its own upstream", replica),
				 errhint("Leave out the option upstream to follow this server.")));
	if (kind == RCTL_OP_CREATE)
		check_create(host, server_options, options);
	else if (rctl_map_get(options, "data_directory") == NULL && rctl_map_get(options, "port") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("replica_attach needs to know where the standby is"),
				 errhint("Give the option data_directory, or host and port.")));
}
