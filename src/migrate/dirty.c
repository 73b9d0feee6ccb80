/* SPDX-License-Identifier: MIT */
#include "migrate/dirty.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "umem/uffd.h"
#include "util/mask.h"
#include "util/util.h"

enum { FOUND_MAX = 512 }; /* ranges that one call of the kernel reports */

bool dirty_next_data(const struct dirty_region *r, uint64_t *from_pg, uint64_t *ret_first_pg,
		     uint64_t *ret_npages)
{
	off_t from, to;
	uint64_t end_pg;

	if (*from_pg >= r->npages)
		return false;
	if (r->hugetlb) {
		*ret_first_pg = *from_pg;
		*ret_npages = r->npages - *from_pg;
		*from_pg = r->npages;
		return true;
	}
	from = lseek(r->memfd, (off_t)(*from_pg * r->page_bytes), SEEK_DATA);
	if (from < 0)
		return false;
	to = lseek(r->memfd, from, SEEK_HOLE);
	if (to < 0) /* it was given up in between */
		to = (off_t)(r->npages * r->page_bytes);
	*ret_first_pg = max_u64((uint64_t)from / r->page_bytes, *from_pg);
	end_pg = min_u64(((uint64_t)to + r->page_bytes - 1) / r->page_bytes, r->npages);
	*ret_npages = end_pg - *ret_first_pg;
	*from_pg = end_pg;
	return true;
}

void dirty_init(struct dirty *d, int uffd, int pagemap_fd)
{
	*d = (struct dirty){ .uffd = uffd, .pagemap_fd = pagemap_fd };
	pthread_mutex_init(&d->lock, NULL);
}

static int make_room(struct dirty *d, const struct dirty_region *region, unsigned int nregions)
{
	for (; d->nregions < nregions; d->nregions++) {
		unsigned int i = d->nregions;

		d->region[i] = region[i];
		if (bitmap_init(&d->data[i], region[i].npages + 64) < 0 ||
		    bitmap_init(&d->removed[i], region[i].npages + 64) < 0) {
			bitmap_fini(&d->data[i]);
			return -ENOMEM;
		}
	}
	return 0;
}

int dirty_begin(struct dirty *d, const struct dirty_region *region, unsigned int nregions,
		struct err *e)
{
	int rc;

	pthread_mutex_lock(&d->lock);
	rc = make_room(d, region, nregions);
	d->listening = !rc;
	pthread_mutex_unlock(&d->lock);
	if (rc < 0)
		err_set(e, ENOMEM, "no memory to keep track of changed pages");
	while (!rc && d->nregistered < nregions) {
		const struct dirty_region *r = &region[d->nregistered];

		rc = uffd_register(d->uffd, r->va, r->npages * r->page_bytes,
				   UFFDIO_REGISTER_MODE_WP);
		if (rc < 0)
			err_set(e, -rc, "keep track of the pages of region %s: %s", r->name,
				strerror(-rc));
		d->nregistered += !rc;
	}
	if (rc < 0)
		dirty_end(d);
	return rc;
}

static void note_removed(struct dirty *d, uint64_t start, uint64_t end)
{
	for (unsigned int i = 0; i < d->nregions; i++) {
		const struct dirty_region *r = &d->region[i];
		uint64_t from = max_u64(start, r->va),
			 to = min_u64(end, r->va + r->npages * r->page_bytes);

		if (from < to)
			bitmap_set_range(&d->removed[i], (from - r->va) / r->page_bytes,
					 (to - from + r->page_bytes - 1) / r->page_bytes);
	}
}

static void hear_locked(struct dirty *d)
{
	struct uffd_msg m;

	while (d->listening && read(d->uffd, &m, sizeof(m)) == sizeof(m))
		if (m.event == UFFD_EVENT_REMOVE)
			note_removed(d, m.arg.remove.start, m.arg.remove.end);
}

void dirty_hear(struct dirty *d)
{
	pthread_mutex_lock(&d->lock);
	hear_locked(d);
	pthread_mutex_unlock(&d->lock);
}

