# SPDX-License-Identifier: Apache-2.0
"""Threads, jobs, tasks and contexts are in the group in which they were started."""

from __future__ import annotations

import pytest

WHERE = "where = lambda: memcg.current().path\na, b = memcg.group('a'), memcg.group('b')\n"


def test_threads_are_in_the_group_that_starts_them(run_program):
    run_program(
        WHERE
        + """
import _thread
from concurrent.futures import ThreadPoolExecutor
class Own(threading.Thread):
    def run(self): self.seen = where()
def seen_by_timer():
    out = queue.SimpleQueue()
    timer = threading.Timer(0.001, lambda: out.put(where())); timer.start(); timer.join()
    return out.get(timeout=5)
def nested(): return in_thread(lambda: in_thread(where))
with a:
    assert in_thread(where) == nested() == seen_by_timer() == "a"
    thread = Own()
with b:
    thread.start(); thread.join()
assert thread.seen == "b"
assert in_thread(where) == nested() == seen_by_timer() == where() == ""
def inside_b():
    with b:
        with a: pass
        return in_thread(where), where()
with a:
    assert in_thread(inside_b) == ("b", "b") and where() == "a"
def leaves_open():
    b.__enter__()
    return where()
with a:
    assert in_thread(leaves_open) == "b"  # the thread ends inside the group
    assert where() == "a"
# a job is in the group that submits it, no matter which group started the pool's thread
with ThreadPoolExecutor(2) as pool:
    with a:
        jobs = [(pool.submit(where), "a") for _ in range(50)]
        assert list(pool.map(lambda n: where(), range(10))) == ["a"] * 10
        with b:
            jobs += [(pool.submit(where), "b") for _ in range(50)]
    jobs += [(pool.submit(where), "") for _ in range(50)]
    def failing():
        held = [bytes(1000) for _ in range(100)]
        raise KeyError(where())
    with b:
        job = pool.submit(failing)
    assert job.exception().args == ("b",)
    assert all(job.result() == expected for job, expected in jobs)
    del job, jobs
with a, ThreadPoolExecutor(1, initializer=lambda: names.append(where())) as pool:
    names = []
    assert pool.submit(where).result() == "a"
    any_name = pool.submit(lambda *a, **names: names, 1, self=2, fn=3, func=4)
    assert any_name.result() == {"self": 2, "fn": 3, "func": 4}
from multiprocessing.pool import ThreadPool
def raises(error, fn, *args):
    try: fn(*args)
    except error: return True
with a: pool = ThreadPool(2)  # its threads are in no group, or jobs of the root would be in `a`
with b:
    assert pool.apply(where) == pool.apply_async(func=where).get(9) == "b"
    for many in (pool.map, pool.imap, pool.imap_unordered):
        assert list(many(lambda n: where(), range(10))) == ["b"] * 10
    assert pool.starmap(lambda n, m: where(), [(1, 2)] * 3) == ["b"] * 3
    for chunked in (pool.map, pool.imap, pool.imap_unordered):
        assert list(chunked(lambda n: where(), range(10), 4)) == ["b"] * 10
    def ends(): yield 1; raise KeyError
    assert raises(KeyError, list, pool.imap(lambda n: n, ends()))
assert pool.apply(where) == "" and pool.map(lambda n: where(), [1, 2]) == ["", ""]
pool.close(); pool.join()
before = a.nr_inside, b.nr_inside
assert before == (0, 1), before  # the one thread that ended inside
"""
    )


