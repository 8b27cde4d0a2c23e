/*-------------------------------------------------------------------------
 *
 * http_task.c
 *	  Conversations of more than one exchange, waited for or not.
 *
 * A task has two memory contexts, used in turn: one holds the request that is
 * under way with its transfer, the other takes the response and then the next
 * request.  So its memory does not grow, however long it talks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "utils/memutils.h"

#include "net/http_internal.h"

/* What both forms have: the generator and its two contexts. */
typedef struct Conversation
{
	RctlHttpNext next;
	void	   *state;
	MemoryContext contexts[2];
	int			turn;			/* contexts[turn] holds the request */
} Conversation;

struct RctlHttpTask
{
	dlist_node	node;			/* in tasks */
	MemoryContext context;		/* holds this struct and the contexts below */
	MemoryContextCallback callback;
	Conversation conversation;
	const RctlHttpRequest *request; /* under way, or due; NULL: it has ended */
	RctlTransfer *transfer;		/* NULL: it is not due yet */
	int64		due;
	ErrorData  *error;
};

static dlist_head tasks = DLIST_STATIC_INIT(tasks);

static void
conversation_init(Conversation *conversation, MemoryContext parent, RctlHttpNext next, void *state)
{
	conversation->next = next;
	conversation->state = state;
	conversation->turn = 0;
	for (int i = 0; i < 2; i++)
		conversation->contexts[i] = AllocSetContextCreate(parent, "replica_ctl conversation",
														  ALLOCSET_DEFAULT_SIZES);
}

/*
 * The next request.  The response, if any, is in the context that is not the
 * last request's, which is reset before this one is put there.
 */
static const RctlHttpRequest *
conversation_next(Conversation *conversation, const RctlHttpResponse *response)
{
	MemoryContext old = MemoryContextSwitchTo(conversation->contexts[1 - conversation->turn]);
	const RctlHttpRequest *request = conversation->next(conversation->state, response);

	MemoryContextSwitchTo(old);
	MemoryContextReset(conversation->contexts[conversation->turn]);
	conversation->turn = 1 - conversation->turn;
	return request;
}

void
rctl_http_converse(RctlHttpNext next, void *state)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl conversations",
												  ALLOCSET_SMALL_SIZES);
	Conversation conversation;
	const RctlHttpRequest *request;

	conversation_init(&conversation, context, next, state);
	request = conversation_next(&conversation, NULL);
	while (request)
	{
		MemoryContext old = MemoryContextSwitchTo(conversation.contexts[1 - conversation.turn]);
		RctlHttpResponse *response = rctl_http_exchange(request);

		MemoryContextSwitchTo(old);
		request = conversation_next(&conversation, response);
	}
	MemoryContextDelete(context);
}

/* ---- tasks ---- */

static void
task_callback(void *arg)
{
	RctlHttpTask *task = arg;

	dlist_delete(&task->node);
}

/* Asks the generator; what it raises ends the task. */
static void
step(RctlHttpTask *task, const RctlHttpResponse *response)
{
	MemoryContext old = CurrentMemoryContext;

	task->transfer = NULL;
	task->request = NULL;
	PG_TRY();
	{
		task->request = conversation_next(&task->conversation, response);
		if (task->request)
			task->due = rctl_http_now() + Max(task->request->delay_ms, 0) * INT64CONST(1000);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(task->context);
		task->error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
}

RctlHttpTask *
rctl_http_task_start(RctlHttpNext next, void *state)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "replica_ctl task",
												  ALLOCSET_SMALL_SIZES);
	RctlHttpTask *task = MemoryContextAllocZero(context, sizeof(RctlHttpTask));

	task->context = context;
	conversation_init(&task->conversation, context, next, state);
	task->callback.func = task_callback;
	task->callback.arg = task;
	dlist_push_tail(&tasks, &task->node);
	MemoryContextRegisterResetCallback(context, &task->callback);
	step(task, NULL);
	return task;
}

bool
rctl_http_task_ended(RctlHttpTask *task, ErrorData **error)
{
	*error = task->error;
	return task->request == NULL;
}

void
rctl_http_task_end(RctlHttpTask *task)
{
	MemoryContextDelete(task->context);
}

/* One turn of a task: starts what is due, takes what has come. */
static void
advance(RctlHttpTask *task)
{
	MemoryContext old = CurrentMemoryContext;
	Conversation *conversation = &task->conversation;

	if (task->request == NULL)
		return;
	if (task->transfer == NULL)
	{
		if (task->due > rctl_http_now())
			return;
		MemoryContextSwitchTo(conversation->contexts[conversation->turn]);
		task->transfer = rctl_transfer_start(task->request);
	}
	else if (rctl_transfer_done(task->transfer))
	{
		RctlHttpResponse *response;

		MemoryContextSwitchTo(conversation->contexts[1 - conversation->turn]);
		response = rctl_transfer_finish(task->transfer);
		step(task, response);
	}
	MemoryContextSwitchTo(old);
}

int
rctl_http_nsockets(void)
{
	return rctl_transfers_nsockets();
}

int
rctl_http_sockets(RctlWaitSocket *sockets, int nsockets)
{
	return rctl_transfers_sockets(sockets, nsockets);
}

long
rctl_http_timeout(void)
{
	long		timeout = rctl_transfers_timeout();
	dlist_iter	iter;

	dlist_foreach(iter, &tasks)
	{
		RctlHttpTask *task = dlist_container(RctlHttpTask, node, iter.cur);
		long		left;

		if (task->request == NULL || (task->transfer && !rctl_transfer_done(task->transfer)))
			continue;
		left = task->transfer ? 0 : Max((task->due - rctl_http_now() + 999) / 1000, 0);
		timeout = timeout < 0 ? left : Min(timeout, left);
	}
	return timeout;
}

void
rctl_http_advance(RctlWaitSocket *sockets, int nsockets)
{
	dlist_iter	iter;

	rctl_transfers_advance(sockets, nsockets);
	dlist_foreach(iter, &tasks)
		advance(dlist_container(RctlHttpTask, node, iter.cur));
}
