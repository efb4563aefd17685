# SPDX-License-Identifier: Apache-2.0
"""The findings of an exploration. Each is a defect of the program that was explored."""

from __future__ import annotations


class VerifyError(Exception):
    """The base class of what the explorer reports."""


class Deadlock(VerifyError):
    """No task can go on, and some have not ended."""


class Livelock(VerifyError):
    """An execution passed the bound on its operations."""


class Stalled(Livelock):
    """A task went on for too long without an operation of the seam, or waits for something else."""


class LockError(VerifyError):
    """A mutex was taken twice by one task, or released by a task that does not hold it."""


class GuardViolation(VerifyError):
    """A task used a field without the mutex that is declared for it."""


class DataRace(VerifyError):
    """Two tasks used an undeclared field, one of them wrote it, and nothing orders the two uses."""


class UseAfterFree(VerifyError):
    """A task used an object after it was freed, or nothing orders the use before the free."""


class NondeterminismError(Exception):
    """The program did something else under the same schedule, so it cannot be explored."""


class Abandoned(BaseException):
    """It unwinds a task whose execution is over. A program must not catch it."""
