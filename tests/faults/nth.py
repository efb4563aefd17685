# SPDX-License-Identifier: Apache-2.0
"""Fail the first request of an operation, then the second, until no request is left to fail.

This runs in a process of its own. After each fault everything must be as it was before the
operation, and the operation must work again.
"""

from __future__ import annotations

import _thread
import gc
import itertools
import json
import threading
import time
from contextlib import ExitStack

import memcg
from memcg import core, faults
from memcg.control import memcontrol, slab_common, workqueue
from memcg.control.cgroup import cgroup_drop_spare, subtree
from memcg.control.fork import _MUTEXES

CORE = "alloc+metadata+pages+mmap"  # all requests that the core makes for itself
NR_THREADS = 2  # at rest the core knows this one, and the one for threads without memory
SETTLE_S = 5  # No event marks a native worker's last steps. They take far less.


def nr_threads() -> int:
    return core.global_stat()["nr_threads"]


def settle() -> None:
    """Wait for all pending work, and give back what is kept for later."""
    gc.collect()
    for group in subtree(memcg.root):
        cgroup_drop_spare(group, 0)
    workqueue.flush()
    workqueue.wait_idle()
    end = time.monotonic() + SETTLE_S
    while nr_threads() > NR_THREADS and time.monotonic() < end:
        time.sleep(0.0002)
    core.mem_cgroup_drain(memcg.root)


def state() -> dict[str, object]:
    """Return everything that an operation must leave as it was, if it keeps nothing."""
    settle()
    stat = core.global_stat()
    groups = {
        g.path: (g.current, g.stat, core.css_refs(g), memcg.slabinfo(g.path))
        for g in subtree(memcg.root)
    }
    return {
        "groups": groups,
        "dying": [g.path for g in memcontrol.dying],
        "ids": sorted(memcontrol._used_ids),
        "caches": [s.name for s in slab_common.slab_caches],
        "native": {key: stat[key] for key in ("pages_in_use", "metadata", "nr_slabs")},
    }


def check_locks() -> None:
    """Check that no mutex is held, by this thread or another."""
    end = time.monotonic() + SETTLE_S
    for mutex in _MUTEXES:
        assert not mutex.held(), mutex.name
        while mutex.locked() and time.monotonic() < end:
            time.sleep(0.001)
        assert not mutex.locked(), mutex.name


def check_same(before: dict[str, object], read, when: str) -> None:
    end = time.monotonic() + SETTLE_S
    while (now := read()) != before and time.monotonic() < end:
        time.sleep(0.001)
    for key, value in before.items():
        assert now[key] == value, f"{when}: {key}:\n{value}\nis now\n{now[key]}"


def make_threads() -> None:
    """Start more threads than are ever used: the core keeps the structures of ended threads."""
    all_here = threading.Barrier(16)
    threads = [
        threading.Thread(target=lambda: (core.stop_account(), all_here.wait())) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def exhaust(operation, *, read=state, errors=(MemoryError,), **keys) -> dict[str, int]:
    """Sweep, and return how many faults there were and how many made the operation fail."""
    make_threads()
    for _ in range(3):  # now all tables have grown, and what the worker makes has been used
        operation()
        settle()
    before = read()
    name = operation.__name__
    told = 0
    for n in itertools.count(1):
        with faults.inject(nth=n, **keys) as injected:
            try:
                operation()
                refused = False
            except errors:
                refused = True
        assert injected.faults or not refused, "an error without a fault"
        told += refused
        check_locks()
        assert not workqueue.failures, workqueue.failures
        check_same(before, read, f"{name}, request {n} failed")
        operation()
        check_same(before, read, f"{name}, repeated after request {n} failed")
        while _thread._count():  # hangs if a thread stays
            time.sleep(0.001)
        if not injected.faults:
            return {"faults": n - 1, "told": told}


def exhaust_all(operations, **keys) -> None:
    """Sweep each operation, with one fault and with two in a row, and print the figures."""
    figures = {}
    for operation in operations:
        for times in (1, 2):
            figures[f"{operation.__name__} x{times}"] = exhaust(operation, times=times, **keys)
    print(json.dumps(figures))


def stack() -> ExitStack:
    return ExitStack()
