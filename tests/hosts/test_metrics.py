# SPDX-License-Identifier: Apache-2.0
"""memcg's series in prometheus-client, OpenTelemetry and the real Prometheus server."""

from __future__ import annotations

import collections
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest
from environment import environment
from scraped import free_port, get, started, wait_for
from serving import serving

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "examples" / "monitoring"


def run(source: str, **more: str) -> dict:
    """Run a program, and return the JSON that it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", "import memcg; memcg.install()\nimport json\n" + source],
        env=environment() | more, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Run the example's program and the real Prometheus, and return a function that asks it."""
    for name in ("prometheus", "promtool"):
        assert shutil.which(name), f"{name} is not installed; `make test-hosts` installs it"
    tmp = tmp_path_factory.mktemp("prometheus")
    port, own = free_port(), free_port()
    config = (MONITORING / "prometheus.yml").read_text()
    for old, new in (("5s", "500ms"), ("127.0.0.1:9400", f"127.0.0.1:{port}")):
        assert old in config
        config = config.replace(old, new)
    (tmp / "prometheus.yml").write_text(config)
    shutil.copy(MONITORING / "alerts.yml", tmp)
    program = [sys.executable, MONITORING / "serve.py", str(port)]
    server = [
        "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{own}",
    ]  # fmt: skip
    with (
        started(program, tmp / "program.log"),
        started(server, tmp / "server.log", cwd=tmp),
    ):

        def ask(path: str, **query: str):
            url = f"http://127.0.0.1:{own}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            return json.loads(get(url))["data"]

        def wait(what, seconds=60):
            return wait_for(what, seconds, tmp / "server.log")

        wait(lambda: ask("query", query="memcg_groups")["result"] or None)
        yield ask, wait


