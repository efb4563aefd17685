# SPDX-License-Identifier: Apache-2.0
"""``run.py [--quick] [--page] [names]`` asks the questions and writes JSON, or writes the page."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback

import harness

QUESTIONS = (
    "object_loops", "enter_leave", "native_pairs", "malloc_cost", "kmem_cache", "numpy_batches",
    "accounting_cost", "tracing_cost", "group_life", "close_million", "utilisation", "many_groups",
    "creation_contention", "one_mutex", "rss", "pyperformance_suite",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller works")
    parser.add_argument("--page", action="store_true", help="write docs/benchmark-tables.md")
    parser.add_argument("names", nargs="*", help=", ".join(QUESTIONS))
    args = parser.parse_args()
    results = harness.results(args.quick)
    failed, answered = 0, []
    for name in args.names or ([] if args.page else QUESTIONS):
        start = time.monotonic()
        module = importlib.import_module(name)
        print(f"{name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        try:
            rows = module.run(args.quick)
        except Exception:  # the other questions may still be answered
            traceback.print_exc()
            failed += 1
            continue
        harness.show(rows)
        harness.write(name, rows, results)
        answered += rows
        print(f"  {time.monotonic() - start:.0f} s", flush=True)
    if answered:
        print(harness.summary(answered), flush=True)
    if args.page:
        import page

        page.write(results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
