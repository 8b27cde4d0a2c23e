/*-------------------------------------------------------------------------
 *
 * store_private.h
 *	  What the store_*.c share: statements, and the parts that several need.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_STORE_PRIVATE_H
#define REPLICA_CTL_CORE_STORE_PRIVATE_H

#include "core/store.h"

/* Arguments of a statement: text, or NULL. */
#define ARGS(...) (const char *const[]) {__VA_ARGS__}, lengthof(((const char *const[]) {__VA_ARGS__}))
#define NO_ARGS NULL, 0

/* "the row is this server's own", for the parameters $1 to $3. */
#define OWNED "system_identifier = $1 AND timeline_id = $2::int AND home = $3"

/* What rctl_store_read_replica() reads. */
#define RCTL_REPLICA_COLUMNS "replica_id, name, server, state, options, facts"

/* Where results go: the context that was current before the bracket was opened. */
extern MemoryContext rctl_result_context;

/* Who called the SQL function whose bracket is open; in a worker, itself. */
extern Oid	rctl_store_caller;

/* Runs one statement; returns the number of rows.  read_only: with the active snapshot. */
extern uint64 rctl_run(const char *sql, const char *const *args, int nargs);
extern uint64 rctl_execute(const char *sql, const char *const *args, int nargs, bool read_only);

/*
 * A column (from 1) of a row (from 0) of the last result; NULL, 0, false or
 * an empty map for null.
 */
extern char *rctl_get(uint64 row, int column);
extern int64 rctl_get_int64(uint64 row, int column);
extern bool rctl_get_bool(uint64 row, int column);
extern RctlMap *rctl_get_map(uint64 row, int column, const char *what);

extern char *rctl_id_text(int64 id);

/* From now on every bracket of this process must find the registry as it is now. */
extern void rctl_store_hold_registry(void);

/* What an operation leaves of its replica's row; state NULL: nothing. */
extern void rctl_store_settle_replica(const char *replica_id, const char *state, const char *message);

/* From a row of the last result, whose columns from first on are RCTL_REPLICA_COLUMNS. */
extern RctlReplica *rctl_store_read_replica(uint64 row, int first);

/* The server of a replica and its provider; raises an error where there is none. */
extern void rctl_store_resolve_server(RctlReplica *replica);

#endif							/* REPLICA_CTL_CORE_STORE_PRIVATE_H */
