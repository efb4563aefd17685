/* SPDX-License-Identifier: Apache-2.0 */
/* refused.c - under a sanitizer malloc stays the sanitizer's, and the reason is known. */
#include <stdlib.h>
#include <string.h>

#include "memcg.h"
#include "test.h"

int Py_IsInitialized(void);
int Py_IsInitialized(void) { return 0; }

int main(void)
{
    void *p = malloc(100);

    CHECK(p && !memcg_serves_c() && !memcg_owns(p));
    CHECK(memcg_why_not_c() && strstr(memcg_why_not_c(), "sanitizer"));
    CHECK(!getenv("LD_PRELOAD") || !strstr(getenv("LD_PRELOAD"), "memcg"));
    free(realloc(p, 200000));
    tests_run++;
    return DONE();
}
