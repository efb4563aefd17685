"""The tree of groups: paths, making, closing.

Kernel: kernel/cgroup.c (``cgroup_mkdir``, ``cgroup_rmdir``, ``css_offline``).
Where we differ: a path is free again as soon as its group is closed, even while
the old group is dying.

Locks: ``cgroup_mutex``, the outermost, protects every group's `children` and state.
"""

from __future__ import annotations

import gc

from . import core, workqueue
from .errors import GroupBusy, MemcgError, OfflineError
from .locking import Mutex, at_fork, current_task, report_exception, shared
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
    from collections.abc import Callable, Hashable
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
    """

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
    if is_nested():
        return __existing(root, path, parts, exclusive)
    with cgroup_mutex:
        if not root.online:
            raise OfflineError("the root group is closed")
        made = False
        group: G = root
        for depth, part in enumerate(parts, 1):
            child = group.children.get(part)
            if child is not None and not child.online:  # its closing was interrupted
                __unlink(child, group)
                child = None
            if child is None:
                made = True
                child = __link(type(root)("/".join(parts[:depth]), group), group)
            group = child  # type: ignore[assignment]
        if exclusive and not made:
            raise FileExistsError(f"group {path!r} exists already; pick another name")
        return group


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
            group.css_put()  # a group that is not active lets go of its parent by itself
        raise
    return group


def __unlink(group: cgroup, parent: cgroup) -> None:
    """Take an offline group out of the tree. Context: `cgroup_mutex` held."""
    with activate_kmem_mutex:
        dying[group] = None
    del parent.children[group.name]  # with no call in between that an exception could come after
    group.css_put()


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


def try_to_free(group: cgroup, nbytes: int) -> int:
    """Reclaim from a group and below: shrinkers, garbage, empty slabs, stock.

    Returns
    -------
    int
        Bytes by which `current` fell, 0 if it grew meanwhile.

    Notes
    -----
    Context: no mutex held, since shrinkers and finalizers are the users' code. What a shrinker
    raises is raised when all is done.
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
    gc.collect()
    group.drain()
    if raised:
        raise raised[0]
    return max(before - group.current, 0)


def mem_cgroup_high_work_func(event: core.Event) -> None:
    """Reclaim from a group that crossed ``memory.high``, then drop the item's css reference.

    Kernel: ``high_work_func``, ``reclaim_high``.
    """
    group = event.memcg
    try:
        try_to_free(group, group.current - group.get_limit("high"))
    except Exception as error:  # a shrinker's: its author's to see
        report_exception(error)
    finally:
        group.high_done()
        group.css_put()


workqueue.register("high", mem_cgroup_high_work_func)


# -- fork: no other thread is inside the control plane, so no mutex is lost in the child.  But for a
# fork in a finalizer or signal handler that has interrupted our own work: others may be inside.

_MUTEXES = (
    cgroup_mutex, activate_kmem_mutex, memcg_slab_mutex, slab_mutex, *core.LOCKS, workqueue.wq_lock,
)  # fmt: skip


_nested_forks: set[Hashable] = set()  # tasks that fork in the middle of our own work


def _before_fork() -> None:
    core.hold_workers()  # else there may always be one, where other threads give them work
    # Who waits for a mutex of this task's would be waited for: a nested fork takes none.
    if is_nested():
        _nested_forks.add(current_task())
        return
    try:
        _take_mutexes()
    except BaseException:  # Ctrl-C: shown, for nobody can catch it here, and the fork goes on
        _release_mutexes()
        _take_mutexes()
        raise


def _after_fork() -> None:
    if current_task() in _nested_forks:
        _nested_forks.discard(current_task())
    else:
        _release_mutexes()
    core.release_workers()


def _after_fork_in_child() -> None:
    core.after_fork_in_child()
    _nested_forks.intersection_update((current_task(),))  # the others' names are free again
    if not _nested_forks:
        return
    for mutex in _MUTEXES:  # the others may have been held by who is gone
        if not mutex.held():
            mutex.forget_holder()
    workqueue.after_fork_in_child()


def _take_mutexes() -> None:
    while True:
        workqueue.wait_idle()
        for mutex in _MUTEXES:
            mutex.acquire()
        if workqueue.is_idle():
            return
        _release_mutexes()  # a worker came in between and needs what we hold


def _release_mutexes() -> None:
    for mutex in reversed(_MUTEXES):
        if mutex.held():
            mutex.release()


at_fork(_before_fork, _after_fork, _after_fork_in_child)
