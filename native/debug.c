/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debug.c - checked objects: slab_debug's red zones, poison and user tracking; hardened free lists.
 *
 * With a letter of MEMCG_DEBUG no section begins fast (SLOW_DEBUG), and each allocation and free is
 * checked.  With Z, P or U each object takes `size` bytes, in this order:
 *
 *   object_size bytes   the object: its user's data while it is live; POISON_FREE while it is free,
 *                       but for the free pointer in its first word
 *   up to the tail      red zone, which begins where the bytes asked for end; its colour says
 *                       whether the object is live
 *   struct slab_tail    bytes asked for, the code that allocated and freed it, and a magic number,
 *                       which a write before the start of the next object destroys first
 *
 * A page run has its red zone behind its bytes and its tail behind the descriptor.  A free pointer
 * is kept encoded; decoded, it must be an object of its slab.
 *
 * A corrupt object is reported and ends the process, because its memory is not to be trusted.
 *
 * Kernel: mm/slub.c (slub_debug: 2007; freelist_ptr_encode: 2017), lib/stackdepot.c.
 * Where we differ: the report ends the process; a checked object has a byte that says it is live.
 *
 * Locks: depot_lock, taken in a section; metadata is allocated under it.
 */
#include "debug.h"

#include <stdarg.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "css.h"

/* include/linux/poison.h */
#define SLUB_RED_INACTIVE 0xbb
#define SLUB_RED_ACTIVE 0xcc
#define POISON_INUSE 0x5a
#define POISON_FREE 0x6b
#define POISON_END 0xa5

#define TAIL_MAGIC 0x6d656d63672e6d63ULL
#define RED_ZONE_MIN ((size_t)16)
#define LAYOUT (SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER)
#define TEXT_MAX 256

struct slab_track {
    uint64_t serial; /* its number among all allocations and frees; 0: none yet */
    uint32_t where;  /* depot id */
    uint32_t group;  /* depot id of the charged group's path; 0: not known */
    int tid;
};

struct slab_tail {
    size_t bytes; /* size asked for */
    struct slab_track alloc, freed;
    uint64_t magic;
};

unsigned slab_debug;
uint64_t freelist_secret;
static memcg_caller_fn caller_fn; /* set once */
static atomic_u64_t serial;

/* ---- settings ------------------------------------------------------------ */

int memcg_parse_debug(const char *text, unsigned *flags)
{
    static const char letters[] = "FZPUH";

    *flags = 0;
    if (!strcmp(text, "1"))
        text = "FZPU";
    for (; *text && strcmp(text, "0"); text++) {
        const char *letter = strchr(letters, *text);

        if (!letter)
            return -EINVAL;
        *flags |= SLAB_CONSISTENCY_CHECKS << (letter - letters);
    }
    return 0;
}

void debug_init(unsigned flags)
{
    slab_debug = flags;
    section_set_slow(SLOW_DEBUG, flags != 0);
    if (!flags)
        return;
    if (getrandom(&freelist_secret, sizeof(freelist_secret), GRND_NONBLOCK) < 0)
        freelist_secret = (uintptr_t)arena.base * 0x9e3779b97f4a7c15ULL;
    freelist_secret |= 1; /* 0 would mean: not encoded */
}

void memcg_set_caller(memcg_caller_fn caller) { caller_fn = caller; }

/* ---- texts, each kept once ------------------------------------------------- */

struct depot_entry {
    struct depot_entry *next;
    uint32_t id;
    char text[];
};
#define DEPOT_BUCKETS 1024
static struct mutex depot_lock = MUTEX_INITIALIZER;
static struct depot_entry *depot[DEPOT_BUCKETS]; /* depot_lock */
static uint32_t depot_entries;                   /* depot_lock */

