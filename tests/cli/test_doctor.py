# SPDX-License-Identifier: Apache-2.0
"""`memcg doctor` says what is true, and its status shows whether memcg can run."""

from __future__ import annotations

import re
import sys

import pytest

import memcg
from memcg.cli import _system, doctor


class Works(_system.System):
    def install(self):
        pass


class Refuses(_system.System):
    def install(self):
        raise memcg.MemcgError("free-threaded build: no hooks")


def findings(system):
    lines = []
    status = doctor.examine(system, lambda name, text: lines.append((name, text)))
    return status, lines


def test_the_status_is_0_with_a_verdict_where_install_works():
    status, lines = findings(Works())
    assert (status, lines[-1]) == (0, ("verdict", "memcg can run here"))


def test_the_status_is_1_with_the_reason_where_install_is_refused():
    status, lines = findings(Refuses())
    assert status == 1
    assert ("install", "refused: free-threaded build: no hooks") in lines
    assert lines[-1] == ("verdict", "memcg cannot run here")


def test_the_command_agrees_with_what_install_does(cli):
    shown = cli.memcg("doctor")
    assert shown.err == ""
    works = "install:      works" in shown.out
    assert shown.status == (0 if works else 1)
    assert sys.executable in shown.out


def test_every_finding_is_one_line():
    _, lines = findings(Works())
    assert all("\n" not in text and text for _, text in lines)


def test_the_arena_shrinks_under_a_limit_on_address_space(cli):
    ask = "from memcg.cli import doctor; print(doctor.arena())"
    lower = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8_000_000 * 1024, -1))\n"
        f"os.execv(sys.executable, [sys.executable, '-c', {ask!r}])\n"
    )
    free, limited = cli.python("-c", ask).out, cli.python("-c", lower).out
    # The arena is halved from 64 GiB until it fits. A little of it may be in use already.
    assert re.match(r"(64\.0|63\.\d) GiB .*\(no ulimit -v\)\n", free)
    assert re.match(r"(4\.0|3\.9) GiB .*\(ulimit -v 8000000\)\n", limited)


@pytest.mark.parametrize(
    ("flags", "env", "said"),
    [
        (("-X", "tracemalloc"), {}, "tracemalloc is tracing"),
        ((), {"PYTHONMALLOC": "debug"}, "PYTHONMALLOC=debug"),
        (("-X", "dev"), {}, "-X dev"),
        ((), {}, "none known"),
    ],
)
def test_other_hooks_are_named(cli, flags, env, said):
    cli.env |= env
    code = "from memcg.cli import doctor; print(*doctor.other_hooks())"
    assert said in cli.python("-c", code, flags=flags).out
