# SPDX-License-Identifier: Apache-2.0
"""Which code has allocated what lives in a group: samples, added up by group and call stack.

`memcg.trace` has blocks sampled (native/sampling.c). A block of ``s`` bytes is sampled with the
probability ``p = 1 - exp(-s / every)`` and stands for ``s / p`` bytes and ``1 / p`` blocks. So a
sum over samples is an unbiased estimate (Horvitz and Thompson, JASA 47, 1952; Go's runtime scales
its heap profile so, ``scaleHeapSample`` in runtime/pprof).
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

from . import core
from .sizes import format_size

_LAUNCHER = os.path.join(os.path.dirname(__file__), "cli", "_execute.py")
SITES_SHOWN = 10  # in a report
FRAMES_SHOWN = 3  # of each
SITES_MOST = 2000  # in JSON; the rest is one number


class Frame(NamedTuple):
    """A function on a stack, and its line that called the next one, or that allocated."""

    file: str
    function: str
    line: int
    first_line: int  # of the function; 0: not known, as in C


class Site(NamedTuple):
    """What one call stack has allocated for one group, and what lives of it. It is an estimate."""

    group: str  # its path
    stack: tuple[Frame, ...]  # the innermost is last
    nbytes: int
    blocks: int
    samples: int


class Sites(NamedTuple):
    """What lives in a group and below it, by call stack. The biggest is first."""

    every: int  # bytes from sample to sample; 0: the group was not traced
    samples: int
    missed: int  # samples that found no room; the estimate is too low if there are some
    nbytes: int
    deviation: int  # the standard deviation of `nbytes`
    sites: list[Site]

    def as_dict(self, most: int = SITES_MOST) -> dict[str, Any]:
        """Return it for JSON. A stack is a list of indices into ``frames``."""
        frames: dict[Frame, int] = {}
        listed = [
            [s.group, [frames.setdefault(f, len(frames)) for f in s.stack], s.nbytes, s.blocks,
             s.samples] for s in self.sites[:most]
        ]  # fmt: skip
        return {
            "every": self.every, "samples": self.samples, "missed": self.missed,
            "nbytes": self.nbytes, "deviation": self.deviation,
            "rest": sum(s.nbytes for s in self.sites[most:]),
            "frames": [list(f) for f in frames], "sites": listed,
        }  # fmt: skip


def from_dict(found: dict[str, Any]) -> Sites:
    """Return what `Sites.as_dict` made JSON of, without what it left out."""
    frames = [Frame(*f) for f in found["frames"]]
    sites = [
        Site(group, tuple(frames[i] for i in stack), nbytes, blocks, samples)
        for group, stack, nbytes, blocks, samples in found["sites"]
    ]
    return Sites(
        found["every"], found["samples"], found["missed"], found["nbytes"], found["deviation"],
        sites,
    )  # fmt: skip


def read(memcg: core.Memcg) -> Sites:
    """Add up the samples of a group and of those below it.

    Notes
    -----
    Context: it takes no control-plane lock. Threads whose requests are sampled wait while the
    samples are copied.
    """
    core.stop_account()
    try:
        samples, missed = core.mem_cgroup_samples(memcg)
        stacks: dict[int, tuple[Frame, ...]] = {0: ()}
        sums: dict[tuple[str, tuple[Frame, ...]], list[float]] = {}
        variance = 0.0
        for owner, nbytes, reach, every, stack in samples:
            p = -math.expm1(-reach / every)
            found = sums.setdefault((owner.path, _stack(stack, stacks)), [0.0, 0.0, 0])
            found[0] += nbytes / p
            found[1] += 1 / p
            found[2] += 1
            variance += nbytes * nbytes * (1 - p) / (p * p)
        sites = [
            Site(path, stack, round(n), round(blocks), int(count))
            for (path, stack), (n, blocks, count) in sums.items()
        ]
        sites.sort(key=lambda s: (-s.nbytes, s.group, s.stack))
        return Sites(
            core.mem_cgroup_sampling(memcg) or max((s[3] for s in samples), default=0),
            len(samples), missed, sum(s.nbytes for s in sites), round(math.sqrt(variance)), sites,
        )  # fmt: skip
    finally:
        core.resume_account()


def _stack(stack: int, known: dict[int, tuple[Frame, ...]]) -> tuple[Frame, ...]:
    inner = []
    while stack not in known:
        found = core.stack_frame(stack)
        if found is None:
            break
        inner.append((stack, Frame(*found[1:])))
        stack = found[0]
    frames = known.get(stack, ())
    for stack, frame in reversed(inner):
        # what has called the program under ``memcg run`` is none of its code
        frames = () if frame.file == _LAUNCHER else (*frames, frame)
        known[stack] = frames
    return frames


def lines(found: Sites) -> list[str]:
    """Return the part of a report that says which code allocated what lives."""
    if not found.every:
        return []
    if not found.samples:
        return [f"traced, one sample in {format_size(found.every)}: no sampled block lives"]
    shown = found.sites[:SITES_SHOWN]
    text = [
        f"allocated by (an estimate from {found.samples:,} samples, one in "
        f"{format_size(found.every)}; in all {format_size(found.nbytes)}, give or take "
        f"{format_size(2 * found.deviation)}):"
    ]
    for site in shown:
        text.append(f"  {format_size(site.nbytes):>10}  {site.group or '/'}: {where(site)}")
    if rest := found.sites[SITES_SHOWN:]:
        nbytes = sum(s.nbytes for s in rest)
        text.append(f"  {format_size(nbytes):>10}  by {len(rest)} more stacks")
    if found.missed:
        text.append(f"  {found.missed:,} samples found no room: trace with a larger `every`")
    return text


def where(site: Site) -> str:
    """Return the innermost frames of a stack in one line."""
    inner = site.stack[: -FRAMES_SHOWN - 1 : -1]
    text = " < ".join(frame_text(f) for f in inner)
    return text + " < ..." * (len(site.stack) > FRAMES_SHOWN)


def frame_text(frame: Frame) -> str:
    """Return a frame as text: the function, and the last part of its file with the line."""
    if not frame.file:
        return frame.function
    place = frame.file.rpartition("/")[2] or frame.file
    return f"{frame.function} ({place}{f':{frame.line}' if frame.line else ''})"
