# SPDX-License-Identifier: Apache-2.0
"""The plugin for pytest, in processes of its own: limits, leaks, figures, and doing nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest
from environment import environment

import memcg

HEAD = """
import gc, json, pytest
KEPT = []
MIB = 1 << 20

def grow(n):
    rows = []
    for i in range(n):
        rows.append(bytes(1000))
    return rows
"""


class Run:
    """What a run of pytest showed."""

    def __init__(self, directory: Path, *args: str) -> None:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "memcg.pytest_plugin",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-v", "-rA", "--junitxml=junit.xml", "-o", "junit_family=xunit1", *args]
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment(),
            text=True,
            capture_output=True,
            timeout=300,
            check=False,
        )
        self.status = done.returncode
        self.text = done.stdout + done.stderr
        file = directory / "junit.xml"
        self.cases = {}
        if file.exists():
            for case in ElementTree.parse(file).getroot().iter("testcase"):
                self.cases[case.get("name")] = case

    def outcome(self, name: str) -> str:
        """Return passed, failed (in the call), or error (in the setup or the end)."""
        kinds = {child.tag for child in self.cases[name]}
        for tag, outcome in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
            if tag in kinds:
                return outcome
        return "passed"

    def outcomes(self) -> dict[str, str]:
        return {name: self.outcome(name) for name in self.cases}

    def figure(self, name: str, which: str) -> int | None:
        found = [
            p.get("value")
            for p in self.cases[name].iter("property")
            if p.get("name") == f"memcg_{which}_bytes"
        ]
        assert len(found) <= 1
        return int(found[0]) if found else None

    def section(self, name: str) -> str:
        """Return what is shown of a failed test."""
        found = re.search(
            rf"^_+ (?:ERROR at teardown of )?{re.escape(name)} _+\n(.*?)^(?:____+ |====+ )",
            self.text,
            re.M | re.S,
        )
        return found[1] if found else ""


@pytest.fixture
def run(native, tmp_path):
    def run(source: str, *args: str, ini: str = "", **files: str) -> Run:
        (tmp_path / "test_it.py").write_text(HEAD + source)
        (tmp_path / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        return Run(tmp_path, *args)

    return run


LIMITS = """
@pytest.mark.memcg(max="8MiB")
def test_small_objects():
    rows = grow(20_000)

@pytest.mark.memcg(max="8MiB")
def test_one_block():
    block = bytearray(20 * MIB)

@pytest.mark.memcg(max="8MiB")
def test_fits():
    assert len(grow(2_000)) == 2_000

@pytest.mark.memcg(max="8MiB")
def test_expects():
    with pytest.raises(MemoryError):
        grow(20_000)

def test_has_no_marker():
    grow(20_000)

@pytest.mark.parametrize("n", [pytest.param(2_000, marks=pytest.mark.memcg(max="8MiB")),
                               pytest.param(20_001, marks=pytest.mark.memcg(max="8MiB")),
                               pytest.param(20_002, marks=pytest.mark.memcg(max="80MiB"))])
def test_each(n):
    rows = grow(n)

@pytest.mark.memcg(max="8MiB")
def test_in_one_call_into_c():
    assert len(b"".join(list(map(bytes, [1000] * 12_000)))) == 12 * MIB

@pytest.mark.memcg(max="8MiB")
class TestClass:
    @pytest.mark.memcg(max="80MiB")
    def test_the_closest_marker_counts(self):
        rows = grow(20_000)
    def test_the_class_has_one(self):
        rows = grow(20_000)
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_test_over_its_limit_fails_and_no_other_does(run, workers):
    shown = run(LIMITS, *workers)
    failed = {name for name, outcome in shown.outcomes().items() if outcome != "passed"}
    assert failed == {
        "test_small_objects", "test_one_block", "test_each[20001]", "test_the_class_has_one",
        "test_in_one_call_into_c",
    }, shown.text  # fmt: skip
    assert {shown.outcome(name) for name in failed} == {"failed"}
    assert shown.figure("test_has_no_marker", "peak") is None
    assert 8 << 20 < shown.figure("test_small_objects", "peak") < 9 << 20
    assert 2_000_000 < shown.figure("test_fits", "peak") < 3 << 20
    assert shown.figure("test_fits", "max") == 8 << 20


