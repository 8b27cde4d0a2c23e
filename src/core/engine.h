/*-------------------------------------------------------------------------
 *
 * engine.h
 *	  Works on one operation until it ends or must wait.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_ENGINE_H
#define REPLICA_CTL_CORE_ENGINE_H

#include "postgres.h"

/*
 * Takes up the operation where it stands and works on it.  Returns when it
 * has ended, or is to be retried later.  For an operation worker that has
 * entered the board; raises an error only where not even the outcome could be
 * written.
 */
extern void rctl_engine_run(int64 operation);

/*
 * After an error of rctl_engine_run() because the extension was dropped
 * meanwhile: undoes what can be undone without its tables.
 */
extern void rctl_engine_abandon(void);

#endif							/* REPLICA_CTL_CORE_ENGINE_H */
