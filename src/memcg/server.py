# SPDX-License-Identifier: Apache-2.0
"""`serve`: other processes of this user read and write the groups' files through a Unix socket.

A client sends a line of JSON for each request and gets a line for each answer; docs/cli.md has the
operations. One daemon thread serves all clients. It exists only after `serve`, allocates for the
root, and is never refused memory. A client has bounds: its requests are short, its answers wait for
it up to a limit, and it is one of a few.

Locks: none. The thread alone has the clients; other threads only make and close the whole server.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import sys
import time

from . import core, files, page, publisher
from .control.cgroup import cgroup_find
from .errors import GroupBusy, MemcgError
from .groups import Group, root, slabinfo, walk
from .locking import at_exit, at_fork, report_exception, spawn
from .sizes import PAGE_COUNTER_MAX, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROTOCOL = 1
CLIENTS_MAX = 8
REQUEST_MAX = 64 << 10  # bytes of a line
BACKLOG_MAX = 4 << 20  # bytes of answers that a client has not read; then it is closed
IDLE_S = 300  # seconds without a request; then a client that follows nothing is closed
PATIENCE_S = 5  # seconds without one; then it makes room for a client that waits
FOLLOW_S = 0.25  # seconds between looks for new events and samples
GROUPS_MOST = 10_000  # of one answer


class RequestError(Exception):
    """A request cannot be served. `errno` is the name of an error number."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.errno = name


def _group(request: dict[str, Any]) -> Group:
    path = _field(request, "path", str, "")
    if path in ("", "/"):
        return root
    try:
        return cgroup_find(root, path)
    except MemcgError as error:
        raise RequestError("ENOENT", str(error)) from None
    except ValueError as error:
        raise RequestError("EINVAL", str(error)) from None


