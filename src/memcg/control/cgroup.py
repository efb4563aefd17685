# SPDX-License-Identifier: Apache-2.0
"""The tree of groups: their paths, how they are made and how they are closed.

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
        Functions that give back a number of bytes. Kernel: ``struct shrinker``.
    _max_descendants, _max_depth : int or None
        How many groups, and how many levels, may be below this group; None means any number. Each
        is written by one store and read when a group is made below. Kernel: ``max_descendants``,
        ``max_depth``.
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

    The thread holds the mutexes already, so they would let it in, in the middle of an update. It
    would also take an outer mutex while it holds an inner one.
    """
    return (
        cgroup_mutex.held()
        or activate_kmem_mutex.held()
        or memcg_slab_mutex.held()
        or slab_mutex.held()
    )


def refuse_nested(name: str) -> None:
    """Fail if `is_nested`. `name` begins the text of the error.

    Raises
    ------
    MemcgError
        The caller is a finalizer or signal handler that has interrupted memcg's own work.
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
        The path is empty, longer than `PATH_MAX` or unprintable, or a part is empty, ``.`` or
        ``..``.
    TypeError
        The path is not a str.
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
    """Return the group at `path`, and make it and its parents as needed.

    With `exclusive` the group is always new: if the path is taken, its last part gets a number.

    Raises
    ------
    OfflineError
        `root` is closed.
    MemcgError
        The group would be one too many for a group above it, or `is_nested` and it would be new.
    ValueError
        See `split_path`.

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
            if child is not None and not child.online:  # an exception interrupted its closing
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
    """Fail if a group at `path` would be one too many, or one level too deep, for a group above it.

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
    """Count the groups below, up to the limit.

    They are counted anew each time: an asynchronous exception could part a stored count from the
    tree. Context: `cgroup_mutex` held.
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
    """Return `name` with a number, so that it is not taken.

    It looks into `taken` about twice as often as the number has bits.
    """
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
    """Return the group at `path`, or fail: `cgroup_mkdir` must change nothing if `is_nested`."""
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
            css_put(group)  # only for an active group: another drops its parent's reference itself
        raise
    return group


def __unlink(group: cgroup, parent: cgroup) -> None:
    """Take an offline group out of the tree. Context: `cgroup_mutex` held."""
    with activate_kmem_mutex:
        dying[group] = None
    del parent.children[group.name]  # no call lies between, so no exception can part the two lines
    css_put(group)


def cgroup_find(root: G, path: str) -> G:
    """Return the group at `path`.

    Raises
    ------
    MemcgError
        There is no such group, or `is_nested`.
    ValueError
        See `split_path`.
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
    """Take a group offline: refuse new entries, move its charges to the parent, destroy its caches.

    Closing a closed group does nothing.

    Raises
    ------
    GroupBusy
        The group has children, something is inside it, or it is the root.

    Notes
    -----
    Context: takes ``cgroup_mutex``, then ``memcg_slab_mutex``, and waits for a grace period. If the
    group has caches, another thread does all this and the caller waits for it.
    """
    parent = group.parent
    if parent is None:
        raise GroupBusy("the root group cannot be closed; it ends with the process")
    assert isinstance(parent, cgroup)
    place = (parent, group.name)  # an interrupted wait leaves a thread that may run much later
    # A group without caches goes offline in this thread, by one call into the data plane, which no
    # asynchronous exception can cut in two. Destroying caches takes many calls, so another thread
    # does that.
    if not __cgroup_rmdir(group, *place, mem_cgroup_offline_bare):
        workqueue.uninterrupted(__cgroup_rmdir, group, *place, __offline)


def __offline(group: cgroup) -> bool:
    mem_cgroup_css_offline(group)
    mem_cgroup_destroy_all_caches(group)
    return True


def __cgroup_rmdir(
    group: cgroup, parent: cgroup, name: str, offline: Callable[[cgroup], bool]
) -> bool:
    """Take the group offline and out of the tree; return false if `offline` returns false."""
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
    """Return the group and all groups below it, parents first. Context: takes `cgroup_mutex`."""
    refuse_nested(group.path)
    with cgroup_mutex:
        groups = [group]
        for g in groups:
            groups += g.children.values()  # type: ignore[arg-type]
        return groups
