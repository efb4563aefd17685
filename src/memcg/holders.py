"""What still holds a group's memory: by cache, and by type of object where it can be known."""

from __future__ import annotations

import gc
from collections import Counter
from typing import NamedTuple

from . import core
from .cgroup import cgroup, subtree
from .sizes import format_size

_HEADERS = (0, 16, 32)  # bytes before an object: none, the collector's, and a dict's beside it
_WORD = 8


class Holder(NamedTuple):
    """Blocks of one kind in one cache."""

    cache: str
    kind: str | None  # type of the objects
    blocks: int
    nbytes: int


def _all_types() -> dict[int, type]:
    found: dict[int, type] = {id(object): object}
    waiting: list[type] = [object]
    cls: type
    while waiting:
        for cls in type.__subclasses__(waiting.pop()):
            if id(cls) not in found:
                found[id(cls)] = cls
                waiting.append(cls)
    return found


def holders(memcg: core.Memcg) -> list[Holder]:
    """Name what is charged to the group itself, biggest first.

    A block is known by the type its header points to; the memory behind lists, dicts and
    arrays has no header and is listed under its cache.
    """
    core.stop_account()
    try:
        types = _all_types()
        first = core.block_header()
        tracked = {id(o) for o in gc.get_objects()}
        counts: Counter[tuple[str, str | None]] = Counter()
        sizes: Counter[tuple[str, str | None]] = Counter()
        for address, size, cache in core.live_blocks(memcg):
            kind = _type_of(address + first, size - first, types, tracked)
            key = (cache.name if cache else "pages", kind)
            counts[key] += 1
            sizes[key] += size
    finally:
        core.resume_account()
    return [Holder(*key, counts[key], nbytes) for key, nbytes in sizes.most_common()]


def _type_of(address: int, size: int, types: dict[int, type], tracked: set[int]) -> str | None:
    for header in _HEADERS:
        if header + 2 * _WORD > size:
            return None
        cls = types.get(core.word_at(address + header + _WORD))
        if cls is not None and (header == 0 or address + header in tracked):
            return cls.__qualname__
    return None


def report(group: cgroup) -> str:
    """Account for a group in text. See `Group.report`."""
    lines = []
    for g in subtree(group):
        state = "" if g.online else " (closed)"
        events = ", ".join(f"{k} {v}" for k, v in g.events.items() if v)
        lines.append(
            f"{g.path or '/'}{state}: current {format_size(g.current)}, "
            f"peak {format_size(g.peak)}, max {format_size(g.get_limit('max'))}"
            + (f"; events: {events}" if events else "")
        )
    found = holders(group)
    lines.append(f"held by {group.path or '/'} itself:" if found else "nothing is held")
    for cache, kind, blocks, nbytes in found[:20]:
        lines.append(f"  {format_size(nbytes):>10}  {blocks:>7} x {kind or '(data)'} in {cache}")
    if len(found) > 20:
        rest = sum(h.nbytes for h in found[20:])
        lines.append(f"  {format_size(rest):>10}  in {len(found) - 20} more kinds")
    return "\n".join(lines) + "\n"
