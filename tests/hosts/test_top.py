# SPDX-License-Identifier: Apache-2.0
"""The screen of ``memcg top``: pictures of it, its keys, and a real terminal."""

from __future__ import annotations

import asyncio
import html
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from environment import environment
from hosts.terminal import PATIENCE_S

from memcg import page

HERE = Path(__file__).parent
PICTURES = HERE / "top"  # UPDATE=1 writes them
SIZE = (132, 18)
MIB = 1 << 20
TOP = sys.executable, "-m", "memcg", "top"


def made():
    path = HERE.parent / "cli" / "pages_made.py"
    spec = importlib.util.spec_from_file_location("pages_made", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(svg: str) -> str:
    """Return the text of a picture, cell by cell."""
    lines: dict[float, dict[int, str]] = {}
    width = 12.2  # of a cell, as textual draws it
    for x, y, text in re.findall(
        r'<text[^>]*-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', svg
    ):
        lines.setdefault(float(y), {})[round(float(x) / width)] = html.unescape(text)
    rows = []
    for _, parts in sorted(lines.items()):
        row = ""
        for x, part in sorted(parts.items()):
            row = row.ljust(x) + part.replace("\xa0", " ")
        rows.append(row.rstrip())
    return "\n".join(rows) + "\n"


def screen(tmp_path, keys, *, size=SIZE, records=None) -> str:
    """Press keys and return what the screen shows then."""
    from memcg.cli.verbs import _watch
    from memcg.cli.verbs._screen import Top

    path = tmp_path / "p"
    samples = [(i, n * MIB) for n in range(4, 80, 4) for i in (1, 2, 3, 4)]
    made().write(path, records or made().tenants(), samples[-60:], pid=2**22 + 1)
    with page.Page(str(path)) as of:
        watch = _watch.Watch(of)
        watch._command = "python -m memcg run server.py"
        # The page is a file of ours, and no process writes it.
        of.alive = lambda: True

        async def run() -> str:
            app = Top(watch, 3600, "12:00:00")
            async with app.run_test(size=size) as pilot:
                await pilot.pause()
                for key in keys:
                    await pilot.press(key)
                await pilot.pause()
                return text_of(app.export_screenshot())

        return asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("tree", []),
        ("flat by oom", ["t", "o"]),
        ("folded", ["down", "down", "space"]),
        ("percent", ["percent_sign"]),
        ("by the next column", ["greater_than_sign"]),
        ("filtered", ["slash", "w", "e", "b", "enter"]),
        ("asks for a limit", ["down", "down", "l"]),
    ],
)
def test_the_screen_is_as_its_picture(tmp_path, name, keys):
    shown = screen(tmp_path, keys)
    picture = PICTURES / f"{name}.txt"
    if os.environ.get("UPDATE"):
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(shown)
    assert shown == picture.read_text()


def test_the_picture_changes_with_the_figures(tmp_path):
    """A picture that is the same whatever happens would test nothing."""
    assert screen(tmp_path, []) != screen(tmp_path, [], records=made().tenants(grown=MIB))
    assert screen(tmp_path, []) != screen(tmp_path, ["t"])


def test_a_group_of_markup_and_escapes_is_shown_as_it_is(tmp_path):
    records = [made().record(1, "", MIB), made().record(2, "[red]<b>&[b]", MIB)]
    assert "[red]<b>&[b]" in screen(tmp_path, [], records=records)
    assert "memory.max of '[red]<b>&[b]'" in screen(tmp_path, ["down", "l"], records=records)


def test_a_look_that_is_due_while_the_screen_is_taken_down_does_nothing(tmp_path):
    from memcg.cli.verbs import _watch
    from memcg.cli.verbs._screen import Top

    path = tmp_path / "p.page"
    made().write(path, made().tenants())
    with page.Page(str(path)) as of:

        async def run() -> None:
            app = Top(_watch.Watch(of), 3600, "12:00:00")
            async with app.run_test(size=SIZE) as pilot:
                await pilot.pause()
                await app.screen.query("*").remove()
                app.look()

        asyncio.run(bounded(run()))


