/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stacks.c - the call stacks of sampled blocks, as numbers.
 *
 * A sample is taken inside the data plane, where nothing may be allocated, no Python code may run,
 * and often the GIL is not held.  So no reference is taken.  The texts are copied, each once, into
 * tables that are made when the first group is traced and only grow:
 *
 *   texts   names of files and functions
 *   sites   a line of a function, or an address in a C library
 *   nodes   a stack: a site, and the node of the stack that called it
 *
 * A thread reads its own frames only.  They change while no other thread runs its code, so it needs
 * no GIL.  The address of a code object finds the site.  A code object may be freed, and another
 * one may get its address; so a site is taken only if the hashes of its two names and its first
 * line are the same too.
 *
 * The tables are bounded.  Once the nodes are used up, a new stack is the part of it that is known
 * already.  Once the sites are, it has the frame FULL.
 *
 * Locks: stacks_lock: the tables.  It is taken in sections only, so a fork finds it free
 * (native/README.md).  An entry is complete before its number is given out, and never changes; so a
 * reader that has the number from a sample takes no lock.
 */
#include "stacks.h"

#include <dlfcn.h>
#include <errno.h>
#include <sys/mman.h>

#define FRAMES_MAX 128 /* the innermost ones; what calls them is left out */
#define NR_TEXTS 32768
#define TEXT_BYTES ((size_t)4 << 20)
#define TEXT_MAX 400 /* bytes of one */
#define NR_SITES 65536
#define NR_NODES 262144

struct text {
    uint64_t id;
    uint32_t at, next;
};

struct site {
    const void *code; /* a code object, never dereferenced; or an address in C */
    uint64_t id;      /* of its names; 0: C */
    int lasti, line, first_line;
    uint32_t file, name, next;
};

struct node {
    uint32_t outer, site, next;
};

/* One mapping, of which only what is used takes memory.  Entry 0 of each table is none. */
static struct tables {
    uint32_t nr_texts, nr_sites, nr_nodes, text_bytes;
    uint32_t text_heads[NR_TEXTS], site_heads[NR_SITES], node_heads[NR_NODES];
    struct text texts[NR_TEXTS];
    struct site sites[NR_SITES];
    struct node nodes[NR_NODES];
    char text[TEXT_BYTES];
} *tables;
static struct mutex stacks_lock = MUTEX_INITIALIZER;

enum { NO_SITE, FULL, NO_FRAME, LEFT_OUT, NR_FIXED };

static uint32_t hash(uint64_t a, uint64_t b)
{
    uint64_t z = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6))) * 0xbf58476d1ce4e5b9u;

    return (uint32_t)(z >> 32);
}

/* ---- texts ---- */

static uint64_t text_id(PyObject *string)
{
    Py_hash_t known = ((PyASCIIObject *)string)->hash;
    uint64_t id = 14695981039346656037u; /* FNV-1a, for a string whose hash nobody has asked for */

    if (known != -1)
        return (uint64_t)known;
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(string); i++)
        id = (id ^ PyUnicode_READ_CHAR(string, i)) * 1099511628211u;
    return id;
}

static uint32_t put_utf8(char *text, uint32_t at, Py_UCS4 c)
{
    if (c < 0x80) {
        text[at++] = (char)c;
    } else if (c < 0x800) {
        text[at++] = (char)(0xc0 | c >> 6);
        text[at++] = (char)(0x80 | (c & 0x3f));
    } else if (c >= 0xd800 && c < 0xe000) { /* of an undecodable file name */
        text[at++] = '?';
    } else {
        if (c < 0x10000) {
            text[at++] = (char)(0xe0 | c >> 12);
        } else {
            text[at++] = (char)(0xf0 | c >> 18);
            text[at++] = (char)(0x80 | (c >> 12 & 0x3f));
        }
        text[at++] = (char)(0x80 | (c >> 6 & 0x3f));
        text[at++] = (char)(0x80 | (c & 0x3f));
    }
    return at;
}

/* A long text keeps its end, which tells files apart. 0: the table is full. */
static uint32_t text_of(PyObject *string)
{
    uint64_t id = text_id(string);
    uint32_t *head = &tables->text_heads[hash(id, 0) % NR_TEXTS], at = tables->text_bytes, i;
    Py_ssize_t length = PyUnicode_GET_LENGTH(string),
               from = length > TEXT_MAX / 4 ? length - TEXT_MAX / 4 : 0;

    for (i = *head; i; i = tables->texts[i].next)
        if (tables->texts[i].id == id)
            return i;
    if (tables->nr_texts == NR_TEXTS || at + TEXT_MAX + 1 > TEXT_BYTES)
        return 0;
    i = tables->nr_texts++;
    tables->texts[i] = (struct text){ id, at, *head };
    for (; from < length; from++)
        at = put_utf8(tables->text, at, PyUnicode_READ_CHAR(string, from));
    tables->text[at++] = 0;
    tables->text_bytes = at;
    *head = i;
    return i;
}

/* ---- sites ---- */

