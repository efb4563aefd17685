/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.c - the records of sampled blocks: which code allocated them, and how many bytes each stands
 * for.
 *
 * A sampled block is a page run of its own, whatever its size.  A free of it takes the slow way by
 * its address, no matter which thread frees it, and drops the record there.  So the records are
 * exactly the sampled blocks that live.
 *
 * The distance of two samples is exponential, so each byte is as likely to be hit as any other.  A
 * block of s bytes is sampled with the probability p = 1 - exp(-s / every).  Its record stands for
 * s / p bytes, and the sum over all records is an unbiased estimate of the live bytes (Horvitz and
 * Thompson 1952; the heap profiles of TCMalloc, Go and jemalloc are made so too).
 *
 * Kernel: none; ours.  Locks: samples_lock: all_samples and the records.
 */
#include "sample.h"

#include "arena.h"

#define SAMPLES_MAX 65536 /* at 512 KiB each they stand for 32 GiB */

static struct mutex samples_lock = MUTEX_INITIALIZER;
static struct hlist_head all_samples;
static size_t nr_samples;       /* samples_lock */
static uint64_t samples_missed; /* samples_lock */
static ATOMIC(memcg_sampler_fn) sampler_fn;
static atomic_u64_t next_seed;

void memcg_set_sampler(memcg_sampler_fn sampler, uint64_t seed)
{
    store_relaxed(&next_seed, seed);
    store_release(&sampler_fn, sampler);
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* -ln(u) for 0 < u < 1.  libm is not linked to.  With u = m * 2^-e and 1 <= m < 2 it is
 * e ln(2) - ln(m), and ln(m) = 2 artanh((m - 1) / (m + 1)), whose series converges by 1/9 a term. */
static double minus_log(double u)
{
    double e = 0, z, square, sum = 0;

    for (; u < 1; u *= 2)
        e++;
    z = (u - 1) / (u + 1);
    square = z * z;
    for (int i = 17; i > 0; i -= 2)
        sum = sum * square + 1.0 / i;
    return e * 0.6931471805599453 - 2 * z * sum;
}

int64_t sample_distance(struct thread *self, uint32_t every)
{
    double u;

    assert_section(self);
    if (!self->random)
        self->random = mix(add_relaxed(&next_seed, 0x9e3779b97f4a7c15u)) | 1;
    self->random += 0x9e3779b97f4a7c15u;
    u = ((double)(mix(self->random) >> 11) + 0.5) / 9007199254740992.0;
    return 1 + (int64_t)(minus_log(u) * (double)every);
}

struct sample *sample_new(struct obj_cgroup *objcg, size_t bytes, uint32_t every,
                          const void *caller)
{
    memcg_sampler_fn sampler = load_acquire(&sampler_fn);
    struct sample *sample;
    bool full;

    assert_any_section();
    mutex_lock(&samples_lock);
    full = nr_samples >= SAMPLES_MAX;
    nr_samples += !full;
    samples_missed += full;
    mutex_unlock(&samples_lock);
    if (full)
        return NULL;
    sample = metadata_alloc(sizeof(*sample));
    if (sample) {
        sample->objcg = objcg;
        sample->bytes = sample->reach = bytes;
        sample->every = every;
        sample->stack = sampler ? sampler(caller) : 0;
    }
    mutex_lock(&samples_lock);
    if (sample)
        hlist_add_head(&sample->node, &all_samples);
    nr_samples -= !sample;
    samples_missed += !sample;
    mutex_unlock(&samples_lock);
    return sample;
}

void sample_drop(struct sample *sample)
{
    assert_any_section();
    mutex_lock(&samples_lock);
    hlist_del(&sample->node);
    nr_samples--;
    mutex_unlock(&samples_lock);
    metadata_free(sample, sizeof(*sample));
}

void sample_resize(struct sample *sample, size_t bytes)
{
    assert_any_section();
    mutex_lock(&samples_lock);
    sample->bytes = bytes;
    mutex_unlock(&samples_lock);
}

void sample_extend(struct sample *sample, size_t more)
{
    assert_any_section();
    mutex_lock(&samples_lock);
    sample->reach += more;
    mutex_unlock(&samples_lock);
}

size_t mem_cgroup_samples(struct mem_cgroup *top, struct memcg_sample *samples, size_t room,
                          uint64_t *missed)
{
    struct thread *self = thread_enter();
    struct sample *sample;
    size_t nr = 0;

    mutex_lock(&samples_lock);
    hlist_for_each_entry(sample, &all_samples, node)
    {
        struct mem_cgroup *memcg = load_acquire(&sample->objcg->memcg);

        if (!mem_cgroup_is_descendant(memcg, top))
            continue;
        if (nr < room) {
            css_get(memcg);
            samples[nr] = (struct memcg_sample){ memcg, sample->bytes, sample->reach, sample->every,
                                                 sample->stack };
        }
        nr++;
    }
    *missed = samples_missed;
    mutex_unlock(&samples_lock);
    thread_leave(self);
    return nr;
}
