# SPDX-License-Identifier: Apache-2.0
"""malloc that is served survives what libraries and tools do with it, or says why it does not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from environment import environment

from memcg import core

TIMEOUT_S = 300  # valgrind is slow


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def build(tmp_path):
    """Return a function that compiles a shared library and returns its path."""

    def build(source: str, *options: str, language: str = "c") -> Path:
        file = tmp_path / f"made{len(list(tmp_path.iterdir()))}.{language}"
        file.write_text(textwrap.dedent(source))
        library = file.with_suffix(".so")
        compiler = tool({"c": "cc", "cc": "c++"}[language])
        subprocess.run(
            [compiler, "-O1", "-fno-builtin", "-shared", "-fPIC", file, "-o", library, *options],
            check=True,
        )
        return library

    return build


def run(program: str, *args: object, before: tuple[str, ...] = (), status: int = 0, **more: str):
    done = subprocess.run(
        [*before, sys.executable, "-m", "memcg", "run", "-c", textwrap.dedent(program)]
        + [str(arg) for arg in args],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


PAIR = """
#include <stdlib.h>
void *take(size_t n) { return malloc(n); }
void give(void *p) { free(p); }
"""
SETUP = """
import ctypes, os, sys
import memcg
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.calloc.restype = libc.strdup.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
MB = 1 << 20
def load(path, mode=ctypes.DEFAULT_MODE):
    made = ctypes.CDLL(path, mode=mode)
    made.take.restype, made.take.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    made.give.argtypes = [ctypes.c_void_p]
    return made
"""


def test_what_libc_allocates_may_be_freed_by_a_free_that_was_looked_up(native):
    run(
        SETUP
        + """
for n in range(2000):
    p = libc.strdup(b"x" * n)
    assert ctypes.string_at(p) == b"x" * n
    libc.free(p)
"""
    )


def test_memory_that_is_callocated_and_never_touched_is_charged(native):
    run(
        SETUP
        + """
with memcg.group("a") as group:
    p = libc.calloc(50, MB)
    assert 50 * MB <= group.current < 51 * MB
    libc.free(p)
"""
    )


def test_a_library_with_deepbind_keeps_glibcs_malloc_for_itself(native, build):
    run(SETUP + """
made = load(sys.argv[1], os.RTLD_LOCAL | os.RTLD_NOW | os.RTLD_DEEPBIND)
with memcg.group("a") as group:
    p = made.take(50 * MB)
    assert group.current < MB  # not charged: docs/coverage.md
    made.give(p)
    libc.free(made.take(50 * MB))  # a block of glibc's is given to glibc
""", build(PAIR))  # fmt: skip


NEW = """
#include <new>
#include <cstddef>
extern "C" void *take(std::size_t n) { return operator new(n); }
extern "C" void give(void *p) { operator delete(p); }
extern "C" int is_caught(std::size_t n) {
    try { give(take(n)); } catch (const std::bad_alloc &) { return 1; }
    return 0;
}
"""


@pytest.mark.parametrize("hidden", [False, True])
def test_a_library_with_a_static_runtime_of_cpp_is_charged_and_throws(native, build, hidden):
    options = ("-static-libstdc++", "-static-libgcc")
    options += ("-Wl,--exclude-libs,ALL",) if hidden else ()
    run(SETUP + """
made = load(sys.argv[1])
assert "libstdc++.so" not in open("/proc/self/maps").read()
with memcg.group("a") as group:
    p = made.take(50 * MB)
    assert 50 * MB <= group.current < 51 * MB
    made.give(p)
made.is_caught.argtypes = [ctypes.c_size_t]
assert made.is_caught(1 << 62)
""", build(NEW, *options, language="cc"))  # fmt: skip


def test_libraries_are_loaded_at_the_limit_while_threads_allocate(native, build):
    made = build("""
    #include <stdlib.h>
    static void *kept[100];
    __attribute__((constructor)) static void start(void)
    { for (int i = 0; i < 100; i++) kept[i] = malloc(3000); }
    __attribute__((destructor)) static void end(void)
    { for (int i = 0; i < 100; i++) free(kept[i]); }
    """)
    run(SETUP + """
