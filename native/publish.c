/* SPDX-License-Identifier: Apache-2.0 */
/*
 * publish.c - a mirror of the groups' figures in a file that other processes map.
 *
 * A viewer has to work while the GIL is held in one long call.  So no thread of ours writes the
 * page: the thread that charges does, after it has taken or given back pages.  The fast paths charge
 * nothing, and know nothing of the page.  The first charge after each tick also brings all records up
 * to date and appends to the ring of samples.
 *
 * The counters stay where they are, in private memory.  If they lay in the file, a forked child
 * would change its parent's, and the file would have pointers of ours.
 *
 * After a thread has changed a counter it copies it until it reads what it has copied.  So the last
 * value is copied last.  Each word is stored with release, so a reader that finds a word of a new entry
 * finds what was stored before.
 *
 * Kernel: none; ours (HotSpot's hsperfdata).
 * Locks: publish_lock, a leaf, taken anywhere: the queue of free slots, the records' sequence
 * numbers, the ring of events.  A fork makes it anew.
 */
#include "publish.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NO_SLOT UINT32_MAX

atomic_int_t publish_on;
static struct mutex publish_lock = MUTEX_INITIALIZER;
static struct publish_header *header;                      /* NULL: there is no page */
static struct publish_slot *slots;                         /* one for each record */
static uint32_t first_free = NO_SLOT, last_free = NO_SLOT; /* publish_lock; oldest first */
static uint64_t next_id;                                   /* publish_lock; goes on after a fork */
static atomic_s64_t next_tick;                             /* ns of the monotonic coarse clock */
static atomic_int_t ticking;                               /* 1: a thread writes samples */
static int64_t started_ns; /* of that clock: when the page was made */
static int64_t next_full;  /* of that clock; the thread that has `ticking` writes it */

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static size_t slots_bytes(void) { return ALIGN_UP(header->nr_records * sizeof(*slots), PAGE_SIZE); }

static void *at(uint64_t offset) { return (char *)header + offset; }

/* ---- records ---- */

/* Writes at most `room` bytes of the path, and zeroes behind it. */
static uint32_t put_path(atomic_u64_t *to, size_t room, const char *path)
{
    size_t len = path ? strlen(path) : 0;

    for (size_t i = 0; i < room; i += 8) {
        uint64_t word = 0;

        if (i < len)
            memcpy(&word, path + i, len - i < 8 ? len - i : 8);
        store_release(&to[i / 8], word);
    }
    return (uint32_t)len;
}

static void put_state(struct publish_record *record, enum publish_state state)
{
    uint64_t seq = load_relaxed(&record->seq);

    store_relaxed(&record->seq, seq + 1);
    store_release(&record->state, state);
    if (!load_relaxed(&record->closed_ns))
        store_release(&record->closed_ns, now_ns(CLOCK_REALTIME));
    store_release(&record->seq, seq + 2);
}

/* Threads may copy the same counter at once.  The one that finds it unchanged afterwards has stored
 * its value, or a newer one was stored after it. */
static int64_t put_counter(atomic_s64_t *to, const atomic_s64_t *from)
{
    int64_t value;

    do {
        value = load_seq_cst(from);
        store_seq_cst(to, value);
    } while (load_seq_cst(from) != value);
    return value;
}

static void put_usage(struct publish_slot *slot, struct mem_cgroup *memcg)
{
    struct publish_record *record = slot->record;
    int64_t usage = put_counter(&record->usage, &memcg->counter.usage);

    /* the thread that raises it comes here afterwards */
    if (load_relaxed(&record->peak) != load_relaxed(&memcg->counter.watermark))
        put_counter(&record->peak, &memcg->counter.watermark);
    if (usage > load_relaxed(&slot->highest))
        store_relaxed(&slot->highest, usage);
}

static void put_stat(struct publish_slot *slot, struct mem_cgroup *memcg)
{
    for (int i = 0; i < NR_STAT; i++)
        store_release(&slot->record->stat[i], load_relaxed(&memcg->stat[i]));
}

