# SPDX-License-Identifier: Apache-2.0
"""Django: a middleware for WSGI and ASGI, for sync and async views.

Django answers a view's error before any middleware sees it, so ``process_exception`` keeps the
error. The answer is made when the group is left. A streaming answer runs step by step in the group.
"""

from __future__ import annotations

import contextlib
import time

from .. import core
from ..errors import MemcgOOM
from . import edge
from .http import DRAIN_S, PIECE, Refusal, Rules, default_max
from .wsgi import header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
    from typing import Any

DEFAULT_MAX = default_max("MEMCG_DJANGO_MAX")
_OPTIONS = {
    "group": None, "max": DEFAULT_MAX, "high": None, "status": 507, "max_body": "max",
    "expose": False,
}  # fmt: skip


class MemcgMiddleware:
    """Run each request of a Django project in its tenant's group. It comes first in ``MIDDLEWARE``.

    ``settings.MEMCG`` is a dict with the options of `memcg.wsgi.MemcgMiddleware`. There ``group``
    is a header's name, or a function that is called with the request; the default is
    ``"x-tenant"``. The environment variable ``MEMCG_DJANGO_MAX`` gives another default for ``max``.

    Raises
    ------
    ImproperlyConfigured
        ``settings.MEMCG`` has an option that there is not.
    ValueError
        A size is bad.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from asgiref.sync import iscoroutinefunction, markcoroutinefunction
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured

        own = getattr(settings, "MEMCG", {})
        if unknown := sorted(set(own) - set(_OPTIONS)):
            raise ImproperlyConfigured(
                f"settings.MEMCG has {', '.join(unknown)}; it may have {', '.join(_OPTIONS)}"
            )
        options: dict[str, Any] = {**_OPTIONS, **own}
        group = options.pop("group") or "x-tenant"
        if isinstance(group, str):
            in_environment = header(group)

            def of_header(request: Any) -> str | None:
                return in_environment(request.META)

            group = of_header
        self._group = group
        self._get_response = get_response
        self._rules = Rules(**options, log="memcg.django")
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        if self._is_async:
            return self._call_async(request)
        place = self._place(request)
        if place is None:
            return self._get_response(request)
        if isinstance(place, Refusal):
            return _answer(request, place)
        try:
            with place:
                response = self._get_response(request)
        except MemcgOOM as oom:
            return self._fail(request, oom, place)
        return self._finish(request, response, place)

    async def _call_async(self, request: Any) -> Any:
        place = self._place(request)
        if place is None:
            return await self._get_response(request)
        if isinstance(place, Refusal):
            return _answer(request, place)
        try:
            with place:
                response = await self._get_response(request)
        except MemcgOOM as oom:
            return self._fail(request, oom, place)
        return self._finish(request, response, place)

    def _place(self, request: Any) -> edge.inside | Refusal | None:
        tenant = self._group(request)
        if tenant is None:
            return None
        length = request.META.get("CONTENT_LENGTH") or ""
        request._memcg_began = time.time()
        return self._rules.place(tenant, int(length) if length.isdigit() else None)

    def process_exception(self, request: Any, error: Exception) -> Any:
        """Keep an error of a limit for the end of the request. Context: inside the group."""
        if not hasattr(request, "_memcg_began") or not isinstance(error, MemoryError):
            return None
        from django.http import HttpResponse

        core.explain(error)
        group = core.current()
        if group is None:
            return None
        oom = edge.find_oom(error, group, request._memcg_began)  # type: ignore[arg-type]
        if oom is None:
            return None
        if oom is not error:
            oom.__cause__ = error
        edge.let_go(oom)  # what runs at the end of the request needs room
        request._memcg_oom = oom
        return HttpResponse(status=507)

    def _fail(self, request: Any, oom: MemcgOOM, place: edge.inside) -> Any:
        with edge.answering(oom):
            return _answer(request, self._rules.oom(oom, place.group))

    def _finish(self, request: Any, response: Any, place: edge.inside) -> Any:
        if (oom := request.__dict__.pop("_memcg_oom", None)) is not None:
            response.close()
            return self._fail(request, oom, place)
        if response.streaming:
            steps = _steps_async if getattr(response, "is_async", False) else _steps
            response.streaming_content = steps(place, response.streaming_content)
        return response


def _steps(place: edge.inside, pieces: Iterable[bytes]) -> Iterator[bytes]:
    steps = iter(pieces)
    while True:
        try:
            with place.anew():
                piece = next(steps)
        except StopIteration:
            return
        except MemcgOOM as oom:
            edge.let_go(oom)
            raise
        yield piece
        del piece  # it must not live until the next one is there


async def _steps_async(place: edge.inside, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    steps = aiter(pieces)
    while True:
        try:
            with place.anew():
                piece = await anext(steps)
        except StopAsyncIteration:
            return
        except MemcgOOM as oom:
            edge.let_go(oom)
            raise
        yield piece
        del piece


def _answer(request: Any, refusal: Refusal) -> Any:
    """Read and drop what is left of the body, so that the client can read the answer; answer."""
    from django.http import HttpResponse

    refusal.log(request.method, request.path)
    end = time.monotonic() + DRAIN_S
    with contextlib.suppress(OSError):  # the client has gone
        while request.read(PIECE) and time.monotonic() < end:
            pass
    headers = dict(refusal.headers)
    return HttpResponse(refusal.body, status=refusal.status, headers=headers)
