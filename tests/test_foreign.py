"""What the run of a foreign suite with a limit must notice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "tools"))
import foreign

HOG = """
def test_hog():
    rows = []
    try:
        while True: rows.append(bytes(1000))
    finally:
        rows.clear()  # pytest keeps the traceback, and with it the frame
"""
SUITES = {
    "met": (HOG + "def test_fits(): pass\n", None),
    "crash": ("import os\n" + HOG + "def test_dies(): os.abort()\n", "crashed"),
    "gone": ("import os\n" + HOG + "def test_ends(): os._exit(0)\n", "no account"),
    "early": ("import pytest\n" + HOG + "def test_ends(): pytest.exit('enough')\n", "ended early"),
    "hang": ("import time\n" + HOG + "def test_waits(): time.sleep(100)\n", "hung"),
    "unmet": ("def test_fits(): pass\n", "nothing met the limit"),
    "account": (
        "import memcg\n" + HOG + "def test_loses(): memcg.group('foreign').uncharge(4096)\n",
        "foreign: current",
    ),
}  # fmt: skip


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
