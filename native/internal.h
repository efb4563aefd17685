/*
 * internal.h - every structure of the allocator above pages and counters.
 *
 * What protects what (the same words stand at the locks and at the functions):
 *
 *   section       the fields of the thread that is inside its read-side section
 *                 (thread->busy), or of a thread that a walker has stolen
 *   walker_mutex  the right to steal; the lists of threads.  Never taken inside a section
 *   orphan_lock   the orphan's section; taken before that section begins
 *   cache->lock   the slabs without an owner, and the list of all slabs of a cache
 *   caches_lock   the list of caches, the indices, the number of a root's children
 *   groups_lock   the group tree, the lists of stubs, and those of a group's heaps
 *   runs_lock     the list of page runs, and the length of a run
 *   oom_lock      the last refusal of every group (oom.c)
 *   pages_lock    the free pages (page_alloc.c), and how much of the arena is committed
 *   lock          in arena.c: the memory of descriptors
 *   depot_lock    the texts that U of MEMCG_DEBUG keeps (debug.c)
 *   fault_lock    the injected faults (fault.c)
 *
 * Order: walker_mutex or orphan_lock -> section -> cache->lock -> the others, which are leaves but
 * for this: metadata is allocated under depot_lock, and a fault is drawn under pages_lock and lock.
 * walker_mutex stands for a section where a walker or the maker of a thread takes a leaf.
 *
 * walker_mutex, orphan_lock and fault_lock are taken outside sections too.  Every other lock is taken
 * inside a section or with walker_mutex held, so a walker that has stolen all threads finds it free.
 *
 * Kernel: mm/slab.h, include/linux/memcontrol.h (2014; obj_cgroup: 2020).
 */
#ifndef MEMCG_INTERNAL_H
#define MEMCG_INTERNAL_H

#include <errno.h>
#include <string.h>

#include "arena.h"
#include "base.h"
#include "list.h"
#include "memcg.h"
#include "page_alloc.h"
#include "page_counter.h"
#include "size_class.h"

#define MEMCG_BATCH ((int64_t)32768)      /* bytes of stock taken at once */
#define MEMCG_REFUSE_SIZE ((size_t)65536) /* requests from here are refused past max */
#define MEMCG_SMALL_SIZE ((size_t)1024)   /* requests up to here are refused at the ceiling only */
#define MEMCG_REARM ((int64_t)1 << 20)     /* below max: an alarm may be raised again */
#define MEMCG_RESERVE_MIN ((int64_t)16 << 20)
/* What a thread may have by force after a refusal at the ceiling, in bytes: for its handler. Half as
 * much after each further one, down to what raising and catching an exception takes. */
#define MEMCG_GRANT ((int64_t)256 << 10)
#define MEMCG_GRANT_MIN ((int64_t)4 << 10)
#define MEMCG_MAX_OWNERS 127 /* owners of one shared slab: an index is a byte less a bit */
#define OWNER_GONE 128u      /* that bit: the object was freed */
#define SLAB_OWNERS 16u      /* entries that a shared slab has from the start */
#define MEMCG_TAG_SHARED (UINT32_MAX - 1) /* pages of shared slabs */
#ifdef __GLIBC__
#define MEMCG_TLS_MODEL __attribute__((tls_model("initial-exec")))
#else
#define MEMCG_TLS_MODEL /* musl has no static TLS to spare for dlopen */
#endif

/* ---- slabs ------------------------------------------------------------ */
enum slab_place {
    SLAB_ACTIVE,  /* heap_slot->active */
    SLAB_PARTIAL, /* on heap_slot->partial: live and free objects */
    SLAB_FULL,    /* on heap_slot->full */
    SLAB_EMPTY,   /* on heap_slot->empty: no live object */
    SLAB_NO_OWNER_FULL,
    SLAB_NO_OWNER_PARTIAL /* on cache->partial */
};

