# SPDX-License-Identifier: Apache-2.0
"""The loop calls the callbacks of a connection or a pipe in the group that made it."""

from __future__ import annotations

import importlib.util

import pytest

# A server's end of a connection is made in `made`. A tenant's task uses it as tasks do.
CONNECTION = """
where = lambda: memcg.current().path
made, tenant, other = memcg.group("made"), memcg.group("tenant"), memcg.group("other")
HOSTS = made, memcg.root
class Recorder(asyncio.Protocol):
    # Record each call with its group. `changed` wakes the tasks that wait for a call.
    def __init__(self):
        self.calls, self.changed = [], asyncio.Event()
    def note(self, call):
        self.calls.append((call, where())); self.changed.set()
    def connection_made(self, transport): self.transport = transport; self.note("made")
    def data_received(self, data): self.note("data")
    def datagram_received(self, data, address): self.note("data")
    def error_received(self, error): self.note("error")
    def eof_received(self): self.note("eof")
    def resume_writing(self): self.note("resume_writing")
    def connection_lost(self, error): self.note("lost")
    def pipe_data_received(self, fd, data): self.note("pipe_data")
    def pipe_connection_lost(self, fd, error): self.note("pipe_lost")
    def process_exited(self): self.note("exited")
    async def reaches(self, call, n=1):
        async with asyncio.timeout(20):
            while sum(c == call for c, _ in self.calls) < n:
                self.changed.clear()
                await self.changed.wait()
def all_in(recorder, group, *calls):
    assert {g for _, g in recorder.calls} == {group.path}, recorder.calls
    assert set(calls) <= {c for c, _ in recorder.calls}, recorder.calls
async def within(group, coroutine):
    with group: return await asyncio.create_task(coroutine)
"""


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "certificate.pem"
    path.write_text(CERTIFICATE)
    return str(path)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("over", ["tcp", "tls"])
def test_a_connections_callbacks_keep_its_group(run_program, certificate, loop, over):
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    run_program(
        CONNECTION
        + f"""
if {loop!r} == "uvloop": import uvloop as policy
else: policy = asyncio
server_tls = client_tls = None
if {over!r} == "tls":
    import ssl
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); server_tls.load_cert_chain(sys.argv[1])
    client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); client_tls.check_hostname = False
    client_tls.verify_mode = ssl.CERT_NONE
"""
        + """
async def serve(host):
    made_by = []
    def factory():
        made_by.append(Recorder()); return made_by[-1]
    loop = asyncio.get_running_loop()
    with host: server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls)
    while not made_by: await asyncio.sleep(0)
    [end] = made_by
    await end.reaches("made")
    transport = end.transport
    async def pause_and_resume():  # flow control of what is received
        transport.pause_reading()
        writer.write(b"x" * 1000)
        for _ in range(20): await asyncio.sleep(0)  # TLS reads the data and keeps it
        transport.resume_reading()
    async def write_much():  # flow control of what is sent
        transport.set_write_buffer_limits(high=1000)
        transport.write(bytes(8 * MIB))  # more than the socket's buffer
    for n in range(1, 4):
        for who in tenant, other:
            had = sum(call == "data" for call, _ in end.calls)
            await within(who, pause_and_resume()); await end.reaches("data", had + 1)
            had = sum(call == "data" for call, _ in end.calls)
            writer.write(b"y"); await end.reaches("data", had + 1)
        await within(tenant, write_much())
        assert len(await reader.readexactly(8 * MIB)) == 8 * MIB
        if server_tls is None: await end.reaches("resume_writing", n)  # TLS may send it all
    async def close(): transport.close()
    await within(tenant, close())
    await end.reaches("lost")
    writer.close(); server.close()
    with contextlib.suppress(OSError): await writer.wait_closed()
    all_in(end, host, "made", "data", "lost")
    return [g for g in (tenant, other) if g.nr_inside]
async def main():
    for host in HOSTS:
        assert await serve(host) == []
policy.run(main())
""",
        certificate,
    )


