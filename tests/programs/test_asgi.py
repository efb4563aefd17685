# SPDX-License-Identifier: Apache-2.0
"""The ASGI and WSGI middlewares over plain applications: what each option does.

tests/hosts runs them under real servers.
"""

from __future__ import annotations

import pytest

ASGI = """
import asyncio, logging
from memcg.asgi import MemcgMiddleware, header
logged = []
class Keep(logging.Handler):
    def emit(self, record): logged.append((record.name, record.getMessage()))
logging.getLogger("memcg").addHandler(Keep())
logging.getLogger("memcg").propagate = False
def grab(size=20 * MIB):
    return bytearray(size)
async def body(receive):
    got = []
    while True:
        message = await receive()
        got.append(message.get("body", b""))
        if not message.get("more_body"):
            return got
def ask(app, tenant="a", kind="http", pieces=(b"",), headers=(), method="POST", **more):
    sent = []
    async def main():
        left = list(pieces)
        async def receive():
            assert memcg.current() is memcg.root
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}
        async def send(message):
            assert memcg.current() is memcg.root
            sent.append(message)
        own = [(b"x-tenant", tenant.encode())] if tenant else []
        scope = {"type": kind, "path": "/p", "method": method, "headers": [*own, *headers], **more}
        await app(scope, receive, send)
        ask.left = left
    asyncio.run(main())
    return sent
def status(sent):
    return sent[0]["status"]
async def bomb(scope, receive, send):
    await body(receive)
    grab()
async def fine(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": memcg.current().path.encode()})
"""


def asgi(run_program, code):
    return run_program(ASGI + code)


def test_the_answer_says_no_more_than_it_may_and_is_logged(run_program):
    asgi(run_program, """
sent = ask(MemcgMiddleware(bomb, max="8MiB"))
assert status(sent) == 507 and b"memory.max" not in sent[1]["body"], sent
assert not [pair for pair in sent[0]["headers"] if pair[0] == b"x-memcg-group"]
[(name, text)] = logged
assert name == "memcg.asgi" and text.startswith("POST '/p': 507: group 'tenants/a': charge of 20")
sent = ask(MemcgMiddleware(bomb, max="8MiB", expose=True, status=599))
assert status(sent) == 599 and sent[1]["body"].startswith(b"group 'tenants/a'"), sent
assert (b"x-memcg-group", b"tenants/a") in sent[0]["headers"]
""")  # fmt: skip


def test_on_oom_gives_the_answer_or_leaves_it(run_program):
    asgi(run_program, """
async def on_oom(scope, oom):
    assert memcg.current() is memcg.root and type(oom) is memcg.MemcgOOM
    return (418, [(b"x-y", b"z")], b"short") if scope["path"] == "/p" else None
app = MemcgMiddleware(bomb, max="8MiB", on_oom=on_oom)
sent = ask(app)
assert (status(sent), sent[1]["body"]) == (418, b"short"), sent
assert sent[0]["headers"] == [(b"x-y", b"z"), (b"content-length", b"5")]
assert status(ask(app, path="/other")) == 507
""")  # fmt: skip


def test_what_a_group_may_be(run_program):
    asgi(run_program, """
vip = memcg.group("vip", max="1GiB")
app = MemcgMiddleware(fine, group=lambda scope: vip if scope["headers"] else None, max="8MiB")
assert ask(app)[1]["body"] == b"vip"
assert ask(app, tenant=None)[1]["body"] == b""
assert ask(MemcgMiddleware(fine, max=None))[1]["body"] == b"tenants/a"
assert memcg.group("tenants/a").max == 2**63 - 1
try:
    MemcgMiddleware(fine, group="x-tenant")
except TypeError as error:
    assert "memcg.asgi.header" in str(error), error
else:
    raise SystemExit("a str is no callable")
""")  # fmt: skip


def test_a_body_is_the_tenants_and_max_body_is_checked_before_it_is_read(run_program):
    asgi(run_program, """
async def keep(scope, receive, send):
    kept = await body(receive)
    used.append(memcg.current().current)
    await fine(scope, receive, send)
used, pieces = [], [bytes(MIB) for _ in range(4)]
assert status(ask(MemcgMiddleware(keep, max="8MiB"), pieces=pieces)) == 200
assert used[0] >= 4 * MIB, used
length = [(b"content-length", str(4 * MIB).encode())]
app = MemcgMiddleware(keep, max="8MiB", max_body="2MiB")
assert status(ask(app, pieces=pieces, headers=length)) == 413 and len(used) == 1
assert ask.left == []  # the rest was read
assert status(ask(app, pieces=pieces[:1], headers=[(b"content-length", b"1048576")])) == 200
expects = [*length, (b"expect", b"100-continue")]
assert status(ask(app, pieces=pieces, headers=expects)) == 413
assert len(ask.left) == 4  # the client waits for the answer
""")  # fmt: skip


