# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of the scheme. The worker is off: a test runs pending work itself."""

from __future__ import annotations

import pytest

on_the_model = pytest.mark.parametrize("world", ["model"], indirect=True)  # it looks inside


@pytest.fixture
def scheme(world):
    """Yield a system whose events wait for ``scheme.work()``. One allocation asks for a child."""
    world.core.set_waker(None)
    world.core.set_promote_bytes(0)
    world.cgroup.NR_SPARE = 0  # a closed group ends; test_spare.py has those that are kept
    world.work = world.workqueue.run_pending
    world.before = world.root.current
    world.frames = world.slab_common.kmem_cache_create("frames", 1000)
    world.make = lambda path="a": world.cgroup.cgroup_mkdir(world.root, path)
    return world


@pytest.fixture
def child_of(scheme):
    """Make the group's child of ``frames`` by allocating, and return (child, address)."""

    def make(memcg):
        scheme.frames.free(scheme.frames.alloc(memcg))
        scheme.work()
        child = scheme.child(scheme.frames, memcg)
        assert child is not None
        return child, scheme.frames.alloc(memcg)

    return make
