/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memcg.h - the data plane's public interface.
 *
 * Everything above native/ (the binding, the C tests) includes this header, and kmalloc.h and
 * kmem_cache.h for the fast paths.  Functions return 0 or a negative errno; pointers are NULL on
 * failure.  Sizes are bytes unless the name says nr_pages.  Unless a comment says otherwise, a
 * function may be called from any thread, with or without the GIL, never blocks for long and never
 * calls back.
 */
#ifndef MEMCG_H
#define MEMCG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT 12
#define PAGE_SIZE ((size_t)1 << PAGE_SHIFT)
#define PAGE_COUNTER_MAX INT64_MAX   /* "max": no limit */
#define KMALLOC_MAX_CACHE_SIZE 32768 /* bytes; larger requests are page runs */

/* A function or variable of libmemcg that others use.  The names of symbols begin with memcg_,
 * mem_cgroup_ or kmem_cache_, because a preloaded library shares its names with the whole process.
 * MEMCG_EXPORT_AS() gives a symbol such a name. */
#define MEMCG_EXPORT __attribute__((visibility("default")))
#define MEMCG_EXPORT_AS(name) __asm__("memcg_" #name) MEMCG_EXPORT

struct mem_cgroup;
struct kmem_cache;
struct thread;

#pragma GCC visibility push(default)

/* ---- start ---------------------------------------------------------- */
struct memcg_config {
    size_t arena_bytes;   /* wanted address range; 0: default; halved until it fits */
    size_t promote_bytes; /* live shared bytes of one class that ask for a child cache */
    unsigned debug;       /* flags of memcg_parse_debug() */
};
/*
 * Parses the letters, which are slab_debug's: F walks the free list at each allocation and free, Z
 * adds red zones, P poisons, U records the code that allocated and freed.  H encodes free pointers
 * and hands out objects in random order. "1" is FZPU; "" and "0" are none. -EINVAL: another letter.
 * With any letter there is no fast path.  A corrupt object is reported to stderr and the process
 * aborts.
 */
int memcg_parse_debug(const char *text, unsigned *flags);
void memcg_validate(void); /* checks all objects and structures now; without a letter it does
                            * nothing */
/* Walks everything and returns the first kind of structure that is not valid: "heap", "cache" or
 * "pages"; or NULL. */
const char *memcg_find_invalid(void);
/* For U: writes where the calling thread's code stands now to text (n bytes), or "".  It runs
 * inside the data plane, so it must not allocate. */
typedef void (*memcg_caller_fn)(char *text, size_t n);
void memcg_set_caller(memcg_caller_fn caller);
int memcg_init(const struct memcg_config *config); /* once; later calls return 0 */
/* Fills in the `arena` (arena.h) of a shared object that inlines the fast paths, and keeps it up to
 * date.  After memcg_init(); the object is never unloaded. */
struct arena;
void memcg_copy_arena(struct arena *copy);
bool memcg_owns(const void *p); /* p lies in our range */
void memcg_set_promote_bytes(size_t bytes);

/* ---- groups (css.c, memcontrol.c) -------------------------------------- */
struct mem_cgroup *mem_cgroup_root(void);
/* Makes a group under parent, which is charged for it until mem_cgroup_free().  The caller holds
 * the first css reference.  NULL: no memory, or a limit (memcg_last_failure() says which). */
struct mem_cgroup *mem_cgroup_alloc(struct mem_cgroup *parent);
void mem_cgroup_set_id(struct mem_cgroup *memcg, int kmemcg_id); /* the id is -1 before */
int mem_cgroup_id(const struct mem_cgroup *memcg);
struct mem_cgroup *mem_cgroup_parent(const struct mem_cgroup *memcg);
void mem_cgroup_set_owner(struct mem_cgroup *memcg, void *owner); /* an opaque back pointer */
void *mem_cgroup_owner(const struct mem_cgroup *memcg);
/*
 * Takes the group offline: no further charge reaches it.  Threads whose current group it is move to
 * the nearest online ancestor.  Heaps are handed over, and stock is drained.  The stub points to
 * that ancestor, which has the remaining charges from then on.  A grace period has passed when it
 * returns.  A second call does nothing.
 */
