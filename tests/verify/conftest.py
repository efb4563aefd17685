# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from memcg.locking import lockdep
from memcg.verify import runtime, seam


class Watcher:
    """Tells lockdep which task runs, and to forget the tasks of other executions."""

    def __init__(self, dep: lockdep.Lockdep) -> None:
        self.dep = dep
        self.run: runtime.Run | None = None

    def __call__(self) -> runtime.Task | None:
        if runtime.active is not self.run:
            self.run = runtime.active
            self.dep.forget_tasks()
        return runtime.running()


@pytest.fixture(scope="session")
def learnt() -> lockdep.Lockdep:
    """Return the order of locks that all explorations of the session learn together."""
    return lockdep.Lockdep()


@pytest.fixture
def order(learnt: lockdep.Lockdep) -> Iterator[lockdep.Lockdep]:
    """Lockdep watches the explorer's locks, and a report fails the test."""
    with lockdep.watching(seam, Watcher(learnt), learnt):
        yield learnt
