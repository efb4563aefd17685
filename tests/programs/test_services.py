# SPDX-License-Identifier: Apache-2.0
"""Threads and processes that serve all groups are in the root, no matter which uses them first."""

from __future__ import annotations

import ast
import importlib
import sys
import sysconfig
from pathlib import Path

import pytest

from memcg.integrations.threading import _SERVICES

WHERE = "where = lambda: memcg.current().path\na, b = memcg.group('a'), memcg.group('b')\n"


def test_no_group_is_refused_what_another_has_no_room_for(run_program):
    run_program(
        """
import concurrent.futures, multiprocessing, _thread
small, large = memcg.group("small", max="8MiB"), memcg.group("large", max="512MiB")
many = 30 * MIB
def make(n): return bytes(n)
def count(payload): return len(payload)
requests, answers = queue.SimpleQueue(), queue.SimpleQueue()
def serve():
    while True: answers.put(len(bytes(requests.get())))
context = multiprocessing.get_context("fork")
starts = [
    lambda: threading.Thread(target=memcg.root.wrap(serve), daemon=True).start(),
    lambda: _thread.start_new_thread(memcg.root.wrap(serve), ()),
    memcg.root.wrap(lambda: threading.Thread(target=serve, daemon=True).start()),
    lambda: threading.Thread(target=memcg.service(serve), daemon=True).start(),
    lambda: _thread.start_new_thread(serve, ()),
]
for start in starts:
    requests, answers = queue.SimpleQueue(), queue.SimpleQueue()
    with small: start(); requests.put(1); assert answers.get(timeout=20) == 1
    with large: requests.put(many); assert answers.get(timeout=20) == many
assert small["memory.events"]["fail"] == 0
with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    with small: assert len(pool.submit(make, 1).result(30)) == 1
    with large: assert len(pool.submit(make, many).result(30)) == many
    with large: assert pool.submit(count, bytes(many)).result(30) == many
with small: pool = context.Pool(1)
with large:
    assert len(pool.apply(make, (many,))) == pool.apply(count, (bytes(many),)) == many
    assert pool.map(count, [bytes(many)]) == [many]
pool.terminate(); pool.join()
items = context.Queue()
with small: items.put(1); assert items.get(timeout=20) == 1
with large: items.put(bytes(many)); assert len(items.get(timeout=30)) == many
items.close(); items.join_thread()
assert small.peak < 2 * MIB, small.peak
"""
    )


def test_what_is_called_a_service_is_the_roots(run_program):
    run_program(
        WHERE
        + """
import _thread, functools, multiprocessing, weakref
out = queue.SimpleQueue()
def serve(*args): out.put(where())
@memcg.service
def own(*args): serve()
class Own(threading.Thread):
    @memcg.service
    def run(self): serve()
@memcg.service
class Sender(threading.Thread):
    def run(self): serve()
class Faster(Sender):
    def run(self): serve()
class Worker:
    def loop(self): serve()
    @memcg.service
    def done(self): serve()
    @staticmethod
    def alone(): serve()
    @classmethod
    def of_all(cls): serve()
class Called:
    def __call__(self): serve()
class Faster2(Worker): pass
worker, called = Worker(), Called()
assert memcg.service(worker.loop) == worker.loop and memcg.service(called) is called
memcg.service(Worker.alone); memcg.service(Worker.of_all)
closure = memcg.service(lambda: serve())
for group in a, b:
    for thread in (
        threading.Thread(target=own), threading.Thread(target=functools.partial(own, 1)), Own(),
        Sender(), Faster(), threading.Thread(target=Worker().loop), threading.Thread(target=called),
        threading.Thread(target=Faster2().done), threading.Thread(target=Worker.alone),
        threading.Thread(target=Worker.of_all), threading.Thread(target=closure),
    ):
        with group: thread.start()
        assert out.get(timeout=9) == "", thread
        thread.join()
    with group: _thread.start_new_thread(own, ()); assert out.get(timeout=9) == ""
    for others in (serve, Called(), lambda: serve(), functools.partial(serve, 1)):
        thread = threading.Thread(target=others)
        with group: thread.start()
        assert out.get(timeout=9) == group.path
    with group: own(); assert out.get() == group.path  # a call is in the group of the caller
# A service is forgotten together with its function.
from memcg.integrations.threading import _services
known, gone = len(_services), weakref.ref(closure)
del closure, thread, others
gc.collect()
assert gone() is None and len(_services) == known - 1
for wrong in (None, 1, "serve"):
    try: memcg.service(wrong)
    except TypeError as error: assert "memcg.service()" in str(error)
    else: raise SystemExit(wrong)
# The same for processes.
context = multiprocessing.get_context("fork")
pipe, far = context.Pipe()
def child(): far.send(where())
@memcg.service
def service(): far.send(where())
class Process(context.Process):
    @memcg.service
    def run(self): far.send(where())
for group in a, b:
    for make, expected in (
        (lambda: context.Process(target=child), group.path),
        (lambda: context.Process(target=service), ""), (Process, ""),
    ):
        with group: process = make(); process.start(); assert where() == group.path
        assert pipe.poll(20) and pipe.recv() == expected
        process.join()
assert (a.nr_inside, b.nr_inside) == (0, 0)
""",
        options=["-W", "ignore::DeprecationWarning"],
    )


