/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <pthread.h>

#include "util/histogram.h"
#include "util/util.h"

enum { NVALUES = 20000, NTHREADS = 4 };

static const double fractions[] = { 0, 0.001, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1 };
static uint64_t values[NVALUES];

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void assert_close(uint64_t is, uint64_t exact)
{
	uint64_t off = is > exact ? is - exact : exact - is;

	assert_true(off * 8 <= exact); /* 12.5% */
}

/* Values below 2^max_bits, of every magnitude. */
static void check_quantiles(unsigned int max_bits, uint64_t seed)
{
	struct histogram h = { 0 };
	uint64_t sum = 0;

	for (int i = 0; i < NVALUES; i++) {
		values[i] = rnd(&seed) >> (64 - 1 - rnd_below(&seed, max_bits));
		histogram_add(&h, values[i]);
		sum += values[i];
	}
	qsort(values, NVALUES, sizeof(values[0]), compare);
	assert_int_equal(h.count, NVALUES);
	for (uint64_t limit = 8, below = 0; limit < 1ull << 40; limit *= 2) {
		while (below < NVALUES && values[below] < limit)
			below++;
		assert_int_equal(histogram_count_below(&h, limit), below);
	}
	assert_int_equal(h.sum_ns, sum);
	assert_int_equal(h.max_ns, values[NVALUES - 1]);
	for (size_t i = 0; i < ARRAY_SIZE(fractions); i++)
		assert_close(histogram_quantile_ns(&h, fractions[i]),
			     values[(size_t)(fractions[i] * (NVALUES - 1))]);
}

static void quantiles_are_exact_to_an_eighth(void **state)
{
	static const unsigned int bits[] = { 1, 3, 4, 10, 20, 32, 43 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		check_quantiles(bits[i], i + 1);
}

/* All borders of buckets. */
static void one_value_alone_comes_back(void **state)
{
	(void)state;
	for (unsigned int bit = 0; bit < 43; bit++)
		for (int64_t off = -2; off <= 2; off++) {
			struct histogram h = { 0 };
			uint64_t v = (1ull << bit) + (uint64_t)off;

			if ((int64_t)v < 0 || v >> 43)
				continue;
			histogram_add(&h, v);
			assert_close(histogram_quantile_ns(&h, 0), v);
			assert_close(histogram_quantile_ns(&h, 0.5), v);
			assert_close(histogram_quantile_ns(&h, 1), v);
			assert_int_equal(h.max_ns, v);
		}
}

static void small_values_are_exact(void **state)
{
	struct histogram h = { 0 };

	(void)state;
	for (uint64_t v = 0; v < HISTOGRAM_SUB; v++)
		histogram_add(&h, v);
	for (int v = 0; v < HISTOGRAM_SUB; v++)
		assert_int_equal(
			histogram_quantile_ns(&h, (v + 0.01) / (double)(HISTOGRAM_SUB - 1)), v);
}

static void an_empty_one_says_zero(void **state)
{
	struct histogram h = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fractions); i++)
		assert_int_equal(histogram_quantile_ns(&h, fractions[i]), 0);
}

/* Hours and more share the last bucket. */
static void huge_values_stay_in_bounds(void **state)
{
	static const uint64_t huge[] = { 1ull << 43, 1ull << 50, 1ull << 63, UINT64_MAX };
	struct histogram h = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(huge); i++)
		histogram_add(&h, huge[i]);
	assert_int_equal(h.count, ARRAY_SIZE(huge));
	assert_int_equal(h.max_ns, UINT64_MAX);
	assert_true(histogram_quantile_ns(&h, 0.5) >= 1ull << 42);
}

static void quantiles_never_fall(void **state)
{
	struct histogram h = { 0 };
	uint64_t seed = 5, last = 0;

	(void)state;
	for (int i = 0; i < 1000; i++)
		histogram_add(&h, rnd(&seed) >> rnd_below(&seed, 64));
	for (int i = 0; i <= 1000; i++) {
		uint64_t q = histogram_quantile_ns(&h, i / 1000.0);

		assert_true(q >= last && q <= h.max_ns);
		last = q;
	}
}

static struct histogram shared;

static void *add_many(void *arg)
{
	uint64_t from = (uint64_t)(uintptr_t)arg * NVALUES;

	for (uint64_t i = 0; i < NVALUES; i++)
		histogram_add(&shared, from + i);
	return NULL;
}

static void threads_lose_nothing(void **state)
{
	uint64_t n = NTHREADS * NVALUES;
	pthread_t thread[NTHREADS];

	(void)state;
	for (uintptr_t i = 0; i < NTHREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, add_many, (void *)i), 0);
	for (int i = 0; i < NTHREADS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(shared.count, n);
	assert_int_equal(shared.sum_ns, n * (n - 1) / 2);
	assert_int_equal(shared.max_ns, n - 1);
	assert_close(histogram_quantile_ns(&shared, 0.5), n / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantiles_are_exact_to_an_eighth),
		cmocka_unit_test(one_value_alone_comes_back),
		cmocka_unit_test(small_values_are_exact),
		cmocka_unit_test(an_empty_one_says_zero),
		cmocka_unit_test(huge_values_stay_in_bounds),
		cmocka_unit_test(quantiles_never_fall),
		cmocka_unit_test(threads_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
