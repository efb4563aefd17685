# SPDX-License-Identifier: Apache-2.0
"""Metrics of memcg's groups for Prometheus: register a `MemcgCollector`."""

from .integrations.prometheus import MemcgCollector

__all__ = ["MemcgCollector"]
