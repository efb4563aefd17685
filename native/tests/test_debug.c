/* SPDX-License-Identifier: Apache-2.0 */
/* test_debug.c - wrong writes and frees are reported, and never reach another group. */
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"

static struct mem_cgroup *group;
static char report[4096];

/* Runs `crime` in a process of its own and returns how that ended; its stderr is in `report`. */
static int commit(void (*crime)(void), const char *letters)
{
    int out[2], status;
    ssize_t n, got = 0;
    pid_t pid;

    CHECK(!pipe(out) && (pid = fork()) >= 0);
    if (!pid) {
        struct memcg_config config = { .promote_bytes = 1 << 20 };

        dup2(out[1], 2);
        CHECK(!memcg_parse_debug(letters, &config.debug) && !memcg_init(&config));
        group = group_new(mem_cgroup_root());
        mem_cgroup_set_path(group, "/criminals");
        memcg_set_current(group);
        crime();
        _exit(0);
    }
    close(out[1]);
    while ((n = read(out[0], report + got, sizeof(report) - 1 - (size_t)got)) > 0)
        got += n;
    report[got] = 0;
    close(out[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void reported(void (*crime)(void), const char *letters, const char *as)
{
    int status = commit(crime, letters);

    if (status != SIGABRT || !strstr(report, as)) {
        fprintf(stderr, "MEMCG_DEBUG=%s: status %d instead of a report of '%s':\n%s", letters,
                status, as, report);
        exit(1);
    }
}

/* An object of a size class for which the group has a cache of its own. */
static void *private_of(size_t size)
{
    child_create(group, kmalloc_cache(kmalloc_index(size)));
    return memcg_malloc_fast(size);
}

static void nothing(void)
{
    enum { N = 3000 };
    static void *p[N];

    child_create(group, kmalloc_cache(kmalloc_index(200)));
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < N; i++) {
            p[i] = i % 7 ? memcg_malloc_fast(i % 5 ? i % 500 : 200) : memcg_calloc(i * 11);
            CHECK(p[i]);
            memset(p[i], 'x', i % 7 ? i % 5 ? i % 500 : 200 : i * 11);
        }
        for (size_t i = 0; i < N; i += 3) {
            p[i] = memcg_realloc(p[i], i * 3 + 1);
            memset(p[i], 'y', i * 3 + 1);
        }
        memcg_validate();
        for (size_t i = 0; i < N; i++)
            memcg_free_fast(p[i * 7 % N]);
        memcg_validate();
    }
    for (size_t size = 1; size < 40; size++) {
        struct kmem_cache *s = kmem_cache_create_root(size, 16, 0);

        for (int i = 0; i < 500; i++)
            memset(p[i] = kmem_cache_alloc(s), 'z', size);
        for (int i = 0; i < 500; i++)
            CHECK(!kmem_cache_free(s, p[i]));
        memcg_validate();
    }
    memcg_trim();
}

static void overrun(void)
{
    char *p = memcg_malloc_fast(50);

    p[50] = 1; /* inside the size class, but past what was asked for */
    memcg_free_fast(p);
}

static void overrun_of_private(void)
{
    char *p = private_of(64);

    memset(p, 1, 66);
    memcg_free_fast(p);
}

static void overrun_far(void)
{
    char *p = memcg_malloc_fast(64);

    memset(p, 1, 128);
    memcg_free_fast(p);
}

static void overrun_of_pages(void)
{
    char *p = memcg_malloc_fast(100000);

    p[100000] = 1;
    memcg_free_fast(p);
}

static void overrun_after_realloc(void)
{
    char *p = memcg_realloc(memcg_malloc_fast(60), 50);

    p[50] = 1;
    memcg_free_fast(p);
}

static void overrun_that_is_never_freed(void)
{
    char *p = memcg_malloc_fast(50);

    p[50] = 1;
    memcg_validate();
}

static void underrun(void)
{
    char *p = memcg_malloc_fast(64), *q = memcg_malloc_fast(64);

    *((p < q ? q : p) - 1) = 1;
    memcg_free_fast(p);
    memcg_free_fast(q);
}

static void write_after_free(void)
{
    char *p = memcg_malloc_fast(64);

    memcg_free_fast(p);
    p[20] = 1;
    memcg_malloc_fast(64);
}

static void write_after_free_unnoticed(void)
{
    char *p = memcg_malloc_fast(64);

    memcg_free_fast(p);
    p[63] = 1;
    memcg_validate();
}

static void free_pointer_overwritten(void)
{
    char *p = private_of(64);

    memcg_free_fast(p);
    p[2] ^= 1; /* as a reference count may */
    memcg_malloc_fast(64);
}

static void constructed_keeps_its_bytes(void)
{
    struct kmem_cache *s = kmem_cache_create_root(100, 16, KMEM_CACHE_ZERO);
    char *p;

    memcg_set_current(NULL); /* objects of shared slabs are cleared */
    p = kmem_cache_alloc(s);
    p[50] = 'c';
    CHECK(!kmem_cache_free(s, p) && kmem_cache_alloc(s) == p && p[50] == 'c');
    p[100] = 1;
    kmem_cache_free(s, p);
}

static void freed_twice(void)
{
    void *p = private_of(64), *q = memcg_malloc_fast(64);

    memcg_free_fast(p);
    memcg_free_fast(q);
    memcg_free_fast(p);
    memcg_trim();
}

/* Live neighbours must not lose their page to another group. */
static void freed_twice_in_a_slab_of_two(void)
{
    void *p[3] = { private_of(20000), memcg_malloc_fast(20000), memcg_malloc_fast(20000) };

    memcg_free_fast(p[0]);
    memcg_free_fast(p[1]);
    memcg_free_fast(p[0]);
    memcg_trim();
}

static void freed_twice_shared(void)
{
    void *p = memcg_malloc_fast(64), *q = memcg_malloc_fast(64);

    memcg_free_fast(p);
    memcg_free_fast(q);
    memcg_free_fast(p);
}

static void freed_twice_pages(void)
{
    void *p = memcg_malloc_fast(1 << 20);

    memcg_free_fast(p);
    memcg_free_fast(p);
}

static void *free_it_twice(void *p)
{
    void **both = p;

    memcg_free_fast(both[0]);
    memcg_free_fast(both[1]);
    memcg_free_fast(both[0]);
    return NULL;
}

static void freed_twice_from_afar(void)
{
    void *p[2] = { private_of(64), memcg_malloc_fast(64) };
    pthread_t thread;

    pthread_create(&thread, NULL, free_it_twice, p);
    pthread_join(thread, NULL);
    memcg_trim();
}

static void freed_inside(void)
{
    char *p = private_of(64);

    memcg_free_fast(p + 16);
}

static void freed_behind_the_last(void)
{
    struct kmem_cache_info info;
    char *p = private_of(48);
    size_t objects;

    kmem_cache_read_info(
        cache_from_memcg_idx(kmalloc_cache(kmalloc_index(48)), mem_cgroup_id(group)), &info);
    CHECK(info.pagesperslab * PAGE_SIZE % 48 >= 16);
    memcg_free_fast((char *)kmem_cache_slab_of(p, &objects) + objects * 48);
}

static void freed_before_the_first(void)
{
    size_t objects;
    char *first;

    for (int i = 0; i < 4096; i++) /* until slabs are larger than a page */
        first = kmem_cache_slab_of(private_of(48), &objects);
    CHECK((uintptr_t)first % PAGE_SIZE == 48);
    memcg_free_fast(first - 48);
}

static void freed_inside_pages(void) { memcg_free_fast((char *)memcg_malloc_fast(1 << 20) + 4096); }

/* Returns how often the next object lies behind the one before. */
static int ascending(void)
{
    char *before = private_of(64);
    int n = 0;

    for (int i = 0; i < 200; i++) {
        char *p = memcg_malloc_fast(64);

        n += p > before;
        before = p;
    }
    return n;
}
static void order_is_of_addresses(void) { CHECK(ascending() > 190); }
static void order_is_random(void) { CHECK(ascending() < 150 && ascending() > 50); }

static void free_pointers_are_encoded(void)
{
    uintptr_t *p = private_of(64), *q = memcg_malloc_fast(64);

    memcg_free_fast(q);
    memcg_free_fast(p);
    CHECK(*p != (uintptr_t)q && *p != 0);
    CHECK(memcg_malloc_fast(64) == p && memcg_malloc_fast(64) == q);
}

static void what_is_right_is_not_reported(void)
{
    static const char *letters[] = { "", "0", "1", "F", "Z", "P", "U", "H", "FZPUH" };

    for (size_t i = 0; i < sizeof(letters) / sizeof(letters[0]); i++)
        if (commit(nothing, letters[i]) || *report) {
            fprintf(stderr, "MEMCG_DEBUG=%s: %s", letters[i], report);
            exit(1);
        }
}

static void wrong_writes_are_reported(void)
{
    reported(overrun, "Z", "BUG kmalloc-64 (group /criminals)");
    reported(overrun, "FZPUH", "Right Redzone overwritten: 0x01 instead of 0xcc at byte 50");
    reported(overrun_of_private, "Z", "Right Redzone overwritten");
    reported(overrun_far, "Z", "Right Redzone");
    reported(overrun_of_pages, "Z", "BUG page run");
    reported(overrun_after_realloc, "Z", "at byte 50");
    reported(overrun_that_is_never_freed, "Z", "at byte 50");
    reported(underrun, "Z", "Left Redzone of the next object overwritten");
    reported(write_after_free, "P", "Poison overwritten: 0x01 instead of 0x6b at byte 20");
    reported(write_after_free_unnoticed, "P", "Poison overwritten");
    reported(free_pointer_overwritten, "H", "Freepointer corrupt");
    reported(constructed_keeps_its_bytes, "ZP", "Right Redzone overwritten");
    reported(overrun, "ZU", "allocated by what is not Python, thread");
}

static void wrong_frees_are_reported(void)
{
    static const char *letters[] = { "", "1", "FZPUH" };

    for (size_t i = 0; i < sizeof(letters) / sizeof(letters[0]); i++) {
        const char *list = *letters[i] ? "Object already free" : "free";

#ifdef MEMCG_DEBUG_VM
        if (!*letters[i]) /* there an assert finds it first */
            continue;
#endif
        reported(freed_twice, letters[i], list);
        reported(freed_twice_in_a_slab_of_two, letters[i], list);
        reported(freed_twice_shared, letters[i], "Object already free");
        reported(freed_twice_from_afar, letters[i], list);
        /* a heap keeps it, which checked runs are not */
        reported(freed_twice_pages, letters[i],
                 *letters[i] ? "not an allocated block" : "already free");
        reported(freed_inside, letters[i], "Invalid object pointer");
        if (!*letters[i]) /* with tails a slab has no rest behind the last object */
            reported(freed_behind_the_last, letters[i], "Invalid object pointer");
        reported(freed_before_the_first, letters[i], "Invalid object pointer");
        reported(freed_inside_pages, letters[i], "not an allocated block");
    }
}

static void hardened_lists_cannot_be_foreseen(void)
{
    CHECK(!commit(order_is_of_addresses, ""));
    CHECK(!commit(order_is_random, "H"));
    CHECK(!commit(free_pointers_are_encoded, "H"));
}

static void letters_are_checked(void)
{
    unsigned flags;

    CHECK(memcg_parse_debug("FZX", &flags) == -EINVAL && memcg_parse_debug("z", &flags) == -EINVAL);
    CHECK(!memcg_parse_debug("PU", &flags) && flags == (SLAB_POISON | SLAB_STORE_USER));
}

int main(void)
{
    RUN(letters_are_checked);
    RUN(what_is_right_is_not_reported);
    RUN(wrong_writes_are_reported);
    RUN(wrong_frees_are_reported);
    RUN(hardened_lists_cannot_be_foreseen);
    return DONE();
}
