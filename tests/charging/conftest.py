"""Programs run in processes of their own, with the hooks in from the start."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from environment import environment

PRELUDE = "import memcg; memcg.install()\nMIB = 1 << 20\n"


@pytest.fixture
def program(native):
    """Run code in a new Python; it must end with status 0 and say nothing on stderr."""

    def run(code, *options, prelude=PRELUDE, timeout=100, **more):
        shown = subprocess.run(
            [sys.executable, "-X", "faulthandler", *options, "-c", prelude + textwrap.dedent(code)],
            env=environment(**more),
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert (shown.returncode, shown.stderr) == (0, ""), shown.stderr[-3000:]
        return shown.stdout

    return run
