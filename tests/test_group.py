# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import threading
import time

import pytest


@pytest.fixture
def door(world):
    world.frames = world.cache.KmemCache("frames", 1000)
    return world


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "a/../b", ".", "a" * 5000, "a\nb"])
def test_a_bad_path_is_refused_and_makes_nothing(door, path):
    with pytest.raises(ValueError, match="group path"):
        door.group.group(path)
    assert not door.root.children


@pytest.mark.parametrize("limits", [{"max": "12QB"}, {"max": -1}, {"max": "512M"}, {"low": 1}])
def test_a_bad_limit_is_refused_and_makes_nothing(door, limits):
    with pytest.raises(ValueError, match=r"size|limit"):
        door.group.group("a", **limits)
    assert not door.root.children


def test_group_gets_or_makes_and_writes_only_the_limits_given(door):
    a = door.group.group("t/a", max="1MiB", high=1000)
    assert door.group.group("t/a", max="2MiB") is a
    assert (a["memory.max"], a["memory.high"]) == (2 << 20, 1000)
    a["memory.max"] = "4M"
    assert a.max == 4 << 20
    assert a.parent is door.group.group("t")


def test_a_share_is_of_the_parents_limit(door):
    door.group.group("t", max=10_000)
    assert door.group.group("t/a", max="50%").max == 5_000


@pytest.mark.parametrize("path", ["a", "new/a", "t/new/a"])
def test_a_share_of_a_parent_without_a_limit_is_refused_and_makes_nothing(door, path):
    t = door.group.group("t", max=1000)
    for limits in ({"max": "50%"}, {"max": 100, "high": "50%"}):
        with pytest.raises(ValueError, match="the parent has no limit"):
            door.group.group(path, **limits)
        with (
            pytest.raises(ValueError, match="the parent has no limit"),
            door.group.scope(path, **limits),
        ):
            raise AssertionError("entered")
    assert list(door.root.children) == ["t"]
    assert not t.children


def test_where_one_limit_is_refused_none_is_written(door):
    a = door.group.group("a", max=1000)
    for wrong in ("12QB", "50%"):
        with pytest.raises(ValueError, match="size"):
            door.group.group("a", max=2000, high=wrong)
    assert a.max == 1000


def test_entering_nests_and_is_reentrant(door):
    a, b = door.group.group("a"), door.group.group("b")
    with a, b, a:
        assert door.group.current() is a
    with a, b:
        assert door.group.current() is b
    assert door.group.current() is door.root


def test_an_allocation_is_charged_to_the_innermost_group_no_matter_where_it_is_freed(door):
    a, b = door.group.group("a"), door.group.group("b")
    with a, b:
        buffer = door.frames.alloc()
    assert (a.current, b.current) == (0, 1008)
    with a:
        door.frames.free(buffer)
    assert (a.current, b.current) == (0, 0)


def test_entering_a_closed_group_is_an_offline_error(door):
    a = door.group.group("a")
    a.close()
    a.close()
    with pytest.raises(door.errors.OfflineError, match="closed"), a:
        raise AssertionError("entered")


def test_closing_a_group_with_children_or_the_root_is_refused(door):
    door.group.group("a/b")
    a = door.group.group("a")
    with pytest.raises(door.errors.GroupBusy, match="1 children"):
        a.close()
    with pytest.raises(door.errors.GroupBusy, match="root"):
        door.root.close()
    a.close(recursive=True)
    assert not door.root.children


def test_a_closed_path_is_free_again_at_once(door):
    a = door.group.group("a")
    with a:
        buffer = door.frames.alloc()
    a.close()
    assert door.group.group("a") is not a
    door.frames.free(buffer)


def test_a_scope_is_a_new_group_each_time_it_is_entered_or_its_function_called(door):
    scope = door.group.scope("t")
    with scope as one, scope as two:
        assert (one.path, two.path, door.group.current()) == ("t", "t-2", two)

    @door.group.scope("f", max=5000)
    def path(n):
        """Doc."""
        return f"{door.group.current().path}{n}"

    assert [path(1), path(n=2), path.__doc__] == ["f1", "f2", "Doc."]
    assert not one.online
    assert not two.online
    assert not door.group.root.children


def test_a_scope_that_is_interrupted_once_it_is_entered_leaves_nothing(door, monkeypatch):
    enter = door.group.core.enter

    def interrupted(group):
        enter(group)
        raise KeyboardInterrupt

    monkeypatch.setattr(door.group.core, "enter", interrupted)
    with pytest.raises(KeyboardInterrupt), door.group.scope("t"):
        pass
    assert door.group.current() is door.group.root
    assert not door.group.root.children


def test_scope_makes_a_unique_name_and_closes_it(door):
    with door.group.scope("t", max=5000) as one, door.group.scope("t") as two:
        assert (one.path, two.path, one.max) == ("t", "t-2", 5000)
        assert door.group.current() is two
    assert not one.online
    assert not two.online


