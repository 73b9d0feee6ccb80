/* SPDX-License-Identifier: MIT */
/* What it plans; what that is good for is played below: a guest walks through memory that is
 * elsewhere, on a clock of its own.
 */
#include "unit.h"

#include "migrate/order.h"
#include "migrate/window.h"
#include "util/util.h"

static const struct window_options adapts = { 0 };

static struct window plan(struct windows *ws, uint64_t region_pages, uint64_t pg)
{
	struct window w;

	window_plan(ws, 0, region_pages, pg, 1, &w);
	return w;
}

static void a_walk_up_sees_ever_more_ahead(void **state)
{
	struct windows ws;
	struct window w;
	uint64_t pg = 1000, was = 0;

	(void)state;
	windows_init(&ws, &adapts);
	for (int i = 0; i < 20; i++) {
		w = plan(&ws, 1 << 20, pg);
		assert_true(w.end_pg - w.first_pg >= was || !i);
		assert_true(w.first_pg <= pg && w.end_pg > pg);
		was = w.end_pg - w.first_pg;
		pg = w.end_pg;
	}
	assert_int_equal(was, WINDOW_PAGES_MAX);
}

static void a_walk_down_too(void **state)
{
	struct windows ws;
	struct window w;
	uint64_t pg = 1 << 19, low = 0;

	(void)state;
	windows_init(&ws, &adapts);
	for (int i = 0; i < 10; i++) {
		w = plan(&ws, 1 << 20, pg);
		if (!i) {
			pg = w.first_pg - 1;
			continue;
		}
		assert_int_equal(w.step_pages, -WINDOW_PIECE_PAGES);
		assert_int_equal(w.end_pg, pg + 1);
		low = pg + 1 - w.npieces * WINDOW_PIECE_PAGES;
		pg = low - 1;
	}
	assert_int_equal(w.npieces, WINDOW_PAGES_MAX / WINDOW_PIECE_PAGES);
}

static void strides_are_foreseen(void **state)
{
	static const int64_t steps[] = { 1000, -777, 512, 4096 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		int64_t pg = 1 << 19;
		struct windows ws;
		struct window w;

		windows_init(&ws, &adapts);
		plan(&ws, 1 << 20, (uint64_t)pg);
		plan(&ws, 1 << 20, (uint64_t)(pg += steps[i]));
		w = plan(&ws, 1 << 20, (uint64_t)(pg += steps[i]));
		assert_int_equal(w.step_pages, steps[i]);
		assert_int_equal(w.first_pg, pg + steps[i]);
		assert_int_equal(w.piece_pages, 1);
		assert_int_equal(w.npieces, 8);
		pg += steps[i] * 9;
		w = plan(&ws, 1 << 20, (uint64_t)pg);
		assert_int_equal(w.first_pg, pg + steps[i]);
		assert_int_equal(w.npieces, 16);
		assert_int_equal(w.piece_pages, 1);
	}
}

/* Whatever is asked for: no piece reaches out of its region, and it is in the first one or near. */
static void no_plan_leaves_its_region(void **state)
{
	uint64_t seed = 7;
	struct windows ws;

	(void)state;
	windows_init(&ws, &adapts);
	for (int i = 0; i < 200000; i++) {
		uint64_t region_pages = i % 3 ? 3000 : 65, pg, n;
		struct window w;

		pg = i % 7 ? rnd_below(&seed, region_pages) : (uint64_t)i * 500 % region_pages;
		n = 1 + rnd_below(&seed, min_u64(64, region_pages - pg));
		window_plan(&ws, i % 3 != 0, region_pages, pg, (uint32_t)n, &w);
		assert_true(w.piece_pages >= 1 && w.piece_pages <= 64 && w.end_pg <= region_pages);
		while (window_next(&w, &pg, &n))
			assert_true(n >= 1 && n <= 64 && pg + n <= region_pages);
	}
}

/* --- played --- */

enum {
	NPAGES = 128 * 1024,
	RTT_NS = 60000,
	PAGE_NS = 3500,	 /* of the link: some 1.2 GB/s */
	WORK_NS = 10000, /* of the guest, on each page */
	NOT_SENT = 0,
	OWED_MAX = 64,
};

struct walk {
	uint64_t at_ns, link_ns; /* the guest's clock; until when the link is busy */
	struct order order;
	struct windows windows;
	struct window owed[OWED_MAX];
	unsigned int nowed;
	uint64_t here_ns[NPAGES]; /* when it has arrived */
	uint64_t faults, waited_ns;
	bool background;
};

