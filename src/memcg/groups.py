# SPDX-License-Identifier: Apache-2.0
"""Groups as users hold them: limits, reading, entering, closing."""

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
from .core import (
    ancestry,
    mem_cgroup_events_local,
    mem_cgroup_get_limit,
    mem_cgroup_last_oom,
    mem_cgroup_reset_peak,
    mem_cgroup_set_limit,
)  # fmt: skip
from .errors import GroupBusy, MemcgError
from .locking import know_main_thread, report_exception
from .sizes import PAGE_COUNTER_MAX, format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
    from typing import ParamSpec, TypeVar, overload

    from .oom import Oom

    P = ParamSpec("P")
    R = TypeVar("R")

Size = int | str | None

LIMITS = ("max", "high", "reserve", "overdraft")
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


def _limit(which: str) -> str:
    if which not in LIMITS:
        raise ValueError(f"{which!r} is not a limit of a group; write one of {', '.join(LIMITS)}")
    return which


def _count(file: str, value: Size) -> int | None:
    """A number of groups or levels; None: any."""
    if value is None or (isinstance(value, str) and value.strip() == "max"):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError
        if (n := int(value)) >= 0:
            return n
    except ValueError:
        pass
    raise ValueError(f"{file} takes a number from 0 on, or 'max', not {value!r}")


def _wrap(fn: Callable[P, R], place: Callable[[], Group | scope]) -> Callable[P, R]:
    import functools

    @functools.wraps(fn)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with place():
            return fn(*args, **kwargs)

    return inside


