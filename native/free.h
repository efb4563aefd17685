/* SPDX-License-Identifier: Apache-2.0 */
/*
 * free.h - an object's way home.
 */
#ifndef MEMCG_FREE_H
#define MEMCG_FREE_H

#include "types.h"

/* In a section. 0; -EINVAL: not an object; -EALREADY: already free (exact for users' caches). */
int slab_free(struct thread *self, struct slab *slab, void *object);

#endif
