/*-------------------------------------------------------------------------
 *
 * map.h
 *	  A small ordered map of text to text: options, facts, step state.
 *
 * Converts from and to a jsonb object.  Scalars become their text, JSON null
 * leaves the key out, arrays and objects become their JSON text (so that a
 * nested object is read by another rctl_map_from_json).  Everything is
 * palloc'd in the context that was current when the map was made.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_MAP_H
#define REPLICA_CTL_NET_MAP_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef struct RctlMapEntry
{
	char	   *key;
	char	   *value;			/* never NULL */
	bool		nested;			/* value is JSON text of an array or object */
} RctlMapEntry;

typedef struct RctlMap
{
	MemoryContext context;
	List	   *entries;		/* of RctlMapEntry, in order of insertion */
} RctlMap;

extern RctlMap *rctl_map_make(void);
extern RctlMap *rctl_map_copy(const RctlMap *map);

/* NULL if the key is absent.  The string lives as long as the entry is unchanged. */
extern const char *rctl_map_get(const RctlMap *map, const char *key);
extern const char *rctl_map_get_default(const RctlMap *map, const char *key, const char *otherwise);

/* Sets, replaces; value NULL removes. */
extern void rctl_map_set(RctlMap *map, const char *key, const char *value);
extern void rctl_map_setf(RctlMap *map, const char *key, const char *format,...) pg_attribute_printf(3, 4);

/* Sets a value that is the (valid) JSON text of an array or object. */
extern void rctl_map_set_json(RctlMap *map, const char *key, const char *json);

/* Raises ERRCODE_INVALID_PARAMETER_VALUE if it is not an object; "what" names it in the message. */
extern RctlMap *rctl_map_from_jsonb(Jsonb *jsonb, const char *what);
extern RctlMap *rctl_map_from_json(const char *json, const char *what);

/* A map of the DefElems of CREATE SERVER / USER MAPPING OPTIONS. */
extern RctlMap *rctl_map_from_options(List *defelems);

extern char *rctl_map_to_json(const RctlMap *map);

#endif							/* REPLICA_CTL_NET_MAP_H */
