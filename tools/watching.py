# SPDX-License-Identifier: Apache-2.0
"""Run a command that may not end, and tell it from a slow one without the clock.

On a busy machine a time-out shows nothing. A process is *endless* once it has used more processor
time than it may. It *hangs* once it has neither used a processor nor waited for one for a while. A
starved process does not hang, because it waits for a processor.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ASLEEP_S = 20.0  # without wanting a processor; the unchanged source never waits as long as a second
DOZING = 0.01  # the part of that time which a waiter may use to poll
NO_LIMIT_S = resource.RLIM_INFINITY


class Ended(NamedTuple):
    """How a process ended.

    Attributes
    ----------
    how : str
        ``status N`` if it ended by itself (a signal is negative), or ``endless`` or ``hangs`` if it
        was killed.
    processor_s : float
        What it used, with its children. This is right if no other child runs meanwhile.
    """

    how: str
    shown: str
    processor_s: float


def wanted_s(process: int) -> tuple[bool, float]:
    """Tell whether a process or a child of it is on a processor or waits for one, and how long.

    The seconds are those of all threads until each was last put on a processor, because the kernel
    counts a wait when it is over.
    """
    now, total = False, 0
    for thread in Path(f"/proc/{process}/task").glob("*"):
        with contextlib.suppress(OSError):  # the thread has ended
            total += sum(map(int, (thread / "schedstat").read_text().split()[:2]))
            now |= (thread / "stat").read_text().rpartition(")")[2].split()[0] in "RD"
            for child in map(int, (thread / "children").read_text().split()):
                wants, wanted = wanted_s(child)
                now, total = now | wants, total + int(wanted * 1e9)
    return now, total / 1e9


def watch(
    command: list[str], cwd: Path, limit_s: float = NO_LIMIT_S, asleep_s: float | None = None
) -> Ended:
    """Run a command until it ends, is endless, or hangs, and kill what is left of it."""
    asleep_s = ASLEEP_S if asleep_s is None else asleep_s
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "PYTHONPATH": str(cwd / "src")},
        )  # fmt: skip
        limit = int(limit_s)
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        how, since, had = "", time.monotonic(), 0.0
        while not how:
            try:
                status = process.wait(asleep_s / 20)
                how = "endless" if status == -signal.SIGXCPU else f"status {status}"
            except subprocess.TimeoutExpired:
                wants, wanted = wanted_s(process.pid)
                if wants or abs(wanted - had) > asleep_s * DOZING:  # less if a thread ended
                    since, had = time.monotonic(), wanted
                elif time.monotonic() - since > asleep_s:
                    how = "hangs"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = sum(after[:2]) - sum(before[:2])
        output.seek(0)
        return Ended(how, output.read(), used)
