"""What memcg raises. Texts say subject, rule, values, owner and cure on one line."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar


class MemcgError(Exception):
    """The base of memcg's own errors."""


class MemcgOOM(MemoryError, MemcgError):  # in this order: the other has a `__new__` that raises
    """A group met its ``memory.max``; raised in the offender only."""

    describe: ClassVar[Callable[[], str | None]] = lambda: None  # for one raised as a bare class

    def __init__(self, *args: object) -> None:
        if not args and (text := MemcgOOM.describe()) is not None:
            args = (text,)
        super().__init__(*args)


class OfflineError(MemcgError):
    """The group was closed."""


class GroupBusy(MemcgError):
    """The group cannot be closed: something runs inside it or it has children."""


class CacheBusy(MemcgError):
    """The cache cannot be destroyed: objects of it are live."""
