# SPDX-License-Identifier: Apache-2.0
"""A process serves a socket: requests, hostile clients, forks and exit."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from environment import environment

MIB = 1 << 20
PATIENCE_S = 30  # a process that answers takes some 0.5 s to start
PROGRAM = """
import memcg, sys
memcg.install()
path = memcg.serve({how})
with memcg.group("tenants/a", max="64MiB") as a:
    keep = bytearray(8 << 20)
    print(path, flush=True)
    for line in sys.stdin:
        exec(line)
"""


class Peer:
    """A client that checks nothing."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> dict:
        line = self.file.readline()
        return json.loads(line) if line else {}

    def ask(self, op: str, **fields: object) -> dict:
        self.send(json.dumps({"id": 7, "op": op, **fields}).encode() + b"\n")
        answer = self.answer()
        assert answer.pop("id") == 7
        return answer


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("MEMCG_RUNTIME_DIR", str(tmp_path / "memcg"))
    return tmp_path / "memcg"


@pytest.fixture
def start(native, runtime):
    started = []

    def start(how: str = "", source: str = PROGRAM) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", source.replace("{how}", how)], env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        process.first = process.stdout.readline().strip()
        assert process.first, process.communicate(timeout=PATIENCE_S)[1]
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            assert "Traceback" not in process.stderr.read()


def test_a_client_reads_files_the_tree_caches_and_a_report(start):
    process = start()
    with Peer(process.first) as peer:
        hello = peer.ask("hello")
        assert (hello["ok"], hello["pid"], hello["protocol"]) == (True, process.pid, 1)
        assert hello["writable"] is False
        current = peer.ask("read", path="tenants/a", file="memory.current")["value"]
        assert 8 * MIB < current < 9 * MIB
        assert peer.ask("read", path="", file="memory.events")["value"]["oom"] == 0
        tree = peer.ask("tree")
        assert [g["path"] for g in tree["groups"]] == ["", "tenants", "tenants/a"]
        assert tree["groups"][2]["max"] == 64 * MIB
        assert [g["path"] for g in peer.ask("tree", path="tenants", depth=0)["groups"]] == [
            "tenants"
        ]
        assert peer.ask("tree", limit=1)["all"] == 3
        assert peer.ask("slabinfo")["text"].startswith("slabinfo - version: 2.1")
        assert "bytearray" in peer.ask("report", path="tenants/a")["text"]
        held = peer.ask("holders", path="tenants/a")
        kinds = {k["kind"]: k["nbytes"] for k in held["kinds"]}
        biggest = held["objects"][0]
        assert biggest["kind"] == "bytearray"
        assert biggest["nbytes"] <= kinds["bytearray"]
        assert biggest["text"].startswith("bytearray of ")