def test_the_failure_is_at_the_guilty_line_and_names_what_holds_the_memory(run):
    shown = run(LIMITS)
    small, block = shown.section("test_small_objects"), shown.section("test_one_block")
    assert re.search(
        r"^>\s+rows\.append\(bytes\(1000\)\)$|^>\s+for i in range\(n\):$", small, re.M
    ), small
    assert re.search(r"^>\s+block = bytearray\(20 \* MIB\)$", block, re.M), block
    assert "memcg.errors.MemcgOOM" in small or "MemoryError" in small
    assert "is over memory.max" in block
    assert re.search(r"-+ memcg -+\npytest/test_it\.py", small), small
    assert re.search(r"[78]\.\d MiB +[\d,]+ x bytes", small), small
    assert "test_it.py" in small.split("what refers to them", 1)[1]


LEAKS = """
from functools import lru_cache

@pytest.fixture
def shelf():
    return []

@pytest.fixture(scope="module")
def long_shelf():
    return []

@lru_cache
def table():
    return grow(3_000)

def test_keeps():
    KEPT.append(grow(3_000))

def test_keeps_a_cycle():
    rows = grow(3_000)
    rows.append(rows)

def test_fills_a_cache():
    assert table()

def test_keeps_in_its_own_fixture(shelf):
    shelf.append(grow(3_000))

def test_keeps_in_the_modules_fixture(long_shelf):
    long_shelf.append(grow(3_000))

def test_imports():
    import a_large_module, email.mime.text, sqlite3
    assert len(a_large_module.TABLE) == 5_000

class TestClass:
    def test_keeps_in_itself(self):
        self.rows = grow(3_000)

def test_logs(caplog):
    import logging
    logging.warning("%s", bytearray(3 * MIB)[:10])
    logging.warning("%s", bytearray(3 * MIB))

@pytest.mark.memcg(leak="10MiB")
def test_may_keep():
    KEPT.append(grow(3_000))

def test_fails_and_keeps():
    rows = grow(3_000)
    KEPT.append(rows)
    assert rows == []

@pytest.mark.memcg(leak=None)
def test_is_not_looked_at():
    KEPT.append(grow(3_000))

RUNS = []
def test_cannot_be_run_again():
    RUNS.append(grow(3_000))
    assert len(RUNS) == 1
"""
LARGE = "TABLE = [bytes(1000) for _ in range(5_000)]\n"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_leak_fails_in_the_teardown(run, workers):
    shown = run(LEAKS, "--memcg-leak=1MiB", *workers, a_large_module=LARGE)
    outcomes = {name: o for name, o in shown.outcomes().items() if o != "passed"}
    assert outcomes == {
        "test_keeps": "error", "test_keeps_in_the_modules_fixture": "error",
        "test_fails_and_keeps": "failed", "test_cannot_be_run_again": "error",
    }, shown.text  # fmt: skip
    assert re.search(r"leak: the test left 3\.\d MiB behind, a second run too, over 1\.0 MiB .*: "
                     r"3\.\d MiB in 3,0\d\d x bytes", shown.section("test_keeps"))  # fmt: skip
    assert "forgives caches, raised AssertionError" in shown.section("test_cannot_be_run_again")
    assert shown.figure("test_keeps", "held") > 2 << 20
    assert shown.figure("test_imports", "held") < 1 << 20
    assert shown.figure("test_is_not_looked_at", "held") is None


def test_a_test_that_is_run_again_has_its_fixtures_anew_and_the_modules_once(run):
    shown = run("""
LOG = []
@pytest.fixture(scope="module", autouse=True)
def whole():
    LOG.append("module")
    yield
    print("LOG", *LOG)
@pytest.fixture
def own():
    LOG.append("set up")
    yield []
    LOG.append("torn down")
@pytest.mark.memcg(leak="1MiB")
def test_leaks(own):
    own.append(0)
    assert own == [0]
    KEPT.append(grow(3_000))
def test_next(own):
    pass
""", "-s")  # fmt: skip
    (log,) = re.findall(r"LOG (.*)", shown.text)
    assert log == "module" + " set up torn down" * 3
    assert shown.outcomes() == {"test_leaks": "error", "test_next": "passed"}


