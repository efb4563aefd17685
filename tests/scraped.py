# SPDX-License-Identifier: Apache-2.0
"""Servers whose figures a test reads over HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from environment import environment


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def started(argv, log: Path, env: dict[str, str] | None = None, **more):
    """Run a server in a process group of its own. Its output goes to the file."""
    with open(log, "wb") as out:
        process = subprocess.Popen(
            argv, stdout=out, stderr=out, start_new_session=True, env=env or environment(), **more
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def wait_for(what, seconds: float, log: Path):
    """Ask again until there is an answer that is not None; the servers offer no event."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if (found := what()) is not None:
                return found
        time.sleep(0.1)
    pytest.fail(f"nothing came in {seconds} s; the log says:\n{log.read_text()[-3000:]}")
