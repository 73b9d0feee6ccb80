/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "migrate/converge.h"
#include "util/util.h"

enum { PAGE = 4096, OTHER_MS = 10 };

struct guest {
	uint64_t populated_bytes;
	uint64_t hot_bytes;	 /* written over and over */
	double cold_bytes_per_s; /* beside these, somewhere */
};

/* What is dirty behind a pass of took_ns that sent everything. */
static uint64_t dirtied(const struct guest *g, uint64_t took_ns)
{
	double cold = g->cold_bytes_per_s * (double)took_ns / NS_PER_S;

	return min_u64(g->populated_bytes, g->hot_bytes + (uint64_t)cold);
}

struct outcome {
	enum converge_what what;
	unsigned int npasses;
	uint64_t left_bytes, sent_bytes, took_ns;
};

static struct outcome simulate(const struct guest *g, const struct converge_options *o, double link)
{
	struct outcome out = { .left_bytes = g->populated_bytes };
	struct converge c;

	converge_init(&c, o, 10 * link, OTHER_MS * NS_PER_MS); /* the first try is far off */
	while (out.npasses < 1000) {
		uint64_t took_ns = (uint64_t)((double)out.left_bytes * NS_PER_S / link);

		out.what = converge_next(&c, out.left_bytes, out.took_ns);
		if (out.what != CONVERGE_PASS)
			return out;
		converge_passed(&c, out.left_bytes, out.left_bytes, took_ns);
		out.sent_bytes += out.left_bytes;
		out.took_ns += took_ns;
		out.npasses++;
		out.left_bytes = dirtied(g, took_ns);
	}
	fail_msg("it makes passes for ever");
	return out;
}

static const struct converge_options hybrid = { MODE_HYBRID, 100 * NS_PER_MS, 0 };
static const struct converge_options precopy = { MODE_PRECOPY, 100 * NS_PER_MS, 0 };

static void an_idle_guest_is_copied_once(void **state)
{
	const struct guest idle = { 8 * GIB, 0, 64.0 * PAGE };
	const struct converge_options *modes[] = { &hybrid, &precopy };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct outcome o = simulate(&idle, modes[i], 1e9);

		assert_int_equal(o.what, CONVERGE_FINISH);
		assert_int_equal(o.npasses, 1);
		assert_true((double)o.left_bytes <= 100e6); /* what the limit has room for */
	}
}

static void a_busy_guest_converges(void **state)
{
	const struct guest busy = { 8 * GIB, 20 * MIB, 300e6 };
	struct outcome o = simulate(&busy, &hybrid, 1e9);

	(void)state;
	assert_int_equal(o.what, CONVERGE_FINISH);
	assert_in_range(o.npasses, 2, 6);
	assert_true(o.sent_bytes < 2 * busy.populated_bytes);
}

/* Hardly more goes over the link than all of it once and its hot set once more. */
static void what_cannot_converge_switches(void **state)
{
	const struct guest cases[] = { { 4 * GIB, 4 * GIB, 0 },
				       { 4 * GIB, GIB, 0 },
				       { 4 * GIB, 512 * MIB, 100e6 },
				       { 4 * GIB, 128 * MIB, 10e6 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct outcome o = simulate(&cases[i], &hybrid, 1e9);

		assert_int_equal(o.what, CONVERGE_SWITCH);
		assert_in_range(o.npasses, 1, 2);
		assert_true((double)(o.sent_bytes + o.left_bytes) <=
			    1.25 * (double)(cases[i].populated_bytes + cases[i].hot_bytes));
	}
}

static void precopy_gives_up_at_its_timeout(void **state)
{
	const struct guest wild = { GIB, GIB, 0 };
	struct converge_options o = precopy;
	struct outcome out;

	(void)state;
	o.timeout_ns = 20 * NS_PER_S;
	out = simulate(&wild, &o, 1e9);
	assert_int_equal(out.what, CONVERGE_GIVE_UP);
	assert_true(out.took_ns >= o.timeout_ns && out.took_ns < o.timeout_ns + 2 * NS_PER_S);
	o.mode = MODE_HYBRID; /* which never stays for want of time */
	o.timeout_ns = 1;
	assert_int_equal(simulate(&wild, &o, 1e9).what, CONVERGE_SWITCH);
}

static void the_limit_is_kept(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 2000; i++) {
		const struct guest g = { MIB + rnd_below(&seed, 16 * GIB),
					 rnd_below(&seed, 64 * MIB),
					 (double)rnd_below(&seed, 900000000) };
		struct converge_options o = { MODE_HYBRID,
					      (15 + rnd_below(&seed, 1000)) * NS_PER_MS, 0 };
		double link = 10e6 + (double)rnd_below(&seed, 2000000000);
		struct outcome out = simulate(&g, &o, link);

		if (out.what == CONVERGE_FINISH && out.npasses)
			assert_true((double)out.left_bytes / link * 1e9 + OTHER_MS * 1e6 <=
				    (double)o.downtime_limit_ns * 1.001);
	}
}

static void nothing_dirty_is_the_end(void **state)
{
	const struct converge_options o = { MODE_PRECOPY, 1, 0 };
	struct converge c;

	(void)state;
	converge_init(&c, &o, 0, OTHER_MS * NS_PER_MS);
	assert_int_equal(converge_next(&c, 0, 0), CONVERGE_FINISH);
	assert_int_equal(converge_next(&c, GIB, 0), CONVERGE_PASS);
	assert_true(converge_downtime_ns(&c, 1) == UINT64_MAX); /* a link that takes nothing */
}

static void postcopy_makes_no_pass(void **state)
{
	const struct converge_options o = { MODE_POSTCOPY, NS_PER_S, 0 };
	struct converge c;

	(void)state;
	converge_init(&c, &o, 1e9, 0);
	assert_int_equal(converge_next(&c, PAGE, 0), CONVERGE_SWITCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_idle_guest_is_copied_once),
		cmocka_unit_test(a_busy_guest_converges),
		cmocka_unit_test(what_cannot_converge_switches),
		cmocka_unit_test(precopy_gives_up_at_its_timeout),
		cmocka_unit_test(the_limit_is_kept),
		cmocka_unit_test(nothing_dirty_is_the_end),
		cmocka_unit_test(postcopy_makes_no_pass),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
