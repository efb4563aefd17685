/* SPDX-License-Identifier: Apache-2.0 */
/*
 * holders.c - what the memory of a group is: objects, and memory that belongs to an object.
 *
 * A block is certainly an object if the collector's lists lead to its address: they contain each
 * tracked object, and its tp_traverse visits what it refers to.  Such an object is alive while the
 * GIL is held, so it may be read.  Objects that only C code refers to are guessed, by a reference
 * count and a type at the places where an object has them.  A guess is named, and never followed.
 *
 * The rest is memory of an object: the items of a list, the table of a dict, the data of an array.
 * Its owner has the block's address in its own words, as for a conservative collector (Boehm and
 * Weiser, 1988), or in the first words of another of its blocks, as a deque has.
 *
 * All threads are stolen while blocks are noted, together with the few of their words that are
 * needed later, because RAW blocks are freed without the GIL.  After that only objects that are
 * alive are read.  Nothing here runs Python code, frees an object or gives up the GIL.  Memory is
 * plain (plain.h).
 *
 * Kernel: none; ours.  Locks: the GIL throughout.
 */
#include "holders.h"

#include "arena.h"
#include "blocks.h"
#include "frame.h"
#include "map.h"
#include "numpy.h"
#include "plain.h"
#include "referrers.h"
#include "types.h"

#define HEAD 6 /* words of a block that are looked at: an object behind the largest header */
#define LINKS 2
#define BIG 1024 /* bytes from which a single object is listed */

enum {
    OBJECT = 1,  /* it is an object that is alive, so it may be read */
    GUESSED = 2, /* its type may be named */
    BUFFER = 4,  /* of a user's cache, which is its kind */
    IGNORED = 8, /* made for this report */
    CLAIMED = 16,
    CERTAIN = 32, /* claimed by an object that certainly owns what it points to */
};

struct block {
    uintptr_t start;
    uint64_t size : 56, flags : 8;
    /* address of an object: the block's own, or the one whose memory the block is */
    uintptr_t owner;
    void *kind;             /* the object's type, the buffer's Cache; NULL: not known */
    uintptr_t links[LINKS]; /* addresses in our arena among the first words */
};

struct kind {
    void *kind;
    size_t objects, bytes;
};

#define BIGGEST 10
struct big {
    PyObject *object; /* alive; for a guess, an object that points to it; NULL: not known */
    void *kind;
    size_t bytes;
    bool guessed;
};

struct scan {
    struct block *blocks;
    size_t nr;
    uintptr_t *starts; /* start addresses of the blocks, which are sorted by them */
    uint32_t *first;   /* for each page, the index of the first block that begins in it or
                        * after it */
    uintptr_t low, high;
    int header;
    struct map types;    /* set of all types */
    struct map seen;     /* containers that were only found by reference */
    struct map data;     /* owner -> bytes of its memory */
    struct map pointers; /* big block whose type is guessed -> an object that points to it */
    struct map by_kind;
    struct kind *kinds;
    size_t nr_kinds;
    struct big biggest[BIGGEST];
    struct objects tracked, found; /* what the collector lists, and containers that it does not
                                    * list */
    bool frozen;                   /* gc.freeze() hid some of them */
    bool failed;                   /* there was no memory */
    PyTypeObject *ndarray, *managed_buffer; /* NULL: there is no such type */
};

/* ---- noting blocks: all threads stand still ------------------------------- */

/* True if it may be a reference count; an immortal object's is UINT_MAX. */
static bool is_count(uintptr_t word) { return word >= 1 && word <= UINT32_MAX; }

