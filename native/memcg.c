/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memcg.c - the start, the fit into an address space, and the consumer's end of the events.
 *
 * Kernel: mem_cgroup_init, kmem_cache_init.
 */
#include "memcg.h"

#include "arena.h"
#include "debug.h"
#include "event.h"
#include "kmem_cache.h"
#include "memcontrol.h"
#include "page_alloc.h"
#include "thread.h"

int memcg_init(const struct memcg_config *config)
{
    static int done; /* the caller serialises the first call */
    int error;

    if (done)
        return 0;
    error = arena_init(config ? config->arena_bytes : 0);
    debug_init(config ? config->debug : 0); /* before caches are made */
    if (!error)
        error = page_alloc_init();
    if (!error)
        error = mem_cgroup_init();
    if (!error)
        error = kmem_cache_init();
    if (error)
        return error;
    error = thread_init();
    if (error)
        return error;
    if (config && config->promote_bytes)
        memcg_set_promote_bytes(config->promote_bytes);
    done = 1;
    return 0;
}

void memcg_copy_arena(struct arena *copy)
{
    struct thread *self = thread_enter();

    arena_copy(copy);
    thread_leave(self);
}

/* In a section, so that a fork finds pages_lock free. */
void memcg_fit(size_t space)
{
    struct thread *self = thread_enter();

    pages_fit(space);
    thread_leave(self);
}

bool memcg_next_event(struct memcg_event *event)
{
    struct thread *self = thread_enter(); /* metadata_free() needs a section */
    struct event_node *node;

    while ((node = event_take())) {
        bool ended;

        *event = node->event;
        if (event->kind == MEMCG_EVENT_CREATE)
            metadata_free(node, sizeof(*node));
        else /* an exchange and not a store: what the caller reads next must not pass it. A post
              * that found */
            exchange_acq_rel(&node->posted, 0); /* 1 counts on that */
        if (!event->cache)
            break;
        ended = load_acquire(&event->cache->ended);
        kmem_cache_put(event->cache);
        if (!ended)
            break;
        css_put(event->memcg); /* CREATE and EMPTY hold a css reference */
    }
    if (!node)
        event->kind = MEMCG_EVENT_NONE;
    thread_leave(self);
    return node != NULL;
}
