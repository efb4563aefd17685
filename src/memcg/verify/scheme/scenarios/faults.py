# SPDX-License-Identifier: Apache-2.0
"""Every allocation fails or succeeds, in every schedule."""

from __future__ import annotations

import contextlib

from ... import seam
from .system import System, scenario


@scenario("creation that fails at every allocation x the group's offline")
def failing_creation_offline() -> None:
    s = System()
    s.use()
    s.faults = True

    seam.parallel(s.work, s.close)
    s.faults = False
    s.finish()


@scenario("creation that fails at every allocation x root destruction; a later creation succeeds")
def failing_creation_again() -> None:
    s = System()
    s.use()
    other = s.slab_common.kmem_cache_create("other", 1000)
    s.faults = True

    def destroy() -> None:
        assert s.destroy(other)

    seam.parallel(s.work, destroy)
    s.faults = False
    s.serve_empty(s.a)  # a failure is not remembered
    s.finish()


@scenario("activation that fails at every array x creation: no array stays too small")
def failing_growth_creation() -> None:
    s = System()
    s.use()
    for name in "bcd":
        s.mkdir(name)  # the arrays of four are full
    size = s.array_size()
    s.faults = True

    def make() -> None:
        with contextlib.suppress(MemoryError):
            s.mkdir("e")

    seam.parallel(make, s.work)
    s.faults = False
    grown = s.array_size()
    assert grown == size or "e" in s.children(), "the size of the arrays ran ahead"
    assert all(root.array_size >= grown for root in s.slab_common.slab_caches
               if root.memcg_params.is_root_cache)  # fmt: skip
    e = s.mkdir("e")
    s.serve_empty(e)
    assert e._kmemcg_id == 4
    s.finish(references=False)  # a half-made group drops its parent only when it is collected


@scenario("allocation in a child that gets no page x offline: nothing stays charged")
def failing_pages_offline() -> None:
    s = System()
    s.serve_empty(s.a)
    s.faults = True

    def use() -> None:
        with contextlib.suppress(MemoryError):
            s.use()

    seam.parallel(use, s.close)
    s.faults = False
    s.finish()
