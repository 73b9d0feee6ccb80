/* SPDX-License-Identifier: MIT */
/* Pages that come more than once: PRECOPY's way in, and what its end keeps. Nobody runs on this
 * memory yet; a machine that waits may touch it (and gets zeros), and is not trusted.
 *
 * Until umem_discard() CLAIMED without ARRIVED means: the source has found zeros in it. No page of
 * it is held here.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "umem/region.h"
#include "util/mask.h"
#include "util/util.h"

int region_write(struct region *r, uint64_t first_pg, uint32_t npages, const uint8_t *data)
{
	uint64_t offset = first_pg * r->page_bytes, len = (uint64_t)npages * r->page_bytes;

	if (r->kind == REGION_ANON)
		return -EEXIST;
	if (r->kind == REGION_HUGETLB) { /* pwrite is EINVAL there */
		if (!r->alias) {
			void *alias = mmap(NULL, r->npages * r->page_bytes, PROT_READ | PROT_WRITE,
					   MAP_SHARED | MAP_NORESERVE, r->memfd, 0);

			if (alias == MAP_FAILED)
				return -errno;
			r->alias = alias;
		}
		memcpy((char *)r->alias + offset, data, len);
		return 0;
	}
	while (len) {
		ssize_t n = pwrite(r->memfd, data, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int region_renew_begin(struct placing *p, struct region *r, uint64_t first_pg, uint32_t npages,
		       const void *data)
{
	uint64_t all = mask_of(npages), here = page_test(r->pages, PAGE_ARRIVED, first_pg, all);
	unsigned int at, len;
	int rc = 0;

	*p = (struct placing){ .r = r, .first_pg = first_pg, .data = data };
	page_unclaim(r->pages, first_pg, all & ~here); /* they held zeros */
	p->todo = page_claim(r->pages, first_pg, all & ~here);
	while (!rc && mask_cut(&here, &at, &len)) {
		rc = region_write(r, first_pg + at, len, p->data + (uint64_t)at * r->page_bytes);
		umem_count(&r->umem->count->overwritten_pages, len);
	}
	if (rc < 0)
		region_place_abandon(p);
	return rc;
}

static int punch(struct region *r, uint64_t first_pg, uint64_t npages)
{
	if (r->kind == REGION_ANON)
		return -EOPNOTSUPP;
	return fallocate(r->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)(first_pg * r->page_bytes), (off_t)(npages * r->page_bytes)) < 0
		       ? -errno
		       : 0;
}

int region_renew_zero(struct region *r, uint64_t first_pg, uint32_t npages)
{
	uint64_t all = mask_of(npages), here = page_test(r->pages, PAGE_ARRIVED, first_pg, all);
	unsigned int at, len;
	int rc = 0;

	page_forget(r->pages, first_pg, all);
	while (!rc && mask_cut(&here, &at, &len))
		rc = punch(r, first_pg + at, len);
	page_claim(r->pages, first_pg, all);
	return rc;
}

/* Where the pages that are present end that begin at pg. SEEK_HOLE looks at each of them: not to be
 * asked again for the same ones. */
static uint64_t present_end(const struct region *r, uint64_t pg)
{
	off_t hole;

	if (r->kind != REGION_MEMFD)
		return pg + 1;
	hole = lseek(r->memfd, (off_t)(pg * r->page_bytes), SEEK_HOLE);
	return hole < 0 ? r->npages
			: min_u64(r->npages, ((uint64_t)hole + r->page_bytes - 1) / r->page_bytes);
}

/* In [pg, end): the next that lacks the bit, or end. */
static uint64_t next_lacking(const struct page_map *m, enum page_bit bit, uint64_t pg, uint64_t end)
{
	while (pg < end) {
		uint64_t n = min_u64(end - pg, 64),
			 lacks = mask_of(n) & ~page_test(m, bit, pg, mask_of(n));

		if (lacks)
			return pg + (uint64_t)__builtin_ctzll(lacks);
		pg += n;
	}
	return end;
}

/* Likewise that has it. */
static uint64_t next_having(const struct page_map *m, enum page_bit bit, uint64_t pg, uint64_t end)
{
	while (pg < end) {
		uint64_t n = min_u64(end - pg, 64), has = page_test(m, bit, pg, mask_of(n));

		if (has)
			return pg + (uint64_t)__builtin_ctzll(has);
		pg += n;
	}
	return end;
}

uint64_t region_next_without(const struct region *r, enum page_bit bit, uint64_t from_pg)
{
	uint64_t pg = from_pg;

	while ((pg = region_next_present(r, pg)) < r->npages) {
		uint64_t end = present_end(r, pg);

		pg = next_lacking(r->pages, bit, pg, end);
		if (pg < end)
			return pg;
	}
	return UINT64_MAX;
}

/* What is present and has not arrived: stale, or of the machine that waits. */
static int empty_rest(struct region *r)
{
	uint64_t pg = 0;
	int rc = 0;

	while (!rc && (pg = region_next_present(r, pg)) < r->npages) {
		uint64_t end = present_end(r, pg);

		while (!rc && (pg = next_lacking(r->pages, PAGE_ARRIVED, pg, end)) < end) {
			uint64_t first_pg = pg;

			pg = next_having(r->pages, PAGE_ARRIVED, pg, end);
			rc = punch(r, first_pg, pg - first_pg);
		}
	}
	return rc;
}

int region_forget(struct region *r, uint64_t first_pg, uint64_t npages)
{
	uint64_t end = first_pg + npages, run_pg = first_pg, run = 0;
	int rc = 0;

	for (uint64_t pg = first_pg; !rc && pg < end; pg += 64) {
		uint64_t all = mask_of(min_u64(end - pg, 64)),
			 here = page_test(r->pages, PAGE_ARRIVED, pg, all);
		unsigned int at, len;

		page_forget(r->pages, pg, all);
		while (!rc && mask_cut(&here, &at, &len)) {
			if (run && run_pg + run != pg + at) {
				rc = punch(r, run_pg, run);
				run = 0;
			}
			run_pg = run ? run_pg : pg + at;
			run += len;
		}
	}
	return rc || !run ? rc : punch(r, run_pg, run);
}

/* Beside what has arrived nothing is present: its size on tmpfs says so, if nobody else was there.
 */
static bool is_clean(const struct region *r, uint64_t arrived_pages)
{
	struct stat st;

	return r->kind != REGION_ANON && !atomic_load(&r->umem->meddled) &&
	       fstat(r->memfd, &st) == 0 &&
	       (uint64_t)st.st_blocks * 512 == arrived_pages * r->page_bytes;
}

int region_discard_rest(struct region *r, bool *ret_clean)
{
	struct page_map *m = r->pages;
	uint64_t arrived = 0;
	int rc = 0;

	for (uint64_t w = 0; !rc && (w = page_next_word(m, PAGE_CLAIMED, w)) != UINT64_MAX;
	     w += 64) {
		uint64_t gone =
			page_test(m, PAGE_CLAIMED, w, ~0ull) & ~page_test(m, PAGE_DATA, w, ~0ull);
		unsigned int at, len;

		while (!rc && mask_cut(&gone, &at, &len)) /* holes by now */
			rc = region_forget(r, w + at, len);
		arrived += (uint64_t)__builtin_popcountll(page_test(m, PAGE_ARRIVED, w, ~0ull));
	}
	if (!rc && !is_clean(r, arrived))
		rc = empty_rest(r);
	*ret_clean = !rc && is_clean(r, arrived);
	for (uint64_t w = 0; !rc && (w = page_next_word(m, PAGE_CLAIMED, w)) != UINT64_MAX;
	     w += 64) {
		/* Zeros, and so absent. */
		page_arrived(m, w, page_test(m, PAGE_CLAIMED, w, ~0ull));
	}
	return rc;
}
