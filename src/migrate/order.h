/* SPDX-License-Identifier: MIT */
/* Which page next: what the source has not sent, and where the background goes on. No I/O in here,
 * so that a policy can be simulated and tested. Any thread may call.
 */
#ifndef UMIG_MIGRATE_ORDER_H
#define UMIG_MIGRATE_ORDER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migrate/window.h"
#include "util/bitmap.h"

enum { ORDER_REGIONS_MAX = 64, ORDER_RUN_PAGES = 64 };

struct order_options {
	bool no_background;   /* -n: only what is asked for */
	bool move_background; /* -m: the background goes on where the last fault was */
	struct window_options window;
};

/* What the background is given. Hot is what has been written lately. */
enum order_turn {
	ORDER_ALL,
	ORDER_COLD,	 /* hot pages stay unsent: they would be sent again anyway */
	ORDER_HOT_FIRST, /* hot pages are wanted next; then all */
};

struct order {
	unsigned int nregions;
	uint64_t npages[ORDER_REGIONS_MAX];
	struct bitmap unsent[ORDER_REGIONS_MAX]; /* a set bit goes to exactly one sender */
	struct bitmap
		via_bulk[ORDER_REGIONS_MAX]; /* sent, but on a connection where it may queue */
	struct bitmap hot[ORDER_REGIONS_MAX];
	struct order_options options;
	_Atomic int turn; /* enum order_turn */
	_Atomic uint64_t left_pages;
	pthread_mutex_t cursor_lock; /* Lock of the next two */
	unsigned int cursor_region;
	uint64_t cursor_pg;
};

/* Up to 64 pages of one region that this caller must send now. */
struct order_run {
	uint32_t region;
	uint64_t first_pg;
	uint64_t mask; /* bit 0: first_pg */
};

/* Returns 0 or -ENOMEM. */
int order_init(struct order *o, unsigned int nregions, const uint64_t *npages,
	       const struct order_options *options);
void order_fini(struct order *o);

/* These pages exist and are unsent, some of them perhaps already. Beside no sender. */
void order_add(struct order *o, uint32_t region, uint64_t first_pg, uint64_t npages);

/* Nothing is unsent any more; what has not arrived comes back. No other thread may use o. */
void order_forget(struct order *o);
/* These were sent and have not arrived, or were never sent. */
void order_return(struct order *o, uint32_t region, uint64_t first_pg, uint64_t npages);

/* All that was sent has arrived: nothing may still queue. Beside no sender. */
void order_settled(struct order *o);

/* The next unsent pages at or behind *from_pg; *from_pg becomes their end. False: there are none.
 * Beside no sender. */
bool order_next_unsent(struct order *o, uint32_t region, uint64_t *from_pg, uint64_t *ret_first_pg,
		       uint64_t *ret_npages);

/* These are hot. Any thread. */
void order_heat(struct order *o, uint32_t region, uint64_t first_pg, uint64_t npages);
/* Nothing is hot. Beside no sender. */
void order_cool(struct order *o);
/* Beside no sender. */
void order_set_turn(struct order *o, enum order_turn turn);

/* The next run for the background, marked as sent by it. False: it is given nothing more. */
bool order_background(struct order *o, struct order_run *ret_run);

/* What must be sent at once for a request: what of it is unsent, or was sent where it may still
 * queue. Clears the latter mark: the same page is not sent urgently twice. mask may come back 0. */
void order_request(struct order *o, uint32_t region, uint64_t first_pg, uint32_t npages,
		   struct order_run *ret_run);

/* The next piece of w, as far as it is unsent, marked as sent. False: nothing of it is left. */
bool order_window(struct order *o, struct window *w, struct order_run *ret_run);

#endif
