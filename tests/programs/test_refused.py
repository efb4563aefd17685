# SPDX-License-Identifier: Apache-2.0
"""A refusal reaches the offender, even through code that would crash on it or hides it."""

from __future__ import annotations

import importlib.util

import pytest


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


WHERE = pytest.mark.parametrize("where", ["in_main", "in_thread"])
QUIET = "import logging; logging.getLogger('asyncio').disabled = True\n"

# ---- libraries that must not be refused


@needs("greenlet")
@WHERE
def test_a_greenlet_that_meets_its_limit_gets_the_error_and_the_process_goes_on(run_program, where):
    """The greenlet's loop has no check between an allocation and the switch."""
    run_program(f"""
        import greenlet
        g = memcg.group("hog", max="2MiB", reserve="256KiB")
        def main():
            main, out = greenlet.getcurrent(), []
            def hog():
                try:
                    with g:
                        rows = None
                        while True:
                            rows = [rows, 1]
                            main.switch()
                except MemoryError as error:
                    out.append(type(error))
            hogs = greenlet.greenlet(hog)
            while not hogs.dead:
                hogs.switch()
            assert len(out) == 1 and issubclass(out[0], MemoryError), out
        {where}(main)
        """)


@needs("greenlet")
@WHERE
def test_a_greenlet_is_left_and_entered_past_the_reserve(run_program, where):
    """The stack that it saves is larger than a request that would be refused there."""
    run_program(f"""
        import greenlet
        g = memcg.group("hog", max="8MiB", reserve="64KiB")
        def main():
            main = greenlet.getcurrent()
            def deep(n):
                return main.switch() if n == 0 else max([n], key=lambda n: deep(n - 1))
            def hog():
                with g, memcg.shield():
                    keep = [bytes(60_000) for _ in range(130)]
                    while g.current < (8 << 20) + (64 << 10):
                        keep.append(bytes(500))
                    try:
                        bytes(30_000)
                    except MemoryError:
                        deep(20)
                    else:
                        raise AssertionError("the reserve is not used up")
                    keep.clear()
            one = greenlet.greenlet(hog)
            one.switch()
            before = g.events["fail"]
            one.switch()
            assert one.dead and before >= 1
        {where}(main)
        """)


@needs("cv2", "numpy")
@WHERE
def test_opencv_gets_its_array_and_the_line_after_it_the_error(run_program, where):
    """On 3.11 a thread goes on until the worker has had the GIL: a switch interval, which is two or
    three images, and twice that were seen where other programs had the processors."""
    run_program(f"""
        import cv2, numpy as np
        image = np.zeros((1500, 1500, 3), "u1")
        g = memcg.group("t", max="60MB", reserve="1MiB")
        def main():
            keep = []
            try:
                with g:
                    while True:
                        keep.append(cv2.add(image, image))
            except MemoryError:  # the alarm, or the next line's refusal at the ceiling
                assert g.peak < 60e6 + {3 if where == "in_main" else 6} * image.nbytes, g.peak
            else:
                raise AssertionError
        {where}(main)
        """)


# Each of these crashed when its request was refused.
CRASHES = {
    "bottleneck": (
        "import bottleneck, numpy as np; x = np.ones(500_000)", "bottleneck.move_mean(x, 5)"
    ),
    "cv2": ("import cv2, numpy as np; x = np.zeros((1500, 1500), 'u1')", "cv2.add(x, x)"),
    "msgspec": ("import msgspec; x = ['x' * 5000] * 500", "msgspec.json.encode(x)"),
    "orjson": ("import orjson; x = ['x' * 5000] * 500", "orjson.dumps(x)"),
    "ormsgpack": ("import ormsgpack; x = ['x' * 5000] * 500", "ormsgpack.packb(x)"),
}  # fmt: skip


