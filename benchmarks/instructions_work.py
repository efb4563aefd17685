# SPDX-License-Identifier: Apache-2.0
"""Do a piece of Python work so many times: ``instructions_work.py WORK WARM TURNS``.

`instructions.py` counts the instructions of two lengths. Each work is also done before it is
counted, so that child caches, free lists and specialised bytecode exist when the turns begin.

The worker is a thread, and what two threads do at the same time differs from run to run. Here it
runs when the turns are over, because this thread releases the GIL only where it waits. What the
worker does for the turns is counted then. `wait_worker` alone would spin, and each spin would
count.
"""

from __future__ import annotations

import gc
import json
import sys
import time

import memcg
from memcg import core

TEXT = json.dumps([{"id": k, "name": f"item {k}", "price": k * 7 % 97} for k in range(60)])


def lists(turns: int) -> None:
    """Make an int and a list, and free them. Since 3.14 CPython keeps freed ints of one digit."""
    first = 1 << 40
    with memcg.group("g", max="1GiB"):
        for i in range(first, first + turns):
            _ = [i, i]


def lists_published(turns: int) -> None:
    memcg.publish()
    lists(turns)


def enter(turns: int) -> None:
    g = memcg.group("g", max="1GiB")
    for _ in range(turns):
        with g:
            pass


def shield(turns: int) -> None:
    for _ in range(turns):
        with memcg.shield():
            pass


def life(turns: int) -> None:
    """Make, limit, enter, allocate, leave and close. The worker's part counts too."""
    for _ in range(turns):
        g = memcg.group("life", max="64MiB")
        with g:
            [[i] for i in range(100)]
        g.close()


def scope(turns: int) -> None:
    for _ in range(turns):
        with memcg.scope("scope", max="64MiB"):
            bytearray(4000)


def loads(turns: int) -> None:
    for _ in range(turns):
        json.loads(TEXT)


def loads_in_group(turns: int) -> None:
    with memcg.group("g", max="1GiB"):
        loads(turns)


def past_max(turns: int) -> None:
    """Charge each list of a chain past max. The alarm waits for the end of the shield.

    The group is new each time, so that it has no caches: their slabs would be charged instead of
    the lists. No garbage is collected: the collector is off, the group has no ``high``, and it is
    filled from outside, so that writing its max reclaims nothing. A collection for a group at its
    limit takes two million instructions, and whether one is due depends on the clock.
    """
    g = memcg.group("full", max="1MiB", high="max", reserve="1GiB", overdraft="1GiB")
    chain: list[object] = []
    core.memcg_charge(g, g.max)
    gc.disable()
    try:
        with g, memcg.shield():
            for _ in range(turns):
                chain = [chain]
            del chain
    except memcg.MemcgOOM:
        pass
    finally:
        gc.enable()
    core.memcg_uncharge(g, g.max)
    g.close()


WORKS = {
    work.__name__: work
    for work in (
        lists,
        lists_published,
        enter,
        shield,
        life,
        scope,
        loads,
        loads_in_group,
        past_max,
    )
}


def settle() -> None:
    while not core.wait_worker(0):
        time.sleep(0.5)


if __name__ == "__main__":
    memcg.install()
    sys.setswitchinterval(3600)
    work, warm, turns = WORKS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
    for n in (warm, turns):
        work(n)
        settle()
