# SPDX-License-Identifier: Apache-2.0
"""Two tenants, one of which meets its limit, and their figures for Prometheus.

    pip install memcg[prometheus]
    python serve.py [port]                     # http://127.0.0.1:9400/metrics
    prometheus --config.file=prometheus.yml    # in another terminal

`grafana.json` is a dashboard to import. It needs Prometheus as its data source.
"""

import sys
import time

import memcg

memcg.install()

from prometheus_client import REGISTRY, start_http_server  # noqa: E402

from memcg.prometheus import MemcgCollector  # noqa: E402

REGISTRY.register(MemcgCollector())
port = int(sys.argv[1]) if len(sys.argv) > 1 else 9400
start_http_server(port, "127.0.0.1")
print(f"http://127.0.0.1:{port}/metrics", flush=True)

careful = memcg.group("tenants/careful", max="8MiB")
greedy = memcg.group("tenants/greedy", max="8MiB")
with careful:
    kept = bytearray(7_800_000)  # above nine tenths of the limit
while True:
    try:
        with greedy:
            rows = []
            while True:
                rows.append([1])
    except MemoryError:
        rows = None
    time.sleep(1)
