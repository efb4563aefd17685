# SPDX-License-Identifier: Apache-2.0
"""A test here starts the real program, which `make test-hosts` installs, in its own process."""

import pathlib
import shutil
import subprocess
import sys

import pytest
from environment import environment
from hosts.terminal import PROGRAM, Terminal

HERE = pathlib.Path(__file__).parent
# Modules that import a foreign library. Their examples run where it is installed.
EXTRAS = {"prometheus.py", "opentelemetry.py"}


def pytest_ignore_collect(collection_path):
    """Look for examples in tests only: the programs beside them install memcg when imported."""
    if collection_path.suffix == ".py" and not collection_path.name.startswith("test_"):
        return True
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents or item.path.name in EXTRAS:
            item.add_marker(pytest.mark.hosts)


@pytest.fixture
def start(tmp_path):
    env = environment(MEMCG_RUNTIME_DIR=str(tmp_path / "run"), TERM="xterm-256color")
    started = []

    def start(how: str, groups: int = 3) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(how=how, groups=groups)], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        process.env = env
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            pass


@pytest.fixture
def terminal(tmp_path):
    if not shutil.which("tmux"):
        pytest.skip("tmux is not installed")
    opened = []

    def terminal(env: dict[str, str], *command: str) -> Terminal:
        opened.append(Terminal(tmp_path, env, *command))
        return opened[-1]

    yield terminal
    for one in opened:
        one.tmux("kill-server")
