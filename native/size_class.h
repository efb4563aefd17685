/* SPDX-License-Identifier: Apache-2.0 */
/*
 * size_class.h - the sizes that kmalloc caches serve: steps of 16 bytes to 256, then four steps per
 * doubling up to KMALLOC_MAX_CACHE_SIZE. So rounding up adds at most 25 % to sizes above 64.
 */
#ifndef MEMCG_SIZE_CLASS_H
#define MEMCG_SIZE_CLASS_H

#include "memcg.h"

/* Bytes; larger multiples of 64 are aligned to 64; docs/decisions/0007. */
#define COLOUR_MAX_SIZE 512
#define NR_KMALLOC 44 /* 16 to 256, then 4 for each of the 7 doublings to 32768 */

#define KMALLOC_TABLE_SIZE 1024
/* One entry for each 16 bytes. */
extern const uint8_t kmalloc_table[KMALLOC_TABLE_SIZE / 16] MEMCG_EXPORT_AS(kmalloc_table);

/* size: above 256, up to KMALLOC_MAX_CACHE_SIZE. */
static inline unsigned kmalloc_index_above(size_t size)
{
    unsigned top_bit = 63u - (unsigned)__builtin_clzll(size - 1);

    return 16 + (top_bit - 8) * 4 + (unsigned)((size - 1) >> (top_bit - 2) & 3);
}

/* size: 1 to KMALLOC_MAX_CACHE_SIZE. The table avoids a branch that small sizes mispredict. */
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
