"""Picks the data plane.

Both data planes offer the same classes and functions. ``native`` is the C core;
``model`` is plain Python over mmap, the specification in code, for platforms without a
compiler and for the explorer. ``MEMCG_CORE=model`` asks for it.
"""

from __future__ import annotations

from .model import (
    KMALLOC_SIZES,
    PAGE_COUNTER_MAX,
    PAGE_SIZE,
    Cache,
    CacheInfo,
    Event,
    Memcg,
    current,
    enter,
    leave,
    next_event,
    read_side,
    resume_account,
    set_promote_bytes,
    set_waker,
    stop_account,
    synchronize,
    view,
)

__all__ = [
    "KMALLOC_SIZES", "PAGE_COUNTER_MAX", "PAGE_SIZE", "Cache", "CacheInfo", "Event", "Memcg",
    "current", "enter", "leave", "next_event", "read_side", "resume_account",
    "set_promote_bytes", "set_waker", "stop_account", "synchronize", "view",
]  # fmt: skip
