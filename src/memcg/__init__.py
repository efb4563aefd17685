"""Memory control groups in one Python process.

>>> import memcg
>>> with memcg.scope("tenants/a", max="256MiB") as g:
...     g.path
'tenants/a'
"""

from __future__ import annotations

from .slab_common import create_kmalloc_caches as _create_kmalloc_caches  # isort: skip
from .cache import KmemCache
from .errors import CacheBusy, GroupBusy, MemcgError, MemcgOOM, OfflineError
from .group import Group, current, group, root, scope, shield, slabinfo
from .hooks import install

__version__ = "0.1.0"
__all__ = [
    "CacheBusy", "Group", "GroupBusy", "KmemCache", "MemcgError", "MemcgOOM", "OfflineError",
    "current", "group", "install", "root", "scope",
    "shield", "slabinfo",
]  # fmt: skip

_create_kmalloc_caches()
