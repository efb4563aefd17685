# SPDX-License-Identifier: Apache-2.0
"""Real libraries, as they are, under the explorer: their races are found, and their pools hold.

What holds is exhausted for the number of threads and the operations of the test, and for `timeouts`
time-outs of a thread at one object, which no test here passes.
"""

from __future__ import annotations

import importlib

import pytest

from memcg.verify import explore, patch, replay, seam


def test_a_cache_of_cachetools_without_a_lock_has_a_wrong_size():
    cachetools = importlib.import_module("cachetools")

    def program():
        cache = cachetools.LRUCache(4)

        def put(key):
            cache[key] = key

        seam.parallel(lambda: put(1), lambda: put(2))
        assert cache.currsize == len(cache), "the size is wrong"

    failure = explore(program, track=[cachetools]).failure
    assert "the size is wrong" in str(failure.exception)
    assert (failure.preemptions, failure.minimal) == (1, True)
    again = replay(program, failure.replay, track=[cachetools])
    assert "the size is wrong" in str(again.exception)


def test_a_cache_of_cachetools_with_a_lock_holds():
    cachetools = importlib.import_module("cachetools")

    def program():
        cache, lock = cachetools.LRUCache(1), seam.threading.Lock()

        def put(key):
            with lock:
                cache[key] = key

        seam.parallel(lambda: put(1), lambda: put(2))
        assert cache.currsize == len(cache) == 1

    assert explore(program, track=[cachetools]).check().schedules == 2


def test_cached_with_a_lock_computes_twice_and_with_a_condition_once():
    cachetools = importlib.import_module("cachetools")

    def program(**synchronized):
        calls = []

        @cachetools.cached({}, **{name: make() for name, make in synchronized.items()})
        def square(n):
            calls.append(n)
            return n * n

        seam.parallel(lambda: square(3), lambda: square(3))
        assert len(calls) == 1, "computed twice"

    with patch("cachetools.*"):
        locked = explore(lambda: program(lock=seam.threading.Lock), audit=False)
        assert "computed twice" in str(locked.failure.exception)
        assert explore(lambda: program(condition=seam.threading.Condition), audit=False).check()


class Connection:
    """Opened and closed by a pool, which must not have more than `limit` at a time."""

    open, most = 0, 0

    def __init__(self):
        Connection.open += 1
        Connection.most = max(Connection.most, Connection.open)

    def close(self):
        Connection.open -= 1


def checkouts(size, overflow, dispose=False):
    """Return a program whose two threads use a pool of SQLAlchemy's once each."""
    pools = importlib.import_module("sqlalchemy.pool")
    timed_out = importlib.import_module("sqlalchemy.exc").TimeoutError

    def program():
        Connection.open = Connection.most = 0
        pool = pools.QueuePool(Connection, pool_size=size, max_overflow=overflow,
                               timeout=30, reset_on_return=None)  # fmt: skip
        outcomes = []

        def use():
            try:
                connection = pool.connect()
            except timed_out:
                outcomes.append("timed out")
                return
            connection.close()
            outcomes.append("used")

        seam.parallel(use, use, *[pool.dispose] * dispose)
        assert Connection.most <= size + overflow, "more connections than the limit"
        assert pool.checkedout() == 0, "a connection is not counted"
        return tuple(sorted(outcomes))

    return program


SQLALCHEMY = ("sqlalchemy.pool.impl", "sqlalchemy.pool.base", "sqlalchemy.util.queue")


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize(("overflow", "outcomes"), [
    (0, {("used", "used"), ("timed out", "used")}),
    (1, {("used", "used")}),
])  # fmt: skip
def test_sqlalchemys_pool_keeps_its_limit_in_every_schedule_of_two_threads(
    overflow, outcomes, tracked, record_property
):
    program = checkouts(1, overflow)
    track = [importlib.import_module("sqlalchemy.pool").QueuePool,
             importlib.import_module("sqlalchemy.util.queue").Queue] * tracked  # fmt: skip
    with patch(*SQLALCHEMY):
        result = explore(program, audit=False, track=track).check()
    record_property("schedules", result.schedules)
    assert set(result.states) == outcomes


def test_a_dispose_beside_users_miscounts_sqlalchemys_pool():
    """Its documentation says that only a pool without connections in use may be disposed of."""
    with patch(*SQLALCHEMY):
        failure = explore(checkouts(1, 1, dispose=True), audit=False).failure
    assert failure is not None
    assert "connection" in str(failure.exception)


def requests(block, maxsize=1):
    """Return a program whose two threads take a connection of urllib3's pool and put it back."""
    module = importlib.import_module("urllib3.connectionpool")
    empty = importlib.import_module("urllib3.exceptions").EmptyPoolError

    def program():
        pool = module.HTTPConnectionPool("localhost", maxsize=maxsize, block=block)
        made = []

        class Counted(pool.ConnectionCls):
            def __init__(self, *args, **kwargs):
                made.append(1)
                super().__init__(*args, **kwargs)

        pool.ConnectionCls = Counted
        outcomes = []

        def use():
            try:
                connection = pool._get_conn(timeout=1 if block else None)
            except empty:
                outcomes.append("empty")
                return
            pool._put_conn(connection)
            outcomes.append("used")

        seam.parallel(use, use)
        if block:
            assert len(made) <= maxsize, "more connections than the limit"
        assert pool.pool.qsize() == maxsize, "a place is lost"
        assert pool.num_connections == len(made), "a connection is not counted"
        return tuple(sorted(outcomes))

    return program


def test_urllib3s_pool_keeps_its_limit_in_every_schedule_of_two_threads():
    pool = importlib.import_module("urllib3.connectionpool").HTTPConnectionPool
    with patch("urllib3.connectionpool"):
        result = explore(requests(block=True), track=[pool], audit=False).check()
    assert set(result.states) == {("used", "used"), ("empty", "used")}


def test_urllib3s_pool_miscounts_its_connections_when_two_are_made_at_a_time():
    pool = importlib.import_module("urllib3.connectionpool").HTTPConnectionPool
    with patch("urllib3.connectionpool"):
        failure = explore(requests(block=False), track=[pool], audit=False).failure
    assert "a connection is not counted" in str(failure.exception)
    assert "connectionpool.py:" in failure.timeline