def test_what_a_failed_test_held_is_let_go(run):
    shown = run("""
@pytest.mark.memcg(max="8MiB")
def test_bomb():
    rows = grow(20_000)
def test_next():
    import memcg
    gc.collect()
    assert memcg.group("pytest").current < MIB
""")
    assert shown.outcomes() == {"test_bomb": "failed", "test_next": "passed"}, shown.text


def test_fixtures_are_limited_only_if_the_marker_says_so(run):
    shown = run("""
@pytest.fixture
def rows():
    return grow(20_000)
@pytest.fixture(scope="module")
def module_rows():
    return grow(20_000)
@pytest.mark.memcg(max="8MiB")
def test_outside(rows):
    pass
@pytest.mark.memcg(max="8MiB", fixtures=True)
def test_inside(rows):
    pass
@pytest.mark.memcg(max="8MiB", fixtures=True)
def test_with_the_modules(module_rows):
    pass
""")
    assert shown.outcomes() == {
        "test_outside": "passed", "test_inside": "error", "test_with_the_modules": "passed",
    }, shown.text  # fmt: skip


UNITTEST = """
import asyncio, unittest
class Tests(unittest.TestCase):
    def test_bomb(self):
        rows = grow(20_000)
    def test_fits(self):
        rows = grow(1_000)
class Async(unittest.IsolatedAsyncioTestCase):
    async def test_async_bomb(self):
        await asyncio.sleep(0)
        rows = grow(20_000)
    async def test_async_fits(self):
        rows = grow(1_000)

def test_threads():
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(grow, [6_000, 6_000]))
"""


def test_methods_coroutines_and_threads_of_the_test_are_in_its_group(run):
    shown = run(UNITTEST, "--memcg-max", "8MiB")
    assert shown.outcomes() == {
        "test_bomb": "failed", "test_fits": "passed", "test_async_bomb": "failed",
        "test_async_fits": "passed", "test_threads": "failed",
    }, shown.text  # fmt: skip
    assert shown.figure("test_async_fits", "peak") > 1_000_000
    assert "x bytes" in shown.section("Tests.test_bomb")


def test_the_default_limit_is_the_options_then_the_inis_then_the_environments(run, monkeypatch):
    monkeypatch.setenv("MEMCG_PYTEST_MAX", "3MiB")
    source = "def test_it(memcg_group): assert memcg_group.max == {} * MIB\n"
    source += (
        '@pytest.mark.memcg(max="1MiB")\ndef test_own(memcg_group): assert memcg_group.max == MIB\n'
    )
    for most, args, ini in (
        (3, (), ""),
        (4, (), "memcg_max = 4MiB"),
        (5, ("--memcg-max=5MiB",), "memcg_max = 4MiB"),
    ):
        shown = run(source.format(most), *args, ini=ini)
        assert shown.outcomes() == {"test_it": "passed", "test_own": "passed"}, shown.text
    monkeypatch.delenv("MEMCG_PYTEST_MAX")
    shown = run("def test_it(): KEPT.append(grow(3_000))", ini="memcg_leak = 1MiB")
    assert shown.outcomes() == {"test_it": "error"}


def test_the_fixture_is_the_group_that_the_test_runs_in(run):
    shown = run("""
import memcg
def test_it(memcg_group):
    assert memcg.current() is memcg_group
    assert memcg_group.path == "pytest/test_it.py::test_it"
    before = memcg_group.current
    rows = grow(1_000)
    assert memcg_group.current > before + 1_000_000
def test_other():
    assert memcg.current() is memcg.root
""")
    assert shown.outcomes() == {"test_it": "passed", "test_other": "passed"}, shown.text


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_largest_peaks_are_shown_and_written(run, tmp_path, workers):
    source = "".join(f"def test_{n}(): grow({n})\n" for n in (1000, 3000, 2000))
    shown = run(source + "def test_fails(): assert grow(10) == []\n",
                "--memcg-top=2", "--memcg-json=peaks.json", *workers)  # fmt: skip
    table = shown.text.split("memcg: the 2 largest peaks")[1].splitlines()[2:4]
    assert [line.split()[-1] for line in table] == [
        "test_it.py::test_3000",
        "test_it.py::test_2000",
    ]
    # the test before may leave its group's caches, whose slabs have room at their ends
    assert re.match(r" +[234]\.\d MiB +none ", table[0])
    tests = {
        t["nodeid"][12:]: t for t in json.loads((tmp_path / "peaks.json").read_text())["tests"]
    }
    assert tests.keys() == {"test_1000", "test_3000", "test_2000", "test_fails"}
    assert 3_000_000 < tests["test_3000"]["peak"] < 4 << 20
    assert tests["test_3000"]["outcome"] == "passed"
    assert tests["test_fails"]["outcome"] == "failed"
    assert tests["test_3000"]["max"] is tests["test_3000"]["held"] is None


