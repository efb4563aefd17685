# SPDX-License-Identifier: Apache-2.0
"""A real marimo server with two notebooks, one of which has a bomb, and browsers' connections."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.request
import uuid

import pytest
from environment import environment

TIMEOUT_S = 60
SERVER = """
import sys
import marimo, memcg.marimo, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
import gc, memcg

memcg.marimo.limit("32MiB", per=sys.argv[2])
app = marimo.create_asgi_app(include_code=True, quiet=True, show_tracebacks=True)
for name in ("good", "bomb"):
    app = app.with_app(path=f"/{name}", root=f"{name}.py")

def account(request):
    gc.collect()
    return JSONResponse({g.path.rpartition("%2F")[2]: g.current for g in memcg.walk("marimo")})

routes = [Route("/account", account), Mount("/", app.build())]
server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="warning"))
async def main():
    import asyncio
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    with open(sys.argv[1] + ".new", "w") as f:
        f.write(str(server.servers[0].sockets[0].getsockname()[1]))
    import os; os.rename(sys.argv[1] + ".new", sys.argv[1])
    await task
import asyncio
asyncio.run(main())
"""
NOTEBOOK = """
import marimo
app = marimo.App()

@app.cell
def _():
    import memcg, time
    def grow(n):
        rows = []
        for i in range(n):
            rows.append(bytes(1000))
        return rows
    return grow, memcg

@app.cell
def _(grow, memcg):
    {body}
    return

@app.cell
def _(memcg):
    {last}
    return
"""
GOOD = NOTEBOOK.format(body="f'rows {len(grow(3_000))}'", last="f'in {memcg.current().path}'")
BOMB = NOTEBOOK.format(body="len(grow(100_000))", last="f'the last cell ran {1 + 1}'")


async def visit(port: int, path: str) -> list[dict]:
    """Open a session as a browser does, and return its messages until the run is complete."""
    import websockets

    messages = []
    url = f"ws://127.0.0.1:{port}/{path}/ws?session_id=s_{uuid.uuid4().hex[:6]}"
    async with websockets.connect(url, max_size=None) as socket:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                message = json.loads(await socket.recv())
                messages.append(message)
                if message["op"] == "completed-run":
                    return messages


def of_cells(messages: list[dict], channel: str) -> str:
    """Return what the cells' operations show on a channel: stdout, stderr or marimo-error."""
    found = []
    for message in messages:
        data = message.get("data", {})
        for part in (data.get("output"), *_list(data.get("console"))):
            if part and part.get("channel") == channel:
                text = part["data"]
                found.append(text if isinstance(text, str) else json.dumps(text))
    return "".join(found)


def _list(part):
    return part if isinstance(part, list) else [part]


@pytest.fixture
def server(tmp_path):
    processes = []

    def start(per: str) -> int:
        (tmp_path / "server.py").write_text(SERVER)
        (tmp_path / "good.py").write_text(GOOD)
        (tmp_path / "bomb.py").write_text(BOMB)
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "server.py", str(tmp_path / "port"), per],
                cwd=tmp_path, env=environment(), stdout=log, stderr=log,
            )  # fmt: skip
        processes.append(process)
        end = time.monotonic() + TIMEOUT_S
        while not (tmp_path / "port").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        return int((tmp_path / "port").read_text())

    yield start
    for process in processes:
        process.kill()
        process.wait()


def account(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/account", timeout=TIMEOUT_S) as answer:
        return json.load(answer)


@pytest.mark.parametrize("per", ["notebook", "session"])
def test_the_bombs_cell_shows_the_error_and_the_other_notebook_is_right(server, per):
    port = server(per)

    async def both():
        start = time.monotonic()
        bomb, good = await asyncio.gather(visit(port, "bomb"), visit(port, "good"))
        return bomb, good, time.monotonic() - start

    bomb, good, seconds = asyncio.run(both())
    assert "rows 3000" in of_cells(good, "output")
    assert "in marimo/" in of_cells(good, "output")
    assert of_cells(good, "marimo-error") == ""
    errors = of_cells(bomb, "marimo-error")
    assert "MemcgOOM" in errors, errors
    assert "is over memory.max" in errors
    assert re.search(r"\d\d\.\d MiB  rows of .*grow\(\): list of", errors), errors
    assert "the last cell ran 2" in of_cells(bomb, "output")  # the next cell runs
    # 5 s alone; other programs use the machine too
    assert seconds < 30
    assert asyncio.run(visit(port, "good"))[-1]["op"] == "completed-run"
    end = time.monotonic() + TIMEOUT_S
    while True:  # a session ends a moment after its connection
        figures = account(port)
        if max(figures.values()) < 2 << 20:
            break
        assert time.monotonic() < end, figures
        time.sleep(0.1)
    assert len(figures) == (3 if per == "notebook" else 4), figures


def test_what_is_not_a_size_or_a_place_is_refused():
    code = """if True:
        import memcg.marimo
        for wrong in ({"max": "lots"}, {"max": "1GiB", "per": "cell"}):
            try:
                memcg.marimo.limit(**wrong)
            except ValueError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], env=environment(), text=True,
                          capture_output=True, check=True)  # fmt: skip
    assert "lots" in done.stdout
    assert "'notebook', 'session'" in done.stdout


def test_a_notebook_may_limit_itself(tmp_path):
    (tmp_path / "own.py").write_text("""
import marimo
app = marimo.App()

@app.cell
def _():
    import memcg.marimo
    memcg.marimo.limit("32MiB")
    limited = True
    return limited,

@app.cell
def _(limited):
    rows = []
    for _ in range(100_000 * limited):
        rows.append(bytes(1000))
    return

if __name__ == "__main__":
    app.run()
""")
    done = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, env=environment(), text=True,
                          capture_output=True, check=False, timeout=TIMEOUT_S)  # fmt: skip
    assert done.returncode != 0
    assert "is over memory.max" in done.stderr
    assert re.search(r"\d\d\.\d MiB  rows: list of", done.stderr), done.stderr
