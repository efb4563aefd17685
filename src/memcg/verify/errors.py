# SPDX-License-Identifier: Apache-2.0
"""What an exploration reports: each is a defect of the program that was explored."""

from __future__ import annotations


class VerifyError(Exception):
    """The base of what the explorer reports."""


class Deadlock(VerifyError):
    """No task can go on, and some have not ended."""


class Livelock(VerifyError):
    """An execution passed the bound on its steps."""


class LockError(VerifyError):
    """A mutex was taken twice by one task, or released by a task that does not hold it."""


class GuardViolation(VerifyError):
    """A field was touched by a task that does not hold the mutex declared for it."""


class DataRace(VerifyError):
    """Two tasks touched an undeclared field, one of them writing, and nothing orders them."""


class UseAfterFree(VerifyError):
    """An object was touched after it was freed, or nothing orders the touch before the free."""


class NondeterminismError(Exception):
    """The program did something else when the same schedule was run again: explore nothing."""


class Abandoned(BaseException):
    """Unwinds a task whose execution is over. Never caught by a program that means well."""
