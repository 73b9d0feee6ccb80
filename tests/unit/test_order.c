/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <pthread.h>

#include "migrate/order.h"
#include "util/mask.h"
#include "util/clock.h"
#include "util/util.h"

static const struct order_options plain = { 0 };

/* One region of npages, all of it unsent. */
static void init_full(struct order *o, uint64_t npages, const struct order_options *options)
{
	assert_int_equal(order_init(o, 1, &npages, options), 0);
	order_add(o, 0, 0, npages);
}

/* Two regions, all of them unsent. */
static void init_two(struct order *o, uint64_t npages0, uint64_t npages1)
{
	const uint64_t npages[] = { npages0, npages1 };

	assert_int_equal(order_init(o, 2, npages, &plain), 0);
	order_add(o, 0, 0, npages0);
	order_add(o, 1, 0, npages1);
}

static uint64_t bits(uint64_t mask)
{
	return (uint64_t)__builtin_popcountll(mask);
}

static void background_gives_each_page_once(void **state)
{
	static const uint64_t sizes[] = { 1, 2, 63, 64, 65, 127, 128, 129, 1000, 4096, 4097 };

	(void)state;
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		uint64_t n = sizes[s], next = 0;
		struct order_run run;
		struct order o;

		init_full(&o, n, &plain);
		assert_int_equal(o.left_pages, n);
		while (order_background(&o, &run)) {
			uint64_t len = min_u64(64, n - next);

			assert_int_equal(run.region, 0);
			assert_int_equal(run.first_pg, next);
			assert_int_equal(run.mask, len == 64 ? ~0ull : (1ull << len) - 1);
			next += len;
			assert_int_equal(o.left_pages, n - next);
		}
		assert_int_equal(next, n);
		assert_int_equal(o.left_pages, 0);
		order_fini(&o);
	}
}

static void background_goes_through_all_regions(void **state)
{
	static const uint64_t npages[] = { 100, 1, 64, 333 };
	unsigned int seen[4] = { 0 };
	struct order_run run;
	struct order o;

	(void)state;
	assert_int_equal(order_init(&o, 4, npages, &plain), 0);
	assert_false(order_background(&o, &run)); /* nothing is there yet */
	order_add(&o, 3, 332, 1);
	order_add(&o, 0, 99, 1);
	order_add(&o, 1, 0, 1);
	order_add(&o, 2, 0, 64);
	while (order_background(&o, &run)) {
		assert_true(run.mask && run.region < 4);
		assert_true(run.first_pg + 63 - (uint64_t)__builtin_clzll(run.mask) <
			    npages[run.region]);
		seen[run.region] += (unsigned int)bits(run.mask);
	}
	assert_int_equal(seen[0], 1);
	assert_int_equal(seen[1], 1);
	assert_int_equal(seen[2], 64);
	assert_int_equal(seen[3], 1);
	assert_int_equal(o.left_pages, 0);
	order_fini(&o);
}

/* 1 TiB that is nearly empty. */
static void sparse_pages_are_found_quickly(void **state)
{
	enum { NSET = 3000 };
	uint64_t npages[2] = { TIB / 4096, TIB / 4096 }, seed = 1, begin, found = 0;
	struct order_run run;
	struct order o;

	(void)state;
	assert_int_equal(order_init(&o, 2, npages, &plain), 0);
	for (uint64_t i = 0; i < NSET; i++) /* extents never overlap */
		order_add(&o, i % 2, i * (npages[0] / NSET) + rnd_below(&seed, 1000), 1);
	order_add(&o, 0, npages[0] - 1, 1);
	assert_int_equal(o.left_pages, NSET + 1);
	begin = clock_ns();
	while (order_background(&o, &run))
		found += bits(run.mask);
	assert_true(clock_ns() - begin < NS_PER_S);
	assert_int_equal(found, NSET + 1);
	assert_int_equal(o.left_pages, 0);
	order_fini(&o);
}

static void a_request_takes_what_is_unsent(void **state)
{
	struct order_run run;
	struct order o;

	(void)state;
	init_full(&o, 200, &plain);
	order_request(&o, 0, 10, 5, &run);
	assert_int_equal(run.region, 0);
	assert_int_equal(run.first_pg, 10);
	assert_int_equal(run.mask, 0x1f);
	order_request(&o, 0, 8, 10, &run); /* 8..17 without 10..14 */
	assert_int_equal(run.mask, 0x383);
	order_request(&o, 0, 8, 10, &run);
	assert_int_equal(run.mask, 0);
	order_request(&o, 0, 150, 64, &run); /* over the end */
	assert_int_equal(run.mask, (1ull << 50) - 1);
	order_request(&o, 0, 199, 64, &run);
	assert_int_equal(run.mask, 0);
	assert_int_equal(o.left_pages, 200 - 10 - 50);
	order_fini(&o);
}

