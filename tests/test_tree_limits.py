"""`cgroup.max.descendants`, `cgroup.max.depth`, and what a group costs its parent."""

from __future__ import annotations

import gc

import pytest

import memcg
from memcg import core


@pytest.fixture
def top():
    with memcg.scope("top") as g:
        pass
    g = memcg.group("top")
    yield g
    g.close(recursive=True)


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
    with pytest.raises(memcg.MemcgError) as refused:
        memcg.group("top/a/d")
    assert str(refused.value) == (
        "group 'top/a/d': would be over cgroup.max.descendants (4, max 3, set on 'top'); raise "
        "cgroup.max.descendants or close groups below 'top'"
    )
    assert memcg.group("top/a/b").path == "top/a/b"  # it is there
    memcg.group("top/c").close()
    memcg.group("top/a/d")
    assert top["cgroup.stat"]["nr_descendants"] == 3
    top["cgroup.max.descendants"] = 0
    with pytest.raises(memcg.MemcgError, match=r"\(1, max 0|\(\d, max 0"):
        memcg.group("top/e")


def test_no_group_is_too_deep_for_any_group_above(top):
    memcg.group("top/a")["cgroup.max.depth"] = 2
    memcg.group("top/a/b/c")
    with pytest.raises(memcg.MemcgError) as refused:
        memcg.group("top/a/b/c/d")
    assert str(refused.value) == (
        "group 'top/a/b/c/d': would be over cgroup.max.depth (3, max 2, set on 'top/a'); raise "
        "cgroup.max.depth or make it less deep below 'top/a'"
    )
    memcg.group("top/b/c/d/e")
    top["cgroup.max.depth"] = 0
    with pytest.raises(memcg.MemcgError, match=r"cgroup.max.depth \(1, max 0, set on 'top'\)"):
        memcg.group("top/f")


@pytest.fixture
def native(native, top):
    return top


def settle():
    """Have what was asked for done, by whichever worker the data plane wakes in these tests."""
    gc.collect()
    memcg.workqueue.flush()
    memcg.core.wait_worker()
    memcg.workqueue.flush()


def test_a_group_is_charged_to_its_parent_until_it_is_gone(native):
    top, mid = native, memcg.group("top/mid")
    one = top.current
    assert 0 < one < 4096
    kept = memcg.group("top/mid/kept")
    made = [memcg.group(f"top/mid/g{i}") for i in range(100)]
    assert mid.current == 101 * one
    assert top.current == 102 * one
    assert mid.stat["external"] == 101 * one
    for g in made:
        g.close()
    settle()
    assert mid.current == 101 * one  # whoever holds a closed group holds its structure
    del g, made
    settle()
    assert mid.current == one
    kept.css_get()  # as what is charged to it would
    kept.close()
    mid.close()  # what it was charged is its parent's
    assert top.current == 2 * one
    kept.css_put()
    del kept, mid
    settle()
    assert top.current == 0


def test_a_parent_at_its_limit_gets_no_more_groups(native):
    top = native
    top.max, top.reserve = "64KiB", 0
    with pytest.raises(memcg.MemcgOOM, match=r"max 64\.0 KiB, set on 'top'"):
        for i in range(1000):
            memcg.group(f"top/g{i}")
    n = top["cgroup.stat"]["nr_descendants"]
    assert 10 < n < 100
    assert top.current <= top.max
    top.close(recursive=True)
    assert core.global_stat()["metadata"] > 0


def test_a_fork_has_the_charge_on_both_sides(native):
    import os

    top, one = native, 0
    memcg.group("top/a")
    one = top.current
    if not (pid := os.fork()):
        memcg.group("top/a").close()
        settle()
        os._exit(top.current != 0)
    assert os.waitpid(pid, 0)[1] == 0
    assert top.current == one
