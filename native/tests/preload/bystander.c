/* SPDX-License-Identifier: Apache-2.0 */
/* bystander.c - in a process without Python malloc is glibc's, and LD_PRELOAD stays for others. */
#include <stdlib.h>
#include <string.h>

#include "memcg.h"
#include "test.h"

int main(void)
{
    void *p = malloc(100);
    const char *preloaded = getenv("LD_PRELOAD");

    CHECK(p && !memcg_serves_c() && !memcg_why_not_c() && !memcg_owns(p));
    CHECK(preloaded && strstr(preloaded, "libmemcg_malloc"));
    free(realloc(p, 200000));
    tests_run++;
    return DONE();
}
