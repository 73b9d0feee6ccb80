/* SPDX-License-Identifier: MIT */
#include "migrate/dirty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "umem/uffd.h"
#include "util/fd.h"
#include "util/mask.h"
#include "util/util.h"

enum { FOUND_MAX = 512 }; /* ranges that one call of the kernel reports */

void dirty_init(struct dirty *d, int uffd, int pagemap_fd)
{
	*d = (struct dirty){ .uffd = uffd, .pagemap_fd = pagemap_fd };
	pthread_mutex_init(&d->lock, NULL);
}

/* Does the kernel report memory that has no page table? The mapping of a fresh file has none. */
static bool sees_unmapped(void)
{
	enum { LEN = 4 * 1024 * 1024 };
	autoclose int fd = memfd_create("umig-probe", MFD_CLOEXEC),
		      pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
		      uffd = uffd_create();
	struct page_region hit[2];
	struct pm_scan_arg a = { .size = sizeof(a),
				 .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
				 .vec = (uint64_t)(uintptr_t)hit,
				 .vec_len = 2,
				 .category_mask = PAGE_IS_WRITTEN,
				 .return_mask = PAGE_IS_WRITTEN };
	bool seen = false;
	char *at;

	if (fd < 0 || pagemap_fd < 0 || uffd < 0 || ftruncate(fd, LEN) < 0 ||
	    uffd_api(uffd, UFFD_FEATURES_TRACK) < 0)
		return false;
	at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return false;
	a.start = (uint64_t)(uintptr_t)at;
	a.end = a.start + LEN;
	if (uffd_register(uffd, a.start, LEN, UFFDIO_REGISTER_MODE_WP) == 0)
		seen = ioctl(pagemap_fd, PAGEMAP_SCAN, &a) == 1 && hit[0].start == a.start &&
		       hit[0].end == a.end;
	munmap(at, LEN);
	return seen;
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

	d->sees_unmapped = !getenv("UMIG_BLIND") && sees_unmapped();
	pthread_mutex_lock(&d->lock);
	rc = make_room(d, region, nregions);
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

	while (read(d->uffd, &m, sizeof(m)) == sizeof(m)) {
		d->removals++;
		if (m.event == UFFD_EVENT_REMOVE)
			note_removed(d, m.arg.remove.start, m.arg.remove.end);
	}
}

void dirty_hear(struct dirty *d)
{
	pthread_mutex_lock(&d->lock);
	hear_locked(d);
	pthread_mutex_unlock(&d->lock);
}

/* Whoever gave it up goes on as soon as the event is read: hence under the lock. Has there been
 * any? */
