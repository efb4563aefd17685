# SPDX-License-Identifier: Apache-2.0
"""What `MEMCG_FAIL` and `inject` accept, which requests they refuse, and what else they change."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from environment import environment

import memcg
from memcg import faults
from memcg.core.fault_attr import FaultAttr, make, parse


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("nth=3", {"nth": 3, "times": 1}),
        ("nth=3,times=2", {"nth": 3, "times": 2}),
        ("probability=0.25,seed=7", {"probability": 0.25, "seed": 7}),
        ("nth=1,size=4096", {"nth": 1, "times": 1, "size": (4096, 4096)}),
        ("nth=1,size=1-64KiB", {"nth": 1, "times": 1, "size": (1, 65536)}),
        ("nth=1, cache=kmalloc-64", {"nth": 1, "times": 1, "cache": "kmalloc-64"}),
        ("nth=1,group=/a/b", {"nth": 1, "times": 1, "group": "a/b"}),
        ("nth=1,group=/", {"nth": 1, "times": 1, "group": ""}),
        ("nth=1,what=pages+mmap", {"nth": 1, "times": 1, "what": ("pages", "mmap")}),
    ],
)
def test_a_well_formed_text_is_understood(text, fields):
    assert parse(text) == FaultAttr(**fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nth", "'nth' is not key=value"),
        ("nth=", "'nth=' is not key=value"),
        ("nth=0", "nth must be a whole number that is at least 1, not '0'"),
        ("nth=1.5", "nth must be a whole number that is at least 1, not '1.5'"),
        ("nth=1,nth=2", "nth is given twice"),
        ("nth=1,probability=1", "nth and probability exclude each other"),
        ("nth=1,seed=1", "seed has no effect without probability; give both or neither"),
        ("probability=2", "probability must be from 0 to 1, not '2'"),
        ("probability=nan", "probability must be from 0 to 1, not 'nan'"),
        ("probability=x", "probability must be from 0 to 1, not 'x'"),
        ("probability=1,seed=-1", "seed must be a whole number that is at least 0, not '-1'"),
        ("nth=1,times=0", "times must be a whole number that is at least 1, not '0'"),
        ("nth=1,size=5-4", "size must be N or MIN-MAX bytes, not '5-4'"),
        ("nth=1,size=1-2-3", "size must be N or MIN-MAX bytes, not '1-2-3'"),
        ("nth=1,size=4k", "size must be N or MIN-MAX bytes, not '4k'"),
        ("nth=1,what=disk", "what must be one of alloc, metadata, pages, mmap, madvise, thread"),
        ("nth=1,what=", "'what=' is not key=value"),
        ("nth=1,what=mmap,cache=a", "cache is for what=alloc, not for what=mmap"),
        ("nth=1,what=mmap,group=a", "group is for what=alloc, not for what=mmap"),
        ("nth=1,page=1", "there is no key 'page'; there are what, nth,"),
        ("size=4096", "nth or probability is missing"),
    ],
)
def test_what_is_not_understood_is_reported_with_what_is(text, said):
    with pytest.raises(ValueError, match="MEMCG_FAIL=") as raised:
        parse(text)
    assert said in str(raised.value)
    assert "allowed are nth=N or probability=P" in str(raised.value)


def test_inject_refuses_the_same(native):
    with pytest.raises(ValueError, match="nth must be a whole number that is at least 1, not 0"):
        faults.inject(nth=0)
    with pytest.raises(ValueError, match="what must be one of"):
        faults.inject(what=())
    assert make(size=(1, 2)) == make(size="1-2")


def start(code, *options, **more):
    shown = subprocess.run(
        [sys.executable, *options, "-c", code],
        env=environment(**more),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return shown.returncode, shown.stdout, shown.stderr


def test_memcg_run_ends_with_125_and_runs_nothing(native):
    status, out, err = start("print('ran')", "-m", "memcg", "run", MEMCG_FAIL="nth=x")
    assert (status, out) == (125, "")
    assert "nth must be a whole number that is at least 1, not 'x'; allowed are nth=N" in err


def test_an_import_reports_it_and_install_refuses(native):
    code = "import memcg\nprint('here')\nmemcg.install()"
    status, out, err = start(code, MEMCG_FAIL="nth=x")
    assert (status, out) == (1, "here\n")
    assert err.startswith("memcg: MEMCG_FAIL='nth=x': nth must be")
    assert "memcg.errors.MemcgError: memcg.install() cannot work here: MEMCG_FAIL='nth=x'" in err


def test_a_program_meets_the_fault_it_was_started_with(native):
    code = "bytes(2000)\ntry: bytes(100_000)\nexcept MemoryError: print('told')"
    run = ("-m", "memcg", "run")
    assert start(code, *run, MEMCG_FAIL="nth=1,size=100033") == (0, "told\n", "")
    assert start(code, *run, MEMCG_FAIL="nth=2,size=100033") == (0, "", "")
    assert start(code, *run, MEMCG_FAIL="nth=1,size=100033,group=/other") == (0, "", "")


def test_a_program_meets_faults_of_one_cache_and_of_one_group(native):
    code = """if True:
        import memcg; memcg.install()
        def refused(size):
            try: bytes(size - 32)  # of 33 more; a bytearray takes one more, or 33 more since 3.15
            except MemoryError: return 1
            return 0
        print(refused(1900), refused(3000), end=" ")
        with memcg.group("a/b"): print(refused(1900), refused(3000))
    """
    every = "probability=1,seed=1"
    for more, told in (
        ("cache=kmalloc-2048", "1 0 1 0"),
        ("group=/a", "0 0 1 1"),
        ("group=/a,cache=kmalloc-3072", "0 0 0 1"),
        ("size=1901-1901,group=/a/b", "0 0 1 0"),
    ):
        assert start(code, MEMCG_FAIL=f"{every},{more}") == (0, f"{told}\n", "")


def test_a_seed_that_was_chosen_is_printed_and_repeats_the_run(native):
    code = """if True:
        import memcg; memcg.install()
        def refused():
            try: bytes(100_000)
            except MemoryError: return 1
            return 0
        print([refused() for _ in range(50)])
    """
    wanted = "probability=0.5,size=100033"
    status, out, err = start(code, MEMCG_FAIL=wanted)
    assert status == 0
    assert 5 < out.count("1") < 45  # 50 draws of a half; a count outside has a chance below 1e-8
    seed = err.split("seed=")[1].split()[0]
    assert err == f"memcg: MEMCG_FAIL={wanted},seed={seed} repeats these faults\n"
    assert start(code, MEMCG_FAIL=f"{wanted},seed={seed}") == (0, out, "")
    assert start(code, MEMCG_FAIL=f"{wanted},seed={int(seed) + 1}")[1] != out


@pytest.fixture
def cache(native):
    with memcg.KmemCache("inject-test", 100) as cache:
        yield cache


def refused(cache):
    try:
        cache.free(cache.alloc())
    except MemoryError:
        return True
    return False


def test_requests_are_counted_and_the_nth_fails(cache):
    with faults.inject(nth=3, cache="inject-test") as injected:
        assert [refused(cache) for _ in range(5)] == [False, False, True, False, False]
        assert (injected.eligible, injected.faults) == (5, 1)
    assert not refused(cache)
    assert (injected.eligible, injected.faults) == (5, 1)
    with faults.inject(cache="inject-test") as injected:
        assert not refused(cache)
    assert (injected.eligible, injected.faults) == (1, 0)


def test_other_threads_are_spared_unless_asked_for(cache):
    answers = []
    for all_threads in (False, True):
        with faults.inject(probability=1, cache="inject-test", all_threads=all_threads):
            thread = threading.Thread(target=lambda: answers.append(refused(cache)))
            thread.start()
            thread.join()
            assert refused(cache)
    assert answers == [False, True]


def test_one_group_and_those_below_it_fail(cache):
    with memcg.scope("inject/a") as a, faults.inject(probability=1, group=a):
        assert refused(cache)
        with memcg.group("inject/a/b"):
            assert refused(cache)
        with memcg.group("inject/c"):
            assert not refused(cache)
        with memcg.group("inject"):
            assert not refused(cache)
    memcg.group("inject").close(recursive=True)


def test_faults_are_armed_once_at_a_time(cache):
    with faults.inject(nth=1, cache="inject-test"):
        with pytest.raises(memcg.MemcgError, match="faults are armed already"):
            faults.inject(nth=1).__enter__()
        assert refused(cache)


def test_faults_end_with_what_ends_the_block(cache):
    with pytest.raises(KeyError), faults.inject(probability=1, cache="inject-test"):
        raise KeyError
    assert not refused(cache)


def test_a_child_after_fork_has_the_faults(native):
    code = """if True:
        import memcg, os
        from memcg import faults
        cache = memcg.KmemCache("inject-test", 100)
        def refused():
            try: cache.free(cache.alloc())
            except MemoryError: return True
            return False
        with faults.inject(probability=1, cache="inject-test"):
            if not (pid := os.fork()): os._exit(0 if refused() else 1)
            assert os.waitpid(pid, 0)[1] == 0
        assert not refused()
    """
    assert start(code) == (0, "", "")  # a process of its own: pytest's may have more threads


def test_the_model_core_says_that_it_has_none():
    code = "from memcg import faults\nfaults.inject(nth=1)"
    status, _, err = start(code, MEMCG_CORE="model")
    assert status == 1
    assert "MemcgError: faults are injected into the native core; this is the model core" in err
