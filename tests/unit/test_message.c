/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <stdbool.h>

#include "util/util.h"
#include "wire/bytes.h"
#include "wire/message.h"

/* What the decoder gets lies at the very end of its memory, so that a sanitizer sees each byte too
 * many. */
static uint8_t *copy_exactly(const uint8_t *buf, size_t len_bytes)
{
	uint8_t *copy = malloc(len_bytes ? len_bytes : 1);

	assert_non_null(copy);
	memcpy(copy, buf, len_bytes);
	return copy;
}

static void make_name(char name[WIRE_NAME_BYTES], uint64_t *seed)
{
	size_t len = 1 + rnd_below(seed, WIRE_NAME_BYTES - 1);

	memset(name, 0, WIRE_NAME_BYTES);
	for (size_t i = 0; i < len; i++)
		name[i] = (char)(' ' + rnd_below(seed, '~' - ' ' + 1));
}

static struct hello make_hello(uint64_t *seed)
{
	struct hello m;

	memset(&m, 0, sizeof(m));
	rnd_bytes(seed, m.session, sizeof(m.session));
	rnd_bytes(seed, m.token, sizeof(m.token));
	m.role = (uint32_t)rnd_below(seed, ROLE_NROLES);
	m.nbulk = 1 + (uint32_t)rnd_below(seed, WIRE_BULK_MAX);
	m.index = (uint32_t)rnd_below(seed, m.nbulk);
	m.features = rnd(seed);
	make_name(m.name, seed);
	return m;
}

static int hello_try(const struct hello *m)
{
	uint8_t buf[HELLO_BYTES], *copy;
	struct hello got, was;
	struct err e = ERR_INIT;
	int rc;

	assert_int_equal(hello_put(buf, m), HELLO_BYTES);
	copy = copy_exactly(buf, HELLO_BYTES);
	memset(&got, 0x5a, sizeof(got));
	was = got;
	rc = hello_get(&got, copy, HELLO_BYTES, &e);
	if (rc < 0) {
		assert_memory_equal(&got, &was, sizeof(got));
		assert_int_equal(e.num, -rc);
	}
	free(copy);
	return rc;
}

static void hello_comes_back(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 5000; i++) {
		struct hello m = make_hello(&seed), got;
		uint8_t buf[HELLO_BYTES];
		struct err e;

		hello_put(buf, &m);
		memset(&got, 0, sizeof(got));
		assert_int_equal(hello_get(&got, buf, sizeof(buf), &e), 0);
		assert_memory_equal(got.session, m.session, sizeof(m.session));
		assert_memory_equal(got.token, m.token, sizeof(m.token));
		assert_int_equal(got.role, m.role);
		assert_int_equal(got.index, m.index);
		assert_int_equal(got.nbulk, m.nbulk);
		assert_int_equal(got.features, m.features);
		assert_string_equal(got.name, m.name);
	}
}

static void hello_of_another_length_is_refused(void **state)
{
	uint8_t buf[2 * HELLO_BYTES] = { 0 };
	uint64_t seed = 2;
	struct hello m = make_hello(&seed), got;
	struct err e;

	(void)state;
	hello_put(buf, &m);
	for (size_t len = 0; len < sizeof(buf); len++) {
		uint8_t *copy = copy_exactly(buf, len);

		assert_int_equal(hello_get(&got, copy, len, &e), len == HELLO_BYTES ? 0 : -EBADMSG);
		free(copy);
	}
}

static void limits_of_hello(void **state)
{
	uint64_t seed = 3;
	struct hello m = make_hello(&seed);

	(void)state;
	m.index = 0;
	for (m.role = 0; m.role < 10; m.role++)
		assert_int_equal(hello_try(&m), m.role < ROLE_NROLES ? 0 : -EBADMSG);
	m.role = ROLE_BULK;
	for (m.nbulk = 0; m.nbulk < 20; m.nbulk++)
		assert_int_equal(hello_try(&m), m.nbulk && m.nbulk <= WIRE_BULK_MAX ? 0 : -EBADMSG);
	m.nbulk = WIRE_BULK_MAX;
	for (m.index = 0; m.index < 20; m.index++)
		assert_int_equal(hello_try(&m), m.index < WIRE_BULK_MAX ? 0 : -EBADMSG);
	m.index = UINT32_MAX;
	assert_int_equal(hello_try(&m), -EBADMSG);
	m.index = 0;
	m.nbulk = UINT32_MAX;
	assert_int_equal(hello_try(&m), -EBADMSG);
	m.nbulk = 1;
	m.role = UINT32_MAX;
	assert_int_equal(hello_try(&m), -EBADMSG);
}

