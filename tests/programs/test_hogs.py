# SPDX-License-Identifier: Apache-2.0
"""Hogs of each kind are stopped at 64 MiB and bounded, and go on with right results."""

from __future__ import annotations

import json

import pytest

MAX = 64 << 20
RESERVE = 16 << 20  # an eighth of max, at least 16 MiB

HOGS = {
    "lists": "rows = []\nwhile True: rows.append([1])",
    "lists and dicts": "rows = []\nwhile True: rows.append([{'n': len(rows)}, [1, 2]])",
    "one dict": "rows = {}\nwhile True: rows[len(rows)] = str(len(rows))",
    "strings": "rows = []\nwhile True: rows.append('x' * 300 + str(len(rows)))",
    "shorter strings": "rows = []\nwhile True: rows.append('x' * 100 + str(len(rows)))",
    "one string": "text = 'x'\nwhile True: text += text",
    "small bytes": "rows = []\nwhile True: rows.append(bytes(100))",
    "bytes of a page": "rows = []\nwhile True: rows.append(bytes(4096))",
    "bytearray": "rows = bytearray()\nwhile True: rows += bytes(4096)",
    "a bytearray extended": "rows = bytearray()\nwhile True: rows.extend(bytes(4096))",
    "arrays": "import numpy as np\nrows = []\nwhile True: rows.append(np.ones(100_000))",
    "big arrays": "import numpy as np\nrows = []\nwhile True: rows.append(np.ones(1_000_000))",
    "tiny arrays": "import numpy as np\nrows = []\nwhile True: rows.append(np.ones(3))",
    "an array that grows": """
import numpy as np
array = np.ones(1000)
while True: array = np.concatenate([array, array])""",
    "closures": """
def make(n): return lambda: n
rows = []
while True: rows.append(make(len(rows)))""",
    "defaults of functions": "rows = []\nwhile True: rows.append(lambda n=len(rows): n)",
    "one generator": """
def steps():
    rows = []
    while True:
        rows.append((len(rows),))
        yield
for _ in steps(): pass""",
    "generators": """
def step(n): yield n
rows = []
while True:
    rows.append(step(len(rows)))
    next(rows[-1])""",
    "sets and tuples": "rows = set()\nwhile True: rows.add((len(rows), str(len(rows))))",
    "objects": """
class Node:
    def __init__(self, before): self.before = before
node = None
while True: node = Node(node)""",
    "json": "import json\njson.loads('[' + ','.join(['{\"a\": [1.5, \"b\"]}'] * 600_000) + ']')",
    "smaller json": "import json\njson.loads('[' + ','.join(['{\"a\": [1.5]}'] * 400_000) + ']')",
    "one large request": "bytearray(1 << 30)",
    "one huge request": "bytearray(1 << 40)",
    "a deque and a heap": """
import collections, heapq
rows, heap = collections.deque(), []
while True:
    rows.append(str(len(rows)))
    heapq.heappush(heap, (len(rows) * 7919 % 10_007, len(rows)))""",
    "recursion": """
import sys
sys.setrecursionlimit(10**7)
def down(n): return down(n + 1) + 1
down(0)""",
}
# One call in C makes so many small objects that it passes the reserve, which counts as overdraft.
# json.loads makes all its objects in one call. Unwinding a recursion makes a traceback and a frame
# object for each level.
ONE_CALL_IN_C = {"json", "smaller json", "recursion"}
# These make requests of 64 KiB and more, which fail with a MemoryError or NumPy's own error.
REFUSED = {
    "one string", "arrays", "big arrays", "an array that grows", "one large request",
    "one huge request",
}  # fmt: skip

CAUGHT = """
import hashlib, traceback
def work():
    rows = [{{"id": i, "text": str(i) * 3}} for i in range(5000)]
    text = json.dumps(sorted(rows, key=lambda row: row["text"]))
    assert json.loads(text)[0] == {{"id": 0, "text": "000"}}
    return hashlib.sha256(text.encode()).hexdigest()
expected = work()
code = compile({code!r}, "the hog", "exec")
import json
if "numpy" in {code!r}:
    import numpy
g = memcg.group("tenants/hog", max="64MiB")
def hog():
    try:
        with g:
            exec(code, {{}})
    except MemoryError as error:
        text = " ".join([str(error), *getattr(error, "__notes__", [])])
        lines = []
        while error:  # an error of leaving the group is chained to that of the body
            lines += [f.filename for f in traceback.extract_tb(error.__traceback__, limit=5)]
            first, error = error, error.__context__
        return isinstance(first, memcg.MemcgOOM), text, "the hog" in lines
runs, before = [], dict(g.events)
for where in in_main, in_thread, in_task:  # three times in the same group
    threading.stack_size(1 << 29 if {recursion} and where is in_thread else 0)
    g["memory.peak"] = 0
    seen = where(hog)
    threading.stack_size(0)
    peak, events = g.peak, {{name: n - before[name] for name, n in g.events.items()}}
    gc.collect()
    g.reclaim()
    left, before = g.current, dict(g.events)
    with g:  # the same program goes on in the same group
        again = where(work)
        assert again == expected
        room = bytearray(32 * MIB)
    assert g.events["oom"] == before["oom"], "refused again though there was room"
    del room
    runs.append(dict(where=where.__name__, seen=seen, peak=peak, events=events, left=left))
show(runs=runs)
"""