/* An object begins at the block's start, or behind the collector's words and those of a dict. */
static void guess(const struct scan *s, struct block *block, const uintptr_t *head, size_t n)
{
    for (size_t at = 0; at + 2 <= n; at += 2) {
        PyTypeObject *type = (PyTypeObject *)head[at + 1];

        /* the collector would have listed it if it tracked it, so the word before is 0 */
        if (!is_count(head[at]) || !map_find(&s->types, head[at + 1]) || (at && head[at - 2]) ||
            !at == !!PyType_HasFeature(type, Py_TPFLAGS_HAVE_GC))
            continue;
        block->flags = GUESSED;
        block->kind = type;
        block->owner = block->start + (uintptr_t)s->header + at * sizeof(*head);
        return;
    }
}

static void note_block(void *item, void *start, size_t size, struct kmem_cache *cache, void *arg)
{
    struct scan *s = arg;
    struct block *block = item;
    const uintptr_t *head = (const uintptr_t *)((char *)start + s->header);
    size_t n = (size - (size_t)s->header) / sizeof(*head), links = 0;

    *block = (struct block){ .start = (uintptr_t)start, .size = size };
    if (cache && cache->user) {
        block->flags = BUFFER;
        block->kind = cache->cache_owner;
        return;
    }
    n = n < HEAD ? n : HEAD;
    guess(s, block, head, n);
    for (size_t i = block->flags ? 2 : 0; i < n && links < LINKS; i++)
        if (arena_contains((void *)head[i]))
            block->links[links++] = head[i];
}

static bool list_blocks(struct scan *s, struct mem_cgroup *memcg)
{
    s->blocks = blocks_list(memcg, sizeof(*s->blocks), note_block, s, &s->nr);
    return s->blocks && s->nr <= UINT32_MAX;
}

/* Counts the blocks that begin in each page, then gives each block its place.  The blocks of one
 * page need not be sorted, because a walk visits them in order. */
static bool sort_blocks(struct scan *s)
{
    struct block *sorted = plain_malloc((s->nr + 1) * sizeof(*sorted));
    size_t pages;

    s->low = UINTPTR_MAX;
    for (struct block *b = s->blocks; b < s->blocks + s->nr; b++) {
        s->low = b->start < s->low ? b->start : s->low;
        s->high = b->start + b->size > s->high ? b->start + b->size : s->high;
    }
    s->low &= ~(uintptr_t)(PAGE_SIZE - 1);
    pages = s->nr ? ((s->high - s->low) >> PAGE_SHIFT) + 1 : 0;
    s->starts = plain_malloc((s->nr + 1) * sizeof(*s->starts));
    s->first = plain_calloc(pages + 2, sizeof(*s->first));
    if (!sorted || !s->starts || !s->first) {
        plain_free(sorted);
        return false;
    }
    for (size_t i = 0; i < s->nr; i++)
        s->first[((s->blocks[i].start - s->low) >> PAGE_SHIFT) + 2]++;
    for (size_t page = 2; page < pages + 2; page++)
        s->first[page] += s->first[page - 1];
    for (size_t i = 0; i < s->nr; i++) {
        uint32_t at = s->first[((s->blocks[i].start - s->low) >> PAGE_SHIFT) + 1]++;

        sorted[at] = s->blocks[i];
        s->starts[at] = s->blocks[i].start;
    }
    plain_free(s->blocks);
    s->blocks = sorted;
    return true;
}

static struct block *find(const struct scan *s, uintptr_t address)
{
    struct block *block;
    uint32_t from, to;
    size_t page;

    if (address - s->low >= s->high - s->low)
        return NULL;
    page = (address - s->low) >> PAGE_SHIFT;
    from = s->first[page];
    to = s->first[page + 1];
    while (from < to) { /* finds the last block that begins at or before the address */
        uint32_t middle = from + (to - from) / 2;

        if (s->starts[middle] <= address)
            from = middle + 1;
        else
            to = middle;
    }
    if (!from)
        return NULL;
    block = &s->blocks[from - 1];
    return address - block->start < block->size ? block : NULL;
}

/* ---- which are objects, and what belongs to them -------------------------- */

