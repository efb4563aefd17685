/* SPDX-License-Identifier: Apache-2.0 */
/*
 * list.h - doubly linked lists of structures that embed a node.
 *
 * The head is one pointer, so the three lists in each of a heap's 44 slots take little room, and
 * zeroed memory is an empty list.  A node is taken off without its head. hlist_add_head() adds in
 * front.  If a head moves in memory, hlist_move_list() moves its list along.
 *
 * Kernel: struct hlist_head (include/linux/list.h), with its names.
 */
#ifndef MEMCG_LIST_H
#define MEMCG_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct hlist_node {
    struct hlist_node *next, **pprev; /* pprev: the pointer that points here */
};

struct hlist_head {
    struct hlist_node *first;
};

#define container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))

/* The entry that embeds node p, or NULL if p is NULL. */
#define hlist_entry_safe(p, type, member)                   \
    ({                                                      \
        struct hlist_node *__node = (p);                    \
        __node ? container_of(__node, type, member) : NULL; \
    })
#define hlist_first_entry(head, type, member) hlist_entry_safe((head)->first, type, member)
#define hlist_next_entry(pos, member) \
    hlist_entry_safe((pos)->member.next, __typeof__(*(pos)), member)

#define hlist_for_each_entry(pos, head, member)                          \
    for (pos = hlist_first_entry(head, __typeof__(*(pos)), member); pos; \
         pos = hlist_next_entry(pos, member))

/* The body may take pos off the list. n is a struct hlist_node * for the loop's own use. */
#define hlist_for_each_entry_safe(pos, n, head, member)             \
    for (pos = hlist_first_entry(head, __typeof__(*(pos)), member); \
         pos && ((n = (pos)->member.next), true);                   \
         pos = hlist_entry_safe(n, __typeof__(*(pos)), member))

static inline bool hlist_empty(const struct hlist_head *head) { return !head->first; }

static inline void hlist_add_head(struct hlist_node *node, struct hlist_head *head)
{
    struct hlist_node *first = head->first;

    node->next = first;
    if (first)
        first->pprev = &node->next;
    head->first = node;
    node->pprev = &head->first;
}

static inline void hlist_del(struct hlist_node *node)
{
    struct hlist_node *next = node->next;

    *node->pprev = next;
    if (next)
        next->pprev = node->pprev;
}

static inline void hlist_move_list(struct hlist_head *from, struct hlist_head *to)
{
    to->first = from->first;
    if (to->first)
        to->first->pprev = &to->first;
    from->first = NULL;
}

#endif
