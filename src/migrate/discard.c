/* SPDX-License-Identifier: MIT */
/* PRECOPY and DISCARD at the destination: what comes while the machine runs at its source, and what
 * of it is kept when it has stopped. */
#include "migrate/dest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/mask.h"
#include "util/util.h"

enum { SETTLE_MS = 5000 }; /* less than the source waits for DISCARD_OK */

/* Nothing of an epoch before is taken from here on; its sum and its marks begin at nothing. */
static int open_epoch(struct dest *d, const struct frame *f, struct err *e)
{
	if (f->epoch <= atomic_load(&d->epoch))
		return err_set(e, EPROTO, "%s opens epoch %u, which is over",
			       frame_type_name[f->type], f->epoch);
	atomic_store(&d->marks, 0);
	atomic_store(&d->page_sum, 0);
	atomic_store(&d->epoch, f->epoch);
	return 0;
}

/* Until all of it is here. */
static int take_pass(struct dest *d, struct err *e)
{
	struct ending m = { 0 };
	const uint8_t *payload;
	struct frame f;
	int rc = dest_expect(d, FRAME_PASS_END, &f, &payload, e);

	if (!rc)
		rc = ending_get(&m, payload, f.len_bytes, e);
	if (!rc)
		rc = dest_wait_marks(d, d->nbulk, e);
	if (!rc && m.page_sum != atomic_load(&d->page_sum))
		rc = err_set(
			e, EBADMSG,
			"memory was damaged on its way: what was placed is not what was sent (sums %016llx and %016llx)",
			(unsigned long long)atomic_load(&d->page_sum),
			(unsigned long long)m.page_sum);
	return rc ? rc : dest_tell(d, FRAME_PASS_OK, NULL, e);
}

static uint64_t count_data(const struct page_map *m, const struct extent *x)
{
	uint64_t n = 0;

	for (uint64_t at = 0; at < x->npages; at += 64)
		n += (uint64_t)__builtin_popcountll(page_test(
			m, PAGE_DATA, x->first_pg + at, mask_of(min_u64(x->npages - at, 64))));
	return n;
}

static int forget_stale(struct dest *d, struct region *r, const struct extent *x, struct err *e)
{
	int rc = region_forget(r, x->first_pg, x->npages);

	d->stale_pages += count_data(r->pages, x);
	return rc < 0 ? err_set(e, -rc, "region %s: empty pages that are stale: %s", r->name,
				strerror(-rc))
		      : 0;
}

/* What has not arrived must be what the source said it would send again: while it still has the VM.
 */
static int check_passes(struct dest *d, struct err *e)
{
	uint64_t missing = 0;

	for (unsigned int i = 0; i < d->umem.nregions; i++) {
		struct page_tally t;

		page_tally(d->umem.region[i].pages, &t);
		missing += t.missing;
	}
	if (missing <= d->stale_pages) /* some have been asked for, and have come, already */
		return 0;
	return err_set(e, EBADMSG,
		       "memory is not complete: %llu page%s of the passes never arrived",
		       (unsigned long long)(missing - d->stale_pages),
		       missing - d->stale_pages == 1 ? "" : "s");
}

static int note_extents(struct dest *d, const struct frame *f, const uint8_t *payload,
			struct err *e)
{
	uint64_t end_pg = 0;
	struct extent x;