static uint32_t site_add(const struct site *site, uint32_t *head)
{
    uint32_t i;

    if (tables->nr_sites == NR_SITES)
        return FULL;
    i = tables->nr_sites++;
    tables->sites[i] = *site;
    tables->sites[i].next = *head;
    *head = i;
    return i;
}

static uint32_t site_of_frame(py_frame *frame)
{
    PyCodeObject *code = py_frame_code(frame);
    int lasti = py_frame_lasti(frame);
    uint64_t id = text_id(code->co_filename) * 31 + text_id(code->co_qualname) +
                  (uint64_t)code->co_firstlineno * 0x9e3779b97f4a7c15u;
    uint32_t *head = &tables->site_heads[hash((uintptr_t)code >> 4, (uint64_t)lasti) % NR_SITES];
    struct site site = { .code = code, .id = id | 1, .lasti = lasti };

    for (uint32_t i = *head; i; i = tables->sites[i].next) {
        const struct site *known = &tables->sites[i];

        if (known->code == code && known->lasti == lasti && known->id == site.id)
            return i;
    }
    site.file = text_of(code->co_filename);
    site.name = text_of(code->co_qualname);
    site.first_line = code->co_firstlineno;
    site.line = PyCode_Addr2Line(code, lasti);
    return site.file && site.name ? site_add(&site, head) : FULL;
}

static uint32_t site_of_c(const void *address)
{
    uint32_t *head = &tables->site_heads[hash((uintptr_t)address, 0) % NR_SITES];
    struct site site = { .code = address };

    for (uint32_t i = *head; i; i = tables->sites[i].next)
        if (tables->sites[i].code == address && !tables->sites[i].id)
            return i;
    return site_add(&site, head);
}

/* ---- stacks ---- */

static uint32_t node_of(uint32_t outer, uint32_t site)
{
    uint32_t *head = &tables->node_heads[hash(outer, site) % NR_NODES], i;

    for (i = *head; i; i = tables->nodes[i].next)
        if (tables->nodes[i].outer == outer && tables->nodes[i].site == site)
            return i;
    if (tables->nr_nodes == NR_NODES)
        return outer;
    i = tables->nr_nodes++;
    tables->nodes[i] = (struct node){ outer, site, *head };
    *head = i;
    return i;
}

/* The calling thread's own state, which it may have without the GIL; NULL: it has run no Python. */
static PyThreadState *own_tstate(void)
{
    PyThreadState *tstate = PY_TSTATE_IS_OWN ? py_tstate() : NULL;

    return tstate ? tstate : PyGILState_GetThisThreadState();
}

static uint32_t stack_now(const void *caller)
{
    PyThreadState *tstate = own_tstate();
    py_frame *frame = tstate ? py_running_frame(tstate) : NULL;
    uint32_t sites[FRAMES_MAX], nr = 0, node = 0;

    mutex_lock(&stacks_lock);
    for (; frame && nr < FRAMES_MAX; frame = py_frame_before(frame))
        sites[nr++] = site_of_frame(frame);
    if (frame || !nr)
        node = node_of(node, frame ? LEFT_OUT : NO_FRAME);
    while (nr)
        node = node_of(node, sites[--nr]);
    if (caller)
        node = node_of(node, site_of_c(caller));
    mutex_unlock(&stacks_lock);
    return node;
}

int stacks_init(uint64_t seed)
{
    static const char *const fixed[NR_FIXED] = { "", "(more code than can be told apart)",
                                                 "(no Python code)", "(calls left out)" };
    void *p;

    if (tables)
        return 0;
    p = mmap(NULL, sizeof(*tables), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    tables = p;
    tables->nr_sites = NR_FIXED;
    tables->nr_nodes = 1;
    for (uint32_t i = 0; i < NR_FIXED; i++) {
        tables->texts[i].at = tables->text_bytes;
        memcpy(tables->text + tables->text_bytes, fixed[i], strlen(fixed[i]) + 1);
        tables->text_bytes += (uint32_t)strlen(fixed[i]) + 1;
        tables->sites[i] = (struct site){ .id = 1, .name = i };
    }
    tables->nr_texts = NR_FIXED;
    memcg_set_sampler(stack_now, seed);
    return 0;
}

bool stacks_frame(uint32_t stack, struct stack_frame *frame)
{
    const struct node *node;
    const struct site *site;

    if (!tables || !stack || stack >= NR_NODES)
        return false;
    node = &tables->nodes[stack];
    site = &tables->sites[node->site];
    *frame = (struct stack_frame){ .outer = node->outer };
    if (site->id) {
        frame->file = tables->text + tables->texts[site->file].at;
        frame->name = tables->text + tables->texts[site->name].at;
        frame->line = site->line;
        frame->first_line = site->first_line;
    } else {
        Dl_info info = { 0 };
        bool found = dladdr(site->code, &info);

        frame->file = found && info.dli_fname ? info.dli_fname : "";
        frame->name = found && info.dli_sname ? info.dli_sname : "(C code)";
    }
    return true;
}
