# SPDX-License-Identifier: Apache-2.0
"""`memcg run` shows what plain Python shows: the same streams, byte by byte, and status."""

from __future__ import annotations

import signal
import sys
import zipfile

import pytest

from memcg import core

from .conftest import BARE, TIMEOUT_S

MAIN_ATTRIBUTES = """\
import re, sys
print(re.sub("0x[0-9a-f]+", "address", repr(globals())))
print(sys.argv, sys.path[0], sys.modules["__main__"].__dict__ is globals())
"""

CHAINED = """\
def inner():
    raise KeyError("a")
def outer():
    try:
        inner()
    except KeyError as error:
        raise ValueError("wünsch") from error
try:
    outer()
except ValueError:
    1 / 0
"""

POOL = """\
import multiprocessing as mp, os, sys
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is Point and self.x == other.x
def double(p):
    return Point(p.x * 2)
if __name__ == "__main__":
    ctx = mp.get_context(sys.argv[1])
    with ctx.Pool(2) as pool:
        print(pool.map(double, [Point(1), Point(2)]) == [Point(2), Point(4)])
    p = ctx.Process(target=sys.exit, args=(3,))
    p.start(); p.join(); print(p.exitcode)
"""

PACKAGE = {
    "pkg/__init__.py": "print('pkg', __name__)",
    "pkg/__main__.py": "from . import part; from .part import f\n" + MAIN_ATTRIBUTES + "f()",
    "pkg/part.py": "import sys\ndef f(): print(__package__, sys.argv[1:])",
    "pkg/broken.py": "def f(): raise ValueError('in module')\nf()",
}

# fmt: off
# name -> (files, arguments, stdin)
CASES: dict[str, tuple[dict[str, str | bytes], list[str], str]] = {}


def case(name: str, *args: str, files: dict[str, str | bytes] | None = None, stdin: str = ""):
    CASES[name] = (files or {}, list(args), stdin)


def script(name: str, text: str | bytes, *args: str, stdin: str = ""):
    case(name, "prog.py", *args, files={"prog.py": text}, stdin=stdin)


script("arguments, also those that look like options", "import sys; print(sys.argv)",
       "--max", "-m", "x", "--", "--report", "", "ü")
script("the attributes of __main__", MAIN_ATTRIBUTES)
case("a script named with ./ and ..", "./d/../d/prog.py", files={"d/prog.py": MAIN_ATTRIBUTES})
case("a script in another directory imports its neighbour", "d/prog.py",
     files={"d/prog.py": "import near; print(near.__file__)", "d/near.py": ""})
case("-c", "-c", MAIN_ATTRIBUTES, "a", "b")
case("-c glued", "-cprint(1)", "a")
case("-c with an exception", "-c", "def f():\n  1/0\nf()")
case("-c with a syntax error", "-c", "x = = 1")
case("-c with an indented line", "-c", "  x = 1")
case("-c with indented lines", "-c", "\n  x = '''\n    a\n\n  '''\n  print(repr(x))\n  1/0")
case("-c with tabs and blanks", "-c", "\t x = 1\n\t\tx = 2")
case("-c with a line of blanks in a text", "-c", "print(repr('''\n  \n'''))")
case("a program from stdin", "-", "a", stdin=MAIN_ATTRIBUTES + "print(sys.stdin.read())")
case("a program from stdin that fails", "-", stdin="def f():\n  1/0\nf()")
case("an empty program from stdin", "-")
case("-m of a package", "-m", "pkg", "a", files=PACKAGE)
case("-m glued", "-mpkg", "a", files=PACKAGE)
case("-m of a submodule that raises", "-m", "pkg.broken", files=PACKAGE)
case("-m of a module that is missing", "-m", "no_such_module_here")
case("-m of a submodule that is missing", "-m", "pkg.nothing", files=PACKAGE)
case("-m of a package without __main__", "-m", "p", files={"p/__init__.py": ""})
case("-m of a module with a syntax error", "-m", "bad", files={"bad.py": "x = = 1\n"})
case("-m of a standard module", "-m", "json.tool", stdin='{"a": [1, 2]}')
case("a directory with __main__", "d", "x",
     files={"d/__main__.py": MAIN_ATTRIBUTES + "import near", "d/near.py": "print('near')"})