static void put_figures(struct publish_slot *slot, struct mem_cgroup *memcg)
{
    struct publish_record *record = slot->record;

    put_usage(slot, memcg);
    put_stat(slot, memcg);
    store_release(&record->max, load_relaxed(&memcg->counter.max));
    store_release(&record->high, load_relaxed(&memcg->high));
    store_release(&record->reserve, load_relaxed(&memcg->reserve));
    store_release(&record->overdraft_limit, load_relaxed(&memcg->overdraft_limit));
    store_release(&record->overdraft, load_relaxed(&memcg->overdraft));
    store_release(&record->caches, load_relaxed(&memcg->nr_caches));
    for (int i = 0; i < MEMCG_NR_EVENTS; i++) {
        store_release(&record->events[i], load_relaxed(&memcg->events[i]));
        store_release(&record->events_local[i], load_relaxed(&memcg->events_local[i]));
    }
}

/* Two threads may find the group offline at once; the number `seq` has one writer at a time. */
static void note_offline(struct publish_record *record, const struct mem_cgroup *memcg)
{
    if (load_relaxed(&memcg->online) || load_relaxed(&record->state) != PUBLISH_ONLINE)
        return;
    mutex_lock(&publish_lock);
    if (load_relaxed(&record->state) == PUBLISH_ONLINE)
        put_state(record, PUBLISH_DYING);
    mutex_unlock(&publish_lock);
}

/* The record that was never used, or the one that has been free for longest: until then it says what
 * the group's name was. */
static struct publish_slot *take_slot(void)
{
    uint32_t used = load_relaxed(&header->used_records), index = first_free;

    assert_locked(&publish_lock);
    if (used < header->nr_records) {
        store_release(&header->used_records, used + 1);
        return &slots[used];
    }
    if (index == NO_SLOT)
        return NULL;
    first_free = slots[index].next_free;
    if (first_free == NO_SLOT)
        last_free = NO_SLOT;
    return &slots[index];
}

void publish_add(struct mem_cgroup *memcg)
{
    struct publish_slot *slot, *parent;
    struct publish_record *record;
    uint64_t seq;

    if (!load_relaxed(&publish_on) || load_plain(&memcg->slot))
        return;
    parent = memcg->parent ? load_acquire(&memcg->parent->slot) : NULL;
    mutex_lock(&publish_lock);
    slot = take_slot();
    if (slot) {
        record = slot->record;
        seq = load_relaxed(&record->seq);
        store_relaxed(&record->seq, seq + 1);
        store_release(&record->id, ++next_id);
        store_release(&record->parent, parent ? load_relaxed(&parent->record->id) : 0);
        store_release(&record->made_ns, now_ns(CLOCK_REALTIME));
        store_release(&record->closed_ns, 0);
        store_release(&record->state,
                      load_relaxed(&memcg->online) ? PUBLISH_ONLINE : PUBLISH_DYING);
        store_release(&record->path_len, put_path(record->path, PUBLISH_PATH_MAX, memcg->path));
        store_release(&record->inside, 0);
        store_relaxed(&slot->highest, 0);
        store_relaxed(&slot->sampled, -1);
        for (int i = 0; i < MEMCG_NR_EVENTS; i++)
            store_relaxed(&slot->event_ns[i], 0);
        put_figures(slot, memcg);
        store_release(&record->seq, seq + 2);
        store_release(&memcg->slot, slot);
        store_release(&slot->memcg, memcg);
    } else {
        store_release(&header->left_out, load_relaxed(&header->left_out) + 1);
    }
    mutex_unlock(&publish_lock);
}

struct publish_slot *publish_drop(struct mem_cgroup *memcg)
{
    struct publish_slot *slot = load_acquire(&memcg->slot);

    if (slot) {
        store_release(&memcg->slot, NULL);
        store_release(&slot->memcg, NULL);
    }
    return slot;
}

void publish_put(struct publish_slot *slot)
{
    if (!slot || !load_relaxed(&publish_on))
        return;
    mutex_lock(&publish_lock);
    put_state(slot->record, PUBLISH_GONE);
    slot->next_free = NO_SLOT;
    if (last_free == NO_SLOT)
        first_free = (uint32_t)(slot - slots);
    else
        slots[last_free].next_free = (uint32_t)(slot - slots);
    last_free = (uint32_t)(slot - slots);
    mutex_unlock(&publish_lock);
}

/* ---- the rings ---- */

