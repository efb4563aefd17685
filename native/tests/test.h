/* SPDX-License-Identifier: Apache-2.0 */
/* test.h - CHECK, which stops at a failure; RUN, which prints the name of what must hold. */
#ifndef MEMCG_TEST_H
#define MEMCG_TEST_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition); \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

static __attribute__((unused)) int tests_run;
#define RUN(test) (test(), tests_run++)
#define DONE() (printf("%s: ok %d\n", __FILE__, tests_run), 0)

#endif
