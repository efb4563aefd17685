/* SPDX-License-Identifier: Apache-2.0 */
/*
 * publish.h - the page on which other processes read the groups' figures.
 *
 * docs/page.md describes the layout for readers.  A change of it needs another PUBLISH_VERSION.
 */
#ifndef MEMCG_PUBLISH_H
#define MEMCG_PUBLISH_H

#include "section.h"

#define PUBLISH_MAGIC "memcgpg"
#define PUBLISH_VERSION 1
#define PUBLISH_HEADER_BYTES PAGE_SIZE
#define PUBLISH_PATH_MAX 256      /* bytes of a group's path that a record holds */
#define PUBLISH_EVENT_PATH_MAX 64 /* bytes of it that an event holds */
/* From one sample to the next: a 64th of the page's age, so that a program of a second has a curve
 * too.  In the first minute there are some 330 samples of a group, and one a second from then on. */
#define PUBLISH_TICK_NS 1000000000
#define PUBLISH_TICK_MIN_NS 16000000
#define PUBLISH_TICK_SHARE 64
#define PUBLISH_FULL_NS (60 * (int64_t)PUBLISH_TICK_NS) /* so often each group has a sample */
/* Events of one group and kind have an entry at most once in this time. */
#define PUBLISH_EVENT_NS 10000000

enum publish_state { PUBLISH_GONE, PUBLISH_ONLINE, PUBLISH_DYING };

struct publish_header {
    char magic[8];
    uint32_t version, header_bytes;
    uint32_t record_bytes, nr_records;
    uint64_t records_at; /* bytes from the start of the file */
    uint32_t event_bytes, nr_events;
    uint64_t events_at;
    uint32_t sample_bytes, nr_samples;
    uint64_t samples_at;
    uint64_t file_bytes;
    uint64_t pid, start_ticks, pid_namespace; /* as in /proc/PID/stat and /proc/PID/ns/pid */
    int64_t began_ns;                         /* CLOCK_REALTIME, as all times of the page */
    atomic_s64_t updated_ns;                  /* when all records were last brought up to date */
    atomic_u64_t events_head, samples_head;   /* how many were written so far */
    atomic_u32_t used_records;                /* the records from here on were never used */
    atomic_u32_t left_out;                    /* how many groups found no record so far */
};

struct publish_record {
    atomic_u64_t seq; /* odd while id, parent, state and path are written */
    atomic_u64_t id;  /* from 1; never used twice */
    atomic_u64_t parent;
    atomic_s64_t made_ns, closed_ns; /* 0: it is online */
    atomic_u32_t state;              /* enum publish_state */
    atomic_u32_t path_len;           /* bytes of the whole path */
    atomic_s64_t usage, peak, max, high, reserve, overdraft_limit, overdraft;
    atomic_s64_t stat[NR_STAT];
    atomic_u64_t events[MEMCG_NR_EVENTS], events_local[MEMCG_NR_EVENTS];
    atomic_u32_t caches, inside;
    atomic_u64_t path[PUBLISH_PATH_MAX / 8];
};

struct publish_event {
    atomic_s64_t time_ns;
    atomic_u64_t id;    /* the group whose limit it was */
    atomic_u64_t from;  /* the group that asked; 0: not known */
    atomic_s64_t bytes; /* that were asked for */
    atomic_s64_t usage, max;
    atomic_u64_t total; /* events of this kind at this group so far, this one included */
    atomic_u32_t kind;  /* enum mem_cgroup_event_item */
    atomic_u32_t path_len;
    atomic_u64_t path[PUBLISH_EVENT_PATH_MAX / 8];
};

struct publish_sample {
    atomic_s64_t time_ns;
    atomic_u64_t id;
    atomic_s64_t usage;
    atomic_s64_t highest; /* since the sample before */
};

_Static_assert(sizeof(struct publish_header) == 136, "docs/page.md");
_Static_assert(sizeof(struct publish_record) == 512, "docs/page.md");
_Static_assert(sizeof(struct publish_event) == 128, "docs/page.md");
_Static_assert(sizeof(struct publish_sample) == 32, "docs/page.md");

/* What the process keeps for itself of a record. */
struct publish_slot {
    ATOMIC(struct mem_cgroup *) memcg;      /* NULL: gone; cleared a grace period before its end */
    struct publish_record *record;          /* fixed */
    atomic_s64_t highest;                   /* racy: the highest usage since the last sample */
    atomic_s64_t sampled;                   /* the usage of the last sample */
    atomic_s64_t event_ns[MEMCG_NR_EVENTS]; /* when each kind last had an entry */
    uint32_t next_free;                     /* publish_lock */
};

/* 1: there is a page, and this thread may write it. */
extern atomic_int_t publish_on MEMCG_EXPORT_AS(publish_on);

/* All threads stolen.  `memcg` is the root.  The file gets its size. */
int publish_begin(const struct memcg_publish_config *config, struct mem_cgroup *memcg);
void publish_end(void); /* all threads stolen */
/* Gives the group a record.  In a section, or all threads stolen. */
void publish_add(struct mem_cgroup *memcg);
/* Takes the record from a group that ends, and after a grace period gives it to the next one. */
struct publish_slot *publish_drop(struct mem_cgroup *memcg);
void publish_put(struct publish_slot *slot); /* NULL: there was none.  In a section */

/* ---- the mirror ----
 *
 * The functions below ask for a page first.  So they cost a load and a branch where there is none.
 */

void __publish_usage(struct mem_cgroup *memcg);
void __publish_stat(struct mem_cgroup *memcg);
void __publish_figures(struct mem_cgroup *memcg);
void __publish_event(struct mem_cgroup *memcg, struct mem_cgroup *from,
                     enum mem_cgroup_event_item item, size_t bytes);

static inline bool is_publishing(void) { return unlikely(load_relaxed(&publish_on)); }

/* After a change of a group's usage, for it and its ancestors.  In a section, or by a walker. */
static inline void publish_usage(struct mem_cgroup *memcg)
{
    if (is_publishing())
        __publish_usage(memcg);
}

/* After a change of memcg->stat. */
static inline void publish_stat(struct mem_cgroup *memcg)
{
    if (is_publishing())
        __publish_stat(memcg);
}

/* After a change of anything else of the group's own. */
static inline void publish_figures(struct mem_cgroup *memcg)
{
    if (is_publishing())
        __publish_figures(memcg);
}

static inline void publish_event(struct mem_cgroup *memcg, struct mem_cgroup *from,
                                 enum mem_cgroup_event_item item, size_t bytes)
{
    if (is_publishing())
        __publish_event(memcg, from, item, bytes);
}

static inline void publish_inside(struct mem_cgroup *memcg, long nr)
{
    if (is_publishing())
        mem_cgroup_set_inside(memcg, nr);
}

/* The thread that forks, with all others stolen. */
void publish_pause(void);
void publish_resume(void);
void publish_fork_child(void);

#endif
