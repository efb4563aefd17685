# SPDX-License-Identifier: Apache-2.0
"""`memcg attach` installs memcg in a running process, or says why it cannot."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memcg.cli import attach

PYTHONS = Path(__file__).parents[2] / "build" / "pythons"
OTHER = {(3, 14): "3.15", (3, 15): "3.14"}.get(sys.version_info[:2], "")

attachable = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="CPython 3.14 is the first that lets others attach"
)

# It says that it runs, goes on until memcg is there, and then does what the test wants.
RUNS = """
import sys, time
old = bytearray(20 << 20)
print("up", flush=True)
def installed():
    hooks = sys.modules.get("memcg.hooks")
    return hooks is not None and hooks.installed()
while not installed():
    time.sleep(0.001)
import memcg
"""
# It reads, in C, until it gets a line.
WAITS = """
import sys
print("up", flush=True)
sys.stdin.readline()
for _ in range(1000):
    pass
print(sorted(name for name in sys.modules if name.startswith("memcg")))
"""


@pytest.fixture
def start(cli):
    """Start a program and wait until it says that it runs."""
    started = []

    def start(code, python=sys.executable, flags=(), **env):
        cli.env |= env
        process = subprocess.Popen(
            [python, *flags, "-c", code], env=cli.env, cwd=cli.directory, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    out, err = process.communicate("go on\n", timeout=60)
    return out, err, process.returncode


@attachable
def test_a_running_process_is_limited_and_what_it_had_is_not_charged(cli, native, start):
    process = start(
        RUNS + "kept = []\n"
        "try:\n"
        "    while True: kept.append(bytes(10_000))\n"
        "except MemoryError as error:\n"
        "    size = sum(map(len, kept)); del kept; print(type(error).__name__, size)\n"
    )
    shown = cli.memcg("attach", "--max", "8MiB", str(process.pid))
    assert shown.status == 0, shown.err
    before, done = shown.out.splitlines()
    assert before == (
        f"what process {process.pid} has allocated before is not charged, unless it grows"
    )
    assert f"is installed in process {process.pid}" in done
    assert done.endswith("memory.max 8.0 MiB")
    out, err, status = ended(process)
    assert (status, err) == (0, "")
    error, size = out.split()
    assert error == "MemcgOOM"
    assert 4 << 20 < int(size) < 10 << 20


@attachable
def test_an_error_that_ends_the_program_shows_its_account(cli, native, start):
    process = start(RUNS + "kept = []\nwhile True: kept.append(bytes(10_000))\n")
    assert cli.memcg("attach", "--max", "8MiB", str(process.pid)).status == 0
    _, err, status = ended(process)
    assert status == 1
    assert "Traceback" in err
    last = err.splitlines()[-1]
    assert last.startswith("memcg: group '/': ")
    assert "max 8.0 MiB" in last


@attachable
def test_a_second_attach_is_refused(cli, native, start):
    process = start(RUNS + "print('up', flush=True)\nwhile True: time.sleep(0.001)\n")
    assert cli.memcg("attach", str(process.pid)).out.endswith("no limit\n")
    assert process.stdout.readline() == "up\n"
    shown = cli.memcg("attach", str(process.pid))
    assert shown.status == 1
    assert "is installed there already" in shown.err


@attachable
def test_with_control_it_serves_a_socket(cli, native, start, tmp_path):
    cli.env["MEMCG_RUNTIME_DIR"] = str(tmp_path / "run")
    process = start(
        RUNS + "memcg.group('g')\nprint('up', flush=True)\nwhile True: time.sleep(0.001)\n"
    )
    pid = str(process.pid)
    shown = cli.memcg("attach", "--control=write", pid)
    assert shown.status == 0, shown.err
    assert shown.out.splitlines()[-1].endswith(".sock, for reading and writing")
    assert process.stdout.readline() == "up\n"
    assert cli.memcg("set", "--pid", pid, "g", "memory.max", "64M").status == 0
    assert cli.memcg("cat", "--pid", pid, "g", "memory.max").out == "67108864\n"


@attachable
def test_control_alone_serves_a_process_that_has_memcg_already(cli, native, start, tmp_path):
    cli.env["MEMCG_RUNTIME_DIR"] = str(tmp_path / "run")
    program = "import memcg; memcg.install(); memcg.group('g', max='8MiB')\nimport time\n"
    process = start(program + "print('up', flush=True)\nwhile True: time.sleep(0.001)\n")
    pid = str(process.pid)
    assert cli.memcg("attach", "--control", "--max", "8MiB", pid).status == 1
    shown = cli.memcg("attach", "--control", pid)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.splitlines()[-1].endswith(".sock, for reading")
    assert cli.memcg("cat", "--pid", pid, "g", "memory.max").out == "8388608\n"
    refused = cli.memcg("set", "--pid", pid, "g", "memory.max", "64M")
    assert refused.status == 1
    assert "for reading" in refused.err


@pytest.mark.parametrize(
    ("args", "said"),
    [(["--control=all", "1"], "--control=all: write --control or --control=write"),
     (["--control"], "which process?"), ([], "which process?")],
)  # fmt: skip
def test_wrong_uses_are_refused_with_what_to_write(cli, args, said):
    shown = cli.memcg("attach", *args)
    assert shown.status == 2
    assert said in shown.err


@attachable
def test_a_process_that_waits_gets_nothing_and_nothing_is_left(cli, start, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    process = start(WAITS)
    cli.env["TMPDIR"] = str(place)
    shown = cli.memcg("attach", "--timeout", "0.2", str(process.pid))
    assert shown.status == 1
    assert "has run no Python code in its main thread for 0.2 s" in shown.err
    assert list(place.iterdir()) == []
    out, err, status = ended(process)
    assert (out, err, status) == ("[]\n", "", 0)


# It gets no further than the import of memcg until it gets a line.
STUCK = """
import sys
class Waits:
    def find_spec(self, name, path=None, target=None):
        if name == "memcg.cli._attached":
            print("begun", flush=True)
            sys.stdin.readline()
