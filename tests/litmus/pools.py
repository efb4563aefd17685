# SPDX-License-Identifier: Apache-2.0
"""The group of C code's threads, as a program for `memory_model`: pool.c and memcontrol.c.

A thread with the GIL says which group it is now. The thread of a pool looks at a counter, and if
that has changed, at the group, in a section. The group is replaced before it is freed.
"""

from __future__ import annotations

from litmus.memory_model import (
    Result,
    Thread,
    add,
    explore,
    free,
    load,
    read,
    store,
    write,
)
from litmus.protocols import (
    ENTER,
    PRESENT,
    SECTION,
    Orders,
    Protocol,
    Site,
    release_all,
    steal_all,
    thread_enter,
    thread_leave,
)


def _set_group(o: Orders, group: str | None) -> Thread:
    yield store("pool_group", group, o["set"])
    yield add("changes", 1, o["count"])


def _look(o: Orders) -> Thread:
    """Return the group that is set, after reading it."""
    if o["enter"] == PRESENT:
        yield from thread_enter(o, 0)
    group = yield load("pool_group", o["see"])
    if group is not None:
        assert (yield read(group)) == "made", "the group is not made yet"
    if o["enter"] == PRESENT:
        yield from thread_leave(o, 0)
    return group


def _pool(o: Orders) -> list[Result]:
    o = ENTER | o

    def makes() -> Thread:
        yield write("group", "made")
        yield from _set_group(o, "group")

    def follows() -> Thread:
        """Follow the counter, as malloc does, and say which group it is afterwards."""
        if not (yield load("changes", o["see_count"])):
            return "old"
        return (yield from _look(o))

    def is_followed(_, ends):
        assert ends[1] in ("old", "group"), "the thread has missed a change and does not look again"

    def closes() -> Thread:
        if o["forget"] == PRESENT:
            yield from _set_group(o, None)
        yield from steal_all(o, 0)  # it goes offline
        yield from release_all(o, 0)
        yield free("group")

    initial = {"busy0": 0, "stolen0": 0, "changes": 0, "pool_group": None, "group": None}
    entered = {"changes": 1, "pool_group": "group", "group": "made"}
    return [
        explore(initial, makes, follows, check=is_followed),
        explore(initial, lambda: _look(o), makes),  # because of an earlier change
        explore(initial | entered, lambda: _look(o), closes),
    ]


pool = Protocol(
    "pool",
    {
        "set": Site(
            "memcontrol.c", "memcg_set_pool_group", "store_{}(&pool_group, memcg)", "RELEASE"
        ),
        "count": Site(
            "memcontrol.c", "memcg_set_pool_group", "add_{}(&memcg_pool_changes, 1)", "RELEASE"
        ),
        "see_count": Site(
            "preload/malloc.c", "follow_pool", "load_{}(&memcg_pool_changes)", "ACQUIRE"
        ),
        "enter": Site("memcontrol.c", "memcg_follow_pool", "self = thread_enter();"),
        "see": Site("memcontrol.c", "memcg_follow_pool", "load_{}(&pool_group)", "ACQUIRE"),
        "forget": Site("pool.c", "pool_forget", "set_common();"),
        "membarrier": SECTION["membarrier"],
    },
    _pool,
)

PROTOCOLS = [pool]
