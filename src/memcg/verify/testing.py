# SPDX-License-Identifier: Apache-2.0
"""A test of pytest that runs under every schedule of its threads.

`pytest_memcg` has the marker ``explore`` and the option ``--explore-replay``, and loads this file
when a test has the marker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest

from .errors import NondeterminismError, VerifyError
from .explorer import Failure, explore, replay
from .patching import patch

_FOR_BOTH = ("max_steps", "interrupts", "forks", "timeouts", "track")  # options of a replay, too


def run(
    item: pytest.Function, program: Callable[[], Any], schedule: str | None, *,
    patch: Iterable[str | ModuleType] = (), **options: Any,
) -> None:  # fmt: skip
    """Explore a test, or run one schedule of it. What was found goes into the test's report.

    A test whose options bound the exploration passes without being exhausted.
    """
    __tracebackhide__ = True
    try:
        failure, problem = _run(item, program, schedule, patch, options)
    except (NondeterminismError, VerifyError, TypeError, ValueError) as error:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)
    if failure is not None:
        item.user_properties.append(("explore_replay", failure.replay))
        pytest.fail(_text(item, failure), pytrace=False)
    if problem:
        pytest.fail(problem, pytrace=False)


def _run(
    item: pytest.Function, program: Callable[[], Any], schedule: str | None,
    modules: Iterable[str | ModuleType], options: dict[str, Any],
) -> tuple[Failure | None, str]:  # fmt: skip
    with patch(*modules):
        if schedule is not None:
            return replay(
                program, schedule, **{k: options[k] for k in _FOR_BOTH if k in options}
            ), ""
        result = explore(program, **options)
    item.user_properties += [
        ("explore_schedules", result.schedules), ("explore_exhausted", result.exhausted),
    ]  # fmt: skip
    bounded = "max_schedules" in options or options.get("strategy", "dpor") not in ("dpor", "naive")
    if result.exhausted or (bounded and not result.why):
        return result.failure, str(result.failures[0]) if result.failures else ""
    why = f": {result.why}" if result.why else ""
    return result.failure, f"not exhausted after {result.schedules} schedules{why}"


def _text(item: pytest.Function, failure: Failure) -> str:
    return f"{failure}\n\nrun it again: pytest {item.nodeid!r} --explore-replay {failure.replay!r}"