struct slab_owner { /* one entry of a shared slab's owner table */
    struct obj_cgroup *objcg; /* holds a reference while live > 0 */
    uint32_t live;            /* objects; what lies in `remote` counts until collected */
} __attribute__((packed, aligned(4))); /* there are many */

/*
 * A slab or (cache == NULL) a page run; out of band, found by virt_to_slab().
 *   carved <= objects;  inuse == carved - length(freelist)
 *   inuse counts what lies in `remote` until it is collected, and what lies in a sheaf
 *   remote != NULL  <=>  the slab is, or is about to be, on owner->remote_slabs
 *   fast == owner   <=>  private, no live bits, owned and not empty
 */
struct slab {
    /* the owner's section; without an owner: cache->lock.  One cache line with `fast` */
    void *freelist;      /* first word of a free object is the next */
    ATOMIC(struct thread *) fast; /* for this thread a free is a push; NULL: slab_free() */
    struct heap_slot *slot; /* size classes, while there is an owner: whose sheaf takes frees */
    uint32_t inuse;
    uint32_t last; /* the value of inuse at which a free moves the slab to another list:
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
    uint32_t objects;  /* how many fit */
    uint32_t nr_pages; /* of a slab (page runs: run_pages) */
    bool shared;       /* objects have owners of their own */

    /* any thread, inside its section */
    ATOMIC(void *) remote;    /* CAS; taken whole by the owner */
    struct slab *next_remote; /* owner->remote_slabs */

    /* the owner's section; without an owner: cache->lock */
    enum slab_place place;
    uint32_t touched; /* carved when it last began anew: so far its pages are there */
    struct heap *heap; /* the heap that has it as active, partial, full or empty; NULL without owner */
    struct hlist_node slab_list; /* heap_slot's partial, full or empty, or the cache's partial */

    struct hlist_node cache_node; /* cache->lock: cache->slabs */

    size_t metadata_bytes; /* of this descriptor with its tables */

    struct obj_cgroup *objcg; /* page runs: charged to; holds a reference */
    size_t run_pages;         /* page runs: length; runs_lock */
    struct kmem_cache *run_for; /* page runs: the root cache they stand in for, or NULL */
};

static inline struct slab_owner *slab_owner_at(const struct slab *slab, uint32_t i)
{
    return i < SLAB_OWNERS ? &slab->owners[i] : &slab->more_owners[i - SLAB_OWNERS];
}

/* The owner-table entry of object `index` of a shared slab.  Also valid between the object's free and
 * its return to the slab's owner. */
static inline struct slab_owner *slab_owner(const struct slab *slab, long index)
{
    return slab_owner_at(slab, load_relaxed(&slab->owner_of[index]) &
                                   ~OWNER_GONE);
}

/* ---- checked objects (debug.c) ------------------------------------------ */
#define SLAB_CONSISTENCY_CHECKS 1u /* F */
#define SLAB_RED_ZONE 2u           /* Z */
#define SLAB_POISON 4u             /* P */
#define SLAB_STORE_USER 8u         /* U */
#define SLAB_HARDENED 16u          /* H: objects are handed out in random order */
extern unsigned slab_debug;        /* fixed by memcg_init(); not 0: no fast path */
extern uint64_t freelist_secret;   /* the same; 0: free pointers are not encoded */
void debug_init(unsigned flags);
/* Ends the process; slab: of the object, which may be what is wrong. */
_Noreturn void slab_bug(const struct slab *slab, const void *object, const char *what);
size_t debug_size(size_t object_size, size_t align); /* between objects */
size_t debug_run_metadata(void);                     /* bytes of a page run's descriptor */
size_t debug_run_bytes(size_t bytes);                /* with the red zone */
size_t debug_usable_size(const struct slab *slab, const void *object); /* 0: not kept */
void *debug_carve(struct slab *slab, uint32_t left, uint32_t n); /* as slab_carve(), of `left` */
void debug_check_free(const struct slab *slab, const void *object); /* before it is handed out */
void debug_alloc(const struct slab *slab, void *object, size_t bytes, bool keep);
void debug_free(const struct slab *slab, void *object);
void debug_check_slab(const struct slab *slab);
_Noreturn void free_pointer_corrupt(const void *object);

