"""Every statement is named by a test, or is listed here with what stands in its place."""

from __future__ import annotations

import re
from pathlib import Path

OPEN = {
    5: "no get_online_cpus: the data plane's locks are innermost",
    11: "D5: no lock of the slab layer is taken outside memcg_slab_mutex; to be explored",
    28: "the item is the event itself; its allocation cannot fail apart from the queue's",
    32: "native threads without Python state: not charged on the model data plane",
    37: "checked after every test by World.check_invariants",
    53: "an inactive group has no caches; covered through test_s34",
    60: "D1: test_s27_d1",
    62: "the recorder in test_order sees every mutex taken",
    65: "aliases are not made: test_s72",
    70: "D2: test_d2",
    71: "the grace period: test_s52_d4",
}


def named(text: str) -> set[int]:
    functions = re.findall(r"def test_(\w+)", text)
    return {int(n) for name in functions for n in re.findall(r"(?:^|_)s(\d+)", name)}


def test_every_statement_is_named_or_listed_as_open():
    text = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    assert named(text) | set(OPEN) == set(range(1, 77))
    assert not named(text) & set(OPEN)


def test_a_missing_number_is_noticed():
    assert named("def test_s1_s22_words(x):\n    def s99(): pass") == {1, 22}
