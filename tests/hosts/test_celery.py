# SPDX-License-Identifier: Apache-2.0
"""Celery's tasks in groups: real workers of each pool, on a real Redis."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from environment import environment

HERE = Path(__file__).parent
POOLS = {
    "solo": ["--pool=solo"],
    "threads": ["--pool=threads", "--concurrency=4"],
    "prefork": ["--pool=prefork", "--concurrency=2"],
    "gevent": ["--pool=gevent", "--concurrency=4"],
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def started(argv, log: Path, env=None, cwd=None):
    with open(log, "wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, start_new_session=True, env=env,
                                   cwd=cwd)  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.fail("there is no redis-server; apt-get install redis-server")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
            "--dir", str(folder)]  # fmt: skip
    with started(argv, folder / "log") as process:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"


PROGRAM = """
import json, sys
from celery_app import *

def outcome(result):
    try:
        return {"result": result.get(timeout=40)}
    except Exception as error:
        return {"type": type(error).__name__, "memory_error": isinstance(error, MemoryError),
                "text": str(error)}

good = [add.delay(i, 1) for i in range(10)]
waits = [objects.delay(10**7), at_once.delay(8 << 20), again.delay(), plain.delay()]
pauses = [pause.delay(n << 20) for n in (1, 2, 3)]
more = [add.delay(i, 1) for i in range(10)]
found = dict(zip(["objects", "at_once", "again", "plain"], map(outcome, waits)))
found["sum"] = sum(r.get(timeout=40) for r in [*good, *more])
found["pauses"] = [r.get(timeout=40) for r in pauses]
found["where"] = where.delay().get(timeout=40)
found["used"] = used.delay().get(timeout=40)
print(json.dumps(found))
"""


CASES = [*((pool, "json") for pool in POOLS), ("threads", "pickle")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def outcome(request, redis, tmp_path_factory):
    import json

    pool, serializer = request.param
    number = list(POOLS).index(pool) + (4 if serializer == "pickle" else 0)
    env = environment(HERE, REDIS=f"{redis}/{number}", SERIALIZER=serializer, C_FORCE_ROOT="1")
    log = tmp_path_factory.mktemp(pool) / "log"
    argv = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", *POOLS[pool],
            "--without-gossip", "--without-mingle"]  # fmt: skip
    with started(argv, log, env=env) as worker:
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True,
                              text=True, timeout=100)  # fmt: skip
        alive = worker.poll() is None
    assert done.returncode == 0, done.stderr + log.read_text()[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"alive": alive, "pool": pool}


def test_a_bomb_is_a_memory_error_with_the_account_for_the_program_that_waits(outcome):
    for name, limit in (("objects", "32.0 MiB"), ("at_once", "4.0 MiB")):
        error = outcome[name]
        assert error["memory_error"], error
        assert error["type"] == "MemcgOOM"
        assert f"group 'celery/celery_app.{name}/call" in error["text"]
        assert f"max {limit}" in error["text"]


def test_a_memory_error_of_the_programs_own_stays_what_it_is(outcome):
    assert outcome["plain"] == {"type": "MemoryError", "memory_error": True,
                                "text": "the program's own"}  # fmt: skip


def test_other_tasks_are_right_and_the_worker_lives(outcome):
    assert outcome["sum"] == 2 * sum(range(1, 11))
    assert outcome["alive"]


def test_tasks_that_ask_for_it_are_retried(outcome):
    assert outcome["again"] == {"result": 2}


def test_each_task_is_in_its_own_group_also_while_others_run(outcome):
    assert outcome["where"].startswith("celery/celery_app.where/call")
    assert [n for _, n in outcome["pauses"]] == [1 << 20, 2 << 20, 3 << 20]
    assert all(p.startswith("celery/celery_app.pause/call") for p, _ in outcome["pauses"])


def test_what_the_bombs_had_is_given_back(outcome):
    assert outcome["used"] < 2 << 20


def test_a_call_by_the_program_itself_is_limited_and_raises_a_memory_error():
    code = """if True:
        from celery_app import at_once, where
        assert where().startswith("celery/celery_app.where/call")
        try: at_once(8 << 20)
        except MemoryError as error: print(type(error).__name__)
    """
    env = environment(HERE, REDIS="redis://127.0.0.1:1", SERIALIZER="json")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    assert done.stdout == "MemcgOOM\n", done.stderr
