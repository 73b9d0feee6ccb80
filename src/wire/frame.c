/* SPDX-License-Identifier: MIT */
#include "wire/frame.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* the same sums, with the widest vectors that this CPU has */
#else
#include <xxhash.h>
#endif

#include "util/util.h"
#include "wire/bytes.h"

/* Offsets in the header. */
enum {
	AT_MAGIC = 0,
	AT_VERSION = 4,
	AT_TYPE = 5,
	AT_FLAGS = 6,
	AT_REGION = 8,
	AT_EPOCH = 12,
	AT_FIRST_PG = 16,
	AT_NPAGES = 24,
	AT_LEN = 28,
	AT_COOKIE = 32,
	AT_RESERVED = 40, /* 16 bytes of zeros */
	AT_CHECK = 56,
};

static const uint8_t magic[4] = "umig";

const char *const frame_type_name[FRAME_NTYPES] = {
	[FRAME_HELLO] = "HELLO",       [FRAME_HELLO_OK] = "HELLO_OK",
	[FRAME_ADVISE] = "ADVISE",     [FRAME_ADVISE_OK] = "ADVISE_OK",
	[FRAME_REFUSED] = "REFUSED",   [FRAME_EXTENTS] = "EXTENTS",
	[FRAME_DISCARD] = "DISCARD",   [FRAME_DISCARD_OK] = "DISCARD_OK",
	[FRAME_DEVICE] = "DEVICE",     [FRAME_DEVICE_OK] = "DEVICE_OK",
	[FRAME_RUN] = "RUN",	       [FRAME_RAN] = "RAN",
	[FRAME_REQUEST] = "REQUEST",   [FRAME_PAGES] = "PAGES",
	[FRAME_ZERO] = "ZERO",	       [FRAME_MARK] = "MARK",
	[FRAME_END] = "END",	       [FRAME_END_OK] = "END_OK",
	[FRAME_FAILED] = "FAILED",     [FRAME_CANCEL] = "CANCEL",
	[FRAME_RESUME] = "RESUME",     [FRAME_RESUME_OK] = "RESUME_OK",
	[FRAME_BYE] = "BYE",	       [FRAME_ALIVE] = "ALIVE",
	[FRAME_PASS] = "PASS",	       [FRAME_PASS_OK] = "PASS_OK",
	[FRAME_PASS_END] = "PASS_END",
};

/* Which frames speak of pages of a region, and what may follow the header. */
enum body { BODY_NONE, BODY_ANY, BODY_PAGES };
static const struct {
	bool has_pages;
	enum body body;
} rule[FRAME_NTYPES] = {
	[FRAME_HELLO] = { false, BODY_ANY },	[FRAME_HELLO_OK] = { false, BODY_ANY },
	[FRAME_ADVISE] = { false, BODY_ANY },	[FRAME_REFUSED] = { false, BODY_ANY },
	[FRAME_EXTENTS] = { false, BODY_ANY },	[FRAME_DEVICE] = { false, BODY_ANY },
	[FRAME_REQUEST] = { true, BODY_NONE },	[FRAME_PAGES] = { true, BODY_PAGES },
	[FRAME_ZERO] = { true, BODY_NONE },	[FRAME_END] = { false, BODY_ANY },
	[FRAME_END_OK] = { false, BODY_ANY },	[FRAME_FAILED] = { false, BODY_ANY },
	[FRAME_CANCEL] = { false, BODY_ANY },	[FRAME_ALIVE] = { false, BODY_ANY },
	[FRAME_PASS_END] = { false, BODY_ANY },
};

void frame_put(uint8_t head[FRAME_HEAD_BYTES], const struct frame *f, uint64_t payload_sum)
{
	memset(head, 0, FRAME_HEAD_BYTES);
	memcpy(head + AT_MAGIC, magic, sizeof(magic));
	head[AT_VERSION] = FRAME_VERSION;
	head[AT_TYPE] = (uint8_t)f->type;
	put_u16(head + AT_FLAGS, f->flags);
	put_u32(head + AT_REGION, f->region);
	put_u32(head + AT_EPOCH, f->epoch);
	put_u64(head + AT_FIRST_PG, f->first_pg);
	put_u32(head + AT_NPAGES, f->npages);
	put_u32(head + AT_LEN, f->len_bytes);
	put_u64(head + AT_COOKIE, f->cookie);
	put_u64(head + AT_CHECK, XXH3_64bits_withSeed(head, AT_CHECK, payload_sum));
}

bool frame_verify(const struct frame *f, const uint8_t head[FRAME_HEAD_BYTES], uint64_t payload_sum)
{
	return f->check == XXH3_64bits_withSeed(head, AT_CHECK, payload_sum);
}

/* "GET / HT": what an engineer needs to see who called. */
static void printable(char *out, size_t room, const uint8_t *in, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n + 5 < room; i++) {
		if (isprint(in[i]))
			out[n++] = (char)in[i];
		else
			n += (size_t)snprintf(out + n, room - n, "\\x%02x", in[i]);
	}
	out[n] = '\0';
}

