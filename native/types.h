/* SPDX-License-Identifier: Apache-2.0 */
/*
 * types.h - every structure of the allocator, with what must hold of it; where objects lie in a
 * slab.
 *
 * A field's comment, or the one above its group of fields, says what protects it. "section" is the
 * read-side section of the thread (section.h), or a walker that has stolen the thread.  The name of
 * a lock alone means that the lock is held. "fixed" means that the field does not change after its
 * structure is made.  README.md lists all locks.
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

#define MEMCG_MAX_OWNERS 127 /* owners of one shared slab: seven bits of a byte hold the index */
#define OWNER_GONE 128u      /* the eighth bit: the object is free, or it lies in a shared sheaf */
#define SLAB_OWNERS 16u      /* entries that a shared slab has from the start */
#define MEMCG_TAG_SHARED (UINT32_MAX - 1) /* the tag of shared slabs' pages */
#define MEMCG_SMALL_SIZE ((size_t)1024)   /* bytes; up to it, only the ceiling refuses */

/* ---- slabs ------------------------------------------------------------ */

enum slab_place {
    SLAB_ACTIVE,  /* heap_slot->active */
    SLAB_PARTIAL, /* on heap_slot->partial: has live and free objects */
    SLAB_FULL,    /* on heap_slot->full */
    SLAB_EMPTY,   /* on heap_slot->empty: has no live object */
    SLAB_NO_OWNER_FULL,
    SLAB_NO_OWNER_PARTIAL /* on cache->partial */
};

struct slab_owner {                    /* one entry of a shared slab's owner table */
    struct obj_cgroup *objcg;          /* holds a reference while live > 0 */
    uint32_t live;                     /* number of live objects; those in `remote` count until they
                                        * are collected */
} __attribute__((packed, aligned(4))); /* a slab has many entries */

/*
 * A slab.  Its descriptor lies out of band, and virt_to_slab() finds it.  If cache == NULL, it is
 * the head of a page run.
 *   carved <= objects;  inuse == carved - length(freelist)
 *   inuse counts the objects in a sheaf, and those in `remote` until they are collected
 *   remote != NULL  <=>  the slab is on owner->remote_slabs, is about to be, or is being collected
 *   fast == owner   <=>  private, no live bytes, and active, partial or full (enum slab_place)
 */
struct slab {
    /* the owner's section; without an owner: cache->lock.  They share one cache line with `fast` */
    void *freelist;               /* the first word of a free object points to the next one */
    ATOMIC(struct thread *) fast; /* the thread whose frees are a push; NULL: slab_free() */
    /* size classes, while there is an owner: the slot whose sheaf takes frees */
    struct heap_slot *slot;
    uint32_t inuse;
    uint32_t last;       /* the value of inuse at which a free moves the slab to another list: full:
                          * objects, partial: 1; 0: no free does */
    atomic_u32_t carved; /* objects cut so far; other threads read it to check an index */
    uint32_t bytes;      /* fixed: the size of all objects */
    /* Private slabs of size classes: the sum of slab_sum() over the free list.  The sum for a whole
     * slab is known.  A set of as many objects in which one stands twice has another sum.  So an
     * object that was freed twice is found without a walk, before the pages go to another group. */
    uint64_t free_sum;

    /* fixed */
    char *base;
    uint64_t reciprocal; /* 2^64 / size, rounded up: slab_is_object() */
    uint32_t size;       /* bytes from one object to the next */
    struct kmem_cache *cache;
    atomic_u8_t *owner_of; /* shared: per object its index into owners, and OWNER_GONE */
    atomic_u8_t *live;     /* user caches and MEMCG_DEBUG: per object 1 while it is live */

    /* set to a thread under cache->lock; set back to NULL only while all threads are stolen */
    ATOMIC(struct thread *) owner;

    /* shared: the first SLAB_OWNERS entries, and the others, which are allocated when those are
     * taken; nr_owners counts both; the slab's owner writes them */
    struct slab_owner *owners, *more_owners;
    uint32_t nr_owners, owner_hint; /* owner_hint: the entry used last */

    /* fixed */
    uint32_t objects; /* the number that fits */
    uint32_t nr_pages;
    bool shared; /* each object has an owner of its own */

    /* any thread in its section */
    ATOMIC(void *) remote;    /* freed by other threads: CAS push; the owner takes all */
    struct slab *next_remote; /* by owner->remote_slabs */

