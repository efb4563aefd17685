# SPDX-License-Identifier: Apache-2.0
"""The page itself. Every text that the process chose is escaped, and nothing is fetched."""

from __future__ import annotations

import json
import time
from html import escape
from importlib import import_module
from typing import Any

from memcg.sizes import format_size

from . import flame
from .shapes import KIND_COLOURS, REST, Panel, Shapes, Tile, clock, is_light, name_of
from .style import STYLE

GROUPS_SHOWN = 300
EVENTS_SHOWN = 200
CACHES_SHOWN = 40
OBJECTS_SHOWN = 30
TILE_LEAST = 0.02  # of the area's width or height; a text does not fit into less


def plots_by() -> tuple[Any, str | None]:
    """Return the module that draws, and why it is not bokeh."""
    try:
        return import_module(f"{__package__}.plots"), None
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "bokeh":
            raise
        return import_module(f"{__package__}.svg"), "pip install 'memcg[html]'"


def render(figures: dict[str, Any], *, plain: bool = False) -> str:
    """Return the page. With `plain` it has no script."""
    by, cure = (import_module(f"{__package__}.svg"), None) if plain else plots_by()
    shapes = Shapes(figures)
    title = f"memcg: {figures['command'] or 'process ' + str(figures['pid'])}"
    script = "script-src 'unsafe-inline'; " if by.SCRIPTS else ""
    policy = f"default-src 'none'; {script}style-src 'unsafe-inline'; img-src data:"
    body = "".join((
        _header(figures), by.finish(_over_time(by, shapes) + _flame(by, figures)), _treemap(shapes),
        _caches(figures),
        _groups(shapes), _objects(figures), _events(figures), _footer(figures, cure),
    ))  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n{by.HEAD}</head>\n"
        f"<body>\n<main>\n{body}</main>\n{_json(figures)}</body>\n</html>\n"
    )


