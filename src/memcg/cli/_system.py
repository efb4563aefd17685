# SPDX-License-Identifier: Apache-2.0
"""The command line reaches what limits and charges this process only through `System`.

`run` and `report` ask a `System`, and a test passes one that installs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from opcode import opmap  # install() imports it too, so it costs nothing
from typing import Any, NamedTuple

import memcg
from memcg import core
from memcg.core.dataplane import PAGE_SIZE
from memcg.sizes import PAGE_COUNTER_MAX, format_size


class CacheLine(NamedTuple):
    """A line of slabinfo. Sizes are in bytes."""

    group: str
    name: str
    size: int
    active_objs: int
    num_objs: int
    objsize: int


def core_name() -> str:
    """Return ``native`` or ``model``."""
    return str(core.name)


def core_reason() -> str:
    """Return why this core was picked."""
    if wanted := os.environ.get("MEMCG_CORE"):
        return f"MEMCG_CORE={wanted}"
    if core_name() == "native":
        return "compiled, in use"
    return core.why_not_native


def resident() -> tuple[int, int]:
    """Return the resident set of this process and its peak, in bytes; 0 and 0 if unknown."""
    found = {b"VmRSS": 0, b"VmHWM": 0}
    try:
        with open("/proc/self/status", "rb") as status:  # text would import and charge a codec
            for line in status:
                name, _, value = line.partition(b":")
                if name in found:
                    found[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return found[b"VmRSS"], max(found.values())


class System:
    """This process and its limits."""

    _root_limits: tuple[int, int] | None = None  # the limits that `room` will put back

    def install(self) -> None:
        """Install memcg's hooks.

        Raises
        ------
        MemcgError
            They cannot be installed in this process; the text says why.
        """
        memcg.install()

    def follow_groups(self) -> None:
        """Have threads that C code has started charge the groups that are entered."""
        memcg.install(pools=True)

    def publish(self, control: str | None) -> None:
        """Publish the figures, and with `control` ("read" or "write") serve a socket.

        Raises
        ------
        MemcgError
            There is no folder for it; the text says what to do.
        """
        if control:
            memcg.serve(writable=control == "write")
        else:
            memcg.publish()

    def trace(self, every: int | None, path: str | None) -> None:
        """Sample what all groups allocate, for a profile in the file `path` too.

        Raises
        ------
        ValueError
            The distance of samples is out of its range, or the file's name tells no format.
        """
        from memcg import profiles, tracing

        if path is not None:
            profiles.encoder_of(path)
        tracing.trace("", every=tracing.DEFAULT_EVERY if every is None else every)

    def set_limits(self, max: int | None, high: int | None, oom_group: bool = False) -> None:
        """Write the root's limits in bytes. None leaves a limit as it is."""
        root: Any = memcg.root
        if max is not None:
            root.max = max
        if high is not None:
            root.high = high
        root.oom_group = oom_group
        if root.current > root.max:
            # The program may be so small that free slots of slabs serve it. This is larger than any
            # size class, so pages are charged and the alarm is set.
            bytearray(10 * PAGE_SIZE)

    def failure(self, error: BaseException) -> str | None:
        """Return the one-line account of an error that memcg caused; None for any other error.

        memcg caused an exception group if it caused all its exceptions.
        """
        if isinstance(error, BaseExceptionGroup):
            accounts = [self.failure(inner) for inner in error.exceptions]
            return accounts[0] if all(accounts) else None
        if isinstance(error, memcg.MemcgOOM):
            text = _one_line(str(error)) or _noted(error)
            return text or self._last_failure() or self._over_limit()
        # Some of CPython's C code makes a SystemError of a refused allocation. 3.11 does so when it
        # cannot push a frame.
        if isinstance(error, MemoryError | SystemError):
            if noted := _noted(error):
                return noted
            account = self._last_failure()
            if account is None or not _raised_by_statement(error):
                return account
            # The program raised it. The account is of an earlier refusal, which the program has
            # caught, unless this error was raised because of it.
            before = error.__cause__ or error.__context__
            return account if isinstance(before, MemoryError) else None
        return None

    def _last_failure(self) -> str | None:
        return _one_line(core.last_failure() or "") or None

    def _over_limit(self) -> str:
        # An alarm that was raised as a class may have no text of its own.
        limited = [g for g in self.groups() if g.max < PAGE_COUNTER_MAX]
        group = max(limited, key=lambda g: g.current / max(g.max, 1), default=memcg.root)
        name = repr(group.path or "/")
        return (
            f"group {name}: charges passed memory.max (current {format_size(group.current)}, "
            f"max {format_size(group.max)}); raise memory.max or free memory in {name}"
        )

    def explain_in_threads(self) -> None:
        """Make the report of a thread that ends with a MemoryError contain its account.

        For a thread in a group, leaving the group adds the account. A thread in the root leaves no
        group. If ``threading`` is imported later, it takes its ``excepthook`` from here.
        """
        if core.name != "native":
            return
        import _thread

        show = _thread._excepthook

        def excepthook(args: Any, /) -> None:
            core.explain(args.exc_value)
            show(args)

        _thread._excepthook = excepthook
        threading: Any = sys.modules.get("threading")
        if threading and threading.excepthook is show:
            threading.excepthook = threading.__excepthook__ = excepthook

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hold the root's alarms back and forget them at the end, because the program is over."""
        with memcg.shield():
            yield
            if core.name == "native":
                core.forget_alarms()

    @contextmanager
    def room(self) -> Iterator[None]:
        """Lift the root's limits and hold alarms back, so that the process can say what ended it.

        The kernel, too, lets a task that is being killed use reserves. The limits are put back
        afterwards, because atexit handlers run under them. Meanwhile `limits` still returns them.
        """
        root: Any = memcg.root
        self._root_limits = limits = self.limits(root)
        root.max = root.high = PAGE_COUNTER_MAX
        done = False
        try:
            with memcg.shield():
                yield
                done = True
        except memcg.MemcgOOM:
            if not done:
                raise
            # An alarm that the shield has held back says what the caller has just said.
        finally:
            root.max, root.high = limits
            self._root_limits = None

    def limits(self, group: Any) -> tuple[int, int]:
        """Return the program's ``memory.max`` and ``memory.high`` of a group, in bytes."""
        if group is memcg.root and self._root_limits is not None:
            return self._root_limits
        return group.max, group.high

    def lift_limits(self) -> None:
        """Take the root's limits away, because the program is over.

        CPython's finalization builds lists and dicts of all modules. If one is refused, it leaves a
        step undone and prints ``MemoryError``.
        """
        root: Any = memcg.root
        root.max = root.high = PAGE_COUNTER_MAX

    # -- reading

    def groups(self) -> Iterator[Any]:
        """Yield every group: parents before children, siblings with the biggest peak first."""
        waiting: list[Any] = [memcg.root]
        while waiting:
            group = waiting.pop()
            yield group
            waiting += sorted(list(group.children.values()), key=lambda g: g.peak)

    def stat(self, group: Any) -> dict[str, int]:
        """Return a group's ``memory.stat``."""
        return dict(group["memory.stat"])

    def caches(self) -> list[CacheLine]:
        """Return every slab cache that holds pages, the biggest first."""
        lines = []
        for group in self.groups():
            if group.path and not group.memcg_slab_caches:
                continue
            try:
                text = memcg.slabinfo(group.path)
            except memcg.MemcgError:  # the group was closed meanwhile
                continue
            lines += parse_slabinfo(group.path, text)
        return sorted((c for c in lines if c.size), key=lambda c: -c.size)


