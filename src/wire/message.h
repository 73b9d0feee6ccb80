/* SPDX-License-Identifier: MIT */
/* What stands in the payloads of control frames. Little endian; docs/protocol.md is the standard.
 * Encode: returns the bytes written (room is the caller's promise). Decode: 0 or -errno and a
 * sentence.
 */
#ifndef UMIG_WIRE_MESSAGE_H
#define UMIG_WIRE_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

enum {
	WIRE_SESSION_BYTES = 16,
	WIRE_NAME_BYTES = 64,
	WIRE_REGIONS_MAX = 64,
	WIRE_TEXT_MAX = 32768,
	WIRE_BULK_MAX = 8,
};

enum channel_role { ROLE_CONTROL, ROLE_URGENT, ROLE_BULK, ROLE_NROLES };

/* Features are bits that both ends must know to use. None is defined in version 1. */
struct hello {
	uint8_t session[WIRE_SESSION_BYTES]; /* drawn by the source; names this migration */
	uint8_t token[WIRE_SESSION_BYTES];   /* drawn by the destination in HELLO_OK, shown by every
						JOIN */
	uint32_t role;			     /* enum channel_role */
	uint32_t index;			     /* of a bulk connection */
	uint32_t nbulk;			     /* how many the source will open */
	uint64_t features;
	char name[WIRE_NAME_BYTES]; /* of the VM at the sender, for the log */
	bool rehearsal, again;	    /* flags of the frame, not of the payload */
};

struct advised_region {
	char name[WIRE_NAME_BYTES];
	uint64_t size_bytes;
	uint64_t populated_bytes;
	uint32_t page_bytes;
	uint32_t kind; /* enum region_kind of the source, for the log */
};

struct advise {
	uint32_t nregions;
	struct advised_region region[WIRE_REGIONS_MAX];
	const char *machine; /* the VMM adapter's own words; decode: points into the payload, not
				ended by NUL */
	uint32_t machine_bytes;
};

struct extent {
	uint64_t first_pg;
	uint64_t npages;
};
enum { EXTENT_BYTES = 16, EXTENTS_PER_FRAME = 4096 };

struct ending {
	uint64_t page_sum; /* sum of frame_page_sum() over all pages sent in this epoch */
	uint64_t sent_pages;
	uint64_t zero_pages;
};

enum {
	HELLO_BYTES = 2 * WIRE_SESSION_BYTES + 24 + WIRE_NAME_BYTES,
	ADVISED_REGION_BYTES = WIRE_NAME_BYTES + 24,
	ADVISE_BYTES_MAX = 8 + WIRE_REGIONS_MAX * ADVISED_REGION_BYTES + WIRE_TEXT_MAX,
	ENDING_BYTES = 24,
};

/* A sentence of the peer, fit for a terminal, a log and JSON: what is not printable ASCII becomes
 * '?'. */
void text_get(char *out, size_t room_bytes, const uint8_t *buf, size_t len_bytes);

size_t hello_put(uint8_t *buf, const struct hello *m);
int hello_get(struct hello *ret_m, const uint8_t *buf, size_t len_bytes, struct err *e);

size_t advise_put(uint8_t *buf, const struct advise *m);
int advise_get(struct advise *ret_m, const uint8_t *buf, size_t len_bytes, struct err *e);

void extent_put(uint8_t *buf, const struct extent *m);
/* The i-th extent of a payload; checked against the region's size and to lie behind *end_pg, which
 * moves. */
int extent_get(struct extent *ret_m, const uint8_t *buf, uint64_t region_npages, uint64_t *end_pg,
	       struct err *e);

size_t ending_put(uint8_t *buf, const struct ending *m);
int ending_get(struct ending *ret_m, const uint8_t *buf, size_t len_bytes, struct err *e);

#endif