def test_repeated_jobs_keep_the_threads_context(run_program):
    """The second job of a thread, and all later ones, enter by an exchange of context maps."""
    run_program(
        WHERE
        + """
import contextvars
from concurrent.futures import ThreadPoolExecutor
var = contextvars.ContextVar("var", default=0)
def seen(value=None):
    out = where(), var.get()
    if value is not None:
        var.set(value)
    return out
def inside_b():
    with b:
        with a: pass
        return where()
def charged(g):
    before = g.current
    held = [bytes(1000) for _ in range(1000)]
    return g.current - before > 900_000
with ThreadPoolExecutor(1) as pool:
    ask = lambda f, *args: pool.submit(f, *args).result()
    def jobs(g, f, *args):
        with g:
            return [ask(f, *args) for _ in range(3)]
    for value, then in ((0, 7), (7, 8), (8, 9)):
        assert jobs(a, seen) == [("a", value)] * 3 and jobs(b, seen) == [("b", value)] * 3
        assert ask(seen) == ("", value)
        assert jobs(a, seen, value + 1)[1:] == [("a", value + 1)] * 2
        assert ask(seen, then) == ("", value + 1)
    assert jobs(a, inside_b) == ["b"] * 3 and jobs(b, inside_b) == ["b"] * 3
    assert jobs(a, charged, a) == [True] * 3 == jobs(b, charged, b)
    with a:
        held = pool.map(seen, [None] * 3)
        assert [w for w, _ in held] == ["a"] * 3
        with memcg.group("gone") as gone:
            assert ask(where) == ask(where) == "gone"
        gone.close()
        assert ask(where) == "a"
    assert ask(where) == ""
"""
    )


def test_a_thread_state_at_the_address_of_another_is_in_no_group(run_program):
    """A native thread has two thread states in turn, of which the second sets more variables."""
    run_program(
        WHERE
        + """
import contextvars, ctypes
libc, python = ctypes.CDLL(None), ctypes.pythonapi
python.PyThreadState_Get.restype = ctypes.c_void_p
VOID = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
key, at, seen = ctypes.c_uint(), [], []
libc.pthread_setspecific.argtypes = ctypes.c_uint, ctypes.c_void_p
var = contextvars.ContextVar("var")
@VOID
def first(_):
    libc.pthread_setspecific(key, 1)  # so that `second` runs in this thread when it ends
    at.append(python.PyThreadState_Get())
    for n in range(20): var.set(n)
    a.__enter__()
    seen.append(where())
@VOID
def second(_):
    at.append(python.PyThreadState_Get())
    for n in range(60):
        var.set(n)
        seen.append(where())
assert not libc.pthread_key_create(ctypes.byref(key), second)
thread = ctypes.c_void_p()
assert not libc.pthread_create(ctypes.byref(thread), None, first, None)
libc.pthread_join.argtypes = ctypes.c_void_p, ctypes.c_void_p
assert not libc.pthread_join(thread, None)
assert at[0] == at[1] or sys.version_info >= (3, 15), at  # 3.15 may use another address
assert seen == ["a"] + [""] * 60, seen
"""
    )


