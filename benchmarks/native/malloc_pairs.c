/* SPDX-License-Identifier: Apache-2.0 */
/* malloc_pairs.c - malloc and free of one size, `n` times; what a turn keeps is freed eight turns
 * later, as a program that works on a few blocks at a time does. */
#include <stdint.h>
#include <stdlib.h>

#define KEPT 8

uint64_t malloc_pairs(size_t size, long n);

uint64_t malloc_pairs(size_t size, long n)
{
    char *kept[KEPT] = { 0 };
    uint64_t sum = 0;

    for (long i = 0; i < n; i++) {
        char *p = malloc(size);

        if (!p)
            abort();
        p[0] = p[size - 1] = (char)i;
        if (kept[i % KEPT])
            sum += (unsigned char)kept[i % KEPT][0];
        free(kept[i % KEPT]);
        kept[i % KEPT] = p;
    }
    for (int i = 0; i < KEPT; i++)
        free(kept[i]);
    return sum;
}
