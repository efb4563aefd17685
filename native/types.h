/* SPDX-License-Identifier: Apache-2.0 */
/*
 * types.h - every structure of the allocator, with what must hold of it; where objects lie in a slab.
 *
 * What protects a field stands at the field or at the head of its group; "section" is the read-side
 * section of the thread (section.h), or a walker that has stolen the thread.  README.md has all locks.
 *
 * Kernel: mm/slab.h, include/linux/memcontrol.h (2014; obj_cgroup: 2020).
 */
#ifndef MEMCG_TYPES_H
#define MEMCG_TYPES_H

#include <errno.h>
#include <string.h>

#include "base.h"
#include "list.h"
#include "page_counter.h"
#include "size_class.h"

#define MEMCG_MAX_OWNERS 127 /* owners of one shared slab: an index is a byte less a bit */
#define OWNER_GONE 128u      /* that bit: the object was freed */
#define SLAB_OWNERS 16u      /* entries that a shared slab has from the start */
#define MEMCG_TAG_SHARED (UINT32_MAX - 1) /* pages of shared slabs */
#define MEMCG_SMALL_SIZE ((size_t)1024)   /* requests up to here are refused at the ceiling only */

/* ---- slabs ------------------------------------------------------------ */

enum slab_place {
    SLAB_ACTIVE,  /* heap_slot->active */
    SLAB_PARTIAL, /* on heap_slot->partial: live and free objects */
    SLAB_FULL,    /* on heap_slot->full */
    SLAB_EMPTY,   /* on heap_slot->empty: no live object */
    SLAB_NO_OWNER_FULL,
    SLAB_NO_OWNER_PARTIAL /* on cache->partial */
};

struct slab_owner {                    /* one entry of a shared slab's owner table */
    struct obj_cgroup *objcg;          /* holds a reference while live > 0 */
    uint32_t live;                     /* objects; what lies in `remote` counts until collected */
} __attribute__((packed, aligned(4))); /* there are many */

/*
 * A slab; out of band, found by virt_to_slab().  cache == NULL: the head of a page run.
 *   carved <= objects;  inuse == carved - length(freelist)
 *   inuse counts what lies in `remote` until it is collected, and what lies in a sheaf
 *   remote != NULL  <=>  the slab is, or is about to be, on owner->remote_slabs
 *   fast == owner   <=>  private, no live bits, owned and not empty
 */
struct slab {
    /* the owner's section; without an owner: cache->lock.  One cache line with `fast` */
    void *freelist;               /* first word of a free object is the next */
    ATOMIC(struct thread *) fast; /* for this thread a free is a push; NULL: slab_free() */
    struct heap_slot *slot; /* size classes, while there is an owner: whose sheaf takes frees */
    uint32_t inuse;
    uint32_t last;       /* the value of inuse at which a free moves the slab to another list:
                    * full: objects, partial: 1 */
    atomic_u32_t carved; /* other threads read it to check an index */
    uint32_t bytes;      /* fixed: of all objects */
    /* Private slabs of size classes: the sum of slab_sum() over the free list.  The sum for a whole
     * slab is known, and a set of as many objects in which one stands twice has another one; so an
     * object that was freed twice is found without a walk, before the pages go to anybody else. */
    uint64_t free_sum;

    /* fixed from creation to end */
    char *base;
    uint64_t reciprocal; /* of size, rounded up: slab_is_object() */
    uint32_t size;       /* bytes between objects */
    struct kmem_cache *cache;
    atomic_u8_t *owner_of; /* shared: per object: index into owners, OWNER_GONE */
    atomic_u8_t *live;     /* user caches: per object: 1 while it is allocated */

    /* set to a thread under cache->lock; back to NULL only with all threads stolen */
    ATOMIC(struct thread *) owner;

    /* shared: the first SLAB_OWNERS entries and, once they are taken, the others; nr_owners in
     * all; written by the slab's owner */
    struct slab_owner *owners, *more_owners;
    uint32_t nr_owners, owner_hint; /* the entry used last */

    /* fixed too */
    uint32_t objects; /* how many fit */
    uint32_t nr_pages;
    bool shared; /* objects have owners of their own */

    /* any thread, inside its section */
    ATOMIC(void *) remote;    /* CAS; taken whole by the owner */
    struct slab *next_remote; /* owner->remote_slabs */

    /* the owner's section; without an owner: cache->lock */
    enum slab_place place;
    uint32_t touched; /* carved when it last began anew: so far its pages are there */
    struct heap
        *heap; /* the heap that has it as active, partial, full or empty; NULL without owner */
    struct hlist_node slab_list; /* heap_slot's partial, full or empty, or the cache's partial */

