/* SPDX-License-Identifier: MIT */
/* What is sent along with a page that was asked for, because it will be wanted next. Learns from
 * the requests: a guest that goes through memory gets ever more of what lies ahead, one that goes
 * in strides gets the next places, any other one the surroundings. No I/O in here, so that it can
 * be simulated. One thread.
 */
#ifndef UMIG_MIGRATE_WINDOW_H
#define UMIG_MIGRATE_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

enum {
	WINDOW_STREAMS = 16,
	WINDOW_PIECE_PAGES =
		64, /* sent in one go: fewer is worse for the slowest (docs/performance.md) */
	WINDOW_PAGES = 64,	 /* around a page, if nothing else is known */
	WINDOW_PAGES_MAX = 2048, /* ahead of a guest that goes through memory */
	WINDOW_PLACES_MAX = 64,	 /* ahead of one that goes in strides */
};

struct window_options {
	bool fixed; /* always so many behind and before */
	uint32_t forward_pages, backward_pages;
};

/* Pieces that are left: [first_pg, first_pg + piece_pages), the next one step_pages further. */
struct window {
	uint32_t region;
	uint32_t piece_pages; /* at most 64 */
	uint64_t npieces;
	uint64_t first_pg, end_pg; /* no piece reaches over end_pg */
	int64_t step_pages;
	uint64_t then_pieces; /* so many of these once more, with 64 pages at each */
};

/* One walk through memory, as far as it is known. */
struct window_stream {
	uint32_t region;
	uint64_t asked_pg;	 /* last */
	uint64_t low_pg, end_pg; /* sent along then */
	int64_t step_pages;	 /* from a request before to this one */
	uint64_t places;	 /* that were sent ahead in strides */
	unsigned int hits;	 /* requests that came as expected, one after the other */
	uint64_t turn;		 /* when it was used; 0: never */
};

struct windows {
	struct window_options options;
	uint64_t turn;
	struct window_stream stream[WINDOW_STREAMS];
};

/* The pages of the next piece: *ret_pages of them, at most 64. False: nothing is left. */
bool window_next(struct window *w, uint64_t *ret_first_pg, uint64_t *ret_pages);

void windows_init(struct windows *w, const struct window_options *options);

/* npages at first_pg were asked for, of a region that has region_pages. */
void window_plan(struct windows *w, uint32_t region, uint64_t region_pages, uint64_t first_pg,
		 uint32_t npages, struct window *ret_window);

#endif
