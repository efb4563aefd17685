/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pairs.c - one line in, one line out: "PATTERN SIZE THREADS" -> {"cpu", "wall", "check"}.
 *
 *   lifo     allocate, write a word, free
 *   batch    allocate 512, then free them in the order in which they were allocated
 *   random   16,384 live objects; a random one is replaced, again and again
 *   handoff  half of the threads allocate, the others free (SIZE 0: mixed)
 *
 * SIZE 0 is a mix of 16 bytes to 8 KiB, in which small sizes are more frequent.  The check is the
 * sum of what the objects held when they were freed.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "contender.h"

#define BATCH 512
#define LIVE 16384
#define RING 1024

static size_t size_asked;
static int turns;
static char pattern[16];

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

/* 16 << (0 to 9), each half as often as the one below, plus something less than one more
 * doubling. */
static size_t size_of(uint32_t random)
{
    size_t size;

    if (size_asked)
        return size_asked;
    size = (size_t)16 << __builtin_ctz(random | 1 << 9);
    return size + (random >> 16) % size > 8192 ? 8192 : size + (random >> 16) % size;
}

static uint64_t *make(uint32_t random)
{
    uint64_t *p = bench_malloc(size_of(random));

    p[0] = random;
    return p;
}

static uint64_t end(uint64_t *p)
{
    uint64_t value = p[0];

    bench_free(p);
    return value;
}

static uint64_t lifo(uint32_t *state)
{
    uint64_t sum = 0;

    for (int i = 0; i < turns; i++)
        sum += end(make(next_random(state)));
    return sum;
}

static uint64_t batch(uint32_t *state)
{
    uint64_t *p[BATCH], sum = 0;

    for (int i = 0; i < turns; i += BATCH) {
        for (int j = 0; j < BATCH; j++)
            p[j] = make(next_random(state));
        for (int j = 0; j < BATCH; j++)
            sum += end(p[j]);
    }
    return sum;
}

static uint64_t in_no_order(uint32_t *state)
{
    uint64_t **p = bench_malloc(LIVE * sizeof(*p)), sum = 0;

    for (int i = 0; i < LIVE; i++)
        p[i] = make(next_random(state));
    for (int i = 0; i < turns; i++) {
        int j = next_random(state) % LIVE;

        sum += end(p[j]);
        p[j] = make(next_random(state));
    }
    for (int i = 0; i < LIVE; i++)
        sum += end(p[i]);
    bench_free(p);
    return sum;
}

/* A ring with one producer and one consumer. */
struct ring {
    _Alignas(64) unsigned head;
    _Alignas(64) unsigned tail;
    uint64_t *slot[RING];
} rings[32];

static void produce(struct ring *ring, uint32_t *state)
{
    for (int i = 0; i < turns; i++) {
        while (ring->head - __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) == RING)
            sched_yield();
        ring->slot[ring->head % RING] = make(next_random(state));
        __atomic_store_n(&ring->head, ring->head + 1, __ATOMIC_RELEASE);
    }
}

static uint64_t consume(struct ring *ring)
{
    uint64_t sum = 0;

    for (int i = 0; i < turns; i++) {
        while (__atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) == ring->tail)
            sched_yield();
        sum += end(ring->slot[ring->tail % RING]);
        __atomic_store_n(&ring->tail, ring->tail + 1, __ATOMIC_RELEASE);
    }
    return sum;
}

static uint64_t sums[64];

static void *run(void *arg)
{
    intptr_t n = (intptr_t)arg;
    uint32_t state = (uint32_t)n * 7919 + 12345;

    bench_enter();
    if (!strcmp(pattern, "lifo"))
        sums[n] = lifo(&state);
    else if (!strcmp(pattern, "batch"))
        sums[n] = batch(&state);
    else if (!strcmp(pattern, "random"))
        sums[n] = in_no_order(&state);
    else if (n % 2)
        sums[n] = consume(&rings[n / 2]);
    else
        produce(&rings[n / 2], &state);
    return NULL;
}

static double seconds(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(void)
{
    int nr_threads;

    bench_enter();
    while (scanf("%15s %zu %d %d", pattern, &size_asked, &nr_threads, &turns) == 4) {
        double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        uint64_t sum = 0;
        pthread_t threads[64];

        memset(sums, 0, sizeof(sums));
        if (nr_threads == 1) {
            run(0);
        } else {
            for (intptr_t i = 0; i < nr_threads; i++)
                pthread_create(&threads[i], NULL, run, (void *)i);
            for (int i = 0; i < nr_threads; i++)
                pthread_join(threads[i], NULL);
        }
        cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        wall = seconds(CLOCK_MONOTONIC) - wall;
        for (int i = 0; i < nr_threads; i++)
            sum += sums[i];
        bench_worker();
        printf("{\"cpu\": %.9f, \"wall\": %.9f, \"check\": %llu}\n", cpu, wall,
               (unsigned long long)sum);
        fflush(stdout);
    }
    return 0;
}
