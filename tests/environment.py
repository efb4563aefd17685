# SPDX-License-Identifier: Apache-2.0
"""The environment of the processes that tests start: the order of their locks is watched too.

Reports go to a file, not to stderr, which a program may close and a test may compare; the fixture
`order_of_locks` fails the test that they came from.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

import memcg

SOURCE = Path(memcg.__file__).parent.parent
OURS = ("PYTEST", "PYTHON")  # what the suite's own process was started with
_directory = tempfile.TemporaryDirectory(prefix="lockdep-")
atexit.register(_directory.cleanup)
_reports = Path(_directory.name) / "reports"


def environment(*path: object, without: tuple[str, ...] = OURS, **more: str) -> dict[str, str]:
    """The environment of a process that imports memcg, and what is in the directories `path`."""
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
