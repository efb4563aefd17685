# SPDX-License-Identifier: Apache-2.0
"""What the middlewares for ASGI, WSGI and Django have in common: limits of bodies, and answers."""

from __future__ import annotations

import os
from functools import partial

from .. import core
from ..errors import GroupBusy, MemcgOOM
from ..sizes import parse_size
from . import edge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..groups import Group, Size

PREFIX = "tenants"  # the path above the tenants' groups
DRAIN_S = 30.0  # how long an unread body is read and dropped; nginx: lingering_time
PIECE = 65536  # bytes that are read at a time
_TEXTS = {
    413: "the body is larger than the memory that this client may use\n",
    503: "the server has no memory left for this request; try again later\n",
    507: "this request needed more memory than this client may use\n",
}
REASONS = {
    413: "Content Too Large", 503: "Service Unavailable", 507: "Insufficient Storage",
}  # fmt: skip


def default_max(name: str) -> str:
    """Return the limit that a middleware has by default: that of the environment, or 256 MiB."""
    return os.environ.get(name, "256MiB")


class Rules:
    """Which group a request runs in, what may be in its body, and how an error is answered.

    The parameters are those of `asgi.MemcgMiddleware`.
    """

    def __init__(
        self, *, max: Size, high: Size, status: int, max_body: Size, expose: bool, log: str
    ) -> None:
        self._tenants = edge.Tenants(PREFIX, max=max, high=high)
        self._status = status
        self._max_body = parse_size(max_body)
        self._expose = expose
        self._log = log

    def place(self, tenant: str | Group, length: int | None) -> edge.inside | Refusal:
        """Return what a request of `tenant` with a body of `length` bytes is run in.

        It is a `Refusal` if the body could never fit, or if there is no place for the group.
        """
        again: Callable[[], Group] | None = None
        if isinstance(tenant, str):
            try:
                group = self._tenants(tenant)
            except (GroupBusy, MemcgOOM) as error:
                return self._refusal(503, error, None)
            again = partial(self._tenants, tenant)
        else:
            group = tenant
        if length is not None and length > self._fits(group):
            return self._refusal(413, None, group)
        return edge.inside(group, again)

    def _fits(self, group: Group) -> int:
        limits = [core.mem_cgroup_get_limit(above, "max") for above in core.ancestry(group)]
        return min(self._max_body, *limits)

    def oom(self, error: MemcgOOM, group: Group) -> Refusal:
        """Return the answer to a request that met a limit in `group`."""
        return self._refusal(
            503 if edge.is_from_above(error, group) else self._status, error, group
        )

    def _refusal(self, status: int, error: BaseException | None, group: Group | None) -> Refusal:
        text = _TEXTS.get(status, _TEXTS[507])
        headers = [("content-type", "text/plain; charset=utf-8")]
        if status == 503:
            headers.append(("retry-after", "1"))
        if self._expose:
            text = text if error is None else f"{error}\n"
            if group is not None:
                headers.append(("x-memcg-group", (group.path or "/").encode().decode("latin-1")))
        return Refusal(status, headers, text.encode(), error, self._log)


class Refusal:
    """An answer: `status`, `headers` as pairs of str, and `body`. `error` is None for a 413."""

    def __init__(
        self, status: int, headers: list[tuple[str, str]], body: bytes,
        error: BaseException | None, log: str,
    ) -> None:  # fmt: skip
        self.status = status
        self.headers = [*headers, ("content-length", str(len(body)))]
        self.body = body
        self.error = error
        self._log = log

    @property
    def line(self) -> str:
        """The status with its reason, as WSGI takes it."""
        return f"{self.status} {REASONS.get(self.status, 'Error')}"

    def log(self, method: str, path: str) -> None:
        """Write the account to the log of the middleware's module."""
        import logging

        logging.getLogger(self._log).warning(
            "%s %r: %d: %s", method, path, self.status, self.error or "the body would not fit"
        )
