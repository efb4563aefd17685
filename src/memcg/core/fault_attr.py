# SPDX-License-Identifier: Apache-2.0
"""Which requests fail on purpose, as `MEMCG_FAIL` and `faults.inject` say.

Kernel: lib/fault-inject.c (``struct fault_attr``, ``setup_fault_attr``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..sizes import parse_size

POINTS = ("alloc", "metadata", "pages", "mmap", "madvise", "thread")
ALLOWED = (
    "nth=N or probability=P (0 to 1) with seed=S, times=K, "
    f"what={'|'.join(POINTS)} (several: alloc+pages), size=MIN-MAX or size=N, "
    "cache=NAME and group=/path (with what=alloc)"
)


class FaultAttr(NamedTuple):
    """Which requests fail. Kernel: ``struct fault_attr``.

    Attributes
    ----------
    what : tuple of str
        The kinds of requests, from `POINTS`.
    nth : int
        The number of the first eligible request that fails, from 1; 0 if `probability` decides.
    probability : float
        The probability, 0 to 1, that an eligible request fails.
    seed : int or None
        The seed of the random choice; None if memcg picks one.
    times : int or None
        The largest number of faults; None if there is no bound.
    size : tuple of int, or None
        The smallest and the largest eligible request, in bytes.
    cache : str or None
        Only objects of this root cache and its children are eligible.
    group : str or None
        Only requests in the group of this path and below are eligible; ``""`` is the root.
    """

    what: tuple[str, ...] = ("alloc",)
    nth: int = 0
    probability: float = 0.0
    seed: int | None = None
    times: int | None = None
    size: tuple[int, int] | None = None
    cache: str | None = None
    group: str | None = None


def _whole(key: str, value: object, least: int) -> int:
    try:
        n = int(value)  # type: ignore[call-overload]
        if n == float(value) and least <= n < 1 << 63:  # type: ignore[arg-type]
            return int(n)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{key} must be a whole number that is at least {least}, not {value!r}")


def _bytes(text: object) -> int:
    return parse_size(int(text) if isinstance(text, str) and text.isdecimal() else text)  # type: ignore[arg-type]


def _size(value: object) -> tuple[int, int]:
    ends = list(value) if isinstance(value, tuple | list) else str(value).split("-")
    try:
        low, high = (_bytes(end) for end in (ends if len(ends) == 2 else ends * 2))
    except (TypeError, ValueError):
        low, high = 1, 0
    if low > high or len(ends) > 2:
        raise ValueError(f"size must be N or MIN-MAX bytes, not {value!r}")
    return low, high


def _what(value: str | Iterable[str]) -> tuple[str, ...]:
    points = tuple(value.split("+") if isinstance(value, str) else value)
    for point in points or ("",):
        if point not in POINTS:
            raise ValueError(f"what must be one of {', '.join(POINTS)}, not {point!r}")
    return points


def make(**keys: Any) -> FaultAttr:
    """Check the values and fill in the defaults. None stands for a value that is not given.

    Raises
    ------
    ValueError
        A value is not allowed; the text says which are.

    Examples
    --------
    >>> make(nth="3", size="4096-8192").size
    (4096, 8192)
    """
    given = {key: value for key, value in keys.items() if value is not None}
    for key in given.keys() - set(FaultAttr._fields):
        raise ValueError(f"there is no key {key!r}; there are {', '.join(FaultAttr._fields)}")
    if "nth" in given and "probability" in given:
        raise ValueError("nth and probability exclude each other")
    if "seed" in given and "probability" not in given:
        raise ValueError("seed has no effect without probability; give both or neither")
    attr = FaultAttr()
    if "what" in given:
        attr = attr._replace(what=_what(given["what"]))
    if "nth" in given:
        attr = attr._replace(nth=_whole("nth", given["nth"], 1), times=1)
    if "probability" in given:
        try:
            probability = float(given["probability"])
        except (TypeError, ValueError):
            probability = -1.0
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, not {given['probability']!r}")
        attr = attr._replace(probability=probability)
    if "seed" in given:
        attr = attr._replace(seed=_whole("seed", given["seed"], 0))
    if "times" in given:
        attr = attr._replace(times=_whole("times", given["times"], 1))
    if "size" in given:
        attr = attr._replace(size=_size(given["size"]))
    for key in ("cache", "group"):
        if key in given and attr.what != ("alloc",):
            raise ValueError(f"{key} is for what=alloc, not for what={'+'.join(attr.what)}")
    if "cache" in given:
        attr = attr._replace(cache=str(given["cache"]))
    if "group" in given:
        attr = attr._replace(group=str(given["group"]).strip("/"))
    return attr


def parse(text: str) -> FaultAttr:
    """Read ``key=value,...``.

    Raises
    ------
    ValueError
        A key or value is not allowed. The text says what is wrong and what is allowed.

    Examples
    --------
    >>> parse("nth=3,cache=kmalloc-2048").nth
    3
    """
    keys: dict[str, str] = {}
    try:
        for part in text.split(","):
            key, equals, value = (word.strip() for word in part.partition("="))
            if not equals or not value:
                raise ValueError(f"{part!r} is not key=value")
            if key in keys:
                raise ValueError(f"{key} is given twice")
            keys[key] = value
        attr = make(**keys)
        if not attr.nth and "probability" not in keys:
            raise ValueError("nth or probability is missing")
    except ValueError as error:
        raise ValueError(f"MEMCG_FAIL={text!r}: {error}; allowed are {ALLOWED}") from None
    return attr


def with_seed(attr: FaultAttr) -> FaultAttr:
    """Return `attr` with a seed; one is picked at random if there is none."""
    if attr.seed is not None:
        return attr
    return attr._replace(seed=int.from_bytes(os.urandom(4), "little"))


def from_environment() -> FaultAttr | None:
    """Return what `MEMCG_FAIL` asks for. An error, or a seed that was picked, is printed to stderr.

    Raises
    ------
    ValueError
        See `parse`.
    """
    text = os.environ.get("MEMCG_FAIL")
    if not text:
        return None
    try:
        attr = parse(text)
    except ValueError as error:
        sys.stderr.write(f"memcg: {error}\n")
        raise
    if attr.probability and attr.seed is None:
        attr = with_seed(attr)
        sys.stderr.write(f"memcg: MEMCG_FAIL={text},seed={attr.seed} repeats these faults\n")
    return with_seed(attr)
