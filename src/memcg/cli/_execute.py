# SPDX-License-Identifier: Apache-2.0
"""This module runs a program as ``python`` would, from inside a running interpreter.

Theory: CPython's own ``main`` prepares `sys.argv`, ``sys.path[0]`` and a fresh ``__main__``, and
runs the program. ``PyErr_Print`` and finalization handle the exception that ends it. Here the same
is prepared, and the exception that ends the program *propagates* out of the interpreter. So exit
status, SIGINT, ``-i``, atexit and flushing are CPython's own code, not a copy. Only our frames have
to be taken off the traceback. They are added while the exception unwinds, so this is done at the
last moment: when the program is over, `sys.excepthook` is set to a function that puts the program's
hook back and calls it with the program's part of the traceback.

``-m``, directories and zip files are run by ``runpy._run_module_as_main``, which is what CPython's
``main`` calls for them. Its frames belong in those tracebacks.

Counterpart: Modules/main.c (``pymain_run_python``), Python/pythonrun.c
(``_PyRun_SimpleFileObject``), CPython 3.11 to 3.15.
Where we differ: `sys.orig_argv` names memcg; ``sys.modules`` has memcg and what it imports; the
frames of memcg lie below the program's. So recursion ends four calls earlier, and code that walks
the stack to its end (``inspect.stack()[-1]``, a warning with too high a stacklevel, faulthandler)
meets these frames. The error for a byte of line 2 that is not UTF-8 names line 2. CPython 3.14
names line 1 if a statement ends there.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Uncaught = Callable[[BaseException, Callable[[], None]], int | None]


class Target(NamedTuple):
    """The program to run. `kind` is ``script``, ``module``, ``command`` or ``stdin``."""

    kind: str
    name: str


def program_name() -> str:
    """Return the interpreter's name as CPython's messages give it."""
    return sys.orig_argv[0] if sys.orig_argv else sys.executable


def cannot_open(path: str) -> str | None:
    """Return why a script cannot be opened, in CPython's words; None if it can be opened."""
    try:
        if not os.path.isdir(path or "."):
            with open(path, "rb"):
                pass
    except OSError as error:
        file = _absolute(path)
        return (
            f"{program_name()}: can't open file {file!r}: [Errno {error.errno}] {error.strerror}\n"
        )
    return None


def execute(
    target: Target,
    args: list[str],
    *,
    uncaught: Uncaught | None = None,
    quiet: AbstractContextManager[object] | None = None,
) -> None:
    """Run a program in this process as ``__main__``.

    Parameters
    ----------
    target : Target
        The program.
    args : list of str
        Its arguments, ``sys.argv[1:]``.
    uncaught : callable, optional
        It is called with an uncaught exception other than SystemExit, and with a function that
        shows it (`sys.excepthook`). It must call that function once. It returns the exit status;
        None stands for CPython's.
    quiet : context manager, optional
        It is entered before an uncaught exception is looked at, and left when it was shown.

    Raises
    ------
    BaseException
        What ended the program. The caller must let it leave the interpreter uncaught.

    Notes
    -----
    Context: the main thread, once. It replaces ``sys.modules["__main__"]``.
    """
    main = _fresh_main()
    try:
        entry = _prepare(target, args)  # it may meet a limit that is below the present usage
        # No frame of ours may lie between this one and the program, except those that end
        # before it starts: `_program_traceback` drops the leading frames of this directory.
        if entry is not None:
            import runpy

            runpy._run_module_as_main(*entry)  # type: ignore[attr-defined]
        elif target.kind == "stdin" and sys.stdin is not None and sys.stdin.isatty():
            import code

            code.interact(local=main.__dict__, exitmsg="")
        else:
            exec(_load(target, main), main.__dict__)
    except BaseException as error:
        if sys.version_info >= (3, 14):  # before it shows the error
            _retire(main, target)
        if isinstance(error, SystemExit) and not sys.flags.inspect:
            raise  # the interpreter shows only its message
        quiet = quiet or nullcontext()
        quiet.__enter__()  # until the error was shown
        _leave_to_interpreter(error, main, target, uncaught, quiet)
        raise
    _retire(main, target)


