# SPDX-License-Identifier: Apache-2.0
"""A process publishes its figures: stuck, forked, replaced by exec, ended and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from environment import environment

from memcg import page, pages

MIB = 1 << 20
PATIENCE_S = 30  # a process that answers takes some 0.3 s to start


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A folder of its own, in which this process looks for pages and its children put theirs."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("MEMCG_RUNTIME_DIR", str(tmp_path / "memcg"))
    return tmp_path / "memcg"


@pytest.fixture
def start(native, runtime):
    """Start a program, wait for its first line, and kill it at the end of the test."""
    started = []

    def start(source: str, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", source], env=environment(**more), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        line = process.stdout.readline()
        assert line, process.communicate(timeout=PATIENCE_S)[1]
        process.first = line.strip()
        return process

    yield start
    for process in started:
        process.kill()
        with process:  # closes its pipes
            pass


def group_at(path: str, of: page.Page) -> page.GroupFigures:
    (found,) = (g for g in of.groups() if g.path == path)
    return found


def wait_for(condition, what: str):
    """Return what `condition` returns once it is true. Another process is waited for by looking."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


# `list` and `map` run in C, and so does `str`: no other thread of Python gets the GIL.
STUCK = """
import memcg
memcg.install()
path = memcg.publish()
import threading, time
seen = []
def other():
    while True:
        time.sleep(0.01)
        seen.append(1)
threading.Thread(target=other, daemon=True).start()
with memcg.group("tenants/stuck", max="4GiB"):
    print(path, flush=True)
    while not seen: time.sleep(0.01)
    del seen[:]
    list(map(str, range(6_000_000)))
    print(len(seen), flush=True)
"""


def test_while_the_gil_is_held_the_figures_go_on_growing(start):
    process = start(STUCK)
    with page.Page(process.first) as of:
        seen = [group_at("tenants/stuck", of).usage]

        def grown() -> bool:
            usage = group_at("tenants/stuck", of).usage
            if usage > seen[-1] + 20 * MIB:
                seen.append(usage)
            return len(seen) > 5

        wait_for(grown, f"the usage of a stuck process has grown five times: {seen}")
        assert group_at("", of).usage > seen[-1]
        assert process.poll() is None
        # samples too: one a second, and nobody else writes them
        ids = {g.id for g in of.groups() if g.path == "tenants/stuck"}
        wait_for(
            lambda: [s for s in of.samples().entries if s.id in ids and s.usage > 20 * MIB],
            "a sample of the stuck group",
        )
    # At the few breaks that there are the other thread had at most a handful of turns.
    assert int(process.stdout.readline()) < 20


QUIET = """
import memcg, sys
memcg.install()
path = memcg.publish()
with memcg.group("tenants/a", max="64MiB", high="32MiB") as a:
    keep = bytearray(8 << 20)
    memcg.group("tenants/gone").close()
    print(path, flush=True)
    sys.stdin.read()
"""


def test_a_page_has_the_figures_of_each_group(start):
    process = start(QUIET)
    with page.Page(process.first) as of:
        a = group_at("tenants/a", of)
        assert 8 * MIB < a.usage < 9 * MIB
        assert a.usage <= a.peak
        assert (a.max, a.high, a.state, a.inside) == (64 * MIB, 32 * MIB, "online", 1)
        assert a.reserve == a.overdraft == 16 * MIB
        assert a.stat["page_runs"] >= 8 * MIB
        assert of.pid == process.pid
        assert abs(time.time() - a.made) < PATIENCE_S
        assert "tenants/gone" not in {g.path for g in of.groups() if g.state == "online"}
        (gone,) = (g for g in of.groups(gone=True) if g.path == "tenants/gone")
        assert gone.closed >= gone.made


def test_the_page_and_its_folder_are_of_this_user_alone(start, runtime):
    process = start(QUIET)
    assert Path(process.first).parent == runtime
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert Path(process.first).stat().st_mode & 0o777 == 0o600
    assert list(runtime.iterdir()) == [Path(process.first)]


def test_a_page_goes_at_exit_and_no_file_stays(start, runtime):
    process = start(QUIET)
    assert pages.live() == [process.first]
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 0
    assert list(runtime.iterdir()) == []


def test_the_page_of_a_killed_process_is_found_stale_and_removed(start, runtime):
    killed, other = start(QUIET), start(QUIET)
    killed.send_signal(signal.SIGKILL)
    # It is a zombie before it is waited for: that is dead too.
    wait_for(lambda: pages.is_alive(killed.first) is False, "a killed process is known to be gone")
    assert pages.live() == [other.first]
    assert killed.wait() == -signal.SIGKILL
    assert list(runtime.iterdir()) == [Path(other.first)]


def test_the_next_process_that_publishes_removes_stale_pages(start, runtime):
    killed = start(QUIET)
    killed.kill()
    killed.wait()
    assert list(runtime.iterdir()) == [Path(killed.first)]
    other = start(QUIET)
    assert list(runtime.iterdir()) == [Path(other.first)]


def test_after_an_exec_the_page_is_stale(start):
    then = """sys.stdin.readline()
    import os
    os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])"""
    process = start(QUIET.replace("sys.stdin.read()", then))
    assert pages.is_alive(process.first)
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for(lambda: pages.is_alive(process.first) is False, "an exec has ended the page")
    assert process.poll() is None
    assert pages.live() == []


