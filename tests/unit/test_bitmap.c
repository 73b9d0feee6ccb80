/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <pthread.h>

#include "util/bitmap.h"
#include "util/clock.h"
#include "util/util.h"

static const uint64_t sizes[] = { 1, 2, 63, 64, 65, 127, 128, 129, 4095, 4096, 4097, 9999 };

static uint64_t naive_next(const bool *bit, uint64_t nbits, uint64_t from)
{
	for (uint64_t i = from; i < nbits; i++)
		if (bit[i])
			return i;
	return BITMAP_NONE;
}

static uint64_t naive_count(const bool *bit, uint64_t nbits)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < nbits; i++)
		n += bit[i];
	return n;
}

static uint64_t naive_take(bool *bit, uint64_t first, uint64_t mask)
{
	uint64_t got = 0;

	for (unsigned int i = 0; i < 64; i++)
		if (mask >> i & 1 && bit[first + i]) {
			bit[first + i] = false;
			got |= 1ull << i;
		}
	return got;
}

/* A mask whose bits all lie inside the map. */
static uint64_t mask_inside(uint64_t *seed, uint64_t first, uint64_t nbits)
{
	uint64_t mask = rnd_below(seed, 4) ? rnd(seed) : ~0ull;

	return nbits - first < 64 ? mask & ((1ull << (nbits - first)) - 1) : mask;
}

static void one_step(struct bitmap *b, bool *model, uint64_t nbits, uint64_t *seed)
{
	uint64_t first = rnd_below(seed, nbits), mask;

	switch (rnd_below(seed, 4)) {
	case 0: {
		uint64_t n = rnd_below(seed, min_u64(nbits - first, 200) + 1);

		bitmap_set_range(b, first, n);
		memset(model + first, true, n);
		break;
	}
	case 1:
		mask = mask_inside(seed, first, nbits);
		assert_int_equal(bitmap_take(b, first, mask), naive_take(model, first, mask));
		break;
	case 2:
		assert_int_equal(bitmap_test(b, first), model[first]);
		break;
	default:
		assert_int_equal(bitmap_next(b, first), naive_next(model, nbits, first));
	}
}

static void behaves_like_an_array_of_bools(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		bool *model = calloc(sizes[s] + 64, sizeof(*model));
		struct bitmap b;

		assert_int_equal(bitmap_init(&b, sizes[s]), 0);
		for (int i = 0; i < 20000; i++)
			one_step(&b, model, sizes[s], &seed);
		for (uint64_t i = 0; i < sizes[s]; i++)
			assert_int_equal(bitmap_test(&b, i), model[i]);
		assert_int_equal(bitmap_count(&b), naive_count(model, sizes[s]));
		bitmap_fini(&b);
		free(model);
	}
}

static void is_empty_at_first_and_after_all_is_taken(void **state)
{
	struct bitmap b;

	(void)state;
	assert_int_equal(bitmap_init(&b, 1000), 0);
	assert_int_equal(bitmap_next(&b, 0), BITMAP_NONE);
	assert_int_equal(bitmap_count(&b), 0);
	bitmap_set_range(&b, 0, 1000);
	assert_int_equal(bitmap_count(&b), 1000);
	assert_int_equal(bitmap_next(&b, 999), 999);
	for (uint64_t at = 0; at < 1000; at += 50)
		assert_int_equal(bitmap_take(&b, at, (1ull << 50) - 1), (1ull << 50) - 1);
	assert_int_equal(bitmap_next(&b, 0), BITMAP_NONE);
	assert_int_equal(bitmap_count(&b), 0);
	bitmap_fini(&b);
}

static void next_beyond_the_end_finds_nothing(void **state)
{
	struct bitmap b;

	(void)state;
	assert_int_equal(bitmap_init(&b, 130), 0);
	bitmap_set_range(&b, 0, 130);
	assert_int_equal(bitmap_next(&b, 129), 129);
	assert_int_equal(bitmap_next(&b, 130), BITMAP_NONE);
	assert_int_equal(bitmap_next(&b, UINT64_MAX), BITMAP_NONE);
	bitmap_fini(&b);
}

static void an_empty_range_sets_nothing(void **state)
{
	struct bitmap b;

	(void)state;
	assert_int_equal(bitmap_init(&b, 128), 0);
	bitmap_set_range(&b, 0, 0);
	bitmap_set_range(&b, 64, 0);
	bitmap_set_range(&b, 128, 0);
	assert_int_equal(bitmap_count(&b), 0);
	bitmap_fini(&b);
}