case("the current directory", ".", "x", files={"__main__.py": MAIN_ATTRIBUTES})
case("the current directory by an empty name", "", "x", files={"__main__.py": MAIN_ATTRIBUTES})
case("the current directory without __main__", ".")
case("a directory without __main__", "d", files={"d/other.py": ""})
case("a directory whose __main__ raises", "d", files={"d/__main__.py": "1/0"})
case("a missing script", "nothing.py")
case("a missing script in a missing directory", "./no/nothing.py", "x")
script("exit 0", "import sys; sys.exit()")
script("exit 3", "import sys; sys.exit(3)")
script("exit 256 and more", "import sys; sys.exit(300)")
script("exit with a negative number", "import sys; sys.exit(-1)")
script("exit with a message", "import sys; sys.exit('bye: ü')")
script("exit with an object", "import sys; sys.exit([1, 2])")
script("exit with a tuple", "raise SystemExit(1, 2)")
script("exit with true", "raise SystemExit(True)")
script("exit from a nested call while another exception is handled",
       "import sys\ntry: 1/0\nexcept ZeroDivisionError: sys.exit(4)")
script("chained exceptions", CHAINED)
script("an exception group", "raise ExceptionGroup('g', [ValueError(1), TypeError('x')])")
script("an exception with notes", "e = ValueError(1)\ne.add_note('note')\nraise e")
script("an exception without a traceback of its own", "raise ValueError from None")
script("an exception that was shown before",
       "import traceback\ndef f(): raise ValueError(1)\n"
       "try: f()\nexcept ValueError as e: traceback.print_exc(); raise")
script("an exception from an import",
       "import sys; sys.path.insert(0, 'lib'); import nothing_there")
script("a plain MemoryError that memcg did not cause", "raise MemoryError('mine')")
script("deep recursion", "def f(): f()\nf()")
script("a syntax error", "x = 1\ny = = 2\n")
script("an indentation error", "if 1:\nx = 2\n")
script("a syntax error at the end of the file", "def f(:\n")
if sys.version_info >= (3, 11, 4):  # earlier versions read on behind it, which compile() never did
    script("a null byte", b"x = 1\n\0y\n")
script("bytes that are not UTF-8", b"# a comment\ny = '\xe9'\n")
script("bytes that are not UTF-8, further on", b"x = 1\nx = 2\ny = '\xe9'\n")
script("a declared encoding", "# coding: latin-1\nprint('é', len('é'))\n".encode("latin-1"))
script("an unknown encoding", "# coding: klingon\nx = 1\n")
script("a byte order mark", "\ufeffprint(1)\n")
script("DOS line ends", b"x = '''a\r\nb'''\r\nprint(repr(x))\r\n")
script("a hook that looks for the file's name",
       "import sys\nsys.excepthook = lambda *_: print('__file__' in globals())\n1/0\n")
script("no future import leaks in", "def f(x: 1): pass\nprint(f.__annotations__)")
script("a syntax warning", "x = '\\d'\nassert (1, 'x')\n")
script("warnings of several categories",
       "import warnings\nwarnings.warn('u')\nwarnings.warn('d', DeprecationWarning)\n"
       "def f(): warnings.warn('s', RuntimeWarning, stacklevel=2)\nf()")
script("unicode on both streams", "import sys; print('ünï €'); print('é', file=sys.stderr)")
script("an identifier and an error in unicode", "größe = 1\ngröße.ü\n")
script("reading stdin", "import sys; print(input(), sys.stdin.read())", stdin="one\ntwo\nthree")
script("input at the end of the file", "input('? ')")
script("KeyboardInterrupt by a signal",
       "import os, signal\ndef f():\n  os.kill(os.getpid(), signal.SIGINT)\n  x = 1\nf()")
