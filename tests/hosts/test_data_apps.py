# SPDX-License-Identifier: Apache-2.0
"""Real servers of Streamlit and Panel, whose scripts limit themselves as the how-to says."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
import urllib.request

import pytest
from environment import SOURCE, environment

TIMEOUT_S = 60
PAGE = (SOURCE.parent / "docs/howto/notebooks.md").read_text()
LIMITED = re.findall(r"```python\n(.*?)```", PAGE.split("## Streamlit and Panel")[1], re.S)[0]
GROW = """
def grow(n):
    rows = []
    for i in range(n):
        rows.append(bytes(1000))
    return len(rows)
"""
STREAMLIT = f"""
{LIMITED}
{GROW}
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

session = get_script_run_ctx().session_id
n = int(st.query_params["n"])
shown = limited(session, grow, n, max="32MiB")
if isinstance(shown, MemoryError):
    st.error(str(shown))
else:
    st.text(f"rows {{shown}}")
st.text(f"held below 1 MiB: {{memcg.group('apps').current < 1 << 20}}")
"""
PANEL = f"""
{LIMITED}
{GROW}
import sys
import panel as pn

def app(n):
    def page():
        session = pn.state.curdoc.session_context.id
        shown = limited(session, grow, n, max="32MiB")
        held = memcg.group("apps").current < 1 << 20
        return pn.pane.Str(f"{{type(shown).__name__}} {{shown}} held below 1 MiB: {{held}}")
    return page

pn.serve({{"good": app(3_000), "bomb": app(100_000)}}, port=int(sys.argv[1]), show=False)
"""


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(source: str, ready: str, *command: str) -> int:
        (tmp_path / "app.py").write_text(source)
        port = free_port()
        log = (tmp_path / "log").open("w")
        arguments = [arg.replace("PORT", str(port)) for arg in command]
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=tmp_path, env=environment(HOME=str(tmp_path)),
            stdout=log, stderr=log,
        )  # fmt: skip
        log.close()
        processes.append(process)
        end = time.monotonic() + TIMEOUT_S
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=TIMEOUT_S).close()
                return port
            except OSError:
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.1)

    yield start
    for process in processes:
        process.kill()
        process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def streamlit_page(port: int, n: int) -> str:
    """Open a session as a browser does, and return all that its page has."""
    import websockets
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    ask = BackMsg()
    ask.rerun_script.query_string = f"n={n}"
    text = ""
    url = f"ws://127.0.0.1:{port}/_stcore/stream"
    async with (
        asyncio.timeout(TIMEOUT_S),
        websockets.connect(url, subprotocols=["streamlit"], max_size=None) as socket,
    ):
        await socket.send(ask.SerializeToString())
        while True:
            message = ForwardMsg()
            message.ParseFromString(await socket.recv())
            text += str(message.delta) if message.HasField("delta") else ""
            if message.WhichOneof("type") == "script_finished":
                return text


def test_a_streamlit_script_limits_its_session(start):
    port = start(STREAMLIT, "/_stcore/health", "-m", "streamlit", "run", "app.py",
                 "--server.headless=true", "--server.port=PORT", "--server.address=127.0.0.1",
                 "--browser.gatherUsageStats=false", "--server.fileWatcherType=none")  # fmt: skip

    async def both():
        return await asyncio.gather(streamlit_page(port, 100_000), streamlit_page(port, 3_000))

    bomb, good = asyncio.run(both())
    assert "is over memory.max" in bomb
    assert "held below 1 MiB: True" in bomb
    assert "rows 3000" in good
    assert "rows 3000" in asyncio.run(streamlit_page(port, 3_000))


def test_a_panel_app_limits_its_session(start):
    import panel.models  # noqa: F401  the classes of what is pulled
    from bokeh.client import pull_session

    port = start(PANEL, "/good", "app.py", "PORT")
    texts = {}
    for name in ("bomb", "good"):
        session = pull_session(url=f"http://127.0.0.1:{port}/{name}")
        texts[name] = " ".join(str(getattr(root, "text", "")) for root in session.document.roots)
        session.close()
    assert "MemoryError" in texts["bomb"]
    assert "is over memory.max" in texts["bomb"]
    assert "held below 1 MiB: True" in texts["bomb"]
    assert "int 3000" in texts["good"]
