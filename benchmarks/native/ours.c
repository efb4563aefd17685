/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ours.c - memcg's allocator as a shared library: a call goes through the PLT as malloc's does, and
 * the fast path is inlined below it as in the hooks of the binding.
 *
 * All memory is charged to one group with a limit, which gets child caches when it asks for them.
 * With UNACCOUNTED it is charged to the root alone, which has no limit.
 */
#include "contender.h"
#include "control.h"

#define EXPORT __attribute__((visibility("default")))

static struct mem_cgroup *group;

EXPORT void *bench_malloc(size_t size) { return memcg_malloc_fast(size); }
EXPORT void bench_free(void *p) { memcg_free_fast(p); }

EXPORT void bench_enter(void)
{
    if (!group) {
        if (memcg_init(NULL))
            abort();
        group = group_new(mem_cgroup_root());
        mem_cgroup_set_limit(group, MEMCG_MAX, (int64_t)4 << 30);
        mem_cgroup_set_limit(group, MEMCG_HIGH, (int64_t)7 << 29);
    }
#ifdef UNACCOUNTED
    memcg_set_current(mem_cgroup_root());
#else
    memcg_set_current(group);
#endif
}

EXPORT void bench_worker(void) { work(); }