def test_the_standard_librarys_services_are_the_roots(run_program):
    run_program(
        WHERE
        + """
import concurrent.futures, logging, logging.config, logging.handlers, multiprocessing.managers
import multiprocessing.resource_sharer, multiprocessing.pool, pydoc, socket, urllib.request
context = multiprocessing.get_context("fork")
seen = queue.SimpleQueue()
def path(*args): return where()
def told(*args): seen.put(where()); return b""
def got(): return seen.get(timeout=20)
class Pickled:
    def __reduce__(self): told(); return int, ()
class Handler(logging.Handler):
    emit = told
class Listener(logging.handlers.QueueListener): pass
class Executor(concurrent.futures.ThreadPoolExecutor):
    def shutdown(self, wait=True): told(); super().shutdown(wait)
class Manager(multiprocessing.managers.BaseManager): pass
Manager.register("seen", callable=lambda: [where()])

with a:
    items = context.Queue(); items.put(Pickled())
    assert got() == "" and items.get(timeout=20) == 0
    items.close(); items.join_thread()

    for kind in (logging.handlers.QueueListener, Listener):
        records = queue.Queue(); listener = kind(records, Handler()); listener.start()
        records.put(logging.makeLogRecord({})); assert got() == ""
        listener.stop()

    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(path).result(20) == ""
        slow = pool.submit(time.sleep, 0.2); slow.add_done_callback(told); assert got() == ""

    def steps():
        for n in range(3): told(); yield n
    class Odd:  # the iterator makes its items itself
        def __eq__(self, other): raise ValueError
    for pool in context.Pool(1), multiprocessing.pool.ThreadPool(1):
        pool.apply_async(int, (), callback=told); assert got() == ""
        assert list(pool.imap(str, steps())) == ["0", "1", "2"]
        assert [got() for _ in range(3)] == ["a"] * 3  # the caller of map() pays for its items
        with b: assert list(pool.imap_unordered(str, steps(), 2)) == ["0", "1", "2"]
        assert [got() for _ in range(3)] == ["b"] * 3
        assert pool.map(str, steps()) == ["0", "1", "2"]
        assert [got() for _ in range(3)] == ["a"] * 3
        if type(pool) is multiprocessing.pool.ThreadPool:
            assert list(pool.imap(type, iter([Odd()]))) == [Odd]
        else:
            assert pool.apply(path) == "" == pool.map(path, [1])[0]
        try: list(pool.imap(str, 1))
        except TypeError as error: assert "not iterable" in str(error)
        else: raise SystemExit("1 is iterable")
        pool.terminate(); pool.join()

    manager = Manager(ctx=context); manager.start()
    assert str(manager.seen()) == "['']"  # it runs in the server's process
    manager.shutdown()

    # Another process asks for a handle.
    sharer = multiprocessing.resource_sharer._resource_sharer
    address, key = sharer.register(lambda conn, pid: told(), lambda: None)
    from multiprocessing.connection import Client
    with Client(address, authkey=multiprocessing.current_process().authkey) as client:
        client.send((key, os.getpid())); assert got() == ""
    multiprocessing.resource_sharer.stop(20)

    thread = logging.config.listen(0, verify=lambda chunk: told() or None); thread.start()
    assert thread.ready.wait(20)
    with socket.create_connection(logging.config._listener.server_address, 20) as client:
        client.sendall(bytes([0, 0, 0, 1, 120])); assert got() == ""
    logging.config.stopListening(); thread.join(20)

    server = pydoc._start_server(lambda path, kind: told() and "" or "", "localhost", 0)
    urllib.request.urlopen(server.url, timeout=20).close(); assert got() == ""
    server.stop()

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(Executor(1))
        assert await loop.run_in_executor(None, where) == "a"
        await loop.shutdown_default_executor()
        assert got() == ""
    asyncio.run(main())
assert (a.nr_inside, b.nr_inside) == (0, 0)
"""
    )


