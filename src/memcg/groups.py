# SPDX-License-Identifier: Apache-2.0
"""Groups as users hold them: limits, figures, entering and closing."""

from __future__ import annotations

import time

from . import core
from .control import memcontrol, slab_common
from .control.cgroup import (
    cgroup,
    cgroup_find,
    cgroup_mkdir,
    cgroup_rmdir,
    is_nested,
    refuse_nested,
    subtree,
)  # fmt: skip
from .control.vmscan import try_to_free
from .core import mem_cgroup_get_limit, mem_cgroup_set_limit
from .errors import GroupBusy, MemcgError
from .locking import know_main_thread, report_exception
from .sizes import PAGE_COUNTER_MAX, format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
    from types import ModuleType
    from typing import ParamSpec, TypeVar, overload

    from .oom import Oom

    P = ParamSpec("P")
    R = TypeVar("R")

Size = int | str | None

LIMITS = ("max", "high", "reserve", "overdraft")


def _limit(which: str) -> str:
    if which not in LIMITS:
        raise ValueError(f"{which!r} is not a limit of a group; write one of {', '.join(LIMITS)}")
    return which


def _files() -> ModuleType:
    with core.unaccounted:
        from . import files

        return files


def _wrap(fn: Callable[P, R], place: Callable[[], Group | scope]) -> Callable[P, R]:
    import functools

    @functools.wraps(fn)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with place():
            return fn(*args, **kwargs)

    return inside


