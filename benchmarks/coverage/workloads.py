# SPDX-License-Identifier: Apache-2.0
"""Small programs, each of which holds about 100 MB in one library.

A workload is a function. It imports its library and warms it up, and returns a function that does
the work: a generator that yields what is to be held.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Work = Callable[[], Iterator[Any]]


class Workload(NamedTuple):
    """A program of the table."""

    name: str
    library: str  # the distribution whose version is shown; "" is Python itself
    prepare: Callable[[], Work]
    by_peak: bool  # it holds nothing at its end, so its peak is compared


WORKLOADS: dict[str, Workload] = {}


def workload(
    name: str, library: str = "", by_peak: bool = False
) -> Callable[[Callable[[], Work]], Callable[[], Work]]:
    def add(prepare: Callable[[], Work]) -> Callable[[], Work]:
        WORKLOADS[prepare.__name__] = Workload(name, library, prepare, by_peak)
        return prepare

    return add


def random_words(n: int, length: int = 40) -> list[str]:
    return [hashlib.sha256(b"%d" % i).hexdigest()[:length] for i in range(n)]


@workload("json: 12 documents")
def json_documents() -> Work:
    text = json.dumps([{"id": i, "name": f"name {i}", "tags": [i, i + 1]} for i in range(20_000)])

    def work() -> Iterator[Any]:
        for _ in range(12):
            yield json.loads(text)

    return work


@workload("xml.etree: 8 trees")
def etree_trees() -> Work:
    import xml.etree.ElementTree as etree

    text = "<a>" + "".join(f'<b x="{i}">text {i}</b>' for i in range(40_000)) + "</a>"
    etree.fromstring("<a/>")

    def work() -> Iterator[Any]:
        for _ in range(8):
            yield etree.fromstring(text)

    return work


@workload("zlib: 400 compressors")
def zlib_compressors() -> Work:
    import zlib

    data = os.urandom(1 << 18)
    zlib.compressobj().compress(data)

    def work() -> Iterator[Any]:
        for _ in range(400):
            made = zlib.compressobj(9)
            made.compress(data)
            yield made

    return work


@workload("numpy: 40 arrays, sorted", "numpy")
def numpy_arrays() -> Work:
    import numpy

    random = numpy.random.default_rng(1)
    numpy.sort(random.random(1000))

    def work() -> Iterator[Any]:
        for _ in range(40):
            yield numpy.sort(random.random(400_000))

    return work


@workload("orjson: 8 documents, read and written", "orjson")
def orjson_documents() -> Work:
    import orjson

    text = orjson.dumps([{"id": i, "name": f"name {i}", "x": [i, i]} for i in range(25_000)])
    orjson.loads(text[:0] + b"[1]")

    def work() -> Iterator[Any]:
        for _ in range(8):
            made = orjson.loads(text)
            yield made, orjson.dumps(made)

    return work


@workload("lzma: 4 compressors")
def lzma_compressors() -> Work:
    import lzma

    data = os.urandom(1 << 20)
    lzma.compress(b"x")

    def work() -> Iterator[Any]:
        for _ in range(4):
            made = lzma.LZMACompressor(preset=6)
            yield made, made.compress(data)

    return work


@workload("torch: tensors, a step of Adam", "torch")
def torch_tensors() -> Work:
    import torch

    def step(width: int) -> Any:
        model = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
        )
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.rand(64, width)).sum().backward()
        optimizer.step()
        return model, optimizer

    step(10)

    def work() -> Iterator[Any]:
        for _ in range(50):
            yield torch.rand(500_000)
        yield step(1500)

    return work


@workload("pyarrow: a table of strings, sorted", "pyarrow")
def arrow_table() -> Work:
    import pyarrow
    import pyarrow.compute

    words = random_words(100_000)
    pyarrow.table({"a": words[:10]}).sort_by("a")

    def work() -> Iterator[Any]:
        for _ in range(8):
            table = pyarrow.table({"a": words, "b": range(len(words))})
            yield table, pyarrow.compute.utf8_upper(table["a"]), table.sort_by("a")

    return work


@workload("pyarrow: a parquet file, read", "pyarrow")
def arrow_parquet() -> Work:
    import numpy
    import pyarrow
    import pyarrow.parquet

    random = numpy.random.default_rng(1)
    file = tempfile.NamedTemporaryFile(suffix=".parquet")  # noqa: SIM115 - until the process ends
    table = pyarrow.table({f"x{i}": random.random(2_000_000) for i in range(8)})
    pyarrow.parquet.write_table(table, file.name)
    small = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table.slice(0, 10), small)
    pyarrow.parquet.read_table(pyarrow.BufferReader(small.getvalue()))
    del table, small

    def work() -> Iterator[Any]:
        yield pyarrow.parquet.read_table(file.name)

    return work


@workload("polars: strings, sorted and grouped", "polars")
def polars_frame() -> Work:
    import polars

    def frame(n: int) -> Any:
        made = polars.select(polars.int_range(n).alias("i")).with_columns(
            s=polars.lit("row ") + polars.col("i").hash(1).cast(polars.String)
        )
        return made, made.sort("s"), made.group_by(polars.col("i") % 1000).len()

    frame(100)

    def work() -> Iterator[Any]:
        yield frame(1_000_000)

    return work


@workload("pandas: a column of strings", "pandas")
def pandas_strings() -> Work:
    import pandas

    words = random_words(100_000)
    pandas.Series(words[:10], dtype="str").str.upper()

    def work() -> Iterator[Any]:
        for _ in range(10):
            column = pandas.Series(words, dtype="str")
            yield column, column.str.upper()

    return work


@workload("duckdb: a table in memory", "duckdb")
def duckdb_table() -> Work:
    import duckdb

    duckdb.connect().execute("create table t as select 1").fetchall()

    def work() -> Iterator[Any]:
        db = duckdb.connect()
        db.execute("create table t as select i, hash(i) h, 'row ' || i s from range(3000000) r(i)")
        yield db

    return work


@workload("lxml: 40 trees", "lxml")
def lxml_trees() -> Work:
    import lxml.etree

    text = b"<a>%s</a>" % b"".join(b'<b x="%d">text %d</b>' % (i, i) for i in range(10_000))
    lxml.etree.fromstring(text)

    def work() -> Iterator[Any]:
        for _ in range(40):
            yield lxml.etree.fromstring(text)

    return work


@workload("Pillow: 26 images", "pillow")
def pillow_images() -> Work:
    from PIL import Image

    image = Image.new("RGB", (1200, 1000))
    image.resize((10, 10))

    def work() -> Iterator[Any]:
        for _ in range(26):
            yield image.resize((1300, 1000))

    return work


@workload("OpenCV: 10 blurred images, SIFT", "opencv-python-headless")
def opencv_images() -> Work:
    import cv2
    import numpy

    image = numpy.random.default_rng(1).integers(0, 255, (3000, 4000), "u1")
    cv2.GaussianBlur(image[:100], (31, 31), 5)
    sift = cv2.SIFT_create(1000)

    def work() -> Iterator[Any]:
        for _ in range(8):
            yield cv2.GaussianBlur(image, (31, 31), 5)
        yield sift.detectAndCompute(image[:500, :500], None)

    return work


@workload("sqlite3: a table in memory")
def sqlite_table() -> Work:
    import sqlite3

    sqlite3.connect(":memory:").execute("create table t(x)")

    def work() -> Iterator[Any]:
        db = sqlite3.connect(":memory:")
        db.execute("create table t(x)")
        for _ in range(800):
            db.executemany("insert into t values(?)", [(f"{j:06d}" * 20,) for j in range(1000)])
            yield db

    return work


@workload("ssl: 100 contexts")
def ssl_contexts() -> Work:
    import ssl

    ssl.create_default_context()

    def work() -> Iterator[Any]:
        for _ in range(100):
            yield ssl.create_default_context()

    return work


@workload("scikit-learn: random forests", "scikit-learn")
def sklearn_forests() -> Work:
    import numpy
    from sklearn.ensemble import RandomForestClassifier

    random = numpy.random.default_rng(1)
    x = random.random((20_000, 20), "f4")
    RandomForestClassifier(2).fit(x[:100], x[:100, 0] > 0.5)

    def work() -> Iterator[Any]:
        for i in range(4):
            made = RandomForestClassifier(40, random_state=i, bootstrap=False)
            yield made.fit(x, random.random(20_000) > 0.5)

    return work


@workload("scipy and scikit-learn: trees of neighbours", "scipy")
def neighbours() -> Work:
    import numpy
    from scipy.spatial import cKDTree
    from sklearn.neighbors import NearestNeighbors

    points = numpy.random.default_rng(1).random((300_000, 8))
    cKDTree(points[:100])
    NearestNeighbors().fit(points[:100])

    def work() -> Iterator[Any]:
        for _ in range(2):
            yield cKDTree(points, copy_data=True)
            yield NearestNeighbors(algorithm="kd_tree").fit(points.copy())

    return work


@workload("xgboost: matrices, a model", "xgboost")
def xgboost_matrices() -> Work:
    import numpy
    import xgboost

    x = numpy.random.default_rng(1).random((200_000, 40), "f4")
    y = x[:, 0] > x[:, 1]
    parameters = {"tree_method": "hist", "nthread": 2, "max_depth": 4}
    xgboost.train(parameters, xgboost.DMatrix(x[:100], y[:100]), 1)

    def work() -> Iterator[Any]:
        made = xgboost.DMatrix(x, y)
        yield made, xgboost.train(parameters, made, 2)
        yield xgboost.DMatrix(x, y)

    return work


@workload("matplotlib: 12 figures", "matplotlib")
def matplotlib_figures() -> Work:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    def draw() -> Any:
        figure = matplotlib.pyplot.figure(figsize=(20, 14))
        figure.add_subplot().plot(range(10))
        figure.canvas.draw()
        return figure

    draw()

    def work() -> Iterator[Any]:
        for _ in range(12):
            yield draw()

    return work


@workload("protobuf: 40 messages", "protobuf")
def protobuf_messages() -> Work:
    from google.protobuf import struct_pb2

    def message(n: int) -> Any:
        made = struct_pb2.ListValue()
        for i in range(n):
            made.values.add().string_value = f"value {i}"
        return made

    message(10)

    def work() -> Iterator[Any]:
        for _ in range(40):
            yield message(20_000)

    return work


@workload("zstandard: 4 compressors at level 19", "zstandard")
def zstandard_compressors() -> Work:
    import zstandard

    data = os.urandom(1 << 23)
    zstandard.ZstdCompressor().compress(b"x")

    def work() -> Iterator[Any]:
        for _ in range(4):
            made = zstandard.ZstdCompressor(level=19)
            yield made, made.compress(data)

    return work


@workload("mmap: 10 maps")
def mmaps() -> Work:
    import mmap

    mmap.mmap(-1, 4096).close()

    def work() -> Iterator[Any]:
        for _ in range(10):
            made = mmap.mmap(-1, 10 << 20)
            for at in range(0, len(made), 4096):
                made[at] = 1
            yield made

    return work


@workload("numpy.memmap: 10 files", "numpy")
def memmaps() -> Work:
    import numpy

    folder = tempfile.TemporaryDirectory()

    def work() -> Iterator[Any]:
        for i in range(10):
            made = numpy.memmap(f"{folder.name}/{i}", "u1", "w+", shape=10 << 20)
            made[:] = 1
            yield made

    return work


@workload("multiprocessing.shared_memory: 10 blocks")
def shared_memories() -> Work:
    from multiprocessing import shared_memory

    class Memory(shared_memory.SharedMemory):
        def __del__(self) -> None:
            self.unlink()
            super().__del__()

    Memory(create=True, size=4096)

    def work() -> Iterator[Any]:
        for _ in range(10):
            made = Memory(create=True, size=10 << 20)
            made.buf[:] = bytes(10 << 20)
            yield made

    return work


@workload("threading: 300 threads that recurse")
def deep_threads() -> Work:
    def recurse(n: int, reached: Any, go: threading.Event) -> None:
        if n:
            recurse(n - 1, reached, go)
        else:
            reached.release()
            go.wait()

    class Threads:
        def __init__(self) -> None:
            self.go = threading.Event()

        def __del__(self) -> None:
            self.go.set()

    def work() -> Iterator[Any]:
        held, reached = Threads(), threading.Semaphore(0)
        for _ in range(300):
            threading.Thread(target=recurse, args=(700, reached, held.go), daemon=True).start()
            reached.acquire()
            yield held

    return work


@workload("hashlib: scrypt, 128 MiB for a moment", by_peak=True)
def scrypt() -> Work:
    hashlib.scrypt(b"x", salt=b"x", n=16, r=8, p=1)

    def work() -> Iterator[Any]:
        hashlib.scrypt(b"x", salt=b"x", n=1 << 17, r=8, p=1, maxmem=1 << 28)
        yield io.BytesIO()

    return work
