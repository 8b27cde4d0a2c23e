/*-------------------------------------------------------------------------
 *
 * aiven_options.c
 *	  Options of replicas at Aiven: their check, and the bodies made of them.
 *
 * The options have the names of Aiven's API; where Terraform's provider has
 * others, these are taken too, but not both.  What the API's document says
 * about a value is checked here, before anything is asked of it; plans and
 * clouds, which only the API knows, are checked by the first step.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "provider/aiven.h"

#define MAX_SERVICE_NAME 64
#define MAX_PROJECT 63
#define MAX_PLAN 128
#define MAX_CLOUD 256
#define ID_LENGTH 36
#define MAX_TAG 64
#define MAX_STATIC_IPS 128
#define MAX_EMAILS 10
#define MAX_ELEMENT 254

static const char *const days[] = {
	"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", NULL
};

const RctlOptionDef rctl_aiven_create_options[] = {
	{"cloud", RCTL_OPTION_TEXT, "cloud and region, such as google-europe-north1, default the source's"},
	{"cloud_name", RCTL_OPTION_TEXT, "the same as cloud"},
	{"cmk_id", RCTL_OPTION_TEXT, "id of the customer managed key that encrypts it, default none"},
	{"disk_space", RCTL_OPTION_TEXT, "disk for its data in Terraform's notation, such as 120GiB"},
	{"disk_space_mb", RCTL_OPTION_INTEGER, "disk for its data in megabytes, default the plan's", 0, PG_INT32_MAX},
	{"maintenance", RCTL_OPTION_OBJECT, "object with dow and time of its maintenance, default chosen by Aiven"},
	{"maintenance_window_dow", RCTL_OPTION_CHOICE, "day of week of its maintenance, default chosen by Aiven",
	.choices = days},
	{"maintenance_window_time", RCTL_OPTION_TEXT, "time of its maintenance, HH:MM:SS in UTC, default chosen by Aiven"},
	{"pg_user_config", RCTL_OPTION_OBJECT, "the same as user_config"},
	{"plan", RCTL_OPTION_TEXT, "its plan, such as startup-4, default the source's"},
	{"project_vpc_id", RCTL_OPTION_TEXT, "id of the project's VPC it is placed in, or public for none; default the VPC of its cloud, if there is one"},
	{"service_name", RCTL_OPTION_TEXT, "its name at Aiven, default made of the replica's name"},
	{"static_ips", RCTL_OPTION_LIST, "list of ids of static IP addresses for it, default none"},
	{"tags", RCTL_OPTION_OBJECT, "object of tags, default none"},
	{"tech_emails", RCTL_OPTION_LIST, "list of addresses that Aiven writes to about it, default none"},
	{"termination_protection", RCTL_OPTION_BOOL, "whether Aiven refuses to delete it or to power it off, default false"},
	{"terraform", RCTL_OPTION_OBJECT, "object with the addresses service and integration that it has in a Terraform configuration, default made of its name"},
	{"user_config", RCTL_OPTION_OBJECT, "object of Aiven's settings for PostgreSQL, default Aiven's own"},
	{NULL}
};

const RctlOptionDef rctl_aiven_attach_options[] = {
	{"service_name", RCTL_OPTION_TEXT, "its name at Aiven, default made of the replica's name"},
	{"terraform", RCTL_OPTION_OBJECT, "object with the addresses service and integration that it has in a Terraform configuration, default made of its name"},
	{NULL}
};

/* What PUT service and PUT tags take. */
const char *const rctl_aiven_change_options[] = {
	"cloud", "cloud_name", "cmk_id", "disk_space", "disk_space_mb", "maintenance", "maintenance_window_dow",
	"maintenance_window_time", "pg_user_config", "plan", "project_vpc_id", "tags", "tech_emails",
	"termination_protection", "terraform", "user_config", NULL
};

/* Two names of one thing. */
static const struct
{
	const char *name;
	const char *other;
}			aliases[] =

{
	{"cloud", "cloud_name"},
	{"user_config", "pg_user_config"},
	{"disk_space_mb", "disk_space"},
};

/* ---------------------------------------------------------------------
 * Checks
 * ---------------------------------------------------------------------
 */

static void
invalid(const char *option, const char *value, const char *rule)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", option, value),
			 errdetail("%s", rule),
			 errhint("Correct the option; SELECT * FROM replica_explain('create', ...) checks all of them.")));
}