void mem_cgroup_offline(struct mem_cgroup *memcg);
/*
 * Takes a group offline that holds nothing, and keeps it as a spare one for the next group under its
 * parent.  False: it holds something, and nothing was changed.  The caller keeps caches from being
 * created meanwhile, and sees to it that no entry names the group.
 */
bool mem_cgroup_keep(struct mem_cgroup *memcg);
/* Makes a spare group a new one, which is online.  False: its parent's limit refused it. */
bool mem_cgroup_renew(struct mem_cgroup *memcg);
/* Passes on what a spare group has, as mem_cgroup_offline() does, and drops the caller's css
 * reference. */
void mem_cgroup_give_up(struct mem_cgroup *memcg);
/* Its name for reports and fault_attr.group.  The caller owns the string and keeps it as long as
 * the group. */
void mem_cgroup_set_path(struct mem_cgroup *memcg, const char *path);
const char *mem_cgroup_path(const struct mem_cgroup *memcg); /* NULL: none was set */
bool mem_cgroup_online(const struct mem_cgroup *memcg);
long mem_cgroup_nr_caches(const struct mem_cgroup *memcg); /* child caches */
bool css_tryget(struct mem_cgroup *memcg)
    MEMCG_EXPORT_AS(css_tryget); /* false once the group is offline */
void css_get(struct mem_cgroup *memcg) MEMCG_EXPORT_AS(css_get);
void css_put(struct mem_cgroup *memcg)
    MEMCG_EXPORT_AS(css_put); /* the last one posts MEMCG_EVENT_RELEASE */
long css_refs(const struct mem_cgroup *memcg) MEMCG_EXPORT_AS(css_refs);
/* Frees the structure, after RELEASE.  It waits for a grace period. */
void mem_cgroup_free(struct mem_cgroup *memcg);

enum mem_cgroup_limit { MEMCG_MAX, MEMCG_HIGH, MEMCG_RESERVE, MEMCG_OVERDRAFT };
void mem_cgroup_set_limit(struct mem_cgroup *memcg, enum mem_cgroup_limit which, int64_t bytes);
int64_t mem_cgroup_get_limit(const struct mem_cgroup *memcg, enum mem_cgroup_limit which);
/* If it is on, the process ends when a request from the group's subtree is refused for the
 * MEMCG_OOM_REFUSALS-th time at a ceiling (the group's or an ancestor's) without usage having
 * fallen below max in between. cgroup v2: memory.oom.group. */
#define MEMCG_OOM_REFUSALS 64
void mem_cgroup_set_oom_group(struct mem_cgroup *memcg, bool on);
bool mem_cgroup_oom_group(const struct mem_cgroup *memcg);
/* What has to run at memory.high is more than a collection of garbage. */
void mem_cgroup_set_has_shrinkers(struct mem_cgroup *memcg); /* and its ancestors */
bool mem_cgroup_has_shrinkers(const struct mem_cgroup *memcg);

