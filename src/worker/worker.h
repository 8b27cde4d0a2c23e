/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The background workers: launcher, monitor and operation workers.
 *
 * Launcher and monitor are static, one of each, and do no I/O that can block.  An
 * operation worker is dynamic, works on one operation and exits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_WORKER_WORKER_H
#define REPLICA_CTL_WORKER_WORKER_H

#include "postmaster/bgworker.h"

/* Registers the static workers; from _PG_init only. */
extern void rctl_workers_register(void);

/* Fills in what the workers have in common; main is the name of an exported function. */
extern void rctl_worker_define(BackgroundWorker *worker, const char *main);

/*
 * Signals, database, and session settings of a worker; call first in its
 * main.  SIGINT is ignored: it must never break off a statement of ours.
 */
extern void rctl_worker_start(void);

/* Asks the postmaster for the worker of a reserved board slot; NULL if it has no room. */
extern BackgroundWorkerHandle *rctl_op_worker_launch(int slot, int64 operation);

extern PGDLLEXPORT void rctl_launcher_main(Datum arg);
extern PGDLLEXPORT void rctl_monitor_main(Datum arg);
extern PGDLLEXPORT void rctl_op_worker_main(Datum arg);

#endif							/* REPLICA_CTL_WORKER_WORKER_H */
