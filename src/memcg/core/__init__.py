# SPDX-License-Identifier: Apache-2.0
"""Picks the data plane.

Both data planes offer the same classes and functions, which `dataplane` lists. ``native`` is the C
core; ``model`` is plain Python over mmap, the specification in code, for platforms without a
compiler and for the explorer. ``MEMCG_CORE=model`` asks for it.
"""

from __future__ import annotations

import os
import sys

from ..locking import begin
from ..sizes import PAGE_COUNTER_MAX as PAGE_COUNTER_MAX
from .dataplane import PAGE_SIZE as PAGE_SIZE
from .dataplane import CacheInfo as CacheInfo
from .dataplane import DataPlane, NativePlane, names
from .dataplane import Event as Event

why_not_native = ""


def _why_not_built() -> str:
    """Say why this installation has no native core; meson.build decides."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        return f"it charges on Linux on x86-64 and aarch64, not on {sys.platform} on {machine}"
    if "free-threading" in sys.version or sys.version_info >= (3, 14):
        return f"it charges on CPython 3.11 to 3.13 with a GIL, not on {sys.version.split(' (')[0]}"
    return "memcg was installed without a C compiler; install one and memcg again"


def _native() -> Any:
    """The native core, or None and `why_not_native`."""
    global why_not_native
    if os.environ.get("MEMCG_CORE") == "model":
        return None
    try:
        return __import__(f"{__package__}._core", fromlist=("name",))
    except ModuleNotFoundError:
        why_not_native = _why_not_built()
    except ImportError as error:
        why_not_native = str(error)  # no address space, say
        if "interpreter" in why_not_native.lower():
            why_not_native = "this is a subinterpreter; the main one has the process's memory"
    return None


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import _core, model
    from ._core import *  # noqa: F403  # the stub says what both have

    _is_native: NativePlane = _core
    _is_model: DataPlane = model
else:
    _plane = _native()
    begin(_plane.Mutex if _plane else None)  # before the model core makes one
    if _plane:
        _offered = names(NativePlane)
    else:
        from . import model as _plane

        _offered = names(DataPlane)
    for _name in _offered:
        globals()[_name] = getattr(_plane, _name)
