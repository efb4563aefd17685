/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_counter.c - charges, checks and undoes, up the tree.
 *
 * A limit is exact because a thread adds first and checks after.  If several threads add at once,
 * the one whose addition passes the limit sees that.  Kernel: mm/page_counter.c.
 */
#include "page_counter.h"

static atomic_u64_t underflows;

void page_counter_init(struct page_counter *counter, struct page_counter *parent)
{
    store_plain(&counter->usage, 0);
    store_plain(&counter->watermark, 0);
    store_plain(&counter->max, PAGE_COUNTER_MAX);
    counter->parent = parent;
}

/* True if it was raised. */
static bool update_watermark(struct page_counter *counter, int64_t usage)
{
    int64_t highest = load_relaxed(&counter->watermark);

    while (usage > highest)
        if (cas_weak_relaxed(&counter->watermark, &highest, usage))
            return true;
    return false;
}

void page_counter_charge(struct page_counter *counter, int64_t bytes, int64_t idle)
{
    for (; counter; counter = counter->parent)
        update_watermark(counter, add_relaxed(&counter->usage, bytes) - idle);
}

bool page_counter_mark(struct page_counter *counter, int64_t idle)
{
    bool raised = false;

    for (; counter; counter = counter->parent) {
        /* usage may include another thread's addition that is about to be undone */
        int64_t usage = page_counter_read(counter), max = load_relaxed(&counter->max);

        raised |= update_watermark(counter, (usage < max ? usage : max) - idle);
    }
    return raised;
}

bool page_counter_try_charge(struct page_counter *counter, int64_t bytes, int64_t idle,
                             struct page_counter **fail)
{
    struct page_counter *c, *undo;

    for (c = counter; c; c = c->parent) {
        int64_t usage = add_relaxed(&c->usage, bytes);

        if (usage > load_relaxed(&c->max)) {
            for (undo = counter; undo != c->parent; undo = undo->parent)
                sub_relaxed(&undo->usage, bytes);
            *fail = c;
            return false;
        }
    }
    page_counter_mark(counter, idle);
    return true;
}

void page_counter_uncharge(struct page_counter *counter, int64_t bytes)
{
    for (; counter; counter = counter->parent) {
        int64_t usage = sub_relaxed(&counter->usage, bytes);

        if (unlikely(usage < 0)) { /* more was given back than taken: it warns once, and clamps */
            if (add_relaxed(&underflows, 1) == 1)
                fprintf(stderr, "memcg: accounting underflow by %lld bytes\n", (long long)-usage);
            add_relaxed(&counter->usage, -usage);
        }
    }
}

uint64_t page_counter_underflows(void) { return load_relaxed(&underflows); }
