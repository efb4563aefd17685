# SPDX-License-Identifier: Apache-2.0
"""Celery: each call of a task runs in a group of its own, below ``celery/<name of the task>``.

    app = Celery(..., task_cls="memcg.celery:MemcgTask")

The group is around the task's function alone. What Celery does before and after it, and the retries
of ``autoretry_for=(MemoryError,)``, stay outside.

A worker that gets a MemoryError from a task takes it for its own, and ends: with the pool ``solo``
at once (celery.worker.request.Request.on_failure). So a MemoryError leaves the task as an exception
that is none here, but has its name. The result backend stores the name, so the program that waits
for the result gets a real `MemcgOOM` or MemoryError.

All of Celery's pools work. A limit is that of one call. With ``prefork`` each child has groups of
its own. A greenlet of ``gevent`` has a context of its own, so it is in its own group.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from celery import signals
from celery.app.task import Task

from ..errors import MemcgError, MemcgOOM
from ..sizes import parse_size
from . import jobs
from .jobs import call, group_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..groups import Size

PREFIX = "celery"


class _Carrier(MemcgError):
    """A MemoryError on its way to the result backend, under the name of `stands_for`."""

    stands_for: type[MemoryError]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.stands_for, self.args)


def _carrier(stands_for: type[MemoryError]) -> type[_Carrier]:
    names = {"__module__": stands_for.__module__, "__qualname__": stands_for.__qualname__}
    return type(stands_for.__name__, (_Carrier,), {**names, "stands_for": stands_for})


_CARRIERS = {MemcgOOM: _carrier(MemcgOOM), MemoryError: _carrier(MemoryError)}
_in_worker = False


def _note_worker(**_: Any) -> None:
    global _in_worker
    _in_worker = True


for _signal in (signals.worker_init, signals.worker_ready):
    _signal.connect(_note_worker)


def _unpickle(stands_for: type[MemoryError], args: tuple[Any, ...]) -> Exception:
    """Return the carrier where a child's result arrives in its worker, else the error itself."""
    return (_CARRIERS[stands_for] if _in_worker else stands_for)(*args)


class MemcgTask(Task):  # type: ignore[misc]
    """A task whose calls run in groups: ``task_cls`` of an app, or ``base`` of a task.

    Attributes
    ----------
    memcg_max : int, str or None
        The limit of each call: ``@app.task(memcg_max="256MiB")``. Default: ``memcg_task_max`` of
        the app's configuration, then ``MEMCG_CELERY_MAX``, then no limit.
    """

    abstract = True
    memcg_max: Size = None

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        run = vars(cls).get("run")
        if isinstance(run, staticmethod):
            cls.run = staticmethod(_in_group(run.__func__, cls))
        elif run is not None:
            cls.run = _in_group(run, cls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.request.called_directly:  # by the program: there is no worker to protect
            return super().__call__(*args, **kwargs)
        try:
            return self.run(*args, **kwargs)
        except MemoryError as error:
            carrier = _CARRIERS[MemcgOOM if isinstance(error, MemcgOOM) else MemoryError]
            raise carrier(*error.args).with_traceback(error.__traceback__) from None


def _in_group(run: Callable[..., Any], cls: type[MemcgTask]) -> Callable[..., Any]:
    @functools.wraps(run)
    def run_in_group(*args: Any, **kwargs: Any) -> Any:
        jobs.install()
        with call(group_of(PREFIX, cls.name or cls.__name__), _limit(cls)):
            return run(*args, **kwargs)

    return run_in_group


def _limit(cls: type[MemcgTask]) -> Size:
    limit = cls.memcg_max
    if limit is None:
        limit = cls._get_app().conf.get("memcg_task_max")
    if limit is None:
        limit = os.environ.get("MEMCG_CELERY_MAX")
    parse_size(limit)
    return limit