@pytest.mark.parametrize(("mark", "said"), [
    ("memcg('8MiB')", "takes max=, high=, leak=, fixtures= and not '8MiB'"),
    ("memcg(maximum=1)", "and not maximum"),
    ("memcg(max='8 apples')", "memcg(max=): "),
])  # fmt: skip
def test_a_marker_with_wrong_arguments_ends_the_run(run, mark, said):
    shown = run(f"@pytest.mark.{mark}\ndef test_it(): pass\n")
    assert shown.status == pytest.ExitCode.USAGE_ERROR
    assert said in shown.text
    assert "INTERNALERROR" not in shown.text


def test_a_wrong_size_of_an_option_ends_the_run(run):
    shown = run("def test_it(): pass\n", "--memcg-max=much")
    assert shown.status == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in shown.text


@pytest.mark.parametrize(("option", "said"), [
    ("--memcg-top=-1", "--memcg-top: -1 tests cannot be shown"),
    ("--memcg-json=missing/x.json", "--memcg-json: cannot write 'missing/x.json'"),
])  # fmt: skip
def test_what_cannot_be_shown_or_written_ends_the_run_at_its_start(run, option, said):
    shown = run("def test_it(): pass\n", option)
    assert shown.status == pytest.ExitCode.USAGE_ERROR
    assert said in shown.text
    assert "INTERNALERROR" not in shown.text


def test_nothing_is_imported_until_something_asks(native, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it(): assert 'memcg' not in sys.modules\n"
    )
    # an installed memcg loads the plugin by itself
    load = [] if entry_points(group="pytest11", name="memcg") else ["-p", "pytest_memcg"]
    command = [sys.executable, "-m", "pytest", *load, "-q", "-o", "addopts="]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    (tmp_path / "test_it.py").write_text(
        "import pytest, sys\n@pytest.mark.memcg\ndef test_it(): assert 'memcg' in sys.modules\n"
    )
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_an_installed_memcg_makes_no_warning_under_memcg_run(native, tmp_path):
    installed = tmp_path / "installed" / "memcg-0.dist-info"  # as pip leaves it
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Name: memcg\nVersion: 0\n")
    (installed / "RECORD").write_text("memcg/__init__.py,,\npytest_memcg.py,,\n")
    (installed / "entry_points.txt").write_text("[pytest11]\nmemcg = pytest_memcg\n")
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    command = [sys.executable, "-m", "memcg", "run", "-m", "pytest", "-W", "error"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(installed.parent), text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout
    assert "plugins: " in done.stdout
    assert "memcg-0" in done.stdout


def test_the_plugins_door_imports_nothing_that_pytest_has_not():
    code = """if True:
        import sys, pytest
        before = set(sys.modules)
        import pytest_memcg
        print(*sorted(set(sys.modules) - before))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), text=True, capture_output=True, check=True
    )
    assert done.stdout.split() == ["pytest_memcg"]
    assert Path(memcg.__file__).parent.with_name("pytest_memcg.py").exists()


def test_the_how_to_runs_as_written(run):
    page = (Path(__file__).parents[2] / "docs/howto/pytest.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    shown = run(code)
    assert set(shown.outcomes().values()) == {"passed"}, shown.text
    assert len(shown.outcomes()) == 6
    shown = run(code.replace("assert sum(", "KEPT.append(grow(1_000)); assert sum("))
    assert shown.outcomes()["test_keeps_nothing"] == "error"
    options = re.findall(r"`(--memcg[a-z-]*)", page)
    assert len(options) > 4
    assert [option for option in options if option not in run("", "--help").text] == []
