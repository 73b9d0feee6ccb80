/* SPDX-License-Identifier: MIT */
#include "migrate/window.h"

#include <stdlib.h>

#include "util/util.h"

/* A walk is taken up again so far behind what was sent: the background may have been there. */
enum { SLACK_PAGES = 32, FIRST_PLACES = 8, LONG_TURNS = 256 };

void windows_init(struct windows *w, const struct window_options *options)
{
	*w = (struct windows){ .options = *options };
}

bool window_next(struct window *w, uint64_t *ret_first_pg, uint64_t *ret_pages)
{
	if (!w->npieces && w->then_pieces) {
		w->npieces = w->then_pieces;
		w->then_pieces = 0;
		w->first_pg -= w->npieces * (uint64_t)w->step_pages;
		w->piece_pages = WINDOW_PIECE_PAGES;
	}
	if (!w->npieces)
		return false;
	*ret_first_pg = w->first_pg;
	*ret_pages = min_u64(w->end_pg - w->first_pg, w->piece_pages);
	w->first_pg += (uint64_t)w->step_pages;
	w->npieces--;
	return true;
}

/* [from, end) in whole pieces. */
static struct window contiguous(uint32_t region, uint64_t from_pg, uint64_t end_pg)
{
	return (struct window){ .region = region,
				.piece_pages = WINDOW_PIECE_PAGES,
				.npieces = (end_pg - from_pg + WINDOW_PIECE_PAGES - 1) /
					   WINDOW_PIECE_PAGES,
				.first_pg = from_pg,
				.end_pg = end_pg,
				.step_pages = WINDOW_PIECE_PAGES };
}

/* Whole pieces below end_pg, the nearest first. */
static struct window downwards(uint32_t region, uint64_t end_pg, uint64_t most_pages)
{
	return (struct window){ .region = region,
				.piece_pages = WINDOW_PIECE_PAGES,
				.npieces = min_u64(end_pg, most_pages) / WINDOW_PIECE_PAGES,
				.first_pg = end_pg - WINDOW_PIECE_PAGES,
				.end_pg = end_pg,
				.step_pages = -WINDOW_PIECE_PAGES };
}

static uint64_t ahead_pages(const struct window_stream *s)
{
	uint64_t pages = WINDOW_PAGES;

	for (unsigned int i = 0; i < s->hits && pages < WINDOW_PAGES_MAX; i++)
		pages *= 2;
	return pages;
}

static uint64_t ahead_places(const struct window_stream *s)
{
	uint64_t places = FIRST_PLACES;

	for (unsigned int i = 1; i < s->hits && places < WINDOW_PLACES_MAX; i++)
		places *= 2;
	return places;
}

enum walk { WALK_UP, WALK_DOWN, WALK_STRIDE, WALK_NONE };

/* How does this request go on with s? */
static enum walk goes_on(const struct window_stream *s, uint64_t first_pg)
{
	int64_t moved = (int64_t)(first_pg - s->asked_pg);

	if (first_pg >= s->end_pg && first_pg - s->end_pg <= SLACK_PAGES)
		return WALK_UP;
	if (first_pg < s->low_pg && s->low_pg - first_pg <= SLACK_PAGES)
		return WALK_DOWN;
	if (s->step_pages && moved % s->step_pages == 0 && moved / s->step_pages > 0 &&
	    (uint64_t)(moved / s->step_pages) <= s->places + 2)
		return WALK_STRIDE;
	return WALK_NONE;
}

/* One that leads nowhere makes room before one that leads somewhere; else the older one. */
static bool makes_room_before(const struct window_stream *a, const struct window_stream *b)
{
	return !a->hits == !b->hits ? a->turn < b->turn : !a->hits;
}

/* For a walk that begins. One that was not used for long leads nowhere any more. */
static struct window_stream *make_room(struct windows *w)
{
	struct window_stream *best = &w->stream[0];