def test_a_hog_fails_alone_and_the_error_names_owner_and_cure(door):
    hog, other = door.group.group("hog", max="16KiB"), door.group.group("other")
    held = []
    with hog, pytest.raises(MemoryError, match=r"group 'hog'.*memory.max.*raise memory.max"):
        while True:
            held.append(door.frames.alloc())
    with other:
        held.append(door.frames.alloc())
    assert hog.events["oom"] == 1
    assert other.events["oom"] == 0
    for buffer in held:
        door.frames.free(buffer)


def test_every_file_is_an_item_and_an_attribute_and_reads_the_same(door):
    parent, a = door.group.group("t", max="64MiB"), door.group.group("t/a", max="4MiB", high="1MiB")
    a["memory.reserve"] = "2M"
    with a:
        buffers = [door.frames.alloc() for _ in range(5)]
    for name in ("current", "peak", "max", "high", "reserve", "events", "stat"):
        assert a[f"memory.{name}"] == getattr(a, name)
    assert a["memory.kmem.slabinfo"] == door.group.slabinfo("t/a")
    assert (a.max, a.high, a.reserve) == (4 << 20, 1 << 20, 2 << 20)
    assert a.current == 5 * 1008 <= a.peak  # includes what the thread has charged ahead
    assert a["memory.stat"] == {
        "slab_private": 0, "slab_shared": 5 * 1008, "page_runs": 0, "external": 0, "overdraft": 0,
    }  # fmt: skip
    # counts the group alone; `current` counts the groups below it too
    of_a = door.core.GROUP_BYTES
    assert parent.current == 5 * 1008 + of_a
    assert sum(parent["memory.stat"].values()) == of_a == parent["memory.stat"]["external"]
    assert set(a.events) == {"high", "max", "oom", "oom_kill", "reserve", "overdraft", "fail"}
    for buffer in buffers:
        door.frames.free(buffer)
    assert not any(a["memory.stat"].values())
    assert a["cgroup.stat"] == {"nr_descendants": 0, "nr_dying_descendants": 0}
    a["memory.reclaim"] = "1M"
    a["memory.peak"] = "reset"
    assert 0 == a.current <= a.peak < 5 * 1008


def test_reading_or_writing_an_unknown_or_read_only_file_is_refused(door):
    a = door.group.group("a")
    with pytest.raises(KeyError, match="no file"):
        a["memory.swap"]
    with pytest.raises(door.errors.MemcgError, match="cannot be written"):
        a["memory.current"] = 1


def test_slabinfo_of_a_group_that_does_not_exist_says_how_to_make_it(door):
    with pytest.raises(door.errors.MemcgError, match=r"memcg.group\('no'\)"):
        door.group.slabinfo("no")
    assert "frames" in door.group.slabinfo()


def test_scopes_of_one_name_count_on_and_take_numbers_that_are_free_again(door):
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(door.group.scope("t/request")).path for _ in range(9)]
        assert paths == ["t/request", *(f"t/request-{n}" for n in range(2, 10))]
        stack.enter_context(door.group.scope("t/other"))
        with door.group.scope("t/request-2") as g:  # a name of the user's may look like a scope's
            assert g.path == "t/request-2-2"
    with door.group.scope("t/request") as g:
        assert g.path == "t/request"


@pytest.mark.parametrize("gaps", [(), (0,), (1, 3, 4), range(0, 700, 2), range(10, 700)])
def test_a_scope_looks_at_few_numbers_however_many_are_open(door, gaps):
    looked = 0

    class Watched(dict):
        def __contains__(self, name):
            nonlocal looked
            looked += 1
            return super().__contains__(name)

        def get(self, name):
            nonlocal looked
            looked += 1
            return super().get(name)

    t = door.group.group("t")
    t.children = Watched()
    groups = []
    for _ in range(700):
        scope = door.group.scope("t/a")
        groups.append(scope.__enter__())
        door.group.core.leave(groups[-1])  # as if its task were suspended
    assert len({g.path for g in groups}) == 700
    for n in gaps:
        groups[n].close()
    looked = 0
    made = []
    for _ in range(100):
        made.append(door.group.scope("t/a").__enter__())
        door.group.core.leave(made[-1])
    assert len({g.path for g in made}) == 100
    assert looked <= 100 * (1 + 2 * 11)  # a search by doubling has passed them all at 2**10


def test_a_scope_that_two_contexts_are_in_at_once_leaves_each_its_own(door):
    scope = door.group.scope("t")
    contexts = [contextvars.copy_context() for _ in range(3)]
    groups = [context.run(scope.__enter__) for context in contexts]
    for context, g in zip(contexts, groups, strict=True):
        context.run(scope.__exit__, None, None, None)
        assert not g.online
        assert context.run(door.group.current) is door.group.root
    assert not door.group.root.children