/* The elements of a list option, as texts. */
static List *
elements_of(const char *value)
{
	List	   *elements = NIL;
	char	   *problem;
	const RctlJson *json;
	char	   *copy;

	if (value == NULL)
		return NIL;
	if (*value == '[')
	{
		json = rctl_json_parse(value, strlen(value), &problem);
		for (int i = 0; i < rctl_json_array_length(json, ""); i++)
		{
			char	   *text = rctl_json_text(rctl_json_element(json, i), "");

			elements = lappend(elements, text ? text : pstrdup(""));
		}
		return elements;
	}
	copy = pstrdup(value);
	for (char *rest = copy; rest;)
	{
		char	   *element = strsep(&rest, ",");
		char	   *end;

		while (isspace((unsigned char) *element))
			element++;
		end = element + strlen(element);
		while (end > element && isspace((unsigned char) end[-1]))
			*--end = '\0';
		elements = lappend(elements, element);
	}
	return elements;
}

static bool
is_service_name(const char *name)
{
	return strlen(name) >= 1 && strlen(name) <= MAX_SERVICE_NAME && name[0] != '-' &&
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(name);
}

static void
check_word(const RctlMap *options, const char *name, size_t max)
{
	const char *value = rctl_map_get(options, name);

	if (value == NULL)
		return;
	if (*value == '\0' || strlen(value) > max)
		invalid(name, value, psprintf("It must have 1 to %zu characters.", max));
	for (const char *c = value; *c; c++)
	{
		if ((unsigned char) *c <= ' ' || *c == 0x7f)
			invalid(name, value, "It must not have spaces or control characters.");
	}
}

static bool
is_uuid(const char *text)
{
	return strlen(text) == ID_LENGTH && strspn(text, "0123456789abcdefABCDEF-") == ID_LENGTH;
}

/* Terraform's id of a VPC is PROJECT/ID. */
static const char *
bare_vpc_id(const char *value)
{
	const char *slash = strrchr(value, '/');

	return slash ? slash + 1 : value;
}

static void
check_time(const char *option, const char *value)
{
	int			hour,
				minute,
				second;
	char		rest;

	if (strlen(value) != 8 || sscanf(value, "%2d:%2d:%2d%c", &hour, &minute, &second, &rest) != 3 ||
		strspn(value, "0123456789:") != 8 || hour > 23 || minute > 59 || second > 59)
		invalid(option, value, "It must be a time of day in UTC, HH:MM:SS.");
}

static bool
is_day(const char *value)
{
	for (const char *const *day = days; *day; day++)
	{
		if (strcmp(*day, value) == 0)
			return true;
	}
	return false;
}

static void
check_maintenance(const RctlMap *options)
{
	const char *object = rctl_map_get(options, "maintenance");
	const char *time = rctl_map_get(options, "maintenance_window_time");
	ListCell   *lc;

	if (time)
		check_time("maintenance_window_time", time);
	if (object == NULL)
		return;
	if (time || rctl_map_get(options, "maintenance_window_dow"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"maintenance\" and \"maintenance_window_...\" say the same"),
				 errhint("Leave one of them out.")));
	foreach(lc, rctl_map_from_json(object, "maintenance")->entries)
	{
		RctlMapEntry *entry = lfirst(lc);

		if (strcmp(entry->key, "time") == 0)
			check_time("maintenance", entry->value);
		else if (strcmp(entry->key, "dow") != 0)
			invalid("maintenance", entry->key, "It has the keys \"dow\" and \"time\" only.");
		else if (!is_day(entry->value))
			invalid("maintenance", entry->value, "A day of week is \"monday\" to \"sunday\".");
	}
}

/* "120GiB" and the like as megabytes; -1: it is none. */
static int64
disk_megabytes(const char *value)
{
	static const struct
	{
		const char *unit;
		double		megabytes;
	}			units[] =
	{
		{"MB", 1}, {"MiB", 1}, {"GB", 1024}, {"GiB", 1024}, {"TB", 1024 * 1024}, {"TiB", 1024 * 1024},
	};
	char	   *end;
	double		number = strtod(value, &end);

	if (end == value || !isdigit((unsigned char) *value) || !(number > 0 && number < 1e9))
		return -1;
	while (*end == ' ')
		end++;
	for (int i = 0; i < lengthof(units); i++)
	{
		if (strcmp(end, units[i].unit) == 0 && number * units[i].megabytes <= PG_INT32_MAX)
			return (int64) (number * units[i].megabytes);
	}
	return -1;
}

