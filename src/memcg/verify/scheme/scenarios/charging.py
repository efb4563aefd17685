# SPDX-License-Identifier: Apache-2.0
"""Charges, limits and reparenting: the tree adds up."""

from __future__ import annotations

from ... import seam
from .system import System, scenario


@scenario("a charge in the group x its offline: the charges move to the parent")
def charge_offline() -> None:
    s = System()
    s.core.set_promote_bytes(1 << 30)
    kept: list[int] = []

    def use() -> None:
        kept.append(s.frames.alloc(s.a))

    seam.parallel(use, s.close)
    assert s.a.current == 0, "an offline group is still charged"
    s.finish(references=False)
    s.frames.free(kept[0])
    s.finish()


@scenario("charge and uncharge in a group x its offline: the tree adds up")
def reparenting_charges() -> None:
    s = System()
    s.core.set_promote_bytes(1 << 30)
    below = s.mkdir("a/b")
    kept = [s.frames.alloc(below)]

    def charge() -> None:
        kept.append(s.frames.alloc(below))

    def uncharge() -> None:
        s.frames.free(kept[0])

    def close() -> None:
        s.rmdir(below)

    seam.parallel(charge, uncharge, close)
    seam.quietly(s.check_charges)
    s.frames.free(kept[1])
    s.finish()


@scenario("a charge x a lowered limit above x offline: it is refused or charged, never both")
def charge_limit_offline() -> None:
    s = System()
    s.core.set_promote_bytes(1 << 30)
    below = s.mkdir("a/b")
    kept = [s.frames.alloc(below)]

    def charge() -> None:
        try:
            kept.append(s.frames.alloc(below))
        except s.errors.MemcgOOM:
            assert s.a.events["max"] == 1

    def lower() -> None:
        s.core.mem_cgroup_set_limit(s.a, "max", 100)

    def close() -> None:
        s.rmdir(below)

    seam.parallel(charge, lower, close)
    assert below.current == 0, "an offline group is still charged"
    seam.quietly(s.check_charges)
    for address in kept:
        s.frames.free(address)
    s.finish()


@scenario("two charges at the edge of a limit: the limit holds")
def charges_at_the_limit() -> None:
    s = System()
    s.core.set_promote_bytes(1 << 30)
    s.core.mem_cgroup_set_limit(s.a, "max", s.frames.size)
    kept: list[int] = []

    def charge() -> None:
        try:
            kept.append(s.frames.alloc(s.a))
        except s.errors.MemcgOOM:
            return
        assert s.a.usage.get() <= 2 * s.frames.size, "more than one charge in flight"

    seam.parallel(charge, charge)
    assert len(kept) <= 1
    for address in kept:
        s.frames.free(address)
    s.finish()
