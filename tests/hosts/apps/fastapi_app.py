# SPDX-License-Identifier: Apache-2.0
"""A FastAPI application with tenants, and endpoints that take too much memory in each way."""

import asyncio
import os
from contextlib import asynccontextmanager

import memcg

memcg.install()

import numpy as np  # noqa: E402
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket  # noqa: E402
from fastapi.responses import StreamingResponse  # noqa: E402
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: E402

from memcg.asgi import MemcgMiddleware  # noqa: E402

MIB = 1 << 20
events = []


@asynccontextmanager
async def lifespan(app):
    events.append(f"start in {memcg.current().path!r}")
    yield
    events.append("end")


class Passing(BaseHTTPMiddleware):
    """It runs the endpoint in a task of its own."""

    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-group"] = memcg.current().path
        return response


app = FastAPI(lifespan=lifespan)
if os.environ.get("BASE_MIDDLEWARE"):
    app.add_middleware(Passing)
app.add_middleware(
    MemcgMiddleware,
    max=os.environ.get("TENANT_MAX", "32MiB"),
    per_request=bool(os.environ.get("PER_REQUEST")),
    expose=True,
)
if os.environ.get("BASE_MIDDLEWARE"):
    app.add_middleware(Passing)


def dicts():
    rows = []
    while True:
        rows.append({"n": [len(rows)] * 10})


@app.get("/ok")
async def ok():
    return {"group": memcg.current().path}


@app.get("/ok_sync")
def ok_sync():
    return {"group": memcg.current().path}


@app.get("/account")
async def account():
    """What each tenant is charged, in bytes. Nothing is reclaimed."""
    tenants = memcg.group("tenants")
    return {name: group.current for name, group in tenants.children.copy().items()}


@app.get("/live")
async def live():
    """The bytes of each tenant's live objects: its account without the free places in its slabs."""
    found = {}
    for name, group in memcg.group("tenants").children.copy().items():
        rows = [line.split() for line in memcg.slabinfo(group.path).splitlines()[2:]]
        stat = group["memory.stat"]
        found[name] = sum(int(row[1]) * int(row[3]) for row in rows) + (
            stat["slab_shared"] + stat["page_runs"] + stat["external"])  # fmt: skip
    return found


@app.get("/events")
async def get_events():
    found = {g.path: g.events["oom_kill"] + g.events["fail"] for g in memcg.walk()}
    return {"lifespan": events, "oom": {path: n for path, n in found.items() if n}}


@app.post("/limit")
async def limit(path: str, size: str):
    memcg.group(path).max = size


@app.get("/bomb")
async def bomb():
    dicts()


@app.get("/bomb_sync")
def bomb_sync():
    dicts()


@app.get("/bomb_await")
async def bomb_await():
    rows = []
    while True:
        rows.append([bytes(1000) for _ in range(1000)])
        await asyncio.sleep(0)


@app.get("/bomb_np")
async def bomb_np():
    return float(np.ones(1 << 27).sum())


@app.get("/array")
async def array(mib: int):
    return float(np.ones(mib * MIB // 8).sum())


@app.get("/bomb_big")
async def bomb_big():
    return len(bytearray(1 << 30))


@app.post("/json")
async def post_json(request: Request):
    return {"rows": len(await request.json())}


@app.post("/model")
async def post_model(rows: list[int]):
    return {"rows": len(rows)}


@app.post("/body")
async def post_body(request: Request):
    return {"bytes": len(await request.body())}


@app.post("/stream_in")
async def stream_in(request: Request):
    n = 0
    async for piece in request.stream():
        n += len(piece)
    return {"bytes": n}


@app.get("/stream_out")
async def stream_out(n: int):
    async def pieces():
        for _ in range(n):
            yield bytes(MIB)

    return StreamingResponse(pieces())


@app.get("/stream_bomb")
async def stream_bomb():
    async def pieces():
        kept = []
        while True:
            kept.append(bytes(MIB))
            yield kept[-1]

    return StreamingResponse(pieces())


@app.get("/stream_bomb_sync")
async def stream_bomb_sync():
    def pieces():
        kept = []
        while True:
            kept.append(bytes(MIB))
            yield kept[-1]

    return StreamingResponse(pieces())


@app.get("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(dicts)
    return {"group": memcg.current().path}


async def own_limit():
    with memcg.scope("own", max="1MiB") as g:
        yield g.path


def own_limit_sync():
    with memcg.scope("own", max="1MiB") as g:
        yield g.path


@app.get("/depends")
async def depends(path: str = Depends(own_limit)):
    return {"entered": path, "group": memcg.current().path}


@app.get("/depends_sync")
async def depends_sync(path: str = Depends(own_limit_sync)):
    return {"entered": path, "group": memcg.current().path}


@app.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    while True:
        word = await socket.receive_text()
        if word == "bomb":
            dicts()
        await socket.send_text(f"{memcg.current().path} {len(word)}")


@app.websocket("/ws_early")
async def ws_early(socket: WebSocket):
    dicts()
