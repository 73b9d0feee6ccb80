/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <errno.h>
#include <stdbool.h>

#include "util/size.h"
#include "util/util.h"

static const struct {
	const char *text;
	uint64_t bytes;
} good[] = {
	{ "0", 0 },
	{ "1", 1 },
	{ "007", 7 },
	{ "4096", 4096 },
	{ "1K", KIB },
	{ "1k", KIB },
	{ "64M", 64 * MIB },
	{ "64m", 64 * MIB },
	{ "64MB", 64 * MIB },
	{ "64mb", 64 * MIB },
	{ "2G", 2 * GIB },
	{ "1T", TIB },
	{ "1tB", TIB },
	{ "18446744073709551615", UINT64_MAX },
	{ "18014398509481983K", 18014398509481983 * KIB },
	{ "16777215T", 16777215 * TIB },
};

static const char *const wrong[] = {
	"",
	" ",
	"K",
	"G1",
	"-1",
	"+1",
	" 1",
	"0x10",
	"1.5G",
	"1KK",
	"1KBB",
	"1BK",
	"1P",
	"1E",
	"1Ki",
	"1KiB",
	"64M,",
	"64M ",
	"\t1",
	"1\n",
	"1+",
	"1@",
	"1\x8b",
	"18446744073709551616",
	"99999999999999999999999999",
	"18014398509481984K",
	"16777216T",
	"18446744073709551615T",
};

static void reads_sizes(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		uint64_t bytes = 99;

		assert_int_equal(size_parse(good[i].text, &bytes, NULL), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
}

static void refuses_what_is_no_size(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		uint64_t bytes = 99;

		if (size_parse(wrong[i], &bytes, NULL) != -EINVAL)
			fail_msg("'%s' was taken for %llu", wrong[i], (unsigned long long)bytes);
		assert_int_equal(bytes, 99);
	}
}

/* A space is '\0' with the bit that small letters have. */
static void a_space_is_no_unit(void **state)
{
	uint64_t bytes = 99;
	const char *end, *text = "4 K";

	(void)state;
	assert_int_equal(size_parse("4 ", &bytes, NULL), -EINVAL);
	assert_int_equal(bytes, 99);
	assert_int_equal(size_parse(text, &bytes, &end), 0);
	assert_int_equal(bytes, 4);
	assert_ptr_equal(end, text + 1);
}

/* Only digits may stand before the unit, and only 'b' behind it, whatever the byte. */
static void no_other_byte_is_a_unit(void **state)
{
	(void)state;
	for (int c = 1; c < 256; c++) {
		char text[] = { '4', (char)c, '\0' };
		bool ok = (c >= '0' && c <= '9') || strchr("kmgtKMGT", c);
		uint64_t bytes;

		if (c != ' ') /* has its own test */
			assert_int_equal(size_parse(text, &bytes, NULL), ok ? 0 : -EINVAL);
	}
}

static void says_where_it_ends(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
		size_t len;
	} cases[] = {
		{ "64M:4096", 64 * MIB, 3 },
		{ "64MB:4096", 64 * MIB, 4 },
		{ "7", 7, 1 },
		{ "7,5", 7, 1 },
		{ "2Gx", 2 * GIB, 2 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *end = NULL;
		uint64_t bytes = 0;

		assert_int_equal(size_parse(cases[i].text, &bytes, &end), 0);
		assert_int_equal(bytes, cases[i].bytes);
		assert_ptr_equal(end, cases[i].text + cases[i].len);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_sizes),	      cmocka_unit_test(refuses_what_is_no_size),
		cmocka_unit_test(a_space_is_no_unit), cmocka_unit_test(no_other_byte_is_a_unit),
		cmocka_unit_test(says_where_it_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
