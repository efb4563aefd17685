# SPDX-License-Identifier: Apache-2.0
"""The state of tracked classes and modules is explored, and undone afterwards."""

from __future__ import annotations

import heapq
import random
import sys
import types

import pytest
from verify import ordinary

from memcg.verify import errors, explore, patch, replay, seam

TRACK = {"track": [ordinary]}


def cache():
    cache = ordinary.Cache(3)
    seam.parallel(lambda: cache.put(1, 1), lambda: cache.put(2, 2))
    assert cache.size == len(cache), "the size is wrong"


def pool(kind):
    def program():
        pool, got = kind(), []
        seam.parallel(lambda: got.append(pool.get()), lambda: got.append(pool.get()))
        assert sum(one is not None for one in got) <= pool.limit, "more than the limit"

    return program


def once():
    got = []
    seam.parallel(*[lambda: got.append(ordinary.Once.get())] * 2)
    assert got[0] is got[1], "made twice"


def register(function):
    def program():
        seam.parallel(lambda: function("a"), lambda: function("a"))
        assert ordinary.registry == {"a": 2}, "a name is lost"

    return program


def hit():
    seam.parallel(ordinary.hit, ordinary.hit)
    assert ordinary.hits == 1 + 1, "a hit is lost"


def recent():
    keys = ordinary.Recent()
    keys.use(1)
    keys.use(2)
    seam.parallel(lambda: keys.use(3), keys.names)


BUGS = [  # program, what is tracked, text of the failure
    (cache, [ordinary.Cache], "the size is wrong"),
    (pool(ordinary.Pool), [ordinary.Pool], "more than the limit"),
    (once, [ordinary.Once], "made twice"),
    (register(ordinary.register), [ordinary], "a name is lost"),
    (hit, [ordinary], "a hit is lost"),
    (recent, [ordinary.Recent], "mutated during iteration"),
]


@pytest.mark.parametrize(("program", "track", "text"), BUGS, ids=[bug[2] for bug in BUGS])
def test_a_bug_in_code_that_knows_nothing_of_the_explorer_is_found_and_replays(
    program, track, text
):
    with patch(ordinary):
        failure = explore(program, track=track).failure
        assert text in str(failure.exception)
        assert failure.minimal
        assert "ordinary.py:" in failure.timeline
        assert text in str(replay(program, failure.replay, track=track).exception)
        assert explore(program, track=track, stop=False).failures


@pytest.mark.parametrize(
    "program", [pool(ordinary.SafePool), register(ordinary.register_safely)], ids=["pool", "names"]
)
def test_the_mended_forms_hold_in_every_schedule(program):
    with patch(ordinary):
        result = explore(program, **TRACK).check()
    assert result.schedules > 1
    assert result.unseen == []


def test_a_queue_of_one_writer_and_one_reader_needs_no_lock():
    def program():
        ring, got = ordinary.Ring(2), []
        seam.parallel(lambda: [ring.put(1), ring.put(2)], lambda: got.extend(
            x for x in (ring.get(), ring.get(), ring.get()) if x))  # fmt: skip
        assert got == [1, 2][: len(got)]
        return len(got)

    assert set(explore(program, **TRACK).check().states) == {0, 1, 2}


def test_what_an_execution_does_to_globals_and_classes_is_undone():
    before = dict(vars(ordinary))
    explore(register(ordinary.register), stop=False, **TRACK)
    explore(hit, stop=False, **TRACK)
    explore(once, stop=False, track=[ordinary.Once])
    assert dict(vars(ordinary)) == before
    assert (ordinary.registry, ordinary.hits, ordinary.Once._instance) == ({}, 0, None)
    for cls in (ordinary.Once, ordinary.Pool):
        assert "__getattribute__" not in vars(cls)
        assert "__setattr__" not in vars(cls)


def test_objects_that_a_global_holds_begin_each_execution_as_they_were():
    module = types.ModuleType("holds")
    exec("class Node:\n    def __init__(self): self.n, self.rest = 0, [1]\n"
         "class Slots:\n    __slots__ = ('n',)\nslots = Slots(); slots.n = 5\n"
         "node = Node()\ntable = {'k': [node]}\n", vars(module))  # fmt: skip

    def program():
        assert (module.node.n, module.node.rest, module.slots.n) == (0, [1], 5)
        assert list(module.table) == ["k"]
        module.new = 1

        def change():
            module.node.n += 1
            module.node.rest.append(2)
            module.table.clear()
            module.slots.n += 1

        seam.parallel(change, change)

    assert explore(program, track=[module, module.Node, module.Slots]).check().schedules > 2
    assert not hasattr(module, "new")