static void put_sample(struct publish_slot *slot, int64_t now, int64_t usage)
{
    uint64_t head = load_relaxed(&header->samples_head);
    struct publish_sample *sample = at(header->samples_at);
    int64_t highest = exchange_relaxed(&slot->highest, usage);

    sample += head % header->nr_samples;
    store_release(&sample->time_ns, now);
    store_release(&sample->id, load_relaxed(&slot->record->id));
    store_release(&sample->usage, usage);
    store_release(&sample->highest, highest > usage ? highest : usage);
    store_release(&header->samples_head, head + 1);
    store_relaxed(&slot->sampled, usage);
}

/* From a sample to the next one, at this time of the coarse clock. */
static int64_t distance(int64_t monotonic)
{
    int64_t share = (monotonic - started_ns) / PUBLISH_TICK_SHARE;

    return share < PUBLISH_TICK_MIN_NS ? PUBLISH_TICK_MIN_NS
           : share < PUBLISH_TICK_NS   ? share
                                       : PUBLISH_TICK_NS;
}

/* A group whose usage has not moved has a sample once in PUBLISH_FULL_NS only. */
static void tick(int64_t monotonic)
{
    int64_t now = now_ns(CLOCK_REALTIME_COARSE);
    bool full = monotonic >= next_full;

    if (full)
        next_full = monotonic + PUBLISH_FULL_NS;

    for (uint32_t i = 0; i < load_acquire(&header->used_records); i++) {
        struct mem_cgroup *memcg = load_acquire(&slots[i].memcg);
        int64_t usage;

        if (!memcg)
            continue;
        put_figures(&slots[i], memcg);
        note_offline(slots[i].record, memcg);
        usage = page_counter_read(&memcg->counter);
        if (full || usage != load_relaxed(&slots[i].sampled) ||
            usage != load_relaxed(&slots[i].highest))
            put_sample(&slots[i], now, usage);
    }
    store_release(&header->updated_ns, now);
}

void __publish_usage(struct mem_cgroup *memcg)
{
    int64_t now;
    struct publish_slot *slot;

    if ((slot = load_acquire(&memcg->slot)))
        put_stat(slot, memcg);
    for (; memcg; memcg = memcg->parent)
        if ((slot = load_acquire(&memcg->slot)))
            put_usage(slot, memcg);
    now = now_ns(CLOCK_MONOTONIC_COARSE);
    if (now >= load_relaxed(&next_tick) && !exchange_acq_rel(&ticking, 1)) {
        if (now >= load_relaxed(&next_tick)) {
            store_relaxed(&next_tick, now + distance(now));
            tick(now);
        }
        store_release(&ticking, 0);
    }
}

void __publish_stat(struct mem_cgroup *memcg)
{
    struct publish_slot *slot = load_acquire(&memcg->slot);

    if (slot)
        put_stat(slot, memcg);
}

void __publish_figures(struct mem_cgroup *memcg)
{
    struct publish_slot *slot = load_acquire(&memcg->slot);

    if (!slot)
        return;
    put_figures(slot, memcg);
    note_offline(slot->record, memcg);
}

void __publish_event(struct mem_cgroup *memcg, struct mem_cgroup *from,
                     enum mem_cgroup_event_item item, size_t bytes)
{
    struct publish_slot *slot, *asked;
    struct publish_event *event;
    int64_t now;
    uint64_t head;

    for (struct mem_cgroup *m = memcg; m; m = m->parent)
        if ((slot = load_acquire(&m->slot)))
            store_release(&slot->record->events[item], load_relaxed(&m->events[item]));
    slot = load_acquire(&memcg->slot);
    if (!slot)
        return;
    store_release(&slot->record->events_local[item], load_relaxed(&memcg->events_local[item]));
    now = now_ns(CLOCK_REALTIME);
    if (now < load_relaxed(&slot->event_ns[item]) + PUBLISH_EVENT_NS)
        return;
    store_relaxed(&slot->event_ns[item], now);
    asked = from ? load_acquire(&from->slot) : NULL;
    mutex_lock(&publish_lock);
    head = load_relaxed(&header->events_head);
    event = at(header->events_at);
    event += head % header->nr_events;
    store_release(&event->time_ns, now);
    store_release(&event->id, load_relaxed(&slot->record->id));
    store_release(&event->from, asked ? load_relaxed(&asked->record->id) : 0);
    store_release(&event->bytes, (int64_t)bytes);
    store_release(&event->usage, page_counter_read(&memcg->counter));
    store_release(&event->max, load_relaxed(&memcg->counter.max));
    store_release(&event->total, load_relaxed(&memcg->events_local[item]));
    store_release(&event->kind, item);
    store_release(&event->path_len, put_path(event->path, PUBLISH_EVENT_PATH_MAX, memcg->path));
    store_release(&header->events_head, head + 1);
    mutex_unlock(&publish_lock);
}

