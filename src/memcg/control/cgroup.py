# SPDX-License-Identifier: Apache-2.0
"""The tree of groups: paths, making, closing.

Kernel: kernel/cgroup.c (``cgroup_mkdir``, ``cgroup_rmdir``, ``css_offline``).
Where we differ: a path is free again as soon as its group is closed, even while
the old group is dying.

Locks: ``cgroup_mutex``, the outermost, protects every group's `children` and state.
"""

from __future__ import annotations

from ..core import css_put
from ..errors import GroupBusy, MemcgError, OfflineError
from ..locking import Mutex, shared
from . import workqueue
from .memcontrol import (
    activate_kmem_mutex,
    dying,
    mem_cgroup,
    mem_cgroup_css_offline,
    mem_cgroup_destroy_all_caches,
    mem_cgroup_offline_bare,
    memcg_activate_kmem,
    memcg_kmem_is_active,
    memcg_slab_mutex,
)
from .slab_common import slab_mutex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import TypeVar

    G = TypeVar("G", bound="cgroup")

cgroup_mutex = Mutex("cgroup_mutex")

PATH_MAX = 4096  # characters, as in the kernel


@shared(children="cgroup_mutex")
class cgroup(mem_cgroup):
    """A group with its place in the tree. Kernel: ``struct cgroup``.

    Attributes
    ----------
    children : dict
        Name -> group.
    shrinkers : list
        What gives memory back when asked for some bytes. Kernel: ``struct shrinker``.
    _max_descendants, _max_depth : int or None
        How many groups there may be below, and how many levels; None: any. Read when a group is
        made below: one store each. Kernel: ``max_descendants`` and ``max_depth``.
    """

    _max_descendants: int | None = None
    _max_depth: int | None = None

    def __init__(self, path: str, parent: cgroup | None) -> None:
        super().__init__(path, parent)
        self.name = path.rsplit("/", 1)[-1]
        self.children: dict[str, cgroup] = {}
        self.shrinkers: list[Callable[[int], object]] = []


def is_nested() -> bool:
    """Tell whether the caller is a finalizer or signal handler that has interrupted our own work.

    The mutexes would let the thread in, for they are its own, in the middle of an update; and it
    would take an outer one while it holds an inner one.
    """
    return (
        cgroup_mutex.held()
        or activate_kmem_mutex.held()
        or memcg_slab_mutex.held()
        or slab_mutex.held()
    )


def refuse_nested(name: str) -> None:
    """Fail if `is_nested`.

    Raises
    ------
    MemcgError
        It is.
    """
    if is_nested():
        raise MemcgError(
            f"{name!r}: this finalizer or signal handler has interrupted memcg's own work, which "
            "has to end first; do it outside of finalizers and signal handlers"
        )


def split_path(path: str) -> list[str]:
    """Split an absolute path ``a/b``.

    Raises
    ------
    ValueError
        Empty, too long, or a part that is empty, ``.`` or ``..``.
    """
    if not isinstance(path, str):
        raise TypeError(f"group path must be a str, not {type(path).__name__}")
    if not path or len(path) > PATH_MAX:
        raise ValueError(f"group path must have 1 to {PATH_MAX} characters, not {len(path)}")
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts or not path.isprintable():
        raise ValueError(
            f"group path {path!r}: no part may be empty, '.', '..' or unprintable; write 'a/b'"
        )
    return parts


def cgroup_mkdir(root: G, path: str, *, exclusive: bool = False) -> G:
    """Get the group at `path`, making it and its parents as needed.

    With `exclusive` it is a new group: the last part of a path that is taken gets a number.

    Raises
    ------
    OfflineError
        `root` is closed.

    Notes
    -----
    Context: takes ``cgroup_mutex``, then what `memcg_activate_kmem` takes.
    """
    parts = split_path(path)
    if is_nested():
        return __existing(root, path, parts, exclusive)
    with cgroup_mutex:
        if not root.online:
            raise OfflineError("the root group is closed")
        group: G = root
        for depth, part in enumerate(parts, 1):
            child = group.children.get(part)
            if child is not None and not child.online:  # its closing was interrupted
                __unlink(child, group)
                child = None
            if child is not None and exclusive and depth == len(parts):
                parts[-1] = _free_name(group.children, part)
                child = None
            if child is None:
                __check_hierarchy_limits(group, "/".join(parts[:depth]))
                child = __link(type(root)("/".join(parts[:depth]), group), group)
            group = child  # type: ignore[assignment]
        return group


