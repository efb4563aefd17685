/* SPDX-License-Identifier: Apache-2.0 */
/* early.c - a library whose constructor calls malloc before ours has run. */
#include <stdlib.h>
#include <string.h>

void *early_block, *early_string;

static __attribute__((constructor)) void start(void)
{
    early_block = malloc(5000);
    early_string = strdup("early");
}