def test_a_client_traces_a_group_and_reads_which_code_allocated(start):
    process = start("writable=True")
    with Peer(process.first) as peer:
        assert peer.ask("sites", path="tenants/a")["sites"] is None
        assert peer.ask("trace", path="tenants/a", every="64KiB")["every"] == 65536
        found = peer.ask("sites", path="tenants/a")["sites"]
        assert found["every"] == 65536
        assert sum(nbytes for _, _, nbytes, *_ in found["sites"]) < MIB  # its 8 MiB are older
        assert peer.ask("trace", path="tenants/a", every=7)["errno"] == "EINVAL"
        assert peer.ask("trace", path="tenants/a", every=0)["every"] == 0
        assert peer.ask("sites", path="tenants/a")["sites"] is None


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        ({"op": "read", "path": "none", "file": "memory.max"}, "ENOENT"),
        ({"op": "read", "path": "a//b", "file": "memory.max"}, "EINVAL"),
        ({"op": "read", "path": "tenants/a", "file": "memory.none"}, "EINVAL"),
        ({"op": "read", "path": 3, "file": "memory.max"}, "EINVAL"),
        ({"op": "write", "path": "tenants/a", "file": "memory.max", "value": "1G"}, "EACCES"),
        ({"op": "reclaim", "path": "tenants/a"}, "EACCES"),
        ({"op": "trace", "path": "tenants/a"}, "EACCES"),
        ({"op": "none"}, "ENOSYS"),
        ({"op": ["read"]}, "ENOSYS"),
        ({}, "ENOSYS"),
        ([], "EINVAL"),
        (3, "EINVAL"),
        ({"op": "events", "since": "x"}, "EINVAL"),
        ({"op": "events", "since": True}, "EINVAL"),
        ({"op": "tree", "depth": 1.5}, "EINVAL"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_wrong(start, request_, errno):
    with Peer(start().first) as peer:
        peer.send(json.dumps(request_).encode() + b"\n")
        answer = peer.answer()
        assert (answer["ok"], answer["errno"]) == (False, errno), answer
        assert answer["error"]
        assert peer.ask("hello")["ok"]


def test_writing_needs_a_process_that_is_open_for_it(start):
    with Peer(start("writable=True").first) as peer:
        assert peer.ask("hello")["writable"]
        assert peer.ask("write", path="tenants/a", file="memory.max", value="512M") == {
            "ok": True, "value": 512 * MIB,
        }  # fmt: skip
        assert peer.ask("read", path="tenants/a", file="memory.max")["value"] == 512 * MIB
        wrong = peer.ask("write", path="tenants/a", file="memory.max", value="x")
        assert wrong["errno"] == "EINVAL"
        assert peer.ask("write", path="", file="memory.current", value=1)["errno"] == "EACCES"
        assert peer.ask("reclaim", path="tenants/a", bytes="1M")["reclaimed"] >= 0


def test_a_client_follows_events(start):
    process = start()
    with Peer(process.first) as peer:
        assert peer.ask("events", follow=True)["entries"] == []
        process.stdin.write("try: bytearray(100 << 20)\nexcept MemoryError: pass\n".replace(
            "\n", "\\n").join(("exec('''", "''')\n")))  # fmt: skip
        process.stdin.flush()
        kinds = []
        while kinds[-1:] != ["fail"]:
            answer = peer.answer()
            assert (answer["id"], answer["ok"]) == (7, True)
            kinds += [e["kind"] for e in answer["entries"]]
        assert kinds == ["max", "oom", "fail"]
        assert peer.ask("events", since=answer["next"])["entries"] == []


def test_the_socket_is_of_this_user_alone_and_goes_at_exit(start, runtime):
    process = start()
    assert Path(process.first).stat().st_mode & 0o777 == 0o600
    assert sorted(p.suffix for p in runtime.iterdir()) == [".page", ".sock"]
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 0
    assert list(runtime.iterdir()) == []


def test_the_thread_is_in_the_root_and_leaves_the_group_alone(start):
    """The group that called serve() does not pay for what clients make the thread allocate."""
    source = PROGRAM.replace(
        'path = memcg.serve({how})\nwith memcg.group("tenants/a", max="64MiB") as a:\n',
        'with memcg.group("tenants/a", max="64MiB") as a:\n    path = memcg.serve()\n',
    )
    with Peer(start(source=source).first) as peer:
        before = peer.ask("read", path="tenants/a", file="memory.current")["value"]
        for _ in range(50):
            peer.ask("report", path="")
            peer.ask("tree")
        after = peer.ask("read", path="tenants/a", file="memory.current")["value"]
        assert after <= before + MIB


def test_a_forked_child_serves_a_socket_of_its_own(start):
    process = start()
    process.stdin.write(
        "import os\nif not (pid := os.fork()): print(memcg.serve(), flush=True); "
        "sys.stdin.read(); os._exit(0)\n"
    )
    process.stdin.flush()
    other = process.stdout.readline().strip()
    assert other != process.first
    try:
        with Peer(other) as child, Peer(process.first) as parent:
            pid = child.ask("hello")["pid"]
            assert pid != process.pid
            assert parent.ask("hello")["pid"] == process.pid
            assert child.ask("read", path="tenants/a", file="memory.max")["value"] == 64 * MIB
    finally:
        os.kill(int(Path(other).name.partition("-")[0]), signal.SIGKILL)


def test_a_request_that_never_ends_is_refused(start):
    with Peer(start().first) as peer, pytest.raises((ConnectionError, BrokenPipeError)):
        for _ in range(64):
            peer.send(b"x" * 65536)
        while peer.socket.recv(65536):
            pass
        raise ConnectionError("closed")


def test_a_client_that_reads_nothing_costs_the_others_nothing(start):
    process = start()
    with Peer(process.first) as slow, Peer(process.first) as other:
        slow.socket.settimeout(1)
        line = json.dumps({"id": 1, "op": "slabinfo"}).encode() + b"\n"
        with pytest.raises(TimeoutError):  # it is not read while its answers wait
            while True:
                slow.socket.sendall(line * 100)
        for _ in range(20):
            assert other.ask("hello")["ok"]
        rss = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096
        assert rss < 200 * MIB


def test_idle_clients_make_room_for_one_that_waits(start):
    process = start()
    peers = [Peer(process.first) for _ in range(8)]
    try:
        for peer in peers:
            assert peer.ask("hello")["ok"]
        began = time.monotonic()
        with Peer(process.first) as ninth:
            assert ninth.ask("hello")["ok"]
        assert time.monotonic() - began > 3  # no client that was active just now was closed
        assert peers[0].answer() == {}  # the one that was idle for longest
        assert peers[7].ask("hello")["ok"]
    finally:
        for peer in peers:
            peer.__exit__()


def hostile(random_: random.Random) -> bytes:
    """Return bytes that are nearly requests."""
    ops = ["hello", "tree", "read", "write", "slabinfo", "events", "history", "reclaim", "x", 3]
    values = [None, True, -1, 1 << 70, 1.5, "", "a" * 300, "tenants/a", "../..", "\x00", [], {},
              "memory.max", "memory.current", "\ud800", [[]] * 9]  # fmt: skip
    request = {"id": random_.choice(values), "op": random_.choice(ops)}
    for name in random_.sample(["path", "file", "value", "since", "depth", "limit", "bytes"], 3):
        request[name] = random_.choice(values)
    line = json.dumps(request).encode()
    match random_.randrange(5):
        case 0:
            line = line[: random_.randrange(len(line) + 1)]
        case 1:
            line = random_.randbytes(random_.randrange(200)).replace(b"\n", b"")
        case 2:
            line = b"[" * random_.choice((10, 5000)) + line
    return line + b"\n"


@pytest.mark.parametrize("seed", range(4))
def test_hostile_requests_get_one_answer_each_and_the_process_lives(start, seed):
    random_ = random.Random(seed)
    process = start()
    for _ in range(10):
        with Peer(process.first) as peer:
            for _ in range(30):
                peer.send(hostile(random_))
                answer = peer.answer()
                assert answer["ok"] is True or (answer["errno"] and answer["error"]), answer
            if random_.random() < 0.5:  # it goes in the middle of a line
                peer.send(b'{"id":1,"op":"he')
    with Peer(process.first) as peer:
        assert peer.ask("read", path="tenants/a", file="memory.max")["value"] == 64 * MIB
    assert process.poll() is None


def test_with_the_gil_held_a_request_waits_and_is_answered_afterwards(start):
    process = start()
    process.stdin.write("sum(range(50_000_000))\n")
    process.stdin.flush()
    with Peer(process.first) as peer:
        assert peer.ask("hello")["ok"]
