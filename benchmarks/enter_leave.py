# SPDX-License-Identifier: Apache-2.0
"""What does entering and leaving a group cost beside setting and resetting a ContextVar?

Ten pairs are written out in each turn of the loop, so that the loop itself does not count.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import harness

TURNS = 10_000

TEMPLATE = """
def loop(n):
    for _ in range(n):
{body}
    return n
"""


def written_out(statement: str, **names: object) -> Callable[[], int]:
    line = "\n".join("        " + part for part in statement.split("\n"))
    scope: dict[str, Any] = dict(names)
    exec(TEMPLATE.format(body="\n".join([line] * 10)), scope)
    return lambda: scope["loop"](TURNS)  # type: ignore[no-any-return]


def works(contender: str) -> dict[str, Callable[[], int]]:
    if contender == "empty with":  # a lock is the cheapest `with` in C that there is
        import threading

        lock = threading.Lock()
        pair = alternating = written_out("with lock:\n    pass", lock=lock)
    elif contender == "ContextVar":
        var = contextvars.ContextVar("var", default=None)
        a, b = object(), object()
        for i in range(8):  # a program has other variables too
            contextvars.ContextVar(f"other{i}").set(i)  # type: ignore[arg-type]
        pair = written_out("t = var.set(a)\nvar.reset(t)", var=var, a=a)
        alternating = written_out(
            "t = var.set(a)\nvar.reset(t)\nt = var.set(b)\nvar.reset(t)", var=var, a=a, b=b
        )
    else:
        import memcg

        for i in range(8):
            contextvars.ContextVar(f"other{i}").set(i)  # type: ignore[arg-type]
        g, h = memcg.group("bench/a", max="1GiB"), memcg.group("bench/b", max="1GiB")
        pair = written_out("with g:\n    pass", g=g)
        alternating = written_out("with g:\n    pass\nwith h:\n    pass", g=g, h=h)
    return {"one group": pair, "two groups in turn": alternating}


def run(quick: bool) -> list[harness.Row]:
    contenders = [
        harness.python(harness.OURS, "enter_leave"),
        harness.python("ContextVar", "enter_leave"),
        harness.python("ContextVar", "enter_leave", world="memcg"),
        harness.python("empty with", "enter_leave"),
    ]
    contenders[2].name = "ContextVar, hooks in"
    times = harness.alternate(contenders, works("ContextVar"), 9 if quick else 45)
    times["two groups in turn"].pop("empty with")
    return harness.rows(times, {"ContextVar": 0.8})
