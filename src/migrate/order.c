/* SPDX-License-Identifier: MIT */
#include "migrate/order.h"

#include <assert.h>
#include <errno.h>

#include "util/mask.h"
#include "util/util.h"

int order_init(struct order *o, unsigned int nregions, const uint64_t *npages,
	       const struct order_options *options)
{
	*o = (struct order){ .nregions = nregions, .options = *options };
	pthread_mutex_init(&o->cursor_lock, NULL);
	for (unsigned int i = 0; i < nregions; i++) {
		o->npages[i] = npages[i];
		/* A word more: masks of 64 pages may reach over the end. */
		if (bitmap_init(&o->unsent[i], npages[i] + 64) < 0 ||
		    bitmap_init(&o->via_bulk[i], npages[i] + 64) < 0 ||
		    bitmap_init(&o->hot[i], npages[i] + 64) < 0) {
			order_fini(o);
			return -ENOMEM;
		}
	}
	return 0;
}

void order_fini(struct order *o)
{
	for (unsigned int i = 0; i < o->nregions; i++) {
		bitmap_fini(&o->unsent[i]);
		bitmap_fini(&o->via_bulk[i]);
		bitmap_fini(&o->hot[i]);
	}
	pthread_mutex_destroy(&o->cursor_lock);
	o->nregions = 0;
}

static uint64_t count_unsent(const struct order *o, uint32_t region, uint64_t first_pg,
			     uint64_t npages)
{
	uint64_t n = 0, end_pg = first_pg + npages;

	for (uint64_t pg = first_pg; pg < end_pg; pg += 64)
		n += (uint64_t)__builtin_popcountll(
			bitmap_get(&o->unsent[region], pg, mask_of(min_u64(end_pg - pg, 64))));
	return n;
}

void order_add(struct order *o, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	assert(first_pg + npages <= o->npages[region]);
	atomic_fetch_add(&o->left_pages, npages - count_unsent(o, region, first_pg, npages));
	bitmap_set_range(&o->unsent[region], first_pg, npages);
}

void order_forget(struct order *o)
{
	for (unsigned int i = 0; i < o->nregions; i++) {
		bitmap_clear(&o->unsent[i]);
		bitmap_clear(&o->via_bulk[i]);
	}
	atomic_store(&o->left_pages, 0);
}

void order_settled(struct order *o)
{
	for (unsigned int i = 0; i < o->nregions; i++)
		bitmap_clear(&o->via_bulk[i]);
}

bool order_next_unsent(struct order *o, uint32_t region, uint64_t *from_pg, uint64_t *ret_first_pg,
		       uint64_t *ret_npages)
{
	return bitmap_next_run(&o->unsent[region], from_pg, ret_first_pg, ret_npages);
}

void order_return(struct order *o, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	assert(first_pg + npages <= o->npages[region]);
	bitmap_set_range(&o->unsent[region], first_pg, npages);
	atomic_fetch_add(&o->left_pages, npages);
}

static uint64_t take(struct order *o, uint32_t region, uint64_t first_pg, uint64_t mask)
{
	uint64_t got = bitmap_take(&o->unsent[region], first_pg, mask);

	atomic_fetch_sub(&o->left_pages, (uint64_t)__builtin_popcountll(got));
	return got;
}

static void mark_bulk(struct order *o, const struct order_run *run)
{
	uint64_t mask = run->mask;
	unsigned int at, len;

	while (mask_cut(&mask, &at, &len))
		bitmap_set_range(&o->via_bulk[run->region], run->first_pg + at, len);
}

void order_heat(struct order *o, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	assert(first_pg + npages <= o->npages[region]);
	bitmap_set_range(&o->hot[region], first_pg, npages);
}

void order_cool(struct order *o)
{
	for (unsigned int i = 0; i < o->nregions; i++)
		bitmap_clear(&o->hot[i]);
}

