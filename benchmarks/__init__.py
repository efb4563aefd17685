# SPDX-License-Identifier: Apache-2.0
"""Measure how fast memcg is beside its peers. Each question has a file; ``run.py`` asks them."""
