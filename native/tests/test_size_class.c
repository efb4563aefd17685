/* SPDX-License-Identifier: Apache-2.0 */
#include "../size_class.h"
#include "test.h"

static void every_size_gets_the_smallest_class_that_holds_it(void)
{
    for (size_t size = 1; size <= KMALLOC_MAX_CACHE_SIZE; size++) {
        int i = kmalloc_index(size);

        CHECK(i >= 0 && i < NR_KMALLOC);
        CHECK(kmalloc_size(i) >= size);
        CHECK(i == 0 || kmalloc_size(i - 1) < size);
    }
    CHECK(kmalloc_size(NR_KMALLOC - 1) == KMALLOC_MAX_CACHE_SIZE);
}

static void a_class_is_a_multiple_of_16_and_at_most_a_quarter_above_the_one_before(void)
{
    for (int i = 0; i < NR_KMALLOC; i++) {
        CHECK(kmalloc_size(i) % 16 == 0);
        CHECK(i < 8 || kmalloc_size(i) * 4 <= kmalloc_size(i - 1) * 5);
    }
}

int main(void)
{
    RUN(every_size_gets_the_smallest_class_that_holds_it);
    RUN(a_class_is_a_multiple_of_16_and_at_most_a_quarter_above_the_one_before);
    return DONE();
}
