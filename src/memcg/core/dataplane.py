"""What both data planes hand to the control plane: constants, events, a line of slabinfo."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

PAGE_SIZE = 4096
OBJECT_SIZE_MAX = 1 << 30  # of a cache
EVENTS = ("high", "max", "oom", "oom_kill", "reserve", "overdraft", "fail")  # of memory.events
STAT = ("slab_private", "slab_shared", "page_runs", "external", "overdraft")  # of memory.stat


class Event:
    """A request to the control plane. All but ``release`` carry a css reference."""

    __slots__ = ("cache", "kind", "memcg")

    def __init__(
        self, kind: Literal["create", "empty", "high", "release"], memcg: Any, cache: Any
    ) -> None:
        self.kind = kind
        self.memcg = memcg  # core.Memcg or None
        self.cache = cache  # core.Cache or None


class CacheInfo:
    """A line of slabinfo: counts, sizes in bytes, pages."""

    def __init__(
        self, active_objs: int, num_objs: int, objsize: int, objperslab: int, pagesperslab: int,
        active_slabs: int, num_slabs: int,
    ) -> None:  # fmt: skip
        self.active_objs = active_objs
        self.num_objs = num_objs
        self.objsize = objsize
        self.objperslab = objperslab
        self.pagesperslab = pagesperslab
        self.active_slabs = active_slabs
        self.num_slabs = num_slabs
