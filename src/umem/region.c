/* SPDX-License-Identifier: MIT */
#include "umem/region.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "umem/uffd.h"
#include "util/mask.h"
#include "util/util.h"

int umem_init(struct umem *u, struct page_file *file, bool discard_drops_content, struct err *e)
{
	struct umem_notes *notes = file->notes;
	pthread_rwlockattr_t attr;
	int rc;

	*u = (struct umem){ .file = file,
			    .count = &notes->count,
			    .waits = &notes->waits,
			    .discard_drops_content = discard_drops_content };
	pthread_rwlockattr_init(&attr);
	/* The event thread must not starve behind placers that never pause. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	rc = pthread_rwlock_init(&u->events_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	if (!rc)
		rc = pthread_mutex_init(&u->discard_lock, NULL);
	return rc ? err_set(e, rc, "make the locks: %s", strerror(rc)) : 0;
}

void umem_fini(struct umem *u)
{
	for (unsigned int i = 0; i < u->nregions; i++)
		if (u->region[i].alias)
			munmap(u->region[i].alias, u->region[i].npages * u->region[i].page_bytes);
	if (u->zeros)
		munmap(u->zeros, u->zeros_bytes);
	u->zeros = NULL;
	pthread_mutex_destroy(&u->discard_lock);
	pthread_rwlock_destroy(&u->events_lock);
}

static int grow_zeros(struct umem *u, uint64_t page_bytes, struct err *e)
{
	void *zeros;

	if (u->zeros_bytes >= page_bytes)
		return 0;
	zeros = mmap(NULL, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		     0);
	if (zeros == MAP_FAILED)
		return err_set(e, errno, "map a page of zeros: %s", strerror(errno));
	if (u->zeros)
		munmap(u->zeros, u->zeros_bytes);
	u->zeros = zeros;
	u->zeros_bytes = page_bytes;
	return 0;
}

int umem_add_region(struct umem *u, const char *name, enum region_kind kind, uint64_t npages,
		    uint32_t page_bytes, int memfd, struct region **ret_region, struct err *e)
{
	struct region *r = &u->region[u->nregions];
	int rc;

	assert(u->nregions < u->file->nregions && u->file->map[u->nregions].npages == npages);
	rc = grow_zeros(u, page_bytes, e);
	if (rc < 0)
		return rc;
	*r = (struct region){ .id = u->nregions,
			      .kind = kind,
			      .npages = npages,
			      .page_bytes = page_bytes,
			      .memfd = memfd,
			      .pages = &u->file->map[u->nregions],
			      .umem = u };
	snprintf(r->name, sizeof(r->name), "%s", name);
	u->nregions++;
	*ret_region = r;
	return 0;
}

int region_attach(struct region *r, const struct attachment *a, struct err *e)
{
	uint64_t mode = UFFDIO_REGISTER_MODE_MISSING;
	int rc;

	if (r->nattached == REGION_ATTACHMENTS_MAX)
		return err_set(e, ENOSPC, "region %s is mapped more than %d times", r->name,
			       REGION_ATTACHMENTS_MAX);
	/* MINOR: what is present but unmapped is ours to give out as well. A discarded page into
	 * which a late COPY fell is such a page; without MINOR the guest could reach it before we
	 * empty it. */
	if (r->kind != REGION_ANON)
		mode |= UFFDIO_REGISTER_MODE_MINOR;
	rc = uffd_register(a->uffd, a->va, r->npages * r->page_bytes, mode);
	if (rc < 0)
		return err_set(e, -rc, "register region %s with userfaultfd: %s", r->name,
			       strerror(-rc));
	r->attached[r->nattached++] = *a;
	return 0;
}

void region_detach(struct region *r)
{
	for (unsigned int i = 0; i < r->nattached; i++)
		uffd_unregister(r->attached[i].uffd, r->attached[i].va, r->npages * r->page_bytes);
	r->nattached = 0;
}

void region_wake(struct region *r, uint64_t first_pg, uint64_t npages)
{
	for (unsigned int i = 0; i < r->nattached; i++)
		uffd_wake(r->attached[i].uffd, r->attached[i].va + first_pg * r->page_bytes,
			  npages * r->page_bytes);
	waits_end(r->umem->waits, r->id, first_pg, npages);
}

void umem_wake_all(struct umem *u)
{
	for (unsigned int i = 0; i < u->nregions; i++)
		region_wake(&u->region[i], 0, u->region[i].npages);
}

static void wake_mask(struct region *r, uint64_t first_pg, uint64_t mask)
{
	unsigned int at, len;

	while (mask_cut(&mask, &at, &len))
		region_wake(r, first_pg + at, len);
}

