/* SPDX-License-Identifier: Apache-2.0 */
/* test_publish.c - the page for other processes: what a second mapping of the file shows. */
#define _GNU_SOURCE /* memfd_create() */
#include <sys/mman.h>
#include <time.h>

#include "control.h"
#include "../publish.h"

#define THREADS 4
#define ROUNDS 20000

static const char *view; /* a second mapping, as another process has it */
static size_t view_bytes;

static const struct publish_header *head(void) { return (const void *)view; }

static const struct publish_record *record_of(const struct mem_cgroup *memcg)
{
    const struct publish_record *record = (const void *)(view + head()->records_at);
    const char *path = memcg->path;

    for (uint32_t i = 0; i < load_acquire(&head()->used_records); i++)
        if (load_acquire(&record[i].state) != PUBLISH_GONE &&
            !strncmp((const char *)record[i].path, path, PUBLISH_PATH_MAX))
            return &record[i];
    return NULL;
}

static const struct publish_event *last_event(void)
{
    const struct publish_event *event = (const void *)(view + head()->events_at);

    return &event[(load_acquire(&head()->events_head) - 1) % head()->nr_events];
}

static struct mem_cgroup *group(struct mem_cgroup *parent, const char *path)
{
    struct mem_cgroup *memcg = group_new(parent);

    mem_cgroup_set_path(memcg, path);
    return memcg;
}

static void group_end(struct mem_cgroup *memcg)
{
    group_close(memcg);
    work();
}

static int publish_in(int fd, uint32_t groups)
{
    struct memcg_publish_config config = { .fd = fd, .groups = groups, .events = 8, .samples = 64 };

    return memcg_publish(&config);
}

