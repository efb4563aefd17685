# SPDX-License-Identifier: Apache-2.0
"""The files of a group, under the names that they have in cgroup v2.

Kernel: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from .control import memcontrol
from .control.cgroup import refuse_nested, subtree
from .control.vmscan import try_to_free
from .core import mem_cgroup_events_local, mem_cgroup_get_limit, mem_cgroup_reset_peak
from .errors import MemcgError
from .sizes import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .groups import Group, Size

READABLE = (
    "memory.current", "memory.peak", "memory.max", "memory.high", "memory.reserve",
    "memory.overdraft", "memory.oom.group", "memory.events", "memory.events.local",
    "memory.stat", "memory.kmem.slabinfo", "cgroup.stat", "cgroup.max.descendants",
    "cgroup.max.depth",
)  # fmt: skip
WRITABLE = (
    "memory.max", "memory.high", "memory.reserve", "memory.overdraft", "memory.oom.group",
    "memory.reclaim", "memory.peak", "cgroup.max.descendants", "cgroup.max.depth",
)  # fmt: skip


def _count(file: str, value: Size) -> int | None:
    """Return a number of groups or levels; None means that any number is allowed."""
    if value is None or (isinstance(value, str) and value.strip() == "max"):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError
        if (n := int(value)) >= 0:
            return n
    except ValueError:
        pass
    raise ValueError(f"{file} takes a number that is at least 0, or 'max', not {value!r}")


def read(group: Group, file: str) -> int | str | dict[str, int]:
    """Do what `Group.__getitem__` says."""
    match file:
        case "memory.current":
            return group.current
        case "memory.peak":
            return group.peak
        case "memory.max" | "memory.high" | "memory.reserve" | "memory.overdraft":
            return mem_cgroup_get_limit(group, file.removeprefix("memory."))
        case "memory.oom.group":
            return int(group.oom_group)
        case "memory.events":
            return group.events
        case "memory.events.local":
            return mem_cgroup_events_local(group)
        case "memory.stat":
            return group.stat
        case "memory.kmem.slabinfo":
            refuse_nested(group.path)
            return memcontrol.mem_cgroup_slabinfo_read(group)
        case "cgroup.stat":
            return {
                "nr_descendants": len(subtree(group)) - 1,
                "nr_dying_descendants": group.nr_dying,
            }
        case "cgroup.max.descendants":
            return "max" if group._max_descendants is None else group._max_descendants
        case "cgroup.max.depth":
            return "max" if group._max_depth is None else group._max_depth
    raise KeyError(f"a group has no file {file!r}; it has {', '.join(READABLE)}")


def write(group: Group, file: str, size: Size) -> None:
    """Do what `Group.__setitem__` says."""
    if file not in WRITABLE:
        raise MemcgError(f"{file!r} cannot be written; one can write {', '.join(WRITABLE)}")
    if file == "memory.peak":
        mem_cgroup_reset_peak(group)
    elif file == "memory.oom.group":
        if size not in (0, 1, "0", "1"):
            raise ValueError(f"memory.oom.group is 0 or 1, not {size!r}")
        group.oom_group = bool(int(size))
    elif file == "cgroup.max.descendants":
        group._max_descendants = _count(file, size)
    elif file == "cgroup.max.depth":
        group._max_depth = _count(file, size)
    elif file == "memory.reclaim":
        try_to_free(group, parse_size(size, bare_is_binary=True))
    else:
        group._write_limit(file.removeprefix("memory."), size, bare_is_binary=True)