def test_tasks_contexts_and_generators_are_in_the_group_they_belong_to(run_program):
    run_program(
        WHERE
        + """
import contextvars
async def child(expected, n):
    for _ in range(n):
        assert where() == expected
        await asyncio.sleep(0)
    return where()
async def parent(g, n):
    with g:
        tasks = [asyncio.create_task(child(g.path, 5)) for _ in range(3)]
        loop, out = asyncio.get_running_loop(), asyncio.Queue()
        loop.call_soon(lambda: out.put_nowait(where()))
        loop.call_later(0.001, lambda: out.put_nowait(where()))
        other = b if g is a else a
        with other:
            await asyncio.sleep(0)
            assert where() == other.path
        assert await asyncio.to_thread(where) == g.path
        assert await loop.run_in_executor(None, where) == g.path
        assert [await out.get(), await out.get()] == [g.path] * 2
        async with asyncio.timeout(5):
            assert await asyncio.wait_for(child(g.path, 2), 5) == g.path
        agen = numbers()
        assert [where() async for _ in agen] == [g.path] * 3
        assert await asyncio.gather(*tasks) == [g.path] * 3
    return where()
async def numbers():
    for n in range(3):
        await asyncio.sleep(0)
        yield n
async def main():
    assert set(await asyncio.gather(*(parent([a, b][n % 2], n) for n in range(40)))) == {""}
    return where()
assert asyncio.run(main()) == ""
with b:
    assert asyncio.run(child("b", 3)) == "b"
    context = contextvars.copy_context()
with a:
    assert context.run(where) == "b" and where() == "a"
    def inside():
        with a:
            return where()
    assert context.run(inside) == "a" and context.run(where) == "b"
assert contextvars.copy_context().run(where) == contextvars.Context().run(where) == ""
# Groups nest, and a group can be entered again.
with a, b, a, a, b:
    assert where() == "b" and (a.nr_inside, b.nr_inside) == (3, 2)
    with a:
        try:
            with b: raise KeyError
        except KeyError:
            assert where() == "a"
    assert where() == "b"
assert where() == "" and (a.nr_inside, b.nr_inside) == (0, 0)
# A generator that is suspended in `with` leaks into its consumer, as documented; not iterate()'s.
def leaky():
    with a:
        yield where()
    yield where()
steps = leaky()
assert next(steps) == "a" and where() == "a"
assert next(steps) == "" and where() == ""
assert list(b.iterate(where() for _ in range(3))) == ["b"] * 3 and where() == ""
# Leaving in another order is an error, and nothing is lost.
a.__enter__(); b.__enter__()
try:
    a.__exit__(None, None, None)
    raise SystemExit("left though not innermost")
except memcg.MemcgError as error:
    assert "innermost" in str(error)
b.__exit__(None, None, None); a.__exit__(None, None, None)
assert where() == "" and (a.nr_inside, b.nr_inside) == (0, 0)
# A context may be dropped while it is inside a group.
def dropped():
    b.__enter__()
    return [bytes(1000) for _ in range(1000)]
rows = contextvars.copy_context().run(dropped)
assert where() == "" and b.current > 10**6
"""
    )


def test_threads_of_every_origin_are_in_the_group_that_starts_them(run_program):
    run_program(
        WHERE
        + """
import _thread
from contextvars import Context
out = queue.SimpleQueue()
def run(*args, **kwargs): out.put((where(), Context().run(where), args, kwargs))
ways = [_thread.start_new_thread, _thread.start_new]
if hasattr(_thread, "start_joinable_thread"):
    ways.append(lambda f, *args: _thread.start_joinable_thread(function=f) and None)
for start in ways:
    given = ((1,), {"function": 2}) if start is ways[0] else ((),)
    for group, path in ((a, "a"), (b, "b"), (memcg.root, "")):
        with group: start(run, *given)
        assert out.get(timeout=9)[:2] == (path, path)
    start(run, *given)
    got = out.get(timeout=9)
    assert got == ("", "", *(given if len(given) == 2 else ((), {}))), got
with a:
    def starts(): _thread.start_new_thread(b.wrap(lambda: _thread.start_new_thread(run, ())), ())
    _thread.start_new_thread(starts, ())
    assert out.get(timeout=9)[0] == "b"
    for wrong in ((), (1, ()), (run,), (run, 1)):
        try: _thread.start_new_thread(*wrong)
        except TypeError: pass
        else: raise SystemExit(wrong)
assert (a.nr_inside, b.nr_inside) == (0, 0)
"""
    )


def test_an_error_of_a_thread_is_shown_as_cpython_shows_it(run_program):
    run_program(
        WHERE
        + """
import _thread
shown = []
def fails(): raise KeyError
def ends(): raise SystemExit
def show(seen):
    shown.append((seen.exc_type, seen.err_msg, seen.object, where()))
    done.release()
sys.unraisablehook = show
done = _thread.allocate_lock(); done.acquire()
def one(): _thread.start_new_thread(fails, ()); assert done.acquire(timeout=9)
one()
a.run(one)
assert shown[0] == shown[1] and shown[0][0] is KeyError, shown
def ending():
    thread = _thread.start_new_thread(ends, ())
    for _ in range(3): one()  # an error of the thread itself would be shown before these
a.run(ending)
assert {kind for kind, *_ in shown} == {KeyError}
"""
    )


