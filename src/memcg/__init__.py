# SPDX-License-Identifier: Apache-2.0
"""Memory control groups in one Python process.

>>> import memcg
>>> with memcg.scope("tenants/a", max="256MiB") as g:
...     g.path
'tenants/a'
"""

from __future__ import annotations

from .control.slab_common import create_kmalloc_caches as _create_kmalloc_caches
from .errors import CacheBusy, GroupBusy, MemcgError, MemcgOOM, OfflineError
from .groups import Group, current, group, root, scope, shield, slabinfo, walk
from .hooks import install
from .integrations.threading import service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cache import KmemCache
    from .names import escape, unescape

__version__ = "0.1.0"
__all__ = [
    "CacheBusy", "Group", "GroupBusy", "KmemCache", "MemcgError", "MemcgOOM", "OfflineError",
    "current", "escape", "group", "install", "root", "scope",
    "service", "shield", "slabinfo", "unescape", "walk",
]  # fmt: skip

if not TYPE_CHECKING:
    _RARE = {"KmemCache": "cache", "escape": "names", "unescape": "names"}
    _MOVED = {  # modules that programs may know by the names that they had in version 0.1
        **dict.fromkeys(("cgroup", "memcontrol", "slab_common", "workqueue"), "control"),
        **dict.fromkeys(("dataplane", "fault_attr", "model"), "core"),
        **dict.fromkeys(("lockdep", "lockless"), "locking"),
    }

    def __getattr__(name: str) -> object:
        """Read the file of what few programs use with its first use."""
        if name in _MOVED:
            return _moved(name, f"{__name__}.{_MOVED[name]}.{name}")
        if name == "holders":
            return _moved(name, f"{__name__}.report")
        if name not in _RARE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import core

        core.stop_account()  # it happens to the group that uses it first
        try:
            found = getattr(__import__(f"{__name__}.{_RARE[name]}", fromlist=(name,)), name)
        finally:
            core.resume_account()
        globals()[name] = found
        return found

    def _moved(name: str, path: str) -> object:
        import warnings

        text = f"{__name__}.{name} is now {path}; write that"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
        return __import__(path, fromlist=("",))


_create_kmalloc_caches()