enum mem_cgroup_event_item {
    MEMCG_EV_HIGH,      /* usage crossed high */
    MEMCG_EV_MAX,       /* a charge met max (counted before reclaim) */
    MEMCG_EV_OOM,       /* an alarm was posted or a request was refused */
    MEMCG_EV_OOM_KILL,  /* a MemcgOOM was delivered (counted by the binding) */
    MEMCG_EV_RESERVE,   /* a charge was forced into the reserve */
    MEMCG_EV_OVERDRAFT, /* a charge was forced past max + reserve */
    MEMCG_EV_FAIL,      /* a request was refused */
    MEMCG_NR_EVENTS
};
struct mem_cgroup_stat {
    int64_t usage;        /* bytes charged in the subtree, stock included */
    int64_t current;      /* usage minus the subtree's stock: the figure for users */
    int64_t watermark;    /* highest usage since the start or the last reset */
    int64_t slab_private; /* this group: pages of its child caches (root: of its own slabs) */
    int64_t slab_shared;  /* this group: class bytes of its objects in shared slabs */
    int64_t page_runs;    /* this group: bytes of page runs */
    int64_t external;     /* this group: charged through mem_cgroup_charge */
    int64_t overdraft;    /* this group: highest bytes past max + reserve so far */
    uint64_t events[MEMCG_NR_EVENTS];       /* in this group and below */
    uint64_t events_local[MEMCG_NR_EVENTS]; /* at this group's own limit */
};
/*
 * Uncharges from the subtree what was freed and still waits for its thread, which may never run
 * again, or for the thread's next use: what lies in sheaves, and empty slabs of the size classes.
 * Empty slabs of users' caches stay.  Call it before figures are read.  If there is nothing to
 * uncharge, it disturbs no thread.  A caller that loops beside threads that allocate sleeps in
 * between, so that they stand still for at most a fifth of the time.
 */
void mem_cgroup_collect(struct mem_cgroup *memcg);
void mem_cgroup_read_stat(struct mem_cgroup *memcg, struct mem_cgroup_stat *stat);
void mem_cgroup_reset_watermark(struct mem_cgroup *memcg);
void mem_cgroup_count_event(struct mem_cgroup *memcg, enum mem_cgroup_event_item item);
int64_t mem_cgroup_usage(const struct mem_cgroup *memcg); /* as in the stat, without a walk */
/* Set by the code that raised an alarm, or that found no garbage to collect.  The first charge
 * after which usage is well below every max clears it. */
enum mem_cgroup_alarmed { MEMCG_NOT_ALARMED, MEMCG_ALARMED, MEMCG_COLLECTED_IN_VAIN };
void mem_cgroup_set_alarmed(struct mem_cgroup *memcg, enum mem_cgroup_alarmed alarmed);
enum mem_cgroup_alarmed mem_cgroup_alarmed(const struct mem_cgroup *memcg);
/* For the collector of the group's garbage.  It does not run before collect_after (ns of its own
 * clock). vain is the number of consecutive collections that freed nothing. */
int64_t mem_cgroup_collect_after(const struct mem_cgroup *memcg);
int mem_cgroup_vain(const struct mem_cgroup *memcg);
void mem_cgroup_set_collect_after(struct mem_cgroup *memcg, int64_t ns, int vain);
/* True from the post of HIGH until its receiver calls mem_cgroup_high_done(), having reclaimed.
 * Meanwhile requests that would be refused for their size go into the reserve. */
int mem_cgroup_high_pending(const struct mem_cgroup *memcg);
void mem_cgroup_high_done(struct mem_cgroup *memcg);
/* Charges memory that is not ours (a mapping, say). try_ returns -ENOMEM past max and charges
 * nothing. */
int mem_cgroup_try_charge(struct mem_cgroup *memcg, size_t bytes);
void mem_cgroup_charge(struct mem_cgroup *memcg, size_t bytes); /* by force */
void mem_cgroup_uncharge(struct mem_cgroup *memcg, size_t bytes);
/* Drops empty slabs and drains stock in the subtree; returns the bytes uncharged. */
size_t mem_cgroup_reclaim(struct mem_cgroup *memcg);
/* The last refusal of this thread, for error texts.  False: none since the last call. */
struct memcg_failure {
    struct mem_cgroup *memcg;   /* the group that was to be charged */
    struct mem_cgroup *limited; /* the group whose max was met */
    size_t bytes;               /* the size asked for */
    int64_t current, max;       /* of `limited`, at that moment */
};
bool memcg_last_failure(struct memcg_failure *failure);
/* The last refusal or alarm at the limit of memcg or of a group below it.  False: there was
 * none. */
