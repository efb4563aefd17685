# SPDX-License-Identifier: Apache-2.0
"""Lockdep learns orders, reports wrong ones, and leaves no trace when it is off."""

from __future__ import annotations

import functools
import gc
import signal
import subprocess
import sys
import threading
import weakref

import pytest
from environment import check_reports, environment

from memcg import locking
from memcg.locking import Event, Mutex, ReadSide, lockdep
from memcg.locking.lockdep import LOCKS, LockClass, Lockdep


@pytest.fixture(autouse=True)
def order_of_locks():
    """Switch the suite's own lockdep off, because these tests take locks in wrong orders."""


ABC = tuple(LockClass(name, "", "") for name in "abc")


@pytest.fixture
def dep():
    found = Lockdep(ABC)
    detach = lockdep.attach(locking, found, locking.current_task)
    yield found
    detach()


class Meddled(str):
    """A class of locks that another task adds edges to as soon as it is compared."""

    def __eq__(self, other):
        self.meddle()
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def take(*mutexes):
    if mutexes:
        with mutexes[0]:
            take(*mutexes[1:])


def kinds(dep):
    return [report.kind for report in dep.reports]


def test_the_documented_order_is_learnt_and_nothing_is_reported(dep):
    a, b, c = map(Mutex, "abc")
    take(a, b, c)
    take(a, c)
    assert set(dep.edges) == {("a", "b"), ("a", "c"), ("b", "c")}
    dep.check()


def test_tasks_that_learn_at_once_do_not_disturb_each_other(dep):
    met = Meddled("b")
    met.meddle = lambda: dep.edges.setdefault(("x", str(len(dep.edges))), ((), ()))
    dep.edges[met, "c"] = (), ()
    take(Mutex("b"), Mutex("a"))
    assert len(dep.edges) > 2
    assert kinds(dep) == ["order"]


def test_an_edge_against_the_documented_order_is_reported_with_both_stacks(dep):
    take(Mutex("b"), Mutex("a"))
    assert kinds(dep) == ["order"]
    assert str(dep.reports[0]).count("\n  at take") == 2
    with pytest.raises(AssertionError, match="documented is a -> b"):
        dep.check()


def test_a_cycle_is_reported_though_no_deadlock_happened(dep):
    x, y, z = map(Mutex, "xyz")
    take(x, y)
    take(y, z)
    assert not dep.reports
    take(z, x)
    assert kinds(dep) == ["cycle"]
    assert "x -> y -> z" in str(dep.reports[0])
    assert str(dep.reports[0]).count("\n  at ") == 6  # for z -> x, x -> y and y -> z


def test_each_finding_is_reported_once(dep):
    for _ in range(3):
        take(Mutex("b"), Mutex("a"))
    assert kinds(dep) == ["order"]


def test_taking_one_mutex_twice_and_two_of_a_class_at_once_are_recursion(dep):
    a = Mutex("a")
    take(a, a)
    take(Mutex("c"), Mutex("c"))
    assert kinds(dep) == ["recursion", "recursion"]
    assert ("a", "a") not in dep.edges


def test_a_wait_while_holding_what_the_setter_takes_is_a_cycle(dep):
    a, done = Mutex("a"), Event("done")

    def work():
        with a:
            pass
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ("done", "a") in dep.edges
    with a:
        done.wait()
    assert kinds(dep) == ["cycle"]


def test_what_the_setter_took_before_the_event_was_cleared_does_not_count(dep):
    take(Mutex("a"))
    done = Event("done")
    done.set()
    assert not dep.edges


def test_a_grace_period_waited_for_under_a_mutex_that_readers_take_is_a_cycle(dep):
    a, side = Mutex("a"), ReadSide()
    with side, side, a:
        pass
    with a:
        side.synchronize()
    assert kinds(dep) == ["cycle"]


def test_a_mutex_taken_in_a_finalizer_a_collection_or_a_signal_handler_is_reported(dep):
    class Finalized:
        def __init__(self):
            self.me = self

        def __del__(self):
            take(Mutex("a"))

    def on_gc(phase, info):
        if phase == "start":
            take(Mutex("b"))

    before = signal.signal(signal.SIGUSR1, lambda *_: take(Mutex("c")))
    gc.callbacks.append(on_gc)
    try:
        Finalized()
        gc.collect()
        signal.raise_signal(signal.SIGUSR1)
    finally:
        gc.callbacks.remove(on_gc)
        signal.signal(signal.SIGUSR1, before)
    assert set(kinds(dep)) == {"context"}
    text = "\n".join(map(str, dep.reports))
    assert "a is taken in a finalizer" in text
    assert "b is taken in a garbage collection" in text
    assert "c is taken in a signal handler" in text


class Handler:
    def __call__(self, *args):
        take(Mutex("a"))

    def method(self, *args):
        take(Mutex("a"))


@pytest.mark.parametrize(
    "handler",
    [Handler(), Handler().method, functools.partial(lambda _, *args: take(Mutex("a")), 1)],
)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGCHLD, signal.SIGRTMAX])
def test_a_handler_of_any_signal_however_it_is_called_is_recognised(dep, handler, number):
    before = signal.signal(number, handler)
    try:
        signal.raise_signal(number)
        take(Mutex("b"))
    finally:
        signal.signal(number, before)
    assert [str(r).split("\n")[0] for r in dep.reports] == [
        "lockdep: context: a is taken in a signal handler"
    ]