    struct hlist_node cache_node; /* cache->lock: cache->slabs */

    size_t metadata_bytes; /* of this descriptor with its tables */
};

/*
 * A block that is too large for a slab.  Its page is found as a slab's is, so it begins with one: one
 * without a cache and without objects, which every check of the fast paths turns away.
 */
struct page_run {
    struct slab slab;           /* base, metadata_bytes; all else is zero */
    struct obj_cgroup *objcg;   /* charged to; holds a reference */
    size_t nr_pages;            /* runs_lock */
    struct kmem_cache *run_for; /* fixed: the root cache that it stands in for, or NULL */
    struct hlist_node node;     /* runs_lock: all_runs */
};

/* NULL: it is a slab. */
static inline struct page_run *slab_to_run(const struct slab *slab)
{
    return slab->cache ? NULL : container_of(slab, struct page_run, slab);
}

static inline struct slab_owner *slab_owner_at(const struct slab *slab, uint32_t i)
{
    return i < SLAB_OWNERS ? &slab->owners[i] : &slab->more_owners[i - SLAB_OWNERS];
}

/* The owner-table entry of object `index` of a shared slab.  Also valid between the object's free and
 * its return to the slab's owner. */
static inline struct slab_owner *slab_owner(const struct slab *slab, long index)
{
    return slab_owner_at(slab, load_relaxed(&slab->owner_of[index]) & ~OWNER_GONE);
}

/* Whether p, in one of the slab's pages, is where an object begins: offset % size == 0 without a
 * division (Lemire, Kaser, Kurz: Faster remainder by direct computation, 2019). */
static inline bool slab_is_object(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base); /* a slab is below 2 GiB */

    return (offset * slab->reciprocal < slab->reciprocal) & (offset < slab->bytes);
}

/* An object's share of slab->free_sum. */
static inline uint64_t slab_sum(const struct slab *slab, const void *p)
{
    uint64_t offset = (uint32_t)((const char *)p - slab->base);

    return offset * offset;
}

/* The index of the object that p lies in; p as above. */
static inline uint32_t slab_index(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base);

    return (uint32_t)((unsigned __int128)offset * slab->reciprocal >> 64);
}

/* Both at once: the index, or -1. */
static inline long slab_object_index(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base);
    unsigned __int128 product = (unsigned __int128)offset * slab->reciprocal;
    uint32_t index = (uint32_t)(product >> 64);

    return ((uint64_t)product < slab->reciprocal) & (index < load_relaxed(&slab->carved))
               ? (long)index
               : -1;
}

/* ---- events ------------------------------------------------------------ */

/* Embedded in what it tells of, so posting allocates nothing; but for CREATE, of which there
 * could be one per cache and group, the node is made for the event. */
struct event_node {
    struct event_node *next; /* the poster until linked, then the consumer */
    struct memcg_event event;
    atomic_int_t posted; /* in the queue */
};

/* ---- caches ------------------------------------------------------------ */

struct memcg_cache_array { /* published by a release store; old ones live until the root ends */
    int nr_slots;          /* one per kmemcg_id */
    size_t bytes;
    struct memcg_cache_array *retired;
    atomic_u8_t *pending; /* per slot: from the post of CREATE to memcg_create_done() */
    /* the child: release store by the publisher, acquire by readers */
    ATOMIC(struct kmem_cache *) slot[];
};

#define CACHE_NAME_MAX 40 /* makes a cache 256 bytes, a size of metadata */

struct kmem_cache {
    /* fixed */
    int index; /* heap slot: size classes first, then user caches */
    bool user;
    unsigned flags;
    uint32_t size, object_size, align;
    uint32_t objects, nr_pages; /* per slab */
    struct kmem_cache *root;    /* itself for a root cache */
    struct mem_cgroup *memcg;   /* children: holds a css reference */
    struct obj_cgroup *objcg;   /* the stub that private slabs charge; root caches: the root's */
    void *cache_owner;          /* opaque, control plane's */
    char name[CACHE_NAME_MAX];  /* for reports and faults */

    /* root caches: writers under memcg_slab_mutex (above us), readers lockless */
    ATOMIC(struct memcg_cache_array *) memcg_caches;

    struct mutex lock;
    /* lock */
    struct hlist_head slabs;             /* all, by cache_node */
    struct hlist_head partial[2];        /* by slab_list: no owner and a free object; [1]: shared */
    atomic_long_t nr_slabs, total_pages; /* written under lock, read racily */
    atomic_int_t dead;                   /* keeps no empty slab, serves no allocation */
    struct event_node empty;
    atomic_int_t refs;  /* its life, and each event in the queue that names it */
    atomic_int_t ended; /* such events are dropped */

