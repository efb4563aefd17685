# SPDX-License-Identifier: Apache-2.0
"""Jobs of a queue, a pool or a scheduler: each call of a function runs in a group of its own.

The group of a call is below that of its function, and is closed when the call has ended. What the
call leaves behind, such as its result, is then charged to the function's group.
"""

from __future__ import annotations

import functools
import time

from ..groups import group as make_group
from ..groups import scope
from ..sizes import parse_size
from .edge import Tenants, find_oom, let_go

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    from ..groups import Group, Size

    P = ParamSpec("P")
    R = TypeVar("R")


class call:
    """Run a block in a new group below `above`. A MemoryError leaves it as `MemcgOOM`.

    The error holds nothing of what the block had: the frames of its traceback are cleared.
    """

    def __init__(self, above: Group, max: Size) -> None:
        self._scope = scope(f"{above.path}/call", max=max)

    def __enter__(self) -> Group:
        self._since = time.time()
        self._group = self._scope.__enter__()
        return self._group

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self._scope.__exit__(kind, error, traceback)
        except MemoryError as alarm:
            error = alarm
        if error is None:
            return
        oom = find_oom(error, self._group, self._since)
        if oom is not None:
            let_go(error)
            raise oom.with_traceback(error.__traceback__) from None
        if isinstance(error, MemoryError):
            raise error


def install() -> None:
    """Do what `memcg.install` does. The modules above that offer this one put it here."""
    raise NotImplementedError


_groups: dict[str, Tenants] = {}  # a prefix -> its groups


def group_of(prefix: str, name: str) -> Group:
    """Return the group of the function called `name`; at most 1,000 are kept below a prefix."""
    tenants = _groups.get(prefix)
    if tenants is None:
        tenants = _groups.setdefault(prefix, Tenants(prefix))
    return tenants(name)


def limited(
    max: Size = None, *, group: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: each call of the function runs in a group of its own.

    It is for functions that are given to ``concurrent.futures`` executors, to APScheduler, or to
    any other pool or scheduler, in threads and in processes.

    Parameters
    ----------
    max : int, str or None
        The limit of each call. None means that calls are only accounted for. Several calls at a
        time, and each process of a pool, have this limit each.
    group : str, optional
        The path of the group in which each call's group is. Default: ``jobs/`` and the function's
        name.

    Returns
    -------
    callable
        Its result is a function with the same name, which can be pickled as the original can.

    Raises
    ------
    ValueError
        `max` is not a size.
    MemcgOOM
        From a call: it met its limit, or one above.
    """
    parse_size(max)

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(fn)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            install()  # this may be a process that was spawned
            above = group_of("jobs", fn.__qualname__) if group is None else make_group(group)
            with call(above, max):
                return fn(*args, **kwargs)

        return run

    return decorate