# -- before


def _fresh_main() -> ModuleType:
    """Make ``__main__`` as it is before a program starts, with its names in CPython's order."""
    main = ModuleType("__main__")
    main.__loader__ = sys.modules["_frozen_importlib"].BuiltinImporter
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    return main


def _prepare(target: Target, args: list[str]) -> tuple[Any, ...] | None:
    """Set `sys.argv` and ``sys.path[0]``; return arguments for runpy where it is needed."""
    kind, name = target
    sys.argv = [{"script": name, "module": "-m", "command": "-c", "stdin": "-"}[kind], *args]
    if kind == "script" and _has_importer(path := _absolute(name)):  # directory or zip file
        _set_path0(path, always=True)
        return ("__main__", False)
    match kind:
        case "script":
            _set_path0(os.path.dirname(os.path.realpath(name)))
        case "module":
            _set_path0(os.getcwd())
            return (name, True)
        case _:
            _set_path0("")
    return None


def _set_path0(path: str, *, always: bool = False) -> None:
    # The interpreter has put memcg's own folder there, unless it runs with -P or -I.
    if not sys.flags.safe_path:
        sys.path[0] = path
    elif always:
        sys.path.insert(0, path)


def _has_importer(path: str) -> bool:
    for hook in sys.path_hooks:
        try:
            hook(path)
        except ImportError:
            continue
        return True
    return False


def _absolute(path: str) -> str:
    # os.path.abspath is not used, because CPython keeps "./" and ".." in __file__.
    if path in ("", "."):
        return os.getcwd()
    return path if os.path.isabs(path) else f"{os.getcwd()}/{path}"


def _load(target: Target, main: ModuleType) -> CodeType:
    """Compile the program and give ``__main__`` its file and loader."""
    names = main.__dict__
    if target.kind == "command":
        return _compile_command(target.name)
    if target.kind == "stdin":
        _set_file(names, "<stdin>")
        return _compile_file(sys.stdin.buffer.read() if sys.stdin else b"", "<stdin>")
    path = _absolute(target.name)
    _set_file(names, path)
    with open(path, "rb") as file:
        source = file.read()
    loaders: Any = sys.modules["_frozen_importlib_external"]
    if path.endswith(".pyc") or source[:2] == loaders.MAGIC_NUMBER[:2]:
        names["__loader__"] = loaders.SourcelessFileLoader("__main__", path)
        return _load_pyc(source, loaders.MAGIC_NUMBER)
    names["__loader__"] = loaders.SourceFileLoader("__main__", path)
    return _compile_file(source, path)


def _set_file(names: dict[str, Any], path: str) -> None:
    names["__file__"] = path
    if sys.version_info < (3, 15):
        names["__cached__"] = None


def _compile_command(source: str) -> CodeType:
    if sys.version_info >= (3, 14):
        source = _dedent(source)
    code = compile(source + "\n", "<string>", "exec", dont_inherit=True)
    if sys.version_info >= (3, 13):  # -c shows source lines in tracebacks
        import linecache

        key = code if hasattr(linecache, "_interactive_cache") else "<string>"
        linecache._register_code(key, source, "<string>")  # type: ignore[attr-defined]
    return code


def _dedent(source: str) -> str:
    """Do what `textwrap.dedent` does, which would import `re` into the program."""
    lines = source.split("\n")
    indents = [line[: -len(line.lstrip(" \t"))] for line in lines if line.strip(" \t")]
    first, last = min(indents, default=""), max(indents, default="")
    while not last.startswith(first):
        first = first[:-1]
    if not (indent := len(first)):
        return source
    return "\n".join(line[indent:] if line.strip(" \t") else "" for line in lines)


