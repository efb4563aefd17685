# SPDX-License-Identifier: Apache-2.0
"""At the ceiling the offender gets the error, not code whose errors CPython prints and drops."""

from __future__ import annotations

import sys

import pytest

PRINTS = {
    # CPython makes a string of five letters, and another of four.
    "the collector": """
def step(n): kept.append("%05d" % n); gc.collect(0)""",
    "a callback of the collector": """
gc.callbacks.append(lambda phase, info: [0])
def step(n): kept.append([n]); gc.collect(0)""",
    "a finalizer in a collection": """
class Target:
    def __init__(self): self.itself = self
    def __del__(self): [0]
def step(n): Target(); kept.append([n]); gc.collect(0)""",
    "a finalizer": """
class Target:
    def __del__(self): [0]
def step(n): Target(); kept.append([n])""",
    "a weak reference's callback": """
class Target: pass
def step(n): t = Target(); r = weakref.ref(t, lambda _: [0]); del t; kept.append([n])""",
    "two weak references' callbacks": """
class Target: pass
def step(n):
    t = Target(); r = [weakref.ref(t, lambda _: [0]) for _ in range(2)]; del t; kept.append([n])""",
    "a generator that is dropped": """
def suspended():
    try: yield
    finally: [0]
def step(n): next(suspended()); kept.append((GeneratorExit(n), [n]))""",
    "a coroutine that is dropped": """
@types.coroutine
def forever(): yield
async def suspended():
    try: await forever()
    finally: [0]
def step(n): suspended().send(None); kept.append((GeneratorExit(n), [n]))""",
    "a file that is dropped": """
class File(io.RawIOBase):
    def close(self): [0]; super().close()
def step(n): File(); kept.append([n])""",
}


@pytest.mark.parametrize("where", ["in_main", "in_thread"])
@pytest.mark.parametrize("how", PRINTS.values(), ids=PRINTS)
def test_what_cpython_would_print_is_not_refused(run_program, how, where):
    """Else stderr would not be empty, and the code that fills the group would get no error."""
    shown = run_program(
        f"""
import collections, io, itertools, types, weakref
CEILING = 3 * MIB
g = memcg.group("g", max=MIB, high="max", reserve=MIB, overdraft=MIB)
gc.disable(); gc.freeze()
kept = collections.deque()
{how}
def offend():
    caught, numbers = 0, itertools.count()
    with g, memcg.shield():
        while caught < 3 and g.current < CEILING + (96 << 10):
            try:
                for n in numbers:
                    step(n)
                    if g.current >= CEILING + (96 << 10): break
            except MemoryError: caught += 1
        kept.clear()
    return caught
caught = {where}(offend)
gc.callbacks.clear()
show(caught=caught, refused=g.events["fail"], peak=g.peak)
"""
    )
    assert shown["peak"] >= 3 << 20  # the ceiling was met
    # An exception survives that its traceback object is refused.
    assert shown["refused"] <= 2 * shown["caught"]


DROPPED = {
    "a weak reference's callback": """
class Target: pass
def step(): t = Target(); r = weakref.ref(t, lambda _: keep()); del t""",
    "a generator": """
def suspended():
    try: yield
    finally: keep()
def step(): next(suspended())""",
}


# On 3.11 another thread gets its alarm from the worker, which has to wait for the GIL.
@pytest.mark.parametrize("where", ["in_main", "in_thread"][: 1 + (sys.version_info >= (3, 12))])
@pytest.mark.parametrize("how", DROPPED.values(), ids=DROPPED)
def test_an_alarm_waits_until_what_a_dropped_object_calls_is_over(run_program, how, where):
    """Else the group would grow to its ceiling, and each error on the way would be printed."""
    shown = run_program(
        f"""
import weakref
g = memcg.group("g", max=8 * MIB)
kept = []
def keep():
    kept.append(bytes(100_000))
    for i in range(10): int(i)  # checks
{how}
def offend():
    try:
        with g:
            for n in range(1000): step(); kept.append([n])
    except memcg.MemcgOOM: return True
caught = {where}(offend)
show(caught=caught, peak=g.peak)
"""
    )
    assert shown["caught"]
    assert 8 << 20 < shown["peak"] < 9 << 20


def test_the_stack_of_a_greenlet_is_looked_at_up_to_its_first_frame(run_program):
    """What lies beyond is used by another one meanwhile, and following it crashed 3.13 and 3.15."""
    pytest.importorskip("greenlet")
    shown = run_program(
        """
import greenlet, itertools
main, caught = greenlet.getcurrent(), 0
g = memcg.group("g", max=MIB, high="max", reserve=MIB, overdraft=MIB)
def fill():
    global caught
    kept = None
    try:
        for i in itertools.count(): kept = (kept, [i])
    except MemoryError: caught += 1
def deep(n):
    if n: return sorted([1], key=lambda _: deep(n - 1))
    with g, memcg.shield(): fill()
    try:
        with g: fill()
    except MemoryError: pass
def hog():
    main.switch()
    deep(3)
def start(n, hog): max([1], key=lambda _: start(n - 1, hog) or 0) if n else hog.switch()
def go_on(n, hog): min(range(50), key=lambda _: go_on(n - 1, hog) or 0) if n else hog.switch()
for k in range(12):
    started = greenlet.greenlet(hog)
    start(k + 1, started)
    go_on(k % 2, started)
show(caught=caught)
"""
    )
    assert shown["caught"] >= 12
