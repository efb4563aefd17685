/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls.c - where another file's thread-local variables lie.
 *
 * The dynamic linker gives the program, and the libraries that it loads with it, a fixed place in
 * each thread. A library that is loaded later gets memory in a thread when the thread first uses it.
 * dl_iterate_phdr() shows the calling thread's block of either kind. A new thread has used nothing
 * yet: it has the block, at the same offset, only if the place is fixed.
 *
 * Locks: none.
 */
#define _GNU_SOURCE /* dl_iterate_phdr */
#include "tls.h"

#include <link.h>
#include <pthread.h>

static int find(struct dl_phdr_info *object, size_t size, void *arg)
{
    struct tls_block *block = arg;
    size_t bytes = 0;
    bool contains = false;

    if (size < offsetof(struct dl_phdr_info, dlpi_tls_data) + sizeof(object->dlpi_tls_data))
        return 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];

        if (segment->p_type == PT_TLS)
            bytes = segment->p_memsz;
        if (segment->p_type == PT_LOAD &&
            (uintptr_t)block->function - (object->dlpi_addr + segment->p_vaddr) < segment->p_memsz)
            contains = true;
    }
    if (!contains)
        return 0;
    block->start = object->dlpi_tls_data;
    block->bytes = block->start ? bytes : 0;
    block->is_program = !object->dlpi_name[0];
    return 1;
}

bool tls_find(const void *function, struct tls_block *block)
{
    *block = (struct tls_block){ .function = function };
    return dl_iterate_phdr(find, block) && block->bytes;
}

struct look {
    const void *function;
    intptr_t offset;
    bool found;
};

static void *look_again(void *arg)
{
    struct look *look = arg;
    struct tls_block block;

    look->found = tls_find(look->function, &block) && block.start - tls_pointer() == look->offset;
    return NULL;
}

bool tls_is_fixed(const struct tls_block *block)
{
    struct look look = { block->function, block->start - tls_pointer(), false };
    pthread_t thread;

    if (block->is_program)
        return true;
    if (pthread_create(&thread, NULL, look_again, &look))
        return false;
    pthread_join(thread, NULL);
    return look.found;
}
