"""Picks the data plane.

Both data planes offer the same classes and functions. ``native`` is the C core;
``model`` is plain Python over mmap, the specification in code, for platforms without a
compiler and for the explorer. ``MEMCG_CORE=model`` asks for it.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from .dataplane import PAGE_COUNTER_MAX, PAGE_SIZE, CacheInfo, Event

if TYPE_CHECKING:
    from . import model as _plane
elif os.environ.get("MEMCG_CORE") == "model":
    from . import model as _plane
else:
    try:
        _plane = importlib.import_module("._core", __package__)
    except ModuleNotFoundError:  # installed without a compiler
        from . import model as _plane

KMALLOC_SIZES = _plane.KMALLOC_SIZES
Cache = _plane.Cache
Memcg = _plane.Memcg
current = _plane.current
enter = _plane.enter
leave = _plane.leave
name = _plane.name  # "native" or "model"
next_event = _plane.next_event
resume_account = _plane.resume_account
set_promote_bytes = _plane.set_promote_bytes
set_waker = _plane.set_waker
stop_account = _plane.stop_account
synchronize = _plane.synchronize
view = _plane.view

__all__ = [
    "KMALLOC_SIZES", "PAGE_COUNTER_MAX", "PAGE_SIZE", "Cache", "CacheInfo", "Event", "Memcg",
    "current", "enter", "leave", "name", "next_event", "resume_account", "set_promote_bytes",
    "set_waker", "stop_account", "synchronize", "view",
]  # fmt: skip
