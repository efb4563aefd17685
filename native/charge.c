/* SPDX-License-Identifier: Apache-2.0 */
/*
 * charge.c - charges against limits: which request is refused, which is charged to the reserve.
 *
 * A charge is added to the group and its ancestors, or fails at the first max that it would pass.
 * After a failure the request reclaims once.  If it fails again:
 *
 * - a request of 64 KiB or more, or for an object of a user's cache, is refused;
 * - a smaller one is charged by force into the reserve, with an alarm;
 * - past the reserve a request over 1 KiB is refused, and smaller ones are charged to the
 *   overdraft;
 * - past the overdraft, at the ceiling, a small request is refused too; then the thread is granted
 *   some bytes by force;
 * - a request of malloc's callers is charged by force, unless it is for MEMCG_C_REFUSE_SIZE or more and
 *   its caller is known to survive a refusal.
 *
 * Kernel: try_charge (mm/memcontrol.c).  Where we differ: it refuses a page or lets all pages pass,
 * and its killer ends a process; here most small requests pass, since CPython survives few
 * refusals.
 *
 * Locks: none; counters and statistics are atomic.
 */
#include "charge.h"

#include "event.h"
#include "oom.h"
#include "publish.h"

#define CHARGE_LIMIT ((size_t)1 << 56) /* so that a sum of a few cannot pass INT64_MAX */
/* Bytes; a larger request may be refused, so it always reclaims. */
#define RECLAIM_ALWAYS MEMCG_SMALL_SIZE
#define RECLAIM_SKIP 64

static ATOMIC(memcg_alarm_fn) alarm_fn;
static ATOMIC(memcg_refusal_fn) refusal_fn;
static ATOMIC(memcg_called_fn) collector_called;
static ATOMIC(memcg_collector_fn) collector_fn;
static ATOMIC(memcg_oom_group_fn) oom_group_fn;
static ATOMIC(memcg_requester_fn) requester_fn;
static ATOMIC(memcg_survivor_fn) survivor_fn;

void memcg_set_alarm(memcg_alarm_fn alarm) { store_release(&alarm_fn, alarm); }

void memcg_has_slept(void)
{
    if (memcg_self)
        memcg_self->unheard = 0;
}

void memcg_set_refusal(memcg_refusal_fn refusal) { store_release(&refusal_fn, refusal); }

void memcg_set_collector(memcg_called_fn called, memcg_collector_fn can_run)
{
    store_release(&collector_called, called);
    store_release(&collector_fn, can_run);
}

void memcg_set_oom_group_fn(memcg_oom_group_fn end) { store_release(&oom_group_fn, end); }

void memcg_set_requester(memcg_requester_fn requester) { store_release(&requester_fn, requester); }

void memcg_set_survivor(memcg_survivor_fn survivor) { store_release(&survivor_fn, survivor); }

/* The bytes that this thread has charged to memcg and does not use. */
static int64_t idle_of(const struct mem_cgroup *memcg)
{
    const struct heap *heap =
        load_plain(&memcg_self->heap); /* NULL: the orphan serves the caller */

    return heap && heap->memcg == memcg ? heap->kept_bytes : 0;
}

static int64_t usage_of(struct mem_cgroup *memcg) { return page_counter_read(&memcg->counter); }

/* Posts HIGH once when usage passes high; it may be posted again once usage is an eighth below. */
static void check_high(struct mem_cgroup *memcg, size_t bytes)
{
    struct mem_cgroup *from = memcg;
    memcg_called_fn called;

    for (; memcg; memcg = memcg->parent) {
        int64_t high = load_relaxed(&memcg->high);

        if (high == PAGE_COUNTER_MAX || usage_of(memcg) <= high ||
            load_relaxed(&memcg->high_crossed) || exchange_relaxed(&memcg->high_crossed, 1))
            continue;
        mem_cgroup_note_event(memcg, from, MEMCG_EV_HIGH, bytes);
        if (!css_tryget(memcg))
            continue;
        store_release(&memcg->high_pending, 1);
        if (!event_post(&memcg->high_event, MEMCG_EVENT_HIGH, memcg, NULL)) {
            css_put(memcg);
        } else if ((called = load_acquire(&collector_called))) {
            struct thread *self = section_go_out();

            called(memcg);
            section_come_back(self);
        }
    }
}

/* Usage is below every max, so the next refusal at a ceiling counts as the first. */
static void below_max(struct mem_cgroup *memcg)
{
    for (; memcg; memcg = memcg->parent)
        if (load_relaxed(&memcg->refusals))
            store_relaxed(&memcg->refusals, 0);
}