static void
check_tags(const RctlMap *options)
{
	const char *tags = rctl_map_get(options, "tags");
	ListCell   *lc;

	if (tags == NULL)
		return;
	foreach(lc, rctl_map_from_json(tags, "tags")->entries)
	{
		RctlMapEntry *entry = lfirst(lc);

		if (entry->nested)
			invalid("tags", entry->key, "The value of a tag is a text.");
		if (*entry->key == '\0' || strlen(entry->key) > MAX_TAG || strlen(entry->value) > MAX_TAG)
			invalid("tags", entry->key, psprintf("The key of a tag has 1 to %d characters, its value up to as many.", MAX_TAG));
		if (strcmp(entry->key, RCTL_AIVEN_MARK) == 0)
			invalid("tags", entry->key, "The tag with this key is replica_ctl's own.");
	}
}

static void
check_user_config(const RctlMap *options)
{
	static const char *const refused[] = {"pg_read_replica", "service_to_fork_from", "project_to_fork_from", "recovery_target_time"};
	const char *config = rctl_aiven_option(options, "user_config");
	RctlMap    *map;

	if (config == NULL)
		return;
	map = rctl_map_from_json(config, "user_config");
	for (int i = 0; i < lengthof(refused); i++)
	{
		if (rctl_map_get(map, refused[i]))
			invalid("user_config", refused[i], "A replica is made by an integration with its source, never by a setting.");
	}
}

static void
check_terraform(const RctlMap *options)
{
	const char *object = rctl_map_get(options, "terraform");
	ListCell   *lc;

	if (object == NULL)
		return;
	foreach(lc, rctl_map_from_json(object, "terraform")->entries)
	{
		RctlMapEntry *entry = lfirst(lc);

		if (strcmp(entry->key, "service") != 0 && strcmp(entry->key, "integration") != 0)
			invalid("terraform", entry->key, "It has the keys \"service\" and \"integration\" only.");
		if (entry->nested || *entry->value == '\0' || strlen(entry->value) > 200 || strchr(entry->value, '\'') ||
			strchr(entry->value, '\n') || strchr(entry->value, '.') == NULL)
			invalid("terraform", entry->value, "An address is TYPE.NAME, such as \"aiven_pg.postgresql_read_replica\".");
	}
}

/* must_hold: what each element has somewhere; or NULL */
static void
check_list(const RctlMap *options, const char *name, int max, const char *must_hold)
{
	const char *value = rctl_map_get(options, name);
	List	   *elements = elements_of(value);
	ListCell   *lc;

	if (list_length(elements) > max)
		invalid(name, value, psprintf("It has %d elements at most.", max));
	foreach(lc, elements)
	{
		const char *element = lfirst(lc);

		if (*element == '\0' || strlen(element) > MAX_ELEMENT || (must_hold && strstr(element, must_hold) == NULL))
			invalid(name, element, psprintf("It is a list of %s.", must_hold ? "mail addresses" : "ids"));
	}
}

void
rctl_aiven_check_server(const RctlMap *server_options)
{
	const char *endpoint = rctl_map_get(server_options, "endpoint");
	const char *project = rctl_map_get(server_options, "project");
	const char *source = rctl_map_get(server_options, "source");
	char	   *problem = endpoint ? rctl_http_url_problem(endpoint, false) : NULL;

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid endpoint of the server: \"%s\"", endpoint),
				 errdetail("It is refused: %s.", problem),
				 errhint("An endpoint is https://HOST, or http:// with a loopback address.")));
	if (project == NULL || source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("a replica_aiven server needs option \"%s\"", project == NULL ? "project" : "source"),
				 errhint("Options project and source name the project and the service that the replicas follow.")));
	if (*project == '\0' || strlen(project) > MAX_PROJECT)
		invalid("project", project, psprintf("A project's name has 1 to %d characters.", MAX_PROJECT));
	if (!is_service_name(source))
		invalid("source", source, psprintf("A service's name has 1 to %d of a-z, 0-9 and \"-\".", MAX_SERVICE_NAME));
}

