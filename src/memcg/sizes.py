# SPDX-License-Identifier: Apache-2.0
"""Sizes that users write, such as ``256MiB``, ``1GB``, ``max`` and ``50%``."""

from __future__ import annotations

PAGE_COUNTER_MAX = 2**63 - 1  # in bytes; it stands for no limit

_UNITS = {
    "": 1, "b": 1,
    "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_KINDS = (int, str)
_read: dict[str, int] = {}  # texts that were read, which a program repeats; at most `_NR_READ`
_NR_READ = 64
_LETTERS = "%ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def parse_size(
    size: int | str | None, *, of: int | None = None, bare_is_binary: bool = False
) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    size : int, str or None
        A number of bytes, or a number with ``KiB MiB GiB TiB`` (``Ki Mi Gi Ti``; binary) or
        ``KB MB GB TB`` (decimal). ``"max"`` and None stand for no limit, ``"50%"`` for a share of
        `of`.
    of : int, optional
        The parent's limit in bytes.
    bare_is_binary : bool
        Read ``512M`` as the kernel's ``memparse`` does in a cgroup file. If it is false, such a
        size is refused.

    Raises
    ------
    ValueError
        `size` is not a size, is negative or ambiguous, or is a share of a parent without a limit.
    TypeError
        `size` is neither an int, a str nor None.

    Examples
    --------
    >>> parse_size("256MiB"), parse_size("1 kB"), parse_size(4096)
    (268435456, 1000, 4096)
    >>> parse_size("512M")
    Traceback (most recent call last):
    ValueError: size '512M' is ambiguous: write 512MiB (binary) or 512MB (decimal)
    """
    if type(size) is int and 0 <= size <= PAGE_COUNTER_MAX:
        return size
    if type(size) is str and size in _read:
        return _read[size]
    if size is None or size == "max":
        return PAGE_COUNTER_MAX
    if isinstance(size, bool) or not isinstance(size, _KINDS):
        raise TypeError(f"size must be an int, a str or None, not {type(size).__name__}")
    if isinstance(size, int):
        if size < 0:
            raise ValueError(f"size {size} is negative; bytes start at 0")
        return min(size, PAGE_COUNTER_MAX)
    text = size.strip()
    number = text.rstrip(_LETTERS)
    unit = text[len(number) :].lower()
    number = number.rstrip()
    whole, point, fraction = number.partition(".")
    if not whole.isdecimal() or (point and not fraction.isdecimal()):
        unit = "?"
    if unit in ("k", "m", "g", "t"):
        if not bare_is_binary:
            u = unit.upper()
            raise ValueError(
                f"size {size!r} is ambiguous: write {number}{u}iB (binary) or "
                f"{number}{u}B (decimal)"
            )
        unit += "i"
    if unit == "%":
        if of is None or of >= PAGE_COUNTER_MAX:
            raise ValueError(f"size {size!r}: the parent has no limit; give bytes, as in '256MiB'")
        return int(float(number) * of / 100)
    if unit not in _UNITS:
        raise ValueError(
            f"size {size!r} is not a size: write bytes, '256MiB', '1GB', 'max' or '50%'"
        )
    n = min(
        int(float(number) * _UNITS[unit]) if point else int(number) * _UNITS[unit],
        PAGE_COUNTER_MAX,
    )
    if type(size) is str and not bare_is_binary and len(_read) < _NR_READ:
        _read[size] = n
    return n


def format_size(n: int) -> str:
    """Return a number of bytes as a text for people.

    >>> format_size(8 << 20), format_size(100), format_size(2**63 - 1)
    ('8.0 MiB', '100 B', 'max')
    """
    if n >= PAGE_COUNTER_MAX:
        return "max"
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{n} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