/* Names end up on terminals. */
static void names_are_plain_letters(void **state)
{
	uint8_t buf[HELLO_BYTES], *name = buf + HELLO_BYTES - WIRE_NAME_BYTES;
	uint64_t seed = 4;
	struct hello m = make_hello(&seed), got;
	struct err e;

	(void)state;
	hello_put(buf, &m);
	memset(name, 0, WIRE_NAME_BYTES);
	assert_int_equal(hello_get(&got, buf, sizeof(buf), &e), -EBADMSG);
	for (int at = 0; at < 3; at++)
		for (int c = 1; c < 256; c++) {
			memcpy(name, "abc", 4);
			name[at] = (uint8_t)c;
			assert_int_equal(hello_get(&got, buf, sizeof(buf), &e),
					 c >= ' ' && c <= '~' ? 0 : -EBADMSG);
		}
	memset(name, 'a', WIRE_NAME_BYTES); /* no NUL at all */
	assert_int_equal(hello_get(&got, buf, sizeof(buf), &e), -EBADMSG);
	name[WIRE_NAME_BYTES - 1] = '\0';
	assert_int_equal(hello_get(&got, buf, sizeof(buf), &e), 0);
	assert_int_equal(strlen(got.name), WIRE_NAME_BYTES - 1);
}

static char text[WIRE_TEXT_MAX];

static void make_advise(struct advise *m, uint32_t nregions, uint32_t machine_bytes, uint64_t *seed)
{
	memset(m, 0, sizeof(*m));
	m->nregions = nregions;
	for (uint32_t i = 0; i < nregions; i++) {
		struct advised_region *r = &m->region[i];

		make_name(r->name, seed);
		r->page_bytes = rnd_below(seed, 2) ? 4096 : 2 * MIB;
		r->size_bytes = r->page_bytes * (1 + rnd_below(seed, 1 << 20));
		r->populated_bytes = rnd_below(seed, r->size_bytes + 1);
		r->kind = (uint32_t)rnd(seed);
	}
	rnd_bytes(seed, text, machine_bytes);
	m->machine = text;
	m->machine_bytes = machine_bytes;
}

static void assert_same_advise(const struct advise *a, const struct advise *b)
{
	assert_int_equal(a->nregions, b->nregions);
	for (uint32_t i = 0; i < a->nregions; i++) {
		assert_string_equal(a->region[i].name, b->region[i].name);
		assert_int_equal(a->region[i].size_bytes, b->region[i].size_bytes);
		assert_int_equal(a->region[i].populated_bytes, b->region[i].populated_bytes);
		assert_int_equal(a->region[i].page_bytes, b->region[i].page_bytes);
		assert_int_equal(a->region[i].kind, b->region[i].kind);
	}
	assert_int_equal(a->machine_bytes, b->machine_bytes);
	assert_memory_equal(a->machine, b->machine, a->machine_bytes);
}

static uint8_t big[ADVISE_BYTES_MAX + 1];

static void advise_comes_back(void **state)
{
	static const uint32_t lens[] = { 0, 1, 100, WIRE_TEXT_MAX };
	static struct advise m, got;
	uint64_t seed = 5;
	struct err e;

	(void)state;
	for (uint32_t n = 1; n <= WIRE_REGIONS_MAX; n++)
		for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
			size_t len;

			make_advise(&m, n, lens[i], &seed);
			len = advise_put(big, &m);
			assert_int_equal(len, 8 + n * ADVISED_REGION_BYTES + lens[i]);
			assert_int_equal(advise_get(&got, big, len, &e), 0);
			assert_same_advise(&m, &got);
		}
	assert_int_equal(advise_put(big, &m), ADVISE_BYTES_MAX);
}

static void advise_of_another_length_is_refused(void **state)
{
	static struct advise m, got;
	uint64_t seed = 6;
	struct err e;
	size_t len;

	(void)state;
	make_advise(&m, 3, 70, &seed);
	len = advise_put(big, &m);
	for (size_t cut = 0; cut < len + 200; cut++) {
		uint8_t *copy = copy_exactly(big, cut);

		assert_int_equal(advise_get(&got, copy, cut, &e), cut == len ? 0 : -EBADMSG);
		free(copy);
	}
}