void
rctl_aiven_check_options(RctlOpKind kind, const char *replica, const RctlMap *server_options,
						 const RctlMap *options)
{
	const char *vpc = rctl_map_get(options, "project_vpc_id");
	const char *cmk = rctl_map_get(options, "cmk_id");
	const char *disk = rctl_map_get(options, "disk_space");
	const char *name;

	rctl_aiven_check_server(server_options);
	for (int i = 0; i < lengthof(aliases); i++)
	{
		if (rctl_map_get(options, aliases[i].name) && rctl_map_get(options, aliases[i].other))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("options \"%s\" and \"%s\" say the same", aliases[i].name, aliases[i].other),
					 errhint("Leave one of them out.")));
	}
	name = rctl_aiven_service_name(replica, options);
	if (strcmp(name, rctl_map_get(server_options, "source")) == 0)
		invalid("service_name", name, "It is the name of the source.");
	check_word(options, "plan", MAX_PLAN);
	check_word(options, "cloud", MAX_CLOUD);
	check_word(options, "cloud_name", MAX_CLOUD);
	if (vpc && strcmp(vpc, "public") != 0 && !is_uuid(bare_vpc_id(vpc)))
		invalid("project_vpc_id", vpc, psprintf("It must be an id of %d characters, or \"public\".", ID_LENGTH));
	if (cmk && !is_uuid(cmk))
		invalid("cmk_id", cmk, psprintf("It must be an id of %d characters.", ID_LENGTH));
	if (disk && disk_megabytes(disk) < 0)
		invalid("disk_space", disk, "It must be a size with a unit, such as \"120GiB\".");
	check_list(options, "static_ips", MAX_STATIC_IPS, NULL);
	check_list(options, "tech_emails", MAX_EMAILS, "@");
	check_maintenance(options);
	check_tags(options);
	check_user_config(options);
	check_terraform(options);
}

char *
rctl_aiven_service_name(const char *replica, const RctlMap *options)
{
	const char *given = rctl_map_get(options, "service_name");
	StringInfoData name;

	if (given)
	{
		if (!is_service_name(given))
			invalid("service_name", given,
					psprintf("It must have 1 to %d of a-z, 0-9 and \"-\", and not begin with \"-\".", MAX_SERVICE_NAME));
		return pstrdup(given);
	}
	initStringInfo(&name);
	for (const char *c = replica; *c; c++)
	{
		char		ch = pg_ascii_tolower((unsigned char) *c);

		if (strchr("abcdefghijklmnopqrstuvwxyz0123456789", ch))
			appendStringInfoChar(&name, ch);
		else if (name.len > 0 && name.data[name.len - 1] != '-')
			appendStringInfoChar(&name, '-');
	}
	while (name.len > 0 && name.data[name.len - 1] == '-')
		name.data[--name.len] = '\0';
	if (!is_service_name(name.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("no name for a service can be made of replica name \"%s\"", replica),
				 errdetail("It must have 1 to %d of a-z, 0-9 and \"-\".", MAX_SERVICE_NAME),
				 errhint("Give one with option \"service_name\".")));
	return name.data;
}

const char *
rctl_aiven_option(const RctlMap *options, const char *name)
{
	const char *value = rctl_map_get(options, name);

	for (int i = 0; i < lengthof(aliases) && value == NULL; i++)
	{
		if (strcmp(aliases[i].name, name) == 0)
			value = rctl_map_get(options, aliases[i].other);
	}
	return value;
}

/* ---------------------------------------------------------------------
 * Bodies
 * ---------------------------------------------------------------------
 */

/* Appends "key": after a comma, if need be. */
static void
put_key(StringInfo out, const char *key)
{
	appendStringInfo(out, "%s\"%s\": ", out->data[out->len - 1] == '{' ? "" : ", ", key);
}

static void
put_text(StringInfo out, const char *key, const char *value)
{
	if (value == NULL)
		return;
	put_key(out, key);
	escape_json(out, value);
}

static void
put_json(StringInfo out, const char *key, const char *json)
{
	if (json == NULL)
		return;
	put_key(out, key);
	appendStringInfoString(out, json);
}

char *
rctl_aiven_tags(const RctlMap *options, const char *mark)
{
	const char *tags = rctl_map_get(options, "tags");
	StringInfoData out;
	ListCell   *lc;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	if (tags)
	{
		foreach(lc, rctl_map_from_json(tags, "tags")->entries)
		{
			RctlMapEntry *entry = lfirst(lc);

			if (out.len > 1)
				appendStringInfoString(&out, ", ");
			escape_json(&out, entry->key);
			appendStringInfoString(&out, ": ");
			escape_json(&out, entry->value);
		}
	}
	put_text(&out, RCTL_AIVEN_MARK, mark);
	appendStringInfoChar(&out, '}');
	return out.data;
}

/* [{"email": ...}, ...], or ["id", ...] with key NULL */
static void
put_list(StringInfo out, const char *name, const char *value, const char *key)
{
	bool		first = true;
	ListCell   *lc;

	if (value == NULL)
		return;
	put_key(out, name);
	appendStringInfoChar(out, '[');
	foreach(lc, elements_of(value))
	{
		appendStringInfo(out, "%s%s", first ? "" : ", ", key ? psprintf("{\"%s\": ", key) : "");
		escape_json(out, lfirst(lc));
		appendStringInfoString(out, key ? "}" : "");
		first = false;
	}
	appendStringInfoChar(out, ']');
}