void mem_cgroup_set_inside(struct mem_cgroup *memcg, long nr)
{
    struct publish_slot *slot = load_acquire(&memcg->slot);

    if (slot && is_publishing())
        store_release(&slot->record->inside, (uint32_t)nr);
}

bool memcg_is_published(void) { return load_relaxed(&publish_on); }

/* ---- the page's life ---- */

static size_t lay_out(struct publish_header *h, const struct memcg_publish_config *config)
{
    *h = (struct publish_header){ .magic = PUBLISH_MAGIC,
                                  .version = PUBLISH_VERSION,
                                  .header_bytes = PUBLISH_HEADER_BYTES,
                                  .record_bytes = sizeof(struct publish_record),
                                  .nr_records = config->groups,
                                  .event_bytes = sizeof(struct publish_event),
                                  .nr_events = config->events,
                                  .sample_bytes = sizeof(struct publish_sample),
                                  .nr_samples = config->samples,
                                  .pid = config->pid,
                                  .start_ticks = config->start_ticks,
                                  .pid_namespace = config->pid_namespace,
                                  .began_ns = now_ns(CLOCK_REALTIME) };
    h->records_at = h->header_bytes;
    h->events_at = h->records_at + (uint64_t)h->record_bytes * h->nr_records;
    h->samples_at = h->events_at + (uint64_t)h->event_bytes * h->nr_events;
    h->file_bytes = ALIGN_UP(h->samples_at + (uint64_t)h->sample_bytes * h->nr_samples, PAGE_SIZE);
    return h->file_bytes;
}

int publish_begin(const struct memcg_publish_config *config, struct mem_cgroup *root)
{
    struct publish_header first;
    size_t bytes;
    void *page, *own;
    int error;

    assert_walker();
    if (header)
        return -EBUSY;
    if (!config->groups || !config->events || !config->samples || config->groups > 1u << 20 ||
        config->events > 1u << 20 || config->samples > 1u << 24)
        return -EINVAL;
    bytes = lay_out(&first, config);
    /* Blocks that exist cannot be missing later, when a store would be a SIGBUS. */
    error = posix_fallocate(config->fd, 0, (off_t)bytes);
    if (error)
        return -error;
    page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, config->fd, 0);
    if (page == MAP_FAILED)
        return -errno;
    own = mmap(NULL, ALIGN_UP(config->groups * sizeof(*slots), PAGE_SIZE), PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (own == MAP_FAILED) {
        munmap(page, bytes);
        return -ENOMEM;
    }
    header = page;
    slots = own;
    memcpy(page, &first, sizeof(first));
    for (uint32_t i = 0; i < config->groups; i++)
        slots[i].record = (struct publish_record *)at(header->records_at) + i;
    first_free = last_free = NO_SLOT;
    started_ns = now_ns(CLOCK_MONOTONIC_COARSE);
    next_full = 0;
    store_relaxed(&next_tick, 0);
    store_release(&publish_on, 1);
    publish_add(root);
    return 0;
}

void publish_end(void)
{
    uint32_t used;

    assert_walker();
    if (!header)
        return;
    store_release(&publish_on, 0);
    used = load_relaxed(&header->used_records);
    for (uint32_t i = 0; i < used; i++)
        if (load_plain(&slots[i].memcg))
            store_release(&load_plain(&slots[i].memcg)->slot, NULL);
    munmap(slots, slots_bytes());
    munmap(header, header->file_bytes);
    header = NULL;
    slots = NULL;
}

/* A handler of another library may allocate between ours, in the child too.  So nothing is written
 * until both processes know which of them they are. */
void publish_pause(void)
{
    assert_walker();
    store_release(&publish_on, 0);
}

void publish_resume(void)
{
    assert_walker();
    store_release(&publish_on, header != NULL);
    store_relaxed(&next_tick, 0); /* the next charge makes up for what was not written */
}

/* The page is the parent's. */
void publish_fork_child(void)
{
    publish_lock = (struct mutex)MUTEX_INITIALIZER;
    publish_end();
}
