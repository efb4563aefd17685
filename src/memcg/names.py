# SPDX-License-Identifier: Apache-2.0
"""`escape` makes any text one part of a group's path, and `unescape` takes it back.

The encoding is RFC 3986's percent-encoding. ``systemd-escape`` serves the same purpose with an
encoding of its own. Letters stay readable.
"""

from __future__ import annotations

NAME_MAX = 255  # characters of an escaped name; the kernel's bound for the name of a directory
_EMPTY = "%"  # it stands for the empty name: any other "%" is followed by two digits
_CUT = "%-"  # it precedes the digest of a name that was too long
_DIGEST = 64


def escape(name: str) -> str:
    """Return `name` as one part of a path. Two names never give the same part.

    ``/``, ``%``, blanks, a leading dot and characters that are not printable become ``%`` and two
    hexadecimal digits for each byte of their UTF-8. If the result is longer than 255 characters,
    only its beginning stays, and a SHA-256 of the whole name follows.

    Parameters
    ----------
    name : str
        Any text, for example a tenant's name. It may be empty or contain lone surrogates.

    Returns
    -------
    str
        1 to 255 printable characters without ``/``.

    Raises
    ------
    TypeError
        `name` is not a str.

    Examples
    --------
    >>> escape("acme/eu west"), escape(".."), escape(""), escape("naïve-7.2")
    ('acme%2Feu%20west', '%2E.', '%', 'naïve-7.2')
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if name.isprintable():  # the blank is the only space that is; most names are short enough
        part = name.replace("%", "%25").replace("/", "%2F").replace(" ", "%20")
        part = "%2E" + part[1:] if part.startswith(".") else part
        if len(part) <= NAME_MAX:
            return part or _EMPTY
    part = kept = ""
    for i, c in enumerate(name):
        part += _escaped(c) if _needs_it(c, i) else c
        if len(part) <= NAME_MAX - len(_CUT) - _DIGEST:
            kept = part
        elif len(part) > NAME_MAX:
            import hashlib

            return kept + _CUT + hashlib.sha256(_bytes(name)).hexdigest()
    return part or _EMPTY


def unescape(part: str) -> str:
    """Return the name that `escape` made `part` from.

    Raises
    ------
    ValueError
        `escape` returns no such part, or it cut the name, so that the name cannot be found again.

    Examples
    --------
    >>> unescape("acme%2Feu%20west")
    'acme/eu west'
    """
    if _CUT in part:
        raise ValueError(f"name {part!r} was cut: its digest replaces the end of the name")
    head, *coded = part.split("%")
    data = _bytes(head)
    try:
        for code in coded if part != _EMPTY else ():
            data += bytes.fromhex(code[:2]) + _bytes(code[2:])
        name = data.decode("utf-8", "surrogatepass")
    except ValueError:
        name = None
    if name is None or escape(name) != part:
        raise ValueError(f"name {part!r} is not an escaped one; memcg.escape() makes them")
    return name


def _needs_it(c: str, at: int) -> bool:
    return c in "/%" or c.isspace() or not c.isprintable() or (c == "." and at == 0)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _escaped(c: str) -> str:
    return "".join(f"%{byte:02X}" for byte in _bytes(c))
