/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostile.c - an extension module that does to memory what no extension may do.
 *
 * Addresses are integers, so that a block can be freed twice, overrun, and read after it was freed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct domain {
    void *(*malloc)(size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
};
static const struct domain domains[] = {
    { PyMem_RawMalloc, PyMem_RawRealloc, PyMem_RawFree },
    { PyMem_Malloc, PyMem_Realloc, PyMem_Free },
    { PyObject_Malloc, PyObject_Realloc, PyObject_Free },
};

static PyObject *hostile_malloc(PyObject *self, PyObject *args)
{
    unsigned domain;
    size_t size;
    void *p;

    (void)self;
    if (!PyArg_ParseTuple(args, "In", &domain, &size))
        return NULL;
    p = domains[domain].malloc(size);
    return p ? PyLong_FromVoidPtr(p) : PyErr_NoMemory();
}

static PyObject *hostile_free(PyObject *self, PyObject *args)
{
    unsigned domain;
    size_t p;

    (void)self;
    if (!PyArg_ParseTuple(args, "In", &domain, &p))
        return NULL;
    domains[domain].free((void *)p);
    Py_RETURN_NONE;
}

static PyObject *hostile_realloc(PyObject *self, PyObject *args)
{
    unsigned domain;
    size_t p, size;
    void *q;

    (void)self;
    if (!PyArg_ParseTuple(args, "Inn", &domain, &p, &size))
        return NULL;
    q = domains[domain].realloc((void *)p, size);
    return q ? PyLong_FromVoidPtr(q) : PyErr_NoMemory();
}

static PyObject *hostile_read(PyObject *self, PyObject *args)
{
    size_t p;
    Py_ssize_t size;

    (void)self;
    if (!PyArg_ParseTuple(args, "nn", &p, &size))
        return NULL;
    return PyBytes_FromStringAndSize((const char *)p, size);
}

static PyObject *hostile_write(PyObject *self, PyObject *args)
{
    size_t p;
    const char *bytes;
    Py_ssize_t size;

    (void)self;
    if (!PyArg_ParseTuple(args, "ny#", &p, &bytes, &size))
        return NULL;
    memcpy((void *)p, bytes, (size_t)size);
    Py_RETURN_NONE;
}

/* Counts how many of `size` bytes at p are `byte`, without making an object of them. */
static PyObject *hostile_count(PyObject *self, PyObject *args)
{
    size_t p;
    Py_ssize_t size, n = 0;
    unsigned char byte;

    (void)self;
    if (!PyArg_ParseTuple(args, "nnb", &p, &size, &byte))
        return NULL;
    for (Py_ssize_t i = 0; i < size; i++)
        n += ((unsigned char *)p)[i] == byte;
    return PyLong_FromSsize_t(n);
}

/* ---- native threads that never hold the GIL --------------------------------- */

static atomic_int stopping, running, damaged;
static atomic_long churned;

static void *freed_by_thread(void *p)
{
    PyMem_RawFree(p);
    return NULL;
}

static PyObject *hostile_free_in_thread(PyObject *self, PyObject *args)
{
    pthread_t thread;
    size_t p;

    (void)self;
    if (!PyArg_ParseTuple(args, "n", &p))
        return NULL;
    if (pthread_create(&thread, NULL, freed_by_thread, (void *)p))
        return PyErr_NoMemory();
    pthread_join(thread, NULL);
    Py_RETURN_NONE;
}

#define HELD 512
static _Atomic(uint32_t *)
    shelf[HELD]; /* all threads take and put blocks here, so they are freed where they were not
                  * allocated */

static bool is_whole(const uint32_t *block)
{
    for (uint32_t i = 1; i < block[0]; i++)
        if (block[i] != (block[0] ^ i))
            return false;
    return true;
}

static void *churn(void *arg)
{
    uint32_t state = (uint32_t)(uintptr_t)arg * 2654435761u + 1;

    while (!atomic_load(&stopping)) {
        uint32_t words, *block;

        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        words = 2 + state % (state % 64 ? 100 : 20000);
        block = PyMem_RawMalloc(words * 4 / 2);
        block = block ? PyMem_RawRealloc(block, words * 4) : NULL;
        if (!block)
            continue;
        block[0] = words;
        for (uint32_t i = 1; i < words; i++)
            block[i] = words ^ i;
        block = atomic_exchange(&shelf[state % HELD], block);
        if (block && !is_whole(block))
            atomic_fetch_add(&damaged, 1);
        PyMem_RawFree(block);
        atomic_fetch_add(&churned, 1);
    }
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static PyObject *hostile_start_churn(PyObject *self, PyObject *args)
{
    int nr_threads;

    (void)self;
    if (!PyArg_ParseTuple(args, "i", &nr_threads))
        return NULL;
    atomic_store(&stopping, 0);
    for (intptr_t i = 0; i < nr_threads; i++) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, churn, (void *)(i + 1)))
            return PyErr_NoMemory();
        pthread_detach(thread);
        atomic_fetch_add(&running, 1);
    }
    Py_RETURN_NONE;
}

