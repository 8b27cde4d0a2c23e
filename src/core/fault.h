/*-------------------------------------------------------------------------
 *
 * fault.h
 *	  Faults that tests inject into the steps of operations.
 *
 * Test builds (RCTL_TEST) only; in others nothing of this is compiled.  The
 * setting replica_ctl.test_fault, and for one replica alone its option
 * "fault" (of the mock provider), say where what happens, separated by
 * semicolons:
 *
 *	  kind.step.when=action[*times]
 *
 *	  kind	  create, drop, ...; or undo, with the type of a cleanup record as step
 *	  step	  or "retry", for after a failed attempt was recorded
 *	  when	  before or after the step's own work
 *	  action  crash (kill -9 of the worker), stall (until cancelled or killed),
 *			  block (two seconds, deaf to cancels), exit (as if the worker was
 *			  terminated), or a five-letter SQLSTATE to be raised
 *	  times	  only the first so many attempts at the step; default every one
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_CORE_FAULT_H
#define REPLICA_CTL_CORE_FAULT_H

#ifdef RCTL_TEST
#include "provider/provider.h"

extern void rctl_fault(RctlOp *op, const char *kind, const char *step, const char *when);
#else
#define rctl_fault(op, kind, step, when) ((void) 0)
#endif

#endif							/* REPLICA_CTL_CORE_FAULT_H */
