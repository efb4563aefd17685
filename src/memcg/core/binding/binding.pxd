# SPDX-License-Identifier: Apache-2.0
# What the C files of this folder offer, a block for each header.
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from native cimport kmem_cache, mem_cgroup, memcg_failure

cdef extern from "kmem_cache.h":
    void *kmem_cache_alloc_fast(kmem_cache *s)
    int kmem_cache_free_fast(kmem_cache *s, void *object)

cdef extern from "compat.h":
    void py_show_error_of_thread(object fn, object error)

cdef extern from "frame.h":
    void frame_caller(char *text, size_t n) nogil
    struct code_line:
        PyObject *code
        int lasti

cdef extern from "current.h":
    struct entry:
        pass
    enum shield_state:
        NO_SHIELD
        SHIELD_UP
        SHIELD_LEFT
    object current_init(object var, PyTypeObject *type)
    void current_refresh()
    PyObject *current_context()
    PyObject *current_foreign_value()
    entry *current_entry_now()
    object current_entry_in(PyObject *context)
    bint current_enter_again(PyObject *memcg)
    enum entering:
        ENTER_NOT
        ENTER_GROUP
    int current_set_entry(entry *entry, entering enter) except -1
    int current_enter_bound(entry *entry) except -1
    int current_leave_bound(entry *entry, int index, entry *before) except -1
    int current_leave() except -1
    void current_forget_last(PyObject *memcg)
    void current_forget(PyObject *memcg)

cdef extern from "opened.h":
    struct opened_table:
        pass
    void opened_add(opened_table *table, PyObject *context)
    void opened_remove(opened_table *table, PyObject *context)
    bint opened_has(const opened_table *table, PyObject *context)
    long opened_drop(opened_table *table, const PyObject *context)
    long opened_total(const opened_table *table)
    void opened_clear(opened_table *table)

cdef extern from "threads.h":
    struct running:
        unsigned long thread
        PyObject *context
    void threads_init()
    running *threads_running(size_t *n)
    object threads_next_ended()

cdef extern from "collecting.h":
    int collecting_init(object collect) except -1

cdef extern from "refusal.h":
    void refusal_init()
    enum refusal_doubt:
        REFUSAL_HEARD
        REFUSAL_SILENT
    refusal_doubt refusal_take(mem_cgroup *memcg, memcg_failure *failure, code_line *line)

cdef extern from "survivor.h":
    void survivor_init()

cdef extern from "sealed.h":
    void sealed_type(PyTypeObject *type)

cdef extern from "constructor.h":
    bint constructor_has_run(const void *object)
    int constructor_run(void *object, size_t size, size_t pad,
                        int (*construct)(void *arg, char *p) except -1, void *arg) except -1

cdef extern from "blocks.h":
    struct live_block:
        void *start
        size_t size
        kmem_cache *cache
    live_block *blocks_live(mem_cgroup *memcg, size_t *n)

cdef extern from "collection.h":
    void collection_init(object collect)
    bint collection_is_due(mem_cgroup *limited)
    void collection_ended(mem_cgroup *limited, int64_t freed, int64_t ns)

cdef extern from "verdict.h":
    void verdict_init(object find)

cdef extern from "compat.h":
    bint py_has_only(PyObject *op, Py_ssize_t refs)

cdef extern from "alarm.h":
    void alarm_stop()
    bint alarm_last(memcg_failure *failure)
    int alarm_nr
    void alarm_forget(mem_cgroup *memcg)

cdef extern from "pool.h":
    bint pool_is_on
    void pool_start()
    void pool_enter(mem_cgroup *memcg, PyObject *context)
    void pool_leave(mem_cgroup *memcg, PyObject *context)
    void pool_forget(mem_cgroup *memcg)
    void pool_after_fork()
    bint pool_take_refusal(mem_cgroup *memcg, PyObject *context, memcg_failure *failure)

cdef extern from "delivery.h":
    void delivery_init(object exception)
    bint delivery_leave(mem_cgroup *memcg, memcg_failure *failure)
    void delivery_resume(PyObject *context)
    void delivery_after_fork()

cdef extern from "hooks.h":
    const char *hooks_stranger()
    int hooks_install() except -1
    int hooks_installed()
    void hooks_exiting()

cdef extern from "numpy.h":
    int numpy_hook(object array_api) except -1

cdef extern from "holders.h":
    object holders_scan(mem_cgroup *memcg, object types, object tracked, bint frozen)

cdef extern from "mutex.h":
    object mutex_type()
    void mutex_after_fork()

cdef extern from "worker.h":
    enum worker_kind:
        WORKER_EVENTS
    void worker_init(object work, object run_worker, bint traced)
    void worker_run(worker_kind kind)
    void worker_ended(worker_kind kind)
    void worker_wake(worker_kind kind) noexcept nogil
    bint worker_wait(double seconds)
    void worker_stop()
    void worker_hold()
    void worker_release()
    void worker_after_fork()

cdef extern from "stacks.h":
    int stacks_init(uint64_t seed)
    struct c_stack_frame "stack_frame":
        uint32_t outer
        const char *file
        const char *name
        int line, first_line
    bint stacks_frame(uint32_t stack, c_stack_frame *frame)
