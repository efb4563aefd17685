/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_counter.h - bytes charged to a group and everything below it.
 *
 *   usage == own charges + usage of every child
 *
 * There is no lock.  Kernel: mm/page_counter.c.
 */
#ifndef MEMCG_PAGE_COUNTER_H
#define MEMCG_PAGE_COUNTER_H

#include "base.h"

struct page_counter {
    atomic_s64_t usage;     /* bytes */
    atomic_s64_t watermark; /* bytes, the highest usage seen; racy: may miss a short peak */
    atomic_s64_t max;       /* bytes; PAGE_COUNTER_MAX: no limit */
    struct page_counter *parent;
};

void page_counter_init(struct page_counter *counter, struct page_counter *parent);
/* In the functions below, `idle` is what the caller has charged and does not use.  The watermark
 * leaves it out. */
void page_counter_charge(struct page_counter *counter, int64_t bytes, int64_t idle); /* by force */
/* Charges all the way up or not at all. *fail is the counter whose max was met.  Concurrent callers
 * never pass a max together, but each may fail because of the other's charge, which is about to be
 * undone. */
bool page_counter_try_charge(struct page_counter *counter, int64_t bytes, int64_t idle,
                             struct page_counter **fail);
/* To be called when bytes that were idle are used.  True if a watermark was raised. */
bool page_counter_mark(struct page_counter *counter, int64_t idle);
void page_counter_uncharge(struct page_counter *counter, int64_t bytes);
uint64_t page_counter_underflows(void); /* a defect if it is not 0 */

static inline int64_t page_counter_read(const struct page_counter *counter)
{
    return load_relaxed(&counter->usage);
}

#endif