/* Present in the mapping of the first attachment that lets us look. */
static bool present_in_mapping(const struct region *r, uint64_t pg)
{
	const uint64_t present_or_swapped = 3ull
					    << 62; /* Documentation/admin-guide/mm/pagemap.rst */

	for (unsigned int i = 0; i < r->nattached; i++) {
		uint64_t va = r->attached[i].va + pg * r->page_bytes, entry;

		if (pread(r->attached[i].pagemap_fd, &entry, sizeof(entry),
			  (off_t)(va / 4096 * 8)) == sizeof(entry))
			return entry & present_or_swapped;
	}
	return false;
}

uint64_t region_next_present(const struct region *r, uint64_t from_pg)
{
	if (r->kind == REGION_MEMFD) {
		off_t at = lseek(r->memfd, (off_t)(from_pg * r->page_bytes), SEEK_DATA);

		return at < 0 ? UINT64_MAX : max_u64(from_pg, (uint64_t)at / r->page_bytes);
	}
	for (uint64_t pg = from_pg; pg < r->npages; pg++)
		if (present_in_mapping(r, pg))
			return pg;
	return UINT64_MAX;
}

int region_punch(struct region *r, uint64_t *ret_left_pages, struct err *e)
{
	struct stat st;

	*ret_left_pages = 0;
	if (r->kind == REGION_ANON) { /* nobody outside can empty it: it must be empty */
		if (region_next_present(r, 0) != UINT64_MAX)
			return err_set(e, EBUSY, "region %s: anonymous memory is already in use",
				       r->name);
		return 0;
	}
	if (fstat(r->memfd, &st) < 0)
		return err_set(e, errno, "region %s: look at its file: %s", r->name,
			       strerror(errno));
	if (st.st_blocks == 0) /* nothing allocated, swapped pages included */
		return 0;
	if (fallocate(r->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		      (off_t)(r->npages * r->page_bytes)) < 0)
		return err_set(e, errno, "region %s: empty it: %s", r->name, strerror(errno));
	if (fstat(r->memfd, &st) < 0)
		return err_set(e, errno, "region %s: look at its file: %s", r->name,
			       strerror(errno));
	*ret_left_pages = ((uint64_t)st.st_blocks * 512 + r->page_bytes - 1) / r->page_bytes;
	return 0;
}

int umem_discard(struct umem *u, int (*work)(void *arg), void *arg)
{
	int rc;

	pthread_mutex_lock(&u->discard_lock);
	rc = work(arg);
	if (!rc)
		atomic_store(&u->live, true);
	pthread_mutex_unlock(&u->discard_lock);
	return rc;
}

void region_place_begin(struct placing *p, struct region *r, uint64_t first_pg, uint32_t npages,
			const void *data)
{
	uint64_t all = mask_of(npages), lost;

	assert(npages && npages <= REGION_RUN_PAGES && first_pg + npages <= r->npages);
	*p = (struct placing){ .r = r, .first_pg = first_pg, .data = data };
	p->todo = page_claim(r->pages, first_pg, all);
	lost = all & ~p->todo;
	if (lost) {
		umem_count(&r->umem->count->dropped_pages, (uint64_t)__builtin_popcountll(lost));
		wake_mask(r, first_pg, lost); /* nobody sleeps on an answer that was thrown away */
	}
}

/* -EEXIST under our own claim: before the guest runs a page may be there already, one that could
 * not be punched, or that a waiting machine has touched. */
static int settle_present(struct placing *p, unsigned int at)
{
	struct umem *u = p->r->umem;
	int rc = 0;

	if (atomic_load(&u->running)) {
		umem_count(&u->count->integrity, 1);
	} else {
		rc = region_write(p->r, p->first_pg + at, 1,
				  p->data ? p->data + (uint64_t)at * p->r->page_bytes
					  : p->r->umem->zeros);
		if (!rc)
			umem_count(&u->count->overwritten_pages, 1);
	}
	if (!rc)
		page_arrived(p->r->pages, p->first_pg + at, 1);
	return rc;
}

static int copy_or_zero(struct placing *p, unsigned int at, unsigned int len, uint64_t *ret_done)
{
	struct region *r = p->r;
	const struct attachment *a = &r->attached[0];
	uint64_t va = a->va + (p->first_pg + at) * r->page_bytes;
	uint64_t bytes = (uint64_t)len * r->page_bytes;

	if (p->data)
		return uffd_copy(a->uffd, va, p->data + (uint64_t)at * r->page_bytes, bytes,
				 ret_done);
	if (r->kind == REGION_HUGETLB) /* no ZEROPAGE there */
		return uffd_copy(a->uffd, va, r->umem->zeros, r->page_bytes, ret_done);
	return uffd_zero(a->uffd, va, bytes, ret_done);
}

