# SPDX-License-Identifier: Apache-2.0
"""`memcg.trace`: the stacks of what lives, near the truth by a stated bound, and their exports."""

from __future__ import annotations

import pytest

PRELUDE = """\
import memcg; memcg.install()
import gc, json, math, os, sys, threading, time
MIB = 1 << 20
g = memcg.group("g")

def check(found, truth, every, of):
    # Five standard deviations of the estimate: one run in 1.7 million is farther off.
    bound = 5 * math.sqrt(truth * every) + every
    assert abs(found - truth) <= bound, f"{of}: {found:,} of {truth:,}, bound {bound:,.0f}"

def by(trace, name):
    # The bytes that a function, and what it calls, have allocated.
    return sum(s.nbytes for s in trace.sites().sites if any(f.function == name for f in s.stack))
"""


@pytest.fixture
def run(run_program):
    return lambda code, *args, **more: run_program(code, *args, prelude=PRELUDE, **more)


def test_the_figures_of_each_function_are_near_the_truth(run):
    run("""
    every = 65536
    def floats(n): return [float(i) for i in range(n)]       # 24 bytes, of a class of 32
    def texts(n): return [str(i) + "x" * 200 for i in range(n)]
    def lists(n): return [[] for _ in range(n)]              # 56 bytes with the collector's head
    def blocks(n): return [bytearray(100_000) for _ in range(n)]
    def size(objects): return sum(map(sys.getsizeof, objects))
    with g, memcg.trace("g", every=every) as trace:
        held = [floats(300_000), texts(60_000), lists(200_000), blocks(100)]
        after = [by(trace, f.__name__) for f in (floats, texts, lists, blocks)]
        sites = trace.sites()
        held_here = g.current
    for f, found, of in zip((floats, texts, lists, blocks), after, held):
        real = size(of) + sys.getsizeof(of)
        # a class is at most an eighth larger than the object, or 16 bytes
        assert found > real - 5 * math.sqrt(real * every) - every, (f.__name__, found, real)
        most = real * 9 / 8 + 16 * len(of)
        assert found < most + 5 * math.sqrt(most * every) + every, (f.__name__, found, most)
    check(sites.nbytes, held_here, every, "all")
    assert sites.missed == 0 and sites.every == every
    assert abs(sites.nbytes - held_here) <= 5 * sites.deviation + every
    assert {s.group for s in sites.sites} == {"g"}
    del held, of
    assert not [s for s in trace.sites().sites if s.nbytes > 2 * MIB], trace.sites()
    """)


def test_a_stack_has_the_lines_of_each_call(run):
    run("""
    def outer():
        x = 1
        return inner()

    def inner():
        return bytearray(
            8 * MIB
        )

    with g, memcg.trace(g) as trace:
        kept = outer()
        site = trace.sites().sites[0]
    names = [f.function for f in site.stack]
    assert names[-2:] == ["outer", "inner"], names
    first = outer.__code__.co_firstlineno
    assert site.stack[-2].line == first + 2 and site.stack[-2].first_line == first
    assert site.stack[-1].line == inner.__code__.co_firstlineno + 1
    assert site.stack[-1].file == __file__
    assert 8 * MIB <= site.nbytes <= 8 * MIB + 8192
    text = g.report()
    line = next(l for l in text.splitlines() if "8.0 MiB  g: " in l)
    assert f"inner (" in line and "< outer (" in line, text
    """)


def test_a_group_whose_objects_are_replaced_one_by_one_shows_the_new_code(run):
    run("""
    # CPython itself hands the memory of a list on to the next one, so these are no lists
    def old(): return bytes(99)
    def new(): return bytes(99)
    with g, memcg.trace(g, every="16KiB") as trace:
        kept = [old() for _ in range(60_000)]
        before = by(trace, "old")
        assert before > 5 * MIB, before
        for i in range(len(kept)):
            kept[i] = new()
        assert by(trace, "old") < 0.02 * before, by(trace, "old")
        check(by(trace, "new"), before, 2 * 16384, "new")
    """)


def test_what_another_thread_frees_is_dropped_and_what_it_allocates_has_its_stack(run):
    run("""
    def work(): return [bytes(500) for _ in range(20_000)]
    with g, memcg.trace(g, every=16384) as trace:
        kept = work()
        assert by(trace, "work") > 5 * MIB
        out = []
        def other():
            kept.clear()
            with g:
                out.append(work())
        thread = threading.Thread(target=other); thread.start(); thread.join()
        own = [s for s in trace.sites().sites if any(f.function == "other" for f in s.stack)]
        check(sum(s.nbytes for s in own), 20_000 * 576, 16384, "other")
        rest = by(trace, "work") - sum(s.nbytes for s in own)
        assert rest < MIB, rest
    """)