/* Returns an id for text; 0: no memory. */
static uint32_t depot_save(const char *text)
{
    uint32_t hash = 5381, id = 0;
    struct depot_entry *entry;
    size_t bytes = sizeof(*entry) + strlen(text) + 1;

    for (const char *c = text; *c; c++)
        hash = hash * 33 + (unsigned char)*c;
    mutex_lock(&depot_lock);
    for (entry = depot[hash % DEPOT_BUCKETS]; entry && strcmp(entry->text, text);)
        entry = entry->next;
    if (!entry && (entry = metadata_alloc(bytes))) {
        memcpy(entry->text, text, bytes - sizeof(*entry));
        entry->id = ++depot_entries;
        entry->next = depot[hash % DEPOT_BUCKETS];
        depot[hash % DEPOT_BUCKETS] = entry;
    }
    if (entry)
        id = entry->id;
    mutex_unlock(&depot_lock);
    return id;
}

/* The process is about to end, so this does not take the lock, which may be held. */
static const char *depot_text(uint32_t id)
{
    for (int i = 0; id && i < DEPOT_BUCKETS; i++)
        for (struct depot_entry *entry = depot[i]; entry; entry = entry->next)
            if (entry->id == id)
                return entry->text;
    return NULL;
}

static bool is_inside(const struct slab *slab, const void *p)
{
    return !slab->cache || (uint32_t)((const char *)p - slab->base) < slab->bytes;
}

/* The start of the object that p lies in. */
static const void *start_of(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base);

    return slab->cache ? slab->base + offset / slab->size * slab->size : slab->base;
}

static struct mem_cgroup *group_of(const struct slab *slab, const void *object)
{
    const struct slab_owner *owner;

    if (!slab->cache)
        return load_plain(&slab_to_run(slab)->objcg->memcg);
    if (!slab->shared)
        return load_plain(&slab->cache->objcg->memcg);
    if (!is_inside(slab, object))
        return NULL;
    owner = slab_owner(slab, ((char *)object - slab->base) / slab->size);
    return owner->live ? load_plain(&owner->objcg->memcg) : NULL;
}

static void set_track(struct slab_track *track, const struct mem_cgroup *memcg)
{
    char text[TEXT_MAX] = "";

    if (caller_fn)
        caller_fn(text, sizeof(text));
    track->where = *text ? depot_save(text) : 0;
    track->group = memcg && memcg->path ? depot_save(memcg->path) : 0;
    track->tid = (int)syscall(SYS_gettid);
    track->serial = add_relaxed(&serial, 1);
}

/* ---- layout -------------------------------------------------------------- */

size_t debug_size(size_t object_size, size_t align)
{
    size_t size = object_size < 16 ? 16 : object_size;

    if (slab_debug & LAYOUT)
        size = ALIGN_UP(size, 16) + RED_ZONE_MIN + sizeof(struct slab_tail);
    return ALIGN_UP(size, align);
}

size_t debug_run_metadata(void)
{
    return sizeof(struct page_run) + (slab_debug & LAYOUT ? sizeof(struct slab_tail) : 0);
}

size_t debug_run_bytes(size_t bytes)
{
    return bytes + (slab_debug & SLAB_RED_ZONE ? RED_ZONE_MIN : 0);
}

static bool has_tail(const struct slab *slab)
{
    return (slab_debug & LAYOUT) && (slab->cache || slab->metadata_bytes > sizeof(struct page_run));
}

static struct slab_tail *tail_of(const struct slab *slab, const void *object)
{
    if (!slab->cache)
        return (struct slab_tail *)(slab_to_run(slab) + 1);
    return (struct slab_tail *)((char *)object + slab->size) - 1;
}

/* Smaller objects have room for a free pointer too. */
static size_t object_size(const struct slab *slab)
{
    size_t size = slab->cache ? slab->cache->object_size : tail_of(slab, NULL)->bytes;

    return size < sizeof(void *) ? sizeof(void *) : size;
}

static unsigned char *red_zone_end(const struct slab *slab, const void *object)
{
    if (!slab->cache)
        return (unsigned char *)slab->base + (slab_to_run(slab)->nr_pages << PAGE_SHIFT);
    return (unsigned char *)tail_of(slab, object);
}

