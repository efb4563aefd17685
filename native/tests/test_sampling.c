/* SPDX-License-Identifier: Apache-2.0 */
/* test_sampling.c - samples of what lives: their estimate is right, and they end with their blocks. */
#include <math.h>

#include "../sample.h"
#include "../sampling.h"
#include "control.h"

#define EVERY 8192
#define SEED 20261130

static struct mem_cgroup *g;
static __thread uint32_t site; /* stands for the calling thread's stack */

static uint32_t sampler(const void *caller)
{
    (void)caller;
    return site;
}

#define ROOM 65536
static struct memcg_sample samples[ROOM];

/* Bytes that the samples of the site below top stand for. *variance: of that estimate. */
static double estimate(struct mem_cgroup *top, uint32_t of, double *variance)
{
    uint64_t missed;
    size_t nr = mem_cgroup_samples(top, samples, ROOM, &missed);
    double sum = 0, spread = 0;

    CHECK(nr <= ROOM && missed == 0);
    for (size_t i = 0; i < nr; i++) {
        const struct memcg_sample *s = &samples[i];
        double p = 1 - exp(-(double)s->reach / (double)s->every);

        css_put(s->memcg);
        if (s->stack != of)
            continue;
        sum += (double)s->bytes / p;
        spread += (double)s->bytes * (double)s->bytes * (1 - p) / (p * p);
    }
    if (variance)
        *variance = spread;
    return sum;
}

/* Five standard deviations: one in 1.7 million estimates lies farther off, and the seed is fixed. */
static void check_estimate(uint32_t of, double truth)
{
    double variance, found = estimate(g, of, &variance);

    if (fabs(found - truth) > 5 * sqrt(variance) + EVERY)
        printf("site %u: %.0f of %.0f, deviation %.0f\n", of, found, truth, sqrt(variance));
    CHECK(fabs(found - truth) <= 5 * sqrt(variance) + EVERY);
}

static void begin(void)
{
    g = group_new(mem_cgroup_root());
    memcg_set_sampler(sampler, SEED);
    mem_cgroup_set_sampling(g, EVERY);
    memcg_set_current(g);
}

