"""``python -m memcg``: the same as the console script ``memcg``."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
