# SPDX-License-Identifier: Apache-2.0
"""What newer releases of CPython do otherwise: the same is charged, limited and told."""

from __future__ import annotations

import subprocess
import sys

import pytest
from environment import OURS, environment

FULL = """
def fill(g):
    kept = []
    try:
        while True: kept.append(bytes(1 << 17))
    except MemoryError: return kept
"""


def since(version: tuple[int, int], what: str):
    return pytest.mark.skipif(
        sys.version_info < version, reason=f"{what}: CPython {version[0]}.{version[1]} and later"
    )


def test_a_bytearray_is_charged_resized_and_refused_whole(run_program):
    """Its data is a bytes object since 3.15."""
    run_program(
        """
g = memcg.group("g", max="16MiB")
with g:
    data = bytearray(4 * MIB)
    assert 4 * MIB <= g.current < 5 * MIB, g.current
    data += bytes(2 * MIB)
    data[:] = data[: 6 * MIB]
    whole = bytes(data[:100])
    grows = [
        lambda: data.extend(bytes(11 * MIB)), lambda: data.resize(18 * MIB),
        lambda: data.__init__(18 * MIB),
    ]
    if sys.version_info >= (3, 11, 7):  # 3.11.2 drops a refused bytearray before it is made
        grows += [lambda: data * 3, lambda: data.replace(b"\\0", b"123")]
    for grow in grows:
        try: grow()
        except (MemoryError, AttributeError) as error:  # resize() is new in 3.14
            assert type(error) is not AttributeError or sys.version_info < (3, 14)
        else: raise SystemExit("made")
        if len(data) != 6 * MIB: assert len(data) == 0; data += bytes(6 * MIB)
    if sys.version_info >= (3, 15):
        before = g.current
        taken = data.take_bytes()  # the object itself, without a copy
        assert len(taken) == 6 * MIB and not data and g.current - before < MIB // 2
        data += b"1"
        del taken
    del data
assert g.current < MIB, g.report()
g.close()
"""
    )


def test_numpy_resizes_an_array_in_a_group_if_it_would_without(run_program):
    """Since 3.14 the interpreter borrows references, so NumPy may count fewer than there are."""
    run_program(
        """
import numpy as np
def outcomes():
    found = []
    def resize(array, n, **more):
        try: array.resize(n, **more)
        except ValueError as error: found.append(str(error).split("\\n")[0]); return
        found.append((array.size, float(array.sum())))
    local = np.ones(10)
    resize(local, 1 << 20)
    other = local
    resize(local, 20)
    resize(np.ones(10), 30)
    view = local[:5]
    resize(local, 40)
    del view, other
    resize(local, 60, refcheck=False)
    array = np.ones(10); array.resize(70, refcheck=False); found.append(array.size)
    return found
before = outcomes()
g = memcg.group("g", max="64MiB")
with g: inside = outcomes()
assert inside == before == memcg.group("h").run(outcomes), (before, inside)
with g:
    array = np.ones(10)
    array.resize(1 << 20, refcheck=False)
    assert g.current > 8 * MIB
    try: array.resize(1 << 24, refcheck=False)
    except MemoryError: pass
    else: raise SystemExit("made")
    assert array.size == 1 << 20 and array[:10].sum() == 10
    del array
assert g.current < MIB
"""
    )


@since((3, 15), "lazy imports")
def test_a_lazy_import_is_the_groups_that_uses_it_first(run_program, tmp_path):
    (tmp_path / "heavy.py").write_text("data = bytes(4 << 20)\n")
    (tmp_path / "heavier.py").write_text("data = bytes(1 << 24)\n")
    run_program(
        """
lazy import heavy
lazy import heavier
lazy import concurrent.futures as futures
lazy import numpy as np
a, b = memcg.group("a", max="16MiB"), memcg.group("b", max="64MiB")
with a: pass
assert "heavy" not in sys.modules and "numpy" not in sys.modules and a.current < MIB
with a: assert len(heavy.data) == 4 * MIB
assert a.current > 4 * MIB
with b: assert heavy.data is sys.modules["heavy"].data
assert b.current < MIB
with a:
    for _ in range(2):  # what is refused is imported again
        try: heavier.data
        except (MemoryError, ImportError) as error:
            assert type(error) is not ImportError or isinstance(error.__cause__, MemoryError), error
        else: raise SystemExit("imported")
with b: assert len(heavier.data) == 1 << 24
with b, futures.ThreadPoolExecutor(1) as pool:  # its module is hooked when it is imported
    assert pool.submit(lambda: memcg.current().path).result(20) == "b"
with b:
    array = np.ones(1 << 20)
    assert b.current > 24 * MIB
    del array
"""
    )