    /* the owner's section; without an owner: cache->lock */
    enum slab_place place;
    /* highest `carved` before the slab was last cut anew: the pages of so many objects are
     * resident */
    uint32_t touched;
    /* the heap that has it as active, partial, full or empty; NULL without an owner */
    struct heap *heap;
    struct hlist_node slab_list; /* in a heap_slot's partial, full or empty, or in the cache's
                                  * partial */

    struct hlist_node cache_node; /* cache->lock: in cache->slabs */

    size_t metadata_bytes; /* the size of this descriptor with its tables */
};

/*
 * A block that is too large for a slab.  It is found by its page as a slab is, so it begins with a
 * struct slab.  That slab has no cache and no objects, so every check of the fast paths rejects it.
 */
struct page_run {
    struct slab slab;           /* base and metadata_bytes are set; all else is zero */
    struct obj_cgroup *objcg;   /* the stub it is charged to; holds a reference */
    size_t nr_pages;            /* runs_lock */
    struct kmem_cache *run_for; /* fixed: the root cache that it stands in for, or NULL */
    struct hlist_node node;     /* runs_lock: in all_runs */
    union {
        /* RUN_KEPT: the section of the thread whose heap keeps it; the one that was freed before */
        struct page_run *next_kept;
        struct sample *sample; /* RUN_SAMPLED: the block's record */
    };
    uint8_t state; /* enum run_state */
};

enum run_state {
    RUN_LIVE,
    RUN_KEPT,   /* free, and in heap->kept */
    RUN_SAMPLED /* live, and sampled (sample.c) */
};

/* NULL if it is a slab. */
static inline struct page_run *slab_to_run(const struct slab *slab)
{
    return slab->cache ? NULL : container_of(slab, struct page_run, slab);
}

static inline struct slab_owner *slab_owner_at(const struct slab *slab, uint32_t i)
{
    return i < SLAB_OWNERS ? &slab->owners[i] : &slab->more_owners[i - SLAB_OWNERS];
}

/* The owner-table entry of object `index` of a shared slab.  Also valid between the object's free
 * and its return to the slab's owner. */
static inline struct slab_owner *slab_owner(const struct slab *slab, long index)
{
    return slab_owner_at(slab, load_relaxed(&slab->owner_of[index]) & ~OWNER_GONE);
}

/* True if an object begins at p, which lies in one of the slab's pages.  Computes offset % size ==
 * 0 without a division (Lemire, Kaser, Kurz: Faster remainder by direct computation, 2019). */
static inline bool slab_is_object(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base); /* a slab is smaller than 2 GiB */

    return (offset * slab->reciprocal < slab->reciprocal) & (offset < slab->bytes);
}

/* What an object adds to slab->free_sum. */
static inline uint64_t slab_sum(const struct slab *slab, const void *p)
{
    uint64_t offset = (uint32_t)((const char *)p - slab->base);

    return offset * offset;
}

/* The index of the object that p lies in. p lies in one of the slab's pages. */
static inline uint32_t slab_index(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base);

    return (uint32_t)((unsigned __int128)offset * slab->reciprocal >> 64);
}

/* The index of the object that begins at p, or -1: none that has been cut begins there. */
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

/* Embedded in the structure that the event names, so a post allocates nothing.  The node of a
 * CREATE is allocated, because each pair of cache and group can have one. */
struct event_node {
    struct event_node *next; /* written by the poster until linked, then by the consumer */
    struct memcg_event event;
    atomic_int_t posted; /* 1 while it is in the queue */
};

/* ---- caches ------------------------------------------------------------ */

struct memcg_cache_array { /* published by a release store; old ones are kept until the root ends */
    int nr_slots;          /* there is one per kmemcg_id */
    size_t bytes;
    struct memcg_cache_array *retired;
    atomic_u8_t *pending; /* per slot: 1 from the post of CREATE to memcg_create_done() */
    /* the child: the publisher stores with release, readers load with acquire */
    ATOMIC(struct kmem_cache *) slot[];
};

#define CACHE_NAME_MAX 40 /* bytes; makes a cache 256 bytes, a size of metadata */

struct kmem_cache {
    /* fixed */
    int index; /* index of its heap slot: size classes have the first, user caches the others */
    bool user;
    bool counts; /* caches_lock: a child that is one of the root's nr_children */
    unsigned flags;
    uint32_t size, object_size, align;
    uint32_t objects, nr_pages; /* per slab */
    struct kmem_cache *root;    /* itself for a root cache */
    struct mem_cgroup *memcg;   /* children: the group; holds a css reference */
    struct obj_cgroup *objcg;   /* the stub that private slabs charge; root caches: the root's */
    void *cache_owner;          /* opaque: the control plane's object */
    char name[CACHE_NAME_MAX];  /* for reports and faults */

