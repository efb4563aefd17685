# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations


def test_installing_works_twice_and_after_threads_and_not_in_a_subinterpreter(run_program):
    shown = run_program(
        """
    import threading, time
    stop = []
    def churn():
        while not stop:
            [str(i) for i in range(1000)]
    threads = [threading.Thread(target=churn) for _ in range(3)]
    for t in threads: t.start()
    import memcg
    memcg.install()
    memcg.install()
    time.sleep(0.2)
    stop.append(1)
    for t in threads: t.join()
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        import _interpreters as interpreters
    other = interpreters.create()
    failed = interpreters.run_string(other, '''if True:
        import memcg
        try:
            memcg.install()
        except memcg.MemcgError as error:
            assert "this is a subinterpreter" in str(error)
        else:
            raise SystemExit("installed")
        rows = [str(i) for i in range(100_000)]
    ''')
    assert failed is None, failed
    interpreters.destroy(other)
    g = memcg.group("a")
    with g:
        rows = [str(i) for i in range(10_000)]
    print(g.current)
    """,
        prelude="",
    )
    assert int(shown) > 400_000


def test_the_model_core_says_why_it_cannot(run_program):
    run_program(
        """
    import memcg
    try:
        memcg.install()
    except memcg.MemcgError as error:
        assert "MEMCG_CORE=model" in str(error)
    else:
        raise SystemExit("installed")
    with memcg.KmemCache("frame", 100) as frames:
        frames.free(frames.alloc())
    """,
        prelude="",
        MEMCG_CORE="model",
    )


def test_importing_is_quick_and_starts_nothing(run_program):
    shown = run_program(
        """
    import sys, threading
    before = set(sys.modules)
    import memcg
    print(len(threading.enumerate()), "asyncio" in sys.modules, "numpy" in sys.modules)
    """,
        prelude="",
    )
    assert shown.split() == ["1", "False", "False"]
