/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atomic.h - accesses to what several threads write and read at once, with the memory order in the
 * name.
 *
 * An atomic field has a struct type, so that no plain access to it compiles.  ATOMIC(type) makes
 * such a type for a pointer.  The orders are: relaxed (the value alone), acquire (the reader sees
 * all that the writer wrote before its release), release, acq_rel, seq_cst. add_ and sub_ return
 * the new value, exchange_ and fetch_or_ the old one. cas_weak_ may fail without a reason; it then
 * stores the value that it found in *expected, with relaxed order.
 *
 * load_plain() is for the one thread that may write the field now: the owner in its section, the
 * holder of the field's lock, a walker. store_plain() is for a field that no other thread sees yet.
 * load_racy() reads beside a writer without an order, where the value of any moment will do.
 * Unlike a relaxed load it may be an operand of another instruction.
 *
 * tests/litmus models the protocols that use these orders, and runs every execution of them.
 * Kernel: include/linux/atomic.h.
 */
#ifndef MEMCG_ATOMIC_H
#define MEMCG_ATOMIC_H

#include <stddef.h>
#include <stdint.h>

#define ATOMIC(type) \
    struct {         \
        type value;  \
    }

typedef ATOMIC(uint8_t) atomic_u8_t;
typedef ATOMIC(uint16_t) atomic_u16_t;
typedef ATOMIC(uint32_t) atomic_u32_t;
typedef ATOMIC(int) atomic_int_t;
typedef ATOMIC(unsigned) atomic_uint_t;
typedef ATOMIC(long) atomic_long_t;
typedef ATOMIC(int64_t) atomic_s64_t;
typedef ATOMIC(uint64_t) atomic_u64_t;
typedef ATOMIC(size_t) atomic_usize_t; /* C11 has the name atomic_size_t */

#define load_plain(p) ((p)->value)
#define load_racy(p) ((p)->value)
#define store_plain(p, n) ((void)((p)->value = (n)))

#define load_relaxed(p) __atomic_load_n(&(p)->value, __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n(&(p)->value, __ATOMIC_ACQUIRE)
#define load_seq_cst(p) __atomic_load_n(&(p)->value, __ATOMIC_SEQ_CST)

#define store_relaxed(p, n) __atomic_store_n(&(p)->value, n, __ATOMIC_RELAXED)
#define store_release(p, n) __atomic_store_n(&(p)->value, n, __ATOMIC_RELEASE)
#define store_seq_cst(p, n) __atomic_store_n(&(p)->value, n, __ATOMIC_SEQ_CST)

#define exchange_relaxed(p, n) __atomic_exchange_n(&(p)->value, n, __ATOMIC_RELAXED)
#define exchange_acquire(p, n) __atomic_exchange_n(&(p)->value, n, __ATOMIC_ACQUIRE)
#define exchange_acq_rel(p, n) __atomic_exchange_n(&(p)->value, n, __ATOMIC_ACQ_REL)
#define exchange_seq_cst(p, n) __atomic_exchange_n(&(p)->value, n, __ATOMIC_SEQ_CST)

#define add_relaxed(p, n) __atomic_add_fetch(&(p)->value, n, __ATOMIC_RELAXED)
#define add_release(p, n) __atomic_add_fetch(&(p)->value, n, __ATOMIC_RELEASE)
#define add_seq_cst(p, n) __atomic_add_fetch(&(p)->value, n, __ATOMIC_SEQ_CST)
#define sub_relaxed(p, n) __atomic_sub_fetch(&(p)->value, n, __ATOMIC_RELAXED)
#define sub_acq_rel(p, n) __atomic_sub_fetch(&(p)->value, n, __ATOMIC_ACQ_REL)
#define sub_seq_cst(p, n) __atomic_sub_fetch(&(p)->value, n, __ATOMIC_SEQ_CST)
#define fetch_or_acq_rel(p, n) __atomic_fetch_or(&(p)->value, n, __ATOMIC_ACQ_REL)

#define cas_weak_order(p, expected, n, order) \
    __atomic_compare_exchange_n(&(p)->value, expected, n, 1, order, __ATOMIC_RELAXED)
#define cas_weak_relaxed(p, expected, n) cas_weak_order(p, expected, n, __ATOMIC_RELAXED)
#define cas_weak_acquire(p, expected, n) cas_weak_order(p, expected, n, __ATOMIC_ACQUIRE)
#define cas_weak_release(p, expected, n) cas_weak_order(p, expected, n, __ATOMIC_RELEASE)
#define cas_weak_acq_rel(p, expected, n) cas_weak_order(p, expected, n, __ATOMIC_ACQ_REL)

/* Stops the compiler from moving accesses across it.  The processor may still move them. */
#define compiler_fence() __atomic_signal_fence(__ATOMIC_SEQ_CST)

#endif
