# SPDX-License-Identifier: Apache-2.0
"""Who is in which group, what is charged to it, once, and who is credited when it is freed."""

from __future__ import annotations

import pytest

WHERE = "where = lambda: memcg.current().path\na, b = memcg.group('a'), memcg.group('b')\n"


def test_threads_are_in_the_group_of_who_starts_them(run_program):
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
    assert in_thread(leaves_open) == "b"  # a thread that ends inside
    assert where() == "a"
# a pool's threads serve whoever submits, whoever had them started
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
with a: pool = ThreadPool(2)  # its threads are of no group, else jobs of the root were in it
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
assert before == (0, 1), before  # the thread that ended inside
"""
    )


def test_jobs_that_come_again_keep_the_threads_context(run_program):
    """From the second on a job enters by exchange of context maps."""
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


def test_a_thread_state_that_lies_where_another_was(run_program):
    """One native thread, two thread states; the second counts as far as the first had."""
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
assert at[0] == at[1], at
assert seen == ["a"] + [""] * 60, seen
"""
    )


def test_tasks_contexts_and_generators(run_program):
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
# nested and re-entrant
with a, b, a, a, b:
    assert where() == "b" and (a.nr_inside, b.nr_inside) == (3, 2)
    with a:
        try:
            with b: raise KeyError
        except KeyError:
            assert where() == "a"
    assert where() == "b"
assert where() == "" and (a.nr_inside, b.nr_inside) == (0, 0)
# a generator that is suspended in `with` leaks into its consumer, as documented; iterate() not
def leaky():
    with a:
        yield where()
    yield where()
steps = leaky()
assert next(steps) == "a" and where() == "a"
assert next(steps) == "" and where() == ""
assert list(b.iterate(where() for _ in range(3))) == ["b"] * 3 and where() == ""
# left in another order: an error, and nothing is lost
a.__enter__(); b.__enter__()
try:
    a.__exit__(None, None, None)
    raise SystemExit("left though not innermost")
except memcg.MemcgError as error:
    assert "innermost" in str(error)
b.__exit__(None, None, None); a.__exit__(None, None, None)
assert where() == "" and (a.nr_inside, b.nr_inside) == (0, 0)
# a context that is dropped while inside
def dropped():
    b.__enter__()
    return [bytes(1000) for _ in range(1000)]
rows = contextvars.copy_context().run(dropped)
assert where() == "" and b.current > 10**6
"""
    )


def test_threads_of_every_origin_are_in_the_group_of_who_starts_them(run_program):
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
    for _ in range(3): one()  # its own error, if it had one, came ahead of these
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
# a wrapper around what was there, as profilers and error reporters put it in
class Own(threading.Thread):
    def run(self): self.seen = where()
thread = Own()
thread.run = a.wrap(thread.run)
with b: thread.start(); thread.join()
assert thread.seen == "a"
# none of its own: none stays; one that is set meanwhile stays
with a: thread = Own(); thread.start(); thread.join()
assert thread.seen == "a" and "run" not in vars(thread)
class Slow(threading.Thread):
    def _bootstrap(self):
        self.run = b.wrap(self.later)
        super()._bootstrap()
    def later(self): self.seen = where()
with a: thread = Slow(); thread.start(); thread.join()
assert thread.seen == "b" and "run" in vars(thread)
# a property, with which an attribute of the instance is not found
class Property(threading.Thread):
    def _run(self): self.seen = where()
    run = property(lambda self: self._run, lambda self, run: None)
with a: thread = Property(); thread.start(); thread.join()
assert thread.seen == "a"
# threads that cannot start, and then can; since 3.13 they never can
for thread, own, out in (make(), (Own(), None, None)):
    with a:
        stack = threading.stack_size(1 << 46)  # no such room
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
    assert vars(thread)["run"].__wrapped__ is Own.run  # sentry's, and not ours
"""
    )


def test_a_context_that_knows_no_group_is_in_that_of_who_runs_it(run_program):
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
for group, path in ((a, "a"), (c, "c")) * 3:  # each map without a group is one and the same
    with group:
        assert Context().run(where) == Context().run(Context().run, where) == path
        assert Context().run(inside_b) == ("b", path)
        assert Context().run(inside_b) == ("b", path)
        assert Context().run(charged, group)
        assert outside.run(where) == ""  # it was copied where no group was
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
# its alarm comes in it, and not under a shield
rows, shown = [None] * 30_000, []
def fill(n):
    for n in range(n): rows[n] = bytes(1000)
    shown.append("filled")
try:
    with c: Context().run(fill, 30_000)
