# SPDX-License-Identifier: Apache-2.0
"""Metrics of memcg's groups for OpenTelemetry: call `instrument`."""

from .integrations.opentelemetry import instrument

__all__ = ["instrument"]
