# SPDX-License-Identifier: Apache-2.0
"""A real kernel, driven by jupyter_client and by nbclient."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from environment import SOURCE, environment

TIMEOUT_S = 60  # a cell takes a few seconds on a busy machine
GROW = """
def grow(n):
    rows = []
    for i in range(n):
        rows.append(bytes(1000))
    return rows
"""


class Kernel:
    """A kernel in a process of its own, and a client."""

    def __init__(self, directory, env=None, spec="python3", folder=None):
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name=spec)
        if folder is not None:
            self.manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(folder)])
        self.manager.start_kernel(cwd=str(directory), env=env or environment())
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=TIMEOUT_S)

    def run(self, code: str, **how):
        """Run a cell; return its outputs, its error message and its reply."""
        message = self.client.execute(code, **how)
        shown = SimpleNamespace(text="", result=None, html=None, error=None, reply=None)
        end = time.monotonic() + TIMEOUT_S
        while True:
            got = self.client.get_iopub_msg(timeout=max(end - time.monotonic(), 0.1))
            if got["parent_header"].get("msg_id") != message:
                continue
            kind, content = got["msg_type"], got["content"]
            if kind == "stream":
                shown.text += content["text"]
            elif kind == "execute_result":
                shown.result = content["data"]["text/plain"]
                shown.html = content["data"].get("text/html")
            elif kind == "error":
                assert shown.error is None, "two error messages"
                shown.error = content
            elif kind == "status" and content["execution_state"] == "idle":
                break
        while shown.reply is None:
            got = self.client.get_shell_msg(timeout=max(end - time.monotonic(), 0.1))
            if got["parent_header"].get("msg_id") == message:
                shown.reply = got["content"]
        return shown

    def ask(self, expression: str):
        shown = self.run(expression)
        assert shown.error is None, shown.error
        return shown.result

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path):
    kernels = []

    def start(**how):
        kernels.append(Kernel(tmp_path, **how))
        return kernels[-1]

    yield start
    for one in kernels:
        one.close()


@pytest.fixture
def loaded(kernel):
    one = kernel()
    assert one.run("%load_ext memcg").error is None
    return one


CURRENT = "memcg.group('notebook').current"


def test_a_bomb_is_an_error_message_with_the_biggest_variables_and_the_next_cell_runs(loaded):
    loaded.run(GROW + "import memcg\nkept = grow(3_000)\nsmall = 1")
    loaded.run("%memcg limit 32MiB")
    shown = loaded.run("grow(100_000)")
    assert shown.error["ename"] == "MemcgOOM"
    account, title, *lines = shown.error["evalue"].splitlines()
    assert "is over memory.max" in account
    assert "'notebook'" in account
    assert title == "The biggest variables:"
    assert re.fullmatch(r" +2\d\.\d MiB  rows of grow\(\): list of 2[\d,]+", lines[0])
    assert re.fullmatch(r" +[23]\.\d MiB  kept: list of 3,000", lines[1])
    assert len(lines) <= 5
    assert any("rows.append" in line or "range" in line for line in shown.error["traceback"])
    assert shown.reply["status"] == "error"
    assert shown.reply["ename"] == "MemcgOOM"
    for _ in range(3):
        shown = loaded.run("1 + 1")
        assert (shown.result, shown.error) == ("2", None)
    assert int(loaded.ask(CURRENT)) < 8 << 20
    assert loaded.ask("len(kept)") == "3000"


def test_a_variable_that_fills_the_limit_stays_and_can_be_deleted(loaded):
    loaded.run("import memcg\n%memcg limit 32MiB")
    shown = loaded.run("rows = []\nwhile True: rows.append(bytes(1000))")
    assert shown.error["ename"] == "MemcgOOM"
    assert re.match(r" +[23]\d\.\d MiB  rows: list of ", shown.error["evalue"].splitlines()[2])
    assert loaded.ask("1 + 1") == "2"
    assert int(loaded.ask("len(rows)")) > 20_000
    assert loaded.run("del rows").error is None
    assert int(loaded.ask(CURRENT)) < 4 << 20


BOMBS = {
    "one block": "bytearray(100 << 20)",
    "NumPy": "import numpy as np; np.ones(100 << 20)",
    "a result that is displayed": """
