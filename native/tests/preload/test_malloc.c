/* SPDX-License-Identifier: Apache-2.0 */
/* test_malloc.c - malloc and its family, preloaded into a process that looks like Python. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memcg.h"
#include "test.h"

int Py_IsInitialized(void);
int Py_IsInitialized(void) { return 0; } /* what start.c looks for */

/* In libmemcg_malloc, and in glibc. */
void *_Znwm(size_t size);
void *_ZnamSt11align_val_t(size_t size, size_t align);
void *_ZnwmRKSt9nothrow_t(size_t size, const void *nothrow);
void _ZdlPvm(void *p, size_t size);
void _ZdaPvSt11align_val_t(void *p, size_t align);
void *__libc_malloc(size_t size);
void __libc_free(void *p);

/* volatile: the compiler knows malloc, and would leave pairs out */
static void *(*volatile call_malloc)(size_t) = malloc;
static void *(*volatile call_calloc)(size_t, size_t) = calloc;
static void *(*volatile call_realloc)(void *, size_t) = realloc;
static void (*volatile call_free)(void *) = free;

static struct mem_cgroup *group_new(int64_t max)
{
    static int id;
    struct mem_cgroup *g = mem_cgroup_alloc(mem_cgroup_root());

    CHECK(g);
    mem_cgroup_set_id(g, id++);
    mem_cgroup_set_limit(g, MEMCG_MAX, max);
    return g;
}

static int64_t current_of(struct mem_cgroup *g)
{
    struct mem_cgroup_stat stat;

    mem_cgroup_collect(g);
    mem_cgroup_read_stat(g, &stat);
    return stat.current;
}

static void every_member_of_the_family_gives_memory_that_any_of_them_takes_back(void)
{
    static const size_t sizes[] = { 0,    1,    16,    17,    100,    512,     513,    1024,
                                    1025, 4096, 32768, 32769, 100000, 1 << 20, 3 << 20 };
    struct memcg_global_stat before, after;
    void *large;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        size_t n = sizes[i];
        char *p = call_malloc(n), *q = call_calloc(n, 1), *r = valloc(n), *s = _Znwm(n);

        CHECK(memcg_owns(p) && memcg_owns(q) && memcg_owns(r) && memcg_owns(s));
        CHECK(!((uintptr_t)p % 16) && !((uintptr_t)q % 16) && !((uintptr_t)r % 4096));
        CHECK(malloc_usable_size(p) >= n && malloc_usable_size(r) >= n);
        for (size_t k = 0; k < n; k++)
            CHECK(!q[k]);
        memset(p, 1, n);
        memset(q, 2, n);
        memset(r, 3, n);
        memset(s, 4, n);
        p = call_realloc(p, n + n / 2 + 1);
        r = call_realloc(r, 2 * n + 1);
        for (size_t k = 0; k < n; k++)
            CHECK(p[k] == 1 && q[k] == 2 && r[k] == 3 && s[k] == 4);
        call_free(p);
        call_free(q);
        _ZdlPvm(r, n);
        CHECK(!call_realloc(s, 0)); /* frees it */
    }
    call_free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    _ZdlPvm(_ZnwmRKSt9nothrow_t(10, NULL), 10);
    large = call_malloc(64 << 20);
    memset(large, 1, 64 << 20);
    call_free(large);
    memcg_read_global_stat(&before);
    CHECK(malloc_trim(0) == 1);
    memcg_read_global_stat(&after);
    CHECK(before.pages_free_dirty >= 32 << 20 && after.pages_free_dirty < 1 << 20);
    CHECK(mallinfo2().arena < (size_t)1 << 40);
}

static void impossible_sizes_give_null_and_enomem(void)
{
    volatile size_t half = SIZE_MAX / 2;
    void *p = call_malloc(10);

    errno = 0;
    CHECK(!call_malloc(SIZE_MAX - 10) && errno == ENOMEM);
    errno = 0;
    CHECK(!call_calloc(SIZE_MAX / 2, 3) && errno == ENOMEM);
    errno = 0;
    CHECK(!call_realloc(p, SIZE_MAX / 2) && errno == ENOMEM);
    errno = 0;
    CHECK(!reallocarray(p, half, 3) && errno == ENOMEM);
    CHECK(!pvalloc(2 * half));
    errno = 7;
    call_free(p);
    call_free(call_malloc(300000));
    CHECK(errno == 7);
}