struct memcg_oom {
    char *memcg,
        *limited; /* paths; the groups may have been freed; "": the root; the caller frees both */
    size_t bytes; /* this and the next two as in memcg_failure */
    int64_t current, max;
    int64_t time_ns; /* CLOCK_REALTIME */
    bool refused;    /* false: an alarm was posted */
};
bool mem_cgroup_last_oom(struct mem_cgroup *memcg, struct memcg_oom *oom);

/* ---- this thread ------------------------------------------------------ */
/* NULL means the root.  An offline group means its nearest online ancestor. */
void memcg_set_current(struct mem_cgroup *memcg);
struct mem_cgroup *memcg_get_current(void);
/* The group of threads that run no Python code; NULL: the root, as before the first call.  A group
 * must be replaced before it goes offline. */
void memcg_set_pool_group(struct mem_cgroup *memcg);
/* Such a thread, for which is_member() is true, is given that group when it next calls
 * memcg_follow_pool().  Others are left alone. */
void memcg_set_pool(bool (*is_member)(void));
void memcg_follow_pool(void);
/* The kernel's memcg_{stop,resume}_kmem_account; they nest.  In between, charges are forced on the
 * root, nothing is refused, and no child cache is asked for. */
void memcg_stop_kmem_account(void);
void memcg_resume_kmem_account(void);
void memcg_synchronize(void); /* waits for a grace period; never call it inside the data plane */

/* ---- memory of any size ------------------------------------------------ */
/* Size 0 is served as 1.  Alignment is 16.  Above 512 bytes it is 64 where the class
 * (memcg_usable_size) is a multiple of 64, and a page where the class is a multiple of a page.
 * Before memcg_init() they return NULL.  Like libc's, they must not be called from signal
 * handlers. */
void *memcg_malloc(size_t size);
void *memcg_calloc(size_t size);
/* For a stack: never refused for a limit, whatever its size.  Past max an alarm is posted. */
void *memcg_malloc_stack(size_t size);
void *memcg_realloc(void *p, size_t size); /* p must be ours; shrinking never fails */
void memcg_free(void *p);                  /* p must be ours */
size_t memcg_usable_size(const void *p);

/* For malloc's callers in C, C++ and Rust: `caller` is an address in the code that asks.  Requests
 * below MEMCG_C_REFUSE_SIZE are never refused for a limit: past max they are charged by force, and
 * an alarm is posted.  So are larger ones, unless memcg_set_survivor()'s function knows that the
 * caller survives a NULL.  No faults are injected. */
#define MEMCG_C_REFUSE_SIZE ((size_t)1 << 17)
void *memcg_malloc_c(size_t size, const void *caller);
void *memcg_calloc_c(size_t size, const void *caller);
void *memcg_realloc_c(void *p, size_t size, const void *caller);
/* align: a power of two. */
void *memcg_memalign_c(size_t align, size_t size, const void *caller);
/* Says that malloc itself is served by these, or why libmemcg_malloc was preloaded and does not
 * serve it.  The text is never freed. */
void memcg_set_serves_c(const char *why_not);
bool memcg_serves_c(void);
const char *memcg_why_not_c(void); /* NULL: it serves, or was not preloaded */
/* A tool that has replaced malloc in this process, so that nobody else may, in words; NULL: none.
 * preloaded: the value of LD_PRELOAD, or NULL. */
const char *memcg_malloc_is_replaced(const char *preloaded);
/* True in code that the data plane has called: it must not be entered again. */
bool memcg_is_outside(void);
/* Called at the limit, inside the data plane.  True: the code at this address survives a refusal
 * of so many bytes. */
typedef bool (*memcg_survivor_fn)(const void *caller, size_t bytes);
void memcg_set_survivor(memcg_survivor_fn survivor);

