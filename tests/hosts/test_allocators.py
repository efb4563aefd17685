# SPDX-License-Identifier: Apache-2.0
"""Allocators that libraries bring along are replaced, or left alone where they have changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from environment import environment

TIMEOUT_S = 120
LOW, HIGH = 0.95, 1.3  # charged / held; polars rounds its buffers up
LITTLE = 10_000_000  # bytes; what the work holds is 4 to 10 times as much

ARROW = """
    import pyarrow
    def work():
        words = ["%040d" % i for i in range(100_000)]
        return [pyarrow.array(words) for _ in range(10)]
"""
POLARS = """
    import polars
    def work():
        numbers = polars.select(polars.int_range(2_000_000).alias("i"))
        return numbers.with_columns(s=polars.col("i").cast(polars.String)).sort("s")
"""
DUCKDB = """
    import duckdb
    def work():
        db = duckdb.connect()
        db.execute("create table t as select i, 'row ' || hash(i) s from range(1500000) r(i)")
        assert db.execute("select count(distinct s) from t").fetchone() == (1500000,)
        return db
"""
LIBRARIES = {"pyarrow": ARROW, "polars": POLARS, "duckdb": DUCKDB}

MEASURE = """
import ctypes, gc, json
import memcg
from memcg.integrations import allocators

def resident():
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * int(next(line for line in file if line.startswith("Rss:")).split()[1])

work()  # warms up
gc.collect()
before, charged = resident(), memcg.root.current
group = memcg.group("a")
kept = group.run(work)
print(json.dumps({
    "rss": resident() - before,
    "charged": memcg.root.current - charged,
    "in_group": group.current,
    "left_alone": list(allocators.left_alone.values()),
}))
"""


def run(code: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "memcg", "run", *options, "-c", textwrap.dedent(code)],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def measure(code: str, *options: str, **more: str) -> dict[str, object]:
    return json.loads(
        run(textwrap.dedent(code) + MEASURE, *options, **more).stdout.splitlines()[-1]
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_it_holds_is_charged(library):
    found = measure(LIBRARIES[library])
    assert found["left_alone"] == []
    assert LOW <= found["charged"] / found["rss"] <= HIGH, found


@pytest.mark.parametrize("library", LIBRARIES)
def test_with_pools_a_group_is_charged_for_what_the_librarys_threads_hold(library):
    found = measure(LIBRARIES[library], "--pools")
    assert LOW <= found["in_group"] / found["rss"] <= HIGH, found


# With a limit of half of what each holds, below which its work is one call.
LIMITS = {"polars": "40MiB", "duckdb": "40MiB", "pyarrow": "20MiB"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_half_of_what_it_holds_as_limit_raises(library):
    code = f"""
import memcg
work()
try:
    with memcg.scope("a", max="{LIMITS[library]}") as group:
        kept = work()
except MemoryError as error:
    print(type(error).__name__)