def test_what_is_received_after_flow_control_is_the_servers(run_program):
    """With streams the chunks that wait for a reader are charged to the server."""
    run_program(
        CONNECTION
        + """
async def main():
    got = asyncio.Queue()
    async def handle(reader, writer):
        seen = [where()]
        with tenant: seen.append(len(await reader.readexactly(MIB)))  # pauses reading, and resumes
        writer.write(b"more"); await writer.drain()
        while len(reader._buffer) < 60_000: await asyncio.sleep(0.001)
        before = tenant.current
        await got.put((*seen, where(), before))
        writer.close()
    with made: server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1000)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(bytes(MIB)); await reader.readexactly(4)
    writer.write(bytes(MIB))
    *seen, held = await asyncio.wait_for(got.get(), 20)
    assert seen == ["made", MIB, "made"] and held < 40_000, (seen, held)
    writer.close(); server.close()
asyncio.run(main())
"""
    )


def test_pipes_children_and_datagrams_keep_their_group(run_program):
    run_program(
        CONNECTION
        + """
async def pipes(host):
    loop = asyncio.get_running_loop()
    r, w = os.pipe()
    with host:
        reader, source = await loop.connect_read_pipe(Recorder, os.fdopen(r, "rb"))
        writer, sink = await loop.connect_write_pipe(Recorder, os.fdopen(w, "wb"))
    writer.set_write_buffer_limits(high=1000)
    async def much():
        reader.pause_reading()
        writer.write(bytes(MIB))
        reader.resume_reading()
    for n in range(1, 4):
        await within(tenant, much())
        await sink.reaches("resume_writing", n)
    async def close(): writer.close()
    await within(tenant, close())
    await source.reaches("lost"); await sink.reaches("lost")
    all_in(source, host, "made", "data", "eof", "lost")
    all_in(sink, host, "made", "resume_writing", "lost")
async def children(host):
    loop = asyncio.get_running_loop()
    with host:
        transport, child = await loop.subprocess_exec(
            Recorder, sys.executable, "-Ic", "import sys; print(len(sys.stdin.read()), flush=True)",
        )
    async def feed():
        out = transport.get_pipe_transport(1)
        out.pause_reading(); out.resume_reading()
        stdin = transport.get_pipe_transport(0)
        stdin.write(bytes(MIB)); stdin.write_eof()
    await within(tenant, feed())
    await child.reaches("exited"); await child.reaches("pipe_lost", 3)
    async def close(): transport.close()
    await within(tenant, close())
    await child.reaches("lost")
    all_in(child, host, "made", "pipe_data", "pipe_lost", "exited", "lost")
    with host: transport, child = await loop.subprocess_exec(Recorder, "sleep", "60")
    async def kill(): transport.kill()
    await within(tenant, kill()); await child.reaches("exited"); await child.reaches("lost")
    all_in(child, host, "made", "exited", "lost")
async def datagrams(host):
    loop = asyncio.get_running_loop()
    with host:
        transport, end = await loop.create_datagram_endpoint(Recorder, ("127.0.0.1", 0))
    peer, _ = await loop.create_datagram_endpoint(
        Recorder, remote_addr=transport.get_extra_info("sockname")
    )
    for n in range(1, 4):
        peer.sendto(b"x"); await end.reaches("data", n)
    async def close(): transport.close()
    await within(tenant, close())
    await end.reaches("lost"); peer.close()
    all_in(end, host, "made", "data", "lost")
async def main():
    for host in HOSTS:
        await pipes(host); await children(host); await datagrams(host)
asyncio.run(main())
assert (tenant.nr_inside, made.nr_inside) == (0, 0)
"""
    )


