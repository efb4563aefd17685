# SPDX-License-Identifier: Apache-2.0
"""Completion in real shells: what TAB makes of a line."""

from __future__ import annotations

import shutil
import sys

import pytest

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
READY = {
    "bash": 'eval "$(memcg completion bash)"',
    "zsh": 'autoload -Uz compinit && compinit -u && eval "$(memcg completion zsh)"',
}


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_a_verb_a_path_and_a_file(start, terminal, tmp_path, shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    process = start("memcg.publish()")
    command = tmp_path / "bin" / "memcg"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m memcg "$@"\n')
    command.chmod(0o755)
    env = {
        **process.env, "PATH": f"{command.parent}:{process.env['PATH']}", "PS1": "$ ",
        "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path),
    }  # fmt: skip
    line = terminal(env, *SHELLS[shell])
    line.wait_for(r"\$")
    line.press(f"{READY[shell]} && clear && echo it is $((1+1))", "Enter")
    line.wait_for("it is 2")
    line.press("memcg sla", "Tab")
    line.wait_for(r"memcg slabinfo")
    line.press("C-u", "memcg cat tenants/t", "Tab", "Tab")
    shown = line.wait_for(r"tenants/t2")
    assert "tenants/t0" in shown
    assert "tenants/t1" in shown
    line.press("C-u", "memcg cat tenants/t1 memory.pea", "Tab", "Enter")
    line.wait_for(r"memcg cat tenants/t1 memory\.peak *\n\d+")