bool memcg_charge_ahead(struct mem_cgroup *memcg, size_t bytes)
{
    struct page_counter *fail;

    for (struct mem_cgroup *m = memcg; m; m = m->parent) {
        int64_t room = 2 * (int64_t)bytes, usage = usage_of(m);

        if (mem_cgroup_get_limit(m, MEMCG_MAX) - usage < room ||
            mem_cgroup_get_limit(m, MEMCG_HIGH) - usage < room)
            return false;
    }
    if (!page_counter_try_charge(&memcg->counter, (int64_t)bytes, idle_of(memcg), &fail))
        return false;
    if (unlikely(mem_cgroup_alarmed(memcg))) {
        mem_cgroup_set_alarmed(memcg, MEMCG_NOT_ALARMED);
        below_max(memcg);
    }
    check_high(memcg, bytes);
    publish_usage(memcg);
    return true;
}

static void set_failure(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes)
{
    struct thread *self = memcg_self; /* in its section */

    if (hlist_empty(&self->heaps)) /* the orphan serves the caller */
        return;
    self->failure = (struct memcg_failure){ memcg, limited, bytes, usage_of(limited),
                                            mem_cgroup_get_limit(limited, MEMCG_MAX) };
    self->has_failure = true;
}

static void call_alarm(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                       enum memcg_outcome outcome, unsigned refusals)
{
    memcg_alarm_fn alarm = load_acquire(&alarm_fn);
    struct thread *self = section_go_out();

    if (alarm)
        alarm(memcg, limited, bytes, outcome, refusals);
    section_come_back(self);
}

/* True if memory.oom.group is set for the group that asked, for the one whose max was met, or for
 * one between them. */
static bool ends_process(struct mem_cgroup *memcg, struct mem_cgroup *limited)
{
    while (memcg != limited && !mem_cgroup_oom_group(memcg))
        memcg = memcg->parent;
    return mem_cgroup_oom_group(memcg);
}

/* Counts a request at the ceiling that was refused or passed over; returns how many there were since
 * usage was last below max. */
static unsigned count_at_ceiling(struct mem_cgroup *memcg, struct mem_cgroup *limited)
{
    unsigned refusals;

    mem_cgroup_set_alarmed(memcg, MEMCG_ALARMED); /* so that below_max() is called */
    refusals = add_relaxed(&limited->refusals, 1);
    if (refusals >= MEMCG_OOM_REFUSALS && ends_process(memcg, limited)) {
        memcg_oom_group_fn end = load_acquire(&oom_group_fn);
        struct thread *self = section_go_out();

        if (end)
            end(memcg, limited, refusals);
        section_come_back(self);
    }
    return refusals;
}

static int refuse(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                  enum memcg_outcome outcome)
{
    unsigned refusals = 0;

    mem_cgroup_note_event(limited, memcg, MEMCG_EV_OOM, bytes);
    mem_cgroup_note_event(limited, memcg, MEMCG_EV_FAIL, bytes);
    mem_cgroup_note_oom(memcg, limited, bytes, true);
    set_failure(memcg, limited, bytes);
    if (outcome == MEMCG_REFUSED_AT_CEILING)
        refusals = count_at_ceiling(memcg, limited);
    call_alarm(memcg, limited, bytes, outcome, refusals);
    return -ENOMEM;
}

static bool may_refuse(struct mem_cgroup *memcg, const struct request *req, enum memcg_bound bound)
{
    memcg_refusal_fn refusal = load_acquire(&refusal_fn);
    struct thread *self;
    bool may;

    if (req->forced)
        return false;
    if (!refusal)
        return bound != MEMCG_AT_RESERVE || req->bytes > MEMCG_SMALL_SIZE;
    self = section_go_out();
    may = refusal(memcg, req->bytes, bound);
    section_come_back(self);
    return may;
}

/* What kind of code makes the request that is about to be refused. */
static enum memcg_requester requester(void)
{
    memcg_requester_fn requester = load_acquire(&requester_fn);
    struct thread *self = section_go_out();
    enum memcg_requester found = requester ? requester() : MEMCG_REQUESTER_ANY;

    section_come_back(self);
    return found;
}

/* Looks at what `bytes` more, charged by force, would do.  Returns by how much the group that is
 * furthest past its reserve would be past it. *worst: that group. *at_ceiling: a group that would
 * be past its overdraft, or NULL. */
static int64_t past_reserve(struct mem_cgroup *memcg, size_t bytes, struct mem_cgroup **worst,
                            struct mem_cgroup **at_ceiling)
{
    int64_t most = 0;