def test_what_a_user_has_the_loop_watch_is_the_users(run_program):
    run_program(
        CONNECTION
        + """
import socket
async def main():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair(); near.setblocking(False); far.setblocking(False)
    seen = asyncio.Queue()
    def told(): seen.put_nowait(where()); near.recv(10)
    with tenant:
        loop.add_reader(near, told); far.send(b"x")
        loop.call_soon(lambda: seen.put_nowait(where()))
    assert [await seen.get(), await seen.get()] == ["tenant"] * 2
    with other: loop.add_reader(near, told); far.send(b"x")
    assert await seen.get() == "other"
    loop.remove_reader(near)
    async def asks():
        await loop.sock_sendall(far, b"hello")
        return await loop.sock_recv(near, 10), where()
    assert await within(tenant, asks()) == (b"hello", "tenant")
    near.close(); far.close()
asyncio.run(main())
"""
    )


@pytest.mark.parametrize("attributes", ["__getattr__", "__slots__"])
def test_a_transport_of_another_library_may_be_below_tls(run_program, attributes):
    """unittest's Mock is one that has an answer to any name."""
    shown = run_program(
        f"""
import asyncio.sslproto
class Transport:
    if {attributes!r} == "__slots__":
        __slots__ = ()
    else:
        def __getattr__(self, name): return object()
class Protocol(asyncio.sslproto.SSLProtocol):
    def __init__(self): self._transport, self._state = Transport(), None
with memcg.group("tenant"):
    Protocol()._do_read()  # it does nothing in this state
show(ok=True)
""",
    )
    assert shown["ok"]


def test_a_loop_that_runs_when_memcg_is_installed_goes_on(run_program):
    run_program(
        """
import asyncio, sys
async def handle(reader, writer):
    while line := await reader.readline(): writer.write(line); await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"1\\n"); assert await reader.readline() == b"1\\n"
    import memcg; memcg.install()
    with memcg.group("tenant"):
        writer.write(b"2\\n"); assert await reader.readline() == b"2\\n"
        writer.transport.pause_reading(); writer.transport.resume_reading()
    writer.write(b"3\\n"); assert await reader.readline() == b"3\\n"
    writer.close(); await writer.wait_closed(); server.close()
asyncio.run(main())
""",
        prelude="",
    )


