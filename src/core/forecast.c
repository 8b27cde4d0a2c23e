/*-------------------------------------------------------------------------
 *
 * forecast.c
 *	  The steps of a plan, and how long each is expected to take.
 *
 * The best guess is what the step took before on this server (the median of
 * its latest runs, in replica_ctl.operation_step).  Steps whose time depends
 * on an amount are reckoned from it: a copy from the size of the data and the
 * rate of past copies, the wait for the replica from what it has to replay
 * and the rate at which it does.  Where there is neither, a round number is
 * assumed, and said to be, or the time is not known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"

#include "core/plan.h"
#include "core/preflight.h"

/* Assumed where nothing of the kind was done here before. */
#define ASSUMED_FENCE_S 0.01
#define ASSUMED_ZERO_LAG_S 0.01
#define ASSUMED_COPY_RATE (100.0 * 1024 * 1024)

/* Most of a promotion is the copy of the last WAL segment to the new timeline. */
#define ASSUMED_PROMOTE_S(segment_size) (0.1 * (segment_size) / (16.0 * 1024 * 1024))

/* As in promotion.c: writes are stopped only when less is left to replay. */
#define WARM_LAG_BYTES (16 * 1024 * 1024)

/* Less is replayed before one has looked. */
#define LITTLE_LAG_BYTES (1024 * 1024)

/* A step's seconds, and where they are from. */
typedef struct Guess
{
	double		seconds;
	char	   *reason;			/* a sentence; or NULL */
} Guess;

static bool
past_runs(List *times, const char *step, Guess *guess)
{
	ListCell   *lc;

	foreach(lc, times)
	{
		RctlStepTime *time = lfirst(lc);

		if (strcmp(time->step, step) != 0)
			continue;
		guess->seconds = time->seconds;
		guess->reason = time->runs == 1 ? pstrdup("One past run took as long.")
			: psprintf("Median of the last %d runs.", time->runs);
		return true;
	}
	return false;
}

static void
assume(List *times, const char *step, double seconds, Guess *guess)
{
	if (past_runs(times, step, guess))
		return;
	guess->seconds = seconds;
	guess->reason = pstrdup("Assumed, as there was no such run yet.");
}

/* ---------------------------------------------------------------------
 * Steps that depend on an amount
 * ---------------------------------------------------------------------
 */

/* How long the replica needs for so much WAL; negative: not known. */
static double
replay_seconds(RctlPreflight *p, uint64 bytes)
{
	if (bytes < LITTLE_LAG_BYTES)
		return 0;
	return p->replay_rate > 0 ? bytes / p->replay_rate : RCTL_SECONDS_UNKNOWN;
}

static void
replay_guess(RctlPreflight *p, uint64 bytes, Guess *guess)
{
	guess->seconds = replay_seconds(p, bytes);
	guess->reason = guess->seconds < 0
		? psprintf("%s are to be replayed, and the replica has replayed nothing while it was looked at.",
				   rctl_size_text(bytes))
		: psprintf("%s are to be replayed, at %s per second.", rctl_size_text(bytes),
				   rctl_size_text((uint64) p->replay_rate));
}

static void
guess_warm(RctlPreflight *p, List *times, const char *step, Guess *guess)
{
	if (p->lag_bytes > WARM_LAG_BYTES)
		replay_guess(p, p->lag_bytes - WARM_LAG_BYTES, guess);
	else
		assume(times, step, 0, guess);
}

static void
guess_fence(RctlPreflight *p, List *times, const char *step, Guess *guess)
{
	double		drain = strtol(rctl_map_get_default(p->op->arguments, "drain_ms", "1000"), NULL, 10) / 1000.0;

	assume(times, step, ASSUMED_FENCE_S, guess);
	if (p->writers == 0)
		return;
	guess->seconds = Max(guess->seconds, drain + ASSUMED_FENCE_S);
	guess->reason = psprintf("At most, if the %d sessions that have written use all of the drain time.", p->writers);
}

static void
guess_zero_lag(RctlPreflight *p, List *times, const char *step, Guess *guess)
{
	uint64		left = Min(p->lag_bytes, WARM_LAG_BYTES);

	if (left >= LITTLE_LAG_BYTES)
		replay_guess(p, left, guess);
	else
		assume(times, step, ASSUMED_ZERO_LAG_S, guess);
	if (p->apply_delay > 0 && guess->seconds >= 0)
	{
		guess->seconds = Max(guess->seconds, p->apply_delay);
		guess->reason = pstrdup("The replica applies commits with a delay.");
	}
}

static void
guess_promote(RctlPreflight *p, List *times, const char *step, Guess *guess)
{
	/* How long a service takes only experience tells. */
	if (p->op->replica->provider->managed)
	{
		(void) past_runs(times, step, guess);
		return;
	}
	assume(times, step, ASSUMED_PROMOTE_S(wal_segment_size), guess);
}

static void
guess_lift(RctlPreflight *p, List *times, const char *step, Guess *guess)
{
	assume(times, step, ASSUMED_FENCE_S, guess);
}