    /* root caches: writers hold memcg_slab_mutex (above native/), readers hold no lock */
    ATOMIC(struct memcg_cache_array *) memcg_caches;

    struct mutex lock;
    /* protected by lock */
    struct hlist_head slabs;             /* all slabs, by cache_node */
    struct hlist_head partial[2];        /* by slab_list: slabs without an owner, with a free
                                          * object; [1]: shared */
    atomic_long_t nr_slabs, total_pages; /* written under lock, read without it */
    atomic_int_t dead;                   /* 1: keeps no empty slab and serves no allocation */
    struct event_node empty;
    atomic_int_t refs;  /* one for its life, one for each event in the queue that names it */
    atomic_int_t ended; /* 1: such events are dropped */

    struct hlist_node all_node; /* caches_lock: in all_caches */
    unsigned nr_children;       /* root caches: caches_lock; without those of spare groups */
};

/* ---- groups ------------------------------------------------------------ */

/* The stub that charged objects name. memcg is the group, and after its offline an ancestor. */
struct obj_cgroup {
    ATOMIC(struct mem_cgroup *) memcg; /* written under groups_lock; a walker changes it */
    atomic_long_t refs;                /* held by the group, its caches, owner table entries, page
                                        * runs */
    struct hlist_node node;            /* groups_lock: in memcg->objcgs */
};

enum mem_cgroup_kind { STAT_PRIVATE, STAT_SHARED, STAT_RUNS, STAT_EXTERNAL, NR_STAT };

/* The last refusal or alarm at a group, see oom.c. */
struct last_oom {
    struct mem_cgroup *memcg, *limited; /* NULL: freed; its path is in the fields below */
    char *memcg_path, *limited_path;    /* allocated; freed by oom.c */
    size_t bytes;
    int64_t current, max;
    int64_t time_ns; /* CLOCK_REALTIME; 0: never */
    bool refused;
};

struct mem_cgroup {
    struct page_counter counter;
    struct mem_cgroup *parent; /* fixed */
    /* the group's own stub, and what a spare group gets instead when it is renewed (spare.c); NULL:
     * none */
    struct obj_cgroup *objcg, *next_objcg;
    uint32_t tag;        /* fixed: says whose bytes a page holds; never used twice */
    atomic_int_t id;     /* kmemcg_id, -1 before activation */
    atomic_int_t online; /* 1 until offline, then 0 */
    /* racy: the number of small requests to let pass before reclaim is tried again; set when it
     * freed nothing */
    atomic_int_t reclaim_skip;
    atomic_long_t refs; /* css references */
    void *owner;        /* opaque: the control plane's object */
    const char *path;   /* owned by the control plane; NULL: none */

    atomic_s64_t reserve;         /* bytes; -1: derived from max */
    atomic_s64_t overdraft_limit; /* bytes; -1: as much as the reserve */
    atomic_uint_t refusals;       /* at the ceiling since usage was last below max */
    atomic_u16_t oom_group;
    atomic_u8_t
        has_shrinkers; /* here or below; once set, it stays as long as the group is online */
    bool is_spare;     /* closed and kept (spare.c); the control plane's mutex protects it */
    atomic_s64_t high;
    atomic_s64_t stat[NR_STAT]; /* bytes, in this group alone */
    atomic_s64_t overdraft;     /* bytes past max + reserve, the most so far */
    atomic_u64_t events[MEMCG_NR_EVENTS], events_local[MEMCG_NR_EVENTS];
    atomic_u8_t high_crossed; /* HIGH was posted and usage has not fallen an eighth below it */
    atomic_u8_t high_pending; /* HIGH was posted and has not been handled */
    atomic_u16_t vain;        /* consecutive collections that freed nothing; at most UINT16_MAX */
    ATOMIC(enum mem_cgroup_alarmed) alarmed;
    atomic_u32_t nr_caches; /* child caches */
    uint32_t sample_every;  /* section; bytes from sample to sample; 0: none.  A walker writes it */
    ATOMIC(struct publish_slot *) slot; /* its record for other processes; NULL: none */
    atomic_s64_t collect_after;         /* ns of the collector's clock */
    struct event_node high_event, release_event;
    struct last_oom last_oom; /* oom_lock */
    atomic_s64_t oom_tick;    /* the coarse clock when an alarm was last noted, in ns */