def test_a_scope_that_was_left_already_is_an_error(door):
    scope = door.group.scope("t")
    with scope:
        pass
    with pytest.raises(door.errors.MemcgError, match="scope 't' is left"):
        scope.__exit__(None, None, None)


def test_walk_lists_parents_first_and_siblings_by_name(door):
    for path in ("b/z", "a/b", "a-1", "a/a/x"):
        door.group.group(path)
    paths = [g.path for g in door.group.walk()]
    assert paths == ["", "a", "a/a", "a/a/x", "a/b", "a-1", "b", "b/z"]
    assert [g.path for g in door.group.walk("a/a")] == ["a/a", "a/a/x"]
    with pytest.raises(door.errors.MemcgError, match="there is no group 'c'"):
        door.group.walk("c")


def test_walk_is_right_while_others_make_and_close_groups(door):
    stop, failed = threading.Event(), []

    def churn(n):
        try:
            while not stop.is_set():
                for name in ("a", "b"):
                    door.group.group(f"t/{n}/{name}/low")
                door.group.group(f"t/{n}").close(recursive=True)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=churn, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        paths = [g.path for g in door.group.walk()]
        assert paths == sorted(set(paths), key=lambda path: path.split("/"))
        assert all(path.rpartition("/")[0] in paths for path in paths)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed


def test_the_last_refusal_is_known_at_the_limit_and_above(door):
    a = door.group.group("t/a", max=8192)
    low = door.group.group("t/a/low")
    assert a.last_oom is None
    before = time.time()
    with pytest.raises(MemoryError) as caught, low:
        [door.frames.alloc() for _ in range(100)]
    oom = a.last_oom
    assert str(oom) == str(caught.value)
    assert before <= oom.time <= time.time()
    assert (oom.owner, oom.group, oom.limit, oom.refused) == ("t/a", "t/a/low", 8192, True)
    assert a.parent.last_oom == door.root.last_oom == oom
    assert low.last_oom is None


def test_async_steps_run_inside_and_their_consumer_outside(door):
    g, seen = door.group.group("a"), []

    async def rows():
        try:
            for n in range(3):
                seen.append(door.group.current())
                await asyncio.sleep(0)
                yield n
        finally:
            await asyncio.sleep(0)
            seen.append(door.group.current())

    async def main():
        async for n in g.iterate(rows()):
            seen.append(n)
            assert door.group.current() is door.root

    asyncio.run(main())
    assert seen == [g, 0, g, 1, g, 2, g]
    assert g.nr_inside == 0


def test_closing_async_steps_early_closes_the_generator_inside(door):
    g, seen = door.group.group("a"), []

    async def rows():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            seen.append(door.group.current())

    async def main():
        async with contextlib.aclosing(g.iterate(rows())) as steps:
            async for _ in steps:
                break
        assert seen == [g]
        steps = g.iterate(rows())
        await anext(steps)
        g.close()
        await steps.aclose()  # the generator is closed although the group is gone
        assert seen == [g, door.root]

    asyncio.run(main())


def test_what_async_steps_raise_and_a_cancellation_are_passed_on(door):
    g, seen = door.group.group("a"), []

    async def rows():
        yield 1
        raise KeyError("mine")

    async def waits():
        try:
            await asyncio.Event().wait()
            yield 1
        except asyncio.CancelledError:
            seen.append(door.group.current())
            raise

    async def consume(rows):
        async for _ in g.iterate(rows):
            pass

    async def main():
        with pytest.raises(KeyError, match="mine"):
            await consume(rows())
        task = asyncio.create_task(consume(waits()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == [g]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(waits()), 0.001)

    asyncio.run(main())
    assert seen == [g, g]
    assert g.nr_inside == 0


def test_a_stream_that_is_no_generator_is_not_closed(door):
    g = door.group.group("a")

    class Stream:
        closed = False

        def __aiter__(self):
            return self

        async def __anext__(self):
            return 1

        async def aclose(self):
            self.closed = True

    async def main():
        stream = Stream()
        async with contextlib.aclosing(g.iterate(stream)) as steps:
            assert await anext(steps) == 1
        assert not stream.closed

    asyncio.run(main())


def test_a_report_names_buffers_by_their_cache(door):
    a = door.group.group("a")
    with a:
        kept = [door.frames.alloc() for _ in range(3)]
    lines = a.report().splitlines()
    assert lines[0].startswith("a: current ")
    assert lines[1].startswith("held by a itself: ")
    assert any(re.fullmatch(r"\s+\S+ KiB +3 x buffer of 'frames'", line) for line in lines), lines
    assert re.fullmatch(r"took \d+\.\d\d s for \d+ blocks", lines[-1])
    del kept
