# SPDX-License-Identifier: Apache-2.0
"""Classic concurrent programs. Each builder is in `CLASSICS` with what is expected of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from memcg.verify import seam
from memcg.verify.seam import queue, threading


class Classic(NamedTuple):
    """A program, what it breaks (the empty string: nothing), and its number of traces."""

    name: str
    program: Callable[[], Any]
    breaks: str
    traces: int


def cell(value=0):
    return seam.Published(value)


# -- cells


def racing_increments(n):
    def program():
        x = cell()
        seam.parallel(*[lambda: x.store(x.load() + 1)] * n)
        assert x.load() == n, "an update is lost"

    return program


def atomic_increments(n):
    def program():
        x = seam.Atomic(0)
        seam.parallel(*[lambda: x.add(1)] * n)
        assert x.get() == n

    return program


def store_buffering():
    x, y, seen = cell(), cell(), []
    seam.parallel(lambda: (x.store(1), seen.append(y.load())),
                  lambda: (y.store(1), seen.append(x.load())))  # fmt: skip
    assert seen != [0, 0]


def load_buffering():
    x, y = cell(), cell()
    seam.parallel(lambda: (x.load(), y.store(1)), lambda: (y.load(), x.store(1)))


def message_passing():
    data, flag = cell(), cell()

    def read():
        if flag.load():
            assert data.load() == 1

    seam.parallel(lambda: (data.store(1), flag.store(1)), read)


def independent_reads():
    """Two writers, and two readers that must not see the writes in different orders."""
    x, y, seen = cell(), cell(), {}
    seam.parallel(lambda: x.store(1), lambda: y.store(1),
                  lambda: seen.update(a=(x.load(), y.load())),
                  lambda: seen.update(b=(y.load(), x.load())))  # fmt: skip
    assert seen != {"a": (1, 0), "b": (1, 0)}


# -- mutual exclusion; a task that is not let in at once gives up


def dekker(announces_first):
    def program():
        flags, inside = [cell(), cell()], []

        def enter(me):
            if announces_first:
                flags[me].store(1)
            if not flags[1 - me].load():
                if not announces_first:
                    flags[me].store(1)
                inside.append(me)

        seam.parallel(lambda: enter(0), lambda: enter(1))
        assert len(inside) < 2, "two are inside"

    return program


def peterson(announces_first):
    """A task that must wait gives up. One that was let in leaves no more."""

    def program():
        flags, turn, inside = [cell(), cell()], cell(), []

        def enter(me):
            if announces_first:
                flags[me].store(1)
            turn.store(1 - me)
            if not announces_first:
                flags[me].store(1)
            if not flags[1 - me].load() or turn.load() == me:
                inside.append(me)

        seam.parallel(lambda: enter(0), lambda: enter(1))
        assert len(inside) < 2, "two are inside"

    return program


def ticket_lock(n):
    def program():
        tickets, turns = seam.Atomic(-1), [seam.Event(f"turn{i}") for i in range(n + 1)]
        turns[0].set()
        order = []

        def enter():
            mine = tickets.add(1)
            turns[mine].wait()
            order.append(mine)
            turns[mine + 1].set()

        seam.parallel(*[enter] * n)
        assert order == [*range(n)]

    return program


def queue_lock(n):
    """Each task waits for the one before it, as in the locks of Craig, Landin and Hagersten."""

    def program():
        ended = [seam.Event(f"ended{i}") for i in range(n + 1)]
        ended[n].set()
        tail, order = seam.Atomic(n), []

        def enter(me):
            ended[tail.swap(me)].wait()
            order.append(me)
            ended[me].set()

        seam.parallel(*(lambda i=i: enter(i) for i in range(n)))
        assert len(order) == n

    return program


def try_lock(n):
    def program():
        lock, inside = threading.Lock(), []

        def enter():
            if lock.acquire(blocking=False):
                inside.append(1)

        seam.parallel(*[enter] * n)
        assert len(inside) == 1

    return program


# -- locks


def locks(n):
    def program():
        lock, order = threading.Lock(), []

        def enter(i):
            with lock:
                order.append(i)

        seam.parallel(*(lambda i=i: enter(i) for i in range(n)))

    return program


def dining(n, ordered):
    """The philosophers each take the left fork first, or the one with the smaller number."""

    def program():
        forks = [threading.Lock(f"fork{i}") for i in range(n)]

        def eat(i):
            first, second = i, (i + 1) % n
            if ordered:
                first, second = sorted((first, second))
            with forks[first], forks[second]:
                pass

        seam.parallel(*(lambda i=i: eat(i) for i in range(n)))

    return program


def transfers(ordered):
    def program():
        accounts = [[100, threading.Lock(f"account{i}")] for i in range(2)]

        def transfer(source, target):
            pair = sorted((source, target)) if ordered else (source, target)
            with accounts[pair[0]][1], accounts[pair[1]][1]:
                accounts[source][0] -= 10
                accounts[target][0] += 10

        seam.parallel(lambda: transfer(0, 1), lambda: transfer(1, 0))
        assert sum(money for money, _ in accounts) == 200

    return program


def double_checked(publishes_last):
    def program():
        lock, made, filled = threading.Lock(), cell(), cell()

        def get():
            if not made.load():
                with lock:
                    if not made.load():
                        if publishes_last:
                            filled.store(1)
                        made.store(1)
                        if not publishes_last:
                            filled.store(1)
            assert filled.load(), "seen half made"

        seam.parallel(get, get)

    return program


def readers_and_writer(readers):
    """The first reader takes the lock for all readers, and the last one gives it back."""

    def program():
        mutex, room = threading.Lock("mutex"), threading.Semaphore(1)
        readers_inside, value = [], cell()

        def read():
            with mutex:
                readers_inside.append(1)
                if len(readers_inside) == 1:
                    room.acquire()
            assert value.load() == value.load(), "written while it is read"
            with mutex:
                readers_inside.pop()
                if not readers_inside:
                    room.release()

        def write():
            with room:
                value.store(1)

        seam.parallel(write, *[read] * readers)

    return program


# -- waiting


def ping_pong(rounds):
    def program():
        ping, pong = threading.Semaphore(0), threading.Semaphore(0)

        def first():
            for _ in range(rounds):
                ping.release()
                pong.acquire()

        def second():
            for _ in range(rounds):
                ping.acquire()
                pong.release()

        seam.parallel(first, second)

    return program


def bounded_buffer(items, looks_again):
    """One writer and two readers of a buffer with room for one."""

    def program():
        changed, buffer = threading.Condition(threading.Lock()), []

        def put():
            for item in range(items):
                with changed:
                    while buffer:
                        changed.wait()
                    buffer.append(item)
                    changed.notify_all()

        def get():
            with changed:
                if looks_again:
                    while not buffer:
                        changed.wait()
                elif not buffer:
                    changed.wait()
                buffer.pop()
                changed.notify_all()

        seam.parallel(put, *[get] * items)

    return program


def semaphore_buffer(n):
    def program():
        room, full, buffer = threading.Semaphore(1), threading.Semaphore(0), []

        def put():
            for item in range(n):
                room.acquire()
                buffer.append(item)
                full.release()

        def get():
            for item in range(n):
                full.acquire()
                assert buffer.pop() == item
                room.release()

        seam.parallel(put, get)

    return program


def simple_queue(n):
    def program():
        jobs, got = queue.SimpleQueue(), []
        seam.parallel(*(lambda i=i: jobs.put(i) for i in range(n)), lambda: got.append(jobs.get()))
        assert len(got) == 1

    return program


def missed_wake_up(looks_under_the_lock):
    def program():
        changed, ready = threading.Condition(threading.Lock()), cell()

        def wait():
            if looks_under_the_lock:
                with changed:
                    if not ready.load():
                        changed.wait()
            elif not ready.load():
                with changed:
                    changed.wait()

        def wake():
            with changed:
                ready.store(1)
                changed.notify()

        seam.parallel(wait, wake)

    return program


def barrier(n):
    def program():
        together, arrived = threading.Barrier(n), []

        def meet():
            arrived.append(1)
            together.wait()
            assert len(arrived) == n

        seam.parallel(*[meet] * n)

    return program


def sleeping_barber(chairs, customers):
    def program():
        lock, waiting, ready, done = threading.Lock(), [], threading.Semaphore(0), []
        served = threading.Semaphore(0)

        def barber():
            ready.acquire()
            with lock:
                waiting.pop()
            done.append(1)
            served.release()

        def customer():
            with lock:
                if len(waiting) >= chairs or done or waiting:
                    return
                waiting.append(1)
            ready.release()
            served.acquire()

        seam.parallel(barber, *[customer] * customers)
        assert len(done) == 1

    return program


# -- structures without locks


def treiber(tagged):
    """A pop compares the top only, while another task pops two nodes and pushes one back."""

    def program():
        following = {0: cell(0), 1: cell(2), 2: cell(0)}
        top, freed, tag = seam.Atomic(1), cell(None), 100 * tagged

        def pop():
            old = top.get()
            after = following[old % 100].load()
            if top.compare_exchange(old, after + tag * (old // 100 + 1)):
                assert after != freed.load(), "the top was freed"

        def churn():
            if top.compare_exchange(1, 2 + tag) and top.compare_exchange(2 + tag, 2 * tag):
                freed.store(2)
                following[1].store(0)
                top.compare_exchange(2 * tag, 1 + 3 * tag)

        seam.parallel(pop, churn)

    return program


def treiber_pushes(n):
    def program():
        top, below = seam.Atomic(-1), {}

        def push(me):
            while True:
                below[me] = top.get()
                if top.compare_exchange(below[me], me):
                    return

        seam.parallel(*(lambda i=i: push(i) for i in range(n)))
        at, count = top.get(), 0
        while at >= 0:
            at, count = below[at], count + 1
        assert count == n

    return program


def work_stealing(compares):
    """The owner and a thief want the last item (after Chase and Lev)."""

    def program():
        top, bottom, got = seam.Atomic(0), cell(1), []

        def own():
            b = bottom.load() - 1
            bottom.store(b)
            t = top.get()
            if t < b:
                got.append("owner")
            elif t == b:
                if not compares or top.compare_exchange(t, t + 1):
                    got.append("owner")
                bottom.store(b + 1)

        def steal():
            t = top.get()
            if t < bottom.load() and (not compares or top.compare_exchange(t, t + 1)):
                got.append("thief")

        seam.parallel(own, steal)
        assert len(got) <= 1, "taken twice"

    return program


def sequence_lock(looks_twice):
    def program():
        sequence, x, y = cell(0), cell(0), cell(0)

        def write():
            sequence.store(1)
            x.store(1)
            y.store(1)
            sequence.store(2)

        def read():
            before = sequence.load()
            pair = x.load(), y.load()
            if before % 2 == 0 and (not looks_twice or sequence.load() == before):
                assert pair in ((0, 0), (1, 1)), "torn"

        seam.parallel(write, read)

    return program


def read_copy_update(waits):
    def program():
        read_side, current, freed = seam.ReadSide(), cell("old"), []

        def read():
            with read_side:
                seen = current.load()
                look.load()
                assert seen not in freed, "read after it was freed"

        look = cell()

        def update():
            current.store("new")
            if waits:
                read_side.synchronize()
            look.store(1)
            freed.append("old")

        seam.parallel(read, update)

    return program


LOST, TWO, DEADLOCK = "an update is lost", "two are inside", "waits in"
# The number is that of the traces. Where a formula gives it, it stands beside it; the tests count
# the others by enumeration.
CLASSICS = [
    Classic("two racing increments", racing_increments(2), LOST, 4),
    Classic("three racing increments", racing_increments(3), LOST, 36),
    Classic("four atomic increments", atomic_increments(4), "", 24),  # n!
    Classic("store buffering", store_buffering, "", 3),  # 2^2 - 1: not both before the other
    Classic("load buffering", load_buffering, "", 3),  # the same
    Classic("message passing", message_passing, "", 2),
    Classic("independent reads of independent writes", independent_reads, "", 15),  # 2^4 - 1
    Classic("Dekker's flags", dekker(True), "", 3),
    Classic("Dekker's flags, looked at first", dekker(False), TWO, 3),
    Classic("Peterson's lock", peterson(True), "", 6),
    Classic("Peterson's lock, the turn first", peterson(False), TWO, 6),
    Classic("a ticket lock for three", ticket_lock(3), "", 6),  # n!
    Classic("a queue lock for three", queue_lock(3), "", 6),  # n!
    Classic("a lock that three try", try_lock(3), "", 3),  # n: which one gets it
    Classic("a lock for four", locks(4), "", 24),  # n!
    Classic("three dining philosophers", dining(3, False), DEADLOCK, 7),  # 2^n - 1
    Classic("three with an order of forks", dining(3, True), "", 6),  # 2^n - 2
    Classic("four with an order of forks", dining(4, True), "", 14),  # 2^n - 2
    Classic("five with an order of forks", dining(5, True), "", 30),  # 2^n - 2
    Classic("two transfers", transfers(False), DEADLOCK, 3),  # 2^2 - 1
    Classic("two transfers with an order of accounts", transfers(True), "", 2),
    Classic("a double-checked lock", double_checked(True), "", 4),
    Classic("a double-checked lock, published first", double_checked(False), "half made", 6),
    Classic("one reader and a writer", readers_and_writer(1), "", 2),
    Classic("two readers and a writer", readers_and_writer(2), "", 14),
    Classic("ping-pong", ping_pong(3), "", 1),
    Classic("a bounded buffer", bounded_buffer(2, True), "", 40),
    Classic("a bounded buffer, looked at once", bounded_buffer(2, False), "pop from empty", 40),
    Classic("a buffer of semaphores", semaphore_buffer(3), "", 1),
    Classic("two puts and a get", simple_queue(2), "", 4),  # n n!
    Classic("three puts and a get", simple_queue(3), "", 18),  # n n!
    Classic("a wake-up", missed_wake_up(True), "", 2),
    Classic("a missed wake-up", missed_wake_up(False), DEADLOCK, 3),
    Classic("a barrier for two", barrier(2), "", 2),  # n! (n - 1)!
    Classic("a barrier for three", barrier(3), "", 12),  # n! (n - 1)!
    Classic("a sleeping barber", sleeping_barber(1, 2), "", 4),
    Classic("Treiber's stack, ABA", treiber(False), "the top was freed", 13),
    Classic("Treiber's stack with tags", treiber(True), "", 13),
    Classic("two pushes on Treiber's stack", treiber_pushes(2), "", 4),
    Classic("three pushes on Treiber's stack", treiber_pushes(3), "", 60),
    Classic("work stealing", work_stealing(True), "", 7),
    Classic("work stealing without a comparison", work_stealing(False), "taken twice", 3),
    Classic("a sequence lock", sequence_lock(True), "", 14),
    Classic("a sequence lock, looked at once", sequence_lock(False), "torn", 9),
    Classic("read, copy, update", read_copy_update(True), "", 4),
    Classic("update without a grace period", read_copy_update(False), "after it was freed", 4),
]
