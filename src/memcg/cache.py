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
    """A slab cache of buffers. Kernel: ``struct kmem_cache``.

    Parameters
    ----------
    name : str
        One word, which slabinfo shows.
    size : int
        The bytes of a buffer, 1 to 1 GiB.
    align : int
        The alignment of a buffer in bytes, a power of two up to a page.
    ctor : callable, optional
        It is called once with each buffer, as a memoryview, when the buffer's slab is made. A freed
        buffer keeps its bytes, so it is still constructed when it is allocated again. If the
        constructor raises, the slab is given back and `alloc` raises the same exception.

    Raises
    ------
    TypeError, ValueError
        An argument breaks one of these rules; the text says which.
    MemoryError
        There is no memory for the cache's structure.
    MemcgError
        The caller is a finalizer or signal handler that has interrupted memcg's own work.

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
        # These are called in inner loops. They save the frame of the method of the same name.
        self.alloc = self._cache.alloc_buffer  # type: ignore[method-assign]
        self.free = self._cache.free_buffer  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<memcg.KmemCache {self.name!r} size={self.size}>"

    @property
    def name(self) -> str:
        return self._cache.name

    @property
    def size(self) -> int:
        """The bytes of a buffer."""
        return self._cache.object_size

    @property
    def align(self) -> int:
        """The alignment of a buffer in bytes."""
        return self._cache.align

    def alloc(self) -> Any:
        """Return a writable buffer of `size` bytes, charged to the current group.

        ``memoryview(buffer)`` and ``numpy.frombuffer(buffer, "u1")`` do not copy.
        Kernel: ``kmem_cache_alloc``.

        Raises
        ------
        MemcgOOM
            The group or an ancestor is at its ``memory.max``.
        MemoryError
            The system has no memory, or the arena is full.
        MemcgError
            The cache was destroyed.
        """
        return self._cache.alloc_buffer()

    def free(self, buffer: Any) -> None:
        """Give a buffer back. The group that allocated it is credited. Kernel: ``kmem_cache_free``.

        Raises
        ------
        ValueError
            `buffer` is not a live buffer of this cache: it was freed already, or another cache
            made it. Nothing is changed.
        BufferError
            An array or view of the buffer is still in use. The memory stays allocated and charged.
            Call `free` again when it is no longer in use.
        """
        self._cache.free_buffer(buffer)

    def alloc_bulk(self, n: int) -> list[Any]:
        """Return `n` buffers. If one of them is refused, raise as `alloc` does and keep none.

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
        """Give several buffers back. The first that `free` refuses ends it with the same error.

        Kernel: ``kmem_cache_free_bulk``.
        """
        for buffer in buffers:
            self.free(buffer)

    def shrink(self) -> int:
        """Drop empty slabs and return how many pages that were. Kernel: ``kmem_cache_shrink``."""
        return slab_common.kmem_cache_shrink(self._cache)

    def destroy(self) -> None:
        """Destroy the cache. Kernel: ``kmem_cache_destroy``.

        Raises
        ------
        CacheBusy
            Buffers are live; the cache is as it was, and the call can be repeated.
        MemcgError
            The cache was destroyed before, or the caller is a finalizer or signal handler that has
            interrupted memcg's own work. Unlike `Group.close`, the call is not deferred.
        """
        refuse_nested(self.name)
        slab_common.kmem_cache_destroy(self._cache)

    def __enter__(self) -> KmemCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.destroy()
