# SPDX-License-Identifier: Apache-2.0
"""How much more memory does a program take, charged to a group, than under stock CPython?

Three programs run in a fresh process each. The rows are the resident bytes at the end of the work,
and the peak.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import harness


def resident() -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    found = dict(re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", status))
    return {"peak": float(found["VmHWM"]), "rss": float(found["VmRSS"])}


def web_server() -> dict[str, float]:
    """An HTTP server with a session store serves 20 clients and 4,000 requests."""
    sessions: dict[str, object] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            user = line.split()[1].decode()
            length = 0
            while (header := await reader.readline()).strip():
                if header.lower().startswith(b"content-length"):
                    length = int(header.split(b":")[1])
            data = json.loads(await reader.readexactly(length))
            sessions[user] = {"seen": data["items"][:5], "n": len(data["items"])}
            body = json.dumps({"user": user, "sum": sum(i["price"] for i in data["items"])})
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()

    async def client(port: int, n: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        total = 0
        for i in range(200):
            items = [{"id": k, "name": f"item {k}", "price": k * i % 97} for k in range(60)]
            body = json.dumps({"items": items}).encode()
            writer.write(b"POST /u%d-%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (n, i, len(body)))
            writer.write(body)
            await reader.readuntil(b"\r\n\r\n")
            total += json.loads(await reader.readuntil(b"}"))["sum"]
        writer.close()
        return total

    async def main() -> int:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        return sum(await asyncio.gather(*(client(port, n) for n in range(20))))

    return {"check": asyncio.run(main()), **resident()}


def notebook() -> dict[str, float]:
    """Make, join, group and drop frames, and make them again. Some cells keep their results."""
    import numpy as np
    import pandas as pd

    kept = {}
    total = 0.0
    for cell in range(12):
        n = 60_000 + cell * 7000
        frame = pd.DataFrame({"k": np.arange(n) % 501, "v": np.arange(n) * 1.5,
                              "s": [f"name {i % 300}" for i in range(n)]})  # fmt: skip
        joined = frame.merge(frame.groupby("k")["v"].mean().rename("mean"), on="k")
        pivot = joined.pivot_table(index="k", columns=joined["s"].str[-1], values="v")
        total += float(pivot.sum().sum() + np.sort(joined["v"].to_numpy())[5])
        if cell % 3 == 0:
            kept[cell] = joined
    return {"check": total, **resident()}


def pipeline() -> dict[str, float]:
    """Clean, group and join the rows of a CSV in plain Python, and write them as JSON lines."""
    total = 0
    lookup = {f"city {i}": {"id": i, "zone": f"z{i % 9}"} for i in range(5000)}
    for part in range(6):
        text = "\n".join(f"{i},{part},city {i * 7 % 5000},{i * 13 % 997}" for i in range(40_000))
        groups: dict[str, list[dict[str, object]]] = {}
        for a, b, city, v in csv.reader(io.StringIO(text)):
            where = lookup[city]
            groups.setdefault(str(where["zone"]), []).append({"a": a, "b": b, "v": int(v), **where})
        lines = [json.dumps({"zone": z, "n": len(rows)}) for z, rows in groups.items()]
        total += sum(int(r["v"]) for rows in groups.values() for r in rows)  # type: ignore[call-overload]
        total += sum(map(len, lines))
    return {"check": total, **resident()}


def works(contender: str) -> dict[str, Callable[[], dict[str, float]]]:
    return {"web server": web_server, "notebook": notebook, "pipeline": pipeline}


def run(quick: bool) -> list[harness.Row]:
    rows = []
    for work in works(""):
        here = [harness.python(name, "rss") for name in (harness.OURS, "stock")]
        found: dict[str, list[dict[str, float]]] = {c.name: [] for c in here}
        for _ in range(2 if quick else 9):
            for c in here:
                c.start()
                found[c.name].append(c.ask(work))
                c.stop()
        if found[harness.OURS][0]["check"] != found["stock"][0]["check"]:
            raise harness.Failed(f"{work}: the contenders disagree")
        for measure in ("rss", "peak"):
            rows.append(harness.row(f"{work}, {measure}", found, "stock", 1.05, measure, unit="kB"))
    return rows
