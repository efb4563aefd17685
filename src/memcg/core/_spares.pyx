# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""Closed groups that are kept for the next ones below their parents (native/spare.c)."""

from binding cimport *
from cpython.ref cimport PyObject
from memcg.core._groups cimport Memcg
from native cimport *



cdef bint is_forgotten(Memcg memcg):
    """Tell whether nothing but memcg refers to a spare group any more.

    What refers to it then is the list, its activation, the caller's variable, and each of its
    caches twice (as `memcg`, and in the control plane's `memcg_params`).
    """
    return py_has_only(<PyObject *>memcg, 3 + 2 * mem_cgroup_nr_caches(memcg.c))


def mem_cgroup_keep(Memcg memcg not None, children, int nr_caches):
    """Take a group that holds nothing offline, out of `children`, and keep it for the next group.

    Returns False, and changes nothing, if it holds something or something is inside, or if it has
    more caches than the caller knows of.
    """
    cdef Memcg parent = memcg.parent
    if (parent is None or memcg.nr_inside or memcg._nr_spare or alarm_nr
            or mem_cgroup_nr_caches(memcg.get()) != nr_caches):
        return False
    if memcg.nr_entries:
        current_forget_last(<PyObject *>memcg)
    if memcg.nr_entries:
        current_forget(<PyObject *>memcg)
        if memcg.nr_entries:  # a context still names it
            return False
    if not c_mem_cgroup_keep(memcg.get()):
        return False
    opened_clear(&memcg.opened)
    pool_forget(memcg.c)
    memcg.next_spare = parent.spare
    parent.spare = memcg
    parent._nr_spare += 1
    del children[memcg.name]
    return True


cdef bint take_off(Memcg memcg):
    """Take a spare group off its parent's list; return False if it is not on it."""
    cdef Memcg parent = memcg.parent, above = None, spare = parent.spare
    while spare is not None and spare is not memcg:
        above = spare
        spare = spare.next_spare
    if spare is None:
        return False
    if above is None:
        parent.spare = memcg.next_spare
    else:
        above.next_spare = memcg.next_spare
    memcg.next_spare = None
    parent._nr_spare -= 1
    return True


def mem_cgroup_reuse(Memcg parent not None, children, str name not None,
                     str path not None):
    """Make the latest spare group that the program has forgotten a new one, and put it in `children`.

    Returns None if there is none, or if a limit above refuses it.
    """
    cdef Memcg memcg = parent.spare
    while memcg is not None and not is_forgotten(memcg):
        memcg = memcg.next_spare
    if memcg is None:
        return None
    below, shrinkers = {}, []
    children[name] = memcg
    if not mem_cgroup_renew(memcg.c):
        del children[name]
        return None
    take_off(memcg)
    memcg.path = path
    memcg.name = name
    memcg.children = below
    memcg.shrinkers = shrinkers
    memcg._max_descendants = memcg._max_depth = None
    memcg._own_high = False
    return memcg


def mem_cgroup_oldest_spare(Memcg parent not None, int at_most):
    """Return the spare group that was closed first, or None if there are `at_most` or fewer."""
    cdef Memcg memcg = parent.spare
    if parent._nr_spare <= at_most:
        return None
    while memcg.next_spare is not None:
        memcg = memcg.next_spare
    return memcg


def mem_cgroup_give_up(Memcg memcg not None):
    """Take a spare group off its parent's list and drop its css reference. It has no caches."""
    if take_off(memcg):
        c_mem_cgroup_give_up(memcg.c)
