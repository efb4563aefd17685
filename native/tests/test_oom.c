/* SPDX-License-Identifier: Apache-2.0 */
/* test_oom.c - the last refusal or alarm at a group's limit or at one below it, also after groups
 * were freed. */
#include <errno.h>
#include <string.h>

#include "memcg.h"
#include "test.h"

static struct mem_cgroup *group(struct mem_cgroup *parent, const char *path)
{
    struct mem_cgroup *memcg = mem_cgroup_alloc(parent);

    mem_cgroup_set_path(memcg, path);
    return memcg;
}

static void a_refusal_is_known_at_the_limit_and_above_whichever_group_is_freed(void)
{
    struct mem_cgroup *top, *low, *other;
    struct memcg_oom oom;

    top = group(mem_cgroup_root(), "top");
    low = group(top, "top/low");
    other = group(mem_cgroup_root(), "other");
    mem_cgroup_set_limit(top, MEMCG_MAX, 1 << 20);
    CHECK(!mem_cgroup_last_oom(top, &oom));
    CHECK(mem_cgroup_try_charge(low, 2 << 20) == -ENOMEM);
    CHECK(!mem_cgroup_last_oom(low, &oom)); /* the limit is above it */
    CHECK(!mem_cgroup_last_oom(other, &oom));
    CHECK(mem_cgroup_last_oom(mem_cgroup_root(), &oom));
    free(oom.memcg);
    free(oom.limited);
    mem_cgroup_offline(low);
    mem_cgroup_free(low);
    CHECK(mem_cgroup_last_oom(top, &oom));
    CHECK(strcmp(oom.memcg, "top/low") == 0 && strcmp(oom.limited, "top") == 0);
    CHECK(oom.bytes == 2 << 20 && oom.max == 1 << 20 && oom.refused);
    free(oom.memcg);
    free(oom.limited);
    mem_cgroup_offline(top);
    mem_cgroup_free(top);
    CHECK(mem_cgroup_last_oom(mem_cgroup_root(), &oom));
    CHECK(strcmp(oom.memcg, "top/low") == 0 && strcmp(oom.limited, "top") == 0);
    free(oom.memcg);
    free(oom.limited);
    mem_cgroup_free(other);
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    RUN(a_refusal_is_known_at_the_limit_and_above_whichever_group_is_freed);
    return DONE();
}
