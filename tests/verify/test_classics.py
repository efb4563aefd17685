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
}  # fmt: skip
TOO_MANY = {"four with an order of forks", "five with an order of forks"}


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


COUNTED = [
    pytest.param(c, marks=pytest.mark.long) if c.name in MANY else c
    for c in HOLDING
    if c.name not in TOO_MANY
]


@pytest.mark.parametrize("classic", COUNTED, ids=name)
def test_naive_enumeration_has_as_many_traces(classic, monkeypatch):
    traces = set()

    class Counting(strategies.Exhaustive):
        def end(self, run):
            traces.add(trace_of(run))
            return super().end(run)

    monkeypatch.setattr(explorer, "Exhaustive", Counting)
    result = explore(classic.program, audit=False, stop=False, strategy="naive")
    assert result.exhausted
    assert len(traces) == classic.traces
