# SPDX-License-Identifier: Apache-2.0
"""``memcg exporter`` beside processes that publish, and the real Prometheus that scrapes it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from environment import environment
from scraped import free_port, get, started, wait_for

from memcg import page, pages

PROGRAM = """
import memcg, sys
memcg.install()
memcg.publish()
{source}
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
"""
MIB = 1 << 20


@pytest.fixture
def env(tmp_path):
    return environment(MEMCG_RUNTIME_DIR=str(tmp_path / "run"))


@pytest.fixture
def publish(env):
    """Start processes that publish, and stop them at the end."""
    begun = []

    def publish(source: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(source=source)], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield publish
    for process in begun:
        process.kill()
        with process:
            pass


@contextlib.contextmanager
def exporter(tmp_path: Path, env: dict[str, str], *options: str):
    """Run the exporter, and return its process and a function that scrapes it."""
    log = tmp_path / "exporter.log"
    argv = [sys.executable, "-m", "memcg", "exporter", "--port=0", *options]
    with started(argv, log, env) as process:
        url = wait_for(lambda: re.search(r"http://\S+", log.read_text()), 30, log)[0]
        yield process, url


def scrape(url: str) -> dict[tuple[str, frozenset], float]:
    from prometheus_client.parser import text_string_to_metric_families as parse

    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in parse(get(url).decode())
        for s in family.samples
    }


def value(found, name, **labels) -> float | None:
    return found.get((name, frozenset(labels.items())))


def figures(env, process) -> dict[str, page.GroupFigures]:
    folder = Path(env["MEMCG_RUNTIME_DIR"])
    name = pages.name(process.pid, pages.start_ticks(process.pid))
    with page.Page(str(folder / name)) as of:
        return {g.path: g for g in of.groups()}


def test_each_process_has_its_figures_and_one_that_is_gone_has_none(tmp_path, env, publish):
    one = publish("""
g = memcg.group('tenants/a"<b>', max="16MiB")
with g:
    kept = bytearray(8 << 20)
    small = [[i] for i in range(20_000)]
    try: bytearray(100 << 20)
    except MemoryError: pass
old = memcg.group("old")
with old: of_old = bytearray(100_000)
old.close()
""")
    two = publish("with memcg.group('tenants/b'): kept = bytearray(1 << 20)")
    with exporter(tmp_path, env) as (_, url):
        found = scrape(url)
        for process, path in ((one, 'tenants/a"<b>'), (two, "tenants/b")):
            pid = str(process.pid)
            for name, g in figures(env, process).items():
                if g.state == "online":
                    labels = {"pid": pid, "group": name or "/"}
                    assert value(found, "memcg_memory_current_bytes", **labels) == g.usage > MIB
                    assert value(found, "memcg_memory_peak_bytes", **labels) == g.peak
                    for event, n in g.events.items():
                        got = value(found, "memcg_memory_events_total", event=event, **labels)
                        assert got == n
            own = figures(env, process)[path].stat
            for state in ("private", "shared"):
                got = value(found, "memcg_slab_bytes", group=path, state=state, pid=pid)
                assert got == own[f"slab_{state}"]
            assert value(found, "memcg_process_uncharged_bytes", pid=pid) > MIB
        pid, path = str(one.pid), 'tenants/a"<b>'
        limit = {n: value(found, "memcg_memory_limit_bytes", group=path, limit=n, pid=pid)
                 for n in ("max", "high", "reserve", "overdraft")}  # fmt: skip
        assert limit == {"max": 16 * MIB, "high": 14 * MIB, "reserve": 16 * MIB,
                         "overdraft": 16 * MIB}  # fmt: skip
        assert value(found, "memcg_memory_events_total", group='tenants/a"<b>', event="fail",
                     pid=pid) == 1  # fmt: skip
        slabs = [sum(value(found, "memcg_slab_bytes", group=g, state=state, pid=pid)
                     for state in ("private", "shared"))
                 for g in ('tenants/a"<b>', "tenants", "/")]  # fmt: skip
        assert 20_000 * 64 < slabs[0] <= slabs[1] < slabs[2]  # the root has objects of its own
        assert value(found, "memcg_groups", state="online", pid=pid) == 3
        assert value(found, "memcg_groups", state="dying", pid=pid) == 1
        assert not [labels for _, labels in found if ("group", "old") in labels]
        commands = [dict(labels) for name, labels in found if name == "memcg_process_info"]
        assert {c["pid"] for c in commands} == {pid, str(two.pid)}
        assert all("import memcg" in c["command"] for c in commands)

        one.send_signal(signal.SIGKILL)
        one.wait()
        found = scrape(url)
        assert {dict(labels)["pid"] for _, labels in found if "pid" in dict(labels)} == {
            str(two.pid)
        }


def test_past_the_bound_the_rest_is_one_and_its_events_never_fall(tmp_path, env, publish):
    process = publish("""
