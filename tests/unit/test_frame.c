/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <ctype.h>

#include "util/util.h"
#include "wire/bytes.h"
#include "wire/frame.h"

enum { HUGE_BYTES = 2 * 1024 * 1024 };

static const uint64_t npages[] = { 1000, 64, 1, 10 };
static const uint32_t page_bytes[] = { 4096, 4096, 4096, HUGE_BYTES };
static const struct frame_shape shape = { 4, npages, page_bytes };

/* A bit more than the largest payload: a header with a wrong length may point into all of it. */
static uint8_t payload[FRAME_PAYLOAD_BYTES + 64];

static bool speaks_of_pages(enum frame_type t)
{
	return t == FRAME_REQUEST || t == FRAME_PAGES || t == FRAME_ZERO;
}

static bool has_free_payload(enum frame_type t)
{
	switch (t) {
	case FRAME_HELLO:
	case FRAME_HELLO_OK:
	case FRAME_ADVISE:
	case FRAME_REFUSED:
	case FRAME_EXTENTS:
	case FRAME_DEVICE:
	case FRAME_END:
	case FRAME_END_OK:
	case FRAME_FAILED:
	case FRAME_CANCEL:
	case FRAME_PASS_END:
	case FRAME_ALIVE:
		return true;
	default:
		return false;
	}
}

/* Any frame that is allowed. */
static struct frame valid(enum frame_type t, uint64_t *seed)
{
	struct frame f = { .type = t,
			   .flags = (uint16_t)rnd_below(seed, FRAME_FLAGS_ALL + 1),
			   .epoch = (uint32_t)rnd(seed),
			   .cookie = rnd(seed) };

	if (speaks_of_pages(t)) {
		f.region = (uint32_t)rnd_below(seed, 3);
		f.first_pg = rnd_below(seed, npages[f.region]);
		f.npages = (uint32_t)rnd_below(seed, min_u64(npages[f.region] - f.first_pg, 64));
		f.npages++;
	}
	if (t == FRAME_PAGES)
		f.len_bytes = f.npages * page_bytes[f.region];
	if (has_free_payload(t))
		f.len_bytes = (uint32_t)rnd_below(seed, 3000);
	return f;
}

static void put(uint8_t head[FRAME_HEAD_BYTES], const struct frame *f)
{
	frame_put(head, f, frame_sum(f, payload));
}

static int get(const struct frame *f, const struct frame_shape *s)
{
	uint8_t head[FRAME_HEAD_BYTES];
	struct frame got, was;
	struct err e = ERR_INIT;
	int rc;

	frame_put(head, f, 0);
	memset(&got, 0x5a, sizeof(got));
	was = got;
	rc = frame_get(&got, head, s, &e);
	if (rc < 0) {
		assert_memory_equal(&got, &was, sizeof(got));
		assert_int_equal(e.num, -rc);
		assert_true(e.msg[0]);
	}
	return rc;
}

/* Is this header (and payload) taken for a good one? */
static bool accepted(const uint8_t head[FRAME_HEAD_BYTES])
{
	struct frame f;
	struct err e;

	return frame_get(&f, head, &shape, &e) == 0 &&
	       frame_verify(&f, head, frame_sum(&f, payload));
}

static void frames_come_back_as_they_were(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 4000; i++) {
		struct frame f = valid((enum frame_type)(1 + rnd_below(&seed, FRAME_NTYPES - 1)),
				       &seed),
			     got;
		uint8_t head[FRAME_HEAD_BYTES];
		struct err e;

		put(head, &f);
		assert_int_equal(frame_get(&got, head, &shape, &e), 0);
		assert_int_equal(got.type, f.type);
		assert_int_equal(got.flags, f.flags);
		assert_int_equal(got.region, f.region);
		assert_int_equal(got.epoch, f.epoch);
		assert_int_equal(got.first_pg, f.first_pg);
		assert_int_equal(got.npages, f.npages);
		assert_int_equal(got.len_bytes, f.len_bytes);
		assert_int_equal(got.cookie, f.cookie);
		assert_true(frame_verify(&got, head, frame_sum(&got, payload)));
		assert_false(frame_verify(&got, head, frame_sum(&got, payload) ^ 1));
	}
}

/* The bytes on the wire are a standard: where each field stands. */
static void the_layout_is_fixed(void **state)
{
	struct frame f = { .type = FRAME_REQUEST,
			   .flags = 0x0504,
			   .region = 0x0b0a0908,
			   .epoch = 0x0f0e0d0c,
			   .first_pg = 0x1716151413121110,
			   .npages = 0x1b1a1918,
			   .len_bytes = 0x1f1e1d1c,
			   .cookie = 0x2726252423222120 };
	uint8_t head[FRAME_HEAD_BYTES];

	(void)state;
	frame_put(head, &f, 7);
	assert_memory_equal(head, "umig\x01\x0d\x04\x05", 8);
	for (unsigned int i = 8; i < 40; i++)
		assert_int_equal(head[i], i);
	for (unsigned int i = 40; i < 56; i++)
		assert_int_equal(head[i], 0);
}