static void alignments_up_to_megabytes_are_kept(void)
{
    for (size_t align = 8; align <= (size_t)4 << 20; align *= 2)
        for (size_t n = 1; n <= 200000; n = n * 3 + 1) {
            void *p = NULL, *q = aligned_alloc(align, n), *r = memalign(align, n);
            char *s = _ZnamSt11align_val_t(n, align);

            CHECK(posix_memalign(&p, align, n) == 0);
            CHECK(p && q && r && s && memcg_owns(p));
            CHECK(!((uintptr_t)p % align) && !((uintptr_t)q % align) && !((uintptr_t)r % align) &&
                  !((uintptr_t)s % align));
            memset(p, 1, n);
            memset(q, 2, n);
            memset(r, 3, n);
            memset(s, 4, n);
            CHECK(*(char *)p == 1 && *(char *)q == 2 && *(char *)r == 3);
            call_free(p);
            call_free(q);
            call_free(r);
            _ZdaPvSt11align_val_t(s, align);
        }
    void *p = &p;
    CHECK(posix_memalign(&p, 24, 10) == EINVAL && p == &p);
}

static void blocks_of_glibc_are_freed_and_grown_and_charged_then(void)
{
    struct mem_cgroup *g = group_new(PAGE_COUNTER_MAX);
    char *p = __libc_malloc(2000), *q = __libc_malloc(100);
    void **early = dlsym(RTLD_DEFAULT, "early_block"), **string;

    CHECK(!memcg_owns(p));
    call_free(p);
    q = call_realloc(q, 200);
    CHECK(!memcg_owns(q));
    memset(q, 5, 200);
    memcg_set_current(g);
    q = call_realloc(q, 200000);
    memcg_set_current(NULL);
    CHECK(memcg_owns(q) && q[199] == 5);
    CHECK(current_of(g) >= 200000);
    call_free(q);
    CHECK(current_of(g) == 0);
    string = dlsym(RTLD_DEFAULT, "early_string");
    CHECK(early && string && !memcg_owns(*early) && !strcmp(*string, "early"));
    *early = call_realloc(*early, 100000);
    CHECK(memcg_owns(*early));
    call_free(*early);
    call_free(*string);
}

static void what_libraries_allocate_is_charged_to_the_threads_group(void)
{
    struct mem_cgroup *g = group_new(PAGE_COUNTER_MAX);
    char *copies[1000];

    memcg_set_current(g);
    for (int i = 0; i < 1000; i++)
        copies[i] = strdup("a string of libc's strdup, which calls malloc");
    memcg_set_current(NULL);
    CHECK(current_of(g) >= 1000 * 46);
    for (int i = 0; i < 1000; i++)
        call_free(copies[i]);
    CHECK(current_of(g) == 0);
}

/* ---- at the limit ---------------------------------------------------------------- */

static int alarms, refusals;
static bool survives;
static const void *last_caller;

static void count_alarm(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                        enum memcg_outcome outcome, unsigned unused)
{
    (void)memcg, (void)limited, (void)bytes, (void)unused;
    *(outcome == MEMCG_CHARGED ? &alarms : &refusals) += 1;
}

static bool survivor(const void *caller, size_t bytes)
{
    CHECK(bytes >= MEMCG_C_REFUSE_SIZE);
    last_caller = caller;
    return survives;
}

static void only_large_requests_of_known_callers_are_refused(void)
{
    struct mem_cgroup *g = group_new(1 << 20);
    void *small[2000], *large;
    Dl_info info, here;
    int i;

    memcg_set_alarm(count_alarm);
    memcg_set_survivor(survivor);
    memcg_set_current(g);
    for (i = 0; i < 2000; i++) /* far past max, reserve and overdraft */
        CHECK((small[i] = call_malloc(60000)));
    CHECK(alarms > 0 && refusals == 0 && !last_caller);
    alarms = 0;
    survives = false;
    CHECK((large = call_malloc(2 << 20)) && alarms > 0 && refusals == 0);
    CHECK(dladdr(last_caller, &info) && dladdr((void *)count_alarm, &here));
    CHECK(!strcmp(info.dli_fname, here.dli_fname)); /* this program asked */
    call_free(large);
    alarms = 0;
    survives = true;
    errno = 0;
    CHECK(!call_malloc(2 << 20) && errno == ENOMEM && refusals == 1 && alarms == 0);
    CHECK(!call_calloc(2, 1 << 20) && !aligned_alloc(64, 2 << 20) && refusals == 3);
    CHECK(!call_realloc(small[0], 2 << 20) && refusals == 4);
    CHECK((large = call_malloc(MEMCG_C_REFUSE_SIZE - 1)) && alarms > 0 && refusals == 4);
    call_free(large);
    for (i = 0; i < 2000; i++)
        call_free(small[i]);
    memcg_set_current(NULL);
    memcg_set_alarm(NULL);
    memcg_set_survivor(NULL);
    CHECK(current_of(g) == 0);
}

/* ---- inside the data plane --------------------------------------------------------- */

static void *to_free, *made;
static int calls;

