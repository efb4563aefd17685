# SPDX-License-Identifier: Apache-2.0
"""`memcg.escape` makes any text one part of a path, and different texts different parts."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import memcg
from memcg.control.cgroup import split_path

# The outputs of escape() are inputs too: an unescaped name must not pass for an escaped one.
PLAIN = st.text(st.characters(exclude_categories=()), max_size=300)
TRICKY = st.text("%-.2E5 /a", max_size=8)
NAMES = PLAIN | TRICKY | (PLAIN | TRICKY).map(memcg.escape)


@given(NAMES)
@example("")
@example("%")
@example(".")
@example("..")
@example(" ")
@example("\ud800")
@example("x" * 256)
@example("/" * 85)
@example("/" * 86)
def test_any_name_is_one_part_of_a_path_and_is_read_back(name):
    part = memcg.escape(name)
    assert split_path(part) == [part]
    assert len(part) <= 255
    assert not any(c.isspace() for c in part)
    if "%-" in part:
        with pytest.raises(ValueError, match="was cut"):
            memcg.unescape(part)
    else:
        assert memcg.unescape(part) == name


@given(NAMES, NAMES)
@example("%", "")
@example("/", "%2F")
@example("x" * 5000 + "a", "x" * 5000 + "b")
@example("x" * 5000, memcg.escape("x" * 5000))
@example("é", "e\u0301")
def test_two_names_have_two_parts(a, b):
    assert (memcg.escape(a) == memcg.escape(b)) == (a == b)


@given(NAMES)
@example("%2f")
@example("%4")
@example("a%")
@example("%41")
@example("%FF")
def test_what_escape_does_not_return_is_refused(part):
    try:
        name = memcg.unescape(part)
    except ValueError:
        return
    assert memcg.escape(name) == part


def test_what_is_no_text_is_refused():
    with pytest.raises(TypeError, match="name must be a str, not bytes"):
        memcg.escape(b"a")
