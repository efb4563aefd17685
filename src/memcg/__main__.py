# SPDX-License-Identifier: Apache-2.0
"""``python -m memcg`` does the same as the console script ``memcg``."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__" and (status := main()):  # python -i would show a SystemExit(0)
    sys.exit(status)
