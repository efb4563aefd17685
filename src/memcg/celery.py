# SPDX-License-Identifier: Apache-2.0
"""Celery's tasks in groups: use `MemcgTask` as the base class of tasks."""

from .hooks import install
from .integrations import jobs
from .integrations.celery import MemcgTask

jobs.install = install

__all__ = ["MemcgTask"]
