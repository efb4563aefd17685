/*
 * size_class.h - the sizes kmalloc caches serve: 16-byte steps to 256, then four per
 * doubling up to KMALLOC_MAX_CACHE_SIZE, so that rounding up adds at most 25 %.
 */
#ifndef MEMCG_SIZE_CLASS_H
#define MEMCG_SIZE_CLASS_H

#include "memcg.h"

#define COLOUR_MAX_SIZE 512 /* from the next on multiples of 64 are aligned so; docs/decisions/0007 */
#define NR_KMALLOC 44 /* 16 to 256, then 4 for each of the 7 doublings to 32768 */

#define KMALLOC_TABLE_SIZE 1024
extern const uint8_t kmalloc_table[KMALLOC_TABLE_SIZE / 16]; /* kmem_cache.c */

/* size: 1 to KMALLOC_MAX_CACHE_SIZE.  The table has no branch that small sizes mispredict. */
static inline int kmalloc_index(size_t size)
{
    int top_bit;

    if (__builtin_expect(size <= KMALLOC_TABLE_SIZE, 1) && !__builtin_constant_p(size))
        return kmalloc_table[(size - 1) >> 4];
    if (size <= 256)
        return (int)((size - 1) >> 4);
    size--;
    top_bit = 63 - __builtin_clzll(size);
    return 16 + (top_bit - 8) * 4 + (int)((size >> (top_bit - 2)) & 3);
}

static inline size_t kmalloc_size(int index)
{
    int doubling = (index - 16) / 4, step = (index - 16) % 4;

    if (index < 16)
        return (size_t)(index + 1) * 16;
    return ((size_t)256 << doubling) + (size_t)(step + 1) * ((size_t)64 << doubling);
}

#endif
