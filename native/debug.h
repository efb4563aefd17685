/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debug.h - checked objects, and free pointers.  See debug.c.
 */
#ifndef MEMCG_DEBUG_H
#define MEMCG_DEBUG_H

#include "arena.h"
#include "types.h"

#define SLAB_CONSISTENCY_CHECKS 1u /* letter F */
#define SLAB_RED_ZONE 2u           /* letter Z */
#define SLAB_POISON 4u             /* letter P */
#define SLAB_STORE_USER 8u         /* letter U */
#define SLAB_HARDENED 16u          /* letter H: objects are handed out in random order */
/* SLAB_ flags, fixed by memcg_init(); not 0: no fast path. */
extern unsigned slab_debug MEMCG_EXPORT_AS(slab_debug);
/* Fixed likewise; 0: free pointers are not encoded. */
extern uint64_t freelist_secret MEMCG_EXPORT_AS(freelist_secret);
void debug_init(unsigned flags);
/* Reports and ends the process. slab is the object's; object may be an invalid address. */
_Noreturn void slab_bug(const struct slab *slab, const void *object, const char *what)
    MEMCG_EXPORT_AS(slab_bug);
size_t debug_size(size_t object_size, size_t align); /* bytes from one object to the next */
size_t debug_run_metadata(void);                     /* bytes of a page run's descriptor */
size_t debug_run_bytes(size_t bytes);                /* bytes of a page run with its red zone */
/* Bytes asked for; 0: not recorded. */
size_t debug_usable_size(const struct slab *slab, const void *object);
/* slab_carve() out of `left` objects */
void *debug_carve(struct slab *slab, uint32_t left, uint32_t n);
void debug_check_free(const struct slab *slab, const void *object); /* before it is handed out */
void debug_alloc(const struct slab *slab, void *object, size_t bytes, bool keep);
void debug_free(const struct slab *slab, void *object);
void debug_check_slab(const struct slab *slab);
_Noreturn void free_pointer_corrupt(const void *object);

/* Free lists and `remote` use these.  Pointers in a sheaf are never encoded.  Kernel:
 * freelist_ptr_encode(). */
static inline void set_freepointer(void *object, void *next)
{
    uintptr_t word = (uintptr_t)next;

    if (unlikely(freelist_secret))
        word ^= freelist_secret ^ __builtin_bswap64((uintptr_t)object);
    *(uintptr_t *)object = word;
}

static inline void *get_freepointer(const void *object)
{
    uintptr_t word = *(const uintptr_t *)object;
    void *next = (void *)word;

    if (unlikely(freelist_secret)) {
        const struct slab *slab = virt_to_slab(object);

        next = (void *)(word ^ freelist_secret ^ __builtin_bswap64((uintptr_t)object));
        if (next && (virt_to_slab(next) != slab || !slab_is_object(slab, next)))
            free_pointer_corrupt(object);
    }
    return next;
}

#endif
