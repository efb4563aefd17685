# SPDX-License-Identifier: Apache-2.0
"""Sweeps run in processes of their own, so that a crash or a hang ends no other test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from environment import OURS, environment

HERE = Path(__file__).parent


@pytest.fixture
def sweep(native):
    """Run code after `nth.py`'s names. It must end with status 0 and write nothing to stderr.

    Returns the JSON that it printed last.
    """

    def run(code, *, before="from nth import *\n", timeout=120, **more):
        shown = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", before + dedent(code)],
            env=environment(HERE, without=(*OURS, "MEMCG"), **more),
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert (shown.returncode, shown.stderr) == (0, ""), shown.stderr[-3000:]
        figures = json.loads(shown.stdout.splitlines()[-1])
        print(figures)  # pytest -s shows how many faults there were
        return figures

    return run