async def bounded(coroutine):
    return await asyncio.wait_for(coroutine, 30)


def test_without_a_socket_a_limit_is_refused_with_what_to_do(tmp_path):
    from memcg.cli.verbs import _watch
    from memcg.cli.verbs._screen import Top

    path = tmp_path / "p.page"
    made().write(path, made().tenants())
    with page.Page(str(path)) as of:
        of.alive = lambda: True

        async def run() -> list[str]:
            app = Top(_watch.Watch(of), 3600, "12:00:00")
            async with app.run_test(size=SIZE) as pilot:
                while app._chosen() is None:  # the first rows come from a timer
                    await pilot.pause(0.01)
                top = app.screen
                await pilot.press("l")
                while app.screen is top:  # the dialog is put up by a task
                    await pilot.pause(0.01)
                await pilot.press(*"64M", "enter")
                while not app._notifications:  # a thread answers
                    await pilot.pause(0.01)
                return [note.message for note in app._notifications]

        assert any("memcg run --control=write" in text for text in asyncio.run(bounded(run())))


def test_in_a_real_terminal_the_group_grows_folds_and_gets_a_limit(start, terminal):
    process = start("memcg.serve(writable=True)")
    top = terminal(process.env, *TOP)
    top.wait_for(r"t0 +8\.\d MiB +64\.0 MiB")
    top.wait_for("groups: 5 online, 0 dying")
    process.stdin.write("keep += [bytearray(1 << 20) for _ in range(8)]\n")
    process.stdin.flush()
    top.wait_for(r"t0 +16\.\d MiB")
    top.press("Down", "Space")
    top.wait_for(r"tenants \+3")
    top.press("Space")
    top.wait_for(r"t0 +16\.\d MiB")
    top.press("Down", "l")
    top.wait_for(r"memory\.max of 'tenants/t0'")
    top.press("512M", "Enter")
    top.wait_for(r"t0 +16\.\d MiB +512\.0 MiB")
    top.wait_for(r"memory\.max is 512\.0 MiB")
    top.press("r")
    top.wait_for(r"reclaimed \d+(\.\d)? K?i?B")
    top.press("Enter")
    top.wait_for("what holds its memory")
    top.wait_for("bytearray")
    top.press("Escape")
    top.wait_for("GROUP")
    process.stdin.write("with __import__('contextlib').suppress(MemoryError): bytearray(1 << 30)\n")
    process.stdin.flush()
    top.wait_for(r"t0 .* \d +\d +1 +1 +\d+")  # FAIL, and INSIDE
    top.press("Home", "Enter")  # the root, whose columns count what happened below it
    top.wait_for(r"fail +at tenants/t0: asked 1,073,741,")
    top.press("Escape")
    top.wait_for("GROUP")
    top.press("q")
    top.ended()


def test_ctrl_c_ends_it(start, terminal):
    top = terminal(start("memcg.publish()").env, *TOP)
    top.wait_for("GROUP")
    top.press("C-c")
    top.ended()


