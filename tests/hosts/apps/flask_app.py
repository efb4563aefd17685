# SPDX-License-Identifier: Apache-2.0
"""A Flask application with tenants, and endpoints that take too much memory in each way."""

import encodings.idna  # noqa: F401  # 1 MiB, which the first error's page would import in its tenant
import os

import memcg

memcg.install()

import numpy as np  # noqa: E402
from flask import Flask, Response, request  # noqa: E402

from memcg.flask import Memcg  # noqa: E402

MIB = 1 << 20
app = Flask(__name__)
app.config.update(MEMCG_MAX="32MiB", MEMCG_EXPOSE=True)
Memcg(app)


def dicts():
    rows = []
    while True:
        rows.append({"n": [len(rows)] * 10})


@app.get("/ok")
def ok():
    return {"group": memcg.current().path, "pid": os.getpid()}


@app.get("/account")
def account():
    """What each tenant is charged, in bytes. Nothing is reclaimed."""
    children = memcg.group("tenants").children
    return {name: group.current for name, group in children.copy().items()}


@app.post("/limit")
def limit():
    memcg.group(request.args["path"]).max = request.args["size"]
    return ""


@app.get("/bomb")
def bomb():
    dicts()


@app.get("/bomb_np")
def bomb_np():
    return str(np.ones(1 << 27).sum())


@app.get("/bomb_big")
def bomb_big():
    return str(len(bytearray(1 << 30)))


@app.get("/array")
def array():
    return str(np.ones(int(request.args["mib"]) * MIB // 8).sum())


@app.get("/own")
def own():
    raise MemoryError("of the program")


@app.post("/body")
def body():
    return {"bytes": len(request.get_data())}


@app.post("/json")
def post_json():
    return {"rows": len(request.get_json())}


@app.post("/lines")
def lines():
    return {"lines": sum(1 for _ in request.stream)}


@app.get("/stream_out")
def stream_out():
    n = int(request.args["n"])

    def pieces():
        for _ in range(n):
            yield bytes(MIB)

    return Response(pieces())


@app.get("/stream_group")
def stream_group():
    def pieces():
        yield memcg.current().path + "\n"

    return Response(pieces())


@app.get("/stream_bomb")
def stream_bomb():
    first = int(request.args["first"])

    def pieces():
        kept = []
        while True:
            kept.append(bytes(MIB))
            yield kept[-1][:1000] if len(kept) > first else b""

    return Response(pieces())
