# SPDX-License-Identifier: Apache-2.0
"""`pip install .`, users' type checkers and the code of the README work as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from environment import SOURCE, environment

import memcg
from memcg import core

PROJECT = Path(__file__).parents[2]


def run(*command: object, **more: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], text=True, capture_output=True, check=False, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def parts_of_python(package: Path) -> set[Path]:
    suffixes = {".py", ".pyi", ".typed"}
    return {file.relative_to(package) for file in package.rglob("*") if file.suffix in suffixes}


def test_without_a_compiler_the_whole_package_is_installed_on_the_model_core(tmp_path):
    pytest.importorskip("mesonbuild")
    env = environment(CC="/bin/false") | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }
    meson = ("-m", "mesonbuild.mesonmain")
    build, root = tmp_path / "build", tmp_path / "root"
    run(*meson, "setup", build, PROJECT, env=env)
    run(*meson, "install", "-C", build, "--destdir", root, "--no-rebuild", env=env)
    (package,) = root.rglob("memcg")
    assert parts_of_python(package) == parts_of_python(SOURCE / "memcg")
    assert not list(package.rglob("*.so"))
    code = """if True:
        import memcg
        print(memcg.core.name)
        with memcg.KmemCache("x", 100) as cache, memcg.group("a", max="1MiB") as g:
            buffer = cache.alloc()
            assert g.current > 0
            cache.free(buffer)
        try: memcg.install()
        except memcg.MemcgError as error: print(error)
    """
    shown = run("-c", code, env=env | {"PYTHONPATH": str(package.parent)}).splitlines()
    assert shown[0] == "model"
    assert shown[1].startswith("memcg.install() cannot work here: ")
    if core.name == "native":
        assert "without a C compiler" in shown[1]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("platform", "darwin", "not on darwin"),
        ("version", "3.13.0 experimental free-threading build (main)", "free-threading build"),
        ("version", "3.14.7 free-threading build (main)", "finds objects in the heaps of mimalloc"),
        ("version_info", (3, 16, 0), "a GIL, not on 3.16.0; install a newer memcg"),
        ("platform", "linux", "without a C compiler"),
    ],
)
def test_why_there_is_no_native_core_is_said_plainly(monkeypatch, name, value, said):
    monkeypatch.setattr(sys, name, value)
    assert said in core._why_not_built()


def test_a_users_program_passes_a_strict_type_checker(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed for this Python")
    program = tmp_path / "program.py"
    program.write_text(USER)
    run("-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", program,
        env=environment() | {"MYPYPATH": str(SOURCE)})  # fmt: skip


USER = """
import memcg
from typing import assert_type

memcg.install()
with memcg.scope("tenants/a", max="256MiB") as g:
    assert_type(g, memcg.Group)
b = memcg.group("tenants/b", max=512 << 20, high=None)
with b as inside:
    assert_type(inside.path, str)
assert_type(b.current, int)
assert_type(b.events, dict[str, int])
b.max = "1GiB"
b.max = None
assert_type(b.max, int)
b["memory.high"] = "400M"

def fn(n: int, *, text: str) -> float:
    return n * 0.5

assert_type(b.run(fn, 1, text="x"), float)
assert_type(b.wrap(fn)(1, text="x"), float)
for item in b.iterate(["a"]):
    assert_type(item, str)

@b.shrinker
def shrink(nbytes: int) -> None: ...

assert_type(b.reclaim(1000), int)
assert_type(b.parent, memcg.Group | None)
assert_type(b.children, dict[str, memcg.Group])
with memcg.shield():
    assert_type(memcg.current(), memcg.Group)
with memcg.KmemCache("frame", size=1920, align=64, ctor=lambda buffer: None) as frames:
    frames.free_bulk(frames.alloc_bulk(2))
try:
    b.close(recursive=True, wait=1)
except (memcg.GroupBusy, memcg.OfflineError, memcg.CacheBusy, memcg.MemcgOOM) as error:
    base: memcg.MemcgError = error
"""


def test_the_readme_runs_as_written(native, tmp_path):
    readme = (PROJECT / "README.md").read_text()
    code, shown, command = re.findall(
        r"^```(?:python|text|console)\n(.*?)^```", readme, re.M | re.S
    )
    assert len(code.splitlines()) == 3
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment(),
                          cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    before, after = shown.strip().removesuffix("...").split("current 64.0 MiB")  # or a little more
    error = done.stderr.splitlines()[-1]
    assert error.startswith(before)
    assert after in error
    (tmp_path / "app.py").write_text("kept = []\nwhile True: kept.append(bytes(100_000))")
    done = subprocess.run([sys.executable, "-m", *command.removeprefix("$ ").split()],
                          env=environment(), cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 137
    assert "global 'kept' of module __main__" in done.stderr


def test_importing_takes_less_than_fifty_milliseconds():
    # processor time, the least of five, because other programs use the machine too
    code = "import time; t = time.process_time(); import memcg; print(time.process_time() - t)"
    env = environment()
    del env["MEMCG_LOCKDEP"]  # without this the order of locks would be watched
    seconds = [float(run("-c", code, env=env)) for _ in range(5)]
    assert min(seconds) < 0.05, seconds


def test_the_version_is_the_same_wherever_it_is_written():
    for file in ("pyproject.toml", "meson.build"):
        (version,) = re.findall(r"^(?:project\('memcg', )?version[:=\s]+[\"'](.*?)[\"']",
                                (PROJECT / file).read_text(), re.M)  # fmt: skip
        assert version == memcg.__version__
