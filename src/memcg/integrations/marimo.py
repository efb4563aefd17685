# SPDX-License-Identifier: Apache-2.0
"""The cells of a marimo notebook run in a group, and marimo's own machinery outside of it.

marimo runs the code of a cell by `DefaultExecutor`, in the thread of the notebook's session or in
the process of an editor. The group is around that call. Around the whole session it would hold the
session's callbacks too, and a session that met its limit would never end.
"""

from __future__ import annotations

import functools
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from marimo._runtime.context import safe_get_context
from marimo._runtime.exceptions import MarimoRuntimeException
from marimo._runtime.executor import DefaultExecutor

from .. import core
from ..errors import MemcgOOM
from .edge import Tenants, answering, find_oom
from .imports import charge_to_root
from .variables import explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..groups import Group, Size

_PER = ("notebook", "session")
_sessions = count(1)
_executes = DefaultExecutor.execute_cell
_executes_async = DefaultExecutor.execute_cell_async


def limit(max: Size, high: Size, per: str) -> None:
    """Do what `memcg.marimo.limit` says. A second call replaces the first."""
    if per not in _PER:
        raise ValueError(f"per must be one of {', '.join(map(repr, _PER))}, not {per!r}")
    tenants = Tenants("marimo", max=max, high=high)
    place = partial(_place, tenants, per)
    DefaultExecutor.execute_cell = _limited(place)
    DefaultExecutor.execute_cell_async = _limited_async(place)
    charge_to_root()


def _place(tenants: Tenants, per: str) -> Group:
    """Return the group of the notebook whose cell this thread is about to run."""
    context: Any = safe_get_context()
    name = getattr(context, "filename", None) or "notebook"
    if per == "session" and context is not None:
        if not hasattr(context, "_memcg_session"):
            context._memcg_session = next(_sessions)
        name = f"{name} session {context._memcg_session}"
    return tenants(name)


def _limited(place: Callable[[], Group]) -> Callable[..., Any]:
    @functools.wraps(_executes)
    def execute_cell(self: Any, cell: Any, glbls: Any) -> Any:
        try:
            with place():
                try:
                    return _executes(self, cell, glbls)
                except MarimoRuntimeException as error:
                    core.explain(error.__cause__)
                    raise
        except (MarimoRuntimeException, MemoryError) as error:
            shown = _answer(error, glbls)
            if shown is None:
                raise
            raise MarimoRuntimeException from shown

    return execute_cell


def _limited_async(place: Callable[[], Group]) -> Callable[..., Any]:
    @functools.wraps(_executes_async)
    async def execute_cell_async(self: Any, cell: Any, glbls: Any) -> Any:
        try:
            with place():
                try:
                    return await _executes_async(self, cell, glbls)
                except MarimoRuntimeException as error:
                    core.explain(error.__cause__)
                    raise
        except (MarimoRuntimeException, MemoryError) as error:
            shown = _answer(error, glbls)
            if shown is None:
                raise
            raise MarimoRuntimeException from shown

    return execute_cell_async


def _answer(error: MarimoRuntimeException | MemoryError, glbls: dict[str, Any]) -> MemcgOOM | None:
    """Return the error that marimo shows if the limit was met: the account and the variables."""
    found = error.__cause__ if isinstance(error, MarimoRuntimeException) else error
    oom = find_oom(found) if found is not None else None
    if found is None or oom is None:
        return None
    traceback = found.__traceback__
    with answering(found):
        names = [(name, o) for name, o in list(glbls.items()) if not name.startswith("_")]
        shown = explained(oom, traceback, glbls, names)
    return shown.with_traceback(traceback)
