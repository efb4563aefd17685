# SPDX-License-Identifier: Apache-2.0
"""memcg's own use of the explorer: its control plane in worlds of its own, and the scenarios."""
