"""Picks the data plane.

Both data planes offer the same classes and functions. ``native`` is the C core;
``model`` is plain Python over mmap, the specification in code, for platforms without a
compiler and for the explorer. ``MEMCG_CORE=model`` asks for it.
"""

from __future__ import annotations

import os
import sys

from ..sizes import PAGE_COUNTER_MAX as PAGE_COUNTER_MAX
from .dataplane import PAGE_SIZE as PAGE_SIZE
from .dataplane import CacheInfo as CacheInfo
from .dataplane import Event as Event

_BOTH = (
    "GROUP_BYTES", "KMALLOC_SIZES", "LOCKS", "Bound", "Cache", "Memcg", "Shield",
    "after_fork_in_child",
    "current", "current_entry", "enter", "hold_workers", "leave", "live_blocks", "name",
    "next_event", "release_workers", "resume_account", "set_promote_bytes", "set_waker",
    "stop_account", "synchronize", "view", "wait_worker",
)  # fmt: skip
_NATIVE = (
    "Faults", "ModuleFinder", "Started", "exiting", "explain", "fit", "forget_alarms",
    "global_stat", "install", "install_numpy", "is_traced", "last_alarm", "last_failure", "scan",
    "stranger", "trim",
)  # fmt: skip
why_not_native = ""


def _why_not_built() -> str:
    """Say why this installation has no native core; meson.build decides."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        return f"it charges on Linux on x86-64 and aarch64, not on {sys.platform} on {machine}"
    if "free-threading" in sys.version or sys.version_info >= (3, 14):
        return f"it charges on CPython 3.11 to 3.13 with a GIL, not on {sys.version.split(' (')[0]}"
    return "memcg was installed without a C compiler; install one and memcg again"


TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core import *  # noqa: F403  # the stub says what both have
else:
    if os.environ.get("MEMCG_CORE") == "model":
        from . import model as _plane
    else:
        try:
            _plane = __import__(f"{__package__}._core", fromlist=("name",))
        except ModuleNotFoundError:
            from . import model as _plane

            why_not_native = _why_not_built()
        except ImportError as error:
            from . import model as _plane

            why_not_native = str(error)  # no address space, say
            if "interpreter" in why_not_native.lower():
                why_not_native = "this is a subinterpreter; the main one has the process's memory"
    for _name in _BOTH + (_NATIVE if _plane.name == "native" else ()):
        globals()[_name] = getattr(_plane, _name)
