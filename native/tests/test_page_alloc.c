/* SPDX-License-Identifier: Apache-2.0 */
#include <unistd.h>

#include "../page_alloc.h"

#include <string.h>

#include "test.h"

#define NR_RUNS 200

static uint64_t state = 88172645463325252ull; /* xorshift64: each run is the same */

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Writes tag over the run. Before that each byte must be 0 or have the same tag. */
static void own(unsigned char *p, size_t nr_pages, uint32_t tag, bool zeroed)
{
    for (size_t i = 0; i < nr_pages * PAGE_SIZE; i += 64)
        CHECK(p[i] == 0 || (!zeroed && p[i] == (unsigned char)tag));
    memset(p, (int)tag, nr_pages * PAGE_SIZE);
}

static void churn(uint64_t *random, int rounds)
{
    struct {
        unsigned char *p;
        size_t nr_pages;
        uint32_t tag;
    } runs[NR_RUNS] = { 0 };

    for (int i = 0; i < rounds; i++) {
        int n = (int)(next_random(random) % NR_RUNS);
        bool zeroed = false;

        if (runs[n].p) {
            for (size_t j = 0; j < runs[n].nr_pages; j++) /* no other thread has written to it */
                CHECK(runs[n].p[j * PAGE_SIZE] == (unsigned char)runs[n].tag);
            free_pages(runs[n].p, runs[n].nr_pages);
            runs[n].p = NULL;
            continue;
        }
        runs[n].nr_pages = 1 + next_random(random) % (next_random(random) % 8 ? 20 : 300);
        runs[n].tag = 1 + (uint32_t)(next_random(random) % 5);
        size_t align = (size_t)1 << next_random(random) % 5;
        runs[n].p = alloc_pages(runs[n].nr_pages, align, runs[n].tag, &zeroed);
        CHECK(runs[n].p && (uintptr_t)runs[n].p % (align * PAGE_SIZE) == 0);
        own(runs[n].p, runs[n].nr_pages, runs[n].tag, zeroed);
    }
    for (int n = 0; n < NR_RUNS; n++)
        if (runs[n].p)
            free_pages(runs[n].p, runs[n].nr_pages);
}

static void no_run_overlaps_another_or_shows_another_tags_bytes(void)
{
    churn(&state, 6000);
    CHECK(pages_in_use() == 0);
}

static void *churner(void *seed)
{
    uint64_t random = 1 + (uint64_t)(uintptr_t)seed * 7919;

    churn(&random, 1500);
    return NULL;
}

static void threads_may_take_and_give_back_at_once(void)
{
    pthread_t threads[4];

    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, churner, (void *)i);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK(pages_in_use() == 0);
}

static void what_is_to_grow_lies_where_room_is(void)
{
    bool zeroed = false;
    void *small = alloc_pages(8, 1, 2, &zeroed), *fence = alloc_pages(1, 1, 2, &zeroed);
    void *large = alloc_pages(64, 1, 2, &zeroed), *end = alloc_pages(1, 1, 2, &zeroed), *p, *q;

    free_pages(small, 8);
    free_pages(large, 64);
    p = alloc_pages_to_grow(4, 12, 2, &zeroed);
    q = alloc_pages(4, 1, 2, &zeroed);
    CHECK(p == large && q == small);
    CHECK(extend_pages(p, 4, 60, 2));
    free_pages(p, 64);
    p = alloc_pages_to_grow(4, arena_nr_pages(), 2, &zeroed); /* there is no such place */
    CHECK(p == (char *)small + 4 * PAGE_SIZE);
    free_pages(p, 4);
    free_pages(q, 4);
    free_pages(fence, 1);
    free_pages(end, 1);
}

static void trimmed_pages_read_as_zero_again(void)
{
    bool zeroed = false;
    unsigned char *p = alloc_pages(32, 1, 9, &zeroed);

    memset(p, 9, 32 * PAGE_SIZE);
    free_pages(p, 32);
    CHECK(pages_free_dirty() >= 32);
    CHECK(page_trim(0) > 0 && pages_free_dirty() == 0);
    CHECK(p[0] == 0 && p[31 * PAGE_SIZE] == 0);
    p = alloc_pages(32, 1, 3, &zeroed);
    CHECK(zeroed);
    free_pages(p, 32);
}

/* If the kernel's pages are larger, the bytes up to which it rounds may belong to another run. */
static void trimming_spares_the_neighbours_on_large_system_pages(void)
{
    bool zeroed = false;
    unsigned char *p[40];
    size_t before = system_nr_pages;

    page_trim(0);
    system_nr_pages = 16;
    for (int i = 0; i < 40; i++) {
        p[i] = alloc_pages(3, 1, 5, &zeroed);
        memset(p[i], 5, 3 * PAGE_SIZE);
    }
    for (int i = 0; i < 40; i++)
        if (i % 10)
            free_pages(p[i], 3);
    CHECK(page_trim(0) > 0 && pages_free_dirty() > 0);
    for (int i = 0; i < 40; i += 10) {
        CHECK(p[i][0] == 5 && p[i][3 * PAGE_SIZE - 1] == 5);
        free_pages(p[i], 3);
    }
    system_nr_pages = before;
    page_trim(0);
    CHECK(pages_free_dirty() == 0);
}

