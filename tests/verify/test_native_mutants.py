# SPDX-License-Identifier: Apache-2.0
"""tools/native_mutants.py makes mutants in C, and tells a killed mutant from one that survives."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from scripts import TOOLS, load

SOURCE = """\
/* group->x = 0; in a comment */
static void work(struct group *group, int n)
{
    long first = load_acquire(&group->first);

    assert_locked(&group->lock);
    mutex_lock(&group->lock);
    if (n > 0 && group->online)
        memset(group->bytes, 0,
               sizeof(group->bytes));
    group->ready = 1;
    store_release(&group->shown, "a; b");
    mutex_unlock(&group->lock);
    for (int i = 0; i < n; i++)
        add_relaxed(&group->count, 1);
#ifdef MEMCG_DEBUG_VM
    group->debug = 1;
#endif
    css_put(group);
}
"""


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return load(TOOLS / "native_mutants.py")


def test_each_primitive_store_check_and_lock_is_mutated(tool):
    made = {m.name: m.source for m in tool.native_mutations.mutants_of("m.c", SOURCE)}
    assert {name.removeprefix("m.c.work:") for name in made} == {
        "order:1", "never:1", "negate:1", "without0:1", "without1:1", "drop:1", "drop:2", "drop:3",
        "order:2", "swap:1", "drop:4", "off:1", "drop:5", "unlocked:1",
    }  # fmt: skip
    assert "load_relaxed(&group->first)" in made["m.c.work:order:1"]
    assert "if (n > 0 && 1 )" in made["m.c.work:without1:1"]
    assert "memset" not in made["m.c.work:drop:1"]
    swapped = made["m.c.work:swap:1"]
    assert swapped.index('"a; b"') < swapped.index("ready")
    assert "mutex" not in made["m.c.work:unlocked:1"]
    assert "add_relaxed(&group->count, 1 + 1)" in made["m.c.work:off:1"]
    assert {text.count("\n") for text in made.values()} == {SOURCE.count("\n")}


def test_the_data_plane_has_eighty_mutants_of_every_kind_that_differ_from_it(tool):
    known = tool.all_mutants()
    core = [known[name] for name in tool.chosen([], known)]
    assert len(core) > 80
    assert {m.operator for m in core} >= {
        "order", "swap", "unlocked", "never", "negate", "without0", "off", "drop",
    }  # fmt: skip
    assert all(m.source != m.original for m in core)
    for file in tool.CORE:
        sources = [m.source for m in core if m.file == file]
        assert sources, file
        assert len(set(sources)) == len(sources)


def test_what_is_listed_as_equivalent_exists_and_has_a_reason(tool):
    excused = tool.judging.reasons(tool.EQUIVALENT)
    assert set(excused) <= set(tool.all_mutants())
    assert all(len(reason) > 20 for reason in excused.values())


# A data plane of one function, with a test.
TREE = {
    "native/Makefile": "BASE := -std=gnu11 -I. -pthread\nplain_FLAGS := -O1\n"
    "address_FLAGS := -O1 -fsanitize=undefined -fno-sanitize-recover=all\n"
    "thread_FLAGS := -O1 -fsanitize=thread\n",
    "native/count.h": """\
#include <pthread.h>
struct counter { pthread_mutex_t lock; int a[2], by_nobody, shown; };
void count(struct counter *c, int n);
""",
    "native/count.c": """\
#include "count.h"
#define mutex_lock pthread_mutex_lock
#define mutex_unlock pthread_mutex_unlock
#define sub_relaxed(p, n) (*(p) -= (n))
void count(struct counter *c, int n)
{
    mutex_lock(&c->lock);
    if (n > 1)
        n = 1;
    c->a[n] += 1;
    if (n > 3 && n < 3)
        n = 3;
    c->by_nobody = 4;
    mutex_unlock(&c->lock);
    while (n > 0)
        sub_relaxed(&n, 1);
}
""",
    "native/tests/test_count.c": """\
