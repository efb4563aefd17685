/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memcg.h - the data plane's public interface.
 *
 * Everything above native/ (the binding, the C tests) includes this header, and kmalloc.h and
 * kmem_cache.h for the fast paths.  Functions return 0 or a negative
 * errno; pointers are NULL on failure.  Sizes are bytes unless the name says
 * nr_pages.  Unless a comment says otherwise a function may be called from any
 * thread, with or without the GIL, never blocks for long and never calls back.
 */
#ifndef MEMCG_H
#define MEMCG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT 12
#define PAGE_SIZE ((size_t)1 << PAGE_SHIFT)
#define PAGE_COUNTER_MAX INT64_MAX   /* "max": no limit */
#define KMALLOC_MAX_CACHE_SIZE 32768 /* larger requests are page runs */

struct mem_cgroup;
struct kmem_cache;
struct thread;

/* ---- start ---------------------------------------------------------- */
struct memcg_config {
    size_t arena_bytes;   /* address range wished for; 0: default; halved until it fits */
    size_t promote_bytes; /* live shared bytes of one class that ask for a child cache */
    unsigned debug;       /* of memcg_parse_debug() */
};
/*
 * Letters, as slab_debug's: F the free list is walked at each allocation and free, Z red zones,
 * P poison, U who allocated and freed; H free pointers are encoded and objects are handed out in
 * random order.  "1": FZPU; "" and "0": none.  -EINVAL: another letter.  No fast path with any.
 * What is found corrupt is reported to stderr and the process aborts.
 */
int memcg_parse_debug(const char *text, unsigned *flags);
void memcg_validate(void); /* all objects and structures, now; nothing without a letter */
/* "heap", "cache" or "pages": what is not as it must be; or NULL. */
const char *memcg_find_invalid(void);
/* For U: writes the code that asks now to text (n bytes), or "".  Inside the data plane: must not allocate. */
typedef void (*memcg_caller_fn)(char *text, size_t n);
void memcg_set_caller(memcg_caller_fn caller);
int memcg_init(const struct memcg_config *config); /* once; later calls return 0 */
bool memcg_owns(const void *p);                    /* p lies in one of our ranges */
void memcg_set_promote_bytes(size_t bytes);

/* ---- groups (css.c, memcontrol.c) -------------------------------------- */
struct mem_cgroup *mem_cgroup_root(void);
/* A new group under parent, which is charged for it until mem_cgroup_free(); the caller holds the
 * first css reference.  NULL: no memory, or a limit (memcg_last_failure() tells). */
struct mem_cgroup *mem_cgroup_alloc(struct mem_cgroup *parent);
void mem_cgroup_set_id(struct mem_cgroup *memcg, int kmemcg_id); /* activation; -1 before */
int mem_cgroup_id(const struct mem_cgroup *memcg);
struct mem_cgroup *mem_cgroup_parent(const struct mem_cgroup *memcg);
void mem_cgroup_set_owner(struct mem_cgroup *memcg, void *owner); /* opaque back pointer */
void *mem_cgroup_owner(const struct mem_cgroup *memcg);
/*
 * No further charge reaches the group: threads that stand in it move to the nearest online
 * ancestor, heaps are handed over, stock drains, the stub points to the parent (its remaining
 * charges are the parent's), and a grace period has passed on return.  Idempotent.
 */
void mem_cgroup_offline(struct mem_cgroup *memcg);
/* Its name for reports and fault_attr.group; the caller's, as long as the group. */
void mem_cgroup_set_path(struct mem_cgroup *memcg, const char *path);
const char *mem_cgroup_path(const struct mem_cgroup *memcg); /* NULL: none was set */
bool mem_cgroup_online(const struct mem_cgroup *memcg);
bool css_tryget(struct mem_cgroup *memcg); /* false once offline */
void css_get(struct mem_cgroup *memcg);
void css_put(struct mem_cgroup *memcg); /* the last one posts MEMCG_EVENT_RELEASE */
long css_refs(const struct mem_cgroup *memcg);
void mem_cgroup_free(struct mem_cgroup *memcg); /* after RELEASE; waits for a grace period */

