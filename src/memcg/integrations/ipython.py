# SPDX-License-Identifier: Apache-2.0
"""The cells of a notebook run in the group ``notebook``, and the kernel outside of it.

The group is around `InteractiveShell.run_code`, which runs the code of a cell. What it calls of the
kernel runs in the root: the output streams, the display hook, every message and the traceback. An
alarm in the middle of a message would break the kernel for good. The root never has a limit here.

After an error at the limit, IPython would keep the traceback, and with it the objects that filled
the group: in ``sys.last_value``, `InteractiveTB`, the cell's result and ``Out``. All of it is let
go, so that the next cell runs.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from .. import core, groups
from ..control.cgroup import cgroup_mkdir
from ..display import SPARK_WIDTH, bar, spark
from ..errors import GroupBusy, MemcgError, MemcgOOM
from ..locking import spawn
from ..sizes import PAGE_COUNTER_MAX, format_size, parse_size
from .edge import find_oom, let_go
from .imports import charge_to_root
from .variables import biggest, explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..groups import Group

VARIABLE = "MEMCG_NOTEBOOK_MAX"
USAGE = (
    "%memcg limit SIZE | off | status | report | clear   (%%memcg SIZE limits one cell)\n"
    "  limit SIZE  limit what the notebook holds: 2GiB, 512MiB, bytes\n"
    "  off         no limit\n"
    "  status      what is held, what is left, and the biggest variables\n"
    "  report      the whole account\n"
    "  clear       let go of the results that IPython keeps (Out, _, the last error)"
)
_PLAIN = (bool, int, float, complex, str, bytes)
_SMALL = 4096  # bytes
READINGS_LEAST = 4
_LAST = ("last_type", "last_value", "last_traceback", "last_exc")


class Cell:
    """A cell that runs: its own group if it has one, or what is wrong with its first line."""

    def __init__(self, info: Any) -> None:
        self.info = info
        self.group: Group | None = None
        self.curve: Curve | None = None
        self.problem: Exception | None = None


class Curve:
    """A limited group's usage while a cell runs, read by a thread that ends with the cell.

    The thread reads twenty times a second, and less often the longer the cell runs.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.over = False
        self.readings: list[int] = []
        self.step = 0.05  # seconds
        spawn(self._watch, "memcg-cell")

    def _watch(self) -> None:
        core.stop_account()
        try:
            while not self.over:
                self.readings.append(self.group.current)
                if len(self.readings) > 2 * SPARK_WIDTH:
                    self.readings = self.readings[::2]
                    self.step *= 2
                time.sleep(self.step)
        finally:
            core.resume_account()

    def end(self) -> str:
        """Return the line of bars. It is empty for a cell too short to have a shape."""
        self.over = True
        readings = [*self.readings, self.group.current]
        if len(readings) < READINGS_LEAST:
            return ""
        width = -(-len(readings) // SPARK_WIDTH)  # readings for each bar
        bars = [max(readings[i : i + width]) for i in range(0, len(readings), width)]
        return "  " + spark(bars, len(bars))


class Cells:
    """The extension of one shell.

    Parameters
    ----------
    ip : IPython.core.interactiveshell.InteractiveShell
        The shell; with a kernel or without one.

    Raises
    ------
    MemcgError
        The root has a limit.
    ValueError
        The limit of the configuration or environment is not a size.
    """

    def __init__(self, ip: Any) -> None:
        if groups.root.max != PAGE_COUNTER_MAX:
            raise MemcgError(
                "the root group has a limit, and at that the kernel itself would break; start the "
                "kernel without it and use %memcg limit"
            )
        self.ip = ip
        self.group = groups.group("notebook")
        variable = os.environ.get(VARIABLE)
        self.most = parse_size(variable) if variable else None
        configured = ip.config.get("MemcgExtension", {}).get("max")
        self.cells: list[Cell] = []
        self.now = self.group  # of the part of a cell that runs
        self.number = 0
        self.busy: list[Group] = []  # tasks or threads that a cell left behind are inside
        self.met: tuple[BaseException, MemcgOOM] | None = None  # at the limit: raised, and shown
        self.saved: list[tuple[Any, str, Any]] = []
        self._limit(configured if configured is not None else self.most)

    # -- hooking the shell

    def load(self) -> None:
        """Run cells in the group from now on."""
        ip = self.ip
        self._run_code, self._showtraceback = ip.run_code, ip.showtraceback
        self._replace(ip, "run_code", self.run_code)
        self._replace(ip, "showtraceback", self.showtraceback)
        self._compute = ip.displayhook.compute_format_data
        self._replace(ip.displayhook, "compute_format_data", self.compute_format_data)
        self.hook = ip.display_trap.hook  # a trait, which has no place in `vars`
        ip.display_trap.hook = core.Bound(None, self.hook)
        if getattr(ip, "kernel", None) is not None:
            for owner, names in (
                (sys.stdout, ("write", "writelines", "flush")),
                (sys.stderr, ("write", "writelines", "flush")),
                (ip.display_pub, ("publish", "clear_output")),
                (ip.kernel.session, ("send",)),
                (ip.kernel, ("_input_request",)),
            ):
                for name in names:
                    self._replace(owner, name, core.Bound(None, getattr(owner, name)))
        ip.events.register("pre_run_cell", self.pre_run_cell)
        ip.events.register("post_run_cell", self.post_run_cell)
        ip.input_transformers_cleanup.append(without_first_line)
        ip.register_magic_function(core.Bound(None, self.magic), "line", "memcg")
        charge_to_root()

    def unload(self) -> None:
        """Run cells as before."""
        ip = self.ip
        for owner, name, value in reversed(self.saved):
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        self.saved.clear()
        ip.display_trap.hook = self.hook
        ip.events.unregister("pre_run_cell", self.pre_run_cell)
        ip.events.unregister("post_run_cell", self.post_run_cell)
        ip.input_transformers_cleanup.remove(without_first_line)
        del ip.magics_manager.magics["line"]["memcg"]

    def _replace(self, owner: Any, name: str, value: object) -> None:
        self.saved.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, value)

    # -- a cell

    def pre_run_cell(self, info: Any) -> None:
        """Make the group that a cell's first line asks for. Context: the root."""
        cell = Cell(info)
        if not self.cells:
            core.mem_cgroup_reset_peak(self.group)
        self.cells.append(cell)
        size = first_line(info.raw_cell)
        if size is not None:
            try:
                limit = parse_size(size)
                self.number += 1
                path = f"{self.group.path}/cell-{self.number}"
                cell.group = cgroup_mkdir(groups.root, path, exclusive=True)
                cell.group.max = limit
            except (MemcgError, ValueError) as error:
                cell.problem = error
        group = cell.group or self.group
        if group.max != PAGE_COUNTER_MAX and cell.problem is None:
            cell.curve = Curve(group)

    async def run_code(self, code: Any, result: Any = None, *, async_: bool = False) -> bool:
        """Run a part of a cell in its group; return whether it failed."""
        cell = self.cells[-1] if self.cells else None
        if cell is not None and cell.problem is not None:
            self._show_alone(cell.problem, result)
            return True
        group = cell.group if cell is not None and cell.group is not None else self.group
        before, self.now = self.now, group
        try:
            with group:
                failed: bool = await self._run_code(code, result, async_=async_)
        except MemoryError as error:  # of an alarm that was pending when the group was left
            failed = True
            self._show_alone(error, result)
        finally:
            self.now = before
        if self.met is not None:
            raised, shown = self.met
            self.met = None
            if result is not None:
                result.error_in_exec = shown
            self._let_go(raised)
            del raised
            gc.collect()
            self.group.reclaim()
        return failed

    def compute_format_data(self, result: object) -> Any:
        """Make texts of a result in the cell's group, from the display hook, which is in the root.

        No alarm is raised in the middle of it. A small value of a builtin type runs no code of the
        user's; its texts are made in the root, so that it is shown even while a variable fills the
        limit.
        """
        if type(result) in _PLAIN and sys.getsizeof(result) < _SMALL:
            return self._compute(result)
        with self.now, groups.shield():
            return self._compute(result)

    def post_run_cell(self, result: Any) -> None:
        """Show what is left, and close the cell's group. Context: the root."""
        cell, curve = None, ""
        while self.cells and cell is None:
            last = self.cells.pop()
            cell = last if last.info is getattr(result, "info", None) or not self.cells else None
            curve = last.curve.end() if last.curve is not None else ""
            if last.group is not None:
                self.busy.append(last.group)
                self._status_line(last.group, curve)
        if cell is not None and cell.group is None and not self.cells:
            self._status_line(self.group, curve)
        self._close_busy()

    def _close_busy(self) -> None:
        still = []
        for group in self.busy:
            try:
                group.close(recursive=True)
            except GroupBusy:
                still.append(group)
        self.busy = still

    def _status_line(self, group: Group, curve: str) -> None:
        limit = group.max
        if limit != PAGE_COUNTER_MAX:
            left = max(limit - group.current, 0)
            print(
                f"memcg: peak {format_size(group.peak)}, {format_size(left)} left of "
                f"{format_size(limit)}{curve}"
            )

    # -- errors

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show an error, outside the group in which it was raised."""
        error = exc_tuple[1] if exc_tuple is not None else sys.exc_info()[1]
        core.explain(error)
        core.Bound(None, self._show)(error, exc_tuple, *args, **kwargs)

    def _show_alone(self, error: BaseException, result: Any) -> None:
        if result is not None:
            result.error_in_exec = error
        try:
            raise error
        except Exception:
            self.ip.showtraceback()

    def _show(self, error: BaseException | None, exc_tuple: Any, *args: Any, **kwargs: Any) -> None:
        oom = find_oom(error) if error is not None else None
        if error is None or oom is None:
            self._showtraceback(exc_tuple, *args, **kwargs)
            return
        names = self.ip.user_ns
        shown = explained(oom, error.__traceback__, names, self._variables())
        shown.__cause__, shown.__context__ = error.__cause__, error.__context__
        shown.__suppress_context__ = error.__suppress_context__
        self._showtraceback((MemcgOOM, shown, error.__traceback__), *args, **kwargs)
        shown.__cause__ = shown.__context__ = None
        self.met = error, shown

    def _variables(self) -> Iterator[tuple[str, object]]:
        """Yield the notebook's variables, and the results that IPython keeps."""
        hidden = self.ip.user_ns_hidden
        for name, o in list(self.ip.user_ns.items()):
            if not name.startswith("_") and name not in hidden:
                yield name, o
        for number, o in list(self.ip.user_ns.get("_oh", {}).items()):
            yield f"Out[{number}]", o

    def _let_go(self, error: BaseException) -> None:
        """Drop what IPython and Python keep of an error."""
        let_go(error)
        error.__traceback__ = None
        for name in _LAST:
            vars(sys).pop(name, None)
        for shower in (self.ip.InteractiveTB, self.ip.SyntaxTB):
            shower.tb = None
        last = self.ip.last_execution_result
        if last is not None and last.error_in_exec is not None:
            last.error_in_exec.__traceback__ = None

    # -- the magic

    def magic(self, line: str) -> None:
        """Do what a line ``%memcg ...`` says. Context: the root."""
        verb, _, rest = line.strip().partition(" ")
        if verb == "limit" and rest.strip() and rest.strip() != "off":
            self._limit(rest.strip(), by_user=True)
        elif verb == "off" or (verb == "limit" and rest.strip() == "off"):
            self._limit(None, by_user=True)
        elif verb == "report":
            print(self.group.report())
            return
        elif verb == "clear":
            self._clear()
        elif verb not in ("status", ""):
            print(USAGE)
            return
        self._status()

    def _limit(self, size: Any, *, by_user: bool = False) -> None:
        limit = PAGE_COUNTER_MAX if size is None else parse_size(size)
        if by_user and self.most is not None and limit > self.most:
            raise MemcgError(
                f"the limit cannot be above {format_size(self.most)}, which {VARIABLE} sets; ask "
                "the administrator of this notebook server for more"
            )
        self.group.max = limit

    def _status(self) -> None:
        limit, current = self.group.max, self.group.current
        left = ""
        if limit != PAGE_COUNTER_MAX:
            left = f", {format_size(max(limit - current, 0))} left  {bar(current, limit)}"
        print(
            f"memcg: {format_size(current)} held, limit "
            f"{'none' if limit == PAGE_COUNTER_MAX else format_size(limit)}{left}"
        )
        for line in biggest(self._variables()):
            print(line)

    def _clear(self) -> None:
        before = self.group.current
        self.ip.displayhook.flush()
        for name in ("_", "__", "___"):  # `flush` forgets these
            if name in self.ip.user_ns_hidden:
                self.ip.user_ns_hidden[name] = self.ip.user_ns.get(name)
        for name in _LAST:
            vars(sys).pop(name, None)
        for shower in (self.ip.InteractiveTB, self.ip.SyntaxTB):
            shower.tb = None
        gc.collect()
        self.group.reclaim()
        print(f"memcg: {format_size(max(before - self.group.current, 0))} given back")


def first_line(text: str) -> str | None:
    """Return the size of a cell that begins with ``%%memcg SIZE``, else None."""
    words = text.lstrip().partition("\n")[0].split()
    return " ".join(words[1:]) if words[:1] == ["%%memcg"] else None


def without_first_line(lines: list[str]) -> list[str]:
    """Blank the line ``%%memcg SIZE``, so that the rest runs as any cell: with ``await`` too."""
    for at, line in enumerate(lines):
        if line.strip():
            if first_line(line) is None:
                return lines
            rest = lines[at + 1 :]
            return rest if rest and rest[0].startswith("%%") else [*lines[:at], "\n", *rest]
    return lines


_loaded: dict[int, Cells] = {}


def load(ip: Any) -> None:
    """Load the extension into a shell. A second call does nothing."""
    if id(ip) not in _loaded:
        cells = Cells(ip)
        cells.load()
        _loaded[id(ip)] = cells


def unload(ip: Any) -> None:
    """Unload the extension. The group stays, with what it holds."""
    if id(ip) in _loaded:
        _loaded.pop(id(ip)).unload()
