# SPDX-License-Identifier: Apache-2.0
# The data plane's interface, which native/memcg.h declares.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "arena.h" nogil:
    struct arena:
        pass
    arena this_arena "arena"

cdef extern from "memcg.h" nogil:
    void memcg_copy_arena(arena *copy)
    bint memcg_serves_c()
    const char *memcg_why_not_c()
    const char *memcg_malloc_is_replaced(const char *preloaded)
    struct mem_cgroup:
        pass
    struct kmem_cache:
        pass
    struct memcg_config:
        size_t arena_bytes
        size_t promote_bytes
        unsigned debug
    int memcg_init(const memcg_config *config)
    int memcg_parse_debug(const char *text, unsigned *flags)
    void memcg_validate()
    ctypedef void (*memcg_caller_fn)(char *text, size_t n)
    void memcg_set_caller(memcg_caller_fn caller)
    void memcg_set_promote_bytes(size_t bytes)

    mem_cgroup *mem_cgroup_root()
    mem_cgroup *mem_cgroup_alloc(mem_cgroup *parent)
    void mem_cgroup_set_id(mem_cgroup *memcg, int kmemcg_id)
    int mem_cgroup_id(const mem_cgroup *memcg)
    void mem_cgroup_set_owner(mem_cgroup *memcg, void *owner)
    void *mem_cgroup_owner(const mem_cgroup *memcg)
    void c_mem_cgroup_offline "mem_cgroup_offline"(mem_cgroup *memcg)
    bint c_mem_cgroup_keep "mem_cgroup_keep"(mem_cgroup *memcg)
    long mem_cgroup_nr_caches(const mem_cgroup *memcg)
    bint mem_cgroup_renew(mem_cgroup *memcg)
    void c_mem_cgroup_give_up "mem_cgroup_give_up"(mem_cgroup *memcg)
    void mem_cgroup_set_path(mem_cgroup *memcg, const char *path)
    bint mem_cgroup_online(const mem_cgroup *memcg)
    size_t MEMCG_GROUP_BYTES
    # c_NAME is NAME of C, where a Python function that calls it has that name too.
    bint c_css_tryget "css_tryget"(mem_cgroup *memcg)
    void c_css_get "css_get"(mem_cgroup *memcg)
    void c_css_put "css_put"(mem_cgroup *memcg)
    long c_css_refs "css_refs"(const mem_cgroup *memcg)
    void mem_cgroup_free(mem_cgroup *memcg)

    enum mem_cgroup_limit:
        MEMCG_MAX
        MEMCG_HIGH
        MEMCG_RESERVE
        MEMCG_OVERDRAFT
    void mem_cgroup_set_oom_group(mem_cgroup *memcg, bint on)
    bint mem_cgroup_oom_group(const mem_cgroup *memcg)
    void c_mem_cgroup_set_has_shrinkers "mem_cgroup_set_has_shrinkers"(mem_cgroup *memcg)
    void c_mem_cgroup_set_limit "mem_cgroup_set_limit"(mem_cgroup *memcg, mem_cgroup_limit which, int64_t bytes)
    int64_t c_mem_cgroup_get_limit "mem_cgroup_get_limit"(const mem_cgroup *memcg, mem_cgroup_limit which)

    struct mem_cgroup_stat:
        int64_t usage, current, watermark
        int64_t slab_private, slab_shared, page_runs, external, overdraft
        uint64_t events[7]
        uint64_t events_local[7]
    void mem_cgroup_collect(mem_cgroup *memcg)
    void mem_cgroup_read_stat(mem_cgroup *memcg, mem_cgroup_stat *stat)
    void mem_cgroup_reset_watermark(mem_cgroup *memcg)
    int64_t mem_cgroup_usage(const mem_cgroup *memcg)
    void c_mem_cgroup_high_done "mem_cgroup_high_done"(mem_cgroup *memcg)
    int mem_cgroup_try_charge(mem_cgroup *memcg, size_t bytes)
    void mem_cgroup_charge(mem_cgroup *memcg, size_t bytes)
    void mem_cgroup_uncharge(mem_cgroup *memcg, size_t bytes)
    size_t mem_cgroup_reclaim(mem_cgroup *memcg)
    struct memcg_failure:
        mem_cgroup *memcg
        mem_cgroup *limited
        size_t bytes
        int64_t current, max
    bint memcg_last_failure(memcg_failure *failure)
    struct memcg_oom:
        char *memcg
        char *limited
        size_t bytes
        int64_t current, max, time_ns
        bint refused
    bint c_mem_cgroup_last_oom "mem_cgroup_last_oom"(mem_cgroup *memcg, memcg_oom *oom)

    void memcg_set_current(mem_cgroup *memcg)
    mem_cgroup *memcg_get_current()
    void memcg_stop_kmem_account()
    void memcg_resume_kmem_account()
    void memcg_synchronize()

    struct kmem_cache_info:
        uint64_t active_objs, num_objs, objsize, objperslab, pagesperslab
        uint64_t active_slabs, num_slabs, nr_pages
    int kmalloc_nr_caches()
    kmem_cache *kmalloc_cache(int index)
    unsigned KMEM_CACHE_ZERO
    kmem_cache *kmem_cache_create_root(size_t object_size, size_t align, unsigned flags)
    kmem_cache *kmem_cache_create_child(mem_cgroup *memcg, kmem_cache *root)
    void kmem_cache_set_owner(kmem_cache *s, void *owner)
    void *kmem_cache_owner(const kmem_cache *s)
    void kmem_cache_set_name(kmem_cache *s, const char *name)
    size_t kmem_cache_size(const kmem_cache *s)
    size_t kmem_cache_object_size(const kmem_cache *s)
    void *kmem_cache_alloc(kmem_cache *s)
    int kmem_cache_free(kmem_cache *s, void *object)
    kmem_cache *kmem_cache_of(const void *p, void **object)
    size_t kmem_cache_shrink(kmem_cache *s)
    int kmem_cache_shutdown(kmem_cache *s)
    void kmem_cache_free_struct(kmem_cache *s)
    void kmem_cache_set_dead(kmem_cache *s)
    long kmem_cache_nr_pages(const kmem_cache *s)
    void kmem_cache_read_info(kmem_cache *s, kmem_cache_info *info)
    int memcg_update_cache_size(kmem_cache *root, int nr_slots)
    int memcg_cache_array_size(const kmem_cache *root)
    void memcg_cache_publish(kmem_cache *root, int id, kmem_cache *child)
    kmem_cache *cache_from_memcg_idx(const kmem_cache *root, int id)
    void memcg_create_done(kmem_cache *root, mem_cgroup *memcg)

    void c_mem_cgroup_set_sampling "mem_cgroup_set_sampling"(mem_cgroup *memcg, uint32_t every)
    uint32_t c_mem_cgroup_sampling "mem_cgroup_sampling"(const mem_cgroup *memcg)
    struct memcg_sample:
        mem_cgroup *memcg
        size_t bytes, reach
        uint32_t every, stack
    size_t c_mem_cgroup_samples "mem_cgroup_samples"(mem_cgroup *top, memcg_sample *samples, size_t room, uint64_t *missed)

    enum memcg_event_kind:
        MEMCG_EVENT_NONE
        MEMCG_EVENT_CREATE
        MEMCG_EVENT_EMPTY
        MEMCG_EVENT_HIGH
        MEMCG_EVENT_RELEASE
    struct memcg_event:
        memcg_event_kind kind
        mem_cgroup *memcg
        kmem_cache *cache
    bint memcg_next_event(memcg_event *event)
    void memcg_set_waker(void (*waker)() noexcept)

    enum fault_point:
        FAULT_ALLOC
        FAULT_METADATA
        FAULT_PAGES
        FAULT_MMAP
        FAULT_MADVISE
        FAULT_THREAD
    struct fault_attr:
        unsigned points
        uint64_t nth
        double probability
        uint64_t seed, times
        size_t min_size, max_size
        bint small
        const char *cache
        const char *group
        bint this_thread
    struct fault_count:
        uint64_t eligible, faults
    int memcg_arm_faults(const fault_attr *attr)
    void memcg_disarm_faults()
    fault_count memcg_fault_count()

    struct memcg_publish_config:
        int fd
        uint32_t groups, events, samples
        uint64_t pid, start_ticks, pid_namespace
    int memcg_publish(const memcg_publish_config *config)
    void memcg_unpublish()
    bint memcg_is_published()

    struct memcg_global_stat:
        size_t reserved, committed, pages_in_use, pages_free_dirty, metadata
        size_t nr_threads, nr_slabs, slab_shared_bytes, slab_shared_used
    void memcg_read_global_stat(memcg_global_stat *stat)
    size_t memcg_trim()
    void memcg_fit(size_t space)

cdef extern from "publish.h" nogil:
    void publish_inside(mem_cgroup *memcg, long nr)
