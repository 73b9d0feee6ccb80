/* SPDX-License-Identifier: MIT */
/* What every unit test needs: cmocka, numbers that are random but the same in each run, and a
 * folder of its own. cmocka's asserts work on the main thread only: other threads count.
 */
#ifndef UMIG_TESTS_UNIT_H
#define UMIG_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* splitmix64 */
static inline uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* 0 .. bound-1 */
static inline uint64_t rnd_below(uint64_t *state, uint64_t bound)
{
	return rnd(state) % bound;
}

static inline void rnd_bytes(uint64_t *state, void *buf, size_t len_bytes)
{
	uint8_t *at = buf;

	for (size_t i = 0; i < len_bytes; i++)
		at[i] = (uint8_t)rnd(state);
}

/* A fresh folder below parent. The caller removes it. */
static inline void folder_make(char *out, size_t room_bytes, const char *parent)
{
	assert_true(snprintf(out, room_bytes, "%s/umig-unit-XXXXXX", parent) < (int)room_bytes);
	assert_non_null(mkdtemp(out));
}

static inline const char *folder_of_tests(void)
{
	const char *tmp = getenv("TMPDIR");

	return tmp && *tmp && strlen(tmp) < 24 ? tmp : "/tmp";
}

#endif