static int check_pages(const struct frame *f, const struct frame_shape *shape, struct err *e)
{
	if (f->region >= shape->nregions)
		return err_set(e, ERANGE, "%s speaks of region %u of %u", frame_type_name[f->type],
			       f->region, shape->nregions);
	if (!f->npages || f->npages > FRAME_RUN_PAGES)
		return err_set(e, EBADMSG, "%s speaks of %u pages (1 to %d are allowed)",
			       frame_type_name[f->type], f->npages, FRAME_RUN_PAGES);
	if (f->first_pg >= shape->npages[f->region] ||
	    f->npages > shape->npages[f->region] - f->first_pg)
		return err_set(
			e, ERANGE,
			"%s speaks of pages %llu+%u beyond the end of region %u (%llu pages)",
			frame_type_name[f->type], (unsigned long long)f->first_pg, f->npages,
			f->region, (unsigned long long)shape->npages[f->region]);
	return 0;
}

static int check_len(const struct frame *f, const struct frame_shape *shape, struct err *e)
{
	enum body body = rule[f->type].body;
	uint64_t want = 0;

	if (f->len_bytes > FRAME_PAYLOAD_BYTES)
		return err_set(e, EBADMSG, "%s announces %u bytes (at most %d are allowed)",
			       frame_type_name[f->type], f->len_bytes, FRAME_PAYLOAD_BYTES);
	if (body == BODY_ANY)
		return 0;
	if (body == BODY_PAGES)
		want = (uint64_t)f->npages * shape->page_bytes[f->region];
	if (f->len_bytes != want)
		return err_set(e, EBADMSG, "%s has a payload of %u bytes where %llu belong",
			       frame_type_name[f->type], f->len_bytes, (unsigned long long)want);
	return 0;
}

int frame_get(struct frame *ret_f, const uint8_t head[FRAME_HEAD_BYTES],
	      const struct frame_shape *shape, struct err *e)
{
	struct frame f;
	int rc;

	if (memcmp(head + AT_MAGIC, magic, sizeof(magic)) != 0) {
		char seen[64];

		printable(seen, sizeof(seen), head, 12);
		return err_set(e, EPROTO, "the peer is not umig (it says \"%s\")", seen);
	}
	if (head[AT_VERSION] != FRAME_VERSION)
		return err_set(e, EPROTONOSUPPORT,
			       "the peer speaks protocol version %u, this umig %d: "
			       "install the same umig on both hosts",
			       head[AT_VERSION], FRAME_VERSION);
	if (head[AT_TYPE] == 0 || head[AT_TYPE] >= FRAME_NTYPES)
		return err_set(e, EBADMSG, "a frame of unknown type %u", head[AT_TYPE]);
	f = (struct frame){ .type = head[AT_TYPE],
			    .flags = get_u16(head + AT_FLAGS),
			    .region = get_u32(head + AT_REGION),
			    .epoch = get_u32(head + AT_EPOCH),
			    .first_pg = get_u64(head + AT_FIRST_PG),
			    .npages = get_u32(head + AT_NPAGES),
			    .len_bytes = get_u32(head + AT_LEN),
			    .cookie = get_u64(head + AT_COOKIE),
			    .check = get_u64(head + AT_CHECK) };
	if (f.flags & ~FRAME_FLAGS_ALL || get_u64(head + AT_RESERVED) ||
	    get_u64(head + AT_RESERVED + 8))
		return err_set(e, EBADMSG, "%s sets bits that this version does not know",
			       frame_type_name[f.type]);
	if (rule[f.type].has_pages) {
		rc = check_pages(&f, shape, e);
		if (rc < 0)
			return rc;
	}
	rc = check_len(&f, shape, e);
	if (rc < 0)
		return rc;
	*ret_f = f;
	return 0;
}

uint64_t frame_page_sum(uint32_t region, uint64_t pg, const void *page, uint32_t page_bytes)
{
	/* The factor is odd, so that no bit of the hash is lost, and differs from place to place,
	 * so that a page that lands elsewhere is noticed. */
	uint64_t place = (pg << 7 | region) * 0x9e3779b97f4a7c15ull;

	place = (place ^ place >> 32) * 0xd6e8feb86659fd93ull;
	return XXH3_64bits(page, page_bytes) * ((place ^ place >> 32) | 1);
}

uint64_t frame_sum(const struct frame *f, const void *payload)
{
	const uint8_t *page = payload;
	uint32_t page_bytes;
	uint64_t sum = 0;

	if (f->type != FRAME_PAGES)
		return f->len_bytes ? XXH3_64bits(payload, f->len_bytes) : 0;
	page_bytes = f->len_bytes / f->npages;
	for (uint32_t i = 0; i < f->npages; i++, page += page_bytes)
		sum += frame_page_sum(f->region, f->first_pg + i, page, page_bytes);
	return sum;
}