    /* groups_lock */
    struct hlist_head children; /* by sibling */
    struct hlist_node sibling;
    struct hlist_head objcgs; /* the stubs that name this group */
    /* heaps with slots for the size classes; they are unlinked only while their threads are
     * stolen */
    struct hlist_head heaps;
};

#define MEMCG_STRUCT_BYTES 512 /* a size of metadata */
_Static_assert(sizeof(struct mem_cgroup) <= MEMCG_STRUCT_BYTES, "a size of metadata");
/* What a group costs in bytes.  Its parent is charged for it as long as the structure exists.  It
 * is the structure, its stub, and a slot and a pending flag in each size class's array.  Those are
 * counted twice, because arrays are doubled and the old ones kept. */
#define MEMCG_GROUP_BYTES                             \
    (MEMCG_STRUCT_BYTES + sizeof(struct obj_cgroup) + \
     2 * NR_KMALLOC * (sizeof(struct kmem_cache *) + 1))
/* CHARGE_STACK is never refused; past max it posts an alarm. CHARGE_C is a request of malloc's
 * callers; few of them are ever refused. */
enum charge_kind { CHARGE_SMALL, CHARGE_OBJECT, CHARGE_FORCE, CHARGE_STACK, CHARGE_C };

/* One request for memory; it lives on the caller's stack. */
struct request {
    size_t bytes; /* the size asked for, by which it may be refused */
    enum charge_kind kind;
    bool zero;                       /* a page run must read as zero */
    bool object;                     /* kmem_cache_alloc(): must not be served by a page run */
    bool grows;                      /* a page run gets free pages behind it, if there are some */
    size_t align_pages;              /* of a page run; 0: one */
    const void *caller;              /* CHARGE_C: an address in the code that asks */
    bool reclaimed;                  /* reclaim has run: this is the second try */
    bool forced;                     /* past max it is charged by force, whatever its size */
    bool sampled;                    /* it is due to be sampled */
    bool passed_over;                /* charged by force, and counted as a refusal at the ceiling */
    struct mem_cgroup *want_reclaim; /* the group whose subtree to reclaim; set with -EAGAIN */
};

/* ---- heaps and threads ------------------------------------------------- */

/* Limits of a sheaf.  Each object in it may keep a slab that is empty otherwise.  So it starts
 * small, and grows where frees overflow it again and again. */
#define SHEAF_OBJECTS 64
#define SHEAF_BYTES ((size_t)32 << 10)
#define SHEAF_OBJECTS_MAX 512
#define SHEAF_OVERFLOW 512
#define SHEAF_BYTES_MAX ((size_t)1 << 20)

/*
 * The sheaf: free objects of the class's private slabs.  Their slabs count them as in use, so
 * taking and giving one moves no slab.  Frees fill it up to sheaf_limit; further frees go to their
 * slabs.  An empty sheaf takes the active slab's whole free list.
 *
 * A full sheaf that SHEAF_OVERFLOW frees did not fit into is given up until the next refill.  Its
 * objects would keep slabs that are empty otherwise, and what is allocated next would be scattered
 * over all of them.
 *
 * sheaf_flush() must run before objects are counted and before empty slabs are looked for.
 *   sheaf_room == sheaf_limit - length(sheaf); it is below 0 after a refill with more objects than
 *   sheaf_limit.  A sheaf that was given up is empty, and its sheaf_room is 0.
 * active is never NULL; slab_none stands for no active slab.
 */
struct heap_slot {
    /* the first word of an object points to the next one; NULL for user caches and shared slabs */
    void *sheaf;
    int32_t sheaf_room;
    uint16_t sheaf_limit;
    uint16_t overflow; /* frees past the full sheaf since its refill or flush; may wrap */
    struct slab *active;
    struct hlist_head partial, full;
    struct hlist_head empty; /* kept, so that a heap that empties a slab and needs one soon makes
                              * none */
    uint16_t nr_empty;
    uint8_t swings;      /* how often a slab was made after an empty one was given back */
    bool gave_back;      /* an empty slab was given back since one was made */
    uint8_t sheaf_start; /* the value of sheaf_limit after a flush; 0 in a sampled group */
    /* sampled groups: bytes until the class's next sample, without those that lie in the sheaf; 0:
     * none was drawn yet.  In other groups it says nothing. */
    int64_t sample_left;
} __attribute__((aligned(64))); /* the fast path shifts an index instead of multiplying */

