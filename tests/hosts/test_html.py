# SPDX-License-Identifier: Apache-2.0
"""The page of HTML in the real Chromium: it draws, fetches nothing, and has the right numbers."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from browser import browse, picture
from environment import environment

from memcg.sizes import format_size

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"  # UPDATE=1 writes them
WIDTHS = (420, 800, 1200)
EVIL = "<script>document.title='evil'<|script><img src=x onerror=document.title='evil'>"
PROGRAM = f"""
import memcg, random, sys, time
random.seed(7)
class Order:
    def __init__(self, i): self.number, self.lines = i, [f"{{i}}" + "x" * 20, i * 1.5]
names = ["acme", "globex", "initech", "umbrella", "hooli"]
groups = {{name: memcg.group(f"tenants/{{name}}", max="24MiB") for name in names}}
kept = {{name: [] for name in names}}
with memcg.group({EVIL!r}): evil = bytearray(2 << 20)
nightly = memcg.group("jobs/nightly", max="64MiB")
end = time.monotonic() + float(sys.argv[1])
turn = 0
while time.monotonic() < end or turn < 40:
    for k, name in enumerate(names):
        try:
            with groups[name]:
                kept[name].extend(Order(i) for i in range(250 * (k + 1)))
                kept[name].append(bytearray(random.randrange(40_000 * (k + 1))))
        except MemoryError:
            kept[name].clear()
    with nightly:
        rows = [{{"row": i, "text": str(i)}} for i in range(min(turn, 40) * 500)]
    if turn == 20:
        try:
            with groups["globex"]: bytearray(100 << 20)
        except MemoryError: pass
    turn += 1
    time.sleep(0.05)
