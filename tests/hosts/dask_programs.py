# SPDX-License-Identifier: Apache-2.0
"""What `test_dask.py` runs: each function is a program that prints JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from pathlib import Path

MIB = 1 << 20


def inc(x):
    return x + 1


def arrays(n):
    import numpy as np

    return [np.ones(MIB // 8) for _ in range(n)]  # arrays


def objects(n):
    return [[i] for i in range(n)]  # objects


def at_once(n):
    return bytes(n)  # at_once


def annotated(n):
    return bytes(n)  # annotated


def count_and_burst(file):
    with open(file, "a") as out:
        out.write("x")
    return bytes(1 << 30)


def burst_once(file):
    with open(file, "a+") as out:
        out.write("x")
        out.seek(0)
        if len(out.read()) == 1:
            return bytes(1 << 30)
    return "the second time"


def where():
    import memcg

    return memcg.current().path


async def where_async():
    import memcg

    return memcg.current().path


def peaks(n):
    return len(bytearray(n))


def one(mib):
    return len(bytearray(mib * MIB)) // MIB


def grow(mib):
    kept = []
    for _ in range(mib):
        kept.append(bytearray(MIB))
        time.sleep(0.001)
    return len(kept)


def used_by(dask_worker, path):
    import memcg

    group = memcg.group(f"{dask_worker.extensions['memcg'].tasks.group.path}/{path}")
    return group.current


@contextlib.contextmanager
def cluster(mode, **more):
    from distributed import Client, LocalCluster

    made = LocalCluster(n_workers=2, threads_per_worker=4, processes=mode == "processes",
                        dashboard_address="127.0.0.1:0", **more)  # fmt: skip
    with made, Client(made) as client:
        yield client


def failure(future):
    try:
        return {"result": repr(future.result())[:100]}
    except Exception as error:
        lines = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        return {"memory_error": isinstance(error, MemoryError), "type": type(error).__name__,
                "text": str(error), "frames": lines}  # fmt: skip


def bombs(mode):
    import tempfile

    import dask

    import memcg.dask

    with cluster(mode) as client, tempfile.TemporaryDirectory() as folder:
        client.register_plugin(memcg.dask.MemcgPlugin(max="64MiB", worker_max="1GiB"))
        before = sorted(client.scheduler_info()["workers"])
        good = client.map(inc, range(60))
        futures = {"arrays": client.submit(arrays, 100), "objects": client.submit(objects, 10**7),
                   "at_once": client.submit(at_once, 1 << 30)}  # fmt: skip
        with dask.annotate(memcg_max="4MiB"):
            futures["annotated"] = client.submit(annotated, 8 * MIB)
        errors = {name: failure(future) for name, future in futures.items()}
        failure(client.submit(count_and_burst, f"{folder}/runs", retries=2))
        again = client.submit(burst_once, f"{folder}/once", retries=1).result()
        with dask.annotate(memcg_group="acme corp/eu"):
            tenant = client.submit(where).result()
        found = {
            "errors": errors, "sum": sum(client.gather(good)), "came_through": again,
            "runs": len(Path(folder, "runs").read_text()), "tenant": tenant,
            "where": client.submit(where, pure=False).result(),
            "where_async": client.submit(where_async).result(),
            "workers_before": before, "workers_after": sorted(client.scheduler_info()["workers"]),
        }  # fmt: skip
        client.submit(peaks, 20 * MIB).result()
        found["account"] = memcg.dask.account(client)
        kept = client.submit(bytes, 30 * MIB)
        kept.result()
        found["stored"] = [a["stored"] for a in memcg.dask.account(client).values()]
        del kept, futures, good
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # a release is a message
            accounts = memcg.dask.account(client).values()
            if sum(a["stored"] for a in accounts) < MIB:
                break
            time.sleep(0.05)
        found["stored_after"] = [a["stored"] for a in accounts]
        found["current_after"] = [a["current"] for a in accounts]
    return found


def settings():
    import memcg.dask

    with cluster("threads") as client:
        client.register_plugin(memcg.dask.MemcgPlugin())
        client.submit(inc, 1).result()
        accounts = memcg.dask.account(client).values()
        (limit,) = {p["task_limit"] for a in accounts for p in a["prefixes"].values()}
        client.register_plugin(memcg.dask.MemcgPlugin(max="16MiB"))
        client.submit(inc, 2).result()
        again = memcg.dask.account(client).values()
        (argument,) = {p["task_limit"] for a in again for p in a["prefixes"].values()}
        return {"task_limit": limit, "limit": min(a["limit"] for a in accounts),
                "argument": argument}  # fmt: skip


def unknown():
    import distributed.worker

    import memcg
    import memcg.dask

    distributed.worker._run_task_simple = lambda task, more: None
    with cluster("threads") as client:
        try:
            client.register_plugin(memcg.dask.MemcgPlugin())
        except memcg.MemcgError as error:
            return {"said": str(error)}
    return {"said": "nothing"}


def ledger(dask_scheduler):
    found = dask_scheduler.extensions["memcg"].ledgers["tenant/a"]
    return found.out


def limited(mode):
    import dask

    import memcg.dask

    dask.config.set({"distributed.worker.memcg.term": "20s"})
    with cluster(mode) as client:
        client.register_plugin(memcg.dask.MemcgPlugin())
        memcg.dask.limit(client, "tenant/a", "96MiB")
        found = {}
        workers = sorted(client.scheduler_info()["workers"])
        with dask.annotate(memcg_group="tenant/a"):
            found["whole"] = [
                client.submit(one, 60, workers=[w], pure=False).result() for w in workers
            ]
            found["too_much"] = failure(client.submit(one, 200))
            futures = client.map(grow, [40] * 8, pure=False)
            peak = 0
            while any(f.status == "pending" for f in futures):
                peak = max(peak, sum(client.run(used_by, path="tenant/a").values()))
            found["peak"] = peak
            found["results"] = [failure(f) for f in futures]
            found["out"] = client.run_on_scheduler(ledger)
            client.submit(one, 60, workers=[workers[0]], pure=False).result()
            client.retire_workers([workers[0]])
            deadline = time.monotonic() + 60
            found["after_death"] = None
            while time.monotonic() < deadline and found["after_death"] is None:
                result = client.submit(one, 60, workers=[workers[1]], pure=False)
                if result.exception() is None:
                    found["after_death"] = result.result()
            memcg.dask.limit(client, "tenant/a", None)
            found["unlimited"] = client.submit(one, 150).result()
    return found


def bars(dask_scheduler):
    from memcg.integrations import dask_panel

    panel = dask_panel.Panel(dask_scheduler)
    panel.update()
    return {"groups": list(panel.groups.data["name"]), "shares": list(panel.shares.data["name"])}


def dashboard(wait="0"):
    import urllib.request

    import dask

    import memcg.dask

    with cluster("processes") as client:
        client.register_plugin(memcg.dask.MemcgPlugin(max="256MiB"))
        memcg.dask.limit(client, "tenant/a", "96MiB")
        port = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.http_server.port)
        with dask.annotate(memcg_group="tenant/a"):
            kept = client.map(bytes, [8 * MIB, 16 * MIB], pure=False)
            client.submit(one, 30).result()
        more = client.map(bytes, [n * MIB for n in range(1, 9)])
        client.gather([*kept, *more])
        client.gather(client.map(one, range(5, 15)))
        statuses = {}
        for page in ("status", "memcg", "individual-memcg"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=30) as answer:
                statuses[page] = answer.status
                linked = "memcg" in answer.read().decode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/workers", timeout=30) as answer:
            linked = "memcg" in answer.read().decode()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # the figures come with the next heartbeat
            found = client.run_on_scheduler(bars)
            if any(name.endswith(": one") for name in found["groups"]):
                break
            time.sleep(0.1)
        if float(wait):
            print(f"http://127.0.0.1:{port}/memcg", flush=True)
            time.sleep(float(wait))
    return {"statuses": statuses, "linked": linked, **found}


def cost():
    """Measure what the plugin adds to a task, and what a task costs Dask: processor time in s."""
    from types import SimpleNamespace

    import distributed.worker
    from dask._task_spec import Task

    import memcg
    from memcg.integrations import dask as ours

    with cluster("threads") as client:
        seconds = []
        for _ in range(4):
            began = time.process_time()
            client.gather(client.map(inc, range(1000), pure=False))
            seconds.append(time.process_time() - began)
    plain = distributed.worker._run_task_simple
    ours.hook()
    memcg.install()
    worker = SimpleNamespace(id="w", state=SimpleNamespace(tasks={}))
    ours._extensions["w"] = SimpleNamespace(
        worker=worker, tasks=ours.Tasks("dask/w", "256MiB", None), shared=lambda path: None
    )
    distributed.worker._worker_cvar.set(worker)
    tasks = [Task(f"inc-{i}", inc, i) for i in range(1000)]
    added = []
    for _ in range(20):
        times = []
        for run in (plain, distributed.worker._run_task_simple):
            began = time.process_time()
            for task in tasks:
                run(task, {}, 0)
            times.append(time.process_time() - began)
        added.append(times)
    plain_s, ours_s = map(min, zip(*added, strict=True))  # the least, as other programs run too
    return {"task": min(seconds) / 1000, "added": (ours_s - plain_s) / 1000}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
