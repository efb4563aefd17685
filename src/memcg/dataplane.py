"""What both data planes hand to the control plane: constants, events, a line of slabinfo."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

PAGE_SIZE = 4096
PAGE_COUNTER_MAX = 2**63 - 1
OBJECT_SIZE_MAX = 1 << 30  # of a cache
EVENTS = ("high", "max", "oom", "oom_kill", "reserve", "overdraft", "fail")  # of memory.events
STAT = ("slab_private", "slab_shared", "page_runs", "external", "overdraft")  # of memory.stat


class Event(NamedTuple):
    """A request to the control plane. All but ``release`` carry a css reference."""

    kind: Literal["create", "empty", "high", "release"]
    memcg: Any  # core.Memcg or None
    cache: Any  # core.Cache or None


class CacheInfo(NamedTuple):
    """A line of slabinfo: counts, sizes in bytes, pages."""

    active_objs: int
    num_objs: int
    objsize: int
    objperslab: int
    pagesperslab: int
    active_slabs: int
    num_slabs: int
