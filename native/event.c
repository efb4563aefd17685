/*
 * event.c - what the data plane has to tell the worker.
 *
 * Posters push onto a stack; the one consumer takes it whole and reverses it.  Nodes
 * are embedded in what they tell of, one per fact, so posting allocates nothing.
 *
 * Kernel: llist (lib/llist.c) under schedule_work().
 * Locks: none.  `taken` is the consumer's.
 */
#include "internal.h"

static struct event_node *posted; /* atomic */
static struct event_node *taken;  /* the consumer */
static void (*event_waker)(void);

void memcg_set_waker(void (*waker)(void))
{
    __atomic_store_n(&event_waker, waker, __ATOMIC_RELEASE);
}

bool event_post(struct event_node *node, enum memcg_event_kind kind, struct mem_cgroup *memcg,
                struct kmem_cache *cache)
{
    void (*waker)(void);
    struct event_node *first;

    int idle = EVENT_IDLE;

    if (!__atomic_compare_exchange_n(&node->state, &idle, EVENT_POSTED, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED))
        return false;
    node->event = (struct memcg_event){ kind, memcg, cache };
    first = __atomic_load_n(&posted, __ATOMIC_RELAXED);
    do {
        node->next = first;
    } while (!__atomic_compare_exchange_n(&posted, &first, node, true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    waker = __atomic_load_n(&event_waker, __ATOMIC_ACQUIRE);
    if (!first && waker)
        waker();
    return true;
}

/* What the node lies in ends while it may be in the queue. */
bool event_orphan(struct event_node *node)
{
    return __atomic_exchange_n(&node->state, EVENT_ORPHANED, __ATOMIC_ACQ_REL) == EVENT_POSTED;
}

/* What was posted, oldest first. */
static struct event_node *take_posted(void)
{
    struct event_node *node = __atomic_exchange_n(&posted, NULL, __ATOMIC_ACQUIRE), *list = NULL;

    while (node) {
        struct event_node *next = node->next;

        node->next = list;
        list = node;
        node = next;
    }
    return list;
}

/* The worker that was woken is the parent's: empty `posted`, so that the next post wakes ours. */
void event_fork_child(void)
{
    struct event_node **last = &taken;

    while (*last)
        last = &(*last)->next;
    *last = take_posted();
}

static struct event_node *next_node(void)
{
    struct event_node *node;

    if (!taken)
        taken = take_posted();
    node = taken;
    if (node)
        taken = node->next;
    return node;
}

bool memcg_next_event(struct memcg_event *event)
{
    struct thread *self = thread_enter(); /* metadata_free is for sections */
    struct event_node *node;

    while ((node = next_node())) {
        int posted_state = EVENT_POSTED;

        *event = node->event;
        if (event->kind == MEMCG_EVENT_CREATE) { /* memcg_create_done() re-arms */
            if (__atomic_compare_exchange_n(&node->state, &posted_state, EVENT_DELIVERED, false,
                                            __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
                break;
            css_put(event->memcg); /* its root is gone */
            continue;
        }
        if (__atomic_exchange_n(&node->state, EVENT_IDLE, __ATOMIC_ACQ_REL) != EVENT_ORPHANED)
            break;
        metadata_free(event->cache, sizeof(*event->cache)); /* it is an EMPTY */
    }
    if (!node)
        event->kind = MEMCG_EVENT_NONE;
    thread_leave(self);
    return node != NULL;
}