/* Constructed objects keep their content; the smallest hold nothing but the free pointer. */
static bool is_poisoned(const struct slab *slab)
{
    return (slab_debug & SLAB_POISON) &&
           !(slab->cache &&
             (slab->cache->flags & KMEM_CACHE_ZERO || slab->cache->object_size <= sizeof(void *)));
}

size_t debug_usable_size(const struct slab *slab, const void *object)
{
    return has_tail(slab) ? tail_of(slab, object)->bytes : 0;
}

/* ---- reports ---------------------------------------------------------------- */

static __attribute__((format(printf, 1, 2))) void report(const char *format, ...)
{
    char line[3 * TEXT_MAX];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (n > 0 && write(2, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1)) {}
}

static void report_track(const char *what, const struct slab_track *track)
{
    if (track->serial)
        report("memcg:   %s by %s, thread %d, number %llu\n", what,
               track->where ? depot_text(track->where) : "what is not Python", track->tid,
               (unsigned long long)track->serial);
}

_Noreturn void slab_bug(const struct slab *slab, const void *object, const char *what)
{
    struct mem_cgroup *memcg = group_of(slab, object);
    const char *cache = !slab->cache ? "page run" : *slab->cache->name ? slab->cache->name : NULL;
    const struct slab_tail *tail = NULL;
    const char *group;
    char kmalloc[32];

    if (has_tail(slab) && slab_debug & SLAB_STORE_USER && is_inside(slab, object))
        tail = tail_of(slab, start_of(slab, object));
    group = memcg ? memcg->path : depot_text(tail ? tail->alloc.group : 0);
    if (!cache) {
        snprintf(kmalloc, sizeof(kmalloc), "%s-%u", slab->cache->user ? "cache" : "kmalloc",
                 slab->cache->object_size);
        cache = kmalloc;
    }
    report("memcg: BUG %s (group %s): %s: object %p\n", cache,
           group                       ? group
           : memcg == &root_mem_cgroup ? "/"
                                       : "not known",
           what, object);
    if (tail) {
        report_track("allocated", &tail->alloc);
        report_track("freed", &tail->freed);
    } else if (!(slab_debug & LAYOUT)) {
        report("memcg:   MEMCG_DEBUG=FZPU names the code that allocated and freed it, and stops at "
               "the first wrong write\n");
    }
    abort();
}

/* ---- objects ------------------------------------------------------------- */

static const unsigned char *find_other(const unsigned char *from, const unsigned char *end,
                                       int byte)
{
    while (from < end && *from == byte)
        from++;
    return from < end ? from : NULL;
}

static void check_bytes(const struct slab *slab, const void *object, const char *what,
                        const unsigned char *from, const unsigned char *end, int byte)
{
    const unsigned char *p = find_other(from, end, byte);
    char text[TEXT_MAX];

    if (!p)
        return;
    snprintf(text, sizeof(text), "%s: 0x%02x instead of 0x%02x at byte %td of an object of %zu",
             what, *p, byte, p - (const unsigned char *)object,
             tail_of(slab, object)->bytes ? tail_of(slab, object)->bytes : object_size(slab));
    slab_bug(slab, object, text);
}

static void check_object(const struct slab *slab, const void *object, bool live)
{
    const struct slab_tail *tail = tail_of(slab, object);
    const unsigned char *p = object;

    if (!has_tail(slab))
        return;
    if (slab_debug & SLAB_RED_ZONE) {
        if (live && slab->cache && tail->bytes > slab->cache->object_size)
            slab_bug(slab, object, "Right Redzone and tail overwritten");
        check_bytes(slab, object, "Right Redzone overwritten",
                    p + (live ? tail->bytes : object_size(slab)), red_zone_end(slab, object),
                    live ? SLUB_RED_ACTIVE : SLUB_RED_INACTIVE);
        if (slab->cache && tail->magic != TAIL_MAGIC)
            slab_bug(slab, object, "Left Redzone of the next object overwritten");
    }
    if (!live && is_poisoned(slab)) {
        check_bytes(slab, object, "Poison overwritten", p + sizeof(void *),
                    p + object_size(slab) - 1, POISON_FREE);
        check_bytes(slab, object, "Poison overwritten", p + object_size(slab) - 1,
                    p + object_size(slab), POISON_END);
    }
}