/* ---- slab caches (kmem_cache.c) ---------------------------------------- */
struct kmem_cache_info { /* a line of slabinfo, with the kernel's columns */
    uint64_t active_objs, num_objs, objsize, objperslab, pagesperslab;
    uint64_t active_slabs, num_slabs, nr_pages;
};
int kmalloc_nr_caches(void) MEMCG_EXPORT_AS(kmalloc_nr_caches);
struct kmem_cache *kmalloc_cache(int index)
    MEMCG_EXPORT_AS(kmalloc_cache); /* the root caches of the size classes, ascending */
/* Makes a root cache, or the child of root for memcg, which has the root's size, align and flags.
 * A child takes a css reference, and the code that destroys the child drops it. */
#define KMEM_CACHE_ZERO 1u /* new slabs read as zero (so a constructor can mark its objects) */
struct kmem_cache *kmem_cache_create_root(size_t object_size, size_t align, unsigned flags);
struct kmem_cache *kmem_cache_create_child(struct mem_cgroup *memcg, struct kmem_cache *root);
void kmem_cache_set_owner(struct kmem_cache *s, void *owner);
void kmem_cache_set_name(struct kmem_cache *s, const char *name); /* long names are cut */
void *kmem_cache_owner(const struct kmem_cache *s);
size_t kmem_cache_size(const struct kmem_cache *s);        /* bytes of an object with padding */
size_t kmem_cache_object_size(const struct kmem_cache *s); /* bytes as asked for */
/* Allocates from root `s` for this thread's group: from its child if there is one, otherwise from
 * the root. */
void *kmem_cache_alloc(struct kmem_cache *s);
/* s is the root or any child of it. -EINVAL: not the start of an object of this root. -EALREADY:
 * already free. */
int kmem_cache_free(struct kmem_cache *s, void *object);
/* Returns the cache that serves p (child or root); *object is the start of p's object.  NULL: p is
 * in no slab object. */
struct kmem_cache *kmem_cache_of(const void *p, void **object);
/* Returns the first object of the slab that holds live object p; *objects is how many fit the
 * slab. */
void *kmem_cache_slab_of(const void *p, size_t *objects);
size_t kmem_cache_shrink(struct kmem_cache *s); /* frees empty slabs in every thread; returns the
                                                 * pages freed */
/* 0: no slab is left, and the cache serves nothing from now on. -EBUSY: objects are live, and it
 * still serves. */
int kmem_cache_shutdown(struct kmem_cache *s);
void kmem_cache_free_struct(struct kmem_cache *s); /* after shutdown, unpublish and synchronize */
/* Marks the cache dead: it keeps no empty slab, and every free that takes its last slab posts
 * MEMCG_EVENT_EMPTY. */
void kmem_cache_set_dead(struct kmem_cache *s);
long kmem_cache_nr_pages(const struct kmem_cache *s);
void kmem_cache_read_info(struct kmem_cache *s, struct kmem_cache_info *info);
/* memcg_caches: one slot per kmemcg_id.  Writers hold memcg_slab_mutex above native/. */
int memcg_update_cache_size(struct kmem_cache *root, int nr_slots); /* grows; keeps the old one */
int memcg_cache_array_size(const struct kmem_cache *root);
void memcg_cache_publish(struct kmem_cache *root, int id, struct kmem_cache *child);
struct kmem_cache *cache_from_memcg_idx(const struct kmem_cache *root, int id)
    MEMCG_EXPORT_AS(cache_from_memcg_idx);
/* Says that the CREATE event for (root, memcg) was handled: it may be posted again. */
void memcg_create_done(struct kmem_cache *root, struct mem_cgroup *memcg);
/* Calls fn for every live block that is charged to memcg itself, not below it.  For an offline
 * group these are the blocks that were charged to it.  It stops when fn returns nonzero.  All
 * threads are stolen while fn runs, so fn must not allocate. */
typedef int (*memcg_block_fn)(void *arg, void *block, size_t size, struct kmem_cache *cache);
void mem_cgroup_for_each_block(struct mem_cgroup *memcg, memcg_block_fn fn, void *arg);

