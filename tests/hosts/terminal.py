# SPDX-License-Identifier: Apache-2.0
"""A real terminal, and a program for others to watch, which runs what it reads."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

PATIENCE_S = 30

PROGRAM = """
import memcg, sys
memcg.install()
{how}
groups = [memcg.group(f"tenants/t{{i}}", max="64MiB") for i in range({groups})]
with groups[0]:
    keep = [bytearray(1 << 20) for _ in range(8)]
    print("ready", flush=True)
    for line in sys.stdin:
        exec(line)
"""


class Terminal:
    """A tmux of its own, in which a command runs."""

    def __init__(self, directory: Path, env: dict[str, str], *command: str) -> None:
        self.socket = str(directory / "tmux")
        # A worker of pytest-xdist has a size in its environment, which textual believes.
        self.env = {k: v for k, v in env.items() if k not in ("COLUMNS", "LINES")}
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "140", "-y", "30",
                  *command)  # fmt: skip

    def tmux(self, *args: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self.socket, *args], env=self.env, text=True, capture_output=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        return done.stdout

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def wait_for(self, pattern: str) -> str:
        end = time.monotonic() + PATIENCE_S
        shown = ""
        while time.monotonic() < end:
            shown = self.tmux("capture-pane", "-p")
            if re.search(pattern, shown):
                return shown
            time.sleep(0.05)
        raise AssertionError(f"not within {PATIENCE_S} s: {pattern!r} in\n{shown}")

    def pane_pid(self) -> int:
        return int(self.tmux("list-panes", "-F", "#{pane_pid}"))

    def ended(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if not self.tmux("list-sessions"):
                return
            time.sleep(0.05)
        raise AssertionError("the command has not ended")
