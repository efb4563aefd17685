/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.c - the live blocks of a group, listed.
 *
 * A walk counts the blocks.  Other threads may allocate more before the next walk.  So the list
 * grows, with a quarter to spare, until a walk fits into it.  Its memory is libc's, which no group
 * is charged for.
 *
 * Locks: none of its own; a walk takes the data plane's.
 */
#include "blocks.h"

#include "plain.h"

struct list {
    char *items;
    size_t item_size, n, room;
    blocks_note_fn note;
    void *arg;
};

static int note_block(void *arg, void *start, size_t size, struct kmem_cache *cache)
{
    struct list *list = arg;

    if (list->n < list->room)
        list->note(list->items + list->n * list->item_size, start, size, cache, list->arg);
    list->n++;
    return 0;
}

void *blocks_list(struct mem_cgroup *memcg, size_t item_size, blocks_note_fn note, void *arg,
                  size_t *n)
{
    struct list list = { .item_size = item_size, .note = note, .arg = arg };

    do {
        plain_free(list.items);
        list.room = list.n + list.n / 4 + 1;
        list.items = plain_malloc(list.room * item_size);
        *n = list.n;
        if (!list.items)
            return NULL;
        list.n = 0;
        mem_cgroup_for_each_block(memcg, note_block, &list);
    } while (list.n > list.room);
    *n = list.n;
    return list.items;
}

static void note_live(void *item, void *start, size_t size, struct kmem_cache *cache, void *arg)
{
    (void)arg;
    *(struct live_block *)item = (struct live_block){ start, size, cache };
}

struct live_block *blocks_live(struct mem_cgroup *memcg, size_t *n)
{
    return blocks_list(memcg, sizeof(struct live_block), note_live, NULL, n);
}
