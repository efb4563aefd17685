# SPDX-License-Identifier: Apache-2.0
"""ASGI: the application runs in its tenant's group, and the server outside of it.

``receive`` and ``send`` are the server's, so each step of them runs in the group that called the
middleware. Pieces of a request's body are copied into the tenant's group. An error of a limit
leaves as an answer: 507, or 503 if the limit is of a group above the tenant's.

The answer to a request whose body was not read begins at once, and ends when the body was read and
dropped. Otherwise the server would close a connection with unread data, and the reset would reach
the client before the answer.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import contextlib
import sys
import time

from .. import core, groups
from ..errors import MemcgOOM
from . import edge
from .http import DRAIN_S, Refusal, Rules, default_max

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from ..groups import Group, Size

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]
    Headers = list[tuple[bytes, bytes]]
    Answer = tuple[int, Headers, bytes]
    Tenant = Callable[[Scope], str | Group | None]

DEFAULT_MAX = default_max("MEMCG_ASGI_MAX")
_MAX_REASON = 120  # characters; a close frame has room for 123 bytes
_MADE_OF_ERRORS = (400, 500)  # statuses that frameworks answer with instead of an error


def header(name: str) -> Callable[[Scope], str | None]:
    """Return a function that takes the tenant's name from a request's header.

    A request without the header, or with an empty one, has no tenant. A client can write any header
    into its request, so the header must be one that a proxy or an authentication sets.

    Examples
    --------
    >>> header("X-Tenant")({"type": "http", "headers": [(b"x-tenant", b"acme")]})
    'acme'
    """
    wanted = name.lower().encode("latin-1")

    def tenant(scope: Scope) -> str | None:
        for key, value in scope["headers"]:
            if key == wanted:
                return value.decode("latin-1") or None
        return None

    return tenant


class MemcgMiddleware:
    """Run an ASGI application in the group of the request's tenant.

    Parameters
    ----------
    app : ASGI application
    group : callable
        It is called with the scope of each request and websocket, outside the group. It returns
        the tenant's name, a `Group`, or None for a request that has no tenant. Such a request runs
        in no group of a tenant. A name is escaped; its group is ``tenants/<name>``, and at most
        1,000 of them stay.
    max, high : int, str or None
        The limits of a tenant's group. None means that the group only accounts. The environment
        variable ``MEMCG_ASGI_MAX`` gives another default for `max`. A group that the program made
        itself keeps its limits.
    per_request : bool
        Each request has a group of its own below its tenant's.
    status : int
        The answer to a request that met a limit of its tenant or below.
    max_body : int, str or None
        A request whose Content-Length is above this, or above a limit of its group or of one above
        it, is answered 413 before it is read. ``"max"`` means those limits alone.
    on_oom : coroutine function, optional
        It is called with the scope and the `MemcgOOM`, outside the group. It returns the status,
        the headers as pairs of bytes, and the body of the answer, or None for the usual one.
    expose : bool
        The answer has the account as its text, and the group in the header ``x-memcg-group``.

    Raises
    ------
    TypeError
        `group` cannot be called.
    ValueError
        A size is bad.

    Notes
    -----
    An error after the answer has begun is raised, so that the server cuts the connection. A
    websocket is closed with 1011. Each answer of this class is logged to ``memcg.asgi``. The events
    of ``lifespan`` are passed on as they are.

    A framework may turn the error into an answer of its own. A 400 or 500 that is sent while the
    error is handled becomes the answer of this class. Other statuses are the program's own answers.
    """

    def __init__(
        self,
        app: App,
        *,
        group: Tenant = header("x-tenant"),  # noqa: B008  # it is the same for all
        max: Size = DEFAULT_MAX,
        high: Size = None,
        per_request: bool = False,
        status: int = 507,
        max_body: Size = "max",
        on_oom: Callable[[Scope, MemcgOOM], Awaitable[Answer | None]] | None = None,
        expose: bool = False,
    ) -> None:
        if not callable(group):
            raise TypeError(
                f"group must be callable with a request's scope, not {group!r}; for a header write "
                'memcg.asgi.header("x-tenant")'
            )
        self.app = app
        self._group = group
        self._rules = Rules(
            max=max, high=high, status=status, max_body=max_body, expose=expose, log="memcg.asgi"
        )
        self._per_request = per_request
        self._on_oom = on_oom
        self._outer = groups.current()
        self._inside = core.current()  # None stands for a root that was not entered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        # A server may call it in the context of another request.
        if core.current() is not self._inside and groups.current() is not self._outer:
            with self._outer:
                await self(scope, receive, send)
            return
        tenant = self._group(scope)
        if tenant is None:
            await self.app(scope, receive, send)
            return
        call = (_Http if kind == "http" else _WebSocket)(self._outer, receive, send)
        has_body = kind == "http" and scope["method"] != "GET"  # if not, it would meet the limit
        place = self._rules.place(tenant, _content_length(scope) if has_body else None)
        if isinstance(place, Refusal):
            await self._refuse(scope, call, place)
            return
        try:
            with place:
                if not self._per_request:
                    await self.app(scope, call.receive, call.send)
                else:
                    with groups.scope(f"{place.group.path}/request"):
                        await self.app(scope, call.receive, call.send)
            await call.end()
        except MemcgOOM as oom:
            with edge.answering(oom):
                if call.begun:
                    raise
                answer = await self._on_oom(scope, oom) if self._on_oom is not None else None
                edge.let_go(oom)  # before the client has the answer, and before the rest is read
                if answer is not None:
                    await call.answer(scope, *answer)
                else:
                    await self._refuse(scope, call, self._rules.oom(oom, place.group))

    async def _refuse(self, scope: Scope, call: _Call, refusal: Refusal) -> None:
        refusal.log(scope.get("method", "websocket"), scope["path"])
        headers = [(key.encode(), value.encode("latin-1")) for key, value in refusal.headers]
        await call.answer(scope, refusal.status, headers, refusal.body)


def _content_length(scope: Scope) -> int | None:
    """Return the length that a request announces; None: none, or it is no number."""
    for key, value in scope["headers"]:
        if key == b"content-length":
            return int(value) if value.isdigit() else None
    return None


class _Call:
    """The server's ``receive`` and ``send`` as the application gets them, and what they carried."""

    begun = False  # the answer has begun, or the websocket is closed: nothing else can be answered

    def __init__(self, outer: Group, receive: Receive, send: Send) -> None:
        self._outer = outer
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        """Send what was kept back. Context: outside the group; the application has returned."""

    async def answer(self, scope: Scope, status: int, headers: Headers, body: bytes) -> None:
        """Send the answer of the middleware. Context: outside the group."""
        raise NotImplementedError


