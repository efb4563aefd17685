# SPDX-License-Identifier: Apache-2.0
"""Under a mixed, server-like load for a given time nothing crashes, hangs, grows or leaks.

    python tests/long/soak.py --seconds 3600 --seed 1

Threads and tasks allocate objects and arrays in groups that open and close. Caches are made and
destroyed, limits change, hogs reach them, and processes fork. Each tenant checks its own results.
Every ten seconds the resident set is printed, which must not grow. At the end all groups are
closed. Then the account must add up to the byte, and the root must hold little more than what the
interpreter keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import json
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter

import memcg

try:
    import numpy as np
except ImportError:
    np = None

MIB = 1 << 20
done: Counter[str] = Counter()
failures: list[BaseException] = []


def objects(rng: random.Random) -> None:
    rows = [{"id": i, "text": str(i) * rng.randrange(5)} for i in range(rng.randrange(5000))]
    assert json.loads(json.dumps(rows)) == rows


def arrays(rng: random.Random) -> None:
    if np is None:
        return objects(rng)
    n = rng.randrange(1, 200_000)
    a = np.arange(n, dtype="f8")
    assert (a + a).sum() == 2 * a.sum()
    assert a[::2].copy().size == (n + 1) // 2


def cycles(rng: random.Random) -> None:
    for _ in range(rng.randrange(2000)):
        node: list[object] = [bytes(rng.randrange(300))]
        node.append(node)


def buffers(rng: random.Random) -> None:
    name = f"soak-{threading.get_ident()}-{rng.random()}"
    with memcg.KmemCache(name, rng.randrange(1, 20_000)) as cache:
        held: list[object] = []
        try:
            for i in range(rng.randrange(50)):
                held.append(cache.alloc())
                memoryview(held[-1])[0] = memoryview(held[-1])[-1] = i
            assert all(memoryview(b)[0] == memoryview(b)[-1] == i for i, b in enumerate(held))
        finally:
            with memcg.shield():
                cache.free_bulk(held)
                held.clear()


def hog(rng: random.Random) -> None:
    rows = []
    try:
        while True:
            rows.append([len(rows), bytes(rng.choice([10, 100, 5000]))])
    except MemoryError:
        done["hogs stopped"] += 1


WORK = (objects, arrays, cycles, buffers)


def request(rng: random.Random, name: str) -> None:
    """Serve one request in a scope of its own."""
    limit = rng.choice([None, "8MiB", "64MiB"])
    try:
        with memcg.scope(f"{name}/request", max=limit) as g:
            if limit == "8MiB" and rng.random() < 0.3:
                hog(rng)
            else:
                rng.choice(WORK)(rng)
            if rng.random() < 0.1:
                g.max = rng.choice(["16MiB", None])
    except MemoryError:
        done["requests over their limit"] += 1
        return
    done["requests"] += 1


def tenant(name: str, seed: int, end: float) -> None:
    rng = random.Random(seed)
    try:
        while time.monotonic() < end and not failures:
            if rng.random() < 0.1:
                asyncio.run(tasks(rng, name))
            elif rng.random() < 0.1:
                thread = threading.Thread(target=request, args=(random.Random(rng.random()), name))
                thread.start()
                thread.join()
            else:
                request(rng, name)
    except BaseException as error:
        failures.append(error)


async def tasks(rng: random.Random, name: str) -> None:
    async def one(seed: float) -> None:
        own = random.Random(seed)
        try:
            with memcg.scope(f"{name}/task", max="32MiB") as g:
                for _ in range(5):
                    objects(own)
                    await asyncio.sleep(0)
                    assert memcg.current() is g
        except MemoryError:
            done["tasks over their limit"] += 1

    await asyncio.gather(*(one(rng.random()) for _ in range(5)))
    done["tasks"] += 5


def fork_once() -> None:
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(30, exit=True)
        with memcg.scope("forked", max="32MiB"):
            objects(random.Random(1))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise AssertionError(f"a forked child ended with status {status}")
    done["forks"] += 1


def rss() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def check_growth(samples: list[int]) -> None:
    """Check the resident set: the load is the same all along, so only coincidences change it."""
    third = len(samples) // 3
    if third < 3:
        return  # too short to tell
    first, last = statistics.median(samples[:third]), statistics.median(samples[-third:])
    assert last < 1.5 * first, f"the resident set grew from {first} to {last} bytes"


def check_account() -> None:
    """Check that the root, now the only group, is charged what it has in each kind of memory."""
    assert not memcg.root.children
    memcg.core.stop_account()
    try:
        live = sum(size for _, size, _ in memcg.core.live_blocks(memcg.root))
        for _ in range(5):  # the reading itself allocates, and sometimes takes a slab
            current, parts = memcg.root.current, memcg.root.stat
            own = sum(parts[k] for k in ("slab_private", "slab_shared", "page_runs", "external"))
            if current == own:
                break
        assert current == own >= live, (current, parts, live)
    finally:
        memcg.core.resume_account()


def soak(seconds: float, seed: int, threads: int) -> None:
    sys.setswitchinterval(1e-4)
    for work in WORK:
        work(random.Random(0))  # outside groups, libraries import and fill their caches once
    asyncio.run(asyncio.sleep(0))
    gc.collect()
    end = time.monotonic() + seconds
    pool = [
        threading.Thread(target=tenant, args=(f"tenant{i}", seed * 1000 + i, end))
        for i in range(threads)
    ]
    for thread in pool:
        thread.start()
    shown = time.monotonic()
    samples = []
    while time.monotonic() < end and not failures:
        time.sleep(0.2)
        fork_once()
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            root = memcg.root.current / MIB
            samples.append(rss())
            print(f"rss {samples[-1] / MIB:.0f} MiB, root {root:.1f} MiB, {dict(done)}", flush=True)
    for thread in pool:
        thread.join(60)
        assert not thread.is_alive(), "a tenant hangs"
    if failures:
        raise failures[0]
    gc.collect()
    memcg.control.workqueue.flush()
    for child in list(memcg.root.children.values()):
        child.close(recursive=True)
    memcg.control.workqueue.flush()
    print(f"dying {memcg.root.nr_dying}, root {memcg.root.current / MIB:.1f} MiB, {dict(done)}")
    assert not memcg.control.workqueue.failures, memcg.control.workqueue.failures
    assert memcg.root.current < 64 * MIB, memcg.root.report()
    check_growth(samples)
    check_account()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    memcg.install()
    faulthandler.enable()
    print(f"seed {options.seed}")
    soak(options.seconds, options.seed, options.threads)


if __name__ == "__main__":
    main()
