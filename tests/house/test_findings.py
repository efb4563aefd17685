# SPDX-License-Identifier: Apache-2.0
"""The tests and scenarios that docs/reliability.md names for its findings exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from litmus import test_protocols

from memcg.verify.scheme.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.split("| found by | symptom |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
]


def known_tests() -> set[str]:
    """Return every test function, as ``file: words``, without numbers of statements."""
    return {
        f"{path.stem}: {re.sub(r'^test_(?:[a-z][0-9]+_)*', '', node.name).replace('_', ' ')}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }


def missing(cell: str, known: set[str]) -> list[str]:
    """Return the tests, scenarios and C files that a cell names and that do not exist."""
    return [
        name
        for name in filter(None, map(str.strip, cell.split(";")))
        if name not in known
        and name.strip("`") not in SCENARIOS
        and not (name.startswith("`native/") and (ROOT / name.strip("`")).is_file())
    ]


def test_each_finding_has_its_four_columns():
    assert len(ROWS) > 80
    assert [row for row in ROWS if len(row) != 4 or not all(row[:3])] == []


def test_what_a_finding_names_exists():
    known = known_tests()
    assert [name for row in ROWS for name in missing(row[3], known)] == []


@pytest.mark.parametrize(
    "cell", ["test_cache: no such thing", "`no_such_scenario`", "`native/tests/gone.c`"]
)
def test_a_name_that_is_gone_is_noticed(cell):
    assert missing(cell, known_tests()) == [cell]


def test_the_page_has_the_numbers_of_scenarios_of_protocols_and_of_c_programs():
    protocols, mutants = test_protocols.PROTOCOLS, test_protocols.MUTANTS
    assert f"{len(protocols)} protocols, {len(mutants)} weakened" in PAGE
    assert f"; {len(test_protocols.NOT_NEEDED)} are listed as not needed" in PAGE
    programs = [*(ROOT / "native" / "tests").glob("*.c")]
    assert f"{len(programs)} programs, four ways" in PAGE
    long = sum(s.long for s in SCENARIOS.values())
    assert f"{len(SCENARIOS) - long} scenarios, all exhausted" in PAGE
    assert f"With `--long` {len(SCENARIOS)} scenarios" in PAGE