class A:
    def __repr__(self): return 'x' * (100 << 20)
A()""",
    "awaits": """
async def f():
    await asyncio.sleep(0)
    return grow(100_000)
await f()""",
    "in a thread": "await asyncio.gather(asyncio.to_thread(grow, 100_000))",
    "caught": """
try:
    grow(100_000)
except MemoryError as error:
    print('caught')""",
    "recursion": """
def f(n):
    rows = [bytes(1000)] * 1000
    more = list(map(bytes, [1000] * 500))
    f(n + 1)
f(0)""",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_after_any_bomb_the_kernel_answers_and_the_account_is_back(loaded, bomb):
    loaded.run(GROW + "import memcg\nimport asyncio\nimport concurrent.futures")
    loaded.run("%memcg limit 32MiB")
    shown = loaded.run(BOMBS[bomb])
    if bomb == "caught":
        assert "caught" in shown.text
    else:
        assert shown.error is not None
        assert shown.error["ename"] == "MemcgOOM", shown.error
    assert loaded.ask("1 + 1") == "2"
    if bomb == "caught":
        assert int(loaded.ask(CURRENT)) < 30 << 20
    else:
        assert int(loaded.ask(CURRENT)) < 4 << 20
    assert loaded.ask("memcg.root.current < 64 << 20") == "True"


def test_output_at_the_limit_does_not_break_the_kernels_messages(loaded):
    """Each line is written by the host's stream, in whose middle an alarm may not be raised."""
    loaded.run("%memcg limit 32MiB")
    for _ in range(5):
        shown = loaded.run("rows = []\nwhile True:\n    rows.append(bytes(1000)); print(len(rows))")
        assert shown.error["ename"] == "MemcgOOM"
        printed = [int(line) for line in shown.text.splitlines() if line.isdigit()]
        assert len(printed) > 1_000
        assert printed == list(range(1, len(printed) + 1))
        assert loaded.run("del rows; print('here')").text.startswith("here")
        assert loaded.ask("1 + 1") == "2"


def test_a_cell_with_a_limit_of_its_own_may_await(loaded):
    loaded.run(GROW + "import asyncio, memcg")
    shown = loaded.run("%%memcg 16MiB\nawait asyncio.sleep(0)\nrows = grow(100_000)")
    assert shown.error["ename"] == "MemcgOOM"
    assert "notebook/cell-1" in shown.error["evalue"]
    shown = loaded.run("%%memcg 16MiB\nawait asyncio.sleep(0)\nx = memcg.current().path\nx")
    assert shown.result == "'notebook/cell-2'"
    assert re.search(r"memcg: peak .* left of 16\.0 MiB", shown.text)
    assert loaded.run("rows = grow(100_000)").error is None  # the others have none
    assert loaded.ask("memcg.current().path") == "'notebook'"
    assert loaded.ask("[g.path for g in memcg.walk('notebook')]") == "['notebook']"


def test_a_cell_with_a_limit_may_have_another_magic_and_keeps_its_line_numbers(loaded):
    shown = loaded.run("%%memcg 64MiB\n%%capture caught\nprint('in', 1 + 1)")
    assert shown.error is None
    assert loaded.run("print(caught.stdout)").text.strip() == "in 2"
    shown = loaded.run("%%memcg 64MiB\n\n1/0")
    assert "----> 3 1/0" in re.sub(r"\x1b\[[\d;]*m", "", "".join(shown.error["traceback"]))


def test_a_terminal_without_a_kernel_has_it_too_with_the_limit_of_its_configuration(tmp_path):
    profile = tmp_path / "profile_default"
    profile.mkdir()
    config = "c = get_config()\nc.MemcgExtension.max = '32MiB'\n"
    (profile / "ipython_config.py").write_text(config)
    (tmp_path / "cells.ipy").write_text(
        "import memcg\nassert memcg.current().path == 'notebook'\n"
        "assert memcg.current().max == 32 << 20\nprint('a', 'b', sep='-')\n"
        "rows = [bytes(1000) for _ in range(100_000)]\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--ext=memcg", "--colors=NoColor",
         "-c", (tmp_path / "cells.ipy").read_text()],
        cwd=tmp_path, env=environment(IPYTHONDIR=str(tmp_path)), capture_output=True, text=True,
        check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert "a-b" in done.stdout, done.stdout + done.stderr
    assert "MemcgOOM: group 'notebook'" in done.stdout + done.stderr