def test_prometheus_takes_the_alert_rules():
    done = subprocess.run(
        ["promtool", "check", "rules", MONITORING / "alerts.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rules found" in done.stdout


def test_both_alerts_fire_for_the_right_group(prometheus):
    ask, wait = prometheus

    def firing():
        found = {
            (a["labels"]["alertname"], a["labels"]["group"])
            for a in ask("alerts")["alerts"]
            if a["state"] == "firing"
        }
        return found if len({name for name, _ in found}) == 2 else None

    found = wait(firing)
    assert ("MemcgLimitMet", "tenants/greedy") in found
    assert ("MemcgNearLimit", "tenants/careful") in found
    assert ("MemcgLimitMet", "tenants/careful") not in found


def test_every_query_of_the_dashboard_has_an_answer(prometheus):
    ask, wait = prometheus
    wait(lambda: ask("query", query="rate(memcg_memory_events_total[1m])")["result"] or None)
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert len(queries) >= 6
    for query in queries:
        query = query.replace("$instance", ".*").replace("$group", ".*")
        assert ask("query", query=query)["result"], query
    for variable in dashboard["templating"]["list"][1:]:
        metric, name = re.fullmatch(r"label_values\((\w+).*, (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
        assert all(name in r["metric"] for r in ask("query", query=metric)["result"])


def test_the_series_are_those_of_the_groups():
    found = run("""
from prometheus_client import CollectorRegistry
from memcg.prometheus import MemcgCollector
registry = CollectorRegistry()
registry.register(MemcgCollector(depth=2, labels={"pid": "7"}))
g, deep = memcg.group('a/"<b>"', max="1MiB"), memcg.group('a/"<b>"/c')
with g:
    kept = bytearray(100_000)
def value(name, **labels):
    return registry.get_sample_value(name, {"pid": "7"} | labels)
print(json.dumps({
    "current": value("memcg_memory_current_bytes", group=g.path) == g.current,
    "peak": value("memcg_memory_peak_bytes", group=g.path) == g.peak >= 100_000,
    "limit": value("memcg_memory_limit_bytes", group=g.path, limit="max"),
    "none": value("memcg_memory_limit_bytes", group="/", limit="max"),
    "deep": value("memcg_memory_current_bytes", group=deep.path),
    "online": value("memcg_groups", state="online"),
    "uncharged": value("memcg_process_uncharged_bytes") > 0,
    "active": value("memcg_slab_bytes", group="/", state="active") > 10_000,
    "fail": value("memcg_memory_events_total", group=g.path, event="fail"),
}))
""")
    assert found == {
        "current": True, "peak": True, "limit": 1 << 20, "none": None, "deep": None, "online": 4,
        "uncharged": True, "active": True, "fail": 0,
    }  # fmt: skip


def test_groups_past_the_bound_are_one_group_whose_events_never_fall():
    found = run("""
from memcg.prometheus import MemcgCollector
collector = MemcgCollector(max_groups=11)
groups = [memcg.group(f"{i}", max="1MiB") for i in range(30)] + [memcg.group("(other)")]
def meet_limit(g):
    try:
        with g: kept = bytearray(4 << 20)
    except MemoryError:
        return
def look():
    families = {m.name: m.samples for m in collector.collect()}
    current = {s.labels["group"] for s in families["memcg_memory_current_bytes"]}
    fails = {s.labels["group"]: s.value for s in families["memcg_memory_events"]
             if s.labels["event"] == "fail"}
    return current, fails
first, fails = look()
looks = [fails["(other)"]]
folded = [g for g in groups if g.path not in first]
for g in folded[:3]:
    meet_limit(g)
looks.append(look()[1]["(other)"])
folded[0].close()  # takes its event along
looks.append(look()[1]["(other)"])
shown = [g for g in groups if g.path in first and g.path != "(other)"]
shown[0].close()
second, fails = look()
looks.append(fails["(other)"])
print(json.dumps({"shown": len(first), "again": len(second), "stay": len(first - second),
                  "looks": looks, "name": "(other)" in first}))
""")
    assert found["shown"] == found["again"] == 12  # with (other)
    assert found["stay"] == 1  # the closed one
    assert found["name"]
    assert found["looks"] == sorted(found["looks"]) == [0, 3, 3, 3]


def test_a_scrape_by_a_group_at_its_limit_works_and_the_root_pays():
    found = run("""
from memcg.prometheus import MemcgCollector
many = [memcg.group(f"many/{i}") for i in range(100)]
collector, kept, n, fell = MemcgCollector(), [], 0, False
for family in collector.collect(): pass
with memcg.scope("tenant", max="4MiB") as g:
    try:
        while True: kept.append(bytearray(100_000))
    except MemoryError:
        fell = True
    families = [None] * 70
    before, root_before = g.current, memcg.root.current
    for _ in range(10):  # more than the empty slabs that the root may give back meanwhile
        for family in collector.collect():
            families[n] = family
            n += 1
    grown, root_grown = g.current - before, memcg.root.current - root_before
assert n == 70
n = sum(len(f.samples) for f in families)
print(json.dumps({"samples": n, "grown": grown, "root": root_grown, "fell": fell}))
""")
    assert found["fell"]
    assert found["samples"] > 5000
    assert found["grown"] < 2000 < 200_000 < found["root"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("depth=0", "depth is a number that is at least 1, not 0"),
        ("max_groups=True", "max_groups is a number that is at least 1, not True"),
        ("labels={'group': 'x'}", "label 'group' is memcg's own; write another name"),
    ],
)
def test_a_bad_argument_is_refused(arguments, error):
    found = run(f"""
from memcg.prometheus import MemcgCollector
try:
    MemcgCollector({arguments})
except ValueError as error:
    print(json.dumps(str(error)))
""")
    assert found == error


def test_each_worker_of_gunicorn_has_a_label_and_figures_of_its_own(tmp_path):
    (tmp_path / "app.py").write_text("""
import os
import memcg
memcg.install()
from prometheus_client import CollectorRegistry, generate_latest
from memcg.prometheus import MemcgCollector
kept = []
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] != "/metrics":
        with memcg.group("tenants/a"): kept.append(bytearray(1 << 20))
        return [str(os.getpid()).encode()]
    registry = CollectorRegistry()
    registry.register(MemcgCollector(labels={"pid": str(os.getpid())}))
    return [generate_latest(registry)]
""")
    command = ("gunicorn", "-b", "fd://{fd}", "-w", "2", "--preload", "app:app")
    with serving(tmp_path / "log", *command, folder=tmp_path) as server:
        asked, found = collections.Counter(), {}
        end = time.monotonic() + 60
        while len(found) < 2 and time.monotonic() < end:  # the kernel chooses the worker
            asked[server.ask("/").body.decode()] += 1
            text = server.ask("/metrics").body.decode()
            (pid,) = set(re.findall(r'pid="(\d+)"', text))
            current = re.findall(r"^memcg_memory_current_bytes\{(.*?)\} (\S+)$", text, re.M)
            of = {labels: float(n) for labels, n in current if 'group="tenants/a"' in labels}
            if asked[pid]:
                ((labels, n),) = of.items()
                assert f'pid="{pid}"' in labels
                assert asked[pid] <= n / (1 << 20) < asked[pid] + 0.5 + 1  # the first of `_wait`
                found[pid] = n
        assert len(found) == 2, (asked, server.text())


def test_opentelemetry_reads_the_same_figures():
    found = run("""
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
import memcg.otel
reader = InMemoryMetricReader()
memcg.otel.instrument(MeterProvider([reader]))
g = memcg.group("tenant", max="1MiB")
with g:
    kept = bytearray(100_000)
try:
    with g: more = bytearray(4 << 20)
except MemoryError:
    pass
(resource,) = reader.get_metrics_data().resource_metrics
(scope,) = resource.scope_metrics
points = {m.name: {tuple(sorted(p.attributes.items())): p.value for p in m.data.data_points}
          for m in scope.metrics}
tenant = ("memcg.group", "tenant")
print(json.dumps({
    "usage": points["memcg.memory.usage"][tenant,] == g.current,
    "peak": points["memcg.memory.peak"][tenant,] == g.peak,
    "limit": points["memcg.memory.limit"][tenant, ("memcg.limit", "max")],
    "fail": points["memcg.memory.events"][("memcg.event", "fail"), tenant],
    "uncharged": points["memcg.memory.uncharged"][()] > 0,
}))
""")
    assert found == {"usage": True, "peak": True, "limit": 1 << 20, "fail": 1, "uncharged": True}


def test_a_thousand_groups_are_read_in_50_ms():
    found = run("""
import time
from prometheus_client import CollectorRegistry, generate_latest
from memcg.prometheus import MemcgCollector
registry = CollectorRegistry(); registry.register(MemcgCollector())
groups = [memcg.group(f"t/{i}", max="1MiB") for i in range(1000)]
best = 9
for _ in range(5):
    begin = time.process_time()
    generate_latest(registry)
    best = min(best, time.process_time() - begin)
print(json.dumps(best))
""")
    assert found < 0.05  # seconds of processor time


def test_the_programs_of_the_how_to_run_as_written():
    page = (ROOT / "docs/howto/metrics.md").read_text()
    prometheus, otel = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    port = free_port()
    assert "9400" in prometheus
    shown = run(
        prometheus.replace("9400", str(port))
        + f"""
import urllib.request
memcg.group("tenants/a", max="64MiB")
text = urllib.request.urlopen("http://127.0.0.1:{port}/metrics").read().decode()
print(json.dumps(text))
"""
    )
    assert 'memcg_memory_limit_bytes{group="tenants/a",limit="max"} 6.7108864e+07' in shown
    shown = run("""
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
""" + otel + """
print(reader.get_metrics_data().to_json(indent=None))
""")  # fmt: skip
    (scope,) = [m for r in shown["resource_metrics"] for m in r["scope_metrics"]]
    names = {metric["name"] for metric in scope["metrics"]}
    assert {"memcg.memory.usage", "memcg.memory.events"} <= names
