/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "migrate/converge.h"
#include "util/util.h"

/* With order.c, and over guests that write: test_policy.c. */

enum { PAGE = 4096, OTHER_MS = 10 };

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

/* A link of 1 MB/ms: a pass over n MB takes n ms. */
static void another_pass_is_expected_to_go_like_the_last(void **state)
{
	const struct converge_options o = { MODE_HYBRID, 1, 0 };
	const uint64_t mb = 1000000;
	struct converge c;

	(void)state;
	converge_init(&c, &o, 1e9, OTHER_MS * NS_PER_MS);
	assert_int_equal(converge_expect(&c, GIB), 0); /* nobody has looked */
	converge_look(&c, 100 * NS_PER_MS, 30 * mb);
	converge_look(&c, 300 * NS_PER_MS, 50 * mb);
	assert_int_equal(converge_expect(&c, 0), 0);
	assert_int_equal(converge_expect(&c, 50 * mb), 15 * mb);
	assert_int_equal(converge_expect(&c, 100 * mb), 30 * mb);
	assert_int_equal(converge_expect(&c, 200 * mb), 40 * mb);
	assert_int_equal(converge_expect(&c, 900 * mb), 50 * mb);
	converge_begin(&c);
	assert_int_equal(converge_expect(&c, 900 * mb), 0);
}

static void many_looks_tell_as_much(void **state)
{
	const struct converge_options o = { MODE_HYBRID, 1, 0 };
	struct converge c;

	(void)state;
	converge_init(&c, &o, 1e9, 0);
	for (uint64_t i = 1; i <= 10000; i++)
		converge_look(&c, i * NS_PER_MS, i * 1000);
	for (uint64_t mb = 1; mb < 9000; mb += 100)
		assert_in_range(converge_expect(&c, mb * 1000000), mb * 1000 - 1, mb * 1000 + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_dirty_is_the_end),
		cmocka_unit_test(postcopy_makes_no_pass),
		cmocka_unit_test(another_pass_is_expected_to_go_like_the_last),
		cmocka_unit_test(many_looks_tell_as_much),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