	if (f->region >= d->config.nregions || f->len_bytes % EXTENT_BYTES)
		return err_set(e, EBADMSG, "EXTENTS of region %u with %u bytes cannot be",
			       f->region, f->len_bytes);
	if (f->flags & FRAME_STALE && !d->passes)
		return err_set(e, EPROTO, "EXTENTS of stale pages, and no passes were made");
	for (uint32_t at = 0; at < f->len_bytes; at += EXTENT_BYTES) {
		int rc = extent_get(&x, payload + at, d->npages[f->region], &end_pg, e);

		if (rc < 0)
			return rc;
		if (f->flags & FRAME_STALE)
			rc = forget_stale(d, &d->umem.region[f->region], &x, e);
		else
			page_set_data(d->umem.region[f->region].pages, x.first_pg, x.npages);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* What the source will not send again before it stops is emptied before it stops. */
static int take_stale(struct dest *d, const struct frame *f, const uint8_t *payload, struct err *e)
{
	int rc = f->flags & FRAME_STALE ? note_extents(d, f, payload, e)
					: dest_out_of_order(f, "PASS", e);

	return rc || !(f->flags & FRAME_LAST) ? rc : dest_tell(d, FRAME_PASS_OK, NULL, e);
}

int dest_precopy(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	bool over = !d->passes;
	struct frame f;
	int rc = 0;

	d->passing = d->passes;
	while (!rc && !over && !(rc = dest_hear(d, &f, &payload, e))) {
		if (f.type == FRAME_EXTENTS) {
			rc = take_stale(d, &f, payload, e);
			continue;
		}
		if (f.type != FRAME_PASS) {
			rc = dest_out_of_order(&f, "PASS", e);
			break;
		}
		over = f.flags & FRAME_LAST;
		rc = over ? 0 : open_epoch(d, &f, e);
		if (!rc)
			rc = dest_tell(d, FRAME_PASS_OK, NULL, e);
		if (!rc && !over)
			rc = take_pass(d, e);
	}
	d->passing = false;
	return rc;
}

/* Under discard_lock: whatever was answered with zeros since HELLO, or came in a pass and is not
 * right any more, is emptied. */
static int empty_all(void *arg)
{
	struct dest *d = arg;
	struct err e;

	d->stuck = false;
	for (unsigned int i = 0; i < d->umem.nregions; i++) {
		bool clean = false;
		uint64_t left;
		int rc = d->passes ? region_discard_rest(&d->umem.region[i], &clean)
				   : region_punch(&d->umem.region[i], &left, &e);

		if (rc < 0)
			return rc;
		d->stuck |= !clean;
	}
	return 0;
}

static int make_zero(struct dest *d, const struct region *r, uint64_t pg, struct err *e)
{
	struct frame zero = { .type = FRAME_ZERO,
			      .region = r->id,
			      .epoch = atomic_load(&d->epoch),
			      .first_pg = pg,
			      .npages = 1 };

	return dest_take_pages(d, &zero, NULL, false, e);
}

/* Pages that cannot be emptied: those the source has are asked for, the others are made zeros here.
 */
static int list_stuck(struct dest *d, struct region *r, uint8_t *buf, struct frame *f,
		      uint64_t *ret_stuck_pages, struct err *e)
{
	/* Those that are claimed the VMM has touched just now: the fault thread has them. */
	for (uint64_t pg = 0; (pg = region_next_without(r, PAGE_CLAIMED, pg)) < r->npages; pg++) {
		struct extent x = { pg, 1 };

		++*ret_stuck_pages;
		if (!page_test(r->pages, PAGE_DATA, pg, 1)) {
			int rc = make_zero(d, r, pg, e);

			if (rc < 0)
				return rc;
			continue;
		}
		if (f->len_bytes == EXTENTS_PER_FRAME * EXTENT_BYTES)
			return err_set(
				e, EBUSY,
				"region %s: more than %d pages could not be emptied (pinned by the VMM?)",
				r->name, EXTENTS_PER_FRAME);
		extent_put(buf + f->len_bytes, &x);
		f->len_bytes += EXTENT_BYTES;
	}
	return 0;
}

/* Whatever is present has arrived. What the fault thread has at this moment is waited for: nothing
 * may be overwritten any more once the guest runs. */
static int verify_none_stuck(struct dest *d, const struct region *r, struct err *e)
{
	for (uint64_t pg = 0; (pg = region_next_without(r, PAGE_ARRIVED, pg)) < r->npages; pg++) {
		for (unsigned int ms = 0; !page_test(r->pages, PAGE_ARRIVED, pg, 1); ms++) {
			if (failure_get(&d->failure, NULL))
				return err_set(e, ECANCELED, "cancelled");
			if (ms == SETTLE_MS)
				return err_set(
					e, EBUSY,
					"region %s: page %llu could not be emptied and was not sent",
					r->name, (unsigned long long)pg);
			nanosleep(&(struct timespec){ .tv_nsec = NS_PER_MS }, NULL);
		}
	}
	return 0;
}

static int fetch_stuck(struct dest *d, struct region *r, uint8_t *buf, struct err *e)
{
	struct frame f = { .type = FRAME_EXTENTS,
			   .region = r->id,
			   .epoch = atomic_load(&d->epoch) };
	uint64_t left_pages, stuck_pages = 0;
	char text[200];
	int rc = list_stuck(d, r, buf, &f, &stuck_pages, e);

	left_pages = f.len_bytes / EXTENT_BYTES;
	if (!rc && left_pages)
		rc = channel_send(&d->control, &f, buf, e);
	while (!rc && left_pages) {
		const uint8_t *payload;

		rc = dest_hear(d, &f, &payload, e);
		if (!rc && f.type != FRAME_PAGES && f.type != FRAME_ZERO)
			rc = dest_out_of_order(&f, "PAGES", e);
		if (!rc)
			rc = dest_take_pages(d, &f, payload, false, e);
		left_pages -= min_u64(left_pages, f.npages);
	}
	if (!rc)
		rc = verify_none_stuck(d, r, e);
	if (rc < 0 || !stuck_pages)
		return rc;
	snprintf(
		text, sizeof(text),
		"region %s: %llu pages could not be emptied (pinned by the VMM?): they were overwritten",
		r->name, (unsigned long long)stuck_pages);
	d->config.hooks.note(d->config.hooks.arg, text);
	return 0;
}

static int fetch_all_stuck(struct dest *d, struct err *e)
{
	uint8_t *buf = malloc(EXTENTS_PER_FRAME * EXTENT_BYTES);
	int rc = 0;

	if (!buf)
		return err_set(e, ENOMEM, "no memory for a list of extents");
	for (unsigned int i = 0; !rc && i < d->umem.nregions; i++)
		if (d->umem.region[i].kind == REGION_MEMFD)
			rc = fetch_stuck(d, &d->umem.region[i], buf, e);
	free(buf);
	return rc;
}

int dest_discard(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	struct frame f;
	int rc;

	d->stale_pages = 0;
	rc = d->passes ? page_file_forget_data(&d->pages) : page_file_reset(&d->pages);

	if (rc < 0)
		return err_set(e, -rc, "clear the map of pages: %s", strerror(-rc));
	while (!(rc = dest_hear(d, &f, &payload, e)) && f.type == FRAME_EXTENTS) {
		rc = note_extents(d, &f, payload, e);
		if (rc < 0)
			return rc;
	}
	if (rc < 0)
		return rc;
	if (f.type != FRAME_DISCARD)
		return dest_out_of_order(&f, "DISCARD", e);
	rc = open_epoch(d, &f, e);
	if (rc < 0)
		return rc;
	rc = umem_discard(&d->umem, empty_all, d);
	if (rc < 0)
		return err_set(e, -rc, "empty the memory: %s", strerror(-rc));
	rc = d->passes ? check_passes(d, e) : 0;
	if (!rc && d->stuck)
		rc = fetch_all_stuck(d, e);
	return rc ? rc : dest_tell(d, FRAME_DISCARD_OK, NULL, e);
}