except memcg.MemcgOOM: assert not shown
# some 7,900 objects fit; where the reserve ends, at 23,000, one is refused in any context
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
# tasks that a server gives an empty context are the server's, in a group and outside
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


def test_no_inheritance_when_it_is_opted_out_of(run_program):
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


def test_the_owner_is_credited_by_whoever_frees(run_program):
    shown = run_program(
        WHERE
        + """
import numpy as np
frames = memcg.KmemCache("frame", 3000)
def make():
    with a:
        return ([bytes(500) for _ in range(5000)], [np.ones(5000) for _ in range(50)],
                [frames.alloc() for _ in range(200)], {str(i): [i] for i in range(3000)})
def clear(held):
    for part in held: part.clear()
make(); gc.collect(); a.reclaim(); b.reclaim()
before, out = (a.current, b.current), []
for way in range(5):
    held = make()
    out.append(a.current - before[0])
    if way == 0:
        clear(held)
    elif way == 1:
        with b: clear(held)
    elif way == 2:
        in_thread(b.wrap(lambda: clear(held)))
    elif way == 3:
        threads = [threading.Thread(target=b.wrap(part.clear)) for part in held]
        for t in threads: t.start()
        for t in threads: t.join()
    else:
        async def later():
            with b:
                await asyncio.to_thread(clear, held)
        asyncio.run(later())
    held = threads = None
    gc.collect(); a.reclaim(); b.reclaim()
    out.append([a.current - before[0], b.current - before[1]])
show(out=out, root=memcg.root.current)
"""
    )
    for made, (left_a, left_b) in zip(shown["out"][::2], shown["out"][1::2], strict=True):
        assert made > 5000 * 533 + 50 * 40_000 + 200 * 3000
        # free lists of floats, tuples, dicts; asyncio's caches: some tens of KB
        assert abs(left_a) <= 64 * 1024
        assert abs(left_b) <= 64 * 1024


def test_arrays_are_charged_once_and_outlive_their_group(run_program):
    run_program(
        """
    import numpy as np
    np.ones(10).sum(); np.fromstring("1 2", sep=" ")
    g = memcg.group("p/g")
    def charged(make):
        make()  # what it imports is nobody's
        gc.collect(); g.reclaim()
        before, root = g.current, memcg.root.current
        with g: array = make()
        own = array.nbytes
        extra = g.current - before - own
        assert -4096 <= extra <= 4096 + own // 4 + 2048, (make, own, extra)  # its class, its header
        assert memcg.root.current - root <= own + own // 4 + 70_000  # not twice, in two groups
        del array; gc.collect(); g.reclaim()
        assert g.current - before <= 2048, (make, g.report())
    for make in [
        lambda: np.ones(100), lambda: np.ones(5000), lambda: np.zeros(MIB), lambda: np.empty(MIB),
        lambda: np.full((512, 1024), 3, "i4"), lambda: np.arange(MIB) * 2 + 1,
        lambda: np.array([[1, 2], [3, 4]]).repeat(50_000),
        lambda: np.frombuffer(bytes(99), "u1") + 1,
        lambda: np.concatenate([np.ones(70_000)] * 3), lambda: np.sort(np.ones(100_000)),
        lambda: np.fromstring(" ".join(["1.5"] * 50_000), sep=" "),
        lambda: np.linalg.inv(np.eye(200)), lambda: np.random.default_rng(1).random(100_000),
    ]:
        charged(make)
    with g:
        array = np.arange(MIB)
        view = array[::2]
        small = np.ones(100)
    parent = g.parent
    g.close()
    assert g.current == 0 and parent.current >= 8 * MIB
    with memcg.group("q") as q:
        copy = array + 1
        array.resize(4 * MIB, refcheck=False)
    assert q.current >= 8 * MIB + 32 * MIB
    assert copy[-1] == MIB and array[MIB - 1] == MIB - 1 and small.sum() == 100
    del view, array, small, copy
    gc.collect(); parent.reclaim(); q.reclaim()
    assert parent.current <= 16 * 1024, parent.report()
    assert q.current <= 16 * 1024, q.report()
    """,
        options=["-W", "ignore::DeprecationWarning"],
    )


