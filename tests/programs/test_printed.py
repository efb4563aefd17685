# SPDX-License-Identifier: Apache-2.0
"""At the ceiling the offender gets the error, not code whose errors CPython prints and drops."""

from __future__ import annotations

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
}


@pytest.mark.parametrize("where", ["in_main", "in_thread"])
@pytest.mark.parametrize("how", PRINTS.values(), ids=PRINTS)
def test_what_cpython_would_print_is_not_refused(run_program, how, where):
    """Else stderr would not be empty, and the code that fills the group would get no error."""
    shown = run_program(
        f"""
import collections, itertools
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
