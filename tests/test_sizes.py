# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from memcg.core import PAGE_COUNTER_MAX
from memcg.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0), ("0", 0), ("4096", 4096), ("1KiB", 1024), ("1Ki", 1024), ("1.5GiB", 3 << 29),
        ("2GB", 2 * 10**9), ("1kb", 1000), ("max", PAGE_COUNTER_MAX), (None, PAGE_COUNTER_MAX),
        ("8 MiB", 8 << 20), ("9223372036854775807TiB", PAGE_COUNTER_MAX),
    ],
)  # fmt: skip
def test_a_size_is_read_as_the_design_says(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["12QB", "-1", "", "MiB", "1 2", "0x10", "50%", "1e9", -1])
def test_what_is_not_a_size_is_refused_with_the_value(text):
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize("value", [1.5, True, b"1", []])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="int, a str or None"):
        parse_size(value)


def test_a_bare_unit_is_refused_in_python_with_both_spellings_and_binary_in_a_file():
    with pytest.raises(ValueError, match=r"512MiB .*512MB"):
        parse_size("512M")
    assert parse_size("512M", bare_is_binary=True) == 512 << 20


def test_a_share_is_of_the_parent():
    assert parse_size("50%", of=1000) == 500


def test_a_formatted_binary_size_reads_back():
    for n in (1 << 10, 5 << 20, 3 << 30):
        assert parse_size(format_size(n)) == n
