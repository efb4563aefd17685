/*
 * event.c - what the data plane has to tell the worker.
 *
 * Posters push onto a stack; the one consumer takes it whole and reverses it.  A cache
 * whose struct ends while events name it stays until they are dropped.
 *
 * Kernel: llist (lib/llist.c) under schedule_work().
 * Locks: none.  `taken` is the consumer's.
 */
#include "inline.h"

static struct event_node *posted; /* atomic */
static struct event_node *taken;  /* the consumer */
static void (*event_waker)(void);
static int not_woken; /* atomic */

void memcg_set_waker(void (*waker)(void))
{
    __atomic_store_n(&event_waker, waker, __ATOMIC_RELEASE);
}

void memcg_not_woken(void) { __atomic_store_n(&not_woken, 1, __ATOMIC_RELAXED); }

bool event_post(struct event_node *node, enum memcg_event_kind kind, struct mem_cgroup *memcg,
                struct kmem_cache *cache)
{
    void (*waker)(void);
    struct event_node *first;

    if (__atomic_exchange_n(&node->posted, 1, __ATOMIC_ACQ_REL))
        return false;
    if (cache)
        __atomic_add_fetch(&cache->refs, 1, __ATOMIC_RELAXED);
    node->event = (struct memcg_event){ kind, memcg, cache };
    first = __atomic_load_n(&posted, __ATOMIC_RELAXED);
    do {
        node->next = first;
    } while (!__atomic_compare_exchange_n(&posted, &first, node, true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    waker = __atomic_load_n(&event_waker, __ATOMIC_ACQUIRE);
    if (waker && (!first || __atomic_exchange_n(&not_woken, 0, __ATOMIC_RELAXED)))
        waker();
    return true;
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
        bool ended;

        *event = node->event;
        if (event->kind == MEMCG_EVENT_CREATE)
            metadata_free(node, sizeof(*node));
        else /* not a store: what the caller then reads must not pass it; a post that found */
            __atomic_exchange_n(&node->posted, 0, __ATOMIC_ACQ_REL); /* it 1 counts on that */
        if (!event->cache)
            break;
        ended = __atomic_load_n(&event->cache->ended, __ATOMIC_ACQUIRE);
        kmem_cache_put(event->cache);
        if (!ended)
            break;
        css_put(event->memcg); /* CREATE and EMPTY come with one */
    }
    if (!node)
        event->kind = MEMCG_EVENT_NONE;
    thread_leave(self);
    return node != NULL;
}