    *at_ceiling = NULL;
    for (; memcg; memcg = memcg->parent) {
        int64_t max = mem_cgroup_get_limit(memcg, MEMCG_MAX);
        int64_t over = max == PAGE_COUNTER_MAX ? 0 : usage_of(memcg) + (int64_t)bytes - max;

        if (over > 0)
            over -= mem_cgroup_get_limit(memcg, MEMCG_RESERVE);
        if (over > most) {
            most = over;
            *worst = memcg;
        }
        if (over > 0 && over > mem_cgroup_get_limit(memcg, MEMCG_OVERDRAFT))
            *at_ceiling = memcg;
    }
    return most;
}

/*
 * At the ceiling one small request is refused.  Then the thread is granted some bytes by force,
 * since an exception handler that gets none loops for ever, or crashes (CPython 3.11).  Code that
 * swallows the error gets some bytes without a refusal; then it counts as refused, and is refused
 * indeed if it asks again before it has slept.  The number of grants bounds their sum.  The binding
 * bounds the number of all this in time, because it makes the thread sleep.
 */
static bool refuses_at_ceiling(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                               struct request *req)
{
    struct thread *self = memcg_self; /* in its section */
    enum memcg_requester asks;
    unsigned refusals;

    if (hlist_empty(&self->heaps)) /* the orphan serves the caller */
        return false;
    if (req->bytes > MEMCG_SMALL_SIZE) /* grants are for small requests only */
        return may_refuse(memcg, req, MEMCG_AT_CEILING) && requester() != MEMCG_REQUESTER_FRAGILE;
    if (self->granted_by == limited && self->grant > 0) {
        self->grant -= (int64_t)bytes;
        return false;
    }
    if (!may_refuse(memcg, req, MEMCG_AT_CEILING) ||
        (asks = requester()) == MEMCG_REQUESTER_FRAGILE)
        return false;
    if (asks == MEMCG_REQUESTER_UNHEARD && self->unheard <= MEMCG_UNHEARD) {
        self->unheard += (int64_t)bytes;
        req->passed_over = self->unheard > MEMCG_UNHEARD; /* so it must sleep first */
        return false;
    }
    refusals = load_relaxed(&limited->refusals);
    self->granted_by = limited;
    self->grant = MEMCG_GRANT >> (refusals < 16 ? refusals : 16);
    if (self->grant < MEMCG_GRANT_MIN)
        self->grant = MEMCG_GRANT_MIN;
    return true;
}

static bool collector_can_run(struct mem_cgroup *limited)
{
    memcg_collector_fn can_run = load_acquire(&collector_fn);
    struct thread *self;
    bool can;

    if (!mem_cgroup_high_pending(limited))
        return false;
    self = section_go_out();
    can = !can_run || can_run();
    section_come_back(self);
    return can;
}

/* True for what no caller survives without: a stack, and what malloc's callers ask for, unless it
 * is large and its caller is known. */
static bool is_forced(const struct request *req)
{
    memcg_survivor_fn survivor = load_acquire(&survivor_fn);
    struct thread *self;
    bool survives;

    if (req->kind != CHARGE_C)
        return req->kind == CHARGE_STACK;
    if (req->bytes < MEMCG_C_REFUSE_SIZE || !survivor)
        return true;
    self = section_go_out();
    survives = survivor(req->caller, req->bytes);
    section_come_back(self);
    return !survives;
}

static int charge_past_max(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                           struct request *req)
{
    struct mem_cgroup *at_ceiling;
    bool large, spared = false;
    int64_t over, highest;

    if (req->kind == CHARGE_OBJECT)
        return refuse(memcg, limited, req->bytes, MEMCG_REFUSED);
    req->forced = is_forced(req);
    large = req->bytes >= MEMCG_REFUSE_SIZE && !req->forced;
    /* Garbage may be what fills the group, so a large request goes into the reserve while that is
     * being collected. */
    if (large && !collector_can_run(limited) && may_refuse(memcg, req, MEMCG_AT_MAX)) {
        spared = requester() != MEMCG_REQUESTER_ANY;
        if (!spared)
            return refuse(memcg, limited, req->bytes, MEMCG_REFUSED);
    }
    over = past_reserve(memcg, bytes, &limited, &at_ceiling);
    if (over > 0 && may_refuse(memcg, req, MEMCG_AT_RESERVE)) {
        spared = requester() == MEMCG_REQUESTER_FRAGILE;
        if (!spared)
            return refuse(memcg, limited, req->bytes, MEMCG_REFUSED);
    }
    if (at_ceiling && refuses_at_ceiling(memcg, at_ceiling, bytes, req))
        return refuse(memcg, at_ceiling, req->bytes, MEMCG_REFUSED_AT_CEILING);
    page_counter_charge(&memcg->counter, (int64_t)bytes, idle_of(memcg));
    if (over > 0) {
        highest = load_relaxed(&limited->overdraft);
        while (over > highest && !cas_weak_relaxed(&limited->overdraft, &highest, over))
            ;
    }
    mem_cgroup_note_event(limited, memcg, over > 0 ? MEMCG_EV_OVERDRAFT : MEMCG_EV_RESERVE,
                          req->bytes);
    mem_cgroup_note_event(limited, memcg, MEMCG_EV_OOM, req->bytes);
    mem_cgroup_note_oom(memcg, limited, req->bytes, false);
    /* no alarm for a large one: if it still does not fit, its next request is refused */
    if (req->passed_over)
        call_alarm(memcg, at_ceiling, req->bytes, MEMCG_PASSED_OVER,
                   count_at_ceiling(memcg, at_ceiling));
    else if (!large || spared)
        call_alarm(memcg, limited, req->bytes, MEMCG_CHARGED, 0);
    return 0;
}

