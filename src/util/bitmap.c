/* SPDX-License-Identifier: MIT */
#include "util/bitmap.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "util/util.h"

static uint64_t nwords(uint64_t nbits)
{
	return (nbits + 63) / 64;
}

static void *reserve(uint64_t words)
{
	void *p = mmap(NULL, words * 8, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int bitmap_init(struct bitmap *b, uint64_t nbits)
{
	*b = (struct bitmap){ .nbits = nbits };
	b->word = reserve(nwords(nbits));
	b->summary = reserve(nwords(nwords(nbits)));
	if (!b->word || !b->summary) {
		bitmap_fini(b);
		return -ENOMEM;
	}
	return 0;
}

void bitmap_fini(struct bitmap *b)
{
	if (b->word)
		munmap(b->word, nwords(b->nbits) * 8);
	if (b->summary)
		munmap(b->summary, nwords(nwords(b->nbits)) * 8);
	*b = (struct bitmap){ 0 };
}

void bitmap_set_range(struct bitmap *b, uint64_t first, uint64_t nbits)
{
	uint64_t end = first + nbits;

	assert(end <= b->nbits);
	while (first < end) {
		uint64_t w = first / 64, upto = min_u64(end, (w + 1) * 64);
		uint64_t mask = ~0ull << (first % 64);

		if (upto % 64)
			mask &= (1ull << (upto % 64)) - 1;
		atomic_fetch_or(&b->word[w], mask);
		atomic_fetch_or(&b->summary[w / 64], 1ull << (w % 64));
		first = upto;
	}
}

bool bitmap_test(const struct bitmap *b, uint64_t bit)
{
	return atomic_load(&b->word[bit / 64]) >> (bit % 64) & 1;
}

/* The first word index at or behind w whose summary bit is set, or end. */
static uint64_t next_word(const struct bitmap *b, uint64_t w, uint64_t end)
{
	while (w < end) {
		uint64_t s =
			atomic_load_explicit(&b->summary[w / 64], memory_order_relaxed) >> (w % 64);

		if (s)
			return min_u64(w + (uint64_t)__builtin_ctzll(s), end);
		w = (w / 64 + 1) * 64;
	}
	return end;
}

uint64_t bitmap_next(const struct bitmap *b, uint64_t from)
{
	uint64_t end = nwords(b->nbits);

	if (from >= b->nbits)
		return BITMAP_NONE;
	for (uint64_t w = from / 64; (w = next_word(b, w, end)) < end; w++) {
		uint64_t bits = atomic_load_explicit(&b->word[w], memory_order_relaxed);

		if (w == from / 64)
			bits &= ~0ull << (from % 64);
		if (bits)
			return w * 64 + (uint64_t)__builtin_ctzll(bits);
	}
	return BITMAP_NONE;
}

uint64_t bitmap_take(struct bitmap *b, uint64_t first, uint64_t mask)
{
	uint64_t w = first / 64, shift = first % 64, got;

	got = (atomic_fetch_and(&b->word[w], ~(mask << shift)) & (mask << shift)) >> shift;
	if (shift && mask >> (64 - shift)) {
		uint64_t high = mask >> (64 - shift);

		got |= (atomic_fetch_and(&b->word[w + 1], ~high) & high) << (64 - shift);
	}
	return got;
}

uint64_t bitmap_count(const struct bitmap *b)
{
	uint64_t n = 0, end = nwords(b->nbits);

	for (uint64_t w = 0; (w = next_word(b, w, end)) < end; w++)
		n += (uint64_t)__builtin_popcountll(atomic_load(&b->word[w]));
	return n;
}
