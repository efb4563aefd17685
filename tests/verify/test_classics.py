# SPDX-License-Identifier: Apache-2.0
"""Classic programs hold or break as the books say, with as many schedules as there are traces."""

from __future__ import annotations

import pytest
from verify.classics import CLASSICS

from memcg.verify import explore, explorer, strategies
from memcg.verify.trace import conflict

HOLDING = [c for c in CLASSICS if not c.breaks]
# Naive enumeration runs more than 4,000 schedules of these.
MANY = {
    "independent reads of independent writes", "a lock for four", "three with an order of forks",
    "two readers and a writer", "a bounded buffer", "three pushes on Treiber's stack",
    "four with an order of forks", "five with an order of forks",
}  # fmt: skip


def name(case):
    return case.name


@pytest.mark.parametrize("classic", CLASSICS, ids=name)
def test_a_classic_has_one_schedule_for_each_trace_and_breaks_if_it_should(classic):
    result = explore(classic.program, audit=False, stop=False)
    assert result.exhausted
    assert result.schedules == classic.traces
    assert {classic.breaks in str(failure) for failure in result.failures} == (
        {True} if classic.breaks else set()
    )


@pytest.mark.parametrize("classic", [c for c in CLASSICS if c.breaks], ids=name)
def test_a_classic_bug_is_shown_with_few_preemptions(classic):
    failure = explore(classic.program, audit=False).failure
    assert classic.breaks in str(failure.exception)
    assert failure.minimal
    assert failure.preemptions <= 2


def trace_of(run):
    """Return which uses of which objects were in what order, if the order makes a difference."""
    uses, counts = {}, {}
    for step in run.steps:
        for key, use in step.footprint.items():
            counts[step.task, key] = counts.get((step.task, key), 0) + 1
            uses.setdefault(key, []).append((step.task, counts[step.task, key], use))
    return frozenset(
        (key, first[:2], later[:2])
        for key, row in uses.items()
        for i, first in enumerate(row)
        for later in row[i + 1 :]
        if conflict(first[2], later[2])
    )


def prefix_of(run):
    """Return what decides the state after the steps so far, and so all that can follow."""
    steps = {}
    for step in run.steps:
        steps.setdefault(step.task, []).append(step.pick)
    return frozenset((task, *picks) for task, picks in steps.items()), trace_of(run)


class Counting(strategies.Exhaustive):
    """It runs every schedule, and keeps their traces."""

    def __init__(self, bound=None):
        super().__init__(bound)
        self.traces = set()
        made.append(self)

    def end(self, run):
        if not run.redundant:
            self.traces.add(trace_of(run))
        return super().end(run)


class Merging(Counting):
    """It goes on once only from prefixes that differ in the order of independent steps alone."""

    def __init__(self, bound=None):
        super().__init__(bound)
        self.seen = set()

    def choose(self, run, enabled):
        if len(run.steps) >= len(self.stack):
            prefix = prefix_of(run)
            if prefix in self.seen:
                return None
            self.seen.add(prefix)
        return super().choose(run, enabled)


made = []


def traces(classic, strategy, monkeypatch):
    monkeypatch.setattr(explorer, "Exhaustive", strategy)
    made.clear()
    assert explore(classic.program, audit=False, stop=False, strategy="naive").exhausted
    return made[-1].traces


@pytest.mark.parametrize("classic", [c for c in HOLDING if c.name not in MANY], ids=name)
def test_naive_enumeration_has_as_many_traces(classic, monkeypatch):
    found = traces(classic, Counting, monkeypatch)
    assert len(found) == classic.traces
    assert traces(classic, Merging, monkeypatch) == found


@pytest.mark.parametrize("classic", [c for c in HOLDING if c.name in MANY], ids=name)
def test_enumeration_that_merges_prefixes_of_one_trace_has_as_many_traces(classic, monkeypatch):
    assert len(traces(classic, Merging, monkeypatch)) == classic.traces
