# SPDX-License-Identifier: Apache-2.0
"""Under RLIMIT_DATA and RLIMIT_AS a program has nearly as much memory as without memcg."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from environment import environment

KIB = 1 << 10


def run_under(limit, kib, code, **more):
    return subprocess.run(
        [sys.executable, "-c", code], env=environment(**more), capture_output=True, text=True,
        timeout=60, check=False, preexec_fn=lambda: resource.setrlimit(limit, (kib * KIB,) * 2),
    )  # fmt: skip


@pytest.mark.parametrize("kib", [60_000, 200_000, 400_000, 1_000_000])
def test_a_limit_on_data_leaves_the_program_what_it_had(native, kib):
    code = (
        "import memcg; from memcg import core; memcg.install()\n"
        "assert core.name == 'native', core.why_not_native\n"
        f"blocks = [bytearray({kib} * 1024 // 20) for _ in range(10)]\n"
        "import threading; t = threading.Thread(target=int); t.start(); t.join()"
    )
    shown = run_under(resource.RLIMIT_DATA, kib, code)
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize("kib", [500_000, 4_500_000])
def test_a_limit_on_address_space_leaves_a_third_to_others(native, kib):
    code = (
        "import memcg; memcg.install()\n"
        f"import mmap; room = mmap.mmap(-1, {kib} * 1024 // 4)\n"
        f"block = bytearray({kib} * 1024 // 4)\n"
        "import threading; t = threading.Thread(target=int); t.start(); t.join()"
    )
    shown = run_under(resource.RLIMIT_AS, kib, code)
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize(
    ("limit", "named"), [(resource.RLIMIT_DATA, "ulimit -d"), (resource.RLIMIT_AS, "ulimit -v")]
)
def test_the_error_names_the_limit_that_is_set(native, limit, named):
    shown = run_under(
        limit, 1_000_000, "from memcg import core; print(core.why_not_native)",
        MEMCG_FAIL="what=mmap,nth=4",
    )  # fmt: skip
    assert f"no address space for the arena; raise `{named}`, which is 1000000 KiB" in shown.stdout
    assert shown.stdout.count("ulimit") == 1


@pytest.mark.parametrize("mib", [1024, 2048, 8192])
@pytest.mark.parametrize("before", [True, False], ids=["imported first", "imported later"])
def test_a_program_may_limit_its_own_address_space(run_program, mib, before):
    run_program(
        f"""
    {"" if before else "import threading"}
    import resource
    kept = [bytes(1 << 16) for _ in range(1000)]
    resource.setrlimit(resource.RLIMIT_AS, ({mib} << 20, {mib} << 20))
    import threading
    for _ in range(3):
        thread = threading.Thread(target=int); thread.start(); thread.join()
    more = [bytes(1 << 16) for _ in range(1000)]
    assert all(not any(block[::4096]) for block in kept + more)
    """,
        prelude="import memcg; memcg.install()\n",
    )
