# SPDX-License-Identifier: Apache-2.0
"""Every execution of the native core's protocols is safe, and every memory order is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from litmus import events, groups, page, pools, protocols, workers
from litmus.memory_model import Violation
from litmus.protocols import PRESENT

PROTOCOLS = [
    *protocols.PROTOCOLS,
    *events.PROTOCOLS,
    *groups.PROTOCOLS,
    *workers.PROTOCOLS,
    *pools.PROTOCOLS,
    *page.PROTOCOLS,
]
NATIVE = Path(__file__).parents[2] / "native"
BINDING = NATIVE.parent / "src" / "memcg" / "core" / "binding"

# Orders that are stronger than their protocol needs, each with its reason. A test fails as soon as
# one of them is needed.
NOT_NEEDED = {
    ("section", "steal", "ACQ_REL"): "membarrier is a fence; without it seq_cst is needed, see "
    "section_without_membarrier",
    ("section", "steal", "RELAXED"): "the same",
    ("section", "see_busy", "ACQ_REL"): "the same",
    ("hand_over", "let_go_slab", "RELAXED"): "a thread that reads NULL takes cache->lock, which "
    "orders; a plain store on x86",
    ("css_tryget", "take", "RELAXED"): "the pointer was safe to read before",
    ("pending", "array", "RELAXED"): "growing steals all threads, which orders",
    ("pending", "see_array", "RELAXED"): "the same",
    ("pending", "done_sees_array", "RELAXED"): "the same",
    ("pending", "claim", "ACQUIRE"): "the flag guards nothing but itself",
    ("pending", "claim", "RELEASE"): "the same",
    ("pending", "done", "RELAXED"): "the same",
    ("pending", "take_back", "RELAXED"): "the same",
    ("worker_hold", "take_back", "ACQ_REL"): "one thread takes the flag, which guards nothing else",
    ("worker_hold", "take_back", "RELAXED"): "the same",
    ("worker_hold", "take_missed", "ACQ_REL"): "the same",
    ("worker_hold", "take_missed", "RELAXED"): "the same",
    ("worker_hold", "gone", "ACQ_REL"): "a fork that sees 0 needs to see only what the worker did",
}

# Functions with orders that no protocol mirrors, and why.
NOT_MODELLED = {
    ("section.h", "section_begin"): "seq_cst accesses, under ThreadSanitizer only",
    ("section.c", "barrier_everywhere"): "decides when membarrier is forbidden, which is no order",
    ("event.c", "memcg_set_waker"): "the address of a function: nothing is behind it",
    ("event.c", "event_post"): "acquire reads the waker's address",
    ("memcg.c", "memcg_next_event"): "`ended` only drops the event",
    ("charge.c", "memcg_set_alarm"): "the address of a function: nothing is behind it",
    ("charge.c", "call_alarm"): "the same",
    ("charge.c", "memcg_set_refusal"): "the same",
    ("charge.c", "may_refuse"): "the same",
    ("charge.c", "memcg_set_requester"): "the same",
    ("charge.c", "requester"): "the same",
    ("charge.c", "memcg_set_survivor"): "the same",
    ("charge.c", "is_forced"): "the same",
    ("charge.c", "memcg_set_collector"): "the same",
    ("charge.c", "memcg_set_oom_group_fn"): "the same",
    ("charge.c", "count_at_ceiling"): "the same",
    ("charge.c", "collector_can_run"): "the same",
    ("arena.c", "arena_copy"): "before malloc is served, and before the hooks are installed",
    ("arena.c", "arena_fit"): "munmap, which follows, orders more",
    ("charge.c", "check_high"): "high_pending is a flag that only admits a charge",
    ("css.c", "mem_cgroup_high_pending"): "the same",
    ("css.c", "mem_cgroup_high_done"): "the same",
    ("memcontrol.c", "mem_cgroup_set_limit"): "a barrier on x86 only: elsewhere one reclaim may be "
    "missed, which the next charge over the limit makes",
    (
        "css.c",
        "mem_cgroup_online",
    ): "`online` is cleared once; offline then steals all threads",
    ("memcontrol.c", "mem_cgroup_offline"): "the same",
    ("spare.c", "mem_cgroup_keep"): "cleared while all threads are stolen",
    ("spare.c", "mem_cgroup_renew"): "no thread has the group yet; the GIL publishes it",
    ("reclaim.c", "thread_holds_free"): "a racy look needs only to find the heap whole",
    ("heap.c", "thread_set_heap"): "the same",
    ("css.c", "mem_cgroup_set_id"): "read relaxed: a thread looks up its own heap",
    ("css.c", "objcg_link"): "obj_cgroup->memcg is as page_slab, and changes with threads stolen",
    ("heap.c", "heap_of"): "online, as above",
    ("memcontrol.c", "nearest_online"): "online, as above",
    ("memcontrol.c", "mem_cgroup_try_charge"): "obj_cgroup->memcg, as above",
    ("charge.c", "external"): "obj_cgroup->memcg, as above",
    ("page_run.c", "run_keep"): "the same",
    ("sample.c", "memcg_set_sampler"): "the address of a function: nothing is behind it",
    ("sample.c", "sample_new"): "the same",
    ("sample.c", "mem_cgroup_samples"): "obj_cgroup->memcg, as above",
    ("memcontrol.c", "memcg_set_pool"): "the address of a function: nothing is behind it",
    ("memcontrol.c", "memcg_follow_pool"): "the same",
    ("shared.c", "shared_uncharge"): "obj_cgroup->memcg, as above",
    ("page_run.c", "run_uncharge"): "obj_cgroup->memcg, as above",
    ("page_run.c", "run_grow"): "obj_cgroup->memcg, as above",
    ("slab.c", "slab_release"): "obj_cgroup->memcg, as above",
    ("slab.c", "slab_new"): "obj_cgroup->memcg, as above",
    ("slab.c", "__slab_unlist"): "`dead` is set with all threads stolen and read under cache->lock",
    ("free.c", "slab_free"): "the byte of a live object, which orders nothing else",
    ("shared.c", "shared_free"): "the same, for this thread's group",
    ("kmem_cache.h", "kmem_cache_free_fast"): "the same",
    ("kmem_cache.c", "is_dead"): "set with all threads stolen",
    ("kmem_cache.c", "kmem_cache_set_dead"): "the same",
    ("kmem_cache.c", "kmem_cache_shutdown"): "the same",
    ("kmem_cache.c", "kmem_cache_free_struct"): "ended, as above",
    ("kmem_cache.c", "memcg_cache_array_size"): "reads the array, as cache_from_memcg_idx",
    ("publish.c", "put_counter"): "one location, which is read after it was written",
    ("publish.c", "put_stat"): "a figure alone needs no order to another",
    ("publish.c", "put_figures"): "the same",
    ("publish.c", "mem_cgroup_set_inside"): "the same",
    ("publish.c", "put_sample"): "the entry, then the head; one thread has `ticking`",
    ("publish.c", "__publish_event"): "the entry, then the head, under publish_lock",
    ("publish.c", "tick"): "records appear under publish_lock, and a new one may wait for a tick",
    ("publish.c", "take_slot"): "under publish_lock",
    ("publish.c", "publish_add"): "the other fields as `id` and the path, under publish_lock; a "
    "slot's own fields never move",
    ("publish.c", "publish_drop"): "a grace period passes before the slot is used again",
    ("publish.c", "__publish_usage"): "`slot` is dropped a grace period before its end; the flag "
    "`ticking` is a lock that nobody waits for",
    ("publish.c", "__publish_stat"): "`slot`, as above",
    ("publish.c", "__publish_figures"): "`slot`, as above",
    ("publish.c", "publish_begin"): "all threads are stolen, which orders",
    ("publish.c", "publish_end"): "the same",
    ("publish.c", "publish_pause"): "the same",
    ("publish.c", "publish_resume"): "the same",
}

ORDERED = re.compile(
    r"\b(?:load|store|exchange|add|sub|fetch_or|cas_weak)_(?:acquire|release|acq_rel|seq_cst)\("
)

MUTANTS = [(p, name, order) for p in PROTOCOLS for name, order in p.mutants()]


def functions(file):
    """Return the body of each C function of a file, by name, with single spaces."""
    path = NATIVE / file if (NATIVE / file).exists() else BINDING / file
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    found = re.finditer(
        r"^[a-z][\w \*]*?\b(\w+)\((?:[^;{}]*)\)\s*(?:\{([^\n]*)\}$|\{(.*?)^\})",
        text,
        re.DOTALL | re.MULTILINE,
    )
    return {m[1]: re.sub(r"\s+", " ", m[2] or m[3] or "") for m in found}


def written(site):
    """Return the text of a site, with its order spelled as in C."""
    return site.text.format(site.order.lower()) if site.order != PRESENT else site.text


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_every_execution_is_safe(protocol):
    for result in protocol.run(protocol.orders()):
        assert result.executions > 1


@pytest.mark.parametrize(
    ("protocol", "name", "order"), MUTANTS, ids=[f"{p.name}-{n}-{o}" for p, n, o in MUTANTS]
)
def test_a_weaker_order_is_caught(protocol, name, order):
    orders = protocol.orders(**{name: order})
    if (protocol.name, name, order) in NOT_NEEDED:
        protocol.run(orders)
    else:
        with pytest.raises(Violation):
            protocol.run(orders)


def test_a_reader_of_the_page_needs_acquire_loads():
    assert page.names_by_reader("ACQUIRE")
    with pytest.raises(Violation, match="half a name"):
        page.names_by_reader("RELAXED")


def test_what_is_not_needed_names_mutants():
    assert {(p.name, name, order) for p, name, order in MUTANTS} >= NOT_NEEDED.keys()


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_the_accesses_stand_in_c_with_these_orders(protocol):
    for name, site in protocol.sites.items():
        body = functions(site.file)[site.function]
        where = f"{protocol.name}.{name}: {site.function} in {site.file}"
        assert written(site) in body, where
        for weaker in (order for n, order in protocol.mutants() if n == name):
            if site.order != PRESENT:  # and nowhere else in the function
                assert written(site._replace(order=weaker)) not in body, where


def test_every_order_in_c_is_modelled_or_listed_with_a_reason():
    modelled = {}
    for protocol in PROTOCOLS:
        for site in protocol.sites.values():
            modelled.setdefault((site.file, site.function), set()).add(written(site))
    missing, used = [], set()
    for path in sorted(NATIVE.glob("*.[ch]")):
        if path.name == "atomic.h":
            continue
        bodies = functions(path.name)
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert len(ORDERED.findall(text)) == sum(
            len(ORDERED.findall(b)) for b in bodies.values()
        ), f"{path.name}: an order outside the functions that were found"
        for function, body in bodies.items():
            for site in modelled.get((path.name, function), ()):
                body = body.replace(site, "")
            if left := ORDERED.findall(body):
                used.add((path.name, function))
                if (path.name, function) not in NOT_MODELLED:
                    missing.append((path.name, function, left))
    assert not missing
    assert NOT_MODELLED.keys() <= used, NOT_MODELLED.keys() - used


def test_only_atomic_h_uses_the_builtins():
    users = {
        path.name
        for path in [*NATIVE.glob("*.[ch]"), *NATIVE.glob("tests/*.[ch]"), *BINDING.glob("*.[ch]")]
        if re.search(r"__atomic_|__ATOMIC_|__sync_", path.read_text())
    }
    assert users == {"atomic.h"}


def compiles(tmp_path, body):
    """Tell whether a function with `body` compiles, beside a struct with an atomic field."""
    source = tmp_path / "access.c"
    source.write_text(
        '#include "atomic.h"\nstruct thing { atomic_long_t n; ATOMIC(char *) p; };\n'
        f"long f(struct thing *t); long f(struct thing *t) {{ {body} }}\n"
    )
    command = ["cc", "-std=gnu11", "-fsyntax-only", f"-I{NATIVE}", str(source)]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize(
    "plain", ["return t->n;", "t->n = 1; return 0;", "t->n++; return 0;", "return !t->p;"]
)
def test_no_plain_access_to_an_atomic_field_compiles(tmp_path, plain):
    assert compiles(tmp_path, "store_release(&t->p, 0); return load_acquire(&t->n);")
    assert not compiles(tmp_path, plain)
