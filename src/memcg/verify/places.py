# SPDX-License-Identifier: Apache-2.0
"""The place in the explored program at which an operation is done."""

from __future__ import annotations

import contextlib
import queue
import sys
from types import FrameType

# Files that the explored program stands on and that are not explored themselves. No interrupt is
# raised there, and a place in one is shown with its caller. The loader of such a file adds it.
beneath: set[str] = set()
_HERE = __file__.rsplit("/", 1)[0]
EXPLORER = (_HERE, f"{_HERE}/std")  # folders whose files are the explorer's own
_PASSED_OVER = (contextlib.__file__, queue.__file__)


def where() -> str:
    """Return the place in the program that called us, as ``file:line``.

    If that file is in `beneath`, the place of its caller is there too.
    """
    frame: FrameType | None = sys._getframe(1)
    places: list[str] = []
    while frame is not None:
        name = frame.f_code.co_filename
        folder, _, short = name.rpartition("/")
        if folder not in EXPLORER and name not in _PASSED_OVER:
            places.append(f"{short}:{frame.f_lineno}")
            if name not in beneath:
                break
        frame = frame.f_back
    return " > ".join([places[-1], places[0]] if len(places) > 1 else places)


def is_beneath() -> bool:
    """Tell whether the caller was called from a file in `beneath`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename in beneath:
            return True
        frame = frame.f_back
    return False
