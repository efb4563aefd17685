# SPDX-License-Identifier: Apache-2.0
"""Allocators that libraries bring along, whose functions are replaced by those of libmemcg_malloc.

`left_alone` says of which libraries they could not be replaced, and why. `memcg doctor` and
``memcg run --report`` show it.
"""

from __future__ import annotations

import os

from .. import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

left_alone: dict[str, str] = {}  # a library's file -> why its own allocator still serves it


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
    except (Unknown, OSError) as error:
        left_alone[path] = str(error)
