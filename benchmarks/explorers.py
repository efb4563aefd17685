# SPDX-License-Identifier: Apache-2.0
"""memcg.verify beside frontrun and interleave-test, on the same code as it is.

    python -m venv v && v/bin/pip install frontrun interleave-test cachetools    # 3.12 or later
    export PYTHONPATH=src:benchmarks MEMCG_CORE=model
    v/bin/python benchmarks/explorers.py memcg interleave
    v/bin/frontrun v/bin/python benchmarks/explorers.py frontrun

frontrun replaces the process's locks when it starts, so it runs in a process of its own. For each
program and tool: whether the bug was found, or what the tool says, after how many executions, and
in how many seconds of processor time. Each has at most 2,000 executions; interleave-test runs
with each of its strategies, frontrun without a bound on preemptions.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path

import explored

LIMIT = 2_000
FILES = [str(Path(__file__).parent)]  # what interleave-test traces
PROGRAMS = {  # name -> setup, workers, invariant, is it sound?
    "lost update": (explored.Counter, ["add", "add"], lambda s: s.n == 2, False),
    "lost update of three": (explored.Counter, ["add"] * 3, lambda s: s.n == 3, False),
    "check, then act": (explored.Pool, ["get", "get"], lambda s: s.made <= 1, False),
    "a sound pool": (functools.partial(explored.Pool, sound=True), ["get", "get"],
                     lambda s: s.made <= 1, True),
    "lost wake-up": (explored.Jobs, ["get", "get", "put", "put"], lambda s: True, False),
    "computed twice": (explored.Cached, ["get", "get"], lambda s: s.computed == 1, False),
    "lock order": (explored.Accounts, ["forth", "back"], lambda s: True, False),
}  # fmt: skip


def cachetools_programs():
    """Return the programs that use cachetools, if it is installed."""
    try:
        import cachetools
    except ImportError:
        return {}

    class Cache(cachetools.LRUCache):
        def __init__(self):
            super().__init__(4)

        def one(self):
            self[1] = 1

        def two(self):
            self[2] = 2

    return {"cachetools without a lock": (Cache, ["one", "two"],
                                          lambda s: s.currsize == len(s), False)}  # fmt: skip


def memcg(setup, workers, invariant):
    from memcg.verify import explore, patch, seam

    modules = [explored] + [sys.modules["cachetools"]] * ("cachetools" in sys.modules)

    def program():
        state = setup()
        seam.parallel(*(getattr(state, name) for name in workers))
        assert invariant(state)

    with patch(explored):
        result = explore(program, track=modules, max_schedules=LIMIT, minimise=0)
    said = "found" if result.failures else "exhausted" if result.exhausted else "not exhausted"
    return said, result.executions


def frontrun(setup, workers, invariant):
    import frontrun

    calls = [lambda s, name=name: getattr(s, name)() for name in workers]
    packages = ["explored", "cachetools"]
    try:
        result = frontrun.explore(setup=setup, workers=calls, invariant=invariant,
                                  preemption_bound=None, max_executions=LIMIT,
                                  clock="virtual", reproduce_on_failure=0,
                                  trace_packages=packages)  # fmt: skip
    except ImportError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:60]}", "?"
    holds = {True: "holds", False: "found", None: "not decided"}[result.property_holds]
    return holds, result.num_explored


def interleave(setup, workers, invariant, **strategy):
    import interleave_test

    def model():
        state = setup()
        tasks = [interleave_test.spawn(getattr(state, name)) for name in workers]
        for task in tasks:
            task.join()
        assert invariant(state)

    try:
        interleave_test.explore(model, iterations=LIMIT, seed=1, include=FILES, **strategy)
    except (interleave_test.RaceFound, interleave_test.DeadlockError) as error:
        return "found", error.failure.iteration + 1
    return "nothing found", LIMIT


def main(wanted: list[str]) -> None:
    tools = {
        "memcg.verify": memcg,
        "frontrun": frontrun,
        "interleave-test, random": functools.partial(interleave, strategy="random"),
        "interleave-test, pct": functools.partial(interleave, strategy="pct"),
        "interleave-test, dfs": functools.partial(interleave, strategy="dfs"),
    }
    programs = {**PROGRAMS, **cachetools_programs()}
    if "cachetools" in sys.modules:
        FILES.append(str(Path(sys.modules["cachetools"].__file__).parent))
    tools = {
        name: run for name, run in tools.items() if not wanted or any(w in name for w in wanted)
    }
    print("| program | tool | outcome | executions | seconds |\n| --- | --- | --- | --- | --- |")
    for name, (setup, workers, invariant, _sound) in programs.items():
        for tool, run in tools.items():
            began = time.process_time()
            try:
                said, executions = run(setup, workers, invariant)
            except ImportError:
                continue
            took = time.process_time() - began
            print(f"| {name} | {tool} | {said} | {executions} | {took:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
