# SPDX-License-Identifier: Apache-2.0
"""NumPy and Python's larger objects are used while each request past 1 KiB fails in turn."""

from __future__ import annotations

import pytest

# CPython's free lists may keep smaller blocks. All blocks that can be refused must be freed again.
PRELUDE = """
memcg.install()
import numpy as np
g = memcg.group("g", max="256MiB")
other = memcg.group("other")
held = []

def large_blocks(group):
    return sorted(size for _, size, _ in core.live_blocks(group) if size > 1024)

def read():
    settle()
    return {
        "large": (large_blocks(g), large_blocks(other)),
        "runs": (g.stat["page_runs"], other.stat["page_runs"]),
        "groups": sorted(memcg.root.children),
        "ids": sorted(memcontrol._used_ids),
        "inside": (g.nr_inside, other.nr_inside, core.current()),
    }

def inside(fn):
    def run():
        with g:
            fn()
    run.__name__ = fn.__name__
    return run
"""

# np.where and np.einsum of NumPy 2.4 return NULL without an exception after some refusals.
TOLD = "(MemoryError, SystemError)"
# bytearray + bytes is left out: if it is refused, CPython 3.11 prints "deallocated bytearray object
# has exported buffers".
OPERATIONS = {
    "create": """
        np.empty(5000); np.zeros((300, 300)); np.ones(5000); np.full(400, 7); np.arange(10_000)
        np.empty(2_000_000, "u1"); np.eye(100)
    """,
    "arithmetic": """
        a = np.arange(5000.0); b = a + a * 2 - a / 3; b += a; np.sqrt(b, out=b); (a > b).sum()
        a.cumsum(); np.dot(a[:2500].reshape(50, 50), a[2500:].reshape(50, 50))
        assert np.array_equal(a, np.arange(5000.0))
    """,
    "concatenate": """
        a = np.arange(5000); b = np.concatenate([a, a]); np.stack([a, b[:5000]]); np.tile(a, 3)
        np.repeat(a, 2); np.hstack([a, a]); np.pad(a, 10)
    """,
    "sort": """
        a = np.arange(5000)[::-1].copy(); np.sort(a); np.argsort(a); a.sort(kind="stable")
        assert (np.diff(a) > 0).all(); np.unique(a); np.partition(a, 9); np.lexsort((a, a))
    """,
    "astype": """
        a = np.arange(5000); a.astype("f4"); a.astype("c16").real.copy(); a.astype("U8")
        a.astype(object).astype(int); a.tobytes(); a.tolist()
    """,
    "index": """
        a = np.arange(10_000); a[a % 2 == 0]; a[[1, 5, 9] * 500]; np.where(a > 5, a, -a)
        a.take(a[::2]); np.nonzero(a); a.reshape(100, 100).T.copy()
    """,
    "resize": """
        a = np.empty(1000); a.resize(50_000, refcheck=False); a.resize(100, refcheck=False)
        np.fromiter(range(3000), float); np.fromstring(" ".join(["1.5"] * 3000), sep=" ")
        np.frombuffer(b"x" * 5000, "u1").copy()
    """,
    "linear algebra": """
        a = np.eye(60) * 2; np.linalg.inv(a); np.linalg.solve(a, a); np.linalg.det(a)
        np.fft.rfft(np.arange(5000.0)); np.einsum("ij,jk", a, a)
    """,
    "python": """
        bytearray(5000); b"x" * 5000 + b"y"; "y" * 5000 + "z"; list(range(2000)) * 3
        b"".join([b"w"] * 3000); memoryview(bytes(5000)).tobytes(); (1,) * 3000
        "a,b".join(["c"] * 3000).split(",")
        set(range(1000)); dict.fromkeys(range(1000)); sorted(range(3000), key=lambda n: -n)
    """,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_numpy_was_refused_leaves_nothing(sweep, name):
    pytest.importorskip("numpy")
    code = "".join(f"    {line.strip()}\n" for line in OPERATIONS[name].strip().splitlines())
    figures = sweep(
        f"{PRELUDE}\n@inside\ndef operation():\n{code}\n"
        f"print(json.dumps(exhaust(operation, read=read, errors={TOLD})))\n"
    )
    assert figures["faults"] >= 7
    assert figures["told"] > 0


def test_the_groups_charge_is_that_of_before_when_all_is_dropped(sweep):
    """What CPython keeps of small objects over a whole sweep stays below one slab for each size."""
    pytest.importorskip("numpy")
    figures = sweep(
        PRELUDE
        + """
def operation():
    with g:
        a = np.arange(5000.0)
        held.append(a + a)
    with other:
        held.append(np.sort(held[0]))
    held.clear()

def clean():
    try:
        operation()
    finally:
        held.clear()

figures = exhaust(clean, read=read)
before = g.current + other.current
figures = exhaust(clean, read=read)
figures["grown"] = g.current + other.current - before
g.close(); other.close()
settle()
figures["left"] = sorted(memcg.root.children)
figures["dying"] = len(large_blocks(g)) + len(large_blocks(other))
print(json.dumps(figures))
"""
    )
    assert figures["faults"] >= 3
    assert figures["grown"] <= 1024
    assert (figures["left"], figures["dying"]) == ([], 0)
