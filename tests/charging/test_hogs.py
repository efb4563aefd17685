"""A hog of each kind meets 64 MiB: an error in the hog, bounded peak, and the program goes on."""

from __future__ import annotations

import pytest

HOGS = {
    "lists": "rows = []\nwhile True: rows.append([1])",
    "dicts": "rows = {}\nwhile True: rows[len(rows)] = str(len(rows))",
    "strings": "rows = []\nwhile True: rows.append('x' * 100 + str(len(rows)))",
    "bytes": "rows = []\nwhile True: rows.append(bytes(4096))",
    "bytearray": "rows = bytearray()\nwhile True: rows.extend(bytes(4096))",
    "big arrays": "import numpy as np\nrows = []\nwhile True: rows.append(np.ones(100_000))",
    "tiny arrays": "import numpy as np\nrows = []\nwhile True: rows.append(np.ones(3))",
    "closures": "rows = []\nwhile True: rows.append(lambda n=len(rows): n)",
    "generators": """
def steps():
    rows = []
    while True:
        rows.append((len(rows),))
        yield
for _ in steps(): pass""",
    "json": "import json\njson.loads('[' + ','.join(['{\"a\": [1.5]}'] * 400_000) + ']')",
    "one huge request": "bytearray(1 << 30)",
    "recursion": """
import sys
sys.setrecursionlimit(10**7)
def down(n): return down(n + 1) + 1
down(0)""",
}
PROGRAM = """
import threading
g = memcg.group("hog", max="64MiB")
code = compile({code!r}, "hog", "exec")
caught = []
def run():
    for _ in range(2):
        try:
            with g:
                exec(code, {{}})
        except MemoryError as error:
            caught.append((type(error), " ".join([str(error), *getattr(error, "__notes__", [])])))
threading.stack_size(512 * MIB if {recursion} else 0)
if {in_thread}:
    thread = threading.Thread(target=run); thread.start(); thread.join()
else:
    run()
assert len(caught) == 2, caught
assert all("group 'hog': charge of" in text and "is over memory.max" in text for _, text in caught)
g.reclaim()
assert g.current < 8 * MIB, g.report()
with g:
    again = [str(i) for i in range(100_000)]  # there is room again
assert again[-1] == "99999"
beyond = g.peak - g.max - g.reserve
# unwinding a recursion makes a traceback and a frame object per level, in small objects
assert beyond <= 0 or (g.events["overdraft"] and beyond < 256 * MIB), (beyond, g.events)
print((g.peak - g.max) / MIB)
"""


@pytest.mark.parametrize("in_thread", [False, True], ids=["main", "thread"])
@pytest.mark.parametrize("kind", HOGS)
def test_a_hog_is_stopped_at_its_limit_and_the_program_goes_on(program, kind, in_thread):
    code = PROGRAM.format(code=HOGS[kind], in_thread=in_thread, recursion=kind == "recursion")
    assert float(program(code)) < 300