/* ---- events ------------------------------------------------------------ */
/* Embedded in what it tells of, so posting allocates nothing; but for CREATE, of which there
 * could be one per cache and group, the node is made for the event. */
struct event_node {
    struct event_node *next; /* the poster until linked, then the consumer */
    struct memcg_event event;
    atomic_int_t posted; /* in the queue */
};
bool event_post(struct event_node *node, enum memcg_event_kind kind, struct mem_cgroup *memcg,
                struct kmem_cache *cache); /* false: posted already */
void event_fork_child(void);

/* ---- caches ------------------------------------------------------------ */
struct memcg_cache_array { /* published by a release store; old ones live until the root ends */
    int nr_slots; /* one per kmemcg_id */
    size_t bytes;
    struct memcg_cache_array *retired;
    atomic_u8_t *pending;      /* per slot: from the post of CREATE to memcg_create_done() */
    ATOMIC(struct kmem_cache *) slot[]; /* the child: release store by the publisher, acquire by readers */
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
    struct hlist_head slabs;      /* all, by cache_node */
    struct hlist_head partial[2]; /* by slab_list: no owner and a free object; [1]: shared */
    atomic_long_t nr_slabs, total_pages; /* written under lock, read racily */
    atomic_int_t dead;       /* keeps no empty slab, serves no allocation */
    struct event_node empty;
    atomic_int_t refs;  /* its life, and each event in the queue that names it */
    atomic_int_t ended; /* such events are dropped */

    struct hlist_node all_node; /* caches_lock: all_caches */
    unsigned nr_children;                   /* root caches: caches_lock */
};

/* ---- groups ------------------------------------------------------------ */
/* The stub that objects name.  memcg: the group, after offline an ancestor. */
struct obj_cgroup {
    ATOMIC(struct mem_cgroup *) memcg; /* written under groups_lock, walker */
    atomic_long_t refs;       /* the group, its caches, owner table entries, page runs */
    struct hlist_node node;   /* groups_lock: memcg->objcgs */
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
    struct mem_cgroup *parent;   /* fixed */
    struct obj_cgroup *objcg;    /* fixed: its own stub */
    uint32_t tag;                /* fixed: never used twice; whose bytes a page holds */
    atomic_int_t id;             /* kmemcg_id, -1 before activation */
    atomic_int_t online;         /* cleared once */
    atomic_int_t reclaim_skip;   /* racy: small requests until reclaim, vain the last time, is tried */
    atomic_long_t refs;          /* css references */
    void *owner;                 /* opaque, control plane's */
    const char *path;            /* the control plane's; NULL: none */

