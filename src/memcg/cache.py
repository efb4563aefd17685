# SPDX-License-Identifier: Apache-2.0
"""`KmemCache`: a cache of equal buffers, charged to the group that allocates them."""

from __future__ import annotations

from .control import slab_common
from .control.cgroup import refuse_nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


class KmemCache:
    """A slab cache of buffers.

    Parameters
    ----------
    name : str
        One word, shown in slabinfo.
    size : int
        Bytes of a buffer.
    align : int
        Alignment in bytes, a power of two up to a page.
    ctor : callable, optional
        Called once with each buffer, as a memoryview, when its slab is made. A freed buffer
        keeps what it holds, so that it is constructed when it is allocated again. If it raises,
        the slab goes back and `alloc` raises the same.

    Examples
    --------
    >>> import memcg
    >>> with memcg.KmemCache("doc-frame", size=1920, align=64) as frames:
    ...     buffer = frames.alloc()
    ...     len(memoryview(buffer))
    ...     frames.free(buffer)
    1920
    """

    def __init__(
        self,
        name: str,
        size: int,
        align: int = 16,
        ctor: Callable[[memoryview], object] | None = None,
    ) -> None:
        refuse_nested(name)
        self._cache = slab_common.kmem_cache_create(name, size, align, ctor)
        # Called in inner loops: without the frame of the method of the same name.
        self.alloc = self._cache.alloc_buffer  # type: ignore[method-assign]
        self.free = self._cache.free_buffer  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<memcg.KmemCache {self.name!r} size={self.size}>"

    @property
    def name(self) -> str:
        return self._cache.name

    @property
    def size(self) -> int:
        """Bytes of a buffer."""
        return self._cache.object_size

    @property
    def align(self) -> int:
        """Alignment of a buffer in bytes."""
        return self._cache.align

    def alloc(self) -> Any:
        """Return a writable buffer of `size` bytes, charged to the current group.

        ``memoryview(buffer)`` and ``numpy.frombuffer(buffer, "u1")`` do not copy.

        Raises
        ------
        MemcgOOM
            The group or an ancestor is at its ``memory.max``.
        """
        return self._cache.alloc_buffer()

    def free(self, buffer: Any) -> None:
        """Give a buffer back; the group that allocated it is credited.

        Raises
        ------
        ValueError
            Not a live buffer of this cache (freed already, or foreign); nothing changed.
        BufferError
            An array or view of the buffer is still in use. The memory stays allocated and charged;
            call again once they are gone.
        """
        self._cache.free_buffer(buffer)

    def alloc_bulk(self, n: int) -> list[Any]:
        """Return `n` buffers, or raise as `alloc` does and allocate none.

        Kernel: ``kmem_cache_alloc_bulk``.
        """
        buffers: list[Any] = []
        try:
            for _ in range(n):
                buffers.append(self.alloc())
        except BaseException:
            self.free_bulk(buffers)
            raise
        return buffers

    def free_bulk(self, buffers: Iterable[Any]) -> None:
        """Give several buffers back; stops at the first that `free` refuses.

        Kernel: ``kmem_cache_free_bulk``.
        """
        for buffer in buffers:
            self.free(buffer)

    def shrink(self) -> int:
        """Drop empty slabs; return the pages given back."""
        return slab_common.kmem_cache_shrink(self._cache)

    def destroy(self) -> None:
        """Destroy the cache.

        Raises
        ------
        CacheBusy
            Buffers are live; the cache is as it was.
        MemcgError
            The cache was destroyed before, or see `Group.close`: it is not destroyed later.
        """
        refuse_nested(self.name)
        slab_common.kmem_cache_destroy(self._cache)

    def __enter__(self) -> KmemCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.destroy()
