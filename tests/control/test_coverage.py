# SPDX-License-Identifier: Apache-2.0
"""Every statement is named by a test."""

from __future__ import annotations

import re
from pathlib import Path


def named(text: str) -> set[int]:
    functions = re.findall(r"def test_(\w+)", text)
    return {int(n) for name in functions for n in re.findall(r"(?:^|_)s(\d+)", name)}


def test_every_statement_is_named():
    text = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    assert named(text) == set(range(1, 77))


def test_a_missing_number_is_noticed():
    assert named("def test_s1_s22_words(x):\n    def s99(): pass") == {1, 22}
