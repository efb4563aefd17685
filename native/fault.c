/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - requests that fail on purpose, so that the code for failures runs.
 *
 * One attr is armed at a time, for all threads or for the one that armed it.  A request is eligible
 * if it passes every filter.  Either all eligible requests from the nth on fail, up to `times`, or
 * each fails with a probability.  The probable ones depend on the seed and on the request's number
 * alone, so a run can be repeated.
 *
 * While faults are armed no section begins fast (SLOW_FAULTS).  So every request calls
 * should_fail(), and the fast path has nothing to check.
 *
 * Kernel: lib/fault-inject.c, mm/failslab.c.  Where we differ: nth counts eligible requests only;
 * with nth, `times` faults follow each other, so a request that is tried again can fail again.
 *
 * Locks: fault_lock, innermost: attr, armed_by, count.  It is taken outside sections too.
 */
#include "fault.h"

atomic_uint_t faults_armed;
atomic_uint_t requests_watched;
static struct mutex fault_lock = MUTEX_INITIALIZER;
static struct fault_attr attr;
static __thread char this_thread MEMCG_TLS_MODEL; /* its address is the thread's own */
static const char *armed_by;                      /* NULL: faults are for every thread */
static struct fault_count count;

void watch_requests(enum watch reason, bool on)
{
    unsigned watched = load_relaxed(&requests_watched) & ~(unsigned)reason;

    store_relaxed(&requests_watched, on ? watched | reason : watched);
}

/* Before memcg_init() there are no threads to steal. */
static void set_armed(unsigned points)
{
    bool ready = section_is_ready();

    if (ready)
        thread_steal_all();
    store_relaxed(&faults_armed, points);
    watch_requests(WATCH_FAULTS, points != 0);
    section_set_slow(SLOW_FAULTS, points != 0);
    if (ready)
        thread_release_all();
}

int memcg_arm_faults(const struct fault_attr *wanted)
{
    int error = -EBUSY;

    if (wanted->this_thread)
        thread_leave(thread_enter()); /* makes the thread */
    mutex_lock(&fault_lock);
    if (!attr.points) {
        attr = *wanted;
        armed_by = wanted->this_thread ? &this_thread : NULL;
        count = (struct fault_count){ 0, 0 };
        error = 0;
    }
    mutex_unlock(&fault_lock);
    if (!error)
        set_armed(wanted->points);
    return error;
}

void memcg_disarm_faults(void)
{
    set_armed(0);
    mutex_lock(&fault_lock); /* afterwards no thread reads attr's strings */
    attr.points = 0;
    mutex_unlock(&fault_lock);
}

struct fault_count memcg_fault_count(void)
{
    struct fault_count now;

    mutex_lock(&fault_lock);
    now = count;
    mutex_unlock(&fault_lock);
    return now;
}

void fault_fork_child(void)
{
    mutex_init(&fault_lock); /* FAULT_THREAD is drawn outside sections too */
}

static bool is_below(const struct mem_cgroup *memcg, const char *path)
{
    while (memcg && !(memcg->path && strcmp(memcg->path, path) == 0))
        memcg = memcg->parent;
    return memcg != NULL;
}

static bool is_eligible(enum fault_point point, const struct mem_cgroup *memcg,
                        const struct kmem_cache *s, size_t bytes)
{
    assert_locked(&fault_lock);
    return attr.points >> point & 1 && (!armed_by || armed_by == &this_thread) &&
           bytes >= attr.min_size && bytes <= attr.max_size &&
           (!attr.cache || (s && strncmp(s->root->name, attr.cache, CACHE_NAME_MAX - 1) == 0)) &&
           (!attr.group || is_below(memcg, attr.group));
}

/* splitmix64 (Steele, Lea, Flood 2014), scaled to 0 <= n < 1. */
static double chance(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + n * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

bool __should_fail(enum fault_point point, const struct mem_cgroup *memcg,
                   const struct kmem_cache *s, size_t bytes)
{
    bool fail = false;

    mutex_lock(&fault_lock);
    if (is_eligible(point, memcg, s, bytes)) {
        count.eligible++;
        fail = count.faults < attr.times &&
               (attr.nth ? count.eligible >= attr.nth
                         : chance(attr.seed, count.eligible) < attr.probability);
        count.faults += fail;
    }
    mutex_unlock(&fault_lock);
    return fail;
}

/* A request that is charged by force must not fail (__GFP_NOFAIL), and malloc's callers are not ours
 * to test.  A request that is too small to
 * be refused fails only if attr.small is set, because CPython does not survive its failure
 * everywhere. */
bool __should_fail_request(struct thread *self, struct kmem_cache *s, const struct request *req)
{
    bool small = req->kind == CHARGE_SMALL && req->bytes <= MEMCG_SMALL_SIZE;

    return req->kind != CHARGE_FORCE && req->kind != CHARGE_C && !req->reclaimed &&
           (!small || attr.small) &&
           __should_fail(FAULT_ALLOC, load_plain(&self->heap)->memcg, s, req->bytes);
}