static void a_request_overtakes_the_background_once(void **state)
{
	struct order_run run;
	struct order o;

	(void)state;
	init_full(&o, 128, &plain);
	assert_true(order_background(&o, &run)); /* 0..63 went where they may queue */
	order_request(&o, 0, 60, 8, &run);
	assert_int_equal(run.mask, 0xff); /* 60..63 again, 64..67 for the first time */
	order_request(&o, 0, 60, 8, &run);
	assert_int_equal(run.mask, 0);
	assert_int_equal(o.left_pages, 60);
	order_fini(&o);
}

/* Asks for [pg, pg+n) and expects the window to hold exactly [from, end) but that. */
static void check_window(struct order *o, uint64_t pg, uint32_t n, uint64_t from, uint64_t end)
{
	uint64_t last_end = 0, npages = o->npages[0];
	bool *seen = calloc(npages + 64, sizeof(*seen));
	struct windows ws;
	struct order_run run;
	struct window w;

	windows_init(&ws, &o->options.window);
	order_request(o, 0, pg, n, &run);
	window_plan(&ws, 0, npages, pg, n, &w);
	while (order_window(o, &w, &run)) {
		assert_int_equal(run.region, 0);
		assert_true(run.mask != 0 && run.first_pg >= last_end);
		last_end = w.first_pg;
		for (; run.mask; run.mask &= run.mask - 1) {
			uint64_t at = run.first_pg + (uint64_t)__builtin_ctzll(run.mask);

			assert_true(at >= from && at < end && !seen[at]);
			assert_true(at < pg || at >= pg + n);
			seen[at] = true;
		}
	}
	for (uint64_t at = from; at < end; at++)
		assert_int_equal(seen[at], at < pg || at >= pg + n);
	assert_false(order_window(o, &w, &run)); /* and no more */
	window_plan(&ws, 0, npages, pg, n, &w);
	assert_false(o->options.window.fixed && order_window(o, &w, &run)); /* all is sent */
	free(seen);
}

static void a_fixed_window_is_exact(void **state)
{
	uint64_t seed = 2;

	(void)state;
	for (int i = 0; i < 3000; i++) {
		struct order_options options = {
			.window = { .fixed = true,
				    .forward_pages = (uint32_t)rnd_below(&seed, i % 2 ? 5 : 300),
				    .backward_pages = (uint32_t)rnd_below(&seed, i % 3 ? 5 : 300) },
		};
		uint64_t npages = 1 + rnd_below(&seed, 1000), pg = rnd_below(&seed, npages);
		uint32_t n = 1 + (uint32_t)rnd_below(&seed, min_u64(64, npages - pg));
		struct order o;

		init_full(&o, npages, &options);
		check_window(&o, pg, n, pg - min_u64(pg, options.window.backward_pages),
			     min_u64(npages, pg + n + options.window.forward_pages));
		order_fini(&o);
	}
}

static void the_first_window_is_the_aligned_64_pages(void **state)
{
	uint64_t seed = 3;

	(void)state;
	for (int i = 0; i < 2000; i++) {
		uint64_t npages = 1 + rnd_below(&seed, 500), pg = rnd_below(&seed, npages);
		uint32_t n = 1 + (uint32_t)rnd_below(&seed, min_u64(64, npages - pg));
		struct order o;

		init_full(&o, npages, &plain);
		check_window(&o, pg, n, pg / 64 * 64, min_u64(npages, (pg + n + 63) / 64 * 64));
		order_fini(&o);
	}
}

static void the_largest_windows_hold_all_of_a_region(void **state)
{
	const struct order_options options = { .window = { true, UINT32_MAX, UINT32_MAX } };
	struct order o;

	(void)state;
	init_full(&o, 1000, &options);
	check_window(&o, 500, 1, 0, 1000);
	assert_int_equal(o.left_pages, 0);
	order_fini(&o);
}

static void a_window_of_nothing_is_empty(void **state)
{
	const struct order_options options = { .window = { .fixed = true } };
	struct order o;

	(void)state;
	init_full(&o, 1000, &options);
	check_window(&o, 500, 7, 500, 507);
	assert_int_equal(o.left_pages, 993);
	order_fini(&o);
}