static void end(void)
{
    CHECK(estimate(mem_cgroup_root(), 1, NULL) == 0 && estimate(mem_cgroup_root(), 2, NULL) == 0);
    CHECK(!memcg_find_invalid());
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

static void *allocate(size_t bytes, uint32_t at)
{
    void *p;

    site = at;
    p = memcg_malloc_fast(bytes);
    CHECK(p);
    memset(p, 1, bytes);
    return p;
}

#define NR 40000
static void *blocks[NR];

static void *free_all(void *unused)
{
    (void)unused;
    for (int i = 0; i < NR; i++)
        memcg_free_fast(blocks[i]);
    return NULL;
}

static size_t class_size(size_t bytes) { return kmalloc_size((int)kmalloc_index(bytes)); }

static void the_estimate_is_near_the_truth(void)
{
    double truth = 0;

    begin();
    for (int i = 0; i < NR; i++) {
        size_t bytes = 16 + (size_t)(i % 13) * 40;

        blocks[i] = allocate(bytes, 1 + i % 2);
        truth += i % 2 ? 0 : (double)class_size(bytes);
        if (i % 1000 == 0)
            work();
    }
    check_estimate(1, truth);
    for (int i = 0; i < NR; i += 2)
        memcg_free_fast(blocks[i]);
    CHECK(estimate(g, 1, NULL) == 0);
    for (int i = 1; i < NR; i += 2)
        memcg_free_fast(blocks[i]);
    end();
}

/* Each new block takes the place of an old one, so it comes from what has just been freed.  All of
 * it would go past the samples if a freed object were at hand for the fast path. */
static void what_replaces_old_blocks_one_by_one_is_sampled(void)
{
    double truth = (double)NR * (double)class_size(64);

    begin();
    for (int i = 0; i < NR; i++) {
        blocks[i] = allocate(64, 1);
        if (i % 1000 == 0)
            work();
    }
    check_estimate(1, truth);
    for (int i = 0; i < NR; i++) {
        memcg_free_fast(blocks[i]);
        blocks[i] = allocate(64, 2);
    }
    CHECK(estimate(g, 1, NULL) == 0);
    check_estimate(2, truth);
    free_all(NULL);
    end();
}

/* A reader flushes the sheaves: what is flushed was counted and was not allocated. */
static void flushed_sheaves_are_counted_back(void)
{
    double truth = (double)NR * (double)class_size(64);

    begin();
    for (int i = 0; i < NR; i++) {
        blocks[i] = allocate(64, 1);
        if (i % 7 == 0)
            mem_cgroup_collect(g);
        if (i % 1000 == 0)
            work();
    }
    check_estimate(1, truth);
    free_all(NULL);
    end();
}

/* Two classes in turn, and many samples. */
static void classes_do_not_take_each_others_samples(void)
{
    begin();
    mem_cgroup_set_sampling(g, 512);
    for (int i = 0; i < NR; i++) {
        blocks[i] = allocate(i % 2 ? 32 : 480, 1 + i % 2);
        if (i % 1000 == 0)
            work();
    }
    check_estimate(1, (double)NR / 2 * (double)class_size(480));
    check_estimate(2, (double)NR / 2 * (double)class_size(32));
    free_all(NULL);
    end();
}

static void a_heap_that_has_slabs_already_is_sampled(void)
{
    begin();
    mem_cgroup_set_sampling(g, 0);
    for (int i = 0; i < NR; i++) {
        blocks[i] = allocate(64, 1);
        if (i % 1000 == 0)
            work();
    }
    mem_cgroup_set_sampling(g, EVERY);
    for (int i = 0; i < NR; i++) {
        memcg_free_fast(blocks[i]);
        blocks[i] = allocate(64, 2);
    }
    check_estimate(2, (double)NR * (double)class_size(64));
    free_all(NULL);
    end();
}

static void large_blocks_stand_for_themselves(void)
{
    char *p;

    begin();
    p = allocate(64 * EVERY, 1); /* sampled but for one in e^64 */
    CHECK(fabs(estimate(g, 1, NULL) - 64 * EVERY) < 1);
    p = memcg_realloc(p, 128 * EVERY);
    CHECK(fabs(estimate(g, 1, NULL) - 128 * EVERY) < 1);
    p = memcg_realloc(p, 65 * EVERY);
    CHECK(fabs(estimate(g, 1, NULL) - 65 * EVERY) < 1);
    CHECK(memcg_usable_size(p) == (size_t)65 * EVERY);
    memcg_free(p);
    end();
}

/* Each is grown in place, page by page, from 36 KiB to 76 KiB. */
static void blocks_that_grow_in_place_are_sampled_by_all_their_bytes(void)
{
    enum { BLOCKS = 400 };

    begin();
    mem_cgroup_set_sampling(g, 65536);
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = allocate(36 << 10, 1);
        for (size_t kib = 40; kib <= 76; kib += 4)
            blocks[i] = memcg_realloc(blocks[i], kib << 10);
    }
    check_estimate(1, BLOCKS * (double)(76 << 10));
    for (int i = 0; i < BLOCKS; i++)
        memcg_free(blocks[i]);
    end();
}

static void small_sampled_blocks_are_resized_like_others(void)
{
    begin();
    mem_cgroup_set_sampling(g, 1); /* every block */
    for (size_t bytes = 16; bytes < 100000; bytes += bytes / 2) {
        char *p = allocate(bytes, 1);

        CHECK(estimate(g, 1, NULL) > 0);
        CHECK(memcg_usable_size(p) == class_size(bytes) || bytes > KMALLOC_MAX_CACHE_SIZE);
        p = memcg_realloc(p, 3 * bytes);
        CHECK(p && p[bytes - 1] == 1);
        p = memcg_realloc(p, bytes / 3 + 1);
        CHECK(p && p[bytes / 3] == 1);
        memcg_free_fast(p);
        CHECK(estimate(g, 1, NULL) == 0);
    }
    end();
}

static void another_thread_frees_samples(void)
{
    pthread_t thread;

    begin();
    for (int i = 0; i < NR; i++)
        blocks[i] = allocate(100, 1);
    CHECK(estimate(g, 1, NULL) > 0);
    start(&thread, free_all, NULL);
    CHECK(!pthread_join(thread, NULL));
    end();
}

static void a_closed_groups_samples_are_its_parents(void)
{
    struct mem_cgroup *child;
    double found;

    begin();
    child = group_new(g); /* made later than the sampling: it is sampled too */
    CHECK(mem_cgroup_sampling(child) == EVERY);
    memcg_set_current(child);
    for (int i = 0; i < NR; i++)
        blocks[i] = allocate(100, 1);
    found = estimate(child, 1, NULL);
    CHECK(found > 0 && found == estimate(g, 1, NULL));
    memcg_set_current(g);
    group_close(child);
    CHECK(estimate(g, 1, NULL) == found);
    free_all(NULL);
    end();
}

