# SPDX-License-Identifier: Apache-2.0
"""The standard library's threads, locks, queues and clock, as scheduling points.

`memcg.verify.patch` gives them to modules that were written for the real ones. Each behaves as its
namesake does. A wait with a time may run out at any moment, and a try-lock fails if the lock is
held at that moment: the explorer tries both.
"""
