/* SPDX-License-Identifier: Apache-2.0 */
/*
 * instructions.c - does one kind of work a given number of times: "WORK WARM TURNS".
 * benchmarks/instructions.py counts the instructions of two lengths, so nothing here is timed or
 * printed.
 *
 *   pair      malloc and free of 64 bytes, last in first out: the fast path
 *   refill    allocates 2,048 objects of 64 bytes, then frees them: sheaves fill and are given back
 *   page-run  malloc and free of 100 KiB
 *
 * A turn of refill is one object.  Each work also runs before it is counted, so child caches and
 * larger sheaves exist when the turns begin.
 */
#include <stdint.h>
#include <string.h>

#include "contender.h"

#define OBJECTS 2048

static void pairs(size_t size, long turns)
{
    for (long i = 0; i < turns; i++) {
        char *p = bench_malloc(size);

        *p = 1;
        bench_free(p);
    }
}

static void refills(long turns)
{
    static void *p[OBJECTS];

    for (long i = 0; i < turns; i += OBJECTS) {
        for (int j = 0; j < OBJECTS; j++)
            p[j] = bench_malloc(64);
        for (int j = 0; j < OBJECTS; j++)
            bench_free(p[j]);
    }
}

static int work(const char *name, long turns)
{
    if (!strcmp(name, "pair"))
        pairs(64, turns);
    else if (!strcmp(name, "page-run"))
        pairs(100 << 10, turns);
    else if (!strcmp(name, "refill"))
        refills(turns);
    else
        return 1;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    bench_enter();
    for (int round = 0; round < 2; round++) { /* the first round asks for child caches */
        if (work(argv[1], strtol(argv[2], NULL, 10)))
            return 2;
        bench_worker();
    }
    return work(argv[1], strtol(argv[3], NULL, 10));
}
