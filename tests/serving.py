# SPDX-License-Identifier: Apache-2.0
"""Servers in processes of their own, on a free port of 127.0.0.1, and a small client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from environment import OURS, environment

APPS = Path(__file__).parent / "hosts" / "apps"
START_S = 60
END_S = 10


class Answer(NamedTuple):
    """An answer, read whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Server(NamedTuple):
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self, path: str, tenant: str | None = None, *, method="GET", body=None, **more
    ) -> Answer:
        """Make one request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return ask(connection, path, tenant, method=method, body=body, **more)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def ask(connection, path, tenant=None, *, method="GET", body=None, headers=None) -> Answer:
    headers = {**(headers or {}), **({"x-tenant": tenant} if tenant else {})}
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


@contextlib.contextmanager
def serving(
    log: Path, *command: str, path: str = "/ok", folder: Path = APPS, **more: str
) -> Iterator[Server]:
    """Start ``python -m command``; ``{fd}`` in it stands for the listening socket.

    `folder` has the application. The server has started when it answers `path`. It gets SIGTERM at
    the end, then SIGKILL.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener, log.open("wb") as out:
        fd, port = listener.fileno(), listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(fd=fd) for part in command)],
            env=environment(folder, without=(*OURS, "MEMCG"), PYTHONUNBUFFERED="1", **more),
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, pass_fds=[fd],
            start_new_session=True, cwd=folder,
        )  # fmt: skip
    try:
        server = Server(port, process, log)
        _wait(server, path)
        yield server
        process.send_signal(signal.SIGTERM)
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the server did not end in {END_S} s:\n{server.text()}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(server: Server, path: str) -> None:
    """Wait until the server answers. The socket listens already, so the request waits for it."""
    end = time.monotonic() + START_S
    while True:
        try:
            with contextlib.closing(server.connect(START_S)) as connection:
                ask(connection, path)
            return
        except OSError:
            if server.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the server did not start:\n{server.text()}") from None