@since((3, 14), "sys.remote_exec")
def test_a_script_that_a_debugger_runs_is_the_groups_that_it_interrupts(run_program, tmp_path):
    if not remote_debugging():
        pytest.skip("this process may not debug another: no rights, or it is switched off")
    script = tmp_path / "script.py"
    script.write_text(
        "import memcg\n"
        "seen.append(memcg.current().path)\n"
        "try: made = bytes(8 << 20)\n"
        "except MemoryError: seen.append('refused')\n"
    )
    program = """
import __main__
seen = __main__.seen = []
import builtins; builtins.seen = seen
g = memcg.group("g", max="16MiB")
def wait(n):
    sys.remote_exec(os.getpid(), sys.argv[1])
    end = time.monotonic() + 20
    while len(seen) < n and time.monotonic() < end: pass
wait(1)
assert seen == [""], seen
with g: wait(2)
assert seen == ["", "g"], seen
with g:
    kept = fill(g)
    wait(4)
    assert seen[2:] == ["g", "refused"], seen
del kept
import __main__; vars(__main__).pop("made", None)
assert memcg.current() is memcg.root and g.nr_inside == 0
"""
    run_program(FULL + program, str(script))


def remote_debugging() -> bool:
    """Tell whether a process of ours may have another run a script."""
    code = (
        "import os, sys, tempfile\n"
        "with tempfile.NamedTemporaryFile('w', suffix='.py') as file:\n"
        "    sys.remote_exec(os.getpid(), file.name)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment(without=OURS), capture_output=True, text=True
    )
    if shown.returncode and "PermissionError" not in shown.stderr:
        assert "RuntimeError: Remote debugging is not enabled" in shown.stderr, shown.stderr
    return shown.returncode == 0


@since((3, 15), "profiling.sampling")
def test_a_program_that_meets_its_limit_can_be_sampled(run_program, tmp_path):
    if not remote_debugging():
        pytest.skip("this process may not debug another: no rights, or it is switched off")
    run_program(
        FULL
        + """
import subprocess
g = memcg.group("g", max="16MiB")
profiler = subprocess.Popen(
    [sys.executable, "-m", "profiling.sampling", "attach", "-d", "3", "-a", "--collapsed",
     "-o", sys.argv[1], str(os.getpid())],
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
)
def hog():
    rows = []
    while True: rows.append([object()])
met, stopped = 0, threading.Event()
def beside():
    global met
    while not stopped.is_set():
        with contextlib.suppress(MemoryError), g: hog()
        with contextlib.suppress(MemoryError), g: fill(g)
        met += 1
threads = [threading.Thread(target=beside) for _ in range(2)]
for thread in threads: thread.start()
while profiler.poll() is None:
    with contextlib.suppress(MemoryError), g: hog()
    met += 1
stopped.set()
for thread in threads: thread.join(30)
text = profiler.stdout.read()
assert profiler.returncode == 0, text
assert met > 3 and g.events["oom_kill"] > 3, (met, g.events)
assert "hog" in open(sys.argv[1]).read(), text
gc.collect()
assert g.nr_inside == 0 and g.current < MIB, g.report()
""",
        str(tmp_path / "stacks"),
    )


@since((3, 14), "the JIT")
def test_compiled_loops_are_stopped_at_their_limit(run_program):
    code = "import sys; print(sys._jit.is_available())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if shown.stdout != "True\n":
        pytest.skip("this CPython was built without the JIT")
    shown = run_program(
        """
assert sys._jit.is_enabled()
g = memcg.group("g", max="16MiB")
active = False
def lists(n):
    global active
    rows = []
    for i in range(n): rows.append([i])
    active |= sys._jit.is_active()
    return rows
def dicts(n):
    table = {}
    for i in range(n): table[i] = str(i)
    return table
def calls(n):
    def node(i, before): return (i, before)
    last = None
    for i in range(n): last = node(i, last)
    return last
def texts(n):
    text = []
    for i in range(n): text.append(f"{i}-{i}")
    return text
def hot(fn):
    for _ in range(200): fn(200)  # compiled by now
    for where in in_main, in_thread:
        def main():
            for _ in range(3):
                try:
                    with g: fn(10**9)  # an alarm, or a growing list is refused
                except MemoryError as error: assert "group 'g'" in str(error)
                else: raise SystemExit("not stopped")
            assert g.current < 2 * MIB, g.report()
            return True
        assert where(main)
for fn in (lists, dicts, calls, texts): hot(fn)
assert g.events["oom_kill"] + g.events["fail"] >= 24 and g.nr_inside == 0
show(active=active)
""",
        PYTHON_JIT="1",
    )
    assert isinstance(shown["active"], bool)


def test_the_collector_tells_whether_it_ran(run_program):
    """Whether a collection began is read off gc.get_stats(), whose meaning 3.14.0 changed."""
    run_program(
        """
from memcg import core
from memcg.core import _core
collect = _core.collect_garbage
class Cycle:
    def __init__(self): self.me = self
    def __del__(self): inside.append(collect())
inside = []
for _ in range(3):
    assert collect() is True
gc.collect(0); gc.collect(1)
assert collect() is True
Cycle()
assert collect() is True and inside == [False], inside  # while it runs none begins
seen = []
def callback(phase, info): seen.append((phase, collect()))
gc.callbacks.append(callback)
assert collect() is True
gc.callbacks.remove(callback)
assert [told for _, told in seen] == [False, False], seen
gc.disable()
assert collect() is True
gc.freeze()
assert collect() is True
"""
    )