static void no_flipped_bit_of_a_header_passes(void **state)
{
	uint64_t seed = 2;

	(void)state;
	rnd_bytes(&seed, payload, 70000);
	for (int t = 1; t < FRAME_NTYPES; t++)
		for (int round = 0; round < 3; round++) {
			struct frame f = valid((enum frame_type)t, &seed);
			uint8_t head[FRAME_HEAD_BYTES];

			put(head, &f);
			assert_true(accepted(head));
			for (unsigned int bit = 0; bit < 8 * FRAME_HEAD_BYTES; bit++) {
				head[bit / 8] ^= (uint8_t)(1 << bit % 8);
				if (accepted(head))
					fail_msg("%s with bit %u wrong passes", frame_type_name[t],
						 bit);
				head[bit / 8] ^= (uint8_t)(1 << bit % 8);
			}
			assert_true(accepted(head));
		}
}

static void no_two_flipped_bits_of_a_header_pass(void **state)
{
	struct frame f = {
		.type = FRAME_ZERO, .region = 1, .first_pg = 8, .npages = 8, .cookie = 5
	};
	uint8_t head[FRAME_HEAD_BYTES];

	(void)state;
	put(head, &f);
	for (unsigned int a = 0; a < 8 * FRAME_HEAD_BYTES; a++)
		for (unsigned int b = a + 1; b < 8 * FRAME_HEAD_BYTES; b++) {
			head[a / 8] ^= (uint8_t)(1 << a % 8);
			head[b / 8] ^= (uint8_t)(1 << b % 8);
			assert_false(accepted(head));
			head[a / 8] ^= (uint8_t)(1 << a % 8);
			head[b / 8] ^= (uint8_t)(1 << b % 8);
		}
}

static void flip_payload(struct frame f, uint32_t step_bits)
{
	uint8_t head[FRAME_HEAD_BYTES];

	put(head, &f);
	assert_true(accepted(head));
	for (uint32_t bit = 0; bit < 8 * f.len_bytes; bit += step_bits) {
		payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_false(accepted(head));
		payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_true(accepted(head));
}

static void no_flipped_bit_of_a_payload_passes(void **state)
{
	uint64_t seed = 3;

	(void)state;
	for (int zeros = 0; zeros < 2; zeros++) {
		if (zeros)
			memset(payload, 0, sizeof(payload));
		else
			rnd_bytes(&seed, payload, 70000);
		for (uint32_t len = 1; len <= 1025; len += len < 34 ? 1 : 31)
			flip_payload((struct frame){ .type = FRAME_DEVICE, .len_bytes = len }, 1);
		flip_payload((struct frame){ .type = FRAME_PAGES, .npages = 1, .len_bytes = 4096 },
			     1);
		flip_payload((struct frame){ .type = FRAME_PAGES,
					     .region = 1,
					     .first_pg = 3,
					     .npages = 4,
					     .len_bytes = 4 * 4096 },
			     13);
	}
}

static void limits_of_pages(void **state)
{
	static const enum frame_type types[] = { FRAME_REQUEST, FRAME_ZERO };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct frame f = { .type = types[i] };

		for (f.npages = 0; f.npages <= 200; f.npages++)
			assert_int_equal(get(&f, &shape),
					 f.npages >= 1 && f.npages <= 64 ? 0 : -EBADMSG);
		f.npages = UINT32_MAX;
		assert_int_equal(get(&f, &shape), -EBADMSG);
		f.npages = 1;
		for (f.region = 0; f.region < 8; f.region++)
			assert_int_equal(get(&f, &shape), f.region < 4 ? 0 : -ERANGE);
		f.region = UINT32_MAX;
		assert_int_equal(get(&f, &shape), -ERANGE);
	}
}

