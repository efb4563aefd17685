# SPDX-License-Identifier: Apache-2.0
"""Locks, structures of libraries and new threads are whole after an alarm interrupts them."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest

TWO = 'a, b = memcg.group("a", max="20MiB"), memcg.group("b", max="20MiB")\n'
WHERE = pytest.mark.parametrize("where", ["in_main", "in_thread"])

STRUCTURES = {
    "a queue": (
        "q = queue.Queue()",
        "q.put([bytes(150)]); q.put([bytes(150)]); q.get(); q.task_done()",
        "free(q.mutex); free(q.not_empty); n = q.qsize(); [q.get_nowait() for _ in range(n)];"
        "[q.task_done() for _ in range(n)]; q.put(7); assert q.get(timeout=1) == 7",
    ),
    "a semaphore": (
        "s, held = threading.Semaphore(3), []",
        "\nwith s:\n    held.append([bytes(150)])",
        "held.clear(); assert all(s.acquire(timeout=1) for _ in range(3));"
        "assert not s.acquire(blocking=False); s.release(3)",
    ),
    "a condition": (
        "c, held = threading.Condition(), []",
        "\nwith c:\n    held.append([bytes(150)])\n    c.notify_all()\n    c.wait(0)",
        "held.clear(); free(c); assert not c._waiters, c._waiters",
    ),
    "a reentrant lock": (
        "r, held = threading.RLock(), []",
        "\nwith r, r:\n    held.append([bytes(150)])",
        "held.clear(); free(r)",
    ),
    "an event": (
        "e, held = threading.Event(), []",
        "e.set(); e.clear(); e.wait(0); held.append([bytes(150)])",
        "held.clear(); free(e._cond); assert not e._cond._waiters",
    ),
    "a logger": (
        "import logging; log = logging.getLogger('x'); stream, held = open(os.devnull, 'w'), []\n"
        "log.addHandler(logging.StreamHandler(stream)); log.propagate = False",
        "log.warning('%s', 1); held.append([bytes(150)])",
        "held.clear(); free(log.handlers[0].lock); free(logging._lock); log.warning('again')",
    ),
    "a simple queue": (
        "q = queue.SimpleQueue()",
        "q.put([bytes(150)]); q.put([bytes(150)]); q.get()",
        "while not q.empty(): q.get()\nq.put(7); assert q.get(timeout=1) == 7",
    ),
    "a thread pool": (
        "from concurrent.futures import ThreadPoolExecutor; pool = ThreadPoolExecutor(2)\n"
        "held = []; pool.submit(int).result()",
        "held.append([bytes(300), pool.submit(int)])",
        "held.clear(); assert pool.submit(int, '7').result(10) == 7",
    ),
    "an import": (
        "import importlib; held = []",
        "sys.modules.pop('colorsys', 0); import colorsys; held.append([bytes(20_000), colorsys])",
        "held.clear(); import colorsys; assert colorsys.rgb_to_hsv(0, 0, 0)",
    ),
    "a weak dictionary": (
        "import weakref; w = weakref.WeakValueDictionary(); held = []\nclass Node: pass",
        "node = Node(); held.append(node); w[len(w)] = node; node.rows = bytes(150); w.pop(-1, 0);"
        "list(w.items())[:1] if len(w) < 50 else 0",
        "node = None; held.clear(); gc.collect(); assert len(w) == 0;"
        "assert not getattr(w, '_iterating', None)  # until 3.13",
    ),
    "a context manager": (
        "depth, held = [0], []\n"
        "class Manager:\n"
        "    def __enter__(self): depth[0] += 1\n"
        "    def __exit__(self, *e): str(depth); depth[0] -= 1",
        "\nwith Manager():\n    held.append([bytes(150)])",
        "held.clear(); assert depth == [0], depth",
    ),
    "a finalizer": (
        "ended, held = [0, 0], []\n"
        "class Node:\n"
        "    def __init__(self): self.rows = bytes(150)\n"
        "    def __del__(self): ended[0] += 1; str(ended); ended[1] += 1",
        "held.append(bytes(300)); Node()",
        "held.clear(); assert ended[0] == ended[1] > 0, ended",
    ),
}


@WHERE
@pytest.mark.parametrize("kind", STRUCTURES)
def test_what_it_interrupts_is_whole_afterwards(alarm, kind, where):
    make, step, works = STRUCTURES[kind]
    indented = dedent(step).strip().replace("\n", "\n" + " " * 24)
    works = works.strip().replace("\n", "\n" + " " * 12)
    rounds = 60 if where == "in_main" else 15
    assert alarm(
        f"""
    def free(lock):
        def take():
            taken = lock.acquire(timeout=2) if hasattr(lock, "acquire") else False
            if taken: lock.release()
            return taken
        assert in_thread(take), "a lock is still held"
    def check():
        {make.replace(chr(10), chr(10) + " " * 8)}
        g = memcg.group("g", max="256KiB", high="max")
        told = 0
        for _ in range({rounds}):
            try:
                with g:
                    while True:
                        {indented}
            except MemoryError:  # or a list was refused more room
                told += 1
            {works}
        return told
    """,
        where,
    ) == rounds  # fmt: skip


@WHERE
def test_a_thread_that_waits_for_a_lock_gets_it_when_it_goes_on_and_not_before(alarm, where):
    assert alarm(
        """
    def check():
        g, filled = full("g")
        log = []
        for wait in ["lock.acquire()", "ready.wait()", "q.get()", "next(iter(q.get, 1), 0)"] * 15:
            lock, ready, q, passed = threading.Lock(), threading.Event(), queue.SimpleQueue(), []
            lock.acquire()
            code = compile(wait, "wait", "eval")
            def waiter():
                try:
                    with g:
                        y = x + x; eval(code)
                        passed.append(1)
                        while True:
                            pass
                except memcg.MemcgOOM:
                    log.append(wait)
            thread = threading.Thread(target=waiter); thread.start()
            nothing(200)
            time.sleep(0.002)
            lock.release(); ready.set(); q.put(1)
            thread.join(20)
            assert not thread.is_alive(), wait
        return len(log)
    """,
        where,
    ) == 60  # fmt: skip


@WHERE
def test_frames_may_be_looked_at_meanwhile(alarm, where):
    assert alarm(
        """
    sys.setswitchinterval(1e-5)
    def check():
        g, filled = full("g")
        stop, looks = threading.Event(), [0]
        def look():
            while not stop.is_set():
                sys._current_frames(); sys._current_exceptions() if looks[0] % 2 else None
                looks[0] += 1
        watchers = [threading.Thread(target=look) for _ in range(2)]
        for thread in watchers: thread.start()
        told = rounds(g, 500, 20)
        stop.set()
        for thread in watchers: thread.join()
        assert looks[0] > 10
        return told
    """,
        where,
    ) == 500  # fmt: skip


@WHERE
def test_a_thread_being_started_is_started_and_its_target_runs(alarm, where):
    started, ran, beyond, bad = alarm(
        """
    def check():
        bad, ran, started = [], [], 0
        threading.excepthook = lambda args: bad.append(1) if len(bad) < 9 else None
        g = memcg.group("g", max="1MiB", high="max")
        def target(rows):
            try:
                rows.append([bytes(3000)])
                ran.append(1)
            except MemoryError:
                ran.append(2)
        for _ in range(10):
            threads, rows = [], []
            try:
                with g:
                    for _ in range(2000):
                        thread = threading.Thread(target=target, args=(rows,))
                        threads.append(thread)
                        rows.append([bytes(3000)])
                        thread.start()
                        started += 1
                        thread.join()
                raise SystemExit("lost")
            except MemoryError:
                pass
            for thread in threads:
                if thread.ident: thread.join(10)
            assert not any(thread.is_alive() for thread in threads)
        return started, len(ran), g.peak - g.max, len(bad)
    """,
        where,
    )
    assert started > 500
    # In other threads than the main one 3.11 raises the alarm where they let go of the GIL. Here
    # that is always inside threading, so the reserve is used up and a request is refused instead.
    if sys.version_info >= (3, 12) or where == "in_main":
        assert bad == 0
        assert started <= ran <= started + 10  # the error may be raised between start and the count
        assert beyond <= 16 * 2**20  # raised before the reserve is used up


@WHERE
@pytest.mark.parametrize("reserve", [0, 4096])
def test_past_the_reserve_too_no_lock_stays_taken_and_no_group_entered(alarm, where, reserve):
    """CPython 3.13 finds no handler at the backward jump of a `while` in a `with`."""
    assert alarm(
        f"""
    def check():
        g = memcg.group("g", max="2MiB", reserve={reserve}, high="max")
        lock, stop = threading.Lock(), threading.Event()
        told = 0
        for n in range(100):
            try:
                with g, lock:
                    rows = []
                    while not stop.is_set(): rows.append([n])
            except MemoryError:
                told += 1
            rows = None
            assert not lock.locked() and not g.nr_inside
        return told
    """,
        where,
    ) == 100  # fmt: skip


@WHERE
def test_cleaning_up_after_it_is_not_interrupted_again(alarm, where):
    """The alarm is raised again after 1 MiB of growth, and cleaning up takes 20 KiB here."""
    cleaned, again = alarm(
        """
    def check():
        g = memcg.group("g", max="2MiB", high="max")
        cleaned = again = 0
        for _ in range(200):
            with g:
                try:
                    rows = []
                    while True: rows.append([bytes(500)])
                except MemoryError:
                    try:
                        texts = [str(len(row[0])) for row in rows[:200]]  # this allocates too
                        while rows: rows.pop()
                        cleaned += 1
                    except MemoryError:
                        again += 1
                    rows = texts = None
        return cleaned, again
    """,
        where,
    )
    assert (cleaned, again) == (200, 0)


def test_a_thread_can_be_started_where_the_reserve_is_used_up(run_program):
    shown = run_program("""
    g = memcg.group("g", max="1MiB", reserve=1, overdraft="16MiB", high="max")
    ran, started = [], []
    def over():
        with g, memcg.shield():
            rows = [[[bytes(100)] for _ in range(100)] for _ in range(100)]  # 1.4 MiB too many
            for _ in range(20):
                thread = threading.Thread(target=ran.append, args=(1,))
                thread.start()
                started.append(1)
                thread.join()
    for where in (in_main, in_thread):
        try:
            where(over)
            raise SystemExit("lost")
        except MemoryError:
            pass
    show(ran=len(ran), started=len(started))
    """)
    assert shown == {"ran": 40, "started": 40}


@WHERE
def test_locks_of_libraries_are_free_afterwards(alarm, where):
    alarm(
        TWO
        + dedent("""
    def hog(step):
        try:
            with a:
                while True:
                    step()
        except MemoryError:
            pass
    def check():
        for _ in range(5):
            q = queue.Queue()
            hog(lambda: q.put([bytes(200) for _ in range(10)]))
            while not q.empty():
                q.get_nowait(); q.task_done()
            q.put(1); assert q.get(timeout=1) == 1; q.task_done()
            assert q.mutex.acquire(timeout=1); q.mutex.release()
            semaphore, held = threading.Semaphore(3), []
            def with_semaphore():
                with semaphore:
                    held.append(bytes(300))
            hog(with_semaphore)
            held.clear()
            assert all(semaphore.acquire(timeout=1) for _ in range(3))
            condition = threading.Condition()
            def with_condition():
                with condition:
                    condition.notify()
                held.append(bytes(300))
            hog(with_condition)
            held.clear()
            assert condition.acquire(timeout=1); condition.release()
    """),
        where,
    )


def test_frames_may_be_looked_at_and_threads_started_meanwhile(run_program):
    run_program(
        TWO
        + dedent("""
    stop = threading.Event()
    def look():
        while not stop.is_set():
            sys._current_frames()
    watcher = threading.Thread(target=look); watcher.start()
    for _ in range(10):
        try:
            with a:
                rows = []
                while True:
                    thread = threading.Thread(target=int); thread.start(); thread.join()
                    rows.append([bytes(1000) for _ in range(2000)])
        except MemoryError:
            rows = None
    stop.set(); watcher.join()
    """)
    )


def test_a_thread_that_waits_for_a_lock_gets_it_when_it_goes_on(run_program):
    run_program(
        TWO
        + dedent("""
    lock, ready, seen = threading.Lock(), threading.Event(), []
    def offender():
        try:
            with a:
                rows = [[1] for _ in range(300_000)]
                ready.set()
                with lock:
                    for _ in range(10**7):
                        pass
        except MemoryError:
            seen.append(threading.current_thread())
    for _ in range(3):
        ready.clear()
        with lock:
            thread = threading.Thread(target=offender); thread.start()
            while not ready.is_set() and not seen: time.sleep(0.01)
            time.sleep(0.05)
        thread.join(20)
        assert seen.pop() is thread and lock.acquire(timeout=1)
        lock.release()
    """)
    )
