# SPDX-License-Identifier: Apache-2.0
"""The demos show what happens in the running system."""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

from environment import environment

EXAMPLES = Path(__file__).parents[2] / "examples"


def seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(example):
    before = seconds_of_children()
    out = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example)],
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (out.returncode, out.stderr) == (0, "")
    assert seconds_of_children() - before < 60
    # it fits on a screen of 100 by 50, with long lines wrapped
    assert sum(1 + (len(line) - 1) // 100 for line in out.stdout.splitlines()) < 50
    return out.stdout


def test_the_tenants_results_are_right_beside_a_hog_at_its_limit(native):
    shown = run("tenants.py")
    assert shown.count("complete and right") == 3
    (times,) = re.findall("hog +([0-9]+) times at its limit", shown)
    # at each one an alarm was raised, or its list was refused more room
    (*_, last) = re.findall("tenants/hog .*({.*})", shown)
    events = ast.literal_eval(last)
    assert events.get("oom_kill", 0) + events.get("fail", 0) >= int(times) >= 2
    assert "is over memory.max" in shown
    assert "closed: 0 groups left" in shown


def test_the_whole_life_of_a_child_cache_is_shown():
    shown = run("child_cache.py")
    steps = [
        "group made", "served by the root", "asked for", "memcg_slab_mutex -> slab_mutex",
        "demo", "offline", "last object freed", "root cache destroyed",
    ]  # fmt: skip
    places = [shown.find(step) for step in steps]
    assert -1 not in places
    assert "holds frame(0:demo)" in shown