@WHERE
@pytest.mark.parametrize(
    ("setup", "call"),
    [pytest.param(*code, marks=needs(name, "numpy"), id=name) for name, code in CRASHES.items()],
)
def test_a_library_that_would_crash_is_not_refused_and_its_caller_gets_the_error(
    run_program, where, setup, call
):
    run_program(f"""
        {setup}
        g = memcg.group("t", max="16MiB", reserve="1MiB")
        def main():
            keep = []
            {call}
            try:
                with g:
                    while len(keep) < 100:
                        keep.append({call})
            except MemoryError:
                assert 3 <= len(keep) < 20, (len(keep), g)
            else:
                raise AssertionError
        {where}(main)
        """)


@needs("cv2", "greenlet", "numpy")
def test_other_code_is_refused_with_these_libraries_loaded_and_inside_a_greenlet(run_program):
    run_program("""
        import cv2, greenlet, numpy as np
        g = memcg.group("t", max="8MiB")
        def refused():
            with g:
                for make in (bytes, bytearray, np.empty):
                    try:
                        make(9 << 20)
                    except MemoryError:
                        continue
                    raise AssertionError(make)
            return True
        assert refused()
        assert greenlet.greenlet(refused).switch()
        assert g.events["fail"] == 6 and not g.events["reserve"], dict(g.events)
        """)


# ---- refusals where the offender's code does not run


READ_ALL = """
async def main():
    with memcg.scope("t", max="8MiB") as g:
        # It writes 50 MB and then waits: only the end of the pipe ends it.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c",
            "import os\\nfor _ in range(50): os.write(1, bytes(10**6))\\nos.read(0, 1)",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        task = asyncio.create_task({read})
        await asyncio.wait([task])
        error = task.exception()
        assert isinstance(error, MemoryError), error
        error.__traceback__ = None  # which frees what its frames hold
        refused = g.events["fail"]
        assert refused < 100, refused
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
run(main())
"""
LOOPS = pytest.mark.parametrize(
    "loop",
    ["run = asyncio.run", pytest.param("import uvloop; run = uvloop.run", marks=needs("uvloop"))],
    ids=["asyncio", "uvloop"],
)


@LOOPS
@pytest.mark.parametrize("read", ["process.communicate()", "process.stdout.read()"])
def test_a_child_that_writes_too_much_is_an_error_of_the_task_that_reads_it(
    run_program, loop, read
):
    run_program(QUIET + loop + READ_ALL.format(read=read), timeout=30)


def test_a_task_gets_the_alarm_for_what_asyncio_reads_for_it(run_program):
    run_program(
        QUIET
        + """
async def main():
    out = []
    g = memcg.group("t", max="8MiB")
    def put(keep, block):
        keep.append(block)
    async def keep_all(reader):
        keep = []
        try:
            with g:
                while block := await reader.read(1 << 20):
                    put(keep, block)
        except memcg.MemcgOOM as error:
            out.append(error)
    with g:
        process = await asyncio.create_subprocess_exec(
            "head", "-c", "50000000", "/dev/zero", stdout=asyncio.subprocess.PIPE, limit=1 << 20
        )
    await keep_all(process.stdout)
    assert len(out) == 1 and g.events["oom_kill"] == 1, (out, dict(g.events))
    assert g.peak < 12 * MIB, g.peak  # long before the reserve is used up
    process.kill()
    await process.wait()
asyncio.run(main())
"""
    )


def test_a_pipe_ends_when_its_protocol_is_refused(run_program):
    """Data that the protocol cannot keep is not lost silently."""
    run_program(
        QUIET
        + """
class Keep(asyncio.Protocol):
    def __init__(self):
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()
    def data_received(self, data):
        self.data += data
    def connection_lost(self, error):
        self.lost.set_result(error)
async def main():
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    def fill():
        with contextlib.suppress(BrokenPipeError):
            for _ in range(1000):
                os.write(write, bytes(65536))
        os.close(write)
    with memcg.scope("t", max="8MiB", reserve="0"):
        _, protocol = await loop.connect_read_pipe(Keep, os.fdopen(read, "rb", 0))
        thread = threading.Thread(target=fill); thread.start()
        error = await protocol.lost
        protocol.data.clear()
    assert isinstance(error, MemoryError), error
    thread.join()
asyncio.run(main())
"""
    )


