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

    if (__atomic_exchange_n(&node->queued, 1, __ATOMIC_ACQ_REL))
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

/* The cache the node lies in ends while its EMPTY may be queued. */
bool event_orphan(struct event_node *node)
{
    return __atomic_exchange_n(&node->queued, 2, __ATOMIC_ACQ_REL) == 1;
}

static struct event_node *next_node(void)
{
    struct event_node *node;

    if (!taken) {
        node = __atomic_exchange_n(&posted, NULL, __ATOMIC_ACQUIRE);
        while (node) {
            struct event_node *next = node->next;

            node->next = taken;
            taken = node;
            node = next;
        }
    }
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
        *event = node->event;
        if (event->kind == MEMCG_EVENT_CREATE) /* memcg_create_done() re-arms */
            break;
        if (__atomic_exchange_n(&node->queued, 0, __ATOMIC_ACQ_REL) != 2)
            break;
        metadata_free(event->cache, sizeof(*event->cache));
    }
    if (!node)
        event->kind = MEMCG_EVENT_NONE;
    thread_leave(self);
    return node != NULL;
}