static void nothing_beyond_the_end_of_a_region(void **state)
{
	static const uint64_t far[] = { 1ull << 32, 1ull << 52, 1ull << 63, UINT64_MAX - 1,
					UINT64_MAX };
	struct frame f = { .type = FRAME_REQUEST };

	(void)state;
	for (f.region = 0; f.region < 4; f.region++) {
		uint64_t n = npages[f.region];

		for (f.first_pg = n > 70 ? n - 70 : 0; f.first_pg < n + 70; f.first_pg++)
			for (f.npages = 1; f.npages <= 64; f.npages++)
				assert_int_equal(get(&f, &shape),
						 f.first_pg + f.npages <= n ? 0 : -ERANGE);
		for (size_t i = 0; i < ARRAY_SIZE(far); i++)
			for (f.npages = 1; f.npages <= 64; f.npages++) {
				f.first_pg = far[i];
				assert_int_equal(get(&f, &shape), -ERANGE);
			}
	}
}

static void no_pages_before_their_shape_is_known(void **state)
{
	const struct frame_shape none = { 0 };

	(void)state;
	for (int t = 1; t < FRAME_NTYPES; t++) {
		struct frame f = { .type = (enum frame_type)t, .npages = 1 };

		if (t == FRAME_PAGES)
			f.len_bytes = 4096;
		assert_int_equal(get(&f, &none), speaks_of_pages(f.type) ? -ERANGE : 0);
	}
}

static void limits_of_lengths(void **state)
{
	static const uint32_t lens[] = { 0,
					 1,
					 4096,
					 FRAME_PAYLOAD_BYTES - 1,
					 FRAME_PAYLOAD_BYTES,
					 FRAME_PAYLOAD_BYTES + 1,
					 1u << 31,
					 UINT32_MAX };

	(void)state;
	for (int t = 1; t < FRAME_NTYPES; t++)
		for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
			struct frame f = { .type = (enum frame_type)t,
					   .npages = speaks_of_pages(t),
					   .len_bytes = lens[i] };
			bool ok = lens[i] == (t == FRAME_PAGES ? 4096 : 0);

			if (has_free_payload(f.type))
				ok = lens[i] <= FRAME_PAYLOAD_BYTES;
			assert_int_equal(get(&f, &shape), ok ? 0 : -EBADMSG);
		}
}

static void pages_have_the_bytes_of_their_pages(void **state)
{
	struct frame f = { .type = FRAME_PAGES };

	(void)state;
	for (f.npages = 1; f.npages <= 64; f.npages++) {
		f.len_bytes = f.npages * 4096;
		assert_int_equal(get(&f, &shape), 0);
		f.len_bytes--;
		assert_int_equal(get(&f, &shape), -EBADMSG);
		f.len_bytes += 2;
		assert_int_equal(get(&f, &shape), -EBADMSG);
	}
	f = (struct frame){
		.type = FRAME_PAGES, .region = 3, .npages = 1, .len_bytes = HUGE_BYTES
	};
	assert_int_equal(get(&f, &shape), 0);
	f.npages = 2;
	f.len_bytes *= 2;
	assert_int_equal(get(&f, &shape), -EBADMSG);
}

static void unknown_bits_are_refused(void **state)
{
	struct frame f = { .type = FRAME_MARK }, got;
	uint8_t head[FRAME_HEAD_BYTES];
	struct err e;

	(void)state;
	for (unsigned int bit = 0; bit < 16; bit++) {
		f.flags = (uint16_t)(1u << bit);
		assert_int_equal(get(&f, &shape), f.flags & FRAME_FLAGS_ALL ? 0 : -EBADMSG);
	}
	f.flags = 0;
	for (unsigned int bit = 40 * 8; bit < 56 * 8; bit++) {
		put(head, &f);
		head[bit / 8] |= (uint8_t)(1 << bit % 8);
		assert_int_equal(frame_get(&got, head, &shape, &e), -EBADMSG);
	}
}

static void other_types_and_versions_are_refused(void **state)
{
	struct frame f = { .type = FRAME_MARK }, got;
	uint8_t head[FRAME_HEAD_BYTES];
	struct err e;

	(void)state;
	for (int v = 0; v < 256; v++) {
		put(head, &f);
		head[4] = (uint8_t)v;
		assert_int_equal(frame_get(&got, head, &shape, &e),
				 v == FRAME_VERSION ? 0 : -EPROTONOSUPPORT);
	}
	for (int t = 0; t < 256; t++) {
		put(head, &f);
		head[5] = (uint8_t)t;
		if (t == 0 || t >= FRAME_NTYPES)
			assert_int_equal(frame_get(&got, head, &shape, &e), -EBADMSG);
	}
}

static void a_stranger_is_quoted_in_plain_letters(void **state)
{
	uint64_t seed = 5;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		uint8_t head[FRAME_HEAD_BYTES];
		struct err e = ERR_INIT;
		struct frame f;

		rnd_bytes(&seed, head, sizeof(head));
		if (!memcmp(head, "umig", 4))
			continue;
		assert_int_equal(frame_get(&f, head, &shape, &e), -EPROTO);
		for (const char *c = e.msg; *c; c++)
			assert_true(isprint((unsigned char)*c));
	}
}

