# SPDX-License-Identifier: Apache-2.0
"""WSGI: the application runs in its tenant's group, and the server outside of it.

The group is entered around the call, around each step of the answer's iterator and around its
``close``. ``wsgi.input`` and ``start_response`` are the server's, so they run in the group that
called the middleware. What is read of the body is copied into the tenant's group, in pieces.

https://peps.python.org/pep-3333/
"""

from __future__ import annotations

import io
import time

from .. import core
from ..errors import MemcgOOM
from . import edge
from .http import DRAIN_S, PIECE, Refusal, Rules, default_max

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ..groups import Group, Size

    Environ = dict[str, Any]
    StartResponse = Callable[..., Callable[[bytes], object]]
    App = Callable[[Environ, StartResponse], Iterable[bytes]]

DEFAULT_MAX = default_max("MEMCG_WSGI_MAX")
OOM = "memcg.oom"  # in the environment: the error that a framework has turned into an answer


def header(name: str) -> Callable[[Environ], str | None]:
    """Return a function that takes the tenant's name from a request's header.

    A request without the header, or with an empty one, has no tenant. A client can write any header
    into its request, so the header must be one that a proxy or an authentication sets.

    Examples
    --------
    >>> header("X-Tenant")({"HTTP_X_TENANT": "acme"})
    'acme'
    """
    key = f"HTTP_{name.upper().replace('-', '_')}"

    def tenant(environ: Environ) -> str | None:
        return environ.get(key) or None

    return tenant


