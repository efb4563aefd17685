/* SPDX-License-Identifier: Apache-2.0 */
/* size_class.c - the table of size classes for small sizes. */
#include "size_class.h"

const uint8_t kmalloc_table[KMALLOC_TABLE_SIZE / 16] = {
    /* kmalloc_index() for each 16 bytes */
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 16, 16, 16, 17, 17,
    17, 17, 18, 18, 18, 18, 19, 19, 19, 19, 20, 20, 20, 20, 20, 20, 20, 20, 21, 21, 21, 21,
    21, 21, 21, 21, 22, 22, 22, 22, 22, 22, 22, 22, 23, 23, 23, 23, 23, 23, 23, 23,
};