/* What this thread's heap of a group has of a class in shared slabs. */
struct shared_use {
    uint32_t objects; /* number of live objects */
    uint16_t allocs;  /* allocations since a child was last asked for */
    uint8_t limit;    /* how many objects the class's shared sheaf may hold */
};

/*
 * The shared sheaf: free objects of shared slabs that the thread's current group keeps.  They are
 * charged to it, its owner table entries count them, and they are marked OWNER_GONE.  Their slabs
 * belong to the thread and count them as in use.
 *
 * A group takes more objects than it asked for and keeps what it frees, up to shared_use.limit.
 * The limit doubles each time that the sheaf runs empty or overflows.  It is halved when most of
 * the sheaf was still there as the thread left the group.  It is at most a SHARED_SHARE-th of what
 * the group has asked for of the class so far, so a group with a few objects has no sheaf.
 *
 * shared_flush() must run before the thread's heap changes and before objects are counted.
 */
#define SHARED_SHARE 4

#define SHARED_OBJECTS_MAX 64
#define SHARED_BYTES_MAX 4096

struct shared_sheaf {
    void *objects; /* the first word of an object points to the next one */
    uint32_t nr;
};

/* A thread has one for each group that it has been in.  So a heap is small until the group has
 * slabs here. */
struct heap {                  /* protected by the section of `thread` */
    struct heap_slot *kmalloc; /* NR_KMALLOC of them, or slots_none */
    struct shared_use shared[NR_KMALLOC];
    struct heap_slot *user; /* slots of user caches, by index - NR_KMALLOC */
    int nr_user;
    struct thread *thread;
    struct mem_cgroup *memcg; /* NULL: this heap has the thread's shared slabs */
    int64_t stock;            /* bytes charged to memcg and not used */
    struct page_run *kept;    /* free page runs that are charged to memcg, the latest first */
    int64_t kept_bytes;       /* their bytes */
    /* sampled groups: their sheaves take the frees, and are moved to those of `kmalloc` when these
     * are empty; nothing else of them is used.  NULL: there are no slots, or no sampling */
    struct heap_slot *frees;
    uint32_t sample_every;        /* memcg's */
    int64_t sample_left;          /* as in heap_slot, for what lies in no slab of the group's own */
    struct hlist_node node;       /* in thread->heaps */
    struct hlist_node memcg_node; /* groups_lock: in memcg->heaps */
    struct heap *collect_next;    /* walker_mutex: the next heap to give back */
};

#define STOLEN_BY_WALKER 1
#define STOLEN_SLOW 2 /* set without a walker too: sections begin in thread_enter() */

struct thread {
    /* the two sides of the protocol in section.c */
    atomic_int_t busy;   /* written by the owner */
    atomic_int_t stolen; /* STOLEN_ bits, written by the walker */
    /* protected by the section */
    struct heap_slot *kmalloc;  /* heap->kmalloc, for malloc */
    ATOMIC(struct heap *) heap; /* the heap of the current group */
    struct mem_cgroup *current;
    int stop_depth; /* how often memcg_stop_kmem_account() is nested */
    struct heap *root_heap, *shared_heap;
    struct heap **by_id; /* kmemcg_id -> heap, or NULL */
    int nr_by_id;
    struct hlist_head heaps; /* all heaps, root_heap and shared_heap included */
    struct shared_sheaf shared[NR_KMALLOC];
    uint64_t shared_used; /* one bit per class: its shared sheaf was used since the last flush */
    struct memcg_failure failure;
    bool has_failure;
    int64_t grant;                 /* bytes that are left of the last grant; below 0: overdrawn */
    struct mem_cgroup *granted_by; /* the group past whose ceiling it is; compared, never
                                    * dereferenced */
    uint64_t random;               /* draws distances of samples; 0: not seeded */
    int64_t unheard; /* bytes that code that swallows errors got at a ceiling since it slept */
    bool is_orphan;
    /* slabs whose `remote` is not empty: any thread in its section pushes by CAS, the owner takes
     * all */
    ATOMIC(struct slab *) remote_slabs;
    struct hlist_node node; /* walker_mutex: in all_threads or free_threads */
    bool wanted;            /* walker_mutex: the walker steals this thread */
};

#endif