def test_in_a_real_terminal_a_process_that_holds_the_gil_grows(start, terminal):
    process = start("memcg.publish()")
    process.stdin.write("groups[0].max = None; list(map(str, range(6_000_000)))\n")
    process.stdin.flush()
    top = terminal(process.env, *TOP, "-d", "0.2")
    seen = {top.wait_for(r"t0 +[\d.]+ MiB")}

    def usage(shown: str) -> float:
        return float(re.search(r"t0 +([\d.]+) MiB", shown)[1])

    end = time.monotonic() + PATIENCE_S
    while len({usage(shown) for shown in seen}) < 4 and time.monotonic() < end:
        seen.add(top.wait_for(r"t0 +[\d.]+ MiB"))
    assert len({usage(shown) for shown in seen}) >= 4
    assert max(map(usage, seen)) > 20


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.alone
def test_a_thousand_groups_twice_a_second_cost_the_viewer_a_little_and_the_process_nothing(
    start, terminal, record_property
):
    process = start("memcg.publish()", groups=1000)
    top = terminal(process.env, *TOP, "-d", "0.5")
    top.wait_for("groups: 1002 online")
    viewer = top.pane_pid()
    began, theirs, ours = time.monotonic(), cpu_seconds(viewer), cpu_seconds(process.pid)
    while time.monotonic() - began < 6:  # a time is what is measured
        time.sleep(0.5)
    passed = time.monotonic() - began
    share = (cpu_seconds(viewer) - theirs) / passed
    record_property("viewer_share", share)
    print(f"the viewer takes {100 * share:.1f} % of a core")
    assert cpu_seconds(process.pid) - ours <= 1 / os.sysconf("SC_CLK_TCK")
    assert share <= 0.10  # 5 % on a machine at rest; this one may be busy


BOMB = """
import memcg, random, sys, time
random.seed(3)
names = ("acme", "globex", "initech", "umbrella")
groups = {name: memcg.group(f"tenants/{name}", max="64MiB") for name in names}
bomb, nightly = memcg.group("tenants/bomb", max="64MiB"), memcg.group("jobs/nightly", max="256MiB")
kept = {name: [] for name in groups}
for turn in range(1 << 30):
    for k, (name, group) in enumerate(groups.items()):
        with group:
            kept[name].append(bytearray(random.randrange(1, 4 + k) << 18))
            del kept[name][: -12 * (k + 1)]
    with nightly: rows = [{"row": i} for i in range(min(turn, 30) * 5_000)]
    try:
        with bomb:
            held = []
            while True:
                held.append(bytearray(1 << 20))
                if len(held) % 8 == 0: time.sleep(0.02)
    except MemoryError: held = None
    if turn == 5: print("ready", flush=True)
"""


def test_beside_a_bomb_the_others_are_seen_to_live(tmp_path):
    """The picture in the documentation is of this program."""
    from memcg.cli.verbs import _watch
    from memcg.cli.verbs._screen import Top

    env = environment(MEMCG_RUNTIME_DIR=str(tmp_path / "run"))
    (tmp_path / "server.py").write_text(BOMB)
    argv = [sys.executable, "-m", "memcg", "run", "--max", "1GiB", "server.py"]
    with subprocess.Popen(
        argv, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            (path,) = (tmp_path / "run").glob("*.page")
            with page.Page(str(path)) as of:
                watch = _watch.Watch(of)
                watch._command = "memcg run --max 1GiB server.py"

                async def run() -> tuple[str, dict]:
                    app = Top(watch, 0.2, "12:00:00")
                    async with app.run_test(size=(132, 14)) as pilot:
                        for _ in range(40):  # looks of the screen, which fill its lines of bars
                            await pilot.pause(0.2)
                        for _ in range(200):  # until it is about to burst
                            rows = {row.group.path: row.group for row in watch.rows()}
                            if rows["tenants/bomb"].usage > 56 * MIB:
                                break
                            await pilot.pause(0.05)
                        return app.export_screenshot(title=""), rows

                svg, rows = asyncio.run(run())
            assert process.poll() is None
        finally:
            process.kill()
    shown = text_of(svg)
    assert rows["tenants/bomb"].events["fail"] >= 2
    assert re.search(r"bomb .*64\.0 MiB", shown)
    for name in ("acme", "globex", "initech", "umbrella"):
        assert rows[f"tenants/{name}"].events["fail"] == 0
        assert re.search(rf"{name} +[\d.]+ MiB +64\.0 MiB", shown)
    if os.environ.get("UPDATE"):
        from browser import render

        render(svg, HERE.parents[1] / "docs" / "pictures" / "top.png", tmp_path)
