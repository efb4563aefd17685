# SPDX-License-Identifier: Apache-2.0
"""Put the whole program into a world, in every process, before anything else is imported.

The processes of pyperf stay on the processors of the benchmark. Their clock is the processor time
that they and their children take.
"""

import os
import sys


def processor_time() -> float:
    """Return the processor seconds of this process, and of the children for which it has waited."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if any(a.endswith(("run_benchmark.py", "_process_time.py")) for a in sys.orig_argv):
    import resource
    import time

    time.perf_counter = processor_time
    os.sched_setaffinity(0, map(int, os.environ["MEMCG_BENCH_CPUS"].split()))

world = os.environ["MEMCG_BENCH_WORLD"]
if world == "memcg":  # charged to a group with a limit, as `memcg run` does
    import memcg

    memcg.install()
    memcg.group("bench", max="4GiB").__enter__()
elif world == "tracemalloc":
    import tracemalloc

    tracemalloc.start()
elif world == "memray":
    import memray

    to = memray.FileDestination("/dev/null", overwrite=True)
    tracker = memray.Tracker(destination=to, trace_python_allocators=True)
    tracker.__enter__()