enum mem_cgroup_limit { MEMCG_MAX, MEMCG_HIGH, MEMCG_RESERVE, MEMCG_OVERDRAFT };
void mem_cgroup_set_limit(struct mem_cgroup *memcg, enum mem_cgroup_limit which, int64_t bytes);
int64_t mem_cgroup_get_limit(const struct mem_cgroup *memcg, enum mem_cgroup_limit which);
/* The process ends when a group has been refused MEMCG_OOM_REFUSALS times at its ceiling without
 * having fallen below max.  cgroup v2: memory.oom.group. */
#define MEMCG_OOM_REFUSALS 64
void mem_cgroup_set_oom_group(struct mem_cgroup *memcg, bool on);
bool mem_cgroup_oom_group(const struct mem_cgroup *memcg);

enum mem_cgroup_event_item {
    MEMCG_EV_HIGH,      /* high was crossed */
    MEMCG_EV_MAX,       /* a charge met max (before reclaim) */
    MEMCG_EV_OOM,       /* an alarm was posted or a request was refused */
    MEMCG_EV_OOM_KILL,  /* a MemcgOOM was delivered (counted by the binding) */
    MEMCG_EV_RESERVE,   /* charged by force into the reserve */
    MEMCG_EV_OVERDRAFT, /* charged by force past max + reserve */
    MEMCG_EV_FAIL,      /* requests refused */
    MEMCG_NR_EVENTS
};
struct mem_cgroup_stat {
    int64_t usage;        /* charged, stock included, subtree included */
    int64_t current;      /* usage less the stock of the subtree: what users read */
    int64_t watermark;    /* highest usage since the start or the last reset */
    int64_t slab_private; /* this group: pages of its child caches (root: of its own slabs) */
    int64_t slab_shared;  /* this group: class bytes of its objects in shared slabs */
    int64_t page_runs;    /* this group: bytes of page runs */
    int64_t external;     /* this group: charged through mem_cgroup_charge */
    int64_t overdraft;    /* this group: highest bytes past max + reserve so far */
    uint64_t events[MEMCG_NR_EVENTS];       /* this group and below */
    uint64_t events_local[MEMCG_NR_EVENTS]; /* this group's own limit */
};
/*
 * Takes out of the subtree's charge what was freed and waits: for its thread, which may never run
 * again, or for its next use there (sheaves, empty slabs of the size classes; those of users' caches
 * stay).  Before figures are read; nothing to take: no thread is disturbed.  A caller in a loop
 * beside threads that allocate waits, so that they stand still for a fifth of the time at most.
 */
void mem_cgroup_collect(struct mem_cgroup *memcg);
void mem_cgroup_read_stat(struct mem_cgroup *memcg, struct mem_cgroup_stat *stat);
void mem_cgroup_reset_watermark(struct mem_cgroup *memcg);
void mem_cgroup_count_event(struct mem_cgroup *memcg, enum mem_cgroup_event_item item);
int64_t mem_cgroup_usage(const struct mem_cgroup *memcg); /* as in the stat, without a walk */
/* Set by the code that raised an alarm, or saw that there was no garbage; cleared by the first charge
 * well below every max. */
enum mem_cgroup_alarmed { MEMCG_NOT_ALARMED, MEMCG_ALARMED, MEMCG_COLLECTED_IN_VAIN };
void mem_cgroup_set_alarmed(struct mem_cgroup *memcg, enum mem_cgroup_alarmed alarmed);
enum mem_cgroup_alarmed mem_cgroup_alarmed(const struct mem_cgroup *memcg);
/* For the collector of the group's garbage: not before this time (ns of its clock), after so many
 * collections in vain. */
int64_t mem_cgroup_collect_after(const struct mem_cgroup *memcg);
int mem_cgroup_vain(const struct mem_cgroup *memcg);
void mem_cgroup_set_collect_after(struct mem_cgroup *memcg, int64_t ns, int vain);
/* From the post of HIGH until its receiver says that it has reclaimed. Meanwhile requests that
 * would be refused for their size go into the reserve. */
