/*-------------------------------------------------------------------------
 *
 * forecast.h
 *	  From samples to judgement: rates, who keeps the WAL, when the disk is
 *	  full, and what is to be done about a slot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_PRIMARY_FORECAST_H
#define REPLICA_CTL_PRIMARY_FORECAST_H

#include "primary/observe.h"
#include "primary/samples.h"

typedef enum RctlVerdict
{
	RCTL_VERDICT_OK,
	RCTL_VERDICT_WARNING,
	RCTL_VERDICT_CRITICAL,
	RCTL_VERDICT_LOST,
} RctlVerdict;

/*
 * Mixes the rate of the last seconds into a smoothed one that is made of so
 * many rated seconds: the mean of all while these are few; later 95 % of a
 * step show after three times tau seconds.
 */
extern double rctl_smooth(double old, double rate, double seconds, double rated, double tau);

/* Completes a sample of a file system whose room is filled in; before is NULL if it is new. */
extern void rctl_forecast_disk(RctlDiskSample *next, const RctlDiskSample *before);

/* Seconds until it is full; negative: not in sight. */
extern double rctl_disk_time_to_full(const RctlDiskSample *disk);

/* The next sample of a slot; before is NULL if it is new. */
extern void rctl_forecast_slot(RctlSlotSample *next, const RctlSlotFact *fact,
							   const RctlSlotSample *before, const RctlWalEnd *end);

/*
 * Completes a sample whose disk, files and WAL end are filled in: rates, who
 * holds the oldest WAL, time to full.  facts and slots have the same order.
 */
extern void rctl_forecast_server(RctlServerSample *next, const RctlServerSample *before,
								 const RctlSlotFact *facts, const RctlSlotSample *slots, int nslots);

typedef struct RctlJudgement
{
	RctlVerdict verdict;
	bool		breach;			/* it breaks a limit that
								 * replica_ctl.slot_action is for */
	const char *why;			/* NULL: nothing is wrong */
	char	   *advice;			/* palloc'd: why, and the statement to run; or
								 * NULL */
} RctlJudgement;

/* Judges a slot.  slot: its last sample, or NULL. */
extern void rctl_judge_slot(const RctlSlotFact *fact, const RctlSlotSample *slot,
							const RctlServerSample *server, XLogRecPtr flush,
							RctlJudgement *judgement);

/* The replica that a slot is of; NULL if it is none's or that is not known. */
extern const char *rctl_slot_replica(const RctlSlotSample *slot);

extern const char *rctl_verdict_name(RctlVerdict verdict);

#endif							/* REPLICA_CTL_PRIMARY_FORECAST_H */
