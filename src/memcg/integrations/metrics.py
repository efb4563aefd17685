# SPDX-License-Identifier: Apache-2.0
"""Figures of groups for a monitoring system: which groups it sees, and what it sees of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import core
from ..control import memcontrol, slab_common
from ..core.dataplane import EVENTS, PAGE_SIZE
from ..groups import LIMITS, Group, root, walk
from ..sizes import PAGE_COUNTER_MAX

OTHER = "(other)"  # all groups past the bound; a group of this name is always one of them
SLAB_STATES = ("active", "free", "shared")


def label(group: Any) -> str:
    """Return the group's path; ``/`` is the root."""
    return group.path or "/"


def limits(group: Group) -> dict[str, int]:
    """Return the limits that the group has, in bytes."""
    return those_set({which: core.mem_cgroup_get_limit(group, which) for which in LIMITS})


def those_set(found: dict[str, int]) -> dict[str, int]:
    """Return those of all limits that are set."""
    if found["max"] == PAGE_COUNTER_MAX:  # the reserve and the overdraft begin at it
        found = {"high": found["high"]}
    return {which: n for which, n in found.items() if n < PAGE_COUNTER_MAX}


def _own_slab_bytes(group: Group) -> dict[str, int]:
    with memcontrol.memcg_slab_mutex:
        infos = [s.info() for s in group.memcg_slab_caches]
    if group is root:
        infos = [s.info() for s in slab_common.root_caches()]
    active = sum(info.active_objs * info.objsize for info in infos)
    held = sum(info.num_slabs * info.pagesperslab * PAGE_SIZE for info in infos)
    shared = group.stat["slab_shared"]
    return dict(zip(SLAB_STATES, (active, max(held - active, 0), shared), strict=True))


def uncharged_bytes() -> int:
    """Return how much of the process's resident set is not charged to any group, in bytes."""
    with open("/proc/self/statm", "rb") as file:
        pages = int(file.read().split()[1])
    return max(pages * PAGE_SIZE - root.current, 0)


class Selection:
    """The groups that a monitoring system sees one by one, and the sum of the others.

    Parameters
    ----------
    depth : int
        How many levels below the root are seen. The figures of a group contain those below it.
    max_groups : int
        How many groups are seen one by one. A group that was seen stays until it is closed, so
        that its series does not come and go. The other places go to the groups with the most
        bytes.
    """

    def __init__(self, depth: int = 2, max_groups: int = 200) -> None:
        for name, value in (("depth", depth), ("max_groups", max_groups)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is a number that is at least 1, not {value!r}")
        self.depth = depth
        self.max_groups = max_groups
        self.shown: list[Any] = []
        self.folded: list[Any] = []  # those that no other folded group contains
        self._groups: Sequence[Any] = []
        self._events = dict.fromkeys(EVENTS, 0)  # of all that was folded, since the start
        self._seen: dict[Any, dict[str, int]] = {}  # folded group -> its events at the last look

    @property
    def nr_groups(self) -> int:
        """How many groups there were, with the root, at the last look."""
        return len(self._groups)

    def refresh(self, groups: Sequence[Any] | None = None) -> None:
        """Look at the tree again: at this process's, or at another's groups.

        Those have `path`, `online`, `current`, `events` and `parent`, as a `Group` has, and a
        group is the same object each time.
        """
        self._groups = groups = walk() if groups is None else groups
        seen = {g for g in self.shown if g.online}
        near = [g for g in groups if not g.path or g.path.count("/") < self.depth]
        kept = [g for g in near if g in seen and g.path != OTHER]
        new = [g for g in near if g not in seen and g.path != OTHER]
        room = self.max_groups - len(kept)
        if len(new) > room:
            new = sorted(new, key=lambda g: -g.current)[: max(room, 0)]
        shown = {*kept, *new}
        self.shown = [g for g in near if g in shown]
        self.folded = [g for g in near if g not in shown and g.parent in shown]
        self._count_folded()

    def _count_folded(self) -> None:
        seen = {}
        for g in self.folded:
            seen[g] = events = g.events
            before = self._seen.get(g) or dict.fromkeys(EVENTS, 0)
            for event, n in events.items():
                self._events[event] += n - before[event]
        self._seen = seen

    def slab_bytes(self) -> dict[Group, dict[str, int]]:
        """Return, for each shown group, what its slabs and those of groups below it hold.

        ``active`` bytes are in objects of slabs of the groups' own, ``free`` bytes are the rest of
        those slabs, and ``shared`` bytes are objects in slabs that small groups share.
        """
        found = {g: dict.fromkeys(SLAB_STATES, 0) for g in self.shown}
        for g in self._groups:
            own = _own_slab_bytes(g)
            for above in core.ancestry(g):
                if above in found:
                    for state, n in own.items():
                        found[above][state] += n
        return found

    def other_events(self) -> dict[str, int]:
        """Return the events of the groups that are not seen one by one. They never fall."""
        return dict(self._events)
