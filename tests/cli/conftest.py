# SPDX-License-Identifier: Apache-2.0
"""Run a program by plain Python and by ``memcg run``, and return what each showed."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from environment import environment

from memcg import core
from memcg.cli._system import core_reason

HERE = Path(__file__).parent
BARE = str(HERE / "bare.py")
TIMEOUT_S = 60  # the slowest program here takes 3 s, so only a hang reaches it


@dataclass
class Shown:
    """What a process showed. The status is negative if a signal ended it."""

    out: str
    err: str
    status: int


def _alike(shown: bytes) -> str:
    """Take out what differs from run to run, or because memcg has four frames below the program."""
    text = shown.decode(errors="surrogateescape")
    text = re.sub(r"0x[0-9a-f]+", "ADDRESS", text)
    text = re.sub(r"(object refcount : )\d+", r"\1N", text)
    return re.sub(r"(Previous line repeated )\d{3}( more)", r"\1N\2", text)


class Cli:
    """Start processes in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = environment(HERE, PYTHONDONTWRITEBYTECODE="1")

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def call(self, *command: str, stdin: str | None = None, flags: tuple[str, ...] = ()) -> Shown:
        done = subprocess.run(
            [sys.executable, *flags, *command],
            cwd=self.directory,
            env=self.env,
            input=(stdin or "").encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Shown(_alike(done.stdout), _alike(done.stderr), done.returncode)

    def python(self, *args: str, **how) -> Shown:
        return self.call(*args, **how)

    def popen(self, *command: str, **how) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.directory,
            env=self.env,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
        )

    def bare(self, *args: str, **how) -> Shown:
        """Call ``memcg run`` with nothing installed."""
        return self.call(BARE, *args, **how)

    def memcg(self, *args: str, **how) -> Shown:
        return self.call("-m", "memcg", *args, **how)


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path)


@pytest.fixture
def native():
    if core.name != "native":
        pytest.skip(f"memcg.core is the {core.name}, which has no hooks: {core_reason()}")