static void a_request_moves_the_background_if_told(void **state)
{
	for (int move = 0; move < 2; move++) {
		const struct order_options options = { .move_background = move };
		struct order_run run;
		struct order o;
		uint64_t n = 0;

		(void)state;
		init_full(&o, 10000, &options);
		assert_true(order_background(&o, &run));
		assert_int_equal(run.first_pg, 0);
		order_request(&o, 0, 5000, 3, &run);
		assert_true(order_background(&o, &run));
		assert_int_equal(run.first_pg, move ? 5003 : 64);
		assert_true(order_background(&o, &run));
		assert_int_equal(run.first_pg, move ? 5067 : 128);
		while (order_background(&o, &run)) /* around, and all of it */
			n += bits(run.mask);
		assert_int_equal(n, 10000 - 3 * 64 - 3);
		assert_int_equal(o.left_pages, 0);
		order_fini(&o);
	}
}

static void the_background_moves_to_another_region(void **state)
{
	const struct order_options options = { .move_background = true };
	static const uint64_t npages[] = { 500, 500, 500 };
	struct order_run run;
	struct order o;

	(void)state;
	assert_int_equal(order_init(&o, 3, npages, &options), 0);
	for (uint32_t r = 0; r < 3; r++)
		order_add(&o, r, 0, 500);
	order_request(&o, 2, 499, 1, &run); /* behind it is nothing: around to region 0 */
	assert_true(order_background(&o, &run));
	assert_int_equal(run.region, 0);
	assert_int_equal(run.first_pg, 0);
	order_request(&o, 1, 100, 1, &run);
	assert_true(order_background(&o, &run));
	assert_int_equal(run.region, 1);
	assert_int_equal(run.first_pg, 101);
	order_fini(&o);
}

/* Pages before the cursor of the only region are found when it goes around. */
static void the_cursor_goes_around_in_one_region(void **state)
{
	const struct order_options options = { .move_background = true };
	uint64_t npages = 1000;
	struct order_run run;
	struct order o;

	(void)state;
	assert_int_equal(order_init(&o, 1, &npages, &options), 0);
	order_add(&o, 0, 3, 1);
	order_request(&o, 0, 999, 1, &run);
	assert_int_equal(run.mask, 0);
	assert_true(order_background(&o, &run));
	assert_int_equal(run.first_pg, 3);
	assert_int_equal(run.mask, 1);
	assert_false(order_background(&o, &run));
	order_fini(&o);
}

static void hot_pages_are_left_in_a_cold_turn(void **state)
{
	struct order_run run;
	struct order o;
	uint64_t n = 0;

	(void)state;
	init_two(&o, 1000, 70);
	order_heat(&o, 0, 0, 65);
	order_heat(&o, 0, 999, 1);
	order_heat(&o, 1, 3, 2);
	order_set_turn(&o, ORDER_COLD);
	while (order_background(&o, &run)) {
		n += bits(run.mask);
		assert_int_equal(bitmap_get(&o.hot[run.region], run.first_pg, run.mask), 0);
		if (n == 64) /* one that was still to come */
			order_heat(&o, 0, 500, 1);
	}
	assert_int_equal(n, 1070 - 69);
	assert_int_equal(o.left_pages, 69);
	order_request(&o, 0, 999, 1, &run); /* who asks gets it */
	assert_int_equal(run.mask, 1);
	order_cool(&o);
	while (order_background(&o, &run))
		n += bits(run.mask);
	assert_int_equal(n, 1070 - 1);
	order_fini(&o);
}

static void hot_pages_come_first_in_their_turn(void **state)
{
	struct order_run run;
	struct order o;
	uint64_t n = 0;

	(void)state;
	init_two(&o, 1000, 200);
	assert_true(order_background(&o, &run)); /* the cursor is somewhere */
	order_heat(&o, 0, 0, 3);		 /* sent already */
	order_heat(&o, 0, 700, 5);
	order_heat(&o, 1, 190, 10);
	order_set_turn(&o, ORDER_HOT_FIRST);
	assert_true(order_background(&o, &run));
	assert_true(run.region == 0 && run.first_pg == 700 && run.mask == 0x1f);
	assert_true(order_background(&o, &run));
	assert_true(run.region == 1 && run.first_pg == 190 && run.mask == 0x3ff);
	while (order_background(&o, &run))
		n += bits(run.mask);
	assert_int_equal(n, 1200 - 64 - 15);
	assert_int_equal(o.left_pages, 0);
	order_fini(&o);
}