sys.meta_path.insert(0, Waits())
print("up", flush=True)
while "memcg.cli._attached" not in sys.modules:
    pass
print(sys.modules["memcg.hooks"].installed())
"""


@attachable
@pytest.mark.parametrize("ends", [False, True])
def test_a_process_that_has_begun_and_does_not_answer_removes_what_is_left(
    cli, native, start, tmp_path, ends
):
    place = tmp_path / "place"
    place.mkdir()
    process = start(STUCK)
    cli.env["TMPDIR"] = str(place)
    code = (
        "import sys; from memcg.cli import attach, main\n"
        "attach.BEGUN_S = 60 if sys.argv[2:] else 0.2\n"
        "sys.exit(main(['attach', '--timeout', '3', sys.argv[1]]))\n"
    )
    attaching = cli.popen("-c", code, str(process.pid), *["ends"] * ends)
    while not select.select([process.stdout], [], [], 0.1)[0]:
        assert attaching.poll() is None, attaching.communicate()
    assert process.stdout.readline() == "begun\n"
    if ends:  # in the second of its waits
        while not list(place.glob("*/begun")):
            assert attaching.poll() is None
            time.sleep(0.001)
        process.kill()
    _, err = attaching.communicate(timeout=60)
    assert attaching.returncode == 1
    if ends:
        assert b"has ended" in err
    else:
        assert b"has begun to install memcg, and has not said for 0.2 s how that ended" in err
        (folder,) = place.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert ended(process) == ("True\n", "", 0)
    assert list(place.iterdir()) == []


@attachable
def test_ctrl_c_while_a_process_waits_leaves_nothing(cli, start, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    process = start(WAITS)
    cli.env["TMPDIR"] = str(place)
    attaching = cli.popen("-m", "memcg", "attach", "--timeout", "60", str(process.pid))
    while not list(place.glob("*/answer")):  # the next thing is to leave it the script
        assert attaching.poll() is None
        time.sleep(0.001)
    attaching.send_signal(signal.SIGINT)
    attaching.communicate(timeout=60)
    assert attaching.returncode != 0
    assert list(place.iterdir()) == []
    assert ended(process) == ("[]\n", "", 0)


@attachable
def test_a_process_that_ends_meanwhile_leaves_nothing(cli, start, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    process = start(WAITS)
    cli.env["TMPDIR"] = str(place)
    attaching = cli.popen("-m", "memcg", "attach", "--timeout", "60", str(process.pid))
    while not list(place.glob("*/script.py")):  # its first line is written before the folder
        assert attaching.poll() is None
        time.sleep(0.001)
    process.kill()
    _, err = attaching.communicate(timeout=60)
    assert attaching.returncode == 1
    assert b"has ended" in err
    assert list(place.iterdir()) == []


@attachable
def test_only_its_owner_can_read_the_script(tmp_path):
    attach._prepare(tmp_path, os.geteuid(), (None, None, False))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"script.py": 0o600, "ready": 0o600, "answer": 0o600}


def refusal(cli, pid, *options):
    shown = cli.memcg("attach", "--timeout", "60", *options, str(pid))
    assert shown.status == 1
    assert shown.err.startswith("memcg attach: ")
    return shown.err


@attachable
@pytest.mark.parametrize(
    ("flags", "env"),
    [((), {"PYTHON_DISABLE_REMOTE_DEBUG": "1"}), (("-X", "disable-remote-debug"), {})],
)
def test_a_process_that_disables_it_is_named_with_the_variable(cli, start, flags, env):
    process = start(RUNS, flags=flags, **env)
    for name in env:
        del cli.env[name]
    assert (
        f"remote debugging is disabled in process {process.pid}; start it without "
        "PYTHON_DISABLE_REMOTE_DEBUG" in refusal(cli, process.pid)
    )


@attachable
def test_a_command_that_disables_it_says_so(cli, start):
    process = start(RUNS)
    cli.env["PYTHON_DISABLE_REMOTE_DEBUG"] = "1"
    assert "is disabled in this command's own Python" in refusal(cli, process.pid)


@attachable
def test_a_process_of_another_version_is_refused(cli, start):
    other = PYTHONS / OTHER / "usr" / "bin" / f"python{OTHER}"
    if not OTHER or not other.exists():
        pytest.skip("there is no other CPython from 3.14 on in build/pythons (make pythons)")
    process = start(RUNS, python=str(other))
    assert "runs another version of CPython than this" in refusal(cli, process.pid)


@attachable
def test_a_process_that_is_no_python_is_named_with_what_it_runs(cli):
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            said = refusal(cli, process.pid)
        finally:
            process.kill()
    assert f"process {process.pid} is no CPython 3.14 or newer (it runs /" in said
    assert "memcg run" in said


@attachable
def test_a_process_that_is_not_there_is_named(cli):
    process = subprocess.Popen(["true"])
    process.wait()
    assert f"there is no process {process.pid}" in refusal(cli, process.pid)


@attachable
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_the_right_to_trace_it_says_which_rights_are_needed(cli, start):
    process = start(RUNS)
    code = (
        "import os, sys; from memcg.cli import attach, main\n"
        "os.seteuid(65534)\n"
        f"sys.exit(main(['attach', '{process.pid}']))\n"
    )
    shown = cli.python("-c", code)
    assert shown.status == 1
    assert f"no right to trace process {process.pid}; run the command as root" in shown.err


@attachable
def test_a_process_with_other_mounts_is_refused(cli):
    code = "import time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            if process.stdout.readline() != "up\n":
                pytest.skip("unshare may not make a mount namespace here")
            said = refusal(cli, process.pid)
        finally:
            process.kill()
    assert "sees other files, as in a container; run the command there" in said


@attachable
def test_what_install_refuses_is_passed_on(cli, start):
    process = start(RUNS, MEMCG_CORE="model")
    assert "MEMCG_CORE=model asks for the model core" in refusal(cli, process.pid)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this CPython can attach")
def test_an_older_python_says_which_one_is_needed(cli):
    assert "CPython 3.14 is the first that lets others attach" in refusal(cli, os.getpid())


def test_wrong_sizes_are_wrong_usage(cli):
    shown = cli.memcg("attach", "--max", "many", "1")
    assert shown.status == 2
    assert "argument --max" in shown.err


def test_help_names_what_is_not_charged_and_the_versions(cli):
    said = " ".join(cli.memcg("attach", "--help").out.split())
    assert "What the process allocated before is not charged" in said
    assert "3.14 or later" in said
