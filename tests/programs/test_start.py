"""What a program pays before it does anything; libraries met before, after and in an archive."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from environment import SOURCE


def added(statements: str) -> set[str]:
    """The modules that `statements` read from files, memcg's own left out.

    What is built into CPython or frozen costs neither a file nor a compiled body of its own.
    """
    program = f"""
import sys
sys.path.insert(0, {str(SOURCE)!r})
before = set(sys.modules)
{statements}
for name in set(sys.modules) - before:
    spec = vars(sys.modules[name]).get("__spec__")
    if spec and spec.has_location and not spec.origin.startswith({str(SOURCE)!r}):
        print(name)
"""
    # Bare: no site, whose .pth files import what they like, and no environment.
    argv = [sys.executable, "-I", "-S", "-c", program]
    run = subprocess.run(argv, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_installing_reads_no_module_of_the_standard_library_but_one(native):
    assert added("import memcg; memcg.install(); memcg.group('a', max='1GiB').close()") == {
        "__future__"
    }


@pytest.mark.parametrize("module", ["typing", "threading", "re"])
def test_a_module_that_is_read_is_seen(module):
    assert module in added(f"import {module}")


INHERITS = """
from concurrent.futures import ThreadPoolExecutor
seen = []
look = lambda: seen.append(memcg.current().path)
with memcg.group("a"), ThreadPoolExecutor(1) as pool:
    thread = threading.Thread(target=look); thread.start(); thread.join()
    pool.submit(look).result()
assert seen == ["a", "a"], seen
"""


@pytest.mark.parametrize("before", ["", "import threading", "import concurrent.futures.thread"])
def test_libraries_are_hooked_whenever_they_are_imported(run_program, before):
    install = "import memcg; memcg.install()"
    run_program(f"{before}\n{install}\nimport threading\n{INHERITS}", prelude="")


def test_a_loader_that_modules_share_hooks_those_that_were_asked_for(run_program, tmp_path):
    library = tmp_path / "library.zip"
    with zipfile.ZipFile(library, "w") as archive:
        for name in ("threading.py", "concurrent/futures/thread.py"):
            archive.write(Path(os.__file__).parent / name, name)
        archive.writestr("neighbour.py", "_start_new_thread = None")
    run_program(
        f"import sys; sys.path.insert(0, {str(library)!r})\n"
        "import memcg; memcg.install()\nimport threading, neighbour\n"
        f"import concurrent.futures as futures\n"
        f"futures.__path__[:] = [{str(library / 'concurrent/futures')!r}]\n"
        "assert 'library.zip' in threading.__file__ and neighbour._start_new_thread is None\n"
        + INHERITS
        + "assert 'library.zip' in sys.modules['concurrent.futures.thread'].__file__\n",
        prelude="",
    )