/* Frees all that is held. Returns (rounds, damaged blocks). */
static PyObject *hostile_stop_churn(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    atomic_store(&stopping, 1);
    Py_BEGIN_ALLOW_THREADS while (atomic_load(&running)) usleep(1000);
    Py_END_ALLOW_THREADS for (int i = 0; i < HELD; i++)
        PyMem_RawFree(atomic_exchange(&shelf[i], NULL));
    return Py_BuildValue("li", atomic_load(&churned), atomic_load(&damaged));
}

/* ---- fork, exit --------------------------------------------------------------- */

/* A plain fork(2), of which the interpreter knows nothing. The child allocates and exits. */
static PyObject *hostile_fork(PyObject *self, PyObject *args)
{
    int status = 0;
    pid_t pid;

    (void)self;
    (void)args;
    pid = fork();
    if (pid == 0) {
        char *blocks[200];

        alarm(20);
        for (size_t i = 0; i < 200; i++) {
            blocks[i] = PyMem_RawMalloc(1 + i * i);
            if (!blocks[i])
                _exit(1);
            memset(blocks[i], (int)i, 1 + i * i);
        }
        for (size_t i = 0; i < 200; i++)
            PyMem_RawFree(blocks[i]);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(status);
}

static void *kept_for_exit;

static void allocate_at_exit(void)
{
    char *p = PyMem_RawMalloc(3000), *q;

    memset(p, 1, 3000);
    q = PyMem_RawRealloc(kept_for_exit, 100000); /* resizes a block from before the end */
    kept_for_exit = NULL;
    memset(q, 2, 100000);
    PyMem_RawFree(p);
    PyMem_RawFree(q);
    if (write(1, "allocated at exit\n", 18)) {}
}

static PyObject *hostile_allocate_at_exit(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    kept_for_exit = PyMem_RawMalloc(50000);
    if (atexit(allocate_at_exit) || Py_AtExit(allocate_at_exit))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    { "malloc", hostile_malloc, METH_VARARGS, "malloc(domain, size) -> address" },
    { "realloc", hostile_realloc, METH_VARARGS, "realloc(domain, address, size) -> address" },
    { "free", hostile_free, METH_VARARGS, "free(domain, address)" },
    { "read", hostile_read, METH_VARARGS, "read(address, size) -> bytes" },
    { "write", hostile_write, METH_VARARGS, "write(address, bytes)" },
    { "count", hostile_count, METH_VARARGS, "count(address, size, byte) -> how many" },
    { "free_in_thread", hostile_free_in_thread, METH_VARARGS, "free_in_thread(address)" },
    { "start_churn", hostile_start_churn, METH_VARARGS, "start_churn(threads)" },
    { "stop_churn", hostile_stop_churn, METH_NOARGS, "stop_churn() -> (rounds, damaged)" },
    { "fork", hostile_fork, METH_NOARGS, "fork() -> status of the child" },
    { "allocate_at_exit", hostile_allocate_at_exit, METH_NOARGS, "allocate_at_exit()" },
    { NULL, NULL, 0, NULL },
};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "hostile", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit_hostile(void) { return PyModule_Create(&module); }