def test_an_import_at_the_limit_is_not_cut_in_two(run_program, tmp_path):
    """The file's buffer and bytes are larger than 64 KiB. The importer gets the alarm."""
    (tmp_path / "large.py").write_text(f"text = {'x' * 300_000!r}\n")
    run_program(f"""
        sys.path.insert(0, {str(tmp_path)!r})
        g = memcg.group("t", max="8MiB", high="max")
        keep, imported = [], False
        try:
            with g:
                while g.current + 60_000 < 8 * MIB:
                    keep.append(bytes(50_000))
                import large
                imported = True
                while True:
                    keep.append(bytes(100))
        except memcg.MemcgOOM:
            assert g.events["fail"] == 0, dict(g.events)
        else:
            raise AssertionError
        assert "large" in sys.modules or not imported
        """)


def test_past_the_reserve_a_guarded_module_is_refused(run_program):
    run_program("""
        import weakref  # a guarded module
        g = memcg.group("t", max="8MiB", reserve="1MiB")
        exec("def call(fn, n): return fn(n)", vars(weakref))
        with g:
            block = weakref.call(bytearray, 9 * MIB - 300_000)
            try:
                weakref.call(bytearray, 2 * MIB)
            except MemoryError:
                del block
            else:
                raise AssertionError
        assert g.events["fail"] == 1 and g.events["reserve"] >= 1, dict(g.events)
        """)


@WHERE
def test_a_guarded_module_is_found_by_name_whatever_its_globals_hold(run_program, where):
    """A hook does not call the __eq__ of the globals' keys."""
    run_program(f"""
        class Key:
            def __hash__(self): return hash("__name__")
            def __eq__(self, other):
                compared.append(other)
                return False
        compared = []
        spaces = [
            {{Key(): 1, "__name__": "asyncio.x"}}, {{"__name__": 1}}, {{"__name__": "asyncios"}},
            {{"__name__": "\\u0430syncio"}}, {{}},
        ]
        compared.clear()
        g = memcg.group("t", max="8MiB")
        def main():
            refused = []
            same, nothing = dict(spaces[0]), compile("", "f", "exec")
            compared.clear()
            exec(nothing, same)  # a text's compilation looks at the name too, since 3.15
            by_cpython = len(compared)
            compared.clear()
            for space in spaces:
                code = compile("result = fn(9 << 20)", "f", "exec")
                space["fn"] = bytearray
                before = g.events["fail"]
                with contextlib.suppress(MemoryError), g:
                    exec(code, space)
                refused.append(g.events["fail"] > before)
                space.clear()
            assert refused == [False, True, True, True, True], refused
            assert len(compared) == by_cpython, compared
        {where}(main)
        """)


# ---- refusals that C code answers with another error


@pytest.fixture
def other_error(run_program):
    """Run code with a parser that is refused memory and raises another error."""

    def run(code, where="in_main"):
        return run_program(
            """
import xml.etree.ElementTree as ET
text = "<a>" + "x" * 300_000 + "</a>"  # one text of 300 KB
g = memcg.group("t", max="4MiB", reserve="1MiB", high="max")
with g:
    filled = [bytes(50_000) for _ in range(75)]
def parse(text=text):
    # expat's buffer
    return ET.fromstring(text)
"""
            + code
            + f"\n{where}(main)\n"
        )

    return run


@WHERE
def test_an_error_that_a_parser_makes_of_a_refusal_leaves_as_memcg_oom(other_error, where):
    other_error(
        """
def main():
    try:
        with g:
            parse()
    except memcg.MemcgOOM as error:
        assert isinstance(error.__cause__, ET.ParseError), repr(error.__cause__)
        assert "'t'" in str(error), error
    else:
        raise AssertionError
""",
        where,
    )


def test_an_error_that_a_library_makes_of_the_parsers_leaves_as_memcg_oom(other_error):
    other_error("""
class BadRequest(Exception): pass
def serve():
    try:
        parse()
    except ET.ParseError:
        raise BadRequest() from None
def main():
    try:
        with g:
            serve()
    except memcg.MemcgOOM as error:
        assert isinstance(error.__cause__, BadRequest)
    else:
        raise AssertionError
""")