/* Counts that promise more than there is, and sums that would overflow. */
static void counts_of_advise_are_checked(void **state)
{
	static const uint32_t counts[] = { 0, 1, 2, 4, 63, 64, 65, 1u << 16, 1u << 31, UINT32_MAX };
	static struct advise m, got;
	uint64_t seed = 7;
	struct err e;
	size_t len;

	(void)state;
	make_advise(&m, 3, 88, &seed);
	len = advise_put(big, &m);
	for (size_t a = 0; a < ARRAY_SIZE(counts); a++)
		for (size_t b = 0; b < ARRAY_SIZE(counts); b++) {
			uint8_t *copy = copy_exactly(big, len);

			put_u32(copy, counts[a]);
			put_u32(copy + 4, counts[b]);
			assert_int_equal(advise_get(&got, copy, len, &e), -EBADMSG);
			free(copy);
		}
	put_u32(big, 4); /* the text taken for a region */
	put_u32(big + 4, 0);
	memset(big + len - 88, 0, 88);
	assert_int_equal(advise_get(&got, big, len, &e), -EBADMSG);
	len = 8 + 65 * ADVISED_REGION_BYTES;
	memset(big, 0, len);
	put_u32(big, 65);
	assert_int_equal(advise_get(&got, big, len, &e), -EBADMSG);
	len = 8;
	put_u32(big, 0);
	assert_int_equal(advise_get(&got, big, len, &e), -EBADMSG);
}

static int advise_try(const struct advised_region *r)
{
	struct advise m = { .nregions = 1, .region = { *r }, .machine = "" }, got;
	struct err e;

	return advise_get(&got, big, advise_put(big, &m), &e);
}

static void limits_of_a_region(void **state)
{
	const struct advised_region good = {
		.name = "ram", .size_bytes = GIB, .populated_bytes = MIB, .page_bytes = 4096
	};
	struct advised_region r = good;

	(void)state;
	assert_int_equal(advise_try(&r), 0);
	r.populated_bytes = GIB;
	assert_int_equal(advise_try(&r), 0);
	r.populated_bytes = GIB + 1;
	assert_int_equal(advise_try(&r), -EBADMSG);
	r = good;
	for (r.page_bytes = 0; r.page_bytes < 10000; r.page_bytes++)
		if (!r.page_bytes || r.page_bytes & (r.page_bytes - 1))
			assert_int_equal(advise_try(&r), -EBADMSG);
	r.page_bytes = UINT32_MAX;
	assert_int_equal(advise_try(&r), -EBADMSG);
	r = good;
	r.size_bytes = 0;
	r.populated_bytes = 0;
	assert_int_equal(advise_try(&r), -EBADMSG);
	r = good;
	r.size_bytes++;
	assert_int_equal(advise_try(&r), -EBADMSG);
	r.size_bytes = UINT64_MAX;
	assert_int_equal(advise_try(&r), -EBADMSG);
	r = good;
	memset(r.name, 0, sizeof(r.name));
	assert_int_equal(advise_try(&r), -EBADMSG);
	r.name[0] = '\x1b';
	assert_int_equal(advise_try(&r), -EBADMSG);
}

static void assert_advise_is_sane(const struct advise *m, const uint8_t *buf, size_t len)
{
	assert_true(m->nregions >= 1 && m->nregions <= WIRE_REGIONS_MAX);
	assert_true(m->machine_bytes <= WIRE_TEXT_MAX);
	assert_ptr_equal(m->machine + m->machine_bytes, buf + len);
	for (uint32_t i = 0; i < m->nregions; i++) {
		const struct advised_region *r = &m->region[i];

		assert_true(r->page_bytes && !(r->page_bytes & (r->page_bytes - 1)));
		assert_true(r->size_bytes && r->size_bytes % r->page_bytes == 0);
		assert_true(r->populated_bytes <= r->size_bytes);
		assert_true(r->name[0] && memchr(r->name, 0, sizeof(r->name)));
	}
}

