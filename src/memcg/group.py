"""Groups as users hold them: limits, reading, entering, closing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from . import core, memcontrol, slab_common
from .cgroup import cgroup, cgroup_find, cgroup_mkdir, cgroup_rmdir
from .errors import MemcgError
from .sizes import parse_size

P = ParamSpec("P")
R = TypeVar("R")


LIMITS = ("max", "high")


def _limit(which: str) -> str:
    if which not in LIMITS:
        raise ValueError(f"{which!r} is not a limit of a group; write one of {', '.join(LIMITS)}")
    return which


class Group(cgroup):
    """A memory control group. Made by `group` and `scope`; ``with group:`` enters it.

    Sizes are ints in bytes when read; when written also ``"256MiB"``, ``"max"`` or ``"50%"`` of
    the parent's ``memory.max``.
    """

    def __repr__(self) -> str:
        state = "" if self.online else " closed"
        return f"<memcg.Group {self.path or '/'!r}{state} current={self.current}>"

    # -- being inside

    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn` inside the group."""
        with self:
            return fn(*args, **kwargs)

    # -- reading and writing

    def set_limit(self, which: str, size: int | str | None) -> None:
        """Write ``max`` or ``high``: one store, from any thread.

        Raises
        ------
        ValueError
            `size` is not a size, or `which` is not a limit.
        """
        parent_max = self.parent.max if self.parent is not None else None
        setattr(self, _limit(which), parse_size(size, of=parent_max))

    def __getitem__(self, file: str) -> int | str | dict[str, int]:
        """Read a file of the group under its name in cgroup v2."""
        match file:
            case "memory.current":
                return self.current
            case "memory.peak":
                return self.peak
            case "memory.max":
                return self.max
            case "memory.high":
                return self.high
            case "memory.events":
                return dict(self.events)
            case "memory.kmem.slabinfo":
                return memcontrol.mem_cgroup_slabinfo_read(self)
        raise KeyError(f"a group has no file {file!r}")

    def __setitem__(self, file: str, size: int | str | None) -> None:
        """Write ``memory.max`` or ``memory.high``; a bare ``512M`` is binary, as in the kernel."""
        if file not in ("memory.max", "memory.high"):
            raise MemcgError(f"{file!r} cannot be written; write memory.max or memory.high")
        parent_max = self.parent.max if self.parent is not None else None
        value = parse_size(size, of=parent_max, bare_is_binary=True)
        self.set_limit(file.removeprefix("memory."), value)

    # -- closing

    def close(self, *, recursive: bool = False) -> None:
        """Take the group offline; what it still holds is charged to the parent from now on.

        Raises
        ------
        GroupBusy
            It has children and `recursive` is false, or it is the root.
        """
        if recursive:
            for child in list(self.children.values()):
                assert isinstance(child, Group)
                child.close(recursive=True)
        cgroup_rmdir(self)


root = Group("", None)


def group(path: str, **limits: int | str | None) -> Group:
    """Get the group at `path` or make it; given limits are written, others stay.

    Parameters
    ----------
    path : str
        Absolute, as ``"tenants/a"``; parents are made without limits.
    **limits
        ``max`` and ``high``.

    Raises
    ------
    ValueError
        A bad path, size or limit; nothing was made.

    Examples
    --------
    >>> import memcg
    >>> with memcg.group("doc/a", max="1MiB") as g:
    ...     g.path
    'doc/a'
    >>> g.parent.close(recursive=True)
    """
    _check(limits)
    g = cgroup_mkdir(root, path)
    for which, size in limits.items():
        g.set_limit(which, size)
    return g


def _check(limits: dict[str, int | str | None]) -> None:
    for which, size in limits.items():
        _limit(which)
        parse_size(size, of=0)


@contextmanager
def scope(name: str, **limits: int | str | None) -> Iterator[Group]:
    """Enter a new group and close it at the end; a taken name gets a number."""
    _check(limits)
    path, n = name, 1
    while True:
        try:
            g = cgroup_mkdir(root, path, exclusive=True)
            break
        except FileExistsError:
            n += 1
            path = f"{name}-{n}"
    try:
        for which, size in limits.items():
            g.set_limit(which, size)
        with g:
            yield g
    finally:
        g.close(recursive=True)


def current() -> Group:
    """The innermost group of the running context."""
    memcg = core.current()
    return memcg if isinstance(memcg, Group) else root


def slabinfo(path: str = "") -> str:
    """Return a group's slabinfo in the kernel's format, version 2.1; the root's for ``""``.

    Raises
    ------
    MemcgError
        There is no such group.
    """
    if path:
        return memcontrol.mem_cgroup_slabinfo_read(cgroup_find(root, path))
    with slab_common.slab_mutex:
        lines = [
            slab_common.cache_show(s)
            for s in slab_common.slab_caches
            if slab_common.is_root_cache(s)
        ]
    return slab_common.print_slabinfo_header() + "".join(lines)
