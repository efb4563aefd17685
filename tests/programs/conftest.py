# SPDX-License-Identifier: Apache-2.0
"""Whole programs run in processes of their own. A hang shows where every thread stands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from environment import OURS, environment

# The slowest program here takes 6 s alone, so only a hang reaches it.
TIMEOUT_S = int(os.environ.get("PROGRAM_TIMEOUT_S", "40"))
PRELUDE = """\
import memcg; memcg.install()
import contextlib, gc, json, os, queue, sys, threading, time
MIB = 1 << 20
def in_thread(fn):
    # Run fn in a thread of its own, and return or raise what it does.
    out = []
    def run():
        try:
            out.append((fn(), None))
        except BaseException as error:
            out.append((None, error))
    thread = threading.Thread(target=run); thread.start(); thread.join()
    if out[0][1] is not None:
        raise out[0][1]
    return out[0][0]
def in_main(fn):
    return fn()
def in_task(fn):
    async def main():
        async def task(): return fn()
        return await asyncio.create_task(task())
    return asyncio.run(main())
def show(**figures):
    print(json.dumps(figures))
"""


@pytest.fixture
def run_program(native, tmp_path):
    """Run a program, which must end by itself with the status and the stderr that are expected.

    `expects` are texts that stderr must have, if not all of it is expected.
    Returns the JSON that the program printed last, or its stdout if it printed none.
    """

    def run(
        source: str | Path, *args: str, options=(), prelude=PRELUDE, timeout=TIMEOUT_S, status=0,
        stderr="", expects=(), **more,
    ):  # fmt: skip
        if isinstance(source, str):
            path = tmp_path / "program.py"
            if prelude is PRELUDE and re.search("asyncio|in_task", source):
                prelude += "import asyncio\n"  # takes half of the time of a start
            path.write_text(prelude + dedent(source))
        else:
            path = source
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *options, path, *args],
            env=environment(without=(*OURS, "MEMCG"), **more),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            try:
                out, err = process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                out, err = "", "(and it did not answer SIGABRT)"
            pytest.fail(f"hangs after {timeout} s\n{out[-1000:]}\n{err[-4000:]}", pytrace=False)
        finally:
            end_session(process.pid)
        shown = f"status {process.returncode}\n{out[-1000:]}\n{err[-4000:]}"
        assert (process.returncode, err) == (status, err if expects else stderr), shown
        assert all(text in err for text in expects), shown
        lines = out.splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            return out

    return run


def end_session(group: int) -> None:
    """Leave no process of a failed program behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


# `filled` fills the group to just below its limit, so that one more page run of STEP passes it.
# There is no memory.high: a reclaim could make an alarm needless.
FILLED = """
import numpy as np
STEP = 57_344  # whole pages, and under 64 KiB, so never refused
x = np.ones(STEP // 8 - 8)
def full(path, size=2 * MIB):
    g = memcg.group(path, max=size, high="max")
    with g:
        filled = [bytearray(STEP - 64) for _ in range((size - g.current) // STEP - 1)]
        while g.current + STEP <= size:
            filled.append(bytearray(4000))
    return g, filled
def nothing(n=50):
    for _ in range(n):
        str(n)
def rounds(g, times, calls):
    # Count the errors, while the limit is passed once in each round.
    told = 0
    for _ in range(times):
        try:
            with g:
                y = x + x
                nothing(calls)
        except memcg.MemcgOOM:
            told += 1
        y = None
    return told
"""


@pytest.fixture
def alarm(run_program):
    """Run code that defines check(), after FILLED, and return what check() returns."""

    def run(code, where="in_main", *options, **kwargs):
        return run_program(
            dedent(FILLED) + dedent(code) + f"\nshow(result={where}(check))", **kwargs
        )["result"]

    return run


@pytest.fixture
def memcg_run(native):
    """Run ``memcg run OPTIONS -c SETUP+PROGRAM``; return what it printed."""

    def run(setup: str, program: str, *options: str, status: int = 0):
        done = subprocess.run(
            [sys.executable, "-m", "memcg", "run", *options, "-c", setup + dedent(program)],
            env=environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    return run
