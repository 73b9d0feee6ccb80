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

void bitmap_clear(struct bitmap *b)
{
	madvise(b->word, nwords(b->nbits) * 8, MADV_DONTNEED); /* reads as zeros again */
	madvise(b->summary, nwords(nwords(b->nbits)) * 8, MADV_DONTNEED);
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

/* Words of one summary word that were empty when looked at: the next search passes them by. A bit
 * that was set in the meantime is not lost: bitmap_set_range() sets the word first and the summary
 * second, we clear the summary first and look at the word second. */
static void pass_by(struct bitmap *b, uint64_t s, uint64_t empty)
{
	atomic_fetch_and(&b->summary[s], ~empty);
	for (; empty; empty &= empty - 1)
		if (atomic_load(&b->word[s * 64 + (uint64_t)__builtin_ctzll(empty)]))
			atomic_fetch_or(&b->summary[s], empty & -empty);
}

/* In the words of one summary word, from bit from. */
static uint64_t next_below(struct bitmap *b, uint64_t s, uint64_t from)
{
	uint64_t todo = atomic_load(&b->summary[s]), empty = 0, found = BITMAP_NONE;

	if (s == from / 64 / 64)
		todo &= ~0ull << (from / 64 % 64);
	for (; todo && found == BITMAP_NONE; todo &= todo - 1) {
		uint64_t w = s * 64 + (uint64_t)__builtin_ctzll(todo),
			 bits = atomic_load_explicit(&b->word[w], memory_order_relaxed);

		if (!bits)
			empty |= todo & -todo;
		if (w == from / 64)
			bits &= ~0ull << (from % 64);
		if (bits)
			found = w * 64 + (uint64_t)__builtin_ctzll(bits);
	}
	if (empty)
		pass_by(b, s, empty);
	return found;
}

uint64_t bitmap_next(struct bitmap *b, uint64_t from)
{
	uint64_t end = nwords(nwords(b->nbits)), found = BITMAP_NONE;

	if (from >= b->nbits)
		return BITMAP_NONE;
	for (uint64_t s = from / 64 / 64; s < end && found == BITMAP_NONE; s++)
		found = next_below(b, s, from);
	return found;
}

bool bitmap_next_run(struct bitmap *b, uint64_t *from, uint64_t *ret_first, uint64_t *ret_len)
{
	uint64_t at = bitmap_next(b, *from);

	if (at == BITMAP_NONE)
		return false;
	*ret_first = at;
	while (at < b->nbits) { /* ones, word by word */
		uint64_t zeros = ~(atomic_load(&b->word[at / 64]) >> (at % 64)),
			 n = zeros ? (uint64_t)__builtin_ctzll(zeros) : 64;

		n = min_u64(n, 64 - at % 64);
		at += n;
		if (!n || at % 64)
			break;
	}
	at = min_u64(at, b->nbits);
	*ret_len = at - *ret_first;
	*from = at;
	return true;
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

uint64_t bitmap_get(const struct bitmap *b, uint64_t first, uint64_t mask)
{
	uint64_t w = first / 64, shift = first % 64, got = atomic_load(&b->word[w]) >> shift;

	if (shift && mask >> (64 - shift))
		got |= atomic_load(&b->word[w + 1]) << (64 - shift);
	return got & mask;
}

uint64_t bitmap_count(const struct bitmap *b)
{
	uint64_t n = 0, end = nwords(nwords(b->nbits));

	for (uint64_t s = 0; s < end; s++) {
		uint64_t todo = atomic_load(&b->summary[s]);

		for (; todo; todo &= todo - 1)
			n += (uint64_t)__builtin_popcountll(
				atomic_load(&b->word[s * 64 + (uint64_t)__builtin_ctzll(todo)]));
	}
	return n;
}
