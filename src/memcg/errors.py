# SPDX-License-Identifier: Apache-2.0
"""What memcg raises. Texts say subject, rule, values, owner and cure on one line."""

from __future__ import annotations

from .sizes import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_last_alarm: Callable[[], str | None] | None = None  # see `tell_alarms_by`


class MemcgError(Exception):
    """The base of memcg's own errors."""


class MemcgOOM(MemoryError, MemcgError):  # in this order: the other has a `__new__` that raises
    """A group met its ``memory.max``; raised in the offender only."""

    def __init__(self, *args: object) -> None:
        if not args and _last_alarm is not None and (text := _last_alarm()) is not None:
            args = (text,)
        super().__init__(*args)


class OfflineError(MemcgError):
    """The group was closed."""


class GroupBusy(MemcgError):
    """The group cannot be closed: something runs inside it or it has children."""


class CacheBusy(MemcgError):
    """The cache cannot be destroyed: objects of it are live."""


def oom_text(group: str, nbytes: int, current: int, limit: int, owner: str) -> str:
    """Say that a request of a group met a limit: subject, rule, values, owner, cure."""
    owner = repr(owner or "/")
    return (
        f"group {group or '/'!r}: charge of {format_size(nbytes)} is over memory.max (current "
        f"{format_size(current)}, max {format_size(limit)}, set on {owner}); raise memory.max or "
        f"free memory in {owner}"
    )


def tell_alarms_by(last_alarm: Callable[[], str | None]) -> None:
    """Take from `last_alarm` the text of a `MemcgOOM` that is raised as a bare class.

    CPython raises an asynchronous exception as a class, and makes the instance without arguments.
    """
    global _last_alarm
    _last_alarm = last_alarm
