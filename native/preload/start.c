/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start.c - begins to serve malloc, in a process that runs Python, and leaves the environment of
 * its children clean.
 *
 * A preloaded library is loaded into whatever the process starts: a shell that starts Python, say.
 * Only a process that has Python in it is served.  In any other, malloc is glibc's, and LD_PRELOAD
 * stays as it is, so that Python finds it.
 *
 * In a process that is served, LD_PRELOAD loses this library's entry before Python reads the
 * environment.  Other entries stay.
 *
 * It is not served under AddressSanitizer and its kin, nor under a tool of valgrind's that replaces
 * malloc itself: they would see blocks that they do not know.
 *
 * Locks: none; the constructor runs before there are threads.
 */
#define _GNU_SOURCE
#include "malloc.h"

#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "libc.h"

/* Only its address is used: NULL if the process has no Python. */
extern int Py_IsInitialized(void) __attribute__((weak));

/* Takes the entry that names this library out of the list, whose entries are separated by spaces
 * and colons. */
static void take_out(char *list, const char *file)
{
    char *to = list;

    for (char *at = list; *at;) {
        size_t n = strcspn(at, " :");
        size_t with = n + (at[n] != '\0');

        if (strlen(file) != n || strncmp(at, file, n)) {
            memmove(to, at, with);
            to += with;
        }
        at += with;
    }
    while (to > list && (to[-1] == ' ' || to[-1] == ':'))
        to--;
    *to = '\0';
}

static void clean_environment(const char *preloaded)
{
    Dl_info info;
    char *list;

    if (!preloaded || !dladdr((void *)take_out, &info))
        return;
    list = __libc_malloc(strlen(preloaded) + 1); /* malloc may be a third library's */
    if (!list)
        return;
    strcpy(list, preloaded);
    take_out(list, info.dli_fname);
    if (!*list)
        unsetenv("LD_PRELOAD");
    else if (strcmp(list, preloaded))
        setenv("LD_PRELOAD", list, 1);
    __libc_free(list);
}

static bool defines_malloc(const char *file)
{
    void *library = dlopen(file, RTLD_LAZY | RTLD_NOLOAD);
    void *found = library ? dlsym(library, "malloc") : NULL; /* or one of a library that it needs */
    Dl_info own, other;
    void *head;

    if (!found || dlinfo(library, RTLD_DI_LINKMAP, &head) || !dladdr(found, &own) ||
        !dladdr((void *)take_out, &other))
        return false;
    return own.dli_fbase == (void *)((struct link_map *)head)->l_addr &&
           own.dli_fbase != other.dli_fbase;
}

/* True if a library before this one in the list has a malloc. */
static bool comes_later(const char *preloaded)
{
    char *list = __libc_malloc(strlen(preloaded) + 1), *rest = list, *file;
    Dl_info info;
    bool later = false;

    if (!list || !dladdr((void *)take_out, &info)) {
        __libc_free(list);
        return false;
    }
    strcpy(list, preloaded);
    while (!later && (file = strsep(&rest, " :")) && strcmp(file, info.dli_fname))
        later = *file && defines_malloc(file);
    __libc_free(list);
    return later;
}

/*
 * True if other objects get another malloc than ours.  RTLD_DEFAULT would look here first, because
 * this library is linked with -Bsymbolic.  A program at a fixed address may have the address of
 * malloc, which then is a stub of its own that leads to the first malloc among the libraries.
 */
static bool is_replaced(const char *preloaded)
{
    void *program = dlopen(NULL, RTLD_LAZY), *found = program ? dlsym(program, "malloc") : NULL;
    const ElfW(Sym) * symbol;
    Dl_info info;

    if (!found || found == (void *)malloc)
        return false;
    if (!dladdr1(found, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol ||
        symbol->st_shndx != SHN_UNDEF)
        return true;
    return preloaded && comes_later(preloaded);
}

static void complain(const char *reason)
{
    char text[256];
    int n = snprintf(text, sizeof(text),
                     "memcg: what C code allocates is not charged: %s; start it without "
                     "libmemcg_malloc in LD_PRELOAD, or by `memcg run --no-malloc`\n",
                     reason);

    if (write(2, text, (size_t)n)) {}
}

static __attribute__((constructor)) void start(void)
{
    const char *preloaded = getenv("LD_PRELOAD"), *debug = getenv("MEMCG_DEBUG"), *reason;
    struct memcg_config config = { 0 };

    if (!Py_IsInitialized)
        return;
    reason = memcg_malloc_is_replaced(preloaded);
    if (!reason) {
        memcg_parse_debug(debug ? debug : "", &config.debug); /* _core complains of a wrong one */
        if (memcg_init(&config))
            reason = "there is no address space for the arena";
    }
    if (!reason && is_replaced(preloaded))
        reason = "the malloc of another library in LD_PRELOAD comes first";
    clean_environment(preloaded);
    memcg_set_serves_c(reason);
    if (reason) {
        complain(reason);
        return;
    }
    memcg_copy_arena(&arena);
    store_release(&malloc_serves, 1);
}