/* Enters a run and sets its bits; *ret_done pages from the run's start are settled. */
static int enter_run(struct placing *p, unsigned int at, unsigned int len, unsigned int *ret_done)
{
	struct region *r = p->r;
	uint64_t pg = p->first_pg + at, done = 0;
	int rc = copy_or_zero(p, at, len, &done);

	if (rc == -ENOENT &&
	    len > 1) /* the VMM has split its mapping: one call must not span both */
		rc = copy_or_zero(p, at, 1, &done);
	*ret_done = (unsigned int)(done / r->page_bytes);
	if (*ret_done) {
		page_arrived(r->pages, pg, mask_of(*ret_done));
		umem_count(p->data ? &r->umem->count->placed_pages : &r->umem->count->zeroed_pages,
			   *ret_done);
		return 0; /* the next call says why it stopped short, if it did */
	}
	if (rc == -EEXIST) {
		rc = settle_present(p, at);
		*ret_done = !rc;
	}
	return rc;
}

int region_place_step(struct placing *p)
{
	struct region *r = p->r;
	struct umem *u = r->umem;
	int rc = 0;

	while (p->todo && !rc) {
		unsigned int at, len, done = 0;
		uint64_t gone;

		pthread_rwlock_rdlock(&u->events_lock);
		/* ARRIVED behind our claim: the guest gave the page up while its data were on the
		 * way. */
		gone = page_test(r->pages, PAGE_ARRIVED, p->first_pg, p->todo);
		p->todo &= ~gone;
		if (p->todo) {
			uint64_t rest = p->todo;

			mask_cut(&rest, &at, &len);
			rc = enter_run(p, at, len, &done);
		}
		pthread_rwlock_unlock(&u->events_lock);
		if (done) {
			p->todo &= ~(mask_of(done) << at);
			region_wake(r, p->first_pg + at, done);
		}
		wake_mask(r, p->first_pg, gone);
	}
	if (rc == -EAGAIN)
		umem_count(&u->count->again, 1);
	else if (rc == -ENOMEM)
		umem_count(&u->count->no_memory, 1);
	else if (rc < 0)
		region_place_abandon(p);
	return rc;
}

void region_place_abandon(struct placing *p)
{
	page_unclaim(p->r->pages, p->first_pg, p->todo);
	wake_mask(p->r, p->first_pg, p->todo);
	p->todo = 0;
}

int region_poison(struct region *r, uint64_t first_pg, uint32_t npages)
{
	uint64_t won = page_claim(r->pages, first_pg, mask_of(npages)), todo = won;
	unsigned int at, len;
	int rc = 0;

	while (!rc && mask_cut(&todo, &at, &len)) {
		for (unsigned int i = 0; !rc && i < r->nattached; i++)
			rc = uffd_poison(r->attached[i].uffd,
					 r->attached[i].va + (first_pg + at) * r->page_bytes,
					 (uint64_t)len * r->page_bytes);
	}
	if (rc < 0) {
		page_unclaim(r->pages, first_pg, won);
		return rc;
	}
	page_arrived(r->pages, first_pg, won);
	umem_count(&r->umem->count->lost_pages, (uint64_t)__builtin_popcountll(won));
	region_wake(r, first_pg, npages);
	return 0;
}

int region_mark_cached(struct region *r, uint64_t first_pg, uint32_t npages)
{
	uint64_t won, todo, done;
	unsigned int at, len;

	if (r->kind == REGION_ANON)
		return -EOPNOTSUPP;
	won = todo = page_claim(r->pages, first_pg, mask_of(npages));
	page_arrived(r->pages, first_pg, won);
	while (mask_cut(&todo, &at, &len))
		/* Best effort: what could not be mapped now is mapped by the MINOR fault of its
		 * first touch. */
		uffd_continue(r->attached[0].uffd,
			      r->attached[0].va + (first_pg + at) * r->page_bytes,
			      (uint64_t)len * r->page_bytes, &done);
	umem_count(&r->umem->count->placed_pages, (uint64_t)__builtin_popcountll(won));
	region_wake(r, first_pg, npages);
	return 0;
}

static bool is_present(const struct region *r, uint64_t pg)
{
	return r->kind == REGION_MEMFD ? region_next_present(r, pg) == pg
				       : present_in_mapping(r, pg);
}

void umem_takeover(struct umem *u)
{
	for (unsigned int i = 0; i < u->nregions; i++) {
		struct region *r = &u->region[i];

		for (uint64_t w = 0; (w = page_next_word(r->pages, PAGE_CLAIMED, w)) != UINT64_MAX;
		     w += 64) {
			uint64_t todo = page_test(r->pages, PAGE_CLAIMED, w, ~0ull) &
					~page_test(r->pages, PAGE_ARRIVED, w, ~0ull);

			for (; todo; todo &= todo - 1) {
				unsigned int at = (unsigned int)__builtin_ctzll(todo);

				if (is_present(r, w + at))
					page_arrived(r->pages, w + at, 1);
				else
					page_unclaim(r->pages, w + at, 1);
			}
		}
	}
	umem_wake_all(u);
}
