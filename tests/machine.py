# SPDX-License-Identifier: Apache-2.0
"""The machine is shared by the workers of pytest-xdist; a test that measures time has it alone."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GATE = Path(__file__)
ROOM = GATE.with_name("conftest.py")


@contextmanager
def machine(*, alone: bool, gate: Path = GATE, room: Path = ROOM) -> Iterator[None]:
    """Hold the machine together with the other workers, or alone.

    The locks are on two files that exist anyway. A test that waits for the others to leave
    holds the gate, so that no other test enters before it.
    """
    with gate.open() as at_the_gate, room.open() as in_the_room:
        fcntl.flock(at_the_gate, fcntl.LOCK_EX)
        fcntl.flock(in_the_room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(at_the_gate, fcntl.LOCK_UN)
        try:
            yield
        finally:  # by name, since a process that the test forked may still have the file open
            fcntl.flock(in_the_room, fcntl.LOCK_UN)
