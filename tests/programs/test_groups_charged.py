# SPDX-License-Identifier: Apache-2.0
"""The memory of a group's structure is charged to its parent."""

from __future__ import annotations

SETTLE = """
import gc
memcg.control.cgroup.NR_SPARE = 0  # a group that is kept for the next one is not charged
top = memcg.group("top")
def settle():
    gc.collect()
    memcg.control.workqueue.flush()
    memcg.core.wait_worker()
"""


def test_a_group_is_charged_to_its_parent_until_it_is_gone(run_program):
    run_program(
        SETTLE
        + """
mid = memcg.group("top/mid")
one = top.current
assert 0 < one == memcg.core.GROUP_BYTES < 4096
kept = memcg.group("top/mid/kept")
made = [memcg.group(f"top/mid/g{i}") for i in range(100)]
assert mid.current == mid.stat["external"] == 101 * one
assert top.current == 102 * one
for g in made:
    g.close()
settle()
assert mid.current == 101 * one  # a reference to a closed group keeps its structure
del g, made
settle()
assert mid.current == one
memcg.core.css_get(kept)  # as an object that is charged to it would
kept.close()
mid.close()  # its charges move to its parent
assert top.current == 2 * one
memcg.core.css_put(kept)
del kept, mid
settle()
assert top.current == 0
"""
    )


def test_a_parent_at_its_limit_gets_no_more_groups(run_program):
    run_program(
        SETTLE
        + """
top.max, top.reserve = "64KiB", 0
try:
    for i in range(1000):
        memcg.group(f"top/g{i}")
except memcg.MemcgOOM as error:
    assert "max 64.0 KiB, set on 'top'" in str(error)
else:
    raise SystemExit("not refused")
assert 10 < top["cgroup.stat"]["nr_descendants"] < 100
assert top.current <= top.max
top.close(recursive=True)
"""
    )


def test_a_fork_has_the_charge_on_both_sides(run_program):
    run_program(
        SETTLE
        + """
import os
memcg.group("top/a")
one = top.current
if not (pid := os.fork()):
    memcg.group("top/a").close()
    settle()
    os._exit(top.current != 0)
assert os.waitpid(pid, 0)[1] == 0
assert top.current == one
"""
    )