def test_a_cell_whose_limit_is_not_a_size_does_not_run(loaded):
    shown = loaded.run("%%memcg lots\nran = True")
    assert shown.error["ename"] == "ValueError"
    assert loaded.run("ran").error["ename"] == "NameError"
    assert loaded.run("1 + 1").result == "2"


def test_the_magic_sets_shows_and_clears(loaded):
    loaded.run(GROW)
    assert "limit 64.0 MiB" in loaded.run("%memcg limit 64MiB").text
    shown = loaded.run("grow(10_000)")
    assert re.search(r"memcg: peak [12]\d\.\d MiB, [45]\d\.\d MiB left of 64\.0 MiB", shown.text)
    shown = loaded.run("%memcg status")
    assert re.search(
        r"memcg: [12]\d\.\d MiB held, limit 64\.0 MiB, [45]\d\.\d MiB left  █{3,9}░{11,17}\n",
        shown.text,
    )
    assert re.search(r"\d+\.\d MiB  Out\[\d\]: list of 10,000", shown.text), shown.text
    assert "held by notebook itself" in loaded.run("%memcg report").text
    assert re.search(r"memcg: 1\d\.\d MiB given back", loaded.run("%memcg clear").text)
    assert "limit none" in loaded.run("%memcg off").text
    assert loaded.run("1 + 1").text == ""
    assert "limit SIZE" in loaded.run("%memcg help").text
    assert loaded.run("%memcg limit lots").error["ename"] == "ValueError"


def test_imports_are_the_roots(loaded):
    loaded.run("import memcg")
    before = int(loaded.ask(CURRENT))
    assert loaded.run("import numpy, sqlite3, xml.dom.minidom").error is None
    assert int(loaded.ask(CURRENT)) - before < 1 << 20