class Holder:
    def __init__(self):
        self.n, self.items, self.heap, self.table = 0, [0], [], {}


def test_a_container_that_was_loaded_is_the_one_that_is_changed():
    """Between the load of `items` and the append, another task takes the list away."""

    def program():
        holder = Holder()

        def add():
            holder.items.append(1)

        def take():
            items, holder.items = holder.items, []
            return len(items)

        sizes = []
        seam.parallel(add, lambda: sizes.append(take()))
        return sizes[0], len(holder.items)

    states = set(explore(program, track=[Holder], audit=False).check().states)
    assert states == {(2, 0), (1, 1), (1, 0)}, "(1, 0): the item is lost"


def test_a_use_by_getattr_and_by_a_function_in_c_is_a_step():
    def program():
        holder = Holder()

        def by_name():
            setattr(holder, "n", getattr(holder, "n") + 1)  # noqa: B009, B010

        def push():
            heapq.heappush(holder.heap, len(holder.heap))

        seam.parallel(lambda: (by_name(), push()), lambda: (by_name(), push()))
        return holder.n, tuple(holder.heap)

    states = set(explore(program, track=[Holder]).check().states)
    assert states == {(n, heap) for n in (1, 2) for heap in ((0, 0), (0, 1))}


PIECES = [("n", "total"), ("item", "append", "pop"), ("walk", "append"), ("key", "test")]
total = 0


def runnable(program):
    def main():
        global total
        total = 0
        holder = Holder()
        seen = [[] for _ in program]

        def body(me):
            global total
            for n, kind in enumerate(program[me]):
                if kind == "n":
                    holder.n = holder.n * 2 + me + 1
                elif kind == "item":
                    holder.items[0] += me + 1
                elif kind == "append":
                    holder.items.append(10 * me + n)
                elif kind == "key":
                    holder.table[n] = holder.table.get(n, 0) * 2 + me + 1
                elif kind == "walk":
                    seen[me].append([x for x in holder.items])
                elif kind == "pop" and holder.items:
                    holder.items.pop()
                elif kind == "total":
                    total = total * 2 + me + 1
                elif kind == "test" and not holder.table:
                    seen[me].append("empty")

        seam.parallel(*(lambda me=me: body(me) for me in range(len(program))))
        return holder.n, tuple(holder.items), str(holder.table), total, str(seen)

    return main


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.long)])
@pytest.mark.parametrize("pieces", PIECES, ids=" ".join)
def test_random_programs_reach_the_states_of_all_with_three_preemptions(pieces, rounds):
    track, rng = [Holder, sys.modules[__name__]], random.Random(24)
    for _ in range(rounds):
        sizes = rng.choice(([1, 1], [2, 1])) if "walk" not in pieces else (1, 1)
        program = [rng.choices(pieces, k=k) for k in sizes]
        reduced = explore(runnable(program), stop=False, audit=False, track=track)
        bounded = explore(runnable(program), stop=False, audit=False, track=track,
                          strategy="bounded", preemption_bound=3)  # fmt: skip
        both = [set(r.states) | set(map(str, r.failures)) for r in (reduced, bounded)]
        assert reduced.exhausted
        assert both[0] == both[1], program
        assert reduced.schedules <= bounded.schedules


def test_what_cannot_be_tracked_is_refused():
    with pytest.raises(TypeError, match="written in C"):
        explore(lambda: None, track=[dict])
    with pytest.raises(TypeError, match="neither a class nor a module"):
        explore(lambda: None, track=["ordinary"])
    with pytest.raises(ValueError, match="cannot be used together"):
        explore(lambda: None, track=[Holder], interrupts=[("a", KeyboardInterrupt)])
    assert "__getattribute__" not in vars(Holder)


def test_without_track_the_explorer_says_that_it_does_not_see_it():
    result = explore(hit)
    assert not result.exhausted
    assert "the global hits" in result.unseen[0]
    assert not isinstance(result.failures and result.failures[0], errors.Deadlock)