import _ctypes, threading
group, over = memcg.group("a", max="4MiB"), threading.Event()
def fill():
    kept = []
    while not over.is_set():
        try:
            with group:
                kept.append(bytearray(20_000))
        except MemoryError:
            kept.clear()
threads = [threading.Thread(target=fill) for _ in range(2)]
for thread in threads: thread.start()
loads = 0
while loads < 300:
    try:
        with group:
            _ctypes.dlclose(_ctypes.dlopen(sys.argv[1], os.RTLD_NOW))
    except MemoryError:
        pass
    loads += 1
over.set()
for thread in threads: thread.join()
""", made)  # fmt: skip


def test_a_forked_child_of_a_program_with_openmp_allocates(native, build):
    made = build("""
    #include <omp.h>
    #include <stdlib.h>
    int churn(void)
    {
        int threads = 0;
    #pragma omp parallel num_threads(4)
        {
            for (int i = 1; i < 20000; i++) free(malloc(i % 3000));
    #pragma omp single
            threads = omp_get_num_threads();
        }
        return threads;
    }
    """, "-fopenmp")  # fmt: skip
    run(SETUP + """
made = ctypes.CDLL(sys.argv[1])
assert made.churn() == 4
for _ in range(20):
    pid = os.fork()
    if not pid:
        with memcg.group("a") as group:
            p = libc.malloc(9 * MB)
            charged = group.current
            libc.free(p)
        os._exit(not 9 * MB <= charged < 10 * MB)
    assert os.waitpid(pid, 0)[1] == 0
    assert made.churn() == 4
""", made)  # fmt: skip


OTHER = """
#define _GNU_SOURCE
#include <stddef.h>
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void __libc_free(void *);
int others_calls;
void *malloc(size_t n) { others_calls++; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { others_calls++; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { others_calls++; return __libc_realloc(p, n); }
void free(void *p) { __libc_free(p); }
"""


def test_the_malloc_of_another_preloaded_library_stays_and_is_named_if_it_is_first(native, build):
    other = build(OTHER)
    program = (
        SETUP
        + """
with memcg.group("a") as group:
    p = libc.malloc(9 * MB)
    print(group.current // MB, os.environ.get("LD_PRELOAD"))
    libc.free(p)
"""
    )
    # memcg run puts its library in front: it serves, and what others preload stays
    assert run(program, LD_PRELOAD=str(other)).stdout == f"9 {other}\n"
    first = run(program, LD_PRELOAD=f"{other}:{core.malloc_library()}")
    assert first.stdout == f"0 {other}\n"
    assert "the malloc of another library in LD_PRELOAD comes first" in first.stderr


def test_under_valgrind_malloc_stays_valgrinds_and_the_reason_is_said(native):
    valgrind = (tool("valgrind"), "-q", "--error-exitcode=0")
    alone = subprocess.run([*valgrind, sys.executable, "-c", ""], capture_output=True, text=True)
    if "Fatal error at startup" in alone.stderr:  # the linker of an unpacked Python is stripped
        pytest.skip("valgrind cannot run this Python, with memcg or without")
    done = run("print('ran')", before=valgrind)
    assert done.stdout == "ran\n"
    assert "not charged: valgrind has replaced malloc in this process" in done.stderr


def test_under_address_sanitizer_malloc_stays_its_own_and_the_reason_is_said(native):
    library = subprocess.run(
        [tool("gcc"), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip("gcc has no libasan.so")
    done = run("print('ran')", LD_PRELOAD=library, ASAN_OPTIONS="detect_leaks=0")
    assert done.stdout == "ran\n"
    assert "not charged: a sanitizer has replaced malloc in this process" in done.stderr


def test_a_crash_is_seen(native):
    """The tests above would notice an abort of glibc's."""
    run(SETUP + "libc.abort()", status=-signal.SIGABRT)
