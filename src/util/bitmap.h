/* SPDX-License-Identifier: MIT */
/* A large, mostly empty bitmap: words plus one summary bit a word, so that finding the next set bit
 * costs what is set, and not what is large or what was set once. Memory is reserved, and used where
 * a bit was set. Bits may be set, taken and looked for at once; only the looking is one thread's.
 */
#ifndef UMIG_UTIL_BITMAP_H
#define UMIG_UTIL_BITMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BITMAP_NONE UINT64_MAX

struct bitmap {
	_Atomic uint64_t *word;
	_Atomic uint64_t *summary; /* a bit is set if its word may be non-zero */
	uint64_t nbits;
};

/* Returns 0 or -ENOMEM. */
int bitmap_init(struct bitmap *b, uint64_t nbits);
void bitmap_fini(struct bitmap *b);

void bitmap_set_range(struct bitmap *b, uint64_t first, uint64_t nbits);
bool bitmap_test(const struct bitmap *b, uint64_t bit);

/* The first set bit at or behind from, or BITMAP_NONE. One thread at a time (or under its caller's
 * lock): it clears the summary of words that it finds empty, and sets it again where a bit was set
 * at that moment; a second search could look in between. */
uint64_t bitmap_next(struct bitmap *b, uint64_t from);

/* The run of set bits at or behind *from; *from becomes its end. False: there is none. As
 * bitmap_next(). */
bool bitmap_next_run(struct bitmap *b, uint64_t *from, uint64_t *ret_first, uint64_t *ret_len);

/* Clears the bits of mask that lie at first (mask bit 0) .. first+63 and returns those that this
 * call cleared: each set bit goes to exactly one caller. Any thread. */
uint64_t bitmap_take(struct bitmap *b, uint64_t first, uint64_t mask);

/* Which of the bits of mask that lie at first .. first+63 are set. Any thread. */
uint64_t bitmap_get(const struct bitmap *b, uint64_t first, uint64_t mask);

/* No bit is set. Beside no other thread. */
void bitmap_clear(struct bitmap *b);

/* Not beside bitmap_next(). */
uint64_t bitmap_count(const struct bitmap *b);

#endif
