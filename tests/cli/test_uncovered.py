# SPDX-License-Identifier: Apache-2.0
"""The account and the doctor say what is charged, and which libraries have another malloc."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from environment import environment


@pytest.fixture
def library(tmp_path):
    """Return a library that has a jemalloc in it, as far as its names tell."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "own.c"
    source.write_text("void *my_je_malloc(unsigned long n) { return n ? &my_je_malloc : 0; }")
    file = tmp_path / "own.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", source, "-o", file], check=True)
    return file


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memcg", *map(str, args)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [((), "memcg does not know the library"), (("--no-malloc",), "malloc is not charged either")],
)
def test_the_account_names_a_library_with_an_allocator_of_its_own(
    native, library, tmp_path, options, why
):
    account = tmp_path / "account"
    code = f"import ctypes; ctypes.CDLL({str(library)!r})"
    done = run("run", "--report", "--json", account, *options, "-c", code)
    assert f"not charged: {library} has its own jemalloc; {why}" in done.stderr.splitlines()
    assert json.loads(account.read_text())["uncovered"] == [
        {"path": str(library), "allocator": "jemalloc", "why": why}
    ]


def test_a_program_without_such_a_library_names_none(native):
    assert "not charged" not in run("run", "--report", "-c", "pass").stderr


def test_the_doctor_says_whether_malloc_is_charged(native):
    said = dict(line.split(":", 1) for line in run("doctor").stdout.splitlines())
    assert said["malloc"].strip() == "charged under memcg run, not in this process"
    assert said["allocators"].strip() == "no loaded library brings one along that is not charged"
    under = run("run", "-m", "memcg", "doctor").stdout
    assert "charged: libmemcg_malloc serves C, C++ and Rust in this process" in under
