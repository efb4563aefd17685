# SPDX-License-Identifier: Apache-2.0
"""The page's style, light and dark as the reader's system asks for."""

STYLE = """
:root { --bg: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d8dee4; --panel: #f6f8fa;
  --limit: #b3261e; --fill: #4477aa; --pale: #c8d7e6; --warn: #d08700; }
@media (prefers-color-scheme: dark) { :root { --bg: #0d1117; --text: #e6edf3; --soft: #9aa4af;
  --line: #30363d; --panel: #161b22; --limit: #ff7b72; --fill: #6ea8dc; --pale: #2a3d52;
  --warn: #e3a93b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text);
  font: 14px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 24px; }
h1 { font-size: 22px; margin: 0; overflow-wrap: anywhere; font-weight: 600; }
h2 { font-size: 16px; margin: 0 0 4px; font-weight: 600; }
section { margin: 32px 0; }
code { font: 12px/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; overflow-wrap: anywhere; }
.note, footer, small { color: var(--soft); }
.note { margin: 2px 0 10px; font-size: 13px; }
footer { border-top: 1px solid var(--line); padding-top: 12px; font-size: 12px; }
.cards { display: grid; grid-template-columns: repeat(6, 1fr); gap: 10px;
  margin-top: 16px; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; display: flex; flex-direction: column; }
.card span, .card small { font-size: 12px; color: var(--soft); }
.card b { font-size: 20px; font-weight: 600; white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 8px; font-size: 13px; }
.legend span { overflow-wrap: anywhere; }
.legend i, .chip { display: inline-block; width: 10px; height: 10px; border-radius: 2px;
  margin-right: 6px; }
.dot, .legend i.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%;
  margin-right: 6px; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 16px; }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; justify-content: space-between; gap: 8px; font-size: 13px;
  font-weight: 600; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
figcaption small { font-weight: 400; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line); }
th, td { padding: 4px 14px 4px 0; white-space: nowrap; vertical-align: top; }
td { border-bottom: 1px solid var(--line); }
td code { white-space: normal; }
td.w { white-space: normal; min-width: 160px; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { height: 10px; margin-top: 4px; min-width: 3px; background: var(--pale); border-radius: 2px;
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--fill); }
td:has(> .bar) { width: 34%; min-width: 120px; }
td:has(> .bar.limit) { width: 16%; min-width: 80px; }
.bar.high i { background: var(--warn); } .bar.full i { background: var(--limit); }
summary { cursor: pointer; color: var(--soft); margin: 4px 0; }
.treemap { position: relative; height: min(60vw, 560px); min-height: 300px; }
.tile { position: absolute; overflow: hidden; border: 1px solid var(--bg); }
.tile.group { color: #fff; text-shadow: 0 0 3px rgb(0 0 0 / 55%); }
.tile > span { position: absolute; inset: 2px 5px auto; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; font-size: 12px; line-height: 16px; }
.tile small { color: inherit; opacity: 0.85; }
.tile.group > span { font-weight: 600; }
.tile > .in { position: absolute; inset: 20px 2px 2px; }
.tile.type { background: rgb(0 0 0 / 9%); border-color: rgb(255 255 255 / 35%); }
.tile.object { background: rgb(0 0 0 / 12%); border-color: rgb(255 255 255 / 25%); }
.tile.type > span, .tile.object > span { font-size: 11px; }
.tile:hover { filter: brightness(1.08); }
.plot { position: relative; height: 300px; padding: 6px 24px 22px 64px; }
.plot.panel { height: 150px; }
.plot .area { position: relative; height: 100%; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot .grid { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.plot .highest { fill: none; stroke: #8b949e; stroke-width: 1; vector-effect: non-scaling-stroke; }
.plot .limit { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 6 4;
  vector-effect: non-scaling-stroke; }
.plot .y { position: absolute; left: -64px; width: 56px; text-align: right; font-size: 12px;
  color: var(--soft); transform: translateY(-50%); }
.plot .x { top: calc(100% + 4px); }
.x { position: absolute; transform: translateX(-50%); font-size: 12px; color: var(--soft); }
.x.first { transform: none; } .x.last { transform: translateX(-100%); }
.dots { position: absolute; inset: 0; pointer-events: none; }
.dots i { position: absolute; top: 4px; width: 8px; height: 8px; margin-left: -4px;
  border-radius: 50%; border: 1px solid var(--bg); pointer-events: auto; }
.flame { position: relative; overflow: hidden; }
.flame > div { position: absolute; height: 19px; padding: 0 4px; overflow: hidden; color: #1f2328;
  font-size: 12px; line-height: 19px; white-space: nowrap; text-overflow: ellipsis;
  border-right: 1px solid var(--bg); border-radius: 2px; }
.flame > div:hover { filter: brightness(1.12); }
.timeline .row { display: grid; grid-template-columns: minmax(60px, min(180px, 30%)) 1fr; gap: 12px;
  align-items: center; height: 26px; }
.timeline .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: right;
  font-size: 12px; color: var(--soft); }
.timeline .dots { position: relative; height: 100%; border-bottom: 1px solid var(--line); }
.timeline .dots i { top: 9px; }
.timeline .dots.axis { border: 0; }
@media (max-width: 900px) { .cards { grid-template-columns: repeat(3, 1fr); } }
@media (max-width: 600px) { main { padding: 14px; } .plot { padding-right: 8px; }
  .timeline .x:not(.first, .last) { display: none; } }
@media (max-width: 460px) { .cards { grid-template-columns: repeat(2, 1fr); } }
"""
