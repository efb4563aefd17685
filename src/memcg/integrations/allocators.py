# SPDX-License-Identifier: Apache-2.0
"""Allocators that libraries bring along, whose functions are replaced by those of libmemcg_malloc.

`left_alone` says of which libraries they could not be replaced, and why. `uncovered` finds all
loaded libraries that have one, for `memcg doctor` and ``memcg run --report``.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from .. import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

left_alone: dict[str, str] = {}  # a library's file -> why its own allocator still serves it
covered: set[str] = set()  # files whose allocator is replaced or not used

# How the names of an allocator's functions end. CPython's mimalloc is for builds without a GIL.
ALLOCATORS = {
    b"jem_malloc\0": "jemalloc",
    b"je_malloc\0": "jemalloc",
    b"mi_malloc\0": "mimalloc",
    b"mi_malloc_aligned\0": "mimalloc",
    b"tc_malloc\0": "tcmalloc",
}


def replace(module: ModuleType, door: str, names: tuple[str, ...]) -> None:
    """Have the library of `module` call libmemcg_malloc where it calls its own allocator.

    Parameters
    ----------
    module : module
        An extension module that has just been loaded.
    door : str
        ``jemalloc`` or ``duckdb``: which of native/preload/doors.c's tables.
    names : tuple of str
        The library's functions, in the order of the table.
    """
    import ctypes

    from .relocations import Library, Unknown, write

    path = os.path.realpath(module.__file__ or "")
    try:
        words = Library(path).words(names)
        preloaded = ctypes.CDLL(core.malloc_library())
        table = ctypes.c_uint64 * len(names)
        originals = table.in_dll(preloaded, f"memcg_door_{door}_original")
        if any(originals):
            raise Unknown("another library with the same allocator was loaded before")
        originals[:] = [ctypes.c_uint64.from_address(word).value for word in words]
        write(dict(zip(words, table.in_dll(preloaded, f"memcg_door_{door}"), strict=True)))
        covered.add(path)
    except (Unknown, OSError) as error:
        left_alone[path] = str(error)


class Uncovered(NamedTuple):
    """A loaded library whose memory is not charged."""

    path: str
    allocator: str
    why: str


def uncovered() -> list[Uncovered]:
    """Return the loaded libraries that bring an allocator along which nothing replaces.

    An allocator is known by the names of its functions, so one without names is not found.
    """
    from .relocations import loaded

    found = []
    ours = {os.path.realpath(sys.executable), os.path.realpath(core.malloc_library() or "")}
    for path in sorted(loaded() - covered):
        name = os.path.basename(path)
        if path in ours or name.startswith("libpython"):
            continue
        if (allocator := _allocator_in(path)) is not None:
            why = left_alone.get(path) or (
                "memcg does not know the library"
                if core.malloc_served()
                else "malloc is not charged either"
            )
            found.append(Uncovered(path, allocator, why))
    return found


def _allocator_in(path: str) -> str | None:
    from .relocations import Library, Unknown

    try:
        for names in Library(path).names():
            for name, allocator in ALLOCATORS.items():
                if name in names:
                    return allocator
    except (Unknown, OSError, ValueError):  # a file that was replaced or is gone
        pass
    return None
