# SPDX-License-Identifier: Apache-2.0
"""Memory maps are charged to the group that makes them, until they are closed."""

from __future__ import annotations

import pytest

SETUP = """
import errno, mmap, sys, tempfile
import memcg
MB = 1 << 20

def charged(group, nbytes):
    return nbytes <= group.current < nbytes + (1 << 19)

def refused(make):
    try:
        make()
    except OSError as error:
        assert error.errno == errno.ENOMEM and isinstance(error, memcg.MemcgOOM), repr(error)
        assert "over memory.max" in str(error), error
        return True

def file_of(nbytes):
    file = tempfile.TemporaryFile()
    file.truncate(nbytes)
    return file
"""


@pytest.fixture
def run(memcg_run):
    return lambda program, *options: memcg_run(SETUP, program, *options).stdout


def test_a_map_is_charged_until_it_is_closed_or_gone(run):
    run("""
    with memcg.group("a") as group:
        m = mmap.mmap(-1, 8 * MB)
        assert charged(group, 8 * MB)
        m.close()
        m.close()
        assert charged(group, 0)
        with mmap.mmap(-1, 8 * MB):
            assert charged(group, 8 * MB)
        assert charged(group, 0)
        m = mmap.mmap(-1, 8 * MB)
        assert charged(group, 8 * MB)
        del m
        assert charged(group, 0)
    m = group.run(mmap.mmap, -1, 8 * MB)
    group.close()
    assert charged(memcg.root, memcg.root.current) and memcg.root.current > 8 * MB
    m.close()
    assert memcg.root.current < 8 * MB
    """)


def test_a_map_that_has_views_stays_charged(run):
    run("""
    with memcg.group("a") as group:
        m = mmap.mmap(-1, 8 * MB)
        view = memoryview(m)
        try:
            m.close()
        except BufferError:
            pass
        assert charged(group, 8 * MB)
        view.release()
        m.close()
        assert charged(group, 0)
    """)


def test_at_the_limit_a_map_is_refused_and_leaves_nothing_behind(run):
    run("""
    group = memcg.group("a", max="10MiB")
    with group:
        kept = mmap.mmap(-1, 8 * MB)
        assert refused(lambda: mmap.mmap(-1, 8 * MB))
        assert charged(group, 8 * MB)
        assert refused(lambda: kept.resize(16 * MB))
        assert charged(group, 8 * MB) and len(kept) == 8 * MB
        kept[-1] = 1
        kept.resize(4 * MB)
        assert charged(group, 4 * MB)
        try:
            kept.resize(9 * MB)
        except ValueError as error:  # since 3.14.10 a shared anonymous map does not grow
            assert "can't expand a shared anonymous mapping" in str(error)
            assert sys.version_info >= (3, 14)
        else:
            assert charged(group, 9 * MB)
    """)


def test_a_refusal_that_nobody_catches_leaves_the_group_as_a_memory_error(run):
    run("""
    try:
        with memcg.scope("a", max="10MiB"):
            mmap.mmap(-1, 64 * MB)
    except MemoryError as error:
        assert isinstance(error, OSError)
    else:
        raise AssertionError("not refused")
    """)


def test_maps_of_files_are_charged_if_they_can_be_written(run):
    run("""
    with memcg.group("a") as group:
        file = file_of(8 * MB)
        for keywords, expected in [
            ({}, 8 * MB),
            ({"access": mmap.ACCESS_READ}, 0),
            ({"access": mmap.ACCESS_COPY}, 8 * MB),
            ({"access": mmap.ACCESS_WRITE}, 8 * MB),
            ({"prot": mmap.PROT_READ}, 0),
        ]:
            m = mmap.mmap(file.fileno(), 0, **keywords)
            assert charged(group, expected), (keywords, group.current)
            m.close()
        m = mmap.mmap(-1, 1 << 30, prot=0)  # addresses only
        assert charged(group, 0)
    """)


def test_shared_memory_and_shared_arrays_are_charged(run):
    run("""
    import multiprocessing, multiprocessing.shared_memory
    multiprocessing.Array("b", 10)
    group = memcg.group("a", max="20MiB")
    with group:
        block = multiprocessing.shared_memory.SharedMemory(create=True, size=8 * MB)
        assert charged(group, 8 * MB)
        array = multiprocessing.RawArray("b", 8 * MB)
        assert 16 * MB < group.current < 17 * MB
        assert refused(lambda: multiprocessing.shared_memory.SharedMemory(create=True, size=8 * MB))
        block.close()
        block.unlink()
    """)


def test_numpys_memmaps_are_charged(run):
    pytest.importorskip("numpy")
    run("""
    import numpy
    with memcg.group("a", max="10MiB") as group:
        file = file_of(8 * MB)
        numpy.memmap(file, "u1", "r")
        array = numpy.memmap(file, "u1", "r+")
        assert charged(group, 8 * MB)
        half = array[:10]
        assert refused(lambda: numpy.memmap(file, "u1", "r+"))
        del array
        assert charged(group, 8 * MB)
        del half
        assert charged(group, 0)
    """)


def test_the_class_is_still_mmaps(run):
    run("""
    import io
    assert mmap.mmap.__name__ == "mmap" and mmap.mmap.__module__ == "mmap"
    m = mmap.mmap(-1, length=4096)
    assert isinstance(m, mmap.mmap) and type(m) is mmap.mmap
    m.write(b"abc")
    assert m[:3] == b"abc" and bytes(memoryview(m)[:3]) == b"abc" and len(m) == 4096
    class Mine(mmap.mmap):
        pass
    assert len(Mine(-1, 4096)) == 4096
    """)


def test_without_the_preload_maps_are_as_they_were(run):
    run(
        """
    with memcg.group("a") as group:
        m = mmap.mmap(-1, 8 * MB)
        assert charged(group, 0)
    """,
        "--no-malloc",
    )