"""
    done = run(textwrap.dedent(LIBRARIES[library]) + code, "--pools")
    assert done.stdout.split()[0] in ("ArrowMemoryError", "MemoryError", "MemcgOOM"), done.stderr


def test_two_groups_on_one_pool_are_never_charged_for_each_other():
    done = run("""
        import threading
        import polars
        import memcg
        def work(n):
            numbers = polars.select(polars.int_range(n).alias("i"))
            return numbers.with_columns(s=polars.col("i").cast(polars.String)).sort("s")
        work(1000)
        both = threading.Barrier(2)
        kept = []
        def run(n):
            both.wait()
            kept.append([work(n) for _ in range(4)])
            both.wait()
        a, b = memcg.group("tenants/a"), memcg.group("tenants/b")
        threads = [threading.Thread(target=g.run, args=(run, n))
                   for g, n in ((a, 500_000), (b, 1_000_000))]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        held = [sum(frame.estimated_size() for frame in frames) for frames in kept]
        print(min(held), max(held), a.current, b.current, a.parent.current)
    """, "--pools")  # fmt: skip
    held_a, held_b, a, b, both = map(int, done.stdout.split())
    # What a thread made before it saw the other group enter is a sheaf or two.
    assert a <= held_a * HIGH, done.stdout
    assert b <= held_b * HIGH, done.stdout
    assert LOW <= both / (held_a + held_b) <= 2, done.stdout  # its buffers grow by doubling


@pytest.mark.parametrize(("library", "names"), [("polars", "JEMALLOC"), ("duckdb", "ALLOCATOR")])
def test_a_library_whose_functions_have_changed_is_left_alone(library, names):
    change = f"""
        from memcg.integrations import {library} as integration
        integration.{names} = (integration.{names}[0] + "_", *integration.{names}[1:])
    """
    found = measure(textwrap.dedent(change) + textwrap.dedent(LIBRARIES[library]))
    (reason,) = found["left_alone"]
    assert "has 0 functions and 0 words" in reason
    assert found["charged"] < LITTLE, found


@pytest.mark.parametrize("library", ["polars", "duckdb"])
def test_a_word_that_leads_elsewhere_already_is_left_alone(library):
    module = {"polars": "_polars_runtime_32._polars_runtime", "duckdb": "_duckdb"}[library]
    done = run(f"""
        import sys, {library}
        from memcg.integrations import allocators, {library} as integration
        assert not allocators.left_alone
        integration.hook(sys.modules["{module}"])
        print(*allocators.left_alone.values())
    """)
    assert "another address" in done.stdout


def test_blocks_from_before_are_freed_and_grown_by_their_own_allocator():
    done = run("""
        import _polars_runtime_32._polars_runtime as runtime
        import ctypes
        from memcg.integrations import allocators, polars
        door = ctypes.c_uint64 * 6
        library = ctypes.CDLL(allocators.core.malloc_library())
        originals = door.in_dll(library, "memcg_door_jemalloc_original")
        ours = door.in_dll(library, "memcg_door_jemalloc")
        void, size, flags = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        before = ctypes.CFUNCTYPE(void, size)(originals[0])
        realloc = ctypes.CFUNCTYPE(void, void, size)(ours[2])
        mallocx = ctypes.CFUNCTYPE(void, size, flags)(ours[3])
        rallocx = ctypes.CFUNCTYPE(void, void, size, flags)(ours[4])
        sdallocx = ctypes.CFUNCTYPE(None, void, size, flags)(ours[5])
        blocks = [before(1000) for _ in range(1000)]
        for p in blocks:
            ctypes.memset(p, 7, 1000)
        blocks = [realloc(p, 3000) for p in blocks]
        blocks = [rallocx(p, 9000, 6) for p in blocks]
        assert all(ctypes.string_at(p, 1000) == bytes([7] * 1000) for p in blocks)
        for p in blocks:
            sdallocx(p, 9000, 6)
        zero, lg_align = 0x40, 12
        p = mallocx(5000, zero | lg_align)
        assert p % 4096 == 0 and ctypes.string_at(p, 5000) == bytes(5000)
        ctypes.memset(p, 7, 5000)
        p = rallocx(p, 9000, zero | lg_align)
        assert p % 4096 == 0 and ctypes.string_at(p, 5000) == bytes([7] * 5000)
        assert not any(ctypes.string_at(p + 8192, 808))
        sdallocx(p, 9000, lg_align)
        print("done")
    """)
    assert done.stdout == "done\n"


@pytest.mark.parametrize(
    ("pool", "said"), [("system", ""), ("mimalloc", "has its own mimalloc; its memory pool is")]
)
def test_the_account_names_what_is_not_charged(pool, said):
    code = "import duckdb, polars, pyarrow"
    done = run(code, "--report", ARROW_DEFAULT_MEMORY_POOL=pool)
    found = [line for line in done.stderr.splitlines() if line.startswith("not charged: ")]
    assert len(found) == bool(said), found
    assert all(said in line and "/libarrow.so" in line for line in found)


def test_arrow_is_asked_for_the_systems_malloc_while_it_is_imported_only():
    done = run("""
        import os, subprocess, sys
        import pyarrow
        print(pyarrow.default_memory_pool().backend_name, "ARROW_DEFAULT_MEMORY_POOL" in os.environ)
    """)
    assert done.stdout.split() == ["system", "False"]


def test_a_pool_that_the_program_asks_arrow_for_is_its_choice():
    found = measure(ARROW, ARROW_DEFAULT_MEMORY_POOL="mimalloc")
    assert found["left_alone"] == ["its memory pool is mimalloc"]
    assert found["charged"] < LITTLE, found


def test_without_the_preload_libraries_keep_their_allocators():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent("""
            import memcg
            memcg.install()
            import duckdb, polars, pyarrow, sys
            print(pyarrow.default_memory_pool().backend_name)
            print("memcg.integrations.allocators" in sys.modules)
        """)],
        env={k: v for k, v in environment().items() if k != "LD_PRELOAD"} | {"PATH": os.defpath},
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["mimalloc", "False"]
