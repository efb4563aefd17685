"""Charge the whole program to a group with a limit, as `memcg run` does, in every process."""

import memcg

memcg.install()
memcg.group("bench", max="4GiB").__enter__()