/* Every place of two neighbouring bits, one each side of every word border. */
static void takes_across_words(void **state)
{
	struct bitmap b;

	(void)state;
	assert_int_equal(bitmap_init(&b, 256), 0);
	for (uint64_t first = 0; first <= 192; first++) {
		bitmap_set_range(&b, 0, 256);
		assert_int_equal(bitmap_take(&b, first, ~0ull), ~0ull);
		assert_int_equal(bitmap_count(&b), 192);
		for (uint64_t i = 0; i < 256; i++)
			assert_int_equal(bitmap_test(&b, i), i < first || i >= first + 64);
		assert_int_equal(bitmap_take(&b, first, ~0ull), 0);
	}
	bitmap_fini(&b);
}

static void fini_accepts_what_was_never_made(void **state)
{
	struct bitmap b = { 0 };

	(void)state;
	bitmap_fini(&b);
	bitmap_fini(&b);
}

/* 1 TiB of 4 KiB pages. */
static void a_large_map_costs_what_is_set(void **state)
{
	enum { NSET = 2000 };
	uint64_t nbits = TIB / 4096, seed = 2, begin, found = 0, at;
	struct bitmap b;

	(void)state;
	assert_int_equal(bitmap_init(&b, nbits), 0);
	for (int i = 0; i < NSET; i++)
		bitmap_set_range(&b, rnd_below(&seed, nbits), 1);
	begin = clock_ns();
	for (at = 0; (at = bitmap_next(&b, at)) != BITMAP_NONE; at++) {
		assert_true(bitmap_test(&b, at));
		found++;
	}
	assert_int_equal(found, bitmap_count(&b));
	assert_true(clock_ns() - begin < NS_PER_S);
	bitmap_fini(&b);
}

/* Compared with itself, and the best of many: no busy machine fails it. */
static void what_was_taken_costs_nothing_later(void **state)
{
	uint64_t nbits = TIB / 4096, first_ns, again_ns = UINT64_MAX;
	struct bitmap b;

	(void)state;
	assert_int_equal(bitmap_init(&b, nbits), 0);
	bitmap_set_range(&b, 0, nbits);
	for (uint64_t at = 0; at < nbits; at += 64)
		bitmap_take(&b, at, ~0ull);
	bitmap_set_range(&b, nbits - 1, 1);
	first_ns = clock_ns();
	assert_int_equal(bitmap_next(&b, 0), nbits - 1);
	first_ns = clock_ns() - first_ns;
	for (int i = 0; i < 10; i++) {
		uint64_t begin = clock_ns();

		assert_int_equal(bitmap_next(&b, 0), nbits - 1);
		again_ns = min_u64(again_ns, clock_ns() - begin);
	}
	print_message("1 TiB, all but the last page taken: the first search %llu us, later %llu\n",
		      (unsigned long long)(first_ns / NS_PER_US),
		      (unsigned long long)(again_ns / NS_PER_US));
	assert_true(again_ns < first_ns);
	/* What was passed by is found when it is set again: words at both ends of a summary. */
	for (uint64_t w = 0; w < 3 * 64; w += 21) {
		bitmap_set_range(&b, w * 64 + w % 64, 1);
		assert_int_equal(bitmap_next(&b, 0), w * 64 + w % 64);
		assert_int_equal(bitmap_next(&b, w * 64 + w % 64 + 1), nbits - 1);
		assert_int_equal(bitmap_count(&b), 2);
		assert_int_equal(bitmap_take(&b, w * 64, ~0ull), 1ull << w % 64);
	}
	bitmap_fini(&b);
}

/* Threads set each bit once, in no order, while one looks for them and takes what it finds: the
 * words become empty and full all the time. */
enum { FOUND_BITS = 4096, SETTERS = 3, ROUNDS = 200 };
static struct bitmap sought;
static _Atomic uint64_t set_bits; /* counted when bitmap_set_range() has returned */

static void *set_all(void *arg)
{
	uint64_t i = (uint64_t)(uintptr_t)arg;

	for (; i < FOUND_BITS; i += SETTERS) {
		bitmap_set_range(&sought, i * 1111 % FOUND_BITS, 1); /* odd: each bit comes once */
		atomic_fetch_add(&set_bits, 1);
	}
	return NULL;
}