def test_the_administrators_limit_holds_and_the_installed_kernel_has_it(kernel, tmp_path):
    env = environment(JUPYTER_DATA_DIR=str(tmp_path / "data"))
    done = subprocess.run(
        [sys.executable, "-m", "memcg", "jupyter", "install", "--max", "32MiB"],
        env=env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    spec = json.loads((tmp_path / "data/kernels/memcg/kernel.json").read_text())
    assert done.stdout.strip() == str(tmp_path / "data/kernels/memcg/kernel.json")
    assert spec["argv"][0] == sys.executable
    one = kernel(env=env, spec="memcg", folder=tmp_path / "data/kernels")
    assert one.run(GROW + "rows = grow(100_000)").error["ename"] == "MemcgOOM"
    assert "ask the administrator" in one.run("%memcg limit 1GiB").error["evalue"]
    assert "ask the administrator" in one.run("%memcg off").error["evalue"]
    assert "limit 16.0 MiB" in one.run("%memcg limit 16MiB").text


def test_a_limit_on_the_root_is_refused(kernel):
    one = kernel()
    one.run("import memcg; memcg.install(); memcg.root.max = '1GiB'")
    shown = one.run("%load_ext memcg")
    assert "the kernel itself would break" in shown.error["evalue"]


def test_an_unloaded_extension_leaves_the_shell_as_it_was(loaded):
    loaded.run("import memcg")
    assert loaded.ask("memcg.current().path") == "'notebook'"
    assert loaded.run("%unload_ext memcg").error is None
    assert loaded.ask("memcg.current().path") == "''"
    assert "not found" in loaded.run("%memcg status").text
    assert loaded.run("1/0").error["ename"] == "ZeroDivisionError"


def test_errors_of_other_kinds_are_shown_as_ever(loaded):
    loaded.run("%memcg limit 32MiB")
    shown = loaded.run("def f(): return 1/0\nf()")
    assert shown.error["ename"] == "ZeroDivisionError"
    assert loaded.run("%tb").error["ename"] == "ZeroDivisionError"
    assert loaded.run("for").error["ename"] in ("SyntaxError", "_IncompleteInputError")
    assert loaded.ask("2 + 2") == "4"


@pytest.mark.filterwarnings("default")
def test_nbclient_runs_a_notebook_with_a_bomb_in_it(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    v4 = nbformat.v4
    cells = ["%load_ext memcg", "%memcg limit 32MiB", GROW, "grow(100_000)", "1 + 1"]
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=TIMEOUT_S, allow_errors=True)
    client.execute(env=environment(), cwd=str(tmp_path))
    bomb, after = notebook.cells[3].outputs, notebook.cells[4].outputs
    errors = [output for output in bomb if output.output_type == "error"]
    assert [error.ename for error in errors] == ["MemcgOOM"]
    results = [output for output in after if output.output_type == "execute_result"]
    assert results[0].data["text/plain"] == "2"


def test_the_how_to_runs_as_written(kernel, tmp_path):
    page = (SOURCE.parent / "docs/howto/notebooks.md").read_text()
    first, cell, marimo, apps = re.findall(r"```python\n(.*?)```", page, re.S)
    one = kernel()
    for code in (first, cell):
        shown = one.run(code)
        assert shown.error is None, shown.error
        assert re.search(r"[\d.]+ (.iB|B) left", shown.text)
    for verb in re.findall(r"^\| `(%memcg [a-z0-9GiB ]+)`", page, re.M):
        assert one.run(verb).error is None
        assert "limit SIZE" not in one.run(verb).text, verb
    # as any framework calls it
    assert one.run(apps).error is None
    bomb = "limited('a/b', lambda: [bytes(1000) for _ in range(10**6)], max='16MiB')"
    assert one.run(f"x = {bomb}\nprint(x)").text.startswith("group 'apps/a%2Fb'")
    assert one.ask("limited('a/b', len, 'abc')") == "3"
    assert one.ask("memcg.group('apps').current < 1 << 20") == "True"
    (tmp_path / "report.py").write_text("import marimo\napp = marimo.App()\n")
    done = subprocess.run([sys.executable, "-c", marimo], cwd=tmp_path, env=environment(),
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_cell_that_runs_longer_shows_its_usage_as_a_line_of_bars(loaded):
    loaded.run("%memcg limit 64MiB")
    code = """
import threading, time
rows, turn = [], threading.Event()
for n in (1, 40, 1, 20):
    rows = None
    rows = bytearray(n << 20)
    turn.wait(0.3)  # a cell that takes its time
"""
    line = loaded.run(code).text.splitlines()[-1]
    bars = re.fullmatch(
        r"memcg: peak 4\d\.\d MiB, 4\d\.\d MiB left of 64\.0 MiB  ([▁▂▃▄▅▆▇█ ]+)", line
    )[1]
    heights = [" ▁▂▃▄▅▆▇█".index(c) for c in bars]
    assert max(heights) == 8
    top = heights.index(8)
    assert min(heights[:top]) <= 2  # low, high, low, and half
    assert min(heights[top:]) <= 2
    assert heights[-1] in (4, 5, 6)
    assert not re.search("[▁▂▃▄▅▆▇█]", loaded.run("1 + 1").text)
    shown = loaded.run("%%memcg 32MiB\nimport time\nx = bytearray(8 << 20); time.sleep(0.4)")
    assert re.search(r"left of 32\.0 MiB  .*█", shown.text)
    loaded.run("%memcg off")
    assert "memcg" not in loaded.run("time.sleep(0.4)").text


def test_the_thread_that_reads_ends_with_its_cell(loaded):
    loaded.run("import os, time\n%memcg limit 64MiB")
    loaded.run("time.sleep(0.4)")
    count = "len(os.listdir('/proc/self/task'))"
    loaded.run("%memcg off")
    before = int(loaded.ask(count))
    loaded.run("%memcg limit 64MiB")
    for _ in range(5):
        loaded.run("time.sleep(0.3)")
    loaded.run("%memcg off")
    end = time.monotonic() + TIMEOUT_S
    while int(loaded.ask(count)) > before:
        assert time.monotonic() < end


def test_a_group_is_shown_as_a_tree_with_bars(loaded):
    loaded.run("import memcg\n%memcg limit 64MiB\nkept = bytearray(32 << 20)")
    shown = loaded.run("memcg.group('notebook')")
    assert shown.result.startswith("<memcg.Group 'notebook' current=3")
    assert "of 64.0 MiB" in shown.html
    assert 48 < float(re.search(r"height:100%;width:([\d.]+)%", shown.html)[1]) < 65
