# SPDX-License-Identifier: Apache-2.0
"""What must go on in a group that is at its limit or past its reserve."""

from __future__ import annotations

import sys
from pathlib import Path


def test_a_thread_starts_past_the_reserve(run_program):
    """3.15's thread state is larger than what counts as small."""
    shown = run_program("""
        g = memcg.group("g", max=4 * MIB, reserve=MIB, overdraft=MIB, high="max")
        kept, ran, refused = [], [], 0
        with g, memcg.shield():
            while not g.events["overdraft"]:
                kept.append(bytes(900))
            try:
                kept.append(bytes(100_000))  # no partial slab has room for it
            except MemoryError:
                refused = 1
            for i in range(20):
                thread = threading.Thread(target=ran.append, args=(i,))
                thread.start(); thread.join()
            kept.clear()
        show(ran=len(ran), refused=refused)
    """)
    assert shown == {"ran": 20, "refused": 1}


def test_files_are_opened_and_modules_imported_at_the_limit(run_program, tmp_path):
    """Since 3.14 the buffer of a file takes 128 KiB."""
    (tmp_path / "text").write_text("some text")
    (tmp_path / "a_module.py").write_text("VALUE = 1\n")
    shown = run_program(
        """
        sys.path.insert(0, sys.argv[1])
        g = memcg.group("g", max=4 * MIB, reserve=2 * MIB, high="max")
        kept, refused = [], 0
        with g, memcg.shield():
            while g.current < 4 * MIB:
                kept.append(bytes(900))
            try:
                kept.append(bytes(100_000))
            except MemoryError:
                refused = 1
            with open(sys.argv[1] + "/text") as file:
                text = file.read()
            import a_module
            kept.clear()
        show(text=text, value=a_module.VALUE, refused=refused)
        """,
        tmp_path,
    )
    assert shown == {"text": "some text", "value": 1, "refused": 1}


def test_a_file_opened_past_the_reserve_is_refused_where_its_buffer_is_large(run_program):
    shown = run_program(
        """
        g = memcg.group("g", max=4 * MIB, reserve=MIB, overdraft=MIB, high="max")
        kept, refused = [], 0
        with g, memcg.shield():
            while not g.events["overdraft"]:
                kept.append(bytes(900))
            try:
                open(sys.argv[1], "rb").close()
            except MemoryError:
                refused = 1
            kept.clear()
        show(refused=refused)
        """,
        Path(__file__),
    )
    assert shown == {"refused": 1}


def test_a_buffer_is_the_size_that_the_core_knows():
    import io

    expected = 128 << 10 if sys.version_info >= (3, 14) else 8 << 10
    assert expected == io.DEFAULT_BUFFER_SIZE