def __check_hierarchy_limits(parent: cgroup, path: str) -> None:
    """Fail if a group at `path` is one too many for a group above it.

    Context: `cgroup_mutex` held. Kernel: ``cgroup_check_hierarchy_limits``.
    """
    above: cgroup | None = parent
    level = 1
    while above is not None:
        for rule, limit, value, cure in (
            ("descendants", above._max_descendants, __descendants(above) + 1, "close groups below"),
            ("depth", above._max_depth, level, "make it less deep below"),
        ):
            if limit is not None and value > limit:
                owner = above.path or "/"
                raise MemcgError(
                    f"group {path!r}: would be over cgroup.max.{rule} ({value}, max {limit}, set "
                    f"on {owner!r}); raise cgroup.max.{rule} or {cure} {owner!r}"
                )
        above = above.parent  # type: ignore[assignment]
        level += 1


def __descendants(group: cgroup) -> int:
    """Groups below, counted up to the limit: an exception may part no count from the tree.

    Context: `cgroup_mutex` held.
    """
    most = group._max_descendants
    if most is None:
        return 0
    groups = [group]
    for g in groups:
        groups += g.children.values()
        if len(groups) > most:
            break
    return min(len(groups) - 1, most)


def _free_name(taken: Container[str], name: str) -> str:
    """`name` with a number so that it is not taken; looks only as often as the number has bits."""
    last, free = 1, 2
    while f"{name}-{free}" in taken:
        last, free = free, 2 * free
    while free - last > 1:
        middle = (last + free) // 2
        if f"{name}-{middle}" in taken:
            last = middle
        else:
            free = middle
    return f"{name}-{free}"


def __existing(root: G, path: str, parts: list[str], exclusive: bool) -> G:
    """What `cgroup_mkdir` can do where it must change nothing. Context: `is_nested`."""
    group: cgroup | None = root
    for part in parts:
        group = group.children.get(part) if group is not None else None
    if group is None or not group.online or exclusive:
        refuse_nested(path)
    return group  # type: ignore[return-value]


def __link(group: cgroup, parent: cgroup) -> cgroup:
    """Activate a new group and put it into the tree. Context: `cgroup_mutex` held."""
    try:
        memcg_activate_kmem(group)
        parent.children[group.name] = group
    except BaseException:
        if memcg_kmem_is_active(group) and parent.children.get(group.name) is not group:
            css_put(group)  # a group that is not active lets go of its parent by itself
        raise
    return group


def __unlink(group: cgroup, parent: cgroup) -> None:
    """Take an offline group out of the tree. Context: `cgroup_mutex` held."""
    with activate_kmem_mutex:
        dying[group] = None
    del parent.children[group.name]  # with no call in between that an exception could come after
    css_put(group)


def cgroup_find(root: G, path: str) -> G:
    """The group at `path`.

    Raises
    ------
    MemcgError
        There is none.
    """
    group: cgroup = root
    refuse_nested(path)
    with cgroup_mutex:
        for part in split_path(path):
            if part not in group.children:
                raise MemcgError(f"there is no group {path!r}; memcg.group({path!r}) makes it")
            group = group.children[part]
    return group  # type: ignore[return-value]


def cgroup_rmdir(group: cgroup) -> None:
    """Take a group offline: no new entries, charges to the parent, then its caches.

    Raises
    ------
    GroupBusy
        It has children, something is inside it, or it is the root.

    Notes
    -----
    Context: takes ``cgroup_mutex``, then ``memcg_slab_mutex``; waits for a grace period and, if
    the group has caches, for a thread that does the same. Closing a closed group does nothing.
    """
    parent = group.parent
    if parent is None:
        raise GroupBusy("the root group cannot be closed; it ends with the process")
    assert isinstance(parent, cgroup)
    place = (parent, group.name)  # a thread that is left behind may come when the group is gone
    # First in this thread: a group without caches goes offline by one call into the data plane,
    # which no asynchronous exception can part. Destroying caches takes many: in another thread.
    if not __cgroup_rmdir(group, *place, mem_cgroup_offline_bare):
        workqueue.uninterrupted(__cgroup_rmdir, group, *place, __offline)


def __offline(group: cgroup) -> bool:
    mem_cgroup_css_offline(group)
    mem_cgroup_destroy_all_caches(group)
    return True


def __cgroup_rmdir(
    group: cgroup, parent: cgroup, name: str, offline: Callable[[cgroup], bool]
) -> bool:
    """Take the group offline and out of the tree, unless `offline` says no."""
    with cgroup_mutex:
        if parent.children.get(name) is not group:
            return True
        if group.children:
            names = ", ".join(sorted(group.children)[:5])
            raise GroupBusy(
                f"group {group.path!r} has {len(group.children)} children ({names}); "
                "close them first or close(recursive=True)"
            )
        if not offline(group):
            return False
        __unlink(group, parent)
        return True


def subtree(group: G) -> list[G]:
    """The group and everything below it, parents first. Context: takes `cgroup_mutex`."""
    refuse_nested(group.path)
    with cgroup_mutex:
        groups = [group]
        for g in groups:
            groups += g.children.values()  # type: ignore[arg-type]
        return groups