int mem_cgroup_high_pending(const struct mem_cgroup *memcg);
void mem_cgroup_high_done(struct mem_cgroup *memcg);
/* Memory that is not ours (a mapping, say).  try_: -ENOMEM past max and nothing is charged. */
int mem_cgroup_try_charge(struct mem_cgroup *memcg, size_t bytes);
void mem_cgroup_charge(struct mem_cgroup *memcg, size_t bytes); /* by force */
void mem_cgroup_uncharge(struct mem_cgroup *memcg, size_t bytes);
/* Drop empty slabs and drain stock in the subtree; returns bytes uncharged. */
size_t mem_cgroup_reclaim(struct mem_cgroup *memcg);
/* The last refusal of this thread, for error texts: the group that asked, and the one whose limit
 * was met. */
struct memcg_failure {
    struct mem_cgroup *memcg;   /* charged group */
    struct mem_cgroup *limited; /* the group whose max was met */
    size_t bytes;               /* size asked for */
    int64_t current, max;       /* of `limited`, when it happened */
};
bool memcg_last_failure(struct memcg_failure *failure);
/* The last refusal or alarm of the limit of memcg or of a group below it; false: never. */
struct memcg_oom {
    char *memcg,
        *limited; /* paths, of groups that may be gone; "": the root; the caller frees both */
    size_t bytes; /* and the rest as in memcg_failure */
    int64_t current, max;
    int64_t time_ns; /* CLOCK_REALTIME */
    bool refused;    /* false: an alarm */
};
bool mem_cgroup_last_oom(struct mem_cgroup *memcg, struct memcg_oom *oom);

/* ---- this thread ------------------------------------------------------ */
/* NULL means root. An offline group means its nearest online ancestor. */
void memcg_set_current(struct mem_cgroup *memcg);
struct mem_cgroup *memcg_get_current(void);
/* The kernel's memcg_{stop,resume}_kmem_account: nestable; meanwhile charges go to
 * the root by force, nothing is refused, nothing is asked for. */
void memcg_stop_kmem_account(void);
void memcg_resume_kmem_account(void);
void memcg_synchronize(void); /* grace period; never call inside the data plane */

/* ---- memory of any size ------------------------------------------------ */
/* size 0 is served as 1.  Alignment: 16; above 512 bytes 64 where the class (memcg_usable_size) is a
 * multiple of 64, a page where it is a multiple of a page.  NULL before memcg_init().  As libc's,
 * they are not for signal handlers. */
void *memcg_malloc(size_t size);
void *memcg_calloc(size_t size);
/* A stack's: never refused for a limit, whatever its size; past max an alarm is posted. */
void *memcg_malloc_stack(size_t size);
void *memcg_realloc(void *p, size_t size); /* p must be ours; shrinking never fails */
void memcg_free(void *p);                  /* p must be ours */
size_t memcg_usable_size(const void *p);

/* ---- slab caches (kmem_cache.c) ---------------------------------------- */
struct kmem_cache_info { /* a line of slabinfo, in the kernel's columns */
    uint64_t active_objs, num_objs, objsize, objperslab, pagesperslab;
    uint64_t active_slabs, num_slabs, nr_pages;
};
int kmalloc_nr_caches(void);
struct kmem_cache *kmalloc_cache(int index); /* root caches of the size classes, ascending */
/* A root cache (memcg NULL) or the child of root for memcg (size, align, flags are the root's).
 * A child takes a css reference; the code that destroys it drops it. */
