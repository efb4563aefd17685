# SPDX-License-Identifier: Apache-2.0
"""Three tenants work in one process, beside a hog that meets its limit again and again.

One tenant parses and indexes the standard library, one keeps statistics of it as JSON in asyncio
tasks, and one compares its modules with NumPy. Each has a thread. Their results are compared with
what the same code returned before, when it ran alone. Every figure that is printed is read from the
running system.
"""

from __future__ import annotations

import ast
import asyncio
import json
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import memcg

memcg.install()

import numpy as np  # noqa: E402  # after the hooks, as in most programs; an earlier import works

LIBRARY = Path(sysconfig.get_path("stdlib"))
ASIDE = {"test", "tests", "site-packages", "lib2to3"}  # no modules, or not for this Python
SOURCES = sorted(p for p in LIBRARY.rglob("*.py") if not ASIDE & {*p.parts})
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def index(results: list[object]) -> None:
    """Parse every module, keep all trees, and index what they define."""
    trees = {p: ast.parse(p.read_bytes()) for p in SOURCES[::2]}
    definitions = Counter(
        n.name for t in trees.values() for n in ast.walk(t) if isinstance(n, NAMED)
    )
    results.append((len(trees), definitions.most_common(1000)))


async def statistics_of(path: Path) -> dict[str, int]:
    words = Counter(path.read_text("utf-8", "replace").split())
    await asyncio.sleep(0)
    return json.loads(json.dumps(words))


def statistics(results: list[object]) -> None:
    """Count the words of each module in a task of its own, to JSON and back."""

    async def all_modules() -> list[dict[str, int]]:
        return await asyncio.gather(*map(statistics_of, SOURCES))

    counted = asyncio.run(all_modules())
    results.append((sum(map(len, counted)), sum(sum(c.values()) for c in counted)))


def compare(results: list[object]) -> None:
    """Find the two modules whose bytes are distributed most alike."""
    rows = [np.bincount(np.fromfile(p, "u1"), minlength=256) for p in SOURCES]
    rows = np.array([r / max(r.sum(), 1) for r in rows])
    distance = np.array([np.abs(rows - row).sum(axis=1) for row in rows])
    np.fill_diagonal(distance, np.inf)
    results.append(divmod(int(distance.argmin()), len(rows)))


def hog(stop: threading.Event, errors: list[str]) -> None:
    """Grow a list without end, drop it at the limit, and begin again."""
    while not stop.is_set():
        rows: list[object] = []
        try:
            with memcg.group("tenants/hog"):
                while not stop.is_set():
                    rows.append({"row": len(rows), "text": str(len(rows))})
        except MemoryError as error:
            errors.append(str(error) or "\n".join(error.__notes__))
            del error
        rows = []
        stop.wait(0.2)  # leaves the GIL to the other tenants


TENANTS: dict[str, tuple[Callable[[list[object]], None], str]] = {
    "index": (index, "1GiB"),
    "statistics": (statistics, "512MiB"),
    "compare": (compare, "256MiB"),
}


def table(title: str) -> None:
    print(f"{title:<22}{'current':>12}{'peak':>12}{'max':>12}   events")
    for g in [memcg.root, *memcg.group("tenants").children.values()]:
        figures = "".join(f"{n / 2**20:>8.1f} MiB" for n in (g.current, g.peak))
        limit = f"{g.max / 2**20:>8.0f} MiB" if g.max < 2**60 else f"{'max':>12}"
        events = {k: v for k, v in g.events.items() if v and k in ("high", "oom_kill", "fail")}
        print(f"  {g.path or '/':<20}{figures}{limit}   {events or ''}")


def main() -> None:
    print(f"{len(SOURCES)} modules of the standard library, {len(TENANTS)} tenants and a hog")
    alone: dict[str, list[object]] = {name: [] for name in TENANTS}
    for name, (work, _) in TENANTS.items():
        work(alone[name])
    memcg.group("tenants/hog", max="32MiB")
    together: dict[str, list[object]] = {name: [] for name in TENANTS}
    threads = []
    for name, (work, limit) in TENANTS.items():
        g = memcg.group(f"tenants/{name}", max=limit)
        threads.append(threading.Thread(target=g.wrap(work), args=(together[name],)))
    table("before")
    stop, errors = threading.Event(), []
    neighbour = threading.Thread(target=hog, args=(stop, errors))
    started = time.monotonic()
    for thread in [neighbour, *threads]:
        thread.start()
    time.sleep(2)
    table("during, after 2 s")
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
    stop.set()
    neighbour.join()
    table(f"after {seconds:.1f} s")
    right = {name: alone[name] == together[name] != [] for name in TENANTS}
    for name, same in right.items():
        print(f"  {name:<12} {'complete and right' if same else 'WRONG'}")
    print(f"  hog          {len(errors)} times at its limit, as here:\n    {errors[-1]}")
    memcg.group("tenants").close(recursive=True)
    print(f"closed: {len(memcg.root.children)} groups left, {memcg.root.nr_dying} of them dying")
    if not all(right.values()):
        sys.exit("a tenant's result is wrong")


if __name__ == "__main__":
    main()
