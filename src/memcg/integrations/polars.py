# SPDX-License-Identifier: Apache-2.0
"""polars has jemalloc in it, which Rust calls through six words. They lead to libmemcg_malloc.

Rust ends the process when it gets no memory, so it is never refused any; past the limit an alarm is
posted.
"""

from __future__ import annotations

from .allocators import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

# In the order of struct je in native/preload/doors.c.
JEMALLOC = tuple(
    f"_rjem_{name}" for name in ("malloc", "calloc", "realloc", "mallocx", "rallocx", "sdallocx")
)


def hook(module: ModuleType) -> None:
    """Replace the allocator of the extension module that has just been loaded."""
    replace(module, "jemalloc", JEMALLOC)