def test_arrays_over_buffers_of_a_cache(run_program):
    run_program("""
    import numpy as np
    made = []
    def ctor(view): made.append(len(view)); view[:4] = b"init"
    cache = memcg.KmemCache("frame", 1920 * 4, align=64, ctor=ctor)
    g = memcg.group("g")
    with g:
        before = g.current
        buffers = [cache.alloc() for _ in range(100)]
        assert g.current - before >= 100 * 1920 * 4
        arrays = [np.frombuffer(buffer, "u4") for buffer in buffers]
    for n, array in enumerate(arrays):
        assert array.ctypes.data % 64 == 0 and array.size == 1920 and array.flags.writeable
        assert bytes(memoryview(buffers[n])[:4]) == b"init"
        array[:] = n
    assert all((np.frombuffer(buffer, "u4") == n).all() for n, buffer in enumerate(buffers))
    for refused in (lambda: cache.free(buffers[0]), cache.destroy):
        try: refused()
        except (BufferError, memcg.CacheBusy): pass
        else: raise SystemExit("not refused")
    arrays[0][:] = 7
    assert arrays[0].sum() == 7 * 1920
    g.close()
    assert memcg.root.current > 100 * 1920 * 4
    del array
    arrays.clear()
    for buffer in buffers: cache.free(buffer)
    try: cache.free(buffers[0])
    except ValueError: pass
    else: raise SystemExit("freed twice")
    try: np.frombuffer(buffers[0], "u1")
    except ValueError: pass
    else: raise SystemExit("used after free")
    cache.destroy()
    """)


def test_blocks_from_before_the_hooks_grow_shrink_and_are_freed(run_program):
    run_program(
        """
    import array, collections, gc, threading
    import numpy as np
    words, numbers = bytearray(b"ab" * 300), list(range(500))
    table, members = {i: str(i) for i in range(300)}, set(range(300))
    typed, ring = array.array("q", range(300)), collections.deque(range(300))
    x = np.arange(400.0)
    kept = [bytearray(n) for n in range(0, 3000, 7)]
    import memcg; memcg.install()
    g, MIB = memcg.group("g"), 1 << 20
    with g:
        before = g.current
        words.extend(bytes(MIB)); assert g.current - before >= MIB
        numbers.extend(range(200_000)); assert g.current - before >= MIB + 1_600_000
        table.update((i, i) for i in range(50_000))
        members.update(range(50_000)); typed.extend(range(200_000)); ring.extend(range(100_000))
        x.resize(200_000, refcheck=False)
        at_most = g.current
        assert at_most - before >= 2 * MIB + 3 * 1_600_000
    assert words[:4] == b"abab" and words[600:] == bytes(MIB)
    assert numbers[499] == 499 and numbers[500] == 0 and len(table) == 50_000
    assert x[399] == 399.0 and typed[299] == 299 and ring[0] == 0 and 49_999 in members
    del numbers[10:], words[10:], typed[10:]  # shrink in the group's memory
    assert numbers == list(range(10)) and words == b"ababababab"
    del words, numbers, table, members, typed, ring, x, kept
    gc.collect(); g.reclaim()
    assert g.current <= 64 * 1024, g.report()
    """,
        prelude="",
    )


OTHERS = [
    ("-X dev", ["-X", "dev"], {}),
    ("debug", [], {"PYTHONMALLOC": "debug"}),
    ("malloc", [], {"PYTHONMALLOC": "malloc"}),
    ("malloc_debug", [], {"PYTHONMALLOC": "malloc_debug"}),
    ("-X tracemalloc", ["-X", "tracemalloc=5"], {}),
    ("tracemalloc and debug", ["-X", "tracemalloc"], {"PYTHONMALLOC": "debug"}),
]


@pytest.mark.parametrize(("name", "options", "environment"), OTHERS, ids=[o[0] for o in OTHERS])
def test_beside_other_hooks_groups_work_and_the_program_ends_cleanly(
    run_program, name, options, environment
):
    shown = run_program(
        """
    import tracemalloc
    import numpy as np
    tracing = tracemalloc.is_tracing()
    g = memcg.group("g", max="6MiB")
    old = [bytearray(900) for _ in range(100)]
    told = 0
    for n in range(5):
        try:
            with g:
                rows = []
                for _ in range(10**9): rows.append([str(len(rows)), np.ones(20)])
        except MemoryError:
            told += 1
        rows = None
        if n == 1: tracemalloc.stop()
        if n == 3: tracemalloc.start(2); traced = [bytearray(5000) for _ in range(100)]
        in_thread(lambda: [bytearray(500) for _ in range(1000)])
    current, peak = tracemalloc.get_traced_memory()
    assert current > 100 * 5000
    tracemalloc.stop()
    for row in old + traced: row.extend(bytes(3000))
    def daemon():
        with memcg.group("daemon", max="16MiB"):
            while True: [bytes(100), np.ones(50)]
    threading.Thread(target=daemon, daemon=True).start()
    ends_with = memcg.group("ends")
    with ends_with: alive = [np.ones(1000), {str(i): [i] for i in range(1000)}]
    show(told=told, tracing=tracing)
    """,
        options=options,
        **environment,
    )
    assert shown == {"told": 5, "tracing": "tracemalloc" in name or False}
