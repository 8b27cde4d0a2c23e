/*-------------------------------------------------------------------------
 *
 * fault.h
 *	  Faults that tests inject into the steps of operations.
 *
 * Test builds (RCTL_TEST) only; in others nothing of this is compiled.  The
 * setting replica_ctl.test_fault names a place and what happens there:
 *
 *	  kind.step.when=action[*times]
 *
 *	  kind	  create, drop, ...; or undo, with the type of a cleanup record as step
 *	  when	  before or after the step's own work
 *	  action  crash (kill -9 of the worker), stall (until cancelled or killed),
 *			  exit (as if the worker was terminated), or a five-letter SQLSTATE
 *			  to be raised
 *	  times	  only the first so many attempts at the step; default every one
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_FAULT_H
#define REPLICA_CTL_CORE_FAULT_H

#ifdef RCTL_TEST
extern void rctl_fault_define(void);
extern void rctl_fault(const char *kind, const char *step, const char *when, int attempt);
#else
#define rctl_fault_define() ((void) 0)
#define rctl_fault(kind, step, when, attempt) ((void) 0)
#endif

#endif							/* REPLICA_CTL_CORE_FAULT_H */