#define KMEM_CACHE_ZERO 1u /* a new slab reads as zero (then a constructor can mark its objects) */
struct kmem_cache *kmem_cache_create_root(size_t object_size, size_t align, unsigned flags);
struct kmem_cache *kmem_cache_create_child(struct mem_cgroup *memcg, struct kmem_cache *root);
void kmem_cache_set_owner(struct kmem_cache *s, void *owner);
void kmem_cache_set_name(struct kmem_cache *s, const char *name); /* long ones are cut */
void *kmem_cache_owner(const struct kmem_cache *s);
size_t kmem_cache_size(const struct kmem_cache *s);        /* object with padding */
size_t kmem_cache_object_size(const struct kmem_cache *s); /* as asked for */
/* From root `s`, for this thread's group: its child if published, else the root. */
void *kmem_cache_alloc(struct kmem_cache *s);
/* s: the root or any child of it. 0; -EINVAL: not an object of this root (or inside one);
 * -EALREADY: free already. */
int kmem_cache_free(struct kmem_cache *s, void *object);
/* The cache that serves p (child or root) and the object's start; NULL: not a slab object. */
struct kmem_cache *kmem_cache_of(const void *p, void **object);
/* The first object of the slab that holds live object p, and how many there are. */
void *kmem_cache_slab_of(const void *p, size_t *objects);
size_t kmem_cache_shrink(struct kmem_cache *s); /* frees empty slabs everywhere; pages freed */
/* 0: no slab left, and it serves nothing from now on; -EBUSY: objects live, it goes on. */
int kmem_cache_shutdown(struct kmem_cache *s);
void kmem_cache_free_struct(struct kmem_cache *s); /* after shutdown, unpublish and synchronize */
/* Dead: keeps no empty slab; every free that empties it posts MEMCG_EVENT_EMPTY. */
void kmem_cache_set_dead(struct kmem_cache *s);
long kmem_cache_nr_pages(const struct kmem_cache *s);
void kmem_cache_read_info(struct kmem_cache *s, struct kmem_cache_info *info);
/* memcg_caches: one slot per kmemcg_id. Writers hold memcg_slab_mutex above. */
int memcg_update_cache_size(struct kmem_cache *root, int nr_slots); /* grow; old array retired */
int memcg_cache_array_size(const struct kmem_cache *root);
void memcg_cache_publish(struct kmem_cache *root, int id, struct kmem_cache *child);
struct kmem_cache *cache_from_memcg_idx(const struct kmem_cache *root, int id);
/* The CREATE item for (root, memcg) was handled: the pair may be asked for again. */
void memcg_create_done(struct kmem_cache *root, struct mem_cgroup *memcg);
/* Every live block charged to memcg itself (not below; of an offline group: that was); stops when
 * fn returns nonzero. fn runs while the thread that owns the slab is stolen: it must not allocate. */
typedef int (*memcg_block_fn)(void *arg, void *block, size_t size, struct kmem_cache *cache);
void mem_cgroup_for_each_block(struct mem_cgroup *memcg, memcg_block_fn fn, void *arg);

/* ---- events ---------------------------------------------------------- */
enum memcg_event_kind {
    MEMCG_EVENT_NONE,
    MEMCG_EVENT_CREATE,  /* cache = root, memcg (a css reference is the receiver's) */
    MEMCG_EVENT_EMPTY,   /* cache: a dead child may be empty now (memcg: as above) */
    MEMCG_EVENT_HIGH,    /* memcg: high was crossed (a css reference is the receiver's) */
    MEMCG_EVENT_RELEASE, /* memcg: its last css reference is gone */
};
struct memcg_event {
    enum memcg_event_kind kind;
    struct mem_cgroup *memcg;
    struct kmem_cache *cache;
};
bool memcg_next_event(struct memcg_event *event); /* one consumer at a time */
/* Called when the queue turns non-empty, from any context, inside the data plane:
 * may start a thread, must not allocate from us or wait. */
void memcg_set_waker(void (*waker)(void));
void memcg_not_woken(void); /* the waker could not: the next event calls it again */
/* What became of a request past max. refusals: at the ceiling of `limited` since it was below max. */
enum memcg_outcome { MEMCG_CHARGED, MEMCG_REFUSED, MEMCG_REFUSED_AT_CEILING };
/* Called on the offending thread, inside the data plane, when a small request was charged past
 * max, or a request was refused: must only set flags (the binding's alarm). `limited` is the
 * group whose max was met. */
