/* SPDX-License-Identifier: Apache-2.0 */
/*
 * survivor.h - libraries whose large requests to malloc may be refused.
 */
#ifndef MEMCG_SURVIVOR_H
#define MEMCG_SURVIVOR_H

#include "compat.h"
#include "memcg.h"

void survivor_init(void);

#endif
