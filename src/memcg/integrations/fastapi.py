# SPDX-License-Identifier: Apache-2.0
"""A group that a sync dependency with ``yield`` enters would limit nothing, so it is refused.

FastAPI runs such a dependency in a thread, and in a copy of the request's context that ends before
the endpoint runs. Without this the endpoint would run outside the group, and the dependency would
fail when it leaves the group, after the answer was sent.
"""

from __future__ import annotations

from .. import core
from ..errors import MemcgError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


class _Enter:
    """It stands in for the dependency's ``__enter__``, and fails if that has entered a group."""

    def __init__(self, enter: Callable[[], Any]) -> None:
        self._enter = enter

    def __call__(self) -> Any:
        before = core.current_entry()
        value = self._enter()
        if core.current_entry() is before:
            return value
        group = core.current()
        path = "/" if group is None else group.path or "/"
        error = MemcgError(
            f"group {path!r} was entered in a sync dependency with yield, which FastAPI runs in "
            "another context than the endpoint, so it would limit nothing; make the dependency an "
            "async def, or name the group in memcg.asgi.MemcgMiddleware"
        )
        self._enter.__self__.__exit__(type(error), error, None)  # type: ignore[attr-defined]
        raise error


def hook(module: ModuleType) -> None:
    """Hook ``fastapi.concurrency``. Context: the module has just run."""
    run: Callable[..., Any] = module.run_in_threadpool

    async def run_in_threadpool(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if getattr(func, "__name__", "") == "__enter__":
            func = _Enter(func)
        return await run(func, *args, **kwargs)

    module.run_in_threadpool = run_in_threadpool  # type: ignore[attr-defined]