static void send_run(struct walk *w, const struct order_run *run)
{
	for (uint64_t mask = run->mask; mask; mask &= mask - 1) {
		w->link_ns += PAGE_NS;
		w->here_ns[run->first_pg + (uint64_t)__builtin_ctzll(mask)] =
			w->link_ns + RTT_NS / 2;
	}
}

/* What the source does until then if nobody asks for anything. */
static void send_until(struct walk *w, uint64_t ns)
{
	struct order_run run;

	while (w->link_ns < ns) {
		if (w->nowed && order_window(&w->order, &w->owed[w->nowed - 1], &run))
			send_run(w, &run);
		else if (w->nowed)
			w->nowed--;
		else if (w->background && order_background(&w->order, &run))
			send_run(w, &run);
		else
			w->link_ns = ns;
	}
}

static void touch(struct walk *w, uint64_t pg)
{
	struct order_run run;

	w->at_ns += WORK_NS;
	send_until(w, w->at_ns);
	if (w->here_ns[pg] != NOT_SENT && w->here_ns[pg] <= w->at_ns)
		return;
	w->faults++;
	send_until(w, w->at_ns + RTT_NS / 2);
	order_request(&w->order, 0, pg, 1, &run);
	send_run(w, &run);
	if (w->nowed == OWED_MAX)
		memmove(w->owed, w->owed + 1, sizeof(w->owed) - sizeof(w->owed[0])), w->nowed--;
	window_plan(&w->windows, 0, NPAGES, pg, 1, &w->owed[w->nowed++]);
	w->waited_ns += w->here_ns[pg] - w->at_ns;
	w->at_ns = w->here_ns[pg];
}

/* The n-th page that a guest touches. */
typedef uint64_t path(uint64_t n, uint64_t *seed);

static uint64_t up(uint64_t n, uint64_t *seed)
{
	(void)seed;
	return 5000 + n;
}

static uint64_t down(uint64_t n, uint64_t *seed)
{
	(void)seed;
	return NPAGES - 5000 - n;
}

/* Columns of a matrix with rows of 1.3 MiB. */
static uint64_t stride(uint64_t n, uint64_t *seed)
{
	(void)seed;
	return n % 380 * 333 + n / 380;
}

static uint64_t at_random(uint64_t n, uint64_t *seed)
{
	(void)n;
	return rnd_below(seed, NPAGES);
}

/* Two go up and one goes anywhere. */
static uint64_t mixed(uint64_t n, uint64_t *seed)
{
	if (n % 3 == 2)
		return rnd_below(seed, NPAGES);
	return n % 3 * (NPAGES / 2) + n / 3;
}

static struct walk go(path *p, const struct window_options *options, bool background)
{
	static struct walk w;
	const uint64_t npages = NPAGES;
	const struct order_options o = { .window = *options };
	uint64_t seed = 11;

	memset(&w, 0, sizeof(w));
	w.background = background;
	assert_int_equal(order_init(&w.order, 1, &npages, &o), 0);
	windows_init(&w.windows, options);
	order_add(&w.order, 0, 0, NPAGES);
	for (uint64_t n = 0; n < 12000; n++)
		touch(&w, p(n, &seed));
	order_fini(&w.order);
	return w;
}

/* Against the 64 pages around, whoever asks. */
static void check_waits(const char *what, path *p, double most, double most_faults)
{
	static const struct window_options always = { true, 31, 32 };

	for (int background = 0; background < 2; background++) {
		struct walk plain = go(p, &always, background), w = go(p, &adapts, background);

		print_message(
			"%s%s: %llu faults, %.1f ms waited; with 64 pages always: %llu, %.1f\n",
			what, background ? ", background" : "", (unsigned long long)w.faults,
			(double)w.waited_ns / 1e6, (unsigned long long)plain.faults,
			(double)plain.waited_ns / 1e6);
		assert_true((double)w.waited_ns <= most * (double)plain.waited_ns);
		if (!background) /* which leaves few */
			assert_true((double)w.faults <= most_faults * (double)plain.faults);
	}
}

static void who_walks_waits_less(void **state)
{
	(void)state;
	check_waits("up", up, 0.2, 0.2);
	check_waits("down", down, 0.2, 0.2);
	check_waits("stride", stride, 0.8, 1.0);
	check_waits("mixed", mixed, 1.1, 1.0);
	check_waits("random", at_random, 1.05, 1.05);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_walk_up_sees_ever_more_ahead),
		cmocka_unit_test(a_walk_down_too),
		cmocka_unit_test(strides_are_foreseen),
		cmocka_unit_test(no_plan_leaves_its_region),
		cmocka_unit_test(who_walks_waits_less),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