static void make_free(const struct slab *slab, void *object)
{
    unsigned char *p = object;
    size_t size = object_size(slab);

    if (is_poisoned(slab)) {
        memset(p, POISON_FREE, size - 1);
        p[size - 1] = POISON_END;
    }
    if (slab->cache && slab_debug & SLAB_RED_ZONE)
        memset(p + size, SLUB_RED_INACTIVE, (size_t)(red_zone_end(slab, object) - p) - size);
}

/* The shuffle of Fisher and Yates; its numbers depend on the secret. */
static void shuffle(uint16_t *order, uint32_t n, uint64_t seed)
{
    seed ^= freelist_secret;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j;

        seed = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9ULL + 0x9e3779b97f4a7c15ULL;
        j = (uint32_t)((seed >> 32) % (i + 1));
        order[i] = order[j];
        order[j] = (uint16_t)i;
    }
}

#define SHUFFLE_MAX 256u
void *debug_carve(struct slab *slab, uint32_t left, uint32_t n)
{
    char *first = slab->base + (size_t)load_plain(&slab->carved) * slab->size, *object = NULL;
    uint16_t order[SHUFFLE_MAX];

    if (slab_debug & SLAB_HARDENED) {
        n = left < SHUFFLE_MAX ? left : SHUFFLE_MAX;
        shuffle(order, n, (uintptr_t)first);
    }
    for (uint32_t i = n; i-- > 0;) {
        object = first + (size_t)(slab_debug & SLAB_HARDENED ? order[i] : i) * slab->size;
        if (has_tail(slab)) {
            *tail_of(slab, object) = (struct slab_tail){ .magic = TAIL_MAGIC };
            make_free(slab, object);
        }
        if (i) {
            set_freepointer(object, slab->freelist);
            slab->freelist = object;
        }
    }
    store_relaxed(&slab->carved, load_plain(&slab->carved) + n);
    return object;
}

void debug_check_free(const struct slab *slab, const void *object)
{
    check_object(slab, object, false);
}

/* `keep`: the object has been cleared for its new owner, so it is not poisoned. */
void debug_alloc(const struct slab *slab, void *object, size_t bytes, bool keep)
{
    struct slab_tail *tail = tail_of(slab, object);
    unsigned char *p = object;

    if (!has_tail(slab))
        return;
    tail->bytes = bytes;
    if (is_poisoned(slab) && !keep)
        memset(p, POISON_INUSE, bytes);
    if (slab_debug & SLAB_RED_ZONE)
        memset(p + bytes, SLUB_RED_ACTIVE, (size_t)(red_zone_end(slab, object) - p) - bytes);
    if (slab_debug & SLAB_STORE_USER)
        set_track(&tail->alloc, group_of(slab, object));
}

/* object: an object whose live byte has just been cleared, or a page run. */
void debug_free(const struct slab *slab, void *object)
{
    if (!has_tail(slab))
        return;
    check_object(slab, object, true);
    if (slab_debug & SLAB_STORE_USER)
        set_track(&tail_of(slab, object)->freed, NULL);
    make_free(slab, object);
}

/* All threads are stolen, or no other thread sees the slab. */
void debug_check_slab(const struct slab *slab)
{
    if (!slab->cache) {
        check_object(slab, slab->base, true);
        return;
    }
    for (uint32_t i = 0; i < load_plain(&slab->carved); i++)
        check_object(slab, slab->base + (size_t)i * slab->size, load_plain(&slab->live[i]));
}

/* ---- free pointers --------------------------------------------------------- */

void free_pointer_corrupt(const void *object)
{
    const struct slab *slab = virt_to_slab(object);

    slab_bug(slab, object, "Freepointer corrupt (written after it was freed, or freed twice)");
}