def test_groups_below_are_traced_and_a_closed_ones_samples_are_the_parents(run):
    run("""
    with memcg.trace("g", every=16384) as trace:
        made = memcg.group("g/made/later")
        with made:
            kept = [bytes(900) for _ in range(10_000)]
        assert {s.group for s in trace.sites().sites} == {"g/made/later"}
        before = trace.sites().nbytes
        with memcg.group("elsewhere"):
            other = [bytes(900) for _ in range(10_000)]
        assert trace.sites().nbytes == before
        memcg.group("g/made").close(recursive=True)
        assert {s.group for s in trace.sites().sites} == {"g"}
        assert trace.sites().nbytes == before
        kept.clear()
        assert trace.sites().nbytes < before / 100
    """)


def test_after_the_end_no_sample_is_taken_and_those_that_live_stay(run):
    run("""
    def first(): return bytearray(8 * MIB)
    def second(): return bytearray(8 * MIB)
    with g:
        trace = memcg.trace(g)
        a = first()
        trace.stop()
        trace.stop()
        b = second()
        assert by(trace, "first") and not by(trace, "second")
        assert " g: first (" in g.report()
        again = memcg.trace(g, every="1MiB")
        c = second()
        assert by(again, "first") and by(again, "second") and again.sites().every == MIB
    """)


def test_a_forked_child_has_the_samples_and_goes_on(run):
    run("""
    with g, memcg.trace(g, every=16384) as trace:
        kept = [bytes(900) for _ in range(10_000)]
        pid = os.fork()
        if not pid:
            assert trace.sites().nbytes > 5 * MIB
            kept.clear()
            def mine(): return bytearray(MIB)
            more = mine()
            assert by(trace, "mine") >= MIB and trace.sites().nbytes < 3 * MIB
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert trace.sites().nbytes > 5 * MIB
    """)


def test_deep_stacks_are_cut_and_foreign_names_are_kept(run):
    run('''
    exec("""
def größe(n): return bytearray(8 << 20) if not n else größe(n - 1)
""")
    with g, memcg.trace(g) as trace:
        kept = größe(300)
        stack = trace.sites().sites[0].stack
    assert len(stack) == 129 and stack[0].function == "(calls left out)", len(stack)
    assert {f.function for f in stack[1:]} == {"größe"} and stack[-1].file == "<string>"
    ''')


def test_code_that_is_freed_while_its_samples_live_keeps_its_name(run):
    run("""
    kept = []
    with g, memcg.trace(g, every=4096) as trace:
        for i in range(200):
            names = {}
            exec(compile(f"def f{i}(): return bytearray(100_000)", f"<made {i}>", "exec"), names)
            kept.append(names[f"f{i}"]())
        for i in range(200):
            assert by(trace, f"f{i}") >= 100_000, i
        files = {f.file for s in trace.sites().sites for f in s.stack if f.file.startswith("<made")}
        assert len(files) == 200
    """)


def test_bad_arguments_are_refused_with_what_to_do(run, run_program):
    run("""
    def error(kind, *args, **named):
        try:
            memcg.trace(*args, **named)
        except kind as error:
            return str(error)
    assert "from 4KiB to less than 4GiB" in error(ValueError, g, every=100)
    assert "from 4KiB" in error(ValueError, g, every="4GiB")
    assert error(ValueError, g, every="much")
    assert "nowhere" in error(memcg.MemcgError, "nowhere")
    trace = memcg.trace("")
    try:
        trace.save("x.txt")
    except ValueError as e:
        assert ".speedscope.json, .pb.gz, .folded" in str(e)
    else:
        raise AssertionError
    """)
    run_program(
        """
    import memcg
    try:
        memcg.trace("")
    except memcg.MemcgError as error:
        assert "memcg.install()" in str(error)
    else:
        raise AssertionError
    """,
        prelude="",
    )


C_CALLS = """
import ctypes, threading
import memcg
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
free.argtypes = [ctypes.c_void_p]
def inside():
    return malloc(32 << 20)  # ctypes lets the GIL go
with memcg.group("c") as group, memcg.trace("c") as trace:
    block = inside()
    made = []
    def run():
        with group:
            made.append(inside())
    thread = threading.Thread(target=run); thread.start(); thread.join()
    first, second = trace.sites().sites[:2]
    for site in (first, second):
        assert 32 << 20 <= site.nbytes < 33 << 20, site
        names = [f.function for f in site.stack]
        assert names[-2] == "inside", names
        assert ".so" in site.stack[-1].file and not site.stack[-1].line, site.stack[-1]
    assert {"run" in [f.function for f in s.stack] for s in (first, second)} == {True, False}
    free(block); free(made[0])
    assert not [s for s in trace.sites().sites if s.nbytes > 8 << 20]
"""


def test_what_c_code_allocates_without_the_gil_has_the_stack_of_its_caller(memcg_run):
    memcg_run("", C_CALLS)
