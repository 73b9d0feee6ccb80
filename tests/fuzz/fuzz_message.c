/* SPDX-License-Identifier: MIT */
/* Payloads of control frames. The first byte says which: hello, advise, extents, ending. What is
 * taken lies inside all limits and comes back when it is encoded again.
 */
#include "fuzz.h"

#include "wire/message.h"

static void check_name(const char name[WIRE_NAME_BYTES])
{
	must(name[0] && memchr(name, '\0', WIRE_NAME_BYTES));
	for (const char *c = name; *c; c++)
		must(*c >= ' ' && *c <= '~');
}

static void one_hello(const uint8_t *buf, size_t len_bytes)
{
	struct hello m, again;
	uint8_t out[HELLO_BYTES];
	struct err e;

	if (hello_get(&m, buf, len_bytes, &e) < 0)
		return;
	must(m.role < ROLE_NROLES && m.index < WIRE_BULK_MAX);
	must(m.nbulk >= 1 && m.nbulk <= WIRE_BULK_MAX);
	check_name(m.name);
	must(hello_put(out, &m) == len_bytes);
	must(!hello_get(&again, out, sizeof(out), &e));
	must(again.role == m.role && again.index == m.index && again.nbulk == m.nbulk);
	must(again.features == m.features && !strcmp(again.name, m.name));
}

static void one_advise(const uint8_t *buf, size_t len_bytes)
{
	static struct advise m, again;
	static uint8_t out[ADVISE_BYTES_MAX];
	struct err e;

	if (advise_get(&m, buf, len_bytes, &e) < 0)
		return;
	must(m.nregions >= 1 && m.nregions <= WIRE_REGIONS_MAX);
	must((const uint8_t *)m.machine >= buf);
	must((const uint8_t *)m.machine + m.machine_bytes == buf + len_bytes);
	for (uint32_t i = 0; i < m.nregions; i++) {
		const struct advised_region *r = &m.region[i];

		check_name(r->name);
		must(r->page_bytes && !(r->page_bytes & (r->page_bytes - 1)));
		must(r->size_bytes && r->size_bytes % r->page_bytes == 0);
		must(r->populated_bytes <= r->size_bytes);
	}
	must(advise_put(out, &m) == len_bytes);
	must(!advise_get(&again, out, len_bytes, &e) && again.nregions == m.nregions);
}

/* The first 8 bytes are the region's size. */
static void extents(const uint8_t *buf, size_t len_bytes)
{
	uint64_t npages, end_pg = 0;

	if (len_bytes < sizeof(npages))
		return;
	memcpy(&npages, buf, sizeof(npages));
	buf += sizeof(npages);
	len_bytes -= sizeof(npages);
	for (size_t i = 0; i < len_bytes / EXTENT_BYTES; i++) {
		uint64_t was = end_pg;
		struct extent x;
		struct err e;

		if (extent_get(&x, buf + i * EXTENT_BYTES, npages, &end_pg, &e) < 0) {
			must(end_pg == was);
			continue;
		}
		must(x.npages && x.first_pg >= was && x.first_pg < npages);
		must(npages - x.first_pg >= x.npages && end_pg == x.first_pg + x.npages);
	}
}

static void one_ending(const uint8_t *buf, size_t len_bytes)
{
	uint8_t out[ENDING_BYTES];
	struct ending m;
	struct err e;

	if (ending_get(&m, buf, len_bytes, &e) < 0)
		return;
	must(ending_put(out, &m) == len_bytes && !memcmp(out, buf, len_bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
	static void (*const kinds[])(const uint8_t *, size_t) = { one_hello, one_advise, extents,
								  one_ending };
	struct input in = { data, len_bytes };
	uint8_t kind = input_u8(&in) % (sizeof(kinds) / sizeof(kinds[0]));
	size_t rest_bytes;
	uint8_t *rest = input_rest(&in, &rest_bytes);

	kinds[kind](rest, rest_bytes);
	free(rest);
	return 0;
}