def test_a_threads_own_run_attribute_runs_and_stays(run_program):
    run_program(
        WHERE
        + """
def make(thread=None):
    out, thread = [], thread or threading.Thread()
    thread.run = own = lambda: out.append((where(), thread.run is own))
    return thread, own, out
for group, path in ((a, "a"), (memcg.root, "")):
    thread, own, out = make()
    with group: thread.start(); thread.join()
    assert out == [(path, True)] and vars(thread)["run"] is own, out
# Profilers and error reporters put a wrapper around `run`.
class Own(threading.Thread):
    def run(self): self.seen = where()
thread = Own()
thread.run = a.wrap(thread.run)
with b: thread.start(); thread.join()
assert thread.seen == "a"
# Without an attribute of its own none is left. One that is set meanwhile stays.
with a: thread = Own(); thread.start(); thread.join()
assert thread.seen == "a" and "run" not in vars(thread)
class Slow(threading.Thread):
    def _bootstrap(self):
        self.run = b.wrap(self.later)
        super()._bootstrap()
    def later(self): self.seen = where()
with a: thread = Slow(); thread.start(); thread.join()
assert thread.seen == "b" and "run" in vars(thread)
# A property hides an attribute of the instance.
class Property(threading.Thread):
    def _run(self): self.seen = where()
    run = property(lambda self: self._run, lambda self, run: None)
with a: thread = Property(); thread.start(); thread.join()
assert thread.seen == "a"
# A thread that could not start can be started later. Since 3.13 it cannot.
for thread, own, out in (make(), (Own(), None, None)):
    with a:
        stack = threading.stack_size(1 << 46)  # the system has no such room
        try: thread.start()
        except RuntimeError: pass
        else: raise SystemExit("a stack of 64 TiB")
        finally: threading.stack_size(stack)
        assert vars(thread).get("run") is own
    if sys.version_info < (3, 13):
        with b: thread.start(); thread.join()
        assert out in (None, [("b", True)])
        assert vars(thread).get("run") is own
"""
    )


def test_threads_that_sentry_has_wrapped_run_in_their_group(run_program):
    pytest.importorskip("sentry_sdk", reason="sentry-sdk is not installed")
    run_program(
        WHERE
        + """
import sentry_sdk
from concurrent.futures import ThreadPoolExecutor
from sentry_sdk.integrations.threading import ThreadingIntegration
sentry_sdk.init(
    dsn=None, default_integrations=False, integrations=[ThreadingIntegration()],
    auto_enabling_integrations=False,
)
class Own(threading.Thread):
    def run(self): self.seen = where()
for group, path in ((a, "a"), (memcg.root, ""), (b, "b")):
    with group:
        assert in_thread(where) == path
        thread = Own(); thread.start(); thread.join()
        with ThreadPoolExecutor(1) as pool: assert pool.submit(where).result() == path
    assert thread.seen == path
    assert vars(thread)["run"].__wrapped__ is Own.run  # it is sentry's wrapper, not ours
"""
    )