/* Good messages with a few bytes changed: taken only if inside all limits. */
static void garbage_is_taken_only_inside_the_limits(void **state)
{
	static struct advise m, got;
	uint64_t seed = 8, taken = 0;
	struct err e;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		struct hello h = make_hello(&seed);
		uint8_t buf[HELLO_BYTES];
		size_t len;

		hello_put(buf, &h);
		for (uint64_t n = rnd_below(&seed, 4); n; n--)
			buf[rnd_below(&seed, sizeof(buf))] = (uint8_t)rnd(&seed);
		if (!hello_get(&h, buf, sizeof(buf), &e)) {
			taken++;
			assert_true(h.role < ROLE_NROLES && h.index < WIRE_BULK_MAX);
			assert_true(h.nbulk >= 1 && h.nbulk <= WIRE_BULK_MAX);
			assert_true(h.name[0] && memchr(h.name, 0, sizeof(h.name)));
		}
		make_advise(&m, 1 + (uint32_t)rnd_below(&seed, 3), 20, &seed);
		len = advise_put(big, &m);
		for (uint64_t n = rnd_below(&seed, 4); n; n--)
			big[rnd_below(&seed, len)] ^= (uint8_t)(1u << rnd_below(&seed, 8));
		if (!advise_get(&got, big, len, &e)) {
			taken++;
			assert_advise_is_sane(&got, big, len);
		}
	}
	assert_true(taken > 10000 && taken < 39000);
}

static void extents_come_in_order_and_inside(void **state)
{
	enum { NPAGES = 300 };
	uint64_t seed = 9;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		struct extent m = { rnd_below(&seed, NPAGES + 5), rnd_below(&seed, NPAGES + 5) };
		struct extent got = { 77, 78 };
		uint64_t end = rnd_below(&seed, NPAGES), was = end;
		uint8_t buf[EXTENT_BYTES];
		struct err e;
		bool ok = m.npages && m.first_pg >= end && m.first_pg + m.npages <= NPAGES;

		extent_put(buf, &m);
		assert_int_equal(extent_get(&got, buf, NPAGES, &end, &e), ok ? 0 : -ERANGE);
		assert_int_equal(got.first_pg, ok ? m.first_pg : 77);
		assert_int_equal(got.npages, ok ? m.npages : 78);
		assert_int_equal(end, ok ? m.first_pg + m.npages : was);
	}
}

static void extents_do_not_overflow(void **state)
{
	static const uint64_t far[] = { 1ull << 32, 1ull << 63, UINT64_MAX - 1, UINT64_MAX };

	(void)state;
	for (size_t a = 0; a < ARRAY_SIZE(far); a++)
		for (uint64_t near = 0; near < 3; near++) {
			uint8_t buf[EXTENT_BYTES];
			struct extent got;
			struct err e;
			uint64_t end = 0;

			extent_put(buf, &(struct extent){ far[a], near });
			assert_int_equal(extent_get(&got, buf, 100, &end, &e), -ERANGE);
			extent_put(buf, &(struct extent){ near, far[a] });
			assert_int_equal(extent_get(&got, buf, 100, &end, &e), -ERANGE);
			extent_put(buf, &(struct extent){ far[a], far[a] });
			assert_int_equal(extent_get(&got, buf, 100, &end, &e), -ERANGE);
			assert_int_equal(end, 0);
		}
}

static void ending_comes_back(void **state)
{
	struct ending m = { 0x0102030405060708, UINT64_MAX, 5 }, got = { 0 };
	uint8_t buf[2 * ENDING_BYTES] = { 0 };
	struct err e;

	(void)state;
	assert_int_equal(ending_put(buf, &m), ENDING_BYTES);
	for (size_t len = 0; len < sizeof(buf); len++) {
		uint8_t *copy = copy_exactly(buf, len);

		assert_int_equal(ending_get(&got, copy, len, &e),
				 len == ENDING_BYTES ? 0 : -EBADMSG);
		free(copy);
	}
	assert_memory_equal(&got, &m, sizeof(m));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hello_comes_back),
		cmocka_unit_test(hello_of_another_length_is_refused),
		cmocka_unit_test(limits_of_hello),
		cmocka_unit_test(names_are_plain_letters),
		cmocka_unit_test(advise_comes_back),
		cmocka_unit_test(advise_of_another_length_is_refused),
		cmocka_unit_test(counts_of_advise_are_checked),
		cmocka_unit_test(limits_of_a_region),
		cmocka_unit_test(garbage_is_taken_only_inside_the_limits),
		cmocka_unit_test(extents_come_in_order_and_inside),
		cmocka_unit_test(extents_do_not_overflow),
		cmocka_unit_test(ending_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
