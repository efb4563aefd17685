# SPDX-License-Identifier: Apache-2.0
"""The flaws of the old scheme and of the patch as written, pinned with their minimal schedules."""

from __future__ import annotations

import pytest

from memcg.verify import explore, replay, seam
from memcg.verify.scheme.schemes import FLAWS, Old, Patch


@pytest.mark.parametrize("name", FLAWS)
def test_a_flaw_is_found_within_fifty_executions_at_its_pinned_schedule(name):
    flaw = FLAWS[name]
    result = flaw.explore()
    assert result.failure is not None
    assert type(result.failure.exception) is flaw.finding
    assert result.executions <= 50
    assert (result.failure.replay, result.failure.minimal) == (flaw.replay, True)


@pytest.mark.parametrize("name", FLAWS)
def test_the_pinned_schedule_replays_the_flaw(name):
    flaw = FLAWS[name]
    assert type(replay(flaw.program, flaw.replay, **flaw.options).exception) is flaw.finding


def old_creators():
    m = Old()
    seam.parallel(m.create_child, m.create_child)
    m.finish()


def old_creation_and_offline_by_work_items():
    m = Old()
    m.create_child()
    work = m.offline()
    seam.parallel(lambda: [m.destroy_work(s) for s in work])
    m.finish()


def patch_creators():
    m = Patch()
    seam.parallel(m.create_work, m.create_work)
    m.finish()


def patch_offline_and_root_destruction():
    m = Patch()
    m.create_work()
    seam.parallel(m.offline, m.destroy_root)
    m.finish()


@pytest.mark.parametrize(
    "program",
    [old_creators, old_creation_and_offline_by_work_items, patch_creators,
     patch_offline_and_root_destruction],
)  # fmt: skip
def test_what_a_scheme_does_right_passes(program):
    assert explore(program).check().passed