static void note_pointer(struct scan *s, const struct block *block, PyObject *op)
{
    bool is_new;
    uint64_t *by = map_add(&s->pointers, block->start, &is_new);

    if (by)
        *by = (uintptr_t)op;
    s->failed |= !by;
}

static void claim_words(struct scan *s, PyObject *op, const uintptr_t *from, const uintptr_t *to,
                        bool certain)
{
    for (; from < to; from++) {
        struct block *block = find(s, *from);

        if (!block || (block->flags & (OBJECT | BUFFER | IGNORED | CERTAIN)))
            continue;
        if (block->flags && !certain) {
            if (block->flags == GUESSED && block->size >= BIG)
                note_pointer(s, block, op);
            continue;
        }
        block->flags = CLAIMED | (certain ? CERTAIN : 0);
        block->owner = (uintptr_t)op;
        block->kind = NULL;
    }
}

/* An object whose data lie inside it, or belong to another object, owns no block. */
static bool owns_nothing(const struct scan *s, PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    return type == &PyLong_Type || type == &PyFloat_Type || type == &PyBytes_Type ||
           type == &PyTuple_Type || PyMemoryView_Check(op) || type == s->managed_buffer ||
           (PyUnicode_Check(op) && PyUnicode_IS_COMPACT(op)) ||
           (PyType_Check(op) && !PyType_HasFeature((PyTypeObject *)op, Py_TPFLAGS_HEAPTYPE));
}

static void claim(struct scan *s, PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    const uintptr_t *words = (const uintptr_t *)op, *from, *to;
    bool array = is_array(op, s->ndarray), certain;

    if (owns_nothing(s, op))
        return;
    certain = PyList_Check(op) || PyDict_Check(op) || PyAnySet_Check(op) || PyByteArray_Check(op) ||
              array;
    /* A view's data belong to another object. */
    claim_words(s, op, words + (array && array_base(op) ? 3 : 2),
                words + type->tp_basicsize / sizeof(*words), certain);
    if (py_words_before(op, &from, &to))
        claim_words(s, op, from, to, true);
}

/* op is alive.  A container that the collector does not list is queued, to be looked into later. */
static int see(PyObject *op, void *arg)
{
    struct scan *s = arg;
    struct block *block = find(s, (uintptr_t)op);
    bool is_new = !block || !(block->flags & OBJECT), is_gc = PyObject_IS_GC(op);
    PyObject *base;

    if (block && is_new) {
        block->flags = OBJECT;
        block->owner = (uintptr_t)op;
        block->kind = Py_TYPE(op);
    }
    if (!is_gc) {
        if (!is_new)
            return 0;
        claim(s, op);
        base = is_array(op, s->ndarray) ? array_base(op) : NULL;
        return base ? see(base, s) : 0;
    }
    if (PyObject_GC_IsTracked(op) && !s->frozen)
        return 0; /* it is looked into in the loop over `tracked` */
    if (!map_add(&s->seen, (uintptr_t)op, &is_new) || (is_new && !objects_add(&s->found, op)))
        s->failed = true;
    return s->failed;
}

static void look_into(struct scan *s, PyObject *op)
{
    claim(s, op);
    Py_TYPE(op)->tp_traverse(op, see, s);
}

static bool see_all(struct scan *s)
{
    bool is_new;

    for (size_t i = 0; i < s->tracked.nr && s->frozen; i++)
        if (!map_add(&s->seen, (uintptr_t)s->tracked.all[i], &is_new))
            return false;
    frame_visit_all(see, s, NULL);
    for (size_t i = 0; i < s->tracked.nr && !s->failed; i++) {
        see(s->tracked.all[i], s);
        look_into(s, s->tracked.all[i]);
    }
    for (size_t i = 0; i < s->found.nr && !s->failed; i++) /* the list grows meanwhile */
        look_into(s, s->found.all[i]);
    return !s->failed;
}

