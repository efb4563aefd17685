# SPDX-License-Identifier: Apache-2.0
"""An extension module that misuses memory is built here, and runs in processes of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from textwrap import dedent

import pytest
from environment import environment

TIMEOUT_S = 100
PRELUDE = """\
import memcg; memcg.install()
import hostile, os, signal, sys, threading, time
RAW, MEM, OBJ = range(3)
MIB = 1 << 20
def promoted(group, size):
    # now the group has a cache of its own for the size
    with group:
        blocks = [hostile.malloc(RAW, size) for _ in range(200_000 // size + 4200)]
    memcg.control.workqueue.flush()
    for block in blocks:
        hostile.free(RAW, block)
"""


# memray prints it on a Python that is not position-independent, as Debian's; without memcg too.
MEMRAYS_OWN = r"Memray WARNING: Correcting symbol for \w+ from \w+ to \w+\n"


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    """Return the directory of hostile.so."""
    directory = tmp_path_factory.mktemp("hostile")
    compiler = sysconfig.get_config_var("CC").split()
    subprocess.run(
        [
            *compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread",
            f"-I{sysconfig.get_path('include')}", str(Path(__file__).with_name("hostile.c")),
            "-o", str(directory / "hostile.so"),
        ],
        check=True,
    )  # fmt: skip
    return directory


@pytest.fixture
def run(native, extension):
    """Run code in a new Python, and return its status, stdout and stderr."""

    def run(code, *options, timeout=TIMEOUT_S, prelude=PRELUDE, **more):
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", *options, "-c", prelude + dedent(code)],
            env=environment(extension, **more),
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def survives(run):
    """Run code that must end well and write nothing to stderr, and return its stdout."""

    def survives(code, *options, **environment):
        shown = run(code, *options, **environment)
        said = re.sub(MEMRAYS_OWN, "", shown.stderr)
        assert (shown.returncode, said) == (0, ""), said[-3000:]
        return shown.stdout

    return survives


@pytest.fixture
def reported(run):
    """Run code that a report must end, and return the report."""

    def reported(code, **environment):
        shown = run(code, **environment)
        assert shown.returncode == -6, (shown.returncode, shown.stdout[-500:], shown.stderr[-3000:])
        lines = [line for line in shown.stderr.splitlines() if line.startswith("memcg:")]
        assert lines, shown.stderr[-3000:]
        return "\n".join(lines)

    return reported
