# SPDX-License-Identifier: Apache-2.0
"""What tools/wheels.py tries of an installed wheel: the tests, and the smallest use of each extra.

Nothing of the source tree is importable then: the tests run in a copy of it that has no ``src``.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
# What these test is not in a wheel: the tree itself, and protocols of native/.
NOT_OF_A_WHEEL = {"house", "litmus", "hosts", "long"}
OF_A_CHECKOUT = {"test", "hosts", "coverage", "lint", "build", "docs"}  # extras

INSTALLED = """
import memcg
memcg.install()
group = memcg.group("tenants/a", max="64MiB")
"""
# Reads the screen in a terminal of its own until it shows the group, then quits.
TOP = """
import os, pty, sys
memcg.publish()
pid, screen = pty.fork()
if not pid:
    os.environ["TERM"] = "xterm-256color"
    tool = os.path.join(os.path.dirname(sys.executable), "memcg")
    os.execv(tool, [tool, "top", "--pid", str(os.getppid())])
shown = b""
while b"INSIDE" not in shown or b"tenants" not in shown:
    shown += os.read(screen, 1 << 16)
os.write(screen, b"q")
try:
    while os.read(screen, 1 << 16):
        pass
except OSError:  # the terminal's other end is closed
    pass
print("status", os.waitpid(pid, 0)[1])
"""
# extra: a program that uses it, and what it prints last
TRIALS = {
    "cli": (INSTALLED + """
import os, subprocess, sys
memcg.publish()
tool = os.path.join(os.path.dirname(sys.executable), "memcg")
print(*subprocess.check_output([tool, "ls", "--pid", str(os.getpid())], text=True).split())
""", r"GROUP .* tenants .*"),
    "top": (INSTALLED + TOP, "status 0"),
    "html": (INSTALLED + """
import os, pathlib, subprocess, sys
memcg.publish()
tool = os.path.join(os.path.dirname(sys.executable), "memcg")
subprocess.check_output([tool, "html", "--pid", str(os.getpid()), "page.html"])
print("Bokeh" in pathlib.Path("page.html").read_text())
""", "True"),
    "prometheus": (INSTALLED + """
from prometheus_client import REGISTRY, generate_latest
from memcg.prometheus import MemcgCollector
REGISTRY.register(MemcgCollector())
print(*[line for line in generate_latest().decode().splitlines() if 'limit="max"' in line])
""", r'.*"tenants/a",limit="max"} 6.7108864e\+07.*'),
    "otel": (INSTALLED + """
import memcg.otel
memcg.otel.instrument()
print("instrumented")
""", "instrumented"),
    "jupyter": ("""
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel()
def show(message):
    if message["msg_type"] == "error": print(message["content"]["ename"])
code = "%load_ext memcg\\n%memcg limit 64MiB"
for cell in (code, "rows = [bytes(1000) for _ in range(10**6)]"):
    client.execute_interactive(cell, timeout=60, output_hook=show)
manager.shutdown_kernel(now=True)
""", "MemcgOOM"),
    "marimo": (INSTALLED + """
import marimo, memcg.marimo
memcg.marimo.limit("64MiB")
app = marimo.App()
@app.cell
def _():
    import memcg
    rows = [bytes(1000) for _ in range(1000)]
    where = memcg.current().path
    return (where,)
_, defined = app.run()
print(defined["where"] or "no group")
""", r"marimo/.*"),
    "dask": ("""
import memcg.dask
from dask.distributed import Client, LocalCluster
def bomb():
    return [bytes(1 << 20) for _ in range(100_000)]
if __name__ == "__main__":
    with LocalCluster(n_workers=1, dashboard_address=None) as cluster, Client(cluster) as client:
        client.register_plugin(memcg.dask.MemcgPlugin(max="64MiB"))
        try: client.submit(bomb).result()
        except MemoryError as error: print(type(error).__name__)
""", "MemcgOOM"),
    "celery": (INSTALLED + """
from celery import Celery
app = Celery("tasks", task_cls="memcg.celery:MemcgTask")
app.conf.memcg_task_max = "64MiB"
app.conf.task_always_eager = True
@app.task
def bomb():
    return [bytes(1000) for _ in range(10**6)]
print(type(bomb.delay().result).__name__)
""", "MemcgOOM"),
}  # fmt: skip


def extras() -> set[str]:
    """Return the extras that a user may ask for."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"]) - OF_A_CHECKOUT


def is_shown(extra: str, printed: str) -> bool:
    """Return whether the last line that the extra's program printed is the one that it should."""
    lines = printed.strip().splitlines()
    return bool(lines) and re.fullmatch(TRIALS[extra][1], lines[-1]) is not None


def tree(sdist: Path, place: Path) -> Path:
    """Unpack the sources, and take out what a wheel has."""
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    (unpacked,) = place.iterdir()
    shutil.rmtree(unpacked / "src")
    return unpacked


def tests(unpacked: Path) -> list[str]:
    """Return the tests that need nothing which a wheel has not got."""
    found = [*unpacked.glob("tests/test_*.py"), *unpacked.glob("tests/*/")]
    return sorted(
        str(path.relative_to(unpacked))
        for path in found
        if path.name not in NOT_OF_A_WHEEL and (path.suffix == ".py" or [*path.glob("test_*.py")])
    )