def _load_pyc(data: bytes, magic: bytes) -> CodeType:
    import marshal

    if data[:4] != magic:
        raise RuntimeError("Bad magic number in .pyc file")
    code = marshal.loads(data[16:])
    if not isinstance(code, CodeType):
        raise RuntimeError("Bad code object in .pyc file")
    return code


def _compile_file(source: bytes, path: str) -> CodeType:
    """Compile a file's bytes. Errors in them have the texts of CPython's file tokenizer."""
    error: SyntaxError
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as compile_error:
        if (null := source.find(b"\0")) >= 0:
            line = source.count(b"\n", 0, null) + 1
            error = SyntaxError("source code cannot contain null bytes", (path, line, None, ""))
        elif sys.version_info >= (3, 14):
            # compile() says what the interpreter does but for the file's name.
            message, *place = compile_error.args
            undecodable = str(message).startswith("Non-UTF-8 code starting with ")
            if not undecodable or place[0][0] is not None:
                raise compile_error from None
            message = message.replace(" on line ", f" in file {path} on line ", 1)
            error = SyntaxError(message, (path, *place[0][1:]))
        elif str(compile_error.args[0]).startswith(unknown := "unknown encoding: "):
            error = SyntaxError("encoding problem: " + compile_error.args[0][len(unknown) :])
        elif bad := _undecodable(source, path):
            error = bad
        else:
            raise compile_error from None
    raise error from None


def _undecodable(source: bytes, path: str) -> SyntaxError | None:
    import re

    head = source.split(b"\n", 2)[:2]
    if any(re.match(rb"[ \t\f]*#.*?coding[:=][ \t]*[-_.a-zA-Z0-9]+", line) for line in head):
        return None
    try:
        source.decode()
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        return SyntaxError(
            f"Non-UTF-8 code starting with '\\x{source[error.start]:02x}' in file {path} on line "
            f"{line}, but no encoding declared; see https://peps.python.org/pep-0263/ for details"
        )
    return None


# -- after

_HERE = os.path.dirname(__file__)


def _retire(main: ModuleType, target: Target) -> None:
    """Delete the names that CPython deletes when a script is over, before atexit."""
    if target.kind in ("script", "stdin") and main.__spec__ is None:
        main.__dict__.pop("__file__", None)
        main.__dict__.pop("__cached__", None)


def _program_traceback(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and os.path.dirname(tb.tb_frame.f_code.co_filename) == _HERE:
        tb = tb.tb_next
    return tb


_MISSING = object()


def _just_show(error: BaseException, show: Callable[[], None]) -> None:
    show()


def _leave_to_interpreter(
    error: BaseException,
    main: ModuleType,
    target: Target,
    uncaught: Uncaught | None,
    quiet: AbstractContextManager[object],
) -> None:
    """Make the interpreter's report of `error` begin at the program's first frame."""
    tb = _program_traceback(error.__traceback__)
    program_hook: Any = getattr(sys, "excepthook", _MISSING)

    def show() -> None:
        if program_hook is _MISSING:
            sys.stderr.write("sys.excepthook is missing\n")
            sys.__excepthook__(type(error), error, tb)
        else:
            program_hook(type(error), error, tb)

    def excepthook(kind: type[BaseException], value: BaseException, full: Any) -> None:
        if program_hook is _MISSING:
            del sys.excepthook
        else:
            sys.excepthook = program_hook
        if value is not error:  # a signal handler raised it while our frames unwound
            sys.__excepthook__(kind, value, full)
            return
        value.__traceback__ = sys.last_traceback = tb
        try:
            status = (uncaught or _just_show)(value, show)
        except BaseException as hook_error:
            # CPython prints it and the original. A bare raise adds no entry for this frame.
            hook_error.__traceback__ = _program_traceback(hook_error.__traceback__)
            raise
        finally:
            quiet.__exit__(None, None, None)
            _retire(main, target)
        if status is not None:
            sys.exit(status)

    sys.excepthook = excepthook
