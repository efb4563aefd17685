"""The tree of groups: paths, making, closing.

Kernel: kernel/cgroup.c (``cgroup_mkdir``, ``cgroup_rmdir``, ``css_offline``).
Where we differ: a path is free again as soon as its group is closed, even while
the old group is dying.

Locks: ``cgroup_mutex``, the outermost, protects every group's `children` and state.
"""

from __future__ import annotations

from typing import TypeVar

from .errors import GroupBusy, MemcgError, OfflineError
from .locking import Mutex, shared
from .memcontrol import mem_cgroup, mem_cgroup_destroy_all_caches, memcg_activate_kmem

cgroup_mutex = Mutex("cgroup_mutex")

PATH_MAX = 4096  # characters, as in the kernel


@shared(children="cgroup_mutex")
class cgroup(mem_cgroup):
    """A group with its place in the tree. Kernel: ``struct cgroup``."""

    def __init__(self, path: str, parent: cgroup | None) -> None:
        super().__init__(path, parent)
        self.name = path.rsplit("/", 1)[-1]
        self.children: dict[str, cgroup] = {}


G = TypeVar("G", bound=cgroup)


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
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(
            f"group path {path!r}: no part may be empty, '.', '..' or unprintable; write 'a/b'"
        )
    return parts


def cgroup_mkdir(root: G, path: str, *, exclusive: bool = False) -> G:
    """Get the group at `path`, making it and its parents as needed.

    Raises
    ------
    FileExistsError
        `exclusive` was asked for and the group exists.
    OfflineError
        `root` is closed.

    Notes
    -----
    Context: takes ``cgroup_mutex``, then what `memcg_activate_kmem` takes.
    """
    parts = split_path(path)
    with cgroup_mutex:
        if not root.online:
            raise OfflineError("the root group is closed")
        made = False
        group: G = root
        for depth, part in enumerate(parts, 1):
            child = group.children.get(part)
            if child is not None and not child.online:  # its closing was interrupted
                __cgroup_rmdir(child, group)
                child = None
            if child is None:
                made = True
                child = type(root)("/".join(parts[:depth]), group)
                try:
                    memcg_activate_kmem(child)
                except BaseException:
                    child.css_put()
                    raise
                group.children[part] = child
            group = child  # type: ignore[assignment]
        if exclusive and not made:
            raise FileExistsError(f"group {path!r} exists already; pick another name")
        return group


def cgroup_find(root: G, path: str) -> G:
    """The group at `path`.

    Raises
    ------
    MemcgError
        There is none.
    """
    group: cgroup = root
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
        It has children, or it is the root.

    Notes
    -----
    Context: takes ``cgroup_mutex``, then ``memcg_slab_mutex``; waits for a grace period.
    Closing a closed group does nothing.
    """
    parent = group.parent
    if parent is None:
        raise GroupBusy("the root group cannot be closed; it ends with the process")
    assert isinstance(parent, cgroup)
    with cgroup_mutex:
        if parent.children.get(group.name) is not group:
            return
        if group.children:
            names = ", ".join(sorted(group.children)[:5])
            raise GroupBusy(
                f"group {group.path!r} has {len(group.children)} children ({names}); "
                "close them first or close(recursive=True)"
            )
        __cgroup_rmdir(group, parent)


def __cgroup_rmdir(group: cgroup, parent: cgroup) -> None:
    """Context: ``cgroup_mutex`` held. Each step may be repeated after an interrupt."""
    if group.online:
        group.offline()
    mem_cgroup_destroy_all_caches(group)
    del parent.children[group.name]
    group.css_put()