groups = [memcg.group(f"t/{i}", max="1MiB") for i in range(20)]
kept = []
for i, g in enumerate(groups[:10]):
    with g: kept.append(bytearray((10 - i) * 10_000))
def meet_limit(g):
    try:
        with g: bytearray(4 << 20)
    except MemoryError: pass
""")
    pid = str(process.pid)

    def tell(line: str) -> None:
        process.stdin.write(f"{line}\nprint('ready', flush=True)\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"

    with exporter(tmp_path, env, "--max-groups=5") as (_, url):
        found = scrape(url)
        shown = {dict(labels)["group"] for name, labels in found
                 if name == "memcg_memory_current_bytes"}  # fmt: skip
        assert shown == {"/", "t", "t/0", "t/1", "t/2", "(other)"}
        rest = sum(g.usage for path, g in figures(env, process).items()
                   if path.startswith("t/") and path not in shown)  # fmt: skip
        assert value(found, "memcg_memory_current_bytes", group="(other)", pid=pid) == rest > 0

        def fails() -> float:
            return value(scrape(url), "memcg_memory_events_total", group="(other)", event="fail",
                         pid=pid)  # fmt: skip

        assert fails() == 0
        tell("for g in groups[10:13]: meet_limit(g)")
        assert fails() == 3
        tell("groups[10].close(); kept.append(bytearray(1))")
        assert fails() == 3


def test_a_file_that_is_no_page_is_counted_and_the_others_are_read(tmp_path, env, publish):
    process = publish("")
    (Path(env["MEMCG_RUNTIME_DIR"]) / "4711-12.page").write_bytes(os.urandom(4096))
    with exporter(tmp_path, env) as (_, url):
        for _ in range(2):
            found = scrape(url)
            assert value(found, "memcg_exporter_unread_pages") == 1
            assert value(found, "memcg_groups", state="online", pid=str(process.pid)) == 1


def test_it_ends_at_sigterm_and_says_when_the_port_is_taken(tmp_path, env):
    with exporter(tmp_path, env) as (process, url):
        port = urllib.parse.urlsplit(url).port
        second = subprocess.run(
            [sys.executable, "-m", "memcg", "exporter", f"--port={port}"],
            env=env, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert second.returncode == 1
        assert f"127.0.0.1:{port}" in second.stderr
        assert "Traceback" not in second.stderr
    argv = [sys.executable, "-m", "memcg", "exporter", "--port=0"]
    with subprocess.Popen(
        argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_without_prometheus_client_it_says_what_to_install(tmp_path, env):
    (tmp_path / "prometheus_client.py").write_text(
        "raise ModuleNotFoundError('x', name='prometheus_client')"
    )
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    done = subprocess.run([sys.executable, "-m", "memcg", "exporter"], env=env, text=True,
                          capture_output=True, timeout=30)  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'memcg[cli,prometheus]'" in done.stderr


def test_prometheus_sees_a_process_grow_that_holds_the_gil(tmp_path, env, publish):
    assert shutil.which("prometheus"), "it is not installed; `make test-hosts` installs it"
    process = publish("g = memcg.group('stuck')")
    with exporter(tmp_path, env) as (_, url):
        own = free_port()
        (tmp_path / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 200ms}}
scrape_configs:
  - job_name: memcg
    static_configs: [{{targets: ["{urllib.parse.urlsplit(url).netloc}"]}}]
""")
        server = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                  f"--web.listen-address=127.0.0.1:{own}"]  # fmt: skip
        with started(server, tmp_path / "server.log", cwd=tmp_path):
            query = f'memcg_memory_current_bytes{{group="stuck",pid="{process.pid}"}}'
            seen = set()

            def growing():
                ask = urllib.parse.urlencode({"query": query})
                answer = json.loads(get(f"http://127.0.0.1:{own}/api/v1/query?{ask}"))
                seen.update(float(r["value"][1]) for r in answer["data"]["result"])
                return True if len(seen) >= 4 and max(seen) > 20 * MIB else None

            wait_for(lambda: growing() or seen or None, 60, tmp_path / "server.log")
            # One call of C: the process runs no other code of Python meanwhile.
            process.stdin.write("with g: list(map(str, range(6_000_000)))\n")
            process.stdin.flush()
            wait_for(growing, 60, tmp_path / "server.log")