static bool take_removed(struct dirty *d, dirty_found *found, void *arg)
{
	bool any;

	pthread_mutex_lock(&d->lock);
	hear_locked(d);
	any = d->removals;
	d->removals = 0;
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
	return any;
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

/* Up to FOUND_MAX ranges of [a->start, a->end); a->walk_end becomes where the kernel has stopped.
 */
static int scan(const struct dirty *d, const struct dirty_region *r, struct pm_scan_arg *a,
		struct err *e)
{
	int n;

	do {
		n = ioctl(d->pagemap_fd, PAGEMAP_SCAN, a);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? err_set(e, errno, "look for changed pages of region %s: %s", r->name,
			       strerror(errno))
		     : n;
}

/* What was written; with PM_SCAN_WP_MATCHING it is protected again in one step. Asked for exactly
 * this category the kernel also reports entries that say nothing: a page that was written and then
 * swapped out. */
static int scan_written(struct dirty *d, uint64_t flags, uint32_t region, uint64_t first_pg,
			uint64_t npages, dirty_found *found, void *arg, struct err *e)
{
	const struct dirty_region *r = &d->region[region];
	struct page_region hit[FOUND_MAX];
	struct pm_scan_arg a = { .size = sizeof(a),
				 .flags = flags | PM_SCAN_CHECK_WPASYNC,
				 .start = r->va + first_pg * r->page_bytes,
				 .end = r->va + (first_pg + npages) * r->page_bytes,
				 .vec = (uint64_t)(uintptr_t)hit,
				 .vec_len = FOUND_MAX,
				 .category_mask = PAGE_IS_WRITTEN,
				 .return_mask = PAGE_IS_WRITTEN };

	for (; a.start < a.end; a.start = a.walk_end) {
		int n = scan(d, r, &a, e);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			found(arg, region, (hit[i].start - r->va) / r->page_bytes,
			      (hit[i].end - hit[i].start) / r->page_bytes);
	}
	return 0;
}

/* Many kernels pass over what has no page table, though a huge page may have been written there
 * before it lost that: so it counts as written, and is given entries that say that it is protected.
 */
static int scan_unmapped(struct dirty *d, uint32_t region, uint64_t first_pg, uint64_t npages,
			 dirty_found *found, void *arg, struct err *e)
{
	const struct dirty_region *r = &d->region[region];
	struct page_region hit[FOUND_MAX];
	struct pm_scan_arg a = { .size = sizeof(a),
				 .start = r->va + first_pg * r->page_bytes,
				 .end = r->va + (first_pg + npages) * r->page_bytes,
				 .vec = (uint64_t)(uintptr_t)hit,
				 .vec_len = FOUND_MAX,
				 .category_inverted = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
				 .category_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
				 .return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED };

	for (; a.start < a.end; a.start = a.walk_end) {
		int n = scan(d, r, &a, e), rc = 0;

		for (int i = 0; !rc && i < n; i++) {
			uint64_t len = hit[i].end - hit[i].start;

			rc = uffd_protect(d->uffd, hit[i].start, len);
			found(arg, region, (hit[i].start - r->va) / r->page_bytes,
			      len / r->page_bytes);
		}
		if (rc < 0)
			return err_set(e, -rc, "protect pages of region %s: %s", r->name,
				       strerror(-rc));
		if (n < 0)
			return n;
	}
	return 0;
}

/* What may have changed; what is only looked at, and not protected again, is not noted as new where
 * it has no page table. */
static int scan_extent(struct dirty *d, uint64_t flags, uint32_t region, uint64_t first_pg,
		       uint64_t npages, dirty_found *found, void *arg, struct err *e)
{
	int rc = scan_written(d, flags, region, first_pg, npages, found, arg, e);

	if (!rc && flags & PM_SCAN_WP_MATCHING && !d->sees_unmapped)
		rc = scan_unmapped(d, region, first_pg, npages, found, arg, e);
	return rc;
}

static uint64_t blocks_of(const struct dirty_region *r)
{
	struct stat st;

	return fstat(r->memfd, &st) < 0 ? 0 : (uint64_t)st.st_blocks;
}

/* In the pages that were there at the last look. */
static int scan_known(struct dirty *d, uint64_t flags, uint32_t i, dirty_found *found, void *arg,
		      struct err *e)
{
	uint64_t pg = 0, first_pg, npages;
	int rc = 0;

	while (!rc && bitmap_next_run(&d->data[i], &pg, &first_pg, &npages))
		rc = scan_extent(d, flags, i, first_pg, npages, found, arg, e);
	return rc;
}

static int collect_new(struct dirty *d, uint32_t i, dirty_found *found, void *arg, struct err *e)
{
	const struct dirty_region *r = &d->region[i];
	uint64_t pg = 0, hole_pg = 0, first_pg, npages;
	int rc = 0;

	/* Extents first: what comes to be behind them is new the next time. */
	while (!rc && fd_next_data(r->memfd, r->page_bytes, r->npages, &pg, &first_pg, &npages)) {
		forget_hole(d, i, hole_pg, first_pg);
		note_data(d, i, first_pg, npages, found, arg);
		rc = scan_extent(d, PM_SCAN_WP_MATCHING, i, first_pg, npages, found, arg, e);
		hole_pg = pg;
	}
	forget_hole(d, i, hole_pg, r->npages);
	return rc;
}

int dirty_collect(struct dirty *d, dirty_found *found, void *arg, struct err *e)
{
	bool removed = take_removed(d, found, arg);
	int rc = 0;

	for (uint32_t i = 0; !rc && i < d->nregions; i++) {
		uint64_t blocks = blocks_of(&d->region[i]);

		/* As many pages as at the last look, and none was given up: then they are the same,
		 * and need not be looked for one by one. */
		rc = !removed && blocks && blocks == d->blocks[i]
			     ? scan_known(d, PM_SCAN_WP_MATCHING, i, found, arg, e)
			     : collect_new(d, i, found, arg, e);
		d->blocks[i] = blocks;
	}
	return rc;
}

int dirty_peek(struct dirty *d, dirty_found *found, void *arg, struct err *e)
{
	int rc = 0;

	for (uint32_t i = 0; !rc && i < d->nregions; i++)
		rc = scan_known(d, 0, i, found, arg, e);
	return rc;
}

bool dirty_next_data(struct dirty *d, uint32_t region, uint64_t *from_pg, uint64_t *ret_first_pg,
		     uint64_t *ret_npages)
{
	return bitmap_next_run(&d->data[region], from_pg, ret_first_pg, ret_npages);
}

void dirty_end(struct dirty *d)
{
	while (d->nregistered) {
		const struct dirty_region *r = &d->region[--d->nregistered];

		uffd_unregister(d->uffd, r->va, r->npages * r->page_bytes);
	}
	pthread_mutex_lock(&d->lock);
	hear_locked(d); /* who waits for it to be read goes on */
	while (d->nregions) {
		bitmap_fini(&d->removed[--d->nregions]);
		bitmap_fini(&d->data[d->nregions]);
	}
	pthread_mutex_unlock(&d->lock);
}
