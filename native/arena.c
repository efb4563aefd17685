/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.c - reserves and commits the range; memory for descriptors.
 *
 * Metadata has two sizes per doubling.  It is cut from chunks of its own, so nothing here calls an
 * allocator that could call us. `lock` protects the free lists and the chunk.
 */
#include "arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fault.h"

#define ARENA_DEFAULT ((size_t)64 << 30) /* bytes; twice the machine's memory, if that is more */
#define ARENA_MIN ((size_t)64 << 20)
#define COMMIT_STEP ((size_t)8192) /* pages: 32 MiB, so that mprotect is rarely called */
/* A load stalls behind an earlier store whose address ends in the same 12 bits.  Free looks a page
 * up just after the object was written.  So the first pages' entries must not end like the
 * addresses of first objects. */
#define TABLE_OFFSET (PAGE_SIZE / 2)
#define METADATA_CHUNK ((size_t)1 << 18)
#define METADATA_MIN ((size_t)32)
#define METADATA_MAX ((size_t)65536) /* bytes; larger metadata is mapped on its own */
#define METADATA_CLASSES 23          /* bytes: 32, 48, 64, 96, ... 65536 */

struct arena arena;
static struct mutex copies_lock = MUTEX_INITIALIZER;
static struct arena *copies[NR_ARENA_COPIES]; /* copies_lock */

