/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "util/err.h"

static void set_gives_the_negative_number(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(err_set(&e, ENOENT, "open %s: %d", "vm1", 7), -ENOENT);
	assert_int_equal(e.num, ENOENT);
	assert_string_equal(e.msg, "open vm1: 7");
	assert_int_equal(err_set(&e, EIO, "again"), -EIO);
	assert_string_equal(e.msg, "again");
}

static void context_goes_in_front(void **state)
{
	struct err e;

	(void)state;
	err_set(&e, EPIPE, "it broke");
	assert_int_equal(err_ctx(&e, "link %d", 3), -EPIPE);
	assert_string_equal(e.msg, "link 3: it broke");
	assert_int_equal(err_ctx(&e, "move"), -EPIPE);
	assert_string_equal(e.msg, "move: link 3: it broke");
	assert_int_equal(e.num, EPIPE);
}

static void the_number_stays_though_errno_moves(void **state)
{
	struct err e;

	(void)state;
	err_set(&e, EPERM, "no");
	errno = EBADF;
	assert_int_equal(err_ctx(&e, "x"), -EPERM);
}

/* Whatever the lengths: cut at the end, and always ended by NUL. */
static void long_texts_are_cut(void **state)
{
	enum { ROOM = sizeof(((struct err *)0)->msg) };
	char context[2 * ROOM + 1], sentence[2 * ROOM + 1], whole[4 * ROOM + 8];

	(void)state;
	for (size_t a = 0; a <= 2 * ROOM; a += a < 4 ? 1 : 19)
		for (size_t b = ROOM - 12; b <= ROOM + 12; b++) {
			struct {
				struct err e;
				char behind[16];
			} guarded;

			memset(context, 'c', a);
			context[a] = '\0';
			memset(sentence, 's', b);
			sentence[b] = '\0';
			memset(&guarded, 0x5a, sizeof(guarded));
			assert_int_equal(err_set(&guarded.e, EINVAL, "%s", sentence), -EINVAL);
			assert_int_equal(strlen(guarded.e.msg), b < ROOM ? b : ROOM - 1);
			assert_int_equal(err_ctx(&guarded.e, "%s", context), -EINVAL);
			snprintf(whole, sizeof(whole), "%s: %s", context, sentence);
			whole[ROOM - 1] = '\0';
			assert_string_equal(guarded.e.msg, whole);
			for (size_t i = 0; i < sizeof(guarded.behind); i++)
				assert_int_equal(guarded.behind[i], 0x5a);
		}
}

static void nothing_is_no_error(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(e.num, 0);
	assert_string_equal(e.msg, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_gives_the_negative_number),
		cmocka_unit_test(context_goes_in_front),
		cmocka_unit_test(the_number_stays_though_errno_moves),
		cmocka_unit_test(long_texts_are_cut),
		cmocka_unit_test(nothing_is_no_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
