# SPDX-License-Identifier: Apache-2.0
"""What does a request of FastAPI under uvicorn cost with memcg, in instructions?

``build/hosts-3.11/bin/python benchmarks/web_requests.py`` needs what ``make test-hosts`` installs,
and valgrind. callgrind counts the server's instructions during 200 requests of a connection that is
kept alive, after some that it does not count. The counts hardly depend on the machine's load.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

REQUESTS = 200
APP = """
import os
way = os.environ["WAY"]
if way != "without":
    import memcg
    memcg.install()
from fastapi import FastAPI
app = FastAPI()
if way in ("tenants", "requests"):
    from memcg.asgi import MemcgMiddleware
    app.add_middleware(MemcgMiddleware, max="32MiB", per_request=way == "requests")
@app.get("/ok")
async def ok():
    return {"answer": 42}
@app.get("/ok_sync")
def ok_sync():
    return {"answer": 42}
"""
WAYS = (  # name, tenants, requests before the count
    ("without", 20, 60),
    ("installed", 20, 60),
    ("tenants", 20, 60),
    ("tenants", 1, 1500),  # so many that its group has caches of its own
    ("requests", 20, 60),
)


def ask(client: socket.socket, path: str, tenant: int) -> None:
    client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-tenant: t{tenant}\r\n\r\n".encode())
    shown = b""
    while b"}" not in shown:
        piece = client.recv(4096)
        if not piece:
            raise ConnectionError(f"the server ended the connection after {shown!r}")
        shown += piece
    if b" 200 " not in shown:
        raise AssertionError(shown)


def count(way: str, tenants: int, before: int, path: str, loop: str, folder: Path) -> int:
    """Return the instructions of the server for a request."""
    (folder / "app.py").write_text(APP)
    out = folder / "callgrind"
    source = Path(__file__).resolve().parents[1] / "src"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}",
             sys.executable, "-m", "uvicorn", "app:app", "--fd", str(listener.fileno()),
             "--loop", loop, "--http", "httptools", "--no-access-log", "--log-level", "warning"],
            cwd=folder, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL,
            env={**os.environ, "WAY": way, "PYTHONPATH": str(source), "PYTHONHASHSEED": "1"},
        )  # fmt: skip
        try:
            address = listener.getsockname()
            with socket.create_connection(address, timeout=600) as client:
                for n in range(before):
                    ask(client, path, n % tenants)
                control(server, "on")
                for n in range(REQUESTS):
                    ask(client, path, n % tenants)
                control(server, "off")
            server.send_signal(signal.SIGTERM)
            server.wait(120)
        finally:
            server.kill()
            server.wait()
    found = re.search(r"^totals: (\d+)", out.read_text(), re.M)
    if found is None:
        raise LookupError(f"callgrind wrote no total to {out}")
    return int(found[1]) // REQUESTS


def control(server: subprocess.Popen[bytes], switch: str) -> None:
    subprocess.run(
        ["callgrind_control", "-i", switch, str(server.pid)], check=True, capture_output=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", help="asyncio or uvloop")
    parser.add_argument("--path", default="/ok", help="/ok or /ok_sync")
    args = parser.parse_args()
    first = 0
    for way, tenants, before in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            n = count(way, tenants, before, args.path, args.loop, Path(folder))
        first = first or n
        print(f"{way}, {tenants} of {before + REQUESTS}: {n:,} ({n / first:.2f})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