static void publish(uint32_t groups)
{
    int fd = memfd_create("page", 0);

    CHECK(fd >= 0);
    CHECK(publish_in(fd, groups) == 0);
    view_bytes = (size_t)lseek(fd, 0, SEEK_END);
    view = mmap(NULL, view_bytes, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(view != MAP_FAILED);
    CHECK(head()->file_bytes == view_bytes);
    close(fd);
}

static void unpublish(void)
{
    memcg_unpublish();
    munmap((void *)view, view_bytes);
}

/* A page run is charged first and counted by its kind afterwards. */
static void figures_that_change_after_a_charge_are_on_the_page(void)
{
    struct mem_cgroup *g;
    const struct publish_record *record;
    void *p;

    publish(4);
    g = group(mem_cgroup_root(), "runs");
    record = record_of(g);
    memcg_set_current(g);
    p = memcg_malloc(100000);
    CHECK(load_relaxed(&g->stat[STAT_RUNS]) >= 100000);
    CHECK(load_relaxed(&record->stat[STAT_RUNS]) == load_relaxed(&g->stat[STAT_RUNS]));
    memcg_free(p);
    memcg_set_current(NULL);
    CHECK(load_relaxed(&record->stat[STAT_RUNS]) == 0);
    group_end(g);
    unpublish();
}

static void groups_of_before_and_after_the_start_have_records(void)
{
    struct mem_cgroup *before = group(mem_cgroup_root(), "before"), *below, *after;
    const struct publish_record *record;

    below = group(before, "before/below");
    mem_cgroup_charge(below, 5 << 20);
    publish(8);
    after = group(before, "before/after");
    CHECK(record_of(mem_cgroup_root()) && record_of(below));
    record = record_of(before);
    CHECK(load_relaxed(&record->usage) == mem_cgroup_usage(before));
    CHECK(load_relaxed(&record_of(after)->parent) == load_relaxed(&record->id));
    mem_cgroup_charge(after, 1 << 20);
    CHECK(load_relaxed(&record->usage) == mem_cgroup_usage(before));
    CHECK(load_relaxed(&record_of(after)->stat[STAT_EXTERNAL]) == 1 << 20);
    mem_cgroup_uncharge(after, 1 << 20);
    CHECK(load_relaxed(&record->usage) == mem_cgroup_usage(before));
    CHECK(load_relaxed(&record->peak) >= 6 << 20);
    mem_cgroup_reset_watermark(before);
    CHECK(load_relaxed(&record->peak) == mem_cgroup_usage(before));
    mem_cgroup_set_limit(before, MEMCG_MAX, 32 << 20);
    mem_cgroup_set_limit(before, MEMCG_HIGH, 16 << 20);
    CHECK(load_relaxed(&record->max) == 32 << 20 && load_relaxed(&record->high) == 16 << 20);
    mem_cgroup_set_inside(before, 3);
    CHECK(load_relaxed(&record->inside) == 3);
    child_create(before, kmalloc_cache(3));
    CHECK(load_relaxed(&record->caches) == 1);
    mem_cgroup_uncharge(below, 5 << 20);
    group_end(after);
    group_end(below);
    group_end(before);
    unpublish();
}

static void a_closed_group_is_dying_until_it_is_freed_and_its_name_stays(void)
{
    struct mem_cgroup *memcg, *other;
    const struct publish_record *record;

    publish(3);
    memcg = group(mem_cgroup_root(), "a");
    record = record_of(memcg);
    mem_cgroup_offline(memcg);
    CHECK(load_relaxed(&record->state) == PUBLISH_DYING && load_relaxed(&record->closed_ns));
    css_put(memcg);
    work();
    CHECK(load_relaxed(&record->state) == PUBLISH_GONE);
    CHECK(!strcmp((const char *)record->path, "a"));
    other = group(mem_cgroup_root(), "b"); /* the last record that was never used */
    CHECK(!strcmp((const char *)record->path, "a"));
    memcg = group(mem_cgroup_root(), "c");
    CHECK(record_of(memcg) == record);
    CHECK(load_relaxed(&record->id) == load_relaxed(&record_of(other)->id) + 1);
    CHECK(!load_relaxed(&record->closed_ns) && !(load_relaxed(&record->seq) & 1));
    group_end(group(mem_cgroup_root(), "d"));
    CHECK(load_relaxed(&head()->left_out) == 1);
    group_end(memcg);
    group_end(other);
    unpublish();
}

static void a_long_path_is_cut(void)
{
    static char path[1000];
    struct mem_cgroup *memcg;

    memset(path, 'x', sizeof(path) - 1);
    publish(3);
    memcg = group(mem_cgroup_root(), path);
    CHECK(load_relaxed(&record_of(memcg)->path_len) == sizeof(path) - 1);
    CHECK(((const char *)record_of(memcg)->path)[PUBLISH_PATH_MAX - 1] == 'x');
    group_end(memcg);
    unpublish();
}

static void a_refusal_is_an_event_with_its_group_and_bytes(void)
{
    struct mem_cgroup *top, *low;
    uint64_t before;

    publish(8);
    top = group(mem_cgroup_root(), "top");
    low = group(top, "top/low");
    mem_cgroup_set_limit(top, MEMCG_MAX, 1 << 20);
    before = load_relaxed(&head()->events_head);
    CHECK(mem_cgroup_try_charge(low, 2 << 20) == -ENOMEM);
    CHECK(load_relaxed(&head()->events_head) == before + 3); /* max, oom, fail */
    CHECK(load_relaxed(&last_event()->kind) == MEMCG_EV_FAIL);
    CHECK(load_relaxed(&last_event()->id) == load_relaxed(&record_of(top)->id));
    CHECK(load_relaxed(&last_event()->from) == load_relaxed(&record_of(low)->id));
    CHECK(load_relaxed(&last_event()->bytes) == 2 << 20);
    CHECK(load_relaxed(&last_event()->max) == 1 << 20);
    CHECK(load_relaxed(&last_event()->total) == 1);
    CHECK(load_relaxed(&record_of(mem_cgroup_root())->events[MEMCG_EV_FAIL]) >= 1);
    for (int i = 0; i < 1000; i++)
        CHECK(mem_cgroup_try_charge(low, 2 << 20) == -ENOMEM);
    /* 10 ms apart at least; a slow run has several */
    CHECK(load_relaxed(&head()->events_head) < before + 1000);
    CHECK(load_relaxed(&record_of(top)->events_local[MEMCG_EV_FAIL]) == 1001);
    group_end(low);
    group_end(top);
    unpublish();
}

static void the_first_charge_after_a_second_writes_samples(void)
{
    const struct publish_sample *sample;
    struct mem_cgroup *memcg;
    uint64_t before, i;
    struct timespec wait = { .tv_sec = 1, .tv_nsec = 50000000 };
    bool found = false;

    publish(8);
    memcg = group(mem_cgroup_root(), "sampled");
    mem_cgroup_charge(memcg, 1 << 20); /* the first tick */
    before = load_relaxed(&head()->samples_head);
    mem_cgroup_charge(memcg, 8 << 20);
    mem_cgroup_uncharge(memcg, 8 << 20);
    CHECK(load_relaxed(&head()->samples_head) == before);
    nanosleep(&wait, NULL); /* the clock itself is what is waited for */
    mem_cgroup_charge(memcg, 1 << 20);
    CHECK(load_relaxed(&head()->samples_head) > before);
    sample = (const void *)(view + head()->samples_at);
    for (i = before; i < load_relaxed(&head()->samples_head); i++)
        if (load_relaxed(&sample[i % 64].id) == load_relaxed(&record_of(memcg)->id)) {
            CHECK(load_relaxed(&sample[i % 64].usage) == mem_cgroup_usage(memcg));
            CHECK(load_relaxed(&sample[i % 64].highest) >= 9 << 20);
            found = true;
        }
    CHECK(found);
    mem_cgroup_uncharge(memcg, 2 << 20);
    group_end(memcg);
    unpublish();
}

static struct mem_cgroup *shared_by_threads;

static void *charge_and_uncharge(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        mem_cgroup_charge(shared_by_threads, 4096);
        if (i % 2)
            mem_cgroup_uncharge(shared_by_threads, 4096);
    }
    return arg;
}