/* The blocks that an owner's block points to belong to the same owner. */
static void follow_links(struct scan *s, struct block *block)
{
    struct objects next = { 0 };

    for (;;) {
        for (int i = 0; i < LINKS && !(block->flags & OBJECT); i++) {
            struct block *link = find(s, block->links[i]);

            if (!link || link->flags)
                continue;
            link->flags = CLAIMED;
            link->owner = block->owner;
            s->failed |= !objects_add(&next, (PyObject *)link);
        }
        if (!next.nr || s->failed)
            break;
        block = (struct block *)next.all[--next.nr];
    }
    plain_free(next.all);
}

/* ---- sums ------------------------------------------------------------------ */

static void count(struct scan *s, void *kind, size_t objects, size_t bytes)
{
    bool is_new;
    uint64_t *index =
        map_add(&s->by_kind, (uintptr_t)kind | 1, &is_new); /*  1, so that NULL has a key too */

    if (!index) {
        s->failed = true;
        return;
    }
    if (is_new) {
        struct kind *grown = plain_realloc(s->kinds, (s->nr_kinds + 1) * sizeof(*grown));

        if (!grown) {
            s->failed = true;
            return;
        }
        s->kinds = grown;
        *index = s->nr_kinds;
        s->kinds[s->nr_kinds++] = (struct kind){ .kind = kind };
    }
    s->kinds[*index].objects += objects;
    s->kinds[*index].bytes += bytes;
}

static void note_big(struct scan *s, struct big big)
{
    int at = BIGGEST;

    while (at && s->biggest[at - 1].bytes < big.bytes)
        at--;
    if (at == BIGGEST || big.bytes < BIG)
        return;
    memmove(&s->biggest[at + 1], &s->biggest[at], (BIGGEST - 1 - (size_t)at) * sizeof(big));
    s->biggest[at] = big;
}

static size_t data_of(const struct scan *s, uintptr_t object)
{
    uint64_t *bytes = map_find(&s->data, object);

    return bytes ? *bytes : 0;
}

/* The object itself, or an object that points to it; NULL: none is known. */
static PyObject *known_of(const struct scan *s, const struct block *block)
{
    uint64_t *by = block->flags & OBJECT ? NULL : map_find(&s->pointers, block->start);

    return block->flags & OBJECT ? (PyObject *)block->owner
           : by                  ? (PyObject *)(uintptr_t)*by
                                 : NULL;
}

static bool add_up(struct scan *s)
{
    for (struct block *b = s->blocks; b < s->blocks + s->nr; b++)
        if (b->flags & (CLAIMED | GUESSED))
            follow_links(s, b);
    for (struct block *b = s->blocks; b < s->blocks + s->nr && !s->failed; b++) {
        bool is_new;
        uint64_t *bytes;

        if (!(b->flags & CLAIMED))
            continue;
        bytes = map_add(&s->data, b->owner, &is_new);
        if (bytes)
            *bytes += b->size;
        s->failed |= !bytes;
    }
    for (struct block *b = s->blocks; b < s->blocks + s->nr && !s->failed; b++) {
        size_t bytes;

        if (b->flags & (CLAIMED | IGNORED))
            continue;
        bytes = b->size + (b->owner ? data_of(s, b->owner) : 0);
        count(s, b->kind, 1, bytes);
        if (b->kind)
            note_big(s, (struct big){ known_of(s, b), b->kind, bytes, !(b->flags & OBJECT) });
    }
    /* objects of other groups that own blocks of this one */
    for (size_t i = 0; i < s->data.size && !s->failed; i++) {
        struct map_slot *slot = &s->data.slots[i];
        PyObject *op = (PyObject *)slot->key;

        if (!op || find(s, slot->key))
            continue;
        count(s, Py_TYPE(op), 1, slot->value);
        note_big(s, (struct big){ op, Py_TYPE(op), slot->value, false });
    }
    return !s->failed;
}

/* ---- the whole ------------------------------------------------------------- */

