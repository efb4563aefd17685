# SPDX-License-Identifier: Apache-2.0
"""Flask: the WSGI middleware, and an error handler that hands it the error.

Flask answers an error with a 500 of its own, so it would never reach a middleware.
"""

from __future__ import annotations

import time

from .. import core
from ..groups import current
from . import edge
from .wsgi import DEFAULT_MAX, OOM, MemcgMiddleware, header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BEGAN = "memcg.began"  # in the environment: when the request began, in seconds since the epoch


class Memcg:
    """A Flask extension: each request runs in its tenant's group.

    Parameters
    ----------
    app : Flask, optional
        Without it call `init_app` later.
    **options
        Those of `memcg.wsgi.MemcgMiddleware`. The configuration of the application may have them
        as ``MEMCG_GROUP``, ``MEMCG_MAX``, ``MEMCG_HIGH``, ``MEMCG_STATUS``, ``MEMCG_MAX_BODY`` and
        ``MEMCG_EXPOSE``; a `str` as the group names a header. An argument counts more than the
        configuration, and that more than the environment variable ``MEMCG_WSGI_MAX``.

    Notes
    -----
    An error handler of the application's own for ``MemoryError`` replaces ours. Then it answers,
    inside the group.
    """

    def __init__(self, app: Any = None, **options: Any) -> None:
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Any) -> None:
        """Wrap ``app.wsgi_app`` and register the error handler."""
        options: dict[str, Any] = {"max": DEFAULT_MAX}
        for name in ("group", "max", "high", "status", "max_body", "expose"):
            key = f"MEMCG_{name.upper()}"
            if key in app.config:
                options[name] = app.config[key]
        options.update(self._options)
        if isinstance(options.get("group"), str):
            options["group"] = header(options["group"])
        app.wsgi_app = MemcgMiddleware(_Began(app.wsgi_app), **options)
        app.register_error_handler(MemoryError, _hand_over)


class _Began:
    """Note when the application is called."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ[_BEGAN] = time.time()
        return self._app(environ, start_response)


def _hand_over(error: MemoryError) -> Any:
    """Give the error to the middleware, which answers outside the group."""
    import flask

    core.explain(error)
    environ = flask.request.environ
    oom = edge.find_oom(error, current(), environ[_BEGAN])
    if oom is None or core.current() is None:
        raise error  # no limit of memcg's caused it, or the request has no tenant: Flask answers
    if oom is not error:
        oom.__cause__ = error
    edge.let_go(oom)  # what runs at the end of the request needs room
    environ[OOM] = oom
    return "", 507
