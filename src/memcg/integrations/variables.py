# SPDX-License-Identifier: Apache-2.0
"""The variables of a notebook that hold the most memory, by name.

A size is an estimate: of a container with many items a sample is measured. No code of the program
runs, as in `report`.
"""

from __future__ import annotations

import gc
import sys
from itertools import islice
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import MemcgOOM
from ..report import describe
from ..sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

SAMPLE = 256  # items of a container, evenly spread
BUDGET = 20_000  # objects that are looked at for one variable
_HEAPTYPE = 1 << 9  # in tp_flags: a class written in Python, whose __sizeof__ may be too
_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, FrameType)


def biggest(names: Iterable[tuple[str, object]], most: int = 5) -> list[str]:
    """Return a line for each of the variables that hold the most, the biggest first.

    What two variables hold is counted for the first of them.

    Parameters
    ----------
    names : iterable of (str, object)
        The variables.
    most : int
        How many lines to return. Variables below 4 KiB have none.
    """
    seen: set[int] = set()
    found = [(_size(o, seen), name, o) for name, o in names]
    found.sort(key=lambda one: -one[0])
    return [
        f"{format_size(size):>10}  {name}: {describe(o)}"
        for size, name, o in found[:most]
        if size >= 4096
    ]


def explained(
    oom: MemcgOOM,
    traceback: TracebackType | None,
    names: dict[str, Any],
    variables: Iterable[tuple[str, object]],
) -> MemcgOOM:
    """Return an error whose text is the account, and the variables that hold the most.

    `names` are the cell's own variables. Those of the functions in the traceback are looked at too.
    """
    lines = biggest((*in_traceback(traceback, names), *variables))
    return MemcgOOM("\n".join([str(oom), *(["The biggest variables:"] if lines else []), *lines]))


def in_traceback(
    traceback: TracebackType | None, names: dict[str, Any]
) -> Iterator[tuple[str, object]]:
    """Yield the local variables of a traceback's functions that were called by a cell.

    `names` are the cell's own variables, which are left out.
    """
    below = False
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals is names and frame.f_code.co_name == "<module>":
            below = True
        elif below:
            for name, o in list(frame.f_locals.items()):
                yield f"{name} of {frame.f_code.co_qualname}()", o
        traceback = traceback.tb_next


def _size(o: object, seen: set[int]) -> int:
    """Estimate the bytes of an object and of what only it leads to."""
    total = 0.0
    waiting: list[tuple[object, float]] = [(o, 1.0)]
    for _ in range(BUDGET):
        if not waiting:
            break
        o, weight = waiting.pop()
        if id(o) in seen or isinstance(o, _SHARED):
            continue
        seen.add(id(o))
        flags = type.__dict__["__flags__"].__get__(type(o))
        total += weight * (object.__sizeof__(o) if flags & _HEAPTYPE else sys.getsizeof(o, 0))
        items, of = _items(o)
        if items:
            waiting += [(item, weight * of / len(items)) for item in items]
    return int(total)


def _items(o: Any) -> tuple[list[object], int]:
    """Return a sample of what an object refers to, and how many there are."""
    cls = type(o)
    try:
        if cls in (list, tuple, set, frozenset):
            n = len(o)
            return list(islice(o, 0, None, max(n // SAMPLE, 1))), n
        if cls is dict:
            n = len(o)
            pairs = islice(o.items(), 0, None, max(n // SAMPLE, 1))
            return [part for pair in pairs for part in pair], 2 * n
    except RuntimeError:  # another thread changed it meanwhile
        return [], 0
    items = gc.get_referents(o)
    return items[:: max(len(items) // SAMPLE, 1)], len(items)