static void reenter(void)
{
    char *p = call_malloc(100);

    CHECK(memcg_is_outside() && p && !memcg_owns(p));
    p = call_realloc(p, 5000);
    CHECK(!memcg_owns(p));
    call_free(p);
    p = aligned_alloc(4096, 100);
    CHECK(!memcg_owns(p));
    call_free(p);
    CHECK(dlopen("libutil.so.1", RTLD_NOW)); /* the loader allocates, and keeps it */
    call_free(to_free);                      /* ours: it is put off */
    to_free = NULL;
    if (made)
        made = call_realloc(made, 100000);
    calls++;
}

static void reentering_alarm(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                             enum memcg_outcome outcome, unsigned unused)
{
    (void)memcg, (void)limited, (void)bytes, (void)outcome, (void)unused;
    reenter();
}

static void a_callback_of_the_data_plane_may_call_malloc_and_free(void)
{
    struct mem_cgroup *g = group_new(1 << 20);
    void *p;

    memcg_set_alarm(reentering_alarm);
    memcg_set_waker(reenter);
    memcg_set_current(g);
    to_free = call_malloc(1000);
    made = call_malloc(2000);
    memset(made, 9, 2000);
    p = call_malloc(3 << 20);
    memcg_set_current(NULL);
    memcg_set_alarm(NULL);
    memcg_set_waker(NULL);
    CHECK(calls > 0 && !to_free);
    CHECK(made && !memcg_owns(made) && *(char *)made == 9);
    call_free(made);
    call_free(p);
    call_free(call_malloc(200000)); /* frees what was put off */
    CHECK(current_of(g) == 0);
}

/* ---- threads and forks --------------------------------------------------------------- */

enum { THREADS = 3, FORKS = 60 };
static int over; /* accessed by __atomic */

static void *churn(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    void *slots[64] = { 0 };

    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
        int i = rand_r(&seed) % 64;

        call_free(slots[i]);
        slots[i] = call_malloc((size_t)rand_r(&seed) % (rand_r(&seed) % 20 ? 500 : 90000));
        CHECK(slots[i]);
    }
    for (int i = 0; i < 64; i++)
        call_free(slots[i]);
    return NULL;
}

static void *end_at_once(void *arg)
{
    call_free(call_malloc(100));
    return arg;
}

static void a_fork_among_threads_that_allocate_leaves_a_child_that_works(void)
{
    pthread_t threads[THREADS], one;

    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, churn, (void *)i));
    for (int i = 0; i < FORKS; i++) {
        int status;
        pid_t child = fork();

        if (!child) {
            for (int k = 0; k < 1000; k++)
                call_free(call_realloc(call_malloc((size_t)k * 40), (size_t)k * 70));
            if (pthread_create(&one, NULL, end_at_once, NULL) || pthread_join(one, NULL))
                _exit(2);
            _exit(memcg_find_invalid() != NULL);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(!memcg_find_invalid());
}

/* pthread_setspecific() allocates for keys from 32 on, and their destructors may allocate. */
static pthread_key_t keys[40];

static void destroy(void *p) { call_free(call_realloc(p, 5000)); }

static void *use_keys(void *arg)
{
    for (int i = 0; i < 40; i++)
        CHECK(!pthread_setspecific(keys[i], call_malloc(40)));
    return arg;
}

static void threads_with_many_keys_begin_and_end(void)
{
    pthread_t thread;

    for (int i = 0; i < 40; i++)
        CHECK(!pthread_key_create(&keys[i], destroy));
    for (int i = 0; i < 300; i++)
        CHECK(!pthread_create(&thread, NULL, use_keys, NULL) && !pthread_join(thread, NULL));
    CHECK(!memcg_find_invalid());
}

static void the_environment_is_clean_but_for_what_others_preload(void)
{
    const char *left = getenv("LD_PRELOAD");

    CHECK(memcg_serves_c() && !memcg_why_not_c());
    CHECK(left && strstr(left, "early") && !strstr(left, "libmemcg_malloc"));
}

int main(void)
{
    RUN(the_environment_is_clean_but_for_what_others_preload);
    RUN(every_member_of_the_family_gives_memory_that_any_of_them_takes_back);
    RUN(impossible_sizes_give_null_and_enomem);
    RUN(alignments_up_to_megabytes_are_kept);
    RUN(blocks_of_glibc_are_freed_and_grown_and_charged_then);
    RUN(what_libraries_allocate_is_charged_to_the_threads_group);
    RUN(only_large_requests_of_known_callers_are_refused);
    RUN(a_callback_of_the_data_plane_may_call_malloc_and_free);
    RUN(threads_with_many_keys_begin_and_end);
    RUN(a_fork_among_threads_that_allocate_leaves_a_child_that_works);
    return DONE();
}
