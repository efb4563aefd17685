"""Put the whole program into a world, in every process, before anything else is imported."""

import os

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