static void cuts_runs_off_a_mask(void **state)
{
	uint64_t seed = 4;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint64_t mask = rnd(&seed) & (i % 2 ? rnd(&seed) : ~0ull), rest, built = 0;
		unsigned int at, len, end = 0;

		if (i < 65)
			mask = i == 64 ? ~0ull : ~((1ull << i) - 1);
		rest = mask;
		while (mask_cut(&rest, &at, &len)) {
			uint64_t run = (len == 64 ? ~0ull : (1ull << len) - 1) << at;

			assert_true(len >= 1 && at + len <= 64 && (at > end || !built));
			assert_int_equal(built & run, 0);
			built |= run;
			end = at + len;
			assert_int_equal(rest, mask & ~built);
		}
		assert_int_equal(built, mask);
		assert_int_equal(rest, 0);
	}
}

enum { RACE_PAGES = 64 * 1024 - 13 };
static _Atomic unsigned char by_background[RACE_PAGES], by_request[RACE_PAGES],
	by_window[RACE_PAGES];
static struct order raced;

static void count(_Atomic unsigned char *by, const struct order_run *run)
{
	for (uint64_t mask = run->mask; mask; mask &= mask - 1) {
		uint64_t pg = run->first_pg + (uint64_t)__builtin_ctzll(mask);

		if (pg >= RACE_PAGES)
			abort();
		atomic_fetch_add(&by[pg], 1);
	}
}

static void *race_background(void *arg)
{
	struct order_run run;

	(void)arg;
	while (order_background(&raced, &run))
		count(by_background, &run);
	return NULL;
}

static void *race_requests(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	struct order_run run;
	struct windows ws;
	struct window w;

	windows_init(&ws, &raced.options.window);
	while (atomic_load(&raced.left_pages)) {
		uint64_t pg = rnd_below(&seed, RACE_PAGES);
		uint32_t n = 1 + (uint32_t)rnd_below(&seed, min_u64(64, RACE_PAGES - pg));

		order_request(&raced, 0, pg, n, &run);
		count(by_request, &run);
		window_plan(&ws, 0, RACE_PAGES, pg, n, &w);
		while (order_window(&raced, &w, &run))
			count(by_window, &run);
	}
	return NULL;
}

static void race(const struct order_options *options)
{
	pthread_t thread[4];

	memset((void *)by_background, 0, sizeof(by_background));
	memset((void *)by_request, 0, sizeof(by_request));
	memset((void *)by_window, 0, sizeof(by_window));
	init_full(&raced, RACE_PAGES, options);
	for (uintptr_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL,
						i < 2 ? race_background : race_requests,
						(void *)(i + 1)),
				 0);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	for (int pg = 0; pg < RACE_PAGES; pg++) {
		/* Unsent goes to one; only the background's may be asked for once more. */
		assert_true(by_background[pg] + by_window[pg] <= 1);
		assert_true(by_request[pg] + by_window[pg] <= 1);
		assert_true(by_background[pg] + by_window[pg] + by_request[pg] >= 1);
	}
	assert_int_equal(raced.left_pages, 0);
	assert_int_equal(bitmap_count(&raced.unsent[0]), 0);
	order_fini(&raced);
}

static void racing_threads_get_each_page_once(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++)
		race(&(struct order_options){ .move_background = i & 1,
					      .window = { i & 2, 9, 3 } });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(background_gives_each_page_once),
		cmocka_unit_test(background_goes_through_all_regions),
		cmocka_unit_test(sparse_pages_are_found_quickly),
		cmocka_unit_test(a_request_takes_what_is_unsent),
		cmocka_unit_test(a_request_overtakes_the_background_once),
		cmocka_unit_test(a_fixed_window_is_exact),
		cmocka_unit_test(the_first_window_is_the_aligned_64_pages),
		cmocka_unit_test(the_largest_windows_hold_all_of_a_region),
		cmocka_unit_test(a_window_of_nothing_is_empty),
		cmocka_unit_test(a_request_moves_the_background_if_told),
		cmocka_unit_test(the_background_moves_to_another_region),
		cmocka_unit_test(the_cursor_goes_around_in_one_region),
		cmocka_unit_test(hot_pages_are_left_in_a_cold_turn),
		cmocka_unit_test(hot_pages_come_first_in_their_turn),
		cmocka_unit_test(cuts_runs_off_a_mask),
		cmocka_unit_test(racing_threads_get_each_page_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