def parse_slabinfo(group: str, text: str) -> list[CacheLine]:
    """Read the kernel's ``slabinfo - version: 2.1``.

    >>> parse_slabinfo("a", "slabinfo - version: 2.1\\n# name ...\\n"
    ...     "kmalloc-64 3 64 64 64 1 : tunables 0 0 0 : slabdata 1 1 0\\n")
    [CacheLine(group='a', name='kmalloc-64', size=4096, active_objs=3, num_objs=64, objsize=64)]
    """
    lines = []
    for line in text.splitlines():
        if line.startswith(("slabinfo", "#")) or not line.strip():
            continue
        head, _, data = line.rpartition(": slabdata")
        name, active, objs, objsize, _, pages = head.partition(":")[0].rsplit(None, 5)
        size = int(data.split()[1]) * int(pages) * PAGE_SIZE
        lines.append(CacheLine(group, name.strip(), size, int(active), int(objs), int(objsize)))
    return lines


def _noted(error: BaseException) -> str | None:
    # Leaving a group adds the account to the exception, and deletes the thread's.
    for note in (*error.args[:1], *getattr(error, "__notes__", ())):
        if isinstance(note, str) and note.startswith("group ") and "memory.max" in note:
            return _one_line(note)
    return None


def _raised_by_statement(error: BaseException) -> bool:
    tb = error.__traceback__
    if tb is None:
        return False
    while tb.tb_next is not None:
        tb = tb.tb_next
    return tb.tb_frame.f_code.co_code[tb.tb_lasti] == opmap["RAISE_VARARGS"]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def complain(text: str) -> None:
    """Write a line to the program's stderr, or to the process's if that fails."""
    for stream in (sys.stderr, sys.__stderr__):
        try:
            if stream is not None:
                stream.write(f"{text}\n")
                stream.flush()
                return
        except (OSError, ValueError, AttributeError):
            continue
