/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "../page_counter.h"
#include "test.h"

static struct page_counter root, parent, leaves[4];

static void setup(int64_t max)
{
    page_counter_init(&root, NULL);
    page_counter_init(&parent, &root);
    store_plain(&parent.max, max);
    for (int i = 0; i < 4; i++)
        page_counter_init(&leaves[i], &parent);
}

static void a_counter_begins_at_nothing_whatever_was_there(void)
{
    struct page_counter counter;

    memset(&counter, 0x55, sizeof(counter));
    page_counter_init(&counter, &root);
    CHECK(load_plain(&counter.usage) == 0 && load_plain(&counter.watermark) == 0);
    CHECK(load_plain(&counter.max) == PAGE_COUNTER_MAX && counter.parent == &root);
}

static void a_charge_counts_all_the_way_up(void)
{
    setup(PAGE_COUNTER_MAX);
    page_counter_charge(&leaves[0], 100, 0);
    page_counter_charge(&leaves[1], 20, 0);
    CHECK(load_plain(&leaves[0].usage) == 100 && load_plain(&parent.usage) == 120 &&
          load_plain(&root.usage) == 120);
    page_counter_uncharge(&leaves[0], 100);
    CHECK(load_plain(&leaves[0].usage) == 0 && load_plain(&parent.usage) == 20 &&
          load_plain(&root.usage) == 20);
    CHECK(load_plain(&parent.watermark) == 120 && page_counter_underflows() == 0);
}

static void a_refused_charge_changes_no_usage_and_names_the_limit(void)
{
    struct page_counter *fail = NULL;

    setup(100);
    CHECK(page_counter_try_charge(&leaves[0], 100, 0, &fail));
    CHECK(load_plain(&leaves[0].watermark) == 100 && load_plain(&parent.watermark) == 100 &&
          load_plain(&root.watermark) == 100);
    CHECK(!page_counter_try_charge(&leaves[1], 1, 0, &fail));
    CHECK(fail == &parent);
    CHECK(load_plain(&leaves[1].usage) == 0 && load_plain(&parent.usage) == 100 &&
          load_plain(&root.usage) == 100);
}

static void *charge_until_refused(void *leaf)
{
    struct page_counter *fail;
    int64_t got = 0;

    for (int i = 0; i < 20000; i++)
        if (page_counter_try_charge(leaf, 7, 0, &fail))
            got += 7;
    return (void *)(intptr_t)got;
}

static void threads_together_never_pass_a_limit(void)
{
    pthread_t threads[4];
    int64_t sum = 0;

    setup(100000);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, charge_until_refused, &leaves[i]);
    for (int i = 0; i < 4; i++) {
        void *got;

        pthread_join(threads[i], &got);
        sum += (intptr_t)got;
    }
    CHECK(sum <= 100000 && sum > 100000 - 7 * 4);
    CHECK(load_plain(&parent.usage) == sum && load_plain(&root.usage) == sum);
    CHECK(load_plain(&parent.watermark) <= 100000);
}

/* A warning is printed for the first one in a process. */
static void an_underflow_is_counted_and_clamped(void)
{
    FILE *told = tmpfile();
    int before = dup(STDERR_FILENO), lines = 0;

    CHECK(told && before >= 0 && dup2(fileno(told), STDERR_FILENO) >= 0);
    setup(PAGE_COUNTER_MAX);
    for (int i = 1; i <= 3; i++) {
        page_counter_charge(&leaves[0], 5, 0);
        page_counter_uncharge(&leaves[0], 6);
        CHECK(load_plain(&leaves[0].usage) == 0 && load_plain(&root.usage) == 0);
        CHECK(page_counter_underflows() == 3 * (uint64_t)i); /* at each of three levels */
    }
    dup2(before, STDERR_FILENO);
    rewind(told);
    for (int c; (c = getc(told)) != EOF;)
        lines += c == '\n';
    CHECK(lines == 1);
}

static struct page_counter rising;

static void *riser(void *arg)
{
    for (int i = 0; i < 200000; i++) {
        int64_t before = page_counter_read(&rising);

        page_counter_charge(&rising, 1, 0);
        CHECK(load_relaxed(&rising.watermark) > before);
    }
    return arg;
}

/* If a store overtook a higher one, the peak would be lost. */
static void the_watermark_never_falls(void)
{
    for (int round = 0; round < 5; round++) {
        pthread_t t[4];
        int64_t last = 0, seen = 0;

        page_counter_init(&rising, NULL);
        for (int i = 0; i < 4; i++)
            pthread_create(&t[i], NULL, riser, NULL);
        for (; page_counter_read(&rising) < 4 * 200000; last = seen) {
            seen = load_relaxed(&rising.watermark);
            CHECK(seen >= last);
        }
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
        CHECK(load_plain(&rising.watermark) == load_plain(&rising.usage));
    }
}

int main(void)
{
    RUN(a_counter_begins_at_nothing_whatever_was_there);
    RUN(a_charge_counts_all_the_way_up);
    RUN(a_refused_charge_changes_no_usage_and_names_the_limit);
    RUN(threads_together_never_pass_a_limit);
    RUN(the_watermark_never_falls);
    RUN(an_underflow_is_counted_and_clamped); /* last, because it counts a defect on purpose */
    return DONE();
}
