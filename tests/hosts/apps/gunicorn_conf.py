# SPDX-License-Identifier: Apache-2.0
"""gunicorn's configuration with memcg's hooks."""

from memcg.gunicorn import on_starting, post_fork

__all__ = ["on_starting", "post_fork"]