static void no_bit_is_missed_while_others_set(void **state)
{
	uint64_t missed = 0, empty = 0;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t found = 0, before, at;
		pthread_t thread[SETTERS];

		assert_int_equal(bitmap_init(&sought, FOUND_BITS), 0);
		atomic_store(&set_bits, 0);
		for (uintptr_t i = 0; i < SETTERS; i++)
			assert_int_equal(pthread_create(&thread[i], NULL, set_all, (void *)i), 0);
		while (found < FOUND_BITS) {
			before = atomic_load(&set_bits);
			at = bitmap_next(&sought, 0);
			if (at != BITMAP_NONE) {
				assert_int_equal(bitmap_take(&sought, at, 1), 1);
				found++;
				continue;
			}
			empty++;
			if (found < before) {
				missed++;
				break;
			}
		}
		for (int i = 0; i < SETTERS; i++)
			pthread_join(thread[i], NULL);
		assert_int_equal(missed, 0);
		assert_int_equal(bitmap_next(&sought, 0), BITMAP_NONE);
		bitmap_fini(&sought);
	}
	print_message("%d rounds, nothing to be found %llu times\n", ROUNDS,
		      (unsigned long long)empty);
}

enum { RACE_BITS = 64 * 1024, RACERS = 4 };
static struct bitmap raced;
static _Atomic unsigned int taken[RACE_BITS];

static void *race(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;

	for (int i = 0; i < 40000; i++) {
		uint64_t first = rnd_below(&seed, RACE_BITS - 64), mask = rnd(&seed);

		mask = bitmap_take(&raced, first, mask);
		for (; mask; mask &= mask - 1)
			atomic_fetch_add(&taken[first + (uint64_t)__builtin_ctzll(mask)], 1);
	}
	return NULL;
}

static void each_bit_goes_to_one_taker(void **state)
{
	pthread_t thread[RACERS];
	uint64_t ntaken = 0;

	(void)state;
	assert_int_equal(bitmap_init(&raced, RACE_BITS), 0);
	bitmap_set_range(&raced, 0, RACE_BITS);
	for (uintptr_t i = 0; i < RACERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, race, (void *)(i + 3)), 0);
	for (int i = 0; i < RACERS; i++)
		pthread_join(thread[i], NULL);
	for (uint64_t i = 0; i < RACE_BITS; i++) {
		assert_int_equal(taken[i] + bitmap_test(&raced, i), 1);
		ntaken += taken[i];
	}
	assert_true(ntaken > RACE_BITS / 2); /* or it was no race */
	bitmap_fini(&raced);
}

static void runs_are_found_whole(void **state)
{
	uint64_t seed = 5;

	(void)state;
	for (int round = 0; round < 300; round++) {
		uint64_t nbits = 1 + rnd_below(&seed, 700), pos = 0, first, len, want = 0;
		bool *model = calloc(nbits + 1, sizeof(*model));
		struct bitmap b;

		assert_int_equal(bitmap_init(&b, nbits), 0);
		for (int i = 0; i < 6; i++) {
			uint64_t at = rnd_below(&seed, nbits), n = 1 + rnd_below(&seed, nbits - at);

			bitmap_set_range(&b, at, n);
			memset(model + at, true, n);
		}
		while (bitmap_next_run(&b, &pos, &first, &len)) {
			while (want < nbits && !model[want])
				want++;
			assert_int_equal(first, want);
			while (want < nbits && model[want])
				want++;
			assert_int_equal(first + len, want);
			assert_int_equal(pos, want);
		}
		while (want < nbits)
			assert_false(model[want++]);
		for (uint64_t at = 0; at < nbits; at += 37) {
			uint64_t n = min_u64(64, nbits - at),
				 all = n == 64 ? ~0ull : (1ull << n) - 1;
			uint64_t got = bitmap_get(&b, at, all);

			for (uint64_t i = 0; i < n; i++)
				assert_int_equal(got >> i & 1, model[at + i]);
		}
		bitmap_fini(&b);
		free(model);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(behaves_like_an_array_of_bools),
		cmocka_unit_test(is_empty_at_first_and_after_all_is_taken),
		cmocka_unit_test(next_beyond_the_end_finds_nothing),
		cmocka_unit_test(an_empty_range_sets_nothing),
		cmocka_unit_test(takes_across_words),
		cmocka_unit_test(fini_accepts_what_was_never_made),
		cmocka_unit_test(a_large_map_costs_what_is_set),
		cmocka_unit_test(what_was_taken_costs_nothing_later),
		cmocka_unit_test(each_bit_goes_to_one_taker),
		cmocka_unit_test(no_bit_is_missed_while_others_set),
		cmocka_unit_test(runs_are_found_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