    atomic_s64_t reserve;        /* -1: derived from max */
    atomic_s64_t overdraft_limit; /* -1: the reserve again */
    atomic_uint_t refusals;      /* at the ceiling since usage was below max */
    atomic_int_t oom_group;
    atomic_s64_t high;
    atomic_s64_t stat[NR_STAT];  /* bytes, this group alone */
    atomic_s64_t overdraft;      /* highest so far */
    atomic_u64_t events[MEMCG_NR_EVENTS], events_local[MEMCG_NR_EVENTS];
    atomic_u16_t high_crossed;   /* HIGH was posted and usage is not below yet */
    atomic_u16_t high_pending;   /* HIGH was posted and not handled yet */
    ATOMIC(enum mem_cgroup_alarmed) alarmed;
    atomic_s64_t collect_after;  /* ns */
    atomic_int_t vain;           /* collections in a row that freed nothing */
    struct event_node high_event, release_event;
    struct last_oom last_oom;    /* oom_lock */
    atomic_s64_t oom_tick;       /* of the coarse clock, when an alarm was noted last */

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
#define MEMCG_GROUP_BYTES \
    (MEMCG_STRUCT_BYTES + sizeof(struct obj_cgroup) + 2 * NR_KMALLOC * (sizeof(struct kmem_cache *) + 1))
extern struct mem_cgroup root_mem_cgroup;
extern struct mutex groups_lock, runs_lock;

/* CHARGE_STACK: never refused; an alarm is posted past max. */
enum charge_kind { CHARGE_SMALL, CHARGE_OBJECT, CHARGE_FORCE, CHARGE_STACK };
/* What one entry asks for; lives on the caller's stack. */
struct request {
    size_t bytes;           /* size asked for: decides whether the request may be refused */
    enum charge_kind kind;
    bool zero;              /* a page run is to read as zero */
    bool object;            /* kmem_cache_alloc(): a page run will not do */
    bool grows;             /* a page run is to have room behind it, if there is some */
    bool reclaimed;         /* second try */
    struct mem_cgroup *want_reclaim; /* set with -EAGAIN: whose subtree to reclaim */
};
/* In a section.  0, -ENOMEM, or -EAGAIN: leave the section, reclaim, try again. */
int memcg_charge(struct mem_cgroup *memcg, size_t bytes, struct request *req);
void memcg_uncharge(struct mem_cgroup *memcg, size_t bytes);
/* Stock: charges only where no max is within two of it; nobody is told of a failure. */
bool memcg_charge_ahead(struct mem_cgroup *memcg, size_t bytes);
void memcg_stat_add(struct mem_cgroup *memcg, enum mem_cgroup_kind kind, int64_t bytes);
/* In a section: limited has refused memcg's request, or an alarm is due. */
void mem_cgroup_note_oom(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                         bool refused);
void mem_cgroup_leave_oom(struct mem_cgroup *memcg);
struct obj_cgroup *objcg_alloc(struct mem_cgroup *memcg);
void objcg_get(struct obj_cgroup *objcg);
void objcg_put(struct obj_cgroup *objcg);
bool mem_cgroup_is_descendant(const struct mem_cgroup *memcg, const struct mem_cgroup *top);
void mem_cgroup_link_heap(struct heap *heap);       /* it has got slots; section or walker_mutex */
void mem_cgroup_unlink_heap(struct heap *heap);     /* stolen */
extern uint64_t collect_not_before; /* ns; walker_mutex: when a reader may stop others again */

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
    uint8_t swings; /* how often a slab was made after one had gone */
    bool gave_back; /* an empty slab, since one was made */
    uint8_t sheaf_start; /* sheaf_limit after a flush */
} __attribute__((aligned(64))); /* the fast path shifts an index */
/* The slots of a heap without slabs of its own: empty sheaves, and nothing to write to. */
extern const struct heap_slot slots_none[NR_KMALLOC];

/* What a group has of a class in shared slabs, this thread. */
struct shared_use {
    uint32_t objects; /* live */
    uint16_t allocs;  /* how many there were since a child was last asked for */
    uint8_t limit;    /* of the class's shared sheaf */
};
#define PROMOTE_ALLOCS 4096 /* so many, however few live: shared objects cost more each */
/* What the class's next child costs in allocations: PROMOTE_ALLOCS for each that there is and itself.
 * A child wastes what its group does not use of its slabs; with many it is most of them. */
extern atomic_u16_t promote_allocs[NR_KMALLOC]; /* written under caches_lock */

/* The largest size is SHEAF_BYTES, so it is one object at least. */
static inline uint8_t sheaf_start(size_t size)
{
    return (uint8_t)(size * SHEAF_OBJECTS > SHEAF_BYTES ? SHEAF_BYTES / size : SHEAF_OBJECTS);
}