@pytest.mark.parametrize("code", [400, 404, 500])
def test_an_error_that_a_framework_answers_with_400_or_500_becomes_507(run_program, code):
    asgi(run_program, f"""
async def framework(scope, receive, send):
    try:
        grab()
    except Exception as error:
        try:
            raise ValueError("a bad body") from error
        except ValueError:
            await send({{"type": "http.response.start", "status": {code}, "headers": []}})
            await send({{"type": "http.response.body", "body": b"mine"}})
assert status(ask(MemcgMiddleware(framework, max="8MiB"))) == ({code} if {code} == 404 else 507)
async def wrong(scope, receive, send):
    try:
        raise ValueError("of the program")
    except ValueError:
        await send({{"type": "http.response.start", "status": 500, "headers": []}})
assert status(ask(MemcgMiddleware(wrong, max="8MiB"))) == 500
""")  # fmt: skip


def test_after_the_answer_has_begun_the_error_is_raised(run_program):
    asgi(run_program, """
START = {"type": "http.response.start", "status": 200, "headers": []}
async def late(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    grab()
try:
    ask(MemcgMiddleware(late, max="8MiB"))
except memcg.MemcgOOM as error:
    assert type(error.__cause__) is MemoryError
else:
    raise SystemExit("no error")
assert logged == []
async def early(scope, receive, send):
    await send(START)
    grab()
assert status(ask(MemcgMiddleware(early, max="8MiB"))) == 507
async def alone(scope, receive, send):
    await send(START)
assert ask(MemcgMiddleware(alone)) == [START]  # the server says what is missing
async def twice(scope, receive, send):
    await send(START)
    await send(START)
assert ask(MemcgMiddleware(twice)) == [START, START]
""")  # fmt: skip


def test_lifespan_and_unknown_kinds_get_the_servers_own_functions(run_program):
    asgi(run_program, """
seen = []
async def app(scope, receive, send):
    seen.append((receive, send, memcg.current().path))
own = [object(), object()]
with memcg.group("server"):
    asyncio.run(MemcgMiddleware(app)({"type": "lifespan"}, *own))
assert seen == [(*own, "server")], seen
""")  # fmt: skip


def test_a_request_that_begins_in_another_requests_context_is_in_its_own_group(run_program):
    asgi(run_program, """
app = MemcgMiddleware(fine, max="8MiB")
with memcg.group("tenants/other"):
    assert ask(app)[1]["body"] == b"tenants/a"
    assert ask(app, tenant=None)[1]["body"] == b""
""")  # fmt: skip


def test_a_group_a_request_is_closed_at_the_end_and_its_limit_is_the_tenants(run_program):
    asgi(run_program, """
app = MemcgMiddleware(fine, max="8MiB", per_request=True)
assert ask(app)[1]["body"] == b"tenants/a/request"
assert not memcg.group("tenants/a").children
app = MemcgMiddleware(bomb, max="8MiB", per_request=True, expose=True)
sent = ask(app)
assert status(sent) == 507 and b"group 'tenants/a/request'" in sent[1]["body"], sent
assert not memcg.group("tenants/a").children
""")  # fmt: skip


def test_while_there_is_no_place_for_another_tenant_the_answer_is_503(run_program):
    asgi(run_program, """
app = MemcgMiddleware(fine)
app._rules._tenants._most = 1
with app._rules._tenants("busy"):
    sent = ask(app)
    assert status(sent) == 503 and (b"retry-after", b"1") in sent[0]["headers"], sent
    assert ask(app, tenant="busy")[1]["body"] == b"tenants/busy"
assert ask(app)[1]["body"] == b"tenants/a" and [*memcg.group("tenants").children] == ["a"]
""")  # fmt: skip


def test_a_websocket_is_closed_with_1011_or_denied_before_it_is_accepted(run_program):
    asgi(run_program, """
async def socket(scope, receive, send):
    assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
    if scope["path"] != "/early":
        await send({"type": "websocket.accept"})
    if scope["path"] == "/closed":
        await send({"type": "websocket.close"})
    grab()
app = MemcgMiddleware(socket, max="8MiB")
ACCEPT, CLOSE = {"type": "websocket.accept"}, {"type": "websocket.close"}
sent = ask(app, kind="websocket")
assert sent[0] == ACCEPT and sent[1]["type"] == "websocket.close" and sent[1]["code"] == 1011, sent
sent = ask(app, kind="websocket", path="/early")
assert [message["code"] for message in sent] == [1011], sent
denials = {"websocket.http.response": {}}
sent = ask(app, kind="websocket", path="/early", extensions=denials)
assert [message["type"] for message in sent] == [f"{[*denials][0]}.start", f"{[*denials][0]}.body"]
assert sent[0]["status"] == 507
try:
    ask(app, kind="websocket", path="/closed")
except memcg.MemcgOOM:
    pass
else:
    raise SystemExit("the error after the close is the server's")
""")  # fmt: skip


