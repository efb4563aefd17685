# SPDX-License-Identifier: Apache-2.0
"""tools/breaks.toml breaks the statements of docs/statements.md; tools/statements.py notices it."""

from __future__ import annotations

import pytest
from scripts import TOOLS, load


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return load(TOOLS / "statements.py")


def test_each_break_applies_to_the_source_and_changes_it(tool):
    assert [b for b in tool.breaks() if not b.applies() or b.text == b.becomes] == []


def test_every_statement_has_a_break(tool):
    numbers = {n for n in tool.statements_doc.NUMBERS if n.startswith("S")}
    broken = {b.statement for b in tool.breaks()}
    assert broken == numbers


def test_a_break_is_noticed_and_a_change_of_nothing_is_not(tool):
    (noticed, *_) = (b for b in tool.breaks() if b.statement == "S21")
    assert "test_s20_s21_s22" in tool.notices(noticed)
    assert tool.notices(noticed._replace(becomes=noticed.text)) == ""
