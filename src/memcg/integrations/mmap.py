# SPDX-License-Identifier: Apache-2.0
"""Memory maps are charged to the group that makes them, for as long as they are open.

That holds for `mmap.mmap`, and so for `numpy.memmap`, `multiprocessing.shared_memory` and shared
arrays of multiprocessing, which are made of it. A map of a file that is only read is not charged,
because the system takes its pages back when it needs them. All of a map is charged, whether it was
touched or not. At the limit the map is refused.
"""

from __future__ import annotations

import errno

from .. import core, groups
from ..core import PAGE_SIZE
from ..errors import MemcgOOM, oom_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


class MemcgMapOOM(OSError, MemcgOOM):
    """A group met its ``memory.max`` when a map was made or grew. `errno` is ``ENOMEM``."""


def charge(group: groups.Group, nbytes: int) -> None:
    """Charge a map.

    Raises
    ------
    MemcgMapOOM
        It does not fit into the group, or into a group above it.
    """
    limited: Any = core.memcg_try_charge(group, nbytes)
    if limited is not None:
        text = oom_text(group.path, nbytes, limited.current, limited.max, limited.path)
        raise MemcgMapOOM(errno.ENOMEM, text)


def pages_of(nbytes: int) -> int:
    """Return the bytes of the pages that a map of `nbytes` takes."""
    return -(-nbytes // PAGE_SIZE) * PAGE_SIZE


def hook(module: ModuleType) -> None:
    """Give the module a class of maps that are charged. Maps from before stay as they are."""
    original: Any = module.mmap
    readable, writable = module.PROT_READ, module.PROT_WRITE
    written = {module.ACCESS_WRITE, module.ACCESS_COPY}

    def is_charged(
        fileno: int, length: int = 0, flags: int = 0, prot: int = readable | writable,
        access: int = module.ACCESS_DEFAULT, offset: int = 0, **others: object,
    ) -> bool:  # fmt: skip
        if access == module.ACCESS_DEFAULT:
            return bool(prot & writable)
        return access in written or fileno == -1

    class mmap(original):  # type: ignore[misc]
        __doc__ = original.__doc__
        _charged = 0  # bytes
        _group = groups.root

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            self = super().__new__(cls, *args, **kwargs)
            if is_charged(*args, **kwargs):
                group, nbytes = groups.current(), pages_of(len(self))
                try:
                    charge(group, nbytes)
                except MemcgMapOOM:
                    original.close(self)
                    raise
                self._group, self._charged = group, nbytes
            return self

        def _uncharge(self) -> None:
            nbytes, self._charged = self._charged, 0
            if nbytes:
                core.memcg_uncharge(self._group, nbytes)

        def close(self) -> None:
            super().close()
            self._uncharge()

        def __exit__(self, *error: object) -> None:
            self.close()

        def __del__(self) -> None:
            self._uncharge()

        def resize(self, newsize: int) -> None:
            more = pages_of(newsize) - self._charged if self._charged else 0
            if more > 0:
                charge(self._group, more)
            try:
                super().resize(newsize)
            except BaseException:
                if more > 0:
                    core.memcg_uncharge(self._group, more)
                raise
            if more < 0:
                core.memcg_uncharge(self._group, -more)
            self._charged += more

    for method in (mmap.close, mmap.resize):
        method.__doc__ = getattr(original, method.__name__).__doc__
    mmap.__module__, mmap.__qualname__ = "mmap", "mmap"
    module.mmap = mmap  # type: ignore[attr-defined]
