/*
 * page_counter.c - charge, check, undo, up the tree.
 *
 * Adding first and checking after is what makes a limit exact: of several threads
 * the one whose addition passed the limit sees it.  Kernel: mm/page_counter.c.
 */
#include "page_counter.h"

static uint64_t underflows;

void page_counter_init(struct page_counter *counter, struct page_counter *parent)
{
    counter->usage = 0;
    counter->watermark = 0;
    counter->max = PAGE_COUNTER_MAX;
    counter->parent = parent;
}

static void update_watermark(struct page_counter *counter, int64_t usage)
{
    int64_t highest = __atomic_load_n(&counter->watermark, __ATOMIC_RELAXED);

    while (usage > highest &&
           !__atomic_compare_exchange_n(&counter->watermark, &highest, usage, true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void page_counter_charge(struct page_counter *counter, int64_t bytes)
{
    for (; counter; counter = counter->parent)
        update_watermark(counter,
                         __atomic_add_fetch(&counter->usage, bytes, __ATOMIC_RELAXED));
}

bool page_counter_try_charge(struct page_counter *counter, int64_t bytes,
                             struct page_counter **fail)
{
    struct page_counter *c, *undo;

    for (c = counter; c; c = c->parent) {
        int64_t usage = __atomic_add_fetch(&c->usage, bytes, __ATOMIC_RELAXED);

        if (usage > __atomic_load_n(&c->max, __ATOMIC_RELAXED)) {
            for (undo = counter; undo != c->parent; undo = undo->parent)
                __atomic_sub_fetch(&undo->usage, bytes, __ATOMIC_RELAXED);
            *fail = c;
            return false;
        }
    }
    for (c = counter; c; c = c->parent) {
        /* Usage may hold another thread's addition that is about to be undone. */
        int64_t usage = page_counter_read(c), max = __atomic_load_n(&c->max, __ATOMIC_RELAXED);

        update_watermark(c, usage < max ? usage : max);
    }
    return true;
}

void page_counter_uncharge(struct page_counter *counter, int64_t bytes)
{
    for (; counter; counter = counter->parent) {
        int64_t usage = __atomic_sub_fetch(&counter->usage, bytes, __ATOMIC_RELAXED);

        if (unlikely(usage < 0)) { /* more was given back than taken: warn once, clamp, go on */
            if (!__atomic_fetch_add(&underflows, 1, __ATOMIC_RELAXED))
                fprintf(stderr, "memcg: accounting underflow by %lld bytes\n", (long long)-usage);
            __atomic_add_fetch(&counter->usage, -usage, __ATOMIC_RELAXED);
        }
    }
}

uint64_t page_counter_underflows(void)
{
    return __atomic_load_n(&underflows, __ATOMIC_RELAXED);
}