FORK = """
import memcg, os, sys
memcg.install()
path = memcg.publish(groups=8)
with memcg.group("tenants/a") as a:
    keep = bytearray(8 << 20)
    down, up = os.pipe(), os.pipe()
    if not (pid := os.fork()):
        more = bytearray(16 << 20)
        a.max = "1GiB"
        os.write(up[1], memcg.publish().encode() + b"\\n")
        os.read(down[0], 1)
        os._exit(0)
    print(path, os.read(up[0], 4096).decode(), flush=True)
    sys.stdin.read()
    os.write(down[1], b"x")
    os.wait()
"""


def test_a_forked_child_has_a_page_of_its_own_and_leaves_its_parents_alone(start, runtime):
    process = start(FORK)
    parents, other = process.first.split()
    with page.Page(parents) as of:
        assert of.pid == process.pid
        a = group_at("tenants/a", of)
        assert 8 * MIB < a.usage < 9 * MIB
        assert a.max == (1 << 63) - 1
    with page.Page(other) as of:
        assert of.pid == int(Path(other).name.partition("-")[0]) != process.pid
        a = group_at("tenants/a", of)
        assert 24 * MIB < a.usage < 25 * MIB
        assert (a.max, a.inside) == (1 << 30, 1)
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 0
    assert pages.live() == []  # the child has ended by os._exit(), and its page is stale
    assert list(runtime.iterdir()) == []


def test_without_a_call_or_the_environment_there_is_no_page(start, runtime):
    process = start("import memcg, sys\nmemcg.install()\nprint(1, flush=True)\nsys.stdin.read()")
    assert process.poll() is None
    assert not runtime.exists()


def test_the_environment_asks_for_a_page(start):
    process = start("import memcg, sys\nmemcg.install()\nprint(memcg.publish(), flush=True)\n"
                    "sys.stdin.read()", MEMCG_PUBLISH="1")  # fmt: skip
    with page.Page(process.first) as of:
        assert of.alive()


def test_if_the_environment_asks_in_vain_the_program_runs_with_a_warning(
    run_program, tmp_path, monkeypatch
):
    (tmp_path / "tmp").write_text("")  # a file where the folders should be
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "tmp"))
    source = """
import os
from memcg import pages
pages._SHM = "/nowhere"; os.environ["TMPDIR"] = os.environ["XDG_RUNTIME_DIR"]
memcg.install()
print("runs")
"""
    run_program(
        source,
        prelude="import memcg\n",
        MEMCG_PUBLISH="1",
        expects=("RuntimeWarning: MEMCG_PUBLISH: no folder for a page: ", "set MEMCG_RUNTIME_DIR"),
    )


def test_a_folder_that_others_may_use_is_refused(native, runtime, monkeypatch, tmp_path):
    runtime.mkdir(mode=0o700)
    assert pages.make_folder() == str(runtime)
    runtime.chmod(0o750)
    with pytest.raises(pages.MemcgError, match=f"others may use it; chmod 700 {runtime}"):
        pages.make_folder()
    assert pages.folders() == []
    runtime.rmdir()
    runtime.symlink_to(tmp_path)
    with pytest.raises(pages.MemcgError, match="it is not a folder"):
        pages.make_folder()


def test_pages_lie_in_the_users_runtime_folder_or_in_memory_or_in_the_temporary_one(
    native, monkeypatch, tmp_path
):
    monkeypatch.delenv("MEMCG_RUNTIME_DIR", raising=False)
    for name in ("run", "shm", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(pages, "_SHM", str(tmp_path / "shm"))
    mine = f"memcg-{os.geteuid()}"
    wanted = [tmp_path / "run" / "memcg", tmp_path / "shm" / mine, tmp_path / "tmp" / mine]
    for folder in wanted:
        assert pages.make_folder() == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.parent.chmod(0o500)
        folder.chmod(0o770)  # others may use it, so the next one is used
    assert pages.folders() == []
    for folder in wanted:
        folder.chmod(0o700)
    assert pages.folders() == [str(folder) for folder in wanted]


def test_half_made_pages_are_removed_when_they_are_old(runtime):
    runtime.mkdir(mode=0o700)
    for name in ("1-1.page.new", "999999999-1.page.new", "other", "999999999-1.sock"):
        (runtime / name).touch()
    assert pages.clean(str(runtime)) == []  # another container may be making one
    for path in runtime.iterdir():
        os.utime(path, (1, 1))
    assert pages.clean(str(runtime)) == ["1-1.page.new", "999999999-1.page.new", "999999999-1.sock"]
    assert [path.name for path in runtime.iterdir()] == ["other"]


def test_events_are_on_the_page_with_their_group_and_bytes(start):
    process = start("""
import memcg, sys
memcg.install()
path = memcg.publish()
with memcg.group("tenants/a", max="16MiB"):
    try: bytearray(64 << 20)
    except MemoryError: print(path, flush=True)
    sys.stdin.read()
""")
    with page.Page(process.first) as of:
        events = of.events()
        assert [e.kind for e in events.entries] == ["max", "oom", "fail"]
        a = group_at("tenants/a", of)
        for event in events.entries:
            assert (event.group, event.id, event.asked) == ("tenants/a", a.id, a.id)
            assert event.bytes in ((64 << 20) + 1, (64 << 20) + 33)  # of a bytes object, since 3.15
            assert (event.max, event.total) == (16 * MIB, 1)
        assert a.events["oom"] == 1
        assert of.events(events.next).entries == []


def test_groups_past_the_room_are_counted_and_the_others_are_right(start):
    process = start("""
import memcg, sys
memcg.install()
path = memcg.publish(groups=3)
keep = [memcg.group(f"g{i}") for i in range(5)]
print(path, flush=True)
sys.stdin.read()
""")
    with page.Page(process.first) as of:
        assert [g.path for g in of.groups()] == ["", "g0", "g1"]
        assert of.left_out == 3
