# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""Sampled blocks: which groups are sampled, the samples that live, and their call stacks."""

import os

from binding cimport c_stack_frame, stacks_frame, stacks_init
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free as libc_free
from libc.stdlib cimport malloc as libc_malloc
from memcg.core._groups cimport Memcg
from native cimport *


def mem_cgroup_set_sampling(Memcg memcg not None, uint32_t every):
    """Sample one block in `every` bytes that the subtree allocates from now on; 0: none."""
    if every and stacks_init(int.from_bytes(os.urandom(8), "little")):
        raise MemoryError("no address space for the tables of call stacks, which take 23 MiB of it")
    c_mem_cgroup_set_sampling(memcg.get(), every)


def mem_cgroup_sampling(Memcg memcg not None):
    """Return the bytes from sample to sample; 0: the group is not sampled."""
    return c_mem_cgroup_sampling(memcg.get())


def mem_cgroup_samples(Memcg memcg not None):
    """Return the samples of the subtree, and how many of the process were missed.

    A sample is (group, bytes, bytes by which it was sampled, distance of samples, stack).
    """
    cdef size_t room = 0, n = 0, i
    cdef uint64_t missed = 0
    cdef memcg_sample *samples = NULL
    cdef list found = []
    while True:
        n = c_mem_cgroup_samples(memcg.get(), samples, room, &missed)
        if n <= room:
            break
        release(samples, room)  # there are more than there were
        room = n + n // 4 + 16
        samples = <memcg_sample *>libc_malloc(room * sizeof(memcg_sample))
        if samples is NULL:
            raise MemoryError(f"no memory to list {n} samples")
    try:
        for i in range(n):
            found.append((<object>mem_cgroup_owner(samples[i].memcg), samples[i].bytes,
                          samples[i].reach, samples[i].every, samples[i].stack))
    finally:
        release(samples, n)
    return found, missed


cdef void release(memcg_sample *samples, size_t n):
    for i in range(n):
        c_css_put(samples[i].memcg)
    libc_free(samples)


def stack_frame(uint32_t stack):
    """Return a stack's innermost frame: (the stack without it, file, function, line, first line).

    The stack 0 has no frame: None.
    """
    cdef c_stack_frame frame
    if not stacks_frame(stack, &frame):
        return None
    return (frame.outer, os.fsdecode(frame.file), frame.name.decode(errors="replace"), frame.line,
            frame.first_line)
