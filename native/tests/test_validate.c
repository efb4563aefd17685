/* SPDX-License-Identifier: Apache-2.0 */
/* test_validate.c - each structure that is broken is found; a call without its section or lock
 * stops. */
#include "control.h"

static struct mem_cgroup *g;
static void *kept[600];

static struct kmem_cache *child_of_1024(void)
{
    return cache_from_memcg_idx(kmalloc_cache((int)kmalloc_index(1024)), mem_cgroup_id(g));
}

static struct heap_slot *slot_of(size_t size)
{
    return &load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(size)];
}

/* Makes a heap with an active slab, full ones, and ones with a free object. */
static void populate(void)
{
    g = group_new(mem_cgroup_root());
    for (int i = 0; i < nr_roots(); i++)
        child_create(g, root_at(i));
    memcg_set_current(g);
    for (int i = 0; i < 600; i++)
        kept[i] = memcg_malloc_fast(1024);
    for (int i = 0; i < 600; i += 40)
        memcg_free_fast(kept[i]);
    thread_steal_all();
    heap_flush(load_plain(&memcg_self->heap), NULL);
    thread_release_all();
    CHECK(!hlist_empty(&slot_of(1024)->partial) && !hlist_empty(&slot_of(1024)->full));
    CHECK(!memcg_find_invalid());
}

static void found(const char *what)
{
    const char *invalid = memcg_find_invalid();

    CHECK(invalid && !strcmp(invalid, what));
}

static void a_wrong_heap_is_found(void)
{
    struct heap_slot *slot = slot_of(1024);
    struct slab *slab = hlist_first_entry(&slot->partial, struct slab, slab_list);
    struct hlist_head full = slot->full;

    slot->nr_empty++;
    found("heap");
    slot->nr_empty--;
    slot->sheaf_room--;
    found("heap");
    slot->sheaf_room++;
    slab->inuse--;
    found("heap");
    slab->inuse++;
    slab->place = SLAB_FULL;
    found("heap");
    slab->place = SLAB_PARTIAL;
    slot->full.first = full.first->next; /* takes one off without a change to its neighbour */
    found("heap");
    slot->full = full;
    load_plain(&memcg_self->heap)->stock -= 1 << 20;
    found("heap");
    load_plain(&memcg_self->heap)->stock += 1 << 20;
    memcg_free(memcg_malloc(100000)); /* the heap keeps it */
    load_plain(&memcg_self->heap)->kept_bytes -= PAGE_SIZE;
    found("heap");
    load_plain(&memcg_self->heap)->kept_bytes += PAGE_SIZE;
    CHECK(!memcg_find_invalid());
}

static void a_wrong_cache_is_found(void)
{
    struct kmem_cache *s = child_of_1024();
    struct slab *slab = hlist_first_entry(&s->slabs, struct slab, cache_node);
    long nr = load_plain(&s->nr_slabs), nr_pages = load_plain(&s->total_pages);

    store_plain(&s->nr_slabs, nr + 1);
    found("cache");
    store_plain(&s->nr_slabs, nr);
    store_plain(&s->total_pages, nr_pages - 1);
    found("cache");
    store_plain(&s->total_pages, nr_pages);
    slab->cache = kmalloc_cache(0);
    CHECK(memcg_find_invalid());
    slab->cache = s;
    set_page_slab(slab->base, 1, NULL);
    found("cache");
    set_page_slab(slab->base, 1, slab);
    CHECK(!memcg_find_invalid());
}

static void wrong_pages_are_found(void)
{
    void *p = memcg_malloc(2000000), *fence = memcg_malloc(2000000);
    size_t page = arena_page(p), committed = arena.nr_committed;
    uint32_t tag;

    memset(p, 1, 2000000);
    memcg_free(p);
    tag = arena.page_tag[page];
    CHECK(tag);
    arena.page_tag[page] = 0; /* a free page that is counted as dirty */
    found("pages");
    arena.page_tag[page] = tag;
    arena.nr_committed = page; /* pages in use that are not readable */
    found("pages");
    arena.nr_committed = committed;
    CHECK(!memcg_find_invalid());
    memcg_free(fence);
}

static void nothing(void) {}

/* True if crime() aborted. */
static bool aborts(void (*crime)(void))
{
    int status;
    pid_t pid = fork();

    if (!pid) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        signal(SIGABRT, SIG_DFL);
        CHECK(freopen("/dev/null", "w", stderr));
        crime();
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#ifdef MEMCG_DEBUG_VM
static void takes_a_leaf_outside_a_section(void) { metadata_alloc(32); }
static void shrinks_a_heap_outside_a_section(void)
{
    heap_shrink(load_plain(&memcg_self->heap), NULL);
}
static void links_a_stub_without_groups_lock(void) { objcg_link(g->objcg, g); }
static void collects_what_is_not_stolen(void) { cache_shrink_stolen(kmalloc_cache(0)); }
static void begins_a_section_inside_another(void)
{
    thread_enter();
    thread_enter();
}

/* The section is held, but the heap is another thread's. */
static void *another(void *heap)
{
    thread_enter();
    heap_shrink(heap, NULL);
    return NULL;
}

static void shrinks_a_heap_of_another_thread(void)
{
    pthread_t t;

    start(&t, another, load_plain(&memcg_self->heap));
    pthread_join(t, NULL);
}

static void unlinks_a_slab_without_its_lock(void)
{
    struct kmem_cache *s = child_of_1024();

    thread_enter();
    __slab_unlist(hlist_first_entry(&s->slabs, struct slab, cache_node));
}
#endif

static void what_is_out_of_place_stops_in_debug_builds(void)
{
    CHECK(!aborts(nothing));
#ifdef MEMCG_DEBUG_VM
    CHECK(aborts(takes_a_leaf_outside_a_section));
    CHECK(aborts(shrinks_a_heap_outside_a_section));
    CHECK(aborts(links_a_stub_without_groups_lock));
    CHECK(aborts(collects_what_is_not_stolen));
    CHECK(aborts(begins_a_section_inside_another));
    CHECK(aborts(shrinks_a_heap_of_another_thread));
    CHECK(aborts(unlinks_a_slab_without_its_lock));
#endif
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    populate();
    RUN(a_wrong_heap_is_found);
    RUN(a_wrong_cache_is_found);
    RUN(wrong_pages_are_found);
    RUN(what_is_out_of_place_stops_in_debug_builds);
    for (int i = 0; i < 600; i++)
        if (i % 40)
            memcg_free_fast(kept[i]);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
    return DONE();
}
