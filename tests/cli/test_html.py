# SPDX-License-Identifier: Apache-2.0
"""The page of HTML: its shapes, its figures, and that no text of the process is taken for markup.

tests/hosts looks at it in a browser, with bokeh's plots.
"""

from __future__ import annotations

import json
import subprocess
from html.parser import HTMLParser

import pytest

from memcg.cli._html import document, flame, shapes
from memcg.core.dataplane import EVENTS
from memcg.sizes import format_size

MIB = 1 << 20
EVIL = "<script>alert('x')|<img src=x onerror=alert(1)>\"&amp;"


def group(id_: int, path: str, current: int, **more):
    return {
        "path": path, "state": "online", "id": id_, "current": current, "peak": current,
        "max": None, "high": None, "events": {"oom": 0, "fail": 0, "oom_kill": 0}, "caches": 0,
        "inside": 0, "made": 100.0, "closed": None,
    } | more  # fmt: skip


def event(time: float, path: str, kind: str, total: int = 1):
    return {
        "seq": 0, "time": time, "id": 1, "group": path, "kind": kind, "bytes": MIB,
        "usage": MIB, "max": 2 * MIB, "total": total, "asked": 1,
    }  # fmt: skip


def figures(groups, samples=(), events=(), gone=(), held=None, **more):
    from memcg.cli._html.figures import own_bytes

    return {
        "memcg": "0", "pid": 7, "command": "x", "rss": 0, "time": 110.0, "began": 100.0,
        "groups": groups, "gone": list(gone), "own": own_bytes(groups),
        "samples": [[t, i, n, n] for t, i, n in samples], "samples_dropped": 0,
        "events": list(events), "events_dropped": 0, "caches": None, "held": held, "sites": None,
        "left_out": 0,
    } | more  # fmt: skip


# -- shapes


def test_the_layers_add_up_to_the_roots_usage_at_each_time():
    groups = [group(1, "", 10 * MIB), group(2, "a", 6 * MIB), group(3, "a/b", 2 * MIB)]
    samples = [(102, 1, 4 * MIB), (102, 2, 3 * MIB), (105, 1, 8 * MIB), (105, 3, MIB)]
    stack = shapes.Shapes(figures(groups, samples)).stack()
    assert stack.times == [100.0, 102, 105, 110.0]
    assert {layer.name: layer.values for layer in stack.layers} == {
        "/": [0, MIB, 5 * MIB, 4 * MIB], "a": [0, 3 * MIB, 2 * MIB, 4 * MIB],
        "a/b": [0, 0, MIB, 2 * MIB],
    }  # fmt: skip
    assert stack.highest == [0, 4 * MIB, 8 * MIB, 10 * MIB]


def test_a_group_that_was_closed_holds_nothing_from_then_on():
    gone = group(2, "a", 0, state="gone", closed=106.0)
    samples = [(102, 1, 4 * MIB), (102, 2, 3 * MIB), (107, 1, MIB)]
    stack = shapes.Shapes(figures([group(1, "", MIB)], samples, gone=[gone])).stack()
    values = {layer.name: layer.values for layer in stack.layers}
    assert values["a"] == [0, 3 * MIB, 0, 0]
    assert values["/"] == [0, MIB, MIB, MIB]


def test_past_the_colours_the_rest_is_one_layer_and_nothing_is_lost():
    n = 30
    groups = [group(1, "", n * MIB)] + [group(i + 2, f"g{i}", MIB + i) for i in range(n)]
    groups[0]["current"] = sum(g["current"] for g in groups[1:])
    stack = shapes.Shapes(figures(groups)).stack()
    assert len(stack.layers) == shapes.LAYERS + 1
    assert stack.layers[-1].name == shapes.OTHERS
    assert len({layer.colour for layer in stack.layers}) == shapes.LAYERS + 1
    assert sum(layer.values[-1] for layer in stack.layers) == groups[0]["current"]


