# SPDX-License-Identifier: Apache-2.0
"""What two tasks share and is not on the seam is named, and the result is not exhausted."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections import deque
from typing import ClassVar

import pytest

from memcg.verify import explore, seam

total = 0
table: dict[str, int] = {}


class Plain:
    n = 0
    shared_by_class: ClassVar[list[int]] = []

    def __init__(self):
        self.n = 0
        self.items = {}
        self.lock = threading.RLock()


class Slotted:
    __slots__ = ("n",)


def a_global():
    def add():
        global total
        total += 1

    return add, add, "the global total"


def a_global_table():
    def put():
        table["k"] = 1

    def get():
        return table.get("k")

    return put, get, "the dict table"


def a_closure():
    n = 0

    def add():
        nonlocal n
        n += 1

    return add, add, "the closure's variable n"


def a_closure_of_a_helper():
    n = 0

    def helper():
        nonlocal n
        n += 1

    def one():
        helper()

    return one, helper, "the closure's variable n"


def a_dictionary():
    d = {"k": 0}

    def add():
        d["k"] += 1

    return add, add, "the dict d"


def an_attribute():
    it = Plain()

    def put():
        it.n = 1

    def get():
        return it.n

    return put, get, "Plain.n"


def a_slot():
    it = Slotted()
    it.n = 0

    def add():
        it.n += 1

    return add, add, "Slotted.n"


def an_attributes_dictionary():
    it = Plain()

    def put():
        it.items[1] = 2

    def walk():
        return [*it.items]

    return put, walk, "the dict it.items"


def a_method():
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1

    counter = Counter()
    return counter.add, counter.add, "Counter.n"


def a_list():
    found = []

    def append():
        found.append(1)

    def measure():
        return len(found)

    return append, measure, "the list found"


def a_slice():
    found = [1, 2]

    def change():
        found[0:1] = []

    def read():
        return found[0]

    return change, read, "the list found"


def a_set():
    found = set()

    def add():
        found.add(1)

    def ask():
        return 1 in found

    return add, ask, "the set found"


def a_deque():
    found = deque([1])

    def take():
        return found.popleft()

    def put():
        found.append(1)

    return take, put, "the deque found"


def a_list_of_a_class():
    def put():
        Plain.shared_by_class.append(1)

    def read():
        return list(Plain.shared_by_class)

    return put, read, "the list Plain.shared_by_class"


def a_lock():
    lock = threading.Lock()

    def hold():
        with lock:
            pass

    def ask():
        lock.acquire()
        lock.release()

    return hold, ask, "the thread.lock lock"


def a_lock_of_an_object():
    it = Plain()

    def hold():
        with it.lock:
            pass

    return hold, hold, "the thread.RLock it.lock"


def a_queue():
    q = queue.Queue()

    def put():
        q.put(1)

    def take():
        return q.empty()

    return put, take, "the queue.Queue q"


SHARED = [a_global, a_global_table, a_closure, a_closure_of_a_helper, a_dictionary, an_attribute,
          a_slot, an_attributes_dictionary, a_method, a_list, a_slice, a_set, a_deque,
          a_list_of_a_class, a_lock, a_lock_of_an_object, a_queue]  # fmt: skip


@pytest.mark.parametrize("make", SHARED, ids=lambda make: make.__name__)
def test_what_two_tasks_share_without_the_seam_is_named_with_its_places(make):
    def program():
        one, two, _ = make()
        seam.parallel(one, two)

    result = explore(program)
    assert not result.exhausted
    assert not result.passed
    said = [text for text in result.unseen if text.startswith(f"{make()[2]} is ")]
    assert said, result.unseen
    assert said[0].count("test_plain.py:") == 2
    assert "is not on the seam" in said[0]
    with pytest.raises(AssertionError, match="not on the seam"):
        result.check()


def in_order(kind):
    """Return a program whose tasks share plain objects that the seam orders."""

    def program():
        it, found, n, results = Plain(), [], 0, [None, None]
        mutex, event, cell = seam.Mutex("mutex"), seam.Event("event"), seam.Published(None)

        def locked(i=0):
            nonlocal n
            with mutex:
                n += 1
                it.n += 1
                found.append(1)
                it.items[n] = found
            results[i] = n if i == 2 else i

        def first():
            it.n = 1
            found.append(1)
            event.set()

        def second():
            event.wait()
            it.n += 1
            found.append(2)

        def reads():
            return Plain.n, len(results), it.lock, [*results], sys.maxsize, SHARED

        def publishes():
            fresh = {"n": 1}
            fresh["n"] = 2
            cell.store(fresh)

        def takes():
            seen = cell.load()
            if seen is not None:
                assert seen["n"] == 2

        pair = {"a mutex": (locked, lambda: locked(1)), "an event": (first, second),
                "only reads": (reads, reads), "publishing": (publishes, takes)}[kind]  # fmt: skip
        seam.parallel(*pair)
        it.n, n = it.n + 1, n + 1
        seam.spawn(locked, "later").join()

    return program


@pytest.mark.parametrize("kind", ["a mutex", "an event", "only reads", "publishing"])
def test_what_the_seam_orders_and_what_is_only_read_is_not_named(kind):
    result = explore(in_order(kind))
    assert result.unseen == []
    assert result.passed


def test_the_order_that_shows_it_may_be_any_of_the_schedules():
    def program():
        mutex, found = seam.Mutex("mutex"), []

        def before():
            found.append(1)
            with mutex:
                pass

        def after():
            with mutex:
                pass
            found.append(2)

        seam.parallel(before, after)

    assert explore(program).unseen, "in the first schedule the mutex orders the two by chance"


def test_it_is_not_looked_for_if_the_caller_does_not_want_it():
    def program():
        seam.parallel(*a_global()[:2])

    result = explore(program, audit=False)
    assert result.passed
    assert result.unseen == []


def test_a_failure_is_shown_beside_what_is_not_explored():
    def program():
        cell, found = seam.Published(0), []

        def add():
            found.append(cell.load())
            cell.store(cell.load() + 1)

        seam.parallel(add, add)
        assert cell.load() == 2

    result = explore(program)
    assert result.failure is not None


PROGRAM = """\
from memcg.verify import seam
seen = {"n": 0}
def program():
    def add():
        seen["n"] += 1
    seam.parallel(add, add)
"""


def test_the_command_line_says_so_with_status_3(tmp_path):
    (tmp_path / "blind.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "memcg", "verify", "blind.py:program"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False,
                           env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert ended.returncode == 3, ended.stderr
    assert "NOT exhausted: tasks share what is not on the seam" in ended.stdout
    assert "the dict seen is read by add at blind.py:5 and written by add" in ended.stdout
