# SPDX-License-Identifier: Apache-2.0
"""Any text as one part of a group's path, and back.

Follows RFC 3986's percent-encoding, as ``systemd-escape`` follows its own: letters stay readable.
"""

from __future__ import annotations

NAME_MAX = 255  # characters of an escaped name, as of a directory's in the kernel
_EMPTY = "%"  # what is escaped has two digits after its "%"
_CUT = "%-"  # before the digest of a name that was too long
_DIGEST = 64


def escape(name: str) -> str:
    """Return `name` as one part of a path: two names never give the same part.

    ``/``, ``%``, blanks, a leading dot and what is not printable become ``%`` and the two digits of
    each byte of their UTF-8. Of what is longer than 255 characters then, the beginning stays, and
    a SHA-256 of the whole name follows.

    Parameters
    ----------
    name : str
        Of a tenant, say: any text, the empty one and lone surrogates included.

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
        `escape` returns no such part, or it had to cut the name.

    Examples
    --------
    >>> unescape("acme%2Feu%20west")
    'acme/eu west'
    """
    if _CUT in part:
        raise ValueError(f"name {part!r} was cut: its digest stands for what is gone")
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