static void after_threads_have_charged_at_once_the_record_has_the_counters_value(void)
{
    pthread_t threads[THREADS];
    struct mem_cgroup *memcg;

    publish(8);
    shared_by_threads = memcg = group(mem_cgroup_root(), "shared");
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, charge_and_uncharge, NULL));
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(mem_cgroup_usage(memcg) == (int64_t)THREADS * ROUNDS / 2 * 4096);
    CHECK(load_relaxed(&record_of(memcg)->usage) == mem_cgroup_usage(memcg));
    CHECK(load_relaxed(&record_of(memcg)->peak) == memcg->counter.watermark.value);
    mem_cgroup_uncharge(memcg, (size_t)THREADS * ROUNDS / 2 * 4096);
    group_end(memcg);
    unpublish();
}

static void a_forked_child_does_not_write_its_parents_page(void)
{
    struct mem_cgroup *memcg;
    int64_t usage, status;
    int raw;

    publish(8);
    memcg = group(mem_cgroup_root(), "forks");
    usage = load_relaxed(&record_of(memcg)->usage);
    if (!fork()) {
        int fd = memfd_create("child", 0);

        mem_cgroup_charge(memcg, 1 << 20);
        if (load_relaxed(&record_of(memcg)->usage) != usage || memcg_is_published())
            _exit(1);
        if (publish_in(fd, 8)) /* a page of its own */
            _exit(2);
        mem_cgroup_charge(memcg, 1 << 20);
        _exit(load_relaxed(&record_of(memcg)->usage) != usage);
    }
    CHECK(wait(&raw) > 0);
    status = WEXITSTATUS(raw);
    CHECK(WIFEXITED(raw) && status == 0);
    mem_cgroup_charge(memcg, 1 << 20); /* the parent's is written again */
    CHECK(load_relaxed(&record_of(memcg)->usage) == mem_cgroup_usage(memcg));
    mem_cgroup_uncharge(memcg, 1 << 20);
    group_end(memcg);
    unpublish();
}

/* The page is new, so it has a sample every 16 ms.  The coarse clock may be 8 ms late each time. */
static void a_young_page_has_samples_much_more_often(void)
{
    struct mem_cgroup *memcg;
    struct timespec now, begin, last;
    int due = 0;
    uint64_t before, samples;

    publish(8);
    memcg = group(mem_cgroup_root(), "young");
    before = load_relaxed(&head()->samples_head);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    last = begin;
    do {
        mem_cgroup_charge(memcg, 4096);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - last.tv_sec) * 1000 + (now.tv_nsec - last.tv_nsec) / 1000000 >= 24) {
            last = now;
            due++;
        }
    } while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < 500);
    samples = (load_relaxed(&head()->samples_head) - before) / 2; /* the root has some too */
    CHECK((int)samples >= due && samples <= 500 / 16 + 2);
    mem_cgroup_uncharge(memcg, (size_t)mem_cgroup_usage(memcg));
    group_end(memcg);
    unpublish();
}

static void a_second_page_and_one_without_room_are_refused(void)
{
    publish(1);
    CHECK(publish_in(memfd_create("second", 0), 1) == -EBUSY);
    unpublish();
    CHECK(publish_in(memfd_create("none", 0), 0) == -EINVAL);
    CHECK(publish_in(-1, 1) == -EBADF);
    CHECK(!memcg_is_published());
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    mem_cgroup_set_path(mem_cgroup_root(), "");
    RUN(figures_that_change_after_a_charge_are_on_the_page);
    RUN(groups_of_before_and_after_the_start_have_records);
    RUN(a_closed_group_is_dying_until_it_is_freed_and_its_name_stays);
    RUN(a_long_path_is_cut);
    RUN(a_refusal_is_an_event_with_its_group_and_bytes);
    RUN(the_first_charge_after_a_second_writes_samples);
    RUN(after_threads_have_charged_at_once_the_record_has_the_counters_value);
    RUN(a_forked_child_does_not_write_its_parents_page);
    RUN(a_young_page_has_samples_much_more_often);
    RUN(a_second_page_and_one_without_room_are_refused);
    return DONE();
}
