# SPDX-License-Identifier: Apache-2.0
"""What do arrays cost, charged to a group, beside stock NumPy and a better malloc preloaded?

Page faults of a batch are counted with getrusage and given in the notes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.util import find_spec

import harness

TARGETS = {"stock": 1.02, "mimalloc 3": 1.0, "tcmalloc": 1.0}
BATCHES = ("batch of 1 MiB", "batch of 4 MiB")


def works(contender: str) -> dict[str, Callable[[], float]]:
    import numpy as np

    x = np.linspace(0.0, 1.0, 50_000)  # 400 kB
    small = np.linspace(0.0, 1.0, 100)
    image = (np.arange(480 * 640 * 3, dtype="u4") * 2654435761 >> 24).astype("u1")
    image = image.reshape(480, 640, 3)

    def temporaries() -> float:
        total = 0.0
        for _ in range(20):
            total += float(((x * 2 + 1) * x - x / 3)[-1])
        return total

    def small_temporaries() -> float:
        total = 0.0
        for _ in range(5000):
            total += float((small * 2 + small)[5])
        return total

    def batch(nbytes: int) -> float:
        """Make arrays, write a word of each page, and drop them, ten times."""
        total = 0.0
        for _ in range(10):
            arrays = [np.empty(nbytes // 8) for _ in range(16)]
            for a in arrays:
                a[::512] = 1.0
                total += float(a[0])
        return total

    def zeros() -> float:
        return sum(float(np.zeros(1 << 17)[i]) for i in range(40))

    def pipeline() -> float:
        gray = image.astype("f4") @ np.array([0.299, 0.587, 0.114], "f4")
        blurred = (gray[:-2] + gray[1:-1] + gray[2:]) / 3
        edges = np.hypot(np.diff(blurred, axis=0)[:, 1:], np.diff(blurred, axis=1)[1:])
        binary = (edges > edges.mean()).astype("u1") * np.uint8(255)
        return float(binary.sum(dtype="i8") + np.clip(gray * 1.2, 0, 255).astype("u1")[100, 100])

    result = {
        "temporaries of 400 kB": temporaries, "temporaries of 800 B": small_temporaries,
        BATCHES[0]: lambda: batch(1 << 20), BATCHES[1]: lambda: batch(4 << 20),
        "zeros of 1 MiB": zeros, "image pipeline": pipeline,
    }  # fmt: skip
    if find_spec("pandas"):
        import pandas as pd

        keys = np.arange(100_000, dtype="i8") * 2654435761 % 1000
        frame = pd.DataFrame({"k": keys, "s": [f"n{k % 50}" for k in keys], "v": keys / 7})

        result["pandas group-by"] = lambda: float(
            frame.groupby("k")["v"].sum().iloc[10] + frame.groupby("s")["v"].mean().iloc[3]
        )
        result["pandas sort"] = lambda: float(frame.sort_values(["k", "v"])["v"].iloc[5000])
    return result


def run(quick: bool) -> list[harness.Row]:
    here = [harness.python(harness.OURS, "numpy_batches"), harness.python("stock", "numpy_batches")]
    for name in harness.ALLOCATORS:
        here.append(harness.preloaded(harness.python("", "numpy_batches", world="stock"), name))
    names = ["temporaries of 400 kB", "temporaries of 800 B", *BATCHES, "zeros of 1 MiB",
             "image pipeline", "pandas group-by", "pandas sort"]  # fmt: skip
    times = harness.alternate(here, names, 4 if quick else 30)
    rows = harness.rows(times, TARGETS)
    for r in rows:
        faults = [statistics.median(a["faults"] for a in times[r.work][name])
                  for name in (harness.OURS, r.against)]  # fmt: skip
        per = 10 if r.work in BATCHES else 1
        r.note = "page faults {:.0f} to {:.0f}".format(*(f / per for f in faults))
        r.note += " a batch of 16" if per > 1 else ""
        if r.work in BATCHES and r.against == "stock":
            r.target = 0.10
    return rows + harness.missing(here)
