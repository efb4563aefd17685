"""`KmemCache`: a cache of equal buffers, charged to the group that allocates them."""

from __future__ import annotations

import weakref

from . import core, slab_common


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
    """

    def __init__(self, name: str, size: int, align: int = 16) -> None:
        self._cache = slab_common.kmem_cache_create(name, size, align)
        # id of buffer -> address, buffer, and the object that every view and array of it keeps
        self._live: dict[int, tuple[int, memoryview, weakref.ref[object]]] = {}

    @property
    def name(self) -> str:
        return self._cache.name

    @property
    def size(self) -> int:
        """Bytes of a buffer."""
        return self._cache.object_size

    def alloc(self) -> memoryview:
        """Return a writable buffer of `size` bytes, charged to the current group.

        Raises
        ------
        MemcgOOM
            The group or an ancestor is at its ``memory.max``.
        """
        address = self._cache.alloc()
        buffer = core.view(address, self.size)
        self._live[id(buffer)] = (address, buffer, weakref.ref(buffer.obj))
        return buffer

    def free(self, buffer: memoryview) -> None:
        """Give a buffer back; the group that allocated it is credited.

        Raises
        ------
        ValueError
            Not a live buffer of this cache (freed already, or foreign); nothing changed.
        BufferError
            An array or view of the buffer is still in use. The memory stays allocated and charged;
            call again once they are gone.
        """
        entry = self._live.get(id(buffer))
        if entry is None or entry[1] is not buffer:
            raise ValueError(
                f"cache {self.name!r}: not a live buffer of this cache; each buffer is freed once, "
                "to the cache it came from"
            )
        buffer.release()
        if entry[2]() is not None:
            raise BufferError(
                f"cache {self.name!r}: an array or view of the buffer is still in use; "
                "drop it and free the buffer again"
            )
        del self._live[id(buffer)]
        self._cache.free(entry[0])

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
            The cache was destroyed before.
        """
        slab_common.kmem_cache_destroy(self._cache)

    def __enter__(self) -> KmemCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.destroy()