/* True if usage is an eighth of max, or 1 MiB, below every max.  So usage that hovers at max raises
 * no second alarm. */
static bool well_below_max(struct mem_cgroup *memcg)
{
    for (; memcg; memcg = memcg->parent) {
        int64_t max = mem_cgroup_get_limit(memcg, MEMCG_MAX);
        int64_t distance = max / 8 < MEMCG_REARM ? max / 8 : MEMCG_REARM;

        if (max != PAGE_COUNTER_MAX && usage_of(memcg) > max - distance)
            return false;
    }
    return true;
}

int memcg_charge(struct mem_cgroup *memcg, size_t bytes, struct request *req)
{
    struct page_counter *fail = NULL;
    struct mem_cgroup *limited;
    int error = 0;

    assert_any_section();
    if (bytes > CHARGE_LIMIT)
        return -ENOMEM;
    if (req->kind == CHARGE_FORCE) {
        page_counter_charge(&memcg->counter, (int64_t)bytes, idle_of(memcg));
    } else if (!page_counter_try_charge(&memcg->counter, (int64_t)bytes, idle_of(memcg), &fail)) {
        for (limited = memcg; limited->parent && &limited->counter != fail;)
            limited = limited->parent;
        /* reclaim freed nothing, so the next RECLAIM_SKIP small requests do without */
        if (req->reclaimed) {
            store_relaxed(&limited->reclaim_skip, RECLAIM_SKIP);
        } else {
            int skip = load_relaxed(&limited->reclaim_skip);

            mem_cgroup_note_event(limited, memcg, MEMCG_EV_MAX, req->bytes);
            if (req->bytes > RECLAIM_ALWAYS || req->kind == CHARGE_OBJECT || skip <= 0) {
                req->want_reclaim = limited;
                return -EAGAIN;
            }
            store_relaxed(&limited->reclaim_skip, skip - 1);
        }
        error = charge_past_max(memcg, limited, bytes, req);
    } else if (unlikely(mem_cgroup_alarmed(memcg))) {
        below_max(memcg);
        if (well_below_max(memcg))
            mem_cgroup_set_alarmed(memcg, MEMCG_NOT_ALARMED);
    }
    if (!error)
        check_high(memcg, req->bytes);
    publish_usage(memcg); /* after a failure too: another thread may have copied what was undone */
    return error;
}

void memcg_uncharge(struct mem_cgroup *memcg, size_t bytes)
{
    page_counter_uncharge(&memcg->counter, (int64_t)bytes);
    publish_usage(memcg);
    for (; memcg; memcg = memcg->parent) {
        int64_t high;

        if (!load_relaxed(&memcg->high_crossed))
            continue;
        high = load_relaxed(&memcg->high);
        if (usage_of(memcg) < high - high / 8)
            store_relaxed(&memcg->high_crossed, 0);
    }
}

bool memcg_last_failure(struct memcg_failure *failure)
{
    struct thread *self = thread_enter();
    bool has = self->has_failure;

    if (has)
        *failure = self->failure;
    self->has_failure = false;
    thread_leave(self);
    return has;
}

static void external(struct mem_cgroup *memcg, size_t bytes, bool charge)
{
    struct request req = { .bytes = bytes, .kind = CHARGE_FORCE };
    struct thread *self = thread_enter();

    bytes = bytes < CHARGE_LIMIT ? bytes : CHARGE_LIMIT;
    memcg = load_acquire(&memcg->objcg->memcg);
    memcg_stat_add(memcg, STAT_EXTERNAL, charge ? (int64_t)bytes : -(int64_t)bytes);
    if (charge)
        memcg_charge(memcg, bytes, &req);
    else
        memcg_uncharge(memcg, bytes);
    thread_leave(self);
}

void mem_cgroup_charge(struct mem_cgroup *memcg, size_t bytes) { external(memcg, bytes, true); }
void mem_cgroup_uncharge(struct mem_cgroup *memcg, size_t bytes) { external(memcg, bytes, false); }
