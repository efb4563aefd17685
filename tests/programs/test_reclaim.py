# SPDX-License-Identifier: Apache-2.0
"""At memory.high shrinkers and the collector run before any MemcgOOM is raised."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("in_thread", [False, True], ids=["main", "thread"])
def test_cyclic_garbage_alone_never_meets_the_limit(run_program, in_thread):
    shown = run_program(f"""
    import gc, threading
    gc.disable()  # the collections at memory.high are enough
    g = memcg.group("a", max="64MiB")
    class Node: pass
    def run():
        live = [bytes(1000) for _ in range(16_000)]
        for _ in range(500_000):
            node = Node(); node.self = node; node.rows = [0] * 50
        return len(live)
    done = []
    def inside():
        with g:
            done.append(run())
    if {in_thread}:
        thread = threading.Thread(target=inside); thread.start(); thread.join()
    else:
        inside()
    assert done == [16_000] and g.events["oom_kill"] == 0, g.events
    print(g.events["high"])
    """)
    assert int(shown) >= 3


@pytest.mark.parametrize("in_thread", [False, True], ids=["main", "thread"])
def test_no_alarm_is_raised_before_a_collection_that_is_under_way_elsewhere_has_ended(
    run_program, in_thread
):
    run_program(f"""
    import gc, threading, time
    gc.disable()
    g = memcg.group("a", max="16MiB", reserve="64MiB")
    begun, end = threading.Event(), threading.Event()
    class Node:
        rows = None
    class Slow(Node):
        def __del__(self): begun.set(); end.wait(20)
    node = Slow(); node.self = node; del node
    collector = threading.Thread(target=gc.collect); collector.start(); begun.wait(20)
    def inside():
        with g:
            for _ in range(20):
                node = Node(); node.self = node; node.rows = bytes(MIB)
            node = None
            over.append(g.current > g.max)
            stop = time.monotonic() + 0.5
            while time.monotonic() < stop: pass
            end.set(); collector.join(20)
            while g.current > g.max: time.sleep(0.001)
    over = []
    if {in_thread}:
        thread = threading.Thread(target=inside); thread.start(); thread.join()
    else:
        inside()
    assert over == [True] and g.current < 2 * MIB, (over, g.current)
    assert g.events["oom_kill"] == 0 == g.events["fail"], g.events
    """)


def test_a_shrinker_is_asked_at_high_and_what_it_raises_is_shown(run_program):
    run_program("""
    import time
    cache, asked = [], []
    g = memcg.group("a", max="32MiB")
    @g.shrinker
    def shrink(nbytes):
        asked.append(nbytes)
        del cache[: len(cache) // 2]
    with g:
        for _ in range(300):
            cache.append(bytes(256 * 1024))
            time.sleep(0.001)
    assert asked and g.events["oom_kill"] == 0, g.events
    assert all(n > 0 for n in asked)
    """)


@pytest.mark.parametrize("size", [1000, 20_000])
def test_a_shrinker_that_frees_what_it_is_asked_for_is_asked_each_time(run_program, size):
    run_program(f"""
    cache, asked = {{}}, []
    g = memcg.group("a", max="32MiB")
    @g.shrinker
    def shrink(nbytes):
        asked.append(nbytes)
        freed = 0
        while cache and freed < nbytes:
            freed += len(cache.pop(next(iter(cache))))
    with g:
        for n in range(200_000_000 // {size}):
            cache[n] = bytes({size})
    assert len(asked) > 10 and g.events["oom"] == 0, (asked, g.events)
    """)


def test_a_limit_below_the_use_holds_for_new_charges_and_kills_no_program(run_program):
    run_program("""
    g = memcg.group("a")
    with g:
        held = bytes(20 * MIB)
    g.max = "10MiB"
    assert len(held) == 20 * MIB and g.max == 10 * MIB < g.current
    try:
        with g:
            [[i] for i in range(10_000)]
    except MemoryError:
        pass
    memcg.core.wait_worker()  # until garbage is collected, a large request may use the reserve
    for _ in range(100):
        try:
            with g:
                bytes(MIB)
            raise SystemExit("not refused")
        except MemoryError:
            pass
    del held
    with g:
        assert len(bytes(MIB)) == MIB
    g["memory.high"] = "4M"
    assert g.high == 4 * MIB and g["memory.stat"]["page_runs"] >= 0
    g.max = None
    assert g["memory.max"] == memcg.core.PAGE_COUNTER_MAX and g.high == 4 * MIB
    """)


def test_a_parents_limit_holds_for_the_sum_of_its_children(run_program):
    run_program("""
    parent = memcg.group("p", max="30MiB")
    a, b = memcg.group("p/a"), memcg.group("p/b", max="90%")
    assert b.max == int(30 * MIB * 0.9)
    with a:
        held = bytes(20 * MIB)
    with b:
        try:
            bytes(15 * MIB)
            raise SystemExit("not refused")
        except MemoryError as error:
            assert "set on 'p'" in memcg.core.last_failure()
    assert parent.events["fail"] == 1 == b.parent["memory.events.local"]["fail"]
    assert a.events["fail"] == 0
    """)
