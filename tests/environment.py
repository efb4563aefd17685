# SPDX-License-Identifier: Apache-2.0
"""The environment of the processes that tests start, in which the order of locks is watched too.

Reports go to a file. They do not go to stderr, because a program may close it and a test may
compare it. The fixture `order_of_locks` fails the test whose processes made a report.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

import memcg

SOURCE = Path(memcg.__file__).parent.parent
OURS = ("PYTEST", "PYTHON")  # of the suite's own process
_directory = tempfile.TemporaryDirectory(prefix="lockdep-")
atexit.register(_directory.cleanup)
_reports = Path(_directory.name) / "reports"


def environment(*path: object, without: tuple[str, ...] = OURS, **more: str) -> dict[str, str]:
    """Return the environment of a process that imports memcg and modules from `path`."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(without)},
        "PYTHONPATH": os.pathsep.join(map(str, (SOURCE, *path))),
        "MEMCG_LOCKDEP": str(_reports),
        **more,
    }


def check_reports() -> None:
    """Fail if a process reported a wrong order of locks since the last check."""
    if _reports.exists():
        text = _reports.read_text()
        _reports.unlink()
        raise AssertionError(f"in a process of its own: {text}")