/* What is the same in a creation and in an update. */
static void
put_common(StringInfo out, const RctlMap *options)
{
	const char *disk = rctl_map_get(options, "disk_space");
	const char *disk_mb = rctl_map_get(options, "disk_space_mb");
	const char *protection = rctl_map_get(options, "termination_protection");
	const char *vpc = rctl_map_get(options, "project_vpc_id");
	const char *dow = rctl_map_get(options, "maintenance_window_dow");
	const char *time = rctl_map_get(options, "maintenance_window_time");
	bool		protect = false;

	put_text(out, "cmk_id", rctl_map_get(options, "cmk_id"));
	if (disk)
		put_json(out, "disk_space_mb", psprintf(INT64_FORMAT, disk_megabytes(disk)));
	else if (disk_mb)
		put_json(out, "disk_space_mb", psprintf("%lld", strtoll(disk_mb, NULL, 10)));
	put_json(out, "maintenance", rctl_map_get(options, "maintenance"));
	if (dow || time)
	{
		put_key(out, "maintenance");
		appendStringInfoChar(out, '{');
		put_text(out, "dow", dow);
		put_text(out, "time", time);
		appendStringInfoChar(out, '}');
	}
	if (vpc)
	{
		if (strcmp(vpc, "public") == 0)
			put_json(out, "project_vpc_id", "null");
		else
			put_text(out, "project_vpc_id", bare_vpc_id(vpc));
	}
	if (protection && parse_bool(protection, &protect))
		put_json(out, "termination_protection", protect ? "true" : "false");
	put_list(out, "tech_emails", rctl_map_get(options, "tech_emails"), "email");
	put_json(out, "user_config", rctl_aiven_option(options, "user_config"));
}

char *
rctl_aiven_create_body(const RctlAiven *aiven, const RctlReplica *replica)
{
	const RctlMap *facts = replica->facts;
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	put_text(&out, "service_name", rctl_map_get(facts, "service_name"));
	put_text(&out, "service_type", "pg");
	put_text(&out, "plan", rctl_map_get(facts, "plan"));
	put_text(&out, "cloud", rctl_map_get(facts, "cloud"));
	put_common(&out, replica->options);
	put_list(&out, "static_ips", rctl_map_get(replica->options, "static_ips"), NULL);
	put_json(&out, "tags", rctl_aiven_tags(replica->options, rctl_map_get(facts, "mark")));
	put_key(&out, "service_integrations");
	appendStringInfoString(&out, "[{\"integration_type\": \"read_replica\", \"source_service\": ");
	escape_json(&out, aiven->source);
	appendStringInfoString(&out, "}]}");
	return out.data;
}

/* Options whose value is the same before and after. */
static RctlMap *
only_changed(const RctlMap *old, const RctlMap *new)
{
	RctlMap    *changed = rctl_map_make();
	ListCell   *lc;

	foreach(lc, new->entries)
	{
		RctlMapEntry *entry = lfirst(lc);
		const char *before = rctl_map_get(old, entry->key);

		if (before && strcmp(before, entry->value) == 0)
			continue;
		if (entry->nested)
			rctl_map_set_json(changed, entry->key, entry->value);
		else
			rctl_map_set(changed, entry->key, entry->value);
	}

	/* One half of the maintenance window takes the other along. */
	if (rctl_map_get(changed, "maintenance_window_dow") || rctl_map_get(changed, "maintenance_window_time"))
	{
		rctl_map_set(changed, "maintenance_window_dow", rctl_map_get(new, "maintenance_window_dow"));
		rctl_map_set(changed, "maintenance_window_time", rctl_map_get(new, "maintenance_window_time"));
	}
	/* Protection that is asked for no more is switched off. */
	if (rctl_map_get(old, "termination_protection") && rctl_map_get(new, "termination_protection") == NULL)
		rctl_map_set(changed, "termination_protection", "false");
	return changed;
}

char *
rctl_aiven_update_body(const RctlAiven *aiven, const RctlMap *old, const RctlMap *new)
{
	RctlMap    *changed = only_changed(old, new);
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	put_text(&out, "plan", rctl_map_get(changed, "plan"));
	put_text(&out, "cloud", rctl_aiven_option(changed, "cloud"));
	put_common(&out, changed);
	appendStringInfoChar(&out, '}');
	return out.data;
}
