# SPDX-License-Identifier: Apache-2.0
"""There is one worker at a time, no event is left, and a task that waits waits long enough."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ... import seam
from .system import System, scenario


def _one_at_a_time(s: System) -> Callable[[], None]:
    """Handle ``probe`` events so that two handlers at once are found; return a poster."""
    inside = seam.Atomic(0)

    def handler(event: Any) -> None:
        assert inside.add(1) == 1, "two workers at once"
        if event.cache is not None:
            event.cache.store(True)
        inside.add(-1)

    s.workqueue.register("probe", handler)

    def post() -> None:
        handled = seam.Published(False)
        s.model._post(s.core.Event("probe", s.a, handled))
        s.workqueue.flush()
        assert handled.load(), "flush returned before the work was done"

    return post


@scenario("two threads post work and wait for it: one worker at a time")
def two_posters() -> None:
    s = System()
    post = _one_at_a_time(s)
    s.start_worker()

    def first() -> None:
        post()

    def second() -> None:
        s.model._post(s.core.Event("probe", s.a, None))

    seam.parallel(first, second)
    seam.settle()
    assert not s.model._events, "an event is left that no worker handles"
    s.finish()


@scenario("two threads post work and wait for it, and a thread that cannot be started is tried")
def two_posters_without_threads() -> None:
    s = System()
    post = _one_at_a_time(s)
    s.start_worker()
    s.spawn_faults = True

    def first() -> None:
        post()

    def second() -> None:
        post()

    seam.parallel(first, second)
    seam.settle()
    s.finish()


@scenario("two threads of the data plane offer to be the worker: one of them is")
def two_offers() -> None:
    s = System()
    _one_at_a_time(s)
    for _ in range(2):
        s.model._post(s.core.Event("probe", s.a, None))

    def work() -> None:
        s.workqueue.work()

    seam.parallel(work, work)
    assert s.is_idle()
    assert s.workqueue._worker_task is None
    assert s.core.next_event() is None, "an event is left"
    s.finish()


@scenario("the data plane's worker x a thread that waits for its work")
def offer_flush() -> None:
    s = System()
    post = _one_at_a_time(s)

    def work() -> None:
        s.workqueue.work()

    seam.parallel(work, post)
    s.finish()


@scenario("two threads post work, and each waits for its own: one of them is the worker")
def two_flushes() -> None:
    s = System()
    post = _one_at_a_time(s)

    def first() -> None:
        post()

    def second() -> None:
        post()

    seam.parallel(first, second)
    assert s.is_idle()
    s.finish()


@scenario("a thread that does the work or waits for it is interrupted at every point x the worker",
          interrupts=[("flush", KeyboardInterrupt)])  # fmt: skip
def interrupted_flush() -> None:
    s = System()
    handled: list[object] = []
    s.workqueue.register("probe", handled.append)

    def flush() -> None:
        s.workqueue.flush()

    def work() -> None:
        s.workqueue.work()

    s.model._post(s.core.Event("probe", s.a, None))
    seam.parallel(flush, work)
    s.workqueue.wait_idle()  # a fork does the same
    s.model._post(s.core.Event("probe", s.a, None))
    s.workqueue.flush()
    assert len(handled) == 2
    assert s.is_idle()
    s.finish()


@scenario("a handler that forks, in the parent x a closing: the worker does not wait for itself")
def handler_forks() -> None:
    s = System()
    s.start_worker()

    def handler(event: object) -> None:
        s.fork._before_fork()
        s.fork._after_fork()

    s.workqueue.register("probe", handler)

    def post() -> None:
        s.model._post(s.core.Event("probe", s.a, None))

    seam.parallel(post, s.close)
    seam.settle()
    s.finish()


@scenario(
    "a worker that may fail to start x another thread posts work and waits",
)
def failing_spawn() -> None:
    s = System()
    post = _one_at_a_time(s)
    s.start_worker()
    s.spawn_faults = True

    def first() -> None:
        s.model._post(s.core.Event("probe", s.a, None))

    def second() -> None:
        post()

    seam.parallel(first, second)
    seam.settle()
    s.spawn_faults = False
    post()  # this starts a worker
    seam.settle()
    assert s.is_idle()
    s.finish()


@scenario("a path is looked up x its group is closed")
def find_close() -> None:
    s = System()

    def find() -> None:
        with contextlib.suppress(s.errors.MemcgError):
            s.cgroup.cgroup_find(s.root, "a")

    seam.parallel(find, s.close)
    s.finish()


@scenario("reclaim of a subtree x a group is made in it")
def reclaim_mkdir() -> None:
    s = System()
    s.serve_empty(s.a)
    seen: list[int] = []
    s.a.shrinkers.append(seen.append)

    def reclaim() -> None:
        s.vmscan.try_to_free(s.a, 100)

    def make() -> None:
        s.mkdir("a/b")

    seam.parallel(reclaim, make)
    assert seen == [100]
    s.rmdir(s.mkdir("a/b"))
    s.finish()


@scenario("a charge crosses high x the worker reclaims x the group is closed")
def high_close() -> None:
    s = System()
    s.core.set_promote_bytes(1 << 30)
    s.core.mem_cgroup_set_limit(s.a, "high", 100)
    s.core.css_get(s.a)

    seam.parallel(s.use, s.work, s.close)
    s.core.css_put(s.a)
    s.finish()
