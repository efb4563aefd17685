/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_alloc.c - best fit over free spans, with all that is known of a page in tables beside it.
 *
 * A free span is a maximal run of free pages. span_len[] holds its length at its first and at its
 * last page, so that neighbours merge without a search.  Its first page links it into a bin.  There
 * is a bin for each length up to 64 pages, then one per power of two.
 *
 *   span_len[first] == span_len[last] == length; 0 in the middle and for pages in use
 *   no two free spans touch
 *   nr_dirty == number of pages in free spans with page_tag != 0
 *
 * A page keeps the tag of its last owner.  If a run is handed to another tag, its foreign pages are
 * cleared first, outside the lock: by memset, or by MADV_DONTNEED if there are many in a row.  Free
 * pages beyond the peak of the last second go back to the system and then read as zero.  So a batch
 * that frees its pages and soon needs as many finds them again.
 *
 * pages_lock protects all tables, bins and counters of this file.
 */
#include "page_alloc.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"

#define NR_EXACT 64
#define NR_BINS (NR_EXACT + 40)
#define NONE UINT32_MAX
#define SAME_TAG_TRIES 8 /* spans that are tried for one of the same tag */
/* 4 MiB, from where NumPy too advises huge pages.  Below it, a fault for each page costs 20 times
 * the memset. */
#define HUGE_PAGES ((size_t)1024)
#define TRIM_UNIT ((size_t)512)                    /* 2 MiB, a huge page on x86-64 and aarch64 */
#define DIRTY_MIN ((size_t)32 << 20 >> PAGE_SHIFT) /* pages that are kept even if none are in use */
#define WINDOW_MS 500

static struct mutex pages_lock = MUTEX_INITIALIZER;
static uint32_t *span_len, *span_next, *span_prev;
static uint32_t bins[NR_BINS];
static size_t nr_used, nr_dirty;
static size_t peak_now,
    peak_before;              /* highest nr_used in this window of time, and in the one before */
static uint64_t window_start; /* ms of the coarse monotonic clock */
static bool trim_due;         /* the window's first trim is still to do */
static size_t top;            /* pages that were handed out at least once, from the base up */
size_t system_nr_pages = 1;   /* our pages in one of the kernel's (16 of 64 KiB); fixed by init */

int page_alloc_init(void)
{
    size_t bytes = arena_nr_pages() * sizeof(uint32_t);
    uint32_t **tables[] = { &span_len, &span_next, &span_prev };
    int i;

    for (i = 0; i < 3; i++) {
        void *p = MAP_FAILED;

        if (!should_fail(FAULT_MMAP, NULL, NULL, bytes))
            p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            return -ENOMEM;
        *tables[i] = p;
    }
    for (i = 0; i < NR_BINS; i++)
        bins[i] = NONE;
    system_nr_pages = (size_t)sysconf(_SC_PAGESIZE) >> PAGE_SHIFT;
    return 0;
}

static int advise(void *p, size_t bytes, int advice)
{
    return should_fail(FAULT_MADVISE, NULL, NULL, bytes) ? -1 : madvise(p, bytes, advice);
}

static int bin_of(size_t nr_pages)
{
    if (nr_pages <= NR_EXACT)
        return (int)nr_pages - 1;
    return NR_EXACT - 7 + (63 - __builtin_clzll(nr_pages)) + 1;
}

static void __span_add(size_t first, size_t len)
{
    int bin = bin_of(len);

    assert_locked(&pages_lock);
    span_len[first] = span_len[first + len - 1] = (uint32_t)len;
    span_prev[first] = NONE;
    span_next[first] = bins[bin];
    if (bins[bin] != NONE)
        span_prev[bins[bin]] = (uint32_t)first;
    bins[bin] = (uint32_t)first;
}

static void __span_del(size_t first)
{
    size_t len = span_len[first];

    assert_locked(&pages_lock);
    if (span_prev[first] != NONE)
        span_next[span_prev[first]] = span_next[first];
    else
        bins[bin_of(len)] = span_next[first];
    if (span_next[first] != NONE)
        span_prev[span_next[first]] = span_prev[first];
    span_len[first] = span_len[first + len - 1] = 0;
}

