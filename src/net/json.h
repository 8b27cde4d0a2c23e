/*-------------------------------------------------------------------------
 *
 * json.h
 *	  Reads JSON that came from elsewhere, by PostgreSQL's own parser.
 *
 * Whatever the bytes are, nothing is raised: broken JSON, invalid UTF-8, NUL
 * escapes, deep nesting and numbers out of range are a problem that the
 * caller words.  JSON is UTF-8; texts come in the database encoding, with what
 * it cannot express replaced by '?'.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_JSON_H
#define REPLICA_CTL_NET_JSON_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* A value anywhere in a document; of jbvNull, jbvString, jbvNumeric, jbvBool or jbvBinary. */
typedef JsonbValue RctlJson;

/* The document, palloc'd; or NULL, and *problem a palloc'd clause for errdetail. */
extern const RctlJson *rctl_json_parse(const char *bytes, size_t length, char **problem);

/*
 * The value by a path of keys and array indexes: "items/0/metadata/name".
 * NULL if there is none, also if json is NULL.  An empty path is the value
 * itself.  A key that holds a slash is had by rctl_json_key().
 */
extern const RctlJson *rctl_json_find(const RctlJson *json, const char *path);
extern const RctlJson *rctl_json_key(const RctlJson *json, const char *key);

/* A string, number or boolean as text, palloc'd; NULL if there is none, or it is null, array or object. */
extern char *rctl_json_text(const RctlJson *json, const char *path);

/* False if it is not a number (or a string that is one) in range; NaN is none. */
extern bool rctl_json_double(const RctlJson *json, const char *path, double *value);
extern bool rctl_json_int64(const RctlJson *json, const char *path, int64 *value);

/* otherwise, if it is not a boolean. */
extern bool rctl_json_bool(const RctlJson *json, const char *path, bool otherwise);

/* How many elements the array has; -1 if it is none. */
extern int	rctl_json_array_length(const RctlJson *json, const char *path);
extern const RctlJson *rctl_json_element(const RctlJson *json, int index);

/* The keys of an object, a List of char *; NIL if it is none. */
extern List *rctl_json_keys(const RctlJson *json);

extern bool rctl_json_is_object(const RctlJson *json);

/* The value as JSON text, palloc'd. */
extern char *rctl_json_print(const RctlJson *json);

#endif							/* REPLICA_CTL_NET_JSON_H */
