# SPDX-License-Identifier: Apache-2.0
"""Jobs of executors, APScheduler and Ray in groups; the programs of the how-to pages."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from environment import environment

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto"

JOBS = """
import json, sys, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import memcg
from memcg.futures import limited


@limited("16MiB")
def work(n):
    return len([[i] for i in range(n)])


@limited("16MiB", group="reports")
def where():
    return memcg.current().path


def outcome(future):
    error = future.exception()
    if error is None:
        return future.result()
    return [type(error).__name__, isinstance(error, MemoryError), str(error)]


def pool(kind):
    if kind == "threads":
        return ThreadPoolExecutor(2)
    return ProcessPoolExecutor(2, mp_context=get_context(kind))


def executor(kind):
    with pool(kind) as p:
        jobs = [p.submit(work, n) for n in (1000, 10**7, 2000)] + [p.submit(where)]
        found = [outcome(job) for job in jobs]
    return {"jobs": found, "left": memcg.group("jobs").current}


def apscheduler():
    import threading
    from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED
    from apscheduler.schedulers.background import BackgroundScheduler

    found, done = {}, threading.Event()

    def note(event):
        error = event.exception
        found[event.job_id] = event.retval if error is None else [
            type(error).__name__, isinstance(error, MemoryError), str(error)]
        if len(found) == 3:
            done.set()

    scheduler = BackgroundScheduler()
    scheduler.add_listener(note, EVENT_JOB_ERROR | EVENT_JOB_EXECUTED)
    for name, n in (("small", 1000), ("bomb", 10**7), ("other", 2000)):
        scheduler.add_job(work, args=[n], id=name)
    scheduler.start()
    assert done.wait(60)
    scheduler.shutdown(wait=True)
    return {"jobs": [found["small"], found["bomb"], found["other"], None],
            "left": memcg.group("jobs").current}


if __name__ == "__main__":
    memcg.install()
    what = sys.argv[1]
    print(json.dumps(apscheduler() if what == "apscheduler" else executor(what)))
"""


@pytest.mark.parametrize("kind", ["threads", "fork", "spawn", "apscheduler"])
def test_only_the_bomb_fails_and_says_why(kind, tmp_path):
    (tmp_path / "jobs.py").write_text(JOBS)
    done = subprocess.run([sys.executable, "jobs.py", kind], env=environment(), cwd=tmp_path,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    small, bomb, other, where = found["jobs"]
    assert (small, other) == (1000, 2000)
    assert bomb[:2] == ["MemcgOOM", True]
    assert "group 'jobs/work/call" in bomb[2]
    assert "max 16.0 MiB" in bomb[2]
    assert where is None or where.startswith("reports/call")
    assert found["left"] < 1 << 20


def programs(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (HOWTO / page).read_text(), re.S)


def run(program: str, folder: Path, timeout: float = 200) -> str:
    (folder / "program.py").write_text(program)
    env = environment(RAY_raylet_start_wait_time_s="150")
    done = subprocess.run([sys.executable, "program.py"], env=env, cwd=folder,
                          capture_output=True, text=True, timeout=timeout)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_the_page_about_dask_runs(tmp_path):
    (program,) = programs("dask.md")
    shown = run(program, tmp_path)
    for line in ("bomb: group 'dask/", "the others: 0", "large: 104857600", "tenant: 20971520"):
        assert line in shown
    assert "total" in shown


def test_the_program_of_the_page_about_executors_runs(tmp_path):
    _, program, _ = programs("jobs.md")
    shown = run(program, tmp_path)
    assert shown.splitlines() == ["ThreadPoolExecutor 1000 MemcgOOM",
                                  "ProcessPoolExecutor 1000 MemcgOOM"]  # fmt: skip


CALLS = """
try:
    large(2 << 30)
except MemoryError as error:
    print(error)
print(report(1000))
"""


def test_the_tasks_of_the_page_about_celery_are_limited(tmp_path):
    tasks, _, _ = programs("jobs.md")
    shown = run(tasks + CALLS, tmp_path)
    assert "charge of 2.0 GiB is over memory.max" in shown
    assert "max 1.0 GiB" in shown
    assert shown.splitlines()[-1] == "1000"


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="there is no Ray for this Python"
)
def test_the_program_of_the_page_about_ray_runs(tmp_path):
    *_, program = programs("jobs.md")
    shown = run(program, tmp_path)
    assert "1000" in shown
    assert "MemcgOOM" in shown or "RayTaskError" in shown