class Group(cgroup):
    """A memory control group. Made by `group` and `scope`; ``with group:`` enters it.

    Sizes are ints in bytes when read; when written also ``"256MiB"``, ``"max"`` or ``"50%"`` of
    the parent's ``memory.max``. Entering nests and is reentrant; leaving does not close.
    """

    children: dict[str, Group]  # type: ignore[assignment]
    parent: Group | None
    _own_high = False  # memory.high was written; else it follows memory.max

    def __repr__(self) -> str:
        state = "" if self.online else " closed"
        return f"<memcg.Group {self.path or '/'!r}{state} current={format_size(self.current)}>"

    # -- being inside

    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn` inside the group."""
        with self:
            return fn(*args, **kwargs)

    def wrap(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return a function that calls `fn` inside the group."""
        return _wrap(fn, lambda: self)

    if TYPE_CHECKING:

        @overload
        def iterate(self, iterable: Iterable[R]) -> Generator[R, None, None]: ...
        @overload
        def iterate(self, iterable: AsyncIterable[R]) -> AsyncGenerator[R, None]: ...

    def iterate(
        self, iterable: Iterable[R] | AsyncIterable[R]
    ) -> Generator[R, None, None] | AsyncGenerator[R, None]:
        """Run each step of an iterator inside the group, its consumer outside.

        A ``with group:`` in the generator itself would leak into the consumer.

        Parameters
        ----------
        iterable : iterable or async iterable
            What is both is taken as the first.

        Returns
        -------
        generator or async generator
            As `iterable` is. To close the latter early closes an async generator under it, inside
            the group.
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
            if hasattr(type(steps), "athrow"):  # a generator; a stream is not ours to close
                if self.online:
                    with self:
                        await steps.aclose()  # type: ignore[attr-defined]
                else:  # closed by the consumer
                    await steps.aclose()  # type: ignore[attr-defined]

    # -- limits

    @property
    def max(self) -> int:
        """The limit in bytes. cgroup v2: ``memory.max``."""
        return mem_cgroup_get_limit(self, "max")

    @max.setter
    def max(self, size: Size) -> None:
        self._write_limit("max", size)

    @property
    def high(self) -> int:
        """Where reclaim starts, in bytes; by default 7/8 of `max`. cgroup v2: ``memory.high``."""
        return mem_cgroup_get_limit(self, "high")

    @high.setter
    def high(self, size: Size) -> None:
        self._write_limit("high", size)

    @property
    def reserve(self) -> int:
        """Bytes past `max` for small requests; by default 1/8 of `max`, at least 16 MiB."""
        return mem_cgroup_get_limit(self, "reserve")

    @reserve.setter
    def reserve(self, size: Size) -> None:
        self._write_limit("reserve", size)

    @property
    def overdraft(self) -> int:
        """Bytes past `reserve` for requests up to 1 KiB; by default as many as `reserve`."""
        return mem_cgroup_get_limit(self, "overdraft")

    @overdraft.setter
    def overdraft(self, size: Size) -> None:
        self._write_limit("overdraft", size)

    def _write_limit(self, which: str, size: Size, *, bare_is_binary: bool = False) -> None:
        """Write one of the limits: one store, from any thread, then reclaim.

        A limit below the use reclaims what it can and then holds for new charges. None is the
        default: no ``max``, and ``high``, ``reserve`` and ``overdraft`` derived from it.

        Raises
        ------
        ValueError
            `size` is not a size, or `which` is not a limit; nothing changed.
        """
        parent = self.parent
        n = parse_size(
            size, of=parent.max if parent is not None else None, bare_is_binary=bare_is_binary
        )
        if _limit(which) in ("reserve", "overdraft"):
            mem_cgroup_set_limit(self, which, -1 if size is None else n)
            return
        mem_cgroup_set_limit(self, which, n)
        if which == "high":
            self._own_high = size is not None
        if not self._own_high:
            limit = self.max
            high = limit if limit == PAGE_COUNTER_MAX else limit * 7 // 8
            mem_cgroup_set_limit(self, "high", high)
        if which == "max" and self.current > n:
            try_to_free(self, self.current - n)

    # -- reclaim

    def shrinker(self, fn: Callable[[int], object]) -> Callable[[int], object]:
        """Have `fn` called with a number of bytes to give back; usable as a decorator.

        It runs in a thread of its own when `high` is crossed, and in `reclaim`. Kernel:
        ``register_shrinker``.
        """
        know_main_thread()
        self.shrinkers.append(fn)
        return fn

    def reclaim(self, size: Size = "max") -> int:
        """Run shrinkers here and below, collect garbage, drop empty slabs. ``memory.reclaim``.

        Returns
        -------
        int
            Bytes by which `current` fell.
        """
        return try_to_free(self, parse_size(size))

    # -- files

    def __getitem__(self, file: str) -> int | str | dict[str, int]:
        """Read a file of the group under its name in cgroup v2.

        Raises
        ------
        KeyError
            There is no such file; the text names all.
        """
        match file:
            case "memory.current":
                return self.current
            case "memory.peak":
                return self.peak
            case "memory.max" | "memory.high" | "memory.reserve" | "memory.overdraft":
                return mem_cgroup_get_limit(self, file.removeprefix("memory."))
            case "memory.oom.group":
                return int(self.oom_group)
            case "memory.events":
                return self.events
            case "memory.events.local":
                return mem_cgroup_events_local(self)
            case "memory.stat":
                return self.stat
            case "memory.kmem.slabinfo":
                refuse_nested(self.path)
                return memcontrol.mem_cgroup_slabinfo_read(self)
            case "cgroup.stat":
                return {
                    "nr_descendants": len(subtree(self)) - 1,
                    "nr_dying_descendants": self.nr_dying,
                }
            case "cgroup.max.descendants":
                return "max" if self._max_descendants is None else self._max_descendants
            case "cgroup.max.depth":
                return "max" if self._max_depth is None else self._max_depth
        raise KeyError(f"a group has no file {file!r}; it has {', '.join(READABLE)}")

    def __setitem__(self, file: str, size: Size) -> None:
        """Write a file of the group; a bare ``512M`` is binary here, as in the kernel.

        Raises
        ------
        MemcgError
            The file cannot be written.
        ValueError
            The value is none that the file takes; nothing changed.
        """
        if file not in WRITABLE:
            raise MemcgError(f"{file!r} cannot be written; one can write {', '.join(WRITABLE)}")
        if file == "memory.peak":
            mem_cgroup_reset_peak(self)
        elif file == "memory.oom.group":
            if size not in (0, 1, "0", "1"):
                raise ValueError(f"memory.oom.group is 0 or 1, not {size!r}")
            self.oom_group = bool(int(size))
        elif file == "cgroup.max.descendants":
            self._max_descendants = _count(file, size)
        elif file == "cgroup.max.depth":
            self._max_depth = _count(file, size)
        elif file == "memory.reclaim":
            try_to_free(self, parse_size(size, bare_is_binary=True))
        else:
            self._write_limit(file.removeprefix("memory."), size, bare_is_binary=True)

    @property
    def last_oom(self) -> Oom | None:
        """The last refusal or alarm of this group's limit or of one below; None: never.

        For an error that has no text, or was caught and dropped. Its attributes are ``bytes``,
        ``limit``, ``owner`` and ``group`` (paths: whose limit it was, which asked), ``current``,
        ``refused`` and ``time``; its text is the error's. It stays when groups are closed.
        """
        found = mem_cgroup_last_oom(self)
        if found is None:
            return None
        core.stop_account()  # the first import happens to be in the group
        try:
            from .oom import Oom

            return Oom(*found)
        finally:
            core.resume_account()

    @property
    def nr_dying(self) -> int:
        """Closed groups below this one that something still refers to."""
        refuse_nested(self.path)
        with memcontrol.activate_kmem_mutex:
            return sum(self in ancestry(g) for g in memcontrol.dying if g is not self)

    def report(self) -> str:
        """Account for the group: figures of its tree, and what still holds memory."""
        core.stop_account()  # what it takes to tell, the first import above all, is nobody's
        try:
            from .report import report

            return report(self)
        finally:
            core.resume_account()

    # -- closing

    def close(self, *, recursive: bool = False, wait: float = 0) -> None:
        """Take the group offline; what it still holds is charged to the parent from now on.

        Parameters
        ----------
        recursive : bool
            Close its children too, deepest first.
        wait : float
            Seconds to wait for those inside to leave.

        Raises
        ------
        GroupBusy
            Something is inside, it has children and `recursive` is false, or it is the root.
            Nothing was closed but, with `recursive`, children.

        Notes
        -----
        In a finalizer or signal handler that has interrupted memcg's own work the group is closed
        later: when the next group is made or closed. What that raises is shown like an uncaught
        exception of a thread.
        """
        if is_nested():
            _deferred_closes.append((self, recursive))
            return
        _run_deferred_closes()
        self._close(recursive, wait)

    def _close(self, recursive: bool, wait: float) -> None:
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
_deferred_closes: list[tuple[Group, bool]] = []  # closings that wait for what they interrupted


def _now() -> core.Memcg | None:
    try:
        return core.current()
    except MemcgError:  # the ContextVar holds a value of others
        return None


def _run_deferred_closes() -> None:
    while _deferred_closes and not is_nested():
        group, recursive = _deferred_closes.pop()
        try:
            group._close(recursive, 0)
        except MemcgError as error:
            report_exception(error)


def group(path: str, **limits: Size) -> Group:
    """Get the group at `path` or make it; given limits are written, others stay.

    Parameters
    ----------
    path : str
        Absolute, as ``"tenants/a"``; parents are made without limits.
    **limits
        ``max``, ``high``, ``reserve`` and ``overdraft``.

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
    limits = _checked(path, limits)
    _run_deferred_closes()
    g = cgroup_mkdir(root, path)
    for which, size in limits.items():
        g._write_limit(which, size)
    return g


def _checked(path: str, limits: dict[str, Size]) -> dict[str, Size]:
    """Convert limits to bytes. Percentages and None stay as they are: only the group can resolve
    them. What `_write_limit` would refuse is refused before anything is made or written."""
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
    except MemcgError:  # it will be made, without limits
        return PAGE_COUNTER_MAX


class scope:
    """Enter a new group and close it at the end; a taken name gets a number.

    As a decorator: a new group for each call. Threads and tasks may use one object at a time.

    Raises
    ------
    ValueError
        A bad path, size or limit; nothing was made.
    """

    def __init__(self, name: str, **limits: Size) -> None:
        self._name = name
        self._limits = _checked(name, limits)
        self._groups: dict[Group, None] = {}  # entered and not left, in whatever context

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        return _wrap(fn, lambda: self)

    def __enter__(self) -> Group:
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
        g = self._innermost()
        del self._groups[g]
        try:
            core.leave(g, error)  # not a call that needs a tuple: there may be no memory for it
        finally:
            g.close(recursive=True)

    def _innermost(self) -> Group:
        innermost = _now()
        if isinstance(innermost, Group) and innermost in self._groups:
            return innermost
        if not self._groups:
            raise MemcgError(
                f"scope {self._name!r} is left, but it was not entered, or was left already; enter "
                "it once for each time that it is left"
            )
        return next(reversed(self._groups))


def current() -> Group:
    """The innermost group of the running context.

    Raises
    ------
    MemcgError
        Others have set memcg's ContextVar to a value of their own.
    """
    memcg = core.current()
    return memcg if isinstance(memcg, Group) else root


def walk(path: str = "") -> list[Group]:
    """List the group at `path` and all below it: parents first, siblings by name.

    Parameters
    ----------
    path : str
        Where to begin; the root for ``""``.

    Returns
    -------
    list of Group
        As they were at one moment: others may be closed, or new, when it is read.

    Raises
    ------
    MemcgError
        There is no such group; or a finalizer or signal handler calls that has interrupted memcg's
        own work.
    """
    top = cgroup_find(root, path) if path else root
    return sorted(subtree(top), key=lambda g: g.path.split("/"))


def shield() -> core.Shield:
    """Defer `MemcgOOM` while in ``with memcg.shield():``.

    For code that must not be cut in two, as when it holds a lock that is shared with others:
    like KeyboardInterrupt, `MemcgOOM` can come between any two steps of a group's Python code.
    What is refused at once (64 KiB and more, `KmemCache`) is refused here too. It may be left in
    another context than it was entered in, and ends in all that have a copy of it.

    Raises
    ------
    MemcgError
        It is left more often than it was entered, or others have set memcg's ContextVar to a value
        of their own.
    """
    return core.Shield()


def slabinfo(path: str = "") -> str:
    """Return a group's slabinfo in the kernel's format, version 2.1; the root's for ``""``.

    Raises
    ------
    MemcgError
        There is no such group.
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