class MemcgMiddleware:
    """Run a WSGI application in the group of the request's tenant.

    Parameters
    ----------
    app : WSGI application
    group : callable
        It is called with the environment of each request, outside the group. It returns the
        tenant's name, a `Group`, or None for a request that has no tenant. Such a request runs in
        no group of a tenant. A name is escaped; its group is ``tenants/<name>``, and at most 1,000
        of them stay.
    max, high : int, str or None
        The limits of a tenant's group. None means that the group only accounts. The environment
        variable ``MEMCG_WSGI_MAX`` gives another default for `max`. A group that the program made
        itself keeps its limits.
    status : int
        The answer to a request that met a limit of its tenant or below.
    max_body : int, str or None
        A request whose Content-Length is above this, or above a limit of its group or of one above
        it, is answered 413 before it is read. ``"max"`` means those limits alone.
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
    A limit of a group above the tenant's is answered 503 with Retry-After. An error after the
    answer has begun is raised, so that the server cuts the connection. Each answer of this class is
    logged to ``memcg.wsgi``. A framework that turns the error into an answer of its own needs an
    error handler: `memcg.flask` and `memcg.django` have one.
    """

    def __init__(
        self,
        app: App,
        *,
        group: Callable[[Environ], str | Group | None] = header("x-tenant"),  # noqa: B008
        max: Size = DEFAULT_MAX,
        high: Size = None,
        status: int = 507,
        max_body: Size = "max",
        expose: bool = False,
    ) -> None:
        if not callable(group):
            raise TypeError(
                f"group must be callable with a request's environment, not {group!r}; for a header "
                'write memcg.wsgi.header("x-tenant")'
            )
        self.app = app
        self._group = group
        self._rules = Rules(
            max=max, high=high, status=status, max_body=max_body, expose=expose, log="memcg.wsgi"
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        tenant = self._group(environ)
        if tenant is None:
            return self.app(environ, start_response)
        call = _Call(self._rules, environ, start_response)
        length = environ.get("CONTENT_LENGTH") or ""
        place = self._rules.place(tenant, int(length) if length.isdigit() else None)
        if isinstance(place, Refusal):
            return call.refuse(place)
        try:
            with place:
                answer = self.app(environ, call.start)
        except MemcgOOM as oom:
            if OOM in environ:
                edge.let_go(environ.pop(OOM))
            return call.fail(oom, place.group)
        if OOM in environ:
            edge.let_go(environ[OOM])
            _Answer(call, place, answer).close()
            return call.fail(environ.pop(OOM), place.group)  # a local would hold it in a circle
        if type(answer) in (list, tuple) or isinstance(
            answer, environ.get("wsgi.file_wrapper", ())
        ):
            call.begin()
            return answer  # nothing of the application runs when the server takes the pieces
        return _Answer(call, place, answer)


class _Call:
    """The server's side of a request, as the application gets it."""

    def __init__(self, rules: Rules, environ: Environ, start_response: StartResponse) -> None:
        self._rules = rules
        self._environ = environ
        self._outer = core.current_entry()
        self._start = start_response
        self._held: tuple[Any, ...] | None = None
        self.begun = False  # the server has the beginning of the answer
        self._input = environ.get("wsgi.input")
        if self._input is not None:
            environ["wsgi.input"] = _Input(self._outer, self._input)

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Keep the beginning of the answer until there is a piece of it.

        Until then another answer can take its place.
        """
        if self.begun or (self._held is not None and exc_info is None):
            self.begin()
            return self._start(status, headers, exc_info)  # the server raises an error
        self._held = (status, headers)
        return self._write

    def begin(self) -> Callable[[bytes], object] | None:
        """Give the server the beginning of the answer. Context: outside the group."""
        self.begun = True
        held, self._held = self._held, None
        return None if held is None else self._start(*held)

    def _write(self, data: bytes) -> None:
        core.Bound(self._outer, self._write_outside)(data)

    def _write_outside(self, data: bytes) -> None:
        if not self.begun:
            self._written = self.begin()
        assert self._written is not None
        self._written(data)

    def fail(self, oom: MemcgOOM, group: Group) -> Iterable[bytes]:
        """Answer a request that met a limit in `group`. Context: outside the group."""
        with edge.answering(oom):
            if self.begun:
                raise oom
            refusal = self._rules.oom(oom, group)
            return self.refuse(refusal)

    def refuse(self, refusal: Refusal) -> Iterable[bytes]:
        """Answer instead of the application, then read and drop what is left of the body."""
        environ = self._environ
        refusal.log(environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", ""))
        self._start(refusal.line, refusal.headers)
        return self._drained(refusal.body)

    def _drained(self, body: bytes) -> Iterator[bytes]:
        yield body
        if self._input is None:
            return
        wrapped = self._environ.get("wsgi.input")
        left = self._environ.get("CONTENT_LENGTH") or ""
        if left.isdigit():
            rest = int(left) - (wrapped.taken if isinstance(wrapped, _Input) else 0)
        elif self._environ.get("wsgi.input_terminated"):
            rest = 1 << 62
        else:
            return
        end = time.monotonic() + DRAIN_S
        while rest > 0 and time.monotonic() < end:
            try:
                piece = self._input.read(min(rest, PIECE))
            except OSError:  # the client has gone
                return
            if not piece:
                return
            rest -= len(piece)


class _Answer:
    """The application's iterable: each step and ``close`` run in the group."""

    def __init__(self, call: _Call, place: edge.inside, pieces: Iterable[bytes]) -> None:
        self._call = call
        self._place = place
        self._pieces = pieces
        self._steps = self._iterate()

    def __iter__(self) -> Iterator[bytes]:
        return self._steps

    def _iterate(self) -> Iterator[bytes]:
        call, steps = self._call, None
        try:
            while True:
                self._place = self._place.anew()
                with self._place:
                    try:
                        steps = iter(self._pieces) if steps is None else steps
                        piece = next(steps)
                    except StopIteration:
                        break
                if piece or call.begun:
                    if not call.begun:
                        call.begin()
                    yield piece
                piece = b""  # it must not live until the next one is there
            if not call.begun:
                call.begin()
            return
        except MemcgOOM as oom:
            self.close()  # a suspended generator holds what filled the group
            answer = call.fail(oom, self._place.group)
        yield from answer

    def close(self) -> None:
        """Close the application's iterable. A second call does nothing.

        No alarm is raised in it: the group may still be over its limit, and this is what frees it.
        """
        pieces, self._pieces = self._pieces, ()
        if hasattr(pieces, "close"):
            with self._place.anew(), core.Shield():
                pieces.close()


class _Input:
    """``wsgi.input``: the server reads outside the group, and the result is copied into it."""

    def __init__(self, outer: object, stream: Any) -> None:
        self._outer = outer
        self._stream = stream
        self.taken = 0  # bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _pieces(self, read: Callable[[int], bytes], size: int | None) -> Iterator[bytes]:
        """Read at most `size` bytes in pieces, so that little is outside the group at a time."""
        left = -1 if size is None else size
        while left:
            piece = core.Bound(self._outer, read)(min(left, PIECE) if left > 0 else PIECE)
            if not piece:
                return
            self.taken += len(piece)
            left -= len(piece) if left > 0 else 0
            yield piece

    def read(self, size: int | None = -1) -> bytes:
        found = io.BytesIO()
        for piece in self._pieces(
            self._stream.read, size if size is not None and size >= 0 else -1
        ):
            found.write(piece)
        return found.getvalue()

    def readline(self, size: int | None = -1) -> bytes:
        found = io.BytesIO()
        for piece in self._pieces(self._stream.readline, size):
            found.write(piece)
            if piece.endswith(b"\n"):
                break
        return found.getvalue()

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        lines, size = [], 0
        for line in self:
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
