# SPDX-License-Identifier: Apache-2.0
"""pytest with other plugins, the installed entry point, and two packages' own test suites."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from environment import SOURCE, environment

PROJECT = SOURCE.parent
PLUGIN = ("-p", "memcg.pytest_plugin")
BOMB = """
def grow(n):
    rows = []
    for i in range(n):
        rows.append(bytes(1000))
    return rows
"""


def run(directory: Path, *args: str, python: str = sys.executable, env=None, timeout=900):
    """Run pytest; return the outcome of each test, its figures, the status and what it showed."""
    junit = directory / "junit.xml"
    junit.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"--junitxml={junit}",
               "-o", "junit_family=xunit1", *args]  # fmt: skip
    done = subprocess.run(
        command, cwd=directory, env=env or environment(), text=True, capture_output=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert junit.exists(), text
    outcomes, figures = {}, {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {c.tag for c in case} & {"error", "failure", "skipped"}
        outcomes[name] = "+".join(sorted(kinds)) or "passed"
        figures[name] = {p.get("name"): p.get("value") for p in case.iter("property")}
    return outcomes, figures, done.returncode, text


ASYNC = (
    BOMB
    + """
import asyncio, memcg, pytest
import hypothesis, hypothesis.strategies as st

pytestmark = pytest.mark.memcg(max="8MiB")

@pytest.mark.asyncio
async def test_asyncio_fits(memcg_group):
    await asyncio.sleep(0)
    assert memcg.current() is memcg_group
    grow(1_000)

@pytest.mark.asyncio
async def test_asyncio_bomb():
    await asyncio.sleep(0)
    await asyncio.create_task(task())

async def task():
    rows = grow(20_000)

@pytest.mark.anyio
async def test_anyio_fits(memcg_group):
    assert memcg.current() is memcg_group
    grow(1_000)

@pytest.mark.anyio
async def test_anyio_bomb():
    rows = grow(20_000)

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.asyncio
@hypothesis.settings(max_examples=5)
@hypothesis.given(st.integers())
async def test_hypothesis(n):
    assert memcg.current() is not memcg.root

def test_the_next_is_not_charged(memcg_group):
    assert memcg_group.current < 1 << 20
"""
)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_asynchronous_tests_are_limited_too(tmp_path, workers):
    (tmp_path / "test_it.py").write_text(ASYNC)
    outcomes, figures, _, text = run(tmp_path, *PLUGIN, *workers)
    failed = {name.partition("::")[2] for name, o in outcomes.items() if o != "passed"}
    assert len(outcomes) == 6, text
    assert failed == {"test_asyncio_bomb", "test_anyio_bomb"}, text
    for name in ("test_asyncio_fits", "test_anyio_fits"):
        assert 1_000_000 < int(figures[f"test_it::{name}"]["memcg_peak_bytes"]) < 3 << 20


def test_parallel_threads_of_a_test_share_its_limit(tmp_path):
    (tmp_path / "test_it.py").write_text(
        BOMB
        + """
import memcg, pytest, threading
SEEN = set()
@pytest.mark.memcg(max="8MiB")
def test_fits(memcg_group):
    SEEN.add(threading.get_ident())
    assert memcg.current() is memcg_group
    rows = grow(500)
@pytest.mark.memcg(max="8MiB")
def test_bomb():
    rows = grow(20_000)
def test_ran_in_threads():
    assert len(SEEN) > 1
"""
    )
    outcomes, _, _, text = run(tmp_path, *PLUGIN, "--parallel-threads=4")
    assert {name.partition("::")[2]: o for name, o in outcomes.items()} == {
        "test_fits": "passed", "test_bomb": "failure", "test_ran_in_threads": "passed",
    }, text  # fmt: skip


def test_the_installed_entry_point_loads_the_plugin_and_nothing_else(tmp_path):
    """The wheel is built without a compiler, which its Python parts do not need, and installed."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run(
        [*pip, "--python", venv / "bin/python", "install", "-q", PROJECT, "pytest"],
        check=True, env={**os.environ, "CC": "/bin/false"}, capture_output=True, timeout=300,
    )  # fmt: skip
    (tmp_path / "test_it.py").write_text("""
import sys
def test_nothing_asks(request):
    assert request.config.pluginmanager.has_plugin("memcg")
    assert not [name for name in sys.modules if name.split(".")[0] == "memcg"]
""")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    python = str(venv / "bin/python")
    outcomes, _, status, text = run(tmp_path, python=python, env=env)
    assert list(outcomes.values()) == ["passed"], text
    # `-p` beside the entry point does not load it twice
    outcomes, _, status, text = run(tmp_path, *PLUGIN, python=python, env=env)
    assert status == 1, text
    done = subprocess.run([python, "-m", "pytest", "--memcg"], cwd=tmp_path, env=env,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "without a C compiler" in done.stderr


@pytest.fixture
def suites(monkeypatch):
    """The benchmark that runs other packages' suites."""
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    return importlib.import_module("pytest_suites")


@pytest.mark.parametrize("name", ["more-itertools", "attrs"])
def test_no_outcome_of_another_packages_suite_differs(suites, name, tmp_path):
    requirement, options = suites.SUITES[name]
    root = suites.unpack(requirement, tmp_path)
    runs = suites.compare(root, options, 1, ("without", "--memcg"))  # it raises if one differs
    (plain,), (ours,) = runs.values()
    assert len(plain.outcomes) > 300
    assert plain.peaks == []
    assert len(ours.peaks) > 300
    assert min(ours.peaks) > 0


def test_an_outcome_that_differs_is_seen(suites, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it(): assert 'memcg' not in sys.modules\ndef test_other(): pass\n"
    )
    with pytest.raises(AssertionError, match=r"--memcg: the outcome differs for test_it::test_it$"):
        suites.compare(tmp_path, (), 1)