/* A span of at least nr_pages from the tightest bin that has one, by preference of the same tag. */
static size_t __span_find(size_t nr_pages, uint32_t tag)
{
    int bin;

    assert_locked(&pages_lock);
    for (bin = bin_of(nr_pages); bin < NR_BINS; bin++) {
        uint32_t span, fits = NONE;
        int tries = 0;

        for (span = bins[bin]; span != NONE; span = span_next[span]) {
            if (span_len[span] < nr_pages)
                continue;
            if (fits == NONE)
                fits = span;
            if (arena.page_tag[span] == tag || ++tries == SAME_TAG_TRIES) {
                if (arena.page_tag[span] == tag)
                    fits = span;
                break;
            }
        }
        if (fits != NONE)
            return fits;
    }
    return NONE;
}

/* True if the pages have one tag, as those of a large block that was used before mostly do. */
static bool is_uniform(size_t first, size_t nr_pages)
{
    const uint32_t *tags = &arena.page_tag[first];

    /* each tag equals its neighbour's */
    return !memcmp(tags, tags + 1, (nr_pages - 1) * sizeof(*tags));
}

static size_t count_dirty(size_t first, size_t nr_pages)
{
    size_t i, n = 0;

    if (nr_pages && is_uniform(first, nr_pages))
        return arena.page_tag[first] ? nr_pages : 0;
    for (i = first; i < first + nr_pages; i++)
        n += arena.page_tag[i] != 0;
    return n;
}

/* Called before more pages are used and after pages are freed.  After a second without either,
 * there is no peak to keep pages for: a batch builds up its own. */