static void without_sampling_no_block_is_sampled(void)
{
    struct mem_cgroup *other = group_new(mem_cgroup_root());
    void *p[1000];

    begin();
    for (int i = 0; i < 1000; i++)
        p[i] = allocate(1000, 1);
    CHECK(estimate(g, 1, NULL) > 0);
    mem_cgroup_set_sampling(g, 0);
    CHECK(estimate(g, 1, NULL) > 0); /* these live */
    for (int i = 0; i < NR; i++)
        blocks[i] = allocate(100, 2);
    memcg_set_current(other);
    for (int i = 0; i < 1000; i++)
        memcg_free_fast(p[i]);
    mem_cgroup_set_sampling(g, EVERY);
    for (int i = 0; i < 1000; i++)
        p[i] = allocate(1000, 2);
    CHECK(estimate(mem_cgroup_root(), 2, NULL) == 0);
    for (int i = 0; i < 1000; i++)
        memcg_free_fast(p[i]);
    free_all(NULL);
    group_close(other);
    end();
}

static void past_the_limit_the_request_is_refused_as_ever(void)
{
    begin();
    mem_cgroup_set_sampling(g, 1);
    mem_cgroup_set_limit(g, MEMCG_MAX, 1 << 20);
    CHECK(!memcg_malloc(2 << 20));
    CHECK(estimate(g, site, NULL) == 0);
    end();
}

static void a_child_process_has_the_samples(void)
{
    int status;
    pid_t pid;

    begin();
    for (int i = 0; i < NR; i++)
        blocks[i] = allocate(100, 1);
    pid = fork();
    if (!pid) {
        if (!(estimate(g, 1, NULL) > 0))
            _exit(1);
        free_all(NULL);
        _exit(estimate(g, 1, NULL) == 0 ? 0 : 2);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    free_all(NULL);
    end();
}

/* ---- many threads ---- */

#define THREADS 4
#define OWN 2000
#define TURNS 60000
static ATOMIC(void *) exchanged[64]; /* blocks that one thread puts here and another frees */

static void *churn(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;
    void *own[OWN] = { NULL };

    memcg_set_current(g);
    site = 1;
    for (int i = 0; i < TURNS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        void **place = &own[(random >> 33) % OWN];
        void *p = memcg_malloc_fast(16 + (random >> 45) % 700);

        CHECK(p);
        if (i % 3 == 0)
            p = exchange_acq_rel(&exchanged[(random >> 20) % 64], p);
        memcg_free_fast(*place);
        *place = p;
    }
    for (int i = 0; i < OWN; i++)
        memcg_free_fast(own[i]);
    memcg_set_current(NULL);
    return NULL;
}

static void threads_that_are_read_and_switched_meanwhile_lose_no_sample(void)
{
    pthread_t threads[THREADS];

    begin();
    for (int i = 0; i < THREADS; i++)
        start(&threads[i], churn, (void *)(uintptr_t)(SEED + i));
    for (int i = 0; i < 200; i++) {
        estimate(g, 1, NULL);
        if (i % 10 == 0)
            mem_cgroup_set_sampling(g, i % 20 ? 0 : EVERY);
        if (i % 5 == 0)
            CHECK(!memcg_find_invalid());
        work();
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    for (int i = 0; i < 64; i++)
        memcg_free_fast(exchange_acq_rel(&exchanged[i], NULL));
    end();
}

int main(void)
{
    CHECK(memcg_init(&(struct memcg_config){ .arena_bytes = (size_t)1 << 30 }) == 0);
    for (int promoted = 0; promoted < 2; promoted++) {
        memcg_set_promote_bytes(promoted ? 4096 : SIZE_MAX);
        RUN(the_estimate_is_near_the_truth);
        RUN(what_replaces_old_blocks_one_by_one_is_sampled);
        RUN(flushed_sheaves_are_counted_back);
        RUN(classes_do_not_take_each_others_samples);
        RUN(a_heap_that_has_slabs_already_is_sampled);
        RUN(large_blocks_stand_for_themselves);
        RUN(blocks_that_grow_in_place_are_sampled_by_all_their_bytes);
        RUN(small_sampled_blocks_are_resized_like_others);
        RUN(another_thread_frees_samples);
        RUN(a_closed_groups_samples_are_its_parents);
        RUN(without_sampling_no_block_is_sampled);
        RUN(past_the_limit_the_request_is_refused_as_ever);
        RUN(a_child_process_has_the_samples);
        RUN(threads_that_are_read_and_switched_meanwhile_lose_no_sample);
    }
    return DONE();
}