/* ---- samples: which code allocated what lives (sample.c, sampling.c) ---- */
/* From now on one block in every `every` bytes is sampled that the group's subtree allocates, also
 * in groups that are made there later.  0: none.  Samples that were taken stay until their blocks
 * are freed. */
void mem_cgroup_set_sampling(struct mem_cgroup *memcg, uint32_t every);
uint32_t mem_cgroup_sampling(const struct mem_cgroup *memcg);
/* Called in a section, so it must not allocate.  Returns a number for the calling thread's stack.
 * `caller` is an address in the C code that asks, or NULL. */
typedef uint32_t (*memcg_sampler_fn)(const void *caller);
void memcg_set_sampler(memcg_sampler_fn sampler, uint64_t seed);
struct memcg_sample {
    struct mem_cgroup *memcg; /* the group that is charged; with a css reference for the caller */
    size_t bytes;             /* of the block */
    size_t reach;             /* it was sampled with the probability 1 - exp(-reach / every) */
    uint32_t every;
    uint32_t stack; /* what the sampler returned */
};
/* Copies up to `room` samples of the subtree; returns how many there are.  *missed: samples of the
 * process that were due and not taken, because there were too many or there was no memory. */
size_t mem_cgroup_samples(struct mem_cgroup *top, struct memcg_sample *samples, size_t room,
                          uint64_t *missed);

/* ---- events ---------------------------------------------------------- */
enum memcg_event_kind {
    MEMCG_EVENT_NONE,
    MEMCG_EVENT_CREATE,  /* cache: the root; memcg (the receiver owns a css reference) */
    MEMCG_EVENT_EMPTY,   /* cache: a dead child that may be empty; memcg (as above) */
    MEMCG_EVENT_HIGH,    /* memcg crossed high (the receiver owns a css reference) */
    MEMCG_EVENT_RELEASE, /* memcg has no css reference left */
};
struct memcg_event {
    enum memcg_event_kind kind;
    struct mem_cgroup *memcg;
    struct kmem_cache *cache;
};
bool memcg_next_event(struct memcg_event *event); /* one consumer at a time */
/* The waker is called when the queue stops being empty, from any context, inside the data plane.
 * It may start a thread; it must not allocate from us or wait. */
void memcg_set_waker(void (*waker)(void));
void memcg_not_woken(void); /* the waker failed: the next post calls it again */
/* What became of a request past max. `refusals` counts those at the ceiling of `limited` since it
 * was last below max. */
enum memcg_outcome {
    MEMCG_CHARGED,
    MEMCG_PASSED_OVER, /* charged at the ceiling, but counted: the code that asked swallows errors */
    MEMCG_REFUSED,
    MEMCG_REFUSED_AT_CEILING,
};
/* Called on the requesting thread, inside the data plane, when a small request was charged past max
 * or a request was refused.  It must only set flags (the binding's alarm). `limited` is the group
 * whose max was met. */
typedef void (*memcg_alarm_fn)(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                               enum memcg_outcome outcome, unsigned refusals);
void memcg_set_alarm(memcg_alarm_fn alarm);
/* This thread has slept since it was passed over.  It may be passed over again. */
void memcg_has_slept(void);
/* Called on that thread too, when a request of `memcg` for so many bytes is about to go past max
 * (from 64 KiB on), past the reserve or past the overdraft.  True refuses it.  If no function is
 * set, requests of 64 KiB and more are refused at max, those over 1 KiB at the reserve, and any at
 * the ceiling. */
enum memcg_bound { MEMCG_AT_MAX, MEMCG_AT_RESERVE, MEMCG_AT_CEILING };
typedef bool (*memcg_refusal_fn)(struct mem_cgroup *memcg, size_t bytes, enum memcg_bound bound);
void memcg_set_refusal(memcg_refusal_fn refusal);
/* Called on that thread when a large request would go into the reserve of `limited` while the
 * garbage of `limited` is collected.  False says that no collector can run before this request
 * returns. */
