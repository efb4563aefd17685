# SPDX-License-Identifier: Apache-2.0
"""The tree of groups: their paths, how they are made and how they are closed.

Kernel: kernel/cgroup.c (``cgroup_mkdir``, ``cgroup_rmdir``, ``css_offline``).
Where we differ: a path is free again as soon as its group is closed, even while
the old group is dying.

Locks: ``cgroup_mutex``, the outermost, protects every group's `children` and state.
"""

from __future__ import annotations

from .. import core
from ..core import (
    css_put,
    css_refs,
    mem_cgroup_give_up,
    mem_cgroup_keep,
    mem_cgroup_oldest_spare,
    mem_cgroup_reuse,
)  # fmt: skip
from ..errors import GroupBusy, MemcgError, OfflineError
from ..locking import Mutex, any_held, assert_held, shared
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
# How many closed groups are kept for the next ones, per parent. With the model core there are none,
# because it cannot tell whether the program still refers to one.
NR_SPARE = 32 if core.name == "native" else 0


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

    __slots__ = ()

    def __init__(self, path: str, parent: cgroup | None) -> None:
        super().__init__(path, parent)
        self.name = path.rsplit("/", 1)[-1]
        self.children = {}
        self.shrinkers = []


def is_nested() -> bool:
    """Tell whether the caller is a finalizer or signal handler that has interrupted our own work.

    The thread holds the mutexes already, so they would let it in, in the middle of an update. It
    would also take an outer mutex while it holds an inner one.
    """
    return any_held(cgroup_mutex, activate_kmem_mutex, memcg_slab_mutex, slab_mutex)


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
                part = parts[-1] = _free_name(group.children, part)
                child = None
            if child is None:
                below = part if depth == 1 else "/".join(parts[:depth])
                __check_hierarchy_limits(group, below)
                child = mem_cgroup_reuse(group, group.children, part, below)
                if child is None:
                    child = __link(type(root)(below, group), group)
            group = child  # type: ignore[assignment]
        return group


def __check_hierarchy_limits(parent: cgroup, path: str) -> None:
    """Fail if a group at `path` would be one too many, or one level too deep, for a group above it.

    Context: `cgroup_mutex` held. Kernel: ``cgroup_check_hierarchy_limits``.
    """
    above: cgroup | None = parent
    level = 1
    while above is not None:
        if above._max_descendants is above._max_depth is None:
            above = above.parent  # type: ignore[assignment]
            level += 1
            continue
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
    group has caches, another thread does all this and the caller waits for it. A group that holds
    nothing is kept for the next one under its parent.
    """
    parent: cgroup | None = group.parent  # type: ignore[assignment]
    if parent is None:
        raise GroupBusy("the root group cannot be closed; it ends with the process")
    name = group.name  # an interrupted wait leaves a thread that may run much later
    # A group without caches goes offline in this thread, by one call into the data plane, which no
    # asynchronous exception can cut in two. Destroying caches takes many calls, so another thread
    # does that.
    if not __cgroup_rmdir(group, parent, name, mem_cgroup_offline_bare):
        workqueue.uninterrupted(__cgroup_rmdir, group, parent, name, __offline)
    if parent._nr_spare > NR_SPARE:
        workqueue.uninterrupted(cgroup_drop_spare, parent, NR_SPARE // 2)


def __offline(group: cgroup) -> bool:
    __drop_spare(group, 0)
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
        if __keep(group, parent):
            return True
        if (group._nr_spare and offline is not __offline) or not offline(group):
            return False
        __unlink(group, parent)
        return True


def __keep(group: cgroup, parent: cgroup) -> bool:
    """Keep a group that holds nothing for the next one under `parent`. Kernel: ours.

    One call into the data plane takes it offline and out of the tree, so no exception can cut that
    in two. Context: `cgroup_mutex` held; takes ``memcg_slab_mutex`` if the group may have caches.
    """
    if not NR_SPARE:
        return False
    # The creation of a cache holds a reference, and so does the cache. If one begins after the
    # look, the data plane refuses.
    if css_refs(group) == 1:
        return mem_cgroup_keep(group, parent.children, 0)
    with memcg_slab_mutex:
        return mem_cgroup_keep(group, parent.children, len(group.memcg_slab_caches))


def cgroup_drop_spare(parent: cgroup, at_most: int) -> None:
    """Let go of the spare groups below `parent` that were closed first, until `at_most` are left.

    Context: takes ``cgroup_mutex``, then ``memcg_slab_mutex``. An exception must not cut it in two
    (`workqueue.uninterrupted`).
    """
    with cgroup_mutex:
        __drop_spare(parent, at_most)


def __drop_spare(parent: cgroup, at_most: int) -> None:
    """Let go of spare groups. Context: `cgroup_mutex` held."""
    assert_held(cgroup_mutex)
    while (group := mem_cgroup_oldest_spare(parent, at_most)) is not None:
        mem_cgroup_destroy_all_caches(group)
        mem_cgroup_give_up(group)


def subtree(group: G) -> list[G]:
    """Return the group and all groups below it, parents first. Context: takes `cgroup_mutex`."""
    refuse_nested(group.path)
    with cgroup_mutex:
        groups = [group]
        for g in groups:
            groups += g.children.values()
        return groups
