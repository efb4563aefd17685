/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.h - the record of a sampled block. See sample.c.
 */
#ifndef MEMCG_SAMPLE_H
#define MEMCG_SAMPLE_H

#include "css.h"

/* The record of one live block; its run has it until the block is freed. */
struct sample {
    /* samples_lock */
    struct hlist_node node;   /* in all_samples */
    struct obj_cgroup *objcg; /* fixed: the run's, which holds the reference */
    size_t bytes;             /* of the block now */
    size_t reach;             /* bytes that the countdown has passed for it */
    uint32_t every;           /* fixed: the mean distance of two samples, in bytes */
    uint32_t stack;           /* fixed: what the sampler returned */
};

/* In a section.  The calling thread's stack is asked for here.  NULL: there are too many, or no
 * memory. */
struct sample *sample_new(struct obj_cgroup *objcg, size_t bytes, uint32_t every,
                          const void *caller);
void sample_drop(struct sample *sample);                 /* in a section */
void sample_resize(struct sample *sample, size_t bytes); /* likewise; the block's new size */
void sample_extend(struct sample *sample, size_t more);  /* likewise; its reach grows */
/* Bytes until the thread's next sample: exponential, with the mean `every`; at least 1. */
int64_t sample_distance(struct thread *self, uint32_t every);

#endif