def _field(request: dict[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = request.get(name, default)
    if value is default:
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        raise RequestError("EINVAL", f"{name!r} is a {wanted}, not {type(value).__name__}")
    return value


def _figures(group: Group) -> dict[str, Any]:
    return {
        "path": group.path, "current": group.current, "peak": group.peak,
        "max": _limit(group.max), "high": _limit(group.high), "inside": group.nr_inside,
        "events": {name: n for name, n in group.events.items() if n},
    }  # fmt: skip


def _limit(n: int) -> int | None:
    return None if n >= PAGE_COUNTER_MAX else n


class _Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.unsent = bytearray()
        self.last = time.monotonic()
        self.follows: dict[str, tuple[object, int]] = {}  # ring -> request's id, next number
        self.ends = False  # once everything was sent


class _Server:
    def __init__(self, path: str, writable: bool) -> None:
        self.path = path
        self.writable = writable
        self.clients: dict[int, _Client] = {}
        self.page = page.Page(publisher.publish())
        self.looked = 0.0
        if os.path.lexists(path):  # a process that had our number and start has left it
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # The folder is this user's alone; the mode is for a reader of the folder's list.
        self.listener.bind(path)
        os.chmod(path, 0o600)
        self.listener.listen(CLIENTS_MAX)
        self.wake_r, self.wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.stopped = False

    # -- the thread

    def run(self) -> None:
        core.stop_account()
        try:
            while not self.stopped:
                self.turn()
        except BaseException as error:
            report_exception(error)
        finally:
            self.close()
            core.resume_account()

    def turn(self) -> None:
        poll = select.poll()
        poll.register(self.wake_r, select.POLLIN)
        if len(self.clients) < CLIENTS_MAX or self._idlest():  # else it waits in the kernel's queue
            poll.register(self.listener, select.POLLIN)
        for fd, client in self.clients.items():
            # A client that does not read its answers is not read either.
            events = select.POLLOUT if client.unsent else select.POLLIN
            poll.register(fd, events)
        ready = dict(poll.poll(self._timeout_ms()))
        if self.stopped:
            return
        for fd, client in list(self.clients.items()):
            if fd in ready:
                self._attend(client, ready[fd])
        if self.listener.fileno() in ready:
            if len(self.clients) >= CLIENTS_MAX and (idlest := self._idlest()):
                self._drop(idlest)
            if len(self.clients) < CLIENTS_MAX:
                self._accept()
        now = time.monotonic()
        if now - self.looked >= FOLLOW_S:
            self.looked = now
            for client in list(self.clients.values()):
                self._look(client)
                if now - client.last > IDLE_S and (client.unsent or not client.follows):
                    self._drop(client)

    def _idlest(self) -> _Client | None:
        """Return the client that makes room for another; None: all were active just now."""
        late = time.monotonic() - PATIENCE_S
        idle = [c for c in self.clients.values() if c.last < late and (c.unsent or not c.follows)]
        return min(idle, key=lambda client: client.last, default=None)

    def _timeout_ms(self) -> int | None:
        if len(self.clients) >= CLIENTS_MAX:
            return int(FOLLOW_S * 1000)
        if any(client.follows for client in self.clients.values()):
            return int(FOLLOW_S * 1000)
        return IDLE_S * 1000 if self.clients else None

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:  # the client has gone, or there is no file descriptor: poll says more
            return
        sock.setblocking(False)
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("iII", raw)
        if uid not in (os.geteuid(), 0):
            sock.close()
            return
        self.clients[sock.fileno()] = _Client(sock)

    def _drop(self, client: _Client) -> None:
        self.clients.pop(client.sock.fileno(), None)
        client.sock.close()

    def _attend(self, client: _Client, ready: int) -> None:
        try:
            if ready & select.POLLOUT:
                self._flush(client)
            elif ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
                data = client.sock.recv(REQUEST_MAX)
                if not data:
                    self._drop(client)
                    return
                client.last = time.monotonic()
                client.received += data
            self._answer_lines(client)
        except BlockingIOError:
            pass
        except OSError:  # it has gone
            self._drop(client)

    def _answer_lines(self, client: _Client) -> None:
        """Answer what was received, as long as the client reads its answers."""
        while not client.unsent and not client.ends:
            line, newline, rest = client.received.partition(b"\n")
            if not newline:
                if len(line) > REQUEST_MAX:
                    client.ends = True
                    text = f"a request has at most {REQUEST_MAX} bytes and ends with a newline"
                    self._send(client, {"id": None, "ok": False, "errno": "E2BIG", "error": text})
                return
            client.received = rest
            self._send(client, self.answer(client, bytes(line)))

    def _send(self, client: _Client, answer: dict[str, Any]) -> None:
        client.unsent += json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        if len(client.unsent) > BACKLOG_MAX:
            self._drop(client)
            return
        try:
            self._flush(client)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _flush(self, client: _Client) -> None:
        while client.unsent:
            del client.unsent[: client.sock.send(client.unsent)]
            client.last = time.monotonic()
        if client.ends:
            self._drop(client)

    def _look(self, client: _Client) -> None:
        """Send what is new to a client that follows a ring."""
        for name, (id_, since) in list(client.follows.items()):
            if client.unsent:  # it is slow, and gets what is left in the ring then
                return
            answer = self._ring(name, since)
            if answer["entries"] or answer["dropped"]:
                client.follows[name] = (id_, answer["next"])
                self._send(client, {"id": id_, "ok": True, **answer})

    def close(self) -> None:
        for client in list(self.clients.values()):
            self._drop(client)
        self.listener.close()
        self.page.close()
        os.close(self.wake_r)
        os.close(self.wake_w)

    # -- requests

    def answer(self, client: _Client, line: bytes) -> dict[str, Any]:
        """Return the answer to a line; it never raises."""
        id_: object = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise RequestError("EINVAL", 'a request is an object: {"id":1,"op":"hello"}')
            id_ = request.get("id")
            op = request.get("op")
            serve = _OPS.get(op) if isinstance(op, str) else None
            if serve is None:
                raise RequestError("ENOSYS", f"op is one of {', '.join(_OPS)}, not {op!r}")
            return {"id": id_, "ok": True, **serve(self, client, request)}
        except RequestError as error:
            return _failed(id_, error.errno, error)
        except RecursionError:
            return _failed(id_, "EINVAL", "the request is nested too deeply")
        except (KeyError, ValueError, TypeError) as error:
            text = error.args[0] if isinstance(error, KeyError) else error
            return _failed(id_, "EINVAL", text)
        except GroupBusy as error:
            return _failed(id_, "EBUSY", error)
        except MemcgError as error:
            return _failed(id_, "EACCES", error)
        except Exception as error:  # a shrinker's, for example
            return _failed(id_, "EIO", f"{type(error).__name__}: {error}")

    def _hello(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        memcg = sys.modules[__package__ or ""]  # a layer above, so not imported
        return {
            "pid": os.getpid(), "memcg": memcg.__version__, "protocol": PROTOCOL,
            "writable": self.writable, "page": self.page.path, "ops": list(_OPS),
        }  # fmt: skip

    def _tree(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        top = _group(request)
        depth = _field(request, "depth", int, GROUPS_MOST)
        limit = min(_field(request, "limit", int, GROUPS_MOST), GROUPS_MOST)
        level = top.path.count("/") + 1 if top.path else 0
        groups = [g for g in walk(top.path)
                  if (g.path.count("/") + 1 if g.path else 0) - level <= depth]  # fmt: skip
        return {"groups": [_figures(g) for g in groups[: max(limit, 0)]], "all": len(groups)}

    def _read(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        return {"value": _group(request)[_field(request, "file", str, "")]}

    def _refuse_unless_writable(self) -> None:
        if not self.writable:
            text = "this process is served for reading; memcg.serve(writable=True), or memcg run "
            raise RequestError("EACCES", f"{text}--control=write, opens it for writing")

    def _write(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        self._refuse_unless_writable()
        group, file = _group(request), _field(request, "file", str, "")
        if file not in files.WRITABLE:
            raise RequestError("EACCES", f"{file!r} cannot be written; one can write "
                                         f"{', '.join(files.WRITABLE)}")  # fmt: skip
        group[file] = _field(request, "value", (str, int), "")
        return {"value": group[file] if file in files.READABLE else None}

    def _slabinfo(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        return {"text": slabinfo(_group(request).path)}

    def _report(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        return {"text": _group(request).report()}

    def _holders(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        from .report import held_by  # not before it is needed

        return held_by(_group(request))

    def _sites(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        from .report import sites_of

        return {"sites": sites_of(_group(request))}

    def _trace(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        self._refuse_unless_writable()
        from .tracing import DEFAULT_EVERY, trace

        every = _field(request, "every", (str, int), DEFAULT_EVERY)
        group = _group(request)
        if every == 0:
            core.mem_cgroup_set_sampling(group, 0)
            return {"every": 0}
        return {"every": trace(group, every=every).every}

    def _reclaim(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        self._refuse_unless_writable()
        size = parse_size(_field(request, "bytes", (str, int), "max"), bare_is_binary=True)
        return {"reclaimed": _group(request).reclaim(size)}

    def _events(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        return self._start("events", client, request)

    def _history(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        return self._start("history", client, request)

    def _start(self, name: str, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._ring(name, max(_field(request, "since", int, 0), 0))
        if _field(request, "follow", bool, False):
            client.follows[name] = (request.get("id"), answer["next"])
        return answer

    def _ring(self, name: str, since: int) -> dict[str, Any]:
        ring: page.Ring[Any] = (self.page.events if name == "events" else self.page.samples)(since)
        names = ring.entries[0].__slots__ if ring.entries else ()
        return {"entries": [{n: getattr(e, n) for n in names} for e in ring.entries],
                "next": ring.next, "dropped": ring.dropped}  # fmt: skip


_OPS: dict[str, Callable[[_Server, _Client, dict[str, Any]], dict[str, Any]]] = {
    "hello": _Server._hello, "tree": _Server._tree, "read": _Server._read,
    "write": _Server._write, "slabinfo": _Server._slabinfo, "report": _Server._report,
    "holders": _Server._holders, "sites": _Server._sites, "trace": _Server._trace,
    "reclaim": _Server._reclaim,
    "events": _Server._events, "history": _Server._history,
}  # fmt: skip


def _failed(id_: object, name: str, error: object) -> dict[str, Any]:
    return {"id": id_, "ok": False, "errno": name, "error": str(error)}


# -- its life

_server: _Server | None = None
_registered = False


def socket_of(page_path: str) -> str:
    """Return the path of the socket that lies beside a page."""
    return page_path.removesuffix(".page") + ".sock"


def serve(*, writable: bool = False) -> str:
    """Let other processes of this user read the groups' files, with ``memcg cat`` for example.

    It publishes the process too (`memcg.publish`). A daemon thread serves a Unix socket of mode
    0600 beside the page. A client of another user is refused. A forked child serves a socket of its
    own.

    Parameters
    ----------
    writable : bool
        Clients may also write limits, and reclaim.

    Returns
    -------
    str
        The socket's path. A second call returns the same, and may open it for writing.

    Raises
    ------
    MemcgError
        The process cannot be published, or the socket cannot be made; the text says what to do.
    """
    global _server, _registered
    if _server is not None:
        _server.writable = _server.writable or writable
        return _server.path
    path = socket_of(publisher.publish())
    try:
        server = _Server(path, writable)
    except OSError as error:
        cure = "make it shorter: set MEMCG_RUNTIME_DIR to a folder with a shorter path"
        if error.errno is not None and "too long" not in str(error):
            cure = "set MEMCG_RUNTIME_DIR to another folder of yours"
        raise MemcgError(
            f"memcg.serve() cannot make {path!r}: {error.strerror or error}; {cure}"
        ) from None
    _server = server
    if not _registered:
        _registered = True
        at_fork(_nothing, _nothing, _after_fork_in_child)
        at_exit(_leave)
    spawn(server.run, "memcg-server")
    return path


def unserve() -> None:
    """End `serve` and remove the socket. Without one it does nothing."""
    global _server
    if (server := _server) is not None:
        _server = None
        _remove(server.path)
        server.stopped = True
        os.write(server.wake_w, b"x")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _leave() -> None:
    if _server is not None:
        _remove(_server.path)


def _nothing() -> None:
    pass


def _after_fork_in_child() -> None:
    """Serve the child too. The thread is the parent's, and its socket and clients are as well."""
    global _server
    if (server := _server) is not None:
        _server = None
        server.close()
        if publisher.published() is not None:
            serve(writable=server.writable)
