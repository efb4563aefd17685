"""The demo's figures are those of the running system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import memcg

REPOSITORY = Path(__file__).parent.parent


def test_the_demo_shows_right_results_and_the_whole_life_of_a_child():
    environment = {**os.environ, "PYTHONPATH": str(Path(memcg.__file__).parent.parent)}
    out = subprocess.run(
        [sys.executable, "-W", "error", str(REPOSITORY / "examples" / "demo.py")],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout.count("complete and right") == 3
    steps = [
        "group made", "served by the root", "asked for", "memcg_slab_mutex -> slab_mutex",
        "demo", "offline", "last object freed", "root cache destroyed",
    ]  # fmt: skip
    places = [out.stdout.find(step, out.stdout.find("-- the life")) for step in steps]
    assert -1 not in places
    assert "holds frame(0:demo)" in out.stdout
    assert "root current 0 bytes" in out.stdout
