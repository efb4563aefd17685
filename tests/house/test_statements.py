# SPDX-License-Identifier: Apache-2.0
"""docs/statements.md says what is true, and every statement has the test that it names."""

from __future__ import annotations

import sys

import pytest
from scripts import TOOLS, load


@pytest.fixture
def tool():
    return load(TOOLS / "statements_doc.py")


def test_every_statement_is_shown_and_the_page_is_that_of_the_code(tool, monkeypatch):
    assert tool.problems() == []
    monkeypatch.setattr(sys, "argv", ["statements_doc", "--check"])
    assert tool.main() == 0, "run tools/statements_doc.py"


def test_a_page_that_differs_from_the_statements_is_noticed(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["statements_doc", "--check"])
    monkeypatch.setitem(tool.STATEMENTS["S1"], "says", "Anything goes.")
    assert tool.main() == 1
    assert "is not what tools/statements_doc.py makes" in capsys.readouterr().out


def test_a_difference_whose_test_is_gone_is_noticed(tool, monkeypatch):
    named = tool.tests()
    shown = [t for t in named["S38"] if tool.shows("S38", t)]
    named["S38"] = [t for t in named["S38"] if t not in shown]
    monkeypatch.setattr(tool, "tests", lambda: named)
    assert len(shown) == 1
    assert named["S38"], "another test names the statement, and does not show the difference"
    (problem,) = tool.problems()
    assert problem.startswith("S38: differs, but no test 'test_s38_...a_group_that_is_entered")


@pytest.mark.parametrize(
    ("word", "ours", "problem"),
    [
        ("differs", "x.", "S3: a statement has `shown` if and only if it differs"),
        ("must not", "", "S3: does not say what memcg does instead"),
        ("may", "x.", "S3: 'may' is none of ('must', 'differs', 'must not', 'flaw')"),
    ],
)
def test_a_statement_that_says_too_little_is_noticed(tool, monkeypatch, word, ours, problem):
    monkeypatch.setitem(tool.STATEMENTS, "S3", {"word": word, "says": "x.", "ours": ours})
    assert problem in tool.problems()


def test_a_statement_that_no_test_names_and_a_test_of_no_statement_are_noticed(tool, monkeypatch):
    named = tool.tests()
    named["S99"] = named.pop("S3")
    monkeypatch.setattr(tool, "tests", lambda: named)
    assert tool.problems() == [
        f"S99: no such statement, but {named['S99']} has its number",
        "S3: no test names it",
    ]


def test_a_scenario_that_is_gone_is_noticed(tool, monkeypatch):
    monkeypatch.setitem(tool.SHOWN, "gone", "S1 S99")
    assert tool.problems() == ["gone: no such scenario", "gone: no statement S99"]


def test_a_function_that_is_gone_or_there_against_the_page_is_noticed(tool, monkeypatch):
    monkeypatch.setitem(tool.FUNCTIONS, "memcg_cache_id", {"here": "memcg_cache_number"})
    monkeypatch.setitem(tool.FUNCTIONS, "is_root_cache", {"gone": "it is not."})
    assert tool.problems() == [
        "memcg_cache_id: no function memcg_cache_number in memcg",
        "is_root_cache: said to be gone, and is in slab_common.py",
    ]
