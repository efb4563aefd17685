/* SPDX-License-Identifier: Apache-2.0 */
/*
 * size_class.h - the sizes kmalloc caches serve: 16-byte steps to 256, then four per
 * doubling up to KMALLOC_MAX_CACHE_SIZE, so that rounding up adds at most 25 %.
 */
#ifndef MEMCG_SIZE_CLASS_H
#define MEMCG_SIZE_CLASS_H

#include "memcg.h"

#define COLOUR_MAX_SIZE \
    512               /* from the next on multiples of 64 are aligned so; docs/decisions/0007 */
#define NR_KMALLOC 44 /* 16 to 256, then 4 for each of the 7 doublings to 32768 */

#define KMALLOC_TABLE_SIZE 1024
extern const uint8_t kmalloc_table[KMALLOC_TABLE_SIZE / 16]; /* by 16 bytes */

/* size: above 256. */
static inline unsigned kmalloc_index_above(size_t size)
{
    unsigned top_bit = 63u - (unsigned)__builtin_clzll(size - 1);

    return 16 + (top_bit - 8) * 4 + (unsigned)((size - 1) >> (top_bit - 2) & 3);
}

/* size: 1 to KMALLOC_MAX_CACHE_SIZE.  The table has no branch that small sizes mispredict. */
static inline unsigned kmalloc_index(size_t size)
{
    if (__builtin_expect(size <= KMALLOC_TABLE_SIZE, 1) && !__builtin_constant_p(size))
        return kmalloc_table[(size - 1) >> 4];
    return size <= 256 ? (unsigned)((size - 1) >> 4) : kmalloc_index_above(size);
}

static inline size_t kmalloc_size(int index)
{
    int doubling = (index - 16) / 4, step = (index - 16) % 4;

    if (index < 16)
        return (size_t)(index + 1) * 16;
    return ((size_t)256 << doubling) + (size_t)(step + 1) * ((size_t)64 << doubling);
}

#endif
