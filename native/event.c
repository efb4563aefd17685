/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.c - the events that the data plane posts for the worker.
 *
 * Posters push onto a stack; the one consumer takes it whole and reverses it.  If a cache ends
 * while events name it, its struct is kept until they are dropped (memcg.c).
 *
 * Kernel: llist (lib/llist.c) under schedule_work().
 * Locks: none. `taken` is the consumer's.
 */
#include "event.h"

typedef void (*waker_fn)(void);
static ATOMIC(struct event_node *) posted;
static struct event_node *taken; /* the consumer's, oldest first */
static ATOMIC(waker_fn) event_waker;
static atomic_int_t not_woken;

void memcg_set_waker(void (*waker)(void)) { store_release(&event_waker, waker); }

void memcg_not_woken(void) { store_relaxed(&not_woken, 1); }

bool event_post(struct event_node *node, enum memcg_event_kind kind, struct mem_cgroup *memcg,
                struct kmem_cache *cache)
{
    waker_fn waker;
    struct event_node *first;

    if (exchange_acq_rel(&node->posted, 1))
        return false;
    if (cache)
        add_relaxed(&cache->refs, 1);
    node->event = (struct memcg_event){ kind, memcg, cache };
    first = load_relaxed(&posted);
    do {
        node->next = first;
    } while (!cas_weak_release(&posted, &first, node));
    waker = load_acquire(&event_waker);
    if (waker && (!first || exchange_relaxed(&not_woken, 0))) {
        struct thread *self = section_go_out();

        waker();
        section_come_back(self);
    }
    return true;
}

/* Takes what was posted, oldest first. */
static struct event_node *take_posted(void)
{
    struct event_node *node = exchange_acquire(&posted, NULL), *list = NULL;

    while (node) {
        struct event_node *next = node->next;

        node->next = list;
        list = node;
        node = next;
    }
    return list;
}

/* The worker that was woken exists in the parent only.  So `posted` is emptied, and the next post
 * wakes ours. */
void event_fork_child(void)
{
    struct event_node **last = &taken;

    while (*last)
        last = &(*last)->next;
    *last = take_posted();
}

struct event_node *event_take(void)
{
    struct event_node *node;

    if (!taken)
        taken = take_posted();
    node = taken;
    if (node)
        taken = node->next;
    return node;
}