script("KeyboardInterrupt raised by hand", "raise KeyboardInterrupt('now')")
script("KeyboardInterrupt caught",
       "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT); x = 1\n"
       "except KeyboardInterrupt: print('caught')")
case("KeyboardInterrupt under -m", "-m", "k", files={"k.py": "import os\nos.kill(os.getpid(), 2)"})
case("KeyboardInterrupt under -c", "-c", "import os\nos.kill(os.getpid(), 2)")
script("a signal that kills", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
script("os._exit", "import os, atexit; atexit.register(print, 'never'); os._exit(7)")
script("os.abort", "import os; os.abort()")
script("atexit in reverse order, after the traceback",
       "import atexit, sys\nfor i in range(3): atexit.register(print, i)\n"
       "atexit.register(lambda: print(type(sys.last_value), '__file__' in globals()))\n1/0")
script("atexit after an exit",
       "import atexit, sys\natexit.register(lambda: print('__file__' in globals()))\nsys.exit(1)")
script("atexit after the end", "import atexit\natexit.register(lambda: print(__file__))")
script("an error in atexit", "import atexit\natexit.register(lambda: 1/0)")
script("a thread that ends after main",
       "import threading, time\nmain = threading.Event()\n"
       "def f():\n  threading.main_thread().join(); print('after', __file__ if '__file__' in "
       "globals() else None)\nthreading.Thread(target=f).start(); print('main')")
script("an exception in a thread",
       "import threading\ndef f(): 1/0\nt = threading.Thread(target=f, name='t'); t.start()\n"
       "t.join()")
script("a daemon thread at the end",
       "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()")
script("a hook of the program's own",
       "import sys\ndef hook(t, v, tb):\n"
       "  print(t, v, tb.tb_lineno, tb.tb_frame.f_code.co_name, sys.excepthook is hook, "
       "v.__traceback__ is tb, sys.last_traceback is tb, sys.last_value is v)\n"
       "sys.excepthook = hook\n1/0")
script("a hook that raises",
       "import sys\ndef hook(*a): raise KeyError(2)\nsys.excepthook = hook\n1/0")
script("a hook that exits", "import sys\nsys.excepthook = lambda *a: sys.exit(9)\n1/0")
script("a hook that is None", "import sys\nsys.excepthook = None\n1/0")
script("a hook that is missing", "import sys\ndel sys.excepthook\n1/0")
script("no stderr", "import sys\nsys.stderr = None\n1/0")
script("a closed stderr", "import sys\nsys.stderr.close()\n1/0")
script("a closed stdout", "import sys\nprint(1); sys.stdout.close()")
script("an exception whose str raises",
       "class E(Exception):\n  def __str__(self): raise ValueError\nraise E")
script("finalizers at exit",
       "class A:\n  def __init__(self, n): self.n = n\n"
       "  def __del__(self): print('del', self.n)\na = A(1)\nb = A(2)\n"
       "class C: pass\nc = C(); c.c = c; c.a = A(3)")
script("finalizers after an exception",
       "class A:\n  def __del__(self): print('del')\ndef f():\n  a = A()\n  1/0\nf()")
script("sources that inspect and traceback find",
       "import inspect, traceback\ndef f():\n  return 1  # here\nprint(inspect.getsource(f))\n"
       "print(inspect.getsourcefile(f), inspect.getmodule(f).__name__)")
script("a class of __main__ pickled",
       "import pickle\nclass P: pass\n"
       "print(pickle.dumps(P()), type(pickle.loads(pickle.dumps(P()))))")
script("subprocesses inherit nothing",
       "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', "
       "'import sys; print(sys.argv, \"memcg\" in sys.modules)'], capture_output=True).stdout)")
script("a fork that reaches the end in both",
       "import os\nif os.fork() == 0:\n  print('child')\nelse:\n  os.wait(); print('parent')")
script("a fork whose child raises",
       "import os\nif os.fork() == 0:\n  1/0\nprint(os.waitstatus_to_exitcode(os.wait()[1]))")
script("what is running at the end of asyncio.run",
       "import asyncio\nasync def f():\n  await asyncio.sleep(0)\n  raise ValueError(1)\n"
       "asyncio.run(f())")
script("reading its own flags", "import sys; print(sys.flags, sys.warnoptions, sys._xoptions)")
script("a pdb session",
       "import pdb\nx = 5\npdb.set_trace()\nprint('went on')\n", stdin="p x\nl\nc\n")
script("a unittest main", "import unittest\nclass T(unittest.TestCase):\n"
       "  def test(self): self.assertEqual(__name__, '__main__')\n"
       "unittest.main(argv=['x', '-q'], exit=False) if 0 else print(unittest.main)")
script("dataclasses and doctest find __main__",
       "from __future__ import annotations\nimport dataclasses, doctest, typing\n"
       "@dataclasses.dataclass\nclass D:\n  x: int\n"
       "print(typing.get_type_hints(D), doctest.testmod())")
for method in ("fork", "spawn", "forkserver"):
    script(f"multiprocessing by {method}", POOL, method)
case("multiprocessing by spawn under -m", "-m", "pool", "spawn", files={"pool.py": POOL})
script("a pool of processes left open",
       "import concurrent.futures as f\nif __name__ == '__main__':\n"
       "  e = f.ProcessPoolExecutor(1); print(e.submit(pow, 2, 5).result())")


# fmt: on


@pytest.mark.parametrize("name", CASES)
def test_a_program_shows_the_same(cli, name):
    """The program runs with nothing installed and, if the core has hooks, charged under a limit."""
    files, args, stdin = CASES[name]
    cli.write(files)
    expected = cli.python(*args, stdin=stdin)
    assert cli.bare(*args, stdin=stdin) == expected
    if core.name == "native":
        assert cli.memcg("run", "--max", "1GiB", *args, stdin=stdin) == expected


MODULE_CASES = [
    "the attributes of __main__", "-m of a package", "chained exceptions", "exit with a message",
    "KeyboardInterrupt by a signal", "KeyboardInterrupt under -m", "a hook that raises",
    "a directory with __main__", "-c with an exception", "multiprocessing by spawn",
    "a missing script", "finalizers at exit",
]  # fmt: skip


@pytest.mark.parametrize("name", MODULE_CASES)
def test_python_dash_m_shows_the_same(cli, name):
    files, args, stdin = CASES[name]
    cli.write(files)
    expected = cli.python(*args, stdin=stdin)
    assert cli.call("-m", "bare", *args, stdin=stdin) == expected


FLAGS = [("-P",), ("-O",), ("-W", "error"), ("-X", "dev"), ("-u",), ("-b",)]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_options_of_the_interpreter_hold_for_the_program(cli, flags):
    text = (
        "import sys, warnings\nprint(sys.flags, __debug__, sys.path[:1] if sys.argv[1:] else 0)\n"
        "print('x')\nwarnings.warn('w')\n"
    )
    cli.write({"prog.py": text})
    path0 = [] if "-P" in flags else ["x"]  # with -P its directory is not on the path
    expected = cli.python("prog.py", *path0, flags=flags)
    assert cli.bare("prog.py", *path0, flags=flags) == expected


@pytest.mark.parametrize("ending", ["pass", "1/0", "def f(): raise SystemExit(3)\nf()"])
def test_inspecting_afterwards_finds_the_program(cli, ending):
    cli.write({"prog.py": "x = 5\n" + ending})
    how = {"flags": ("-i", "-q"), "stdin": "print(x, __name__)\n"}
    expected = cli.python("prog.py", **how)
    assert expected.out == "5 __main__\n"
    assert cli.call("-m", "bare", "prog.py", **how) == expected


def test_a_zip_file_runs(cli):
    with zipfile.ZipFile(cli.directory / "app.zip", "w") as app:
        app.writestr("__main__.py", MAIN_ATTRIBUTES + "import near")
        app.writestr("near.py", "def f(): 1/0\nf()")
    shown = cli.bare("app.zip", "x")
    assert "ZeroDivisionError" in shown.err
    expected = cli.python("app.zip", "x")
    assert shown == expected


def test_a_compiled_file_runs(cli):
    cli.write({"prog.py": MAIN_ATTRIBUTES})
    made = "import py_compile; py_compile.compile('prog.py', 'prog.pyc')"
    assert cli.python("-c", made).status == 0
    (cli.directory / "odd").write_bytes((cli.directory / "prog.pyc").read_bytes())
    for name in ("prog.pyc", "odd"):
        assert cli.bare(name) == cli.python(name)


def test_a_broken_compiled_file_is_refused_in_the_same_words(cli):
    cli.write({"prog.pyc": b"x" * 40})
    shown, expected = cli.bare("prog.pyc"), cli.python("prog.pyc")
    assert shown == expected


def test_bytes_that_are_not_utf8_are_on_their_line(cli):
    """CPython 3.14 says line 1 of line 2, if a statement ends on line 1."""
    cli.write({"prog.py": b"x = 1\ny = '\xe9'\n"})
    shown = cli.bare("prog.py")
    assert "prog.py on line 2, but no encoding declared" in str(shown)
    if sys.version_info < (3, 14):
        assert shown == cli.python("prog.py")


def test_a_link_to_a_script_finds_the_neighbours_of_what_it_links_to(cli):
    cli.write({"d/prog.py": MAIN_ATTRIBUTES + "import near", "d/near.py": "print('near')"})
    (cli.directory / "link.py").symlink_to("d/prog.py")
    assert cli.bare("link.py") == cli.python("link.py")


LAUNCHERS = ([], [BARE])


def test_a_full_disk_at_the_last_flush_gives_120(cli):
    cli.write({"prog.py": "print('x' * 10)"})
    shown = []
    for launcher in LAUNCHERS:
        with open("/dev/full", "wb") as full:
            process = cli.popen(*launcher, "prog.py", stdout=full)
            _, err = process.communicate(timeout=TIMEOUT_S)
        shown.append((process.returncode, err))
    assert shown[0] == shown[1]
    assert shown[0][0] == 120


def test_a_broken_pipe_ends_it_the_same_way(cli):
    cli.write({"prog.py": "while True: print('x' * 1000, flush=True)"})
    shown = []
    for launcher in LAUNCHERS:
        process = cli.popen(*launcher, "prog.py")
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        shown.append((process.wait(TIMEOUT_S), err))
    assert shown[0] == shown[1]
    assert b"BrokenPipeError" in shown[0][1]


def test_ctrl_c_kills_by_the_signal(cli):
    # One line, so that every signal finds the program there. It waits for nothing: a signal just
    # before a wait would not end that.
    cli.write({"prog.py": "import os\nwhile os.write(1, b'ready\\n'): pass\n"})
    shown = []
    for launcher in LAUNCHERS:
        process = cli.popen(*launcher, "prog.py")
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_S)
        # 3.13 marks the column, and the column depends on the moment of the signal
        shown.append((process.returncode, [line for line in err.splitlines() if b"^" not in line]))
    assert shown[0] == shown[1]
    assert shown[0][0] == -signal.SIGINT


def test_the_comparison_notices_a_difference(cli):
    """The checker must reject a program with another traceback, status or stream."""
    cli.write({"a.py": "1/0", "b.py": "\n1/0"})
    assert cli.bare("a.py") != cli.python("b.py")


def test_a_program_finds_no_argument_parser_imported(cli):
    shown = cli.bare("-c", "import sys; print(*sys.modules)")
    found = set(shown.out.split())
    assert not found & {"argparse", "gettext", "json", "traceback", "inspect", "subprocess"}
