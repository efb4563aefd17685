# SPDX-License-Identifier: Apache-2.0
"""The account of a process has the groups, what they hold, and how much of the RSS is charged."""

from __future__ import annotations

import atexit
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Any

from memcg import __version__, root
from memcg.integrations.allocators import uncovered

# This is imported before the program runs. It makes named tuples, which use eval(), and an eval()
# makes CPython forget that a KeyboardInterrupt ended the program.
from memcg.report import holders, sites_of
from memcg.sizes import PAGE_COUNTER_MAX, format_size

from ._system import resident

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._system import System

GROUPS_SHOWN = 40  # they and the caches fill two screens
CACHES_SHOWN = 10
KINDS_SHOWN = 10


def at_exit(
    system: System,
    program: list[str],
    to_stderr: bool,
    paths: dict[str, str | None],
) -> None:
    """Write the account when this process ends. A forked child does not write one.

    Parameters
    ----------
    system : System
        What the command knows of the process.
    program : list of str
        The program and its arguments.
    to_stderr : bool
        Whether it is written to stderr.
    paths : dict
        The files for ``json``, ``html`` and ``trace``; None: it is not written.

    Notes
    -----
    Context: before the program starts, because atexit runs last what was registered first.
    """
    pid = os.getpid()

    def write() -> None:
        if os.getpid() != pid:
            return
        with system.room():
            ended = time.time()
            sites = sites_of(root)  # first: an account allocates
            account = collect(system, program)
            account["time"], account["sites"] = ended, sites
            if to_stderr:
                _to_stderr(render(account))
            for kind, write_account in (
                ("json", write_json), ("html", _html(system)), ("trace", _write_trace),
            ):  # fmt: skip
                if (path := paths.get(kind)) is not None:
                    try:
                        write_account(path, account)
                    except OSError as error:
                        _to_stderr(f"memcg: cannot write {path!r}: {error.strerror}\n")

    atexit.register(write)


def collect(system: System, program: list[str]) -> dict[str, Any]:
    """Return the account. Sizes are in bytes; a limit is None where there is none."""
    groups = [_read_group(system, group) for group in system.groups()]
    rss, rss_peak = resident()
    held = holders(root)
    return {
        "memcg": __version__,
        "python": sys.version.split()[0],
        "program": program,
        "pid": os.getpid(),
        "rss": rss,
        "rss_peak": rss_peak,
        "charged": groups[0]["current"],
        "charged_peak": groups[0]["peak"],
        "uncovered": [library._asdict() for library in uncovered()],
        "groups": groups,
        "caches": [cache._asdict() for cache in system.caches()],
        "held": [holder._asdict() for holder in held.kinds],
        "biggest": held.biggest,
    }


def _html(system: System) -> Callable[[str, dict[str, Any]], None]:
    def write(path: str, account: dict[str, Any]) -> None:
        from ._html.ended import render  # not before it is needed

        write_whole(path, render(system, account).encode())

    return write


def _write_trace(path: str, account: dict[str, Any]) -> None:
    from memcg.profiles import encode
    from memcg.sites import from_dict

    found = from_dict(account["sites"])
    write_whole(path, encode(found, path, f"live bytes of {account['program'][0]}"))


def _read_group(system: System, group: Any) -> dict[str, Any]:
    max_, high = system.limits(group)
    return {
        "path": group.path,
        "current": group.current,
        "peak": group.peak,
        "max": _limit(max_),
        "high": _limit(high),
        "events": dict(group.events),
        "stat": system.stat(group),
    }


def _limit(n: int) -> int | None:
    return None if n >= PAGE_COUNTER_MAX else n


# -- for people