def test_a_long_history_has_as_many_points_as_can_be_seen():
    samples = [(100 + i, 1, i) for i in range(5000)]
    stack = shapes.Shapes(figures([group(1, "", 7)], samples, time=6000.0)).stack()
    assert shapes.POINTS // 2 < len(stack.times) <= shapes.POINTS + 1
    assert stack.times[-1] == 6000.0
    assert stack.layers[0].values[-1] == 7


def test_events_that_are_near_are_one_mark_that_says_how_many():
    events = [event(105 + i / 1000, "a", "oom", i + 1) for i in range(50)]
    events += [event(105, "a", "high"), event(109, "a", "oom", 51)]
    marks = shapes.Shapes(figures([group(1, "", MIB)], events=events)).marks()
    assert [(round(m.time), m.kind) for m in marks] == [(105, "high"), (105, "oom"), (109, "oom")]
    assert "50 in all" in marks[1].text


@pytest.mark.parametrize("shape", [0.4, 1.8, 5])
def test_tiles_fill_the_area_by_size_and_do_not_overlap(shape):
    items = [(i, (i * 7919) % 1000 + 1) for i in range(60)]
    total = sum(n for _, n in items)
    tiles = shapes.squarify(items, shape)
    for x, y, width, height, (_, n) in tiles:
        assert width * height == pytest.approx(n / total)
        assert -1e-9 <= x <= x + width <= 1 + 1e-9
        assert -1e-9 <= y <= y + height <= 1 + 1e-9
    for i, (x, y, width, height, _) in enumerate(tiles):
        for x2, y2, width2, height2, _ in tiles[i + 1 :]:
            apart = (x + width <= x2 + 1e-9 or x2 + width2 <= x + 1e-9
                     or y + height <= y2 + 1e-9 or y2 + height2 <= y + 1e-9)  # fmt: skip
            assert apart
    ratios = sorted(max(w * shape / h, h / (w * shape)) for _, _, w, h, _ in tiles)
    assert ratios[len(ratios) // 2] < 2  # mostly near squares


def test_the_treemap_has_types_and_objects_and_what_is_free():
    held = {"a": {
        "blocks": 3, "rest": MIB, "kinds": [
            {"kind": "list", "objects": 2, "nbytes": 4 * MIB},
            {"kind": "str", "objects": 1, "nbytes": 2 * MIB},
        ],
        "objects": [{"kind": "list", "nbytes": 3 * MIB, "text": "list of 9: global 'x'"},
                    {"kind": "str", "nbytes": 2 * MIB, "text": "str of 2: global 'y'"}],
    }}  # fmt: skip
    groups = [group(1, "", 8 * MIB), group(2, "a", 8 * MIB)]
    (tile,) = shapes.Shapes(figures(groups, held=held)).tiles()
    inner = {t.name: t for t in tile.inner}
    assert {name: t.nbytes for name, t in inner.items()} == {
        "list": 4 * MIB, "str": 2 * MIB, "other types": MIB, "free in slabs": MIB,
    }  # fmt: skip
    assert {t.name: t.nbytes for t in inner["list"].inner} == {
        "list of 9: global 'x'": 3 * MIB, "all others": MIB,
    }  # fmt: skip
    assert inner["str"].title == "a: str of 2: global 'y'"


def test_each_kind_of_event_has_a_colour():
    assert set(shapes.KIND_COLOURS) == set(EVENTS)


# -- the page


class Seen(HTMLParser):
    """What a browser would take a page for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.json = ""
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = dict(attrs).get("id") or tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "memcg-figures":
            self.json += data
        self.texts.append(data)


def harmless(seen: Seen) -> None:
    """Check that a page runs nothing and fetches nothing."""
    for tag, attributes in seen.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form"), tag
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "script":
            assert attributes == {"type": "application/json", "id": "memcg-figures"}
        for name in ("src", "href"):
            assert attributes.get(name, "data:,") == "data:,"
    (policy,) = (a["content"] for _, a in seen.tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def sites(*listed, frames):
    return {
        "every": 4096, "samples": 9, "missed": 0, "nbytes": sum(s[2] for s in listed),
        "deviation": 1000, "rest": 0, "frames": frames, "sites": list(listed),
    }  # fmt: skip


def test_a_flame_graph_has_a_box_for_each_call_below_the_one_that_made_it():
    frames = [["m.py", "main", 9, 1], ["m.py", "load", 4, 3], ["m.py", "save", 7, 6]]
    found = sites(["a", [0, 1], 6 * MIB, 1, 1], ["a", [0, 2], 2 * MIB, 1, 1],
                  ["b", [0, 1, 1], 2 * MIB, 1, 1], ["b", [], 1, 1, 1], frames=frames)  # fmt: skip
    boxes = {(b.row, b.name, round(b.x, 6)): b for b in flame.boxes(found)}
    assert {key: round(b.width, 6) for key, b in boxes.items()} == {
        (0, "all", 0): 1, (1, "a", 0): 0.8, (1, "b", 0.8): 0.2, (2, "main", 0): 0.8,
        (2, "main", 0.8): 0.2, (3, "load", 0): 0.6, (3, "save", 0.6): 0.2, (3, "load", 0.8): 0.2,
        (4, "load", 0.8): 0.2,
    }  # fmt: skip
    assert boxes[3, "load", 0].title == "load, 6.0 MiB (60.0 %), m.py:4"
    assert len({b.colour for (_, name, _), b in boxes.items() if name == "load"}) == 1
    assert flame.boxes(None) == flame.boxes(sites(frames=[])) == []


def test_names_of_the_process_are_text_wherever_they_stand():
    evil = EVIL + "</script></style></title><b>"
    kind = {"kind": evil, "objects": 2, "nbytes": MIB}
    held = {"blocks": 1, "rest": 0, "kinds": [kind],
            "objects": [{"kind": evil, "nbytes": 1000, "text": evil}]}  # fmt: skip
    cache = {"group": evil, "name": evil, "size": 4096, "active_objs": 1, "num_objs": 2,
             "objsize": 64}  # fmt: skip
    found = figures(
        [group(1, "", 3 * MIB), group(2, evil, 2 * MIB, max=4 * MIB, high=3 * MIB)],
        [(105, 2, MIB)], [event(105, evil, "oom")], held={evil: held}, caches=[cache],
        command=evil, sites=sites([evil, [0], MIB, 1, 1], frames=[[evil, evil, 3, 1]]),
    )  # fmt: skip
    seen = Seen(document.render(found, plain=True))
    harmless(seen)
    # heading, legend, panel, timeline, treemap, tables, a group and a call of the flame graph
    assert seen.texts.count(evil) >= 10
    assert json.loads(seen.json) == found


def test_a_process_without_groups_samples_or_events_has_a_page():
    harmless(Seen(document.render(figures([group(1, "", 0)]), plain=True)))
    harmless(Seen(document.render(figures([]), plain=True)))


# -- memcg run --html, memcg html

PROGRAM = f"""
import memcg, sys
big = memcg.group("tenants/a", max="64MiB")
with big:
    keep = bytearray(8 << 20)
    table = [[i] for i in range(30_000)]
    try: bytearray(100 << 20)
    except MemoryError: pass
with memcg.group({EVIL!r}): more = bytearray(2 << 20)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def program(cli, native, tmp_path):
    cli.env["MEMCG_RUNTIME_DIR"] = str(tmp_path / "run")
    cli.write({"program.py": PROGRAM, "bokeh.py": "raise ModuleNotFoundError('x', name='bokeh')"})
    # Where bokeh is installed, this finds none.
    cli.env["PYTHONPATH"] = f"{cli.directory}:{cli.env['PYTHONPATH']}"
    return cli


def page_of(cli, name="out.html") -> tuple[dict, Seen]:
    seen = Seen((cli.directory / name).read_text())
    harmless(seen)
    return json.loads(seen.json), seen


def test_run_writes_the_page_of_the_account_that_json_has(program):
    shown = program.memcg("run", "--max=1GiB", "--html=out.html", "--json=out.json",
                          "--trace-every=64KiB", "program.py")  # fmt: skip
    assert (shown.status, shown.err) == (0, ""), shown
    account = json.loads((program.directory / "out.json").read_text())
    found, seen = page_of(program)
    assert found["account"] == account
    assert {g["path"] for g in found["groups"]} == {"", "tenants", "tenants/a", EVIL}
    named = {g["path"]: g for g in account["groups"]}
    for g in found["groups"]:
        for name in ("current", "peak", "max", "high", "events"):
            assert g[name] == named[g["path"]][name]
            if name in ("current", "peak") or (name == "max" and g[name]):
                assert format_size(g[name]) in seen.texts
    assert named[""]["max"] == 1 << 30
    held = found["held"]["tenants/a"]
    assert {k["kind"] for k in held["kinds"]} >= {"bytearray", "list"}
    assert any(big["text"].startswith("bytearray of 8,388,608") for big in held["objects"])
    assert found["caches"] == account["caches"]
    assert found["sites"] == account["sites"]
    assert found["time"] == account["time"]
    assert max(when for when, *_ in found["samples"]) <= account["time"]
    assert "Which code allocated what lives" in seen.texts
    assert [e["kind"] for e in found["events"] if e["group"] == "tenants/a"].count("fail") == 1
    assert seen.texts.count(EVIL) >= 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--html"], "argument --html: expected one argument"),
        (["--html=missing/x.html"], "argument --html: cannot write 'missing/x.html'"),
        (["--html=x", "--no-publish"], "it needs the page that --no-publish forbids"),
    ],
)
def test_run_refuses_a_page_that_cannot_be(program, options, error):
    shown = program.memcg("run", *options, *(["program.py"] if len(options[0]) > 6 else []))
    assert shown.status == 2
    assert error in shown.err