"""
# Remember where labels that are times are drawn, before there is a plot.
LABELS = """
<script>
const labels = new Map(), number = new Map(), draw = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  if (/^\\d\\d:\\d\\d/.test(text)) {
    if (!number.has(this.canvas)) number.set(this.canvas, number.size);
    const at = this.getTransform(), scale = at.a / devicePixelRatio;
    const one = [number.get(this.canvas), at.transformPoint({x, y}).x / devicePixelRatio,
                 this.measureText(text).width * scale, text];
    labels.set(`${one[0]} ${text}`, one);
  }
  draw.apply(this, arguments);
};
</script>
"""
# What only a script in the page can see. The plots are in shadow trees.
PROBE = """
<script>
function* all(root) {
  for (const e of root.querySelectorAll("*")) {
    yield e;
    if (e.shadowRoot) yield* all(e.shadowRoot);
  }
}
const look = () => {
  if (document.body.dataset.drawn !== "yes") { setTimeout(look, 50); return; }
  setTimeout(() => {
    const drawn = [];
    for (const e of all(document)) if (e.tagName === "CANVAS" && e.width > 50) {
      const data = e.getContext("2d").getImageData(0, 0, e.width, e.height).data;
      let n = 0;
      for (let i = 3; i < data.length; i += 4) n += data[i] > 0;
      drawn.push(n);
    }
    document.body.dataset.seen = JSON.stringify({
      drawn, labels: [...labels.values()], title: document.title,
      wide: document.documentElement.scrollWidth - innerWidth,
      plots: [...document.querySelectorAll("[data-plot]")].map(e => [e.dataset.plot,
              e.getBoundingClientRect().width, e.getBoundingClientRect().height]),
    });
  }, 500);
};
addEventListener("load", look);
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a program that was run, with its account beside it."""
    assert shutil.which("chromium"), "it is not installed; `make test-hosts` installs it"
    folder = tmp_path_factory.mktemp("html")
    (folder / "program.py").write_text(PROGRAM)
    out = folder / "out.html"
    done = subprocess.run(
        [sys.executable, "-m", "memcg", "run", "--max=512MiB", "--trace-every=64KiB",
         f"--html={out}", f"--json={folder / 'out.json'}", "program.py",
         "12" if os.environ.get("UPDATE") else "3"],
        cwd=folder, env=environment(MEMCG_RUNTIME_DIR=str(folder / "run")), timeout=240,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return out


@pytest.fixture(scope="module")
def plain(page) -> Path:
    """The same page without a script."""
    from memcg.cli._html import document

    out = page.parent / "plain.html"
    out.write_text(document.render(figures_of(page.read_text()), plain=True))
    return out


def figures_of(text: str) -> dict:
    (found,) = re.findall(r'<script [^>]*id="memcg-figures">(.*?)</script>', text, re.S)
    return json.loads(found)


def quiet(console: list[str]) -> None:
    """Check that nothing went wrong. Bokeh says that it begins and that it is done."""
    assert [line for line in console if not line.startswith("[bokeh ")] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_all_plots_are_drawn_and_fit_at_each_width(page, width, tmp_path):
    probed = tmp_path / "probed.html"
    text = page.read_text().replace("<head>", "<head>" + LABELS, 1)
    probed.write_text(text.replace("</body>", PROBE + "</body>"))
    console, dom = browse(probed, "--dump-dom", width=width)
    quiet(console)
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    assert "evil" not in seen["title"]
    assert seen["wide"] <= 0
    names = [name for name, _, _ in seen["plots"]]
    assert {"stack", "panel", "timeline", "flame", "treemap", "caches"} == set(names)
    assert all(w > 0.7 * min(width, 250) and h > 60 for _, w, h in seen["plots"])
    # Each plot of bokeh has a canvas, and another for what is above it as one points.
    drawn = [n for n in seen["drawn"] if n > 500]
    assert len(drawn) == len(seen["drawn"]) / 2 == names.count("panel") + 3
    assert max(drawn) > 30_000
    labels = sorted((canvas, x, x + w, text) for canvas, x, w, text in seen["labels"])
    for (canvas, _, end, text), (next_, begin, _, other) in pairwise(labels):
        assert canvas != next_ or end < begin, f"{text} is drawn over {other}"
    # Those along the times of the stack, of the panels and of the timeline.
    assert len({canvas for canvas, *_ in labels}) == names.count("panel") + 2, labels
    assert len(labels) >= 2 * (names.count("panel") + 2)


@pytest.mark.parametrize("kind", ["page", "plain"])
def test_the_numbers_shown_are_those_of_json(request, kind):
    file = request.getfixturevalue(kind)
    console, dom = browse(file, "--dump-dom")
    quiet(console)
    account = json.loads((file.parent / "out.json").read_text())
    figures = figures_of(dom)
    assert figures["account"] == account
    rows = [
        [html.unescape(re.sub(r"<[^>]*>", "", x)) for x in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", dom, re.S)
    ]
    groups = {row[0]: row for row in rows if len(row) == 7}
    assert len(account["groups"]) == 10
    for g in account["groups"]:
        row = groups[g["path"].rpartition("/")[2] or "/"]
        assert row[1] == format_size(g["current"])
        assert row[2] == (format_size(g["max"]) if g["max"] is not None else "-")
        assert row[4] == format_size(g["peak"])
        assert row[6] == ", ".join(f"{name} {n}" for name, n in g["events"].items() if n)
    caches = [row for row in rows if len(row) == 7 and row[0].startswith("kmalloc-")]
    for row, c in zip(caches, account["caches"], strict=False):
        assert row[4] == f"{c['active_objs']:,} / {c['num_objs']:,}"
        assert row[6] == format_size(c["size"])
    (charged,) = re.findall(r"<span>charged</span><b>(.*?)</b>", dom)
    assert charged == format_size(account["charged"])


def colours(png: Path) -> dict[tuple[int, int, int], int]:
    from PIL import Image

    with Image.open(png) as image:
        return {rgb: n for n, rgb in image.convert("RGB").getcolors(1 << 24)}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["page", "plain"])
def test_the_colours_of_the_groups_are_on_the_screen(request, tmp_path, kind, width, dark):
    from memcg.cli._html.shapes import Shapes

    file = request.getfixturevalue(kind)
    png = tmp_path / "shot.png"
    height = {420: 4200, 800: 3200, 1200: 2600}[width]
    quiet(picture(file, png, width=width, height=height, dark=dark))
    found = colours(png)
    background = max(found, key=found.get)
    assert background == ((13, 17, 23) if dark else (255, 255, 255))
    layers = Shapes(figures_of(file.read_text())).stack().layers
    for layer in layers:
        if max(layer.values) > 8 << 20:
            rgb = tuple(int(layer.colour[i : i + 2], 16) for i in (1, 3, 5))
            # A chip of the legend has 100 pixels, a tile's frame some more.
            assert found.get(rgb, 0) > 400, layer.name
    if os.environ.get("UPDATE") and width == 1200 and kind == "page":
        keep(png, PICTURES / f"html-{'dark' if dark else 'light'}.png", height=2240)


def keep(png: Path, to: Path, height: int) -> None:
    """Keep a picture for the documentation, small: 128 colours, 900 pixels wide."""
    from PIL import Image

    with Image.open(png) as image:
        small = image.convert("RGB").crop((0, 0, image.width, min(height, image.height)))
        small = small.resize((900, small.height * 900 // small.width), Image.Resampling.LANCZOS)
        small.quantize(128, dither=Image.Dither.NONE).save(to, optimize=True)


def test_a_page_that_fails_would_be_seen(plain, tmp_path):
    """The console is read, and the page's policy keeps it from fetching."""
    text = plain.read_text()
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("</main>", '<img src="http://127.0.0.1:1/x.png"></main>'))
    console, _ = browse(broken, "--dump-dom")
    with pytest.raises(AssertionError, match="Content Security Policy"):
        quiet(console)
