# SPDX-License-Identifier: Apache-2.0
"""The real Chromium, without a window, which looks at a file."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

PATIENCE_S = 240  # it starts some processes
BUDGET_MS = 10_000  # of the page's own clock, which does not wait
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", f"--virtual-time-budget={BUDGET_MS}",
)  # fmt: skip


def browse(page: Path, *options: str, width: int = 1200, height: int = 2600, dark: bool = False):
    """Open a page. Return what it wrote to the console, and the browser's output."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as user:
        done = subprocess.run(
            ["chromium", *OPTIONS, f"--user-data-dir={user}", f"--window-size={width},{height}",
             f"--blink-settings=preferredColorScheme={0 if dark else 1}", *options, page.as_uri()],
            capture_output=True, text=True, timeout=PATIENCE_S, check=True,
        )  # fmt: skip
    console = re.findall(r":CONSOLE:\d+\] \"(.*)\", source", done.stderr)
    assert "CONSOLE" not in re.sub(r":CONSOLE:\d+\] \".*\", source", "", done.stderr)
    return console, done.stdout


def picture(page: Path, png: Path, **how):
    """Write a picture of a page, and return what it wrote to the console."""
    console, _ = browse(page, f"--screenshot={png}", **how)
    return console


def render(svg: str, png: Path, folder: Path, width: int = 1100) -> None:
    """Write a picture of a drawing, without its margin."""
    from PIL import Image

    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    height = int(width * float(box[2]) / float(box[1])) + 1
    page, shot = folder / "drawing.html", folder / "drawing.png"
    style = "body{margin:0}svg{display:block;width:100%}"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8><style>{style}</style>{svg}")
    picture(page, shot, width=width, height=height)
    with Image.open(shot) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(png, optimize=True)