def test_a_program_that_ends_its_page_gets_no_html(program):
    program.write({"ends.py": "import memcg; memcg.unpublish()"})
    shown = program.memcg("run", "--html=out.html", "ends.py")
    assert shown.status == 0
    assert "the program has called memcg.unpublish()" in shown.err


@pytest.fixture
def watched(program):
    pytest.importorskip("click", reason="click is not installed for this Python")
    started = []

    def start(*options: str) -> None:
        process = program.popen("-m", "memcg", "run", *options, "program.py", stdin=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"ready\n"

    yield start
    for process in started:
        process.kill()
        with process:
            pass


@pytest.mark.parametrize("served", [True, False])
def test_the_page_of_a_running_process_has_the_figures_of_ls_and_of_json(program, watched, served):
    watched(*(["--control"] if served else []))
    before = json.loads(program.memcg("ls", "-R", "--json").out)
    shown = program.memcg("html", "out.html", "--json")
    assert shown.status == 0
    found, seen = page_of(program)
    assert json.loads(shown.out) == found
    # The thread that answers allocates for the root.
    there = [g for g in found["groups"] if g["path"]]
    assert there == [g for g in before if g["path"]]
    for g in there:
        assert format_size(g["current"]) in seen.texts
    if served:
        assert shown.err == ""
        assert {k["kind"] for k in found["held"]["tenants/a"]["kinds"]} >= {"bytearray", "list"}
        assert any(c["group"] == "tenants/a" for c in found["caches"]) or found["caches"]
    else:
        assert "memcg.serve() opens one" in shown.err
        assert found["held"] is found["caches"] is None


def test_a_process_that_holds_the_gil_has_a_page_without_what_is_in_its_groups(program, watched):
    program.write({"program.py": PROGRAM.replace("sys.stdin.read()", "sum(range(10**12))")})
    watched("--control")
    shown = program.memcg("html", "out.html")
    assert shown.status == 0
    assert "the process does not answer: it may hold the GIL" in shown.err
    found, _ = page_of(program)
    assert found["held"] is None
    assert {g["path"]: g for g in found["groups"]}["tenants/a"]["current"] > 8 * MIB


def test_a_page_that_cannot_be_written_is_an_error(program, watched):
    watched()
    shown = program.memcg("html", "missing/out.html")
    assert (shown.status, shown.out) == (1, "")
    assert "cannot write 'missing/out.html'" in shown.err
    assert "Traceback" not in shown.err