static void a_batch_finds_its_pages_again_and_an_end_gives_them_back(void)
{
    bool zeroed = false;
    void *p, *one;

    for (int i = 0; i < 3; i++) {
        zeroed = false;                        /* does not clear what was ours */
        p = alloc_pages(16384, 1, 2, &zeroed); /* 64 MiB */
        CHECK(i == 0 || !zeroed);              /* the pages were not given back in between */
        free_pages(p, 16384);
    }
    CHECK(pages_free_dirty() >= 16384);
    for (int i = 0; i < 3; i++) { /* until the windows in which it was used have passed */
        usleep(600 * 1000);
        one = alloc_pages(1, 1, 2, &zeroed);
        free_pages(one, 1);
    }
    CHECK(pages_free_dirty() <= 8192);
}

/* Arrays that are made one by one and dropped one by one, after a pause: their own peak counts. */
static void a_batch_after_a_rest_finds_its_pages_again(void)
{
    bool zeroed = false;
    void *p[16];

    page_trim(0);
    usleep(1100 * 1000);
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < 16; i++)
            p[i] = alloc_pages(1024, 1, 2, &zeroed); /* 4 MiB */
        for (int i = 0; i < 16; i++)
            free_pages(p[i], 1024);
        CHECK(pages_free_dirty() >= 15 * 1024); /* all but one or two huge pages */
    }
}

static void what_does_not_fit_is_refused_and_changes_nothing(void)
{
    bool zeroed = false;
    size_t before = pages_in_use();

    CHECK(!alloc_pages(0, 1, 1, &zeroed));
    CHECK(!alloc_pages(arena_nr_pages() + 1, 1, 1, &zeroed));
    CHECK(!alloc_pages(SIZE_MAX, 1, 1, &zeroed));
    void *p = alloc_pages(1, 1, 1, &zeroed);
    CHECK(!alloc_pages(arena_nr_pages(), 1, 1, &zeroed));
    CHECK(pages_in_use() == before + 1);
    free_pages(p, 1);
}

/* A run that is taken from the top joins the free span below it, so the whole arena fits again. */
static void the_whole_arena_can_be_one_run(void)
{
    size_t nr_total = arena_nr_pages();
    bool zeroed = false;
    void *p;

    for (int i = 0; i < 3; i++) {
        CHECK((p = alloc_pages(nr_total, 1, 1, &zeroed)) == arena.base);
        CHECK(!alloc_pages(1, 1, 1, &zeroed));
        free_pages(p, nr_total);
    }
}

static void a_run_grows_into_the_free_pages_behind_it(void)
{
    bool zeroed = false;
    char *p = alloc_pages(4, 1, 1, &zeroed), *q = alloc_pages(4, 1, 2, &zeroed);
    size_t before = pages_in_use();

    CHECK(q == p + 4 * PAGE_SIZE && !extend_pages(p, 4, 1, 1));
    memset(q, 'q', 4 * PAGE_SIZE);
    free_pages(q, 4);
    CHECK(extend_pages(p, 4, 2, 1) && pages_in_use() == before - 2);
    CHECK(q[0] == 0 && q[2 * PAGE_SIZE - 1] == 0); /* another tag's bytes were cleared */
    CHECK(alloc_pages(2, 1, 2, &zeroed) == q + 2 * PAGE_SIZE);
    free_pages(q + 2 * PAGE_SIZE, 2);
    CHECK(extend_pages(p, 6, arena_nr_pages() - 6 - ((size_t)(p - arena.base) >> PAGE_SHIFT), 1));
    CHECK(!extend_pages(p, arena_nr_pages(), 1, 1));
    free_pages(p, (size_t)(arena.base + arena_bytes() - p) >> PAGE_SHIFT);
    CHECK(pages_in_use() == before - 8);
}

static void a_foreign_pointer_is_not_ours(void)
{
    int on_stack;

    CHECK(!arena_contains(&on_stack) && !virt_to_slab(&on_stack) && !arena_contains(NULL));
    CHECK(arena_contains(arena.base) && !arena_contains(arena.base + arena_bytes()));
}

static void metadata_is_zeroed_and_its_bytes_add_up(void)
{
    size_t before = metadata_bytes_in_use();

    for (size_t size = 1; size <= 200000; size = size * 3 + 1) {
        unsigned char *p = metadata_alloc(size);

        for (size_t i = 0; i < size; i++)
            CHECK(p[i] == 0);
        memset(p, 0xff, size);
        metadata_free(p, size);
    }
    CHECK(metadata_bytes_in_use() == before);
}

int main(void)
{
    CHECK(arena_init((size_t)1 << 30) == 0 && page_alloc_init() == 0);
    RUN(no_run_overlaps_another_or_shows_another_tags_bytes);
    RUN(threads_may_take_and_give_back_at_once);
    RUN(what_is_to_grow_lies_where_room_is);
    RUN(trimmed_pages_read_as_zero_again);
    RUN(trimming_spares_the_neighbours_on_large_system_pages);
    RUN(a_batch_finds_its_pages_again_and_an_end_gives_them_back);
    RUN(a_batch_after_a_rest_finds_its_pages_again);
    RUN(what_does_not_fit_is_refused_and_changes_nothing);
    RUN(the_whole_arena_can_be_one_run);
    RUN(a_run_grows_into_the_free_pages_behind_it);
    RUN(a_foreign_pointer_is_not_ours);
    RUN(metadata_is_zeroed_and_its_bytes_add_up);
    return DONE();
}