def test_a_finalizer_of_weakref_is_recognised_and_is_none_when_it_is_called(dep):
    ended, called = Handler(), Handler()
    weakref.finalize(ended, take, Mutex("a"))
    call = weakref.finalize(called, take, Mutex("b"))
    del ended
    call()
    assert [str(r).split("\n")[0] for r in dep.reports] == [
        "lockdep: context: a is taken in a finalizer"
    ]


def test_the_handlers_of_a_fork_under_a_mutex_take_no_outer_one():
    start(
        "import os\n"
        "import memcg\n"
        "from memcg.control.slab_common import slab_mutex\n"
        "with slab_mutex:\n"
        "    if not os.fork(): os._exit(0)\n"
        "os.wait()\n"
    )
    check_reports()


def test_a_lock_that_may_be_taken_anywhere_is_not_reported_in_a_finalizer():
    allowed = Lockdep((LockClass("a", "", "", True),))

    class Finalized:
        def __del__(self):
            take(Mutex("a"))

    with lockdep.watching(locking, dep=allowed):
        Finalized()
    assert allowed.seen == {"a"}


def test_an_acquisition_cut_short_is_not_held(dep):
    def handler(*_):
        raise TimeoutError

    a, taken, done = Mutex("a"), threading.Event(), threading.Event()
    work = lambda: [a.acquire(), taken.set(), done.wait(), a.release()]  # noqa: E731
    thread = threading.Thread(target=work)
    thread.start()
    taken.wait()
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(TimeoutError), a:
        pytest.fail("the thread has it")
    signal.signal(signal.SIGALRM, before)
    done.set()
    thread.join()
    assert not any(task.held for task in dep._tasks.values())


def test_off_it_leaves_the_classes_as_they_were():
    names = ("acquire", "release", "__enter__", "__exit__")
    wait, before = Event.wait, [vars(Mutex).get(name) for name in names]
    with lockdep.watching(locking):
        assert all(name in vars(Mutex) for name in names)
        assert vars(Mutex)["acquire"] is not before[0]
    assert [vars(Mutex).get(name) for name in names] == before
    assert Event.wait is wait


def test_two_watch_at_once_and_both_see_all():
    with lockdep.watching(locking) as outer, lockdep.watching(locking) as inner:
        take(Mutex("a"), Mutex("b"))
    assert set(outer.edges) == set(inner.edges) == {("a", "b")}
    take(Mutex("c"))
    assert "c" not in outer.seen | inner.seen


def test_the_end_of_watching_fails_if_anything_was_reported():
    with (
        pytest.raises(AssertionError, match="recursion"),
        lockdep.watching(locking),
    ):
        a = Mutex("a")
        take(a, a)


@pytest.mark.parametrize("core", ["model", "native"])
def test_the_environment_turns_it_on_and_reports_go_to_stderr(core):
    program = (
        "import memcg\n"
        "g, c = memcg.group('a'), memcg.KmemCache('x', size=1000)\n"
        "with g: b = c.alloc()\n"
        "c.free(b)\n"
        "del b\n"
        "g.close()\n"
        "c.destroy()\n"
        "print('quiet')\n"
        "from memcg.control.memcontrol import memcg_slab_mutex\n"
        "from memcg.control.slab_common import slab_mutex\n"
        "with slab_mutex, memcg_slab_mutex: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path), "MEMCG_LOCKDEP": "1",
             **({"MEMCG_CORE": "model"} if core == "model" else {})},
    )  # fmt: skip
    assert done.stdout == "quiet\n"
    first, *_ = done.stderr.splitlines()
    assert first.startswith("lockdep: cycle: memcg_slab_mutex is taken or waited for under")
    assert "lockdep: order: memcg_slab_mutex" in done.stderr


def start(program, **more):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env=environment(**more),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_report_in_a_process_that_a_test_starts_fails_the_test():
    check_reports()
    start(
        "import os, sys\n"
        "from memcg.control.memcontrol import memcg_slab_mutex\n"
        "from memcg.control.slab_common import slab_mutex\n"
        "sys.stderr.close()\n"
        "if not os.fork():\n"
        "    with slab_mutex, memcg_slab_mutex: os._exit(0)\n"
        "os.wait()\n"
    )
    with pytest.raises(AssertionError, match="order: memcg_slab_mutex is taken"):
        check_reports()
    check_reports()  # reported once


def test_the_child_of_a_fork_holds_what_the_thread_that_forked_holds_and_nothing_else():
    start(
        "import os, threading\n"
        "from memcg import locking\nfrom memcg.locking import lockdep\n"
        "dep = lockdep.attach_from_environment(locking, '1')\n"
        "mutex, held, done = locking.Mutex('a'), threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with mutex: held.set(); done.wait()\n"
        "thread = threading.Thread(target=hold); thread.start(); held.wait()\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(any(task.held for task in dep._tasks.values()))\n"
        "done.set(); thread.join()\n"
        "assert os.waitpid(pid, 0)[1] == 0\n",
        MEMCG_LOCKDEP="",
        PYTHONWARNINGS="ignore::DeprecationWarning",  # given by 3.12 and later
    )


def test_a_collection_at_the_interpreters_end_interrupts_nobody():
    start(
        "import gc\n"
        "from memcg import locking\nfrom memcg.locking import lockdep\n"
        "lockdep.attach(locking, lockdep.Lockdep(), locking.current_task)\n"
        "assert lockdep._on_gc in gc.callbacks\n",
        MEMCG_LOCKDEP="",
    )


def test_every_documented_class_has_one_rank():
    names = [lock.name for lock in LOCKS]
    assert len(names) == len(set(names))