#include "../count.h"
#include <stdio.h>
static struct counter c = { PTHREAD_MUTEX_INITIALIZER };
static void *one(void *arg) { count(&c, 1); return arg; }
int main(void)
{
    pthread_t t;
    pthread_create(&t, NULL, one, NULL);
    count(&c, 2);
    pthread_join(t, NULL);
    if (c.a[1] != 2)
        return fprintf(stderr, "tests/test_count.c:12: both_are_counted: a[1] == 2\\n"), 1;
    return 0;
}
""",
    "tools/native_mutants.txt": "",
}


@pytest.fixture
def small(tool, tmp_path, monkeypatch):
    """Return the tool for the small tree, and its bench."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for noun in ("judging", "native_mutants", "native_mutations", "watching"):
        shutil.copy(TOOLS / f"{noun}.py", tmp_path / "tools")
    tool = load(tmp_path / "tools" / "native_mutants.py")
    monkeypatch.setenv("TSAN_OPTIONS", "halt_on_error=1")
    monkeypatch.setattr(tool, "judge_protocols", lambda mutant: ("", ""))
    monkeypatch.setattr(tool, "CORE", ("count.c",))
    return tool


def ready(tool, directory: Path):
    bench = tool.Bench(directory)
    bench.prepare(2)
    return bench


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_test_kills_and_a_mutant_survives_when_its_killer_is_taken_away(small, tmp_path, capsys):
    known, bench = small.all_mutants(), ready(small, tmp_path / "bench")

    def judged(what: str, bench) -> tuple[str, str]:
        return small.judge(known[f"count.c.count:{what}"], bench)[1:3]

    killed = ("test", "plain/test_count: both_are_counted")
    assert judged("drop:1", bench) == killed
    assert judged("never:2", bench)[0] == "listed"
    assert judged("drop:2", bench) == ("nobody", "")
    assert judged("drop:3", bench) == ("test", "plain/test_count: endless")
    assert judged("unlocked:1", bench)[1].startswith("thread/test_count: ThreadSanitizer: data")
    assert small.run(["count.c.count:drop:2", "count.c.count:drop:1"], 1) == 1
    shown = capsys.readouterr().out
    assert "1 by tests, 0 listed as equivalent, 1 survive" in shown
    assert "count.c.count:drop:2: survives" in shown
    program = small.NATIVE / "tests/test_count.c"
    program.write_text(program.read_text().replace("c.a[1] != 2", "0"))
    assert judged("drop:1", ready(small, tmp_path / "without")) == ("nobody", "")


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_source_that_fails_by_itself_and_a_wrong_excuse_are_reported(small, capsys):
    reason = "nothing reads it, so it is said to be the same"
    small.EQUIVALENT.write_text(f"count.c.count:drop:1 {reason}\ncount.c.gone:drop:1 {reason}\n")
    assert small.run(["count.c.count:drop:1"], 1) == 1
    shown = capsys.readouterr().out
    assert "count.c.count:drop:1: listed as equivalent, but killed by plain/test_count" in shown
    assert "count.c.gone:drop:1: listed, but there is no such mutant" in shown
    assert small.run(["nowhere.c"], 1) == 2
    source = small.NATIVE / "count.c"
    source.write_text(source.read_text().replace("a[n] += 1", "a[n] += 2"))
    assert small.run(["count.c.count:drop:1"], 1) == 2
    assert "does not pass: plain/test_count: both_are_counted" in capsys.readouterr().out


def test_a_protocol_notices_a_weaker_order_and_a_check_that_is_gone(tool, capfd):
    known = tool.all_mutants()
    for name, expected in {
        "event.c.take_posted:order:1": "event_queue.take_posted RELAXED",
        "free.c.slab_free_no_owner:never:1": "hand_over.look DROPPED",
        "page_counter.c.page_counter_try_charge:never:1": "page_counter.check DROPPED",
        "section.h.section_begin:drop:2": "section.compiler_fence DROPPED",
    }.items():
        by, _ = tool.judge_protocols(known[name])
        assert by.startswith(expected), name
    assert tool.judge_protocols(known["css.c.mem_cgroup_online:order:1"])[1].startswith("not model")
    assert tool.judge_protocols(known["css.c.css_get:drop:1"]) == ("", "")