@WHERE
def test_code_that_catches_the_other_error_gets_memcg_oom_when_it_leaves(other_error, where):
    other_error(
        """
def main():
    caught = 0
    try:
        with g:
            try:
                parse()
            except ET.ParseError:
                caught = 1
    except memcg.MemcgOOM as error:
        assert caught
    else:
        raise AssertionError
""",
        where,
    )


@WHERE
def test_a_loop_that_catches_the_other_error_gets_memcg_oom_soon(other_error, where):
    other_error(
        """
def main():
    caught = 0
    try:
        with g:
            while caught < 100_000:
                try:
                    parse()
                except ET.ParseError:
                    caught += 1
    except memcg.MemcgOOM as error:
        assert 1 <= caught < 50_000, caught
    else:
        raise AssertionError
""",
        where,
    )


UNRELATED = {
    "after a MemoryError that was handled": """
            try:
                bytes(9 << 20)
            except MemoryError:
                pass
            raise KeyError
""",
    "while a MemoryError is kept": """
            kept = []
            for _ in range(3):
                try:
                    bytes(9 << 20)
                except MemoryError as error:
                    kept.append(error)
            raise KeyError
""",
    "from a MemoryError": """
            try:
                bytes(9 << 20)
            except MemoryError:
                raise KeyError
""",
    "from the same line later": """
            for size in 9 << 20, None:
                try:
                    ET.fromstring("<") if size is None else bytes(size)
                except MemoryError:
                    continue
                except ET.ParseError:
                    raise KeyError
""",
    "after another error was caught": """
            try:
                parse()
            except ET.ParseError:
                pass
            raise KeyError
""",
    "that asks the program to end": """
            try:
                parse()
            except ET.ParseError:
                raise KeyboardInterrupt
""",
}


@pytest.mark.parametrize("code", UNRELATED.values(), ids=UNRELATED)
def test_an_error_that_has_nothing_to_do_with_a_refusal_stays_itself(other_error, code):
    other_error(f"""
def main():
    try:
        with g:{code}
    except (KeyError, KeyboardInterrupt) as error:
        assert g.events["fail"]
    else:
        raise AssertionError
""")


def test_a_refusal_that_was_handled_is_not_raised_again(other_error):
    other_error("""
def main():
    with g:
        for _ in range(100):
            try:
                bytes(9 << 20)
            except MemoryError:
                pass
        kept = []
        for _ in range(100):
            try:
                bytes(9 << 20)
            except MemoryError as error:
                kept.append(error)
            [str(n) for n in range(1000)]
    with g:
        pass
    assert g.events["fail"] == 200 and g.events["oom_kill"] == 0, dict(g.events)
""")


def test_a_refusal_of_another_task_or_thread_is_not_raised_here(other_error):
    other_error("""
async def refused(told):
    try:
        with g:
            with contextlib.suppress(ET.ParseError):
                parse()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    except memcg.MemcgOOM:
        told.append("refused")
async def innocent(told):
    with g:
        await asyncio.sleep(0)
    told.append("innocent")
async def both():
    told = []
    await asyncio.gather(refused(told), innocent(told))
    assert told == ["innocent", "refused"], told
def main():
    asyncio.run(both())
""")


@needs("orjson")
def test_json_that_there_is_no_memory_to_parse_is_not_called_bad(run_program):
    run_program("""
        import orjson
        text = b"[" + b",".join(b'{"a":[1.5,%d]}' % i for i in range(400_000)) + b"]"
        try:
            with memcg.scope("t", max="20MB"):
                orjson.loads(text)
        except memcg.MemcgOOM as error:
            assert isinstance(error.__cause__, orjson.JSONDecodeError)
        else:
            raise AssertionError
        try:
            with memcg.scope("t", max="20MB"):
                orjson.loads(b"[")
        except orjson.JSONDecodeError:
            pass
        """)
