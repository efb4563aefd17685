# SPDX-License-Identifier: Apache-2.0
"""How many instructions do the object loops take, charged to a group, beside stock?

Callgrind counts them, so no clock and no other program changes a figure. One process does every
loop twice and counts the second turn. Between two turns it calls getpgrp(), before which callgrind
writes what it has counted. A count says nothing of cache misses.

    python benchmarks/loop_instructions.py              # this Python
    python benchmarks/loop_instructions.py PYTHON ...   # others, for which the extension is built

The exit status is 0, or 1 if a loop takes more than 1.10 of stock's instructions. It is 2 if
callgrind is missing or a run failed.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import harness
from instructions import VALGRIND, Failed, total_cost

MOST = 1.10
MARK = "getpgrp"  # no other part of CPython calls this function of the C library


def lists() -> int:
    """Make 10,000 lists of one element at a time."""
    return sum(len([[i] for i in range(10_000)]) for _ in range(2))


def loops() -> dict[str, Callable[[], int]]:
    import object_loops

    object_loops.N = 5_000  # callgrind makes a loop fifty times slower
    return {"lists": lists, **object_loops.works("")}


def work(world: str) -> None:
    """Do each loop twice, in a group or stock, and call the mark around the second turn."""
    if world == "group":
        import memcg

        memcg.install()
        memcg.group("g", max="1GiB").__enter__()
    for loop in loops().values():
        loop()
        gc.collect()
        os.getpgrp()
        loop()
        os.getpgrp()


def counts(python: str, world: str) -> dict[str, int]:
    """Return the instructions of each loop."""
    env = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "LC_ALL": "C",
           "PYTHONPATH": f"{harness.TREE / 'src'}:{harness.HERE}"}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="callgrind-") as directory:
        out = Path(directory) / "out"
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}",
             python, "-S", __file__, "--work", world],
            env=env, text=True, capture_output=True, check=False,
        )  # fmt: skip
        names = list(loops())
        parts = sorted(Path(directory).glob("out.*"), key=lambda p: int(p.suffix[1:]))
        if done.returncode or len(parts) != 2 * len(names):
            raise Failed(f"{python}: {len(parts)} counts for {len(names)} loops\n{done.stderr}")
        return {name: total_cost(part.read_text())
                for name, part in zip(names, parts[1::2], strict=True)}  # fmt: skip


def main(pythons: list[str]) -> int:
    if not shutil.which("valgrind"):
        print(VALGRIND, file=sys.stderr)
        return 2
    status = 0
    for python in pythons:
        version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout
        try:
            stock, ours = counts(python, "stock"), counts(python, "group")
        except Failed as error:
            print(error, file=sys.stderr)
            return 2
        print(f"{version.strip():20}{'stock':>14}{'in a group':>14}{'ratio':>8}")
        for name, count in stock.items():
            ratio = ours[name] / count
            status |= ratio > MOST
            print(f"{name:20}{count:>14,}{ours[name]:>14,}{ratio:>8.3f}")
    return status


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2])
    else:
        sys.exit(main(sys.argv[1:] or [sys.executable]))
