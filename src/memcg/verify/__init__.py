# SPDX-License-Identifier: Apache-2.0
"""A stateless model checker for Python code that uses threads and locks through a seam.

>>> from memcg.verify import explore, seam
>>> def program():
...     counter = seam.Published(0)
...     def increment():
...         counter.store(counter.load() + 1)
...     tasks = [seam.spawn(increment, name) for name in "ab"]
...     for task in tasks:
...         task.join()
...     assert counter.load() == 2, "an increment was lost"
>>> result = explore(program)
>>> print(type(result.failure.exception).__name__, result.failure.preemptions)
AssertionError 1
"""

from __future__ import annotations

from . import errors, seam
from .errors import NondeterminismError, VerifyError
from .explorer import Failure, Result, explore, replay
from .patching import patch

__all__ = [
    "Failure", "NondeterminismError", "Result", "VerifyError", "errors", "explore", "patch",
    "replay", "seam",
]  # fmt: skip
