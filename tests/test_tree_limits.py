# SPDX-License-Identifier: Apache-2.0
"""`cgroup.max.descendants` and `cgroup.max.depth` limit the tree."""

from __future__ import annotations

import pytest

import memcg


@pytest.fixture
def top():
    with memcg.scope("top") as g:
        pass
    g = memcg.group("top")
    yield g
    g.close(recursive=True)


def refused(path):
    """Return the text of the error for a group that may not be made."""
    with pytest.raises(memcg.MemcgError) as error:
        memcg.group(path)
    return str(error.value)


@pytest.mark.parametrize("file", ["cgroup.max.descendants", "cgroup.max.depth"])
def test_a_file_reads_what_was_written(top, file):
    assert top[file] == "max"
    for written, read in ((3, 3), ("7", 7), (0, 0), ("max\n", "max"), (2, 2), (None, "max")):
        top[file] = written
        assert top[file] == read
    for wrong in (-1, "many", "1.5", True, "-2"):
        with pytest.raises(ValueError, match=f"{file} takes a number"):
            top[file] = wrong
    assert top[file] == "max"


def test_no_group_is_one_too_many_for_any_group_above(top):
    top["cgroup.max.descendants"] = 3
    memcg.group("top/a/b")
    memcg.group("top/c")
    assert refused("top/a/d") == (
        "group 'top/a/d': would be over cgroup.max.descendants (4, max 3, set on 'top'); raise "
        "cgroup.max.descendants or close groups below 'top'"
    )
    assert memcg.group("top/a/b").path == "top/a/b"  # it exists already
    memcg.group("top/c").close()
    memcg.group("top/a/d")
    assert top["cgroup.stat"]["nr_descendants"] == 3
    top["cgroup.max.descendants"] = 0
    assert ", max 0, set on 'top')" in refused("top/e")


def test_no_group_is_too_deep_for_any_group_above(top):
    memcg.group("top/a")["cgroup.max.depth"] = 2
    memcg.group("top/a/b/c")
    assert refused("top/a/b/c/d") == (
        "group 'top/a/b/c/d': would be over cgroup.max.depth (3, max 2, set on 'top/a'); raise "
        "cgroup.max.depth or make it less deep below 'top/a'"
    )
    memcg.group("top/b/c/d/e")
    top["cgroup.max.depth"] = 0
    assert "cgroup.max.depth (1, max 0, set on 'top')" in refused("top/f")
