# SPDX-License-Identifier: Apache-2.0
"""A client of the control socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

TIMEOUT_S = 60  # a process that holds the GIL does not answer
ANSWER_MAX = 64 << 20  # bytes; a server's answers are shorter


class Refused(Exception):
    """The process refused a request, or did not answer. `errno` is a name, as ``ENOENT``."""

    def __init__(self, text: str, errno: str = "EIO") -> None:
        super().__init__(text)
        self.errno = errno


class Client:
    """A connection. It is a context manager.

    Raises
    ------
    OSError
        There is nothing to connect to.
    """

    def __init__(self, path: str, timeout: float = TIMEOUT_S) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._socket.close()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._file.readline(ANSWER_MAX)
            answer = json.loads(line) if line else None
        except TimeoutError:
            raise Refused(
                "the process does not answer: it may hold the GIL in one long call; memcg top "
                "shows its figures meanwhile"
            ) from None
        except (ValueError, OSError) as error:
            raise Refused(f"the process answered with rubbish: {error}") from None
        if not isinstance(answer, dict):
            raise Refused("the process has closed the connection")
        if not answer.get("ok"):
            raise Refused(str(answer.get("error")), str(answer.get("errno")))
        return answer

    def request(self, op: str, **fields: object) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises
        ------
        Refused
            The process refused it, or does not answer.
        """
        try:
            self._socket.sendall(json.dumps({"id": 1, "op": op, **fields}).encode() + b"\n")
        except OSError as error:
            raise Refused(f"the process has closed the connection: {error}") from None
        return self._answer()

    def follow(self, op: str, **fields: object) -> Iterator[dict[str, Any]]:
        """Yield the answer to a request with ``follow``, and all that come later."""
        yield self.request(op, follow=True, **fields)
        self._socket.settimeout(None)
        while True:
            yield self._answer()