static void every_type_has_a_name(void **state)
{
	(void)state;
	for (int t = 1; t < FRAME_NTYPES; t++) {
		assert_non_null(frame_type_name[t]);
		for (int other = 1; other < t; other++)
			assert_string_not_equal(frame_type_name[t], frame_type_name[other]);
	}
}

/* Both ends add up pages as they come, in whatever frames. */
static void sums_of_pages_add_up(void **state)
{
	struct frame f = { .type = FRAME_PAGES, .first_pg = 100, .npages = 16, .len_bytes = 65536 };
	uint64_t seed = 6, sum = 0, whole;

	(void)state;
	rnd_bytes(&seed, payload, 65536);
	whole = frame_sum(&f, payload);
	for (uint32_t i = 0; i < 16; i++)
		sum += frame_page_sum(0, 100 + i, payload + i * 4096, 4096);
	assert_int_equal(sum, whole);
	f.npages = 7;
	f.len_bytes = 7 * 4096;
	sum = frame_sum(&f, payload);
	f.first_pg += 7;
	f.npages = 9;
	f.len_bytes = 9 * 4096;
	assert_int_equal(sum + frame_sum(&f, payload + 7 * 4096), whole);
}

static void a_page_elsewhere_has_another_sum(void **state)
{
	uint64_t seed = 7;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		uint64_t pg = rnd(&seed) >> (24 + rnd_below(&seed, 40)), other;
		uint32_t region = (uint32_t)rnd_below(&seed, 64);
		uint64_t sum;

		rnd_bytes(&seed, payload, 64);
		sum = frame_page_sum(region, pg, payload, 64);
		other = pg ^ 1ull << rnd_below(&seed, 40);
		assert_int_not_equal(sum, frame_page_sum(region, other, payload, 64));
		assert_int_not_equal(sum, frame_page_sum((region + 1) % 64, pg, payload, 64));
	}
}

static void swapped_pages_are_noticed(void **state)
{
	struct frame f = { .type = FRAME_PAGES, .npages = 2, .len_bytes = 8192 };
	uint64_t seed = 8;

	(void)state;
	for (int i = 0; i < 2000; i++) {
		uint8_t head[FRAME_HEAD_BYTES], page[4096];

		rnd_bytes(&seed, payload, 8192);
		f.first_pg = rnd_below(&seed, 900);
		put(head, &f);
		memcpy(page, payload, 4096);
		memcpy(payload, payload + 4096, 4096);
		memcpy(payload + 4096, page, 4096);
		assert_false(accepted(head));
	}
}

static void garbage_behind_the_magic_never_passes(void **state)
{
	uint64_t seed = 9;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint8_t head[FRAME_HEAD_BYTES] = { 0 };
		struct err e = ERR_INIT;
		struct frame f;

		rnd_bytes(&seed, head + 5, rnd_below(&seed, 2) ? 35 : 59);
		memcpy(head, "umig\x01", 5);
		head[5] %= FRAME_NTYPES;
		head[6] &= FRAME_FLAGS_ALL;
		head[7] = 0;
		put_u32(head + 28, (uint32_t)rnd_below(&seed, 5000));
		assert_false(accepted(head));
		if (!frame_get(&f, head, &shape, &e))
			assert_true(f.len_bytes <= FRAME_PAYLOAD_BYTES);
		else
			assert_true(e.num > 0 && e.msg[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_come_back_as_they_were),
		cmocka_unit_test(the_layout_is_fixed),
		cmocka_unit_test(no_flipped_bit_of_a_header_passes),
		cmocka_unit_test(no_two_flipped_bits_of_a_header_pass),
		cmocka_unit_test(no_flipped_bit_of_a_payload_passes),
		cmocka_unit_test(limits_of_pages),
		cmocka_unit_test(nothing_beyond_the_end_of_a_region),
		cmocka_unit_test(no_pages_before_their_shape_is_known),
		cmocka_unit_test(limits_of_lengths),
		cmocka_unit_test(pages_have_the_bytes_of_their_pages),
		cmocka_unit_test(unknown_bits_are_refused),
		cmocka_unit_test(other_types_and_versions_are_refused),
		cmocka_unit_test(a_stranger_is_quoted_in_plain_letters),
		cmocka_unit_test(every_type_has_a_name),
		cmocka_unit_test(sums_of_pages_add_up),
		cmocka_unit_test(a_page_elsewhere_has_another_sum),
		cmocka_unit_test(swapped_pages_are_noticed),
		cmocka_unit_test(garbage_behind_the_magic_never_passes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
