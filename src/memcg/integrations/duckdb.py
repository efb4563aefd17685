# SPDX-License-Identifier: Apache-2.0
"""DuckDB has jemalloc in it, behind three functions of its class Allocator.

It takes its data in blocks of 256 KiB, and raises ``duckdb.OutOfMemoryException`` if it gets none.
"""

from __future__ import annotations

from .allocators import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

# In the order of struct duckdb in native/preload/doors.c.
ALLOCATOR = (
    "_ZN6duckdb9Allocator15DefaultAllocateEPNS_20PrivateAllocatorDataEm",
    "_ZN6duckdb9Allocator11DefaultFreeEPNS_20PrivateAllocatorDataEPhm",
    "_ZN6duckdb9Allocator17DefaultReallocateEPNS_20PrivateAllocatorDataEPhmm",
)


def hook(module: ModuleType) -> None:
    """Replace the allocator of the extension module that has just been loaded."""
    replace(module, "duckdb", ALLOCATOR)
