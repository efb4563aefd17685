# SPDX-License-Identifier: Apache-2.0
"""A Python contender does the works of one benchmark on request, in one of several worlds.

usage: worker.py MODULE CONTENDER WORLD

benchmarks/MODULE.py has ``works(contender)``, which returns a dict from a work's name to a
callable. The callable returns what it computed, or a dict of figures that are added to the answer.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def world(name: str) -> Iterator[None]:
    """Put the process into the state in which the works run."""
    if name.startswith("memcg"):  # as `memcg run` does, before other imports
        import memcg

        memcg.install(malloc=name == "memcg malloc")
        with memcg.group("bench", max="4GiB") as group:
            if name == "memcg traced":
                memcg.trace(group)
            yield
        assert memcg.group("bench").peak > 1 << 16, "nothing was charged"
    elif name == "tracemalloc":
        import tracemalloc

        tracemalloc.start()
        yield
    elif name.startswith("memray"):  # "memray objects" sees what we see
        import memray

        to = memray.FileDestination("/dev/null", overwrite=True)
        with memray.Tracker(destination=to, trace_python_allocators=name != "memray"):
            yield
    else:
        yield


def preload_is_in() -> bool:
    library = os.environ.get("LD_PRELOAD", "")
    return os.path.realpath(library) in Path("/proc/self/maps").read_text() if library else True


def serve(module: str, contender: str) -> None:
    works = importlib.import_module(module).works(contender)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        work = works[line.rstrip("\n")]
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        cpu, wall = time.process_time(), time.perf_counter()
        check = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        answer = {"cpu": cpu, "wall": wall, "faults": faults}
        answer |= check if isinstance(check, dict) else {"check": check}
        out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _, module, contender, where = sys.argv
    assert preload_is_in(), "LD_PRELOAD was ignored"
    with world(where):
        serve(module, contender)
