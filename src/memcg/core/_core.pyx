# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""The native data plane, wrapped: the classes and functions of `memcg.core.model`, in C.

Every method is one call, which no asynchronous exception can cut in two.

The other modules lie in the same shared object, so that there is one data plane. An import looks
for a module in a file of its name, where they are not: so this module loads them, each after those
that it needs.
"""

import gc
import os
import sys

from binding cimport *
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from native cimport *

from .dataplane import Event
from ..errors import MemcgOOM

name = "native"
GROUP_BYTES = MEMCG_GROUP_BYTES  # what a group costs its parent
LOCKS = ()  # for a fork; the locks of C have handlers of their own (pthread_atfork)
Mutex = mutex_type()


# -- the modules of this shared object


cdef load(str noun):
    """Import a module of this shared object."""
    here = globals()["__spec__"]
    spec = type(here)(f"{here.parent}.{noun}", None, origin=here.origin)
    spec.loader = type(here.loader)(spec.name, here.origin)
    spec.has_location = True
    module = spec.loader.create_module(spec)
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__package__ = spec.parent
    module.__file__ = spec.origin
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise


# -- the start

load("_faults")

from ._faults import Faults


cdef object environment_faults = None  # they stay armed, and so their strings have to stay


cdef limits_met():
    """Say what to do if a limit of the process is too small."""
    import resource
    met = [
        f"raise `ulimit -{letter}`, which is {limit // 1024} KiB"
        for letter, what in (("d", resource.RLIMIT_DATA), ("v", resource.RLIMIT_AS))
        if (limit := resource.getrlimit(what)[0]) != resource.RLIM_INFINITY
    ]
    return " and ".join(met) or "neither `ulimit -d` nor `ulimit -v` is set: the machine has none"


cdef start():
    """Set up what the environment asks for, and then the data plane."""
    global environment_faults
    cdef memcg_config config = memcg_config(0, 0, 0)
    debug = os.environ.get("MEMCG_DEBUG", "")
    attr = None
    if os.environ.get("MEMCG_FAIL"):
        from .fault_attr import from_environment
        try:
            attr = from_environment()
        except ValueError as error:
            raise ImportError(str(error))
    if memcg_parse_debug(debug.encode(), &config.debug):
        raise ImportError(
            f"MEMCG_DEBUG={debug!r}: letters of F (free lists are walked), Z (red zones), P (poison), "
            "U (the place that allocated), H (hardened free lists); 1 is FZPU, 0 nothing"
        )
    if attr is not None:
        environment_faults = Faults(attr, False)
        environment_faults.__enter__()
    if memcg_init(&config):
        raise ImportError(f"memcg: no address space for the arena; {limits_met()}")
    memcg_copy_arena(&this_arena)
    memcg_set_caller(frame_caller)


start()
load("_errors")
load("_groups")
load("_spares")
load("_bound")
load("_caches")
load("_samples")

from ._bound import Bound, Started
from ._caches import KMALLOC_SIZES, Cache, live_blocks, scan, view
from ._errors import explain, find_memory_error, last_alarm, last_failure
from ._groups import (
    Memcg, Shield, ancestry, collect_garbage, css_get, css_put, css_refs, css_tryget, current,
    current_entry, enter, enter_root_where_outside, is_entered_in, leave, leave_for_ended_threads,
    mem_cgroup_collect_garbage, mem_cgroup_drain, mem_cgroup_events_local,
    mem_cgroup_get_limit, mem_cgroup_high_done, mem_cgroup_last_oom, mem_cgroup_offline,
    mem_cgroup_reset_peak, mem_cgroup_set_has_shrinkers, mem_cgroup_set_limit, memcg_charge,
    memcg_try_charge, memcg_uncharge, publish_inside_of, threads_inside,
)
from ._samples import (
    mem_cgroup_samples, mem_cgroup_sampling, mem_cgroup_set_sampling, stack_frame,
)
from ._spares import (
    mem_cgroup_give_up, mem_cgroup_keep, mem_cgroup_oldest_spare, mem_cgroup_reuse,
)


# -- events


cdef dict EVENT_KINDS = {
    MEMCG_EVENT_CREATE: "create", MEMCG_EVENT_EMPTY: "empty", MEMCG_EVENT_HIGH: "high",
    MEMCG_EVENT_RELEASE: "release",
}


def next_event():
    """Take the oldest event and return it; None: there is none."""
    cdef memcg_event event
    # The result is made before the event is taken, which without memory would be lost.
    result = Event("create", None, None)
    if not memcg_next_event(&event):
        return None
    memcg = None if event.memcg is NULL else <object>mem_cgroup_owner(event.memcg)
    cache = None if event.cache is NULL else <object>kmem_cache_owner(event.cache)
    result.kind = EVENT_KINDS[event.kind]
    if event.kind == MEMCG_EVENT_RELEASE:
        Py_DECREF(memcg)  # it has kept itself alive since it was activated
    result.memcg = memcg
    result.cache = cache
    return result


cdef void wake_for_events() noexcept nogil:
    worker_wake(WORKER_EVENTS)


def run_worker(int kind):
    """Be a worker. worker.c makes a thread of Python, which calls this."""
    try:
        worker_run(<worker_kind>kind)
    finally:
        worker_ended(<worker_kind>kind)


def set_waker(wake, work=None):
    """Have `work` called in a native thread soon after an event is posted; None: no longer."""
    if wake is None or work is None:
        memcg_set_waker(NULL)
        return
    worker_init(work, run_worker, is_traced())
    memcg_set_waker(wake_for_events)


cdef extern from *:
    int PyTraceMalloc_Untrack(unsigned int domain, uintptr_t address)


def is_traced():
    """Tell whether tracemalloc is tracing. An import of its module would make each start slower."""
    return PyTraceMalloc_Untrack(0, 0) != -2


def hold_workers():
    """Let no native worker start. This thread's `release_workers` starts those that were due."""
    worker_hold()


