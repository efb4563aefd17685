# SPDX-License-Identifier: Apache-2.0
"""Memory control groups in one Python process.

>>> import memcg
>>> with memcg.scope("tenants/a", max="256MiB") as g:
...     g.path
'tenants/a'

.. PYTEST_DONT_REWRITE: under `memcg run -m pytest` memcg is there before pytest could.
"""

from __future__ import annotations

from sys import implementation as _implementation
from sys import path_importer_cache as _finders

from .control.slab_common import create_kmalloc_caches as _create_kmalloc_caches
from .errors import CacheBusy, GroupBusy, MemcgError, MemcgOOM, OfflineError
from .groups import Group, current, group, root, scope, shield, slabinfo, walk
from .hooks import install
from .integrations.threading import service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cache import KmemCache
    from .names import escape, unescape
    from .publisher import publish, unpublish
    from .server import serve
    from .tracing import trace

__version__ = "0.2.0"
__all__ = [
    "CacheBusy", "Group", "GroupBusy", "KmemCache", "MemcgError", "MemcgOOM", "OfflineError",
    "current", "escape", "group", "install", "publish", "root", "scope",
    "serve", "service", "shield", "slabinfo", "trace", "unescape", "unpublish", "walk",
]  # fmt: skip

if not TYPE_CHECKING:
    _RARE = {"KmemCache": "cache", "escape": "names", "unescape": "names",
             "publish": "publisher", "unpublish": "publisher", "serve": "server",
             "trace": "tracing"}  # fmt: skip
    _MOVED = {  # modules that programs may know by their first names
        **dict.fromkeys(("cgroup", "memcontrol", "slab_common", "workqueue"), "control."),
        **dict.fromkeys(("dataplane", "fault_attr", "model"), "core."),
        **dict.fromkeys(("lockdep", "lockless"), "locking."),
    }
    _RENAMED = {"group": "groups", "holders": "report"}

    def __getattr__(name: str) -> object:
        """Import a module that few programs use with its first use."""
        if name in _MOVED or name in _RENAMED:
            return _moved(name)
        if name not in _RARE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import core

        core.stop_account()  # the group that uses it first must not pay for the module
        try:
            found = getattr(__import__(f"{__name__}.{_RARE[name]}", fromlist=(name,)), name)
        finally:
            core.resume_account()
        globals()[name] = found
        return found

    def _new_path(name: str) -> str:
        return f"{__name__}.{_RENAMED.get(name) or _MOVED[name] + name}"

    def _moved(name: str) -> object:
        import warnings

        path = _new_path(name)
        text = f"{__name__}.{name} is now {path}; write that"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
        return __import__(path, fromlist=("",))

    def _find_spec(fullname: str, target: object = None) -> None:
        """Find no module, but raise an error that names the new path of one that has moved.

        It belongs to the last entry of ``__path__``, so it is asked only for a module of memcg
        that does not exist. CPython: `importlib.machinery.PathFinder`, `sys.path_importer_cache`.
        """
        name = fullname.rpartition(".")[2]
        if name in _MOVED or name in _RENAMED:
            text = f"{fullname} is now {_new_path(name)}; write that"
            raise ModuleNotFoundError(text, name=fullname)

    __path__.append(f"{__path__[0]}/old paths")
    _finders[__path__[-1]] = type(_implementation)(find_spec=_find_spec)


def load_ipython_extension(ip: object) -> None:
    """Do what ``%load_ext memcg`` asks for: cells run in the group ``notebook``.

    Raises
    ------
    MemcgError
        The hooks cannot be installed in this process, or the root group has a limit.
    """
    install()
    from .integrations import ipython

    ipython.load(ip)


def unload_ipython_extension(ip: object) -> None:
    """Do what ``%unload_ext memcg`` asks for."""
    from .integrations import ipython

    ipython.unload(ip)


_create_kmalloc_caches()
