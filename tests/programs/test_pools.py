# SPDX-License-Identifier: Apache-2.0
"""Threads that C code has started charge the groups that are entered, if that was asked for.

Such a thread is made by pthread_create() with malloc() as what it runs.
"""

from __future__ import annotations

import pytest

SETUP = """
import ctypes, os, threading, time
import memcg
MB = 1 << 20
libc = ctypes.CDLL(None)
libc.pthread_create.argtypes = [ctypes.c_void_p] * 4
libc.pthread_join.argtypes = [ctypes.c_ulong, ctypes.c_void_p]
libc.free.argtypes = [ctypes.c_void_p]
MALLOC = ctypes.cast(libc.malloc, ctypes.c_void_p)

def allocate(size):
    thread, p = ctypes.c_ulong(), ctypes.c_void_p()
    assert not libc.pthread_create(ctypes.byref(thread), None, MALLOC, size)
    assert not libc.pthread_join(thread, ctypes.byref(p))
    assert p
    return p

def charged(*groups):  # in MB
    return [g.current // MB for g in groups]

class Inside:
    # a thread that is in a group from the start of the with to its end
    def __init__(self, group):
        self.entered, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=group.run, args=(self.stay,))
    def stay(self):
        self.entered.set()
        self.go.wait()
    def __enter__(self):
        self.thread.start()
        self.entered.wait()
    def __exit__(self, *error):
        self.go.set()
        self.thread.join()

base = memcg.root.current // MB
"""


@pytest.fixture
def run(memcg_run):
    return lambda program, *options, status=0: memcg_run(SETUP, program, *options, status=status)


def test_without_the_option_they_charge_the_root(run):
    run("""
    with memcg.group("a") as a:
        p = allocate(50 * MB)
        assert charged(a) == [0] and memcg.root.current > (base + 50) * MB
    """)


def test_the_only_group_that_is_entered_is_charged(run):
    run("""
    a, b = memcg.group("a"), memcg.group("a/b")
    with a:
        p = allocate(20 * MB)
        assert charged(a) == [20]
        with b:
            q = allocate(30 * MB)
            assert charged(a, b) == [50, 30]
        r = allocate(5 * MB)
        assert charged(a, b) == [55, 30]
    s = allocate(7 * MB)
    assert charged(a, b) == [55, 30]
    for block in (p, q, r, s):
        libc.free(block)
    assert charged(a, b) == [0, 0]
    """, "--pools")  # fmt: skip


def test_where_two_are_entered_their_nearest_common_ancestor_is_charged(run):
    run("""
    tenants, a, b = memcg.group("tenants"), memcg.group("tenants/a"), memcg.group("tenants/b")
    other = memcg.group("other")
    with Inside(a):
        p = allocate(10 * MB)
        assert charged(tenants, a, b) == [10, 10, 0]
        with Inside(b):
            p = allocate(20 * MB)
            assert charged(tenants, a, b) == [30, 10, 0]
            with Inside(other):
                p = allocate(40 * MB)
                assert charged(tenants, a, b, other) == [30, 10, 0, 0]
        p = allocate(5 * MB)
        assert charged(tenants, a, b) == [35, 15, 0]
    with Inside(tenants), Inside(b):  # one above the other, by two threads
        p = allocate(3 * MB)
        assert charged(tenants, a, b) == [38, 15, 0]
    """, "--pools")  # fmt: skip


def test_more_contexts_than_there_is_room_for_stand_for_the_root(run):
    run("""
    a = memcg.group("a")
    inside = [Inside(a) for _ in range(300)]
    for thread in inside:
        thread.__enter__()
    p = allocate(9 * MB)
    assert charged(a) == [0]
    for thread in inside:
        thread.__exit__()
    with a:
        p = allocate(9 * MB)
        assert charged(a) == [9]
    """, "--pools")  # fmt: skip


def test_a_group_that_is_closed_is_charged_no_more(run):
    run("""
    for i in range(200):
        with memcg.scope("a") as group:
            p = allocate(MB)
            assert charged(group) == [1]
            libc.free(p)
    p = allocate(MB)
    del group
    end = time.monotonic() + 20
    while memcg.root.nr_dying and time.monotonic() < end:  # a worker lets go of the last one
        time.sleep(0.001)
    assert memcg.root.nr_dying == 0
    """, "--pools")  # fmt: skip


def test_what_they_charge_past_the_limit_raises_in_the_code_that_has_entered(run):
    run("""
    def work():
        try:
            with memcg.scope("a", max="30MiB"):
                blocks = []
                for i in range(1000):
                    blocks.append(allocate(MB))
        except memcg.MemcgOOM as error:
            assert "'a'" in str(error), error
            assert 25 <= len(blocks) < 1000, len(blocks)  # 3.11's worker may have to wait
            done.append(True)
    done = []
    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True, True]
    """, "--pools")  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--pools",)])
def test_what_they_charge_past_the_roots_limit_raises_in_the_main_thread(run, options):
    done = run("""
    blocks = []
    for i in range(1000):
        blocks.append(allocate(MB))
    print("not stopped")
    """, "--max", "90MiB", *options, status=137)  # fmt: skip
    assert done.stdout == ""
    assert "over memory.max" in done.stderr.splitlines()[-1]


def test_a_forked_child_has_only_the_group_of_the_thread_that_forked(run):
    run("""
    a, b = memcg.group("tenants/a"), memcg.group("tenants/b")
    with Inside(a), b:
        pid = os.fork()
        if not pid:
            p = allocate(10 * MB)
            os._exit(charged(a, b) != [0, 10])
        assert os.waitpid(pid, 0)[1] == 0
        p = allocate(10 * MB)
        assert charged(a, b) == [0, 0]
    """, "--pools")  # fmt: skip