def _json(figures: dict[str, Any]) -> str:
    """Return the figures as a block of data. No text in it can end the block."""
    text = json.dumps(figures, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="memcg-figures">{text}</script>\n'


def _size(n: int | None) -> str:
    return "" if n is None else format_size(n)


def _section(title: str, *parts: str, note: str = "") -> str:
    said = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{said}{''.join(parts)}</section>\n"


def _table(head: list[str], rows: list[list[str]], align: str) -> str:
    """Return a table. The cells are HTML already. A column is ``<``, ``>``, or ``w`` for words."""
    classes = [{">": ' class="n"', "w": ' class="w"'}.get(a, "") for a in align]
    top = "".join(f"<th{c}>{cell}</th>" for c, cell in zip(classes, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{x}</td>" for c, x in zip(classes, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


# -- parts


def _header(figures: dict[str, Any]) -> str:
    root = next((g for g in figures["groups"] if not g["path"]), None)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(figures["time"]))
    passed = max(figures["time"] - figures["began"], 0)
    online = sum(g["state"] == "online" for g in figures["groups"])
    dying = len(figures["groups"]) - online
    events = root["events"] if root else {}
    cards = [
        ("charged", _size(root["current"]) if root else "?", "by all groups"),
        ("peak", _size(root["peak"]) if root else "?", "memory.peak"),
        ("limit", (_size(root["max"]) or "none") if root else "?", "memory.max"),
        ("resident", _size(figures["rss"]), "of the whole process"),
        ("groups", str(online), f"{dying} dying" if dying else "online"),
        (
            "refusals",
            str(events.get("fail", 0) + events.get("oom_kill", 0)),
            "and alarms at limits",
        ),
    ]
    shown = "".join(
        f'<div class="card"><span>{name}</span><b>{value}</b><small>{what}</small></div>'
        for name, value, what in cards
    )
    return (
        f'<header><h1>{escape(figures["command"] or "?")}</h1><p class="note">process '
        f"{figures['pid']}, {when}, published for {_duration(passed)}</p></header>\n"
        f'<div class="cards">{shown}</div>\n'
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _over_time(by: Any, shapes: Shapes) -> str:
    layers = shapes.stack().layers
    legend = "".join(f'<span><i style="background:{x.colour}"></i>{escape(x.name)}</span>'
                     for x in layers)  # fmt: skip
    html = _section(
        "Usage over time", by.stack(shapes), f'<div class="legend">{legend}</div>',
        note="Each layer is what a group holds without the groups below it. The thin line is the "
        "highest usage between two samples, the dashed one the limit, a dot an event.",
    )  # fmt: skip
    if panels := shapes.panels():
        shown = "".join(_panel(p, by.panel(shapes, p)) for p in panels)
        html += _section("Groups at their limits", f'<div class="panels">{shown}</div>')
    if shapes.timeline()[0]:
        legend = "".join(f'<span><i class="dot" style="background:{KIND_COLOURS[kind]}"></i>{kind}'
                         "</span>" for kind in _kinds(shapes))  # fmt: skip
        html += _section("Events", by.timeline(shapes), f'<div class="legend">{legend}</div>')
    return html


def _panel(panel: Panel, plot: str) -> str:
    name, now = escape(panel.name), _size(panel.values[-1])
    of = f" of {_size(panel.max)}" if panel.max is not None else ""
    return (f'<figure><figcaption title="{name}">{name}<small>{now}{of}</small></figcaption>'
            f"{plot}</figure>")  # fmt: skip


def _kinds(shapes: Shapes) -> list[str]:
    there = {mark.kind for mark in shapes.timeline()[1]}
    return [kind for kind in KIND_COLOURS if kind in there]


def _flame(by: Any, figures: dict[str, Any]) -> str:
    sites = figures["sites"]
    made = flame.boxes(sites)
    if not made:
        return ""
    note = (f"Live bytes by group and call stack, an estimate from {sites['samples']:,} samples "
            f"({format_size(sites['nbytes'])}, give or take {format_size(2 * sites['deviation'])})."
            " A call is below the one that made it. Point at one to read it.")  # fmt: skip
    return _section("Which code allocated what lives", by.flame(made), note=note)


def _treemap(shapes: Shapes) -> str:
    tiles = shapes.tiles()
    if not tiles:
        return ""
    if shapes.figures["held"] is None:
        note = ("Groups by what they hold. What is in them is shown for a process that serves "
                "a socket (memcg run --control, memcg.serve()), and by memcg run --html."
                )  # fmt: skip
    else:
        note = "Groups, the types in them, and the biggest objects. Point at one to read it."
    inner = "".join(_tile(tile, 1, 1) for tile in tiles)
    treemap = f'<div class="treemap" data-plot="treemap">{inner}</div>'
    return _section("What holds memory now", treemap, note=note)


def _tile(tile: Tile, width: float, height: float) -> str:
    """Return a tile; `width` and `height` are those of what is around it, of the whole area."""
    place = (f"left:{100 * tile.x:.3f}%;top:{100 * tile.y:.3f}%;"
             f"width:{100 * tile.width:.3f}%;height:{100 * tile.height:.3f}%")  # fmt: skip
    width, height = width * tile.width, height * tile.height
    label = ""
    if width > TILE_LEAST and height > TILE_LEAST * 1.5:
        label = f"<span>{escape(tile.name)} <small>{format_size(tile.nbytes)}</small></span>"
    inner = ""
    if tile.inner and width > TILE_LEAST and height > 2 * TILE_LEAST:
        inner = f'<div class="in">{"".join(_tile(t, width, height) for t in tile.inner)}</div>'
    colour = f";background:{tile.colour}" if tile.kind == "group" else ""
    if tile.kind == "group" and is_light(tile.colour):
        colour += ";color:#10161d;text-shadow:none"
    return (f'<div class="tile {tile.kind}" style="{place}{colour}" title="{escape(tile.title)}">'
            f"{label}{inner}</div>")  # fmt: skip


def _caches(figures: dict[str, Any]) -> str:
    caches = figures["caches"]
    if not caches:
        return ""
    most = max(c["size"] for c in caches)
    rows = []
    for c in caches[:CACHES_SHOWN]:
        used = min(c["active_objs"] * c["objsize"], c["size"])
        bar = (f'<div class="bar" style="width:{100 * c["size"] / most:.1f}%">'
               f'<i style="width:{100 * used / c["size"]:.1f}%"></i></div>')  # fmt: skip
        rows.append([
            escape(c["name"]), escape(name_of(c["group"])), bar, f"{100 * used / c['size']:.0f} %",
            f"{c['active_objs']:,} / {c['num_objs']:,}", format_size(c["objsize"]),
            format_size(c["size"]),
        ])  # fmt: skip
    table = _table(
        ["cache", "group", "occupancy", "used", "objects", "of", "slabs"], rows, "<<<>>>>"
    )
    rest = caches[CACHES_SHOWN:]
    more = f"{len(rest)} more hold {format_size(sum(c['size'] for c in rest))}. " if rest else ""
    return _section("Slab caches", f'<div data-plot="caches">{table}</div>',
                    note=f"{more}The full part of a bar is in objects, the pale part is free in "
                    "their slabs.")  # fmt: skip


def _groups(shapes: Shapes) -> str:
    groups = shapes.figures["groups"]
    rows = []
    for g in groups[:GROUPS_SHOWN]:
        depth = g["path"].count("/") + 1 if g["path"] else 0
        name = g["path"].rpartition("/")[2] or "/"
        dying = " <small>dying</small>" if g["state"] == "dying" else ""
        events = ", ".join(f"{kind} {n}" for kind, n in g["events"].items() if n)
        bar = ""
        if g["max"]:
            share = min(100 * g["current"] / g["max"], 100)
            level = "full" if g["current"] >= g["max"] else (
                "high" if g["high"] is not None and g["current"] > g["high"] else "")  # fmt: skip
            bar = f'<div class="bar limit {level}"><i style="width:{share:.1f}%"></i></div>'
        colour = shapes.colour(g["path"]) if g["state"] == "online" else REST
        label = (f'<span style="padding-left:{1.1 * depth:.1f}em"><i class="chip" '
                 f'style="background:{colour}"></i>{escape(name)}{dying}</span>')  # fmt: skip
        rows.append([label, _size(g["current"]), _size(g["max"]) or "-", bar, _size(g["peak"]),
                     str(g["inside"]), events])  # fmt: skip
    table = _table(["group", "current", "max", "", "peak", "inside", "events"], rows, "<>><>>w")
    more = len(groups) - GROUPS_SHOWN
    note = f"{more} more are in the page's JSON." if more > 0 else ""
    if shapes.figures["left_out"]:
        note += f" {shapes.figures['left_out']} groups found no room on the page."
    return _section("Groups", table, note=note)


def _objects(figures: dict[str, Any]) -> str:
    found = [(big["nbytes"], path, big["text"]) for path, held in (figures["held"] or {}).items()
             for big in held["objects"]]  # fmt: skip
    if not found:
        return ""
    rows = [[format_size(n), escape(name_of(path)), f"<code>{escape(text)}</code>"]
            for n, path, text in sorted(found, reverse=True)[:OBJECTS_SHOWN]]  # fmt: skip
    table = _table(["size", "group", "object, and what refers to it"], rows, "><w")
    return _section("The biggest objects", table)


def _events(figures: dict[str, Any]) -> str:
    events = figures["events"][-EVENTS_SHOWN:]
    if not events:
        return ""
    rows = [
        [clock(e["time"]), f'<i class="dot" style="background:{KIND_COLOURS[e["kind"]]}"></i>'
         f"{e['kind']}", escape(name_of(e["group"])), _size(e["bytes"]), _size(e["usage"]),
         _size(e["max"]) if e["max"] < 2**63 - 1 else "-", str(e["total"])]
        for e in reversed(events)
    ]  # fmt: skip
    table = _table(["time", "event", "group", "asked", "usage", "max", "total"], rows, "<<<>>>>")
    return _section("The last events", f"<details><summary>{len(rows)} events</summary>{table}"
                    "</details>")  # fmt: skip


def _footer(figures: dict[str, Any], cure: str | None) -> str:
    said = f" For plots that can be zoomed: <code>{cure}</code>." if cure else ""
    dropped = figures["samples_dropped"]
    older = f" {dropped:,} older samples were overwritten." if dropped else ""
    return (f"<footer>memcg {escape(figures['memcg'])}. All figures are in this page as JSON, in "
            f"the element <code>memcg-figures</code>.{older}{said}</footer>\n")  # fmt: skip
