# SPDX-License-Identifier: Apache-2.0
"""The exceptions that memcg raises.

A text has subject, rule, values, owner and cure on one line.
"""

from __future__ import annotations

from .sizes import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_last_alarm: Callable[[], str | None] | None = None  # see `tell_alarms_by`


class MemcgError(Exception):
    """The base class of memcg's own errors."""


class MemcgOOM(MemoryError, MemcgError):  # MemoryError first: the `__new__` of the other raises
    """A group met its ``memory.max``. It is raised only in code that runs in the group or below."""

    def __init__(self, *args: object) -> None:
        if not args and _last_alarm is not None and (text := _last_alarm()) is not None:
            args = (text,)
        super().__init__(*args)


class OfflineError(MemcgError):
    """The group was closed, so it cannot be entered."""


class GroupBusy(MemcgError):
    """The group cannot be closed: something runs inside it, it has children, or it is the root."""


class CacheBusy(MemcgError):
    """The cache cannot be destroyed, because objects of it are live."""


def oom_text(group: str, nbytes: int, current: int, limit: int, owner: str) -> str:
    """Return the text of an error for a request that met a limit. Sizes are in bytes."""
    owner = repr(owner or "/")
    return (
        f"group {group or '/'!r}: charge of {format_size(nbytes)} is over memory.max (current "
        f"{format_size(current)}, max {format_size(limit)}, set on {owner}); raise memory.max or "
        f"free memory in {owner}"
    )


def tell_alarms_by(last_alarm: Callable[[], str | None]) -> None:
    """Have `last_alarm` give the text of each `MemcgOOM` that is raised as a bare class.

    CPython raises an asynchronous exception as a class, and makes the instance without arguments.
    CPython: ``PyThreadState_SetAsyncExc``.
    """
    global _last_alarm
    _last_alarm = last_alarm