typedef void (*memcg_alarm_fn)(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                               enum memcg_outcome outcome, unsigned refusals);
void memcg_set_alarm(memcg_alarm_fn alarm);
/* Called there too, when a request of `memcg` for so many bytes is about to go past max (from 64 KiB),
 * past the reserve or past the overdraft: true refuses it. Without it, those from 64 KiB are, those over
 * 1 KiB, and any. */
enum memcg_bound { MEMCG_AT_MAX, MEMCG_AT_RESERVE, MEMCG_AT_CEILING };
typedef bool (*memcg_refusal_fn)(struct mem_cgroup *memcg, size_t bytes, enum memcg_bound bound);
void memcg_set_refusal(memcg_refusal_fn refusal);
/* Called there when a large request would go into the reserve of `limited` while its garbage is
 * collected: false where no collector can run before this request returns. */
typedef bool (*memcg_collector_fn)(void);
/* called: there too, when this thread has posted MEMCG_EVENT_HIGH. */
void memcg_set_collector(void (*called)(void), memcg_collector_fn can_run);
/* Called there when memory.oom.group has the process end. */
typedef void (*memcg_oom_group_fn)(struct mem_cgroup *memcg, struct mem_cgroup *limited,
                                   unsigned refusals);
void memcg_set_oom_group_fn(memcg_oom_group_fn end);
/* Called there too, before a request is refused: whether the code that makes it can be refused. */
enum memcg_requester {
    MEMCG_REQUESTER_ANY,
    MEMCG_REQUESTER_UNHEARD, /* it may swallow the error: it has the reserve first */
    MEMCG_REQUESTER_FRAGILE, /* it crashes, or loses data: it is charged by force */
};
typedef enum memcg_requester (*memcg_requester_fn)(void);
void memcg_set_requester(memcg_requester_fn requester);

/* ---- injected faults (fault.c) ---------------------------------------- */
enum fault_point {
    FAULT_ALLOC,    /* a request for memory: malloc and its kin, kmem_cache_alloc */
    FAULT_METADATA, /* the core's descriptors and tables */
    FAULT_PAGES,    /* a run of pages, for a slab or a large block */
    FAULT_MMAP,     /* mmap and mprotect */
    FAULT_MADVISE,
    FAULT_THREAD, /* the start of a worker */
};
struct fault_attr {
    unsigned points;    /* bits of fault_point */
    uint64_t nth;       /* from the nth eligible request on; 0: by probability */
    double probability; /* 0 to 1 */
    uint64_t seed;      /* of probability */
    uint64_t times;     /* at most so many faults */
    size_t min_size, max_size;
    bool small;        /* malloc's requests of 1 KiB and less too */
    const char *cache; /* FAULT_ALLOC: of this root cache and its children; NULL: any */
    const char *group; /* FAULT_ALLOC: in this group and below; NULL: any.  Both strings are the
                             caller's and stay while armed */
    bool this_thread;  /* after memcg_init(); else the requests of every thread */
};
struct fault_count {
    uint64_t eligible, faults;
};
int memcg_arm_faults(const struct fault_attr *attr); /* -EBUSY: others are armed */
void memcg_disarm_faults(void);
struct fault_count memcg_fault_count(void); /* since they were armed */

/* ---- the whole ------------------------------------------------------- */
struct memcg_global_stat {
    size_t reserved, committed;            /* arena address range; made readable */
    size_t pages_in_use, pages_free_dirty; /* bytes */
    size_t metadata;                       /* descriptors, tables, heaps */
    size_t nr_threads, nr_slabs, slab_shared_bytes, slab_shared_used;
};
void memcg_read_global_stat(struct memcg_global_stat *stat);
/* The process is to have so many bytes of address space: give back what is reserved beyond two thirds
 * of it and not in use. */
void memcg_fit(size_t space);
size_t memcg_trim(void); /* give idle pages back to the system; bytes given back */

#endif
