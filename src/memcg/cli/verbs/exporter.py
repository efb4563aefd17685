# SPDX-License-Identifier: Apache-2.0
"""``memcg exporter`` shows all processes that publish to Prometheus."""

from __future__ import annotations

import signal

import click

from ._commands import Failure


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=9400, show_default=True,
              help="0: any that is free.")  # fmt: skip
@click.option("--address", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--depth", type=click.IntRange(1), default=2, show_default=True,
              help="How many levels of groups have series of their own.")  # fmt: skip
@click.option("--max-groups", type=click.IntRange(1), default=200, show_default=True,
              help="How many groups of each process do; the rest is one, (other).")  # fmt: skip
def command(port: int, address: str, depth: int, max_groups: int) -> int:
    """Serve the figures of all processes of this user that publish, for Prometheus.

    It reads their pages at each scrape. The processes have no part in it: one that holds the GIL
    is seen as well. It ends at Ctrl-C or SIGTERM.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise Failure(
            "the exporter needs prometheus-client, which is not installed; "
            "pip install 'memcg[cli,prometheus]'"
        ) from None
    from ._exported import PagesCollector

    registry = CollectorRegistry()
    registry.register(PagesCollector(depth, max_groups))
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # the server's thread inherits it
    host = f"[{address}]" if ":" in address else address
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise Failure(f"cannot listen on {host}:{port}: {error.strerror}") from None
    click.echo(f"http://{host}:{server.server_port}/metrics")
    signal.sigwait(ends)
    server.shutdown()
    server.server_close()
    thread.join()
    return 0