UVICORN = """
import logging, socket, uvicorn
LOOP, HTTP = sys.argv[1:]
seen = []  # (path, the group in which the application is called)
where = lambda: memcg.current().path
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    seen.append((scope["path"], where()))
    tenant = dict(scope["headers"]).get(b"x-tenant", b"").decode()
    if not tenant:
        while (await receive()).get("more_body"): pass
        return await answer(send, 200)
    group = memcg.group("tenants/" + tenant, max="64MiB")
    if scope["path"].endswith("/inside"):  # the response is sent inside too
        with group:
            while (await receive()).get("more_body"): pass
            return await answer(send, 200)
    more, status = True, 200
    try:
        with group:
            body = []
            while more:
                message = await receive()
                more = message.get("more_body")
                body.append(bytes(memoryview(message["body"])))
    except MemoryError:
        status = 507
    body = message = None
    while more: more = (await receive()).get("more_body")
    await answer(send, status)
async def answer(send, status):
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
def request(path, tenant="", size=0):
    lines = [f"POST {path} HTTP/1.1", "host: here", f"content-length: {size}"]
    if tenant: lines.append(f"x-tenant: {tenant}")
    return "\\r\\n".join([*lines, "", ""]).encode()
class Client:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.file = self.socket.makefile("rb")
    def send(self, path, tenant="", size=0):
        self.socket.sendall(request(path, tenant, size))
        piece = bytes(MIB)
        while size: size -= self.socket.send(piece[:size])
    def answer(self):
        status = int(self.file.readline().split()[1])
        while self.file.readline().strip(): pass
        assert self.file.read(2) == b"ok"
        return status
    def ask(self, *what): self.send(*what); return self.answer()
def client():
    # keep-alive: one connection for all requests
    c = Client()
    for n in range(8):
        assert c.ask("/upload", "a", 100 * MIB) == 507
        assert c.ask("/after") == 200
        assert c.ask("/after", "b", MIB) == 200
    for n in range(4):  # a connection for each request
        c = Client()
        assert c.ask("/upload", "a", 100 * MIB) == 507
        assert c.ask("/after") == 200
    # pipelined, the response in the tenant's group and outside it
    c = Client()
    for path in ("/upload", "/upload/inside"):
        what = [(path, "a"), ("/after", ""), (path, "b"), ("/after", ""), ("/after", "")]
        c.socket.sendall(b"".join(request(*w) for w in what))
        assert [c.answer() for _ in what] == [200] * 5
        body = bytes(MIB)  # several chunks: all but the first are read after flow control
        c.socket.sendall(request(path, "a", MIB) + body + request("/after") + request("/after"))
        assert [c.answer() for _ in range(3)] == [200] * 3
config = uvicorn.Config(
    application, loop=LOOP, http=HTTP, log_level="error", lifespan="on", access_log=False
)
listener = socket.create_server(("127.0.0.1", 0)); port = listener.getsockname()[1]
server, failed = uvicorn.Server(config), []
def ask():
    try: client()
    except BaseException as error: failed.append(error)
    finally: server.should_exit, server.force_exit = True, bool(failed)
asking = threading.Thread(target=ask)
asking.start()  # its connections wait in the listener until the server accepts
server.run([listener])
asking.join()
assert not failed, (repr(failed), seen[-3:])
assert {group for _, group in seen} == {""}, [s for s in seen if s[1]][:5]
assert len(seen) == 8 * 3 + 4 * 2 + 2 * 5 + 2 * 3, len(seen)
gc.collect()
for name in "ab":
    g = memcg.group("tenants/" + name); g.reclaim()
    assert g.current < MIB and g.nr_inside == 0, g.report()
"""


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_uvicorns_requests_begin_in_the_servers_group(run_program, loop, http):
    for module in ("uvicorn", loop, http):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    run_program(UVICORN, loop, http, timeout=120)


# This key is for localhost and for this test only. It protects nothing.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHbmhzPzMptLwF9KC
47+hQPKWTlV+bH+44dDBIWXmy72hRANCAARqeCgLAtnIMS5a2Me/+BPQkDwH7JWO
fmbpRha+scFPeJK3Y7QbG5gdFsOWmXqnQY6FeWCG+JYCHCmIqPHUkwuQ
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUe2rDjkS0cbM2dtTKGmaEyfcIhzswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEzMDA3MTIzMFoYDzIxMjYxMTA2
MDcxMjMwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARqeCgLAtnIMS5a2Me/+BPQkDwH7JWOfmbpRha+scFPeJK3Y7QbG5gd
FsOWmXqnQY6FeWCG+JYCHCmIqPHUkwuQo1MwUTAdBgNVHQ4EFgQUvh+mddO3SwHI
sIoxOcrPDOfa0oAwHwYDVR0jBBgwFoAUvh+mddO3SwHIsIoxOcrPDOfa0oAwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAyT3v0X8Q2Oz+3y0BTUR/
CRIaPTAemoWY+h/VWXuZplwCIBuVuOm4jC/LpqgIKnCaI+hcaCJUH8MJAyHmhVNk
Iaji
-----END CERTIFICATE-----
"""


def test_a_transport_that_keeps_its_group_has_no_dict_made_for_it(run_program):
    run_program(
        """
import asyncio, gc
def has_dict(o):
    return any(type(r) is dict and "_memcg_entry" in r for r in gc.get_referents(o))
async def main():
    async def serve(reader, writer):
        writer.write(await reader.readexactly(3))
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"abc")
    assert await reader.read() == b"abc"
    if sys.version_info[:2] != (3, 13):  # there each transport has one, without memcg too
        assert not has_dict(writer.transport)
    if sys.version_info < (3, 13):  # it would be seen
        vars(writer.transport)
        assert has_dict(writer.transport)
asyncio.run(main())
"""
    )