typedef bool (*memcg_collector_fn)(void);
/* `called` is called on the thread that has posted MEMCG_EVENT_HIGH for the group. */
typedef void (*memcg_called_fn)(struct mem_cgroup *memcg);
void memcg_set_collector(memcg_called_fn called, memcg_collector_fn can_run);
/* Called on that thread when memory.oom.group demands that the process end. */
typedef void (*memcg_oom_group_fn)(struct mem_cgroup *memcg, struct mem_cgroup *limited,
                                   unsigned refusals);
void memcg_set_oom_group_fn(memcg_oom_group_fn end);
/* Called on that thread before a request is refused.  It says whether the code that makes the
 * request can be refused. */
enum memcg_requester {
    MEMCG_REQUESTER_ANY,
    /* may swallow the error: it gets the reserve first, and some bytes at the ceiling */
    MEMCG_REQUESTER_UNHEARD,
    MEMCG_REQUESTER_FRAGILE, /* crashes, or loses data: it is charged by force */
};
typedef enum memcg_requester (*memcg_requester_fn)(void);
void memcg_set_requester(memcg_requester_fn requester);

/* ---- the page for other processes (publish.c) -------------------------- */
struct memcg_publish_config {
    int fd;                           /* an empty file; it may be closed afterwards */
    uint32_t groups, events, samples; /* how many the page has room for */
    uint64_t pid, start_ticks, pid_namespace;
};
/* -EBUSY: there is a page. */
int memcg_publish(const struct memcg_publish_config *config) MEMCG_EXPORT;
void memcg_unpublish(void) MEMCG_EXPORT; /* no longer writes the page */
bool memcg_is_published(void) MEMCG_EXPORT;
/* How often it is entered. */
void mem_cgroup_set_inside(struct mem_cgroup *memcg, long nr) MEMCG_EXPORT;

/* ---- injected faults (fault.c) ---------------------------------------- */
enum fault_point {
    FAULT_ALLOC,    /* a request for memory: the mallocs and kmem_cache_alloc */
    FAULT_METADATA, /* memory for the core's descriptors and tables */
    FAULT_PAGES,    /* a run of pages, for a slab or a large block */
    FAULT_MMAP,     /* mmap and mprotect */
    FAULT_MADVISE,
    FAULT_THREAD, /* the start of a worker */
};
struct fault_attr {
    unsigned points;    /* bits of fault_point */
    uint64_t nth;       /* first eligible request that fails, counted from 1; 0: by probability */
    double probability; /* 0 to 1 */
    uint64_t seed;      /* seed of probability */
    uint64_t times;     /* the most faults to inject */
    size_t min_size, max_size;
    bool small;        /* also malloc's requests of up to 1 KiB */
    const char *cache; /* FAULT_ALLOC: only this root cache and its children; NULL: any */
    const char *group; /* FAULT_ALLOC: only this group and below; NULL: any.  The caller owns both
                        * strings and keeps them while armed */
    bool this_thread;  /* only this thread's requests; needs memcg_init() */
};
struct fault_count {
    uint64_t eligible, faults;
};
int memcg_arm_faults(const struct fault_attr *attr); /* -EBUSY: other faults are armed */
void memcg_disarm_faults(void);
struct fault_count memcg_fault_count(void); /* since the faults were armed */

/* ---- the whole ------------------------------------------------------- */
struct memcg_global_stat {
    size_t reserved, committed;            /* address range; the part of it made readable */
    size_t pages_in_use, pages_free_dirty; /* bytes */
    size_t metadata;                       /* bytes of descriptors, tables, heaps */
    size_t nr_threads, nr_slabs, slab_shared_bytes, slab_shared_used;
};
void memcg_read_global_stat(struct memcg_global_stat *stat);
/* Fits the range into a process that may have `space` bytes of address space: what is reserved
 * beyond two thirds of that and was never made readable is unmapped. */
void memcg_fit(size_t space);
size_t memcg_trim(void); /* gives idle pages back to the system; returns their bytes */

#pragma GCC visibility pop

#endif
