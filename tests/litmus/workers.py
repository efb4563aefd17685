# SPDX-License-Identifier: Apache-2.0
"""A reader collects what others freed; a fork or the interpreter's end holds the native workers.

This is as `protocols`, but the workers' sites are in the binding's ``worker.c``.
"""

from __future__ import annotations

from litmus.memory_model import (
    Result,
    Thread,
    add,
    exchange,
    explore,
    join,
    load,
    read,
    store,
    write,
)
from litmus.protocols import (
    ENTER,
    REMOTE,
    SECTION,
    Orders,
    Protocol,
    Site,
    push,
    release_all,
    slab_collect,
    steal_all,
    thread_enter,
    thread_leave,
)

# -- a figure is read: reclaim.c, mem_cgroup_collect()


def _collect(o: Orders, *, owner_collects: bool) -> list[Result]:
    """A thread frees another's object and reads. The owner collects, or frees one of its own."""
    o = ENTER | {name: REMOTE[name].order for name in REMOTE} | o

    def uncharge(found: tuple[str, ...]) -> Thread:
        yield write("usage", (yield read("usage")) - len(found))

    def owner() -> Thread:
        yield from thread_enter(o, 0)
        if not owner_collects:
            yield from uncharge(("b",))
        elif (yield load("o.remote_slabs")) is not None:
            yield from uncharge((yield from slab_collect(o, "o")))
        yield from thread_leave(o, 0)

    def reader() -> Thread:
        yield from push(o, "s", "a", "o")
        stolen = (yield load("o.remote_slabs", o["look"])) is not None
        if stolen:
            yield from steal_all(o, 0)
            yield from uncharge((yield from slab_collect(o, "o")))
            yield from release_all(o, 0)
        yield join(0)  # the owner may be giving objects back at this moment
        return (yield read("usage")), stolen

    def check(last, ends):
        usage, stolen = ends[1]
        assert usage == 0, f"all objects were freed, and {usage} is read"
        assert owner_collects or stolen, "a thread that does not collect must keep what was freed"

    initial = {
        "busy0": 0,
        "stolen0": 0,
        "usage": 1 if owner_collects else 2,
        "o.remote_slabs": None,
        "a.next": "in use",
    }
    initial |= {"s.remote": None, "s.next_remote": None}
    return [explore(initial, owner, reader, check=check)]


collect = Protocol(
    "collect",
    {
        "look": Site("reclaim.c", "thread_holds_free", "load_{0}(&t->remote_slabs)", "RELAXED"),
        "membarrier": SECTION["membarrier"],
    },
    lambda o: _collect(o, owner_collects=False) + _collect(o, owner_collects=True),
)


# -- a fork, or the end of the interpreter, holds the workers: worker.c


def _site(function: str, access: str) -> Site:
    return Site("worker.c", function, access, "SEQ_CST")


HOLD = {
    "count": _site("worker_begins", "add_{0}(&nr_workers[kind], 1)"),
    "see_hold": _site("worker_begins", "load_{0}(&nr_holds)"),
    "miss": _site("worker_begins", "store_{0}(&missed[kind], 1)"),
    "hold_ended": _site("worker_begins", "load_{0}(&nr_holds)"),
    "take_back": _site("worker_begins", "exchange_{0}(&missed[kind], 0)"),
    "gone": _site("worker_ended", "sub_{0}(&nr_workers[kind], 1)"),
    "hold": _site("worker_hold", "add_{0}(&nr_holds, 1)"),
    "see_worker": _site("at_work", "load_{0}(&nr_workers[WORKER_EVENTS])"),
    "release": _site("worker_release", "sub_{0}(&nr_holds, 1)"),
    "any_missed": _site("any_missed", "load_{0}(&missed[kind])"),
    "take_missed": _site("start_missed", "exchange_{0}(&missed[kind], 0)"),
}


def worker_begins(o: Orders) -> Thread:
    """Return whether a worker may start. If not, the end of the last hold starts it."""
    while True:
        yield add("nr_workers", 1, o["count"])
        if not (yield load("nr_holds", o["see_hold"])):
            return True
        yield store("missed", 1, o["miss"])
        yield add("nr_workers", -1, o["gone"])
        if (yield load("nr_holds", o["hold_ended"])) or not (
            yield exchange("missed", 0, o["take_back"])
        ):
            return False


def worker_release(o: Orders) -> Thread:
    """Return whether a worker that was refused its start is started here."""
    yield add("nr_holds", -1, o["release"])
    if not (yield load("missed", o["any_missed"])):
        return False
    return bool((yield exchange("missed", 0, o["take_missed"])))


def _hold(o: Orders) -> list[Result]:
    """A worker is wanted while a fork holds the workers. It runs once, and not during the fork."""

    def waker() -> Thread:
        if not (yield from worker_begins(o)):
            return 0
        yield write("at_work", 1)
        yield add("nr_workers", -1, o["gone"])
        return 1

    def fork() -> Thread:
        yield add("nr_holds", 1, o["hold"])
        if (yield load("nr_workers", o["see_worker"])):
            return 0  # it waits for the worker, of which it must know
        yield write("at_work", 2)  # no other worker is wanted
        return int((yield from worker_release(o)))

    def check(last, ends):
        assert sum(ends) == 1 or (last["nr_holds"] and sum(ends) <= 1), f"started {sum(ends)} times"

    initial = {"nr_workers": 0, "nr_holds": 0, "missed": 0, "at_work": 0}
    return [explore(initial, waker, fork, check=check)]


worker_hold = Protocol("worker_hold", HOLD, _hold)

PROTOCOLS = [collect, worker_hold]