def test_a_context_that_knows_no_group_is_in_that_of_the_code_that_runs_it(run_program):
    run_program(
        WHERE
        + """
import contextvars
from contextvars import Context
c = memcg.group("c", max="8MiB", high="max")
outside = contextvars.copy_context()
def inside_b():
    with b: seen = where()
    return seen, where()
def charged(g):
    before = g.current
    held = [bytes(1000) for _ in range(1000)]
    return g.current - before > 900_000
assert Context().run(where) == Context().run(Context().run, where) == ""
for group, path in ((a, "a"), (c, "c")) * 3:  # all maps without a group are the same
    with group:
        assert Context().run(where) == Context().run(Context().run, where) == path
        assert Context().run(inside_b) == ("b", path)
        assert Context().run(inside_b) == ("b", path)
        assert Context().run(charged, group)
        assert outside.run(where) == ""  # it was copied outside any group
        assert in_thread(lambda: (where(), Context().run(where))) == (path, path)
        kept = Context()
        kept.run(group.__enter__)
        assert kept.run(where) == path
        kept.run(group.__exit__, None, None, None)
    assert Context().run(where) == Context().run(inside_b)[1] == ""
    kept = Context()
    with group: assert kept.run(where) == path
    with b: assert kept.run(where) == "b"
    assert kept.run(where) == ""
    thread_context = in_thread(contextvars.copy_context)
    with group: assert thread_context.run(where) == ""
assert (a.nr_inside, b.nr_inside, c.nr_inside) == (0, 0, 0)
# Its alarm is raised in it, and not under a shield.
rows, shown = [None] * 30_000, []
def fill(n):
    for n in range(n): rows[n] = bytes(1000)
    shown.append("filled")
try:
    with c: Context().run(fill, 30_000)
except memcg.MemcgOOM: assert not shown
# Some 7,900 objects fit. At 23,000 the reserve ends, and one is refused in any context.
else: raise SystemExit("30 MB in 8 MiB")
assert len(rows) - rows.count(None) < 12_000, rows.count(None)
rows = [None] * 9_000
def shielded():
    with memcg.shield(): Context().run(fill, 9_000)
    shown.append("after the shield")
try:
    with c: shielded()
except memcg.MemcgOOM: assert shown == ["filled"]
else: raise SystemExit("9 MB in 8 MiB")
# A task that a server gives an empty context is the server's, in a group and outside.
async def serve():
    async def request():
        seen = [where()]
        with b: await asyncio.sleep(0); seen.append(where())
        await asyncio.sleep(0)
        return [*seen, where()]
    def begin(): return asyncio.create_task(request(), context=Context())
    with b: tasks = [begin(), begin()]
    return await asyncio.gather(*tasks)
assert asyncio.run(serve()) == [["", "b", ""]] * 2
with a: assert asyncio.run(serve()) == [["a", "b", "a"]] * 2
"""
    )


def test_nothing_is_inherited_when_inheritance_is_off(run_program):
    run_program(
        """
    import memcg; memcg.install(inherit=False)
    import threading
    from concurrent.futures import ThreadPoolExecutor
    out = []
    with memcg.group("a") as g:
        thread = threading.Thread(target=lambda: out.append(memcg.current().path))
        thread.start(); thread.join()
        out.append(ThreadPoolExecutor(1).submit(lambda: memcg.current().path).result())
        out.append(memcg.current().path)
        out.append(g.run(lambda: memcg.current().path))
    assert out == ["", "", "a", "a"], out
    """,
        prelude="",
    )


def test_threads_jobs_and_tasks_are_in_the_group_that_started_them(run_program):
    run_program("""
    import asyncio, contextvars, threading
    from concurrent.futures import ThreadPoolExecutor
    a, b = memcg.group("a"), memcg.group("b")
    where = lambda: memcg.current().path
    def in_thread():
        seen = []
        thread = threading.Thread(target=lambda: seen.append(where()))
        thread.start(); thread.join()
        return seen[0]
    assert in_thread() == ""
    with a:
        assert in_thread() == "a"
        with b, a, b:
            assert in_thread() == "b"
        assert where() == "a"
    pool = ThreadPoolExecutor(1)
    with a:
        assert pool.submit(where).result() == "a"
    assert pool.submit(where).result() == ""
    with b:
        assert pool.submit(where).result() == "b"
        context = contextvars.copy_context()
    assert context.run(where) == "b" and where() == ""
    async def task(g):
        with g:
            for _ in range(20):
                await asyncio.sleep(0)
                assert memcg.current() is g
            return await asyncio.to_thread(where)
    async def main():
        return await asyncio.gather(*(task(g) for g in [a, b] * 20))
    assert asyncio.run(main()) == ["a", "b"] * 20
    steps = a.iterate(iter(range(3)))
    assert next(steps) == 0 and where() == "" and list(steps) == [1, 2]
    assert a.wrap(where)() == "a" and a.run(where) == "a"
    """)
