/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spare.h - closed groups that are kept for the next ones (memcg.h has the functions).
 */
#ifndef MEMCG_SPARE_H
#define MEMCG_SPARE_H

#include "memcontrol.h"

#endif
