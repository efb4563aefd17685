/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h - whether a request fails on purpose. See fault.c.
 */
#ifndef MEMCG_FAULT_H
#define MEMCG_FAULT_H

#include "section.h"

/* Bits of fault_point; written with all threads stolen. */
extern atomic_uint_t faults_armed MEMCG_EXPORT_AS(faults_armed);
/* memcg, s: the group and the cache of the request, or NULL. */
bool __should_fail(enum fault_point point, const struct mem_cgroup *memcg,
                   const struct kmem_cache *s, size_t bytes) MEMCG_EXPORT_AS(should_fail);
static inline bool should_fail(enum fault_point point, const struct mem_cgroup *memcg,
                               const struct kmem_cache *s, size_t bytes)
{
    return unlikely(load_relaxed(&faults_armed)) && __should_fail(point, memcg, s, bytes);
}

/* In a section: a request for an object of s, or for a page run (s is NULL). */
bool __should_fail_request(struct thread *self, struct kmem_cache *s, const struct request *req);

static inline bool should_fail_request(struct thread *self, struct kmem_cache *s,
                                       const struct request *req)
{
    return unlikely(load_relaxed(&faults_armed)) && __should_fail_request(self, s, req);
}

/* Why a request for memory is looked at before it is served, in bits.  So that the two reasons cost
 * one load, requests test this word, and not faults_armed. */
enum watch { WATCH_FAULTS = 1, WATCH_SAMPLES = 2 };
extern atomic_uint_t requests_watched; /* written with all threads stolen */
void watch_requests(enum watch reason, bool on);

void fault_fork_child(void);

#endif