class _Http(_Call):
    _start: Message | None = None
    _body: bool | None = None  # whether there is more of the request's body; None: nothing was read

    async def receive(self) -> Message:
        with self._outer:
            message = await self._receive()
            self._note(message)
        if body := message.get("body"):
            message["body"] = bytes(memoryview(body))  # a copy, which is the tenant's
        return message

    def _note(self, message: Message) -> None:
        self._body = message["type"] == "http.request" and message.get("more_body", False)

    async def send(self, message: Message) -> None:
        start = self._start
        if message["type"] == "http.response.start" and start is None and not self.begun:
            if message["status"] in _MADE_OF_ERRORS:
                _raise_what_is_handled()
            self._start = message  # until there is a piece of the body, another answer may be sent
            return
        self._start = None
        self.begun = self.begun or start is not None
        with self._outer:
            if start is not None:
                await self._send(start)
            await self._send(message)

    async def end(self) -> None:
        """Send a beginning that nothing followed. Context: outside the group."""
        if self._start is not None:
            await self._send(self._start)

    async def answer(self, scope: Scope, status: int, headers: Headers, body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        headers = [pair for pair in headers if pair[0].lower() != length[0]]
        # A client that expects 100 Continue sends the body only if it gets that, and it does not.
        waits = self._body is None and any(key == b"expect" for key, _ in scope["headers"])
        drain = self._body is not False and not waits
        with contextlib.suppress(OSError):  # the client has gone
            start = {"type": "http.response.start", "status": status, "headers": [*headers, length]}
            await self._send(start)
            await self._send({"type": "http.response.body", "body": body, "more_body": drain})
            if drain:
                await self._drain()
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        end = time.monotonic() + DRAIN_S
        while self._body is not False and time.monotonic() < end:
            self._note(await self._receive())


def _raise_what_is_handled() -> None:
    """Raise the MemoryError that the caller's caller handles, or that led to what it handles."""
    error = sys.exc_info()[1]
    for found in edge.chain(error) if error is not None else ():
        if isinstance(found, MemoryError):
            raise found


class _WebSocket(_Call):
    _accepted = False

    async def receive(self) -> Message:
        with self._outer:
            message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.begun = True
        for key in ("bytes", "text"):
            if data := message.get(key):
                message[key] = bytes(memoryview(data)) if key == "bytes" else _copied(data)
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
        elif kind in ("websocket.close", "websocket.http.response.start"):
            self.begun = True
        with self._outer:
            await self._send(message)

    async def answer(self, scope: Scope, status: int, headers: Headers, body: bytes) -> None:
        denial = "websocket.http.response"
        with contextlib.suppress(OSError):  # the client has gone
            if self._accepted or denial not in scope.get("extensions", ()):
                reason = body.decode().strip()[:_MAX_REASON]
                await self._send({"type": "websocket.close", "code": 1011, "reason": reason})
            else:
                await self._send({"type": f"{denial}.start", "status": status, "headers": headers})
                await self._send({"type": f"{denial}.body", "body": body, "more_body": False})


def _copied(text: str) -> str:
    return (text + " ")[:-1]