static void __roll_window(void)
{
    struct timespec time;
    uint64_t now, elapsed;

    assert_locked(&pages_lock);
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    now = (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
    elapsed = now - window_start;
    if (elapsed < WINDOW_MS)
        return;
    peak_before = elapsed < 2 * WINDOW_MS ? peak_now : nr_used;
    peak_now = nr_used;
    window_start = now;
    trim_due = true;
}

static void __use(size_t nr_pages)
{
    __roll_window();
    nr_used += nr_pages;
    if (nr_used > peak_now)
        peak_now = nr_used;
}

/* Takes nr_pages aligned to align_pages, with pages_lock held.  NONE: no memory. *resident: all of
 * them hold old bytes, so they are in memory. */
static size_t __take(size_t nr_pages, size_t align_pages, size_t room, uint32_t tag, bool *resident)
{
    size_t dirty;
    size_t wanted = nr_pages + align_pages - 1;
    size_t base_page = (uintptr_t)arena.base >> PAGE_SHIFT; /* the addresses are aligned, not the
                                                             * page numbers */
    size_t first = room ? __span_find(wanted + room, tag) : NONE, len, start;

    assert_locked(&pages_lock);
    if (first == NONE)
        first = __span_find(wanted, tag);
    if (first == NONE) { /* from the top, with the free span that ends there */
        first = top - (top ? span_len[top - 1] : 0);
        if (wanted > arena_nr_pages() - first || arena_commit(first + wanted))
            return NONE;
        if (first < top)
            __span_del(first);
        len = wanted;
        top = first + wanted;
    } else {
        len = span_len[first];
        __span_del(first);
    }
    start = ALIGN_UP(first + base_page, align_pages) - base_page;
    if (start > first)
        __span_add(first, start - first);
    if (first + len > start + nr_pages)
        __span_add(start + nr_pages, first + len - start - nr_pages);
    __use(nr_pages);
    dirty = count_dirty(start, nr_pages);
    nr_dirty -= dirty;
    *resident = dirty == nr_pages;
    return start;
}

/* Clears what another tag left, and with `zero` also what ours left.  True if all pages read as
 * zero.  Needs no lock, because the run is the caller's. */
static bool clear_foreign(size_t start, size_t nr_pages, uint32_t tag, bool zero)
{
    uint32_t keep = zero ? 0 : tag;
    bool zeroed = true;
    size_t i = start, end = start + nr_pages;

    if (arena.page_tag[start] && arena.page_tag[start] == keep && is_uniform(start, nr_pages))
        return false;
    while (i < end) {
        size_t from = i;

        if (arena.page_tag[i] == 0 || arena.page_tag[i] == keep) {
            zeroed &= arena.page_tag[i] == 0;
            arena.page_tag[i++] = tag;
            continue;
        }
        while (i < end && arena.page_tag[i] != 0 && arena.page_tag[i] != keep)
            arena.page_tag[i++] = tag;
        if (i - from < HUGE_PAGES || system_nr_pages > 1 ||
            advise(arena.base + (from << PAGE_SHIFT), (i - from) << PAGE_SHIFT, MADV_DONTNEED))
            memset(arena.base + (from << PAGE_SHIFT), 0, (i - from) << PAGE_SHIFT);
    }
    return zeroed;
}

static void *__alloc_pages(size_t nr_pages, size_t align_pages, size_t room, uint32_t tag,
                           bool *zeroed)
{
    size_t start, nr_total = arena_nr_pages();
    bool resident;
    char *p;

    assert_any_section();
    if (nr_pages == 0 || nr_pages > nr_total || align_pages > nr_total ||
        should_fail(FAULT_PAGES, NULL, NULL, nr_pages << PAGE_SHIFT))
        return NULL;
    mutex_lock(&pages_lock);
    start = __take(nr_pages, align_pages, room, tag, &resident);
    mutex_unlock(&pages_lock);
    if (start == NONE)
        return NULL;
    p = arena.base + (start << PAGE_SHIFT);
    *zeroed = clear_foreign(start, nr_pages, tag, *zeroed);
    /* it is advice, so a refusal costs nothing */
    if (nr_pages >= HUGE_PAGES && !resident)
        advise(p, nr_pages << PAGE_SHIFT, MADV_HUGEPAGE);
    return p;
}

void *alloc_pages(size_t nr_pages, size_t align_pages, uint32_t tag, bool *zeroed)
{
    return __alloc_pages(nr_pages, align_pages, 0, tag, zeroed);
}

void *alloc_pages_to_grow(size_t nr_pages, size_t room, uint32_t tag, bool *zeroed)
{
    return __alloc_pages(nr_pages, 1, room, tag, zeroed);
}

bool extend_pages(void *p, size_t nr_pages, size_t more, uint32_t tag)
{
    size_t end = arena_page(p) + nr_pages, len;

    if (should_fail(FAULT_PAGES, NULL, NULL, more << PAGE_SHIFT))
        return false;
    mutex_lock(&pages_lock);
    len = end < top ? span_len[end] : 0; /* the page before is in use, so a span starts here or
                                          * there is none */
    if (len < more &&
        (end + len != top || more > arena_nr_pages() - end || arena_commit(end + more))) {
        mutex_unlock(&pages_lock);
        return false;
    }
    if (len)
        __span_del(end);
    if (len > more)
        __span_add(end + more, len - more);
    else
        top = end + more > top ? end + more : top;
    __use(more);
    nr_dirty -= count_dirty(end, more);
    mutex_unlock(&pages_lock);
    clear_foreign(end, more, tag, false);
    if (nr_pages + more >= HUGE_PAGES)
        advise(p, (nr_pages + more) << PAGE_SHIFT, MADV_HUGEPAGE);
    return true;
}

/* Gives back whole units of pages only, aligned by address, and no more of a span than is
 * needed. */
static void __trim_by(size_t unit, size_t keep)
{
    size_t base_page = (uintptr_t)arena.base >> PAGE_SHIFT;
    int bin;

    assert_locked(&pages_lock);
    for (bin = NR_BINS - 1; bin >= 0 && nr_dirty > keep; bin--) {
        uint32_t span;

        for (span = bins[bin]; span != NONE && nr_dirty > keep; span = span_next[span]) {
            size_t first = ALIGN_UP(base_page + span, unit);
            size_t end = (base_page + span + span_len[span]) / unit * unit;
            size_t from, dirty = 0;

            if (end <= first)
                continue;
            first -= base_page;
            end -= base_page;
            for (from = end; from > first && dirty < nr_dirty - keep; from--)
                dirty += arena.page_tag[from - 1] != 0;
            from = (base_page + from) / unit * unit - base_page;
            dirty = count_dirty(from, end - from);
            if (!dirty || advise(arena.base + (from << PAGE_SHIFT), (end - from) << PAGE_SHIFT,
                                 MADV_DONTNEED))
                continue;
            memset(&arena.page_tag[from], 0, (end - from) * sizeof(arena.page_tag[0]));
            nr_dirty -= dirty;
        }
    }
}

/* The kernel rounds what it is given up to its own pages.  If a huge page is given back in part,
 * its rest faults in as small pages, so parts are given back last. */
static size_t __trim(size_t keep)
{
    size_t before = nr_dirty;

    __trim_by(TRIM_UNIT, keep);
    __trim_by(system_nr_pages, keep);
    return before - nr_dirty;
}

/* Gives back the pages that were not in use at the peak of this window or the one before.  Once a
 * window. */
static void __decay(void)
{
    size_t peak = peak_before > peak_now ? peak_before : peak_now;
    size_t cap = peak - nr_used > DIRTY_MIN ? peak - nr_used : DIRTY_MIN;

    assert_locked(&pages_lock);
    trim_due = false;
    if (nr_dirty > cap)
        __trim(cap);
}

void free_pages(void *p, size_t nr_pages)
{
    size_t first = arena_page(p), len = nr_pages;

    assert_any_section();
    MEMCG_ASSERT(arena_contains(p) && nr_pages > 0);
    mutex_lock(&pages_lock);
    MEMCG_ASSERT(span_len[first] == 0 && nr_used >= nr_pages);
    nr_used -= nr_pages;
    __roll_window();
    nr_dirty += nr_pages;
    if (first + len < top && span_len[first + len]) {
        size_t next = first + len;

        len += span_len[next];
        __span_del(next);
    }
    if (first > 0 && span_len[first - 1]) {
        size_t before = first - span_len[first - 1];

        len += first - before;
        first = before;
        __span_del(before);
    }
    __span_add(first, len);
    if (trim_due && nr_dirty > DIRTY_MIN)
        __decay();
    mutex_unlock(&pages_lock);
}

void pages_fit(size_t space)
{
    mutex_lock(&pages_lock);
    arena_fit(space);
    mutex_unlock(&pages_lock);
}

size_t page_trim(size_t keep_bytes)
{
    size_t n;

    mutex_lock(&pages_lock);
    n = __trim(keep_bytes >> PAGE_SHIFT);
    mutex_unlock(&pages_lock);
    return n << PAGE_SHIFT;
}

size_t pages_in_use(void)
{
    size_t n;

    mutex_lock(&pages_lock);
    n = nr_used;
    mutex_unlock(&pages_lock);
    return n;
}

size_t pages_free_dirty(void)
{
    size_t n;

    mutex_lock(&pages_lock);
    n = nr_dirty;
    mutex_unlock(&pages_lock);
    return n;
}

/* The first page behind the free span that begins at i; 0: the tables contradict each other. */
static size_t __span_end(size_t i, size_t *nr_spans)
{
    size_t len = span_len[i];

    if (i + len > top || span_len[i + len - 1] != len || (i + len < top && span_len[i + len]))
        return 0;
    for (size_t k = i + 1; k + 1 < i + len; k++)
        if (span_len[k])
            return 0;
    ++*nr_spans;
    return i + len;
}

static bool __pages_are_valid(void)
{
    size_t nr_spans = 0, nr_binned = 0, dirty = 0, used = 0;

    for (size_t i = 0; i < top;) {
        size_t end = span_len[i] ? __span_end(i, &nr_spans) : i + 1;

        if (!end)
            return false;
        if (span_len[i])
            dirty += count_dirty(i, end - i);
        else
            used++;
        i = end;
    }
    for (int bin = 0; bin < NR_BINS; bin++)
        for (uint32_t span = bins[bin]; span != NONE; span = span_next[span])
            if (bin_of(span_len[span]) != bin || ++nr_binned > nr_spans)
                return false;
    return nr_binned == nr_spans && dirty == nr_dirty && used == nr_used &&
           top <= arena.nr_committed;
}

bool pages_are_valid(void)
{
    bool valid;

    assert_any_section();
    mutex_lock(&pages_lock);
    valid = __pages_are_valid();
    mutex_unlock(&pages_lock);
    return valid;
}
