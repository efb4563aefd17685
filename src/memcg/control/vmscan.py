# SPDX-License-Identifier: Apache-2.0
"""Reclaim: it runs shrinkers, collects garbage and drops empty slabs and stock, in a whole subtree.

Kernel: mm/vmscan.c (``try_to_free_mem_cgroup_pages``, ``shrink_slab``), and ``high_work_func`` of
mm/memcontrol.c.
Where we differ: nothing is written out. A group can spare what its shrinkers give back and what
garbage collection frees.

Locks: none is held, because shrinkers and finalizers are the users' code.
"""

from __future__ import annotations

import gc

from ..core import (
    css_put,
    mem_cgroup_collect_garbage,
    mem_cgroup_drain,
    mem_cgroup_get_limit,
    mem_cgroup_high_done,
)
from ..locking import report_exception
from . import workqueue
from .cgroup import cgroup, cgroup_drop_spare, subtree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import core


def _collect(group: cgroup) -> None:
    gc.collect()


def try_to_free(group: cgroup, nbytes: int, collect: Callable[[cgroup], object] = _collect) -> int:
    """Reclaim from a group and all below it: shrinkers, garbage, empty slabs and stock.

    Returns
    -------
    int
        How many bytes `current` fell by; 0 if it grew meanwhile.

    Raises
    ------
    Exception
        The first that a shrinker raised, after the rest was done.

    Notes
    -----
    Context: no mutex is held, because shrinkers and finalizers are the users' code.
    Kernel: ``try_to_free_mem_cgroup_pages``, ``shrink_slab``.
    """
    before = group.current
    raised: list[Exception] = []
    for g in subtree(group):
        for shrink in list(g.shrinkers):
            try:
                shrink(nbytes)
            except Exception as error:
                raised.append(error)
    collect(group)
    for g in subtree(group):
        if g._nr_spare:
            workqueue.uninterrupted(cgroup_drop_spare, g, 0)
    mem_cgroup_drain(group)
    if raised:
        raise raised[0]
    return max(before - group.current, 0)


def mem_cgroup_high_work_func(event: core.Event) -> None:
    """Reclaim from a group that crossed ``memory.high``, then drop the event's css reference.

    The shrinkers are asked for what brings usage an eighth below ``memory.high``. Otherwise the
    next crossing would not be noticed. Kernel: ``high_work_func``, ``reclaim_high``.
    """
    group = event.memcg
    try:
        high = mem_cgroup_get_limit(group, "high")
        try_to_free(group, group.current - high + high // 8 + 1, mem_cgroup_collect_garbage)
    except Exception as error:  # a shrinker raised it, and its author must see it
        report_exception(error)
    finally:
        workqueue.settled(event)
        mem_cgroup_high_done(group)
        css_put(group)


workqueue.register("high", mem_cgroup_high_work_func)