/* Whoever gave it up goes on as soon as the event is read: hence under the lock. */
static void take_removed(struct dirty *d, dirty_found *found, void *arg)
{
	pthread_mutex_lock(&d->lock);
	hear_locked(d);
	for (unsigned int i = 0; i < d->nregions; i++) {
		uint64_t pg = 0;

		while ((pg = bitmap_next(&d->removed[i], pg)) != BITMAP_NONE) {
			uint64_t got = bitmap_take(&d->removed[i], pg, ~0ull);
			unsigned int at, len;

			while (mask_cut(&got, &at, &len))
				found(arg, i, pg + at, len);
		}
	}
	pthread_mutex_unlock(&d->lock);
}

/* What was given up: if it comes back it is new again. */
static void forget_hole(struct dirty *d, uint32_t region, uint64_t from_pg, uint64_t end_pg)
{
	uint64_t pg = from_pg;

	while ((pg = bitmap_next(&d->data[region], pg)) < end_pg)
		bitmap_take(&d->data[region], pg, mask_of(min_u64(end_pg - pg, 64)));
}

/* New where nothing was before: by whatever way it came. */
static void note_data(struct dirty *d, uint32_t region, uint64_t first_pg, uint64_t npages,
		      dirty_found *found, void *arg)
{
	struct bitmap *data = &d->data[region];

	for (uint64_t pg = first_pg; pg < first_pg + npages; pg += 64) {
		uint64_t all = mask_of(min_u64(first_pg + npages - pg, 64)), fresh;
		unsigned int at, len;

		fresh = all & ~bitmap_get(data, pg, all);
		while (mask_cut(&fresh, &at, &len)) {
			bitmap_set_range(data, pg + at, len);
			found(arg, region, pg + at, len);
		}
	}
}

/* The kernel protects again what it reports, in one step. Asked for exactly this category it also
 * reports what is not mapped and was not protected: a page that was written and then swapped out.
 */
static int scan(struct dirty *d, uint32_t region, uint64_t first_pg, uint64_t npages,
		dirty_found *found, void *arg, struct err *e)
{
	const struct dirty_region *r = &d->region[region];
	struct page_region hit[FOUND_MAX];
	struct pm_scan_arg a = { .size = sizeof(a),
				 .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
				 .start = r->va + first_pg * r->page_bytes,
				 .end = r->va + (first_pg + npages) * r->page_bytes,
				 .vec = (uint64_t)(uintptr_t)hit,
				 .vec_len = FOUND_MAX,
				 .category_mask = PAGE_IS_WRITTEN,
				 .return_mask = PAGE_IS_WRITTEN };

	while (a.start < a.end) {
		int n = ioctl(d->pagemap_fd, PAGEMAP_SCAN, &a);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, errno, "look for changed pages of region %s: %s", r->name,
				       strerror(errno));
		for (int i = 0; i < n; i++)
			found(arg, region, (hit[i].start - r->va) / r->page_bytes,
			      (hit[i].end - hit[i].start) / r->page_bytes);
		a.start = a.walk_end;
	}
	return 0;
}

int dirty_collect(struct dirty *d, dirty_found *found, void *arg, struct err *e)
{
	int rc = 0;

	take_removed(d, found, arg);
	for (uint32_t i = 0; i < d->nregions; i++) {
		uint64_t pg = 0, hole_pg = 0, first_pg, npages;

		/* Extents first: what comes to be behind them is new the next time. */
		while (!rc && dirty_next_data(&d->region[i], &pg, &first_pg, &npages)) {
			forget_hole(d, i, hole_pg, first_pg);
			note_data(d, i, first_pg, npages, found, arg);
			rc = scan(d, i, first_pg, npages, found, arg, e);
			hole_pg = pg;
		}
		forget_hole(d, i, hole_pg, d->region[i].npages);
	}
	return rc;
}

void dirty_end(struct dirty *d)
{
	while (d->nregistered) {
		const struct dirty_region *r = &d->region[--d->nregistered];

		uffd_unregister(d->uffd, r->va, r->npages * r->page_bytes);
	}
	pthread_mutex_lock(&d->lock);
	hear_locked(d); /* who waits for it to be read goes on */
	d->listening = false;
	while (d->nregions) {
		bitmap_fini(&d->removed[--d->nregions]);
		bitmap_fini(&d->data[d->nregions]);
	}
	pthread_mutex_unlock(&d->lock);
}