static void ignore_items(struct scan *s, PyObject *list)
{
    struct block *items = find(s, (uintptr_t)((PyListObject *)list)->ob_item);

    if (items)
        items->flags = IGNORED;
}

static bool know_types(struct scan *s, PyObject *types)
{
    bool is_new;

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(types); i++) {
        PyTypeObject *type = (PyTypeObject *)PyList_GET_ITEM(types, i);

        if (!map_add(&s->types, (uintptr_t)type, &is_new))
            return false;
        /* A class that a program writes in Python has a heap type. */
        if (PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE))
            continue;
        if (strcmp(type->tp_name, "numpy.ndarray") == 0)
            s->ndarray = type;
        /* the object through which a memoryview looks */
        else if (strcmp(type->tp_name, "managedbuffer") == 0)
            s->managed_buffer = type;
    }
    return true;
}

static PyObject *kinds_list(const struct scan *s)
{
    PyObject *list = PyList_New((Py_ssize_t)s->nr_kinds);

    for (size_t i = 0; list && i < s->nr_kinds; i++) {
        const struct kind *kind = &s->kinds[i];
        PyObject *item = Py_BuildValue("Onn", kind->kind ? kind->kind : Py_None,
                                       (Py_ssize_t)kind->objects, (Py_ssize_t)kind->bytes);

        if (!item)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *biggest_list(struct scan *s)
{
    PyObject *list = PyList_New(0), *targets[BIGGEST], *paths[BIGGEST] = { NULL };
    int nr = 0;

    for (int i = 0; i < BIGGEST; i++)
        if (s->biggest[i].object)
            targets[nr++] = s->biggest[i].object;
    if (list && referrers(targets, nr, &s->tracked, &s->found, s->ndarray, paths))
        Py_CLEAR(list);
    nr = 0;
    for (int i = 0; i < BIGGEST && list && s->biggest[i].bytes; i++) {
        const struct big *big = &s->biggest[i];
        PyObject *item = Py_BuildValue("OOnOO", big->object ? big->object : Py_None, big->kind,
                                       (Py_ssize_t)big->bytes, big->guessed ? Py_True : Py_False,
                                       big->object ? paths[nr] : Py_None);

        nr += big->object != NULL;
        if (!item || PyList_Append(list, item))
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    for (int i = 0; i < BIGGEST; i++)
        Py_XDECREF(paths[i]);
    return list;
}

static PyObject *scan(struct scan *s, struct mem_cgroup *memcg, PyObject *types, PyObject *tracked)
{
    PyObject *kinds, *biggest;

    if (!know_types(s, types) || !list_blocks(s, memcg) || !sort_blocks(s))
        return PyErr_NoMemory();
    ignore_items(s, tracked);
    ignore_items(s, types);
    if (!see_all(s) || !add_up(s))
        return PyErr_NoMemory();
    kinds = kinds_list(s);
    biggest = kinds ? biggest_list(s) : NULL;
    if (!biggest) {
        Py_XDECREF(kinds);
        return NULL;
    }
    return Py_BuildValue("nNN", (Py_ssize_t)s->nr, kinds, biggest);
}

PyObject *holders_scan(struct mem_cgroup *memcg, PyObject *types, PyObject *tracked, int frozen)
{
    struct scan s = {
        .header = py_debug_header(),
        .frozen = frozen,
        .tracked = { ((PyListObject *)tracked)->ob_item, (size_t)PyList_GET_SIZE(tracked), 0 },
    };
    int collecting = PyGC_Disable(); /* a collection would run finalizers */
    PyObject *result = scan(&s, memcg, types, tracked);

    if (collecting)
        PyGC_Enable();
    plain_free(s.blocks);
    plain_free(s.starts);
    plain_free(s.first);
    plain_free(s.types.slots);
    plain_free(s.seen.slots);
    plain_free(s.data.slots);
    plain_free(s.pointers.slots);
    plain_free(s.by_kind.slots);
    plain_free(s.kinds);
    plain_free(s.found.all);
    return result;
}