    struct hlist_node all_node; /* caches_lock: all_caches */
    unsigned nr_children;       /* root caches: caches_lock */
};

/* ---- groups ------------------------------------------------------------ */

/* The stub that objects name.  memcg: the group, after offline an ancestor. */
struct obj_cgroup {
    ATOMIC(struct mem_cgroup *) memcg; /* written under groups_lock, walker */
    atomic_long_t refs;                /* the group, its caches, owner table entries, page runs */
    struct hlist_node node;            /* groups_lock: memcg->objcgs */
};

enum mem_cgroup_kind { STAT_PRIVATE, STAT_SHARED, STAT_RUNS, STAT_EXTERNAL, NR_STAT };

/* See oom.c. */
struct last_oom {
    struct mem_cgroup *memcg, *limited; /* NULL: it is gone, and was at the path below */
    char *memcg_path, *limited_path;    /* ours */
    size_t bytes;
    int64_t current, max;
    int64_t time_ns; /* 0: never */
    bool refused;
};

struct mem_cgroup {
    struct page_counter counter;
    struct mem_cgroup *parent; /* fixed */
    struct obj_cgroup *objcg;  /* fixed: its own stub */
    uint32_t tag;              /* fixed: never used twice; whose bytes a page holds */
    atomic_int_t id;           /* kmemcg_id, -1 before activation */
    atomic_int_t online;       /* cleared once */
    atomic_int_t
        reclaim_skip;   /* racy: small requests until reclaim, vain the last time, is tried */
    atomic_long_t refs; /* css references */
    void *owner;        /* opaque, control plane's */
    const char *path;   /* the control plane's; NULL: none */

    atomic_s64_t reserve;         /* -1: derived from max */
    atomic_s64_t overdraft_limit; /* -1: the reserve again */
    atomic_uint_t refusals;       /* at the ceiling since usage was below max */
    atomic_int_t oom_group;
    atomic_s64_t high;
    atomic_s64_t stat[NR_STAT]; /* bytes, this group alone */
    atomic_s64_t overdraft;     /* highest so far */
    atomic_u64_t events[MEMCG_NR_EVENTS], events_local[MEMCG_NR_EVENTS];
    atomic_u16_t high_crossed; /* HIGH was posted and usage is not below yet */
    atomic_u16_t high_pending; /* HIGH was posted and not handled yet */
    ATOMIC(enum mem_cgroup_alarmed) alarmed;
    atomic_s64_t collect_after; /* ns */
    atomic_int_t vain;          /* collections in a row that freed nothing */
    struct event_node high_event, release_event;
    struct last_oom last_oom; /* oom_lock */
    atomic_s64_t oom_tick;    /* of the coarse clock, when an alarm was noted last */

    /* groups_lock */
    struct hlist_head children; /* by sibling */
    struct hlist_node sibling;
    struct hlist_head objcgs; /* stubs that name this group */
    struct hlist_head heaps;  /* that have slots for the size classes; they go while stolen only */
};

#define MEMCG_STRUCT_BYTES 512 /* a size of metadata */
_Static_assert(sizeof(struct mem_cgroup) <= MEMCG_STRUCT_BYTES, "a size of metadata");
/* What a group costs, charged to its parent while there is the structure: that, its stub, and in each
 * size class's array a slot and its pending flag, twice, for arrays are doubled and then kept. */
#define MEMCG_GROUP_BYTES                             \
    (MEMCG_STRUCT_BYTES + sizeof(struct obj_cgroup) + \
     2 * NR_KMALLOC * (sizeof(struct kmem_cache *) + 1))
/* CHARGE_STACK: never refused; an alarm is posted past max. */
enum charge_kind { CHARGE_SMALL, CHARGE_OBJECT, CHARGE_FORCE, CHARGE_STACK };

/* What one entry asks for; lives on the caller's stack. */
struct request {
    size_t bytes; /* size asked for: decides whether the request may be refused */
    enum charge_kind kind;
    bool zero;                       /* a page run is to read as zero */
    bool object;                     /* kmem_cache_alloc(): a page run will not do */
    bool grows;                      /* a page run is to have room behind it, if there is some */
    bool reclaimed;                  /* second try */
    struct mem_cgroup *want_reclaim; /* set with -EAGAIN: whose subtree to reclaim */
};

/* ---- heaps and threads ------------------------------------------------- */

/* Each object may keep a slab that is empty otherwise: few at first, more where frees overflow
 * again and again. */
#define SHEAF_OBJECTS 64
#define SHEAF_BYTES ((size_t)32 << 10)
#define SHEAF_OBJECTS_MAX 512
#define SHEAF_OVERFLOW 512
#define SHEAF_BYTES_MAX ((size_t)1 << 20)

