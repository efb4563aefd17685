# SPDX-License-Identifier: Apache-2.0
"""The runner of foreign suites notices every difference, with a limit and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import foreign

HOG = """
def test_hog():
    rows = []
    try:
        while True: rows.append(bytes(1000))
    finally:
        rows.clear()  # pytest keeps the traceback and with it the frame
"""
SUITES = {
    "met": (HOG + "def test_fits(): pass\n", None),
    "crash": ("import os\n" + HOG + "def test_dies(): os.abort()\n", "crashed"),
    "gone": ("import os\n" + HOG + "def test_ends(): os._exit(0)\n", "no account"),
    "early": ("import pytest\n" + HOG + "def test_ends(): pytest.exit('enough')\n", "ended early"),
    "hang": ("import time\n" + HOG + "def test_waits(): time.sleep(100)\n", "hung"),
    "unmet": ("def test_fits(): pass\n", "nothing met the limit"),
    "account": (
        "import memcg\n" + HOG + "def test_loses():\n"
        "    memcg.core.memcg_uncharge(memcg.group('foreign'), 4096)\n",
        "foreign: current",
    ),
}  # fmt: skip


HOW = "import os\nWITH = os.environ['MEMCG_FOREIGN'] == 'with'\n"
PYTEST = f"""
{HOW}
import pytest
@pytest.mark.parametrize("text", ["a b", "a c"])
def test_text(text): assert not (WITH and text == "a b")
@pytest.mark.xfail(reason="both ways", run=False)
def test_known(): pass
@pytest.mark.skipif(WITH, reason="not with")
def test_skips(): pytest.skip("without")
def test_skip_or_xfail(): pytest.xfail("with") if WITH else pytest.skip("without")
"""
REGRTEST = f"""
{HOW}
import unittest
class Tests(unittest.TestCase):
    def test_with(self): self.assertFalse(WITH)
    def test_without(self): self.assertTrue(WITH)
    def test_both(self): self.fail()
    def test_parts(self):
        for i in range(2):
            with self.subTest(i=i): self.assertEqual(i, WITH)
    @unittest.expectedFailure
    def test_known(self): self.fail()
"""
DIFFERENCES = {
    "test_text[a b]": "failure with, passed without",
    "test_skip_or_xfail": "pytest.xfail with, pytest.skip without",
}  # fmt: skip


def differences(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["foreign.py", *arguments])
    status = foreign.main()
    shown = [line.rpartition("::")[2] for line in capsys.readouterr().out.splitlines()]
    return status, dict(line.split(": ", 1) for line in shown if line.endswith(" without"))


def test_outcomes_of_pytest_are_compared_test_by_test(native, tmp_path, monkeypatch, capsys):
    path = tmp_path / "test_tiny.py"
    path.write_text(PYTEST)
    monkeypatch.setitem(foreign.PACKAGES, "tiny", [str(path)])
    monkeypatch.chdir(tmp_path)
    assert differences(monkeypatch, capsys, "tiny") == (True, DIFFERENCES)


def test_outcomes_of_regrtest_are_compared_test_by_test(native, tmp_path, monkeypatch, capsys):
    """The file fails both ways."""
    (tmp_path / "test_tiny.py").write_text(REGRTEST)
    monkeypatch.chdir(tmp_path)
    status, found = differences(
        monkeypatch, capsys, "cpython", "--", f"--testdir={tmp_path}", "test_tiny"
    )
    assert status
    assert {name.rpartition(".")[2]: how for name, how in found.items()} == {
        "test_with": "failure with, passed without",
        "test_without": "passed with, failure without",
    }


@pytest.mark.parametrize(("explained", "status"), [("ab", False), ("abc", False), ("b", True)])
def test_what_is_explained_is_shown_and_fails_nothing(monkeypatch, capsys, explained, status):
    monkeypatch.setattr(foreign, "run", lambda *a: {"a": a[-1], "b": a[-1], "c": "passed"})
    monkeypatch.setattr(foreign, "EXPLAINED", dict.fromkeys(explained, "why"))
    monkeypatch.setattr(sys, "argv", ["foreign.py", "numpy"])
    assert foreign.main() is status
    shown = capsys.readouterr().out
    assert "b: with with, without without (why)\n2 of 3 differ" in shown


@pytest.mark.parametrize(
    ("differ", "how", "left"),
    [
        (["test.test_a.T.x", "test_a"], "failed", set()),
        (["test.test_a.T.x", "test_a"], "crashed", {"test_a"}),
        (["test_a"], "failed", {"test_a"}),
        (["test.test_a.T.x", "test.test_a.T.y", "test_a"], "failed", {"test.test_a.T.y", "test_a"}),
    ],
)
def test_a_file_is_explained_by_its_tests(monkeypatch, differ, how, left):
    monkeypatch.setattr(foreign, "EXPLAINED", {"test.test_a.T.x": "why"})
    assert foreign.not_explained(differ, {"test_a": how}) == left


def test_a_run_with_memcg_that_is_not_in_memcg_is_an_error(native, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCG_CORE", "model")
    with pytest.raises(subprocess.CalledProcessError):
        foreign.run("simplejson", [], 60, "with")


@pytest.mark.parametrize("status", [1, 4, 130, -6, -9])
def test_regrtest_that_was_cut_off_has_no_outcome(status):
    assert not foreign.ended("cpython", status)


@pytest.mark.parametrize("name", SUITES)
def test_a_breach_is_found(native, tmp_path, monkeypatch, name):
    source, breach = SUITES[name]
    path = tmp_path / "test_tiny.py"
    path.write_text(source)
    monkeypatch.setitem(foreign.PACKAGES, "tiny", [str(path)])
    monkeypatch.chdir(tmp_path)
    found = foreign.run_limited("tiny", [], 4 if name == "hang" else 60, "96MiB")
    if breach is None:
        assert found == []
    else:
        assert any(breach in line for line in found), found


def test_a_failure_that_is_not_want_of_memory_is_shown():
    text = "FAILED a::b - MemoryError\nFAILED a::c - assert 1 == 2\nPASSED a::d\n"
    assert foreign.unexplained(text) == ["FAILED a::c - assert 1 == 2"]