	for (unsigned int i = 0; i < WINDOW_STREAMS; i++) {
		struct window_stream *s = &w->stream[i];

		if (s->hits && w->turn - s->turn > LONG_TURNS)
			s->hits = 0;
		if (makes_room_before(s, best))
			best = s;
	}
	return best;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

/* The walk that this request goes on with; else a new one, whose first step may have been from the
 * nearest. */
static struct window_stream *find(struct windows *w, uint32_t region, uint64_t first_pg,
				  enum walk *ret_walk)
{
	const struct window_stream *nearest = NULL;
	struct window_stream *room;
	int64_t step_pages;

	for (unsigned int i = 0; i < WINDOW_STREAMS; i++) {
		struct window_stream *s = &w->stream[i];

		if (!s->turn || s->region != region)
			continue;
		*ret_walk = goes_on(s, first_pg);
		if (*ret_walk != WALK_NONE) {
			s->hits++;
			return s;
		}
		if (!nearest ||
		    distance(s->asked_pg, first_pg) < distance(nearest->asked_pg, first_pg))
			nearest = s;
	}
	*ret_walk = WALK_NONE;
	step_pages = nearest ? (int64_t)(first_pg - nearest->asked_pg) : 0;
	room = make_room(w); /* perhaps that one */
	*room = (struct window_stream){ .region = region, .step_pages = step_pages };
	return room;
}

/* The next places, as long as they are in the region; then their surroundings, for the next round.
 */
static struct window strides(const struct window_stream *s, uint64_t region_pages,
			     uint64_t first_pg, uint32_t npages)
{
	bool up = s->step_pages >= 0;
	uint64_t step = (uint64_t)llabs(s->step_pages), /* not 0: goes_on() has seen to it */
		room = step ? (up ? region_pages - 1 - first_pg : first_pg) / step : 0,
		 places = min_u64(ahead_places(s), room);

	return (struct window){ .region = s->region,
				.piece_pages = npages,
				.npieces = places,
				.first_pg = first_pg + (uint64_t)s->step_pages,
				.end_pg = region_pages,
				.step_pages = s->step_pages,
				.then_pieces = places };
}

static struct window fixed(const struct window_options *o, uint32_t region, uint64_t region_pages,
			   uint64_t first_pg, uint32_t npages)
{
	return contiguous(region, first_pg - min_u64(first_pg, o->backward_pages),
			  min_u64(first_pg + npages + o->forward_pages, region_pages));
}

/* The aligned pages around. */
static struct window surroundings(uint32_t region, uint64_t region_pages, uint64_t first_pg,
				  uint32_t npages)
{
	return contiguous(region, first_pg / WINDOW_PAGES * WINDOW_PAGES,
			  min_u64(round_up_u64(first_pg + npages, WINDOW_PAGES), region_pages));
}

/* Up to here it goes on, and not as it was expected. */
static void note_sent(struct window_stream *s, const struct window *w, uint64_t first_pg,
		      uint32_t npages)
{
	bool apart = w->step_pages != WINDOW_PIECE_PAGES && w->step_pages != -WINDOW_PIECE_PAGES;
	uint64_t last_pg = w->first_pg + (uint64_t)(w->step_pages * (int64_t)(w->npieces - 1));

	s->places = apart ? w->npieces : 0;
	s->low_pg = apart ? first_pg : min_u64(w->first_pg, last_pg);
	s->end_pg = apart ? first_pg + npages : w->end_pg;
}

void window_plan(struct windows *w, uint32_t region, uint64_t region_pages, uint64_t first_pg,
		 uint32_t npages, struct window *ret_window)
{
	struct window_stream *s;
	enum walk walk;

	if (w->options.fixed) {
		*ret_window = fixed(&w->options, region, region_pages, first_pg, npages);
		return;
	}
	s = find(w, region, first_pg, &walk);
	if (walk == WALK_UP)
		*ret_window = contiguous(region, first_pg,
					 min_u64(first_pg + ahead_pages(s), region_pages));
	else if (walk == WALK_DOWN && first_pg + npages >= WINDOW_PIECE_PAGES)
		*ret_window = downwards(region, first_pg + npages, ahead_pages(s));
	else if (walk == WALK_STRIDE)
		*ret_window = strides(s, region_pages, first_pg, npages);
	else
		*ret_window = surroundings(region, region_pages, first_pg, npages);
	s->asked_pg = first_pg;
	note_sent(s, ret_window, first_pg, npages);
	s->turn = ++w->turn;
}