WSGI = """
import io, logging
logging.getLogger("memcg").addHandler(logging.NullHandler())
from wsgiref.validate import validator
from wsgiref.util import setup_testing_defaults
from memcg.wsgi import MemcgMiddleware
def grab(size=20 * MIB):
    return bytearray(size)
def ask(app, tenant="a", data=b"", **more):
    environ = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(data)), "PATH_INFO": "/",
               "SCRIPT_NAME": "", "QUERY_STRING": "", "wsgi.input": io.BytesIO(data), **more}
    if tenant:
        environ["HTTP_X_TENANT"] = tenant
    setup_testing_defaults(environ)
    started, written = [], []
    def start(status, headers, exc_info=None):
        assert memcg.current() is memcg.root
        started.append((status, headers))
        return written.append
    answer = validator(app)(environ, start)
    try:
        body = b"".join(answer)
    finally:
        answer.close()
    return started, b"".join(written) + body
class Steps:
    closed = None
    def __init__(self, steps): self.steps = steps
    def __iter__(self): return self.steps
    def close(self): Steps.closed = memcg.current().path
"""


def test_a_wsgi_application_its_steps_and_its_close_run_in_the_group(run_program):
    run_program(WSGI + """
def app(environ, start):
    seen.append(memcg.current().path)
    start("200 OK", [("Content-Type", "text/plain")])
    return Steps(memcg.current().path.encode() for _ in range(2))
seen = []
assert ask(MemcgMiddleware(validator(app)))[1] == b"tenants/a" * 2
assert (seen, Steps.closed) == (["tenants/a"], "tenants/a")
assert ask(MemcgMiddleware(app), tenant=None)[1] == b"" and Steps.closed == ""
def written(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])(b"by write")
    return []
started, body = ask(MemcgMiddleware(written))
assert (len(started), body) == (1, b"by write")
""")  # fmt: skip


def test_a_wsgi_answer_begins_with_its_first_piece_and_can_be_another_until_then(run_program):
    run_program(WSGI + """
def app(environ, start):
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    def steps():
        yield b""
        if environ["PATH_INFO"] == "/late":
            yield b"abc"
        grab()
    return Steps(steps())
app = MemcgMiddleware(app, max="8MiB")
[(status, headers)], body = ask(app)
assert status == "507 Insufficient Storage" and dict(headers)["content-length"] == str(len(body))
assert Steps.closed == "tenants/a"
import itertools
class Kept:
    def __init__(self):
        self.steps, self.kept = itertools.tee(map(bytes, itertools.repeat(1000)))
    def __iter__(self):
        return self.steps  # no code of Python runs in a step, so the error is raised between two
    def close(self):
        for _ in range(10):
            str()
        self.steps = self.kept = None
        closed.append(memcg.current().path)
closed = []
def kept(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    return Kept()
try:
    ask(MemcgMiddleware(kept, max="8MiB"))
except memcg.MemcgOOM:
    assert closed == ["tenants/a"] and memcg.group("tenants/a").current < MIB
else:
    raise SystemExit("no error")
try:
    ask(app, PATH_INFO="/late")
except memcg.MemcgOOM:
    pass
else:
    raise SystemExit("no error")
""")  # fmt: skip


def test_a_wsgi_body_is_copied_into_the_group_in_every_way_of_reading(run_program):
    run_program(WSGI + """
data = b"one\\ntwo\\n" + bytes(300_000) + b"\\nend"
READS = [
    lambda f: b"".join(iter(lambda: f.read(100_000), b"")),
    lambda f: f.read(len(data)),
    lambda f: b"".join(iter(f.readline, b"")),
    lambda f: b"".join(f.readlines()),
    lambda f: b"".join(f),
    lambda f: f.readline(2) + b"".join(f.readlines(1)) + f.read(len(data)),
]
def app(environ, start):
    before = memcg.current().current
    got = READS[int(environ["PATH_INFO"][1:])](environ["wsgi.input"])
    assert memcg.current().current - before >= len(data)
    start("200 OK", [("Content-Type", "text/plain")])
    return Steps(iter([got]))
for n in range(len(READS)):
    assert ask(MemcgMiddleware(app), data=data, PATH_INFO=f"/{n}")[1] == data, n
""")  # fmt: skip
