# SPDX-License-Identifier: Apache-2.0
"""How fast memcg is beside its peers: one file per question. ``python benchmarks/run.py``."""