static inline uint16_t sheaf_limit_max(size_t size)
{
    return (uint16_t)(size * SHEAF_OBJECTS_MAX > SHEAF_BYTES_MAX ? SHEAF_BYTES_MAX / size
                                                                 : SHEAF_OBJECTS_MAX);
}

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
struct heap { /* the section of `thread` */
    struct heap_slot *kmalloc; /* NR_KMALLOC, or slots_none */
    struct shared_use shared[NR_KMALLOC];
    struct heap_slot *user; /* user caches by index - NR_KMALLOC */
    int nr_user;
    struct thread *thread;
    struct mem_cgroup *memcg; /* NULL: the thread's shared slabs */
    int64_t stock;            /* bytes charged to memcg and not used */
    struct hlist_node node;       /* thread->heaps */
    struct hlist_node memcg_node; /* groups_lock: memcg->heaps */
    struct heap *collect_next;            /* walker_mutex */
};

#define STOLEN_BY_WALKER 1
#define STOLEN_SLOW 2 /* without a walker too: sections begin in thread_enter() */
struct thread {
    /* the pair of the protocol; see thread.c */
    atomic_int_t busy;   /* the owner writes */
    atomic_int_t stolen; /* the walker writes: STOLEN_ bits */
    /* section */
    struct heap_slot *kmalloc; /* heap->kmalloc: what malloc uses */
    ATOMIC(struct heap *) heap; /* of the current group */
    struct mem_cgroup *current;
    int stop_depth;            /* memcg_stop_kmem_account nesting */
    struct heap *root_heap, *shared_heap;
    struct heap **by_id;       /* kmemcg_id -> heap or NULL */
    int nr_by_id;
    struct hlist_head heaps;   /* all, root_heap and shared_heap too */
    struct shared_sheaf shared[NR_KMALLOC];
    uint64_t shared_used;      /* a bit for each class that was used since the last flush */
    struct memcg_failure failure;
    bool has_failure;
    int64_t grant;                 /* bytes left of it; below 0: the last took more */
    struct mem_cgroup *granted_by; /* whose ceiling it is past; for comparison only */
    bool is_orphan;
    ATOMIC(struct slab *) remote_slabs; /* any thread in its section: CAS push; owner takes whole */
    struct hlist_node node;    /* walker_mutex: all_threads or free_threads */
    bool wanted;               /* walker_mutex: its holder steals this thread */
};
extern struct slab slab_none;
extern __thread struct thread *memcg_self MEMCG_TLS_MODEL;

/* In a section: a request of an object of s, or (NULL) of a page run. */
bool __should_fail_request(struct thread *self, struct kmem_cache *s, const struct request *req);
static inline bool should_fail_request(struct thread *self, struct kmem_cache *s,
                                       const struct request *req)
{
    return unlikely(load_relaxed(&faults_armed)) &&
           __should_fail_request(self, s, req);
}
void fault_fork_child(void);

struct thread *thread_enter_slow(void);
void thread_steal_all(void);    /* takes walker_mutex; not inside a section */
void thread_release_all(void);
/* The same of some: walker_lock() wants none, thread_steal_wanted() steals those that are. */
void walker_lock(void);         /* takes walker_mutex; not inside a section */
void thread_steal_wanted(void); /* walker_mutex held; ended by thread_release_all() */
void walker_unlock(void);       /* nobody was stolen */
extern struct hlist_head all_threads; /* walker_mutex */
#define for_each_thread(t) hlist_for_each_entry(t, &all_threads, node)
bool thread_is_forking(void);   /* this thread is between fork's handlers: it is the walker */
int thread_init(void);
extern struct mutex orphan_lock;