@pytest.mark.parametrize("kind", HOGS)
def test_a_hog_that_is_caught_lets_go_and_the_program_finishes(run_program, record_property, kind):
    """It runs in the main thread, then in another thread, then in a task."""
    runs = run_program(CAUGHT.format(code=HOGS[kind], recursion=kind == "recursion"))["runs"]
    assert [run["where"] for run in runs] == ["in_main", "in_thread", "in_task"]
    for run in runs:
        check(run, record_property, kind)


def check(run, record_property, kind):
    """Check one run of a hog into its limit."""
    where, events = run["where"], run["events"]
    is_ours, text, at_the_line = run["seen"]
    assert "group 'tenants/hog': charge of " in text, where
    assert "is over memory.max" in text, where
    assert "set on 'tenants/hog'" in text, where
    assert at_the_line, where
    assert events["oom_kill" if is_ours else "fail"] >= 1, where
    if kind in REFUSED and not events["reserve"]:  # used during a collection
        assert not is_ours, where
    beyond = run["peak"] - MAX
    record_property(f"overshoot MiB {where}", round(beyond / 2**20, 2))
    if beyond > RESERVE:
        assert events["overdraft"] >= 1, f"{where}: past the reserve, but not counted"
    assert beyond < 256 << 20, where
    if where == "in_main" and kind not in ONE_CALL_IN_C:
        # the interpreter's checks are frequent, so it gets a few small objects past the limit
        assert events["overdraft"] == 0
    # CPython's free lists, and a slab that is not empty in each class, may be left
    assert run["left"] < 4 << 20, where


# The rest of the kinds under `memcg run` are in tests/cli/test_limits.py.
@pytest.mark.parametrize(
    "kind", ["objects", "sets and tuples", "an array that grows", "a deque and a heap", "recursion"]
)
def test_a_hog_that_is_not_caught_ends_with_137_and_one_line(run_program, tmp_path, kind):
    script, account = tmp_path / "hog.py", tmp_path / "account.json"
    # 3.13 takes 40 s to format a million frames, without memcg too
    script.write_text(f"import sys\nsys.tracebacklimit = 3\n{HOGS[kind]}\n")
    launcher = tmp_path / "launch.py"
    launcher.write_text(f"""
import subprocess, sys
done = subprocess.run([sys.executable, "-m", "memcg", "run", "--max", "64MiB",
                       "--json", {str(account)!r}, {str(script)!r}], capture_output=True, text=True)
import json
print(json.dumps([done.returncode, done.stdout, done.stderr]))
""")
    status, out, err = run_program(launcher)
    *traceback, line = err.splitlines()
    assert (status, out) == (137, ""), err[-2000:]
    assert traceback[0] == "Traceback (most recent call last):"
    assert line.startswith("memcg: group '/': charge of ")
    assert "memory.max (current " in line
    assert line.endswith("; raise memory.max or free memory in '/'")
    assert "max 64.0 MiB" in line
    root = json.loads(account.read_text())["groups"][0]
    assert root["max"] == MAX
    assert root["peak"] <= MAX + RESERVE or root["events"]["overdraft"]
    if kind not in ONE_CALL_IN_C:
        assert root["peak"] <= MAX + RESERVE


def test_a_hog_again_and_again_is_stopped_each_time(run_program):
    shown = run_program("""
    g = memcg.group("hog", max="4MiB", high="max")
    stopped = 0
    for _ in range(150):
        try:
            with g:
                rows = []
                while True: rows.append([str(len(rows))])
        except MemoryError:
            stopped += 1
        rows = None
    g.reclaim()
    show(stopped=stopped, left=g.current, overdraft=g.events["overdraft"])
    """)
    assert shown["stopped"] == 150
    assert shown["overdraft"] == 0
    assert shown["left"] <= 1 << 20