void order_set_turn(struct order *o, enum order_turn turn)
{
	atomic_store(&o->turn, turn);
	if (turn != ORDER_HOT_FIRST)
		return;
	pthread_mutex_lock(&o->cursor_lock);
	o->cursor_region = 0;
	o->cursor_pg = 0;
	pthread_mutex_unlock(&o->cursor_lock);
}

/* The first bit of map at or behind pg that is not in without; NULL: in any case. */
static uint64_t next_without(struct bitmap *map, const struct bitmap *without, uint64_t pg)
{
	while ((pg = bitmap_next(map, pg)) != BITMAP_NONE) {
		uint64_t mask = bitmap_get(map, pg, ~0ull);

		if (without)
			mask &= ~bitmap_get(without, pg, ~0ull);
		if (mask)
			return pg + (uint64_t)__builtin_ctzll(mask);
		pg += 64;
	}
	return BITMAP_NONE;
}

/* Under cursor_lock: moves the cursor to the first such bit at or behind it, going around once. */
static bool find(struct order *o, struct bitmap *map, const struct bitmap *without)
{
	for (unsigned int tried = 0; tried <= o->nregions; tried++) {
		unsigned int r = o->cursor_region;
		uint64_t pg = next_without(&map[r], without ? &without[r] : NULL, o->cursor_pg);

		if (pg != BITMAP_NONE) {
			o->cursor_pg = pg;
			return true;
		}
		o->cursor_region = (r + 1) % o->nregions;
		o->cursor_pg = 0;
	}
	return false;
}

/* Under cursor_lock: up to 64 pages from the cursor that may be unsent, and moves it behind them.
 */
static bool find_some(struct order *o, struct order_run *run)
{
	int turn = atomic_load(&o->turn);
	bool hot = turn == ORDER_HOT_FIRST && find(o, o->hot, NULL);

	if (turn == ORDER_HOT_FIRST && !hot)
		atomic_store(&o->turn, ORDER_ALL);
	if (!hot && !find(o, o->unsent, turn == ORDER_COLD ? o->hot : NULL))
		return false;
	*run = (struct order_run){ o->cursor_region, o->cursor_pg, ~0ull };
	if (hot)
		run->mask = bitmap_take(&o->hot[run->region], run->first_pg, ~0ull);
	else if (turn == ORDER_COLD)
		run->mask = ~bitmap_get(&o->hot[run->region], run->first_pg, ~0ull);
	o->cursor_pg += ORDER_RUN_PAGES;
	return true;
}

bool order_background(struct order *o, struct order_run *ret_run)
{
	struct order_run run = { 0 };

	while (!run.mask) {
		bool found;

		pthread_mutex_lock(&o->cursor_lock);
		found = atomic_load(&o->left_pages) && find_some(o, &run);
		pthread_mutex_unlock(&o->cursor_lock);
		if (!found)
			return false;
		run.mask = take(o, run.region, run.first_pg, /* may have been asked for just now */
				run.mask);
	}
	mark_bulk(o, &run);
	*ret_run = run;
	return true;
}

void order_request(struct order *o, uint32_t region, uint64_t first_pg, uint32_t npages,
		   struct order_run *ret_run)
{
	uint64_t mask = mask_of(npages);

	*ret_run = (struct order_run){ .region = region, .first_pg = first_pg };
	ret_run->mask =
		take(o, region, first_pg, mask) | bitmap_take(&o->via_bulk[region], first_pg, mask);
	if (!o->options.move_background)
		return;
	pthread_mutex_lock(&o->cursor_lock);
	o->cursor_region = region;
	o->cursor_pg = first_pg;
	pthread_mutex_unlock(&o->cursor_lock);
}

bool order_window(struct order *o, struct window *w, struct order_run *ret_run)
{
	uint64_t pages;

	*ret_run = (struct order_run){ .region = w->region };
	while (window_next(w, &ret_run->first_pg, &pages)) {
		ret_run->mask = take(o, w->region, ret_run->first_pg, mask_of(pages));
		if (ret_run->mask)
			return true;
	}
	return false;
}
