/* SPDX-License-Identifier: MIT */
/* Frames: a fixed header of 64 bytes, little endian, and a payload. docs/protocol.md is the
 * standard.
 *
 * Pure functions over buffers. What comes from a peer is checked here once, and never again inside.
 */
#ifndef UMIG_WIRE_FRAME_H
#define UMIG_WIRE_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

enum {
	FRAME_HEAD_BYTES = 64,
	FRAME_VERSION = 1,
	FRAME_RUN_PAGES = 64,		       /* most pages one frame speaks of */
	FRAME_PAYLOAD_BYTES = 2 * 1024 * 1024, /* most bytes of payload: one huge page */
	FRAME_RUN_BYTES = 256 * 1024,	       /* most bytes of several pages in a frame */
};

enum frame_type {
	FRAME_HELLO = 1,  /* source: who I am; every connection opens with it */
	FRAME_HELLO_OK,	  /* destination: token, features */
	FRAME_ADVISE,	  /* source: regions, machine, run state */
	FRAME_ADVISE_OK,  /* destination: nothing of what can fail later will */
	FRAME_REFUSED,	  /* destination: no, and why (text); its VM does not run and never will */
	FRAME_EXTENTS,	  /* source: pages it has in a region */
	FRAME_DISCARD,	  /* source: those were all; begin this epoch empty */
	FRAME_DISCARD_OK, /* destination: emptied and verified */
	FRAME_DEVICE,	  /* source: device state, in pieces */
	FRAME_DEVICE_OK,  /* destination: loaded */
	FRAME_RUN,	  /* source: committed; the VM is yours */
	FRAME_RAN,	  /* destination: it runs here */
	FRAME_REQUEST,	  /* destination: a vCPU waits for these pages (urgent) */
	FRAME_PAGES,	  /* source: pages (urgent, bulk) */
	FRAME_ZERO,	  /* source: pages that hold zeros (urgent, bulk) */
	FRAME_MARK,	  /* source: end of the pass on this connection (urgent, bulk) */
	FRAME_END,	  /* source: all is sent; sums over what was sent */
	FRAME_END_OK,	  /* destination: every page accounted for */
	FRAME_FAILED,	  /* destination: it owns the VM, and something is wrong (text); never a way
			     back */
	FRAME_CANCEL,	  /* source: back, before RUN (text) */
	FRAME_RESUME,	  /* source: the link broke; what do you lack? Opens this epoch */
	FRAME_RESUME_OK,  /* destination: those were all. CONT: it has run the VM */
	FRAME_BYE,	  /* source: has heard END_OK; destination: has heard that. Both may go */
	FRAME_ALIVE,	  /* either: nothing to say, but here (control, urgent) */
	FRAME_PASS,	  /* source: opens this epoch while its VM runs. LAST: there are no more */
	FRAME_PASS_OK,	  /* destination: it is open; all of it has arrived as it was sent */
	FRAME_PASS_END,	  /* source: marks are sent; sum over this epoch */
	FRAME_NTYPES
};

enum frame_flag {
	FRAME_LAST = 1 << 0,	  /* DEVICE: last piece; FAILED: its VMM is dead */
	FRAME_CONT = 1 << 1,	  /* RUN: the VM ran before it was stopped */
	FRAME_REHEARSAL = 1 << 2, /* HELLO: RUN will not come */
	FRAME_REQUESTED = 1 << 3, /* PAGES, ZERO: answers the request of this cookie */
	FRAME_AGAIN = 1 << 4,	  /* HELLO: of a migration whose link broke */
	FRAME_PASSES = 1 << 5,	  /* ADVISE: PASS comes before DISCARD */
	FRAME_STALE = 1 << 6,	  /* EXTENTS: what of it has come is no longer right */
	FRAME_FLAGS_ALL = (1 << 7) - 1,
};

struct frame {
	enum frame_type type;
	uint16_t flags;
	uint32_t region;
	uint32_t epoch;
	uint64_t first_pg;
	uint32_t npages;
	uint32_t len_bytes; /* of the payload */
	uint64_t cookie;    /* REQUEST: clock of the destination; PAGES and ZERO give it back */
	uint64_t check;	    /* set by frame_get(): what frame_verify() compares */
};

extern const char *const frame_type_name[FRAME_NTYPES];

/* The shape of the peer's memory, as agreed in ADVISE; nregions == 0 before that. */
struct frame_shape {
	uint32_t nregions;
	const uint64_t *npages;	    /* [nregions] */
	const uint32_t *page_bytes; /* [nregions] */
};

/* Writes the header of *f for a payload whose sum is payload_sum (frame_sum()). */
void frame_put(uint8_t head[FRAME_HEAD_BYTES], const struct frame *f, uint64_t payload_sum);

/* Reads a header and checks all of it but the sum. -EPROTO: not umig; -EPROTONOSUPPORT: other
 * version; -EBADMSG: lengths or fields that cannot be; -ERANGE: unknown region or beyond its end.
 */
int frame_get(struct frame *ret_f, const uint8_t head[FRAME_HEAD_BYTES],
	      const struct frame_shape *shape, struct err *e);

/* The sum of a payload. For PAGES it is the sum of frame_page_sum() over its pages, so that both
 * ends can add up what a whole move sent and placed. */
uint64_t frame_sum(const struct frame *f, const void *payload);
uint64_t frame_page_sum(uint32_t region, uint64_t pg, const void *page, uint32_t page_bytes);

/* Does the header belong to a payload of this sum? */
bool frame_verify(const struct frame *f, const uint8_t head[FRAME_HEAD_BYTES],
		  uint64_t payload_sum);

#endif
