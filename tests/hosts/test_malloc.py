# SPDX-License-Identifier: Apache-2.0
"""What C and C++ libraries get from malloc is charged, and a limit ends in a MemoryError."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap

import pytest
from environment import environment

TIMEOUT_S = 300

# Each defines `work`, which yields objects that hold the library's memory, when it has warmed up.
WORK = {
    "lxml": """
        import lxml.etree
        text = b"<a>%s</a>" % b"".join(b'<b x="%d">text %d</b>' % (i, i) for i in range(10_000))
        lxml.etree.fromstring(text)
        def work():
            for _ in range(15):
                yield lxml.etree.fromstring(text)
    """,
    "pillow": """
        from PIL import Image
        image = Image.new("RGB", (1200, 1000))
        image.resize((10, 10))
        def work():
            for _ in range(12):
                yield image.resize((1300, 1000))
    """,
    "sqlite3": """
        import sqlite3
        sqlite3.connect(":memory:").execute("create table t(x)")
        def work():
            db = sqlite3.connect(":memory:")
            db.execute("create table t(x)")
            for i in range(300):
                db.executemany("insert into t values(?)", [("%06d" % j * 20,) for j in range(1000)])
                yield db
    """,
    "ssl": """
        import ssl
        ssl.create_default_context()
        def work():
            for _ in range(100):
                yield ssl.create_default_context()
    """,
    "sklearn": """
        import numpy
        from sklearn.ensemble import RandomForestClassifier
        x = numpy.random.default_rng(1).random((20_000, 20), "f4")
        y = x[:, 0] + x[:, 1] * x[:, 2] > 0.7
        RandomForestClassifier(2).fit(x[:100], y[:100])
        def work():
            for i in range(4):
                yield RandomForestClassifier(40, random_state=i, bootstrap=False).fit(
                    x, numpy.random.default_rng(i).random(20_000) > 0.5)
    """,
    "matplotlib": """
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot
        def draw():
            figure = matplotlib.pyplot.figure(figsize=(20, 10))
            figure.add_subplot().plot(range(10))
            figure.canvas.draw()
            return figure
        draw()
        def work():
            for _ in range(8):
                yield draw()
    """,
    "cv2": """
        import cv2, numpy
        image = numpy.zeros((3000, 4000), "u1")
        cv2.GaussianBlur(image, (31, 31), 5)
        def work():
            for _ in range(8):
                yield cv2.GaussianBlur(image, (31, 31), 5)
    """,
    "xgboost": """
        import numpy, xgboost
        x = numpy.random.default_rng(1).random((200_000, 40), "f4")
        xgboost.DMatrix(x[:10])
        def work():
            for _ in range(2):
                yield xgboost.DMatrix(x)
    """,
}

MEASURE = """
import ctypes, json, sys
import memcg
memcg.install(malloc=True)

def resident():
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * int(next(line for line in file if line.startswith("Rss:")).split()[1])

kept, found = [], {}
before = resident()
try:
    with memcg.scope("a", max=int(sys.argv[1])) as group:
        for made in work():
            kept.append(made)
        found["rss"] = resident() - before
        found["charged"] = group.current
except MemoryError as error:
    found["error"] = type(error).__name__
    found["cause"] = type(error.__cause__).__name__
found["peak"] = group.peak
print(json.dumps(found))
"""


def run(work: str, limit: int) -> dict[str, object]:
    code = textwrap.dedent(work) + MEASURE
    done = subprocess.run(
        [sys.executable, "-m", "memcg", "run", "-c", code, str(limit)],
        env=environment() | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("library", WORK)
def test_what_it_holds_is_charged_and_half_of_that_as_limit_raises(library):
    found = run(WORK[library], 1 << 40)
    # what lies in free pages of glibc's and in thread stacks is not charged
    assert 0.95 <= found["charged"] / found["rss"] <= 1.3, found
    half = found["charged"] // 2
    stopped = run(WORK[library], half)
    assert "error" in stopped, stopped
    # small requests are never refused; the alarm stops the loop at the next line
    assert stopped["peak"] <= half + (16 << 20), stopped


# Each defines `work`, which asks for more than 20 MiB at once, and says what the library raises.
RAISES = {
    "cv2": (
        "import cv2, numpy\nimage = numpy.zeros((3000, 3000), 'u1')\nsift = cv2.SIFT_create()\n"
        "def work(): return sift.detect(image)",
        "error",
    ),
    "duckdb": (
        # Without --pools its own threads charge the root, and it may be they that do the work.
        "import duckdb\ndb = duckdb.connect()\n"
        "if not POOLS: db.execute('set threads = 1')\n"
        "def work(): db.execute('create table t as select hash(i) h from range(9000000) r(i)')",
        "OutOfMemoryException",
    ),
    "pyarrow": (
        "import pyarrow\ndef work(): return pyarrow.nulls(9_000_000, pyarrow.int64())",
        "NoneType",  # ArrowMemoryError is a MemoryError, and leaves the group as it is
    ),
    "torch": ("import torch\ndef work(): return torch.zeros(9_000_000)", "RuntimeError"),
    "xgboost": (
        "import numpy, xgboost\nx = numpy.zeros((200_000, 40), 'f4')\n"
        "def work(): return xgboost.DMatrix(x)",
        "XGBoostError",
    ),
}
REFUSED = """
import memcg
try:
    with memcg.scope("a", max="20MiB"):
        work()
except MemoryError as error:
    print(type(error).__name__, type(error.__cause__).__name__)
    assert memcg.root.current < 400 << 20
"""


@pytest.mark.parametrize("library", RAISES)
@pytest.mark.parametrize("options", [(), ("--pools",)])
def test_what_a_library_raises_when_it_is_refused_leaves_the_group_as_a_memory_error(
    library, options
):
    if not importlib.util.find_spec(library):
        pytest.skip(f"{library} is not installed; the environment of `make coverage-table` has it")
    code, cause = RAISES[library]
    done = subprocess.run(
        [sys.executable, "-m", "memcg", "run", *options, "-c",
         f"POOLS = {bool(options)}\n{code}\n{REFUSED}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kind = "ArrowMemoryError" if cause == "NoneType" else "MemcgOOM"
    assert done.stdout.split() == [kind, cause]