/*
 * The sheaf: free objects of the class's private slabs, in use to their slabs, so that taking
 * and giving one moves no slab.  Frees fill it up to sheaf_limit, and go to their slabs from
 * there on; the empty sheaf is given the active slab's free list whole.  After SHEAF_OVERFLOW frees
 * past it a full sheaf is given up until it is refilled: what it holds would keep slabs that are
 * empty otherwise, and scatter what is allocated next over all of them.
 * sheaf_flush() before anybody counts objects or looks for empty slabs.
 *   sheaf_room == sheaf_limit - length(sheaf); below 0 after a refill with more; given up: 0, empty
 * active is never NULL: slab_none when there is none.
 */
struct heap_slot {
    void *sheaf; /* first word of an object is the next; user caches and shared slabs: NULL */
    int32_t sheaf_room;
    uint16_t sheaf_limit;
    uint16_t overflow; /* frees past the full sheaf since it was refilled or flushed; may wrap */
    struct slab *active;
    struct hlist_head partial, full;
    struct hlist_head empty; /* kept, so that what comes and goes makes no slab */
    uint16_t nr_empty;
    uint8_t swings;             /* how often a slab was made after one had gone */
    bool gave_back;             /* an empty slab, since one was made */
    uint8_t sheaf_start;        /* sheaf_limit after a flush */
} __attribute__((aligned(64))); /* the fast path shifts an index */

/* What a group has of a class in shared slabs, this thread. */
struct shared_use {
    uint32_t objects; /* live */
    uint16_t allocs;  /* how many there were since a child was last asked for */
    uint8_t limit;    /* of the class's shared sheaf */
};

/*
 * The shared sheaf: free objects of shared slabs that are still the thread's current group's: charged
 * to it, in use to their slabs, owned by its entry, marked OWNER_GONE; the slabs are the thread's own.
 * A group takes more than it asked for, and keeps what it frees, up to shared_use.limit: twice as much
 * each time that it runs out or over, half when it was not needed until the thread left, and at most a
 * share of what the group has asked for of the class so far; so one with a few objects has none here.
 * shared_flush() before the thread's heap changes, and before anybody counts objects.
 */
#define SHARED_SHARE 4

#define SHARED_OBJECTS_MAX 64
#define SHARED_BYTES_MAX 4096

struct shared_sheaf {
    void *objects; /* first word of an object is the next */
    uint32_t nr;
};

/* One for each group that the thread has been in, so it is small until the group has slabs here. */
struct heap {                  /* the section of `thread` */
    struct heap_slot *kmalloc; /* NR_KMALLOC, or slots_none */
    struct shared_use shared[NR_KMALLOC];
    struct heap_slot *user; /* user caches by index - NR_KMALLOC */
    int nr_user;
    struct thread *thread;
    struct mem_cgroup *memcg;     /* NULL: the thread's shared slabs */
    int64_t stock;                /* bytes charged to memcg and not used */
    struct hlist_node node;       /* thread->heaps */
    struct hlist_node memcg_node; /* groups_lock: memcg->heaps */
    struct heap *collect_next;    /* walker_mutex */
};

#define STOLEN_BY_WALKER 1
#define STOLEN_SLOW 2 /* without a walker too: sections begin in thread_enter() */

struct thread {
    /* the pair of the protocol; see section.c */
    atomic_int_t busy;   /* the owner writes */
    atomic_int_t stolen; /* the walker writes: STOLEN_ bits */
    /* section */
    struct heap_slot *kmalloc;  /* heap->kmalloc: what malloc uses */
    ATOMIC(struct heap *) heap; /* of the current group */
    struct mem_cgroup *current;
    int stop_depth; /* memcg_stop_kmem_account nesting */
    struct heap *root_heap, *shared_heap;
    struct heap **by_id; /* kmemcg_id -> heap or NULL */
    int nr_by_id;
    struct hlist_head heaps; /* all, root_heap and shared_heap too */
    struct shared_sheaf shared[NR_KMALLOC];
    uint64_t shared_used; /* a bit for each class that was used since the last flush */
    struct memcg_failure failure;
    bool has_failure;
    int64_t grant;                 /* bytes left of it; below 0: the last took more */
    struct mem_cgroup *granted_by; /* whose ceiling it is past; for comparison only */
    bool is_orphan;
    ATOMIC(struct slab *) remote_slabs; /* any thread in its section: CAS push; owner takes whole */
    struct hlist_node node;             /* walker_mutex: all_threads or free_threads */
    bool wanted;                        /* walker_mutex: its holder steals this thread */
};

#endif