def release_workers():
    """End one `hold_workers` of this thread."""
    worker_release()


def wait_worker(double within=-1):
    """Wait for up to `within` seconds until no native worker is at work; tell whether none is."""
    return bool(worker_wait(within))


def set_promote_bytes(size_t n):
    """Set how many live shared bytes of one cache ask for a child. With 0 the first object asks."""
    memcg_set_promote_bytes(n)


def synchronize():
    """Wait until every allocation, free and lookup that began before has ended."""
    memcg_synchronize()


def stop_account():
    """Charge the root by force, and post nothing, until `resume_account`. Calls may nest."""
    memcg_stop_kmem_account()


def resume_account():
    """End the innermost `stop_account`."""
    memcg_resume_kmem_account()


# -- the page for other processes


def publish(int fd, uint32_t groups, uint32_t events, uint32_t samples, uint64_t pid,
            uint64_t start_ticks, uint64_t pid_namespace):
    """Write all groups' figures to the empty file `fd` from now on, with room for so many of each.

    The file may be closed afterwards. `OSError` says why it cannot be done; EBUSY: it is done
    already.
    """
    cdef memcg_publish_config config = memcg_publish_config(
        fd, groups, events, samples, pid, start_ticks, pid_namespace)
    error = memcg_publish(&config)
    if error:
        raise OSError(-error, os.strerror(-error))


def unpublish():
    """End `publish`. The file stays as it is."""
    memcg_unpublish()


def is_published():
    """Tell whether `publish` was called in this process."""
    return bool(memcg_is_published())


# -- the whole


def global_stat():
    """Return figures of the process. They are bytes, except for counts (``nr_*``)."""
    cdef memcg_global_stat stat
    memcg_read_global_stat(&stat)
    return stat


def trim():
    """Give idle pages back to the system; return how many bytes."""
    return memcg_trim()


def fit(size_t space):
    """Make do with two thirds of `space` bytes of address space, or with what is in use."""
    memcg_fit(space)


# -- hooks


def install():
    """Put the hooks in. A second call does nothing.

    Context: the main thread, where alarms are quickest.
    """
    collecting_init(gc.collect)
    refusal_init()
    survivor_init()
    verdict_init(find_memory_error)
    collection_init(collect_garbage)
    delivery_init(MemcgOOM)
    hooks_install()
    enter_root_where_outside()


def follow_groups():
    """From now on, threads that C code has started charge the groups that are entered (pool.c)."""
    pool_start()


def foreign_hooks():
    """Return the file whose hooks CPython's allocators have, not above ours; None: no such file."""
    cdef const char *file = hooks_stranger()
    return None if file is NULL else os.fsdecode(file)


def installed():
    """Tell whether the hooks are in."""
    return bool(hooks_installed())


def malloc_served():
    """Tell whether libmemcg_malloc was preloaded and serves malloc, so that C code is charged."""
    return memcg_serves_c()


def malloc_library():
    """Return the file to put into LD_PRELOAD so that malloc is served; None: there is none."""
    folder, name = os.path.split(__file__)
    file = os.path.join(folder, name.replace("_core", "libmemcg_malloc", 1))
    return file if os.path.exists(file) else None


def why_malloc_not_served():
    """Return why malloc is not served though it was to be, or why it cannot be; None: it can."""
    preloaded = os.environ.get("LD_PRELOAD", "").encode()
    cdef const char *reason = memcg_why_not_c()
    if reason is NULL:
        reason = memcg_malloc_is_replaced(preloaded)
    if reason is not NULL:
        return reason.decode()
    if malloc_library() is None:
        return "memcg was built on a system whose C library is not glibc"
    if set(" :") & set(malloc_library()):
        return f"LD_PRELOAD cannot name {malloc_library()!r}, which has a space or a colon in it"
    return None


cdef class ModuleFinder:
    """An import finder (PEP 451) for a few names.

    For other names it makes no Python frame, which a program's tracer would see.
    """

    cdef object names, find
    cdef dict __dict__  # some programs wrap `find_spec` of each finder that they see

    def __init__(self, names, find):
        self.names = names
        self.find = find
        self.__module__ = "memcg.hooks"  # programs tell finders apart by it

    def find_spec(self, name, path=None, target=None):
        return self.find(name, path, target) if name in self.names else None

    def leave(self):
        """Leave ``sys.meta_path``, which becomes a new list: other threads may read the old one."""
        cdef list others = []
        for finder in sys.meta_path:
            if finder is not self:
                others.append(finder)
        sys.meta_path = others  # no thread ran meanwhile: a loop in C makes no check


def install_numpy(array_api):
    """Put the hooks of NumPy before 2.5 in; `array_api` is its ``_ARRAY_API``."""
    numpy_hook(array_api)


def exiting():
    """Get ready for the interpreter's end: stop workers, and leave new RAW requests to CPython."""
    alarm_stop()
    worker_stop()
    hooks_exiting()
    memcg_validate()


def forget_alarms():
    """Drop the root's alarms that were posted and not raised."""
    alarm_forget(mem_cgroup_root())


def after_fork_in_child():
    """Forget the workers of the parent, the threads that wait there, and what others entered."""
    worker_after_fork()
    delivery_after_fork()
    pool_after_fork()
    mutex_after_fork()
    leave_for_ended_threads()