int heap_init(struct thread *thread);               /* root_heap and shared_heap */
void thread_set_heap(struct thread *thread, struct heap *heap); /* section or stolen */
struct heap_slot *__heap_slot(struct heap *heap, int index, bool grow);
/* A cache's slot.  NULL: there is none, or (grow; section) no memory for it. */
static inline struct heap_slot *heap_slot(struct heap *heap, int index, bool grow)
{
    return likely(index < NR_KMALLOC && heap->kmalloc != slots_none)
               ? &heap->kmalloc[index] : __heap_slot(heap, index, grow);
}
struct heap *heap_of(struct thread *self, struct mem_cgroup *memcg);  /* section */
struct heap *heap_lookup(struct thread *self, struct mem_cgroup *memcg); /* section; or NULL */
size_t heap_drain_stock(struct heap *heap);         /* section or stolen */
void heap_hand_over(struct heap *heap);             /* all threads stolen */
void heap_drop(struct heap *heap);                  /* stolen: hand over, unlink, free */
void heap_hand_over_cache(struct heap *heap, struct kmem_cache *s); /* stolen */
size_t heap_shrink(struct heap *heap, struct kmem_cache *s); /* stolen: drop empty slabs; pages */
bool heap_holds_free(const struct heap *heap);      /* walker_mutex held; racy unless stolen */
void heap_give_back(struct heap *heap);             /* stolen: what heap_holds_free() saw */
void heap_flush(struct heap *heap, struct kmem_cache *s); /* section or stolen; NULL: all sheaves */
void heap_collect(struct thread *self);             /* section or stolen: take remote frees in */
void thread_collect(struct thread *self);           /* the same, and shared_flush() */

struct slab *slab_new(struct heap *heap, struct kmem_cache *s, bool shared, struct request *req);
bool slab_is_valid(const struct slab *slab);
void slab_destroy(struct slab *slab);               /* empty, on no list but the cache's */
void *slab_pop(struct slab *slab);                  /* owner; NULL: full */
/* A chain of nr objects.  Owner's section or cache->lock. */
void slab_put(struct slab *slab, void *first, void *last, uint32_t nr);
/* Owner's section, the active slab full: another of the slot's becomes active. NULL: none has room. */
struct slab *slab_next(struct heap_slot *slot);
void slab_put_chain(struct slab *slab, void *first); /* the same, up to NULL */
void *sheaf_refill(struct heap_slot *slot, struct slab *slab); /* section; an object */
void sheaf_flush(struct heap_slot *slot);           /* section or stolen: objects to their slabs */
void slab_set_place(struct slab *slab, enum slab_place place); /* owner's section or cache->lock */
struct slab *slab_active(struct thread *self, struct heap *heap, struct kmem_cache *s, bool shared,
                         struct request *req);
int slab_free(struct thread *self, struct slab *slab, void *object);
size_t cache_shrink_stolen(struct kmem_cache *s);   /* all threads stolen; pages */
extern struct hlist_head all_caches;                /* caches_lock */
extern struct mutex caches_lock;
extern struct kmem_cache *kmalloc_caches[NR_KMALLOC];
int slab_init(void);
void kmem_cache_put(struct kmem_cache *s);          /* section */
void *cache_alloc(struct thread *self, struct kmem_cache *root, struct request *req);

void *shared_alloc(struct thread *self, struct kmem_cache *root, struct request *req);
/* In a section.  An object in use of the current group in a slab of this thread's goes into the
 * sheaf.  false: slab_free() has to see to it. */
bool shared_free(struct thread *self, struct slab *slab, void *object);
void shared_flush(struct thread *self); /* section or stolen */
/* What the fast path goes on with; both end its section.  Its own argument comes first, so that it
 * stays in its register. */
void *malloc_past_sheaf(size_t size, struct thread *self, const struct heap_slot *slot);
void free_past_sheaf(void *object, struct thread *self, struct slab *slab); /* slab may be NULL */
void shared_uncharge(struct thread *self, struct slab *slab, long index); /* the freeing thread */
/* nr objects of one owner are home: its entry loses them.  The slab's owner, or cache->lock held. */
void shared_release(struct slab *slab, long index, uint32_t nr);
extern atomic_size_t promote_bytes;

struct slab *run_alloc(struct thread *self, struct request *req);
void shared_count(struct heap *heap, struct kmem_cache *root, int64_t nr); /* for promotion */
extern struct hlist_head all_runs;                  /* runs_lock, by cache_node */
#endif
