# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np
import pytest


@pytest.fixture
def frames(world):
    return world.cache.KmemCache("frames", 1000, align=64)


@pytest.mark.parametrize(
    ("name", "size", "align"),
    [
        ("", 8, 16),
        ("a b", 8, 16),
        ("x", 0, 16),
        ("x", -1, 16),
        ("x", 8, 3),
        ("x", 8, 0),
        ("x", 8, 8192),
        ("x", 1 << 31, 16),
        ("x", 1 << 70, 16),
    ],
)
def test_a_bad_name_size_or_alignment_is_refused(world, name, size, align):
    with pytest.raises(ValueError, match="cache"):
        world.cache.KmemCache(name, size, align)


@pytest.mark.parametrize(
    "wrong", [{"name": 5}, {"size": "1MiB"}, {"size": 1.5}, {"size": True}, {"align": "64"},
              {"ctor": 5}],
)  # fmt: skip
def test_an_argument_of_another_type_is_refused_in_words(world, wrong):
    with pytest.raises(TypeError, match=r"^cache .* must be"):
        world.cache.KmemCache(**{"name": "x", "size": 8} | wrong)


def test_a_buffer_is_writable_without_a_copy_and_aligned(frames):
    buffers = [frames.alloc() for _ in range(10)]
    array = np.frombuffer(buffers[3], "u1")
    array[:] = 7
    assert bytes(buffers[3]) == b"\7" * 1000
    assert all(np.frombuffer(b, "u1").ctypes.data % 64 == 0 for b in buffers)
    del array
    for buffer in buffers:
        frames.free(buffer)


@pytest.mark.parametrize("size", [1000, 65536])  # many to a slab, and one
def test_buffers_allocated_and_freed_in_any_order_keep_their_bytes_and_are_counted(world, size):
    frames = world.cache.KmemCache("frames", size)
    rng, held = random.Random(size), []
    for turn in range(3000):
        if len(held) < rng.choice([0, 5, 40]):
            held.append((turn, frames.alloc()))
            memoryview(held[-1][1]).cast("I")[-1] = turn
        elif held:
            number, buffer = held.pop(rng.randrange(len(held)))
            assert memoryview(buffer).cast("I")[-1] == number
            frames.free(buffer)
        assert frames._cache.info().active_objs == len(held)
    while held:
        frames.free(held.pop()[1])
    frames.shrink()
    assert frames._cache.nr_pages == 0
    frames.destroy()


def test_freeing_twice_or_a_foreign_buffer_is_refused_and_changes_nothing(world, frames):
    buffer, other = frames.alloc(), world.cache.KmemCache("other", 1000).alloc()
    for wrong in (other, memoryview(bytearray(1000)), memoryview(buffer)[:]):
        with pytest.raises(ValueError, match="not a live buffer"):
            frames.free(wrong)
    del wrong  # a view of the buffer
    frames.free(buffer)
    with pytest.raises(ValueError, match="not a live buffer"):
        frames.free(buffer)
    with pytest.raises(ValueError, match=r"released|freed"):
        memoryview(buffer)


def test_freeing_a_buffer_in_use_by_an_array_is_a_buffer_error_and_it_stays(frames):
    buffer = frames.alloc()
    array = np.frombuffer(buffer, "u1")
    with pytest.raises(BufferError):
        frames.free(buffer)
    assert array.sum() >= 0
    assert frames._cache.info().active_objs == 1
    del array
    frames.free(buffer)
    assert frames._cache.info().active_objs == 0


def test_destroying_a_busy_cache_is_refused_and_works_later(world, frames):
    buffer = frames.alloc()
    with pytest.raises(world.errors.CacheBusy, match="cache 'frames' still has 1 objects"):
        frames.destroy()
    frames.free(buffer)
    frames.destroy()


def test_with_destroys_at_the_end(world):
    with world.cache.KmemCache("short", 10) as short:
        short.free(short.alloc())
    with pytest.raises(world.errors.MemcgError):
        short.alloc()
    assert "short" not in world.group.slabinfo()


def test_a_constructor_runs_once_per_object_and_a_freed_object_keeps_its_state(world):
    made = []

    def construct(buffer):
        made.append(bytes(buffer[:4]))
        buffer[:4] = b"made"

    cache = world.cache.KmemCache("made", 500, ctor=construct)
    buffers = cache.alloc_bulk(3)
    per_slab = len(made)
    assert per_slab >= 3
    assert set(made) == {bytes(4)}
    assert all(bytes(memoryview(b)[:4]) == b"made" for b in buffers)
    memoryview(buffers[0])[4:8] = b"used"
    cache.free_bulk(buffers)
    again = [cache.alloc() for _ in range(per_slab)]
    assert len(made) == per_slab
    assert {bytes(memoryview(b)[:4]) for b in again} == {b"made"}
    assert b"used" in {bytes(memoryview(b)[4:8]) for b in again}
    more = cache.alloc()
    assert len(made) == 2 * per_slab
    cache.free_bulk([*again, more])
    cache.destroy()


def test_a_constructor_that_raises_gives_the_slab_back(world):
    fail = [True]

    def construct(buffer):
        if fail[0]:
            raise RuntimeError("not now")

    before = world.root.current
    cache = world.cache.KmemCache("fails", 500, ctor=construct)
    with pytest.raises(RuntimeError, match="not now"):
        cache.alloc()
    assert world.root.current == before
    fail[0] = False
    cache.free(cache.alloc())
    cache.destroy()


def test_bulk_allocation_that_meets_a_limit_allocates_nothing(world):
    cache = world.cache.KmemCache("bulk", 100_000)
    group = world.group.group("a", max=1_000_000)
    with group:
        with pytest.raises(world.errors.MemcgOOM):
            cache.alloc_bulk(20)
        cache.shrink()
        world.core.mem_cgroup_drain(group)
        assert group.current == 0
        cache.free_bulk(cache.alloc_bulk(3))
    world.group.group("a").close()
    world.workqueue.flush()
    cache.destroy()