static void
guess_copy(RctlPreflight *p, List *times, const char *step, Guess *guess)
{
	const char *limit = rctl_map_get(p->op->replica->options, "max_rate");
	double		rate;
	bool		known;

	if (p->data_bytes == 0)
		return;
	rctl_op_begin(p->op);
	rate = rctl_store_copy_rate();
	rctl_op_commit(p->op);
	known = rate > 0;
	if (!known)
		rate = ASSUMED_COPY_RATE;
	if (limit && strtod(limit, NULL) * 1024 < rate)
		rate = strtod(limit, NULL) * 1024;
	guess->seconds = p->data_bytes / rate;
	guess->reason = psprintf("%s at %s per second%s.", rctl_size_text(p->data_bytes),
							 rctl_size_text((uint64) rate),
							 known ? ", as in the latest copies" : ", which is assumed, as there was no copy yet");
}

static const struct
{
	const char *step;
	void		(*guess) (RctlPreflight *p, List *times, const char *step, Guess *guess);
}			guesses[] = {
	{"warm", guess_warm},
	{"fence", guess_fence},
	{"zero_lag", guess_zero_lag},
	{"promote", guess_promote},
	{"lift", guess_lift},
	{"copy", guess_copy},
};

static Guess
guess_step(RctlPreflight *p, List *times, const char *step)
{
	Guess		guess = {RCTL_SECONDS_UNKNOWN, NULL};

	for (int i = 0; i < lengthof(guesses); i++)
	{
		if (strcmp(guesses[i].step, step) == 0 &&
			(p->op->kind != RCTL_OP_REPAIR || strcmp(step, "copy") != 0))
		{
			guesses[i].guess(p, times, step, &guess);
			return guess;
		}
	}
	(void) past_runs(times, step, &guess);
	return guess;
}

/* ---------------------------------------------------------------------
 * Rows
 * ---------------------------------------------------------------------
 */

static RctlFinding *
add_row(RctlPreflight *p, int step, const char *name, double seconds, const char *message, char *reason)
{
	RctlFinding *finding = palloc0(sizeof(RctlFinding));

	finding->step = step;
	finding->name = name;
	finding->verdict = RCTL_VERDICT_OK;
	finding->seconds = seconds;
	finding->message = pstrdup(message);
	finding->detail = reason;
	p->findings = lappend(p->findings, finding);
	return finding;
}

/* What it does, and how the service calls that. */
static const char *
step_title(RctlPreflight *p, const RctlStep *step)
{
	const RctlProvider *provider = p->op->replica->provider;
	char	   *call = provider->describe_step ? provider->describe_step(p->op, step->name) : NULL;

	return call ? psprintf("%s: %s", step->title, call) : step->title;
}

/* Whether the step only makes checks, which have rows of their own. */
static bool
is_checks(RctlPreflight *p, const char *step, int index)
{
	const RctlProvider *provider = p->op->replica->provider;

	switch (p->op->kind)
	{
		case RCTL_OP_CREATE:
			return index == 0 && provider->create_checks != NULL;
		case RCTL_OP_DROP:
			return index == 0 && provider->drop_checks != NULL;
		default:
			return strcmp(step, "check") == 0 || (p->step == 2 && strcmp(step, "rejoin_check") == 0);
	}
}

/* Whether clients cannot write here while the step runs. */
static bool
stops_writes(RctlPreflight *p, const char *step)
{
	static const char *const steps[] = {"fence", "zero_lag", "promote", "lift"};

	if (p->forced)
		return false;
	for (int i = 0; i < lengthof(steps); i++)
	{
		if (strcmp(steps[i], step) == 0)
			return true;
	}
	return false;
}

void
rctl_forecast(RctlPreflight *p)
{
	const RctlProvider *provider = p->op->replica->provider;
	const char *kind = rctl_op_kind_name(p->op->kind);
	RctlPlan	plan = rctl_plan(provider, p->op->kind, p->op->arguments);
	List	   *times;
	double		stopped = 0;
	double		total = 0;
	bool		stops = false;
	bool		known = false;
	bool		unknown = false;

	if (plan.steps == NULL)
	{
		rctl_found_blocked(p, "plan", ERRCODE_FEATURE_NOT_SUPPORTED,
						   psprintf("provider \"%s\" cannot do \"%s\"", provider->name, kind), NULL,
						   "SELECT DISTINCT provider, kind FROM replica_ctl.steps() shows what each can do.");
		return;
	}
	rctl_op_begin(p->op);
	times = rctl_store_step_times(rctl_plan_find(&plan, "fence") >= 0
								  ? "{promote,switchover,drill}" : psprintf("{%s}", kind),
								  p->op->replica->server);
	rctl_op_commit(p->op);

	for (int i = 0; i < plan.count; i++)
	{
		const RctlStep *step = &plan.steps[i];
		Guess		guess;

		if (is_checks(p, step->name, i))
			continue;
		guess = guess_step(p, times, step->name);
		add_row(p, i + 1, step->name, guess.seconds, step_title(p, step), guess.reason);
		known |= guess.seconds >= 0;
		unknown |= guess.seconds < 0;
		total += Max(guess.seconds, 0);
		if (stops_writes(p, step->name))
		{
			stops = true;
			stopped = stopped < 0 || guess.seconds < 0 ? RCTL_SECONDS_UNKNOWN : stopped + guess.seconds;
		}
	}
	if (stops)
		add_row(p, 0, "writes stopped", stopped, "clients cannot write for as long", NULL);
	add_row(p, 0, "total", known ? total : RCTL_SECONDS_UNKNOWN,
			known && unknown ? "all steps whose time is known" : "all steps", NULL);
}