class Group(cgroup):
    """A memory control group. `group` and `scope` make one; ``with group:`` enters it.

    A size that is read is an int in bytes. A size that is written may also be ``"256MiB"``,
    ``"max"`` or ``"50%"``, which is a share of the parent's ``memory.max``. Entering nests and is
    reentrant. Leaving a group does not close it. Kernel: Documentation/admin-guide/cgroup-v2.rst.
    """

    children: dict[str, Group]
    parent: Group | None
    _own_high: bool  # memory.high was written; while it was not, it follows memory.max
    __slots__ = ()

    def __repr__(self) -> str:
        state = "" if self.online else " closed"
        return f"<memcg.Group {self.path or '/'!r}{state} current={format_size(self.current)}>"

    def _repr_html_(self) -> str:
        """Return the tree with small bars; notebooks show it."""
        with core.unaccounted:
            from .display import tree_html

            return tree_html(self)

    # -- being inside

    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn` inside the group and return what it returns.

        Raises
        ------
        OfflineError
            The group is closed; `fn` is not called.
        """
        with self:
            return fn(*args, **kwargs)

    def wrap(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return a function that calls `fn` inside the group, as `run` does."""
        return _wrap(fn, lambda: self)

    if TYPE_CHECKING:

        @overload
        def iterate(self, iterable: Iterable[R]) -> Generator[R, None, None]: ...
        @overload
        def iterate(self, iterable: AsyncIterable[R]) -> AsyncGenerator[R, None]: ...

    def iterate(
        self, iterable: Iterable[R] | AsyncIterable[R]
    ) -> Generator[R, None, None] | AsyncGenerator[R, None]:
        """Run each step of an iterator inside the group, and its consumer outside.

        A ``with group:`` in the generator itself would leak into the consumer.

        Parameters
        ----------
        iterable : iterable or async iterable
            An object that is both is treated as an iterable.

        Returns
        -------
        generator or async generator
            It is asynchronous if `iterable` is. If an async generator is closed early, the async
            generator that it iterates over is closed too, inside the group.

        Raises
        ------
        OfflineError
            The group was closed; the next step raises it.
        """
        if hasattr(type(iterable), "__aiter__") and not hasattr(type(iterable), "__iter__"):
            return self._iterate_async(iterable)  # type: ignore[arg-type]
        return self._iterate(iterable)  # type: ignore[arg-type]

    def _iterate(self, iterable: Iterable[R]) -> Generator[R, None, None]:
        steps = iter(iterable)
        while True:
            with self:
                try:
                    item = next(steps)
                except StopIteration:
                    return
            yield item

    async def _iterate_async(self, iterable: AsyncIterable[R]) -> AsyncGenerator[R, None]:
        steps = aiter(iterable)
        try:
            while True:
                with self:
                    try:
                        item = await anext(steps)
                    except StopAsyncIteration:
                        return
                yield item
        finally:
            if hasattr(type(steps), "athrow"):  # only a generator: a stream may have other readers
                if self.online:
                    with self:
                        await steps.aclose()  # type: ignore[attr-defined]
                else:  # the consumer closed the group
                    await steps.aclose()  # type: ignore[attr-defined]

    # -- limits

    @property
    def max(self) -> int:
        """The limit in bytes; ``2**63 - 1`` means that there is none. cgroup v2: ``memory.max``."""
        return mem_cgroup_get_limit(self, "max")

    @max.setter
    def max(self, size: Size) -> None:
        self._write_limit("max", size)

    @property
    def high(self) -> int:
        """The usage in bytes at which reclaim starts, by default 7/8 of `max`.

        cgroup v2: ``memory.high``.
        """
        return mem_cgroup_get_limit(self, "high")

    @high.setter
    def high(self, size: Size) -> None:
        self._write_limit("high", size)

    @property
    def reserve(self) -> int:
        """How many bytes small requests may use past `max`.

        The default is 1/8 of `max`, and at least 16 MiB.
        """
        return mem_cgroup_get_limit(self, "reserve")

    @reserve.setter
    def reserve(self, size: Size) -> None:
        self._write_limit("reserve", size)

    @property
    def overdraft(self) -> int:
        """How many bytes requests up to 1 KiB may use past `reserve`.

        The default is as many as `reserve`.
        """
        return mem_cgroup_get_limit(self, "overdraft")

    @overdraft.setter
    def overdraft(self, size: Size) -> None:
        self._write_limit("overdraft", size)

    def _write_limit(self, which: str, size: Size, *, bare_is_binary: bool = False) -> None:
        """Store one of the limits, then reclaim if it is below the usage. Any thread may do it.

        A limit below the usage reclaims what it can and then holds for new charges. None stands
        for the default: no ``max``, and ``high``, ``reserve`` and ``overdraft`` derived from it.

        Raises
        ------
        ValueError
            `size` is not a size, or `which` is not a limit; nothing is changed.
        """
        parent = self.parent if isinstance(size, str) and "%" in size else None
        n = parse_size(
            size, of=parent.max if parent is not None else None, bare_is_binary=bare_is_binary
        )
        if which == "max":
            is_above = mem_cgroup_set_limit(self, which, n)
            if is_above and self.current > n:  # usage has what is free in slabs too
                try_to_free(self, self.current - n)
        elif which == "high":
            self._own_high = size is not None
            mem_cgroup_set_limit(self, which, n)
            if size is None:
                mem_cgroup_set_limit(self, "max", self.max)  # `high` follows it
        else:
            mem_cgroup_set_limit(self, _limit(which), -1 if size is None else n)

    # -- reclaim

    def shrinker(self, fn: Callable[[int], object]) -> Callable[[int], object]:
        """Register `fn`, which is called with the number of bytes to give back.

        A worker thread calls it when usage crosses `high`; the thread that crossed it waits, for at
        most 0.1 s. `reclaim` and a lowered `max` call it in their thread. `shrinker` returns `fn`,
        to be a decorator. Kernel: ``register_shrinker``, ``mem_cgroup_handle_over_high``.
        """
        know_main_thread()
        self.shrinkers.append(fn)
        core.mem_cgroup_set_has_shrinkers(self)
        return fn

    def reclaim(self, size: Size = "max") -> int:
        """Run the shrinkers of the group and of all below it, collect garbage, drop empty slabs.

        cgroup v2: ``memory.reclaim``.

        Parameters
        ----------
        size : int or str
            The bytes that the shrinkers are asked for.

        Returns
        -------
        int
            How many bytes `current` fell by; 0 if it grew.

        Raises
        ------
        ValueError
            `size` is not a size.
        Exception
            The first that a shrinker raised, after the rest was done.
        """
        return try_to_free(self, parse_size(size))

    # -- files

    def __getitem__(self, file: str) -> int | str | dict[str, int]:
        """Read a file of the group under its name in cgroup v2.

        Raises
        ------
        KeyError
            There is no such file; the text names those that there are.
        """
        found: int | str | dict[str, int] = _files().read(self, file)
        return found

    def __setitem__(self, file: str, size: Size) -> None:
        """Write a file of the group; a bare ``512M`` is binary here, as in the kernel.

        Raises
        ------
        MemcgError
            The file cannot be written.
        ValueError
            The file does not take this value; nothing is changed.
        """
        _files().write(self, file, size)

    @property
    def last_oom(self) -> Oom | None:
        """The last refusal or alarm of this group's limit or of one below; None if there was none.

        It is for an error that has no text, or that the program caught and dropped. ``owner`` is
        the path of the group whose limit it was, ``group`` the path of the group that asked. The
        other attributes are ``bytes``, ``limit`` and ``current`` in bytes, ``refused`` (false for
        an alarm) and ``time`` in seconds. Its text is the error's. Closing groups does not change
        it.
        """
        found = core.mem_cgroup_last_oom(self)
        if found is None:
            return None
        with core.unaccounted:
            from .oom import Oom

            return Oom(*found)

    @property
    def nr_dying(self) -> int:
        """How many groups below this one are closed but still referred to.

        cgroup v2: ``nr_dying_descendants``.
        """
        refuse_nested(self.path)
        with memcontrol.activate_kmem_mutex:
            return sum(self in core.ancestry(g) for g in memcontrol.dying if g is not self)

    def report(self) -> str:
        """Return a text with the figures of the group's tree and what still holds its memory."""
        with core.unaccounted:
            from .report import report

            return report(self)

    # -- closing

    def close(self, *, recursive: bool = False, wait: float = 0) -> None:
        """Take the group offline. What it still holds is charged to the parent from now on.

        A second call does nothing. Kernel: ``cgroup_rmdir``.

        Parameters
        ----------
        recursive : bool
            Close the groups below it too, the deepest first.
        wait : float
            How many seconds to wait until the threads and tasks inside have left.

        Raises
        ------
        GroupBusy
            Something is inside the group, or it has children and `recursive` is false, or it is
            the root. With `recursive`, groups below it may have been closed already.

        Notes
        -----
        In a finalizer or signal handler that has interrupted memcg's own work, the group is closed
        later, when the next group is made or closed. If that fails, the error is shown like an
        uncaught exception of a thread.
        """
        if is_nested():
            _deferred_closes.append((self, recursive))
            return
        if _deferred_closes:
            _run_deferred_closes()
        self._close(recursive, wait)

    def _close(self, recursive: bool, wait: float) -> None:
        if not wait and not (recursive and self.children):
            cgroup_rmdir(self)
            return
        end = time.monotonic() + wait if wait else 0.0
        for g in reversed(subtree(self)) if recursive else [self]:
            while True:
                try:
                    cgroup_rmdir(g)
                    break
                except GroupBusy:
                    if not g.nr_inside or time.monotonic() >= end:
                        raise
                    time.sleep(0.005)


root = Group("", None)
_deferred_closes: list[tuple[Group, bool]] = []  # they wait for the work that they interrupted


def _now() -> core.Memcg | None:
    try:
        return core.current()
    except MemcgError:  # the ContextVar holds a value that is not memcg's
        return None


def _run_deferred_closes() -> None:
    while _deferred_closes and not is_nested():
        group, recursive = _deferred_closes.pop()
        try:
            group._close(recursive, 0)
        except MemcgError as error:
            report_exception(error)


def group(path: str, **limits: Size) -> Group:
    """Return the group at `path`, and make it if there is none. The given limits are written.

    Parameters
    ----------
    path : str
        An absolute path such as ``"tenants/a"``. Parents that are missing are made without limits.
    **limits : int, str or None
        ``max``, ``high``, ``reserve`` and ``overdraft``, as `Group` takes them. Limits that are
        not given stay as they are.

    Raises
    ------
    ValueError
        The path, a size or the name of a limit is bad; nothing is made.
    MemcgError
        The group would be over a ``cgroup.max.descendants`` or ``cgroup.max.depth`` above it; or
        a finalizer or signal handler that has interrupted memcg's own work makes a new group.

    Examples
    --------
    >>> import memcg
    >>> with memcg.group("doc/a", max="1MiB") as g:
    ...     g.path
    'doc/a'
    >>> g.parent.close(recursive=True)
    """
    if limits:
        limits = _checked(path, limits)
    _run_deferred_closes()
    g = cgroup_mkdir(root, path)
    for which, size in limits.items():
        g._write_limit(which, size)
    return g


def _checked(path: str, limits: dict[str, Size]) -> dict[str, Size]:
    """Convert limits to bytes, and refuse what `_write_limit` would refuse, before a group is made.

    Percentages and None stay as they are, because only the group can resolve them.
    """
    for which, size in limits.items():
        _limit(which)
        if isinstance(size, str) and "%" in size:
            parse_size(size, of=_max_above(path))
        elif size is not None:
            limits[which] = parse_size(size)
    return limits


def _max_above(path: str) -> int:
    above = path.rpartition("/")[0]
    try:
        return (cgroup_find(root, above) if above else root).max
    except MemcgError:  # there is none yet: it will be made without limits
        return PAGE_COUNTER_MAX


class scope:
    """Enter a new group, and close it and the groups below it at the end.

    If the name is taken, the new group's name gets a number. As a decorator, `scope` makes a new
    group for each call. Several threads and tasks may use one object at the same time.

    Raises
    ------
    ValueError
        The path, a size or the name of a limit is bad; nothing is made.
    GroupBusy
        Something else is still inside the group when it is left.
    """

    def __init__(self, name: str, **limits: Size) -> None:
        self._name = name
        self._limits = _checked(name, limits) if limits else limits
        self._groups: dict[Group, None] = {}  # entered and not left yet, in any context

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        return _wrap(fn, lambda: self)

    def __enter__(self) -> Group:
        if _deferred_closes:
            _run_deferred_closes()
        g = cgroup_mkdir(root, self._name, exclusive=True)
        try:
            for which, size in self._limits.items():
                g._write_limit(which, size)
            core.enter(g)
            self._groups[g] = None
            return g
        except BaseException:
            if _now() is g:  # it was entered
                core.leave(g)
            g.close(recursive=True)
            raise

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        g = _now()
        if g not in self._groups:
            g = self._last_entered()
        del self._groups[g]
        try:
            core.leave(g, error)  # by two arguments: `*args` needs a tuple, which may be refused
        finally:
            if g.children or _deferred_closes or is_nested():
                g.close(recursive=True)
            else:
                cgroup_rmdir(g)

    def _last_entered(self) -> Group:
        if not self._groups:
            raise MemcgError(
                f"scope {self._name!r} is left, but it was not entered or was left already; enter "
                "it once for each time that it is left"
            )
        return next(reversed(self._groups))


def current() -> Group:
    """Return the innermost group of the running context, or the root.

    Raises
    ------
    MemcgError
        Other code has set memcg's ContextVar to a value of its own.
    """
    memcg = core.current()
    return memcg if isinstance(memcg, Group) else root


def walk(path: str = "") -> list[Group]:
    """List the group at `path` and all below it. Parents precede children; siblings are by name.

    Parameters
    ----------
    path : str
        The group to begin with; ``""`` stands for the root.

    Returns
    -------
    list of Group
        The groups that there were at one moment. When the list is read, some may be closed.

    Raises
    ------
    MemcgError
        There is no such group, or the caller is a finalizer or signal handler that has interrupted
        memcg's own work.
    """
    top = cgroup_find(root, path) if path else root
    return sorted(subtree(top), key=lambda g: g.path.split("/"))


def shield() -> core.Shield:
    """Defer `MemcgOOM` while in ``with memcg.shield():``.

    Like KeyboardInterrupt, `MemcgOOM` can be raised between any two steps of a group's Python code.
    The shield is for code that must not be cut in two there, for example while it holds a lock that
    other threads need. A request that is refused at once (64 KiB and more, `KmemCache`) is refused
    inside a shield too. A shield may be left in another context than it was entered in; it then
    ends in all contexts that have a copy of it.

    Raises
    ------
    MemcgError
        The shield is left more often than it was entered, or other code has set memcg's ContextVar
        to a value of its own.
    """
    return core.Shield()


def slabinfo(path: str = "") -> str:
    """Return a group's slabinfo in the kernel's format, version 2.1; ``""`` stands for the root.

    The unit of each figure is that of the kernel's /proc/slabinfo: objects, bytes, pages or slabs.

    Raises
    ------
    MemcgError
        There is no such group, or the caller is a finalizer or signal handler that has interrupted
        memcg's own work.
    """
    refuse_nested("slabinfo")
    if path:
        return memcontrol.mem_cgroup_slabinfo_read(cgroup_find(root, path))
    with slab_common.slab_mutex:
        lines = [
            slab_common.cache_show(s)
            for s in slab_common.slab_caches
            if slab_common.is_root_cache(s)
        ]
    return slab_common.print_slabinfo_header() + "".join(lines)
