# SPDX-License-Identifier: Apache-2.0
"""The error for a group that something is inside names the threads, as far as they are known."""

from __future__ import annotations

import sys

import pytest

REFUSED = """
def refused(group):
    try: group.close()
    except memcg.GroupBusy as error: return str(error)
    raise SystemExit("closed")
g = memcg.group("g")
"""


def test_threads_that_are_inside_are_named(run_program):
    run_program(
        REFUSED
        + """
import _thread, contextvars
told, over = queue.SimpleQueue(), threading.Event()
def inside():
    with g: told.put(_thread.get_ident()); over.wait(20)
def deep():  # in a context that another context runs
    with g: contextvars.Context().run(lambda: contextvars.copy_context().run(inside_nothing))
def inside_nothing(): told.put(1); over.wait(20)
threads = [threading.Thread(target=inside, name="one's"), threading.Thread(target=deep, name="two")]
for thread in threads: thread.start(); told.get(timeout=20)
text = refused(g)
first, names, cure = text.replace("; ", ", by threads ").split(", by threads ")
assert (first, cure) == ("group 'g' is entered 2 times", "leave it first or close(wait=seconds)")
assert sorted(names.split(", ")) == ['"one\\'s"', "'two'"], text
with g: assert "'MainThread'" in refused(g) and "is entered 3 times" in refused(g)
with memcg.root: assert "MainThread" not in refused(g)
over.set()
for thread in threads: thread.join(20)
ended = threading.Event()
_thread.start_new_thread(lambda: (inside(), ended.set()), ()); over.clear()
ident = told.get(timeout=20)
assert refused(g).startswith(f"group 'g' is entered 1 times, by thread {ident}; leave it first")
over.set(); assert ended.wait(20)
g.close(wait=20)
"""
    )


def test_what_no_thread_is_inside_is_only_counted(run_program):
    run_program(
        REFUSED
        + """
import contextvars
context = contextvars.copy_context()
context.run(g.__enter__)
assert refused(g) == "group 'g' is entered 1 times; leave it first or close(wait=seconds)"
context.run(g.__exit__, None, None, None)
g.close()
"""
    )


def test_a_thread_that_ended_inside_is_named_until_its_object_is_gone(run_program):
    run_program(
        REFUSED
        + """
import contextvars
class Keeps(threading.Thread):  # its context, under the name that Thread has for it since 3.14
    def __init__(self, **more):
        super().__init__(**more)
        self._context = contextvars.copy_context()
    def run(self): self._context.run(super().run)
Thread = threading.Thread if sys.version_info >= (3, 14) else Keeps
threads = [Thread(target=g.__enter__, name=name) for name in ("one", "two")]
for thread in threads: thread.start(); thread.join()
text = refused(g)
assert text.startswith("group 'g' is entered 2 times, by ended threads '"), text
assert text.endswith("'; drop the Thread object of a thread that has ended"), text
del threads[0], thread
with g:
    assert refused(g) == (
        "group 'g' is entered 3 times, by thread 'MainThread', by ended thread 'two'; leave it "
        "first or close(wait=seconds), and drop the Thread object of a thread that has ended"
    )
unstarted = Thread(target=print)
del threads
g.close()
"""
    )


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="since 3.14 the Thread object keeps it")
def test_a_thread_that_ended_inside_keeps_nothing(run_program):
    run_program(
        REFUSED
        + """
thread = threading.Thread(target=g.__enter__); thread.start(); thread.join()
g.close()
"""
    )
