# SPDX-License-Identifier: Apache-2.0
"""This package picks the data plane.

Both data planes offer the same classes and functions, which `dataplane` lists. ``native`` is the C
core. ``model`` is plain Python over mmap: it is the specification in code, and it serves platforms
without a compiler and the explorer. ``MEMCG_CORE=model`` asks for it.
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

PYTHONS = ((3, 11), (3, 15))  # first and last CPython that binding/compat.c knows; meson.build too
why_not_native = ""


def _why_not_built() -> str:
    """Return why this installation has no native core. meson.build decides whether it is built."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        return f"memcg charges on Linux on x86-64 and aarch64, not on {sys.platform} on {machine}"
    first, last = (f"{major}.{minor}" for major, minor in PYTHONS)
    charges = f"memcg charges on CPython {first} to {last} with a GIL, not on "
    if "free-threading" in sys.version:
        return (
            f"{charges}{sys.version.split(' (')[0]}, whose collector finds objects in the heaps of "
            "mimalloc alone; run the program on a build with a GIL"
        )
    if sys.version_info[:2] > PYTHONS[1]:
        version = ".".join(map(str, sys.version_info[:3]))
        return f"{charges}{version}; install a newer memcg, or run the program on {last}"
    return "memcg was installed without a C compiler; install one and memcg again"


def _native() -> Any:
    """Return the native core, or None; `why_not_native` then says why."""
    global why_not_native
    if os.environ.get("MEMCG_CORE") == "model":
        return None
    try:
        return __import__(f"{__package__}._core", fromlist=("name",))
    except ModuleNotFoundError:
        why_not_native = _why_not_built()
    except ImportError as error:
        why_not_native = str(error)  # there may be no address space for the arena
        if "interpreter" in why_not_native.lower():
            why_not_native = "this is a subinterpreter; only the main interpreter can charge memory"
    return None


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import _core, model
    from ._core import *  # noqa: F403  # the stub lists what both cores have

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


class _Unaccounted:
    """The root pays for what runs in it: a group must not pay for a module that it uses first."""

    __slots__ = ()

    def __enter__(self) -> None:
        try:
            stop_account()  # noqa: F405
        except BaseException:  # a signal handler's: CPython looks for signals after the call
            resume_account()  # noqa: F405
            raise

    def __exit__(self, *exc: object) -> None:
        resume_account()  # noqa: F405


unaccounted = _Unaccounted()
