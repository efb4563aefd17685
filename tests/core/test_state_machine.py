# SPDX-License-Identifier: Apache-2.0
"""The model core and the native core are driven side by side and must agree after every step.

The test compares what each operation returns or raises, which groups are charged once empty slabs
are given back, which groups have a child of which cache, and the live objects of each cache and
child. At the end nothing may be left charged. It does not compare the sizes of slabs, and so not
the bytes that a group is charged for them: limits and charges are in steps that slabs do not fill.
For the same reason a group past its max may get an object in one core and not in the other, if it
costs nothing there because a slab of the group has a free one (`Side.took_a_free_object`).
"""

from __future__ import annotations

import contextlib
import gc
import itertools

import pytest
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from world import World

MIB = 1 << 20
STEPS = settings(
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking takes a minute, so a counterexample stays long
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# Hypothesis makes its generator of random numbers now. Once conftest.py has frozen what there is,
# it would find nothing that refers to the generator, and warn that it will soon be gone.
find(st.just(True), bool, settings=STEPS)
numbers = st.integers(0, 100)  # an index into a list, modulo its length


def held(group):
    """Return the bytes charged at and below the group without the cost of groups.

    The model does not charge groups. Other charges from outside are whole MiB here.
    """
    return group.current - cost_of_groups(group)


def cost_of_groups(group):
    below = sum(map(cost_of_groups, group.children.values()))
    return group.stat["external"] % MIB + below


class Side:
    """One core. Its objects are in lists, so that an operation names them by number."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.base = world.cgroup.cgroup_mkdir(world.root, name)
        self.groups = [self.base]
        self.caches = []
        self.objects = []  # (buffer, cache)
        self.external = {}  # group -> bytes

    def do(self, operation, *args):
        """Return what the operation returns, or the name of what it raises."""
        try:
            found = getattr(self, operation)(*args)
        except (self.world.errors.MemcgError, ValueError) as error:
            found = type(error).__name__
        self.world.workqueue.run_pending()
        return found

    # -- operations

    def make_group(self, parent, name):
        path = f"{self.groups[parent].path}/{name}"
        group = self.world.cgroup.cgroup_mkdir(self.world.root, path)
        if group not in self.groups:
            self.groups.append(group)
        return self.groups.index(group)

    def close(self, group, recursive):
        self.groups[group].close(recursive=recursive)

    def close_inside(self, group):
        with self.groups[group]:
            self.groups[group].close()

    def set_max(self, group, mib):
        self.groups[group].max = None if mib is None else mib * MIB + MIB // 2

    def make_cache(self, size):
        self.caches.append(self.world.cache.KmemCache(f"c{len(self.caches)}", size))

    def alloc(self, group, cache):
        with self.groups[group]:
            buffer = self.caches[cache].alloc()
        self.objects.append((buffer, cache))

    def took_a_free_object(self, group, before):
        """Tell whether the allocation that was just made left the charges as they were before."""
        return self.groups[group].current == before

    def has_no_room_for_a_slab(self, group, cache):
        """Tell whether the group or one above it would be past its max with one more slab."""
        nbytes = self.caches[cache]._cache.info().pagesperslab * self.world.core.PAGE_SIZE
        above = self.world.core.ancestry(self.groups[group])
        return any(g.current + nbytes > g.max for g in above)

    def free(self, number):
        buffer, cache = self.objects.pop(number)
        self.caches[cache].free(buffer)

    def free_twice(self, number):
        buffer, cache = self.objects.pop(number)
        self.caches[cache].free(buffer)
        self.caches[cache].free(buffer)

    def free_to_another(self, number, cache):
        self.caches[cache].free(self.objects[number][0])

    def shrink(self, cache):
        self.caches[cache].shrink()

    def destroy(self, cache):
        self.caches[cache].destroy()

    def charge(self, group, mib):
        refused = self.world.core.memcg_try_charge(self.groups[group], mib * MIB)
        if refused is None:
            self.external[group] = self.external.get(group, 0) + mib * MIB
        return self.groups.index(refused) if refused is not None else "charged"

    def uncharge(self, group):
        """Move what a closed group held to its parent, which the model leaves to its callers."""
        n, payer = self.external.pop(group, 0), self.groups[group]
        while not payer.online:
            payer = payer.parent
        self.world.core.memcg_uncharge(payer, n)

    # -- what can be seen

    def seen(self):
        gc.collect(0)
        self.world.core.mem_cgroup_drain(self.world.root)
        return {
            "online": [g.online for g in self.groups],
            "charged": [held(g) > 0 for g in self.groups if g.online],
            "mib": [g.current // MIB for g in self.groups if g.online],
            "caches": [self.live(c._cache) for c in self.caches],
        }

    def live(self, root):
        if root.frozen:
            return "destroyed"
        children = [
            (i, self.world.child(root, g).info().active_objs)
            for i, g in enumerate(self.groups)
            if g.online and self.world.child(root, g) is not None
        ]
        return root.info().active_objs, children

    def end(self):
        """Give everything back, and return what is left charged."""
        for buffer, cache in self.objects:
            self.caches[cache].free(buffer)
        self.objects.clear()
        for group in list(self.external):
            self.uncharge(group)
        for cache in self.caches:
            if not cache._cache.frozen:
                cache.destroy()
        self.world.workqueue.run_pending()
        self.world.core.mem_cgroup_drain(self.world.root)
        left = held(self.base)
        self.base.close(recursive=True)
        self.world.workqueue.run_pending()
        self.world.check_invariants()
        return left


_numbers = itertools.count()


def machine(model, native):
    """Make a machine over two worlds. Each example gets a tree of its own in both."""

    class SideBySide(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            name = f"example{next(_numbers)}"
            self.sides = [Side(model, name), Side(native, name)]
            self.model = self.sides[0]

        def both(self, *operation):
            if operation[0] == "alloc":
                self.both_allocate(*operation[1:])
                return
            on_model, on_native = (side.do(*operation) for side in self.sides)
            assert on_model == on_native, f"{operation}: model {on_model}, native {on_native}"

        def both_allocate(self, group, cache):
            """Allocate on both sides; what one side alone has free in a slab is given back."""
            before = [side.groups[group].current for side in self.sides]
            found = [side.do("alloc", group, cache) for side in self.sides]
            if found[0] == found[1]:
                return
            said = f"alloc {group} {cache}: model {found[0]}, native {found[1]}"
            assert set(found) == {"MemcgOOM", None}, said
            served, refused = sorted(
                self.sides, key=lambda side: found[self.sides.index(side)] or ""
            )
            assert served.took_a_free_object(group, before[self.sides.index(served)]), said
            assert refused.has_no_room_for_a_slab(group, cache), said
            served.free(-1)

        def pick(self, things, n):
            return n % len(getattr(self.model, things))

        have_caches = precondition(lambda self: self.model.caches)
        have_objects = precondition(lambda self: self.model.objects)

        @rule(parent=numbers, name=st.sampled_from("ab"))
        def make_group(self, parent, name):
            parent = self.pick("groups", parent)
            above = self.sides[1].world.core.ancestry(self.sides[1].groups[parent])
            # a full native group refuses the cost of a child group, which the model does not charge
            if all(g.max - g.current > 65_536 for g in above):
                self.both("make_group", parent, name)

        @rule(group=numbers, recursive=st.booleans())
        def close(self, group, recursive):
            if group := self.pick("groups", group):
                self.both("close", group, recursive)

        @rule(group=numbers)
        def close_inside(self, group):
            if group := self.pick("groups", group):
                self.both("close_inside", group)

        @rule(group=numbers, mib=st.sampled_from([None, 1, 2, 5]))
        def set_max(self, group, mib):
            self.both("set_max", self.pick("groups", group), mib)

        @precondition(lambda self: len(self.model.caches) < 4)
        @rule(size=st.sampled_from([1, 100, 1000, 5000]))
        def make_cache(self, size):
            self.both("make_cache", size)

        @have_caches
        @rule(group=numbers, cache=numbers, n=st.integers(1, 10))
        def alloc(self, group, cache, n):
            for _ in range(n):
                self.both("alloc", self.pick("groups", group), self.pick("caches", cache))

        @have_objects
        @rule(number=numbers)
        def free(self, number):
            self.both("free", self.pick("objects", number))

        @rule()
        def free_all(self):
            while self.model.objects:
                self.both("free", 0)

        @have_objects
        @rule(number=numbers)
        def free_twice(self, number):
            self.both("free_twice", self.pick("objects", number))

        @have_objects
        @rule(number=numbers, cache=numbers)
        def free_to_another(self, number, cache):
            number, cache = self.pick("objects", number), self.pick("caches", cache)
            if self.model.objects[number][1] != cache:
                self.both("free_to_another", number, cache)

        @have_caches
        @rule(cache=numbers)
        def shrink(self, cache):
            self.both("shrink", self.pick("caches", cache))

        @have_caches
        @rule(cache=numbers)
        def destroy(self, cache):
            self.both("destroy", self.pick("caches", cache))

        @rule(group=numbers, mib=st.integers(1, 3))
        def charge(self, group, mib):
            group = self.pick("groups", group)
            if self.model.groups[group].online:
                self.both("charge", group, mib)

        @rule(group=numbers)
        def uncharge(self, group):
            self.both("uncharge", self.pick("groups", group))

        @invariant()
        def they_agree(self):
            on_model, on_native = (side.seen() for side in self.sides)
            assert on_model == on_native

        def teardown(self):
            on_native, on_model = (side.end() for side in reversed(self.sides))
            assert (on_model, on_native) == (0, 0), f"left: model {on_model}, native {on_native}"

    return SideBySide


@pytest.fixture
def worlds(native):
    pair = World(core="model"), World(core="native")
    for world in pair:
        world.core.set_waker(None)
        world.core.set_promote_bytes(0)
    yield pair
    for world in pair:
        world.close()


def test_the_cores_agree_after_every_step(worlds):
    run_state_machine_as_test(lambda: machine(*worlds)(), settings=STEPS)


# -- examples that were found once, by their shortest form; group 0 is the example's own


def agree_after_each(worlds, *steps):
    example = machine(*worlds)()
    for step in steps:
        example.both(*step)
        example.they_agree()
    example.teardown()


def test_the_cores_agree_that_a_refused_allocation_asks_for_no_child(worlds):
    agree_after_each(
        worlds,
        ("make_cache", 100),
        ("charge", 0, 2),
        ("set_max", 0, 1),
        ("alloc", 0, 0),  # refused: the model made a child, the native core did not
        ("set_max", 0, None),
        ("alloc", 0, 0),
    )


def test_the_cores_agree_that_what_a_closed_group_left_behind_is_no_debt_of_its_parent(worlds):
    agree_after_each(
        worlds,
        ("make_cache", 100),
        ("alloc", 0, 0),
        ("free", 0),
        ("make_group", 0, "a"),
        ("alloc", 1, 0),
        ("close", 1, False),
        ("destroy", 0),  # refused for the object; group 0 has no child of the cache any more
        ("free", 0),  # the model took its bytes from group 0, whose sum fell below zero
        ("alloc", 0, 0),
    )


def test_the_cores_agree_but_for_a_free_object_of_a_larger_slab_past_max(worlds):
    agree_after_each(
        worlds,
        ("make_cache", 5000),  # one to a slab of the model, thirteen to one of the native core
        ("alloc", 0, 0),
        ("alloc", 0, 0),
        ("charge", 0, 2),
        ("set_max", 0, 1),
        ("alloc", 0, 0),  # the native core has it in a slab, and gives it back
        ("free", 0),
        ("free", 0),
    )


def test_an_object_of_one_side_alone_is_not_excused_if_it_is_charged(worlds):
    example = machine(*worlds)()
    for step in [("make_cache", 100), ("charge", 0, 2), ("set_max", 0, 1)]:
        example.both(*step)
    example.model.set_max(0, None)
    with pytest.raises(AssertionError, match="model None, native MemcgOOM"):
        example.both("alloc", 0, 0)
    for side in example.sides:
        side.end()


def test_a_refusal_of_one_side_alone_is_not_excused_if_it_has_room(worlds):
    example = machine(*worlds)()
    for step in [("make_cache", 100), ("alloc", 0, 0), ("alloc", 0, 0)]:
        example.both(*step)
    example.sides[1].alloc = lambda group, cache: "MemcgOOM"
    with pytest.raises(AssertionError, match="model None, native MemcgOOM"):
        example.both("alloc", 0, 0)  # the model has it in a slab, but there is no max
    for side in example.sides:
        side.end()


# -- a broken model must differ from the native core


def a_free_credits_the_ancestors_only(model):
    uncharge = model.memcg_uncharge
    model.memcg_uncharge = lambda memcg, n: memcg.parent and uncharge(memcg.parent, n)


def a_free_is_credited_in_part(model):
    uncharge = model.memcg_uncharge
    model.memcg_uncharge = lambda memcg, n: uncharge(memcg, n - n % 16 - 16)


def a_double_free_is_accepted(model):
    free_buffer = model.Cache.free_buffer

    def free(cache, buffer):
        with contextlib.suppress(ValueError):
            free_buffer(cache, buffer)

    model.Cache.free_buffer = free


def a_busy_cache_is_destroyed(model):
    model.Cache.shutdown = lambda cache: setattr(cache, "frozen", True)


def a_limit_is_not_kept(model):
    model.memcg_try_charge = model.memcg_charge


def a_child_is_never_asked_for(model):
    model._memcg_schedule_create = lambda root, memcg: None


def a_group_is_closed_with_someone_inside(model):
    model.Memcg.nr_inside = 0


@pytest.mark.parametrize(
    "flaw",
    [
        a_free_credits_the_ancestors_only,
        a_free_is_credited_in_part,
        a_double_free_is_accepted,
        a_busy_cache_is_destroyed,
        a_limit_is_not_kept,
        a_child_is_never_asked_for,
        a_group_is_closed_with_someone_inside,
    ],
    ids=lambda flaw: flaw.__name__,
)
def test_a_flaw_of_one_core_is_found(worlds, flaw):
    broken = World(core="model")
    broken.core.set_waker(None)
    broken.core.set_promote_bytes(0)
    flaw(broken.model)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(lambda: machine(broken, worlds[1])(), settings=STEPS)
    with contextlib.suppress(AssertionError):
        broken.close()
