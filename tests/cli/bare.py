# SPDX-License-Identifier: Apache-2.0
"""``memcg run`` in a process where nothing is installed. All but the hooks is as it ships."""

from __future__ import annotations

import sys

from memcg.cli import run
from memcg.cli._system import System


class Bare(System):
    def install(self) -> None:
        pass


if __name__ == "__main__" and (status := run.start(sys.argv[1:], system=Bare())):
    sys.exit(status)
