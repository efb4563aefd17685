"""Picks the data plane.

Both data planes offer the same classes and functions. ``native`` is the C core;
``model`` is plain Python over mmap, the specification in code, for platforms without a
compiler and for the explorer. ``MEMCG_CORE=model`` asks for it.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from .dataplane import PAGE_COUNTER_MAX as PAGE_COUNTER_MAX
from .dataplane import PAGE_SIZE as PAGE_SIZE
from .dataplane import CacheInfo as CacheInfo
from .dataplane import Event as Event

why_not_native = ""
if TYPE_CHECKING:
    from . import _core as _plane
elif os.environ.get("MEMCG_CORE") == "model":
    from . import model as _plane
else:
    try:
        _plane = importlib.import_module("._core", __package__)
    except ModuleNotFoundError:
        from . import model as _plane

        why_not_native = "memcg was installed without a C compiler; install one and memcg again"
    except ImportError as error:  # a subinterpreter, no address space
        from . import model as _plane

        why_not_native = str(error)

KMALLOC_SIZES = _plane.KMALLOC_SIZES
Bound = _plane.Bound
Cache = _plane.Cache
Memcg = _plane.Memcg
Shield = _plane.Shield
after_fork_in_child = _plane.after_fork_in_child
current = _plane.current
current_entry = _plane.current_entry
enter = _plane.enter
leave = _plane.leave
live_blocks = _plane.live_blocks
name = _plane.name  # "native" or "model"
next_event = _plane.next_event
resume_account = _plane.resume_account
set_promote_bytes = _plane.set_promote_bytes
set_waker = _plane.set_waker
stop_account = _plane.stop_account
synchronize = _plane.synchronize
view = _plane.view
wait_worker = _plane.wait_worker
word_at = _plane.word_at
if name == "native" or TYPE_CHECKING:
    exiting = _plane.exiting
    global_stat = _plane.global_stat
    install = _plane.install
    install_numpy = _plane.install_numpy
    last_alarm = _plane.last_alarm
    last_failure = _plane.last_failure
    trim = _plane.trim