def render(account: dict[str, Any]) -> str:
    """Return an account as text."""
    charged, rss = account["charged"], account["rss"]
    if charged <= rss:
        now = f"charged {format_size(charged)} of {format_size(rss)} resident "
        now += f"({100 * charged / rss:.0f} %)" if rss else ""
    else:
        now = f"charged {format_size(charged)}, resident {format_size(rss)} "
        now += "(pages that are not touched yet are charged too)"
    lines = [
        f"memcg: {now}; peak charged {format_size(account['charged_peak'])}, "
        f"peak resident {format_size(account['rss_peak'])}"
    ]
    for library in account.get("uncovered", ()):
        lines.append(f"not charged: {uncovered_line(library)}")
    groups = account["groups"]
    rows: list[tuple[str, ...]] = [("group", "current", "peak", "max", "high", "events")]
    rows += [_group_row(group) for group in groups[:GROUPS_SHOWN]]
    lines += _table(rows, "<>>>><")
    if len(groups) > GROUPS_SHOWN:
        lines.append(f"... and {len(groups) - GROUPS_SHOWN} more groups; --json has them all")
    if caches := account["caches"]:
        rows = [("biggest caches", "size", "objects", "of", "group")]
        rows += [
            (
                c["name"],
                format_size(c["size"]),
                f"{c['active_objs']}/{c['num_objs']}",
                format_size(c["objsize"]),
                c["group"] or "/",
            )
            for c in caches[:CACHES_SHOWN]
        ]
        lines += _table(rows, "<>>><")
        if len(caches) > CACHES_SHOWN:
            rest = sum(c["size"] for c in caches[CACHES_SHOWN:])
            lines.append(f"... and {format_size(rest)} in {len(caches) - CACHES_SHOWN} more")
    if held := account.get("held"):
        rows = [("held by / itself", "size", "objects")]
        rows += [
            (h["kind"], format_size(h["nbytes"]), f"{h['objects']:,}") for h in held[:KINDS_SHOWN]
        ]
        lines += _table(rows, "<>>")
    if biggest := account.get("biggest"):
        lines += ["biggest objects, and what refers to them", *biggest]
    if sites := account.get("sites"):
        from memcg.sites import from_dict
        from memcg.sites import lines as sites_lines

        lines += sites_lines(from_dict(sites))
    return "\n".join(lines) + "\n"


def uncovered_line(library: dict[str, str]) -> str:
    """Describe a library whose memory is not charged."""
    return f"{library['path']} has its own {library['allocator']}; {library['why']}"


def _group_row(group: dict[str, Any]) -> tuple[str, ...]:
    path = group["path"]
    name = "  " * (path.count("/") + 1) + path.rsplit("/", 1)[-1] if path else "/"
    events = ", ".join(f"{name} {n}" for name, n in group["events"].items() if n)
    limits = ("max" if n is None else format_size(n) for n in (group["max"], group["high"]))
    return (name, format_size(group["current"]), format_size(group["peak"]), *limits, events)


def _table(rows: list[tuple[str, ...]], align: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths, strict=True)).rstrip()
        for row in rows
    ]


def _to_stderr(text: str) -> None:
    # sys.stderr is not used: a program may have replaced or closed it.
    data = text.encode("utf-8", "backslashreplace")
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass


# -- for machines


def prepare(path: str) -> str:
    """Return the absolute path of a file, with links resolved, if it can be written.

    Raises
    ------
    OSError
        The file cannot be written, for the reason that the error gives.
    """
    path = _resolve(path)
    if os.path.isdir(path):
        raise IsADirectoryError(21, os.strerror(21), path)
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise PermissionError(13, os.strerror(13), path)
    if not _replaceable(path):
        os.stat(path)
    else:
        fd, temporary = _temporary(path)
        os.close(fd)
        os.unlink(temporary)
    return path


def write_json(path: str, account: dict[str, Any]) -> None:
    """Write an account for machines. See `write_whole`."""
    import json

    write_whole(path, (json.dumps(account, indent=2, ensure_ascii=True) + "\n").encode("ascii"))


def write_whole(path: str, data: bytes) -> None:
    """Write a file whole or not at all: write a temporary file beside it, then rename it.

    If `path` is no regular file (a pipe, ``/dev/stderr``), the data is appended to it.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    if not _replaceable(path):
        with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
            file.write(data)
        return
    fd, temporary = _temporary(path)
    try:
        with open(fd, "wb") as file:
            if os.path.exists(path):
                os.fchmod(fd, stat.S_IMODE(os.stat(path).st_mode))
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _resolve(path: str) -> str:
    # /dev/stderr may lead to a file. It is written and never replaced, because processes have it
    # open.
    real = os.path.realpath(path)
    absolute = os.path.abspath(path)
    return real if not absolute.startswith(("/dev/", "/proc/")) else absolute


def _replaceable(path: str) -> bool:
    if path.startswith(("/dev/", "/proc/")):
        return False
    return not os.path.exists(path) or os.path.isfile(path)


def _temporary(path: str) -> tuple[int, str]:
    # mkstemp is not used, because it gives mode 0600 and imports random and hashlib.
    temporary = f"{path}.{os.getpid()}.tmp"
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), temporary