static void *map(size_t bytes, int prot)
{
    void *p;

    if (should_fail(FAULT_MMAP, NULL, NULL, bytes))
        return NULL;
    p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static size_t arena_default(void)
{
    long nr_pages = sysconf(_SC_PHYS_PAGES);
    size_t twice = nr_pages > 0 ? (size_t)nr_pages * 2 << PAGE_SHIFT : 0;

    if (twice > (size_t)8 << 40) /* a page number is 32 bits */
        twice = (size_t)8 << 40;
    return twice > ARENA_DEFAULT ? twice : ARENA_DEFAULT;
}

static size_t limit_of(int resource)
{
    struct rlimit limit;

    return getrlimit(resource, &limit) || limit.rlim_cur == RLIM_INFINITY ? SIZE_MAX
                                                                          : limit.rlim_cur;
}

/* The part of a range that the process's limits leave.  A third of the address space (RLIMIT_AS) is
 * left to others.  Committed pages count as data (RLIMIT_DATA), so the range is no larger than that
 * limit.  All of the tables counts too; a smaller range makes them smaller. */
static size_t arena_within_limits(size_t bytes)
{
    size_t space = limit_of(RLIMIT_AS), data = limit_of(RLIMIT_DATA),
           step = COMMIT_STEP * PAGE_SIZE;

    if (bytes > data)
        bytes = data > step ? data / step * step : step;
    while (bytes > step && bytes > space / 3 * 2)
        bytes = ALIGN_UP(bytes / 2, step);
    return bytes;
}

int arena_init(size_t wish)
{
    size_t bytes =
        arena_within_limits(ALIGN_UP(wish ? wish : arena_default(), COMMIT_STEP * PAGE_SIZE));

    for (; bytes >= ARENA_MIN || bytes == COMMIT_STEP * PAGE_SIZE; bytes /= 2) {
        size_t nr_pages = bytes >> PAGE_SHIFT;
        size_t slab_bytes = nr_pages * sizeof(*arena.page_slab) + PAGE_SIZE;
        char *base = map(bytes, PROT_NONE);
        char *slabs = map(slab_bytes, PROT_READ | PROT_WRITE);
        void *tags = map(nr_pages * sizeof(*arena.page_tag), PROT_READ | PROT_WRITE);

        if (base && slabs && tags) {
            arena.page_slab = (page_slab_t *)(slabs + TABLE_OFFSET);
            arena.page_tag = tags;
            arena.base = base;
            store_plain(&arena.bytes, bytes);
            return 0;
        }
        if (base)
            munmap(base, bytes);
        if (slabs)
            munmap(slabs, slab_bytes);
        if (tags)
            munmap(tags, nr_pages * sizeof(*arena.page_tag));
    }
    return -ENOMEM;
}

/* In a section, so that a fork finds copies_lock free. */
void arena_copy(struct arena *copy)
{
    int i = 0;

    assert_any_section();
    mutex_lock(&copies_lock);
    while (i < NR_ARENA_COPIES && copies[i] && copies[i] != copy)
        i++;
    MEMCG_ASSERT(i < NR_ARENA_COPIES);
    copies[i] = copy;
    *copy = (struct arena){ .base = arena.base, .page_slab = arena.page_slab };
    store_release(&copy->bytes, arena_bytes());
    mutex_unlock(&copies_lock);
}

/* Unmaps the whole pages of a table's unused end. */
static void give_back_tail(void *table, size_t nr, size_t nr_before, size_t entry)
{
    uintptr_t start = ALIGN_UP((uintptr_t)table + nr * entry, PAGE_SIZE);
    uintptr_t end = ((uintptr_t)table + nr_before * entry) / PAGE_SIZE * PAGE_SIZE;

    if (start < end)
        munmap((void *)start, end - start);
}

void arena_fit(size_t space)
{
    size_t step = COMMIT_STEP * PAGE_SIZE, bytes = space / 3 * 2 / step * step;
    size_t least = ALIGN_UP(arena.nr_committed << PAGE_SHIFT, step), before = arena_bytes();

    if (bytes < least)
        bytes = least;
    if (bytes >= before)
        return;
    /* first, because other mappings may lie there from then on */
    store_release(&arena.bytes, bytes);
    mutex_lock(&copies_lock);
    for (int i = 0; i < NR_ARENA_COPIES && copies[i]; i++)
        store_release(&copies[i]->bytes, bytes);
    mutex_unlock(&copies_lock);
    munmap(arena.base + bytes, before - bytes);
    give_back_tail(arena.page_slab, bytes >> PAGE_SHIFT, before >> PAGE_SHIFT,
                   sizeof(*arena.page_slab));
    give_back_tail(arena.page_tag, bytes >> PAGE_SHIFT, before >> PAGE_SHIFT,
                   sizeof(*arena.page_tag));
}

static int make_readable(size_t nr_pages)
{
    return mprotect(arena.base + (arena.nr_committed << PAGE_SHIFT),
                    (nr_pages - arena.nr_committed) << PAGE_SHIFT, PROT_READ | PROT_WRITE);
}

int arena_commit(size_t nr_pages)
{
    size_t nr_total = arena_nr_pages();
    size_t nr_new;

    if (nr_pages <= arena.nr_committed)
        return 0;
    if (nr_pages > nr_total)
        return -ENOMEM;
    nr_new = ALIGN_UP(nr_pages, COMMIT_STEP);
    if (nr_new > nr_total)
        nr_new = nr_total;
    if (should_fail(FAULT_MMAP, NULL, NULL, (nr_new - arena.nr_committed) << PAGE_SHIFT))
        return -ENOMEM;
    if (make_readable(nr_new)) {
        nr_new = nr_pages; /* near RLIMIT_DATA a whole step is refused */
        if (make_readable(nr_new))
            return -ENOMEM;
    }
    arena.nr_committed = nr_new;
    return 0;
}

void set_page_slab(void *start, size_t nr_pages, struct slab *slab)
{
    size_t first = arena_page(start);
    size_t i;

    for (i = 0; i < nr_pages; i++)
        store_release(&arena.page_slab[first + i], slab);
}

struct free_block {
    struct free_block *next;
};

static struct mutex lock = MUTEX_INITIALIZER;
static struct free_block *free_blocks[METADATA_CLASSES]; /* lock */
static char *chunk;                                      /* lock */
static size_t chunk_left;                                /* bytes; lock */
static atomic_usize_t in_use;                            /* bytes */

/* The sizes are the powers of two and the middles between them. */
static int metadata_class(size_t bytes, size_t *size)
{
    int i = 0;

    for (*size = METADATA_MIN; *size < bytes; i++)
        *size = i % 2 ? *size / 3 * 4 : *size / 2 * 3;
    return i;
}

void *metadata_alloc(size_t bytes)
{
    size_t size;
    int i = metadata_class(bytes, &size);
    struct free_block *block = NULL;

    assert_any_section();
    if (should_fail(FAULT_METADATA, NULL, NULL, bytes))
        return NULL;
    if (size > METADATA_MAX) {
        block = map(ALIGN_UP(bytes, PAGE_SIZE), PROT_READ | PROT_WRITE);
        if (block)
            add_relaxed(&in_use, ALIGN_UP(bytes, PAGE_SIZE));
        return block;
    }
    mutex_lock(&lock);
    block = free_blocks[i];
    if (block) {
        free_blocks[i] = block->next;
    } else {
        if (chunk_left < size) { /* the rest of the old chunk is lost: at most 64 KiB of 256 */
            char *fresh = map(METADATA_CHUNK, PROT_READ | PROT_WRITE);

            if (!fresh) {
                mutex_unlock(&lock);
                return NULL;
            }
            chunk = fresh;
            chunk_left = METADATA_CHUNK;
        }
        /* cut from the top, so that a power of two is aligned to its size and other sizes to a
         * third of it */
        chunk_left -= size;
        block = (struct free_block *)(chunk + chunk_left / size * size);
        chunk_left = chunk_left / size * size;
    }
    add_relaxed(&in_use, size);
    mutex_unlock(&lock);
    return memset(block, 0, size);
}

void metadata_free(void *p, size_t bytes)
{
    size_t size;
    int i = metadata_class(bytes, &size);
    struct free_block *block = p;

    assert_any_section();
    if (!p)
        return;
    if (size > METADATA_MAX) {
        munmap(p, ALIGN_UP(bytes, PAGE_SIZE));
        sub_relaxed(&in_use, ALIGN_UP(bytes, PAGE_SIZE));
        return;
    }
    mutex_lock(&lock);
    block->next = free_blocks[i];
    free_blocks[i] = block;
    sub_relaxed(&in_use, size);
    mutex_unlock(&lock);
}

size_t metadata_bytes_in_use(void) { return load_relaxed(&in_use); }