# The modules in Lib/ that start threads. The table in memcg/integrations/threading.py has each
# place. subprocess starts them on Windows only.
STARTERS = {
    "asyncio/__main__.py", "asyncio/base_events.py", "asyncio/unix_events.py",
    "concurrent/futures/process.py", "concurrent/futures/thread.py",
    "concurrent/interpreters/__init__.py", "logging/config.py", "logging/handlers.py",
    "multiprocessing/dummy/__init__.py", "multiprocessing/managers.py", "multiprocessing/pool.py",
    "multiprocessing/queues.py", "multiprocessing/resource_sharer.py", "pdb.py",
    "profiling/sampling/_child_monitor.py", "profiling/sampling/gecko_collector.py", "pydoc.py",
    "socketserver.py", "subprocess.py", "telnetlib.py", "threading.py",
}  # fmt: skip
OLDER = {"pdb.py"} if sys.version_info < (3, 14) else set()  # modules that start none yet
NOT_IMPORTED = {"test", "tests", "site-packages", "idlelib", "turtledemo", "lib2to3"}
NAMES = {
    "Thread", "start_new_thread", "_start_new_thread", "_start_joinable_thread",
    "start_joinable_thread",
}  # fmt: skip


def starts_threads(source: str) -> bool:
    used: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            used.append(node.func)
        elif isinstance(node, ast.ClassDef):
            used += node.bases
    return any(ast.unparse(name).rpartition(".")[2] in NAMES for name in used)


def test_every_module_of_the_standard_library_that_starts_threads_is_judged():
    library = Path(sysconfig.get_path("stdlib"))
    found = {
        str(path.relative_to(library))
        for path in library.rglob("*.py")
        if not NOT_IMPORTED & set(path.relative_to(library).parts)
        and ("Thread" in (text := path.read_text(errors="replace")) or "_thread" in text)
        and starts_threads(text)
    }
    missing = {name for name in STARTERS - found if (library / name).exists()} - OLDER
    assert (found - STARTERS, missing) == (set(), set())


@pytest.mark.parametrize(
    ("source", "starts"),
    [("threading.Thread(target=f)", True), ("class A(Thread): pass", True),
     ("_thread.start_new_thread(f, ())", True), ("thread: Thread", False),
     ("import threading  # Thread()", False)],
)  # fmt: skip
def test_what_starts_threads_is_seen(source, starts):
    assert starts_threads(source) is starts


# Services of other versions of CPython than this.
OTHERS = (
    {"ThreadedChildWatcher._do_waitpid"}
    if sys.version_info >= (3, 14)
    else {
        "_ThreadedChildWatcher._do_waitpid",
        "_PdbServer._start_signal_listener.<locals>.listener",
    }
)


def test_the_names_of_services_are_those_of_the_installed_library():
    for module, names in _SERVICES.items():
        found = importlib.import_module(module)
        for name in names - OTHERS:
            outer, _, inner = name.partition(".<locals>.")
            thing = found
            for part in outer.split("."):
                thing = getattr(thing, part)
            if inner:
                code = getattr(thing, "__wrapped__", thing).__code__
                assert inner in {getattr(c, "co_name", None) for c in code.co_consts}, name
            else:
                assert thing.__qualname__ == name
